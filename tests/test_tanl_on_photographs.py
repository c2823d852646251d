"""The study of TANL on photographs: its streams, its labels ranked by the truth, and its tables."""

import csv
import io
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from colour_backbone import ColourBackbone, paint

from tanl.benchmarks.data import augment
from tanl.benchmarks.data.imagenet import imagenet_names
from tanl.benchmarks.data.imagenet_folder import open_imagenet_folder
from tanl.labels.bank import LabelBank
from tanl.labels.build import build_bank
from tools import tanl_on_photographs as study

LABELS = (0, 1, 151, 160, 398, 400, 500, 916)
WORDS = ["red thing", "green thing", "blue thing", "yellow thing", "tench", "tinca tinca", *"abcdefgh"]


@pytest.fixture
def few(monkeypatch, tmp_path):
    """The study on a handful of words, images and choices."""
    monkeypatch.setenv("TANL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(study, "RANDOM_CLASSES", 4)
    monkeypatch.setattr(study, "SELECTED", (1, 3))
    monkeypatch.setattr(study, "RESAMPLES", 50)
    monkeypatch.setattr(
        study,
        "build_bank",
        lambda backbone, names, removal="synonyms": build_bank(
            backbone, names, corpus=WORDS, removal=removal
        ),
    )


def embeddings(count, seed=0):
    return F.normalize(torch.randn(count, 7, generator=torch.Generator().manual_seed(seed)), dim=1)


def test_photographs_of_a_half_come_first_and_then_their_copies(few, tmp_path):
    wnids = ["n01440764", "n01443537", "n01484850", "n01491361", "n01494475"]
    for wnid, colour in zip(wnids, ["red", "blue", "green", "yellow", "purple"], strict=True):
        paint(tmp_path / "photos" / f"{wnid}_x.jpg", colour)
    found = study.read_photographs(tmp_path / "photos", "choosing", ColourBackbone(), copies=3)
    assert found.labels == (0, 2, 4)
    assert found.embeddings.shape == (9, 7)
    images = open_imagenet_folder(tmp_path / "photos").subset([0, 2, 4])
    longer = augment.Augmented(images.open, 3, 9, seed=0)
    pixels = torch.stack([ColourBackbone().preprocess(longer[number]) for number in range(9)])
    assert torch.equal(found.embeddings, ColourBackbone().encode_images(pixels))


def test_a_photograph_that_cannot_be_read_is_named(few, tmp_path):
    paint(tmp_path / "photos" / "n01440764_x.jpg", "red")
    (tmp_path / "photos" / "n01443537_x.jpg").write_text("no image")
    paint(tmp_path / "photos" / "n01484850_x.jpg", "red")
    (tmp_path / "photos" / "n01484850_x.jpg").write_text("neither")
    with pytest.raises(ValueError, match=r"n01484850_x\.jpg cannot be read"):
        study.read_photographs(tmp_path / "photos", "choosing", ColourBackbone(), copies=1)


def test_choices_are_seeded_and_the_groups_of_the_split(few):
    found = study.choices_of(LABELS)
    assert [choice.kind for choice in found] == ["4 random classes"] * 2 + ["animals", "dogs", "artefacts"]
    assert found == study.choices_of(LABELS)
    assert found[0] != found[1]
    assert [choice.members for choice in found[2:]] == [(0, 1, 2, 3), (2, 3), (4, 5, 6)]
    assert all(len(set(choice.members)) == 4 for choice in found[:2])


def test_labels_that_only_an_outlier_itself_activates_help_it_alone(few):
    """Each outlier has a word of its own: told by all, it is found; told by the others, its word is not selected."""
    axes = torch.eye(8)
    bank = LabelBank(["id", *"abcdef"], axes[:7], num_id=1, logit_scale=40.0)
    inside = F.normalize(axes[:1] + 0.9 * axes[7:], dim=1).repeat(3, 1)
    photographs = study.Photographs(tuple(range(6)), torch.cat([inside, axes[1:4]]))
    choice = study.Choice("three", (0, 1, 2))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(study, "SELECTED", (3, 2))
        found = study.ranked_by_the_truth(bank, photographs, choice)
    assert found["3 labels by all photographs"].ood.min() > 0.99
    # Two words that it is as little like as it is like the ID label.
    assert found["2 labels by the other photographs"].ood == pytest.approx([2 / 3] * 3)
    for scores in found.values():
        assert scores.id.max() < 0.01


def test_names_of_imagenets_classes_are_told_by_every_synonym():
    names = ["tinca tinca", "Tench", "great grey owl", "red thing"]
    bank = LabelBank(["x", *names], embeddings(5), num_id=1)
    assert study.no_class_of_imagenet(bank).tolist() == [False, False, False, True]


@pytest.fixture
def rows(few, monkeypatch):
    for name, value in (("BATCHES", (4, 64)), ("LONGER_BATCHES", (64,)), ("SCALES", (20.0, 40.0))):
        monkeypatch.setattr(study, name, value)
    photographs = study.Photographs(LABELS, embeddings(5 * len(LABELS)))
    measured = study.Study(photographs, ColourBackbone())
    return study.averaged(row for choice in study.choices_of(LABELS) for row in measured.measured(choice))


def test_figures_have_intervals_and_stand_beside_neglabels(rows):
    lines = list(csv.DictReader(io.StringIO(study.comma_separated(rows))))
    assert len(lines) == sum(len(row.metrics) for row in rows)
    key = ("table", "id", "copies", "batch", "scale", "corpus", "method", "metric")
    assert len({tuple(line[name] for name in key) for line in lines}) == len(lines)
    base = {
        (line["table"], line["id"], line["copies"], line["scale"], line["corpus"], line["metric"]): line
        for line in lines
        if line["method"] == "NegLabel"
    }
    assert {line["copies"] for line in lines} == {"1", "5"}
    compared = 0
    for line in lines:
        assert 0 <= float(line["low"]) <= float(line["high"]) <= 100
        if line["method"] == "NegLabel" or line["metric"] == study.FLAGGED:
            assert line["above"] == ""
            continue
        table = "streams" if line["table"] in ("truth", "more labels") else line["table"]
        other = base[table, line["id"], line["copies"], line["scale"], line["corpus"], line["metric"]]
        assert float(line["above"]) == pytest.approx(float(line["value"]) - float(other["value"]), abs=0.02)
        assert float(line["above_low"]) <= float(line["above_high"])
        compared += 1
    assert compared > 100


def test_choices_of_one_kind_are_averaged(few):
    setting = study.Setting()
    made = [
        study.Row("streams", "dogs", setting, "MCM", {"AUROC": value}, np.full((4, 1), value))
        for value in (0.5, 0.7)
    ]
    (one,) = study.averaged(made)
    assert one.metrics == {"AUROC": pytest.approx(0.6)}
    assert one.samples == pytest.approx(np.full((4, 1), 0.6))
    assert one.interval("AUROC", above=made[0]) == pytest.approx((0.1, 0.1))


def test_tables_show_every_choice_and_method(rows):
    text = study.markdown(rows)
    for kind in ("4 random classes", "animals", "dogs", "artefacts"):
        assert f"### {kind}, each photograph once" in text
        assert f"### {kind}, logit scale" in text
    assert all(f"| {method} |" in text for method in study.COMPARED)
    shown = {(row.table, row.kind, row.setting, row.method): row for row in rows}
    mcm = shown["streams", "dogs", study.Setting(1, None), "MCM"].metrics
    assert f"| MCM | {100 * mcm['AUROC']:.1f} / {100 * mcm['FPR95_ID']:.1f} |" in text
    assert (
        len(set(map(len, [line.split("|") for line in text.splitlines() if line.startswith("| labels")])))
        == 1
    )


def test_a_folder_without_photographs_is_told_in_a_line(tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        study.main(["--photos", str(tmp_path), "--half", "choosing", "--out", str(tmp_path / "out")])
    assert stop.value.code == 2
    assert "there are no images in" in capsys.readouterr().err
    assert not Path(tmp_path / "out").exists()


def test_names_are_those_of_the_split():
    assert imagenet_names()[LABELS[2]] == "Chihuahua"
