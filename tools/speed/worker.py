"""One contender in a process of its own: it steps when it is told to, and says how long it took.

So allocators, caches kept from step to step and thread pools are those of real use, and the process's peak memory is
the contender's.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from typing import Any

import torch

from .breakdown import synchronise, watched_operations
from .config import Case, Spec
from .contenders import STEP, Contender, UnavailableError, build, data_of
from .data import Features
from .memory import PeakMemory


class Worker:
    """A contender, its stream, and how far it has come.

    Args:
        case: the shape.
        spec: who.
    """

    def __init__(self, case: Case, spec: Spec) -> None:
        torch.set_num_threads(case.threads)
        self._device = torch.device(spec.device)
        self._dtype = getattr(torch, spec.dtype) if spec.kind == "bare" else torch.float32
        self._features = Features(case.num_id, case.labels, case.dim, case.batch, case.seed)
        data = data_of(spec, case, self._features, self._device)
        known_ood = self._features.known_ood.to(self._device)
        small = torch.ones(512, 512, device=self._device)
        torch.mm(small, small)  # a library's first product makes its buffers, and they are no contender's
        self._memory = PeakMemory(self._device)
        self._contender: Contender = build(spec, data, known_ood, case)
        self._index = 0

    def step(self) -> dict[str, Any]:
        """The next batch: seconds of every action, and what the contender then has to say."""
        batch = self._next_batch()
        seconds = {name: self._seconds(action, batch) for name, action in self._contender.actions.items()}
        return {
            "seconds": seconds,
            "confident": list(self._contender.confident),
            "full": self._contender.full,
        }

    def memory(self) -> dict[str, Any]:
        """Peak memory above the data until now, in bytes, and how it was measured."""
        return {"peak": self._memory.above(), "how": self._memory.how}

    def breakdown(self, steps: int) -> dict[str, Any]:
        """The middle one, by its time, of ``steps`` more batches: seconds of its operations, of the rest and of all.

        With them the bytes that its operations moved.
        """
        taken: list[dict[str, Any]] = []
        for _ in range(steps):
            batch = self._next_batch()
            with watched_operations(self._device) as seen:
                whole = self._seconds(self._contender.actions[STEP], batch)
            rest = whole - sum(seen.seconds.values())
            seconds = {**seen.seconds, "rest": rest, "step": whole}
            taken.append({"seconds": seconds, "moved_bytes": seen.moved_bytes})
        return sorted(taken, key=lambda one: one["seconds"]["step"])[steps // 2]

    def _next_batch(self) -> torch.Tensor:
        self._index += 1
        return self._features.batch(self._index - 1).to(self._device, self._dtype)

    def _seconds(self, action: Callable[[Any], object], batch: torch.Tensor) -> float:
        # Not torch.utils.benchmark, nor triton.testing: their least measurement runs what is timed several times
        # (Timer.timeit(1) thrice, twice of it to warm up), and a step that is run again has learnt its batch already.
        if self._device.type == "cuda":
            start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
            synchronise(self._device)
            start.record()
            action(batch)
            stop.record()
            synchronise(self._device)
            return float(start.elapsed_time(stop)) / 1e3
        began = time.perf_counter()
        action(batch)
        return time.perf_counter() - began


def answer(worker: Worker | None, request: dict[str, Any]) -> tuple[Worker | None, dict[str, Any]]:
    """Carry out one request: ``open``, ``step``, ``memory`` or ``breakdown``.

    What goes wrong becomes the answer, so that one contender's failure does not end a long run.
    """
    try:
        if request["ask"] == "open":
            return Worker(Case(**request["case"]), Spec(**request["spec"])), {}
        assert worker is not None, "open comes first"
        if request["ask"] == "step":
            return worker, worker.step()
        if request["ask"] == "memory":
            return worker, worker.memory()
        return worker, worker.breakdown(request["steps"])
    except UnavailableError as error:
        return worker, {"not run": str(error)}
    except torch.cuda.OutOfMemoryError:
        return worker, {"not run": "the device's memory is too small"}
    except Exception as error:
        return worker, {"failed": f"{type(error).__name__}: {error}"}


def main() -> None:
    """Answer requests, a line of JSON each, until there are no more."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what libraries print must not come between the answers
    worker: Worker | None = None
    try:
        for line in sys.stdin:
            worker, result = answer(worker, json.loads(line))
            answers.write(json.dumps(result) + "\n")
            answers.flush()
    except KeyboardInterrupt:
        return  # the run that asks was interrupted too, and says so


if __name__ == "__main__":
    main()
