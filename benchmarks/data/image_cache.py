"""Image embeddings on disk, so that a benchmark's images are encoded once for a backbone."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from os import PathLike

import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from tanl.backbones import Backbone
from tanl.io.cache import cached_embeddings

_ENCODING_BATCH = 64


def cached_image_embeddings(
    backbone: Backbone,
    images: Callable[[], Iterable[Image.Image]],
    *,
    count: int,
    fingerprint: str,
    cache_dir: str | PathLike[str] | None = None,
    progress: bool = False,
    title: str = "images",
) -> Tensor:
    """Embeddings ``[count, D]`` of images, read from the cache or encoded and kept there.

    Args:
        backbone: what encodes them; its fingerprint is part of the cache's key.
        images: gives the RGB images, in order; called only where the cache has nothing.
        count: how many images there are.
        fingerprint: what tells these images from others, such as the hash of their files' hashes.
        cache_dir: None is the user's cache folder (``TANL_CACHE``).
        progress: show a progress bar.
        title: the bar's.
    """

    def encode() -> Tensor:
        bar = tqdm(images(), total=count, desc=title, disable=not progress)
        batches = [
            backbone.encode_images(torch.stack(pixels).to(backbone.device))
            for pixels in _batches(backbone.preprocess(image) for image in bar)
        ]
        embeddings = torch.cat(batches)
        if len(embeddings) != count:
            raise ValueError(f"{count} images were announced, but there are {len(embeddings)}")
        return embeddings

    return cached_embeddings(
        encode,
        kind="images",
        key=(backbone.fingerprint, fingerprint),
        rows=count,
        about={"backbone": backbone.name, "title": title},
        cache_dir=cache_dir,
    ).to(backbone.device)


def _batches(pixels: Iterable[Tensor]) -> Iterator[list[Tensor]]:
    batch: list[Tensor] = []
    for image in pixels:
        batch.append(image)
        if len(batch) == _ENCODING_BATCH:
            yield batch
            batch = []
    if batch:
        yield batch
