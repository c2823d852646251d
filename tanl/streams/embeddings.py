"""Files of embeddings through the pump: rows in batches, unusable ones in their place. Imports no image library."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..io.options import BATCH_SIZE
from .batches import Ready, Unusable
from .pump import Batch, Pump, Timings, judged

if TYPE_CHECKING:
    from ..detectors.verdict import Verdict
    from ..io.embeddings import EmbeddingFile
    from ..labels.bank import LabelBank
    from .results import Result

_ROWS_AT_ONCE = 1024


def judge_embeddings(
    files: Sequence[EmbeddingFile],
    bank: LabelBank,
    judge: Callable[[Tensor], Iterable[Verdict]],
    *,
    batch_size: int = BATCH_SIZE,
    normalize: bool = False,
    timings: Timings | None = None,
) -> Iterator[list[Result]]:
    """Judge the rows of embedding files in their order and yield a list of results a batch.

    A row without a usable embedding gets a result with its ``error`` and takes no place in a batch. Batches go on
    from one file to the next. Results are named by the rows' ids; by the row's number where a file has none,
    after the file's path if there are several files.

    Args:
        files: from `tanl.io.embeddings.open_embeddings`.
        bank: the labels that they are judged against.
        judge: embeddings ``[B, D]`` to their verdicts; a method with a stream learns from every batch.
        batch_size: usable rows a batch, at least 1; see `Pump`.
        normalize: bring rows to unit norm.
        timings: filled in as the stream goes.

    Raises:
        ValueError: a file has another D than the bank, before anything is judged; a row that is not of unit norm
            without ``normalize``; a damaged file.
    """
    batches = embedding_batches(files, bank, batch_size=batch_size, normalize=normalize, timings=timings)
    return judged(batches, judge, timings)


def embedding_batches(
    files: Sequence[EmbeddingFile],
    bank: LabelBank | None,
    *,
    batch_size: int = BATCH_SIZE,
    normalize: bool = False,
    timings: Timings | None = None,
) -> Iterator[Batch]:
    """Read embedding files, batch by batch, without judging them; the embeddings are put on the bank's device.

    Without a bank nothing is known of their D, and they stay on the CPU.
    """
    for file in files:
        if bank is not None and file.dim != bank.dim:
            raise ValueError(
                f"{file.path} has D = {file.dim}, but the label bank has D = {bank.dim}; both must come from the "
                "same model"
            )

    def encode(rows: Sequence[Tensor]) -> Tensor:
        z = torch.stack(list(rows))
        return z if bank is None else z.to(bank.device)

    return Pump(
        _rows(files, normalize),
        lambda number, row: row,
        encode,
        batch_size=batch_size,
        threads=0,  # there is nothing to prepare
        timings=timings,
    )


def _rows(files: Sequence[EmbeddingFile], normalize: bool) -> Iterator[Ready | Unusable]:
    for file in files:
        prefix = f"{file.path}:" if len(files) > 1 and not file.has_ids else ""
        for batch in file.batches(_ROWS_AT_ONCE, normalize=normalize):
            for row, name in enumerate(batch.ids):
                if row in batch.errors:
                    yield Unusable(prefix + name, batch.errors[row])
                else:
                    yield Ready(prefix + name, batch.z[row])
