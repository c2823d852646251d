"""``tanl report --describe``: what the flagged images have in common, on the terminal and in the page."""

import re
from pathlib import Path

import pytest
from colour_backbone import COLOURS, ColourBackbone, paint
from test_results_report import ABOUT, HOSTILE, row, saved

from tanl import backbones
from tanl.cli.main import main
from tanl.labels.corpus import Corpus
from tanl.report.common import TITLE, Common, Word
from tanl.report.page import report_page
from tanl.streams.result_files import open_results

WORDS = Corpus.load([*COLOURS, *(f"word {number}" for number in range(30))])


@pytest.fixture
def write(tmp_path, monkeypatch):
    """Writes results about red images that were flagged and blue ones that passed."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TANL_CACHE", str(tmp_path / "cache"))
    loaded = []
    monkeypatch.setattr(Corpus, "load", lambda source: loaded.append(source) or WORDS)
    monkeypatch.setattr(
        backbones, "load_backbone", lambda name, device: loaded.append((name, device)) or ColourBackbone()
    )

    def written(flagged=8, passed=9, **about):
        rows = [row(paint(Path(f"red/{i}.png"), "red"), 0.9 + i / 1000, True, "fork") for i in range(flagged)]
        rows += [row(paint(Path(f"blue/{i}.png"), "blue"), 0.1, False) for i in range(passed)]
        with open_results("results.csv") as writer:
            writer.describe({**ABOUT, **about})
            writer.write(rows)
        return loaded

    return written


def section(page):
    (found,) = re.findall(r'<section aria-labelledby="common-title".*?</section>', page, flags=re.DOTALL)
    return found


@pytest.mark.parametrize(
    ("named", "taken"), [("wordnet-10k", "wordnet-10k"), ("words.txt", "wordnet"), (None, "wordnet")]
)
def test_the_page_says_what_the_flagged_have_in_common(write, capsys, named, taken):
    loaded = write(corpus=named)
    assert main(["report", "results.csv", "--out", "report.html", "--describe", "--quiet"]) == 0
    shown = section(Path("report.html").read_text(encoding="utf-8"))
    assert TITLE in shown and "8 flagged images better than 9 that passed, by ViT-B-16/openai" in shown
    first, *_ = re.findall(r'<th scope="row">(.*?)</th><td>(.*?)</td><td>(.*?)</td>', shown)
    assert first[:2] == ("red", "100.0 %") and float(first[2]) < 0.05
    assert ("ViT-B-16/openai", "cpu") in loaded and taken in loaded


def test_without_the_option_no_model_is_loaded_and_nothing_is_said(write):
    loaded = write()
    assert main(["report", "results.csv", "--out", "report.html", "--quiet"]) == 0
    assert loaded == [] and TITLE not in Path("report.html").read_text(encoding="utf-8")


def test_on_the_terminal(write, capsys):
    write()
    assert main(["report", "results.csv", "--describe", "--device", "cpu"]) == 0
    lines = capsys.readouterr().out.splitlines()
    sentence, first, *_ = lines[lines.index(TITLE) + 1 :]
    assert sentence.startswith("Words of wordnet that fit 8 flagged") and first.endswith(" red")


def test_groups_that_do_not_differ_have_nothing_in_common(write, capsys):
    write()
    for path in Path("red").iterdir():
        paint(path, "blue")
    assert main(["report", "results.csv", "--describe"]) == 0
    assert "None does beyond chance" in capsys.readouterr().out.splitlines()[-1]


def test_images_that_are_gone_are_named_and_left_out(write, capsys):
    write()
    Path("red/3.png").unlink()
    Path("blue/2.png").write_text("no image")
    assert main(["report", "results.csv", "--describe", "--quiet"]) == 1
    told = capsys.readouterr()
    assert "red/3.png" in told.err and "blue/2.png" in told.err
    assert "7 flagged images better than 8 that passed" in told.out


def test_words_cannot_break_out_of_the_page():
    found = Common((Word(HOSTILE, 0.9, 0.01), Word("by chance", 0.6, 0.06)), 9, 9, HOSTILE, "wordnet")
    page, _ = report_page(saved(row(Path("a"), 0.9, True)), beside=Path(), common=found, quiet=True)
    assert "<img src=x" not in page and "by chance" not in page


@pytest.mark.parametrize(
    ("made", "options", "message"),
    [
        ({"flagged": 3}, [], "4 or more of each: 3 flagged"),
        ({"passed": 2}, [], "4 or more of each: 2 passed"),
        ({"backbone": None}, [], "does not say which model judged"),
        ({}, ["--print0"], "leave --describe out"),
    ],
)
def test_what_cannot_be_described_is_told_before_anything_is_loaded(write, capsys, made, options, message):
    loaded = write(**made)
    before = sorted(Path().iterdir())
    out = [] if options else ["--out", "report.html"]
    assert main(["report", "results.csv", "--describe", *out, *options]) == 2
    told = capsys.readouterr().err
    assert message in told and told.count("\n") == 1
    assert loaded == [] and sorted(Path().iterdir()) == before


def test_a_device_without_a_model_is_refused(write, capsys):
    write()
    assert main(["report", "results.csv", "--device", "cpu"]) == 2
    assert "--device is for --describe" in capsys.readouterr().err


def test_embeddings_and_scores_without_verdicts_are_no_images_to_describe(write, capsys):
    with open_results("ids.csv", key="id") as writer:
        writer.write([row("7", 0.9, True)])
    assert main(["report", "ids.csv", "--describe"]) == 2
    assert "is about embeddings" in capsys.readouterr().err
    with open_results("undecided.csv") as writer:
        writer.write([row(Path("a.png"), 0.9, None)])
    assert main(["report", "undecided.csv", "--describe"]) == 2
    assert "leave --only-ood, --copy-ood and --describe out" in capsys.readouterr().err
