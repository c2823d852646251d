"""NegLabel."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..checks import seed_number, whole_number
from ..functional import grouped_negative_share, shuffled
from ..kernels.surroundings import undisturbed
from ..labels.bank import LabelBank
from .base import Detector


def num_or_all(value: int | None, name: str) -> int | None:
    """How many negatives, or an error that names the setting; None is all of them."""
    return None if value is None else whole_number(value, name, at_least=1)


groups_number = partial(whole_number, at_least=1)


class GroupedNegatives(Detector):
    """Base of the detectors that score with negatives of their own choice, split into groups.

    A method sets ``_names`` and ``_embeddings`` of its negatives, in the order in which they are split, and ``groups``.
    """

    _names: list[str]
    _embeddings: Tensor
    groups: int

    def _negatives(self) -> tuple[Sequence[str], Tensor]:
        return self._names, self._embeddings

    def _scores(self, z: Tensor) -> Tensor:
        bank = self.bank
        return grouped_negative_share(z, bank.id_embeddings, self._embeddings, bank.logit_scale, self.groups)


class NegLabel(GroupedNegatives):
    """NegLabel: the share of the softmax that mined negative labels take from the ID labels.

    Jiang et al., *Negative label guided OOD detection with pretrained vision-language models*, ICLR 2024
    (arXiv 2403.20078): eq. 4 for the sum score, section 3.3 for the grouping. Uses no stream.

    Args:
        bank: ID labels and candidates for negatives.
        num_negatives: how many negatives are mined (the least similar to the ID labels); a bank with fewer
            gives all of them. None takes all of the bank's in its order, without mining.
        groups: into how many groups the negatives are split; the score is the mean over the groups.
        seed: shuffles the negatives before they are split; None keeps their order.
    """

    lasting: ClassVar = {"num_negatives": num_or_all, "groups": groups_number, "seed": seed_number}

    @undisturbed
    def __init__(
        self, bank: LabelBank, *, num_negatives: int | None = 10_000, groups: int = 5, seed: int | None = 0
    ) -> None:
        super().__init__(bank)
        self._require_negatives()
        self.num_negatives, self.groups, self.seed = num_negatives, groups, seed
        self._names, self._embeddings = grouped_negatives(bank, self.num_negatives, self.groups, self.seed)

    def _settings(self) -> dict[str, Any]:
        return {"num_negatives": self.num_negatives, "groups": self.groups, "seed": self.seed}


def grouped_negatives(
    bank: LabelBank, num_negatives: int | None, groups: int, seed: int | None
) -> tuple[list[str], Tensor]:
    """The mined negatives in the order in which they are split into groups: names, and embeddings ``[M, D]``.

    Raises:
        ValueError: there are fewer negatives than groups.
    """
    used = bank if num_negatives is None else bank.mined(num_negatives)
    order = group_order(used.num_negatives, groups, seed)
    names = used.negative_names
    return [names[i] for i in order.tolist()], used.negative_embeddings[order.to(bank.device)]


def group_order(count: int, groups: int, seed: int | None) -> Tensor:
    """The order in which ``count`` negatives are split into groups, ``[count]``; None keeps theirs."""
    if count < groups:
        raise ValueError(f"{count} negatives cannot make {groups} groups; lower groups")
    return torch.arange(count, dtype=torch.int64, device="cpu") if seed is None else shuffled(count, seed)
