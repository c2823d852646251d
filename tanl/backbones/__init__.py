"""Vision-language models: pixels and words in, unit embeddings out. The one place that loads them by name."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .base import Backbone, BackboneError

if TYPE_CHECKING:
    import torch

__all__ = ["Backbone", "BackboneError", "load_backbone"]


def load_backbone(name: str, *, device: torch.device | str = "cpu", precision: str = "fp32") -> Backbone:
    """Load a vision-language model.

    Image preparation, tokenizer and logit scale are the model's own. Weights that open_clip publishes as trained with
    QuickGELU get it, whatever the architecture's name says.

    Args:
        name: ``"mini"`` (of pictograms) or ``"mini-photo"`` (of photographs), the small models that ship with tanl
            and need no network; or an open_clip model as ``"architecture/pretrained"``
            (``"ViT-B-16/openai"``; the second part may be a checkpoint file),
            ``"hf-hub:owner/model"`` or ``"local-dir:folder"``; or a dual encoder of transformers as
            ``"hf:owner/model"`` or ``"hf:folder"`` (CLIP, SigLIP, SigLIP 2, ALIGN, Chinese CLIP and their like).
        device: where to put it.
        precision: of the weights: "fp32", "fp16" or "bf16"; embeddings are float32 in any. open_clip's models keep
            normalisations in float32 where open_clip does; CoCa and those of transformers are cast whole.

    Raises:
        ValueError: no such architecture or pretrained tag; the message lists what there is; no such precision; a
            device that is not on this machine.
        TypeError: the model of transformers is no dual encoder.
        ImportError: a model of transformers without transformers.
        BackboneError: the weights cannot be fetched or read.
    """
    if isinstance(name, str) and name.startswith("hf:"):
        from .hugging_face import load_hugging_face

        return load_hugging_face(name, device=device, precision=precision)
    from .open_clip import load_open_clip

    return load_open_clip(name, device=device, precision=precision)
