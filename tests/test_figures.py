"""Figures in the pages are those of the committed results: a page that was not made again after them fails here."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator
from pathlib import Path
from statistics import fmean

import pytest

from tools.preset import HALVES

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
RESULTS_PAGE = (ROOT / "docs" / "results.md").read_text(encoding="utf-8")
METRICS = ("AUROC", "FPR95", "FPR95_ID")

Overall = dict[tuple[str, str, str, str], float]


def cells(line: str) -> list[str]:
    return [cell.strip().replace("*", "") for cell in line.strip().strip("|").split("|")]


def tables(text: str) -> Iterator[list[list[str]]]:
    """The tables of a page, each a list of its rows, the head first and the line under it left out."""
    for block in re.findall(r"(?:^\|.*\n?)+", text, flags=re.MULTILINE):
        head, _, *rows = map(cells, block.splitlines())
        yield [head, *rows]


@pytest.fixture(scope="module")
def pictograms() -> Overall:
    """The means over the near and far OOD sets, by ID set, order, method and metric, in percent."""
    text = (RESULTS / "pictograms" / "table.md").read_text(encoding="utf-8")
    found = {}
    for track, order, block in re.findall(
        r"^ID set ([\w-]+), order ([\w-]+)\n\n((?:\|.*\n)+)", text, re.MULTILINE
    ):
        head, _, *rows = map(cells, block.splitlines())
        (place,) = [place for place, title in enumerate(head) if title.startswith("overall")]
        for metric, method, *figures in rows:
            found[track, order, method, metric] = float(figures[place - 2].split()[0])
    assert len(found) > 7 * 4 * 3 * 8
    return found


def test_the_shuffled_streams_are_those_of_the_results(pictograms: Overall) -> None:
    (table,) = [table for table in tables(RESULTS_PAGE) if table[0][:2] == ["method", "animals"]]
    head, *rows = table
    assert len(rows) >= 10
    for method, *shown in rows:
        for track, figures in zip(head[1:], shown, strict=True):
            expected = [pictograms[track, "shuffled", method, metric] for metric in METRICS]
            assert [float(figure) for figure in figures.split(" / ")] == expected, (method, track)


def test_the_orders_are_means_of_the_results(pictograms: Overall) -> None:
    (table,) = [table for table in tables(RESULTS_PAGE) if table[0][:2] == ["method", "shuffled"]]
    head, *rows = table
    tracks = {track for track, *_ in pictograms}
    for method, *shown in rows:
        for order, figures in zip(head[1:], shown, strict=True):
            for metric, figure in zip(METRICS, figures.split(" / "), strict=True):
                mean = fmean(pictograms[track, order, method, metric] for track in tracks)
                assert float(figure) == pytest.approx(mean, abs=0.11), (method, order, metric)


def test_what_was_chosen_and_reported_are_means_of_the_results(pictograms: Overall) -> None:
    """And the rule chooses what the page says that it does."""
    (table,) = [table for table in tables(RESULTS_PAGE) if table[0] == ["method", "choosing", "reporting"]]
    orders = {order for _, order, *_ in pictograms}
    assert len(orders) == 4
    means: dict[str, dict[str, list[float]]] = {}
    for method, *shown in table[1:]:
        for half, figures in zip(("choosing", "reporting"), shown, strict=True):
            tracks = HALVES[half].tracks
            found = [float(figure) for figure in figures.split(" / ")]
            for metric, figure in zip(METRICS, found, strict=True):
                mean = fmean(pictograms[track, order, method, metric] for track in tracks for order in orders)
                assert figure == pytest.approx(mean, abs=0.11), (method, half, metric)
            means.setdefault(half, {})[method] = found
    assert set(means["choosing"]) == {method for _, _, method, _ in pictograms}
    least = min(figures[2] for figures in means["choosing"].values())
    near = [method for method, figures in means["choosing"].items() if figures[2] <= least + 0.5]
    assert max(near, key=lambda method: means["choosing"][method][0]) == "TANL (official-script)"


def test_gains_are_those_of_the_results() -> None:
    """The page has the table of FPR95_ID of gain.md."""
    text = (RESULTS / "pictograms" / "gain.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"(?:^\| FPR95_ID \|.*\n(?:\|.*\n)+)", text, flags=re.MULTILINE)
    assert block.strip() in RESULTS_PAGE


def test_methods_without_a_state_are_the_same_in_small_batches(pictograms: Overall) -> None:
    page = (RESULTS / "pictograms" / "README.md").read_text(encoding="utf-8")
    (table,) = tables(page)
    head, *rows = table
    places = {"max cosine": "MaxLogit", "MCM": "MCM", "NegLabel": "NegLabel"}
    assert len(rows) == 7
    for row in rows:
        track = row[0].split()[0]
        for title, method in places.items():
            shown = [float(figure) for figure in row[head.index(title)].split(" / ")]
            expected = [pictograms[track, "shuffled", method, metric] for metric in METRICS]
            assert shown == pytest.approx(expected, abs=0.11), (
                track,
                method,
            )  # another processor rounded otherwise


def test_intervals_hold_the_figure_that_they_are_of(pictograms: Overall) -> None:
    page = (RESULTS / "pictograms" / "README.md").read_text(encoding="utf-8")
    found = re.findall(r"(\d+\.\d) \[(\d+\.\d), (\d+\.\d)\]", page)
    assert len(found) == 8
    for figures in found:
        value, low, high = map(float, figures)
        assert low <= value <= high


def test_the_ablations_page_is_its_table() -> None:
    page = (RESULTS / "ablation" / "README.md").read_text(encoding="utf-8")
    with (RESULTS / "ablation" / "ablation.csv").open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    expected = {
        (row["dimension"], row["track"], row["value"], row["metric"]): f"{100 * float(row['mean']):.1f}"
        for row in rows
    }
    shown: dict[tuple[str, str, str, str], str] = {}
    dimension, track, order = "", "", list[str]()
    for line in page.splitlines():
        if match := re.match(r"(\w+): ", line):
            dimension = match[1]
        elif match := re.match(r"  (\S.*?)\s+((?:AUROC|FPR95|FPR95_ID|\s)+) ID images ", line):
            track, order = match[1], match[2].split()
        elif match := re.match(r"  (\S.*?)(?: \*)?\s{2,}([\d.]+)\s+([\d.]+)\s+([\d.]+)\s+\d+\s+\d+$", line):
            for metric, figure in zip(order, match.groups()[1:], strict=True):
                shown[dimension, track, match[1], metric] = figure
    assert shown == expected


def test_rows_of_the_page_on_photographs_stand_in_its_results() -> None:
    page = (ROOT / "docs" / "photographs.md").read_text(encoding="utf-8")
    results = {
        tuple(row)
        for file in (RESULTS / "photographs").glob("*.md")
        for table in tables(file.read_text(encoding="utf-8"))
        for row in table
    }
    rows = [tuple(row) for table in tables(page) for row in table]
    assert len(rows) > 30
    assert [row for row in rows if row not in results] == []
