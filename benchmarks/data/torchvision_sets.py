"""The sets that torchvision keeps in files of its own."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import numpy as np

from .image_sets import ImageSet

TORCHVISION: dict[str, tuple[str, tuple[dict[str, object], ...]]] = {
    "cifar10": ("CIFAR10", ({"train": False},)),
    "cifar100": ("CIFAR100", ({"train": False},)),
    "mnist": ("MNIST", ({"train": True}, {"train": False})),
    "svhn": ("SVHN", ({"split": "test"},)),
}
"""The sets taken from torchvision: its class, and the parts that make up the set together."""


def torchvision_set(key: str, root: Path) -> ImageSet | None:
    """A set that torchvision has stored below the data root, or None where it is not there."""
    folder = root / "torchvision"
    if not folder.is_dir():
        return None
    try:
        parts = torchvision_datasets(key, folder)
    except RuntimeError:  # how torchvision says that its files are missing or damaged
        return None
    owner = [(part, index) for part in parts for index in range(len(part))]

    def decode(index: int) -> Any:
        part, within = owner[index]
        return part[within][0]

    labels = np.concatenate([_labels(part) for part in parts])
    names = tuple(f"{key}/{number:05d}" for number in range(len(owner)))
    return ImageSet(key, folder, names, tuple(labels.tolist()), decode=decode)


def torchvision_datasets(key: str, folder: Path, *, download: bool = False) -> list[Any]:
    """The parts of a set, as torchvision's datasets.

    Raises:
        ImportError: torchvision is not there.
        RuntimeError: its files are missing or damaged, and not to be downloaded.
    """
    try:
        datasets = importlib.import_module("torchvision.datasets")
    except ImportError as error:
        raise ImportError(f"{key} is read with torchvision: pip install 'tanl[bench]'") from error
    name, parts = TORCHVISION[key]
    return [getattr(datasets, name)(str(folder), download=download, **part) for part in parts]


def _labels(dataset: Any) -> np.ndarray[Any, np.dtype[np.int64]]:
    labels = dataset.targets if hasattr(dataset, "targets") else dataset.labels
    return np.asarray(labels, dtype=np.int64)
