"""An opened file of embeddings, whatever its kind: its rows in batches, checked; and what all kinds share."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...checks import norm_tolerance, whole_number
from ..text import some_of

HEAD = 1024
"""Rows that are looked at to tell which column holds embeddings, and of what length they are."""

SHOWN = 8
"""How many columns or files a message names."""


@dataclass(frozen=True)
class EmbeddingBatch:
    """Some rows of a file.

    Attributes:
        ids: of each row, as text.
        z: ``[n, D]``; a row with an error is NaN.
        errors: why a row has no usable embedding, by its place in the batch.
    """

    ids: list[str]
    z: Tensor
    errors: dict[int, str] = field(default_factory=dict)


@dataclass(frozen=True)
class EmbeddingFile:
    """A file that was opened, or a folder of numbered parts: what is in it, and its rows in batches.

    Attributes:
        path: where it is.
        dim: D.
        rows: how many there are; None where only reading the whole file would tell.
        has_ids: whether rows are named by a column of ids, rather than by their numbers.
        read: gives its rows as they are, at most so many at a time; `batches` checks them.
    """

    path: Path
    dim: int
    rows: int | None
    has_ids: bool
    read: Callable[[int], Iterator[EmbeddingBatch]] = field(repr=False)

    def batches(self, batch_size: int, *, normalize: bool = False) -> Iterator[EmbeddingBatch]:
        """Its rows in order, at most ``batch_size`` at a time, in their own dtype.

        Args:
            batch_size: rows at a time, at least 1.
            normalize: bring rows to unit norm; they come as float32 then.

        Raises:
            ValueError: a row that is not of unit norm without ``normalize``; a damaged file.
        """
        return self._checked(self.read(whole_number(batch_size, "batch_size", at_least=1)), normalize)

    def _checked(self, batches: Iterator[EmbeddingBatch], normalize: bool) -> Iterator[EmbeddingBatch]:
        start = 0
        for batch in batches:
            yield self._of_unit_norm(batch, start, normalize)
            start += len(batch.ids)

    def _of_unit_norm(self, batch: EmbeddingBatch, start: int, normalize: bool) -> EmbeddingBatch:
        z = batch.z
        norms = torch.linalg.vector_norm(z, dim=1, dtype=torch.float64)
        usable = norms.isfinite() & (norms > 0)
        errors = dict(batch.errors)
        for row in (~usable).nonzero()[:, 0].tolist():
            reason = "is all zeros" if norms[row] == 0 else "has NaN or infinite values"
            errors.setdefault(row, f"the embedding {reason}")
        if normalize:
            z = (z.double() / norms[:, None]).float()
        else:
            off = usable & ((norms - 1).abs() > norm_tolerance(z.dtype))
            if bool(off.any()):
                row = int(off.nonzero()[0])
                named = f" (id {batch.ids[row]})" if self.has_ids else ""
                raise ValueError(
                    f"{self.path}: row {start + row}{named} has norm {float(norms[row]):.4g}, not 1; add --normalize "
                    "(in Python: normalize=True) if its model's embeddings are compared by cosine"
                )
        if errors:
            z = z.index_fill(
                0, torch.tensor(sorted(errors), dtype=torch.int64, device=z.device), float("nan")
            )
        return EmbeddingBatch(batch.ids, z, errors)


@dataclass
class Lengths:
    """How often the first rows of a column of lists have which length: what most usable rows have is D.

    Not the first row's: a stray or shortened one in front would turn every good row into a bad one.
    """

    usable: Counter[int] = field(default_factory=Counter)
    unusable: Counter[int] = field(default_factory=Counter)

    def add(self, length: int, usable: bool) -> None:
        """Count a row; it is usable if it is finite and not all zeros."""
        (self.usable if usable else self.unusable)[length] += 1

    @property
    def weight(self) -> tuple[int, int]:
        """How many usable rows there are, and how many others."""
        return sum(self.usable.values()), sum(self.unusable.values())

    @property
    def usual(self) -> int:
        """The commonest length, of equally common ones the longest; 0 of no rows."""
        counts = self.usable or self.unusable
        return max(counts, key=lambda length: (counts[length], length), default=0)


def numbers(start: int, count: int) -> list[str]:
    """The ids of rows that have none: their numbers."""
    return [str(row) for row in range(start, start + count)]


def texts(ids: Iterable[Any]) -> list[str]:
    """Ids of any type as text: bytes in hexadecimal digits, a missing one empty."""
    return [each.hex() if isinstance(each, bytes) else "" if each is None else str(each) for each in ids]


def refuse_ids(path: Path, id_column: str | None) -> None:
    """Arrays have no columns."""
    if id_column is not None:
        raise ValueError(
            f"{path} holds arrays, which have no column {id_column!r}: rows go by their numbers, so leave "
            "--id-column out"
        )


def chosen(path: Path, wanted: str | None, present: Iterable[str], fitting: Sequence[str]) -> str:
    """The column that is meant: the one wanted, or the only one that can hold embeddings."""
    if wanted is not None:
        if wanted in fitting:
            return wanted
        if wanted in present:
            raise ValueError(f"{path}: {wanted!r} holds no embeddings (rows of floats); {_listed(fitting)}")
        raise ValueError(f"{path} has no {wanted!r}; {_listed(fitting)}")
    if len(fitting) == 1:
        return fitting[0]
    if not fitting:
        what = some_of(list(present), SHOWN) or "nothing"
        raise ValueError(f"{path} has nothing that holds embeddings (rows of floats); it has {what}")
    raise ValueError(
        f"{path} has several columns of embeddings: {some_of(fitting, SHOWN)}; choose one with --column"
    )


def id_column_of(path: Path, wanted: str | None, present: Sequence[str]) -> str | None:
    """The column of ids: the one wanted, else ``id`` if there is one, else none."""
    if wanted is None:
        return "id" if "id" in present else None
    if wanted not in present:
        raise ValueError(f"{path} has no column {wanted!r} for ids; it has {some_of(present, SHOWN)}")
    return wanted


def length_error(length: int, dim: int) -> str:
    """What is wrong with a row of another length; of a negative one if it has no list at all."""
    return "there is no embedding" if length < 0 else f"the embedding has D = {length}, not {dim}"


def _listed(fitting: Sequence[str]) -> str:
    return f"embeddings are in {some_of(fitting, SHOWN)}" if fitting else "nothing in it does"
