"""Text of any language on a console that cannot show it: it is spelled out, and nothing ends and nothing is lost."""

import io
import os
import sys

import pytest
import run_folders
from colour_backbone import ColourBackbone, paint

from tanl.cli.main import _BENCHMARKS, _COMMANDS, main
from tanl.io.progress import Progress
from tools import __main__ as studies

ENCODINGS = ["ascii", "cp1252", "cp437", "cp932", "utf-8"]
NAMES = ["plain", "caf\u00e9", "\u732b", "\U0001f42d", "a\u200bb", "\u05d0\u0628"]


class Console:
    """What a process writes to its two streams, in a console's encoding and as strictly as Python does."""

    def __init__(self, encoding, monkeypatch):
        self.encoding = encoding
        self.streams = {}
        for name, errors in (("stdout", "strict"), ("stderr", "backslashreplace")):
            self.streams[name] = io.TextIOWrapper(io.BytesIO(), encoding, errors, write_through=True)
            monkeypatch.setattr(sys, name, self.streams[name])

    def read(self, name):
        return self.streams[name].buffer.getvalue().decode(self.encoding)


def spelled(text, encoding):
    """What is left of a text in that encoding."""
    return text.encode(encoding, "backslashreplace").decode(encoding)


@pytest.fixture
def photos(tmp_path, monkeypatch):
    """Images whose names are of many languages, one that is broken, and one whose name is no text."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TANL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("tanl.backbones.load_backbone", lambda *_, **__: ColourBackbone())
    for place, name in enumerate(NAMES):
        paint(tmp_path / "photos" / f"{name}.png", ("red", "blue")[place % 2])
    (tmp_path / "photos" / "\u58ca\u308c\u305f.png").touch()
    if sys.platform == "linux":
        paint(tmp_path / "photos" / "x.png", "red").rename(tmp_path / "photos" / os.fsdecode(b"\xff.png"))
    (tmp_path / "words.txt").write_text(
        "\n".join(["blue", *(f"mot \u00e9 {i}" for i in range(40))]), encoding="utf-8"
    )
    return tmp_path / "photos"


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_every_row_of_a_table_is_there(photos, monkeypatch, encoding):
    console = Console(encoding, monkeypatch)
    label = "rouge \u00e9carlate \u8d64"
    assert main(["judge", "photos", "--label", "red", "--label", label, "--corpus", "words.txt"]) == 1
    rows = console.read("stdout").splitlines()
    for name in NAMES:
        shown = spelled(name.replace("\u200b", "\\u200b"), encoding)
        assert sum(f"{shown}.png" in row for row in rows) == 1, name
    assert any(spelled("\u58ca\u308c\u305f", encoding) in row and "unreadable" in row for row in rows)
    if sys.platform == "linux":
        assert any("\\xff.png" in row for row in rows)


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_errors_and_warnings_are_told(photos, monkeypatch, encoding):
    console = Console(encoding, monkeypatch)
    assert main(["judge", "photos/\u306a\u3044", "--label", "red"]) == 2
    with pytest.raises(SystemExit) as stop:
        main(["judge", "photos", "--k\u00e9"])
    assert stop.value.code == 2
    with pytest.raises(SystemExit):
        main(["\u732b"])
    told = console.read("stderr").splitlines()
    assert len(told) == 3
    assert spelled("photos/\u306a\u3044", encoding) in told[0]
    assert spelled("--k\u00e9", encoding) in told[1]
    # A traceback names files and shows source lines, of any language as well.
    assert main(["--traceback", "judge", "photos/\u306a\u3044", "--label", "red"]) == 2
    assert "Traceback" in console.read("stderr")


@pytest.mark.parametrize("encoding", ["ascii", "cp1252"])
@pytest.mark.parametrize(
    "words", [[], *([name] for name in _COMMANDS), *(["bench", name] for name in _BENCHMARKS)], ids=" ".join
)
def test_every_help_is_shown(monkeypatch, encoding, words):
    console = Console(encoding, monkeypatch)
    with pytest.raises(SystemExit) as stop:
        main([*words, "--help"])
    assert stop.value.code == 0
    assert "usage: tanl" in console.read("stdout")


def test_help_of_a_study_is_shown(monkeypatch):
    console = Console("ascii", monkeypatch)
    with pytest.raises(SystemExit) as stop:
        studies.main(["speed", "--help"])
    assert stop.value.code == 0
    assert "usage: python -m tools" in console.read("stdout")


def test_a_study_tells_errors_and_prints_any_text(monkeypatch):
    console = Console("cp1252", monkeypatch)
    assert studies.main(["overhead", "--json", "nowhere/\u732b.json"]) == 2
    assert "\\u732b.json can't be written" in console.read("stderr")
    print("\u732b")  # strict before
    assert console.read("stdout").splitlines() == ["\\u732b"]


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "utf-8"])
@pytest.mark.parametrize("terminal", [True, False])
def test_progress_is_shown(monkeypatch, encoding, terminal):
    console = Console(encoding, monkeypatch)
    monkeypatch.setattr(console.streams["stderr"], "isatty", lambda: terminal, raising=False)
    monkeypatch.setattr("tanl.io.progress._SECONDS", 0.0)
    with Progress(3, "images", title="photos/\u732b") as progress:
        progress.update(1)
        progress.write("caf\u00e9", sys.stderr)
        progress.update(2)
    shown = console.read("stderr")
    assert spelled("photos/\u732b", encoding) in shown
    assert spelled("caf\u00e9", encoding) in shown


def test_what_was_done_before_counts_and_takes_no_time(monkeypatch, capsys):
    monkeypatch.setattr("tanl.io.progress._SECONDS", 0.0)
    clock = iter([0.0, 30.0])
    monkeypatch.setattr("tanl.io.progress.time.monotonic", lambda: next(clock))
    with Progress(10, "cells", done=4) as progress:
        progress.entitle("dogs")
        progress.update(2)
    assert capsys.readouterr().err == "tanl: dogs: 6 of 10 cells in 30 s, about 60 s to go\n"


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("form", ["markdown", "csv", "latex", "brief"])
def test_tables_of_a_run_are_printed(tmp_path, monkeypatch, encoding, form):
    run_folders.write_run(
        tmp_path / "run",
        split="my own",
        tracks={"": {"\u732b caf\u00e9": "ood"}},
        seeds=(0,),
        num_id=20,
        num_ood=20,
    )
    console = Console(encoding, monkeypatch)
    assert main(["bench", "table", str(tmp_path / "run"), "--format", form]) == 0
    assert spelled("caf\u00e9", encoding) in console.read("stdout") or form == "brief"
