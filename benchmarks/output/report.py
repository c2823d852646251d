"""``tanl bench report``: a run as one HTML page that needs nothing but itself."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
from tqdm import tqdm

from tanl.io.arguments import a_path
from tanl.io.atomic import write_whole
from tanl.io.text import did_you_mean

from ..engine.run_folder import ANY_ORDER, Cell, CellScores, RunFolder
from .report_assets import charts
from .report_assets.charts import Line, thousands
from .report_assets.style import CSS, SCRIPT
from .report_assets.thumbnails import Thumbnails
from .summary import (
    INTERVALS,
    MEANINGS,
    METRICS,
    Block,
    Column,
    Value,
    beside,
    caption,
    headline,
    in_brackets,
    notes,
    orders_of,
    reproduction,
    summarise,
    wants_intervals,
)
from .table import INTERVALS_HELP
from .targets import check_targets

_FOCUS = "TANL (batch-adaptive)"
_MISTAKES = 12
_WORDS = 15
_WORDS_OF_OTHERS = 8
_PICTURES_BUDGET = 3_200_000
_FEW_SETS = 20
_OPEN_SETS = 2


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the command's options."""
    parser.add_argument("run_folder", type=a_path, metavar="RUN", help="folder that `tanl bench run` wrote")
    parser.add_argument(
        "--out",
        type=a_path,
        metavar="FILE",
        help="where the page goes (default: report.html in the run's folder)",
    )
    parser.add_argument(
        "--order",
        action="append",
        dest="orders",
        metavar="ORDER",
        help="draw the streams of this order; may be repeated (default: shuffled, or the run's first)",
    )
    parser.add_argument(
        "--method",
        metavar="NAME",
        help=f"whose mistakes and labels are shown (default: {_FOCUS}, or the first with negative labels)",
    )
    parser.add_argument("--intervals", action="store_true", help=INTERVALS_HELP)


def main(arguments: argparse.Namespace) -> int:
    """Write the page.

    Raises:
        ValueError: a run without results, an order or a method that it lacks, or a file that cannot be written.
        OSError: a folder that holds no run.
    """
    target: Path = arguments.out or arguments.run_folder / "report.html"
    check_targets(target)
    folder = RunFolder.open(arguments.run_folder)
    page = html_report(
        folder,
        arguments.orders,
        arguments.method,
        intervals=wants_intervals(arguments.intervals, [folder]),
        progress=sys.stderr.isatty(),
    )
    write_whole(target, page.encode())
    print(f"written: {target} ({len(page.encode()) / 1e6:.1f} MB)")
    return 0


def html_report(
    folder: RunFolder,
    orders: Sequence[str] | None = None,
    method: str | None = None,
    *,
    intervals: bool = False,
    progress: bool = False,
) -> str:
    """The page.

    Args:
        folder: the run.
        orders: whose streams are drawn; by default the shuffled ones, or those of the run's first order.
        method: whose mistakes and activated labels are shown.
        intervals: tables have bootstrap intervals too.
        progress: show a progress bar.

    Raises:
        ValueError: the run has no results, or not of that order or method.
    """
    return _Page(folder, orders, method, intervals).html(progress)


@dataclass(frozen=True)
class _Stream:
    """A method's cell with what its charts need; a method without state comes in the order of the others."""

    cell: Cell
    scores: CellScores
    positions: np.ndarray


class _Page:
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
        return next(iter([_FOCUS] if _FOCUS in self.methods else with_labels), self.methods[-1])

    def html(self, progress: bool) -> str:
        """The whole page."""
        sets = sum(len({cell.ood for cell in self.cells if cell.track == track}) for track in self.tracks)
        what = f"{_counted(len(self.methods), 'method')} against {_counted(sets, 'OOD set')}"
        title = f"{self.split}: {what}, FPR95 and AUROC in percent"
        body = [
            f"<header><h1><span>{escape(self.split)}:</span>{escape(title.removeprefix(f'{self.split}:'))}</h1>",
            f'<p class="lead">{escape(caption(self.folder))}.</p>',
            *(
                f'<p class="meaning">{escape(line)}</p>'
                for line in (*MEANINGS, *([INTERVALS] if self.intervals else []))
            ),
            self._notes(),
            self._navigation(),
            "</header><main>",
            self._summary(),
            self._by_order(),
        ]
        bar: tqdm[Any] = tqdm(total=sets * len(self.orders), desc="charts", disable=not progress)
        for order in self.orders:
            for track in self.tracks:
                body += self._track(track, order, bar)
        bar.close()
        body += ["</main>", self._footer()]
        return (
            '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
            '<meta name="viewport" content="width=device-width, initial-scale=1">'
            f"<title>{escape(title)}</title><style>{CSS}</style></head>\n<body>"
            + "\n".join(body)
            + f"<script>{SCRIPT}</script></body></html>\n"
        )

    def _notes(self) -> str:
        lines = [*notes(self.folder), *reproduction(self.folder, self.blocks)]
        items = "".join(f"<li>{escape(line)}</li>" for line in lines)
        return f'<aside class="notes" aria-label="What to know about this run"><ul>{items}</ul></aside>'

    def _navigation(self) -> str:
        links = [("summary", "summary")]
        if len(self.all_orders) > 1:
            links.append(("orders", "stream orders"))
        links += [
            (self._anchor(track, order), self._track_title(track, order))
            for order in self.orders
            for track in self.tracks
        ]
        links.append(("run", "how it was run"))
        return (
            '<nav aria-label="Sections">'
            + "".join(f'<a href="#{anchor}">{escape(title)}</a>' for anchor, title in links)
            + "</nav>"
        )

    def _anchor(self, track: str, order: str) -> str:
        return f"t{self.tracks.index(track)}-{self.all_orders.index(order)}"

    def _track_title(self, track: str, order: str) -> str:
        parts = [track or self._id_name(track)]
        return ", ".join([*parts, order] if len(self.orders) > 1 else parts)

    def _id_name(self, track: str) -> str:
        names = [str(part["name"]) for part in self._entries(track, ("id",))]
        return " and ".join(names) or self.split

    def _block(self, track: str, order: str) -> Block:
        return next(block for block in self.blocks if (block.track, block.order) == (track, order))

    def _summary(self) -> str:
        """Tables of all means: of one ID set with all its columns, of several with a column for each."""
        parts = ['<section id="summary"><h2>Summary</h2>']
        parts.append(
            '<p class="soft">Large: FPR95, with the standard deviation over seeds where there are several; below it '
            "FPR95_ID · AUROC, and the published figures of the three. A star marks the lowest FPR95 of a column.</p>"
        )
        for order in self.orders:
            heading = f"Order {order}" if order != ANY_ORDER else "Any order"
            parts.append(f"<h3>{escape(heading)}</h3>")
            if len(self.tracks) == 1:
                parts.append(self._block_table(self._block(self.tracks[0], order)))
                continue
            columns: list[tuple[str, str, Block, Column]] = []
            for track in self.tracks:
                block = self._block(track, order)
                column = headline(block)[-1]
                columns.append((track, f"mean of {len(column.sets)}", block, column))
            parts.append(self._table(columns))
        sources = self._sources()
        if sources:
            parts.append(f'<p class="meaning">Published: {escape("; ".join(sources))}.</p>')
        return "".join(parts) + "</section>"

    def _sources(self) -> list[str]:
        """Where the published figures of the tables are from, and what they mean."""
        figures = [
            beside(self.split, block, method, column, metric)
            for block in self.blocks
            for method in self.methods
            for column in block.columns
            for metric in METRICS
        ]
        return list(
            dict.fromkeys(
                f"{figure.metric}: {figure.source}" + (f" ({figure.note})" if figure.note else "")
                for figure in figures
                if figure is not None
            )
        )

    def _block_table(self, block: Block) -> str:
        # The means come first: of many columns the last ones are out of sight.
        columns = sorted(block.columns, key=lambda column: not column.is_mean)
        return self._table(
            [
                (column.name, f"mean of {len(column.sets)}" if column.is_mean else column.role, block, column)
                for column in columns
            ]
        )

    def _table(self, columns: Sequence[tuple[str, str, Block, Column]]) -> str:
        head = "".join(
            f'<th scope="col">{escape(title)}<small>{escape(below)}</small></th>'
            for title, below, _, _ in columns
        )
        rows = []
        for method in self.methods:
            cells = "".join(self._table_cell(method, block, column) for _, _, block, column in columns)
            rows.append(f'<tr><th scope="row">{escape(method)}</th>{cells}</tr>')
        return (
            '<div class="scroll" tabindex="0" role="region" aria-label="Table of results"><table>'
            f'<thead><tr><th scope="col">method</th>{head}</tr></thead><tbody>{"".join(rows)}</tbody></table></div>'
        )

    def _table_cell(self, method: str, block: Block, column: Column) -> str:
        main, *others = (block.value(method, column, metric) for metric in METRICS)
        if main is None:
            return "<td><span>not run</span></td>"
        kinds = ["best"] if block.is_best(method, column, "FPR95") else ["mean"] if column.is_mean else []
        figures = [beside(self.split, block, method, column, metric) for metric in METRICS]
        text = f"<b>{100 * main.mean:.1f}</b>{_spread(main)}"
        text += f"<span>{' · '.join(_percent(value) for value in others)}</span>"
        if any(figures):
            shown = " · ".join("–" if figure is None else f"{100 * figure.value:.2f}" for figure in figures)
            where = "; ".join(
                dict.fromkeys(
                    f"{figure.source}{f' ({figure.note})' if figure.note else ''}"
                    for figure in figures
                    if figure
                )
            )
            text += f'<span title="{escape(where)}">published {shown}</span>'
        return f"<td{_class(kinds)}>{text}</td>"

    def _by_order(self) -> str:
        """FPR95 of the methods with a state in each order: what a method that learns from its stream fears."""
        stateful = [
            name for name in self.methods if any(c.order != ANY_ORDER for c in self.cells if c.method == name)
        ]
        if len(self.all_orders) < 2 or not stateful:
            return ""
        over = "overall" if len(self.tracks) == 1 else f"mean over {len(self.tracks)} ID sets"
        rows = []
        for method in stateful:
            cells = []
            for order in self.all_orders:
                blocks = [self._block(track, order) for track in self.tracks]
                values = [block.value(method, headline(block)[-1], "FPR95") for block in blocks]
                known = [value.mean for value in values if value is not None]
                whole = len(known) == len(values)
                text = f"<b>{100 * fmean(known):.1f}</b>" if whole else "<span>not run</span>"
                if whole and len(values) == 1 and values[0] is not None:
                    text += _spread(values[0])
                    figure = beside(self.split, blocks[0], method, headline(blocks[0])[-1], "FPR95")
                    if figure is not None:
                        text += (
                            f'<span title="{escape(figure.source)}">published {100 * figure.value:.2f}</span>'
                        )
                cells.append(f"<td>{text}</td>")
            rows.append(f'<tr><th scope="row">{escape(method)}</th>{"".join(cells)}</tr>')
        head = "".join(f'<th scope="col">{escape(order)}</th>' for order in self.all_orders)
        return (
            f'<section id="orders"><h2>Stream orders</h2><p class="soft">FPR95, {escape(over)}, of the methods that '
            "learn from the stream, in each order in which it came. The others do not depend on it.</p>"
            '<div class="scroll" tabindex="0" role="region" aria-label="FPR95 by stream order"><table>'
            f'<thead><tr><th scope="col">method</th>{head}</tr></thead><tbody>{"".join(rows)}</tbody></table></div>'
            "</section>"
        )

    def _track(self, track: str, order: str, bar: tqdm[Any]) -> Iterator[str]:
        block = self._block(track, order)
        several = len(self.orders) > 1 or order != "shuffled"
        title = f"ID set {track or self._id_name(track)}" + (f", order {order}" if several else "")
        yield f'<section id="{self._anchor(track, order)}"><h2>{escape(title)}</h2>'
        if len(self.tracks) > 1:
            yield self._block_table(block)
        yield (
            '<p class="soft">Each OOD set below: scores, curves, activated labels and the worst mistakes of '
            f"{escape(self.focus)}, from one stream.</p>"
        )
        sets = [column for column in block.columns if not column.is_mean]
        few = len(sets) * len(self.tracks) * len(self.orders) <= _OPEN_SETS * 3
        for number, column in enumerate(sets):
            is_open = few or (number == 0 and track == self.tracks[0] and order == self.orders[0])
            yield self._set(block, column, is_open)
            bar.update()
        yield "</section>"

    def _set(self, block: Block, column: Column, is_open: bool) -> str:
        streams = self._streams(block, column.name)
        cell = streams[0].cell
        seeds = [stream.cell.seed for stream in streams if stream.cell.seed is not None]
        where = f"order {block.order}, seed {seeds[0]}" if seeds else "any order"
        focus = next((stream for stream in streams if stream.cell.method == self.focus), None)
        shown = "" if focus is None else f"{self.focus}: FPR95 {_plain(focus.cell, 'FPR95')}"
        best = min(streams, key=lambda stream: stream.cell.metrics["FPR95"]).cell
        if best.method != self.focus:
            shown += f"; lowest: {best.method} {_plain(best, 'FPR95')}"
        parts = [
            f'<details class="set"{" open" if is_open else ""}><summary><span class="name">{escape(column.name)}</span>'
            f'<span class="role">{escape(column.role)}</span><span class="soft">{thousands(cell.num_id)} ID, '
            f'{thousands(cell.num_ood)} OOD images</span><span class="figures">{escape(shown.removeprefix("; "))}'
            '</span></summary><div class="inside">',
            self._histograms(streams, column.name, where),
            self._curves(streams, column.name, where),
            self._labels(streams, column.name),
            self._gallery(focus, block.track, column.name),
            "</div></details>",
        ]
        return "".join(parts)

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

    def _histograms(self, streams: Sequence[_Stream], ood: str, where: str) -> str:
        figures = []
        for stream in streams:
            cell, scores = stream.cell, stream.scores
            numbers = f"FPR95 {_plain(cell, 'FPR95')} · AUROC {_plain(cell, 'AUROC')}"
            label = f"Scores of {cell.method}, ID against {ood}: {numbers}"
            figures.append(
                f"<figure><figcaption><b>{escape(cell.method)}</b><span>{numbers}</span></figcaption>"
                f"{charts.histogram(scores.id, scores.ood, label)}</figure>"
            )
        return (
            '<section><h3>Scores: <span class="key id"></span>ID against <span class="key ood"></span>OOD</h3>'
            '<p class="soft">Right is more OOD. Heights are square roots of shares, so that small tails show; the '
            f"dashed line catches 95 % of OOD ({escape(where)}).</p>"
            f'<div class="grid">{"".join(figures)}</div></section>'
        )

    def _curves(self, streams: Sequence[_Stream], ood: str, where: str) -> str:
        roc, course, legend = [], [], []
        for stream in streams:
            name, scores = stream.cell.method, stream.scores
            series, bold = self.series[name], name == self.focus
            roc.append(Line(name, series, charts.roc_curve(scores.id, scores.ood), bold))
            course.append(
                Line(name, series, charts.stream_curve(scores.id, scores.ood, stream.positions), bold)
            )
            legend.append(f"<li>{charts.swatch(series, bold)}{escape(name)}</li>")
        ends = ", ".join(f"{stream.cell.method} {_plain(stream.cell, 'FPR95')}" for stream in streams)
        drawn = any(line.points for line in course)
        chart = charts.stream(course, f"FPR95 over the stream against {ood}; at its end: {ends}")
        return (
            f'<section><div class="pair"><figure><figcaption><b>ROC</b> <span>dashed: 95 % of OOD caught, 5 % of ID '
            f"flagged</span></figcaption>{charts.roc(roc, f'ROC curves against {ood}')}</figure>"
            f"<figure><figcaption><b>FPR95 over the course of the stream</b> <span>{escape(where)}</span></figcaption>"
            f'{chart if drawn else "<p>Too few images for a curve.</p>"}</figure></div><ul class="legend">'
            f"{''.join(legend)}</ul></section>"
        )

    def _labels(self, streams: Sequence[_Stream], ood: str) -> str:
        active = {stream.cell.method: stream.cell.activated for stream in streams if stream.cell.activated}
        heading = f"<section><h3>Negative labels that {escape(ood)} activated</h3>"
        if not active:
            return heading + '<p class="soft">No method of this run has kept any.</p></section>'
        main = self.focus if self.focus in active else next(iter(active))
        strongest = max(abs(value) for _, value in active[main][:_WORDS]) or 1
        words = "".join(
            f'<li style="--share:{max(0, 100 * value / strongest):.0f}%"><span>{escape(label)}</span>'
            f'<data value="{value:.6g}">{value:.2g}</data></li>'
            for label, value in active[main][:_WORDS]
        )
        others = "".join(
            f'<p class="others"><b>{escape(method)}:</b> '
            f"{escape(', '.join(label for label, _ in labels[:_WORDS_OF_OTHERS]))}</p>"
            for method, labels in active.items()
            if method != main
        )
        meaning = ": mean activation on confident OOD images less that on confident ID images"
        return (
            f'{heading}<p class="soft">{escape(main)} at the end of its stream, with their relevance'
            f'{meaning if main.startswith("TANL") else ""}.</p><ol class="words">{words}</ol>{others}</section>'
        )

    def _gallery(self, stream: _Stream | None, track: str, ood: str) -> str:
        heading = f"<section><h3>Worst mistakes of {escape(self.focus)}</h3>"
        if stream is None:
            return heading + '<p class="soft">It was not run on this set.</p></section>'
        parts = [heading]
        if self.folder.run["config"].get("augmented"):
            parts.append(
                '<p class="soft">Of an augmented image, the picture that it was made from is shown.</p>'
            )
        id_sets, ood_sets = self._entries(track, ("id", "covariate")), self._entries(track, None, ood)
        for title, kind, scores, entries, sign in (
            ("ID images that it takes for OOD most", "ID", stream.scores.id, id_sets, -1),
            ("OOD images that it takes for ID most", "OOD", stream.scores.ood, ood_sets, 1),
        ):
            paths = self._paths(entries, len(scores))
            parts.append(f'<p class="soft">{title}</p>')
            if paths is None:
                parts.append(
                    "<p>No pictures: the images of this set are no files, or were made while it ran.</p>"
                )
                continue
            worst = np.argsort(sign * scores, kind="stable")[:_MISTAKES].tolist()
            items = "".join(self._picture(paths[index], float(scores[index]), kind) for index in worst)
            parts.append(f'<ul class="gallery">{items}</ul>')
        return "".join(parts) + "</section>"

    def _picture(self, path: Path, score: float, kind: str) -> str:
        shown = path.as_posix().encode("utf-8", "backslashreplace").decode()
        name = shown.rsplit("/", 1)[-1]
        address = self.thumbnails.get(path)
        if address is None:
            picture = f'<div class="none">{"no room" if self.thumbnails.refused else "no file"}</div>'
        else:
            alt = f"{kind} image {name}, OOD score {score:.3g}"
            picture = f'<img src="{address}" alt="{escape(alt)}" loading="lazy">'
        return f'<li>{picture}<b>{score:.3g}</b><span title="{escape(shown)}">{escape(name)}</span></li>'

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

    def _footer(self) -> str:
        run = self.folder.run
        facts = {"command": run.get("command", ""), "started": run.get("created", "")}
        facts |= {"seconds": f"{run.get('seconds') or 0:.0f}", **run["environment"]}
        rows = "".join(
            f'<tr><th scope="row">{escape(str(name))}</th><td>'
            f"{f'<code>{escape(str(value))}</code>' if name == 'command' else escape(str(value))}</td></tr>"
            for name, value in facts.items()
            if value not in ("", None)
        )
        counts = "; ".join(
            f"{', '.join(filter(None, [part.get('track'), part['name']]))} ({part['role']}) {thousands(part['count'])}"
            for part in run["sets"]
        )
        left_out = (
            f"<p>{self.thumbnails.refused} pictures were left out, to keep the page small.</p>"
            if self.thumbnails.refused
            else ""
        )
        return (
            '<footer id="run"><h2>How it was run</h2><div class="scroll"><table class="facts"><tbody>'
            f"{rows}</tbody></table></div><p>Images: {escape(counts)}.</p>{left_out}</footer>"
        )


def _spread(value: Value) -> str:
    parts = [] if value.spread is None else [f"± {100 * value.spread:.1f}"]
    parts += [] if value.interval is None else [in_brackets(value.interval)]
    return f' <small class="pm">{" ".join(parts)}</small>' if parts else ""


def _percent(value: Value | None) -> str:
    if value is None:
        return "-"
    return f"{100 * value.mean:.1f}" + (f" {in_brackets(value.interval)}" if value.interval else "")


def _plain(cell: Cell, metric: str) -> str:
    return f"{100 * cell.metrics[metric]:.1f}"


def _class(kinds: Sequence[str]) -> str:
    return f' class="{" ".join(kinds)}"' if kinds else ""


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}" + ("" if count == 1 else "s")
