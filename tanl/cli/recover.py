"""``tanl recover``: a results file of the rows that a killed run left."""

from __future__ import annotations

import argparse

from ..io.arguments import a_path
from ..io.text import shown_path
from ..streams.result_files import recover

_DESCRIPTION = """\
Make a results file of the rows of a `tanl judge --out NAME` that was killed, or met a full disk. Such a run leaves
them in NAME.*.partial beside its target; the file is taken away when its rows are in the results file."""

_EPILOG = """\
examples:
  tanl recover results.parquet.3f9c2a1b7d60.partial
  tanl recover results.parquet.3f9c2a1b7d60.partial --out elsewhere/results.csv

exit codes: 0 done; 1 done, but some lines were damaged; 2 a mistake in what was asked for."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the command's arguments."""
    parser.description = _DESCRIPTION
    parser.epilog = _EPILOG
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("partial", metavar="FILE", type=a_path, help="what the run left: NAME.*.partial")
    parser.add_argument(
        "--out",
        metavar="FILE",
        type=a_path,
        help="the .csv, .jsonl or .parquet file to write (default: the one that the run was to write)",
    )


def main(arguments: argparse.Namespace) -> int:
    """Carry the command out and return its exit code."""
    made = recover(arguments.partial, arguments.out)
    damaged = f"; {made.damaged} lines were damaged and are left out" if made.damaged else ""
    print(f"{shown_path(made.target)}: {made.rows} rows{damaged}")
    return 1 if made.damaged else 0
