"""What long streams are made of: seeded variants of images that ship, or embeddings that are made up."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from tanl.backbones import Backbone
from tanl.backbones.noise import noise_embeddings
from tanl.labels.bank import LabelBank
from tanl.labels.build import build_bank

from ...data.augment import fingerprint, variant
from ...data.image_cache import cached_image_embeddings
from ...data.shipped import ShippedSplit, open_image
from ...data.structured import World

SHARES = (0.0, 0.01, 0.1, 0.5, 0.9)
"""Of outliers in a stream."""
SIZES = (20, 50, 150, 500)
"""Calibration images, of which the larger sets hold the smaller ones."""
FLOOD = 600
"""Images of an attack."""
_EVERY = 6  # every sixth picture of the ID set is for calibration


@dataclass(frozen=True)
class Images:
    """Embeddings of one ID set's images and of its outliers'.

    Attributes:
        bank: the labels.
        noise: images of noise, the known outliers that TANL starts from, ``[n, D]``.
        inside: ID images, ``[n, D]``, those of one picture far apart.
        target: which of these are of the ID class that attacks aim at, ``[n]`` bool.
        known: ID images of other pictures, for calibration, ``[max(SIZES), D]``.
        outside: OOD images, ``[m, D]``.
        hidden: which of these are of the OOD kind that attacks hide, ``[m]`` bool.
        noisy: pictures of the target class under heavy noise, ``[FLOOD, D]``.
        halfway: pictures of the target class mixed with OOD images, half and half, ``[FLOOD, D]``.
    """

    bank: LabelBank
    noise: Tensor
    inside: Tensor
    target: Tensor
    known: Tensor
    outside: Tensor
    hidden: Tensor
    noisy: Tensor
    halfway: Tensor


def variants_of(
    split: ShippedSplit, track: str, backbone: Backbone, *, length: int, seed: int, progress: bool = False
) -> Images:
    """Seeded variants of a split's pictures, as many as streams of that length take.

    Args:
        split: whose pictures.
        track: which of its ID sets.
        backbone: embeds them; what it embedded once is kept in the cache.
        length: images a stream.
        seed: of the variants.
        progress: show progress bars.
    """
    rows = split.read(split.folder)
    chosen = split.tracks[track].select(rows)
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
        return open_image(split.folder, rows[row])

    def mixed(image: Image.Image, generator: np.random.Generator) -> Image.Image:
        one, other = variant(image, generator), variant(opened(next(others)), generator)
        return Image.blend(one, other.resize(one.size), 0.5)

    def whether(which: Collection[int], of: list[int], count: int) -> Tensor:
        return torch.tensor([of[number % len(of)] in which for number in range(count)])

    num_ood = round(max(SHARES) * length)
    return Images(
        build_bank(backbone, chosen.classes, progress=progress),
        noise_embeddings(backbone),
        embedded(f"{track}, ID", inside, length, variant),
        whether(set(aimed_at), inside, length),
        embedded(f"{track}, calibration", known, max(SIZES), variant),
        embedded(f"{track}, OOD", outside, num_ood, variant),
        whether(hidden, outside, num_ood),
        embedded(f"{track}, noisy", aimed_at, FLOOD, _noisy),
        embedded(f"{track}, halfway", aimed_at, FLOOD, mixed),
    )


def made_up(outliers: str, *, length: int, seed: int) -> Images:
    """Embeddings with the structure of CLIP's, see `tanl.benchmarks.data.structured`.

    Args:
        outliers: "near", "far" or "both", half each.
        length: images a stream.
        seed: of the images; the labels are the same for every seed.
    """
    world, generator = World(), torch.Generator().manual_seed(seed)

    def drawn(classes: list[int], count: int) -> Tensor:
        return torch.tensor(classes)[torch.randint(len(classes), (count,), generator=generator)]

    near, far = (drawn(of, round(max(SHARES) * length)) for of in (world.near, world.far))
    every_other = torch.arange(len(near)) % 2 == 0
    outside = {"near": near, "far": far, "both": torch.where(every_other, near, far)}[outliers]
    inside = drawn(world.inside, length)
    aimed_at = torch.full((FLOOD,), world.inside[0])
    halfway = world.images(aimed_at, generator, mixed_with=outside[torch.arange(FLOOD) % len(outside)])
    return Images(
        world.bank,
        world.noise(generator),
        world.images(inside, generator),
        inside == world.inside[0],
        world.images(drawn(world.inside, max(SIZES)), generator),
        world.images(outside, generator),
        outside == outside[0],
        world.images(aimed_at, generator, signal=0.3),
        halfway,
    )


def _noisy(image: Image.Image, generator: np.random.Generator) -> Image.Image:
    """A variant under Gaussian noise with a standard deviation of 60 of 255."""
    pixels = np.asarray(variant(image, generator), dtype=np.float32)
    noisy = pixels + generator.normal(0, 60, pixels.shape).astype(np.float32)
    return Image.fromarray(noisy.clip(0, 255).astype(np.uint8))
