"""The command: so many inputs in all areas, and a table of what came of them."""

from __future__ import annotations

import argparse
import faulthandler
import os
import sys
import time
import warnings
from collections.abc import Callable, Mapping, Sequence

os.environ.setdefault("OMP_NUM_THREADS", "1")

import hypothesis
import torch
from hypothesis import HealthCheck, Phase, given
from hypothesis import strategies as st
from hypothesis.strategies import DataObject
from tqdm import tqdm

from tanl.io.arguments import positive_number

from . import commands, detectors, files, labels
from .watch import Watch

AREAS: dict[str, Callable[[DataObject, Watch], None]] = {
    **detectors.AREAS,
    **labels.AREAS,
    **files.AREAS,
    **commands.AREAS,
}
_KINDS = ("uncaught", "changed", "broken", "hung")


def main(argv: Sequence[str] | None = None) -> int:
    """Run it and return the exit code: 1 if anything was uncaught, changed, broken or hung."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.fuzz",
        description="Hand in unusable input of every kind, and count what is not refused as it should be.",
    )
    parser.add_argument(
        "--examples", metavar="N", type=positive_number, default=100_000, help="in all (default: %(default)s)"
    )
    parser.add_argument("--seed", metavar="N", type=int, default=0, help="(default: %(default)s)")
    parser.add_argument(
        "--only", metavar="AREA", nargs="+", choices=tuple(AREAS), help="some rows of the table"
    )
    arguments = parser.parse_args(argv)
    chosen = arguments.only or list(AREAS)
    each = max(1, arguments.examples // len(chosen))
    begun = time.monotonic()
    watches = {}
    for name in tqdm(chosen, unit="area", disable=None):
        watches[name] = fuzzed(AREAS[name], each, arguments.seed)
    print(_table(watches))
    print(f"\n{each * len(chosen)} examples, seed {arguments.seed}, {time.monotonic() - begun:.0f} seconds.")
    for name, watch in watches.items():
        for (kind, where), count in watch.faults.most_common():
            print(f"{name}: {kind}, {count} times: {where}\n    {watch.examples[kind, where]:.600}")
    return 1 if any(watch.faults for watch in watches.values()) else 0


def fuzzed(area: Callable[[DataObject, Watch], None], examples: int, seed: int) -> Watch:
    """Hand so many inputs to an area."""
    watch = Watch()

    @hypothesis.seed(seed)
    @hypothesis.settings(
        max_examples=examples,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(st.data())
    def run(data: DataObject) -> None:
        area(data, watch)

    run()
    return watch


def _table(watches: Mapping[str, Watch]) -> str:
    heads = ["area", "accepted", "refused", *_KINDS]
    lines = [
        [name, str(watch.accepted), str(watch.refused), *(str(_count(watch, kind)) for kind in _KINDS)]
        for name, watch in watches.items()
    ]
    numbers = [[int(cell) for cell in line[1:]] for line in lines]
    lines.append(["all", *(str(sum(column)) for column in zip(*numbers, strict=True))])
    widths = [max(map(len, column)) for column in zip(heads, *lines, strict=True)]

    def row(cells: Sequence[str]) -> str:
        first, *others = cells
        right = [cell.rjust(width) for cell, width in zip(others, widths[1:], strict=True)]
        return "| " + " | ".join([first.ljust(widths[0]), *right]) + " |"

    rule = "| " + " | ".join(["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]) + " |"
    return "\n".join([row(heads), rule, *map(row, lines)])


def _count(watch: Watch, kind: str) -> int:
    return sum(count for (each, _), count in watch.faults.items() if each == kind)


if __name__ == "__main__":
    torch.set_num_threads(1)
    faulthandler.enable()  # a crash says where
    warnings.simplefilter("ignore")
    sys.exit(main())
