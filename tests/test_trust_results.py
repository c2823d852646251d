"""docs/reliability.md says what is in benchmarks/results/trust."""

from __future__ import annotations

import json
import re
from pathlib import Path
from statistics import fmean

import pytest

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "trust"
DOCS = (ROOT / "docs" / "reliability.md").read_text(encoding="utf-8")
NAMES = {"NegLabel": "NegLabel", "`tanl-paper`": "TANL (paper)", "`tanl`": "TANL (practice)"}


def measured(*files: str, track: int | None = None) -> dict[tuple[str, str, str], dict[str, list[float]]]:
    """Values of all streams of these files, by part, case and method; of one ID set alone where a run has one order."""
    found: dict[tuple[str, str, str], dict[str, list[float]]] = {}
    for name in files:
        for stream in json.loads((RESULTS / name).read_text(encoding="utf-8"))["streams"]:
            into = found.setdefault((stream["part"], stream["case"], stream["method"]), {})
            for key, values in stream.items():
                if isinstance(values, list):
                    into.setdefault(key, []).extend(values if track is None else [values[track]])
    return found


def table(heading: str, first: str) -> list[dict[str, str]]:
    """The rows of the first table under a heading whose first column is called so."""
    section = DOCS.split(f"\n{heading}\n", 1)[1].split("\n## ", 1)[0]
    lines = section[section.index(f"| {first} |") :].split("\n\n", 1)[0].splitlines()
    heads, _, *rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return [dict(zip(heads, row, strict=True)) for row in rows]


def cell(values: dict[str, list[float]], *keys: str) -> str:
    return " / ".join(f"{fmean(values[key]):.1f}" if key in values else "-" for key in keys)


def outliers(row: dict[str, str], found: dict[tuple[str, str, str], dict[str, list[float]]]) -> None:
    """A row of a table of shares of outliers is what was measured."""
    share = re.sub(r"\s", "", row["outliers"])
    values = found["outliers", share, NAMES[row["method"]]]
    ranked = cell(values, "AUROC", "FPR95_ID") if "AUROC" in values else "-"
    assert row["AUROC / FPR95_ID"] == ranked, row
    for kind in ("own threshold", "calibrated"):
        key = kind.split()[0]
        assert row[f"{kind}: flagged / caught"] == cell(values, f"{key}: flagged ID", f"{key}: caught"), row


PICTOGRAMS = ["pictograms-travel.json", "pictograms-objects.json", "pictograms-coarse-10.json"]


@pytest.mark.parametrize("method", ["NegLabel", "`tanl`"])
def test_few_outliers(method):
    found = measured(*PICTOGRAMS)
    rows = [row for row in table("## Few outliers", "outliers") if row["method"] == method]
    assert len(rows) == 5
    for row in rows:
        outliers(row, found)


@pytest.mark.parametrize("track", ["travel", "objects", "coarse-10", "coarse-5"])
def test_id_sets_one_by_one(track):
    found = measured(f"pictograms-{track}.json")
    rows = [row for row in table("### One by one", "ID set") if row["ID set"] == track]
    assert [row["method"] for row in rows] == ["NegLabel", "`tanl`"]
    for row in rows:
        pure, few, half = (found["outliers", share, NAMES[row["method"]]] for share in ("0%", "1%", "50%"))
        assert row["none: own flags"] == cell(pure, "own: flagged ID")
        assert row["none: calibrated flags"] == cell(pure, "calibrated: flagged ID")
        assert row["1 %: AUROC / FPR95_ID"] == cell(few, "AUROC", "FPR95_ID")
        assert row["50 %: AUROC / FPR95_ID"] == cell(half, "AUROC", "FPR95_ID")


@pytest.mark.parametrize("method", ["NegLabel", "`tanl`"])
def test_order(method):
    found = measured(*PICTOGRAMS)
    [row] = [each for each in table("## Order, and size of batches", "method") if each["method"] == method]
    of = {order: found["order", order, NAMES[method]] for order in list(row)[1:-1]}
    assert len(of) == 5
    for order, values in of.items():
        assert row[order] == cell(values, "AUROC", "FPR95_ID")
    spread = [fmean(values["FPR95_ID"]) for values in of.values()]
    assert row["spread"] == f"{max(spread) - min(spread):.1f}"


@pytest.mark.parametrize("track", ["near", "far", "both"])
def test_made_up_embeddings(track):
    tracks = json.loads((RESULTS / "structured.json").read_text(encoding="utf-8"))["tracks"]
    found = measured("structured.json", track=tracks.index(track))
    rows = [row for row in table("## Made-up embeddings", "kind") if row["kind"] == track]
    assert len(rows) == 9
    for row in rows:
        outliers(row, found)


def test_made_up_streams_of_10000():
    found = measured("structured-10000.json")
    rows = table("### Streams of 10 000", "outliers")
    assert len(rows) == 10
    for row in rows:
        outliers(row, found)
