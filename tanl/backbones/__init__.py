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
            ``"hf-hub:owner/model"`` or ``"local-dir:folder"``; or a dual encoder of transformers as
            ``"hf:owner/model"`` or ``"hf:folder"`` (CLIP, SigLIP, SigLIP 2, ALIGN, Chinese CLIP and their like).
        device: where to put it.

    Raises:
        ValueError: no such architecture or pretrained tag; the message lists what there is.
        TypeError: the model of transformers is no dual encoder.
        ImportError: a model of transformers without transformers.
        BackboneError: the weights cannot be fetched or read.
    """
    if isinstance(name, str) and name.startswith("hf:"):
        from .hugging_face import load_hugging_face

        return load_hugging_face(name, device=device)
    from .open_clip import load_open_clip

    return load_open_clip(name, device=device)
