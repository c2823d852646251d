"""A stream of image files through a Guard: read in threads, judged in batches, broken ones in their place."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from os import PathLike
from typing import TYPE_CHECKING

from .images import UnreadableImage, read_images
from .results import Result

if TYPE_CHECKING:
    from torch import Tensor

    from .guard import Guard, Verdict


@dataclass
class Timings:
    """Where the time of a stream went, in seconds of wall clock.

    ``total`` runs from the first file to the last verdict; what is neither ``encoding`` nor ``scoring`` was
    spent waiting for files, or in the consumer.
    """

    images: int = 0
    total: float = 0.0
    encoding: float = 0.0
    scoring: float = 0.0

    @property
    def images_per_second(self) -> float:
        return self.images / self.total if self.total else 0.0

    @property
    def scoring_share(self) -> float:
        return self.scoring / self.total if self.total else 0.0


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
    started = time.perf_counter()
    for results, z in embed_files(guard, paths, batch_size=batch_size, timings=timings):
        before = time.perf_counter()
        verdicts = iter(() if z is None else guard.detect_embeddings(z))
        timings.scoring += time.perf_counter() - before
        judged = [
            result if result.error is not None else _judged(result, next(verdicts)) for result in results
        ]
        timings.total = time.perf_counter() - started
        yield judged


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

    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}")
    timings = Timings() if timings is None else timings
    results: list[Result] = []
    pixels: list[Tensor] = []

    def embedded() -> Tensor | None:
        if not pixels:
            return None
        before = time.perf_counter()
        z = guard.encode(torch.stack(pixels))
        timings.encoding += time.perf_counter() - before
        timings.images += len(pixels)
        return z

    for path, content in read_images(paths, transform=guard.backbone.preprocess):
        if isinstance(content, UnreadableImage):
            results.append(Result(path, error=content.reason))
            continue
        results.append(Result(path))
        pixels.append(content)
        if len(pixels) == batch_size:
            yield results, embedded()
            results, pixels = [], []
    if results:
        yield results, embedded()


def _judged(result: Result, verdict: Verdict) -> Result:
    return Result(
        result.path,
        label=verdict.label,
        id_probability=verdict.id_probability,
        ood_score=verdict.ood_score,
        is_ood=verdict.is_ood,
        evidence=verdict.evidence,
    )
