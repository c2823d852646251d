"""Fetching sets that others publish, with pytorch-ood's and torchvision's downloaders; only when asked to."""

from __future__ import annotations

import importlib
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import Any

from .sources import data_root, open_source
from .splits import Source, Split, wanted
from .torchvision_sets import TORCHVISION, torchvision_datasets

_EXTRA = "pip install 'tanl[bench]'"
_LISTS = "benchmark_imglist"


@dataclass(frozen=True)
class _Archive:
    """One of pytorch-ood's sets, and how its files come to lie as OpenOOD's lists name them.

    Attributes:
        dataset: the class in ``pytorch_ood.dataset.img``.
        folder: where it is unpacked, below the data root.
        made: the folder in it that then holds the images.
        unpacked: what the archive calls that folder, where that is something else.
        attributes: of the class, set to other values.
        arguments: of its constructor.
        google: it comes from Google Drive, which takes gdown.
    """

    dataset: str
    folder: str
    made: str
    unpacked: str = ""
    attributes: dict[str, str] = field(default_factory=dict)
    arguments: dict[str, object] = field(default_factory=dict)
    google: bool = False


def _drive(dataset: str, folder: str, made: str, inner: str = "", **attributes: str) -> _Archive:
    base = f"{made}/{inner}" if inner else made
    own = {"target_dir": made, "base_folder": base, **attributes}
    return _Archive(dataset, folder, made, attributes=own, google=True)


_ARCHIVES = {
    "inaturalist": _drive("iNaturalist", "images_largescale", "inaturalist", "images"),
    "openimage_o": _drive("OpenImagesO", "images_largescale", "openimage_o", "images"),
    "ssb_hard": _drive("SSBHard", "images_largescale", "ssb_hard"),
    "imagenet_v2": _drive("ImageNetV2", "images_largescale", "imagenet_v2"),
    "places365": _drive("Places365", "images_classic", "places365"),
    "ninco": _Archive("NINCO", "images_largescale", "NINCO"),
    "imagenet_r": _Archive("ImageNetR", "images_largescale", "imagenet_r", unpacked="imagenet-r"),
    "imagenet_o": _Archive("ImageNetO", "images_largescale", "imagenet-o"),
    "textures": _Archive("Textures", "images_classic", "texture", unpacked="dtd/images"),
    "tin": _Archive(
        "TinyImageNet",
        "images_classic",
        "tin",
        unpacked="tiny-imagenet-200",
        arguments={"subset": "val"},
    ),
}

# OpenOOD's lists come from Google Drive like pytorch-ood's iNaturalist: its class with another file's number, the
# one in OpenOOD's scripts/download/download.py.
_IMGLISTS = _Archive(
    "iNaturalist",
    "",
    _LISTS,
    attributes={
        "gdrive_id": "1lI1j0_fDDvjIt9JlWAw09X8ks-yrR_H1",
        "filename": f"{_LISTS}.zip",
        "target_dir": ".",
        "base_folder": _LISTS,
    },
    google=True,
)


def fetch(source: Source, root: str | PathLike[str] | None = None) -> Path:
    """Download a set and lay it below the data root as OpenOOD's lists name it.

    A folder that is there already and not empty is left as it is: after a download that broke off, delete the folder
    and the archive beside it.

    Args:
        source: of a row of `tanl.benchmarks.data.splits`.
        root: the data root (`tanl.benchmarks.data.sources.data_root`).

    Returns:
        The folder that holds it.

    Raises:
        ValueError: no downloader has this set; the message says where to get it.
        ImportError: the downloader's package is not there.
        OSError: the download failed; the message says where to get the set by hand.
    """
    base = data_root(root)
    if source.fetch is None:
        raise ValueError(
            f"the set {source.name} cannot be fetched: get it from {source.where} and put it at "
            f"{wanted(source)} in {base}"
        )
    try:
        if source.fetch in TORCHVISION:
            folder = base / "torchvision"
            folder.mkdir(parents=True, exist_ok=True)
            torchvision_datasets(source.fetch, folder, download=True)
            return folder
        return _unpack(_ARCHIVES[source.fetch], base)
    # The downloaders report a broken archive as a RuntimeError.
    except (OSError, RuntimeError) as error:
        raise OSError(
            f"the set {source.name} could not be fetched: {error}. Get it from {source.where} and put it at "
            f"{wanted(source)} in {base}"
        ) from error


def fetch_split(split: Split, root: str | PathLike[str] | None = None) -> list[str]:
    """Download what is missing of a split: OpenOOD's lists, and each set that a downloader has.

    Args:
        split: a row of `tanl.benchmarks.data.splits`.
        root: the data root.

    Returns:
        What could not be fetched, a message a set.

    Raises:
        ImportError: a downloader's package is not there.
    """
    base = data_root(root)
    messages: list[str] = []
    if any(not (base / file).is_file() for _, source in split.sets() for file in source.imglists):
        try:
            fetch_imglists(base)
        except OSError as error:
            messages.append(str(error))
    for role, source in split.sets():
        try:
            open_source(source, base, ood=role in ("near", "far"))
        except FileNotFoundError:
            try:
                fetch(source, base)
            except (OSError, ValueError) as error:
                messages.append(str(error))
    return messages


def fetch_imglists(root: str | PathLike[str] | None = None) -> Path:
    """Download OpenOOD's image lists (about 28 MB) into the data root.

    Returns:
        The folder that holds them.

    Raises:
        ImportError: pytorch-ood or gdown is not there.
        OSError: the download failed.
    """
    base = data_root(root)
    try:
        return _unpack(_IMGLISTS, base)
    except (OSError, RuntimeError) as error:
        raise OSError(
            f"OpenOOD's image lists could not be fetched: {error}. Get benchmark_imglist.zip as "
            f"https://github.com/Jingkang50/OpenOOD describes and unpack it in {base}"
        ) from error


def _unpack(archive: _Archive, root: Path) -> Path:
    folder = root / archive.folder
    made = folder / archive.made
    if made.is_dir() and any(made.iterdir()):
        return made
    dataset = _pytorch_ood(archive)
    folder.mkdir(parents=True, exist_ok=True)
    dataset(root=str(folder), download=True, **archive.arguments)
    if archive.unpacked:
        (folder / archive.unpacked).rename(made)
    return made


def _pytorch_ood(archive: _Archive) -> Any:
    try:
        images = importlib.import_module("pytorch_ood.dataset.img")
        if archive.google:
            importlib.import_module("gdown")
        dataset = getattr(images, archive.dataset)
    except (ImportError, AttributeError) as error:
        wanted = "pytorch-ood 0.3 or later" + (" and gdown" if archive.google else "")
        raise ImportError(f"{archive.dataset} is fetched with {wanted}: {_EXTRA} ({error})") from error
    return type(archive.dataset, (dataset,), dict(archive.attributes)) if archive.attributes else dataset
