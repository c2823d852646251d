"""NegLabel."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..checks import seed_number, whole_number
from ..functional import grouped_negative_share, shuffled
from ..kernels.surroundings import undisturbed
from ..labels.bank import LabelBank
from .base import Detector
from .weighing import Weighing, checked_weighing, odds_of, weighing_of

Choice = int | None | Callable[[LabelBank], LabelBank]
"""Which of a bank's negatives are used: the n least similar to the ID labels, all, or those of the bank that a function
makes of it (`tanl.labels.inter_modal.InterModal`)."""


def checked_choice(value: Choice, name: str) -> Choice:
    """The choice, or an error that names the setting."""
    return value if value is None or callable(value) else whole_number(value, name, at_least=1)


def chosen(bank: LabelBank, choice: Choice) -> LabelBank:
    """The bank with the chosen negatives, the best first.

    Raises:
        ValueError: a function that makes a bank of other ID labels, or one without negatives.
    """
    if choice is None:
        return bank
    if not callable(choice):
        return bank.mined(choice)
    made = choice(bank)
    if made.id_names != bank.id_names or not made.num_negatives:
        raise ValueError(f"{choice!r} must keep the ID labels and at least one negative; it gives {made!r}")
    return made


groups_number = partial(whole_number, at_least=1)


class GroupedNegatives(Detector):
    """Base of the detectors that score with negatives of their own choice, split into groups.

    A method sets ``_names`` and ``_embeddings`` of its negatives, in the order in which they are split, and ``groups``.
    """

    _names: list[str]
    _embeddings: Tensor
    groups: int
    weighing: str | Weighing = "sum"

    def negatives(self) -> tuple[Sequence[str], Tensor]:
        return self._names, self._embeddings

    def as_share(self, scores: Tensor) -> Tensor:
        """They are shares."""
        return scores

    def _scores(self, z: Tensor) -> Tensor:
        bank = self.bank
        odds = odds_of(weighing_of(self.weighing), bank.num_id)
        return grouped_negative_share(
            z, bank.id_embeddings, self._embeddings, bank.logit_scale, self.groups, odds
        )


class NegLabel(GroupedNegatives):
    """NegLabel: the share of the softmax that mined negative labels take from the ID labels.

    Jiang et al., *Negative label guided OOD detection with pretrained vision-language models*, ICLR 2024
    (arXiv 2403.20078): eq. 4 for the sum score, section 3.3 for the grouping. Uses no stream.

    Args:
        bank: ID labels and candidates for negatives.
        num_negatives: how many negatives are mined (the least similar to the ID labels); a bank with fewer
            gives all of them. None takes all of the bank's in its order, without mining. Or a function that makes a
            bank with the chosen negatives of this one, as `InterModal` does.
        groups: into how many groups the negatives are split; the score is the mean over the groups.
        seed: shuffles the negatives before they are split; None keeps their order.
        weighing: how each group's mass counts: "sum", as published; "balanced", the mean against the mean, as TINS and
            InterNeg have it; "debiased", less what false negatives add; or a `Weighing` with settings of your own.
    """

    lasting: ClassVar = {
        "num_negatives": checked_choice,
        "groups": groups_number,
        "seed": seed_number,
        "weighing": checked_weighing,
    }

    @undisturbed
    def __init__(
        self,
        bank: LabelBank,
        *,
        num_negatives: Choice = 10_000,
        groups: int = 5,
        seed: int | None = 0,
        weighing: str | Weighing = "sum",
    ) -> None:
        super().__init__(bank)
        self._require_negatives()
        self.num_negatives, self.groups, self.seed = num_negatives, groups, seed
        self.weighing = weighing
        self._names, self._embeddings = grouped_negatives(bank, self.num_negatives, self.groups, self.seed)

    def _settings(self) -> dict[str, Any]:
        return {
            "num_negatives": self.num_negatives,
            "groups": self.groups,
            "seed": self.seed,
            "weighing": self.weighing,
        }


def grouped_negatives(
    bank: LabelBank, num_negatives: Choice, groups: int, seed: int | None
) -> tuple[list[str], Tensor]:
    """The mined negatives in the order in which they are split into groups: names, and embeddings ``[M, D]``.

    Raises:
        ValueError: there are fewer negatives than groups.
    """
    used = chosen(bank, num_negatives)
    order = group_order(used.num_negatives, groups, seed)
    names = used.negative_names
    return [names[i] for i in order.tolist()], used.negative_embeddings[order.to(bank.device)]


def group_order(count: int, groups: int, seed: int | None) -> Tensor:
    """The order in which ``count`` negatives are split into groups, ``[count]``; None keeps theirs."""
    if count < groups:
        raise ValueError(f"{count} negatives cannot make {groups} groups; lower groups")
    return torch.arange(count, dtype=torch.int64, device="cpu") if seed is None else shuffled(count, seed)
