"""``tanl curate``: which of many images to keep, or to label, when there is a budget."""

from __future__ import annotations

import argparse
import csv
import io
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..io.arguments import a_path, refuse
from ..io.atomic import write_whole
from ..io.options import add_options, check_settings, setting, settings_of
from ..io.progress import Progress
from ..io.text import one_line, shown_path

if TYPE_CHECKING:
    from ..streams.pump import Batch

_DESCRIPTION = """\
Choose among many images when there is a budget: rare ones are kept, what is frequent is thinned out, and what is so
far from everything that it may be no data at all is set aside to be looked at. The names of what is kept are printed,
one a line."""

_EPILOG = """\
examples:
  tanl curate photos/ --budget 0.2 --backbone ViT-B-16/openai --out curation.csv
  tanl curate embeddings.npy --budget 500
  tanl curate photos/ --budget 200 --print0

results: --out writes each name with its decision (kept, tail, dropped, outlier) and its distance to the nearest
prototype; "tail" is kept because it is rare.

exit codes: 0 done; 1 done, but some could not be read; 2 a mistake in what was asked for."""


@dataclass(frozen=True)
class Config:
    """How is chosen, with the options of `tanl curate`."""

    budget: float = setting(0.2, "how many to keep, or, below 1, the share of them", metavar="N")
    backbone: str | None = setting(
        None, "of images: the model, as tanl judge takes it (default: mini-photo)", metavar="NAME"
    )
    seed: int = setting(0, "of the prototypes", metavar="N", at_least=0)
    device: str = setting("cpu", "where the model runs: cpu, cuda, cuda:1, mps", metavar="NAME")

    def __post_init__(self) -> None:
        check_settings(self)
        if not self.budget > 0:
            raise ValueError(f"--budget is {self.budget}; it must be above 0")
        if self.budget >= 1 and not float(self.budget).is_integer():
            raise ValueError(f"--budget is {self.budget}; give a share below 1, or a whole number of images")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the command's arguments."""
    parser.description = _DESCRIPTION
    parser.epilog = _EPILOG
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument(
        "input", metavar="INPUT", type=a_path, help="a folder of images, or a file of embeddings"
    )
    add_options(parser, Config)
    parser.add_argument("--normalize", action="store_true", help="of embeddings: bring them to unit norm")
    parser.add_argument("--out", metavar="FILE", type=a_path, help="write all decisions here, as .csv")
    parser.add_argument("--print0", action="store_true", help="end each printed name with a NUL character")
    parser.add_argument("--quiet", action="store_true", help="no progress bars and no summary")


def main(arguments: argparse.Namespace) -> int:
    """Carry the command out and return its exit code."""
    config = settings_of(arguments, Config())
    if arguments.out is not None and arguments.out.suffix.lower() != ".csv":
        raise ValueError(f"--out {arguments.out}: decisions are written as .csv")
    import torch

    from ..beyond.curation import curate
    from ..streams.batches import Unusable

    names: list[str] = []
    rows = []
    unreadable = 0
    with Progress(None, "embedded", quiet=arguments.quiet) as progress:
        for batch in _batches(arguments, config):
            for each in batch.images:
                if isinstance(each, Unusable):
                    unreadable += 1
                    told = one_line(f"{shown_path(each.name)}: {each.reason}")
                    progress.write(f"tanl: warning: cannot use {told}", sys.stderr)
                else:
                    names.append(shown_path(each))
            if batch.z is not None:
                rows.append(batch.z)
            progress.update(len(batch.images))
    if not rows:
        raise ValueError(f"nothing of {shown_path(arguments.input)} can be used")
    found = curate(torch.cat(rows), config.budget, seed=config.seed)
    decisions = ["dropped"] * len(names)
    for word, which in (("kept", found.kept), ("tail", found.tail), ("outlier", found.outliers)):
        for row in which.tolist():
            decisions[row] = word
    if arguments.out is not None:
        table = io.StringIO()
        lines = csv.writer(table, lineterminator="\n")
        lines.writerow(["name", "decision", "distance"])
        lines.writerows(zip(names, decisions, found.distances.tolist(), strict=True))
        write_whole(arguments.out, table.getvalue().encode())
    for row in found.kept.tolist():
        sys.stdout.write(f"{names[row]}\0" if arguments.print0 else f"{one_line(names[row])}\n")
    if not arguments.quiet:
        print(
            f"{len(found.kept)} of {len(names)} kept, {len(found.tail)} of them because they are rare; "
            f"{len(found.outliers)} outliers set aside",
            file=sys.stderr,
        )
    return 1 if unreadable else 0


def _batches(arguments: argparse.Namespace, config: Config) -> Iterator[Batch]:
    from ..io.embeddings import is_embedding_file, open_embeddings

    source: Path = arguments.input
    if is_embedding_file(source):
        from ..streams.embeddings import embedding_batches

        if config.backbone is not None:
            raise ValueError("--backbone embeds images, and these are embeddings; leave it out")
        return embedding_batches([open_embeddings(source)], None, normalize=arguments.normalize)
    refuse(arguments, ("--normalize",), "is for files of embeddings; these are images")
    from ..backbones import load_backbone
    from ..io.image_files import find_images
    from ..streams.images import ImageEncoder, embed_images

    paths = find_images(source)
    backbone = load_backbone(config.backbone or "mini-photo", device=config.device)
    return embed_images(ImageEncoder(backbone), paths)
