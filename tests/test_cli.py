"""The command line: what it prints, what it writes, its exit codes, and one line for every mistake."""

import csv
import json
import os
import re
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch
from colour_backbone import ColourBackbone, paint

import tanl
from tanl.cli import label_arguments
from tanl.cli.main import main
from tanl.guard import guard
from tanl.streams.saved_results import read_results

COLUMNS = ["path", "label", "id_probability", "ood_score", "is_ood", "evidence", "error"]


@pytest.fixture(autouse=True)
def workplace(tmp_path, monkeypatch):
    """An empty folder to work in, with a text cache of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TANL_CACHE", str(tmp_path / "cache"))
    return tmp_path


@pytest.fixture
def loaded(monkeypatch):
    """Puts the colour backbone in the place of every model, and lists the names that were asked for."""
    names = []

    def load(name, *, device="cpu", precision="fp32"):
        names.append(name)
        return ColourBackbone()

    monkeypatch.setattr("tanl.backbones.load_backbone", load)
    return names


@pytest.fixture
def images(workplace):
    """60 images: red and green ones are ID, blue and yellow ones are not; and the files that go with them."""
    for index in range(60):
        colour = ("red", "blue", "green", "yellow")[index % 4]
        paint(workplace / "images" / f"{index:02}-{colour}.png", colour)
    Path("labels.txt").write_text("red\n\n# not a label\ngreen\n")
    Path("corpus.txt").write_text("blue\nyellow\npurple\nwhite\n" + "".join(f"word {i}\n" for i in range(40)))
    return workplace / "images"


BASE = ["judge", "images", "--labels", "labels.txt", "--corpus", "corpus.txt"]


def rows_of(path):
    with Path(path).open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def assert_one_line_error(capsys, *parts):
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert err.startswith("tanl")
    for part in parts:
        assert part in err


def test_without_arguments_shows_the_help(capsys):
    assert main([]) == 0
    assert "tanl judge photos/ --labels labels.txt" in capsys.readouterr().out


@pytest.mark.parametrize(
    "arguments", [["--help"], ["judge", "--help"], ["bank", "--help"], ["demo", "--help"]]
)
def test_help_needs_no_torch(arguments):
    code = (
        "import sys\nfrom tanl.cli.main import main\n"
        f"try:\n    main({arguments})\nexcept SystemExit as end:\n    assert end.code == 0\n"
        "assert not {'torch', 'PIL', 'numpy'} & set(sys.modules), sorted(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "usage: tanl" in done.stdout


def test_help_of_score_names_every_exit_code_and_the_order(capsys):
    with pytest.raises(SystemExit):
        main(["judge", "--help"])
    text = capsys.readouterr().out
    for part in ("exit codes: 0 ", "1 some could not be read", "2 a mistake", "130 interrupted", "--shuffle"):
        assert part in text


def test_version_and_python_dash_m():
    done = subprocess.run([sys.executable, "-m", "tanl", "--version"], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, f"tanl {tanl.__version__}\n")


def test_method_names_are_the_guards():
    assert guard.METHODS is label_arguments.METHODS


UNDERSTOOD = (
    "labels: 0 of the 44 words of corpus.txt are labels or synonyms of one; no word found for 'red', 'green'"
)


def test_score_prints_a_table(images, loaded, capsys):
    assert main(BASE) == 0
    out, err = capsys.readouterr()
    understood, header, *rows, summary, threshold = out.splitlines()
    assert understood == UNDERSTOOD
    assert re.match(r"threshold \d\.\d{4}, found in the stream; --calibrate DIR sets it", threshold)
    assert header.split()[:4] == ["file", "verdict", "score", "label"]
    assert len(rows) == 60
    for row in rows:
        path, verdict, ood_score, label, *rest = row.split()
        assert Path(path).parent.name == "images"
        is_id = Path(path).stem[3:] in ("red", "green")
        assert verdict == ("ID" if is_id else "OOD")
        assert 0 <= float(ood_score) <= 1
        if is_id:
            assert label == Path(path).stem[3:]
            (share,) = rest
            assert share.endswith("%")
        else:
            assert rest[0] == Path(path).stem[3:]
            assert rest[-1].endswith("%")
    assert summary.startswith("60 images: 30 ID, 30 OOD; ")
    assert "images/s" in summary
    assert "of the time in scoring" in summary
    assert err == ""
    assert loaded == ["mini-photo"]


@pytest.mark.parametrize("ending", ["csv", "jsonl", "parquet", "CSV"])
def test_score_writes_every_format_alike(images, loaded, capsys, ending):
    (images / "31-broken.png").write_text("no image")
    out = Path(f"results.{ending}")
    assert main([*BASE, "--out", str(out), "--evidence", "2"]) == 1
    captured = capsys.readouterr()
    assert captured.out.startswith(f"{UNDERSTOOD}\n61 images: 30 ID, 30 OOD, 1 unreadable; ")
    assert captured.err.startswith("tanl: warning: cannot read images/31-broken.png: it is not an image")

    if ending.lower() == "csv":
        rows = rows_of(out)
        for row in rows:
            row["ood_score"] = float(row["ood_score"]) if row["ood_score"] else None
            row["is_ood"] = {"true": True, "false": False, "": None}[row["is_ood"]]
            error = row.pop("error")
            pairs = [(row.pop(f"evidence_{n}"), row.pop(f"evidence_{n}_probability")) for n in (1, 2)]
            assert all(
                0 < float(probability) <= 1 if label else not probability for label, probability in pairs
            )
            row["evidence"] = [label for label, _ in pairs if label]
            row["error"] = error or None
            row["label"] = row["label"] or None
    else:
        if ending == "jsonl":
            rows = [json.loads(line) for line in out.read_text().splitlines()]
        else:
            rows = pytest.importorskip("pyarrow.parquet").read_table(out).to_pylist()
        for row in rows:
            assert all(0 < item["probability"] <= 1 for item in row["evidence"])
            row["evidence"] = [item["label"] for item in row["evidence"]]
    assert [list(row) for row in rows] == [COLUMNS] * 61
    assert [Path(row["path"]).name for row in rows] == sorted(path.name for path in images.iterdir())
    for row in rows:
        colour = Path(row["path"]).stem[3:]
        if colour == "broken":
            assert row["error"].startswith("it is not an image")
            assert row["label"] is row["ood_score"] is row["is_ood"] is None
            assert row["evidence"] == []
            continue
        assert row["error"] is None
        assert row["is_ood"] is (colour in ("blue", "yellow"))
        assert len(row["evidence"]) == (2 if row["is_ood"] else 0)
        if row["is_ood"]:
            assert row["evidence"][0] == colour
    beside = [] if ending == "parquet" else [f"{out.name}.json"]
    assert sorted(path.name for path in Path.cwd().glob("results*")) == [out.name, *beside]


@pytest.mark.parametrize("method", ["mcm", "max_logit", "energy", "neglabel"])
def test_score_without_a_threshold_gives_no_verdict(images, loaded, capsys, method):
    corpus = ["--corpus", "corpus.txt"] if method == "neglabel" else []
    command = ["judge", "images", "--labels", "labels.txt", *corpus, "--method", method, "--out", "r.csv"]
    assert main(command) == 0
    assert "60 judged without a verdict (--calibrate sets a threshold)" in capsys.readouterr().out
    rows = rows_of("r.csv")
    assert {row["is_ood"] for row in rows} == {""}
    assert all(row["ood_score"] for row in rows)


@pytest.mark.parametrize("method", ["tanl", "neglabel", "mcm"])
def test_score_calibrated(images, loaded, capsys, workplace, method):
    for index in range(40):
        paint(workplace / "known" / f"{index}.png", ("red", "green")[index % 2])
    (workplace / "known" / "broken.png").touch()
    corpus = ["--corpus", "corpus.txt"] if method != "mcm" else ["--corpus", "none"]
    command = ["judge", "images", "--labels", "labels.txt", *corpus, "--method", method, "--out", "r.csv"]
    assert main([*command, "--calibrate", "known", "--tpr", "0.9"]) == 1
    assert "cannot read known/broken.png: the file is empty" in capsys.readouterr().err
    kept = [
        row["is_ood"] == "false" for row in rows_of("r.csv") if Path(row["path"]).stem[3:] in ("red", "green")
    ]
    assert sum(kept) >= 20
    if method != "mcm":
        caught = [row["is_ood"] == "true" for row in rows_of("r.csv") if Path(row["path"]).stem[3:] == "blue"]
        assert all(caught)


def test_score_in_a_terminal_cuts_lines_to_its_width(images, loaded, capsys, monkeypatch):
    paint(Path("images", "a-name-that-is-longer-than-its-column-by-far", "red.png"), "red")
    monkeypatch.setenv("COLUMNS", "70")
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    assert main(BASE) == 0
    _, header, *rows, _, _ = capsys.readouterr().out.splitlines()
    assert max(map(len, [header, *rows])) <= 70
    assert any(row.startswith("...") and "by-far/red.png  ID " in row for row in rows)


def test_score_passes_its_options_on(images, loaded, monkeypatch):
    seen = {}

    class Probe(tanl.TANL):
        def __init__(self, bank, **settings):
            seen.update(settings, corpus=bank.num_negatives, labels=bank.id_names)
            super().__init__(bank, **settings)

        def __call__(self, z):
            seen.setdefault("batches", []).append(len(z))
            return super().__call__(z)

    monkeypatch.setattr("tanl.detectors.TANL", Probe)
    extra = ["--label", "purple", "--backbone", "some/model", "--batch-size", "25", "--seed", "7", "--quiet"]
    assert main([*BASE, *extra, "--out", "r.csv"]) == 0
    assert seen["seed"] == 7
    assert seen["labels"] == ("red", "green", "purple")
    assert seen["corpus"] == 43  # purple is a label now, and so leaves the corpus
    assert seen["batches"] == [25, 25, 10]
    assert loaded == ["some/model"]


@pytest.mark.parametrize(("removal", "left"), [(None, 6), ("synonyms", 6), ("kinds", 4)])
def test_kinds_of_the_classes_leave_the_negatives_where_that_is_asked_for(
    images, loaded, capsys, removal, left
):
    Path("corpus.txt").write_text("blue\nyellow\nwhite\nscarlet\nemerald\nword 1\n")
    asked = [] if removal is None else ["--removal", removal]
    assert main([*BASE, *asked, "--out", "r.csv"]) == 0
    about = read_results("r.csv").about
    assert about["removal"] == (removal or "synonyms")
    assert ("kind" in capsys.readouterr().out.splitlines()[0]) == (removal == "kinds")
    assert main(["bank", *BASE[2:], *asked, "--out", "b.safetensors", "--quiet"]) == 0
    assert tanl.load_bank("b.safetensors").bank.num_negatives == left


def test_score_shuffles_by_its_seed(images, loaded):
    orders = []
    for extra in ([], ["--shuffle"], ["--shuffle"], ["--shuffle", "--seed", "1"]):
        assert main([*BASE, *extra, "--quiet", "--out", "r.csv"]) == 0
        orders.append([row["path"] for row in rows_of("r.csv")])
    assert orders[0] == sorted(orders[0])
    assert orders[1] == orders[2] != orders[0]
    assert orders[3] not in orders[:3]
    assert set(orders[3]) == set(orders[0])


def test_score_folders_files_and_recursion(images, loaded):
    paint(images / "deeper" / "red.png", "red")
    command = ["images", "images/00-red.png", "--labels", "labels.txt", "--corpus", "corpus.txt", "--quiet"]
    assert main(["judge", *command, "--out", "r.csv"]) == 0
    assert len(rows_of("r.csv")) == 62
    assert main(["judge", *command, "--no-recursive", "--out", "r.csv"]) == 0
    assert len(rows_of("r.csv")) == 61


def test_score_one_image_and_one_label(images, loaded, capsys):
    assert main(["judge", "images/00-red.png", "--label", "red", "--corpus", "corpus.txt"]) == 0
    assert capsys.readouterr().out.splitlines()[-2].startswith("1 images: ")


def test_score_labels_file_with_byte_order_mark_and_spaces(images, loaded):
    Path("labels.txt").write_bytes("﻿ red \r\n#comment\r\n\r\ngreen\r\n".encode())
    assert main([*BASE, "--quiet", "--out", "r.csv"]) == 0
    assert {row["label"] for row in rows_of("r.csv")} == {"red", "green"}


def test_score_quiet_says_nothing(images, loaded, capsys):
    assert main([*BASE, "--quiet", "--out", "r.csv"]) == 0
    assert capsys.readouterr() == ("", "")


def test_score_all_files_broken(workplace, images, loaded, capsys):
    for path in images.iterdir():
        path.write_text("broken")
    assert main([*BASE, "--out", "r.csv"]) == 1
    assert len(rows_of("r.csv")) == 60
    assert "0 ID, 0 OOD, 60 unreadable" in capsys.readouterr().out


def test_score_name_that_is_not_text(images, loaded, capsys):
    source = images / "00-red.png"
    odd = Path(str(images)) / "00-\udcff-red.png"
    try:
        source.rename(odd)
    except OSError:
        pytest.skip("this file system takes no such name")
    for out in ("r.csv", "r.jsonl", "r.parquet"):
        assert main([*BASE, "--quiet", "--out", out]) == 0
    assert rows_of("r.csv")[0]["path"] == "images/00-\\xff-red.png"
    assert main(BASE) == 0
    assert "00-\\xff-red.png" in capsys.readouterr().out


class StopsAfter(tanl.NegLabel):
    """A detector whose third batch ends in an exception."""

    error: type[BaseException] = KeyboardInterrupt
    batches = 0

    def __call__(self, z):
        type(self).batches += 1
        if type(self).batches == 3:
            raise self.error
        return super().__call__(z)


@pytest.fixture
def stops(monkeypatch):
    StopsAfter.batches = 0
    monkeypatch.setattr("tanl.detectors.NegLabel", StopsAfter)
    return [*BASE, "--method", "neglabel", "--batch-size", "20"]


@pytest.mark.parametrize("ending", ["csv", "jsonl", "parquet"])
def test_score_interrupted_keeps_what_was_scored(images, loaded, stops, capsys, ending):
    StopsAfter.error = KeyboardInterrupt
    out = Path(f"r.{ending}")
    out.write_text("an older file")
    assert main([*stops, "--out", str(out)]) == 130
    captured = capsys.readouterr()
    assert captured.err == f"tanl: interrupted; 40 rows are kept in r.{ending}\n"
    assert captured.out.startswith(f"{UNDERSTOOD}\n40 images: ")
    if ending == "parquet":
        assert pytest.importorskip("pyarrow.parquet").read_table(out).num_rows == 40
    else:
        assert len(out.read_text().splitlines()) == 40 + (ending == "csv")


def test_score_a_bug_keeps_what_was_scored_and_its_traceback(images, loaded, stops):
    StopsAfter.error = RuntimeError
    with pytest.raises(RuntimeError):
        main([*stops, "--out", "r.csv"])
    assert len(rows_of("r.csv")) == 40


def test_score_that_wrote_nothing_leaves_an_older_file_alone(images, loaded, stops):
    StopsAfter.error, StopsAfter.batches = RuntimeError, 2
    Path("r.csv").write_text("an older file")
    with pytest.raises(RuntimeError):
        main([*stops, "--out", "r.csv"])
    assert Path("r.csv").read_text() == "an older file"
    assert [path.name for path in Path.cwd().glob("r.csv*")] == ["r.csv"]


def test_interrupted_before_anything_was_scored(images, monkeypatch, capsys):
    def load(name, *, device, precision):
        raise KeyboardInterrupt

    monkeypatch.setattr("tanl.backbones.load_backbone", load)
    assert main([*BASE, "--out", "r.csv"]) == 130
    assert capsys.readouterr() == ("", "tanl: interrupted\n")
    assert not list(Path.cwd().glob("r.csv*"))


SCORE = ["judge", "images", "--labels", "labels.txt"]
MISTAKES = {
    "no such command": (["scoer"], "invalid choice: 'scoer'", "see tanl --help"),
    "no images named": (["judge"], "required: INPUT", "see tanl judge --help"),
    "no such option": ([*SCORE, "--colour", "red"], "unrecognized arguments: --colour red"),
    "no such method": ([*SCORE, "--method", "magic"], "invalid choice: 'magic'"),
    "batch of none": ([*SCORE, "--batch-size", "0"], "'0' is not a whole number of at least 1"),
    "batch of words": ([*SCORE, "--batch-size", "few"], "'few' is not a whole number"),
    "no evidence": ([*SCORE, "--evidence", "-1"], "'-1' is not a whole number"),
    "tpr of 1": ([*SCORE, "--calibrate", "images", "--tpr", "1"], "'1' is not a number between 0 and 1"),
    "tpr alone": ([*SCORE, "--tpr", "0.9"], "give --calibrate too"),
    "no labels": (["judge", "images"], "give --labels FILE"),
    "no labels file": (["judge", "images", "--labels", "nowhere.txt"], "nowhere.txt: No such file"),
    "labels of nothing": (["judge", "images", "--labels", "empty.txt"], "empty.txt names no classes"),
    "labels are an image": (["judge", "images", "--labels", "images/00-red.png"], "line 1: not UTF-8 text"),
    "labels are a folder": (["judge", "images", "--labels", "images"], "images: Is a directory"),
    "labels twice": ([*SCORE, "--label", "red"], "labels given more than once: 'red'"),
    "empty label": ([*SCORE, "--label", " "], "empty ID label"),
    "one label for MCM": (["judge", "images", "--label", "red", "--method", "mcm"], "at least two ID labels"),
    "no such image": (["judge", "nowhere.png", "--labels", "labels.txt"], "no file or directory nowhere.png"),
    "folder without images": (
        ["judge", "nothing", "--labels", "labels.txt"],
        "no images in or below nothing",
    ),
    "corpus none": ([*SCORE, "--corpus", "none"], "--corpus cannot be none"),
    "corpus for nothing": ([*SCORE, "--method", "mcm", "--corpus", "wordnet"], "leave --corpus out"),
    "removal for nothing": ([*SCORE, "--method", "mcm", "--removal", "kinds"], "leave --removal out"),
    "no such corpus": ([*SCORE, "--corpus", "wordent"], "unknown corpus 'wordent'", "wordnet"),
    "no corpus file": ([*SCORE, "--corpus", "nowhere.txt"], "no such corpus file: nowhere.txt"),
    "empty corpus": ([*SCORE, "--corpus", "empty.txt"], "empty.txt is empty; write a word a line"),
    "corpus of the labels": ([*SCORE, "--corpus", "labels-only.txt"], "is a label or a synonym of one"),
    "ending": ([*SCORE, "--out", "results.xls"], "'results.xls'", ".csv, .jsonl, .parquet"),
    "no ending": ([*SCORE, "--out", "results"], "'results' ends in none of them"),
    "out is a folder": ([*SCORE, "--out", "folder.csv"], "folder.csv: it is a directory"),
    "out in no folder": ([*SCORE, "--out", "no/where/r.csv"], "make the directory no/where first"),
    "calibrate on nothing": ([*SCORE, "--calibrate", "nothing"], "no images in or below nothing"),
    "calibrate on too few": (
        [*BASE, "--calibrate", "images/00-red.png"],
        "needs 19 images to calibrate with",
        "has 1;",
    ),
    "demo of nothing": (["demo", "--images", "3"], "--images 3 is too few"),
    "demo in a file": (["demo", "--out", "labels.txt"], "labels.txt: File exists"),
}


@pytest.mark.parametrize("case", MISTAKES)
def test_mistake_gets_one_line_and_exit_code_2(images, loaded, capsys, case):
    arguments, *parts = MISTAKES[case]
    Path("nothing").mkdir()
    Path("folder.csv").mkdir()
    Path("empty.txt").touch()
    Path("labels-only.txt").write_text("red\ngreen\n")
    try:
        code = main(arguments)
    except SystemExit as end:
        code = end.code
    assert code == 2
    assert_one_line_error(capsys, *parts)
    # Whatever can be known beforehand is said before a model is loaded.
    needs_model = ("empty label", "one label for MCM", "corpus of the labels")
    if case not in needs_model:
        assert loaded == []
    assert not list(Path.cwd().glob("*.partial"))


def test_calibrate_on_broken_images_names_them(images, loaded, capsys):
    Path("known").mkdir()
    for number in range(19):
        Path("known", f"{number}.png").write_text("broken")
    assert main([*BASE, "--calibrate", "known"]) == 2
    *warnings, error = capsys.readouterr().err.splitlines()
    assert len(warnings) == 19
    assert all(warning.startswith("tanl: warning: cannot read known/") for warning in warnings)
    assert error.startswith("tanl: error: nothing of what --calibrate names can be read; ")


def test_parquet_without_pyarrow_is_said_before_a_model_is_loaded(images, loaded, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    assert main([*BASE, "--out", "r.parquet"]) == 2
    assert_one_line_error(capsys, "pip install 'tanl[parquet]'", ".csv or .jsonl")
    assert loaded == []
    assert not list(Path.cwd().glob("r.parquet*"))


@pytest.mark.parametrize("name", ["local-dir:nowhere", "no-such-model", "ViT-B-16/no-such-weights"])
def test_backbone_that_cannot_be_loaded_says_what_can(images, capsys, name):
    assert main([*BASE, "--backbone", name]) == 2
    assert_one_line_error(capsys, name.split("/")[0])


def test_backbone_that_cannot_be_fetched_says_that_mini_can(images, capsys, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert main([*BASE, "--backbone", "hf-hub:nobody/nothing"]) == 2
    assert_one_line_error(capsys, "hf-hub:nobody/nothing", "mini", "mini-photo", "need no network")


def test_device_that_is_not_there(images, capsys):
    if torch.cuda.is_available():
        pytest.skip("it is there")
    assert main([*BASE, "--device", "cuda"]) == 2
    assert_one_line_error(capsys)


@pytest.fixture
def command(monkeypatch):
    """Lets a function be run as ``tanl demo``."""

    def as_demo(function):
        monkeypatch.setattr("tanl.cli.demo.main", function)

    return as_demo


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (ValueError("two\nlines"), "two lines"),
        (TypeError("of another type"), "of another type"),
        (ImportError("install it"), "install it"),
        (FileNotFoundError(2, "No such file or directory", "a.txt"), "a.txt: No such file or directory"),
        (tanl.BackboneError("cannot fetch"), "cannot fetch"),
        (
            tanl.UnreadableImage("a.png", "the file is empty"),
            "cannot read the image a.png: the file is empty",
        ),
        (ValueError(), "ValueError"),
    ],
)
def test_errors_of_the_library_are_told_in_one_line(command, capsys, error, said):
    def run(arguments):
        raise error

    command(run)
    assert main(["demo"]) == 2
    assert capsys.readouterr() == ("", f"tanl: error: {said}\n")
    assert main(["--traceback", "demo"]) == 2
    err = capsys.readouterr().err
    assert err.startswith("Traceback")
    assert err.endswith(f"tanl: error: {said}\n")


@pytest.mark.parametrize(
    "words",
    [
        ["--traceback", "bench", "--id", "nowhere"],
        ["--traceback", "bench", "--id=nowhere"],
        ["bench", "--traceback", "--id", "nowhere"],
        ["bench", "--id", "nowhere", "--traceback"],
        ["bench", "--traceback", "run", "--id", "nowhere"],
        ["--traceback", "bench", "run", "--id", "nowhere"],
        ["bench", "run", "--traceback", "--id", "nowhere"],
        ["--traceback", "judge", "nowhere", "--label", "a"],
        ["judge", "nowhere", "--traceback", "--label", "a"],
        ["judge", "nowhere", "--label", "a", "--traceback"],
    ],
    ids=" ".join,
)
def test_a_traceback_is_shown_wherever_it_was_asked_for(words, capsys):
    assert main(words) == 2
    shown = capsys.readouterr().err
    assert shown.startswith("Traceback (most recent call last)")
    assert "nowhere" in shown or "--id, --ood and --labels" in shown
    assert main([word for word in words if word != "--traceback"]) == 2
    assert_one_line_error(capsys)


@pytest.mark.parametrize("words", [["bench", "--help"], ["bench", "-h"], ["--traceback", "bench", "--help"]])
def test_help_of_bench_is_its_own_not_that_of_run(words, capsys):
    with pytest.raises(SystemExit) as stop:
        main(words)
    assert stop.value.code == 0
    assert "thresholds" in capsys.readouterr().out


def test_a_bug_shows_its_traceback(command):
    def run(arguments):
        raise AssertionError("a bug")

    command(run)
    with pytest.raises(AssertionError, match="a bug"):
        main(["demo"])


def test_warnings_of_tanl_are_told_in_one_line_and_others_are_not_told(command, capsys):
    def run(arguments):
        warnings.warn_explicit("the cache is full", UserWarning, "labels.py", 1, module="tanl.labels.bank")
        warnings.warn_explicit("odd EXIF", UserWarning, "Image.py", 1, module="PIL.Image")

    command(run)
    assert main(["demo"]) == 0
    assert capsys.readouterr().err == "tanl: warning: the cache is full\n"


def test_a_reader_that_leaves_is_no_error():
    code = (
        "import tanl.cli.demo\nfrom tanl.cli.main import main\n"
        "def run(arguments):\n    for number in range(100_000):\n        print('line', number)\n"
        "tanl.cli.demo.main = run\nraise SystemExit(main(['demo']))"
    )
    command = f'{sys.executable} -c "{code}" | head -n 1'
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("line 0\n", "")


def test_score_with_the_embedded_model(images, capsys):
    """The whole way with nothing replaced: the model that ships with tanl, and drawn images."""
    Path("broken.jpg").touch()
    command = ["judge", "images", "broken.jpg", "--label", "red square", "--label", "green square"]
    assert main([*command, "--corpus", "corpus.txt", "--out", "r.jsonl"]) == 1
    assert "1 unreadable" in capsys.readouterr().out
    rows = [json.loads(line) for line in Path("r.jsonl").read_text().splitlines()]
    assert len(rows) == 61
    assert rows[-1]["error"] == "the file is empty"
    for row in rows[:-1]:
        assert row["error"] is None
        assert 0 <= row["ood_score"] <= 1
        assert row["is_ood"] in (True, False)
        assert row["label"] in ("red square", "green square")


def test_a_folder_that_cannot_be_listed_is_named_and_the_others_are_judged(
    images, loaded, capsys, monkeypatch
):
    locked = images / "lost+found"
    locked.mkdir()

    def refusing(ask):
        def refuse(path="."):
            if Path(path).name == locked.name:
                raise PermissionError(13, "Permission denied", str(path))
            return ask(path)

        return refuse

    for name in ("scandir", "listdir"):  # pathlib asks one or the other, as its version has it
        monkeypatch.setattr(os, name, refusing(getattr(os, name)))
    assert main([*BASE, "--out", "results.csv"]) == 1
    err = capsys.readouterr().err
    assert f"tanl: warning: cannot list the folder {Path('images', 'lost+found')}: permission denied\n" in err
    assert len(rows_of("results.csv")) == 60
    # A shell makes this of images/*.
    files = [str(path.relative_to(Path.cwd())) for path in sorted(images.iterdir())]
    assert main(["judge", *files, *BASE[2:]]) == 1
    assert "cannot list the folder images/lost+found" in capsys.readouterr().err
    # The calibration images count too; alone, it is a mistake.
    assert main([*BASE[:1], files[0], *BASE[2:], "--calibrate", "images"]) == 1
    capsys.readouterr()
    assert main(["judge", str(locked), *BASE[2:]]) == 2
    assert_one_line_error(capsys, "lost+found")


def test_what_is_passed_over_is_counted_and_named(images, loaded, capsys):
    for name in ("a.mp4", "b.MP4", "notes.txt", ".hidden.mov"):
        (images / name).touch()
    for name in ("cats", "dogs", "cows"):
        (images / name).symlink_to(Path.cwd(), target_is_directory=True)
    assert main([*BASE, "--quiet"]) == 0
    out, err = capsys.readouterr()
    assert err == "tanl: warning: images: passed over 3 linked folders, 2 .mp4 files, 1 .txt file\n"
    assert len(out.splitlines()) == 61


def test_a_pattern_that_no_shell_filled_in(images, capsys):
    assert main(["judge", "images/*.jpg", *BASE[2:]]) == 2
    assert "no file or directory images/*.jpg; a pattern is filled in by the shell" in capsys.readouterr().err


def test_report_of_no_run_names_the_run(workplace, capsys):
    assert main(["bench", "report", "nothere"]) == 2
    err = capsys.readouterr().err
    assert "nothere" in err
    assert "can't be written" not in err
