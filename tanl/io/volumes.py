"""Volumes: read from NIfTI, DICOM series and NumPy files, and cut into pictures."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..checks import whole_number
from .dicom import DicomFile
from .levels import to_8_bits
from .paths import local_path
from .text import shown_path

Grey = NDArray[Any]
Window = tuple[float, float]


@dataclass(frozen=True)
class Volume:
    """Numbers with the distances between them.

    Attributes:
        values: ``[D, H, W]``.
        spacing: millimetres, or any one unit, between neighbours along each axis.
    """

    values: Grey
    spacing: tuple[float, float, float] = (1.0, 1.0, 1.0)


def read_volume(path: str | PathLike[str]) -> Volume:
    """Read a NIfTI file, a NumPy file, or a folder with the DICOM files of one series, ordered by their positions.

    DICOM greys come as a viewer shows them, rescaled and windowed: a window is for the others.

    Raises:
        ValueError: a file of another kind, another number of axes, or files of several series or sizes.
        OSError: it cannot be read.
        ImportError: nibabel or pydicom is not installed.
    """
    source = local_path(path)
    if source.is_dir():
        return _dicom_series(source)
    if source.suffix == ".npy":
        return Volume(_three_axes(np.load(source, allow_pickle=False), source))
    if not source.name.endswith((".nii", ".nii.gz")):
        raise ValueError(f"{shown_path(source)}: volumes are .nii, .nii.gz, .npy, or folders of DICOM files")
    try:
        nibabel: Any = import_module("nibabel")
    except ImportError as error:
        raise ImportError("NIfTI needs nibabel: pip install 'tanl[medical]'") from error
    try:
        image = nibabel.load(source)
        # Slices along the last axis are what most scanners made: they become the first.
        values = _three_axes(np.asarray(image.dataobj), source).transpose(2, 1, 0)
    except nibabel.filebasedimages.ImageFileError as error:
        raise ValueError(f"{shown_path(source)} is no NIfTI file: {error}") from error
    x, y, z = (float(step) for step in image.header.get_zooms()[:3])
    return Volume(values, (z, y, x))


def _three_axes(values: Grey, source: Path) -> Grey:
    if values.ndim != 3:
        raise ValueError(
            f"{shown_path(source)} has {values.ndim} axes; a volume has three, so choose one of its times"
        )
    return values


def _dicom_series(folder: Path) -> Volume:
    paths = sorted(each for each in folder.iterdir() if each.is_file() and not each.name.startswith("."))
    if not paths:
        raise ValueError(f"{shown_path(folder)} holds no files")
    slices = [DicomFile(each) for each in paths]
    series = {each.series for each in slices}
    if len(series) > 1:
        raise ValueError(f"{shown_path(folder)} holds {len(series)} series; give a folder of one")
    if len({each.size for each in slices}) > 1:
        raise ValueError(f"{shown_path(folder)} holds slices of several sizes")
    slices.sort(key=lambda each: each.position)
    steps = np.diff([each.position for each in slices])
    between = float(np.median(steps)) if len(steps) and np.median(steps) > 0 else 1.0
    values = np.stack([np.asarray(each.image().convert("L")) for each in slices])
    return Volume(values, (between, *slices[0].pixel_spacing))


def cut(
    volume: Volume | Grey,
    *,
    axis: int = 0,
    window: Window | None = None,
    masks: Mapping[str, NDArray[np.bool_]] | None = None,
) -> tuple[list[Image.Image], dict[str, list[Image.Image]]]:
    """A volume's slices as RGB pictures with square pixels; and for each mask its bounding box in the slices it meets.

    Args:
        volume: numbers ``[D, H, W]``, with or without spacing.
        axis: along which it is cut.
        window: the values that become black and white; None puts all values through `to_8_bits` together.
        masks: regions ``[D, H, W]`` by name.

    Raises:
        TypeError, ValueError: no volume, an impossible window, or masks of another shape; the message names it.
    """
    if not isinstance(volume, Volume):
        volume = Volume(np.asarray(volume))
    values = volume.values
    if values.ndim != 3 or 0 in values.shape or values.dtype.kind not in "iufb":
        raise ValueError(f"a volume is numbers [D, H, W], not {values.dtype} {list(values.shape)}")
    if any(not np.isfinite(step) or step <= 0 for step in volume.spacing):
        raise ValueError(f"spacing is {volume.spacing}; it must be three positive numbers")
    axis = whole_number(axis, "axis", at_least=0, at_most=2)
    for name, mask in (masks or {}).items():
        if mask.shape != values.shape or mask.dtype != np.bool_:
            raise ValueError(
                f"the mask {name!r} is {mask.dtype} {list(mask.shape)}; it must be bool {list(values.shape)}"
            )
    grey = np.moveaxis(_levels(values, window), axis, 0)
    height, width = (step for place, step in enumerate(volume.spacing) if place != axis)
    inside = {
        name: [_picture(box, height, width) for box in _boxes(grey, np.moveaxis(mask, axis, 0))]
        for name, mask in (masks or {}).items()
    }
    return [_picture(each, height, width) for each in grey], inside


def _levels(values: Grey, window: Window | None) -> NDArray[np.uint8]:
    if window is None:
        return to_8_bits(values.astype(np.uint8) if values.dtype == np.bool_ else values)
    low, high = window
    if not np.isfinite([low, high]).all() or low >= high:
        raise ValueError(
            f"window is {window}; give the value that becomes black, and a larger one that becomes white"
        )
    if not np.isfinite(values).all():
        raise ValueError("the volume holds values that are not finite")
    share = (values.astype(np.float64) - low) / (high - low)
    grey: NDArray[np.uint8] = np.rint(share.clip(0, 1) * 255).astype(np.uint8)
    return grey


def _picture(grey: NDArray[np.uint8], height: float, width: float) -> Image.Image:
    """A slice whose pixels are squares: the side with the larger steps is made longer."""
    picture = Image.fromarray(np.ascontiguousarray(grey))
    smallest = min(height, width)
    size = (
        max(1, round(picture.width * width / smallest)),
        max(1, round(picture.height * height / smallest)),
    )
    if size != picture.size:
        picture = picture.resize(size, Image.Resampling.BICUBIC)
    return picture.convert("RGB")


def _boxes(grey: NDArray[np.uint8], mask: NDArray[np.bool_]) -> list[NDArray[np.uint8]]:
    found = []
    for plane, inside in zip(grey, mask, strict=True):
        rows, columns = inside.any(axis=1).nonzero()[0], inside.any(axis=0).nonzero()[0]
        if len(rows):
            found.append(plane[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1])
    return found
