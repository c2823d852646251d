"""A run in two short tables: every method on every ID set, and what the order of the stream does to it."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

from tanl.metrics import HEADLINE

from ..engine.run_folder import RunFolder
from .published import OVERALL
from .summary import Block, in_brackets, overall, summarise


def brief(
    folder: RunFolder, orders: Sequence[str] | None = None, *, intervals: bool = False
) -> list[tuple[str, list[list[str]]]]:
    """The tables, each with what is above it: rows of cells, the first row their heads.

    A cell is AUROC / FPR95 / FPR95_ID in percent, the mean over seeds of the mean over near and far OOD sets. The
    second table takes the mean over the ID sets too; a run of one order has none. The best of a
    column is bold, in Markdown; names are as they are in the run.

    Args:
        folder: the run.
        orders: the orders that are wanted, the first table's the first; None for all.
        intervals: with bootstrap intervals, where a cell is of one ID set.

    Raises:
        ValueError: the run has no cell yet, or none of an order that is wanted.
    """
    blocks = summarise(folder, orders, intervals=intervals)
    by_order: dict[str, list[Block]] = {}
    for block in blocks:
        by_order.setdefault(block.order, []).append(block)
    methods = list(dict.fromkeys(method for block in blocks for method in block.methods))
    first, of_first = next(iter(by_order.items()))
    by_set = {block.track or OVERALL: [block] for block in of_first}
    tables = [(f"Order {first}", _table(methods, by_set))]
    if len(by_order) > 1:
        over = f", means over {len(of_first)} ID sets" if len(of_first) > 1 else ""
        tables.append((f"Every order{over}", _table(methods, by_order)))
    return tables


def _table(methods: Sequence[str], columns: dict[str, list[Block]]) -> list[list[str]]:
    cells = {
        (method, name, metric): _mean(blocks, method, metric)
        for method in methods
        for name, blocks in columns.items()
        for metric in HEADLINE
    }
    rows = [["method", *columns]]
    for method in methods:
        row = [method]
        for name in columns:
            shown = []
            for metric in HEADLINE:
                rivals = [cells[other, name, metric] for other in methods]
                best = (max if metric == "AUROC" else min)(
                    (each for each in rivals if each is not None), default=None
                )
                own = cells[method, name, metric]
                text = "not run" if own is None else f"{own:.1f}"
                text = f"**{text}**" if own is not None and own == best else text
                shown.append(text + _interval(columns[name], method, metric))
            row.append(" / ".join(shown))
        rows.append(row)
    return rows


def _mean(blocks: Sequence[Block], method: str, metric: str) -> float | None:
    """In percent, rounded as it is shown; None where a block lacks it."""
    values = [block.value(method, overall(block.columns), metric) for block in blocks]
    means = [value.mean for value in values if value is not None]
    return round(100 * fmean(means), 1) if len(means) == len(blocks) else None


def _interval(blocks: Sequence[Block], method: str, metric: str) -> str:
    """That of the only block; ID sets may share images, which no mean of intervals would know."""
    value = blocks[0].value(method, overall(blocks[0].columns), metric) if len(blocks) == 1 else None
    return "" if value is None or value.interval is None else f" {in_brackets(value.interval)}"
