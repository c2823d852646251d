"""What TANL remembers of its stream: two rings of embeddings with their mean activations, and past scores."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..checks import unit_embeddings
from ..functional import shuffled
from ..kernels import Segments, queued, segment_colsum
from ..kernels.surroundings import product
from ..labels.bank import KEPT_TOLERANCE, LabelBank
from .merging import Shared, merged_streams, trimmed
from .processes import jointly, on_cpu
from .saved import (
    HISTORY,
    saved_batch_sizes,
    saved_count,
    saved_dict,
    saved_history,
    saved_numbers,
    saved_sources,
    saved_tensor,
)

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

# Rows to a partial sum: an eviction recomputes at most half as many. With 20 a stream of 300 rows over 70 000 labels
# takes 11 MB; with 16 it would take 13.
BLOCK = 20
# Rows [n, D], segments of them, and the log-sum-exps [e] of the first e rows, known from an earlier call -> sums of
# the rows' activations over the segments, [G, M], and the log-sum-exps [n - e] of the other rows, float32 both.
Activations = Callable[[Tensor, Segments, Tensor], tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class RingPlan:
    """What a push needs to know before it can be made, see `ActivationRing.plan`."""

    rows: Tensor  # [n, D]: what is pushed
    segments: list[tuple[int, int]]  # of the rows: those that are evicted at once, then one a block
    earlier: Tensor  # [e, D], e <= 10: older rows whose activations are needed once more
    known: Tensor  # [e]: their log-sum-exps
    again: tuple[int, int]  # of the rows: those of the front block that are needed once more too
    blocks: range  # the blocks that new rows go to
    front: int  # the block that will be the front one
    front_less_evicted: (
        bool | None
    )  # how the front block's sum is made: less its evicted rows, or anew; None: as is

    def placed(self, earlier: int, rows: int) -> list[tuple[int, int]]:
        """Its segments, and the front block's parts, in a pass where its earlier rows and its rows begin there."""
        ranges = [(rows + a, rows + b) for a, b in self.segments]
        if self.front_less_evicted is not None:
            parts = [(earlier, earlier + len(self.earlier)), (rows + self.again[0], rows + self.again[1])]
            ranges += [(a, b) for a, b in parts if a < b]
        return ranges


@dataclass(frozen=True)
class RingUpdate:
    """What one push will change in a ring; nothing is changed before `ActivationRing.commit`."""

    rows: Tensor  # [n, D]
    lse: Tensor  # [n]: their log-sum-exps
    mean: Tensor  # [M], float64: the mean activation of the new rows
    blocks: range  # the blocks that they go to
    first: int  # the block that will be the front one
    added: Tensor  # [len(blocks), M]: what they add to their sums
    front: Tensor | None  # [M]: sum over the front block's kept rows, where some of its rows are evicted


class ActivationRing:
    """The last ``capacity`` embeddings of one kind, first in, first out, and the mean of their activations.

    Every row ever pushed has a number; rows ``20 b`` to ``20 b + 19`` are block b. A block's summed
    activations are kept in float32 and added up in float64, so that nothing drifts, however long the stream.
    Only the front block may hold evicted rows; its remaining sum costs the activations of at most ten rows, whose
    log-sum-exps are kept.
    No tensor that is kept is ever written to again: copies share them.
    """

    def __init__(self, bank: LabelBank, capacity: int) -> None:
        self.capacity = capacity
        self._bank = bank
        self._total = 0
        self._rows = bank.embeddings[:0].float()  # from the first row of the front block on
        self._lse = self._rows.new_zeros(0)  # [rows]: their log-sum-exps; fewer while they are lacking
        self._sums = torch.zeros(
            0, bank.num_negatives, dtype=torch.float32, device=bank.device
        )  # of kept rows
        self._whole: Tensor | None = (
            None  # [M]: the front block's, evicted rows included, where there are any
        )

    def __len__(self) -> int:
        return min(self._total, self.capacity)

    @property
    def mean(self) -> Tensor:
        """Mean activation over the ring, ``[M]`` in float64; zeros while it is empty."""
        return _sum(self._sums) / max(1, len(self))

    @property
    def embeddings(self) -> Tensor:
        """The ring's embeddings, oldest first, ``[len(ring), D]``."""
        return self._rows[len(self._rows) - len(self) :]

    def plan(self, rows: Tensor) -> RingPlan:
        """Which activations pushing ``rows [n, D]`` will need, and in which sums."""
        old, new = self._total, self._total + len(rows)
        kept_from = max(0, new - self.capacity)
        front = kept_from // BLOCK
        blocks = range(max(front, old // BLOCK), (new - 1) // BLOCK + 1)
        ranges = [(max(old, b * BLOCK), min(new, (b + 1) * BLOCK)) for b in blocks]
        if old < front * BLOCK:  # rows that are evicted again at once
            ranges.insert(0, (old, front * BLOCK))
        segments = [(a - old, b - old) for a, b in ranges]
        if kept_from == front * BLOCK:  # the front block is whole
            return RingPlan(rows, segments, rows[:0], self._lse[:0], (0, 0), blocks, front, None)

        evicted = range(front * BLOCK, kept_from)
        remaining = range(kept_from, min((front + 1) * BLOCK, new))
        again = min(evicted, remaining, key=len)
        first_row = self._first_block * BLOCK
        known = slice(again.start - first_row, max(0, min(again.stop, old) - first_row))
        fresh = (max(0, again.start - old), max(0, again.stop - old))
        return RingPlan(
            rows,
            segments,
            self._rows[known],
            self._lse[known],
            fresh,
            blocks,
            front,
            again == evicted,
        )

    def update(self, plan: RingPlan, sums: Tensor, lse: Tensor) -> RingUpdate:
        """What a plan's push will change, from the sums of activations ``[G, M]`` over `RingPlan.placed` and the
        log-sum-exps ``[n]`` of its rows."""
        count = len(plan.segments)
        of_new_rows, again = sums[:count], sums[count:]
        added = of_new_rows[count - len(plan.blocks) :]
        front = None
        if plan.front_less_evicted is not None:
            front = again.sum(dim=0)
            if plan.front_less_evicted:
                front = (self._front_sum(plan.front, plan.blocks, added) - front).clamp_(min=0)
        return RingUpdate(
            plan.rows, lse, _sum(of_new_rows) / len(plan.rows), plan.blocks, plan.front, added, front
        )

    def copied(self) -> ActivationRing:
        """Another ring with the same content, which a commit to either leaves to the other as it is."""
        return copy.copy(self)

    def commit(self, update: RingUpdate) -> None:
        """Take over an update."""
        before = self._first_block
        self._sums, self._whole = self._sums_with(update.first, update.blocks, update.added), None
        self._total += len(update.rows)
        if update.front is not None:
            self._whole = self._sums[0].clone()
            self._sums[0] = update.front
        gone = (self._first_block - before) * BLOCK
        old, new = slice(gone, None), slice(max(0, gone - len(self._rows)), None)
        self._lse = torch.cat([self._lse[old], update.lse[new]])
        self._rows = torch.cat([self._rows[old], update.rows[new]])

    def state_dict(self, *, compact: bool = False) -> dict[str, Any]:
        """Tensors and numbers that `from_state_dict` goes on from.

        Args:
            compact: the rows alone, without their log-sum-exps and the sums of their activations.
        """
        kept: dict[str, Any] = {"total": self._total, "rows": self._rows.clone()}
        if compact:
            return kept
        kept["lse"] = self._lse.clone()
        if self._whole is None:
            return {**kept, "sums": self._sums.clone(), "front": None}
        return {**kept, "sums": self._whole_sums(), "front": self._sums[0].clone()}

    @classmethod
    def from_state_dict(cls, bank: LabelBank, capacity: int, state: dict[str, Any]) -> ActivationRing:
        """A ring that goes on bit for bit where `state_dict` was taken; a compact one still lacks its sums.

        Raises:
            ValueError: a tensor does not fit the bank or the capacity.
        """
        saved_dict(state, "a ring")
        ring = cls(bank, capacity)
        ring._total = saved_count(state, "total")
        first, num, float32 = ring._first_block, bank.num_negatives, torch.float32
        count = ring._total - first * BLOCK
        rows = saved_tensor(state["rows"], "the ring's rows", (count, bank.dim), float32, bank.device)
        ring._rows = unit_embeddings(rows, "the ring's rows", tolerance=KEPT_TOLERANCE) if count else rows
        if {"lse", "sums", "front"} & state.keys():
            what = "the ring's log-sum-exps"
            ring._lse = saved_tensor(state["lse"], what, (count,), float32, bank.device)
            blocks = (ring._blocks_from(first), num)
            ring._sums = saved_tensor(state["sums"], "the ring's sums", blocks, float32, bank.device)
            evicted = count - len(ring)
            if (state["front"] is None) == (evicted > 0):
                raise ValueError("the ring's front does not belong to its total")
            if evicted:
                front = saved_tensor(state["front"], "the ring's front", (num,), float32, bank.device)
                ring._whole = ring._sums[0].clone()
                ring._sums[0] = front
        return ring

    @classmethod
    def of_rows(cls, bank: LabelBank, capacity: int, rows: Tensor) -> ActivationRing:
        """A ring that holds ``rows [n, D]``, n <= capacity, and still lacks their log-sum-exps and sums."""
        ring = cls(bank, capacity)
        ring._total, ring._rows = len(rows), rows.clone()
        return ring

    def over(self, bank: LabelBank, columns: Tensor) -> ActivationRing:
        """The same rows with the same log-sum-exps over other labels: the sums of those that are new are made.

        Args:
            bank: the other labels, M' negatives.
            columns: ``[M']`` int64: where each of them is here; -1 for one that is new.
        """
        other, new = self.copied(), columns < 0
        other._bank = bank
        there = columns[~new]
        blocks = self._whole_sums()
        merged = blocks.new_empty(len(blocks), len(columns))
        merged[:, ~new] = blocks[:, there]
        plan, sums = self.lacking(), None
        if len(self._rows) and bool(new.any()):
            labels = bank.negative_embeddings[new].contiguous()
            sums = segment_colsum(self._rows, labels, bank.logit_scale, self._lse, plan.placed(0, 0))
            merged[:, new] = sums[: len(blocks)]
        other._sums, other._whole = merged, None
        if plan.front_less_evicted is not None:
            other._whole = merged[0].clone()
            merged[0, ~new] = self._sums[0, there]
            if sums is not None:
                merged[0, new] = sums[len(blocks)]
        return other

    @property
    def lacks_sums(self) -> bool:
        """Whether `take_sums` is to be called before anything else."""
        return len(self._lse) < len(self._rows)

    def lacking(self) -> RingPlan:
        """The rows, and the segments of them, whose sums `take_sums` wants: one a block, then the front's."""
        count, evicted = len(self._rows), len(self._rows) - len(self)
        segments = [(start, min(start + BLOCK, count)) for start in range(0, count, BLOCK)]
        blocks = range(self._first_block, self._first_block + len(segments))
        again: tuple[int, int] = (0, 0)
        anew: bool | None = None
        if evicted:
            again, anew = (evicted, min(BLOCK, count)), False
        rows = self._rows
        return RingPlan(rows, segments, rows[:0], self._lse[:0], again, blocks, blocks.start, anew)

    def take_sums(self, plan: RingPlan, sums: Tensor, lse: Tensor) -> None:
        """Take over the sums of activations ``[G, M]`` and the log-sum-exps ``[n]`` that `lacking` asked for."""
        blocks = len(plan.blocks)
        self._sums, self._whole, self._lse = sums[:blocks].clone(), None, lse.clone()
        if plan.front_less_evicted is not None:
            self._whole = self._sums[0].clone()
            self._sums[0] = sums[blocks]

    @property
    def _first_block(self) -> int:
        return max(0, self._total - self.capacity) // BLOCK

    def _blocks_from(self, front: int) -> int:
        return (self._total - 1) // BLOCK + 1 - front

    def _whole_sums(self) -> Tensor:
        """The blocks' sums with the front block's evicted rows, ``[blocks, M]``."""
        return self._sums if self._whole is None else torch.cat([self._whole[None], self._sums[1:]])

    def _front_sum(self, front: int, blocks: range, added: Tensor) -> Tensor:
        """Row 0 of `_sums_with`."""
        place = front - self._first_block
        if place >= len(self._sums):
            return added[0]
        held = self._sums[place] if place or self._whole is None else self._whole
        return held + added[0] if blocks.start == front else held

    def _sums_with(self, front: int, blocks: range, added: Tensor) -> Tensor:
        """The blocks' whole sums from block ``front`` on, once ``added [b, M]`` has come to ``blocks``."""
        place = front - self._first_block
        kept = self._sums[place:]
        sums = added.new_empty(blocks.stop - front, added.shape[1])
        sums[: len(kept)] = kept
        if place == 0 and self._whole is not None:
            sums[0] = self._whole
        grown = len(kept) - (blocks.start - front)  # 1 where the last block was not full, else 0
        if grown:
            sums[len(kept) - 1] += added[0]
        sums[len(kept) :] = added[grown:]
        return sums


def _sum(blocks: Tensor) -> Tensor:
    """The float64 sum of float32 rows, ``[b, M] -> [M]``."""
    if queued(blocks):
        return blocks.sum(dim=0, dtype=torch.float64)
    total = torch.zeros(blocks.shape[1], dtype=torch.float64, device=blocks.device)
    for block in blocks:  # no copy of all of them in float64
        total += block
    return total


def _no_numbers() -> Tensor:
    return torch.zeros(0, dtype=torch.int64, device="cpu")


def _no_sizes() -> Tensor:
    return torch.zeros(0, dtype=torch.int32, device="cpu")


@dataclass
class ActivationState:
    """All that TANL carries from batch to batch.

    Attributes:
        bank: the labels.
        activations: gives the sums of activations that the rings are made of.
        positive: confident ID embeddings.
        negative: confident OOD embeddings, after the known outliers that they start from.
        history: first-pass ID confidences of the last 20 000 images, ``[n]``.
        images: how many images of the stream it has seen.
        admitted_id: how many of them entered the positive ring, those that left it again among them.
        admitted_ood: the same of the negative ring.
        sources_id: the source of each image in the positive ring, oldest first, None where it is not known.
        sources_ood: the same of the negative ring.
        batches: the number of its last batch, see `learn`.
        numbers_id: the numbers of the batches of the images in the positive ring, oldest first, ``[n]`` int64 on the
            CPU; 0 of what was there before the stream.
        numbers_ood: the same of the negative ring.
        history_sizes: how many of the history's confidences each of the last batches gave, ``[r]`` int32 on the CPU.
        shared: how far it had come when it was last the same as the streams beside it, see `merge`.
        per_source: how many places of a ring images of one source may hold; None where sources are not bounded.
    """

    bank: LabelBank
    activations: Activations
    positive: ActivationRing
    negative: ActivationRing
    history: Tensor
    images: int = 0
    admitted_id: int = 0
    admitted_ood: int = 0
    sources_id: tuple[str | None, ...] = ()
    sources_ood: tuple[str | None, ...] = ()
    batches: int = 0
    numbers_id: Tensor = field(default_factory=_no_numbers)
    numbers_ood: Tensor = field(default_factory=_no_numbers)
    history_sizes: Tensor = field(default_factory=_no_sizes)
    shared: Shared = field(default_factory=Shared)
    per_source: int | None = None

    @classmethod
    def initial(
        cls,
        bank: LabelBank,
        activations: Activations,
        capacity: int,
        seed: int | None,
        initial_ood: Tensor | None,
        per_source: int | None = None,
    ) -> ActivationState:
        """The state before a stream, its history empty.

        Args:
            bank: the labels.
            activations: gives sums of activations.
            capacity: L, how many embeddings a ring holds.
            seed: orders the ID labels of which the last L start the positive ring; None keeps their order.
            initial_ood: ``[n, D]`` embeddings that start the negative ring, or None for an empty one.
            per_source: how many places of a ring images of one source may hold; None for any number.
        """
        positive, negative = ActivationRing(bank, capacity), ActivationRing(bank, capacity)
        known = bank.id_embeddings
        if seed is not None:
            known = known[shuffled(len(known), seed).to(bank.device)]
        nothing = torch.zeros(0, dtype=torch.float32, device=bank.device)
        state = cls(bank, activations, positive, negative, nothing, per_source=per_source)
        state.commit(*state.prepare(known[-capacity:], known[:0] if initial_ood is None else initial_ood))
        state.admitted_id = state.admitted_ood = 0  # these are not of the stream
        return state

    @classmethod
    def from_state_dict(
        cls,
        bank: LabelBank,
        activations: Activations,
        capacity: int,
        state: dict[str, Any],
        per_source: int | None = None,
    ) -> ActivationState:
        """A state that goes on where `state_dict` was taken: bit for bit, or up to rounding if it is compact.

        A compact one takes one pass over the labels, with at most ``2 (capacity + 19)`` rows.

        Raises:
            ValueError: it is incomplete, or does not fit the bank or the capacity.
        """
        saved_dict(state, "the stream")
        try:
            positive = ActivationRing.from_state_dict(bank, capacity, state["positive"])
            negative = ActivationRing.from_state_dict(bank, capacity, state["negative"])
            history, batches = saved_history(state["history"], bank.device), saved_count(state, "batches")
            restored = cls(
                bank,
                activations,
                positive,
                negative,
                history,
                saved_count(state, "images"),
                saved_count(state, "admitted_id"),
                saved_count(state, "admitted_ood"),
                saved_sources(state["sources_id"], "sources_id", len(positive)),
                saved_sources(state["sources_ood"], "sources_ood", len(negative)),
                batches,
                saved_numbers(state["numbers_id"], "numbers_id", len(positive), batches),
                saved_numbers(state["numbers_ood"], "numbers_ood", len(negative), batches),
                saved_batch_sizes(state["history_sizes"], len(history), batches),
                Shared.read(state["shared"]),
                per_source,
            )
            for name, own in (("capacity", capacity), ("per_source", per_source)):
                if type(state[name]) is not type(own) or state[name] != own:
                    raise ValueError(f"the stream's {name} must be {own}, not {state[name]!r}")
        except KeyError as error:
            raise ValueError(f"the stream's state lacks {error}") from error
        if not restored.shared.within(restored.seen):
            raise ValueError(
                f"the stream's shared part {restored.shared} is more than the whole, {restored.seen}"
            )
        restored._make_sums()
        return restored

    def relabelled(self, bank: LabelBank, activations: Activations) -> ActivationState:
        """What is remembered, over other labels of the same backbone.

        The rows of the rings and the history stay; all sums are made anew, in one pass, as every label is in
        every activation's denominator. A row of the positive ring whose best ID label is not in the new bank
        is no longer known to be ID, and is dropped.
        """
        known = self.positive.embeddings
        names = set(bank.id_names)
        kept = torch.tensor(
            [name in names for name in self.bank.id_names], dtype=torch.bool, device=known.device
        )
        sources_id, numbers_id = self.sources_id, self.numbers_id
        if len(known) and not bool(kept.all()):
            still = kept[product(known, self.bank.id_embeddings.T).argmax(dim=1)]
            known = known[still]
            sources_id = tuple(s for s, stays in zip(sources_id, still.tolist(), strict=True) if stays)
            numbers_id = numbers_id[still.cpu()]
        other = replace(
            self,
            bank=bank,
            activations=activations,
            positive=ActivationRing.of_rows(bank, self.positive.capacity, known),
            negative=ActivationRing.of_rows(bank, self.negative.capacity, self.negative.embeddings),
            history=self.history.clone(),
            sources_id=sources_id,
            numbers_id=numbers_id,
        )
        other._make_sums()
        return other

    def over(self, bank: LabelBank, activations: Activations, columns: Tensor) -> ActivationState:
        """The same state over other labels of the same ID labels, some of which are here.

        Args:
            bank: the other labels, M' negatives.
            activations: gives their sums, with denominators that are the same whatever labels are here.
            columns: ``[M']`` int64: where each of them is here; -1 for one that is new.
        """
        rings = (ring.over(bank, columns) for ring in (self.positive, self.negative))
        positive, negative = rings
        return replace(self, bank=bank, activations=activations, positive=positive, negative=negative)

    @property
    def relevance(self) -> Tensor:
        """How much more OOD than ID samples activate each negative label, ``[M]`` in float64."""
        return self.negative.mean - self.positive.mean

    def prepare(self, id_rows: Tensor, ood_rows: Tensor) -> tuple[RingUpdate | None, RingUpdate | None]:
        """Compute what pushing confident rows ``[n, D]`` will change, in one pass over the label matrix.

        Returns:
            The updates of the positive and of the negative ring; None for one that gets no rows.
        """
        pushes = [(self.positive, id_rows), (self.negative, ood_rows)]
        plans = [(ring, ring.plan(rows)) if len(rows) else None for ring, rows in pushes]
        planned = [plan for _, plan in filter(None, plans)]
        if not planned:
            return None, None
        parts = iter(self._planned_sums(planned))
        updates = [None if entry is None else entry[0].update(entry[1], *next(parts)) for entry in plans]
        return updates[0], updates[1]

    def commit(
        self,
        positive: RingUpdate | None,
        negative: RingUpdate | None,
        sources_id: Sequence[str | None] | None = None,
        sources_ood: Sequence[str | None] | None = None,
    ) -> None:
        """Take over what `prepare` computed, and the sources of the rows, where they are known."""
        if positive is not None:
            self.positive.commit(positive)
            self.admitted_id += len(positive.rows)
            self.sources_id = self._newest(self.sources_id, sources_id, positive)
            self.numbers_id = self._numbered(self.numbers_id, positive)
        if negative is not None:
            self.negative.commit(negative)
            self.admitted_ood += len(negative.rows)
            self.sources_ood = self._newest(self.sources_ood, sources_ood, negative)
            self.numbers_ood = self._numbered(self.numbers_ood, negative)

    def begin(self, confidences: Tensor) -> None:
        """Begin the history of a stream with what was known before it, ``[n]``."""
        self.history = self.extended_history(confidences)
        self.history_sizes = torch.tensor([len(self.history)], dtype=torch.int32, device="cpu")

    def learn(
        self,
        images: int,
        history: Tensor,
        positive: RingUpdate | None,
        negative: RingUpdate | None,
        sources_id: Sequence[str | None] | None = None,
        sources_ood: Sequence[str | None] | None = None,
    ) -> None:
        """Go on by one batch: take over its images, the history with them, and what `prepare` computed.

        The batch gets the number after the last one's. By it `merge` knows what other streams saw at the same time.
        """
        sizes = torch.cat([self.history_sizes, torch.tensor([images], dtype=torch.int32, device="cpu")])
        self.images += images
        self.batches += 1
        self.history, self.history_sizes = history, trimmed(sizes, len(history))
        self.commit(positive, negative, sources_id, sources_ood)

    @property
    def seen(self) -> Shared:
        """How far it has come."""
        return Shared(self.batches, self.images, self.admitted_id, self.admitted_ood)

    def merge(self, *others: ActivationState) -> ActivationState:
        """The state of this stream and of others that went on beside it, as one; all stay as they are.

        The streams went on from one state: the start, or what an earlier merge gave them. What that state had seen
        counts once, and what each has seen since is added: numbers of images add up, and each ring holds the newest
        rows of all, the history the newest confidences. Newer is what came with a batch of a higher number, and of
        batches with one number what is in a later of these states. So the rows and the history are exactly those of one
        stream that was given the same rows, and the result depends neither on how many streams there were nor on
        which were merged first. Means of activations are made anew from the rows, in one pass over the labels with
        at most ``2 capacity`` rows, and agree with that one stream's up to float32 rounding.

        Where sources are bounded, of a source that has more than its places the newest rows stay. What is near-alike in
        two streams stays twice: each stream let in the first of it.

        Args:
            others: of the same labels, capacity and bounds. One that went on from an earlier state than another does
                merges with what the streams have become together since, see `merged_streams`.

        Raises:
            ValueError: other labels or settings, or they did not go on from one state.
        """
        for other in others:
            if other.bank.fingerprint != self.bank.fingerprint:
                raise ValueError(f"the streams are over other labels: {self.bank!r} and {other.bank!r}")
        merged = merged_streams([each.state_dict(compact=True) for each in (self, *others)])
        return self.from_state_dict(
            self.bank, self.activations, self.positive.capacity, merged, self.per_source
        )

    def all_reduce(self, group: ProcessGroup | None = None) -> ActivationState:
        """The states of all processes of a `torch.distributed` group as one, in the order of ranks; see `merge`.

        Every process calls this and gets the same; its own state stays as it is. `Detector.synchronize` does so with
        all that a detector has.

        Raises:
            ValueError: there is no process group; what `merge` refuses, in any process.
            OSError: another process failed, ended, or did not come within the timeout of the group.
        """

        def merged(states: list[Any], rank: int) -> ActivationState:
            names = [state.pop("labels") for state in states]
            if len(set(names)) > 1:
                raise ValueError("the streams are over other labels")
            return self.from_state_dict(
                self.bank, self.activations, self.positive.capacity, merged_streams(states), self.per_source
            )

        labels = {"labels": self.bank.names_fingerprint}
        return jointly(lambda: on_cpu({**self.state_dict(compact=True), **labels}), merged, group)

    def copied(self) -> ActivationState:
        """Another state with the same content, which a commit to either leaves to the other as it is."""
        return replace(self, positive=self.positive.copied(), negative=self.negative.copied())

    def _newest(
        self, held: tuple[str | None, ...], new: Sequence[str | None] | None, update: RingUpdate
    ) -> tuple[str | None, ...]:
        unknown = (None,) * len(update.rows)
        return (*held, *(unknown if new is None else new))[-self.positive.capacity :]

    def _numbered(self, held: Tensor, update: RingUpdate) -> Tensor:
        new = torch.full((len(update.rows),), self.batches, dtype=torch.int64, device="cpu")
        return torch.cat([held, new])[-self.positive.capacity :]

    def extended_history(self, confidences: Tensor) -> Tensor:
        """The history with ``confidences [B]`` at its end, cut to its last 20 000."""
        return torch.cat([self.history, confidences])[-HISTORY:]

    def state_dict(self, *, compact: bool = False) -> dict[str, Any]:
        """Tensors and numbers that `from_state_dict` goes on from.

        Args:
            compact: leave out the sums of activations. `from_state_dict` makes them again from the rows, for these
                labels or for their embeddings on another machine; means then agree up to float32 rounding, and
                scores too, but for labels that tie to rounding and are selected in another order. With
                70 000 labels, D = 512 and L = 300 that is 1.4 MB at most, instead of 11.
        """
        return {
            "positive": self.positive.state_dict(compact=compact),
            "negative": self.negative.state_dict(compact=compact),
            "history": self.history.clone(),
            "images": self.images,
            "admitted_id": self.admitted_id,
            "admitted_ood": self.admitted_ood,
            "sources_id": json.dumps(self.sources_id),
            "sources_ood": json.dumps(self.sources_ood),
            "batches": self.batches,
            "numbers_id": self.numbers_id.clone(),
            "numbers_ood": self.numbers_ood.clone(),
            "history_sizes": self.history_sizes.clone(),
            "shared": self.shared._asdict(),
            "capacity": self.positive.capacity,
            "per_source": self.per_source,
        }

    def _make_sums(self) -> None:
        """The sums of rings that lack them."""
        rings = [ring for ring in (self.positive, self.negative) if ring.lacks_sums]
        plans = [ring.lacking() for ring in rings]
        for ring, plan, (sums, lse) in zip(rings, plans, self._planned_sums(plans), strict=True):
            ring.take_sums(plan, sums, lse)

    def _planned_sums(self, plans: list[RingPlan]) -> list[tuple[Tensor, Tensor]]:
        """The sums that each plan asks for and the log-sum-exps of its rows, in one pass over the label matrix."""
        if not plans:
            return []
        known = torch.cat([plan.known for plan in plans])
        earlier, start, placed = 0, len(known), []
        for plan in plans:
            placed.append(plan.placed(earlier, start))
            earlier += len(plan.earlier)
            start += len(plan.rows)
        rows = torch.cat([*(plan.earlier for plan in plans), *(plan.rows for plan in plans)])
        segments = [each for ranges in placed for each in ranges]
        sums, lse = _activated(self.activations(rows, segments, known), len(segments), len(rows) - len(known))
        return list(
            zip(
                torch.split(sums, [len(ranges) for ranges in placed]),
                torch.split(lse, [len(plan.rows) for plan in plans]),
                strict=True,
            )
        )


def _activated(found: object, segments: int, rows: int) -> tuple[Tensor, Tensor]:
    """What an `Activations` gave, if it is as it should be.

    Raises:
        TypeError: it is no pair of tensors.
        ValueError: they have other lengths.
    """
    if not (isinstance(found, tuple) and len(found) == 2 and all(isinstance(f, Tensor) for f in found)):
        raise TypeError(
            f"activation must give sums and log-sum-exps, two tensors, not a {type(found).__name__}"
        )
    if (len(found[0]), len(found[1])) != (segments, rows):
        raise ValueError(
            f"activation must give {segments} sums and {rows} log-sum-exps, not {len(found[0])} and {len(found[1])}"
        )
    return found
