"""Fused: a detector's score and terms beside it, of which some learn from the stream."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, runtime_checkable

from torch import Tensor

from ..checks import Embeddings
from ..kernels.surroundings import undisturbed
from ..labels.bank import LabelBank
from .base import Detector, Now, saved_threshold
from .memory import MemoryReport

if TYPE_CHECKING:
    from typing_extensions import Self


@runtime_checkable
class Term(Protocol):
    """What is added to a detector's score. It never changes: what has learnt is another term.

    Attributes:
        learns: what it adds may depend on the images before.
    """

    learns: ClassVar[bool]

    def values(self, z: Tensor, detector: Detector) -> Tensor:
        """What is added to the score of each row of ``z [B, D]``, ``[B]``; higher = more OOD."""

    def learnt(self, z: Tensor, scores: Tensor) -> Term:
        """The term after a batch, of which the detector alone gives these scores ``[B]``."""

    def started(self) -> Term:
        """The term before any stream."""

    def state_dict(self) -> dict[str, Any]:
        """What `resumed` needs: tensors, numbers and strings."""

    def resumed(self, state: dict[str, Any], bank: LabelBank) -> Term:
        """The term with a saved state, or ValueError."""


@dataclass(frozen=True)
class _Now(Now):
    """All that changes; the detector is copied, and the copy changed, before it comes in here."""

    detector: Detector = field(kw_only=True)
    terms: tuple[Term, ...] = field(kw_only=True)


class Fused(Detector):
    """A detector and terms beside it: the score is the detector's, plus each term's.

    A term brings what the labels' shares do not see: `VisualDictionary` the images of the stream that were most OOD,
    `PairScore` texts of an ID label and a negative together::

        tanl.Fused(tanl.NegLabel(bank), tanl.PairScore(backbone.encode_texts))
        tanl.Fused(tanl.TANL(bank), tanl.VisualDictionary())

    The detector learns from the stream as it would alone. There is no threshold of its own: the detector's is for
    its scores alone. `explain` is the detector's.

    Args:
        detector: gives the first score, the bank and the evidence; it is copied, and stays as it is.
        terms: at least one.

    Raises:
        TypeError, ValueError: no detector, no terms, or something else among them.
    """

    _now: _Now

    @undisturbed
    def __init__(self, detector: Detector, *terms: Term) -> None:
        if not isinstance(detector, Detector):
            raise TypeError(f"detector must be a Detector, not {type(detector).__name__}")
        super().__init__(detector.bank)
        for term in terms:
            if not isinstance(term, Term) or isinstance(term, type):
                raise TypeError(
                    f"a term has learns, values, learnt, started, state_dict and resumed; {term!r} lacks some"
                )
        if not terms:
            raise ValueError(
                f"Fused needs a term beside {type(detector).__name__}, such as VisualDictionary()"
            )
        self._now = _Now(detector=copy.copy(detector), terms=terms)

    @property
    def detector(self) -> Detector:
        """The detector, with what it has learnt."""
        return self._now.detector

    @property
    def terms(self) -> tuple[Term, ...]:
        """The terms, with what they have learnt."""
        return self._now.terms

    @undisturbed
    def __call__(self, z: Embeddings, *, source: str | Sequence[str | None] | None = None) -> Tensor:
        """Score a batch of the stream, ``[B, D] -> [B]``; the detector and the terms learn from it.

        Raises:
            TypeError, ValueError: as the detector's call.
        """
        now, rows = self._now, self._checked(z)
        added = self._added(rows)
        detector = copy.copy(now.detector)
        scores = detector(z) if source is None else detector(z, source=source)
        terms = tuple(term.learnt(rows, scores) for term in now.terms)
        self._now = replace(now, detector=detector, terms=terms)
        return scores + added

    @undisturbed
    def score(self, z: Embeddings) -> Tensor:
        """The scores that the call would give, ``[B, D] -> [B]``; the stream's state stays as it is."""
        return self.detector.score(z) + self._added(self._checked(z))

    def _added(self, z: Tensor) -> Tensor:
        added = self.terms[0].values(z, self.detector)
        for term in self.terms[1:]:
            added = added + term.values(z, self.detector)
        return added

    def negatives(self) -> tuple[Sequence[str], Tensor]:
        """The detector's."""
        return self.detector.negatives()

    @property
    def has_stream(self) -> bool:
        """Whether the detector has one, or a term learns."""
        return self.detector.has_stream or any(term.learns for term in self.terms)

    @property
    def bounds_sources(self) -> bool:
        """Whether the detector does; what terms learn is not bounded."""
        return self.detector.bounds_sources and not any(term.learns for term in self.terms)

    def activated(self, k: int) -> list[tuple[str, float]]:
        """The detector's."""
        return self.detector.activated(k)

    def memory_report(self) -> MemoryReport | None:
        """The detector's."""
        return self.detector.memory_report()

    @undisturbed
    def reset(self) -> None:
        """Forget the stream, the detector's and the terms'; a calibrated threshold stays."""
        detector = copy.copy(self.detector)
        detector.reset()
        self._now = replace(self._now, detector=detector, terms=tuple(term.started() for term in self.terms))

    @undisturbed
    def relabelled(self, bank: LabelBank) -> Self:
        """The same over other labels: the detector's `relabelled`, and the terms as they are."""
        other = copy.copy(self)
        other.bank = bank
        other._now = replace(self._now, detector=self.detector.relabelled(bank), known=None)
        return other

    def state_dict(self, *, compact: bool = False) -> dict[str, Any]:
        """See `Detector.state_dict`; the detector's state is in it, and each term's."""
        terms = {str(number): term.state_dict() for number, term in enumerate(self.terms)}
        return {
            **super().state_dict(compact=compact),
            "detector": self.detector.state_dict(compact=compact),
            "terms": terms,
        }

    @undisturbed
    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Resume from `state_dict`.

        Raises:
            ValueError: it comes from another method, bank or setting, or from other terms, or is incomplete; nothing
                changes then.
        """
        self._check_identity(state)
        threshold, tpr = saved_threshold(state)
        detector = copy.copy(self.detector)
        detector.load_state_dict(state["detector"])
        saved = state["terms"]
        if not isinstance(saved, dict) or set(saved) != {str(number) for number in range(len(self.terms))}:
            raise ValueError(f"the state is damaged: terms must hold {len(self.terms)} states")
        terms = tuple(term.resumed(saved[str(number)], self.bank) for number, term in enumerate(self.terms))
        self._now = _Now(threshold, tpr, detector=detector, terms=terms)

    @classmethod
    def _merged_stream(cls, states: Sequence[dict[str, Any]], partial: bool) -> dict[str, Any]:
        raise ValueError(
            "what terms learnt cannot be merged: merge the states of the detectors that they are fused with"
        )

    def _settings(self) -> dict[str, Any]:
        return {"detector": self.detector, "terms": self.terms}

    def _identity(self, compact: bool) -> dict[str, Any]:
        terms = " ".join(repr(term.started()) for term in self.terms)
        told = {"detector": type(self.detector).__name__, "terms": terms}
        return {**super()._identity(compact), "settings": told}
