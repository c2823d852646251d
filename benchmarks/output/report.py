"""``tanl bench report``: a run as one HTML page that needs nothing but itself."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from tanl.io.arguments import a_path
from tanl.io.atomic import write_whole
from tanl.io.pages import page

from ..engine.run_folder import RunFolder
from .remarks import wants_intervals
from .report_assets.charts import thousands
from .report_page import FOCUS, page_of
from .summary import in_brackets, percent
from .table import INTERVALS_HELP
from .targets import check_targets


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
        help=f"whose mistakes and labels are shown (default: {FOCUS}, or the first with negative labels)",
    )
    parser.add_argument("--intervals", action="store_true", help=INTERVALS_HELP)


def main(arguments: argparse.Namespace) -> int:
    """Write the page.

    Raises:
        ValueError: a run without results, an order or a method that it lacks, or a file that cannot be written.
        OSError: a folder that holds no run.
    """
    folder = RunFolder.open(arguments.run_folder)
    target: Path = arguments.out or arguments.run_folder / "report.html"
    check_targets(target)
    text = html_report(
        folder,
        arguments.orders,
        arguments.method,
        intervals=wants_intervals(arguments.intervals, [folder]),
        progress=True,
    )
    write_whole(target, text.encode())
    print(f"written: {target} ({len(text.encode()) / 1e6:.1f} MB)")
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
    return page(
        Path(__file__).parent / "report_assets",
        {"page": page_of(folder, orders, method, intervals=intervals, progress=progress)},
        filters={"percent": percent, "in_brackets": in_brackets, "thousands": thousands},
    )
