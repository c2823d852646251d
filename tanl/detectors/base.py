"""What every detector does the same way: checks, decisions, evidence, saved state."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence, Set
from dataclasses import dataclass, replace
from numbers import Real
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from .. import kernels
from ..checks import Embeddings, as_tensor, finite, sources_of, unit_embeddings, whole_number
from ..io.options import BATCH_SIZE
from ..kernels.surroundings import undisturbed
from ..labels.bank import LabelBank
from ..labels.index import LabelIndex
from ..labels.nearest import nearest
from .memory import MemoryReport
from .processes import joined, jointly, on_cpu
from .thresholds import threshold_at_tpr, threshold_from_stream

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup
    from typing_extensions import Self


class Evidence(NamedTuple):
    """A negative label that an image resembles, with its probability; see `Detector.explain`."""

    label: str
    probability: float


@dataclass(frozen=True)
class Now:
    """All that a detector changes after it is made. A method with a stream adds what it remembers of it.

    It is never changed but replaced, whole and by one assignment: whatever interrupts a call, and whoever looks at the
    detector meanwhile, there is the old state or the new one.

    Attributes:
        threshold: the calibrated threshold, or None.
        tpr: the share of ID images that it promised to keep, or None.
        known: ``[n, D]`` ID images whose scores it follows (`tanl.TANL`), or None.
    """

    threshold: float | None = None
    tpr: float | None = None
    known: Tensor | None = None


# What every compact state has; a method with a stream adds what it remembers of it.
_COMPACT = {"method", "labels", "settings", "threshold", "tpr"}


class Detector:
    """Base of the detectors. A method gives `_scores`; one with a stream also overrides the call and `reset`.

    Verbs: the call scores and commits to the stream; `score` leaves the stream alone; `predict` decides;
    `calibrate` sets the threshold, `uncalibrate` forgets it; `explain` tells why; `reset` forgets the stream.

    Args:
        bank: ID labels, and negatives for the methods that use them.
    """

    checked: ClassVar[dict[str, Callable[[Any, str], Any]]] = {}
    """Settings that may be assigned, each with the check of a value and its name: what it gives is kept."""
    lasting: ClassVar[dict[str, Callable[[Any, str], Any]]] = {}
    """The same of settings that a detector is made of, and that cannot change any more once they are set."""

    needs_local: ClassVar[bool] = False
    """Whether it scores with embeddings of each image's patches, ``local``, beside the image's own."""

    _now: Now = Now()

    def __init__(self, bank: LabelBank) -> None:
        if not isinstance(bank, LabelBank):
            raise TypeError(f"bank must be a LabelBank, not {type(bank).__name__}")
        self.bank = bank

    def __setattr__(self, name: str, value: Any) -> None:
        if name in self.checked:
            value = self.checked[name](value, name)
        elif name in self.lasting:
            value = self.lasting[name](value, name)
            if name in self.__dict__ and value != self.__dict__[name]:
                kind = type(self).__name__
                raise AttributeError(
                    f"{name} of a {kind} cannot change; make another: {kind}(bank, {name}={value!r})"
                )
        super().__setattr__(name, value)

    def __call__(self, z: Embeddings, *, source: str | Sequence[str | None] | None = None) -> Tensor:
        """Score a batch of the stream and commit to it.

        Args:
            z: image embeddings ``[B, D]``, a tensor or a NumPy array, unit rows, on the bank's device.
            source: where the images come from (a camera, a customer), a name for all or one for each, None where it is
                not known. A method that learns bounds what one source may teach it, or refuses sources; one that does
                not learn needs none, and checks them only.

        Returns:
            OOD scores ``[B]``, float32; higher = more OOD.

        Raises:
            TypeError: z is neither a floating tensor nor such an array.
            ValueError: wrong shape, D or device, no row, NaN, or a row that is not of unit norm. The state
                is unchanged after any error.
        """
        if source is not None:
            sources_of(source, len(self._checked(z)))
        return self.score(z)

    @undisturbed
    def score(self, z: Embeddings) -> Tensor:
        """The scores that the call would give, ``[B, D] -> [B]``; the stream's state stays as it is."""
        return self._scores(self._checked(z))

    def _scores(self, z: Tensor) -> Tensor:
        raise NotImplementedError

    @property
    def threshold(self) -> float | None:
        """The OOD score above which `predict` says OOD; None while there is none."""
        return self._now.threshold

    @property
    def tpr(self) -> float | None:
        """The share of ID images that the calibrated threshold promised to keep; None without such a promise."""
        return self._now.tpr

    def predict(self, z: Embeddings) -> Tensor:
        """Decide: True = OOD, ``[B, D] -> [B]``; the stream's state stays as it is.

        Raises:
            ValueError: there is no threshold yet (see `calibrate`), or z is unusable.
        """
        return self._decided(self.score(z))

    def _decided(self, scores: Tensor) -> Tensor:
        if self.threshold is None:
            raise ValueError(
                f"{type(self).__name__} has no threshold yet: call calibrate(scores of ID images) first"
            )
        return scores > self.threshold

    def calibrate(self, id_scores: Tensor, tpr: float = 0.95) -> float:
        """Set the threshold so that new ID images are kept with probability at least ``tpr``.

        Args:
            id_scores: OOD scores of ID images, ``[n]``; at least ``tpr / (1 - tpr)`` of them (19 for 0.95).
            tpr: wanted share of ID images that are kept.

        Returns:
            The threshold; see `tanl.detectors.thresholds.threshold_at_tpr` for what it guarantees.
        """
        threshold = threshold_at_tpr(id_scores, tpr)
        self._now = replace(self._now, threshold=threshold, tpr=float(tpr), known=None)
        return threshold

    def calibrate_embeddings(
        self, z: Embeddings, tpr: float = 0.95, *, batch_size: int = BATCH_SIZE
    ) -> float:
        """Set the threshold from ID images themselves, ``[n, D]``; see `calibrate`. The stream stays as it is.

        A method whose scores move with its stream may keep the images, so that the threshold follows (`TANL`).

        Args:
            z: embeddings of ID images, ``[n, D]``; at least ``tpr / (1 - tpr)`` of them (19 for 0.95).
            tpr: wanted share of ID images that are kept.
            batch_size: how many are scored at a time. Give the stream's, where scores depend on their batch: the
                promise is for images that are scored as these are.

        Returns:
            The threshold.

        Raises:
            TypeError, ValueError: z is unusable, tpr is not strictly between 0 and 1, or z is too few for it.
        """
        batch_size = whole_number(batch_size, "batch_size", at_least=1)
        parts = torch.split(self._checked(z), batch_size)
        return self.calibrate(torch.cat([self.score(part) for part in parts]), tpr)

    def calibrate_unlabelled(self, scores: Tensor) -> float:
        """Set the threshold from scores of which nobody knows whether they are ID or OOD, by Otsu's method.

        TANL does so by itself after every batch; this is for the methods without a threshold of their own.

        Args:
            scores: OOD scores of a stream in which both kinds are frequent, ``[n]``.

        Returns:
            The threshold; see `tanl.detectors.thresholds.threshold_from_stream` for when it fails.
        """
        threshold = threshold_from_stream(scores)
        self._now = replace(self._now, threshold=threshold, tpr=None, known=None)
        return threshold

    def uncalibrate(self) -> None:
        """Forget the threshold that was calibrated; TANL goes back to its own, the others have none then."""
        self._now = replace(self._now, threshold=None, tpr=None, known=None)

    @undisturbed
    def explain(
        self,
        z: Embeddings,
        k: int = 5,
        *,
        index: LabelIndex | None = None,
        hidden: Set[str] = frozenset(),
    ) -> list[tuple[Evidence, ...]]:
        """The ``k`` negative labels that count most against each image, with their probabilities.

        Probabilities are the softmax over the labels that the method scores with, at the bank's logit scale:
        the ID labels and its negatives.

        Args:
            z: ``[B, D]``.
            k: labels an image.
            index: an index of the labels that are named (`LabelIndex.of`), for a method with very many
                negatives; None looks at each of them.
            hidden: case-folded labels that are not named, such as those of `tanl.labels.not_shown.words`; the next ones
                are, with the probabilities that they have. Scores are not concerned.

        Returns:
            For each row its evidence, the most probable first; none of a method that scores without negatives.

        Raises:
            TypeError: the index is none.
            ValueError: the index is of other labels.
        """
        z = self._checked(z)
        k = whole_number(k, "k", at_least=1)
        bank = self.bank
        names, embeddings = self.negatives()
        if index is not None and not isinstance(index, LabelIndex):
            raise TypeError(
                f"index must be a LabelIndex, not a {type(index).__name__}; LabelIndex.of makes one"
            )
        if index is not None and not (len(index) == len(names) and set(index.names) == set(names)):
            raise ValueError(
                f"{index!r} is not of the {len(names)} labels that {type(self).__name__} scores with"
            )
        if not names:
            return [()] * len(z)
        lse = torch.logaddexp(
            kernels.row_lse(z, bank.id_embeddings, bank.logit_scale),
            kernels.row_lse(z, embeddings, bank.logit_scale),
        )
        asked = min(k, len(names))
        if hidden:  # more than are wanted, so that few searches are needed
            asked = min(4 * k + 16, len(names))
        while True:
            found = nearest(z, embeddings, asked) if index is None else index.search(z, asked)
            probabilities = (bank.logit_scale * found.cosines - lse[:, None]).exp().clamp(max=1)
            result = []
            for rows, values in zip(found.rows.tolist(), probabilities.tolist(), strict=True):
                labels = [names[row] if index is None else index.names[row] for row in rows]
                pairs = zip(labels, values, strict=True)
                named = [pair for pair in pairs if not hidden or pair[0].casefold() not in hidden]
                result.append(tuple(Evidence(*pair) for pair in named[:k]))
            if asked == len(names) or min(map(len, result)) == k:
                return result
            asked = min(4 * asked, len(names))

    @property
    def selected(self) -> list[str]:
        """The negative labels that the method scores with, in its order: TANL's as the next batch's first pass will."""
        return list(self.negatives()[0])

    def negatives(self) -> tuple[Sequence[str], Tensor]:
        """Names and embeddings ``[K, D]`` of the negatives that the method scores with; none by default."""
        return (), self.bank.embeddings[:0]

    @property
    def has_stream(self) -> bool:
        """Whether what it says of an image may depend on the images before it: there is something to `reset`."""
        return type(self).reset is not Detector.reset

    @property
    def bounds_sources(self) -> bool:
        """Whether the call bounds what the images of one source may teach it; see its ``source``."""
        return False

    def activated(self, k: int) -> list[tuple[str, float]]:
        """The ``k`` negative labels that the stream activated most, with their relevance, the highest first.

        None of a method that does not rank its negatives by the stream.
        """
        return []

    def as_share(self, scores: Tensor) -> Tensor:
        """Scores ``[B]`` as shares in [0, 1] that the negatives take from the ID labels.

        Raises:
            ValueError: the method's scores are no shares.
        """
        raise ValueError(
            f"{type(self).__name__}'s scores are no probabilities; TANL, NegLabel, CSP and AdaNeg give shares"
        )

    def memory_report(self) -> MemoryReport | None:
        """What the method remembers of its stream, in figures; None for one without such a report."""
        return None

    def decided_at_start(self, z: Embeddings) -> Tensor | None:
        """What the method would decide of ``z [n, D]``, taken together, had it learnt nothing: True = OOD, ``[n]``.

        Where this and `predict` part, the stream has taught the method so. None for a method without such a start.
        """
        return None

    def reset(self) -> None:
        """Forget the stream; the threshold that `calibrate` set stays. Nothing to do for a stateless method."""

    def relabelled(self, bank: LabelBank) -> Self:
        """The same method with the same settings over other labels, and what it remembers of its stream.

        This detector stays as it is. The threshold that `calibrate` set is carried over, but scores with other
        labels are other scores: calibrate again.

        Args:
            bank: labels that the same backbone embedded, on the same device.

        Raises:
            TypeError: bank is no LabelBank.
            ValueError: its D, logit scale or device is another, or the method cannot use it.
        """
        self._check_same_backbone(bank)
        other = type(self)(bank, **self.settings)
        other._now = replace(other._now, threshold=self._now.threshold, tpr=self._now.tpr)
        return other

    def state_dict(self, *, compact: bool = False) -> dict[str, Any]:
        """What `load_state_dict` needs to go on: tensors, numbers and strings.

        Args:
            compact: leave out what can be computed again from the rest and the bank. The bank is then told by its
                names, not by the bits of its embeddings, so that the state can go to another machine. What was
                left out agrees up to float32 rounding; without ``compact`` a stream goes on bit for bit.
        """
        return {**self._identity(compact), "threshold": self._now.threshold, "tpr": self._now.tpr}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Resume from `state_dict`, compact or not.

        Raises:
            ValueError: it comes from another method, bank or setting, or is incomplete; nothing changes then.
        """
        self._check_identity(state)
        threshold, tpr = saved_threshold(state)
        self._now = replace(self._now, threshold=threshold, tpr=tpr, known=None)

    @classmethod
    def merged(cls, states: Sequence[dict[str, Any]], *, partial: bool = False) -> dict[str, Any]:
        """One state from those of detectors that went on side by side, each with a part of the stream.

        It needs neither labels nor a model, so that a process that has none can bring together what others learn. The
        detectors went on from one state: as they were made, or what an earlier merge gave all of them. What that state
        had seen counts once. See `ActivationState.merge` for what becomes of TANL's stream; of AdaNeg's a label keeps
        the images of smallest entropy. The calibration must be the same in all.

        Args:
            states: of ``state_dict(compact=True)``, at least one, from detectors of this method over the same labels
                with the same settings. One may be what an earlier merge gave and nobody went on from; the others may
                then have gone on from it, or from what it was before further merges.
            partial: the result is one part of a larger merge and can be merged with the other parts; do not go on from
                it. Otherwise what goes on from it is merged with what else goes on from it.

        Returns:
            A state that ``load_state_dict`` takes, compact.

        Raises:
            TypeError: something that is no state.
            ValueError: no state, or a full one; another method, other labels, settings or calibration; a damaged state;
                streams that did not go on from one state; a method that does not say how its streams merge.
        """
        states = list(states)
        if not states:
            raise ValueError("no states to merge; give at least one")
        for state in states:
            if not isinstance(state, dict):
                raise TypeError(f"a state must be a dict, from state_dict(), not a {type(state).__name__}")
            if "labels" not in state:
                raise ValueError("only compact states can be merged: give those of state_dict(compact=True)")
        first = states[0]
        for state in states:
            if state.keys() != first.keys() or not state.keys() >= _COMPACT:
                raise ValueError(f"the states are not all of {cls.__name__}'s state_dict(compact=True)")
            saved_threshold(state)
            if state["method"] != cls.__name__:
                raise ValueError(f"the state is one of a {state['method']}, not of a {cls.__name__}")
            for key in ("labels", "settings"):
                if not is_same(state[key], first[key]):
                    raise ValueError(
                        f"the states were saved with other {key}: {first[key]!r} and {state[key]!r}; give all the same"
                    )
        return {**first, **cls._merged_threshold(states), **cls._merged_stream(states, partial)}

    @classmethod
    def _merged_threshold(cls, states: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """What the states have of a calibrated threshold, which must be the same, or follow the same images."""
        follows = states[0].get("calibration") is not None
        for key in ("tpr",) if follows else ("tpr", "threshold"):
            told = [state[key] for state in states]
            if any(value != told[0] for value in told):
                raise ValueError(f"the states have another {key}: {told}; calibrate all alike, or none")
        return {key: states[0][key] for key in ("threshold", "tpr")}

    @classmethod
    def _merged_stream(cls, states: Sequence[dict[str, Any]], partial: bool) -> dict[str, Any]:
        """What streams of this method become together, see `merged`: the leaves of a compact state beside `_COMPACT`.

        Raises:
            ValueError: see `merged`.
        """
        more = sorted(states[0].keys() - _COMPACT)
        if more:
            raise ValueError(
                f"{cls.__name__} does not say how its streams merge: its states have {', '.join(more)}"
            )
        return {}

    def merge(self, *others: Detector | dict[str, Any]) -> None:
        """Go on from what this detector and others learnt, each from a part of the stream, as one; see `merged`.

        The others stay as they are. To go on side by side, let all load this one's state afterwards.

        Args:
            others: detectors of the same method, labels and settings, or their states, compact.

        Raises:
            TypeError, ValueError: as `merged`; a detector over other label embeddings, or with labels of another dtype.
                Nothing changes then.
        """
        states = [self.state_dict(compact=True)]
        for other in others:
            if isinstance(other, Detector):
                for name in ("dtype", "fingerprint"):
                    own, its = getattr(self.bank, name), getattr(other.bank, name)
                    if own != its:
                        raise ValueError(f"the detectors' labels have another {name}: {own} and {its}")
                other = other.state_dict(compact=True)
            states.append(other)
        self.load_state_dict(self.merged(states))

    @undisturbed
    def synchronize(self, group: ProcessGroup | None = None) -> None:
        """Let the detectors of all processes of a `torch.distributed` group go on from what they learnt together.

        For processes that each score a part of the stream: each calls this as often as it likes, all as often as each
        other. Their states are merged in the order of ranks (`merged`), and every process goes on from the result,
        the same in all. What the processes had in common, as they were made or after the last time, counts once;
        detectors whose states are the same, because all loaded one file, say, have everything in common: call it once
        then, before they part. For batches of which each process has a part, scored as one, see `together`.

        Args:
            group: whose processes; None for all.

        Raises:
            ValueError: there is no process group; what `merged` refuses, in any process.
            OSError: another process failed, ended, or did not come within the timeout of the group, which
                ``torch.distributed.init_process_group(timeout=...)`` sets (30 minutes with gloo where nothing is said).
                After any error every process has its own state, as it was.
        """

        def merged(states: list[Any], rank: int) -> Now:
            other = copy.copy(self)
            other.load_state_dict(self.merged(states))
            return other._now

        self._now = jointly(lambda: on_cpu(self.state_dict(compact=True)), merged, group)

    @undisturbed
    def together(
        self,
        z: Embeddings,
        *,
        source: str | Sequence[str | None] | None = None,
        group: ProcessGroup | None = None,
    ) -> Tensor:
        """Score a batch of which every process of a `torch.distributed` group has a part, and commit to it as a whole.

        The parts are put together in the order of ranks, and every process makes the step of the whole batch, so that
        scores and state are those of one process that is given ``torch.cat(parts)``: bit for bit on the same machine
        with the same number of threads, and the states of all processes stay the same without ever being sent. Parts
        may be of any length, and empty where a process has no images left. The time of a step grows with the whole
        batch; beside a model that embeds the images it is small.

        Args:
            z: this process's part, ``[n, D]``; ``[0, D]`` for none.
            source: as the call takes it, of this part.
            group: whose processes, which all call this; None for all. Their detectors are alike and have learnt the
                same: as they were made, or since `synchronize` or the last time.

        Returns:
            OOD scores of this part, ``[n]``.

        Raises:
            ValueError: there is no process group; an unusable part or source, or a detector that is not like the
                others, in any process.
            OSError: as `synchronize`. After any error no process has learnt anything.
        """

        def offer() -> tuple[Tensor, tuple[str | None, ...] | None, dict[str, Any]]:
            rows = as_tensor(z, "image embeddings")
            if rows.ndim != 2 or rows.shape != (0, self.bank.dim):
                rows = self._checked(z)
            sources = sources_of(source, len(rows)) if len(rows) else None
            if self._learnt_apart:
                raise ValueError("this detector has learnt apart from the others: call synchronize() first")
            return rows.float().cpu(), sources, {**self._identity(compact=True), "stream": self._progress()}

        def step(offers: list[Any], rank: int) -> tuple[Now, Tensor]:
            for process, (_, _, identity) in enumerate(offers):
                for key, own in offers[0][2].items():
                    if not is_same(identity[key], own):
                        raise ValueError(
                            f"processes 0 and {process} have another {key}, {own!r} and {identity[key]!r}; make the "
                            "detectors alike, and synchronize() what they learnt apart"
                        )
            whole, sources = joined([(rows, told) for rows, told, _ in offers])
            other = copy.copy(self)
            scores = whole.new_zeros(0).to(self.bank.device)
            if len(whole):
                scores = other(whole.to(self.bank.device), source=sources)
                other._settle()
            before = sum(len(rows) for rows, _, _ in offers[:rank])
            return other._now, scores[before : before + len(offers[rank][0])].clone()

        self._now, scores = jointly(offer, step, group)
        return scores

    def _progress(self) -> list[int]:
        """How far the stream has come, in numbers that are the same in processes that learn `together`."""
        return []

    @property
    def _learnt_apart(self) -> bool:
        """Whether the stream has seen what those beside it may not have seen, see `merged`."""
        return False

    def _settle(self) -> None:
        """Count what the stream has seen as seen by those beside it too, see `merged`."""

    def _identity(self, compact: bool) -> dict[str, Any]:
        bank = {"labels": self.bank.names_fingerprint} if compact else {"bank": self.bank.fingerprint}
        told = {name: _told(value) for name, value in self.settings.items()}
        return {"method": type(self).__name__, **bank, "settings": told}

    def _check_identity(self, state: dict[str, Any]) -> None:
        if not isinstance(state, dict):
            raise TypeError(f"the state must be a dict, from state_dict(), not a {type(state).__name__}")
        compact = "labels" in state
        missing = sorted(self.state_dict(compact=compact).keys() - state.keys())
        if missing:
            raise ValueError(
                f"the state lacks {', '.join(missing)}: it is not one of {type(self).__name__}'s state_dict()"
            )
        for key, own in self._identity(compact).items():
            if not is_same(state[key], own):
                raise ValueError(
                    f"the state was saved with another {key}: {state[key]!r}, while this detector has {own!r}"
                )

    @property
    def settings(self) -> dict[str, Any]:
        """The keyword arguments that make another detector like this one."""
        return self._settings()

    def _settings(self) -> dict[str, Any]:
        return {}

    def _check_same_backbone(self, bank: LabelBank) -> None:
        if not isinstance(bank, LabelBank):
            raise TypeError(f"bank must be a LabelBank, not {type(bank).__name__}")
        for name in ("dim", "logit_scale", "device"):
            own, other = getattr(self.bank, name), getattr(bank, name)
            if own != other:
                raise ValueError(
                    f"the new labels have {name} = {other}, the detector's have {own}; "
                    "both must come from the same backbone and be on the same device"
                )

    def _checked(self, z: Embeddings) -> Tensor:
        return unit_embeddings(z, "image embeddings", dim=self.bank.dim, device=self.bank.device)

    def _require_negatives(self) -> None:
        if self.bank.num_negatives == 0:
            raise ValueError(
                f"{type(self).__name__} needs negative labels, and the bank has none; give a corpus"
            )

    def __repr__(self) -> str:
        settings = "".join(f", {name}={value!r}" for name, value in self.settings.items())
        return f"{type(self).__name__}({self.bank!r}{settings})"


def saved_threshold(state: dict[str, Any]) -> tuple[float | None, float | None]:
    """The calibrated threshold of a state, and the share that it is to keep; None where there is none."""
    threshold, tpr = state["threshold"], state["tpr"]
    if threshold is not None:
        threshold = finite(threshold, "the state's threshold")
    if tpr is not None and (threshold is None or not 0 < finite(tpr, "the state's tpr") < 1):
        raise ValueError(f"the state's tpr must lie between 0 and 1, with a threshold, not be {tpr}")
    return threshold, None if tpr is None else float(tpr)


def _told(value: Any) -> Any:
    """A setting as a state holds it: what is no number, string or tuple of such by its repr."""
    plain = value is None or isinstance(value, bool | int | float | str | tuple | list)
    return value if plain else repr(value)


def is_same(saved: object, own: object) -> bool:
    """Whether a setting that was saved is this one; what is saved may be anything."""
    if isinstance(own, dict):
        return (
            isinstance(saved, dict)
            and saved.keys() == own.keys()
            and all(is_same(saved[key], own[key]) for key in own)
        )
    if isinstance(own, tuple | list):
        return isinstance(saved, tuple | list) and len(saved) == len(own) and all(map(is_same, saved, own))
    if isinstance(own, Real):
        return isinstance(saved, Real) and isinstance(saved, bool) == isinstance(own, bool) and saved == own
    return type(saved) is type(own) and saved == own
