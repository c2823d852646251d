"""A folder of ImageNet photographs as a split: classes by paths, choices of ID classes, a run."""

import random
from collections import Counter

import pytest
import torch
from colour_backbone import paint
from test_pictograms import RandomBackbone

from tanl.benchmarks.data.imagenet import imagenet_names
from tanl.benchmarks.data.imagenet_folder import CLASS_TRACKS, GROUPS, open_imagenet_folder
from tanl.benchmarks.engine.runner import run
from tanl.benchmarks.engine.tasks import Config, Gathering
from tanl.cli.main import main

TENCH, CHIHUAHUA, XOLO, WOLF, ABACUS, WEBSITE = (
    "n01440764",
    "n02085620",
    "n02113978",
    "n02114367",
    "n02666196",
    "n06359193",
)


@pytest.fixture
def folder(tmp_path):
    images = tmp_path / "images"
    for file, colour in (
        (f"{TENCH}/1.png", "red"),
        (f"{TENCH}/2.png", "green"),
        (f"{CHIHUAHUA}/{CHIHUAHUA}_18.png", "blue"),
        (f"{XOLO}_Mexican_hairless.png", "yellow"),
        (f"train/{WOLF}/{WOLF}_1.png", "purple"),
        (f"{ABACUS}/x.png", "red"),
        (f"{WEBSITE}/y.png", "green"),
    ):
        paint(images / file, colour)
    return images


def test_groups_are_all_classes_each_once():
    assert sorted(label for group in GROUPS.values() for label in group) == list(range(1000))
    names = imagenet_names()
    ends = {group: (names[numbers[0]], names[numbers[-1]]) for group, numbers in GROUPS.items()}
    assert ends == {
        "animals": ("tench", "pufferfish"),
        "artefacts": ("abacus", "yurt"),
        "other": ("website", "toilet paper"),
    }
    dogs = [names[label] for label in CLASS_TRACKS["dogs"].choose(range(1000))]
    assert (len(dogs), dogs[0], dogs[-1]) == (118, "Chihuahua", "Mexican hairless dog (xoloitzcuintli)")


def test_classes_are_told_by_the_last_id_in_the_path(folder):
    found = open_imagenet_folder(folder)
    assert dict(zip(found.files, found.labels, strict=True)) == {
        f"{TENCH}/1.png": 0,
        f"{TENCH}/2.png": 0,
        f"{CHIHUAHUA}/{CHIHUAHUA}_18.png": 151,
        f"{XOLO}_Mexican_hairless.png": 268,
        f"train/{WOLF}/{WOLF}_1.png": 269,
        f"{ABACUS}/x.png": 398,
        f"{WEBSITE}/y.png": 916,
    }


@pytest.mark.parametrize(
    ("file", "message"),
    [
        ("ILSVRC2012_val_00000001.png", "ILSVRC2012_val_00000001.png: no WordNet id such as n01440764"),
        ("n014407640/x.png", "no WordNet id"),
        ("an01440764/x.png", "no WordNet id"),
        ("n00000001/x.png", "'n00000001' is no class of ImageNet-1k"),
    ],
)
def test_images_whose_class_cannot_be_told_are_refused(folder, file, message):
    paint(folder / file, "red")
    with pytest.raises(ValueError, match=message):
        open_imagenet_folder(folder)


def test_folders_without_images_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="no folder"):
        open_imagenet_folder(tmp_path / "none")
    with pytest.raises(ValueError, match="no images"):
        open_imagenet_folder(tmp_path)


@pytest.mark.parametrize(
    ("track", "classes", "images", "ood"),
    [
        ("animals", ["tench", "Chihuahua", "grey wolf"], 5, {"artefacts": 1, "other": 1}),
        ("dogs", ["Chihuahua"], 2, {"animals": 3, "artefacts": 1, "other": 1}),
        ("artefacts", ["abacus"], 1, {"animals": 5, "other": 1}),
    ],
)
def test_tracks(folder, track, classes, images, ood):
    found = open_imagenet_folder(folder)
    chosen = CLASS_TRACKS[track].select(found.labels)
    assert set(classes) <= set(chosen.classes)
    assert len(chosen.images) == len(chosen.targets) == images
    names = imagenet_names()
    for index, target in zip(chosen.images, chosen.targets, strict=True):
        assert chosen.classes[target] == names[found.labels[index]]
    assert {name: len(members) for name, (_, members) in chosen.ood.items()} == ood


def test_random_classes_are_the_same_each_time_and_all_others_are_ood():
    labels = [label for label in range(0, 1000, 2) for _ in range(2)]
    random.Random(1).shuffle(labels)
    chosen = CLASS_TRACKS["random-100"].select(labels)
    assert chosen == CLASS_TRACKS["random-100"].select(labels)
    assert len(chosen.classes) == 100
    assert set(Counter(chosen.targets).values()) == {2}
    outside = [index for _, members in chosen.ood.values() for index in members]
    assert sorted([*chosen.images, *outside]) == list(range(len(labels)))
    assert {kind for kind, _ in chosen.ood.values()} == {"near"}


@pytest.mark.parametrize(
    ("track", "labels", "message"),
    [
        ("random-100", range(100), "100 random classes need a folder with more; this one has 100"),
        ("dogs", [0, 500], "no images of its ID classes for the track 'dogs'"),
        ("animals", [0, 1], "no images of other classes for the track 'animals'"),
    ],
)
def test_folders_that_a_track_cannot_use_are_refused(track, labels, message):
    with pytest.raises(ValueError, match=message):
        CLASS_TRACKS[track].select(labels)


def test_images_of_a_track_are_those_of_its_paths(folder, tmp_path):
    backbone = RandomBackbone()
    gathering = Gathering(backbone, root=folder, cache_dir=tmp_path / "cache")
    (task,) = gathering.tasks(Config(split="imagenet-folder", tracks=("dogs",)))
    assert task.classes == ("Chihuahua", "Mexican hairless dog (xoloitzcuintli)")
    assert task.id[0].images.labels == (0, 1)
    for part in (*task.id, *task.ood):
        pixels = torch.stack([backbone.preprocess(part.images.open(i)) for i in range(len(part.images))])
        torch.testing.assert_close(part.embeddings, backbone.encode_images(pixels), rtol=0, atol=1e-6)
        assert [path.endswith(file) for path, file in zip(part.paths, part.images.files, strict=True)]


@pytest.mark.parametrize("length", [None, 30])
def test_run(folder, tmp_path, length):
    (tmp_path / "words.txt").write_text(
        "\n".join(f"word {chr(97 + number // 26)}{chr(97 + number % 26)}" for number in range(30)) + "\n"
    )
    config = Config(
        split="imagenet-folder",
        tracks=("dogs", "animals"),
        methods=("MCM", "NegLabel"),
        corpus=str(tmp_path / "words.txt"),
        stream_length=length,
    )
    (folder / TENCH / "broken.png").write_bytes(b"no image")
    said = []
    result = run(
        config,
        tmp_path / "run",
        backbone=RandomBackbone(),
        data_root=folder,
        cache_dir=tmp_path / "cache",
        say=said.append,
    )
    assert len(result.cells()) == 2 * (3 + 2)
    assert any("1 image" in line and "broken.png" in line for line in said), said
    listed = [path for entry in result.run["sets"] for path in result.images(entry)]
    assert {path.is_file() for path in listed} == {True}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--tracks", "cats"], "no track cats; there are random-100, animals, dogs, artefacts"),
        (["--tracks", "dogs", "--only-ood", "sun"], "no OOD set sun; there are animals, artefacts, other"),
        (["--labels", "x.txt"], "imagenet-folder has class names of its own"),
        (["--full-spectrum"], "no covariate-shifted sets"),
        (["--data-root", "nowhere"], "nowhere is no folder"),
    ],
)
def test_mistakes_are_told_in_a_line(tmp_path, monkeypatch, capsys, options, message):
    monkeypatch.chdir(tmp_path)
    assert main(["bench", "run", "--split", "imagenet-folder", *options]) == 2
    assert message in capsys.readouterr().err
