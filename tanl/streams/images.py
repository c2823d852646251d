"""A stream of image files through a Guard: read in threads, judged in batches, broken ones in their place."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING

from ..io.images import UnreadableImage, read_image
from .batches import Batches
from .judging import Timings, judge_batches
from .results import Result

__all__ = ["Timings", "embed_files", "judge_files"]

if TYPE_CHECKING:
    from torch import Tensor

    from ..guard.guard import Guard


def judge_files(
    guard: Guard,
    paths: Iterable[str | PathLike[str]],
    *,
    batch_size: int = 64,
    timings: Timings | None = None,
) -> Iterator[list[Result]]:
    """Judge image files in the order given and yield a list of results a batch.

    A file that cannot be read gets a result with its ``error`` and takes no place in a batch.

    Args:
        guard: what judges them; a method with a stream learns from every batch.
        paths: image files.
        batch_size: readable images a batch, at least 1; the last batch may be smaller.
        timings: filled in as the stream goes.
    """
    timings = Timings() if timings is None else timings
    batches = embed_files(guard, paths, batch_size=batch_size, timings=timings)
    yield from judge_batches(batches, guard.detect_embeddings, timings)


def embed_files(
    guard: Guard,
    paths: Iterable[str | PathLike[str]],
    *,
    batch_size: int = 64,
    timings: Timings | None = None,
) -> Iterator[tuple[list[Result], Tensor | None]]:
    """Read and embed image files, batch by batch, without judging them.

    Yields:
        A result a file, with its ``error`` if it could not be read and nothing but its path otherwise, and
        the embeddings ``[B, D]`` of those without an error (None if there are none).
    """
    import torch

    timings = Timings() if timings is None else timings

    def prepare(number: int, path: str | PathLike[str]) -> tuple[Path, Tensor] | UnreadableImage:
        try:
            return Path(path), guard.backbone.preprocess(read_image(path))
        except UnreadableImage as error:
            return error

    batches = Batches(paths, prepare, batch_size=batch_size)
    try:
        for batch in batches:
            results = [
                Result(content.path, error=content.reason)
                if isinstance(content, UnreadableImage)
                else Result(content[0])
                for content in batch
            ]
            pixels = [content[1] for content in batch if not isinstance(content, UnreadableImage)]
            z = None
            if pixels:
                before = time.perf_counter()
                z = guard.encode(torch.stack(pixels).to(guard.backbone.device))
                timings.encoding += time.perf_counter() - before
                timings.images += len(pixels)
            yield results, z
    finally:
        batches.close()
