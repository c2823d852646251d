"""The command: rounds over every target, and a table of what was found."""

from __future__ import annotations

import argparse
import os
import random
import shutil
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch: a fork inherits no threads

import torch
from tqdm import tqdm

from tanl.io.arguments import positive_number

from .processes import Disk, Process, killed, small_disk
from .targets import TARGETS, TOGETHER, Found, Target

_COLUMNS = ("ends", "lost", "doubled", "wrong", "unloadable", "failed")
_TRIES = 10  # rounds a kill: what is killed too late, or fits on the disk, counts for nothing
_HEADS = {"ends": "kills", "wrong": "silently wrong"}


def main(argv: Sequence[str] | None = None) -> int:
    """Run it and return the exit code: 1 if anything was lost, doubled, wrong, unloadable or failed."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.chaos",
        description="Kill processes at any moment while they write, let two write at once, fill disks, and count "
        "what is then lost, doubled, silently wrong or unloadable.",
    )
    parser.add_argument(
        "--kills",
        metavar="N",
        type=positive_number,
        default=500,
        help="in all, over all targets alike (default: %(default)s)",
    )
    parser.add_argument(
        "--seed", metavar="N", type=int, default=0, help="of the moments (default: %(default)s)"
    )
    parser.add_argument(
        "--only", metavar="TARGET", nargs="+", choices=tuple(_targets(None)), help="some rows of the table"
    )
    arguments = parser.parse_args(argv)
    torch.set_num_threads(1)
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))  # what is mounted must go
    with TemporaryDirectory(prefix="tanl-chaos-") as name, small_disk(Path(name) / "disk") as disk:
        found = _all(arguments, Path(name), disk)
    print(_table(found))
    print(f'\n"disk full" counts full disks in place of kills: {disk.what}.')
    for title, each in found.items():
        for note in each.notes:
            print(f"{title}: {note}")
    return 1 if any(each.faults for each in found.values()) else 0


def _all(arguments: argparse.Namespace, folder: Path, disk: Disk) -> dict[str, Found]:
    shared = folder / "shared"
    shared.mkdir()
    found = {}
    rows = _targets(disk)
    chosen = arguments.only or list(rows)
    kills = -(-arguments.kills // len(chosen))
    for title in tqdm(chosen, unit="target", disable=None):
        kind, processes, full = rows[title]
        chance = random.Random(f"{arguments.seed} {title}")
        target = kind((folder if full is None else full.folder) / "target", shared, processes)
        found[title] = _rounds(target, kills, processes, chance, folder / "said", full)
        shutil.rmtree(target.folder)
    return found


def _targets(disk: Disk | None) -> dict[str, tuple[type[Target], int, Disk | None]]:
    """The table's rows: what is written, by how many processes, and the disk if that is to be full."""
    return {
        **{kind.name: (kind, 1, None) for kind in TARGETS},
        **{f"{kind.name}, two processes": (kind, 2, None) for kind in TOGETHER},
        **{f"{kind.name}, disk full": (kind, 1, disk) for kind in TARGETS},
    }


def _rounds(
    target: Target, kills: int, processes: int, chance: random.Random, output: Path, disk: Disk | None
) -> Found:
    found = Found()
    target.begin(0)
    begun = time.monotonic()
    ended = [Process(partial(target.work, 0), output).wait()]  # let alone, to know how long it takes
    seconds = time.monotonic() - begun
    number = 0
    while True:
        said = "\n".join(each.said for each in ended)
        for each in ended:
            refused = disk is not None and number > 0
            if (what := target.unexpected(each, disk_full=refused)) is not None:
                found.note("failed", what)
        target.check(found, said)
        if found.ends >= kills:
            return found
        if number >= _TRIES * (kills + 1):
            found.note("failed", f"{number} rounds came to an end as if nothing had happened")
            return found
        number += 1
        target.begin(number)
        if disk is None:
            ended = killed([partial(target.work, who) for who in range(processes)], output, seconds, chance)
            found.ends += sum(each.code is None for each in ended)
        else:
            with disk.nearly_full(4096 + chance.randrange(target.size)) as largest_file:
                ended = [Process(partial(target.work, 0), output, largest_file).wait()]
            found.ends += ended[0].code != target.ends_with


def _table(found: Mapping[str, Found]) -> str:
    heads = ["target", *(_HEADS.get(name, name) for name in _COLUMNS)]
    lines = [[title, *(str(getattr(each, name)) for name in _COLUMNS)] for title, each in found.items()]
    widths = [max(map(len, column)) for column in zip(heads, *lines, strict=True)]

    def row(cells: Sequence[str]) -> str:
        first, *numbers = cells
        return " | ".join(
            [
                first.ljust(widths[0]),
                *(cell.rjust(width) for cell, width in zip(numbers, widths[1:], strict=True)),
            ]
        )

    rule = " | ".join(["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])])
    return "\n".join(f"| {line} |" for line in [row(heads), rule, *map(row, lines)])


if __name__ == "__main__":
    sys.exit(main())
