"""Downsized latents: an encoder and decoder as a second signal, and as a cheaper road to embeddings.

MedVAE (Varma et al. 2025, arXiv 2502.14753) brings medical images to latents of a fraction of their size and back.
What its decoder cannot bring back is unlike what it was trained on, which is a signal of its own; and what it does
bring back can be embedded from less data. Any pair of functions serves; `Resampling` needs no model and is the
baseline.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import conv2d, interpolate

from ..checks import whole_number
from ..kernels.surroundings import undisturbed

Codec = Callable[[Tensor], Tensor]

_WINDOW, _SIGMA = 11, 1.5  # of SSIM, as its paper has them
_C1, _C2 = 0.01**2, 0.03**2
_AT_ONCE = 16  # images whose means are in memory


@dataclass(frozen=True)
class Reconstruction:
    """How well images came back.

    Attributes:
        mse: ``[B]`` mean squared error of pixels between 0 and 1.
        ssim: ``[B]`` structural similarity, 1 for the same image (Wang et al. 2004).
        latent_share: numbers of a latent for each of an image.
    """

    mse: Tensor
    ssim: Tensor
    latent_share: float


@undisturbed
def reconstruct(images: Tensor, encode: Codec, decode: Codec) -> Reconstruction:
    """Send images through an encoder and a decoder and compare.

    Args:
        images: ``[B, C, H, W]`` between 0 and 1, float32, sides of at least 11 pixels.
        encode: images to latents.
        decode: latents to images of the size that went in; values beyond 0 and 1 are cut.

    Raises:
        ValueError: images of another kind, or a decoder that gives another size.
    """
    if images.ndim != 4 or images.dtype != torch.float32 or min(images.shape[2:]) < _WINDOW:
        raise ValueError(
            f"images must be float32 [B, C, H, W] with sides of at least {_WINDOW}, not {images.dtype} "
            f"{list(images.shape)}"
        )
    if float(images.min()) < 0 or float(images.max()) > 1:
        raise ValueError("images must lie between 0 and 1: take pixels before the model's normalisation")
    latents = encode(images)
    back = decode(latents)
    if back.shape != images.shape:
        raise ValueError(f"the decoder gives {list(back.shape)} for images of {list(images.shape)}")
    back = back.float().clamp(0, 1)
    mse = (images - back).square().flatten(1).mean(dim=1)
    return Reconstruction(mse, ssim(images, back), latents[0].numel() / images[0].numel())


def ssim(a: Tensor, b: Tensor) -> Tensor:
    """Structural similarity ``[B]`` of images ``[B, C, H, W]`` between 0 and 1, mean over places and channels.

    Gaussian window of 11 pixels with deviation 1.5, places where it does not fit left out (Wang et al. 2004).
    """
    place = torch.arange(_WINDOW, dtype=torch.float64, device=a.device) - _WINDOW // 2
    bell = torch.exp(-(place**2) / (2 * _SIGMA**2))
    bell = bell / bell.sum()
    parts = zip(torch.split(a, _AT_ONCE), torch.split(b, _AT_ONCE), strict=True)
    return torch.cat([_ssim(x.double(), y.double(), bell) for x, y in parts])


def _ssim(a: Tensor, b: Tensor, bell: Tensor) -> Tensor:
    def mean(x: Tensor) -> Tensor:
        rows = conv2d(x.flatten(0, 1)[:, None], bell[None, None, :, None])  # the window is a product of two
        smooth = conv2d(rows, bell[None, None, None, :])
        return smooth.reshape(*x.shape[:2], *smooth.shape[2:])

    mean_a, mean_b = mean(a), mean(b)
    var_a, var_b = mean(a**2) - mean_a**2, mean(b**2) - mean_b**2
    both = mean(a * b) - mean_a * mean_b
    similar = ((2 * mean_a * mean_b + _C1) * (2 * both + _C2)) / (
        (mean_a**2 + mean_b**2 + _C1) * (var_a + var_b + _C2)
    )
    return similar.flatten(1).mean(dim=1).float()


@dataclass(frozen=True)
class Resampling:
    """A codec without a model: area means down by a factor, bicubic up again.

    Args:
        factor: of each side.
    """

    factor: int

    def __post_init__(self) -> None:
        object.__setattr__(self, "factor", whole_number(self.factor, "factor", at_least=2))

    def encode(self, images: Tensor) -> Tensor:
        """``[B, C, H, W]`` to ``[B, C, H / factor, W / factor]``; both sides must be multiples of the factor."""
        if images.shape[2] % self.factor or images.shape[3] % self.factor:
            raise ValueError(
                f"images of {list(images.shape[2:])} pixels cannot be parted into {self.factor}s"
            )
        return interpolate(images, scale_factor=1 / self.factor, mode="area")

    def decode(self, latents: Tensor) -> Tensor:
        """Back to the full size."""
        return interpolate(latents, scale_factor=float(self.factor), mode="bicubic", align_corners=False)


def combined(signals: Sequence[Tensor], references: Sequence[Tensor]) -> Tensor:
    """Several scores as one, each measured by what known ID images have (Fisher 1925).

    A score's p-value is the share of reference scores at or above it, itself counted: ``(1 + #{r >= s}) / (1 + n)``.
    The combination is the sum of ``-2 ln p``, larger for images that several signals find strange.

    Args:
        signals: ``[B]`` each, higher = more OOD.
        references: of each signal ``[n]`` scores of ID images.

    Raises:
        ValueError: other numbers of both, shapes that differ, or no reference.
    """
    if not signals or len(signals) != len(references):
        raise ValueError(
            f"{len(signals)} signals and {len(references)} references; give one for each, at least one"
        )
    total = torch.zeros_like(signals[0], dtype=torch.float64)
    for number, (signal, reference) in enumerate(zip(signals, references, strict=True)):
        if signal.shape != signals[0].shape or signal.ndim != 1 or reference.ndim != 1 or not len(reference):
            raise ValueError(
                f"signal {number} is {list(signal.shape)} and its reference {list(reference.shape)}; they must be "
                "[B] and [n]"
            )
        ordered = reference.double().sort().values
        above = len(ordered) - torch.searchsorted(ordered, signal.double(), right=False)
        total -= 2 * ((1 + above.double()) / (1 + len(ordered))).log()
    return total
