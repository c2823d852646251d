"""Downsized latents: images from 1/4 and 1/8 of their sides, judged by their errors and by what came back."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from tanl.backbones import Backbone
from tanl.beyond.latents import Resampling, combined, reconstruct
from tanl.detectors import NegLabel
from tanl.labels.build import build_bank

from .images import Images, auroc


def measured(loaded: Mapping[str, Images], seeds: Sequence[int]) -> list[dict[str, Any]]:
    lines = []
    for name, track in (("photographs", "animals"), ("pictograms", "animals")):
        images = loaded[name]
        chosen = images.split.tracks[track].select(images.rows)
        inside = list(chosen.images)
        outside = sorted({index for _, members in chosen.ood.values() for index in members})
        outside = np.random.default_rng(seeds[0]).permutation(outside)[: 2 * len(inside)].tolist()
        bank = build_bank(images.backbone, chosen.classes)
        detector = NegLabel(bank)
        known = inside[::3]  # what p-values are measured by
        judged = [index for index in inside if index not in set(known)] + outside
        is_ood = torch.tensor([index in set(outside) for index in judged])
        pixels = torch.stack([_square(images.open(index)) for index in known + judged])
        for factor in (1, 4, 8):
            first = len(known)
            if factor == 1:
                z, rate = _embedded(images.backbone, pixels, None)
                scores, share = {"NegLabel": detector.score(z)}, 1.0
            else:
                codec = Resampling(factor)
                errors = reconstruct(pixels, codec.encode, codec.decode)
                share = errors.latent_share
                z, rate = _embedded(images.backbone, codec.encode(pixels), codec)
                scores = {"NegLabel": detector.score(z), "MSE": errors.mse, "1 - SSIM": 1 - errors.ssim}
                signals = [scores["NegLabel"], scores["MSE"]]
                joint = combined([each[first:] for each in signals], [each[:first] for each in signals])
                scores["NegLabel and MSE"] = torch.cat([torch.zeros(first, dtype=joint.dtype), joint])
            for method, values in scores.items():
                line: dict[str, Any] = {"images": name, "sides": f"1/{factor}", "score": method}
                line["AUROC"] = auroc(values[first:], is_ood)
                if method == "NegLabel":
                    line |= {"numbers kept %": 100 * share, "images/s": rate}
                lines.append(line)
    return lines


def _square(image: Image.Image) -> Tensor:
    array = (
        np.asarray(image.convert("RGB").resize((224, 224), Image.Resampling.BICUBIC), dtype=np.float32) / 255
    )
    return torch.from_numpy(array).permute(2, 0, 1)


def _embedded(backbone: Backbone, kept: Tensor, codec: Resampling | None) -> tuple[Tensor, float]:
    """Embeddings of what is kept of images, pixels or latents, and how many a second come of it."""
    start = time.perf_counter()
    found = []
    for part in torch.split(kept, 64):
        pixels = part if codec is None else codec.decode(part).clamp(0, 1)
        pictures = [
            Image.fromarray((each.permute(1, 2, 0) * 255).round().to(torch.uint8).numpy()) for each in pixels
        ]
        found.append(backbone.encode_images(torch.stack([backbone.preprocess(each) for each in pictures])))
    return torch.cat(found), len(kept) / (time.perf_counter() - start)
