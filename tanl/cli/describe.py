"""``tanl describe``: what sets one folder of images apart from another, in words."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..io.arguments import a_name_or_path, a_path
from ..io.options import add_options, check_settings, setting, settings_of
from ..io.text import one_line, shown_path

if TYPE_CHECKING:
    from ..io.images import UnreadableImage

_DESCRIPTION = """\
Say in words what the images of one folder show and those of another do not, such as flagged images and images known
to belong. Half of each folder proposes words of the corpus, the other half measures them: AUROC is the chance that an
image of the first folder fits the words better than one of the second; p is how often chance alone would make such a
difference of means, corrected for everything that was tried."""

_EPILOG = """\
examples:
  tanl report results.parquet --copy-ood flagged/
  tanl describe flagged/ known-good/ --backbone ViT-B-16/openai
  tanl describe monday/ tuesday/ --rounds 3 --zoom
  tanl describe flagged-scans/ usual-scans/ --texts --corpus wordnet-medical --backbone hf:owner/model

exit codes: 0 done; 1 done, but some images could not be read; 2 a mistake in what was asked for."""


@dataclass(frozen=True)
class Config:
    """How groups are compared, with the options of `tanl describe`."""

    backbone: str = setting("mini-photo", "the model, as tanl judge takes it", metavar="NAME")
    corpus: str = setting("wordnet", "words to describe with", metavar="NAME_OR_FILE", parse=a_name_or_path)
    rounds: int = setting(
        2, "1 ranks words; each round more combines the best, 'w1 with w2'", metavar="N", at_least=1
    )
    zoom: bool = setting(False, "look at the corners and the centre too, which is six times the work")
    texts: bool = setting(
        False, "take words from reports too: of scan.png the file scan.txt beside it, where it is there"
    )
    top: int = setting(5, "how many differences to print", metavar="N", at_least=1)
    seed: int = setting(0, "of the halves", metavar="N", at_least=0)
    show_all: bool = setting(
        False, "propose words of WordNet too that may hurt or accuse and say nothing of a picture"
    )
    device: str = setting("cpu", "where the model runs: cpu, cuda, cuda:1, mps", metavar="NAME")

    def __post_init__(self) -> None:
        check_settings(self)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the command's arguments."""
    parser.description = _DESCRIPTION
    parser.epilog = _EPILOG
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument(
        "a", metavar="A", type=a_path, help="a folder of images whose difference is described"
    )
    parser.add_argument("b", metavar="B", type=a_path, help="a folder of images to compare them with")
    add_options(parser, Config)


def main(arguments: argparse.Namespace) -> int:
    """Carry the command out and return its exit code."""
    from ..io.image_files import find_images

    config = settings_of(arguments, Config())
    folders = (arguments.a, arguments.b)
    found = [find_images(folder) for folder in folders]
    texts = None
    if config.texts:
        texts = (_texts_beside(found[0], folders[0]), _texts_beside(found[1], folders[1]))

    from ..backbones import load_backbone
    from ..beyond.difference import describe_difference

    unreadable: set[Path] = set()

    def left_out(error: UnreadableImage) -> None:
        print(f"tanl: warning: {one_line(str(error))}", file=sys.stderr)
        unreadable.add(error.path)

    backbone = load_backbone(config.backbone, device=config.device)
    differences = describe_difference(
        backbone,
        found[0],
        found[1],
        config.corpus,
        texts=texts,
        rounds=config.rounds,
        zoom=config.zoom,
        top=config.top,
        seed=config.seed,
        show_all=config.show_all,
        progress=True,
        unreadable=left_out,
    )
    counts = [len({*images} - unreadable) for images in found]
    sides = [f"{shown_path(folder)} ({count} images)" for folder, count in zip(folders, counts, strict=True)]
    print(one_line(" against ".join(sides)))
    print(f"{'AUROC':>6} {'p':>8}  {'looked at':12}  what the first shows more")
    for each in differences:
        print(f"{100 * each.auroc:5.1f}% {each.p_value:8.1g}  {each.view:12}  {one_line(each.text)}")
    return 1 if unreadable else 0


def _texts_beside(images: Iterable[Path], folder: Path) -> list[str]:
    """The reports of images, each once.

    Raises:
        ValueError: there is none, or one that is no UTF-8 text.
    """
    files = dict.fromkeys(path.with_suffix(".txt") for path in images)
    texts = []
    for file in files:
        if file.is_file():
            try:
                texts.append(file.read_text(encoding="utf-8"))
            except UnicodeDecodeError as error:
                raise ValueError(f"{shown_path(file)} is no UTF-8 text: {error}") from error
    if not texts:
        raise ValueError(
            f"--texts: {shown_path(folder)} has no report: of scan.png it is the file scan.txt beside it"
        )
    return texts
