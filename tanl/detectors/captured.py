"""TANL's step without a wait: fixed shapes, everything that changes on the device, captured once and replayed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from .. import kernels
from ..checks import Embeddings, unit_embeddings, whole_number
from ..functional import activation_sums, confident, otsu_value
from ..kernels.surroundings import product, undisturbed
from .merging import trimmed
from .saved import HISTORY
from .state import BLOCK
from .tanl import TANL

_NOTHING = -2.0  # of the history: an image that has not come yet, which Otsu's threshold leaves out
_AGAIN = BLOCK // 2  # older rows of a ring whose activations are needed once more, at most
_WARM_UP = 3


class CapturedTANL:
    """The steps of a `TANL` on batches of one size, for a GPU that waits for the program more than it computes.

    The detector's own step reads back how many images are confident, and launches what these numbers ask for. Here
    every shape is fixed: the pass over the labels takes all images and twenty older ones, and which of them count,
    and in which sums, is worked out where they are. So a step is captured as a CUDA graph, and one launch replays
    it. On the CPU the same operations run one by one. Scores are those of the detector's step up to rounding.

    It goes on from the detector's stream, which stays as it is until `commit`::

        steps = CapturedTANL(detector, batch_size=256)
        for z in stream:
            scores = steps(z)
        steps.commit()

    Args:
        detector: with the published memory, exact activations, scores in float32 of plain sums, and no
            calibration on images.
        batch_size: B, the images of every batch.

    Raises:
        TypeError, ValueError: a detector of another kind or with other settings; an unusable batch size.
    """

    @undisturbed
    def __init__(self, detector: TANL, batch_size: int) -> None:
        if not isinstance(detector, TANL):
            raise TypeError(f"a step of a TANL can be captured, not one of a {type(detector).__name__}")
        fixed = {"memory": "published", "activation": "exact", "final_pass": "float32", "weighing": "sum"}
        for name, value in fixed.items():
            if (given := getattr(detector, name)) != value:
                raise ValueError(f"a step can be captured with {name}={value!r}, not with {name}={given!r}")
        if detector.state_dict(compact=True)["calibration"] is not None:
            raise ValueError(
                "a threshold that follows its images cannot be captured; call calibrate with scores"
            )
        self.batch_size = whole_number(batch_size, "batch_size", at_least=1)
        self._detector = detector
        self._labels = detector.state.bank
        self._capacity = detector.capacity
        self._slots = (self._capacity + BLOCK - 2) // BLOCK + 1  # blocks that a ring's rows can lie in
        self._active = min(self._slots, (self.batch_size + BLOCK - 2) // BLOCK + 1)  # that can get new rows
        dim, device = self._labels.dim, self._labels.device
        self._z = torch.zeros(self.batch_size, dim, dtype=torch.float32, device=device)
        self._scores = torch.zeros(self.batch_size, dtype=torch.float32, device=device)
        self._number = torch.arange(self._capacity + BLOCK, dtype=torch.int64, device=device)
        self._images = 0
        self._held = self._taken_over()
        self._replay = captured(self._advance, self._held.tensors) if device.type == "cuda" else self._advance

    @undisturbed
    def __call__(self, z: Embeddings) -> Tensor:
        """Score a batch of the stream, ``[B, D] -> [B]``, and learn from it.

        Raises:
            TypeError, ValueError: as `Detector`; another number of rows. Nothing has changed then.
        """
        z = unit_embeddings(z, "image embeddings", dim=self._labels.dim, device=self._labels.device)
        if len(z) != self.batch_size:
            raise ValueError(
                f"the step was captured for {self.batch_size} rows, not {len(z)}; commit, and give the detector others"
            )
        self._z.copy_(z)
        self._replay()
        self._images += len(z)
        return self._scores.clone()

    @property
    def kept(self) -> list[Tensor]:
        """What a step goes on from, in memory that stays: it is written to by every step."""
        return self._held.tensors

    @undisturbed
    def commit(self) -> None:
        """Let the detector go on where this is; its threshold becomes the stream's of now."""
        held, saved = self._held, self._detector.state_dict()
        totals, admitted = held.totals.tolist(), held.admitted.tolist()
        stream = saved["stream"]
        for side, name in enumerate(("positive", "negative")):
            first = max(0, totals[side] - self._capacity) // BLOCK * BLOCK
            evicted = totals[side] - min(totals[side], self._capacity) - first
            sums = held.sums[side, : -(-(totals[side] - first) // BLOCK)].clone()
            front = sums[0].clone() if evicted else None
            if evicted:
                sums[0] = held.whole[side]
            rows, lse = (each[side, : totals[side] - first].clone() for each in (held.rows, held.lse))
            stream[name] = {"total": totals[side], "rows": rows, "lse": lse, "sums": sums, "front": front}
            kept, of_stream = min(totals[side], self._capacity), ("id", "ood")[side]
            stream[f"sources_{of_stream}"] = f"[{', '.join(['null'] * kept)}]"
            stream[f"admitted_{of_stream}"] = admitted[side]
            stream[f"numbers_{of_stream}"] = held.numbers[side, evicted : evicted + kept].cpu()
        stream["history"] = held.history[held.history > -1].clone()
        steps = self._images // self.batch_size
        sizes = torch.cat(
            [stream["history_sizes"], torch.full((steps,), self.batch_size, dtype=torch.int32, device="cpu")]
        )
        stream["history_sizes"] = trimmed(sizes, len(stream["history"]))
        stream["batches"] += steps
        stream["images"] += self._images
        self._detector.load_state_dict({**saved, "running_threshold": float(held.running)})
        self._images = 0

    def _taken_over(self) -> _Held:
        """The detector's stream in memory of fixed sizes."""
        bank, saved = self._labels, self._detector.state_dict()
        stream, device, slots = saved["stream"], bank.device, self._slots
        sums = torch.zeros(2, slots, bank.num_negatives, dtype=torch.float32, device=device)
        whole = torch.zeros(2, bank.num_negatives, dtype=torch.float32, device=device)
        rows = torch.zeros(2, self._capacity + BLOCK, bank.dim, dtype=torch.float32, device=device)
        lse = torch.zeros(2, self._capacity + BLOCK, dtype=torch.float32, device=device)
        numbers = torch.zeros(2, self._capacity + BLOCK, dtype=torch.int64, device=device)
        history = torch.full((HISTORY,), _NOTHING, dtype=torch.float32, device=device)
        for side, name in enumerate(("positive", "negative")):
            ring = stream[name]
            rows[side, : len(ring["rows"])] = ring["rows"]
            lse[side, : len(ring["lse"])] = ring["lse"]
            of_kept = stream[f"numbers_{('id', 'ood')[side]}"]
            numbers[side, len(ring["rows"]) - len(of_kept) : len(ring["rows"])] = of_kept.to(device)
            sums[side, : len(ring["sums"])] = ring["sums"]
            whole[side] = sums[side, 0]
            if ring["front"] is not None:
                sums[side, 0] = ring["front"]
        history[HISTORY - len(stream["history"]) :] = stream["history"]
        totals = torch.tensor(
            [stream["positive"]["total"], stream["negative"]["total"]], dtype=torch.int64, device=device
        )
        admitted = torch.tensor(
            [stream["admitted_id"], stream["admitted_ood"]], dtype=torch.int64, device=device
        )
        running = torch.tensor(saved["running_threshold"], dtype=torch.float32, device=device)
        batch = torch.tensor([stream["batches"]], dtype=torch.int64, device=device)
        return _Held(totals, admitted, rows, lse, numbers, batch, sums, whole, history, running)

    def _advance(self) -> None:
        """One step from ``_z`` to ``_scores``. Nothing is read back, and no shape hangs on a value."""
        detector, held, z = self._detector, self._held, self._z
        bank, length = self._labels, held.rows.shape[1]
        lengths = held.totals.clamp(1, self._capacity)
        means = held.sums.sum(dim=1, dtype=torch.float64) / lengths[:, None]  # [2, M]
        id_lse = kernels.row_lse(z, bank.id_embeddings, bank.logit_scale)
        confidence = 1 - self._share(z, id_lse, means[1] - means[0])
        history = torch.cat([held.history, confidence])[-HISTORY:]
        running = otsu_value(history)
        sure = torch.stack(confident(confidence, running, detector.gap))  # [2, B]
        # Confident ID images first, then confident OOD ones, then the others, each in their order.
        order = torch.where(sure[0], 2, sure[1].byte()).sort(descending=True, stable=True).indices
        sorted_z = z.index_select(0, order)
        push = _Pushes(held, sure.sum(dim=1), self._number, self._capacity, self._active)
        earlier = push.earlier
        rows = torch.cat([held.rows.view(-1, bank.dim).index_select(0, earlier), sorted_z])
        sums, lse = activation_sums(
            rows,
            bank.embeddings,
            bank.num_id,
            bank.logit_scale,
            push.segments(len(z)),
            known=held.lse.view(-1).index_select(0, earlier),
        )
        new_sums, whole, added = push.grown(sums.reshape(2, -1, sums.shape[1]))
        drawn = detector.alpha * means + (1 - detector.alpha) * added
        means = torch.where(push.counts[:, None] > 0, drawn, means)
        scores = self._share(z, id_lse, means[1] - means[0])

        places = push.kept_rows(length, len(z))
        held.rows.copy_(
            torch.cat([held.rows.view(-1, bank.dim), sorted_z]).index_select(0, places).view_as(held.rows)
        )
        held.lse.copy_(torch.cat([held.lse.view(-1), lse]).index_select(0, places).view_as(held.lse))
        held.batch.add_(1)
        numbers = torch.cat([held.numbers.view(-1), held.batch.expand(len(z))])
        held.numbers.copy_(numbers.index_select(0, places).view_as(held.numbers))
        held.sums.copy_(new_sums)
        held.whole.copy_(whole)
        held.totals.add_(push.counts)
        held.admitted.add_(push.counts)
        held.history.copy_(history)
        held.running.copy_(running)
        self._scores.copy_(scores)

    def _share(self, z: Tensor, id_lse: Tensor, relevance: Tensor) -> Tensor:
        """The score of rows with the labels of the largest relevance, ``[B]``."""
        chosen = kernels.stable_topk(relevance, self._detector.num_selected)
        labels = self._labels.negative_embeddings.index_select(0, chosen).float()
        return kernels.prefix_share(
            id_lse, product(z * self._labels.logit_scale, labels.T), self._detector.step
        )


@dataclass(frozen=True)
class _Held:
    """What a step changes. ``[2, ...]``: the positive ring's and the negative one's."""

    totals: Tensor  # [2]: rows ever pushed
    admitted: Tensor  # [2]: images of the stream among them
    rows: Tensor  # [2, L + 20, D]: from the first row of the front block on
    lse: Tensor  # [2, L + 20]: the rows' log-sum-exps
    numbers: Tensor  # [2, L + 20]: of their batches; any of rows that are evicted
    batch: Tensor  # [1]: the number of the last batch
    sums: Tensor  # [2, slots, M]: of kept rows, the front block first; zeros beyond the last
    whole: Tensor  # [2, M]: the front block's, evicted rows included
    history: Tensor  # [20 000], the newest last
    running: Tensor  # []: Otsu's threshold

    @property
    def tensors(self) -> list[Tensor]:
        """All of them."""
        return [
            self.totals,
            self.admitted,
            self.rows,
            self.lse,
            self.numbers,
            self.batch,
            self.sums,
            self.whole,
            self.history,
            self.running,
        ]


class _Pushes:
    """What pushing confident rows into both rings comes to, as `ActivationRing.plan` has it, in values on the device.

    Args:
        held: what the step goes on from.
        counts: rows that are pushed into either ring, ``[2]``.
        number: 0, 1, 2, ..., as many as a ring has places.
        capacity: L.
        active: blocks that can get new rows, at most.
    """

    def __init__(self, held: _Held, counts: Tensor, number: Tensor, capacity: int, active: int) -> None:
        self.counts = counts
        self._held, self._number, self._active, self._capacity = held, number, active, capacity
        self._old, self._new = held.totals, held.totals + counts
        kept_from = (self._new - capacity).clamp(min=0)
        self._front = kept_from // BLOCK  # the block that will be the front one
        self._first = (self._old - capacity).clamp(min=0) // BLOCK  # that is it now
        front_row = self._front * BLOCK
        stop = torch.minimum(front_row + BLOCK, self._new)
        self._less = kept_from - front_row <= stop - kept_from  # fewer rows of it are evicted than stay
        self._again = torch.where(self._less, front_row, kept_from)  # the rows that are needed again
        self._again_stop = torch.where(self._less, kept_from, stop)
        self._block = (self._new[:, None] - 1) // BLOCK - active + 1 + number[:active]  # [2, active]
        self._side = number[:2]

    @property
    def earlier(self) -> Tensor:
        """Places among all ring rows of those that are needed again, ten a side, ``[20]``; some may be none of them."""
        length = len(self._number)
        place = (self._again - self._first * BLOCK)[:, None] + self._number[:_AGAIN]
        return (place.clamp(max=length - 1) + self._side[:, None] * length).flatten()

    def segments(self, batch: int) -> Tensor:
        """Ranges of the pass's rows, ``[2 (active + 2), 2]``, of either side: the active blocks, and the rows that are
        needed again, new and older ones. Where a batch may fill a ring, before them rows that are evicted at once."""
        starts, stops = torch.maximum(self._block, self._front[:, None]) * BLOCK, (self._block + 1) * BLOCK
        parts = [(starts, stops), (self._again[:, None], self._again_stop[:, None])]
        if batch > self._capacity:
            parts.insert(0, (self._old[:, None], self._front[:, None] * BLOCK))
        bounds = torch.stack([torch.cat(bound, dim=1) for bound in zip(*parts, strict=True)], dim=2)
        old = self._old[:, None, None]
        new = bounds.maximum(old).minimum(self._new[:, None, None]) - old
        new = new.cummax(dim=2).values  # none may end before it begins
        before = (self._side * self.counts[0])[
            :, None, None
        ]  # the other side's, among the batch's sorted rows
        older = (torch.minimum(self._again_stop, self._old) - self._again).clamp(min=0)
        known = torch.stack([self._side * _AGAIN, self._side * _AGAIN + older], dim=1)[:, None]
        return torch.cat([new + before + 2 * _AGAIN, known], dim=1).flatten(0, 1)

    def grown(self, parts: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """From the sums of `segments`, ``[2, active + 2, M]``: the rings' sums ``[2, slots, M]``, their front blocks'
        whole ones ``[2, M]``, and the new rows' mean activations ``[2, M]`` float64."""
        added, again = parts[:, -self._active - 2 : -2], parts[:, -2] + parts[:, -1]
        sums = self._held.sums
        slots = sums.shape[1]
        block = self._front[:, None] + self._number[:slots]  # [2, slots]
        kept = block - self._first[:, None]
        old = _rows_of(sums, kept, kept < slots)
        old = torch.where((kept == 0)[:, :, None], self._held.whole[:, None], old)
        place = block - self._block[:, :1]
        new = old + _rows_of(added, place, (place >= 0) & (place < self._active))
        whole = new[:, 0]
        front = torch.where(self._less[:, None], (whole - again).clamp(min=0), again)
        mean = parts[:, :-2].sum(dim=1, dtype=torch.float64) / self.counts.clamp(min=1)[:, None]
        return torch.cat([front[:, None], new[:, 1:]], dim=1), whole, mean

    def kept_rows(self, length: int, batch: int) -> Tensor:
        """Where the rings' rows are among those of both and the batch's sorted ones behind them, ``[2 length]``."""
        number = self._front[:, None] * BLOCK + self._number[:length]
        older = number - self._first[:, None] * BLOCK + self._side[:, None] * length
        fresh = number + (self._side * self.counts[0] - self._old + 2 * length)[:, None]
        return (
            torch.where(number < self._old[:, None], older, fresh).clamp(max=2 * length + batch - 1).flatten()
        )


def _rows_of(sums: Tensor, place: Tensor, there: Tensor) -> Tensor:
    """Rows ``place [2, n]`` of either side's sums ``[2, m, M]``, zeros where there is none: ``[2, n, M]``."""
    count = sums.shape[1]
    side = torch.stack([place[0].clamp(0, count - 1), place[1].clamp(0, count - 1) + count])
    rows = sums.flatten(0, 1).index_select(0, side.flatten()).view(2, -1, sums.shape[2])
    return rows.masked_fill(~there[:, :, None], 0.0)


def captured(advance: Callable[[], None], tensors: list[Tensor]) -> Callable[[], None]:
    """A CUDA graph of what ``advance`` does, and of nothing else: the tensors that it changes are as before.

    Args:
        advance: queues operations on tensors whose memory stays, and waits for none.
        tensors: what it changes and goes on from.

    Returns:
        What replays it.
    """
    before = [tensor.clone() for tensor in tensors]
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.device(tensors[0].device):
        stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(_WARM_UP):  # kernels are compiled and libraries make their buffers
                advance()
        torch.cuda.current_stream().wait_stream(stream)
        with torch.cuda.graph(graph):
            advance()
    for tensor, kept in zip(tensors, before, strict=True):
        tensor.copy_(kept)
    return graph.replay
