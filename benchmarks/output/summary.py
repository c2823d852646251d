"""A run's cells as tables: means and spreads over seeds, means over groups of OOD sets, and what to say under them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from statistics import fmean, stdev
from typing import Any

import numpy as np

from tanl.io.text import counted, did_you_mean, first_of
from tanl.metrics import HEADLINE

from ..data.splits import SPLITS
from ..engine.bootstrap import RESAMPLES, Floats, PairedResamples, interval, mean_of_sets
from ..engine.protocol import StreamScores
from ..engine.run_folder import ANY_ORDER, Cell, Key, RunFolder
from ..engine.tasks import PUBLISHED as PUBLISHED_PROTOCOL
from .published import (
    BACKBONE,
    OVERALL,
    PUBLISHED,
    TOLERANCE,
    Published,
    is_published_backbone,
    of_split,
    published,
)

MEANINGS = (
    "FPR95: share of ID images flagged when 95 % of OOD images are caught (OOD is the positive class, as in OpenOOD).",
    "FPR95_ID: share of OOD images accepted when 95 % of ID images are (ID is positive, as in MCM and NegLabel).",
)

INTERVALS = (
    f"In brackets bootstrap 95 % intervals over images: {RESAMPLES} resamples, the same for every method, order and "
    "seed, of the streams as they were measured."
)

_HEADLINE = ("near", "far", "ood")
_GROUPS = ("near", "far", OVERALL, "extreme")
_BATCH = 256
_NAMES_SHOWN = 5


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
    cells = folder.cells()
    if not cells:
        raise ValueError(f"{folder.path} has no results yet")
    there = orders_of(folder, cells)
    missing = [order for order in orders or () if order not in there]
    if missing:
        hint = did_you_mean(missing[0], there)
        raise ValueError(f"{folder.path} has no order {', '.join(missing)}; it has {', '.join(there)}{hint}")
    tracks = dict.fromkeys(cell.track for cell in cells)
    blocks = []
    for track in tracks:
        members = [cell for cell in cells if cell.track == track]
        resampled = _resampled(folder, members, orders or there) if intervals else {}
        blocks += [_block(members, track, order, resampled) for order in orders or there]
    return blocks


def wants_intervals(asked: bool, folders: Iterable[RunFolder]) -> bool:
    """Whether tables of these runs have intervals: where they are asked for, and where a split has few images."""
    splits = (SPLITS.get(str(folder.run["config"].get("split"))) for folder in folders)
    return asked or any(split is not None and split.few_images for split in splits)


def _resampled(folder: RunFolder, cells: Sequence[Cell], orders: Sequence[str]) -> dict[Key, Floats]:
    """The metrics of each cell's resamples; every cell's scores are read once."""
    of_each = {cell.ood: cell for cell in cells}
    resamples = PairedResamples({ood: folder.sources(cell) for ood, cell in of_each.items()})
    found = {}
    for cell in cells:
        if cell.order in (*orders, ANY_ORDER):
            scores = folder.scores(cell)
            stream = StreamScores(scores.id.astype(np.float64), scores.ood.astype(np.float64))
            found[cell.key] = resamples.metrics(cell.ood, stream)
    return found


def orders_of(folder: RunFolder, cells: Iterable[Cell]) -> tuple[str, ...]:
    """The orders that a run's streams came in; "any" alone where no method depends on it."""
    found = {cell.order for cell in cells} - {ANY_ORDER}
    asked = [order for order in folder.run["config"].get("orders", []) if order in found]
    return (*asked, *sorted(found - set(asked))) or (ANY_ORDER,)


def _block(cells: Sequence[Cell], track: str, order: str, resampled: Mapping[Key, Floats]) -> Block:
    members = [cell for cell in cells if cell.order in (order, ANY_ORDER)]
    roles = {cell.ood: cell.role for cell in cells}
    columns = _columns(roles)
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
            samples = mean_of_sets([resampled[key] for key in found]) if resampled and found else None
            for metric in HEADLINE if seeds else ():
                per_seed = [fmean(part[seed].metrics[metric] for part in parts) for seed in seeds]
                spread = stdev(per_seed) if len(per_seed) > 1 else None
                bounds = None if samples is None else interval(samples[:, HEADLINE.index(metric)])
                values[method, name, metric] = Value(
                    fmean(per_seed), spread, len(seeds), None in seeds, bounds
                )
    return Block(track, order, methods, columns, values)


def _columns(roles: dict[str, str]) -> tuple[Column, ...]:
    """The sets, then near, far, overall (near and far together) and extreme; a group that is all is called overall."""
    columns = [Column(name, role, (name,)) for name, role in roles.items()]
    headline = [name for name, role in roles.items() if role in _HEADLINE]
    for group in _GROUPS:
        members = headline if group == OVERALL else [name for name, role in roles.items() if role == group]
        if members and not (group in _HEADLINE and members == headline):
            columns.append(Column(group, "mean", tuple(members)))
    return tuple(columns)


def headline(block: Block) -> list[Column]:
    """The columns of means that matter most: near, far and overall; the sets themselves where there is no mean."""
    means = [column for column in block.columns if column.is_mean and column.name != "extreme"]
    return means or list(block.columns)


def caption(folder: RunFolder) -> str:
    """What was run, in a line."""
    config, environment = folder.run["config"], folder.run["environment"]
    seeds, orders = config.get("seeds", []), config.get("orders", [])
    split = SPLITS.get(str(config.get("split")))
    one_stream = split is not None and bool(split.drift)
    state = "the state kept from one OOD set to the next" if one_stream else "the state new for each OOD set"
    return (
        f"{config.get('split')}: backbone {environment.get('backbone', config.get('backbone'))}, "
        f"corpus {environment.get('corpus', config.get('corpus'))} with the removal {config.get('removal')!r}, "
        f"{config.get('preprocessing')} preprocessing, batches of {config.get('batch_size')}, "
        f"{counted(len(seeds), 'seed')} ({', '.join(map(str, seeds))}), "
        f"{counted(len(orders), 'order')} ({', '.join(orders)}), {state}"
    )


def notes(folder: RunFolder) -> list[str]:
    """What a reader of the figures must know: cut, augmented, miscounted and unfinished runs, unreadable images."""
    config = folder.run["config"]
    lines = []
    if config.get("limit"):
        lines.append(
            f"Limited to {config['limit']} images a set: a quick look, comparable with no other figures."
        )
    if config.get("augmented") or config.get("stream_length"):
        length = f" of {config['stream_length']} images" if config.get("stream_length") else ""
        lines.append(
            f"Augmented: the streams{length} were drawn from smaller sets by seeded augmentation; "
            "they are not the sets' own results. Intervals resample the sets' own images, each with its variants."
        )
    if config.get("only_ood"):
        lines.append(
            f"Of the split's OOD sets only {', '.join(config['only_ood'])}: means are over these alone."
        )
    if config.get("full_spectrum"):
        lines.append("Full spectrum: covariate-shifted images of the ID classes count as ID.")
    for method, reason in folder.run.get("left_out", {}).items():
        lines.append(f"{method} was not run: {reason}.")
    for part in folder.run["sets"]:
        name = _set_name(part)
        if _is_miscounted(part, config):
            count, expected = (f"{part[key]:,}".replace(",", " ") for key in ("count", "expected"))
            lines.append(f"{name}: {count} images, where the published set has {expected}.")
        unreadable = part.get("unreadable") or []
        if unreadable:
            some = f"{counted(len(unreadable), 'image')} left out, because unreadable"
            lines.append(f"{name}: {some}: {first_of(unreadable, _NAMES_SHOWN)}.")
    missing = _missing(folder)
    if missing:
        lines.append(f"Unfinished: {counted(missing, 'stream')} missing of those that were asked for.")
    return lines


def beside(split: str, block: Block, method: str, column: Column, metric: str) -> Published | None:
    """The figure in print for a cell of a table; those of methods without state stand in every order.

    A mean over some of the split's OOD sets has none.
    """
    if column.is_mean and not _is_whole(split, column):
        return None
    value = block.value(method, column, metric)
    order = ANY_ORDER if value is not None and value.any_order else block.order
    return published(split, method, column.name, metric, order)


def reproduction(folder: RunFolder, blocks: Sequence[Block]) -> list[str]:
    """Which figures in print this run reproduces and which it does not, plainly; pass it the blocks of all orders."""
    split = folder.run["config"].get("split", "")
    splits = list(dict.fromkeys(row.split for row in PUBLISHED))
    reasons = _not_comparable(folder)
    if reasons:
        return [
            f"This run reproduces no published figure ({'; '.join(reasons)}). "
            f"Not reproduced: all published figures of {', '.join(splits)}."
        ]
    measured: dict[Published, dict[str, Value]] = {}
    for block in blocks:
        for method, column, metric in product(block.methods, block.columns, HEADLINE):
            figure, value = beside(split, block, method, column, metric), block.value(method, column, metric)
            if figure is not None and value is not None:
                measured.setdefault(figure, {})[method] = value
    agreeing: list[str] = []
    differing: list[str] = []
    unmeasured: list[str] = []
    for row in of_split(split):
        what = f"{row.ood} {row.metric}" + ("" if row.order == "shuffled" else f" {row.order}")
        if row not in measured:
            unmeasured.append(f"{row.method} {what} {100 * row.value:.2f}")
        for method, value in measured.get(row, {}).items():
            near = abs(value.mean - row.value) <= TOLERANCE[split]
            found = f"{method} {what} {100 * value.mean:.1f} (published {100 * row.value:.2f})"
            (agreeing if near else differing).append(found)
    points = f"{100 * TOLERANCE[split]:.1f} points"
    elsewhere = [name for name in splits if name != split]
    return [
        f"Within {points} of print: {', '.join(agreeing) or 'none'}.",
        f"Not reproduced, further than {points} from print: {', '.join(differing) or 'none'}.",
        f"Not reproduced, because not measured in this run: {', '.join(unmeasured) or 'none'}.",
        f"Not reproduced, because of other splits: all published figures of {', '.join(elsewhere)}.",
    ]


def _not_comparable(folder: RunFolder) -> list[str]:
    """Why a run's figures cannot be held against those in print; empty where they can."""
    config = folder.run["config"]
    backbone = str(folder.run["environment"].get("backbone", config.get("backbone")))
    reasons = []
    if not of_split(config.get("split", "")):
        reasons.append(f"other images: none is published for the split {config.get('split')!r}")
    if not is_published_backbone(backbone):
        reasons.append(f"another backbone: {backbone}, not {BACKBONE}")
    for name, value in PUBLISHED_PROTOCOL.items():
        if config.get(name) != value:
            reasons.append(f"{name} {config.get(name)}, not {value} (run with --published)")
    if config.get("limit"):
        reasons.append("fewer images")
    if config.get("augmented") or config.get("stream_length"):
        reasons.append("augmented streams")
    if config.get("full_spectrum"):
        reasons.append("covariate-shifted images among the ID images")
    if config.get("labels"):
        reasons.append("class names of one's own")
    if any(part.get("unreadable") or _is_miscounted(part, config) for part in folder.run["sets"]):
        reasons.append("sets that are not whole")
    if config.get("batch_size") != _BATCH:
        reasons.append(f"batches of {config.get('batch_size')}, not {_BATCH}")
    return reasons


def _is_whole(split: str, column: Column) -> bool:
    """Whether a mean is over all the OOD sets that the split has of its kind."""
    row = SPLITS.get(split)
    if row is None:
        return False
    groups = {"near": row.near, "far": row.far, OVERALL: (*row.near, *row.far)}
    return set(column.sets) == {source.name for source in groups.get(column.name, ())}


def _is_miscounted(part: Mapping[str, Any], config: Mapping[str, Any]) -> bool:
    if config.get("limit") or config.get("stream_length") or part.get("expected") is None:
        return False
    return bool(part["count"] != part["expected"])


def _missing(folder: RunFolder) -> int:
    """How many streams the configuration asks for that have no cell yet."""
    config = folder.run["config"]
    there: dict[tuple[str, str, str], set[tuple[str, int | None]]] = {}
    for cell in folder.cells():
        there.setdefault((cell.track, cell.method, cell.ood), set()).add((cell.order, cell.seed))
    streamless = {method for (_, method, _), streams in there.items() if (ANY_ORDER, None) in streams}
    wanted = set(product(config.get("orders", []), config.get("seeds", [])))
    missing = 0
    for part in folder.run["sets"]:
        for method in config.get("methods", []) if part["role"] not in ("id", "covariate") else ():
            streams = there.get((part["track"], method, part["name"]), set())
            missing += len(({(ANY_ORDER, None)} if method in streamless else wanted) - streams)
    return missing


def _set_name(part: Mapping[str, Any]) -> str:
    return f"{part['track']}, {part['name']}" if part.get("track") else str(part["name"])
