"""Vision-language models: pixels and words in, unit embeddings out. The one place that loads them by name."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .base import Backbone, BackboneError

if TYPE_CHECKING:
    import torch

__all__ = ["Backbone", "BackboneError", "load_backbone"]


def load_backbone(name: str, *, device: torch.device | str = "cpu") -> Backbone:
    """Load a vision-language model.

    Args:
        name: ``"mini"``, the small model that ships with tanl and needs no network; or an open_clip model as
            ``"architecture/pretrained"`` (``"ViT-B-16/openai"``; the second part may be a checkpoint file),
            ``"hf-hub:owner/model"`` or ``"local-dir:folder"``.
        device: where to put it.

    Raises:
        ValueError: no such architecture or pretrained tag; the message lists what there is.
        BackboneError: the weights cannot be fetched or read.
    """
    from .open_clip import load_open_clip

    return load_open_clip(name, device=device)
