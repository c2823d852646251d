"""What goes into a backbone and comes out of what it wraps: checks, and their messages."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize


def check_callable(function: object, what: str) -> None:
    """Refuse what cannot be called, with a TypeError that names it."""
    if not callable(function):
        raise TypeError(f"{what} must be callable, not {function!r:.80}")


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
    pixels: object, size: int, device: torch.device, name: str, *, patches: tuple[int, int] | None = None
) -> None:
    """Refuse what is not pixels ``[B, 3, size, size]``, B >= 1, on the device of the backbone ``name``.

    Where an image may also be given as patches, their shape is ``patches``.
    """
    if not isinstance(pixels, Tensor) or not pixels.is_floating_point():
        what = pixels.dtype if isinstance(pixels, Tensor) else type(pixels).__name__
        raise TypeError(f"pixels must be a floating torch.Tensor, not {what}; see backbone.preprocess")
    shapes = [[3, size, size]] if patches is None else [[*patches], [3, size, size]]
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
