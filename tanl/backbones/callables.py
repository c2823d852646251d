"""Two functions as a backbone: one embeds images, the other texts."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..checks import as_tensor, positive
from .base import ImageSize, image_size
from .checks import (
    check_callable,
    check_pixels,
    check_texts,
    one_image,
    probe_image,
    shortened,
    unit_rows,
    warn_if_random,
)
from .clip import PROBE_TEXTS, array_bytes
from .defaults import in_float32


@dataclass(frozen=True)
class Encoders:
    """What a `CallableBackbone` has in place of a model."""

    encode_image: Callable[[Tensor], Any]
    encode_text: Callable[[Any], Any]


class CallableBackbone:
    """Two functions that embed images and texts into one space: an exported model, a service, a model of any kind.

    The functions give ``[n, D]`` as a torch tensor or a NumPy array, of any floating dtype and of any norm. They are
    called without gradients, and give the same for an input whatever the others beside it.

    Args:
        encode_image: pixels ``[B, 3, H, W]``, on ``device``, to ``[B, D]``; called once with all pixels.
        encode_text: what ``tokenizer`` makes of n strings, or without one the list of strings itself, to ``[n, D]``;
            called with at most 256 texts. Tokens that are a tensor are moved to ``device``.
        preprocess: RGB PIL image to pixels ``[3, H, W]``, float32.
        tokenizer: list of n strings to what ``encode_text`` takes.
        logit_scale: what cosines are multiplied by (CLIP: 100).
        device: where pixels must be. Embeddings are moved there if they come from elsewhere (a NumPy array always
            does).
        name: what to call it in messages and caches.
        fingerprint: what tells it from any other; text embeddings in the cache are found by it. None: the SHA-256 of
            what the functions give for a few fixed texts and one fixed picture, as there are no weights to hash.
            A model that gives other last bits from run to run is then another model in each.

    Raises:
        TypeError: something that cannot be called, a scale that is no number.
        ValueError: a scale that is not positive and finite, an empty fingerprint.
    """

    def __init__(
        self,
        encode_image: Callable[[Tensor], Any],
        encode_text: Callable[[Any], Any],
        preprocess: Callable[[Image.Image], Tensor],
        tokenizer: Callable[[list[str]], Any] | None = None,
        *,
        logit_scale: float = 100.0,
        device: torch.device | str = "cpu",
        name: str = "callables",
        fingerprint: str | None = None,
    ) -> None:
        check_callable(encode_image, "encode_image")
        check_callable(encode_text, "encode_text")
        check_callable(preprocess, "preprocess")
        if tokenizer is not None:
            check_callable(tokenizer, "tokenizer")
        if fingerprint == "":
            raise ValueError("fingerprint is empty; give None to have it computed")
        self.model = Encoders(encode_image, encode_text)
        self.tokenizer = tokenizer
        self.logit_scale = float(positive(logit_scale, "logit_scale"))
        # "cuda" means the current one, which has a number, as the tensors on it have.
        self.device = torch.empty(0, dtype=torch.float32, device=device).device
        self.name = name
        self._preprocess = in_float32(preprocess)
        self._fingerprint = fingerprint
        warn_if_random(self.preprocess, preprocess)

    def __repr__(self) -> str:
        functions = f"{shortened(self.model.encode_image)}, {shortened(self.model.encode_text)}"
        return f"CallableBackbone({self.name!r}, {functions}, {self.device})"

    @cached_property
    def fingerprint(self) -> str:
        """The one that was given, or the SHA-256 of what the functions give for fixed inputs."""
        if self._fingerprint is not None:
            return self._fingerprint
        pixels = self.preprocess(probe_image())[None].to(self.device)
        digest = hashlib.sha256(b"callables\0")
        digest.update(array_bytes(self.encode_texts(PROBE_TEXTS)))
        digest.update(array_bytes(self.encode_images(pixels)))
        return digest.hexdigest()

    @cached_property
    def image_size(self) -> ImageSize:
        """The size of the pixels in, as preprocessing yields them."""
        return image_size(self.preprocess(Image.new("RGB", (64, 64))).shape)

    def preprocess(self, image: Image.Image) -> Tensor:
        """An RGB image to pixels ``[3, H, W]``.

        Raises:
            TypeError: the preprocessing gives something else.
        """
        return one_image(_as_tensor(self._preprocess(image)))

    @torch.no_grad()
    def encode_images(self, pixels: Tensor) -> Tensor:
        """Pixels ``[B, 3, H, W]`` to unit embeddings ``[B, D]``, float32.

        Raises:
            TypeError: pixels are no floating tensor, or ``encode_image`` gives no vector an image.
            ValueError: wrong shape or device, or no image.
        """
        check_pixels(pixels, self.image_size, self.device, self.name)
        return self._rows(self.model.encode_image(pixels), len(pixels), "encode_image")

    @torch.no_grad()
    def encode_texts(self, texts: Sequence[str], *, batch_size: int = 256) -> Tensor:
        """n texts to unit embeddings ``[n, D]``, float32, on ``device``.

        Raises:
            TypeError: one string in place of a list, something that is no string, or ``encode_text`` gives no vector
                a text.
            ValueError: no text.
        """
        check_texts(texts)
        rows: list[Tensor] = []
        for start in range(0, len(texts), batch_size):
            chosen = list(texts[start : start + batch_size])
            tokens = chosen if self.tokenizer is None else self.tokenizer(chosen)
            if isinstance(tokens, Tensor):
                tokens = tokens.to(self.device)
            rows.append(self._rows(self.model.encode_text(tokens), len(chosen), "encode_text"))
        return torch.cat(rows)

    def _rows(self, output: Any, count: int, what: str) -> Tensor:
        return unit_rows(_as_tensor(output), count, what).to(self.device)


def _as_tensor(output: Any) -> Any:
    """A NumPy array as a tensor, without a copy where torch can do so; anything else as it is."""
    return as_tensor(output, "the function's output") if isinstance(output, np.ndarray) else output
