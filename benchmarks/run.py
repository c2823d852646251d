"""``tanl bench run``: measure methods on a split, into a folder in which a killed run goes on."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Iterable
from dataclasses import fields
from pathlib import Path
from textwrap import fill

from tqdm import tqdm

from tanl.cli import positive_number

from .methods import METHODS, find_methods
from .pictograms.tracks import TRACKS
from .protocol import ORDERS
from .runner import run
from .splits import SPLITS
from .tasks import CUSTOM, Config

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
  tanl bench run --seeds 0 1 2 --orders shuffled,drift,blocks
  tanl bench run --limit 50 --methods mcm,neglabel,tanl-batch-adaptive
  tanl bench run --split four-ood --backbone ViT-B-16/openai --device cuda --data-root data
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
    default = Config()
    parser.description = _DESCRIPTION
    parser.epilog = _EPILOG
    parser.formatter_class = argparse.RawDescriptionHelpFormatter

    images = parser.add_argument_group("images")
    images.add_argument(
        "--split", metavar="NAME", help=f"what to measure on (default: {default.split}; see below)"
    )
    images.add_argument(
        "--tracks",
        metavar="NAMES",
        nargs="+",
        action="extend",
        help=f"of the pictograms: some of {', '.join(TRACKS)} (default: all)",
    )
    images.add_argument(
        "--id", metavar="PATH", help="ID images of your own: a folder, or a CSV file that lists them"
    )
    images.add_argument(
        "--ood",
        metavar="PATH",
        nargs="+",
        action="extend",
        help="OOD images of your own, a set each; with --id",
    )
    images.add_argument(
        "--labels",
        "--class-names",
        metavar="FILE",
        help="class names, one a line: needed with --id, else in place of the split's own",
    )
    images.add_argument(
        "--data-root",
        type=Path,
        metavar="DIR",
        help="where the splits' images lie, in OpenOOD's layout (default: TANL_DATA, else data)",
    )
    images.add_argument("--download", action="store_true", help="fetch what is missing and can be fetched")
    images.add_argument(
        "--full-spectrum", action="store_true", help="add the covariate-shifted sets to the ID images"
    )
    images.add_argument(
        "--limit", type=positive_number, metavar="N", help="at most N images of a set, for a quick look"
    )
    images.add_argument(
        "--stream-length",
        type=positive_number,
        metavar="N",
        help="bring shorter streams to N images by seeded augmentation; results say so",
    )
    images.add_argument(
        "--workers", type=positive_number, metavar="N", help="threads that read images (default: one a core)"
    )

    method = parser.add_argument_group("methods and streams")
    method.add_argument(
        "--methods",
        "--method",
        metavar="NAMES",
        nargs="+",
        action="extend",
        help="some of those below (default: all)",
    )
    method.add_argument(
        "--orders",
        "--order",
        metavar="NAMES",
        nargs="+",
        action="extend",
        help=f"of the stream: {', '.join(ORDERS)} (default: {default.orders[0]})",
    )
    method.add_argument(
        "--seeds",
        "--seed",
        type=int,
        metavar="N",
        nargs="+",
        action="extend",
        help=f"of the stream's order and of methods that keep a state (default: {default.seeds[0]})",
    )
    method.add_argument(
        "--batch-size",
        type=positive_number,
        default=default.batch_size,
        metavar="N",
        help="images that are judged at a time (default: %(default)s)",
    )
    method.add_argument(
        "--backbone",
        default=default.backbone,
        metavar="NAME",
        help="model to measure with (default: %(default)s)",
    )
    method.add_argument(
        "--corpus", default=default.corpus, metavar="NAME", help="negative labels (default: %(default)s)"
    )
    method.add_argument("--device", default="cpu", help="where the model runs (default: %(default)s)")

    parser.add_argument(
        "--out", type=Path, metavar="DIR", help="the run's folder (default: tanl-bench/ and the split's name)"
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
        progress=sys.stderr.isatty(),
        say=lambda message: tqdm.write(f"tanl: {message}", file=sys.stderr),
        command=command(config),
    )
    from .table import text_table

    print(text_table(result), end="")
    print(f"{len(result.cells())} cells in {result.path}")
    return 0


def command(config: Config) -> str:
    """The command line that runs a configuration."""
    words = ["tanl", "bench", "run"]
    default = Config()
    for field in fields(Config):
        value = getattr(config, field.name)
        if value in (getattr(default, field.name), CUSTOM):
            continue
        words.append(f"--{field.name.replace('_', '-')}")
        if field.name == "methods":
            value = (",".join(value),)
        if value is not True:
            words += [str(item) for item in (value if isinstance(value, tuple) else (value,))]
    return shlex.join(words)


def _config(arguments: argparse.Namespace) -> Config:
    default = Config()
    own = arguments.id is not None or arguments.ood
    return Config(
        split=arguments.split or (CUSTOM if own else default.split),
        backbone=arguments.backbone,
        corpus=arguments.corpus,
        methods=find_methods(_split(arguments.methods)) if arguments.methods else default.methods,
        seeds=tuple(dict.fromkeys(arguments.seeds or default.seeds)),
        orders=_split(arguments.orders) or default.orders,
        batch_size=arguments.batch_size,
        limit=arguments.limit,
        stream_length=arguments.stream_length,
        full_spectrum=arguments.full_spectrum,
        tracks=_split(arguments.tracks),
        id=arguments.id,
        ood=tuple(arguments.ood or ()),
        labels=arguments.labels,
    )


def _split(given: Iterable[str] | None) -> tuple[str, ...]:
    """Names that are given one by one or with commas between them, each once."""
    names = (name.strip() for text in given or () for name in text.split(","))
    return tuple(dict.fromkeys(name for name in names if name))
