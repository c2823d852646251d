"""``tanl bench trust``: what few outliers, orders, batch sizes and attacks do to methods that learn from their stream.

Long streams are made of seeded variants of the pictograms (`tanl.benchmarks.data.augment`). Drawings that calibration
images are made of are in no stream. The settings of TANL's preset ``practice`` were chosen on the ID sets animals and
food with variants of another seed; the sets and seeds here took no part in that.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import asdict, dataclass
from statistics import fmean

import torch

from tanl.io.arguments import a_path
from tanl.io.options import add_options, check_settings, setting, settings_of

from .engine.trust.measures import BATCH, MEASURED, Found, measure
from .output.targets import check_targets, write_json
from .pictograms.tracks import check_tracks


@dataclass(frozen=True)
class Config:
    """What is measured, with the command's options.

    Raises:
        TypeError, ValueError: an unknown ID set or part, or a number that is too small; the message names it.
    """

    tracks: tuple[str, ...] = setting(("travel", "objects", "coarse-10"), "ID sets", metavar="NAMES")
    length: int = setting(2400, "images a stream", metavar="N", at_least=20 * BATCH)
    seeds: int = setting(3, "orders of each", metavar="N", at_least=1)
    augment_seed: int = setting(1, "of the variants", metavar="N", at_least=1)
    parts: tuple[str, ...] = setting(
        tuple(MEASURED),
        f"what to measure (default: {', '.join(MEASURED)})",
        metavar="NAMES",
        choices=MEASURED,
    )

    def __post_init__(self) -> None:
        check_settings(self)
        check_tracks(self.tracks)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the command's options."""
    add_options(parser, Config)
    parser.add_argument(
        "--json", type=a_path, metavar="FILE", help="write everything that was measured there"
    )


def main(arguments: argparse.Namespace) -> int:
    """Run the command and print its tables."""
    config = settings_of(arguments, Config())
    check_targets(arguments.json)
    found = measure(
        config.tracks,
        length=config.length,
        seeds=range(config.seeds),
        augment_seed=config.augment_seed,
        parts=config.parts,
        progress=sys.stderr.isatty(),
    )
    print(
        f"Means over {', '.join(config.tracks)} and {config.seeds} orders; {config.length} images a stream, batches of "
        f"{BATCH}; percent"
    )
    print(format_tables(found))
    if arguments.json is not None:
        streams = [
            {"part": part, "case": case, "method": method, **values}
            for (part, case, method), values in found.items()
        ]
        write_json(arguments.json, {"torch": torch.__version__, **asdict(config), "streams": streams})
    return 0


def format_tables(found: Found) -> str:
    """A table for each part, a line for each case and method, means over the streams."""
    lines = []
    for part in dict.fromkeys(part for part, _, _ in found):
        rows = {key[1:]: values for key, values in found.items() if key[0] == part}
        measures = list(dict.fromkeys(name for values in rows.values() for name in values))
        lines += ["", f"{part:34}{'':16}" + "".join(f"{name:>24}" for name in measures)]
        for (case, method), values in rows.items():
            cells = [f"{fmean(values[name]):24.1f}" if name in values else f"{'-':>24}" for name in measures]
            lines.append(f"{case:34}{method:16}" + "".join(cells))
    return "\n".join(lines)
