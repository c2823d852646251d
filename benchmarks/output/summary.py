"""A run's cells as tables: means and spreads over seeds, means over groups of OOD sets."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean, stdev

import numpy as np

from tanl.io.text import did_you_mean
from tanl.metrics import HEADLINE

from ..data.splits import SPLITS
from ..engine.bootstrap import Floats, PairedResamples, interval, mean_of_sets
from ..engine.protocol import StreamScores
from ..engine.run_folder import ANY_ORDER, Cell, Key, RunFolder
from .published import (
    OVERALL,
    Published,
    published,
)

_HEADLINE = ("near", "far", "ood")
_GROUPS = ("near", "far", OVERALL, "extreme")


@dataclass(frozen=True)
class Value:
    """A mean over seeds, a fraction, and their sample standard deviation where there are several.

    ``any_order`` says that it does not depend on the stream: the method keeps no state. ``interval`` is the bootstrap
    95 % interval over images of the mean over seeds, where it was asked for.
    """

    mean: float
    spread: float | None
    seeds: int
    any_order: bool
    interval: tuple[float, float] | None = None

    def in_percent(self) -> str:
        """As tables show it, such as ``81.4 ± 0.3 [78.2, 84.0]``."""
        parts = [percent(self.mean)]
        if self.spread is not None:
            parts.append(f"± {percent(self.spread)}")
        if self.interval is not None:
            parts.append(in_brackets(self.interval))
        return " ".join(parts)


def percent(fraction: float) -> str:
    """A fraction in percent, as tables show it."""
    return f"{100 * fraction:.1f}"


def in_brackets(interval: tuple[float, float]) -> str:
    """An interval in percent."""
    return f"[{', '.join(map(percent, interval))}]"


@dataclass(frozen=True)
class Column:
    """An OOD set, or the mean over several, whose name is then that of the group."""

    name: str
    role: str
    sets: tuple[str, ...]

    @property
    def is_mean(self) -> bool:
        """Whether it is the mean over a group."""
        return self.role == "mean"

    @property
    def title(self) -> str:
        """What stands above it."""
        return f"{self.name} (mean of {len(self.sets)})" if self.is_mean else self.name


@dataclass(frozen=True)
class Block:
    """One ID set and one order of the stream: a table with a row a method and a column an OOD set or group."""

    track: str
    order: str
    methods: tuple[str, ...]
    columns: tuple[Column, ...]
    values: dict[tuple[str, str, str], Value] = field(repr=False)

    def value(self, method: str, column: Column, metric: str) -> Value | None:
        """What was measured, or None where streams are missing."""
        return self.values.get((method, column.name if not column.is_mean else f"mean {column.name}", metric))

    def best(self, column: Column, metric: str) -> float | None:
        """The best mean of a column, rounded as tables show it."""
        found = [self.value(method, column, metric) for method in self.methods]
        means = [round(100 * value.mean, 1) for value in found if value is not None]
        return (max if metric == "AUROC" else min)(means, default=None)

    def is_best(self, method: str, column: Column, metric: str) -> bool:
        """Whether a method shows the best mean of a column; False where it is alone."""
        value = self.value(method, column, metric)
        return (
            value is not None
            and len(self.methods) > 1
            and round(100 * value.mean, 1) == self.best(column, metric)
        )


def summarise(
    folder: RunFolder, orders: Sequence[str] | None = None, *, intervals: bool = False
) -> list[Block]:
    """A block for each ID set and order, in the run's order.

    A method without state has the same figures in every order. Means over a group are taken seed by seed over its
    sets, as OpenOOD takes them, and then over seeds; one that lacks a set is left out.

    Args:
        folder: the run.
        orders: the orders that are wanted; None for all.
        intervals: values come with their bootstrap intervals, of `RESAMPLES` resamples that are the same for
            every method, order and seed; the streams are not run again.

    Raises:
        ValueError: the run has no cell yet, or none of an order that is wanted; damaged scores.
    """
    cells = cells_of(folder)
    orders = wanted_orders(folder, cells, orders)
    tracks = dict.fromkeys(cell.track for cell in cells)
    blocks = []
    for track in tracks:
        members = [cell for cell in cells if cell.track == track]
        samples = {}
        if intervals:
            wanted = [cell for cell in members if cell.order in (*orders, ANY_ORDER)]
            samples = resampled(folder, resamples_of(folder, members), wanted)
        blocks += [_block(members, track, order, samples) for order in orders]
    return blocks


def cells_of(folder: RunFolder) -> Sequence[Cell]:
    """The run's cells; ValueError where it has none yet."""
    cells = folder.cells()
    if not cells:
        raise ValueError(f"{folder.path} has no results yet")
    return cells


def wanted_orders(folder: RunFolder, cells: Sequence[Cell], orders: Sequence[str] | None) -> Sequence[str]:
    """Those orders, None for all that there are; ValueError where one is not there."""
    there = orders_of(folder, cells)
    missing = [order for order in orders or () if order not in there]
    if missing:
        hint = did_you_mean(missing[0], there)
        raise ValueError(f"{folder.path} has no order {', '.join(missing)}; it has {', '.join(there)}{hint}")
    return orders or there


def resamples_of(folder: RunFolder, cells: Iterable[Cell]) -> PairedResamples:
    """The resamples of an ID set and its OOD sets, given all of its cells: the same for the same sets."""
    of_each = {cell.ood: cell for cell in cells}
    return PairedResamples({ood: folder.sources(cell) for ood, cell in of_each.items()})


def resampled(folder: RunFolder, resamples: PairedResamples, cells: Iterable[Cell]) -> dict[Key, Floats]:
    """The metrics ``[RESAMPLES, 3]`` of each cell's resamples; every cell's scores are read once."""
    found = {}
    for cell in cells:
        scores = folder.scores(cell)
        stream = StreamScores(scores.id.astype(np.float64), scores.ood.astype(np.float64))
        found[cell.key] = resamples.metrics(cell.ood, stream)
    return found


def orders_of(folder: RunFolder, cells: Iterable[Cell]) -> tuple[str, ...]:
    """The orders that a run's streams came in; "any" alone where no method depends on it."""
    found = {cell.order for cell in cells} - {ANY_ORDER}
    asked = [order for order in folder.run["config"].get("orders", []) if order in found]
    return (*asked, *sorted(found - set(asked))) or (ANY_ORDER,)


def _block(cells: Sequence[Cell], track: str, order: str, samples: Mapping[Key, Floats]) -> Block:
    members = [cell for cell in cells if cell.order in (order, ANY_ORDER)]
    roles = {cell.ood: cell.role for cell in cells}
    columns = columns_of(roles)
    methods = tuple(dict.fromkeys(cell.method for cell in members))
    by_seed: dict[tuple[str, str], dict[int | None, Cell]] = {}
    for cell in members:
        by_seed.setdefault((cell.method, cell.ood), {})[cell.seed] = cell
    values = {}
    for method in methods:
        for column in columns:
            parts = [by_seed.get((method, name), {}) for name in column.sets]
            seeds = set.intersection(*(set(part) for part in parts))
            name = f"mean {column.name}" if column.is_mean else column.name
            found = [part[seed].key for part in parts for seed in seeds]
            means = mean_of_sets([samples[key] for key in found]) if samples and found else None
            for metric in HEADLINE if seeds else ():
                per_seed = [fmean(part[seed].metrics[metric] for part in parts) for seed in seeds]
                spread = stdev(per_seed) if len(per_seed) > 1 else None
                bounds = None if means is None else interval(means[:, HEADLINE.index(metric)])
                values[method, name, metric] = Value(
                    fmean(per_seed), spread, len(seeds), None in seeds, bounds
                )
    return Block(track, order, methods, columns, values)


def columns_of(roles: dict[str, str]) -> tuple[Column, ...]:
    """Of the OOD sets, given with their roles: the sets, near, far, overall (near and far) and extreme.

    A group that is all is called overall.
    """
    columns = [Column(name, role, (name,)) for name, role in roles.items()]
    headline = [name for name, role in roles.items() if role in _HEADLINE]
    for group in _GROUPS:
        members = headline if group == OVERALL else [name for name, role in roles.items() if role == group]
        if members and not (group in _HEADLINE and members == headline):
            columns.append(Column(group, "mean", tuple(members)))
    return tuple(columns)


def overall(columns: Sequence[Column]) -> Column:
    """The mean over all near and far sets; over all there are, or the only set, where there is no such mean."""
    means = [column for column in columns if column.is_mean]
    named = [column for column in means if column.name == OVERALL]
    return (named or means or list(columns))[0]


def headline(block: Block) -> list[Column]:
    """The columns of means that matter most: near, far and overall; the sets themselves where there is no mean."""
    means = [column for column in block.columns if column.is_mean and column.name != "extreme"]
    return means or list(block.columns)


def beside(split: str, block: Block, method: str, column: Column, metric: str) -> Published | None:
    """The figure in print for a cell of a table; those of methods without state stand in every order.

    A mean over some of the split's OOD sets has none.
    """
    if column.is_mean and not _is_whole(split, column):
        return None
    value = block.value(method, column, metric)
    order = ANY_ORDER if value is not None and value.any_order else block.order
    return published(split, method, column.name, metric, order)


def _is_whole(split: str, column: Column) -> bool:
    """Whether a mean is over all the OOD sets that the split has of its kind."""
    row = SPLITS.get(split)
    if row is None:
        return False
    groups = {"near": row.near, "far": row.far, OVERALL: (*row.near, *row.far)}
    return set(column.sets) == {source.name for source in groups.get(column.name, ())}
