"""What `tanl bench run` and `tanl bench ablate` ask alike: the images, the streams, and the configuration of both."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

from tanl.io.arguments import Arguments, a_path, positive_number
from tanl.io.options import add_options, settings_of

from ..data.splits import SPLITS
from .tasks import CUSTOM, PUBLISHED, Config, tracks_of

_START = Config()


def add_image_options(parser: argparse.ArgumentParser, *, tracks: Sequence[str] = ()) -> Arguments:
    """Add the options that say which images are judged.

    Args:
        parser: of the command.
        tracks: the tracks that are taken where none is named, for the help; empty for all.

    Returns:
        Their group, for the command's own options of the kind.
    """
    listed = "; ".join(f"of {name} {', '.join(tracks_of(name))}" for name in SPLITS if tracks_of(name))
    some = f"some of the split's, where it has any: {listed} (default: {', '.join(tracks) or 'all'})"
    images = parser.add_argument_group("images")
    add_options(images, Config, "split", "tracks", "id", "ood", "only_ood", "labels", "limit", tracks=some)
    images.add_argument(
        "--data-root",
        type=a_path,
        metavar="DIR",
        help="where the splits' images lie, in OpenOOD's layout (default: TANL_DATA, else data)",
    )
    images.add_argument(
        "--workers", type=positive_number, metavar="N", help="threads that read images (default: one a core)"
    )
    return images


def add_stream_options(group: Arguments, **helps: str) -> None:
    """Add the options that say how streams are judged, some with a help of their own."""
    add_options(group, Config, "seeds", "batch_size", "corpus", "removal", "preprocessing", **helps)
    spelled = " ".join(map(_spelled, PUBLISHED, PUBLISHED.values()))
    group.add_argument(
        "--published", action="store_true", help=f"the papers' words, images and batches: {spelled}"
    )
    group.add_argument("--device", default="cpu", help="where the model runs (default: %(default)s)")


def config_of(arguments: argparse.Namespace, start: Config = _START, **more: Any) -> Config:
    """What the options say, with ``more`` in its place; all else is as ``start`` has it.

    Raises:
        ValueError: an unknown split, track or method, or options that do not go together.
    """
    words = dict(PUBLISHED) if arguments.published else {}
    for name, value in words.items():
        if getattr(arguments, name, value) != value:
            given = getattr(arguments, name)
            raise ValueError(
                f"--published stands for {_spelled(name, value)}; leave {_spelled(name, given)} out"
            )
    own = "split" not in arguments and ("id" in arguments or "ood" in arguments)
    return settings_of(arguments, start, **({"split": CUSTOM} if own else {}), **words, **more)


def _spelled(name: str, value: object) -> str:
    return f"--{name.replace('_', '-')} {value}"
