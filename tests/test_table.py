"""Tables of runs: figures are the stored scores', formats read back, and published figures stand beside."""

from __future__ import annotations

import argparse
import csv
import errno
import io
import os
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import mean, stdev
from typing import Any, get_args

import numpy as np
import pytest
from run_folders import STATEFUL, STATELESS, measure, without, write_run

from tanl.benchmarks.data.splits import SPLITS
from tanl.benchmarks.engine.bootstrap import resample_counts, resampled_metrics
from tanl.benchmarks.engine.methods import METHODS
from tanl.benchmarks.engine.protocol import StreamScores
from tanl.benchmarks.engine.run_folder import Cell, CellScores, RunFolder
from tanl.benchmarks.output import remarks, report, summary, table
from tanl.benchmarks.output.brief import brief
from tanl.benchmarks.output.gain import gain_markdown, gains
from tanl.benchmarks.output.published import (
    PUBLISHED,
    TOLERANCE,
    Needs,
    describe_published,
    is_published_backbone,
    name_in_print,
    of_split,
    published,
)
from tanl.benchmarks.output.remarks import reproduction
from tanl.benchmarks.output.summary import beside, summarise
from tanl.metrics import HEADLINE

TANL = "TANL (batch-adaptive)"
FOUR = {"": dict.fromkeys(("inaturalist", "sun", "places", "textures-all"), "far")}
OPENOOD = {
    "": {
        "ssb_hard": "near",
        "ninco": "near",
        "inaturalist": "far",
        "textures": "far",
        "openimage_o": "far",
    }
}
NASTY = 'a|b_c&d%e$<f>#{g}~^\\h, "i" *j*'


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """Two ID sets, near, far and extreme OOD sets."""
    tracks = {
        "animals": {"plants": "near", "food": "near", "flags": "far", "noise": "extreme"},
        "food": {"plants": "near", "flags": "far"},
    }
    return write_run(tmp_path_factory.mktemp("runs") / "run", tracks=tracks)


@pytest.fixture(scope="module")
def four(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A run of Four-OOD with the published backbone."""
    return write_run(
        tmp_path_factory.mktemp("runs") / "four",
        split="four-ood",
        backbone="ViT-B-16/openai",
        tracks=FOUR,
        orders=("shuffled", "id-first", "drift"),
    )


def column(block: summary.Block, name: str) -> summary.Column:
    return next(one for one in block.columns if one.name == name)


def read_markdown(text: str) -> list[dict[str, str]]:
    """The rows of all tables, by the titles of their columns."""
    rows, head = [], []
    for line in text.splitlines():
        if not line.startswith("| "):
            head = []
            continue
        cells = [cell.strip() for cell in line.replace(r"\|", "\0").strip("|").split("|")]
        cells = [cell.replace("\0", "|") for cell in cells]
        if not head:
            head = cells
        elif not cells[0].startswith("---"):
            rows.append(dict(zip(head, cells, strict=True)))
    return rows


def number(cell: str) -> float:
    return float(cell.replace("*", "").split(" ")[0])


def test_figures_are_those_of_the_stored_scores(folder: RunFolder) -> None:
    blocks = {(block.track, block.order): block for block in summarise(folder)}
    checked = 0
    for cell in folder.cells():
        if cell.order != "any":
            continue
        measured = measure(folder.scores(cell))
        for order in ("shuffled", "id-first"):
            block = blocks[cell.track, order]
            for metric in HEADLINE:
                value = block.value(cell.method, column(block, cell.ood), metric)
                assert value is not None
                assert (value.mean, value.spread, value.seeds, value.any_order) == (
                    measured[metric],
                    None,
                    1,
                    True,
                )
                checked += 1
    assert checked == len(STATELESS) * 6 * 2 * 3


def test_mean_and_spread_over_seeds_are_those_of_the_stored_scores(folder: RunFolder) -> None:
    block = next(
        block for block in summarise(folder) if (block.track, block.order) == ("animals", "id-first")
    )
    for metric in HEADLINE:
        per_seed = {
            name: [
                measure(folder.scores(cell))[metric]
                for cell in folder.cells()
                if (cell.track, cell.method, cell.ood, cell.order) == ("animals", TANL, name, "id-first")
            ]
            for name in ("plants", "food", "flags")
        }
        value = block.value(TANL, column(block, "plants"), metric)
        assert value is not None
        assert value.seeds == len(per_seed["plants"]) == 3
        assert value.mean == pytest.approx(mean(per_seed["plants"]), abs=1e-12)
        assert value.spread == pytest.approx(stdev(per_seed["plants"]), abs=1e-12)
        # A group's mean is taken seed by seed over its sets, so its spread is not the sets'.
        pairs = [mean(pair) for pair in zip(per_seed["plants"], per_seed["food"], strict=True)]
        near = block.value(TANL, column(block, "near"), metric)
        assert near is not None
        assert near.mean == pytest.approx(mean(pairs), abs=1e-12)
        assert near.spread == pytest.approx(stdev(pairs), abs=1e-12)


def test_means_by_hand(tmp_path: Path) -> None:
    run = write_run(
        tmp_path / "run",
        tracks={"": {"a": "near", "b": "far", "c": "far", "d": "extreme"}},
        methods={TANL: 1.0},
        orders=["shuffled"],
        seeds=[0, 1],
    )
    values = {"a": (0.10, 0.20), "b": (0.30, 0.50), "c": (0.50, 0.90), "d": (0.0, 1.0)}
    for cell in run.cells():
        assert cell.seed is not None
        figure = values[cell.ood][cell.seed]
        run.write(replace(cell, metrics={**cell.metrics, "FPR95": figure}), run.scores(cell))
    (block,) = summarise(run)
    assert [one.name for one in block.columns] == ["a", "b", "c", "d", "near", "far", "overall", "extreme"]
    expected = {"near": (0.15, 0.10), "far": (0.55, 0.30), "overall": (5 / 12, 7 / 30), "extreme": (0.5, 1.0)}
    for name, (middle, apart) in expected.items():
        value = block.value(TANL, column(block, name), "FPR95")
        assert value is not None
        assert value.mean == pytest.approx(middle)
        assert value.spread == pytest.approx(apart / 2**0.5)
    assert "15.0 ± 7.1" in table.markdown([run])
    assert "55.0 ± 21.2" in table.text_table(run)


def resampled_by_hand(folder: RunFolder, cells: Sequence[Cell]) -> Callable[[Cell], Any]:
    """The metrics of a cell's resamples: the ID images are resampled first, then each OOD set."""
    generator = np.random.default_rng(0)
    id_counts = resample_counts(cells[0].num_id, 1000, generator)
    sets = dict.fromkeys(cell.ood for cell in cells)
    counts = {ood: resample_counts(cells[0].num_ood, 1000, generator) for ood in sets}

    def sampled(cell: Cell) -> Any:
        scores = StreamScores(*(part.astype(np.float64) for part in folder.scores(cell)[:2]))
        return resampled_metrics(scores, id_counts, counts[cell.ood])

    return sampled


def test_intervals_are_those_of_resampled_scores_paired_over_methods(folder: RunFolder) -> None:
    """By hand: the ID images are resampled first, then each OOD set; seeds and sets share the resamples."""
    (block,) = [each for each in summarise(folder, ["id-first"], intervals=True) if each.track == "animals"]
    cells = [cell for cell in folder.cells() if cell.track == "animals"]
    sampled = resampled_by_hand(folder, cells)
    for method in block.methods:
        for each in block.columns:
            samples = [
                sampled(cell)
                for cell in cells
                if cell.method == method and cell.ood in each.sets and cell.order in ("any", "id-first")
            ]
            for place, metric in enumerate(("AUROC", "FPR95", "FPR95_ID")):
                value = block.value(method, each, metric)
                assert value is not None and value.interval is not None
                low, high = np.quantile(np.mean(samples, axis=0)[:, place], [0.025, 0.975])
                assert value.interval == pytest.approx((low, high), abs=1e-12)
                assert low <= value.mean <= high


def test_gains_are_means_of_differences_with_paired_intervals(folder: RunFolder) -> None:
    """By hand, for a method with a state and one without: over orders, seeds, and near and far sets."""
    found = gains(folder, TANL)
    cells = [cell for cell in folder.cells() if cell.track == "animals"]
    sampled = resampled_by_hand(folder, cells)
    kept = [cell for cell in cells if cell.role != "extreme"]
    assert {cell.ood for cell in kept} < {cell.ood for cell in cells}

    def of(method: str) -> tuple[Any, Any]:
        own = [cell for cell in kept if cell.method == method]
        samples = np.mean([sampled(cell) for cell in own], axis=0)
        return {name: mean(cell.metrics[name] for cell in own) for name in HEADLINE}, samples

    over, over_samples = of(TANL)
    for method in ("AdaNeg", "NegLabel"):
        means, samples = of(method)
        for place, metric in enumerate(HEADLINE):
            gain = found[method, "animals", metric]
            assert gain.mean == pytest.approx(means[metric] - over[metric], abs=1e-12)
            wanted = np.quantile(samples[:, place] - over_samples[:, place], [0.025, 0.975])
            assert gain.interval == pytest.approx(wanted, abs=1e-12)
    assert not any(method == TANL for method, _, _ in found)


def test_gains_of_a_method_that_misses_a_stream_are_not_shown(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    run = without(run, *(cell.key for cell in run.cells() if cell.method == "AdaNeg" and cell.seed == 2))
    assert {method for method, _, _ in gains(run, TANL)} == set(STATELESS)
    assert not [line for line in gain_markdown(run, TANL).splitlines() if line.startswith("| AdaNeg")]


def test_a_table_of_gains_bolds_the_best_and_counts_clear_ones(folder: RunFolder) -> None:
    text = gain_markdown(folder, "MCM", ["shuffled"])
    rows = read_markdown(text)
    found = gains(folder, "MCM", ["shuffled"])
    assert len(rows) == 3 * 3
    for row, metric in zip(rows, [name for name in HEADLINE for _ in range(3)], strict=True):
        own = [found[row_method(row), track, metric] for track in ("animals", "food")]
        low, high = (100 * end for end in own[0].interval)
        assert f"{100 * own[0].mean:+.1f}" in row["animals"] and f"[{low:.1f}, {high:.1f}]" in row["animals"]
        assert float(row["mean"]) == pytest.approx(100 * mean(gain.mean for gain in own), abs=0.051)
        better = [gain.is_clear and (gain.mean > 0) == (metric == "AUROC") for gain in own]
        worse = [gain.is_clear and (gain.mean < 0) == (metric == "AUROC") for gain in own]
        assert row["better / worse"] == f"{sum(better)} / {sum(worse)}"
    strongest = [row for row in rows if row["animals"].startswith("**")]
    assert [row_method(row) for row in strongest] == [TANL] * 3


def row_method(row: dict[str, str]) -> str:
    return next(row[metric] for metric in HEADLINE if metric in row)


def test_gains_name_a_method_and_an_order_that_are_not_there(folder: RunFolder, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"has no method NegLabl; it has .*NegLabel"):
        gains(folder, "NegLabl")
    with pytest.raises(ValueError, match="has no order drifty"):
        gains(folder, TANL, ["drifty"])
    arguments = argparse.ArgumentParser()
    table.add_arguments(arguments)
    given = arguments.parse_args([str(folder.path), "--over", TANL, "--format", "csv"])
    with pytest.raises(ValueError, match="--over is shown as Markdown, not as csv"):
        table.main(given)
    given = arguments.parse_args([str(folder.path), "--over", TANL, "--out", str(tmp_path / "gain.md")])
    assert table.main(given) == 0
    assert (tmp_path / "gain.md").read_text(encoding="utf-8") == gain_markdown(folder, TANL)


def test_every_table_prints_intervals_where_they_are_asked_for(folder: RunFolder, tmp_path: Path) -> None:
    block = summarise(folder, ["shuffled"], intervals=True)[0]
    overall = column(block, "overall")
    value = block.value(TANL, overall, "AUROC")
    assert value is not None and value.interval is not None
    low, high = (100 * end for end in value.interval)
    shown = f"{100 * value.mean:.1f} ± {100 * (value.spread or 0):.1f} [{low:.1f}, {high:.1f}]"
    assert value.in_percent() == shown
    several: list[Callable[..., str]] = [table.markdown, table.latex, table.brief_markdown]
    for make in several:
        text, plain = (make([folder], ["shuffled"], intervals=given) for given in (True, False))
        assert f"[{low:.1f}, {high:.1f}]" in text
        assert ("bootstrap" in text, "bootstrap" in plain) == (True, False)
        assert re.search(r"\[\d+\.\d, \d+\.\d\]", plain) is None
    assert shown in table.text_table(folder, ["shuffled"], intervals=True)
    rows = list(csv.DictReader(io.StringIO(table.comma_separated([folder], ["shuffled"], intervals=True))))
    (row,) = [
        row
        for row in rows
        if [row[name] for name in ("track", "method", "ood", "metric")]
        == [block.track, TANL, "overall", "AUROC"]
    ]
    assert (row["low_percent"], row["high_percent"]) == (f"{low:.3f}", f"{high:.3f}")
    without_any = csv.DictReader(io.StringIO(table.comma_separated([folder], ["shuffled"])))
    assert {(row["low_percent"], row["high_percent"]) for row in without_any} == {("", "")}
    target = tmp_path / "page.html"
    assert report_command(str(folder.path), "--intervals", "--out", str(target)) == 0
    assert f"[{low:.1f}, {high:.1f}]" in target.read_text(encoding="utf-8")


def test_each_cell_is_read_once_a_command(folder: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the tables need of it; with intervals its scores are read once too."""
    read: Counter[str] = Counter()
    scored: Counter[str] = Counter()
    of_one, scores = RunFolder._read, RunFolder.scores

    def counted(self: RunFolder, slug: str, *row: Any) -> Any:
        read[slug] += 1
        return of_one(self, slug, *row)

    def counted_scores(self: RunFolder, cell: Any) -> CellScores:
        scored[cell.key.slug] += 1
        return scores(self, cell)

    monkeypatch.setattr(RunFolder, "_read", counted)
    monkeypatch.setattr(RunFolder, "scores", counted_scores)
    for form in ("markdown", "csv", "latex", "brief"):
        read.clear()
        scored.clear()
        assert run_command(str(folder.path), "--format", form, "--intervals") == 0
        assert len(read) == len(folder.cells())
        assert set(read.values()) == set(scored.values()) == {1}
        assert len(scored) == len(read)


def test_an_older_table_or_page_stays_on_a_full_disk(
    folder: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    for command in (run_command, report_command):
        target = tmp_path / "older"
        target.write_text("older")
        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", full)
            with pytest.raises(OSError, match="No space left") as error:
                command(str(folder.path), "--out", str(target))
        assert error.value.filename == str(target)
        assert target.read_text() == "older"
        assert list(tmp_path.iterdir()) == [target]


def test_markdown_reads_back(folder: RunFolder) -> None:
    rows = read_markdown(table.markdown([folder]))
    assert len(rows) == 2 * 2 * 3 * 4  # ID sets, orders, metrics, methods
    block = summarise(folder)[0]
    for row in rows[:12]:
        for one in block.columns:
            value = block.value(row["method"].replace("\\", ""), one, row["metric"].replace("\\", ""))
            assert value is not None
            assert number(row[one.title]) == pytest.approx(100 * value.mean, abs=0.0501)
            assert ("±" in row[one.title]) == (row["method"] in STATEFUL)
            assert "(-)" not in row[one.title]  # nothing is in print for the split at all


def test_best_of_a_column_is_bold(folder: RunFolder) -> None:
    rows = [row for row in read_markdown(table.markdown([folder], ["shuffled"])) if row["metric"] == "AUROC"][
        :4
    ]
    best = max(rows, key=lambda row: number(row["plants"]))
    assert [row["plants"].startswith("**") for row in rows] == [row is best for row in rows]


def test_brief_tables_hold_the_means_of_the_blocks(folder: RunFolder) -> None:
    blocks = summarise(folder)
    of_sets, of_orders = brief(folder)
    assert of_sets[0] == "Order shuffled"
    assert of_sets[1][0] == ["method", "animals", "food"]
    assert of_orders[0] == "Every order, means over 2 ID sets"
    assert of_orders[1][0] == ["method", "shuffled", "id-first"]

    def shown(values: list[dict[str, float]]) -> str:
        return " / ".join(f"{100 * mean(each[name] for each in values):.1f}" for name in HEADLINE)

    for method in (*STATELESS, TANL):
        overall = {
            (block.track, block.order): {
                name: value.mean
                for name in HEADLINE
                if (value := block.value(method, column(block, "overall"), name)) is not None
            }
            for block in blocks
        }
        in_sets = next(row for row in of_sets[1] if row[0] == method)
        in_orders = next(row for row in of_orders[1] if row[0] == method)
        assert [cell.replace("*", "") for cell in in_sets[1:]] == [
            shown([overall[track, "shuffled"]]) for track in ("animals", "food")
        ]
        assert [cell.replace("*", "") for cell in in_orders[1:]] == [
            shown([overall["animals", order], overall["food", order]]) for order in ("shuffled", "id-first")
        ]


def test_brief_tables_mark_the_best_and_name_what_is_missing(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", tracks={"a|b": {"c": "near", "d": "far"}})
    lost = [cell.key for cell in run.cells() if (cell.method, cell.ood) == ("AdaNeg", "d")]
    run = without(run, *lost)
    text = table.brief_markdown([run], ["id-first"])
    assert "Order id-first" in text
    assert "Every order" not in text  # one order is no comparison
    rows = read_markdown(text)
    assert list(rows[0]) == ["method", "a|b"]
    cells = {row["method"]: row["a|b"].split(" / ") for row in rows}
    assert cells["AdaNeg"] == ["not run"] * 3
    assert [method for method, shown in cells.items() if shown[0].startswith("**")] == [TANL]


def test_csv_reads_back(folder: RunFolder) -> None:
    rows = list(csv.DictReader(io.StringIO(table.comma_separated([folder]))))
    (row,) = [
        row
        for row in rows
        if (row["track"], row["order"], row["method"], row["ood"], row["metric"])
        == ("food", "id-first", TANL, "overall", "AUROC")
    ]
    block = next(block for block in summarise(folder) if (block.track, block.order) == ("food", "id-first"))
    value = block.value(TANL, column(block, "overall"), "AUROC")
    assert value is not None and value.spread is not None
    assert float(row["mean_percent"]) == pytest.approx(100 * value.mean, abs=6e-4)
    assert float(row["spread_percent"]) == pytest.approx(100 * value.spread, abs=6e-4)
    assert (row["seeds"], row["role"], row["published_percent"]) == ("3", "mean", "-")
    assert (row["corpus"], row["removal"], row["preprocessing"]) == ("neglabel", "names", "published")
    assert "no published figure" in row["remarks"]


def test_latex_has_as_many_cells_in_every_row(four: RunFolder) -> None:
    text = table.latex([four], ["shuffled"])
    rows = [line for line in text.splitlines() if line.endswith(r"\\")]
    assert len(rows) == 1 + 3 * 4
    assert {len(row.replace(r"\&", "").split("&")) for row in rows} == {2 + 5}
    assert r"\begin{tabular}{llrrrrr}" in text and text.count(r"\end{tabular}") == 1
    assert r"FPR95\_ID & TANL (batch-adaptive) & " in text
    assert r"$\pm$" in text and "±" not in text


@pytest.mark.parametrize("kind", ["markdown", "latex", "csv"])
def test_marks_of_a_format_in_names_are_escaped(tmp_path: Path, kind: str) -> None:
    run = write_run(
        tmp_path / "run", tracks={"": {NASTY: "near", "b": "far"}}, methods={TANL: 1.0}, seeds=[0]
    )
    text = table._FORMATS[kind]([run], None)
    if kind == "csv":
        rows = list(csv.DictReader(io.StringIO(text)))
        assert {row["ood"] for row in rows} == {NASTY, "b", "near", "far", "overall"}
    elif kind == "markdown":
        assert "<f>" not in text
        head = next(line for line in text.splitlines() if line.startswith("| metric"))
        titles = head.replace(r"\|", "").count("|") - 1
        assert titles == 2 + 5
        assert r"a\|b\_c&amp;d%e$&lt;f&gt;#{g}~^\\h, " in head
        assert r"\*j\*" in head
    else:
        assert (
            r"a\textbar{}b\_c\&d\%e\$\textless{}f\textgreater{}\#\{g\}\textasciitilde{}\textasciicircum{}"
            r"\textbackslash{}h" in text
        )


def test_published_figures_stand_beside_those_of_four_ood(four: RunFolder) -> None:
    text = table.markdown([four])
    rows = read_markdown(text)
    by_order = {
        order: rows[start : start + 12] for order, start in (("shuffled", 0), ("id-first", 12), ("drift", 24))
    }

    def cell(order: str, metric: str, method: str, title: str = "overall (mean of 4)") -> str:
        (row,) = [
            row
            for row in by_order[order]
            if (row["metric"].replace("\\", ""), row["method"]) == (metric, method)
        ]
        return row[title]

    assert "(9.81 [2])" in cell("shuffled", "FPR95", TANL)
    assert "(0.42 [2])" in cell("shuffled", "FPR95", TANL, "inaturalist")
    assert "(97.97 [" in cell("shuffled", "AUROC", TANL)
    assert cell("shuffled", "FPR95_ID", TANL).endswith("(-)")
    assert "(16.47 [" in cell("id-first", "FPR95", TANL)
    assert cell("drift", "FPR95", TANL).endswith("(-)")
    # MCM keeps no state: its figure stands in every order, and is ID positive.
    for order in by_order:
        assert "(43.93 [" in cell(order, "FPR95_ID", "MCM")
        assert cell(order, "FPR95", "MCM").endswith("(-)")
    assert "\\[2\\] TANL's table, arXiv 2603.25250 (OOD positive)." in text
    assert "TANL's table, arXiv 2603.25250 (ID positive)." in text


def test_published_near_and_far_stand_beside_those_of_openood(tmp_path: Path) -> None:
    run = write_run(
        tmp_path / "run", split="openood-imagenet-1k", backbone="ViT-B-16/openai", tracks=OPENOOD, seeds=[0]
    )
    rows = list(csv.DictReader(io.StringIO(table.comma_separated([run]))))
    found = {
        (row["ood"], row["metric"]): row["published_percent"]
        for row in rows
        if row["method"] == TANL and row["order"] == "shuffled" and row["role"] == "mean"
    }
    assert found["near", "FPR95"] == "60.06" and found["far", "AUROC"] == "96.43"
    assert found["overall", "FPR95"] == found["near", "FPR95_ID"] == "-"


def test_published_figures_are_fractions_of_known_sets() -> None:
    means = {"near", "far", "overall"}
    for row in PUBLISHED:
        assert 0 < row.value < 1
        assert row.ood in means | {source.name for _, source in SPLITS[row.split].sets()}
        assert row.source and row.split in TOLERANCE
        assert ("ID positive" in row.note) == (row.metric == "FPR95_ID")
        assert published(row.split, row.method, row.ood, row.metric, row.order) is row
        assert row.needs in get_args(Needs)
    settings = ("batch-adaptive", "official-script", "batch-adaptive, float16", "official-script, float16")
    for name in settings:
        assert f"TANL ({name})" in METHODS
        assert name_in_print(f"TANL ({name})") == "TANL"
    told = describe_published()
    assert "TINS" in told and "needs ID images  FPR95 6.72  (TINS's abstract" in told
    assert told.count("\n") + 1 == len({(row.split, row.ood, row.method, row.order) for row in PUBLISHED})
    assert published("four-ood", "TANL (distribution)", "overall", "FPR95") is None
    assert published("pictograms", TANL, "overall", "FPR95") is None
    assert len(of_split("four-ood")) + len(of_split("openood-imagenet-1k")) == len(PUBLISHED)


@pytest.mark.parametrize(
    ("name", "is_it"),
    [
        ("ViT-B-16/openai", True),
        ("ViT-B-16-quickgelu/openai", True),
        ("hf:openai/clip-vit-base-patch16", True),
        ("ViT-B-32/openai", False),
        ("ViT-B-16/laion2b_s34b_b88k", False),
        ("hf:google/siglip-base-patch16-224", False),
        ("mini", False),
    ],
)
def test_backbone_of_the_published_figures(name: str, is_it: bool) -> None:
    assert is_published_backbone(name) is is_it


def test_pictograms_reproduce_nothing(folder: RunFolder) -> None:
    text = table.text_table(folder)
    assert "This run reproduces no published figure (other images" in text
    assert "another backbone: mini, not CLIP ViT-B/16" in text
    assert "all published figures of four-ood, openood-imagenet-1k" in text


def test_what_is_reproduced_and_what_not_is_said(tmp_path: Path) -> None:
    run = write_run(
        tmp_path / "run",
        split="four-ood",
        backbone="ViT-B-16/openai",
        tracks=FOUR,
        orders=["shuffled"],
        methods={TANL: 2.0},
    )
    for cell in run.cells():
        run.write(replace(cell, metrics={**cell.metrics, "FPR95": 0.105, "AUROC": 0.5}), run.scores(cell))
    agreeing, differing, unmeasured, elsewhere = remarks.reproduction(run, summarise(run))
    assert (
        agreeing == "Within 1.0 points of print: TANL (batch-adaptive) overall FPR95 10.5 (published 9.81)."
    )
    assert f"{TANL} inaturalist FPR95 10.5 (published 0.42)" in differing
    assert f"{TANL} overall AUROC 50.0 (published 97.97)" in differing
    assert "MCM overall FPR95_ID 43.93" in unmeasured and "TANL overall FPR95 id-first 16.47" in unmeasured
    assert elsewhere.endswith("all published figures of openood-imagenet-1k.")


@pytest.mark.parametrize(
    ("config", "sets", "said", "reason"),
    [
        ({"limit": 63}, {}, "Limited to 63 images a set", "fewer images"),
        (
            {"stream_length": 10_000, "augmented": True},
            {},
            "streams of 10000 images were drawn",
            "augmented streams",
        ),
        (
            {},
            {("", "sun"): {"expected": 10_000}},
            "sun: 63 images, where the published set has 10 000.",
            "sets that are not whole",
        ),
        (
            {},
            {("", "sun"): {"unreadable": [f"{name}.jpg" for name in "abcdefg"]}},
            "sun: 7 images left out, because unreadable: a.jpg, b.jpg, c.jpg, d.jpg, e.jpg and 2 more.",
            "sets that are not whole",
        ),
        ({"batch_size": 64}, {}, "", "batch_size 64, not 256 (run with --published)"),
        (
            {"full_spectrum": True},
            {},
            "covariate-shifted images of the ID classes count as ID",
            "covariate-shifted images among the ID images",
        ),
        ({"labels": "my.txt"}, {}, "", "class names of one's own"),
        ({"corpus": "wordnet"}, {}, "", "corpus wordnet, not neglabel (run with --published)"),
        (
            {"removal": "synonyms"},
            {},
            "the removal 'synonyms'",
            "removal synonyms, not names (run with --published)",
        ),
        (
            {"preprocessing": "own"},
            {},
            "own preprocessing",
            "preprocessing own, not published (run with --published)",
        ),
    ],
)
def test_cut_and_odd_runs_are_said_and_not_compared(
    tmp_path: Path,
    config: dict[str, object],
    sets: dict[tuple[str, str], dict[str, object]],
    said: str,
    reason: str,
) -> None:
    run = write_run(
        tmp_path / "run",
        split="four-ood",
        backbone="ViT-B-16/openai",
        tracks=FOUR,
        seeds=[0],
        config=config,
        sets=sets,
    )
    text = table.text_table(run)
    assert said in text
    assert f"This run reproduces no published figure ({reason})" in text


def test_means_over_some_of_the_ood_sets_stand_beside_no_published_ones(tmp_path: Path) -> None:
    some = {"": {name: role for name, role in FOUR[""].items() if name != "sun"}}
    given: dict[str, Any] = {"split": "four-ood", "backbone": "ViT-B-16/openai", "seeds": [0]}
    whole = write_run(tmp_path / "whole", tracks=FOUR, **given)
    part = write_run(tmp_path / "part", tracks=some, config={"only_ood": list(some[""])}, **given)
    for run, expected in ((whole, True), (part, False)):
        (block, *_) = summarise(run)
        for name, is_there in (("overall", expected), ("places", True)):
            figure = beside("four-ood", block, TANL, column(block, name), "FPR95")
            assert (figure is not None) == is_there
        missing = next(
            line for line in reproduction(run, summarise(run)) if "not measured in this run" in line
        )
        assert ("TANL overall FPR95 9.81" in missing) != expected
        only = "Of the split's OOD sets only inaturalist, places, textures-all: means are over these alone."
        assert (only in table.text_table(run)) != expected


def test_unfinished_run_is_said_and_its_means_are_left_out(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", tracks=FOUR, orders=["shuffled"], seeds=[0, 1])
    (lost,) = [cell for cell in run.cells() if cell.key[1:] == ("AdaNeg", "sun", "shuffled", 1)]
    run = without(run, lost.key)
    text = table.text_table(run)
    assert "Unfinished: 1 stream missing" in text
    (block,) = summarise(run)
    mean_of_one = block.value("AdaNeg", column(block, "overall"), "AUROC")
    assert mean_of_one is not None and mean_of_one.seeds == 1 and mean_of_one.spread is None
    run = without(run, *(cell.key for cell in run.cells() if (cell.method, cell.ood) == ("AdaNeg", "sun")))
    (block,) = summarise(run)
    assert block.value("AdaNeg", column(block, "overall"), "AUROC") is None
    assert "not run" in table.text_table(run) and "not run" in table.markdown([run])


def test_methods_that_were_left_out_are_said(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", seeds=[0])
    run.note(left_out={"GL-MCM": "this backbone gives no local features"})
    assert "GL-MCM was not run: this backbone gives no local features." in table.text_table(run)


def test_state_that_is_kept_between_sets_is_said(tmp_path: Path) -> None:
    kept = write_run(tmp_path / "kept", split="drift-spti", tracks=FOUR, seeds=[0])
    assert "the state kept from one OOD set to the next" in table.text_table(kept)
    new = write_run(tmp_path / "new", split="four-ood", tracks=FOUR, seeds=[0])
    assert "the state new for each OOD set" in table.text_table(new)


def test_finished_run_has_no_remark_of_missing_streams(folder: RunFolder) -> None:
    assert "Unfinished" not in table.text_table(folder)


def test_perfect_scores_make_a_table(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", tracks={"": {"a": "ood"}}, methods={"MCM": 1.0}, num_id=1, num_ood=1)
    (cell,) = run.cells()
    scores = CellScores(np.zeros(1, np.float32), np.ones(1, np.float32), np.arange(2, dtype=np.int32))
    run.write(replace(cell, metrics=measure(scores)), scores)
    (block,) = summarise(run)
    assert block.order == "any"
    assert "100.0" in table.text_table(run) and "No method depends on the order" in table.text_table(run)


def run_command(*words: str) -> int:
    parser = argparse.ArgumentParser()
    table.add_arguments(parser)
    return table.main(parser.parse_args(words))


def report_command(*words: str) -> int:
    parser = argparse.ArgumentParser()
    report.add_arguments(parser)
    return report.main(parser.parse_args(words))


def test_command_writes_a_file(folder: RunFolder, four: RunFolder, tmp_path: Path) -> None:
    target = tmp_path / "table.csv"
    assert run_command(str(folder.path), str(four.path), "--format", "csv", "--out", str(target)) == 0
    rows = list(csv.DictReader(io.StringIO(target.read_text(encoding="utf-8"))))
    assert {row["run"] for row in rows} == {"run", "four"}


def test_command_prints_one_order(folder: RunFolder, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(str(folder.path), "--order", "id-first") == 0
    shown = capsys.readouterr().out
    assert "order id-first" in shown and "order shuffled" not in shown


def test_command_refuses(folder: RunFolder, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no run in"):
        run_command(str(tmp_path))
    with pytest.raises(ValueError, match="no order blocks; it has shuffled, id-first"):
        run_command(str(folder.path), "--order", "blocks")
    with pytest.raises(ValueError, match="can't be written"):
        run_command(str(folder.path), "--out", str(tmp_path / "none" / "t.md"))
    empty = write_run(tmp_path / "empty", tracks={"": {}})
    with pytest.raises(ValueError, match="has no results yet"):
        run_command(str(empty.path))
