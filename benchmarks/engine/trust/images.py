"""The images of long streams: seeded variants of the pictograms of one ID set, and of what is foreign to it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from tanl.backbones import Backbone
from tanl.labels.bank import LabelBank
from tanl.labels.build import build_bank

from ...data.augment import fingerprint, variant
from ...data.image_cache import cached_image_embeddings
from ...data.shipped import open_image
from ...pictograms import manifest
from ...pictograms.tracks import TRACKS

SHARES = (0.0, 0.01, 0.1, 0.5, 0.9)
"""Of outliers in a stream."""
SIZES = (20, 50, 150, 500)
"""Calibration images, of which the larger sets hold the smaller ones."""
FLOOD = 600
"""Images of an attack."""
_EVERY = 6  # every sixth drawing of the ID set is for calibration


@dataclass(frozen=True)
class Images:
    """Embeddings of one ID set's variants and of its outliers'.

    Attributes:
        bank: the labels.
        inside: ID images, ``[n, D]``, those of one drawing far apart.
        target: which of these are of the ID class that attacks aim at, ``[n]`` bool.
        known: ID images of other drawings, for calibration, ``[max(SIZES), D]``.
        outside: OOD images, ``[m, D]``.
        hidden: which of these are of the OOD kind that attacks hide, ``[m]`` bool.
        noisy: pictures of the target class under heavy noise, ``[FLOOD, D]``.
        halfway: pictures of the target class mixed with OOD images, half and half, ``[FLOOD, D]``.
    """

    bank: LabelBank
    inside: Tensor
    target: Tensor
    known: Tensor
    outside: Tensor
    hidden: Tensor
    noisy: Tensor
    halfway: Tensor


def images_of(backbone: Backbone, track: str, length: int, seed: int, progress: bool) -> Images:
    """The images of an ID set: enough for streams of ``length``, their variants by ``seed``. Embeddings are kept."""
    rows = manifest.read_manifest(manifest.FOLDER)
    chosen = TRACKS[track].select(rows)
    class_of = dict(zip(chosen.images, chosen.targets, strict=True))
    known = chosen.images[::_EVERY]
    apart = set(known)
    inside = [image for image in chosen.images if image not in apart]
    outside = sorted({member for _, members in chosen.ood.values() for member in members})
    outside = np.random.default_rng(seed).permutation(outside).tolist()  # all kinds of them in any number
    [(target, _)] = Counter(class_of[image] for image in inside).most_common(1)
    aimed_at = [image for image in inside if class_of[image] == target]
    hidden = set(chosen.ood[max(chosen.ood, key=lambda name: len(chosen.ood[name][1]))][1])
    others = iter(outside * (FLOOD // len(outside) + 1))

    def embedded(title: str, wanted: list[int], count: int, changed: Callable[..., Image.Image]) -> Tensor:
        def made() -> Iterator[Image.Image]:
            for number in range(count):
                row = wanted[number % len(wanted)]
                generator = np.random.default_rng([seed, row, number // len(wanted)])
                yield changed(opened(row), generator)

        own = "\0".join([title, str(count), *(rows[row].sha256 for row in wanted)])
        return cached_image_embeddings(
            backbone, made, count=count, fingerprint=fingerprint(own, seed), progress=progress, title=title
        )

    def opened(row: int) -> Image.Image:
        return open_image(manifest.FOLDER, rows[row])

    def mixed(image: Image.Image, generator: np.random.Generator) -> Image.Image:
        one, other = variant(image, generator), variant(opened(next(others)), generator)
        return Image.blend(one, other.resize(one.size), 0.5)

    def whether(which: Collection[int], of: list[int], count: int) -> Tensor:
        return torch.tensor([of[number % len(of)] in which for number in range(count)])

    num_ood = round(max(SHARES) * length)
    return Images(
        build_bank(backbone, chosen.classes, progress=progress),
        embedded(f"{track}, ID", inside, length, variant),
        whether(set(aimed_at), inside, length),
        embedded(f"{track}, calibration", known, max(SIZES), variant),
        embedded(f"{track}, OOD", outside, num_ood, variant),
        whether(hidden, outside, num_ood),
        embedded(f"{track}, noisy", aimed_at, FLOOD, _noisy),
        embedded(f"{track}, halfway", aimed_at, FLOOD, mixed),
    )


def _noisy(image: Image.Image, generator: np.random.Generator) -> Image.Image:
    """A variant under Gaussian noise with a standard deviation of 60 of 255."""
    pixels = np.asarray(variant(image, generator), dtype=np.float32)
    noisy = pixels + generator.normal(0, 60, pixels.shape).astype(np.float32)
    return Image.fromarray(noisy.clip(0, 255).astype(np.uint8))
