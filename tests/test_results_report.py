"""``tanl report``: the sentences, the page as a file, the table, and the copies."""

import json
import re
from pathlib import Path

import pytest
from PIL import Image

from tanl import Evidence, Verdict
from tanl.cli.main import main
from tanl.report.findings import background, finding
from tanl.report.page import report_page
from tanl.streams.result_files import open_results
from tanl.streams.results import Result
from tanl.streams.saved_results import SavedResults

HOSTILE = '</script><img src=x onerror="document.title=1">'
ABOUT = {
    "tanl": "0.1.0",
    "backbone": "ViT-B-16/openai",
    "labels": ["cat", "dog"],
    "corpus": "wordnet",
    "corpus_words": 136139,
    "method": "tanl",
    "settings": {"k": 5, "prior": None},
    "calibration": {"of": "known", "count": 40, "tpr": 0.95, "threshold": 0.9},
    "threshold": 0.9,
    "complete": True,
}


def row(path, score, is_ood, *words, label="cat"):
    return Result(path, Verdict(score, is_ood, label, 0.75, tuple(Evidence(word, 0.25) for word in words)))


def saved(*rows, key="path", about=ABOUT):
    return SavedResults(Path("results.csv"), key, rows, about)


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """Three images in two folders and one broken file, judged, with the results as CSV."""
    monkeypatch.chdir(tmp_path)
    for name, colour in (("a/x.png", "red"), ("b/x.png", "green"), ("b/z #1.png", "blue")):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.new("RGB", (300, 200), colour).save(tmp_path / name)
    rows = [
        row(Path("a/x.png"), 0.95, True, "spoon", "fork"),
        row(Path("b/x.png"), 0.97, True, "fork"),
        row(Path("b/z #1.png"), 0.125, False, label="dog"),
        Result(Path("b/broken.png"), error="the file is empty"),
    ]
    with open_results(tmp_path / "results.csv") as writer:
        writer.describe(ABOUT)
        writer.write(rows)
    return tmp_path


def listing(folder: str = ".") -> list[str]:
    return sorted(each.name for each in Path(folder).iterdir())


# --- the sentences ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rows", "about", "sentence"),
    [
        ([row("a", 0.9, True)] * 47 + [row("b", 0.1, False)] * 953, {"labels": [*"abc"]},
         "47 of 1,000 images are flagged: none of the 3 classes (4.7 %)"),
        ([row("a", 0.9, True), row("b", 0.1, False)], {"labels": ["a"]},
         "1 of 2 images is flagged: none of the class (50 %)"),
        ([row("b", 0.1, False)], {}, "None of 1 image is flagged: all pass as the classes"),
        ([row("b", 0.1, None)] * 2, {}, "2 images scored, without a threshold: no verdicts yet"),
        ([Result("b", error="empty")], {}, "None of 1 image could be read"),
    ],
)  # fmt: skip
def test_the_finding_in_one_line(rows, about, sentence):
    assert finding(saved(*rows, about=about)) == sentence


def test_what_stands_behind_it_is_told():
    judged, calibrated = background(saved(row("a", 0.9, True)))
    assert (
        judged
        == "Judged by tanl with ViT-B-16/openai against 136,139 negative labels of wordnet; tanl 0.1.0."
    )
    assert (
        calibrated
        == "The threshold was calibrated on 40 images known to belong, so that 95 % of such ones pass."
    )


def test_a_threshold_that_promises_nothing_is_warned_of():
    said = background(saved(row("a", 0.9, True), about={**ABOUT, "calibration": None}))
    assert said[1].startswith("Beware: the threshold is the method's own")
    said = background(saved(row("a", 0.9, None), about={**ABOUT, "calibration": None, "threshold": None}))
    assert said[1].startswith("Beware: this method finds no threshold")
    assert background(saved(row("a", 0.9, True), about={**ABOUT, "complete": False}))[-1].startswith(
        "Beware: the run was"
    )
    assert "does not say how" in background(saved(row("a", 0.9, True), about={}))[0]


# --- the page -----------------------------------------------------------------------------------------------


def data_of(page: str) -> dict:
    (content,) = re.findall(
        r'<script type="application/json" id="data">(.*?)</script>', page, flags=re.DOTALL
    )
    return json.loads(content)


def test_the_page_holds_everything_and_loads_nothing(folder, capsys):
    assert main(["report", "results.csv", "--out", "report.html"]) == 0
    page = Path("report.html").read_text(encoding="utf-8")
    data = data_of(page)
    assert data["path"] == ["a/x.png", "b/x.png", "b/z #1.png"]
    assert data["score"] == [0.95, 0.97, 0.125]
    assert data["flagged"] == [True, True, False]
    assert data["threshold"] == 0.9
    assert data["links"] == ["a/x.png", "b/x.png", "b/z%20%231.png"]
    named = [[(data["words"][word], share) for word, share in each] for each in data["evidence"]]
    assert named == [[("spoon", 0.25), ("fork", 0.25)], [("fork", 0.25)], []]
    assert {*data["pictures"]} == {"0", "1", "2"}
    assert all(each.startswith("data:image/webp;base64,") for each in data["pictures"].values())
    assert "b/broken.png" in page and "the file is empty" in page
    assert not re.search(r'(?:src|href)="(?:https?:)?//', page)
    assert "2 of 3 images are flagged" in page
    assert re.fullmatch(r"report\.html: \d+ kB, 4 rows\n", capsys.readouterr().out)


def test_names_cannot_break_out_of_the_page():
    rows = [row(Path(HOSTILE), 0.9, True, HOSTILE, label=HOSTILE), Result(Path(HOSTILE), error=HOSTILE)]
    about = {**ABOUT, "labels": [HOSTILE], "backbone": HOSTILE}
    page, _ = report_page(saved(*rows, about=about), beside=Path(), quiet=True)
    assert "<img src=x" not in page
    assert page.count("</script>") == 2
    assert data_of(page)["labels"] == [HOSTILE]


def test_only_the_highest_scores_get_the_thumbnails_there_are(folder):
    assert main(["report", "results.csv", "--out", "report.html", "--thumbnails", "1", "--quiet"]) == 0
    assert {*data_of(Path("report.html").read_text(encoding="utf-8"))["pictures"]} == {"1"}


def test_images_that_are_gone_are_counted_and_the_page_is_written(folder, capsys):
    Path("a/x.png").unlink()
    assert main(["report", "results.csv", "--out", "report.html"]) == 1
    assert "1 images were not found or cannot be read any more; --root DIR" in capsys.readouterr().err
    assert Path("report.html").exists()


def test_links_follow_the_page_and_the_root(folder, monkeypatch):
    (folder / "out").mkdir()
    (folder / "elsewhere").mkdir()
    monkeypatch.chdir(folder / "elsewhere")
    assert main(["report", "../results.csv", "--out", "../out/report.html", "--root", str(folder)]) == 0
    data = data_of((folder / "out" / "report.html").read_text(encoding="utf-8"))
    assert data["links"][0] == "../a/x.png"
    assert len(data["pictures"]) == 3


def test_embeddings_have_no_pictures():
    page, missing = report_page(saved(row("7", 0.9, True, "fork"), key="id"), beside=Path(), quiet=True)
    data = data_of(page)
    assert (data["pictures"], data["links"], missing) == ({}, [], 0)
    assert "1 of 1 embedding is flagged" in page


def test_results_without_one_score_are_a_page_too():
    page, _ = report_page(saved(Result(Path("a"), error="empty")), beside=Path(), quiet=True)
    assert "None of 1 image could be read" in page and 'id="histogram"' not in page


# --- the table and the copies -------------------------------------------------------------------------------


def names(out: str) -> list[str]:
    return [line.split("  ")[0] for line in out.splitlines()[1:]]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ([], ["b/x.png", "a/x.png", "b/z #1.png", "b/broken.png"]),
        (["--sort", "low"], ["b/z #1.png", "a/x.png", "b/x.png", "b/broken.png"]),
        (["--sort", "stream"], ["a/x.png", "b/x.png", "b/z #1.png", "b/broken.png"]),
        (["--sort", "path"], ["a/x.png", "b/broken.png", "b/x.png", "b/z #1.png"]),
        (["--top", "1"], ["b/x.png"]),
        (["--only-ood", "--sort", "stream"], ["a/x.png", "b/x.png"]),
    ],
)
def test_rows_on_the_terminal(folder, capsys, options, expected):
    assert main(["report", "results.csv", *options]) == 0
    shown = capsys.readouterr()
    assert names(shown.out) == expected
    assert "2 of 3 images are flagged: none of the 2 classes (67 %)." in shown.err


def test_paths_for_other_programs(folder, capsys):
    assert main(["report", "results.csv", "--only-ood", "--print0"]) == 0
    assert capsys.readouterr().out == "b/x.png\0a/x.png\0"


def test_flagged_images_are_copied_under_names_of_their_own(folder, capsys):
    assert main(["report", "results.csv", "--copy-ood", "flagged"]) == 0
    assert listing("flagged") == ["x-2.png", "x.png"]
    assert Path("flagged/x.png").read_bytes() == Path("a/x.png").read_bytes()
    assert Path("flagged/x-2.png").read_bytes() == Path("b/x.png").read_bytes()
    assert "2 of 2 flagged images copied to flagged" in capsys.readouterr().out


def test_what_cannot_be_copied_is_named(folder, capsys):
    Path("a/x.png").unlink()
    assert main(["report", "results.csv", "--copy-ood", "flagged"]) == 1
    assert "not copied: a/x.png (no such file or directory)" in capsys.readouterr().err
    assert listing("flagged") == ["x-2.png"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--out", "report.pdf"], "name a file that ends in .html"),
        (["--out", "none/report.html"], "there is no folder none"),
        (["--copy-ood", "a"], "it is there and not an empty folder"),
        (["--copy-ood", "results.csv"], "it is there and not an empty folder"),
        (["--out", "r.html", "--top", "3"], "--top is for the table"),
        (["--copy-ood", "new", "--print0"], "--print0 is for the table"),
        (["--top", "0"], "'0' is not a whole number of at least 1"),
        (["--thumbnails", "-1"], "'-1' is not a whole number of at least 0"),
    ],
)
def test_what_cannot_be_done_is_told_and_nothing_is_written(folder, capsys, options, message):
    before = listing()
    try:
        code = main(["report", "results.csv", *options])
    except SystemExit as stop:
        code = stop.code
    error = capsys.readouterr().err
    assert code == 2 and message in error and error.count("\n") == 1
    assert listing() == before


@pytest.mark.parametrize("options", [["--only-ood"], ["--copy-ood", "new"]])
def test_nothing_is_flagged_without_verdicts(tmp_path, monkeypatch, capsys, options):
    monkeypatch.chdir(tmp_path)
    with open_results("r.csv") as writer:
        writer.write([row(Path("a.png"), 0.5, None)])
    assert main(["report", "r.csv", *options]) == 2
    assert "judge again with --calibrate" in capsys.readouterr().err
    assert not Path("new").exists()
