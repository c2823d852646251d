"""A stream of embedding files through a detector: rows in batches, unusable ones in their place."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import torch

from ..checks import whole_number
from ..detectors.verdict import detect_embeddings
from .judging import Timings, judge_batches
from .results import Result

if TYPE_CHECKING:
    from torch import Tensor

    from ..detectors import Detector
    from ..io.embeddings import EmbeddingFile

_ROWS_AT_ONCE = 1024


def judge_embeddings(
    detector: Detector,
    files: Sequence[EmbeddingFile],
    *,
    batch_size: int = 64,
    normalize: bool = False,
    evidence: int = 5,
    timings: Timings | None = None,
) -> Iterator[list[Result]]:
    """Judge the rows of embedding files in their order and yield a list of results a batch.

    A row without a usable embedding gets a result with its ``error`` and takes no place in a batch. Batches go on
    from one file to the next. Results are named by the rows' ids; by the row's number where a file has none,
    after the file's path if there are several files.

    Args:
        detector: what judges them; a method with a stream learns from every batch.
        files: from `tanl.io.embeddings.open_embeddings`.
        batch_size: usable rows a batch, at least 1; the last batch may be smaller.
        normalize: bring rows to unit norm.
        evidence: how many negative labels an OOD verdict comes with; 0 for none.
        timings: filled in as the stream goes.

    Raises:
        ValueError: a file has another D than the detector's bank, before anything is judged; a row that is not of
            unit norm without ``normalize``; a damaged file.
    """
    timings = Timings() if timings is None else timings
    batches = embedding_batches(files, detector, batch_size=batch_size, normalize=normalize, timings=timings)
    return judge_batches(batches, lambda z: detect_embeddings(detector, z, evidence=evidence), timings)


def embedding_batches(
    files: Sequence[EmbeddingFile],
    detector: Detector,
    *,
    batch_size: int = 64,
    normalize: bool = False,
    timings: Timings | None = None,
) -> Iterator[tuple[list[Result], Tensor | None]]:
    """Read embedding files, batch by batch, without judging them.

    Yields:
        A result a row, with its ``error`` or with nothing but its id, and the embeddings ``[B, D]`` of those
        without an error, on the bank's device (None if there are none).
    """
    whole_number(batch_size, "batch_size", at_least=1)
    bank = detector.bank
    for file in files:
        if file.dim != bank.dim:
            raise ValueError(
                f"{file.path} has D = {file.dim}, but the label bank has D = {bank.dim}; both must come from the "
                "same model"
            )
    return _cut(files, bank.device, batch_size, normalize, Timings() if timings is None else timings)


def _cut(
    files: Sequence[EmbeddingFile], device: torch.device, batch_size: int, normalize: bool, timings: Timings
) -> Iterator[tuple[list[Result], Tensor | None]]:
    results: list[Result] = []
    rows: list[Tensor] = []

    def gathered() -> Tensor | None:
        timings.images += len(rows)
        return torch.cat(rows).to(device) if rows else None

    for file in files:
        prefix = f"{file.path}:" if len(files) > 1 and not file.has_ids else ""
        for batch in file.batches(_ROWS_AT_ONCE, normalize=normalize):
            for row, name in enumerate(batch.ids):
                results.append(Result(prefix + name, error=batch.errors.get(row)))
                if row in batch.errors:
                    continue
                rows.append(batch.z[row : row + 1])
                if len(rows) == batch_size:
                    yield results, gathered()
                    results, rows = [], []
    if results:
        yield results, gathered()
