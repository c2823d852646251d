"""Streams that went on side by side from one state, made into one: what TANL's rings and history become.

Every batch has a number, one more than the batch before it, and all that is remembered of an image has its batch's. So
batches that were scored at the same time, in different processes, have the same number; where streams meet, what they
remember is put in that order, and what came with one number in the order in which the streams are named. That is the
order of one process that saw, for each number, the batches of all streams as one.

What a stream remembers from before the streams parted counts once: a state keeps how far that was, its `Shared`.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .saved import (
    HISTORY,
    refuse_one_stream,
    same_parts,
    saved_batch_sizes,
    saved_count,
    saved_dict,
    saved_history,
    saved_numbers,
    saved_sources,
    saved_tensor,
)

# How far apart two machines' embeddings of one image may lie, also in half precision (0.012 for the noise images of
# the embedded model; with another seed at least 0.09).
ROUNDING = 0.03
_SIDES = (("positive", "id"), ("negative", "ood"))


class Shared(NamedTuple):
    """What a stream had seen when it was last the same as the streams beside it: what merging them counts once."""

    batches: int = 0
    images: int = 0
    admitted_id: int = 0
    admitted_ood: int = 0

    @classmethod
    def read(cls, state: dict[str, Any]) -> Shared:
        """From a saved state.

        Raises:
            ValueError: it is damaged.
        """
        return cls(*(saved_count(saved_dict(state, "the shared stream"), name) for name in cls._fields))

    def within(self, other: Shared) -> bool:
        """Whether nothing of it is beyond the other."""
        return all(own <= its for own, its in zip(self, other, strict=True))


@dataclass(frozen=True)
class _Ring:
    """The rows of one ring of one stream, or of several, with all that is kept of each."""

    rows: Tensor  # [n, D], oldest first
    numbers: Tensor  # [n] int64: their batches'
    sources: tuple[str | None, ...]

    def since(self, batches: int) -> set[tuple[int, bytes]]:
        """The images of later batches: their batches' numbers and their embeddings."""
        told = zip(self.numbers.tolist(), self.rows.cpu().numpy(), strict=True)
        return {(number, row.tobytes()) for number, row in told if number > batches}

    def of(self, chosen: Tensor) -> _Ring:
        """Some of them, by place."""
        sources = tuple(self.sources[i] for i in chosen.tolist())
        return _Ring(self.rows[chosen.to(self.rows.device)], self.numbers[chosen], sources)


@dataclass(frozen=True)
class _Stream:
    """A compact state of one stream, read."""

    shared: Shared
    totals: Shared
    rings: tuple[_Ring, _Ring]
    history: Tensor  # [n]
    numbers: Tensor  # [n]: the batches of the history's images
    capacity: int
    per_source: int | None

    @classmethod
    def read(cls, state: Any) -> _Stream:
        saved_dict(state, "the stream")
        try:
            shared, totals = (
                Shared.read(state["shared"]),
                Shared(*(saved_count(state, n) for n in Shared._fields)),
            )
            if not shared.within(totals):
                raise ValueError(f"the stream's shared part {shared} is more than the whole, {totals}")
            capacity, per_source = saved_count(state, "capacity"), state["per_source"]
            rings = []
            for name, side in _SIDES:
                ring = saved_dict(state[name], "a ring")
                held = min(saved_count(ring, "total"), capacity)
                rows = saved_tensor(
                    ring["rows"], "the ring's rows", (None, None), torch.float32, ring["rows"].device
                )
                if len(rows) < held:
                    raise ValueError(f"the ring's rows must be at least {held}, not {len(rows)}")
                numbers = saved_numbers(state[f"numbers_{side}"], f"numbers_{side}", held, totals.batches)
                sources = saved_sources(state[f"sources_{side}"], f"sources_{side}", held)
                rings.append(_Ring(rows[len(rows) - held :], numbers, sources))
            history = saved_history(state["history"], rings[0].rows.device)
            sizes = saved_batch_sizes(state["history_sizes"], len(history), totals.batches)
        except (KeyError, AttributeError) as error:
            raise ValueError(f"the stream's state lacks {error}") from error
        first = totals.batches - len(sizes) + 1
        numbers = torch.arange(first, totals.batches + 1, dtype=torch.int64, device="cpu").repeat_interleave(
            sizes
        )
        return cls(shared, totals, (rings[0], rings[1]), history, numbers, capacity, per_source)

    @property
    def news(self) -> Shared:
        """What it saw since it was shared."""
        return Shared(*(whole - part for whole, part in zip(self.totals, self.shared, strict=True)))


def merged_streams(states: Sequence[dict[str, Any]], *, partial: bool = False) -> dict[str, Any]:
    """One compact state of a stream from those of streams that went on side by side, see `ActivationState.merge`.

    Args:
        states: of `ActivationState.state_dict`, compact, at least one. Either all went on from one state, or are the
            same; or one of them is what the streams have become together by now, and has seen nothing since, while the
            others went on from it or from what it was earlier.
        partial: the result is one part of a larger merge, so that it can be merged with the other parts; do not go on
            from it.

    Raises:
        ValueError: a state is damaged; they are of other settings, or did not go on from one state.
    """
    if not partial and all(same_parts(states[0], state) for state in states[1:]):
        states = states[:1]  # one stream, that several have
    streams = [_Stream.read(state) for state in states]
    first = streams[0]
    for stream in streams[1:]:
        _check_alike(first, stream)
    trunk = _trunk(streams)
    if trunk is not None and partial:
        raise ValueError("these streams parted at different times: they cannot be one part of a larger merge")
    base = first.shared if trunk is None else trunk.shared
    added = map(sum, zip(base, *(stream.news for stream in streams), strict=True))
    totals = Shared(*added)._replace(batches=max(stream.totals.batches for stream in streams))
    rings = [
        _merged_ring([s.rings[side] for s in streams], streams, trunk, first.capacity, first.per_source)
        for side in range(2)
    ]
    history, sizes = _merged_history(streams, trunk)
    merged: dict[str, Any] = {"history": history, "history_sizes": sizes, **totals._asdict()}
    for (name, side), ring in zip(_SIDES, rings, strict=True):
        merged[name] = {"total": len(ring.rows), "rows": ring.rows}
        merged[f"numbers_{side}"], merged[f"sources_{side}"] = ring.numbers, json.dumps(ring.sources)
    merged["shared"] = (base if partial else totals)._asdict()
    return {**merged, "capacity": first.capacity, "per_source": first.per_source}


def _check_alike(first: _Stream, other: _Stream) -> None:
    for name in ("capacity", "per_source"):
        own, its = getattr(first, name), getattr(other, name)
        if own != its:
            raise ValueError(f"the streams have other settings: {name} is {own} in one and {its} in another")
    dims = [stream.rings[0].rows.shape[1] for stream in (first, other)]
    if dims[0] != dims[1]:
        raise ValueError(
            f"the streams are of other backbones: D is {dims[0]} in one and {dims[1]} in another"
        )


def _trunk(streams: Sequence[_Stream]) -> _Stream | None:
    """The stream that the others are to be added to; None where all went on from one state."""
    shared = {stream.shared for stream in streams}
    if len(shared) == 1:
        for stream in streams[1:]:
            for own, its in zip(streams[0].rings, stream.rings, strict=True):
                _check_same_beginning(own, its, streams[0].shared.batches)
        for side in range(2):
            refuse_one_stream([stream.rings[side].since(stream.shared.batches) for stream in streams])
        return None
    for stream in streams:
        if stream.totals == stream.shared and all(each.within(stream.shared) for each in shared):
            for other in streams:
                if other.totals == other.shared != stream.shared:
                    raise ValueError(
                        f"a stream has seen nothing since it was last like the others, after {other.shared.images} "
                        "images: leave it out, and load what the others have become"
                    )
            return stream
    at = ", ".join(str(stream.shared.images) for stream in streams)
    raise ValueError(
        f"the streams did not go on from one state: they were last alike after {at} images; merge them with the state "
        "that they have become together since"
    )


def _check_same_beginning(own: _Ring, its: _Ring, batches: int) -> None:
    """Refuse rings whose newest rows from before the streams parted are not the same."""
    old = [ring.rows[ring.numbers.to(ring.rows.device) <= batches] for ring in (own, its)]
    count = min(map(len, old))
    if not count:
        return
    ours, theirs = (rows[len(rows) - count :] for rows in old)
    apart = float(torch.linalg.vector_norm(ours - theirs.to(ours.device), dim=1).max())
    if apart > ROUNDING:
        raise ValueError(
            f"the streams did not go on from one state: what they remember from before differs by {apart:.3g}; begin "
            "with the same known outliers and seed, or load one state into all"
        )


def _counted(numbers: Sequence[Tensor], streams: Sequence[_Stream], trunk: _Stream | None) -> list[Tensor]:
    """Which of the streams' entries count, given the numbers of their batches: all new ones, and the old ones of the
    stream that has most of them, or of the trunk. A mask a stream."""
    masks = [n > stream.shared.batches for n, stream in zip(numbers, streams, strict=True)]
    if trunk is None:
        whole = max(range(len(masks)), key=lambda i: int((~masks[i]).sum()))
    else:
        whole = next(i for i, stream in enumerate(streams) if stream is trunk)
    masks[whole] = torch.ones_like(masks[whole])
    return masks


def _merged_ring(
    rings: Sequence[_Ring],
    streams: Sequence[_Stream],
    trunk: _Stream | None,
    capacity: int,
    per_source: int | None,
) -> _Ring:
    counted = _counted([ring.numbers for ring in rings], streams, trunk)
    parts = [ring.of(mask.nonzero()[:, 0]) for ring, mask in zip(rings, counted, strict=True)]
    device = rings[0].rows.device
    every = _Ring(
        torch.cat([part.rows.to(device) for part in parts]),
        torch.cat([part.numbers for part in parts]),
        tuple(source for part in parts for source in part.sources),
    )
    order = every.numbers.sort(stable=True).indices
    if per_source is not None:
        order = _bounded(order, every.sources, per_source)
    return every.of(order[len(order) - min(len(order), capacity) :])


def _bounded(order: Tensor, sources: Sequence[str | None], most: int) -> Tensor:
    """Without the older rows of a source that has more than ``most``."""
    places: Counter[str | None] = Counter()
    kept = []
    for row in reversed(order.tolist()):
        source = sources[row]
        if source is None or places[source] < most:
            places[source] += 1
            kept.append(row)
    return torch.tensor(kept[::-1], dtype=torch.int64, device="cpu")


def _merged_history(streams: Sequence[_Stream], trunk: _Stream | None) -> tuple[Tensor, Tensor]:
    """The newest confidences of all streams, and how many each batch gave."""
    counted = _counted([stream.numbers for stream in streams], streams, trunk)
    device = streams[0].history.device
    values = torch.cat(
        [s.history[mask.to(s.history.device)].to(device) for s, mask in zip(streams, counted, strict=True)]
    )
    numbers = torch.cat([s.numbers[mask] for s, mask in zip(streams, counted, strict=True)])
    order = numbers.sort(stable=True).indices[-HISTORY:]
    kept, sizes = torch.unique_consecutive(numbers[order], return_counts=True)  # type: ignore[no-untyped-call]
    if len(kept) and int(kept[-1]) - int(kept[0]) + 1 != len(kept):
        raise ValueError("the streams did not go on from one state: between their batches others are missing")
    return values[order.to(device)], sizes.to(torch.int32)


def trimmed(sizes: Tensor, total: int) -> Tensor:
    """The newest of the batches' ``sizes [r]`` that make up ``total`` images, the oldest one cut to what is left."""
    ends = sizes.cumsum(0)
    excess = int(ends[-1]) - total if len(sizes) else 0
    if excess <= 0:
        return sizes
    first = int(torch.searchsorted(ends, excess, right=True))
    kept = sizes[first:].clone()
    kept[:1] = ends[first : first + 1] - excess
    return kept
