"""Embeddings of an image's patches, beside the image's own, from open_clip's vision transformers."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

from .clip import ClipBackbone


@torch.no_grad()
def encode_images_local(backbone: ClipBackbone, pixels: Tensor) -> tuple[Tensor, Tensor]:
    """Pixels to embeddings of the images and of their patches, in one pass.

    A patch's embedding is what the last block makes of it when every token attends to itself alone, then the
    final normalisation and the projection: value features in place of attended ones, as in the published code
    of GL-MCM (arXiv 2304.04521), after MaskCLIP (arXiv 2112.01071).

    Args:
        backbone: a `ClipBackbone` around an open_clip model with a vision transformer.
        pixels: ``[B, 3, H, W]``, as `ClipBackbone.encode_images` takes them.

    Returns:
        The images' embeddings ``[B, D]``, which are those of ``backbone.encode_images``, and their patches'
        ``[B, P, D]``, row after row of the image; unit rows, float32.

    Raises:
        TypeError: the backbone's image tower has no patch tokens in the space of its embeddings.
        ValueError: unusable pixels.
    """
    visual = _tower(backbone)
    block = visual.transformer.resblocks[-1]
    parts: list[Tensor] = []

    def keep(_: Any, inputs: tuple[Tensor, ...]) -> None:
        parts.append(_patches(visual, inputs[0]))

    hook = block.register_forward_pre_hook(keep)
    try:
        images = backbone.encode_images(pixels)
    finally:
        hook.remove()
    return images, torch.cat(parts)


def _patches(visual: Any, tokens: Tensor) -> Tensor:
    """The last block's input to unit embeddings of the patches, ``[B, P, D]``."""
    transformer = visual.transformer
    length = tokens.shape[1 if transformer.batch_first else 0]
    only_itself = torch.full((length, length), -torch.inf, dtype=tokens.dtype, device=tokens.device)
    only_itself.fill_diagonal_(0.0)
    # forward(), not the call, which would come back to the hook that is running.
    tokens = transformer.resblocks[-1].forward(tokens, attn_mask=only_itself)
    if not transformer.batch_first:
        tokens = tokens.transpose(0, 1)
    patches = visual.ln_post(tokens[:, 1:])  # the class token comes first, always
    if visual.proj is not None:
        patches = patches @ visual.proj
    return normalize(patches.float(), dim=2)


def _tower(backbone: ClipBackbone) -> Any:
    """The backbone's vision transformer, if its patches share the space of its images."""
    from open_clip.transformer import VisionTransformer

    if not isinstance(backbone, ClipBackbone):
        raise TypeError(f"backbone must be a ClipBackbone, not {type(backbone).__name__}")
    visual = getattr(backbone.model, "visual", None)
    if not isinstance(visual, VisionTransformer):
        raise TypeError(
            f"{backbone.name} has the image tower {type(visual).__name__}, which gives no patch embeddings; "
            "they need one of open_clip's vision transformers, such as ViT-B-16"
        )
    if visual.attn_pool is not None:
        raise TypeError(
            f"{backbone.name} pools its patches by attention, so that they are not in the space of its embeddings; "
            "take a model that pools by its class token, such as ViT-B-16"
        )
    return visual
