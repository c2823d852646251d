"""Noise images: the outliers that TANL knows before it has seen any."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from .base import ImageSize, height_and_width

if TYPE_CHECKING:
    from . import Backbone


def noise_images(image_size: ImageSize, *, per_kind: int = 3, seed: int = 0) -> Tensor:
    """Images of five kinds of noise, as TANL's published code starts with them.

    Gaussian, uniform, Poisson(5), Gamma(2, 1), salt and pepper at 0.5; each kind scaled to [0, 1] by its own
    minimum and maximum. They go to the image encoder as they are, without its usual normalisation.

    Args:
        image_size: in pixels: a square's side, or height and width.
        per_kind: images of each kind.
        seed: of the generator.

    Returns:
        ``[5 * per_kind, 3, H, W]`` in [0, 1].
    """
    generator = torch.Generator("cpu").manual_seed(seed)
    shape = (per_kind, 3, *height_and_width(image_size))
    rate = torch.full(shape, 5.0, dtype=torch.float32, device="cpu")
    pairs = torch.empty(2, *shape, dtype=torch.float32, device="cpu")
    kinds = [
        torch.randn(shape, generator=generator, dtype=torch.float32, device="cpu"),
        torch.rand(shape, generator=generator, dtype=torch.float32, device="cpu"),
        torch.poisson(rate, generator=generator),
        # Gamma(2, 1) is the sum of two unit exponentials; torch's own sampler takes no generator.
        pairs.exponential_(generator=generator).sum(dim=0),
        (torch.rand(shape, generator=generator, dtype=torch.float32, device="cpu") > 0.5).float(),
    ]
    return torch.cat([(kind - kind.min()) / (kind.max() - kind.min()) for kind in kinds])


def noise_embeddings(backbone: Backbone, *, per_kind: int = 3, seed: int = 0) -> Tensor:
    """Embeddings of `noise_images`, ``[5 * per_kind, D]``: what `TANL` takes as ``initial_ood``."""
    images = noise_images(backbone.image_size, per_kind=per_kind, seed=seed)
    return backbone.encode_images(images.to(backbone.device))
