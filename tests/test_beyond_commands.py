"""``tanl describe`` and ``tanl curate``: what they print, write and refuse."""

import csv
from pathlib import Path

import numpy as np
import pytest
from colour_backbone import COLOURS, ColourBackbone, paint

from conftest import unit
from tanl import backbones
from tanl.beyond import difference
from tanl.cli.main import main


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Eight red images, eight blue ones, a corpus of colours, and a model that sees them."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TANL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(backbones, "load_backbone", lambda name, device: ColourBackbone())
    for colour in ("red", "blue"):
        for number in range(8):
            paint(tmp_path / colour / f"{number}.png", colour)
    Path("colours.txt").write_text("\n".join(COLOURS))
    return tmp_path


def test_the_difference_of_two_folders(folder, capsys):
    assert main(["describe", "red", "blue", "--corpus", "colours.txt", "--rounds", "1", "--top", "2"]) == 0
    head, titles, first, *rest = capsys.readouterr().out.splitlines()
    assert head == "red (8 images) against blue (8 images)"
    assert titles.split() == ["AUROC", "p", "looked", "at", "what", "the", "first", "shows", "more"]
    assert first.startswith("100.0%") and first.endswith(" red")
    assert len(rest) <= 1


def test_images_that_cannot_be_read_are_named_and_left_out(folder, capsys):
    (folder / "red" / "broken.png").write_text("no image")
    assert main(["describe", "red", "blue", "--corpus", "colours.txt", "--rounds", "1"]) == 1
    shown = capsys.readouterr()
    assert "broken.png" in shown.err and "red (8 images)" in shown.out


def test_words_of_reports_beside_the_images_are_tried(folder, capsys):
    """Those of each folder, of the images that have one."""
    Path("words.txt").write_text("\n".join([*(f"word {number}" for number in range(300)), "red"]))
    (folder / "red" / "3.txt").write_text("All of it is RED.")
    (folder / "blue" / "0.txt").write_text("Nothing to tell.")
    given = []
    actual = difference.words_of_texts
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(difference, "words_of_texts", lambda *args: given.append(args[1:]) or actual(*args))
        assert main(["describe", "red", "blue", "--corpus", "words.txt", "--rounds", "1", "--texts"]) == 0
    assert given == [(["All of it is RED."], ["Nothing to tell."])]
    assert capsys.readouterr().out.splitlines()[2].endswith(" red")
    (folder / "red" / "4.txt").write_bytes(b"\xff\xfe")
    assert main(["describe", "red", "blue", "--texts"]) == 2
    assert "4.txt is no UTF-8 text" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (["describe", "red", "blue", "--texts"], "--texts: red has no report"),
        (["describe", "red", "none"], "there is no file or directory none"),
        (["describe", "red", "blue", "--rounds", "0"], "'0' is not a whole number of at least 1"),
        (["describe", "red/0.png", "blue"], "group a has 1 images; give 4 or more"),
        (["curate", "none"], "there is no file or directory none"),
        (["curate", "red", "--out", "x.txt"], "decisions are written as .csv"),
        (["curate", "red", "--budget", "0"], "--budget is 0.0; it must be above 0"),
        (
            ["curate", "red", "--budget", "2.5"],
            "--budget is 2.5; give a share below 1, or a whole number of images",
        ),
        (["curate", "red", "--budget", "nan"], "--budget is nan; it must be above 0"),
        (
            ["curate", "red", "--budget", "inf"],
            "--budget is inf; give a share below 1, or a whole number of images",
        ),
        (
            ["curate", "red", "--budget", "9"],
            "budget is 9.0: give a share below 1, or a whole number of at most 8",
        ),
        (["curate", "red", "--normalize"], "--normalize is for files of embeddings"),
        (["curate", "z.npy", "--backbone", "mini"], "--backbone embeds images"),
    ],
)
def test_what_cannot_be_done_is_told(folder, capsys, command, message):
    np.save("z.npy", unit(20, 8).numpy())
    try:
        code = main(command)
    except SystemExit as stop:
        code = stop.code
    assert code == 2 and message in capsys.readouterr().err
    assert not Path("x.txt").exists()


@pytest.mark.parametrize("ending", ["npy", "jsonl"])
def test_embeddings_are_curated_under_their_names(folder, capsys, ending):
    pytest.importorskip("faiss")
    z = unit(63, 8)
    if ending == "npy":
        np.save("z.npy", z.numpy())
    else:
        rows = [f'{{"id": "n{row}", "z": {values}}}' for row, values in enumerate(z.tolist())]
        rows[5] = '{"id": "n5", "z": null}'
        Path("z.jsonl").write_text("\n".join(rows))
    code = main(["curate", f"z.{ending}", "--budget", "0.2", "--out", "c.csv", "--print0"])
    assert code == (0 if ending == "npy" else 1)
    shown = capsys.readouterr()
    kept = shown.out.split("\0")[:-1]
    with Path("c.csv").open(newline="") as file:
        table = list(csv.DictReader(file))
    count = 63 if ending == "npy" else 62
    assert len(table) == count and len(kept) == round(0.2 * count)
    assert kept == [row["name"] for row in table if row["decision"] in ("kept", "tail")]
    assert {row["decision"] for row in table} == {"kept", "tail", "dropped", "outlier"}
    assert all(0 <= float(row["distance"]) <= 2 for row in table)
    assert f"{len(kept)} of {count} kept" in shown.err
    assert ("n5" in shown.err) == (ending == "jsonl")


def test_a_folder_of_images_is_curated(folder, capsys):
    pytest.importorskip("faiss")
    assert main(["curate", "red", "--budget", "3", "--quiet"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3 and all(Path(line).is_file() for line in lines)
