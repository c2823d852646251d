"""AdaNeg's memories of streams that went on side by side, made into one.

A label keeps the images of smallest entropy, whatever their order; so of what several streams remember it keeps those
that it would have kept of all their images. Batches have numbers as TANL's have (`tanl.detectors.merging`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .saved import refuse_one_stream, same_parts, saved_count, saved_dict, saved_tensor


class _Image(NamedTuple):
    """An image that a label remembers; the smaller ones stay."""

    entropy: float
    number: int  # of its batch
    place: int  # of its stream among those that are merged, 0 of what was there before they parted
    order: int  # in its stream's memory of the label
    row: Tensor  # [D]

    @property
    def content(self) -> tuple[float, int, bytes]:
        return self.entropy, self.number, self.row.cpu().numpy().tobytes()


@dataclass(frozen=True)
class _Memory:
    """A compact state of one memory, read."""

    batches: int
    shared: int
    images: dict[str, list[_Image]]

    @property
    def since(self) -> set[tuple[int, bytes]]:
        """The images from since it was shared: their batches' numbers and their embeddings."""
        every = (image for images in self.images.values() for image in images)
        return {(image.number, image.content[2]) for image in every if image.number > self.shared}

    @classmethod
    def read(cls, state: Any, place: int) -> _Memory:
        saved_dict(state, "the memory")
        try:
            batches, shared = saved_count(state, "batches"), saved_count(state, "shared")
            names, device = state["names"], state["rows"].device
            counts = saved_tensor(
                state["counts"], "the memory's counts", (None,), torch.int64, "cpu"
            ).tolist()
            whole = sum(counts)
            rows = saved_tensor(state["rows"], "the memory's rows", (whole, None), torch.float32, device)
            entropies = saved_tensor(
                state["entropies"], "the memory's entropies", (whole,), torch.float64, "cpu"
            )
            numbers = saved_tensor(state["numbers"], "the memory's numbers", (whole,), torch.int64, "cpu")
        except (KeyError, AttributeError) as error:
            raise ValueError(f"the memory's state lacks {error}") from error
        if not isinstance(names, list) or len(names) != len(counts) or len(set(map(str, names))) < len(names):
            raise ValueError("the memory's names and counts are not of one stream")
        if shared > batches or min(counts, default=1) < 1:
            raise ValueError(
                f"the memory's state is damaged: counts {counts}, {shared} of {batches} batches shared"
            )
        told = zip(entropies.tolist(), numbers.tolist(), rows, strict=True)
        images = {
            str(name): [
                _Image(e, n, place, i, row) for i, (e, n, row) in zip(range(count), told, strict=False)
            ]
            for name, count in zip(names, counts, strict=True)
        }
        return cls(batches, shared, images)


def merged_memories(
    states: Sequence[dict[str, Any]], places: int, *, partial: bool = False
) -> dict[str, Any]:
    """One compact memory from those of detectors that went on side by side.

    Args:
        states: the ``memory`` of `AdaNeg.state_dict`, compact, at least one; of streams as `merged_streams` takes them.
        places: how many images a label remembers at most.
        partial: as `merged_streams` takes it.

    Raises:
        ValueError: a memory is damaged, or they did not go on from one state.
    """
    if not partial and all(same_parts(states[0], state) for state in states[1:]):
        states = states[:1]  # one stream, that several have
    memories = [_Memory.read(state, place) for place, state in enumerate(states, 1)]
    trunk = _trunk(memories)
    if trunk is not None and partial:
        raise ValueError("these streams parted at different times: they cannot be one part of a larger merge")
    kept: dict[str, list[_Image]] = {}
    for name in dict.fromkeys(name for memory in memories for name in memory.images):
        images = sorted(_counted(memories, trunk, name), key=lambda image: image[:-1])[:places]
        if images:
            kept[name] = sorted(images, key=lambda image: image[1:-1])
    device = states[0]["rows"].device
    flat = [image for images in kept.values() for image in images]
    batches = max(memory.batches for memory in memories)
    return {
        "batches": batches,
        "shared": memories[0].shared if partial else batches,
        "names": list(kept),
        "counts": torch.tensor([len(images) for images in kept.values()], dtype=torch.int64, device=device),
        "rows": torch.stack([image.row.to(device) for image in flat])
        if flat
        else states[0]["rows"][:0].clone(),
        "entropies": torch.tensor([image.entropy for image in flat], dtype=torch.float64, device=device),
        "numbers": torch.tensor([image.number for image in flat], dtype=torch.int64, device="cpu"),
    }


def _trunk(memories: Sequence[_Memory]) -> _Memory | None:
    """The memory that the others are to be added to; None where all went on from one."""
    if len({memory.shared for memory in memories}) == 1:
        refuse_one_stream([memory.since for memory in memories])
        return None
    latest = max(memory.shared for memory in memories)
    for memory in memories:
        if memory.batches == memory.shared == latest:
            for other in memories:
                if other.batches == other.shared != latest:
                    raise ValueError(
                        f"a stream has seen nothing since it was last like the others, after batch {other.shared}: "
                        "leave it out, and load what the others have become"
                    )
            return memory
    at = ", ".join(str(memory.shared) for memory in memories)
    raise ValueError(
        f"the streams did not go on from one state: they were last alike after batches {at}; merge them with the state "
        "that they have become together since"
    )


def _counted(memories: Sequence[_Memory], trunk: _Memory | None, name: str) -> Iterator[_Image]:
    """The images of a label, those from before the streams parted once."""
    earlier: Counter[tuple[float, int, bytes]] = Counter()
    for memory in memories:
        own: Counter[tuple[float, int, bytes]] = Counter()
        for image in memory.images.get(name, []):
            if image.number > memory.shared:
                yield image
            elif trunk is None or memory is trunk:
                own[image.content] += 1
                if own[image.content] > earlier[image.content]:
                    yield image._replace(place=0)
        earlier |= own
