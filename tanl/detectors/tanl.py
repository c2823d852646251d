"""TANL: test-time activated negative labels."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from .. import kernels
from ..checks import Embeddings, fraction, unit_embeddings, whole_number
from ..functional import activation_sums, otsu_threshold
from ..labels.bank import LabelBank
from .base import Detector
from .state import Activations, ActivationState, RingUpdate

if TYPE_CHECKING:
    from typing_extensions import Self

# "paper": the paper's section on implementation details. The others are what the published shell scripts set
# (scripts/ood/TANL of YBZh/OpenOOD-VLM): where a script tries several values, the first that it assigns.
PRESETS: dict[str, dict[str, Any]] = {
    "paper": {"num_selected": 1000, "step": 1, "gap": 0.2, "alpha": 0.95, "capacity": 300},
    "official-script": {"num_selected": 1000, "step": 1, "gap": 0.5, "alpha": 0.0, "capacity": 300},
    "cifar": {"num_selected": 1000, "step": 1, "gap": 0.2, "alpha": 0.95, "capacity": 300},
    "medical": {"num_selected": 1000, "step": 1, "gap": 0.0, "alpha": 0.95, "capacity": 300},
}

# How far apart two machines' embeddings of one image may lie, also in half precision (0.012 for the noise images of
# the embedded model; with another seed at least 0.09).
_ROUNDING = 0.03


@dataclass(frozen=True)
class _Advance:
    """What a batch yields, and what committing it will change."""

    scores: Tensor
    history: Tensor
    threshold: float
    positive: RingUpdate | None
    negative: RingUpdate | None


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
            settings of your own, or any function of rows ``[n, D]`` and segments to ``[G, M]``.

    Raises:
        TypeError, ValueError: an unusable setting; a bank without negatives.
    """

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
        activation: str | Activations = "exact",
    ) -> None:
        super().__init__(bank)
        self._require_negatives()
        self.num_selected = whole_number(num_selected, "num_selected", at_least=1)
        self.step = whole_number(step, "step", at_least=0)
        self.gap = fraction(gap, "gap")
        self.alpha = fraction(alpha, "alpha")
        self.capacity = whole_number(capacity, "capacity", at_least=1)
        self.seed = seed
        if initial_ood is not None:
            initial_ood = unit_embeddings(initial_ood, "initial_ood", dim=bank.dim, device=bank.device)
        self.initial_ood = initial_ood
        self.activation = activation
        self.activations = self._activations(activation)
        self.reset()

    @staticmethod
    def preset(name: str) -> dict[str, Any]:
        """Published settings by name, as keyword arguments: ``TANL(bank, **TANL.preset("paper"))``.

        Args:
            name: "paper", or one of the published shell scripts: "official-script", "cifar", "medical".
        """
        if name not in PRESETS:
            raise ValueError(f"no preset {name!r}; there are {', '.join(map(repr, PRESETS))}")
        return dict(PRESETS[name])

    @torch.no_grad()
    def reset(self) -> None:
        """Forget the stream: start again from the ID labels and ``initial_ood``."""
        state = ActivationState.initial(
            self.bank, self.activations, self.capacity, self.seed, self.initial_ood
        )
        known = self.bank.id_embeddings
        if self.initial_ood is not None:
            known = torch.cat([known, self.initial_ood])
        logits = self._logits(known, self._selected(state.relevance))
        first = 1 - kernels.prefix_share(self._id_lse(known), logits, self.step)
        state.history = state.extended_history(first)
        self.state = state
        self._running = otsu_threshold(state.history)

    @torch.no_grad()
    def __call__(self, z: Embeddings) -> Tensor:
        """Score a batch of the stream, ``[B, D] -> [B]``, and learn from its confident images."""
        ahead = self._advance(self._checked(z))
        self.state.commit(ahead.positive, ahead.negative)
        self.state.history = ahead.history
        self.state.images += len(z)
        self._running = ahead.threshold
        return ahead.scores

    forward = __call__

    def _scores(self, z: Tensor) -> Tensor:
        return self._advance(z).scores

    @property
    def threshold(self) -> float:
        """The OOD score above which `predict` says OOD: calibrated, or Otsu's of the stream so far."""
        return 1 - self._running if self._calibrated is None else self._calibrated

    @torch.no_grad()
    def predict(self, z: Embeddings) -> Tensor:
        """Decide, True = OOD; without a calibrated threshold by Otsu's, this batch included."""
        ahead = self._advance(self._checked(z))
        threshold = 1 - ahead.threshold if self._calibrated is None else self._calibrated
        return ahead.scores > threshold

    def _negatives(self) -> tuple[Sequence[str], Tensor]:
        chosen = self._selected(self.state.relevance)
        names = self.bank.negative_names
        return [names[i] for i in chosen.tolist()], self.bank.negative_embeddings[chosen]

    @property
    def selected(self) -> list[str]:
        """The negative labels that the stream activates most, as the next batch's first pass will use them."""
        return list(self._negatives()[0])

    @torch.no_grad()
    def relabelled(self, bank: LabelBank) -> Self:
        """The same method with the same settings over other labels, and what it remembers of its stream.

        Both rings keep their embeddings and the history its confidences; the sums of activations are made anew, in one
        pass over the labels, as every label is in every activation's denominator. Two things follow the labels:
        a row of the positive ring whose best ID label is gone is no longer known to be ID, and is dropped; and
        before the first image the stream starts from the new labels, as in a new detector. The embedding of an
        ID label that is added later is not put into the positive ring, and rows of the negative ring that
        resemble it stay: what the label takes from their softmax, they activate negatives less.

        The calibrated threshold is carried over, but scores with other labels are other scores: calibrate again.

        Raises:
            TypeError, ValueError: as `Detector.relabelled`; an ``activation`` that is a function, which cannot
                follow to other labels.
        """
        self._check_same_backbone(bank)
        if not isinstance(self.activation, str):
            raise ValueError(
                f"activation={self.activation!r} is of these labels and cannot follow to others; "
                'make a new TANL, or use "exact" or "approximate"'
            )
        other = copy.copy(self)
        other.bank = bank
        other._require_negatives()
        other.activations = other._activations(self.activation)
        if self.state.images:
            other.state = self.state.relabelled(bank, other.activations)
        else:
            other.reset()
        return other

    def state_dict(self, *, compact: bool = False) -> dict[str, Any]:
        """What `load_state_dict` needs to go on: tensors, numbers and strings.

        Args:
            compact: leave out the sums of activations, the most of it: 1.4 MB at most instead of 11 for 70 000
                labels, D = 512 and L = 300. See `Detector.state_dict`.
        """
        return {
            **super().state_dict(compact=compact),
            "stream": self.state.state_dict(compact=compact),
            "running_threshold": self._running,
            "initial_ood": None if self.initial_ood is None else self.initial_ood.clone(),
        }

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Resume from `state_dict`: bit for bit, or from a compact one up to rounding, with a pass over the labels.

        ``initial_ood`` becomes the saved one, which may differ by rounding: `reset` goes back to the same start.

        Raises:
            ValueError: it comes from another method, bank or setting, or is incomplete; nothing changes then.
        """
        self._check_identity(state)
        initial_ood = self._same_outliers(state["initial_ood"])
        self.state = ActivationState.from_state_dict(
            self.bank, self.activations, self.capacity, state["stream"]
        )
        self._running = state["running_threshold"]
        self._calibrated = state["threshold"]
        self.initial_ood = initial_ood

    def _same_outliers(self, saved: Tensor | None) -> Tensor | None:
        """The outliers that were saved, on the bank's device, if they are this detector's up to rounding."""
        own = self.initial_ood
        if saved is None and own is None:
            return None
        if saved is not None and own is not None and saved.shape == own.shape:
            saved = saved.to(own.device, copy=True)
            if float(torch.linalg.vector_norm(saved - own, dim=1).max()) <= _ROUNDING:
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
        }

    def _activations(self, activation: str | Activations) -> Activations:
        if callable(activation):
            return activation
        if activation == "exact":
            return self._exact_activations
        if activation == "approximate":
            from .approximate import ApproximateActivation

            return ApproximateActivation(self.bank)
        raise ValueError(f'activation must be "exact", "approximate" or a function, not {activation!r}')

    def _exact_activations(self, rows: Tensor, segments: kernels.Segments) -> Tensor:
        bank = self.bank
        return activation_sums(rows, bank.embeddings, bank.num_id, bank.logit_scale, segments)

    def _selected(self, relevance: Tensor) -> Tensor:
        return kernels.stable_topk(relevance, self.num_selected)

    def _id_lse(self, z: Tensor) -> Tensor:
        return kernels.row_lse(z, self.bank.id_embeddings, self.bank.logit_scale)

    def _logits(self, z: Tensor, selected: Tensor) -> Tensor:
        """Logits of the selected negatives, ``[B, K]``."""
        return (z * self.bank.logit_scale) @ self.bank.negative_embeddings[selected].float().T

    def _chosen_again(self, z: Tensor, logits: Tensor, first: Tensor, final: Tensor) -> Tensor:
        """Logits of the final choice: those of the first one in another order, and the few that are new."""
        place = torch.full((self.bank.num_negatives,), -1, device=first.device)
        place[first] = torch.arange(len(first), device=first.device)
        columns = place[final]
        result = logits.index_select(1, columns.clamp(min=0))
        new = (columns < 0).nonzero()[:, 0]
        return result.index_copy_(1, new, self._logits(z, final[new])) if len(new) else result

    def _advance(self, z: Tensor) -> _Advance:
        """One step of the method on ``z [B, D]``, the state untouched."""
        state = self.state
        positive_mean, negative_mean = state.positive.mean, state.negative.mean
        first_choice = self._selected(negative_mean - positive_mean)
        id_lse = self._id_lse(z)
        logits = self._logits(z, first_choice)
        scores = kernels.prefix_share(id_lse, logits, self.step)
        confidence = 1 - scores
        history = state.extended_history(confidence)
        threshold = otsu_threshold(history)
        confident_id = confidence > threshold + self.gap * (1 - threshold)
        confident_ood = confidence < threshold - self.gap * threshold
        positive, negative = state.prepare(z[confident_id], z[confident_ood])
        if positive is not None:
            positive_mean = self.alpha * positive_mean + (1 - self.alpha) * positive.mean
        if negative is not None:
            negative_mean = self.alpha * negative_mean + (1 - self.alpha) * negative.mean
        final_choice = self._selected(negative_mean - positive_mean)
        if not torch.equal(final_choice, first_choice):
            logits = self._chosen_again(z, logits, first_choice, final_choice)
            scores = kernels.prefix_share(id_lse, logits, self.step)
        return _Advance(scores, history, threshold, positive, negative)


def _rows(outliers: Tensor | None) -> str:
    return "none" if outliers is None else f"{len(outliers)} rows"
