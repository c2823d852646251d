"""The command: its options, its checks before anything is measured, its files."""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path

import torch

from tanl.benchmarks.output.targets import check_targets, require_matplotlib, write_json
from tanl.io.arguments import a_path
from tanl.io.options import add_options, settings_of

from . import chart
from .config import Config
from .process import OwnProcess
from .report import format_report
from .run import run


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the command's options."""
    parser.description = (
        "Measure a step of TANL in time and memory against the bare matrix product and against the step as its "
        "formulas read, for every backend. The whole run is long, and each contender holds labels of its own, a "
        "million of them at the end; what the memory is too small for is left out, and said."
    )
    parser.add_argument(
        "--quick", action="store_true", help="M = 10 000 and K = 1000 only, in a minute or two"
    )
    parser.add_argument(
        "--gpu-only", action="store_true", help="the GPU's cases alone; without a GPU an error"
    )
    add_options(parser, Config)
    parser.add_argument(
        "--json",
        type=a_path,
        default=Path("tanl-speed.json"),
        metavar="FILE",
        help="where everything that was measured goes (default: %(default)s)",
    )
    parser.add_argument(
        "--chart",
        type=a_path,
        default=Path("tanl-speed.png"),
        metavar="FILE",
        help="where the picture goes, a PNG file (default: %(default)s)",
    )
    parser.add_argument(
        "--no-chart", action="store_true", help="draw no picture, so that no matplotlib is needed"
    )


def main(arguments: argparse.Namespace) -> int:
    """Run the command and print its report; 1 if a contender failed.

    Raises:
        ImportError: a chart is wanted, and matplotlib is missing.
        ValueError: an unusable setting, a file that cannot be written, or the GPU's cases alone where there is no GPU.
            Nothing is measured before.
    """
    config = configuration(arguments)
    if arguments.gpu_only and not torch.cuda.is_available():
        raise ValueError(
            "--gpu-only: there is no GPU here that torch can use; without the option CPUs are measured"
        )
    arguments.no_chart |= arguments.gpu_only  # the chart is of CPUs
    targets = [arguments.json] if arguments.no_chart else [arguments.json, arguments.chart]
    check_targets(*targets)
    if not arguments.no_chart:
        require_matplotlib()
    result = run(
        config,
        connect=OwnProcess,
        log=lambda line: print(line, file=sys.stderr, flush=True),
        gpu_only=arguments.gpu_only,
    )
    write_json(arguments.json, result.as_json())
    if not arguments.no_chart:
        chart.draw(result, arguments.chart)
    print(format_report(result))
    print(f"written: {', '.join(str(target) for target in targets)}", file=sys.stderr)
    for failure in result.failed:
        print(f"failed: {failure}", file=sys.stderr)
    return 1 if result.failed else 0


def configuration(arguments: argparse.Namespace) -> Config:
    """The settings that the options stand for; lists that are named go before ``--quick``'s."""
    start = Config(threads=torch.get_num_threads())
    quick = replace(start, labels=(10_000,), selected=(1000,))
    return settings_of(arguments, quick if arguments.quick else start)
