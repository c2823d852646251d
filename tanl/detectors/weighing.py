"""How the mass of the negatives is weighed against that of the ID labels; NegLabel and TANL take it as ``weighing``.

With ``I = sum_c e^{s z.T_c}`` and ``W`` the same sum over m negatives, a detector's share of the negatives is
``odds / (1 + odds)``, where the odds are ``W / I`` ("sum") or what a weighing makes of that ratio.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from torch import Tensor

from ..checks import positive

WEIGHINGS = ("sum", "balanced", "debiased")


@runtime_checkable
class Weighing(Protocol):
    """Makes odds of OOD from the ratio of the negatives' mass to the ID labels' mass."""

    def odds(self, ratio: Tensor, count: Tensor, num_id: int) -> Tensor:
        """The odds.

        Args:
            ratio: ``W / I`` of one or several sets of negatives, ``[B, n]``, at least 0.
            count: how many negatives each set has, ``[n]``.
            num_id: C, how many ID labels there are.

        Returns:
            ``[B, n]``, at least 0.
        """


@dataclass(frozen=True)
class BalancedMass:
    """The mean of the negatives against the mean of the ID labels: their numbers do not count.

    The ID share is ``I / (I + C mean_j e^{s z.n_j})``, for each group by itself: the group-wise score of TINS (arXiv
    2605.10756) and InterNeg (arXiv 2603.02618), from their equation; not checked against published outputs.
    """

    def odds(self, ratio: Tensor, count: Tensor, num_id: int) -> Tensor:
        """See `Weighing`: ``C / m W / I``."""
        return ratio * (num_id / count)


@dataclass(frozen=True)
class DebiasedMass:
    """The negatives' mass less what words that are no negatives after all add to it.

    Peng et al., *Debiased negative mining improves out-of-distribution detection with pre-trained vision-language
    models*, arXiv 2605.23797. Of the corpus a share ``tau`` are true negatives, and the others are like ID labels. So a
    true negative's mean mass is ``(mean_j e^{s z.N_j} - (1 - tau) mean_c e^{s z.T_c}) / tau``, and the ID share
    ``I / (I + Q times that)``; where the ID labels outweigh the corpus, the mass counts as zero. From the equation; not
    checked against published outputs, and the paper's values of tau and Q could not be looked up.

    Args:
        tau: in (0, 1]; 1 with ``negatives`` None is the plain sum.
        negatives: Q, how many true negatives the mean stands for; None is as many as there are.

    Raises:
        TypeError, ValueError: an unusable setting.
    """

    tau: float = 0.9
    negatives: float | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "tau", positive(self.tau, "tau"))
        if self.tau > 1:
            raise ValueError(f"tau must lie in (0, 1], not {self.tau}")
        if self.negatives is not None:
            object.__setattr__(self, "negatives", positive(self.negatives, "negatives"))

    def odds(self, ratio: Tensor, count: Tensor, num_id: int) -> Tensor:
        """See `Weighing`: ``Q / tau (W / m - (1 - tau) I / C) / I``, at least 0."""
        whole = count if self.negatives is None else self.negatives
        return (ratio / count - (1 - self.tau) / num_id).clamp(min=0) * (whole / self.tau)


def weighing_of(value: str | Weighing, name: str = "weighing") -> Weighing | None:
    """The weighing that a setting stands for; None for the plain sum.

    Raises:
        TypeError, ValueError: it is neither a name nor a weighing.
    """
    if not isinstance(value, str):
        if not isinstance(value, Weighing) or isinstance(value, type):
            raise TypeError(f"{name} must be one of {', '.join(WEIGHINGS)}, or a Weighing, not {value!r}")
        return value
    if value not in WEIGHINGS:
        raise ValueError(
            f"{name} must be one of {', '.join(map(repr, WEIGHINGS))}, or a Weighing, not {value!r}"
        )
    return {"sum": None, "balanced": BalancedMass(), "debiased": DebiasedMass()}[value]


def checked_weighing(value: str | Weighing, name: str) -> str | Weighing:
    """The setting as it is, or an error that names it."""
    weighing_of(value, name)
    return value


def odds_of(weighing: Weighing | None, num_id: int) -> Callable[[Tensor, Tensor], Tensor] | None:
    """What makes odds of ratios and counts, for these ID labels; None for the plain sum."""
    return None if weighing is None else lambda ratio, count: weighing.odds(ratio, count, num_id)
