"""What goes into a backbone and comes out of what it wraps: checks, and their messages."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn.functional import normalize

from ..checks import is_dense
from .base import ImageSize, height_and_width

_CALLS = 8  # a flip with probability a half is then missed once in 128 times


def check_callable(function: object, what: str) -> None:
    """Refuse what cannot be called, with a TypeError that names it."""
    if not callable(function):
        raise TypeError(f"{what} must be callable, not {function!r:.80}")


def check_parts(model: nn.Module, parts: Sequence[str], what: str) -> None:
    """Refuse a model that lacks any of these attributes, by a TypeError that names its class, and ``what`` has them."""
    missing = [part for part in parts if not hasattr(model, part)]
    if not missing:
        return
    name = type(getattr(model, "_orig_mod", model)).__name__
    # DataParallel and DistributedDataParallel have a model as their module, what trains one under any name.
    inside = [(path.replace("_orig_mod.", ""), each) for path, each in model.named_modules() if path]
    fitting = [each for each in inside if all(hasattr(each[1], part) for part in parts)]
    for path, inner in fitting or [each for each in inside if each[0] == "module"]:
        kind = type(getattr(inner, "_orig_mod", inner)).__name__
        raise TypeError(f"{name} wraps a {kind} and has not its methods: give its .{path}")
    raise TypeError(f"{name} has no {', '.join(missing)}; {what} them")


def warn_if_random(preprocess: Callable[[Image.Image], object], transform: object) -> None:
    """Warn where an image does not get the same pixels at every call, as with the crops and flips of training.

    Args:
        preprocess: a backbone's, of which ``transform`` is what it calls; of a ``Compose`` the random part is named.
        transform: what the warning names.
    """
    found = _by_chance(transform) or _seen_to_be_random(preprocess, transform)
    if found is None:
        return
    warnings.warn(
        f"preprocess gives other pixels for the same image from call to call, by {shortened(found)}: it is for "
        "training. Give the one for evaluation (of open_clip.create_model_and_transforms the last), or scores differ "
        "from call to call",
        stacklevel=3,
    )


def _seen_to_be_random(preprocess: Callable[[Image.Image], object], transform: object) -> object:
    """The part of a transform that gives a picture other pixels at every call; None where all are the same."""
    image = probe_image()
    try:
        if not _is_random(preprocess, image):
            return None
        for part in getattr(transform, "transforms", ()):
            if _is_random(part, image):
                return part
            image = part(image)
    # What cannot take the picture is told by the first image that it is given.
    except Exception:
        return None
    return transform


def _by_chance(transform: object) -> object:
    """The part of a transform that it applies to a share ``p`` of the images, be it a small one; None without one."""
    share = getattr(transform, "p", None)
    if type(transform).__name__.startswith("Random") and isinstance(share, int | float) and 0 < share < 1:
        return transform
    parts = getattr(transform, "transforms", ())
    return next((found for part in parts if (found := _by_chance(part)) is not None), None)


def _is_random(function: Callable[[Image.Image], object], image: Any) -> bool:
    first = function(image)
    return not all(_same(function(image), first) for _ in range(_CALLS - 1))


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, Tensor):
        return isinstance(other, Tensor) and torch.equal(one.nan_to_num(), other.nan_to_num())
    return bool(np.array_equal(np.asarray(one), np.asarray(other)))


def shortened(thing: object) -> str:
    """A function's name, or what an object says of itself, without its address."""
    name = getattr(thing, "__qualname__", None)
    return name or re.sub(r"\s+", " ", re.sub(r" at 0x\w+", "", repr(thing)))[:120]


def probe_image() -> Image.Image:
    """The picture, the same at every call, that tells one preprocessing from another."""
    falling = Image.linear_gradient("L")
    return Image.merge("RGB", (falling, falling.rotate(90), Image.radial_gradient("L")))


def check_evaluating(model: nn.Module, name: str) -> None:
    """Refuse a model in training mode: dropout and batch statistics give other embeddings at every call."""
    if model.training:
        raise ValueError(
            f"the model of {name} is in training mode, which gives other embeddings; call its eval()"
        )


def one_image(pixels: object) -> Tensor:
    """What a preprocessing gives for an image, if that is pixels ``[3, H, W]``, or a TypeError that says what it is."""
    if not isinstance(pixels, Tensor) or pixels.ndim != 3:
        found = list(pixels.shape) if isinstance(pixels, Tensor) else type(pixels).__name__
        raise TypeError(f"preprocess gives {found} for an image, not a torch.Tensor [3, H, W]")
    return pixels


def check_pixels(
    pixels: object,
    size: ImageSize,
    device: torch.device,
    name: str,
    *,
    patches: tuple[int, int] | None = None,
) -> None:
    """Refuse what is not pixels ``[B, 3, H, W]`` of this size, B >= 1, on the device of the backbone ``name``.

    Where an image may also be given as patches, their shape is ``patches``.
    """
    if isinstance(pixels, Tensor) and not is_dense(pixels):
        raise TypeError("pixels must be a dense tensor, not a nested, sparse or quantized one")
    if not isinstance(pixels, Tensor) or not pixels.is_floating_point():
        what = pixels.dtype if isinstance(pixels, Tensor) else type(pixels).__name__
        raise TypeError(f"pixels must be a floating torch.Tensor, not {what}; see backbone.preprocess")
    whole = [3, *height_and_width(size)]
    shapes = [whole] if patches is None else [[*patches], whole]
    if pixels.ndim == 0 or len(pixels) == 0 or list(pixels.shape[1:]) not in shapes:
        wanted = " or ".join(f"[B, {', '.join(map(str, shape))}]" for shape in shapes)
        raise ValueError(f"pixels must have shape {wanted} with B >= 1, not {list(pixels.shape)}")
    if pixels.device != device:
        raise ValueError(f"pixels are on {pixels.device}, but {name} is on {device}; move one with .to(...)")


def check_texts(texts: Sequence[str]) -> None:
    """Refuse what is not a list of one or more strings."""
    if isinstance(texts, str) or not all(isinstance(text, str) for text in texts):
        raise TypeError(f"texts must be a list of strings, not {texts!r:.80}")
    if not texts:
        raise ValueError("no texts to encode")


def unit_rows(features: object, count: int, what: str) -> Tensor:
    """An encoder's output ``[count, D]`` as float32 unit rows, or a TypeError that says what it gave."""
    if not isinstance(features, Tensor) or features.ndim != 2 or len(features) != count:
        found = list(features.shape) if isinstance(features, Tensor) else type(features).__name__
        raise TypeError(f"{what} gives {found} for {count} inputs, not a tensor [{count}, D]")
    return normalize(features.float(), dim=1)
