"""``python -m tools ray-throughput``: images a second through ``tanl judge --engine ray``, for one worker and for more.

The pictograms that ship are judged again and again by the embedded model on a cluster of this machine. The clock runs
from the first batch's verdicts to the last partition: workers are up by then, and their models loaded. Beside the
rate: how much of that time this process spent scoring, which is what more workers cannot make less.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

from torch import Tensor

from tanl.backbones import load_backbone
from tanl.benchmarks.output.targets import add_json_option, check_targets, write_json
from tanl.benchmarks.pictograms import manifest
from tanl.detectors.verdict import Verdict
from tanl.guard.guard import Guard
from tanl.integrations.ray.judging import Judgement, judge
from tanl.integrations.ray.settings import MODES, RaySettings
from tanl.io.arguments import positive_number
from tanl.io.image_files import find_images
from tanl.streams.results import Result


@dataclass(frozen=True)
class Row:
    """One run.

    Attributes:
        mode: "ordered" or "merged".
        workers: how many actors, of one core each.
        images: in the time that was taken.
        seconds: from the first batch to the last partition.
        scoring: seconds of them that this process spent judging embeddings; 0 in a merged run.
    """

    mode: str
    workers: int
    images: int
    seconds: float
    scoring: float


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the command's options."""
    parser.add_argument(
        "--workers", metavar="N", type=positive_number, nargs="+", default=[1, 2], help="default: 1 2"
    )
    parser.add_argument("--modes", choices=MODES, nargs="+", default=list(MODES), help="default: both")
    parser.add_argument(
        "--images", metavar="N", type=positive_number, default=20_000, help="default: %(default)s"
    )
    parser.add_argument(
        "--batch-size", metavar="N", type=positive_number, default=64, help="default: %(default)s"
    )
    parser.add_argument("--backbone", metavar="NAME", default="mini", help="default: %(default)s")
    add_json_option(parser)


def main(arguments: argparse.Namespace) -> int:
    """Run the command and print its table."""
    check_targets(arguments.json)
    paths = list(find_images(manifest.FOLDER))
    paths = (paths * (arguments.images // len(paths) + 1))[: arguments.images]
    rows = [
        _measured(arguments, mode, workers, paths)
        for mode in arguments.modes
        for workers in arguments.workers
    ]
    print(f"{'mode':10}{'workers':>8}{'images':>9}{'images/s':>10}{'scoring %':>11}")
    for row in rows:
        print(
            f"{row.mode:10}{row.workers:8}{row.images:9}{row.images / row.seconds:10.0f}"
            f"{100 * row.scoring / row.seconds:11.1f}"
        )
    if arguments.json is not None:
        write_json(arguments.json, {"rows": [asdict(row) for row in rows]})
    return 0


def _measured(arguments: argparse.Namespace, mode: str, workers: int, paths: list[Path]) -> Row:
    guard = Guard(load_backbone(arguments.backbone), ["cat", "dog", "car"], progress=True)
    base = Judgement.of_guard(guard)
    scoring = 0.0

    def timed(z: Tensor) -> Iterable[Verdict]:
        nonlocal scoring
        before = time.perf_counter()
        verdicts = base.judge(z)
        scoring += time.perf_counter() - before
        return verdicts

    judgement = replace(base, judge=timed)
    started: float | None = None
    first = 0

    def seen(results: list[Result]) -> None:
        nonlocal started, first, scoring
        if started is None:
            started, first, scoring = time.perf_counter(), len(results), 0.0

    settings = RaySettings(mode=mode, workers=workers, unit_rows=256, encode_batch=arguments.batch_size)
    with TemporaryDirectory() as folder:
        done = judge(
            judgement,
            paths,
            Path(folder) / "out",
            settings=settings,
            batch_size=arguments.batch_size,
            seen=seen,
        )
    assert started is not None, "there are images"
    return Row(mode, workers, done.rows - first, time.perf_counter() - started, scoring)
