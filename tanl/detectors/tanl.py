"""TANL: test-time activated negative labels."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from .. import kernels
from ..checks import Embeddings, fraction, seed_number, sources_of, unit_embeddings, whole_number
from ..functional import confident, half_precision_share, otsu_value, weighed_prefix_share
from ..io.options import BATCH_SIZE
from ..io.text import did_you_mean
from ..kernels.surroundings import product, require_float64, undisturbed
from ..labels.bank import LabelBank
from .base import Detector, Now, saved_threshold
from .exact import ExactActivation
from .guarded import (
    GuardedMemory,
    Start,
    anchored_value,
    memory_settings,
    shrunk,
    within_share,
    without_duplicates,
)
from .memory import MemoryReport, mean_cosine
from .merging import ROUNDING, merged_streams
from .neglabel import Choice, checked_choice, chosen
from .saved import saved_tensor
from .shortlist import Shortlist, ShortlistActivation, distinct
from .state import Activations, ActivationState, RingUpdate
from .thresholds import threshold_at_tpr
from .weighing import Weighing, checked_weighing, odds_of, weighing_of

if TYPE_CHECKING:
    from typing_extensions import Self

# "paper": the paper's section on implementation details. The others are what the published shell scripts set
# (scripts/ood/TANL of YBZh/OpenOOD-VLM): where a script tries several values, the first that it assigns.
PRESETS: dict[str, dict[str, Any]] = {
    "paper": {"num_selected": 1000, "step": 1, "gap": 0.2, "alpha": 0.95, "capacity": 300},
    "official-script": {"num_selected": 1000, "step": 1, "gap": 0.5, "alpha": 0.0, "capacity": 300},
    "medical": {"num_selected": 1000, "step": 1, "gap": 0.0, "alpha": 0.95, "capacity": 300},
    "siglip": {"num_selected": 1000, "step": 0, "gap": 0.5, "alpha": 0.0, "capacity": 300},
    # For streams as people have them, with few outliers; see docs/method.md, "The guarded memory".
    "practice": {"alpha": 1.0, "memory": "guarded", "candidates": 30_000, "weighing": "balanced"},
}


Activation = str | Activations | ShortlistActivation
"""What TANL takes as ``activation``."""


@dataclass(frozen=True)
class _Advance:
    """What a batch yields, and what committing it will change."""

    scores: Tensor
    history: Tensor
    threshold: float
    calibrated: float | None
    positive: RingUpdate | None
    negative: RingUpdate | None
    sources_id: list[str | None] | None
    sources_ood: list[str | None] | None


@dataclass(frozen=True)
class _Now(Now):
    """What TANL changes, beside the threshold."""

    state: ActivationState = field(kw_only=True)
    start: Start = field(kw_only=True)
    running: float = field(kw_only=True)  # Otsu's threshold of the history
    initial_ood: Tensor | None = field(kw_only=True)


class TANL(Detector):
    """Test-time activated negative labels.

    *Activation matters: test-time activated negative labels for OOD detection with vision-language models*,
    CVPR 2026 (arXiv 2603.25250). Every batch is scored with the negative labels that the stream's confident
    outliers activate more than its confident ID images do. The result depends on the order of the stream,
    and on its batches: a batch of 1 learns as well, but re-ranks for one image only.

    Args:
        bank: ID labels and candidates for negatives (the whole corpus: TANL needs no mining).
        num_selected: K, how many activated negatives are used; a bank with fewer gives all of them.
        step: q, the distance between the prefixes over which the score is averaged; 0 is NegLabel's sum.
        gap: g in [0, 1]: how far past the threshold a confidence must lie to count as confident.
        alpha: in [0, 1], the weight of the ring's mean against the batch's own in the final ranking.
        capacity: L, how many confident embeddings of either kind are remembered.
        seed: orders the ID labels that start the positive ring; None keeps their order.
        initial_ood: ``[n, D]`` embeddings known to be OOD; `tanl.noise_embeddings` gives the paper's. With
            None the negative ring starts empty.
        activation: how confident images' activations are computed. "exact" streams all labels; "approximate"
            retrieves the nearest labels and estimates the rest (`tanl.ApproximateActivation`, for millions of
            labels; needs faiss). Or what gives the sums yourself: an `ApproximateActivation` of this bank with
            settings of your own; a `ShortlistActivation`, for ten million labels; or any function of rows ``[n, D]``,
            segments of them and the log-sum-exps ``[e]`` of the first e rows, to sums ``[G, M]`` and the log-sum-exps
            ``[n - e]`` of the other rows.
        memory: "published", as the paper has it; "guarded", which does not run away where outliers are rare; or the
            latter with settings of your own, a `GuardedMemory`. Not the paper's.
        candidates: of the bank's negatives only this many, those farthest from the ID labels (`LabelBank.mined`), may
            be selected; None lets all of them; or a function that makes a bank with the candidates of this one
            (`InterModal`). Words near the ID labels are what ID images activate: without them
            ID images are safer and a step is cheaper, and outliers that are relatives of the ID classes are
            told less well. Not the paper's.
        final_pass: "float32"; or "float16", the precision of the published code's final scores with CLIP
            (`tanl.functional.half_precision_share`), to compare with its figures: scores near 0 tie, and a step is
            slower. What is learnt of the stream is the same. Not with another weighing.
        weighing: how the mass of the selected negatives counts, as `NegLabel` takes it. Not the paper's.

    Raises:
        TypeError, ValueError: an unusable setting; a bank without negatives.
    """

    checked: ClassVar = {
        "num_selected": partial(whole_number, at_least=1),
        "step": partial(whole_number, at_least=0),
        "gap": fraction,
        "alpha": fraction,
    }
    lasting: ClassVar = {
        "capacity": partial(whole_number, at_least=1),
        "seed": seed_number,
        "memory": lambda value, name: _memory(value),
        "candidates": checked_choice,
        "activation": lambda value, name: _activation(value),
        "final_pass": lambda value, name: _precision(value),
        "weighing": checked_weighing,
    }

    _now: _Now

    @undisturbed
    def __init__(
        self,
        bank: LabelBank,
        *,
        num_selected: int = 1000,
        step: int = 1,
        gap: float = 0.2,
        alpha: float = 0.95,
        capacity: int = 300,
        seed: int | None = 0,
        initial_ood: Embeddings | None = None,
        activation: Activation = "exact",
        memory: str | GuardedMemory = "published",
        candidates: Choice = None,
        final_pass: str = "float32",
        weighing: str | Weighing = "sum",
    ) -> None:
        super().__init__(bank)
        if not isinstance(activation, ShortlistActivation):
            self._require_negatives()
        require_float64(bank.device, type(self).__name__)
        self.num_selected, self.step, self.gap, self.alpha = num_selected, step, gap, alpha
        self.capacity, self.seed, self.memory, self.candidates = capacity, seed, memory, candidates
        self.activation, self.final_pass, self.weighing = activation, final_pass, weighing
        if final_pass != "float32" and weighing != "sum":
            raise ValueError(f"final_pass={final_pass!r} is the published code's: leave weighing at 'sum'")
        if initial_ood is not None:
            initial_ood = unit_embeddings(initial_ood, "initial_ood", dim=bank.dim, device=bank.device)
        self._guarded = memory_settings(memory)
        if isinstance(activation, ShortlistActivation):
            _check_shortlist(activation, bank, self._guarded, candidates)
        self._every = self._candidates(bank)
        self.activations = self._activations(activation)
        self._now = self._beginning(Now(), initial_ood)

    @staticmethod
    def preset(name: str) -> dict[str, Any]:
        """Settings by name, as keyword arguments: ``TANL(bank, **TANL.preset("paper"))``.

        Args:
            name: "paper"; one of the published shell scripts: "official-script", "medical", "siglip"; or "practice",
                this library's own for streams in which outliers are rare.
        """
        if name not in PRESETS:
            there = f"there are {', '.join(map(repr, PRESETS))}{did_you_mean(name, PRESETS)}"
            raise ValueError(f"no preset {name!r}; {there}")
        return dict(PRESETS[name])

    @undisturbed
    def reset(self) -> None:
        """Forget the stream: start again from the ID labels and ``initial_ood``."""
        self._now = self._beginning(self._now, self.initial_ood)

    @property
    def state(self) -> ActivationState:
        """What is remembered of the stream."""
        return self._now.state

    @property
    def initial_ood(self) -> Tensor | None:
        """``[n, D]`` embeddings known to be OOD that `reset` starts from."""
        return self._now.initial_ood

    @property
    def _per_source(self) -> int | None:
        """How many places of a ring images of one source may hold; None where sources are not bounded."""
        return None if self._guarded is None else max(1, int(self._guarded.per_source * self.capacity))

    @property
    def _labels(self) -> LabelBank:
        """The labels that the rings' means are over."""
        return self._now.state.bank

    @property
    def _start(self) -> Start:
        return self._now.start

    def _beginning(self, calibration: Now, initial_ood: Tensor | None) -> _Now:
        """What there is before a stream, with that calibration."""
        labels, activations = self._every, self.activations
        if isinstance(activations, ShortlistActivation):
            activations = activations.first(initial_ood, self.num_selected)
            labels = activations.bank
        state = ActivationState.initial(
            labels, activations, self.capacity, self.seed, initial_ood, self._per_source
        )
        started = self.bank.id_embeddings
        if initial_ood is not None:
            started = torch.cat([started, initial_ood])
        selected = self._selected(state.relevance)
        if isinstance(activations, Shortlist):  # the first choice stays on the list, in front
            activations, order = activations.fronted(selected)
            state = state.over(activations.bank, activations, order)
            selected = torch.arange(len(selected), dtype=torch.int64, device=selected.device)
        first = 1 - self._share(started, selected, state.bank)
        state.begin(first)
        num_id, means = self.bank.num_id, (state.positive.mean, state.negative.mean)
        start = Start(*means, selected, first[:num_id], first[num_id:])
        threshold, tpr, known = calibration.threshold, calibration.tpr, calibration.known
        if known is not None and tpr is not None:
            threshold = threshold_at_tpr(self._final_share(known, selected, state.bank), tpr)
        running = float(self._otsu(state.history, start))
        return _Now(threshold, tpr, known, state=state, start=start, running=running, initial_ood=initial_ood)

    @undisturbed
    def __call__(self, z: Embeddings, *, source: str | Sequence[str | None] | None = None) -> Tensor:
        """Score a batch of the stream, ``[B, D] -> [B]``, and learn from its confident images.

        Args:
            z: as `Detector` takes it.
            source: where the images come from, a name for all or one for each, None where it is not known. With the
                guarded memory images of one source never hold more than ``per_source`` of a ring's places.

        Raises:
            TypeError, ValueError: as `Detector`; sources that are no names, or too few or many; the published memory
                with a source, which it cannot bound.
        """
        z = self._checked(z)
        sources = sources_of(source, len(z))
        if sources is not None and self._guarded is None:
            raise ValueError(
                'the published memory cannot bound a source: give memory="guarded", or no source'
            )
        now = self._now
        ahead = self._advance(z, sources)
        state = now.state.copied()
        state.learn(
            len(z), ahead.history, ahead.positive, ahead.negative, ahead.sources_id, ahead.sources_ood
        )
        if isinstance(state.activations, Shortlist) and ahead.negative is not None:
            state = self._followed(state, state.activations, ahead.negative.rows)
        threshold = now.threshold if ahead.calibrated is None else ahead.calibrated
        self._now = replace(now, threshold=threshold, state=state, running=ahead.threshold)
        return ahead.scores

    def _followed(self, state: ActivationState, shortlist: Shortlist, outliers: Tensor) -> ActivationState:
        """The state over the short list after these confident outliers."""
        found = shortlist.followed(outliers, state.relevance, len(self._start.selected))
        if found is None:
            return state
        after, columns = found
        return state.over(after.bank, after, columns)

    def as_share(self, scores: Tensor) -> Tensor:
        """They are shares."""
        return scores

    def _scores(self, z: Tensor) -> Tensor:
        return self._advance(z).scores

    @property
    def threshold(self) -> float:
        """The OOD score above which `predict` says OOD: calibrated, or Otsu's of the stream so far."""
        now = self._now
        return 1 - now.running if now.threshold is None else now.threshold

    @undisturbed
    def predict(self, z: Embeddings) -> Tensor:
        """Decide, True = OOD; without a calibrated threshold by Otsu's, this batch included."""
        ahead = self._advance(self._checked(z))
        threshold = self._now.threshold if ahead.calibrated is None else ahead.calibrated
        return ahead.scores > (1 - ahead.threshold if threshold is None else threshold)

    @undisturbed
    def calibrate_embeddings(
        self, z: Embeddings, tpr: float = 0.95, *, batch_size: int = BATCH_SIZE
    ) -> float:
        """Set the threshold from ID images, and keep it where they are while the stream goes on.

        The images are kept, and with every batch the threshold becomes the conformal quantile of *their* scores under
        the labels that the batch is scored with: n (C + K) products. So it follows the state, whatever the stream
        did to it. With ``alpha`` 1 these labels depend on earlier batches alone, and new ID images that are like the
        calibration images are kept with probability at least ``tpr``, in every batch; with a smaller alpha nearly.

        Args:
            z: embeddings of ID images, ``[n, D]``; at least ``tpr / (1 - tpr)`` of them (19 for 0.95).
            tpr: wanted share of ID images that are kept.
            batch_size: takes no part: labels are chosen by the state, not by these images.

        Returns:
            The threshold of now.

        Raises:
            TypeError, ValueError: z is unusable, tpr is not strictly between 0 and 1, or z is too few for it.
        """
        _ = whole_number(batch_size, "batch_size", at_least=1)
        z = self._checked(z)
        threshold = threshold_at_tpr(self._final_share(z, self._selected(self._relevance())), tpr)
        self._now = replace(self._now, threshold=threshold, tpr=float(tpr), known=z.clone())
        return threshold

    def negatives(self) -> tuple[Sequence[str], Tensor]:
        chosen = self._selected(self._relevance())
        names = self._labels.negative_names
        return [names[i] for i in chosen.tolist()], self._labels.negative_embeddings[chosen]

    @property
    def bounds_sources(self) -> bool:
        """Whether the call bounds what the images of one source may teach it: with the guarded memory."""
        return self._guarded is not None

    @undisturbed
    def activated(self, k: int) -> list[tuple[str, float]]:
        """The ``k`` negative labels that the stream activated most, with their relevance, the highest first.

        Relevance is the difference of the two rings' means: how much more activation a label has from images that are
        confidently OOD than from those that are confidently ID. The guarded memory draws both means to its start.
        """
        relevance = self._relevance()
        best = kernels.stable_topk(relevance, whole_number(k, "k", at_least=1))
        names = self._labels.negative_names
        return [(names[i], float(relevance[i])) for i in best.tolist()]

    @undisturbed
    def memory_report(self) -> MemoryReport:
        """What the rings hold and where the selection has gone, see `MemoryReport`."""
        state, now = self.state, self._selected(self._relevance())
        stayed = torch.isin(now, self._start.selected).sum()
        return MemoryReport(
            images=state.images,
            admitted_id=state.admitted_id,
            admitted_ood=state.admitted_ood,
            held_id=len(state.positive),
            held_ood=len(state.negative),
            concentration_id=mean_cosine(state.positive.embeddings),
            concentration_ood=mean_cosine(state.negative.embeddings),
            moved=1 - int(stayed) / len(now),
        )

    @undisturbed
    def decided_at_start(self, z: Embeddings) -> Tensor:
        """What a TANL that has learnt nothing would decide of ``z [n, D]``, taken together: True = OOD, ``[n]``.

        With the labels selected at the start, and the threshold that is calibrated; without one the anchored threshold
        of these images alone (docs/method.md).
        """
        scores = self._final_share(self._checked(z), self._start.selected)
        threshold = self._calibrated_for(self._start.selected)
        if threshold is None:
            threshold = self._now.threshold
        if threshold is None:
            anchor = (self._guarded or GuardedMemory()).anchor
            threshold = 1 - float(anchored_value(1 - scores, self._start, anchor))
        return scores > threshold

    @undisturbed
    def relabelled(self, bank: LabelBank) -> Self:
        """The same method with the same settings over other labels, and what it remembers of its stream.

        Both rings keep their embeddings and the history its confidences; the sums of activations are made anew, in one
        pass over the labels, as every label is in every activation's denominator. Two things follow the labels:
        a row of the positive ring whose best ID label is gone is no longer known to be ID, and is dropped; and
        before the first image the stream starts from the new labels, as in a new detector. The embedding of an
        ID label that is added later is not put into the positive ring, and rows of the negative ring that
        resemble it stay: what the label takes from their softmax, they activate negatives less.

        A calibration on images follows to the new labels. A fixed threshold is carried over, but scores with other
        labels are other scores: calibrate again.

        Raises:
            TypeError, ValueError: as `Detector.relabelled`; an ``activation`` that is a function, which cannot
                follow to other labels.
        """
        self._check_same_backbone(bank)
        if isinstance(self.activation, ShortlistActivation):
            raise ValueError(
                f"activation={self.activation!r} is of these labels and cannot follow to others; make a new TANL with "
                "ShortlistActivation(bank, index.without([...])) or index.extended(...), which begins its stream anew"
            )
        if not isinstance(self.activation, str):
            raise ValueError(
                f"activation={self.activation!r} is of these labels and cannot follow to others; "
                'make a new TANL, or use "exact" or "approximate"'
            )
        other = copy.copy(self)
        other.bank = bank
        other._require_negatives()
        other._every = other._candidates(bank)
        other.activations = other._activations(self.activation)
        other.reset()
        if self.state.images:
            assert not isinstance(other.activations, ShortlistActivation), "it is no string"
            moved = self.state.relabelled(other._every, other.activations)
            other._now = replace(other._now, state=moved, running=self._now.running)
            calibrated = other._calibrated_for(other._selected(other._relevance()))
            if calibrated is not None:
                other._now = replace(other._now, threshold=calibrated)
        return other

    def state_dict(self, *, compact: bool = False) -> dict[str, Any]:
        """What `load_state_dict` needs to go on: tensors, numbers and strings.

        Args:
            compact: leave out the sums of activations, the most of it: 1.4 MB at most instead of 11 for 70 000
                labels, D = 512 and L = 300. See `Detector.state_dict`.
        """
        shortlist = self.state.activations
        return {
            **super().state_dict(compact=compact),
            **({"shortlist": shortlist.rows.clone()} if isinstance(shortlist, Shortlist) else {}),
            "stream": self.state.state_dict(compact=compact),
            "running_threshold": self._now.running,
            "initial_ood": None if self.initial_ood is None else self.initial_ood.clone(),
            "calibration": None if self._now.known is None else self._now.known.clone(),
        }

    @undisturbed
    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Resume from `state_dict`: bit for bit, or from a compact one up to rounding, with a pass over the labels.

        ``initial_ood`` becomes the saved one, which may differ by rounding: `reset` goes back to the same start.

        Raises:
            ValueError: it comes from another method, bank or setting, or is incomplete; nothing changes then.
        """
        self._check_identity(state)
        initial_ood = self._same_outliers(state["initial_ood"])
        threshold, tpr = saved_threshold(state)
        known = self._calibration(state["calibration"], tpr)
        running = state["running_threshold"]
        merged = (
            running is None and "labels" in state
        )  # what these labels make of the stream is not known yet
        running = 0.0 if merged else fraction(running, "the state's running_threshold")
        labels, activations = self._every, self.activations
        if isinstance(activations, ShortlistActivation):
            activations = activations.of_rows(_listed(state, activations, self._start))
            labels = activations.bank
        stream = ActivationState.from_state_dict(
            labels, activations, self.capacity, state["stream"], self._per_source
        )
        start = self._start
        if initial_ood is not None and not torch.equal(initial_ood, self.initial_ood):  # type: ignore[arg-type]
            start = self._beginning(Now(), initial_ood).start
        other = copy.copy(self)
        other._now = _Now(
            threshold, tpr, known, state=stream, start=start, running=running, initial_ood=initial_ood
        )
        if merged:
            running = float(self._otsu(stream.history, start))
            calibrated = other._calibrated_for(other._selected(other._relevance()))
            threshold = threshold if calibrated is None else calibrated
            other._now = replace(other._now, threshold=threshold, running=running)
        self._now = other._now

    def _progress(self) -> list[int]:
        return list(self.state.seen)

    @property
    def _learnt_apart(self) -> bool:
        return self.state.shared != self.state.seen

    def _settle(self) -> None:
        state = self.state.copied()
        state.shared = state.seen
        self._now = replace(self._now, state=state)

    @classmethod
    def _merged_stream(cls, states: Sequence[dict[str, Any]], partial: bool) -> dict[str, Any]:
        """As `Detector._merged_stream`; a threshold that follows images is made anew by whoever loads it."""
        alike = {
            name: _same_rows([state[name] for state in states], name)
            for name in ("initial_ood", "calibration")
        }
        streams = merged_streams([state["stream"] for state in states], partial=partial)
        lists = {"shortlist": _joined(states)} if "shortlist" in states[0] else {}
        return {"stream": streams, "running_threshold": None, **lists, **alike}

    def _calibration(self, saved: Tensor | None, tpr: float | None) -> Tensor | None:
        """The calibration images of a state, and enough of them for its rate."""
        if saved is None:
            return None
        bank, what = self.bank, "the calibration's images"
        known = unit_embeddings(saved_tensor(saved, what, (None, bank.dim), torch.float32, bank.device), what)
        if tpr is None:
            raise ValueError("the state has calibration images and no tpr")
        threshold_at_tpr(known[:, 0], tpr)
        return known

    def _same_outliers(self, saved: Tensor | None) -> Tensor | None:
        """The outliers that were saved, on the bank's device, if they are this detector's up to rounding."""
        own = self.initial_ood
        if saved is None and own is None:
            return None
        if saved is not None:
            device = self.bank.device
            saved = saved_tensor(
                saved, "the state's initial_ood", (None, self.bank.dim), torch.float32, device
            )
        if _are_alike(saved, own):
            return saved
        raise ValueError(
            f"the state was saved with another initial_ood ({_rows(saved)}) than this detector's ({_rows(own)}), "
            "from which reset() starts: give the one that it was saved with"
        )

    def _settings(self) -> dict[str, Any]:
        return {
            "num_selected": self.num_selected,
            "step": self.step,
            "gap": self.gap,
            "alpha": self.alpha,
            "capacity": self.capacity,
            "seed": self.seed,
            "activation": self.activation if isinstance(self.activation, str) else repr(self.activation),
            "memory": self.memory if isinstance(self.memory, str) else repr(self.memory),
            "candidates": repr(self.candidates) if callable(self.candidates) else self.candidates,
            "final_pass": self.final_pass,
            "weighing": self.weighing if isinstance(self.weighing, str) else repr(self.weighing),
        }

    def _activations(self, activation: Activation) -> Activations | ShortlistActivation:
        if callable(activation) or isinstance(activation, ShortlistActivation):
            return activation
        if activation == "exact":
            return ExactActivation(self._every)
        from .approximate import ApproximateActivation

        return ApproximateActivation(self._every)

    def _candidates(self, bank: LabelBank) -> LabelBank:
        """The labels that the stream's activations are over: the ID labels, and the negatives that may be selected."""
        # All of them stay in the bank's order, so that nothing is copied.
        every = isinstance(self.candidates, int) and self.candidates >= bank.num_negatives
        return bank if every else chosen(bank, self.candidates)

    def _means(self) -> tuple[Tensor, Tensor]:
        """The mean activation of either side that labels are ranked by, ``[M]`` each."""
        state, start = self.state, self._start
        if self._guarded is None:
            return state.positive.mean, state.negative.mean
        prior = self._guarded.prior
        return (
            shrunk(state.positive.mean, start.positive, min(state.admitted_id, self.capacity), prior),
            shrunk(state.negative.mean, start.negative, min(state.admitted_ood, self.capacity), prior),
        )

    def _relevance(self) -> Tensor:
        positive, negative = self._means()
        return negative - positive

    def _otsu(self, history: Tensor, start: Start) -> Tensor:
        """The running threshold, one value, for which nothing has waited yet."""
        if self._guarded is None:
            return otsu_value(history)
        return anchored_value(history, start, self._guarded.anchor)

    def _share(self, z: Tensor, selected: Tensor, labels: LabelBank | None = None) -> Tensor:
        """The score of rows with these negatives (of the labels, or of those of now), ``[B]``."""
        return self._prefix_share(self._id_lse(z), self._logits(z, selected, labels))

    def _prefix_share(self, id_lse: Tensor, logits: Tensor) -> Tensor:
        """The score of rows with negatives of these logits, ``[B]``."""
        odds = odds_of(weighing_of(self.weighing), self.bank.num_id)
        if odds is None:
            return kernels.prefix_share(id_lse, logits, self.step)
        return weighed_prefix_share(id_lse, logits, self.step, odds)

    def _final_share(self, z: Tensor, selected: Tensor, labels: LabelBank | None = None) -> Tensor:
        """The same as it is returned, ``[B]``."""
        if self.final_pass == "float32":
            return self._share(z, selected, labels)
        bank, negatives = self.bank, (labels or self._labels).negative_embeddings[selected].float()
        return half_precision_share(z, bank.id_embeddings, negatives, bank.logit_scale, self.step)

    def _calibrated_for(self, selected: Tensor) -> float | None:
        """The threshold of the calibration images' scores with these negatives; None without such images."""
        now = self._now
        if now.known is None or now.tpr is None:
            return None
        return threshold_at_tpr(self._final_share(now.known, selected), now.tpr)

    def _admitted(
        self,
        z: Tensor,
        id_lse: Tensor,
        confidence: Tensor,
        threshold: Tensor,
        sources: tuple[str | None, ...] | None,
    ) -> tuple[float, tuple[Tensor, Tensor]]:
        """The threshold as a number, and the numbers of the images that enter the positive and the negative ring.

        This is where a step on a GPU waits for it: once, for the threshold and how many images there are.
        """
        sure = confident(confidence, threshold, self.gap)
        if self._guarded is not None:
            sure = self._new(z, id_lse, sure, self._guarded)
        counts = [threshold.double(), *(mask.sum(dtype=torch.float64) for mask in sure)]
        known, *found = torch.stack(counts).tolist()
        rows = tuple(
            mask.byte().sort(descending=True, stable=True).indices[: int(count)]
            for mask, count in zip(sure, found, strict=True)
        )
        places = self._per_source
        if sources is not None and places is not None:
            held = (self.state.sources_id, self.state.sources_ood)
            within = [within_share(r.tolist(), sources, h, places) for r, h in zip(rows, held, strict=True)]
            rows = tuple(torch.tensor(kept, dtype=torch.int64, device=z.device) for kept in within)
        return known, (rows[0], rows[1])

    def _new(
        self, z: Tensor, id_lse: Tensor, sure: tuple[Tensor, Tensor], settings: GuardedMemory
    ) -> tuple[Tensor, Tensor]:
        """The confident ones that the guarded memory lets in, ``[B]`` bool each."""
        frozen = 1 - self._prefix_share(id_lse, self._logits(z, self._start.selected))
        passed = confident(frozen, settings.gate, self.gap)
        rings = (self.state.positive, self.state.negative)
        positive, negative = (
            without_duplicates(z, mask & also, ring.embeddings, settings.duplicate)
            for mask, also, ring in zip(sure, passed, rings, strict=True)
        )
        return positive, negative

    def _selected(self, relevance: Tensor) -> Tensor:
        return kernels.stable_topk(relevance, self.num_selected)

    def _id_lse(self, z: Tensor) -> Tensor:
        return kernels.row_lse(z, self.bank.id_embeddings, self.bank.logit_scale)

    def _logits(self, z: Tensor, selected: Tensor, labels: LabelBank | None = None) -> Tensor:
        """Logits of the selected negatives (of the labels, or of those of now), ``[B, K]``."""
        negatives = (labels or self._labels).negative_embeddings[selected].float()
        return product(z * self.bank.logit_scale, negatives.T)

    def _chosen_again(self, z: Tensor, logits: Tensor, first: Tensor, final: Tensor) -> Tensor:
        """Logits of the final choice: those of the first one in another order, and the few that are new."""
        place = torch.full((self._labels.num_negatives,), -1, dtype=torch.int64, device=first.device)
        place[first] = torch.arange(len(first), dtype=torch.int64, device=first.device)
        columns = place[final]
        result = logits.index_select(1, columns.clamp(min=0))
        new = (columns < 0).nonzero()[:, 0]
        return result.index_copy_(1, new, self._logits(z, final[new])) if len(new) else result

    def _advance(self, z: Tensor, sources: tuple[str | None, ...] | None = None) -> _Advance:
        """One step of the method on ``z [B, D]``, the state untouched."""
        state = self.state
        positive_mean, negative_mean = self._means()
        first_choice = self._selected(negative_mean - positive_mean)
        id_lse = self._id_lse(z)
        logits = self._logits(z, first_choice)
        scores = self._prefix_share(id_lse, logits)
        confidence = 1 - scores
        history = state.extended_history(confidence)
        threshold, admitted = self._admitted(z, id_lse, confidence, self._otsu(history, self._start), sources)
        positive, negative = state.prepare(*(z[rows] for rows in admitted))
        if positive is not None:
            positive_mean = self.alpha * positive_mean + (1 - self.alpha) * positive.mean
        if negative is not None:
            negative_mean = self.alpha * negative_mean + (1 - self.alpha) * negative.mean
        final_choice = self._selected(negative_mean - positive_mean)
        if self.final_pass != "float32":
            scores = self._final_share(z, final_choice)
        elif kernels.queued(z):  # a small product costs less than to wait for which labels are new
            scores = self._prefix_share(id_lse, self._logits(z, final_choice))
        elif not torch.equal(final_choice, first_choice):
            logits = self._chosen_again(z, logits, first_choice, final_choice)
            scores = self._prefix_share(id_lse, logits)
        calibrated = self._calibrated_for(final_choice)
        told = [None if sources is None else [sources[row] for row in rows.tolist()] for rows in admitted]
        return _Advance(scores, history, threshold, calibrated, positive, negative, *told)


def _memory(value: str | GuardedMemory) -> str | GuardedMemory:
    memory_settings(value)
    return value


def _activation(value: Activation) -> Activation:
    if not (callable(value) or isinstance(value, ShortlistActivation)) and value not in (
        "exact",
        "approximate",
    ):
        raise ValueError(
            f'activation must be "exact", "approximate", a ShortlistActivation or a function, not {value!r}'
        )
    return value


def _precision(value: str) -> str:
    if value not in ("float32", "float16"):
        raise ValueError(f'final_pass must be "float32" or "float16", not {value!r}')
    return value


def _same_rows(saved: Sequence[Any], name: str) -> Tensor | None:
    """The first of these embeddings ``[n, D]``, or None, where all are the same up to rounding.

    Raises:
        ValueError: they are not.
    """
    read = [
        rows
        if rows is None
        else saved_tensor(rows, f"the state's {name}", (None, None), torch.float32, "cpu")
        for rows in saved
    ]
    for other in read[1:]:
        if not _are_alike(read[0], other):
            raise ValueError(
                f"the streams have another {name} ({_rows(read[0])} and {_rows(other)}): give all the same"
            )
    return read[0] if read[0] is None else read[0].to(saved[0].device)


def _are_alike(rows: Tensor | None, other: Tensor | None) -> bool:
    """Whether both are the embeddings of the same images, up to rounding, or there are none."""
    if rows is None or other is None or rows.shape != other.shape:
        return rows is other
    return bool((torch.linalg.vector_norm(rows - other, dim=1) <= ROUNDING).all())


def _rows(outliers: Tensor | None) -> str:
    return "none" if outliers is None else f"{len(outliers)} rows"


def _check_shortlist(
    activation: ShortlistActivation, bank: LabelBank, guarded: GuardedMemory | None, candidates: Choice
) -> None:
    if activation.bank is not bank and activation.bank.fingerprint != bank.fingerprint:
        raise ValueError(
            f"{activation!r} was made for {activation.bank!r}, not for {bank!r}: make one for this bank"
        )
    if guarded is not None:
        raise ValueError(
            "the guarded memory compares all labels with those of the start, and a short list does not hold all: give "
            'memory="published", or activation="exact"'
        )
    if candidates is not None:
        raise ValueError(
            f"candidates={candidates!r} needs all labels at once: leave it out, and give the ShortlistActivation "
            "index.without([...]) to keep labels out"
        )


def _listed(state: dict[str, Any], whole: ShortlistActivation, start: Start) -> Tensor:
    """The rows of a saved short list."""
    rows = saved_tensor(state["shortlist"], "the state's short list", (None,), torch.int64, whole.bank.device)
    if len(rows) < len(start.selected) or not 0 <= int(rows.min()) <= int(rows.max()) < len(whole.index):
        raise ValueError(f"the state's short list holds rows that {whole.index!r} has not")
    if len(distinct(rows)) < len(rows) or bool(whole.index.struck[rows].any()):
        raise ValueError("the state's short list names a label twice, or one that was struck out")
    return rows


def _joined(states: Sequence[dict[str, Any]]) -> Tensor:
    """The rows of several short lists, those of the first one first: what was selected at the start is in all."""
    lists = [
        saved_tensor(s["shortlist"], "the state's short list", (None,), torch.int64, "cpu") for s in states
    ]
    rows = lists[0]
    for other in lists[1:]:
        rows = torch.cat([rows, other[~torch.isin(other, rows)]])
    return rows
