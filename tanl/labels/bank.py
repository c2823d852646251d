"""LabelBank: ID and negative labels with their embeddings."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from ..checks import Embeddings, positive, unit_embeddings, whole_number
from ..io.mapped import MappedFile
from ..kernels.surroundings import product, undisturbed
from .names import checked_names

MINING_QUANTILE = 0.95
# Rows that a bank took as bfloat16 are no nearer to unit norm, whatever they are kept as.
KEPT_TOLERANCE = 1e-2
_MINING_ROWS = 4096
_LARGEST_SCALE = 1e6  # CLIP's is 100; float32 knows a cosine to 6e-8
_MINING_CELLS = 1 << 24  # cosines at a time: older releases of torch take a quantile of no more


class LabelBank:
    """ID labels and negative labels, named and embedded by one backbone.

    Args:
        names: C + M label names, the ID labels first. No name occurs twice.
        embeddings: ``[C + M, D]``, a tensor or a NumPy array, unit rows in the same order; kept on their device.
        num_id: C, at least 1. M may be 0 for methods that use no negatives.
        logit_scale: s, what cosines are multiplied by (CLIP: 100).
        dtype: what they are kept as: float32, or float16 for half the memory. Products accumulate in float32
            either way; docs/speed.md says what half precision does to scores.

    Raises:
        TypeError: names that are not strings, embeddings that are not a floating tensor.
        ValueError: an empty or repeated name, no ID label, counts that do not fit, rows that are not unit
            vectors, a scale that is not positive.

    Attributes:
        file: what the embeddings are mapped from (``load_bank(path, mmap=True)``); None where they are in memory.
    """

    file: MappedFile | None = None

    def __init__(
        self,
        names: Sequence[str],
        embeddings: Embeddings,
        *,
        num_id: int,
        logit_scale: float = 100.0,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        rows = unit_embeddings(embeddings, "label embeddings", dtype=checked_dtype(dtype))
        self._set_up(names, rows, num_id, logit_scale)

    @classmethod
    def of_kept(
        cls,
        names: Sequence[str],
        embeddings: Tensor,
        *,
        num_id: int,
        logit_scale: float,
    ) -> LabelBank:
        """A bank of what was kept of one in a file: checked as any other, its rows as they are."""
        bank = cls.__new__(cls)
        rows = unit_embeddings(
            embeddings, "label embeddings", dtype=embeddings.dtype, tolerance=KEPT_TOLERANCE
        )
        bank._set_up(names, rows, num_id, logit_scale)
        return bank

    @classmethod
    def of_checked(
        cls, names: tuple[str, ...], embeddings: Tensor, *, num_id: int, logit_scale: float
    ) -> LabelBank:
        """A bank of names and rows that were all checked, as the arguments of a bank are."""
        bank = cls.__new__(cls)
        bank._keep(names, embeddings, num_id, logit_scale)
        return bank

    def _set_up(self, names: Sequence[str], embeddings: Tensor, num_id: int, logit_scale: float) -> None:
        names = checked_names(names, "label")
        checked_dtype(embeddings.dtype)
        num_id, logit_scale = checked_counts(num_id, len(names)), checked_scale(logit_scale)
        if len(embeddings) != len(names):
            raise ValueError(f"{len(names)} names, but {len(embeddings)} embeddings; give one row a name")
        self._keep(names, embeddings, num_id, logit_scale)

    def _keep(self, names: tuple[str, ...], embeddings: Tensor, num_id: int, logit_scale: float) -> None:
        self.names = names
        self.embeddings = embeddings.contiguous()
        self.num_id = num_id
        self.logit_scale = float(logit_scale)

    @property
    def num_negatives(self) -> int:
        """M."""
        return len(self.names) - self.num_id

    @property
    def dim(self) -> int:
        """D."""
        return self.embeddings.shape[1]

    @property
    def device(self) -> torch.device:
        """Where the embeddings are, and where image embeddings must be."""
        return self.embeddings.device

    @property
    def id_names(self) -> tuple[str, ...]:
        """The C ID labels."""
        return self.names[: self.num_id]

    @property
    def negative_names(self) -> tuple[str, ...]:
        """The M negative labels."""
        return self.names[self.num_id :]

    @property
    def id_embeddings(self) -> Tensor:
        """``[C, D]`` float32."""
        return self.embeddings[: self.num_id].float()

    @property
    def negative_embeddings(self) -> Tensor:
        """``[M, D]``, as they are kept: float32 or float16."""
        return self.embeddings[self.num_id :]

    @property
    def dtype(self) -> torch.dtype:
        """What the embeddings are kept as: float32 or float16."""
        return self.embeddings.dtype

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of names, embeddings, C and the logit scale: two banks score alike when it is the same."""
        kept_as = (self.num_id, self.logit_scale, tuple(self.embeddings.shape), str(self.dtype))
        digest = hashlib.sha256(repr(kept_as).encode())
        digest.update("\0".join(self.names).encode())
        digest.update(self.embeddings.cpu().contiguous().numpy().data)
        return digest.hexdigest()

    @cached_property
    def names_fingerprint(self) -> str:
        """SHA-256 of names, C, D and the logit scale: the same for embeddings computed again on another machine."""
        kept_as = (self.num_id, self.dim, self.logit_scale)
        return hashlib.sha256("\0".join([repr(kept_as), *self.names]).encode()).hexdigest()

    def to(self, device: torch.device | str | None = None, *, dtype: torch.dtype | None = None) -> LabelBank:
        """The same labels with their embeddings on another device, or kept as another dtype.

        Args:
            device: where to; None leaves them where they are.
            dtype: float32 or float16; None leaves them as they are.

        Raises:
            TypeError, ValueError: another dtype; no such device, or not on this machine.
        """
        dtype = checked_dtype(self.dtype if dtype is None else dtype)
        try:
            embeddings = self.embeddings.to(self.device if device is None else device, dtype)
        except torch.OutOfMemoryError:
            raise
        except (RuntimeError, AssertionError) as error:
            raise ValueError(
                f"the labels cannot be moved to {device!r}: {str(error).splitlines()[0]}"
            ) from error
        return self.of_checked(self.names, embeddings, num_id=self.num_id, logit_scale=self.logit_scale)

    @undisturbed
    def mined(self, count: int) -> LabelBank:
        """NegLabel's mining: keep the ``count`` negatives that are least similar to the ID labels.

        A negative's similarity to the ID labels is the 0.95 quantile of its cosines with them
        (arXiv 2403.20078, section 3.2). The least similar comes first; fewer than ``count`` are all kept.

        Args:
            count: how many negatives to keep, at least 1.

        Raises:
            TypeError, ValueError: no such count; there are no negatives.
        """
        count = whole_number(count, "count", at_least=1)
        if not self.num_negatives:
            raise ValueError("the bank has no negatives to mine; give a corpus")
        negatives = self.negative_embeddings
        similarity = torch.cat(
            [
                torch.quantile(product(part.float(), self.id_embeddings.T), MINING_QUANTILE, dim=1)
                for part in mining_parts(negatives, self.num_id)
            ]
        )
        order = similarity.sort(stable=True).indices[:count]
        names = self.negative_names
        return self.of_checked(
            (*self.id_names, *(names[i] for i in order.tolist())),
            torch.cat([self.embeddings[: self.num_id], negatives[order]]),
            num_id=self.num_id,
            logit_scale=self.logit_scale,
        )

    def __deepcopy__(self, memo: dict[int, Any]) -> LabelBank:
        """A bank is never changed; a mapped one is not copied into memory."""
        if self.file is not None:
            return self
        other = copy.copy(self)
        other.__dict__.update(copy.deepcopy(self.__dict__, memo))
        return other

    def __repr__(self) -> str:
        mapped = "" if self.file is None else f", mapped from {self.file.path}"
        return (
            f"LabelBank({self.num_id} ID labels, {self.num_negatives} negatives, D={self.dim}, {self.device}"
            f"{', float16' if self.dtype == torch.float16 else ''}{mapped})"
        )


def mining_parts(negatives: Tensor, num_id: int) -> tuple[Tensor, ...]:
    """Negatives in parts whose cosines with that many ID labels are few enough to be ranked at once."""
    return torch.split(negatives, max(1, min(_MINING_ROWS, _MINING_CELLS // num_id)))


def checked_counts(num_id: int, labels: int) -> int:
    """C, if there are so many labels."""
    num_id = whole_number(num_id, "num_id", at_least=1)
    if num_id > labels:
        raise ValueError(f"num_id is {num_id}, but there are only {labels} labels")
    return num_id


def checked_scale(logit_scale: float) -> float:
    """The logit scale, if a float32 product with it says something."""
    logit_scale = positive(logit_scale, "logit_scale")
    if logit_scale > _LARGEST_SCALE:
        raise ValueError(
            f"logit_scale is {logit_scale:g}; beyond {_LARGEST_SCALE:g} the logits of float32 cosines say nothing"
        )
    return logit_scale


def checked_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype, if a bank keeps embeddings as it."""
    if not isinstance(dtype, torch.dtype) or dtype not in (torch.float32, torch.float16):
        raise ValueError(f"dtype must be torch.float32 or torch.float16, not {dtype!r}")
    return dtype
