"""``tanl bench table``: runs as Markdown, CSV or LaTeX, with the published figure beside each measured one."""

from __future__ import annotations

import argparse
import csv
import io
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from tanl.io.arguments import a_path
from tanl.io.atomic import write_whole
from tanl.metrics import HEADLINE

from ..engine.run_folder import RunFolder
from .brief import brief
from .gain import gain_markdown
from .markdown import escaped, pipes
from .published import of_split
from .remarks import INTERVALS, MEANINGS, caption, notes, reproduction, wants_intervals
from .summary import Block, Column, Value, beside, headline, summarise
from .targets import check_targets

_SPREAD = (
    "Percent; mean ± standard deviation over seeds where there are several. Means over sets as OpenOOD takes them: "
    "of each metric, every set alike."
)
_BESIDE = "In parentheses the published figure and its source, (-) where none is in print."
_NONE_IN_PRINT = "No figure is in print for this split."
INTERVALS_HELP = "bootstrap 95 %% intervals too, paired over methods (always for photographs)"
_LATEX = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "±": r"$\pm$",
}
_CSV_COLUMNS = (
    "run",
    "split",
    "backbone",
    "corpus",
    "removal",
    "preprocessing",
    "track",
    "order",
    "method",
    "ood",
    "role",
    "metric",
    "mean_percent",
    "spread_percent",
    "low_percent",
    "high_percent",
    "seeds",
    "published_percent",
    "published_source",
    "published_note",
    "published_needs",
    "remarks",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the command's options."""
    parser.add_argument(
        "runs", nargs="+", type=a_path, metavar="RUN", help="folder that `tanl bench run` wrote"
    )
    parser.add_argument(
        "--format",
        choices=tuple(_FORMATS),
        default="markdown",
        help="brief is Markdown with the means alone, in two short tables (default: %(default)s)",
    )
    parser.add_argument(
        "--out", type=a_path, metavar="FILE", help="where the table goes (default: the terminal)"
    )
    parser.add_argument(
        "--order",
        action="append",
        dest="orders",
        metavar="ORDER",
        help="only streams of this order; may be repeated",
    )
    parser.add_argument("--intervals", action="store_true", help=INTERVALS_HELP)
    parser.add_argument(
        "--over",
        metavar="METHOD",
        help="show instead what each method gains over this one, with paired bootstrap 95 %% intervals (Markdown)",
    )


def main(arguments: argparse.Namespace) -> int:
    """Write the tables.

    Raises:
        ValueError: a run without results or an order that it lacks, or a file that cannot be written.
        OSError: a folder that holds no run.
    """
    target: Path | None = arguments.out
    if arguments.over is not None and arguments.format != "markdown":
        raise ValueError(f"--over is shown as Markdown, not as {arguments.format}: leave --format out")
    check_targets(target)
    folders = [RunFolder.open(run) for run in arguments.runs]
    intervals = wants_intervals(arguments.intervals, folders)
    if arguments.over is not None:
        text = "\n".join(gain_markdown(folder, arguments.over, arguments.orders) for folder in folders)
    else:
        text = _FORMATS[arguments.format](folders, arguments.orders, intervals=intervals)
    if target is None:
        sys.stdout.write(text)
    else:
        write_whole(target, text.encode())
    return 0


def markdown(
    folders: Sequence[RunFolder], orders: Sequence[str] | None = None, *, intervals: bool = False
) -> str:
    """A table for each run, ID set and order: rows are methods for each metric, columns OOD sets and means."""
    parts = []
    for folder in folders:
        blocks, split = summarise(folder, orders, intervals=intervals), _split(folder)
        sources = _Sources()
        parts += [
            f"**{escaped(caption(folder))}**",
            f"{_SPREAD} {_BESIDE if of_split(split) else _NONE_IN_PRINT} The best of a column is bold.",
            " ".join([*MEANINGS, *([INTERVALS] if intervals else [])]),
        ]
        for block in blocks:
            head = ["metric", "method", *(escaped(column.title) for column in block.columns)]
            lines = [pipes(head), pipes(["---"] * 2 + ["---:"] * len(block.columns))]
            for metric in HEADLINE:
                for method in block.methods:
                    cells = []
                    for column in block.columns:
                        shown = _shown(block.value(method, column, metric))
                        if block.is_best(method, column, metric):
                            shown = f"**{shown}**"
                        cells.append(shown + sources.beside(split, block, method, column, metric))
                    lines.append(pipes([metric, escaped(method), *cells]))
            parts += [escaped(_title(block)), "\n".join(lines)]
        parts += [escaped(line) for line in [*sources.lines(), *_remarks(folder)]]
    return "\n\n".join(part for part in parts if part) + "\n"


def latex(
    folders: Sequence[RunFolder], orders: Sequence[str] | None = None, *, intervals: bool = False
) -> str:
    """The same as ``tabular`` environments that need no package, each line of remarks a paragraph."""
    parts = []
    for folder in folders:
        blocks, split = summarise(folder, orders, intervals=intervals), _split(folder)
        sources = _Sources()
        parts += [
            rf"\textbf{{{_latex(caption(folder))}}}",
            _latex(f"{_SPREAD} {_BESIDE if of_split(split) else _NONE_IN_PRINT}"),
            _latex(" ".join([*MEANINGS, *([INTERVALS] if intervals else [])])),
        ]
        for block in blocks:
            head = ["metric", "method", *(column.title for column in block.columns)]
            lines = [
                rf"\begin{{tabular}}{{ll{'r' * len(block.columns)}}}",
                r"\hline",
                _ampersands(map(_latex, head)),
            ]
            for metric in HEADLINE:
                lines.append(r"\hline")
                for method in block.methods:
                    cells = []
                    for column in block.columns:
                        shown = _latex(_shown(block.value(method, column, metric)))
                        if block.is_best(method, column, metric):
                            shown = rf"\textbf{{{shown}}}"
                        cells.append(shown + sources.beside(split, block, method, column, metric))
                    lines.append(_ampersands([_latex(metric), _latex(method), *cells]))
            lines += [r"\hline", r"\end{tabular}"]
            parts += [_latex(_title(block)), "\n".join(lines)]
        parts += [_latex(line) for line in [*sources.lines(), *_remarks(folder)]]
    return "\n\n".join(part for part in parts if part) + "\n"


def comma_separated(
    folders: Sequence[RunFolder], orders: Sequence[str] | None = None, *, intervals: bool = False
) -> str:
    """A row for each figure, for programs: percent with three decimals, and the remarks on its run in each row."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(_CSV_COLUMNS)
    for folder in folders:
        split, remarks = _split(folder), " ".join(_remarks(folder))
        config = folder.run["config"]
        backbone = folder.run["environment"].get("backbone", config.get("backbone"))
        for block in summarise(folder, orders, intervals=intervals):
            for method in block.methods:
                for column in block.columns:
                    for metric in HEADLINE:
                        value = block.value(method, column, metric)
                        if value is None:
                            continue
                        figure = beside(split, block, method, column, metric)
                        writer.writerow(
                            [
                                folder.path.name,
                                split,
                                backbone,
                                config.get("corpus"),
                                config.get("removal"),
                                config.get("preprocessing"),
                                block.track,
                                "any" if value.any_order else block.order,
                                method,
                                column.name,
                                column.role,
                                metric,
                                f"{100 * value.mean:.3f}",
                                "" if value.spread is None else f"{100 * value.spread:.3f}",
                                *(f"{100 * end:.3f}" for end in value.interval or ()),
                                *([""] * 2 if value.interval is None else []),
                                value.seeds,
                                "-" if figure is None else f"{100 * figure.value:.2f}",
                                "-" if figure is None else figure.source,
                                "" if figure is None else figure.note,
                                "" if figure is None else figure.needs,
                                remarks,
                            ]
                        )
    return text.getvalue()


def brief_markdown(
    folders: Sequence[RunFolder], orders: Sequence[str] | None = None, *, intervals: bool = False
) -> str:
    """Two short tables for each run: every method on every ID set, and in every order of the stream."""
    parts = []
    for folder in folders:
        parts += [
            f"**{escaped(caption(folder))}**",
            f"{' / '.join(HEADLINE)} in percent, means over seeds of the means over near and far OOD sets. "
            "The best of a column is bold.",
            " ".join([*MEANINGS, *([INTERVALS] if intervals else [])]),
        ]
        for title, (head, *rows) in brief(folder, orders, intervals=intervals):
            lines = [pipes([*map(escaped, head)]), pipes(["---"] * len(head))]
            lines += [pipes([escaped(method), *cells]) for method, *cells in rows]
            parts += [title, "\n".join(lines)]
        parts += [escaped(line) for line in _remarks(folder)]
    return "\n\n".join(parts) + "\n"


def text_table(folder: RunFolder, orders: Sequence[str] | None = None, *, intervals: bool = False) -> str:
    """A run's means for the terminal: a line a method for each ID set and order, percent."""
    blocks = summarise(folder, orders, intervals=intervals)
    lines = [caption(folder), "Percent, mean and standard deviation over seeds.", *MEANINGS]
    lines += [INTERVALS] if intervals else []
    for block in blocks:
        columns = headline(block)
        names = max(map(len, block.methods))
        cells = {
            (method, column.name, metric): _shown(block.value(method, column, metric))
            for method in block.methods
            for column in columns
            for metric in HEADLINE
        }
        width = max(map(len, [*cells.values(), *HEADLINE])) + 2
        lines += [
            "",
            _title(block),
            f"  {'':{names}}" + "".join(f"{column.title:>{width * len(HEADLINE)}}" for column in columns),
            f"  {'':{names}}" + "".join(f"{metric:>{width}}" for _ in columns for metric in HEADLINE),
        ]
        for method in block.methods:
            row = "".join(
                f"{cells[method, column.name, metric]:>{width}}" for column in columns for metric in HEADLINE
            )
            lines.append(f"  {method:{names}}{row}")
    return "\n".join([*lines, "", *_remarks(folder)]) + "\n"


class _Sources:
    """Numbers the sources in the order in which a table cites them."""

    def __init__(self) -> None:
        self._numbers: dict[str, int] = {}

    def beside(self, split: str, block: Block, method: str, column: Column, metric: str) -> str:
        """The figure in print with the number of its source, in parentheses; nothing where the split has none."""
        if not of_split(split):
            return ""
        figure = beside(split, block, method, column, metric)
        if figure is None:
            return " (-)"
        number = self._numbers.setdefault(figure.cited, len(self._numbers) + 1)
        return f" ({100 * figure.value:.2f} [{number}])"

    def lines(self) -> list[str]:
        """What each number stands for."""
        return [f"[{number}] {source}." for source, number in self._numbers.items()]


def _remarks(folder: RunFolder) -> list[str]:
    return [*notes(folder), *reproduction(folder, summarise(folder))]


def _split(folder: RunFolder) -> str:
    return str(folder.run["config"].get("split", ""))


def _title(block: Block) -> str:
    order = "no method depends on the order" if block.order == "any" else f"order {block.order}"
    return f"ID set {block.track}, {order}" if block.track else order[0].upper() + order[1:]


def _shown(value: Value | None) -> str:
    return "not run" if value is None else value.in_percent()


def _latex(text: str) -> str:
    return "".join(_LATEX.get(letter, letter) for letter in " ".join(text.split()))


def _ampersands(cells: Sequence[str] | map[str]) -> str:
    return " & ".join(cells) + r" \\"


class _Format(Protocol):
    def __call__(
        self, folders: Sequence[RunFolder], orders: Sequence[str] | None = None, *, intervals: bool = False
    ) -> str: ...


_FORMATS: dict[str, _Format] = {
    "markdown": markdown,
    "csv": comma_separated,
    "latex": latex,
    "brief": brief_markdown,
}
