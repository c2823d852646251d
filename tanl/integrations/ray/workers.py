"""The actors of Ray Data's pool, as plain classes: they embed units, or embed and judge them."""

from __future__ import annotations

import json
import pickle
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from ...detectors import Detector
from ...detectors.verdict import detect_embeddings
from ...io.shards.items import Unit
from ...streams.batches import Unusable
from ...streams.pump import judged
from ...streams.result_rows import row_of
from .embedding import Embedded, UnitEmbedder, Work

Columns = dict[str, Any]


@dataclass(frozen=True)
class Task:
    """A unit to be done.

    Attributes:
        number: which it is in the recorded order.
        unit: its images.
        skip: how many of them are done already.
    """

    number: int
    unit: Unit
    skip: int = 0

    @property
    def packed(self) -> dict[str, Any]:
        """As an item of a Ray data set."""
        return {"task": pickle.dumps(self)}


def tasks_of(block: Mapping[str, Any]) -> list[Task]:
    """The tasks in a block of `Task.packed`."""
    return [pickle.loads(packed) for packed in block["task"].tolist()]


@dataclass(frozen=True)
class Scoring:
    """How a worker of a merged run judges.

    Attributes:
        detector: as it is when a worker begins, in an `ObjectRef`.
        batch_size: usable images a batch.
        evidence: negative labels that a verdict comes with.
        hidden: labels that are not named.
        merge_every: batches after which the memories are brought together.
    """

    detector: Any
    batch_size: int
    evidence: int
    hidden: frozenset[str]
    merge_every: int


class EmbeddingWorker:
    """Gives names, errors and embeddings of a unit's images."""

    def __init__(self, work: Work, attempts: Any) -> None:
        self._work, self._attempts = work, attempts

    # The model is loaded with the first unit: an error there is the worker's own, and not that of an actor that could
    # not be made, of which Ray tells a traceback.
    @cached_property
    def _embedder(self) -> UnitEmbedder:
        return UnitEmbedder(self._work)

    def __call__(self, block: Mapping[str, Any]) -> Iterator[Columns]:
        for task in tasks_of(block):
            for part in _watched(self._embedder, task, self._work.encode_batch, self._attempts):
                yield _columns(task.number, part)


class JudgingWorker:
    """Gives results of a unit's images, as rows, and learns from them together with the other workers."""

    def __init__(self, work: Work, attempts: Any, scoring: Scoring, merger: Any) -> None:
        self._work, self._attempts = work, attempts
        self._scoring, self._merger = scoring, merger
        self._unmerged = 0

    @cached_property
    def _embedder(self) -> UnitEmbedder:
        return UnitEmbedder(self._work)

    @cached_property
    def _detector(self) -> Detector:
        detector: Detector = _got(self._scoring.detector)
        detector.load_state_dict(_got(self._merger.state.remote()))
        return detector

    def __call__(self, block: Mapping[str, Any]) -> Iterator[Columns]:
        size = self._scoring.batch_size
        for task in tasks_of(block):
            for part in _watched(self._embedder, task, size, self._attempts):
                if part.batch.z is not None and self._unmerged >= self._scoring.merge_every:
                    self._merge()
                (results,) = judged([part.batch], self._judge)
                self._unmerged += part.batch.z is not None
                rows = [json.dumps(row_of(result)) for result in results]
                count = len(rows)
                yield {
                    "unit": np.full(count, task.number, dtype=np.int64),
                    "row": np.arange(part.row, part.row + count, dtype=np.int64),
                    "result": np.array(rows, dtype=object),
                }
        # What is left is brought in with the unit: the worker may get no other one.
        if self._unmerged:
            self._merge()

    def _judge(self, z: Any) -> Any:
        scoring = self._scoring
        z = z.to(self._detector.bank.device)
        return detect_embeddings(self._detector, z, evidence=scoring.evidence, hidden=scoring.hidden)

    def _merge(self) -> None:
        if self._detector.has_stream:
            state = self._detector.state_dict(compact=True)
            self._detector.load_state_dict(_got(self._merger.merge.remote(state)))
        self._unmerged = 0


def beginning_of(detector: Detector) -> dict[str, Any]:
    """The state that all workers of a merged run go on from: what the detector has seen, each of them has seen.

    Raises:
        ValueError: the method's streams cannot be merged.
    """
    state = detector.state_dict(compact=True)
    return detector.merged([state]) if detector.has_stream else state


class Merger:
    """What all workers of a merged run have learnt by now; the plain class of the actor.

    Args:
        kind: the method.
        state: what all of them go on from, `beginning_of` a detector.
    """

    def __init__(self, kind: type[Detector], state: Mapping[str, Any]) -> None:
        self._kind, self._state = kind, dict(state)
        self._merges = 0

    def merge(self, state: dict[str, Any]) -> dict[str, Any]:
        """Bring a worker's state in; gives what it goes on from."""
        self._state = self._kind.merged([self._state, state])
        self._merges += 1
        return self._state

    def state(self) -> dict[str, Any]:
        """What is known by now."""
        return self._state


def _watched(embedder: UnitEmbedder, task: Task, batch_size: int, attempts: Any) -> Iterator[Embedded]:
    attempt = _got(attempts.begin.remote(task.number))
    if attempt.hopeless:
        raise RuntimeError(
            f"workers die again and again on unit {task.number} ({task.unit.identity.splitlines()[0]}): they may need "
            "more memory (fewer workers, a smaller encode_batch)"
        )
    yield from embedder.batches(
        task.unit,
        task.skip,
        batch_size,
        attempt,
        lambda row: _got(attempts.at.remote(task.number, row)),
    )
    attempts.end.remote(task.number)


def _columns(number: int, part: Embedded) -> Columns:
    images = part.batch.images
    bad = [isinstance(image, Unusable) for image in images]
    z = part.batch.z
    dim = 0 if z is None else z.shape[1]
    rows = [b""] * len(images)
    if z is not None:
        usable = iter(z.detach().float().cpu().numpy())
        rows = [b"" if wrong else next(usable).tobytes() for wrong in bad]
    return {
        "unit": np.full(len(images), number, dtype=np.int64),
        "row": np.arange(part.row, part.row + len(images), dtype=np.int64),
        "name": np.array([str(i.name if isinstance(i, Unusable) else i) for i in images], dtype=object),
        "error": np.array([i.reason if isinstance(i, Unusable) else None for i in images], dtype=object),
        "embedding": np.array(rows, dtype=object),
        "dim": np.full(len(images), dim, dtype=np.int64),
    }


def _got(reference: Any) -> Any:
    import ray

    return ray.get(reference)
