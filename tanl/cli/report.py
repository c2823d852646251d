"""``tanl report``: look at results that were saved, as a table, as paths for other programs, or as one HTML page."""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from ..io.arguments import a_path, positive_number, whole_number
from ..io.atomic import write_whole
from ..io.progress import Progress
from ..io.text import first_of, one_line, shown_path
from .table import Table

if TYPE_CHECKING:
    from ..report.common import Common
    from ..streams.results import Result
    from ..streams.saved_results import SavedResults

_DESCRIPTION = """\
Look at results that `tanl judge --out` saved: a table on the terminal, the paths alone for other programs, or one
HTML page with a histogram whose threshold can be moved, the stream, groups of what the flagged images activate, and
a gallery. The page stands alone: thumbnails lie in it, and nothing is loaded from elsewhere."""

_EPILOG = """\
examples:
  tanl report results.parquet                          the flagged first
  tanl report results.parquet --out report.html        the page
  tanl report results.parquet --out report.html --describe
  tanl report results.parquet --only-ood --top 20
  tanl report results.parquet --only-ood --print0 | xargs -0 ls -l
  tanl report results.parquet --copy-ood flagged/      copies of the flagged images

exit codes: 0 done; 1 done, but some images could not be found or copied; 2 a mistake in what was asked for."""

_ORDERS: dict[str, Callable[[Result], tuple[float, str]]] = {
    "high": lambda row: (-row.verdict.ood_score if row.verdict else float("inf"), ""),
    "low": lambda row: (row.verdict.ood_score if row.verdict else float("inf"), ""),
    "stream": lambda row: (0.0, ""),
    "path": lambda row: (0.0, shown_path(row.path)),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the command's arguments."""
    parser.description = _DESCRIPTION
    parser.epilog = _EPILOG
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument(
        "results",
        metavar="RESULTS",
        type=a_path,
        help="a .parquet, .jsonl or .csv file of tanl judge --out, or the folder of --engine ray",
    )

    rows = parser.add_argument_group("which rows")
    rows.add_argument(
        "--sort",
        choices=tuple(_ORDERS),
        default="high",
        help="highest or lowest score first, the stream's order, or by path (default: %(default)s)",
    )
    rows.add_argument("--top", metavar="N", type=positive_number, help="only the first N rows of that order")
    rows.add_argument("--only-ood", action="store_true", help="only what was flagged")

    output = parser.add_argument_group("output")
    output.add_argument(
        "--print0", action="store_true", help="print paths alone, each ended by a NUL character"
    )
    output.add_argument(
        "--copy-ood",
        metavar="DIR",
        type=a_path,
        help="copy the flagged images into this folder, which must be new or empty",
    )
    output.add_argument(
        "--out", metavar="FILE", type=a_path, help="write the page of all rows here, as .html"
    )
    output.add_argument(
        "--root",
        metavar="DIR",
        type=a_path,
        help="where the relative paths of the results begin: the folder that tanl judge ran in (default: this one)",
    )
    output.add_argument(
        "--thumbnails",
        metavar="N",
        type=whole_number,
        default=2000,
        help="images to be seen in the page itself, about 5 kB each, those with the highest scores first; the others "
        "are shown from their files (default: %(default)s)",
    )
    output.add_argument(
        "--describe",
        action="store_true",
        help="say in words what the flagged images have in common: up to 200 of them, and as many that passed, are "
        "embedded again by the model that judged them",
    )
    output.add_argument(
        "--device", metavar="NAME", help="where that model runs: cpu, cuda, cuda:1, mps (default: cpu)"
    )
    output.add_argument("--quiet", action="store_true", help="no progress bars and no summary")


def main(arguments: argparse.Namespace) -> int:
    """Carry the command out and return its exit code."""
    from ..streams.saved_results import read_results

    page, folder = arguments.out, arguments.copy_ood
    if page is not None:
        _check_page(page)
    if page is not None or folder is not None:
        for option, is_given in (
            ("--print0", arguments.print0),
            ("--only-ood", arguments.only_ood),
            ("--top", arguments.top),
        ):
            if is_given:
                raise ValueError(
                    f"{option} is for the table; leave it out where --out or --copy-ood is given"
                )
    if arguments.describe and arguments.print0:
        raise ValueError("--print0 prints paths alone; leave --describe out")
    if arguments.device is not None and not arguments.describe:
        raise ValueError("--device is for --describe")
    results = read_results(arguments.results)
    if folder is not None:
        _check_copies(results, folder)
    common, missing = None, 0
    if arguments.describe:
        from .report_common import common as found_in_common

        _check_decided(results)
        common, missing = found_in_common(results, arguments.root, arguments.device or "cpu", arguments.quiet)
    if page is None and folder is None:
        _show(results, arguments)
    if folder is not None:
        missing += _copy(results, folder, arguments)
    if page is not None:
        missing += _write_page(results, page, common, arguments)
    elif common is not None:
        _show_common(common)
    return 1 if missing else 0


def _check_page(page: Path) -> None:
    if page.suffix.lower() not in (".html", ".htm"):
        raise ValueError(f"--out {page}: the report is an HTML page; name a file that ends in .html")
    if page.is_dir() or not page.parent.is_dir():
        what = "it is a folder" if page.is_dir() else f"there is no folder {page.parent}"
        raise ValueError(f"--out {page}: {what}")


def _check_copies(results: SavedResults, folder: Path) -> None:
    if results.key != "path":
        raise ValueError(f"--copy-ood copies images, and {shown_path(results.file)} is about embeddings")
    if folder.exists() and (not folder.is_dir() or next(folder.iterdir(), None) is not None):
        raise ValueError(f"--copy-ood {folder}: it is there and not an empty folder; name a new one")


def _show(results: SavedResults, arguments: argparse.Namespace) -> None:
    rows = sorted(results.rows, key=_ORDERS[arguments.sort])
    if arguments.only_ood:
        _check_decided(results)
        rows = [row for row in rows if row.outcome == "OOD"]
    rows = rows[: arguments.top]
    if arguments.print0:
        for row in rows:
            sys.stdout.write(f"{shown_path(row.path)}\0")
        return
    labels = [row.verdict.label for row in rows if row.verdict] or [""]
    longest = max((len(one_line(shown_path(row.path))) for row in rows), default=0)
    table = Table("file" if results.key == "path" else "id", longest, labels)
    if rows:
        print(table.header())
    for row in rows:
        print(table.row(row))
    if not arguments.quiet:
        from ..report.findings import background, finding

        print(f"{finding(results)}.", *background(results), sep="\n", file=sys.stderr)


def _check_decided(results: SavedResults) -> None:
    if any(row.outcome == "-" for row in results.rows):
        raise ValueError(
            f"{shown_path(results.file)} holds scores without verdicts, so nothing is flagged: judge again with "
            "--calibrate, or leave --only-ood, --copy-ood and --describe out"
        )


def _copy(results: SavedResults, folder: Path, arguments: argparse.Namespace) -> int:
    """Copy what was flagged under its own name, numbered where two have the same; gives how many could not be."""
    _check_decided(results)
    flagged = [row for row in results.rows if row.outcome == "OOD"]
    folder.mkdir(parents=True, exist_ok=True)
    failed: list[str] = []
    taken: set[str] = set()
    with Progress(len(flagged), "copied", quiet=arguments.quiet) as progress:
        for row in flagged:
            source = Path(row.path) if arguments.root is None else arguments.root / row.path
            copy = folder / _free_name(source, taken)
            try:
                shutil.copy2(source, copy)
            except OSError as error:
                with suppress(OSError):  # half a copy is none
                    copy.unlink(missing_ok=True)
                failed.append(f"{shown_path(source)} ({(error.strerror or str(error)).lower()})")
            progress.update(1)
    if failed:
        print(f"tanl: warning: not copied: {one_line(first_of(failed, 3))}", file=sys.stderr)
    if not arguments.quiet:
        print(f"{len(flagged) - len(failed)} of {len(flagged)} flagged images copied to {shown_path(folder)}")
    return len(failed)


def _free_name(source: Path, taken: set[str]) -> str:
    number, name = 1, source.name
    while name.casefold() in taken:
        number += 1
        name = f"{source.stem}-{number}{source.suffix}"
    taken.add(name.casefold())
    return name


def _show_common(common: Common) -> None:
    from ..report.common import TITLE

    print(f"\n{TITLE}\n{one_line(common.sentence)}")
    for word in common.shown:
        print(f"{100 * word.auroc:5.1f}%  p {word.p_value:.1g}  {one_line(word.text)}")


def _write_page(
    results: SavedResults, page: Path, common: Common | None, arguments: argparse.Namespace
) -> int:
    from ..report.page import report_page

    text, missing = report_page(
        results,
        common=common,
        beside=page.parent,
        root=arguments.root,
        thumbnails=arguments.thumbnails,
        quiet=arguments.quiet,
    )
    write_whole(page, text.encode())
    if missing:
        hint = "" if arguments.root else "; --root DIR says where their paths begin"
        print(
            f"tanl: warning: {missing} images were not found or cannot be read any more{hint}",
            file=sys.stderr,
        )
    if not arguments.quiet:
        print(f"{shown_path(page)}: {_size(len(text))}, {len(results.rows):,} rows")
    return missing


def _size(length: int) -> str:
    return f"{length / 1e6:.1f} MB" if length >= 1e6 else f"{length / 1e3:.0f} kB"
