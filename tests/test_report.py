"""The report: one page that needs nothing else, with every section, and no name that becomes markup."""

from __future__ import annotations

import argparse
import base64
import io
import re
import shutil
import subprocess
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from run_folders import damage, draw_images, measure, without, write_run

from tanl.benchmarks.engine.run_folder import CellScores, RunFolder
from tanl.benchmarks.output import report
from tanl.benchmarks.output.report_assets import charts
from tanl.benchmarks.output.report_assets.thumbnails import Thumbnails

SCRIPT = "<script>alert(1)</script>"
QUOTES = '"quo\'te" & <b>'
TANL = "TANL (batch-adaptive)"
VOID = {"meta", "img", "br", "hr", "link", "input"}


class Page(HTMLParser):
    """What a browser sees: tags with their attributes, text, and whether every tag is closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.text: list[str] = []
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {name: value or "" for name, value in attrs}))
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {name: value or "" for name, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)

    def all(self, tag: str) -> list[dict[str, str]]:
        return [attributes for name, attributes in self.tags if name == tag]

    @property
    def words(self) -> str:
        return " ".join(" ".join(self.text).split())


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A run with files, one of them broken and one of a nasty name."""
    path = tmp_path_factory.mktemp("runs")
    names = [f"id {number}.png" for number in range(65)]
    images = {
        ("", "id"): draw_images(path, names),
        ("", "sharks"): draw_images(path, [f"s{n}.png" for n in range(63)]),
    }
    # Whichever images are the worst, some of them have these names.
    nasty = path / f"x{SCRIPT.replace('/', '_')}{QUOTES}.png"
    Path(images["", "sharks"][0]).rename(nasty)
    images["", "sharks"] = [str(nasty) for _ in images["", "sharks"]]
    broken = path / "broken.png"
    broken.write_bytes(b"not a picture")
    images["", "id"] = [name if number % 2 else str(broken) for number, name in enumerate(images["", "id"])]
    return write_run(
        path / "run",
        num_id=65,
        num_ood=63,
        images=images,
        labels=["coral reef", SCRIPT, QUOTES],
        sets={("", "id"): {"unreadable": [f"{SCRIPT}.jpg"]}},
    )


@pytest.fixture(scope="module")
def page(folder: RunFolder) -> Page:
    return Page(report.html_report(folder))


def test_page_needs_nothing_but_itself(folder: RunFolder) -> None:
    text = report.html_report(folder)
    page = Page(text)
    for _, attributes in page.tags:
        for name in ("src", "href", "action", "data"):
            value = attributes.get(name, "")
            assert not value or value.startswith(("#", "data:image/webp;base64,"))
    assert not page.all("link") and not page.all("iframe")
    assert "url(" not in text and "@import" not in text and "http" not in text


def test_style_and_script_are_the_files_whole(folder: RunFolder) -> None:
    """They go through the template engine, which would take ``{{`` and ``{#`` of theirs for its own."""
    text = report.html_report(folder)
    assets = Path(report.__file__).parent / "report_assets"
    for name in ("style.css", "script.js"):
        assert (assets / name).read_text(encoding="utf-8").strip() in text


def test_headline_says_what_is_compared_and_in_what_unit(page: Page) -> None:
    assert "pictograms: 4 methods against 2 OOD sets, FPR95 and AUROC in percent" in page.words
    assert "share of ID images flagged when 95 % of OOD images are caught" in page.words
    assert "share of OOD images accepted when 95 % of ID images are" in page.words
    assert "This run reproduces no published figure" in page.words


def test_page_has_every_section_for_every_set(page: Page) -> None:
    for words in ("Summary", "Stream orders", "How it was run", "tanl bench run pictograms"):
        assert words in page.words
    for words in ("Scores:", "ROC", "FPR95 over the course of the stream", f"Worst mistakes of {TANL}"):
        assert page.words.count(words) >= 2
    for name in ("sharks", "noise"):
        assert f"Negative labels that {name} activated" in page.words
    labels = [svg["aria-label"] for svg in page.all("svg") if svg.get("role") == "img"]
    for name in ("sharks", "noise"):
        assert sum(label.startswith("Scores of") and f"against {name}:" in label for label in labels) == 4
        assert sum(label.startswith(("ROC", "FPR95")) and f"against {name}" in label for label in labels) == 2


def test_links_of_the_page_lead_somewhere(page: Page) -> None:
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    targets = [link["href"].removeprefix("#") for link in page.all("a")]
    assert targets and set(targets) <= set(ids)


def test_names_are_text_and_never_markup(folder: RunFolder, page: Page) -> None:
    text = report.html_report(folder)
    assert text.count("<script>") == 1  # the page's own
    assert "alert(1)</script>" not in text and "<b>.png" not in text
    assert SCRIPT in page.words and QUOTES in page.words
    assert any(attributes.get("alt", "").find(QUOTES) > 0 for attributes in page.all("img"))
    assert any(QUOTES in attributes.get("title", "") for attributes in page.all("span"))
    assert not [name for _, attributes in page.tags for name in attributes if name.startswith("on")]


def test_nasty_set_method_and_track_names_are_text(tmp_path: Path) -> None:
    run = write_run(
        tmp_path / "run",
        split=SCRIPT,
        tracks={SCRIPT: {QUOTES: "near"}, QUOTES: {SCRIPT: "far"}},
        methods={f"M {SCRIPT}": 1.0, QUOTES: 2.0},
        seeds=[0],
    )
    text = report.html_report(run)
    page = Page(text)
    assert text.count("<script>") == 1 and text.count("<script") == 1
    assert f"ID set {SCRIPT}" in page.words and f"Worst mistakes of M {SCRIPT}" in page.words


def test_gallery_shows_the_worst_mistakes_in_order(tmp_path: Path) -> None:
    paths = draw_images(tmp_path, [f"{number}.png" for number in range(131 + 63)])
    images = {("", "id"): paths[:131], ("", "sharks"): paths[131:], ("", "noise"): paths[131:]}
    run = write_run(tmp_path / "run", images=images)
    (cell,) = [
        cell for cell in run.cells() if cell.key == ("", TANL, "sharks", "shuffled", 0)
    ]  # the stream that is drawn
    scores = run.scores(cell)
    text = report.html_report(run)
    inside = text[text.index("Worst mistakes of") : text.index("</details>")]
    shown = [Path(name).name for name in re.findall(r'<span title="([^"]+)">', inside)]
    worst_id = np.argsort(-scores.id, kind="stable")[:12]
    worst_ood = np.argsort(scores.ood, kind="stable")[:12]
    assert shown == [f"{index}.png" for index in worst_id] + [f"{131 + index}.png" for index in worst_ood]
    pictures = re.findall(r'src="data:image/webp;base64,([^"]+)"', inside)
    assert len(pictures) == 24
    with Image.open(io.BytesIO(base64.b64decode(pictures[0]))) as picture:
        assert (picture.format, max(picture.size)) == ("WEBP", 80)


def test_broken_files_and_sets_without_files_are_said(page: Page) -> None:
    assert "no file" in page.words
    assert "No pictures: the images of this set are no files" in page.words
    assert f"id: 1 image left out, because unreadable: {SCRIPT}.jpg." in page.words


def test_streams_longer_than_their_sets_have_no_pictures(tmp_path: Path) -> None:
    images = {("", "id"): draw_images(tmp_path, ["a.png"]), ("", "sharks"): draw_images(tmp_path, ["b.png"])}
    run = write_run(tmp_path / "run", images=images, config={"stream_length": 194, "augmented": True})
    page = Page(report.html_report(run))
    assert not page.all("img")
    assert "drawn from smaller sets by seeded augmentation" in page.words


def test_pictures_stay_within_their_budget(tmp_path: Path) -> None:
    paths = [Path(path) for path in draw_images(tmp_path, ["a.png", "b.png", "c.png"])]
    first = Thumbnails(size=40, budget=10**6)
    addresses = [first.get(path) for path in paths]
    assert all(address is not None for address in addresses)
    sizes = [len(address) for address in addresses if address is not None]
    tight = Thumbnails(size=40, budget=sum(sizes[:2]))
    assert [tight.get(path) for path in paths] == [*addresses[:2], None]
    assert (tight.left, tight.refused) == (0, 1)
    assert first.get(tmp_path / "none.png") is None and first.refused == 0


def test_threshold_and_fpr95_are_those_of_the_metrics() -> None:
    generator = np.random.default_rng(0)
    for num_id, num_ood in ((1, 1), (5, 63), (63, 20), (1003, 65)):
        for ties in (False, True):
            scores = [generator.normal(shift, 1, count) for shift, count in ((0, num_id), (1, num_ood))]
            if ties:
                scores = [values.round() for values in scores]
            own = [values.astype(np.float32) for values in scores]
            positions = np.arange(num_id + num_ood, dtype=np.int32)
            expected = measure(CellScores(own[0], own[1], positions))
            assert charts.fpr95(own[0], own[1]) == expected["FPR95"]


@pytest.mark.parametrize("order", ["shuffled", "id-first"])
def test_stream_curve_is_fpr95_of_what_was_seen(order: str) -> None:
    generator = np.random.default_rng(1)
    id_scores, ood_scores = generator.normal(0, 1, 1003), generator.normal(2, 1, 401)
    positions = np.arange(1404) if order == "id-first" else generator.permutation(1404)
    curve = charts.stream_curve(id_scores, ood_scores, positions)
    assert curve[-1] == (1404.0, charts.fpr95(id_scores, ood_scores))
    for end, value in curve:
        seen = positions[: int(end)]
        inside, outside = seen[seen < 1003], seen[seen >= 1003] - 1003
        assert min(len(inside), len(outside)) >= 20
        assert value == charts.fpr95(id_scores[inside], ood_scores[outside])
    # The first twentieth has fewer than 20 OOD images; with ID first, the curve waits for them.
    assert len(curve) == {"shuffled": 19, "id-first": 6}[order]


def test_roc_curve_runs_from_corner_to_corner_and_has_the_area() -> None:
    generator = np.random.default_rng(2)
    id_scores = generator.normal(0, 1, 1003).astype(np.float32)
    ood_scores = generator.normal(1.5, 1, 401).astype(np.float32)
    curve = charts.roc_curve(id_scores, ood_scores)
    assert curve[0] == (0.0, 0.0) and curve[-1] == (1.0, 1.0) and len(curve) <= 62
    assert curve == sorted(curve)
    x, y = np.array(curve).T
    area = float((np.diff(x) * (y[1:] + y[:-1]) / 2).sum())
    expected = measure(CellScores(id_scores, ood_scores, np.arange(1404, dtype=np.int32)))["AUROC"]
    assert area == pytest.approx(expected, abs=5e-3)


def test_histogram_of_equal_scores_is_drawn() -> None:
    chart = charts.histogram(np.zeros(5, np.float32), np.zeros(1, np.float32), "label")
    assert "nan" not in str(chart) and [text.shown for text in chart.texts] == ["-0.5", "0.5"]


def test_order_and_method_are_chosen(folder: RunFolder) -> None:
    page = Page(report.html_report(folder, ["id-first", "shuffled"], "AdaNeg"))
    assert "Worst mistakes of AdaNeg" in page.words and f"Worst mistakes of {TANL}" not in page.words
    assert page.words.index("order id-first") < page.words.index("order shuffled")
    with pytest.raises(ValueError, match="no order drift; it has shuffled, id-first"):
        report.html_report(folder, ["drift"])
    with pytest.raises(ValueError, match="no method 'CSP'; it has MCM"):
        report.html_report(folder, None, "CSP")


def test_run_of_methods_without_state_alone(tmp_path: Path) -> None:
    page = Page(report.html_report(write_run(tmp_path / "run", methods={"MCM": 1.0, "NegLabel": 2.0})))
    assert "Any order" in page.words and "Stream orders" not in page.words
    assert "No method of this run has kept any." in page.words
    assert "Worst mistakes of NegLabel" in page.words


def test_unfinished_run_makes_a_page(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", seeds=[0])
    run = without(run, *(cell.key for cell in run.cells() if (cell.method, cell.ood) == (TANL, "noise")))
    page = Page(report.html_report(run))
    assert "not run" in page.words and "It was not run on this set." in page.words
    assert "Unfinished: 2 streams missing" in page.words


def test_published_figures_and_their_sources_are_on_the_page(tmp_path: Path) -> None:
    tracks = {"": dict.fromkeys(("inaturalist", "sun", "places", "textures-all"), "far")}
    run = write_run(tmp_path / "run", split="four-ood", backbone="ViT-B-16/openai", tracks=tracks)
    page = Page(report.html_report(run))
    assert "published 97.97 · 9.81 · –" in page.words and "published 16.47" in page.words
    assert "published 90.82 · – · 43.93" in page.words
    assert "FPR95_ID: TANL's table, arXiv 2603.25250 (ID positive)" in page.words


def test_damaged_scores_are_named(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", seeds=[0])
    cell = next(cell for cell in run.cells() if cell.method == "MCM")
    damage(run, "scores", cell.key.slug, lambda content: content[:-1] + b"x")
    with pytest.raises(ValueError, match=f"run.sqlite: the scores of MCM, {cell.ood}, any are damaged"):
        report.html_report(run)


def test_page_of_many_sets_is_small(tmp_path: Path) -> None:
    tracks = {f"track {t}": {f"set {n}": "near" if n % 2 else "far" for n in range(5)} for t in range(2)}
    run = write_run(tmp_path / "run", tracks=tracks, seeds=[0], orders=["shuffled"])
    size = len(report.html_report(run).encode())
    # Without pictures: 60 sets of it stay far below 5 MB.
    assert size / 10 * 60 < 2e6


def run_command(*words: str) -> int:
    parser = argparse.ArgumentParser()
    report.add_arguments(parser)
    return report.main(parser.parse_args(words))


def test_command_writes_the_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = write_run(tmp_path / "run", seeds=[0])
    assert run_command(str(run.path)) == 0
    assert (run.path / "report.html").read_text(encoding="utf-8") == report.html_report(run)
    assert "report.html" in capsys.readouterr().out
    assert run_command(str(run.path), "--out", str(tmp_path / "r.html"), "--method", "MCM") == 0
    assert "Worst mistakes of MCM" in (tmp_path / "r.html").read_text(encoding="utf-8")
    with pytest.raises(ValueError, match="can't be written"):
        run_command(str(run.path), "--out", str(tmp_path))
    with pytest.raises(FileNotFoundError, match="no run in"):
        run_command(str(tmp_path))


CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


@pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium or google-chrome on the PATH")
@pytest.mark.parametrize("width", [1280, 360])
def test_browser_shows_the_page_without_sideways_scrolling(
    folder: RunFolder, tmp_path: Path, width: int
) -> None:
    """The page's own script and layout, in a frame of that width; the browser's window would not be as narrow."""
    (tmp_path / "report.html").write_text(report.html_report(folder), encoding="utf-8")
    (tmp_path / "frame.html").write_text(
        f"<iframe src=report.html style='border:0;width:{width}px;height:900px'></iframe><script>onload = () => "
        "{ const page = frames[0].document, root = page.documentElement; "
        "document.title = [root.scrollWidth - root.clientWidth, "
        "page.querySelectorAll('nav button').length, page.title.slice(0, 10), "
        "page.querySelector('svg').getBoundingClientRect().width > 50].join('|'); };</script>"
    )
    done = subprocess.run(
        [
            str(CHROMIUM),
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--allow-file-access-from-files",
            f"--user-data-dir={tmp_path / 'profile'}",
            "--window-size=1400,1000",
            "--dump-dom",
            (tmp_path / "frame.html").as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert "<title>0|2|pictograms|true</title>" in done.stdout


def test_a_set_of_few_images_says_that_there_is_no_curve(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", num_id=5, num_ood=1, seeds=[0])
    assert "Too few images for a curve." in Page(report.html_report(run)).words


def test_labels_without_weight_are_listed(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", seeds=[0], methods={TANL: 1.0})
    for cell in run.cells():
        run.write(replace(cell, activated=(("nothing", 0.0), ("less", -0.5))), run.scores(cell))
    page = Page(report.html_report(run))
    assert "nothing" in page.words
    assert {entry["style"] for entry in page.all("li") if "style" in entry} == {"--share:0%"}
