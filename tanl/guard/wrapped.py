"""GuardedModel: a guard that stands where its model stood."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from inspect import ismethod
from typing import Any

import torch
from torch import Tensor

from ..backbones import Backbone
from ..backbones.callables import CallableBackbone
from ..backbones.hugging_face import HuggingFaceBackbone
from ..backbones.open_clip import wrap_open_clip
from .guard import Guard, Images

# What a guard writes, even where a model has such a name too.
_OWN = frozenset({"backbone", "bank", "detector", "evidence"})


class GuardedModel(Guard):
    """A `Guard` that can replace its model in a code base; `Guard.wrap` makes it::

        model = tanl.Guard.wrap(model, preprocess, tokenizer, labels=["cat", "dog"])
        model(pixels, tokens)        # as before: the model's own answer
        model.encode_image(pixels)   # as before, as every other attribute of the model
        model([photo, "photo.jpg"])  # new: a Detection

    A call with one argument, by position, judges images as `Guard` does. Any other is the model's call, so that
    ``model(image=pixels)`` is open_clip's. What the guard has not, the model answers: attributes
    are read from it, and written to it where it has them. A method that returns the model (``eval``, ``to``,
    ``half``) returns the guarded one. The guard's own names (``encode``, ``calibrate``, ``reset``, ``bank``, ...) come
    first; the model itself is ``model``. It is no ``torch.nn.Module``: give ``model`` to what asks for one.

    Labels stay embedded as they were. After ``to(device)`` detections are refused until the model is back or
    wrapped anew. After ``half()`` images are compared with the labels of full precision, which changes scores by
    rounding. After ``train()`` detections are refused until ``eval()``.

    Of a pair of functions ``encode_image`` and ``encode_text`` are theirs; there is no model to call with images and
    texts, so that is a TypeError.
    """

    @property
    def model(self) -> Any:
        """The model itself, or the pair of functions as one object."""
        return self.backbone.model  # type: ignore[attr-defined]

    def __call__(self, *inputs: Any, **named: Any) -> Any:
        """One argument: judge images as `Guard` does, and learn from them. Otherwise: the model's own call.

        Raises:
            UnreadableImage, TypeError, ValueError: as `Guard` raises them; the model is on another device than the
                labels; a pair of functions is called with images and texts.
        """
        if len(inputs) == 1 and not named:
            return super().__call__(inputs[0])
        if not callable(self.model):
            raise TypeError(
                "a pair of functions is no model to call with images and texts; their logits are guard.backbone."
                "logit_scale * guard.backbone.encode_images(pixels) @ guard.backbone.encode_texts(texts).T"
            )
        return self.model(*inputs, **named)

    def encode(self, images: Images) -> Tensor:
        """Embed images, ``[B, D]`` unit rows, without judging them."""
        labels = self.bank.embeddings.device
        if self.backbone.device != labels:
            raise ValueError(
                f"the model is on {self.backbone.device}, but its labels were embedded on {labels}: move it back, "
                "or wrap it where it is"
            )
        return super().encode(images)

    def __getattr__(self, name: str) -> Any:
        # Copying and unpickling ask before there is a backbone, and for names that are the class's affair.
        if name.startswith("__") or "backbone" not in self.__dict__:
            raise AttributeError(f"{type(self).__name__} has no attribute {name!r}")
        value = getattr(self.model, name)
        return self._guarded(value) if ismethod(value) and value.__self__ is self.model else value

    def __dir__(self) -> list[str]:
        model = dir(self.model) if "backbone" in self.__dict__ else []
        return sorted({*super().__dir__(), *(name for name in model if not name.startswith("__"))})

    def __setattr__(self, name: str, value: Any) -> None:
        own = name.startswith("_") or name in _OWN or name in self.__dict__ or hasattr(type(self), name)
        if own or "backbone" not in self.__dict__ or not hasattr(self.model, name):
            super().__setattr__(name, value)
        else:
            setattr(self.model, name, value)

    def _guarded(self, method: Callable[..., Any]) -> Callable[..., Any]:
        """The model's method, which gives the guarded model where it gives the model."""

        @wraps(method)
        def call(*inputs: Any, **named: Any) -> Any:
            result = method(*inputs, **named)
            return self if result is self.model else result

        return call


def backbone_around(
    model: torch.nn.Module | tuple[Callable[[Tensor], Any], Callable[[Any], Any]],
    preprocess: Callable[..., Any],
    tokenizer: Callable[..., Any] | None,
) -> Backbone:
    """The backbone that fits what `Guard.wrap` is given.

    Raises:
        TypeError: it fits none.
    """
    if isinstance(model, tuple | list):
        if len(model) != 2:
            raise TypeError(f"a pair of functions is (encode_image, encode_text), not {len(model)} of them")
        return CallableBackbone(*model, preprocess, tokenizer)
    if tokenizer is None:
        raise TypeError(f"{type(model).__name__} needs its tokenizer; only a pair of functions goes without")
    if hasattr(model, "get_image_features") and not hasattr(model, "encode_image"):
        return HuggingFaceBackbone(model, preprocess, tokenizer)
    return wrap_open_clip(model, preprocess, tokenizer)
