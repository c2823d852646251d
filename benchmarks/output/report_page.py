"""What stands on the report's page: a run's tables, charts, labels and pictures, before any markup."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean

import numpy as np

from tanl.io.progress import Progress
from tanl.io.text import counted, did_you_mean, valid_text
from tanl.metrics import HEADLINE

from ..engine.run_folder import ANY_ORDER, Cell, CellScores, RunFolder
from .remarks import INTERVALS, MEANINGS, caption, notes, reproduction
from .report_assets import charts
from .report_assets.charts import Chart, Line, thousands
from .report_assets.thumbnails import Thumbnails
from .summary import Block, Column, Value, beside, headline, in_brackets, orders_of, percent, summarise

FOCUS = "TANL (batch-adaptive)"
"""The method whose mistakes and labels are shown, where the run has it and no other is asked for."""

_MISTAKES = 12
_WORDS = 15
_WORDS_OF_OTHERS = 8
_PICTURES_BUDGET = 3_200_000
_FEW_SETS = 20
_OPEN_SETS = 2


@dataclass(frozen=True)
class TableCell:
    """FPR95, large; the other metrics and the figures in print below it, where these were looked for."""

    value: Value | None
    others: str = ""
    published: str = ""
    where: str = ""
    kind: str = ""


@dataclass(frozen=True)
class Table:
    """A row of cells a method, under columns of a title and what is below it."""

    label: str
    columns: Sequence[tuple[str, str]]
    rows: Sequence[tuple[str, Sequence[TableCell]]]


@dataclass(frozen=True)
class ByOrder:
    """FPR95 of the methods with a state in each order, and what it is the mean over."""

    over: str
    table: Table


@dataclass(frozen=True)
class Labels:
    """The negative labels that a method ranked first, with relevance and share of the strongest's; others' names."""

    method: str
    strongest: Sequence[tuple[str, float, float]]
    others: Sequence[tuple[str, Sequence[str]]]


@dataclass(frozen=True)
class Picture:
    """An image: its thumbnail's address, or what is said in its place."""

    path: str
    name: str
    score: str
    address: str | None
    missing: str


@dataclass(frozen=True)
class Pictures:
    """The worst mistakes of one kind, the worst first; None where the images are no files."""

    title: str
    kind: str
    items: Sequence[Picture] | None


@dataclass(frozen=True)
class OODSet:
    """One OOD set against its ID set, from one stream of every method."""

    name: str
    role: str
    num_id: int
    num_ood: int
    where: str
    figures: str
    is_open: bool
    histograms: Sequence[tuple[str, str, Chart]]
    roc: Chart
    course: Chart
    legend: Sequence[tuple[str, str]]
    labels: Labels | None
    mistakes: Sequence[Pictures]


@dataclass(frozen=True)
class Track:
    """One ID set in one order; its table where the summary has but its means."""

    anchor: str
    title: str
    link: str
    table: Table | None
    sets: Sequence[OODSet]


@dataclass(frozen=True)
class Page:
    """All of it, from the top to the bottom."""

    split: str
    what: str
    caption: str
    meanings: Sequence[str]
    notes: Sequence[str]
    summary: Sequence[tuple[str, Table]]
    sources: Sequence[str]
    by_order: ByOrder | None
    focus: str
    augmented: bool
    tracks: Sequence[Track]
    facts: Mapping[str, object]
    images: Sequence[str]
    refused: int


def page_of(
    folder: RunFolder,
    orders: Sequence[str] | None = None,
    method: str | None = None,
    *,
    intervals: bool = False,
    progress: bool = False,
) -> Page:
    """What stands on a run's page; the arguments are those of `tanl.benchmarks.output.report.html_report`.

    Raises:
        ValueError: the run has no results, or not of that order or method.
    """
    return _Maker(folder, orders, method, intervals).page(progress)


@dataclass(frozen=True)
class _Stream:
    """A method's cell with what its charts need; a method without state comes in the order of the others."""

    cell: Cell
    scores: CellScores
    positions: np.ndarray


class _Maker:
    def __init__(
        self, folder: RunFolder, orders: Sequence[str] | None, method: str | None, intervals: bool
    ) -> None:
        self.folder = folder
        self.intervals = intervals
        self.blocks = summarise(folder, intervals=intervals)
        self.cells = folder.cells()
        self.split = str(folder.run["config"].get("split", ""))
        there = orders_of(folder, self.cells)
        unknown = [order for order in orders or () if order not in there]
        if unknown:
            hint = did_you_mean(unknown[0], there)
            raise ValueError(
                f"{folder.path} has no order {', '.join(unknown)}; it has {', '.join(there)}{hint}"
            )
        self.orders = tuple(dict.fromkeys(orders or (["shuffled"] if "shuffled" in there else there[:1])))
        self.all_orders = there
        self.methods = tuple(dict.fromkeys(cell.method for cell in self.cells))
        self.focus = self._focus(method)
        # The method that the page is about has the first colour.
        series = [self.focus, *(name for name in self.methods if name != self.focus)]
        self.series = {name: number for number, name in enumerate(series)}
        self.tracks = tuple(dict.fromkeys(cell.track for cell in self.cells))
        num_sets = len({(cell.track, cell.ood) for cell in self.cells}) * len(self.orders)
        self.thumbnails = Thumbnails(size=96 if num_sets <= _FEW_SETS else 64, budget=_PICTURES_BUDGET)

    def _focus(self, method: str | None) -> str:
        if method is not None:
            if method not in self.methods:
                there = f"it has {', '.join(self.methods)}{did_you_mean(method, self.methods)}"
                raise ValueError(f"{self.folder.path} has no method {method!r}; {there}")
            return method
        with_labels = [cell.method for cell in self.cells if cell.activated]
        return next(iter([FOCUS] if FOCUS in self.methods else with_labels), self.methods[-1])

    def page(self, progress: bool) -> Page:
        run = self.folder.run
        sets = sum(len({cell.ood for cell in self.cells if cell.track == track}) for track in self.tracks)
        what = f"{counted(len(self.methods), 'method')} against {counted(sets, 'OOD set')}"
        with Progress(sets * len(self.orders), "charts", quiet=not progress) as bar:
            tracks = [self._track(track, order, bar) for order in self.orders for track in self.tracks]
        facts = {"command": run.get("command", ""), "started": run.get("created", "")}
        facts |= {"seconds": f"{run.get('seconds') or 0:.0f}", **run["environment"]}
        return Page(
            split=self.split,
            what=f"{what}, FPR95 and AUROC in percent",
            caption=caption(self.folder),
            meanings=[*MEANINGS, *([INTERVALS] if self.intervals else [])],
            notes=[*notes(self.folder), *reproduction(self.folder, self.blocks)],
            summary=[self._summary(order) for order in self.orders],
            sources=self._sources(),
            by_order=self._by_order(),
            focus=self.focus,
            augmented=bool(run["config"].get("augmented")),
            tracks=tracks,
            facts={name: value for name, value in facts.items() if value not in ("", None)},
            images=[
                f"{', '.join(filter(None, [part.get('track'), part['name']]))} ({part['role']}) "
                f"{thousands(part['count'])}"
                for part in run["sets"]
            ],
            refused=self.thumbnails.refused,
        )

    def _block(self, track: str, order: str) -> Block:
        return next(block for block in self.blocks if (block.track, block.order) == (track, order))

    def _summary(self, order: str) -> tuple[str, Table]:
        """A table of all means: of one ID set with all its columns, of several with a column for each."""
        heading = f"Order {order}" if order != ANY_ORDER else "Any order"
        if len(self.tracks) == 1:
            return heading, self._block_table(self._block(self.tracks[0], order))
        columns = []
        for track in self.tracks:
            block = self._block(track, order)
            column = headline(block)[-1]
            columns.append((track, f"mean of {len(column.sets)}", block, column))
        return heading, self._table(columns)

    def _sources(self) -> list[str]:
        """Where the published figures of the tables are from, and what they mean."""
        figures = [
            beside(self.split, block, method, column, metric)
            for block in self.blocks
            for method in self.methods
            for column in block.columns
            for metric in HEADLINE
        ]
        return list(dict.fromkeys(f"{each.metric}: {each.cited}" for each in figures if each is not None))

    def _block_table(self, block: Block) -> Table:
        # The means come first: of many columns the last ones are out of sight.
        columns = sorted(block.columns, key=lambda column: not column.is_mean)
        return self._table(
            [
                (column.name, f"mean of {len(column.sets)}" if column.is_mean else column.role, block, column)
                for column in columns
            ]
        )

    def _table(self, columns: Sequence[tuple[str, str, Block, Column]]) -> Table:
        rows = [
            (method, [self._cell(method, block, column) for _, _, block, column in columns])
            for method in self.methods
        ]
        return Table("Table of results", [(title, below) for title, below, _, _ in columns], rows)

    def _cell(self, method: str, block: Block, column: Column) -> TableCell:
        values = {metric: block.value(method, column, metric) for metric in HEADLINE}
        main = values.pop("FPR95")
        figures = [beside(self.split, block, method, column, metric) for metric in HEADLINE]
        known = [figure for figure in figures if figure is not None]
        shown = ["–" if figure is None else f"{100 * figure.value:.2f}" for figure in figures]
        best = block.is_best(method, column, "FPR95")
        return TableCell(
            main,
            " · ".join(map(_with_interval, values.values())),
            " · ".join(shown) if known else "",
            "; ".join(dict.fromkeys(figure.cited for figure in known)),
            "best" if best else "mean" if column.is_mean else "",
        )

    def _by_order(self) -> ByOrder | None:
        """What a method that learns from its stream fears; None where there is one order, or no such method."""
        stateful = [
            name for name in self.methods if any(c.order != ANY_ORDER for c in self.cells if c.method == name)
        ]
        if len(self.all_orders) < 2 or not stateful:
            return None
        over = "overall" if len(self.tracks) == 1 else f"mean over {len(self.tracks)} ID sets"
        rows = [(method, [self._cell_of(method, order) for order in self.all_orders]) for method in stateful]
        return ByOrder(over, Table("FPR95 by stream order", [(order, "") for order in self.all_orders], rows))

    def _cell_of(self, method: str, order: str) -> TableCell:
        """Of one ID set as the summary has it; of several the mean, which has neither spread nor figure in print."""
        blocks = [self._block(track, order) for track in self.tracks]
        values = [block.value(method, headline(block)[-1], "FPR95") for block in blocks]
        known = [value for value in values if value is not None]
        if len(known) < len(values):
            return TableCell(None)
        if len(known) > 1:
            return TableCell(Value(fmean(value.mean for value in known), None, known[0].seeds, False))
        figure = beside(self.split, blocks[0], method, headline(blocks[0])[-1], "FPR95")
        if figure is None:
            return TableCell(known[0])
        return TableCell(known[0], published=f"{100 * figure.value:.2f}", where=figure.source)

    def _track(self, track: str, order: str, bar: Progress) -> Track:
        block = self._block(track, order)
        id_name = " and ".join(str(part["name"]) for part in self._entries(track, ("id",)))
        name = track or id_name or self.split
        sets = [column for column in block.columns if not column.is_mean]
        few = len(sets) * len(self.tracks) * len(self.orders) <= _OPEN_SETS * 3
        is_first = track == self.tracks[0] and order == self.orders[0]
        parts = []
        for number, column in enumerate(sets):
            parts.append(self._set(block, column, few or (is_first and number == 0)))
            bar.update()
        return Track(
            f"t{self.tracks.index(track)}-{self.all_orders.index(order)}",
            f"ID set {name}" + (f", order {order}" if len(self.orders) > 1 or order != "shuffled" else ""),
            f"{name}, {order}" if len(self.orders) > 1 else name,
            self._block_table(block) if len(self.tracks) > 1 else None,
            parts,
        )

    def _set(self, block: Block, column: Column, is_open: bool) -> OODSet:
        ood, streams = column.name, self._streams(block, column.name)
        cell = streams[0].cell
        seeds = [stream.cell.seed for stream in streams if stream.cell.seed is not None]
        focus = next((stream for stream in streams if stream.cell.method == self.focus), None)
        best = min(streams, key=lambda stream: stream.cell.metrics["FPR95"]).cell
        shown = [] if focus is None else [f"{self.focus}: FPR95 {_shown(focus.cell, 'FPR95')}"]
        shown += [f"lowest: {best.method} {_shown(best, 'FPR95')}"] if best.method != self.focus else []
        roc, course = self._lines(streams)
        ends = ", ".join(f"{stream.cell.method} {_shown(stream.cell, 'FPR95')}" for stream in streams)
        return OODSet(
            name=ood,
            role=column.role,
            num_id=cell.num_id,
            num_ood=cell.num_ood,
            where=f"order {block.order}, seed {seeds[0]}" if seeds else "any order",
            figures="; ".join(shown),
            is_open=is_open,
            histograms=[self._histogram(stream, ood) for stream in streams],
            roc=charts.roc(roc, f"ROC curves against {ood}"),
            course=charts.stream(course, f"FPR95 over the stream against {ood}; at its end: {ends}"),
            legend=[(line.name, line.kind) for line in roc],
            labels=self._labels(streams),
            mistakes=[] if focus is None else self._mistakes(focus, block.track, ood),
        )

    def _streams(self, block: Block, ood: str) -> list[_Stream]:
        """One stream of every method: that of the first seed."""
        chosen: dict[str, Cell] = {}
        for cell in self.cells:
            if (cell.track, cell.ood) == (block.track, ood) and cell.order in (block.order, ANY_ORDER):
                chosen.setdefault(cell.method, cell)
        scores = {method: self.folder.scores(cell) for method, cell in chosen.items()}
        learned = [scores[method].positions for method, cell in chosen.items() if cell.order != ANY_ORDER]
        streams = []
        for method, cell in chosen.items():
            positions = scores[method].positions
            if cell.order == ANY_ORDER and learned and len(learned[0]) == len(positions):
                positions = learned[0]
            streams.append(_Stream(cell, scores[method], positions))
        return streams

    def _lines(self, streams: Sequence[_Stream]) -> tuple[list[Line], list[Line]]:
        """The ROC curves, and those of FPR95 over the stream."""
        roc: list[Line] = []
        course: list[Line] = []
        for stream in streams:
            name, scores = stream.cell.method, stream.scores
            line = Line(name, self.series[name], charts.roc_curve(scores.id, scores.ood), name == self.focus)
            seen = charts.stream_curve(scores.id, scores.ood, stream.positions)
            roc.append(line)
            course.append(replace(line, points=seen))
        return roc, course

    @staticmethod
    def _histogram(stream: _Stream, ood: str) -> tuple[str, str, Chart]:
        cell, scores = stream.cell, stream.scores
        numbers = f"FPR95 {_shown(cell, 'FPR95')} · AUROC {_shown(cell, 'AUROC')}"
        label = f"Scores of {cell.method}, ID against {ood}: {numbers}"
        return cell.method, numbers, charts.histogram(scores.id, scores.ood, label)

    def _labels(self, streams: Sequence[_Stream]) -> Labels | None:
        active = {stream.cell.method: stream.cell.activated for stream in streams if stream.cell.activated}
        if not active:
            return None
        main = self.focus if self.focus in active else next(iter(active))
        strongest = max(abs(value) for _, value in active[main][:_WORDS]) or 1
        return Labels(
            main,
            [(label, value, max(0, value / strongest)) for label, value in active[main][:_WORDS]],
            [
                (method, [label for label, _ in labels[:_WORDS_OF_OTHERS]])
                for method, labels in active.items()
                if method != main
            ],
        )

    def _mistakes(self, stream: _Stream, track: str, ood: str) -> list[Pictures]:
        id_sets, ood_sets = self._entries(track, ("id", "covariate")), self._entries(track, None, ood)
        found = []
        for title, kind, scores, entries, sign in (
            ("ID images that it takes for OOD most", "ID", stream.scores.id, id_sets, -1),
            ("OOD images that it takes for ID most", "OOD", stream.scores.ood, ood_sets, 1),
        ):
            paths = self._paths(entries, len(scores))
            worst = np.argsort(sign * scores, kind="stable")[:_MISTAKES].tolist()
            items = None if paths is None else [self._picture(paths[i], float(scores[i])) for i in worst]
            found.append(Pictures(title, kind, items))
        return found

    def _picture(self, path: Path, score: float) -> Picture:
        shown = valid_text(path.as_posix())
        address = self.thumbnails.get(path)
        missing = "no room" if self.thumbnails.refused else "no file"
        return Picture(shown, shown.rsplit("/", 1)[-1], f"{score:.3g}", address, missing)

    def _entries(
        self, track: str, roles: Sequence[str] | None, name: str | None = None
    ) -> list[dict[str, object]]:
        return [
            part
            for part in self.folder.run["sets"]
            if part.get("track", "") == track
            and (
                part["role"] in roles if roles is not None else part["name"] == name and part["role"] != "id"
            )
        ]

    def _paths(self, entries: Sequence[dict[str, object]], count: int) -> list[Path] | None:
        """The files that the scores are of; None where there are none, or other ones."""
        paths: list[Path] = []
        for entry in entries:
            files = self.folder.images(entry)
            if files is None:
                return None
            paths += files
        return paths[:count] if len(paths) >= count else None


def _shown(cell: Cell, metric: str) -> str:
    return percent(cell.metrics[metric])


def _with_interval(value: Value | None) -> str:
    if value is None:
        return "-"
    return percent(value.mean) + (f" {in_brackets(value.interval)}" if value.interval else "")
