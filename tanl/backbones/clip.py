"""Any CLIP-like object as a backbone: it needs ``encode_image`` and ``encode_text``."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import normalize
from tqdm import tqdm

# A processor keeps the activations of few images in its cache; an accelerator wants many at once.
_CPU_BATCH = 8
_ACCELERATOR_BATCH = 256


class ClipBackbone:
    """A CLIP-like model with its preprocessing and tokenizer.

    Works with open_clip's models, OpenAI's ``clip`` and whatever follows their interface. The model is put in
    evaluation mode and otherwise left as it is.

    Args:
        model: a torch module with ``encode_image(pixels)``, ``encode_text(tokens)`` and ``logit_scale``, the
            logarithm of the scale as a parameter.
        preprocess: RGB PIL image to pixels ``[3, H, W]``.
        tokenizer: list of n strings to tokens ``[n, L]``.
        name: what to call it in messages and caches.

    Raises:
        TypeError: the model lacks ``encode_image``, ``encode_text`` or ``logit_scale``, or is no torch module.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        preprocess: Callable[[Image.Image], Tensor],
        tokenizer: Callable[[list[str]], Tensor],
        *,
        name: str = "wrapped",
    ) -> None:
        if not isinstance(model, torch.nn.Module):
            raise TypeError(f"model must be a torch.nn.Module, not {type(model).__name__}")
        missing = [
            part for part in ("encode_image", "encode_text", "logit_scale") if not hasattr(model, part)
        ]
        if missing:
            raise TypeError(f"{type(model).__name__} has no {', '.join(missing)}; a CLIP-like model has them")
        self.name = name
        self.model: Any = model.eval()
        self._preprocess = preprocess
        self.tokenizer = tokenizer

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of weights and preprocessing."""
        digest = hashlib.sha256(f"{type(self.model).__name__}\0{self._preprocess}".encode())
        for key, value in self.model.state_dict().items():
            digest.update(f"{key}\0{tuple(value.shape)}\0{value.dtype}".encode())
            digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
        return digest.hexdigest()

    @property
    def logit_scale(self) -> float:
        """What cosines are multiplied by."""
        return float(self.model.logit_scale.detach().float().exp())

    @property
    def image_size(self) -> int:
        """Height and width of the pixels in; read from the model, else from what preprocessing yields."""
        visual = getattr(self.model, "visual", None)
        size = getattr(visual, "image_size", None) or getattr(visual, "input_resolution", None)
        if size is None:
            size = self._preprocess(Image.new("RGB", (64, 64))).shape[-1]
        return int(size[0] if isinstance(size, tuple | list) else size)

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        parameter: Tensor = next(self.model.parameters())
        return parameter.device

    def preprocess(self, image: Image.Image) -> Tensor:
        """An RGB image to pixels ``[3, H, W]``."""
        return self._preprocess(image)

    @torch.no_grad()
    def encode_images(self, pixels: Tensor) -> Tensor:
        """Pixels ``[B, 3, H, W]`` to unit embeddings ``[B, D]``, float32; any B, in batches that suit the device.

        Raises:
            TypeError: pixels are no floating tensor.
            ValueError: wrong shape or device, or no image.
        """
        if not isinstance(pixels, Tensor) or not pixels.is_floating_point():
            what = pixels.dtype if isinstance(pixels, Tensor) else type(pixels).__name__
            raise TypeError(f"pixels must be a floating torch.Tensor, not {what}; see backbone.preprocess")
        size = self.image_size
        if pixels.ndim != 4 or len(pixels) == 0 or pixels.shape[1:] != (3, size, size):
            raise ValueError(
                f"pixels must have shape [B, 3, {size}, {size}] with B >= 1, not {list(pixels.shape)}"
            )
        if pixels.device != self.device:
            raise ValueError(f"pixels are on {pixels.device}, but {self.name} is on {self.device}")
        dtype = next(self.model.parameters()).dtype
        size = _CPU_BATCH if pixels.device.type == "cpu" else _ACCELERATOR_BATCH
        features = [self.model.encode_image(part.to(dtype)).float() for part in torch.split(pixels, size)]
        return normalize(torch.cat(features), dim=1)

    @torch.no_grad()
    def encode_texts(
        self, texts: Sequence[str], *, batch_size: int = 256, progress: bool = False, title: str = "texts"
    ) -> Tensor:
        """n texts to unit embeddings ``[n, D]``, float32, on the model's device.

        Raises:
            TypeError: one string in place of a list, or something that is no string.
            ValueError: no text.
        """
        if isinstance(texts, str) or not all(isinstance(text, str) for text in texts):
            raise TypeError(f"texts must be a list of strings, not {texts!r:.80}")
        if not texts:
            raise ValueError("no texts to encode")
        tokens = torch.cat([self.tokenizer(list(texts[i : i + 4096])) for i in range(0, len(texts), 4096)])
        order = self._lengths(tokens).sort(stable=True).indices
        rows: list[Tensor] = []
        with tqdm(total=len(texts), desc=f"Embedding {title}", unit="texts", disable=not progress) as bar:
            for start in range(0, len(order), batch_size):
                chosen = tokens[order[start : start + batch_size]]
                rows.append(normalize(self._encode_tokens(chosen.to(self.device)).float(), dim=1))
                bar.update(len(chosen))
        embeddings = torch.cat(rows)
        return torch.empty_like(embeddings).index_copy_(0, order.to(embeddings.device), embeddings)

    def _lengths(self, tokens: Tensor) -> Tensor:
        """How many tokens of each row the model must see, ``[n, L] -> [n]``; texts of alike lengths are batched."""
        return torch.full((len(tokens),), tokens.shape[1])

    def _encode_tokens(self, tokens: Tensor) -> Tensor:
        features: Tensor = self.model.encode_text(tokens)
        return features
