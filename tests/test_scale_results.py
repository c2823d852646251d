"""docs/scale.md says what is in benchmarks/results/scale."""

from __future__ import annotations

import json
import re
from pathlib import Path
from statistics import fmean, median
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "scale"
DOCS = (ROOT / "docs" / "scale.md").read_text(encoding="utf-8")


def result(name: str) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((RESULTS / name).read_text(encoding="utf-8"))
    return content


def table(head: str) -> list[list[str]]:
    """The rows of the table whose head begins so."""
    (block,) = re.findall(rf"^{re.escape(head)}.*\n\|[ :|-]+\|\n((?:\|.*\n)+)", DOCS, re.MULTILINE)
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in block.splitlines()]


def spaced(number: int) -> str:
    return f"{number:,}".replace(",", " ")


def test_the_table_of_labels_is_what_was_measured() -> None:
    found = result("label-scale.json")
    rows = []
    for held in found["memory"]:
        own = [
            line
            for line in found["lines"]
            if (line["labels"], line["method"]) == (held["labels"], held["method"])
        ]
        assert len(own) == 4
        overlaps = [100 * line["overlap"] for line in own]
        rows.append(
            [
                spaced(held["labels"]),
                held["method"],
                f"{100 * fmean(line['auroc'] for line in own):.1f}",
                f"{100 * fmean(line['fpr95_id'] for line in own):.1f}",
                "" if held["method"] == "exact" else f"{fmean(overlaps):.1f} / {min(overlaps):.1f}",
                f"{median(line['seconds'] for line in own):.3g}",
                f"{held['own'] / 1e9:.1f}",
            ]
        )
    assert table("| labels | method | AUROC |") == rows
    assert len(rows) == 9


def test_the_settings_of_the_short_lists_are_those_that_were_chosen() -> None:
    found = result("label-scale.json")
    for name, said in (("chosen", "4096 candidates"), ("fast", "1024 candidates")):
        settings = found[name]
        assert said.startswith(str(settings["candidates"])) and said in DOCS
    assert [found[name]["probe"] for name in ("chosen", "fast")] == [0.25, 0.05]
    page = " ".join(DOCS.split())
    assert "from a quarter of the lists" in page and "from a twentieth" in page


def test_what_the_page_says_of_overlap_and_ranking_holds() -> None:
    """The short list's mean FPR95_ID is within half a point of the exact sums, and a tenth of AUROC, at each size."""
    found = result("label-scale.json")

    def mean(labels: int, method: str, metric: str) -> float:
        own = [
            line[metric] for line in found["lines"] if (line["labels"], line["method"]) == (labels, method)
        ]
        return 100 * fmean(own)

    for labels in (999_364, 10_000_000):
        for metric, within in (("fpr95_id", 0.5), ("auroc", 0.1)):
            assert mean(labels, "short list", metric) == pytest.approx(
                mean(labels, "exact", metric), abs=within
            )
    exact = [mean(labels, "exact", "fpr95_id") for labels in (70_000, 999_364, 10_000_000)]
    assert exact == sorted(exact)


def test_an_endless_stream_is_what_was_measured() -> None:
    found = result("endless.json")
    marks = found["marks"]
    assert marks[-1]["batches"] == found["settings"]["batches"] == 1_000_000
    tenth = len(marks) // 10
    size = found["settings"]["batch_size"]
    ends = [0, *(mark["batches"] for mark in marks)]
    rates = [
        (mark["batches"] - before) * size / mark["cpu_seconds"]
        for before, mark in zip(ends, marks, strict=False)
    ]
    expected = [
        ["resident memory, at its end", *(f"{marks[at]['resident'] / 1e6:.0f} MB" for at in (tenth - 1, -1))],
        [
            "state",
            *(
                f"{min(part) / 1e6:.3f} to {max(part) / 1e6:.3f} MB"
                for part in ([mark["state"] for mark in some] for some in (marks[:tenth], marks[-tenth:]))
            ),
        ],
        [
            "images a second of CPU time, median",
            *(spaced(round(median(part))) for part in (rates[:tenth], rates[-tenth:])),
        ],
    ]
    assert table("| | first tenth |") == expected
    assert f"{spaced(marks[-1]['images'])} images" in DOCS
    rebuilt, formula = (max(mark[name] for mark in marks) for name in ("off_rebuilt", "off_formula"))
    assert f"{rebuilt:.1e}" in DOCS and f"{formula:.1e}" in DOCS
    assert formula < 1e-6


def test_the_throughput_of_workers_is_what_was_measured() -> None:
    rates = {
        (row["mode"], row["workers"]): row["images"] / row["seconds"]
        for row in result("ray-throughput.json")["rows"]
    }
    assert table("| Workers, one core each |") == [
        [str(workers), *(f"{rates[mode, workers]:.0f}" for mode in ("ordered", "merged"))]
        for workers in (1, 2)
    ]
