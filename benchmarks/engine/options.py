"""What `tanl bench run` and `tanl bench ablate` ask alike: the images, the streams, and the configuration of both."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Sequence

from tanl.io.arguments import Arguments, a_name_or_path, a_path, positive_number
from tanl.labels.terms import REMOVALS

from ..data.preprocessing import PREPROCESSINGS
from ..data.splits import SPLITS
from .tasks import CUSTOM, PUBLISHED, Config, tracks_of


def add_image_options(parser: argparse.ArgumentParser, *, tracks: Sequence[str] = ()) -> Arguments:
    """Add the options that say which images are judged.

    Args:
        parser: of the command.
        tracks: the tracks that are taken where none is named, for the help; empty for all.

    Returns:
        Their group, for the command's own options of the kind.
    """
    listed = "; ".join(f"of {name} {', '.join(tracks_of(name))}" for name in SPLITS if tracks_of(name))
    images = parser.add_argument_group("images")
    images.add_argument(
        "--split",
        metavar="NAME",
        help=f"what to measure on (default: {Config().split}; `tanl bench list` has all)",
    )
    images.add_argument(
        "--tracks",
        metavar="NAMES",
        nargs="+",
        action="extend",
        help=f"some of the split's, where it has any: {listed} (default: {', '.join(tracks) or 'all'})",
    )
    images.add_argument(
        "--id",
        metavar="PATH",
        type=a_name_or_path,
        help="ID images of your own: a folder, or a CSV file that lists them",
    )
    images.add_argument(
        "--ood",
        metavar="PATH",
        type=a_name_or_path,
        nargs="+",
        action="extend",
        help="OOD images of your own, a set each; with --id",
    )
    images.add_argument(
        "--only-ood",
        metavar="NAMES",
        nargs="+",
        action="extend",
        help="some of the split's OOD sets; results say so (default: all)",
    )
    images.add_argument(
        "--labels",
        "--class-names",
        metavar="FILE",
        type=a_name_or_path,
        help="class names (text, .json, .csv, .yaml; see tanl judge --help): needed with --id, else in place of "
        "the split's own",
    )
    images.add_argument(
        "--data-root",
        type=a_path,
        metavar="DIR",
        help="where the splits' images lie, in OpenOOD's layout (default: TANL_DATA, else data)",
    )
    images.add_argument(
        "--limit", type=positive_number, metavar="N", help="at most N images of a set, for a quick look"
    )
    images.add_argument(
        "--workers", type=positive_number, metavar="N", help="threads that read images (default: one a core)"
    )
    return images


def add_stream_options(group: Arguments) -> None:
    """Add the options that say how streams are judged."""
    default = Config()
    group.add_argument(
        "--seeds",
        "--seed",
        type=int,
        metavar="N",
        nargs="+",
        action="extend",
        help=f"of the stream's order and of methods that keep a state (default: {default.seeds[0]})",
    )
    group.add_argument(
        "--batch-size",
        type=positive_number,
        default=default.batch_size,
        metavar="N",
        help="images that are judged at a time (default: %(default)s)",
    )
    group.add_argument("--corpus", metavar="NAME", help=f"negative labels (default: {default.corpus})")
    group.add_argument(
        "--removal",
        choices=sorted(REMOVALS),
        help=f"which of them leave for the ID labels, see tanl bank --help (default: {default.removal})",
    )
    group.add_argument(
        "--preprocessing",
        choices=sorted(PREPROCESSINGS),
        help="of images: the model's own, or the published evaluation's, resized to 256 and cropped to 224 "
        f"(default: {default.preprocessing})",
    )
    group.add_argument(
        "--published",
        action="store_true",
        help="the papers' words and images: "
        + " ".join(f"--{name} {value}" for name, value in PUBLISHED.items()),
    )
    group.add_argument("--device", default="cpu", help="where the model runs (default: %(default)s)")


def common_config(arguments: argparse.Namespace) -> Config:
    """What these options say; all else is as `Config` has it.

    Raises:
        ValueError: an unknown split or track, or options that do not go together.
    """
    default = Config()
    own = arguments.id is not None or arguments.ood
    words = {}
    for name, value in PUBLISHED.items():
        given = getattr(arguments, name)
        if arguments.published and given not in (None, value):
            raise ValueError(f"--published stands for --{name} {value}; leave --{name} {given} out")
        words[name] = value if arguments.published else given or getattr(default, name)
    return Config(
        split=arguments.split or (CUSTOM if own else default.split),
        **words,
        seeds=tuple(dict.fromkeys(arguments.seeds or default.seeds)),
        batch_size=arguments.batch_size,
        limit=arguments.limit,
        tracks=names_in(arguments.tracks),
        id=arguments.id,
        ood=tuple(arguments.ood or ()),
        labels=arguments.labels,
        only_ood=names_in(arguments.only_ood) if arguments.only_ood else None,
    )


def names_in(given: Iterable[str] | None) -> tuple[str, ...]:
    """Names that are given one by one or with commas between them, each once."""
    names = (name.strip() for text in given or () for name in text.split(","))
    return tuple(dict.fromkeys(name for name in names if name))
