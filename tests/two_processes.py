"""What the tests of `torch.distributed` let two processes do: ``python two_processes.py FOLDER RANK WHAT``."""

from __future__ import annotations

import os
import sys
from datetime import timedelta
from pathlib import Path

import torch
from torch import distributed

import tanl
from tanl.detectors.state import ActivationState

sys.path.insert(0, str(Path(__file__).parents[1]))
from tools.speed.data import Features

FEATURES = Features(20, 300, 16, 24, seed=1)
BANK = tanl.LabelBank([f"label {i}" for i in range(320)], FEATURES.labels(), num_id=20, logit_scale=30.0)
MEMORY = tanl.GuardedMemory(gate=0.05, prior=5, duplicate=0.99)
MAKERS = {
    "published": lambda: tanl.TANL(
        BANK, num_selected=60, capacity=50, gap=0.0, initial_ood=FEATURES.known_ood
    ),
    "guarded": lambda: tanl.TANL(
        BANK, num_selected=60, capacity=50, gap=0.0, initial_ood=FEATURES.known_ood, memory=MEMORY
    ),
    "AdaNeg": lambda: tanl.AdaNeg(BANK, num_negatives=200, groups=3, gap=0.0, memory_length=4),
    "NegLabel": lambda: tanl.NegLabel(BANK, num_negatives=200),
}
# Rows of each batch of 24 that rank 0 gets; rank 1 gets the others.
CUTS = [12, 7, 24, 1, 0, 20]


def part(number: int, rank: int) -> torch.Tensor:
    """This process's part of a batch."""
    z = FEATURES.batch(number)
    return z[: CUTS[number]] if rank == 0 else z[CUTS[number] :]


def sources(number: int, rank: int) -> list[str | None]:
    """Where its images come from: of every third nobody knows."""
    every = [None if i % 3 == 0 else f"camera {i % 5}" for i in range(24)]
    return every[: CUTS[number]] if rank == 0 else every[CUTS[number] :]


def learn(kind: str, rank: int) -> dict[str, object]:
    """A whole stream together, then apart with a meeting after every batch."""
    detector = MAKERS[kind]()
    scores = []
    for number in range(len(CUTS)):
        told = sources(number, rank) if kind == "guarded" else None
        scores.append(detector.together(part(number, rank), source=told))
    assert detector.together(FEATURES.batch(0)[:0]).shape == (0,)
    one = {"scores": scores, "together": detector.state_dict()}
    apart = MAKERS[kind]()
    for number in range(len(CUTS)):
        if len(part(number, rank)):
            apart(part(number, rank))
        apart.synchronize()
    one["apart"] = apart.state_dict()
    apart.together(part(1, rank))  # after they have met, both may be mixed
    return {**one, "mixed": apart.state_dict()}


def reduce(rank: int) -> dict[str, object]:
    """The state alone, and copies of one stream."""
    detector = MAKERS["published"]()
    detector(FEATURES.batch(9))
    before = detector.state_dict()
    detector.synchronize()  # all have loaded one state, as it were
    loaded = detector.state_dict()
    detector(FEATURES.batch(rank))
    alone = detector.state_dict(compact=True)
    state = detector.state.all_reduce()
    assert isinstance(state, ActivationState)
    return {"before": before, "loaded": loaded, "alone": alone, "reduced": state.state_dict()}


def refusals(rank: int) -> dict[str, object]:
    """What one process refuses, the other hears; nothing changes in either."""
    told: dict[str, object] = {}
    detector = MAKERS["published"]()
    detector.together(part(0, rank))
    before = detector.state_dict()

    def heard(what, call):
        try:
            call()
        except Exception as error:
            told[what] = (type(error).__name__, str(error))

    good = part(1, rank)
    heard("rows", lambda: detector.together(good if rank == 0 else good * 2))
    heard("dim", lambda: detector.together(good if rank == 0 else good[:, :5]))
    heard("source", lambda: detector.together(good, source=None if rank == 0 else "camera"))
    heard("kind", lambda: (detector if rank == 0 else MAKERS["guarded"]()).together(good))
    heard("progress", lambda: (detector if rank == 0 else MAKERS["published"]()).together(good))
    heard("settings", lambda: (detector if rank == 0 else MAKERS["guarded"]()).synchronize())
    heard("method", lambda: (detector if rank == 0 else MAKERS["AdaNeg"]()).synchronize())
    activations = detector.activations

    def full(*arguments):
        if rank == 1:
            raise MemoryError("no memory left")
        return activations(*arguments)

    detector.state.activations = full
    detector.activations = full
    heard("memory", lambda: detector.together(good))
    heard("memory of merging", lambda: detector.synchronize())
    detector.state.activations = activations
    alone = MAKERS["published"]()
    if rank == 1:
        alone(FEATURES.batch(3))
    heard("apart", lambda: alone.together(good))
    other = MAKERS["published"]()
    other(FEATURES.batch(8))
    kept = other.state_dict()
    other(FEATURES.batch(rank))
    heard("loaded", lambda: other.synchronize())
    return {"told": told, "before": before, "after": detector.state_dict(), "kept": kept}


def lost(rank: int) -> dict[str, object]:
    """Rank 1 ends without a word."""
    detector = MAKERS["published"]()
    detector.together(part(0, rank))
    before = detector.state_dict()
    if rank == 1:
        os._exit(3)
    try:
        detector.together(part(1, rank))
    except OSError as error:
        return {"told": (type(error).__name__, str(error)), "before": before, "after": detector.state_dict()}
    raise AssertionError("nobody was missed")


def late(rank: int) -> dict[str, object]:
    """Rank 1 is there, and does not come."""
    detector = MAKERS["published"]()
    before = detector.state_dict()
    if rank == 1:
        sys.stdin.read()  # until the test ends it
        return {}
    try:
        detector.synchronize()
    except OSError as error:
        return {"told": (type(error).__name__, str(error)), "before": before, "after": detector.state_dict()}
    raise AssertionError("nobody was missed")


def main(folder: Path, rank: int, what: str) -> None:
    torch.set_num_threads(1)
    patience = 3 if what == "late" else 240
    distributed.init_process_group(
        "gloo",
        init_method=(folder / "meeting").as_uri(),
        rank=rank,
        world_size=2,
        timeout=timedelta(seconds=patience),
    )
    if what == "learn":
        found: dict[str, object] = {kind: learn(kind, rank) for kind in MAKERS}
        found |= {"reduce": reduce(rank), "refusals": refusals(rank)}
    else:
        found = {"lost": lost, "late": late}[what](rank)
    torch.save(found, folder / f"{rank}.pt")
    if what == "learn":
        distributed.destroy_process_group()
    else:
        os._exit(0)  # a group that lost one of its own cannot be taken down in order


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3])
