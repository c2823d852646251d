"""Image embeddings on disk, so that a benchmark's images are encoded once for a backbone."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from os import PathLike

import torch
from PIL import Image
from torch import Tensor

from tanl.backbones import Backbone
from tanl.io.cache import cached_embeddings
from tanl.io.progress import Progress
from tanl.streams.batches import Ready
from tanl.streams.images import ImageEncoder, unreadable
from tanl.streams.pump import Pump

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
        pump = Pump(
            images(),
            lambda number, image: Ready(f"number {number} of {title}", backbone.preprocess(image)),
            ImageEncoder(backbone).encode,
            batch_size=_ENCODING_BATCH,
            refuse=unreadable,
        )
        batches: list[Tensor] = []
        try:
            with Progress(count, "images", title=title, quiet=not progress) as bar:
                for batch in pump:
                    assert batch.z is not None, "what cannot be used is raised"
                    batches.append(batch.z)
                    bar.update(len(batch.z))
        finally:
            pump.close()
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
