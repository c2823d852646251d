"""Any CLIP-like object as a backbone: it needs ``encode_image`` and ``encode_text``."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from .base import ImageSize, image_size
from .causal_text import causal_encoder, lengths
from .checks import (
    check_callable,
    check_evaluating,
    check_parts,
    check_pixels,
    check_texts,
    one_image,
    probe_image,
    unit_rows,
    warn_if_random,
)
from .defaults import in_float32, on_the_processor

PROBE_TEXTS = ("a photo of a dog", "The nice café.", "7 x")


class ClipBackbone:
    """A CLIP-like model with its preprocessing and tokenizer.

    Works with open_clip's models, OpenAI's ``clip`` and whatever follows their interface. The model is put into
    evaluation mode, here and for good, and otherwise left as it is: on its device, in its dtype (pixels are cast to
    that of the image tower's first layer, embeddings come back as float32), under an autocast if the caller has
    one on. A model that `torch.compile` wrapped is taken too; its encoders run uncompiled, as only its
    ``forward`` is compiled. ``model.visual = torch.compile(model.visual)`` compiles what embeds images.

    Texts are cut behind their end-of-text token where that changes nothing: for open_clip's causal text towers and
    OpenAI's ``clip``.

    SigLIP's bias is left out: it adds the same to every label's logit, so no softmax, and no share of labels,
    depends on it.

    Args:
        model: a torch module with ``encode_image(pixels)``, ``encode_text(tokens)`` and ``logit_scale``, the
            logarithm of the scale as a parameter.
        preprocess: RGB PIL image to pixels ``[3, H, W]``.
        tokenizer: list of n strings to tokens ``[n, L]``, the same L at every call.
        name: what to call it in messages and caches.

    Raises:
        TypeError: the model lacks ``encode_image``, ``encode_text`` or ``logit_scale``, or is no torch module;
            preprocess or tokenizer cannot be called.
    """

    def __init__(
        self,
        model: nn.Module,
        preprocess: Callable[[Image.Image], Tensor],
        tokenizer: Callable[[list[str]], Tensor],
        *,
        name: str = "wrapped",
    ) -> None:
        if not isinstance(model, nn.Module):
            raise TypeError(f"model must be a torch.nn.Module, not {type(model).__name__}")
        check_parts(model, ("encode_image", "encode_text", "logit_scale"), "a CLIP-like model has")
        check_callable(preprocess, "preprocess")
        check_callable(tokenizer, "tokenizer")
        self.name = name
        self.model: Any = model.eval()
        self._preprocess = preprocess
        self._to_pixels = in_float32(preprocess)
        self.tokenizer = tokenizer
        warn_if_random(self.preprocess, preprocess)

    def __repr__(self) -> str:
        return f"ClipBackbone({self.name!r}, {type(uncompiled(self.model)).__name__}, {self.device})"

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of weights, preprocessing and tokenizer, as they are when it is first asked for."""
        digest = hashlib.sha256(f"{type(uncompiled(self.model)).__name__}\0".encode())
        # The address of a function is another in every process: what it does is asked of a picture.
        if " at 0x" in (described := str(self._preprocess)):
            digest.update(array_bytes(self.preprocess(probe_image())))
        else:
            digest.update(described.encode())
        digest.update(self._activations().encode())
        digest.update(self._tokenizer_state())
        digest_weights(digest, self.model)
        return digest.hexdigest()

    @property
    def logit_scale(self) -> float:
        """What cosines are multiplied by."""
        return float(self.model.logit_scale.detach().float().exp())

    @property
    def image_size(self) -> ImageSize:
        """The size of the pixels in; read from the model, else from what preprocessing yields."""
        visual = getattr(self.model, "visual", None)
        size = getattr(visual, "image_size", None) or getattr(visual, "input_resolution", None)
        if size is None:
            size = self.preprocess(Image.new("RGB", (64, 64))).shape
        return image_size(size) if isinstance(size, Sequence) else int(size)

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        parameter: Tensor = next(self.model.parameters())
        return parameter.device

    def preprocess(self, image: Image.Image) -> Tensor:
        """An RGB image to pixels ``[3, H, W]``.

        Raises:
            TypeError: the preprocessing gives something else.
        """
        return one_image(self._to_pixels(image))

    @torch.no_grad()
    def encode_images(self, pixels: Tensor) -> Tensor:
        """Pixels ``[B, 3, H, W]`` to unit embeddings ``[B, D]``, float32; any B, in batches that suit the device.

        Raises:
            TypeError: pixels are no floating tensor, or the model gives no vector an image.
            ValueError: wrong shape or device, no image, or a model in training mode.
        """
        check_pixels(pixels, self.image_size, self.device, self.name)
        check_evaluating(self.model, self.name)
        dtype = image_dtype(self.model) or pixels.dtype
        rows = [
            unit_rows(self.model.encode_image(part.to(dtype)), len(part), "encode_image")
            for part in torch.split(pixels, images_at_once(self.device))
        ]
        return torch.cat(rows)

    @torch.no_grad()
    def encode_texts(self, texts: Sequence[str], *, batch_size: int = 256) -> Tensor:
        """n texts to unit embeddings ``[n, D]``, float32, on the model's device.

        Raises:
            TypeError: one string in place of a list, something that is no string, a tokenizer that gives no tensor,
                or a model that gives no vector a text.
            ValueError: no text, or a model in training mode.
        """
        check_texts(texts)
        check_evaluating(self.model, self.name)
        tokens = torch.cat([self._tokens(texts[i : i + 4096]) for i in range(0, len(texts), 4096)])
        # Asked at every call: a tower that was compiled, or replaced, since then answers itself.
        cut = causal_encoder(uncompiled(self.model))
        ends = lengths(tokens) if cut is not None else torch.full_like(tokens[:, 0], tokens.shape[1])
        # Texts of alike lengths are batched, so that little is padding.
        order = ends.sort(stable=True).indices
        rows: list[Tensor] = []
        for chosen in torch.split(order, batch_size):
            part = tokens[chosen, : int(ends[chosen].max())].to(self.device)
            features = self.model.encode_text(part) if cut is None else cut(part)
            rows.append(unit_rows(features, len(chosen), "encode_text"))
        embeddings = torch.cat(rows)
        return torch.empty_like(embeddings).index_copy_(0, order.to(embeddings.device), embeddings)

    def _tokens(self, texts: Sequence[str]) -> Tensor:
        with on_the_processor():
            tokens = self.tokenizer(list(texts))
        if not isinstance(tokens, Tensor) or tokens.ndim != 2 or len(tokens) != len(texts):
            found = list(tokens.shape) if isinstance(tokens, Tensor) else type(tokens).__name__
            raise TypeError(
                f"the tokenizer gives {found} for {len(texts)} texts, not a torch.Tensor [{len(texts)}, L]; "
                "open_clip.get_tokenizer(...) and clip.tokenize do"
            )
        return tokens

    def _tokenizer_state(self) -> memoryview | bytes:
        """What the tokenizer makes of a few texts: another one must not meet embeddings that this one has cached."""
        return array_bytes(self._tokens(PROBE_TEXTS))

    def _activations(self) -> str:
        # Weights do not tell QuickGELU from GELU, which the same architecture has with other weights.
        return (
            "QuickGELU\0" if any(type(part).__name__ == "QuickGELU" for part in self.model.modules()) else ""
        )


def uncompiled(model: Any) -> Any:
    """The model that `torch.compile` wrapped, or itself."""
    return getattr(model, "_orig_mod", model)


def digest_weights(digest: Any, model: nn.Module) -> None:
    """Add the weights to a hash; a model, or a part of one, that `torch.compile` wrapped adds the same."""
    for key, value in model.state_dict().items():
        digest.update(f"{key.replace('_orig_mod.', '')}\0{tuple(value.shape)}\0{value.dtype}".encode())
        digest.update(array_bytes(value))


def array_bytes(values: Tensor) -> memoryview:
    """The bytes of a tensor on any device, for a hash."""
    return values.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data


def images_at_once(device: torch.device) -> int:
    """A processor keeps the activations of few images in its cache; an accelerator wants many."""
    return 8 if device.type == "cpu" else 256


def image_dtype(model: nn.Module) -> torch.dtype | None:
    """What the image tower takes: the dtype of its first convolution, else of its first matrix, if it has one.

    The first of all parameters may be a scale or an embedding that half precision leaves in float32.
    """
    towers = (getattr(model, name, None) for name in ("visual", "vision_model"))
    tower = next((part for part in towers if isinstance(part, nn.Module)), model)
    for kind in (nn.Conv2d, nn.Linear):
        for part in tower.modules():
            if isinstance(part, kind):
                return part.weight.dtype
    return next((p.dtype for p in tower.parameters() if p.is_floating_point()), None)
