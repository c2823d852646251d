"""What the models that ship with tanl are for: told once, where one of them judges other images than tanl's own."""

from __future__ import annotations

import logging
import os
import threading
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .base import Backbone

_LOG = logging.getLogger(__name__)

_REAL = (
    'For images of your own take a real CLIP, such as ViT-B-16/openai (--backbone, or tanl.load_backbone("...")): a '
    "download of some hundred megabytes, and minutes on a processor to embed the corpus, both once"
)
LIMITS = {
    "mini": f"mini is a small model of pictograms, which cannot judge photographs and flags most of them. {_REAL}",
    "mini-photo": "mini-photo is a small model of everyday photographs, which tells far less apart than a real CLIP. "
    + _REAL,
}
"""What is told of each."""

_told: set[str] = set()
_telling = threading.Lock()  # images are prepared in threads


def tell_limits(backbone: Backbone, image: Any) -> None:
    """Log, once in a process, what a model that ships with tanl cannot do, if the image is none of tanl's own.

    Args:
        backbone: about to embed the image.
        image: a path, or an image in memory, of which nobody knows where it is from.
    """
    name = backbone.name
    if name not in LIMITS or name in _told or _is_own(image):
        return
    with _telling:
        is_first = name not in _told
        _told.add(name)
    if is_first:
        _LOG.warning("%s", LIMITS[name])


def _is_own(image: Any) -> bool:
    if not isinstance(image, str | os.PathLike):
        image = getattr(image, "filename", None)  # of a PIL image that was opened
    return bool(image) and Path(image).resolve().is_relative_to(_folder())


@lru_cache(maxsize=1)
def _folder() -> Path:
    """Where the images are that ship with tanl."""
    spec = find_spec("tanl.benchmarks")
    assert spec is not None, "tanl.benchmarks is part of tanl"
    return Path(next(iter(spec.submodule_search_locations or ()))).resolve()
