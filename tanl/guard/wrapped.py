"""GuardedModel: a guard that stands where its model stood."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import wraps
from inspect import ismethod
from os import PathLike
from typing import Any

import torch
from torch import Tensor

from ..backbones import Backbone
from ..backbones.callables import CallableBackbone
from ..backbones.clip import ClipBackbone
from ..backbones.hugging_face import HuggingFaceBackbone
from ..labels.corpus import Corpus
from ..streams.images import ImageEncoder
from .guard import Guard, Images, Method

Model = torch.nn.Module | tuple[Callable[[Tensor], Any], Callable[[Any], Any]]
"""A model that is loaded, or the two functions that embed images and texts."""

# What a guard writes, even where a model has such a name too.
_OWN = frozenset({"backbone", "bank", "detector", "evidence", "show_all"})


def wrap(
    model: Model,
    preprocess: Callable[..., Any],
    tokenizer: Callable[..., Any] | None,
    labels: Sequence[str],
    *,
    corpus: Corpus | str | PathLike[str] | Iterable[str] | None = "wordnet",
    method: Method = "tanl",
    settings: Mapping[str, Any] | None = None,
    templates: Mapping[str, str] | None = None,
    removal: str = "synonyms",
    id_images: Images | None = None,
    cache_dir: str | PathLike[str] | None = None,
    dtype: torch.dtype = torch.float32,
    evidence: int = 5,
    show_all: bool = False,
    progress: bool | None = None,
) -> GuardedModel:
    """A guard around a model that is already loaded, which can replace it; see `GuardedModel`.

    Args:
        model: a CLIP-like model as `ClipBackbone` takes it (open_clip's, OpenAI's ``clip``), which is put into
            evaluation mode; a dual encoder of transformers as `HuggingFaceBackbone` takes it; or a pair of functions
            ``(encode_image, encode_text)`` as `CallableBackbone` takes them. That has settings of its own:
            ``GuardedModel(CallableBackbone(...), labels)``.
        preprocess: an RGB PIL image to pixels ``[3, H, W]`` (of transformers: the image processor).
        tokenizer: a list of strings to what the model takes; None for a pair that takes the strings.
        labels: the ID classes.
        corpus: the negative labels, as `Guard` takes them.
        method: as `Guard` takes it.
        settings: of the method, as `Guard` takes them.
        templates: prompt per part of speech and for ID labels, as `Guard` takes them.
        removal: which words leave the corpus for the labels, as `Guard` takes it.
        id_images: a few images of the ID classes, as `Guard` takes them.
        cache_dir: where corpus embeddings are kept; None is the user's cache folder.
        dtype: what labels' embeddings are kept as, as `Guard` takes it.
        evidence: how many negative labels an OOD verdict comes with; 0 for none.
        show_all: name any negative label as evidence, as `Guard` takes it.
        progress: show a progress bar while the corpus is embedded, as `build_bank` takes it.

    Raises:
        TypeError: a model of another kind, or something that cannot be called; as `Guard` otherwise.
        ValueError: as `Guard`.
    """
    return GuardedModel(
        backbone_around(model, preprocess, tokenizer),
        labels,
        corpus=corpus,
        method=method,
        settings=settings,
        templates=templates,
        removal=removal,
        id_images=id_images,
        cache_dir=cache_dir,
        dtype=dtype,
        evidence=evidence,
        show_all=show_all,
        progress=progress,
    )


class GuardedModel(Guard):
    """A `Guard` that can replace its model in a code base; `tanl.wrap` makes it::

        model = tanl.wrap(model, preprocess, tokenizer, labels=["cat", "dog"])
        model(pixels, tokens)        # as before: the model's own answer
        model(pixels)                # as before, too: nothing is judged, and nothing learnt
        model.encode_image(pixels)   # as before, as every other attribute of the model
        model([photo, "photo.jpg"])  # new: a Detection
        model.judge(pixels)          # new: a Detection, of pixels as well

    A call that the model could answer is the model's: with a tensor, several arguments, or arguments by name. What no
    model takes, a list of photographs and paths alone, is judged as `Guard` judges it, and learnt from. `judge`,
    `score`, `predict` and `explain` take either.

    What the guard has not, the model answers: attributes are read from it, and written to it where it has them. A
    method that returns the model (``eval``, ``to``, ``half``) returns the guarded one. The guard's own names
    (``encode``, ``calibrate``, ``reset``, ``bank``, ...) come first; the model itself is ``model``. It is no
    ``torch.nn.Module``: give ``model`` to what asks for one.

    Labels stay embedded as they were. After ``to(device)`` detections are refused until the model is back or
    wrapped anew. After ``half()`` images are compared with the labels of full precision, which changes scores by
    rounding. After ``train()`` detections are refused until ``eval()``.

    Of a pair of functions ``encode_image`` and ``encode_text`` are theirs; there is no model to call with pixels or
    with images and texts, so that is a TypeError.
    """

    @property
    def model(self) -> Any:
        """The model itself, or the pair of functions as one object."""
        return self.backbone.model  # type: ignore[attr-defined]

    def __call__(self, *inputs: Any, **named: Any) -> Any:
        """One argument that is no tensor: judge images, and learn from them. Otherwise: the model's own call.

        Raises:
            UnreadableImage, TypeError, ValueError: as `Guard` raises them; the model is on another device than the
                labels; a pair of functions is called as a model.
        """
        if len(inputs) == 1 and not named and not isinstance(inputs[0], Tensor):
            return self.judge(inputs[0])
        if not callable(self.model):
            raise TypeError(
                "a pair of functions is no model to call: guard.judge(pixels) judges pixels, and their logits are "
                "guard.backbone.logit_scale * guard.encode(pixels) @ guard.backbone.encode_texts(texts).T"
            )
        return self.model(*inputs, **named)

    def _encoder(self, what: str = "the stream") -> ImageEncoder:
        return _AtItsLabels(self.backbone, self.bank.device, what=what)

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


class _AtItsLabels(ImageEncoder):
    """Refuses a model that has left the device of its labels."""

    def __init__(self, backbone: Backbone, labels: torch.device, *, what: str) -> None:
        super().__init__(backbone, what=what)
        self._labels = labels

    def encode_pixels(self, pixels: Tensor) -> Tensor:
        if self.backbone.device != self._labels:
            raise ValueError(
                f"the model is on {self.backbone.device}, but its labels were embedded on {self._labels}: move it "
                "back, or wrap it where it is"
            )
        return super().encode_pixels(pixels)


def backbone_around(
    model: Model,
    preprocess: Callable[..., Any],
    tokenizer: Callable[..., Any] | None,
) -> Backbone:
    """The backbone that fits what `wrap` is given: ``OwnGuardedModel(backbone_around(...), labels)``.

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
    return ClipBackbone(model, preprocess, tokenizer)
