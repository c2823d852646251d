"""The demo: what it streams, what it says, and the picture that it writes."""

import random
import re
from collections import Counter
from pathlib import Path

import pytest
from colour_backbone import COLOURS, ColourBackbone, paint
from PIL import Image

import tanl.guard.saving  # noqa: F401, before load_backbone is another for a while
from tanl import Evidence, Verdict
from tanl.cli import demo
from tanl.cli.contact_sheet import Tile, contact_sheet
from tanl.cli.main import main
from tanl.streams.results import Result


def painted(folder, colours, *, is_id):
    return [
        demo.Picture(paint(folder / "vendor" / f"{index}-{is_id}.png", colour), colour, is_id)
        for index, colour in enumerate(colours)
    ]


@pytest.mark.parametrize(
    ("split", "animals", "others"), [("pictograms", 200, 1000), ("photographs", 50, 200)]
)
def test_read_pictures(split, animals, others):
    pictures = demo.read_pictures(split)
    counted = Counter(item.is_id for item in pictures)
    assert counted[True] >= animals
    assert counted[False] >= others
    assert all(item.path.is_file() for item in pictures)
    names = {item.label for item in pictures if item.is_id}
    assert {"cat", "dog"} <= names
    assert not names & {item.label for item in pictures if not item.is_id}


def test_what_is_held_out_is_of_the_animals_and_not_in_the_stream():
    pictures = [demo.Picture(Path(f"{i}.png"), "x", is_id=i < 30) for i in range(80)]
    known, rest = demo.hold_out(pictures, 10, random.Random(3))
    assert len(set(known)) == 10
    assert all(item.is_id for item in known)
    assert set(known) | set(rest) == set(pictures)
    assert len(known) + len(rest) == 80
    assert demo.hold_out(pictures, 0, random.Random(3)) == ([], pictures)


@pytest.mark.parametrize(
    ("count", "inside", "outside"), [(16, 8, 8), (17, 8, 9), (100, 30, 50), (60, 30, 30)]
)
def test_draw_stream_is_half_id_as_far_as_there_are_enough(count, inside, outside):
    pictures = [demo.Picture(Path(f"{i}.png"), "x", is_id=i < 30) for i in range(80)]
    stream = demo.draw_stream(pictures, count, random.Random(3))
    assert Counter(item.is_id for item in stream) == {True: inside, False: outside}
    assert len(set(stream)) == len(stream)
    assert stream == demo.draw_stream(pictures, count, random.Random(3))
    assert stream != demo.draw_stream(pictures, count, random.Random(4))


def judged(is_id, is_ood, score=0.5, label="cat", truth="cat"):
    evidence = (Evidence("spoon", 0.25),) if is_ood else ()
    return demo.Judged(
        demo.Picture(Path("x.png"), truth, is_id),
        Result(Path("x.png"), Verdict(score, is_ood, label, 0.75, evidence)),
    )


def test_choose_examples_are_of_the_second_half_and_not_only_right_ones():
    early = [judged(True, False), judged(False, True)] * 20
    late = [judged(True, i % 2 == 0, i / 100) for i in range(20)] + [judged(False, True) for _ in range(20)]
    inside, outside = demo.choose_examples(early + late, 10, random.Random(0))
    assert len(inside) == len(outside) == 10
    assert all(item in late for item in inside)
    assert 0 < sum(item.is_right for item in inside) < 10


def test_counts_are_honest():
    items = [
        judged(True, False, 0.1),
        judged(True, False, 0.2, label="dog"),
        judged(True, True, 0.6),
        judged(False, True, 0.9, truth="spoon"),
        judged(False, False, 0.15, truth="cat"),
    ]
    assert demo.counts(items) == (
        "2 of 3 animals judged ID (2 by their right name), 1 of 2 others judged OOD; AUROC 66.7%, FPR95 66.7%"
    )


@pytest.mark.parametrize(
    ("options", "split", "backbone", "known"),
    [
        ([], "photographs", demo.PHOTOGRAPHS.backbone, 20),
        (["--pictograms"], "pictograms", demo.PICTOGRAMS.backbone, 0),
        (["--backbone", "another"], "photographs", "another", 20),
    ],
)
def test_demo(tmp_path, monkeypatch, capsys, options, split, backbone, known):
    pictures = painted(tmp_path, ["red", "green"] * (15 + known // 2), is_id=True)
    pictures += painted(tmp_path, ["blue", "yellow", "purple"] * 10, is_id=False)
    read, loaded = [], []
    monkeypatch.setattr(demo, "read_pictures", lambda name: read.append(name) or pictures)
    monkeypatch.setattr("tanl.backbones.load_backbone", lambda name: loaded.append(name) or ColourBackbone())
    monkeypatch.setenv("TANL_CACHE", str(tmp_path / "cache"))

    assert main(["demo", *options, "--images", "60", "--out", str(tmp_path / "out" / "here")]) == 0
    cold, err = capsys.readouterr()
    # On a busy machine the estimate for the texts is told too.
    assert [line for line in err.splitlines() if " texts to embed with " not in line] == []
    assert (read, loaded) == ([split], [backbone])
    assert f"judges {split}, without training" in cold
    shown = re.findall(
        r"threshold  \d\.\d{4} at first, to keep 95% of animals: from (\d+) that are not in", cold
    )
    assert shown == ([str(known)] if known else [])
    assert "2 animals: green, red" in cold
    assert re.search(r"negatives  \d{5,6} nouns and adjectives of WordNet", cold)
    assert "60 images, animals and others shuffled" in cold
    assert re.search(
        r"\d+ of 30 animals judged ID \(\d+ by their right name\), \d+ of 30 others judged OOD"
        r".*; threshold \d\.\d{4} at the end",
        cold,
    )
    assert "kept in the cache for the next run" in cold
    table = [line for line in cold.splitlines() if line.startswith("vendor/")]
    assert len(table) == 16
    assert sum(" OOD " in line for line in table) >= (8 if known else 4)  # uncalibrated, it is a careful one
    for line in table:
        assert line.endswith("%")
        assert line.split()[1] in COLOURS
    assert re.search(
        r"image files to verdicts +\d+\.\d s  \(\d+ images/s; scoring is \d+% of the time\)", cold
    )

    picture = tmp_path / "out" / "here" / "verdicts.png"
    assert f"The picture of this run: {picture}" in cold
    with Image.open(picture) as sheet:
        assert min(sheet.size) > 500

    assert main(["demo", *options, "--images", "60", "--out", str(tmp_path / "out")]) == 0
    warm = capsys.readouterr().out
    assert "(from the cache)" in warm
    assert [line for line in warm.splitlines() if line.startswith("vendor/")] == table


@pytest.mark.parametrize("count", [1, 7, 8])
def test_contact_sheet_of_any_number_of_tiles(tmp_path, count):
    image = paint(tmp_path / "red.png", "red")
    tile = Tile(
        image, "a name too long for its place on the card", True, 0.5, [("word " * 20, "12%")] * 9, True
    )
    sheet = contact_sheet([tile] * count, title="Title", lines=["one line"])
    assert sheet.mode == "RGB"
    assert sheet.height > sheet.width / 7
    colours = {colour for _, colour in sheet.getcolors(1 << 20)}
    assert len(colours) > 20
