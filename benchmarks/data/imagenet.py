"""ImageNet-1k's classes: their numbers by WordNet id, and their names."""

from __future__ import annotations

from collections import Counter
from functools import lru_cache
from typing import Any


def imagenet_index(wnid: str) -> int:
    """The ImageNet-1k label of a WordNet id such as ``n01440764``: its place among all 1000, sorted.

    Raises:
        ValueError: it is none of the 1000 classes.
    """
    try:
        return _wnid_indices()[wnid]
    except KeyError:
        raise ValueError(f"{wnid!r} is no class of ImageNet-1k") from None


@lru_cache(maxsize=1)
def _wnid_indices() -> dict[str, int]:
    return {wnid: index for index, wnid in enumerate(_imagenet_info().label_names())}


@lru_cache(maxsize=1)
def imagenet_names() -> tuple[str, ...]:
    """The names of all classes, in the order of their labels: open_clip's, each once."""
    import open_clip

    info = _imagenet_info()
    names: list[str] = list(open_clip.IMAGENET_CLASSNAMES)
    repeated = {name for name, count in Counter(names).items() if count > 1}
    for index, name in enumerate(names):
        if name in repeated:
            names[index] = info.index_to_description(index).split(",")[0]
    return tuple(names)


def _imagenet_info() -> Any:
    from timm.data.imagenet_info import ImageNetInfo

    return ImageNetInfo("imagenet-1k")
