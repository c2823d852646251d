"""Volumes: the slices of a scan judged by a guard, and what they say of the whole.

MASS (Gao et al. 2026, arXiv 2603.13660) learns from volumes and masks to segment what an example shows. Here volumes
and masks become questions to a guard; in-context segmentation itself is out of scope, and masks come from the caller.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from os import PathLike
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from ..checks import whole_number
from ..detectors.verdict import Detection
from ..guard.guard import Guard
from ..io.dicom import DicomFile
from ..io.levels import to_8_bits
from ..io.paths import local_path
from ..io.text import shown_path

Aggregate = Literal["top", "max", "mean"]
Grey = NDArray[Any]


@dataclass(frozen=True)
class Volume:
    """Numbers with the distances between them.

    Attributes:
        values: ``[D, H, W]``.
        spacing: millimetres, or any one unit, between neighbours along each axis.
    """

    values: Grey
    spacing: tuple[float, float, float] = (1.0, 1.0, 1.0)


@dataclass(frozen=True)
class VolumeVerdict:
    """What was said of a volume.

    Attributes:
        ood_score: of the whole, as its slices' were put together.
        slices: verdict, best label and evidence of each slice, in order.
        regions: for each of the caller's masks the score of what lies inside, put together in the same way; NaN where
            the mask is empty.
    """

    ood_score: float
    slices: Detection
    regions: Mapping[str, float]

    @property
    def flagged(self) -> list[int]:
        """Which slices are flagged; none without a threshold."""
        is_ood = self.slices.is_ood
        return [] if is_ood is None else is_ood.nonzero()[:, 0].tolist()


def score_volume(
    guard: Guard,
    volume: Volume | Grey,
    *,
    axis: int = 0,
    window: tuple[float, float] | None = None,
    aggregate: Aggregate = "top",
    k: int = 3,
    masks: Mapping[str, NDArray[np.bool_]] | None = None,
) -> VolumeVerdict:
    """Judge the slices of a volume as one batch; the guard learns nothing.

    Slices are resized so that a pixel is as high as it is wide. Greys go through ``window``, or all together by the one
    rule for levels (`tanl.io.levels.to_8_bits`), so that slices stay comparable.

    Args:
        guard: of the classes that slices may show.
        volume: numbers ``[D, H, W]``, with or without spacing.
        axis: along which it is cut.
        window: the values that become black and white.
        aggregate: "top" is the mean of the k highest slices, which a few foreign slices move and one noisy one does
            not decide alone; "max", "mean".
        k: of "top"; all slices if there are fewer.
        masks: regions ``[D, H, W]`` by name. Of each slice that a region meets, its bounding box there is judged.

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
    k = whole_number(k, "k", at_least=1)
    if aggregate not in ("top", "max", "mean"):
        raise ValueError(f"aggregate is {aggregate!r}; use 'top', 'max' or 'mean'")
    for name, mask in (masks or {}).items():
        if mask.shape != values.shape or mask.dtype != np.bool_:
            raise ValueError(
                f"the mask {name!r} is {mask.dtype} {list(mask.shape)}; it must be bool {list(values.shape)}"
            )
    grey = np.moveaxis(_levels(values, window), axis, 0)
    height, width = (step for place, step in enumerate(volume.spacing) if place != axis)
    detection = _detection(guard, [_picture(each, height, width) for each in grey])
    regions = {}
    for name, mask in (masks or {}).items():
        crops = [_picture(crop, height, width) for crop in _boxes(grey, np.moveaxis(mask, axis, 0))]
        regions[name] = _together(_detection(guard, crops).ood_score, aggregate, k) if crops else float("nan")
    return VolumeVerdict(_together(detection.ood_score, aggregate, k), detection, regions)


def read_volume(path: str | PathLike[str]) -> Volume:
    """Read a NIfTI file, a NumPy file, or a folder with the DICOM files of one series, ordered by their positions.

    DICOM greys come as a viewer shows them, rescaled and windowed: a ``window`` of `score_volume` is for the others.

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


def _levels(values: Grey, window: tuple[float, float] | None) -> NDArray[np.uint8]:
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


def _detection(guard: Guard, pictures: Sequence[Image.Image]) -> Detection:
    return guard.detect_embeddings(guard.encode(list(pictures)), learn=False)


def _together(scores: Tensor, aggregate: Aggregate, k: int) -> float:
    if aggregate == "mean":
        return float(scores.double().mean())
    count = 1 if aggregate == "max" else min(k, len(scores))
    return float(torch.topk(scores.double(), count).values.mean())
