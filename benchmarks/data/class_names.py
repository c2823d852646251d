"""The names of ID classes, by which label banks are built."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from importlib import resources
from os import PathLike

from tanl.labels.label_files import read_labels

from .image_sets import ImageSet
from .imagenet import imagenet_index, imagenet_names
from .splits import SPLITS

_WNID = re.compile(r"n\d{8}")

# fmt: off
_CIFAR_10 = (
    "airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck",
)
_CIFAR_100 = (
    "apple", "aquarium fish", "baby", "bear", "beaver", "bed", "bee", "beetle", "bicycle", "bottle", "bowl", "boy",
    "bridge", "bus", "butterfly", "camel", "can", "castle", "caterpillar", "cattle", "chair", "chimpanzee", "clock",
    "cloud", "cockroach", "couch", "crab", "crocodile", "cup", "dinosaur", "dolphin", "elephant", "flatfish", "forest",
    "fox", "girl", "hamster", "house", "kangaroo", "keyboard", "lamp", "lawn mower", "leopard", "lion", "lizard",
    "lobster", "man", "maple tree", "motorcycle", "mountain", "mouse", "mushroom", "oak tree", "orange", "orchid",
    "otter", "palm tree", "pear", "pickup truck", "pine tree", "plain", "plate", "poppy", "porcupine", "possum",
    "rabbit", "raccoon", "ray", "road", "rocket", "rose", "sea", "seal", "shark", "shrew", "skunk", "skyscraper",
    "snail", "snake", "spider", "squirrel", "streetcar", "sunflower", "sweet pepper", "table", "tank", "telephone",
    "television", "tiger", "tractor", "train", "trout", "tulip", "turtle", "wardrobe", "whale", "willow tree", "wolf",
    "woman", "worm",
)
# fmt: on
# Labels 0 and 1 of the lists. The published TANL code writes longer sentences about what such an X-ray shows.
_BIMCV = ("normal chest X-ray", "chest X-ray with COVID-19")
_WATERBIRDS = ("landbird", "waterbird")

_WRITTEN: dict[str, tuple[str, ...]] = {
    "cifar-10": _CIFAR_10,
    "cifar-100": _CIFAR_100,
    "bimcv": _BIMCV,
    "waterbirds": _WATERBIRDS,
}


def class_names(
    key: str, *, file: str | PathLike[str] | None = None, images: ImageSet | None = None
) -> list[str]:
    """The names of a split's ID classes, in the order of its labels.

    ImageNet's are open_clip's (``IMAGENET_CLASSNAMES``), found by WordNet id through timm's list of ids. Two of them
    occur twice there, "missile" and "sunglasses"; as a label bank has each name once, the class whose first WordNet
    word is another takes that word ("projectile", "sunglass").

    Args:
        key: ``class_names`` of the split.
        file: of class names, as `read_labels` takes it, which goes before all else.
        images: the ID set; needed for ``imagenet-100``, whose classes are in its files' paths.

    Raises:
        ValueError: no such key, or classes that cannot be told from the set's paths.
    """
    if file is not None:
        return read_labels(file)
    if key in _WRITTEN:
        return list(_WRITTEN[key])
    if key == "imagenet-1k":
        return list(imagenet_names())
    if key == "imagenet-200":
        return _named(_imagenet_200())
    if key == "imagenet-100":
        return _named(_wnids_of(images))
    for split in SPLITS.values():
        if split.class_names == key and split.id is not None and split.id.wnids:
            return _named(split.id.wnids)
    raise ValueError(f"no class names {key!r}; give a file with a name a line (--class-names)")


def _imagenet_200() -> Sequence[str]:
    # The 200 classes of ImageNet-R, which OpenOOD numbers in the sorted order of their ids.
    listed = resources.files("timm").joinpath("data/_info/imagenet_r_synsets.txt")
    return sorted(listed.read_text(encoding="utf-8").split())


def _named(wnids: Iterable[str]) -> list[str]:
    names = imagenet_names()
    return [names[imagenet_index(wnid)] for wnid in wnids]


def _wnids_of(images: ImageSet | None) -> list[str]:
    """The WordNet id in the paths of each class's images."""
    if images is None:
        raise ValueError("these classes are told by the ID set's paths; open it first, or give --class-names")
    found: dict[int, str] = {}
    for file, label in zip(images.files, images.labels, strict=True):
        wnid = _WNID.search(file)
        if wnid is None or found.setdefault(label, wnid[0]) != wnid[0]:
            raise ValueError(
                f"{images.name}: the class of {file} cannot be told from its path; give --class-names"
            )
    if sorted(found) != list(range(len(found))):
        raise ValueError(f"{images.name}: there are classes without images; give --class-names")
    return [found[label] for label in range(len(found))]
