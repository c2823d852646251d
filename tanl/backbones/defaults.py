"""What torch makes where it is told neither dtype nor device: float32 on the processor, whatever the process has set.

``torch.set_default_dtype`` is one for all threads, and libraries set it while they load a model of half precision.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, cast

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.overrides import TorchFunctionMode

_ALWAYS = frozenset(
    (
        torch.empty,
        torch.empty_strided,
        torch.eye,
        torch.linspace,
        torch.logspace,
        torch.ones,
        torch.rand,
        torch.randn,
        torch.zeros,
    )
)
_OF_NUMBERS = frozenset((torch.arange, torch.as_tensor, torch.full, torch.scalar_tensor, torch.tensor))


class _InFloat32(TorchFunctionMode):
    """Makes float32 of what would be of the default dtype, in this thread."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if kwargs.get("dtype") is None:
            if func in _ALWAYS:
                return func(*args, **{**kwargs, "dtype": torch.float32})
            if func in _OF_NUMBERS and not any(
                isinstance(each, Tensor | np.ndarray | np.generic) for each in args
            ):
                made = func(*args, **kwargs)
                if made.is_floating_point() and made.dtype != torch.float32:
                    return func(*args, **{**kwargs, "dtype": torch.float32})
                return made
        return func(*args, **kwargs)


@contextmanager
def plain_defaults() -> Iterator[None]:
    """Within it, models are made in float32 on the processor, for them to be moved and cast afterwards."""
    with torch.device("cpu"), _InFloat32():
        yield


def on_the_processor() -> AbstractContextManager[Any]:
    """Within it, tensors are made on the processor where no device is told, as tokenizers and image processors do."""
    return nullcontext() if torch.get_default_device().type == "cpu" else torch.device("cpu")


def in_float32(preprocess: Callable[[Image.Image], Any]) -> Callable[[Image.Image], Any]:
    """A preprocessing whose pixels do not depend on the default dtype: torchvision's ``ToTensor``, which goes by it, is
    replaced, by itself and within ``Compose``. All else stays as it is.
    """
    kind: Any = type(preprocess)
    if not kind.__module__.startswith(("torchvision.transforms", "open_clip.transform")):
        return preprocess
    if kind.__name__ in ("ToTensor", "MaybeToTensor"):
        return _ToTensor(preprocess)
    if kind.__name__ == "Compose":
        parts: Any = vars(preprocess)["transforms"]
        return cast("Callable[[Image.Image], Any]", kind([in_float32(part) for part in parts]))
    return preprocess


class _ToTensor:
    """An 8-bit picture, as ``[channels, H, W]`` in [0, 1], as torchvision gives it by default."""

    def __init__(self, original: Callable[[Any], Any]) -> None:
        self.original = original

    def __call__(self, image: Any) -> Any:
        if not isinstance(image, Image.Image) or image.mode not in ("RGB", "L"):
            return self.original(image)
        levels = np.array(image, dtype=np.uint8).reshape(image.height, image.width, -1)
        return torch.from_numpy(levels).permute(2, 0, 1).contiguous().to(torch.float32).div(255)

    def __repr__(self) -> str:
        return repr(self.original)
