"""``tanl bench run``: measure methods on a split, into a folder in which a killed run goes on."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from textwrap import fill

from tqdm import tqdm

from tanl.io.arguments import a_path, not_negative
from tanl.io.options import add_options, words_of

from .data.splits import SPLITS
from .engine.methods import METHODS
from .engine.methods import PUBLISHED as PUBLISHED_METHODS
from .engine.options import add_image_options, add_stream_options, config_of
from .engine.runner import run
from .engine.tasks import CUSTOM, Config
from .output.remarks import wants_intervals
from .output.table import INTERVALS_HELP, text_table

_DESCRIPTION = """\
Measure OOD detection methods on a benchmark: ID and OOD images are merged into one stream for each OOD
set, and judged batch by batch. Images are embedded once and kept; each finished stream is kept too, so
that the same command goes on where an interrupted one stopped, or adds methods, orders and seeds."""


def _wrapped(title: str, names: Iterable[str]) -> str:
    # A space within a name is no place to break a line.
    listed = ", ".join(name.replace(" ", "\xa0") for name in names)
    return fill(f"{title}: {listed}", 105, break_on_hyphens=False).replace("\xa0", " ")


_EPILOG = f"""\
examples:
  tanl bench run                                      the pictograms that come with tanl, all methods
  tanl bench run --split photographs --tracks animals  photographs that come with tanl
  tanl bench run --split imagenet-folder --data-root ILSVRC2012/val --tracks dogs animals
  tanl bench run --seeds 0 1 2 --orders shuffled,drift,blocks
  tanl bench run --tracks animals --batch-size 64 --intervals
  tanl bench run --limit 50 --methods mcm,neglabel,tanl-batch-adaptive
  tanl bench run --split four-ood --backbone ViT-B-16/openai --device cuda --data-root data --published
  tanl bench run --id cats/ --ood dogs/ --ood cars/ --labels labels.txt
  tanl bench run --stream-length 10000 --methods adaneg,tanl-batch-adaptive

{_wrapped("splits", SPLITS)}

{_wrapped("methods", METHODS)}
Names are taken without regard to case and punctuation. A method without state is measured once, whatever
the orders and seeds.

orders: shuffled mixes all images; id-first and ood-first put one part before the other; in drift the share of
OOD images rises from none to all; blocks are ten, of ID and OOD images in turn."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the command's options."""
    parser.description = _DESCRIPTION
    parser.epilog = _EPILOG
    parser.formatter_class = argparse.RawDescriptionHelpFormatter

    images = add_image_options(parser)
    images.add_argument("--download", action="store_true", help="fetch what is missing and can be fetched")
    add_options(images, Config, "full_spectrum", "stream_length")

    method = parser.add_argument_group("methods and streams")
    add_options(method, Config, "methods", "orders", "backbone", "shots")
    add_stream_options(method)

    parser.add_argument(
        "--keep-activations",
        type=not_negative,
        default=0,
        metavar="GIB",
        help="memory for the activations of an ID set's images, which TANL then computes once for all orders, seeds "
        "and settings; the scores are the same up to rounding (default: none)",
    )
    parser.add_argument("--intervals", action="store_true", help=INTERVALS_HELP)
    parser.add_argument(
        "--out",
        type=a_path,
        metavar="DIR",
        help="the run's folder (default: tanl-bench/ and the split's name)",
    )


def main(arguments: argparse.Namespace) -> int:
    """Run the command and print its table."""
    config = _config(arguments)
    out: Path = arguments.out or Path("tanl-bench") / config.split
    result = run(
        config,
        out,
        device=arguments.device,
        data_root=arguments.data_root,
        download=arguments.download,
        workers=arguments.workers,
        keep=int(arguments.keep_activations * 2**30),
        progress=True,
        say=lambda message: tqdm.write(f"tanl: {message}", file=sys.stderr),
        command=command(config),
    )
    intervals = wants_intervals(arguments.intervals, [result])
    print(text_table(result, intervals=intervals), end="")
    print(f"{len(result.cells())} cells in {result.path}")
    return 0


def command(config: Config) -> str:
    """The command line that runs a configuration."""
    # --id and --ood say that the split is one's own.
    words = words_of(config, Config(), leave_out=["split"] if config.split == CUSTOM else [])
    return shlex.join(["tanl", "bench", "run", *words])


def _config(arguments: argparse.Namespace) -> Config:
    config = config_of(arguments)
    as_published = config.is_published and "methods" not in arguments
    return replace(config, methods=PUBLISHED_METHODS) if as_published else config
