"""One case measured: every contender in turn on the same batches, round after round."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple

from . import memory, naive
from .config import Case, Spec
from .contenders import STEP
from .process import Answer, Connect, Connection, ask, open_worker

WARM_UP = 3  # batches at least; more until both rings are full
WARM_UP_LIMIT = 64
PROFILED = 3
SLOW_SECONDS = 4.0  # a step that takes longer is timed in fewer rounds
SLOW_ROUNDS = 3
NAIVE_FLOP_LIMIT = 2e10
# A pool of OpenMP threads spins for some milliseconds after its last work, on cores that the next contender needs.
SETTLE_SECONDS = 0.05
_EMPTY_PROCESS = 400 << 20
_PRECEDENCE = ("bare", "tanl", "naive")  # who goes first where memory is short


class Spread(NamedTuple):
    """A median with the smallest and the largest value."""

    median: float
    low: float
    high: float


@dataclass
class Measured:
    """What one contender gave.

    Attributes:
        spec: who.
        note: why it has no times, if it has none.
        failed: whether that is a failure, not a decision.
        seconds: for every action the seconds of each round; None in rounds that were left out.
        confident: confident ID and OOD images of each timed batch.
        rings_full: whether both rings were full when timing began; None for the bare product.
        peak_bytes: peak memory above the data; None where it could not be measured.
        memory_how: how it was measured.
        breakdown: seconds of every operation, of the rest, and of the whole step, from one more step.
        moved_bytes: labels read, and exponentials written and read, by that step's operations.
    """

    spec: Spec
    note: str | None = None
    failed: bool = False
    seconds: dict[str, list[float | None]] = field(default_factory=dict)
    confident: list[tuple[int, int]] = field(default_factory=list)
    rings_full: bool | None = None
    peak_bytes: int | None = None
    memory_how: str | None = None
    breakdown: dict[str, float] | None = None
    moved_bytes: int | None = None


@dataclass
class CaseResult:
    """A case and what its contenders gave."""

    case: Case
    warm_up: int
    contenders: list[Measured]

    def find(
        self, kind: str, backend: str = "", dtype: str = "float32", device: str = "cpu"
    ) -> Measured | None:
        """The contender, if it took part and has times."""
        for one in self.contenders:
            spec = one.spec
            wanted = (spec.kind, spec.backend, spec.dtype, spec.device) == (kind, backend, dtype, device)
            if wanted and one.seconds:
                return one
        return None

    def bare_for(self, spec: Spec, *, but: str | None = None) -> tuple[str, list[float | None]] | None:
        """What a contender is compared with: the fastest way to make the bare product, by medians, and its seconds.

        ``but`` leaves a way out. On the CPU that is the float32 product whatever the labels' dtype; on a GPU it has
        the labels' dtype.
        """
        dtype = spec.dtype if spec.device != "cpu" else "float32"
        measured = self.find("bare", dtype=dtype, device=spec.device)
        if measured is None:
            return None
        ways = [way for way in measured.seconds if way != but]
        fastest = min(ways, key=lambda way: spread(measured.seconds[way]).median)
        return fastest, measured.seconds[fastest]


def spread(values: Sequence[float | None]) -> Spread:
    """Of the values that are there."""
    there = [value for value in values if value is not None]
    return Spread(statistics.median(there), min(there), max(there))


def ratio(values: Sequence[float | None], base: Sequence[float | None]) -> Spread:
    """Of the ratios round by round, over the rounds that have both."""
    return spread([a / b for a, b in zip(values, base, strict=True) if a is not None and b is not None])


def measure(
    case: Case, specs: Sequence[Spec], *, repeats: int, connect: Connect, profiled: int = PROFILED
) -> CaseResult:
    """Warm up, time ``repeats`` rounds of one step each, then take peak memory and the breakdown.

    A round gives every contender the same batch, one after the other; who begins changes from round to round.
    """
    contenders = [Measured(spec) for spec in specs]
    connections: list[tuple[Measured, Connection]] = []
    try:
        left = memory.available()
        for one in sorted(contenders, key=lambda one: _PRECEDENCE.index(one.spec.kind)):
            needed = needed_bytes(case, one.spec)
            one.note = why_not(case, one.spec, needed, left)
            if one.note is None:
                connections.append((one, open_worker(connect, case, one.spec)))
                left = None if left is None or one.spec.device != "cpu" else left - needed
        for one, connection in connections:
            _accept(one, connection.receive())
        warm_up, last = _warm_up(connections)
        for index in range(repeats):
            start = index % max(1, len(connections))
            for one, connection in connections[start:] + connections[:start]:
                if one.note is None:
                    slow = last.get(one.spec, 0.0) > SLOW_SECONDS and index >= SLOW_ROUNDS
                    _round(one, connection, skipped=slow)
        for one, connection in connections:
            if one.note is None:
                _finish(one, connection, profiled if last.get(one.spec, 0.0) < SLOW_SECONDS else 1)
    finally:
        for _, connection in connections:
            connection.close()
    return CaseResult(case, warm_up, contenders)


def describe(case: Case) -> str:
    """The case in a line."""
    return (
        f"M = {thousands(case.labels)}, K = {thousands(case.selected)}, q = {case.step}, "
        f"L = {thousands(case.capacity)}"
    )


def thousands(number: float) -> str:
    """``70 000``."""
    return f"{number:,.0f}".replace(",", " ")


def threads_text(count: int) -> str:
    """``1 thread``, ``2 threads``."""
    return f"{count} thread" + ("s" if count > 1 else "")


def needed_bytes(case: Case, spec: Spec) -> int:
    """About what a contender will take, its data included; meant to be a little too much."""
    size = 2 if spec.dtype == "float16" else 4
    columns = case.num_id + case.labels
    # Half-precision labels are made from float32 ones; names take a hundred bytes each.
    total = columns * (case.dim * (4 if size == 4 else 6) + 100) + _EMPTY_PROCESS
    if spec.kind == "bare":
        return total + 2 * size * case.batch * columns
    if spec.kind == "naive":
        # Logits, scaled rows and softmax; two rings, one of them also being moved; the confident rows.
        return total + 4 * columns * (5 * case.batch + 3 * case.capacity)
    return total + min(4 * case.batch * columns, 1 << 30) + 4 * columns * (case.capacity // 8 + 64)


def why_not(case: Case, spec: Spec, needed: int, left: int | None) -> str | None:
    """Why a contender is not run in a case; None if it is."""
    if spec.kind == "naive":
        flop = naive.scoring_flop(case.batch, case.num_id, case.selected, case.step)
        if flop > NAIVE_FLOP_LIMIT:
            count = len(naive.prefixes(case.selected, case.step))
            return (
                f"not run: a softmax for each of {thousands(count)} prefixes, twice a step, is about {flop:.1e} "
                f"floating-point operations (limit {NAIVE_FLOP_LIMIT:.0e})"
            )
    if spec.device == "cpu" and left is not None and needed > left:
        return f"not run: needs about {needed / 1e9:.1f} GB of memory, {left / 1e9:.1f} GB are left"
    return None


def _warm_up(connections: Sequence[tuple[Measured, Connection]]) -> tuple[int, dict[Spec, float]]:
    """The number of batches, and how long each contender's last took.

    The first tanl says when its rings are full; everybody else gets as many batches.
    """
    order = sorted(connections, key=lambda pair: pair[0].spec.kind != "tanl")
    count, last = 0, {}
    for one, connection in order:
        done, full = 0, False
        # Whoever comes first decides the number.
        while one.note is None and (done < count if count else done < WARM_UP or not full):
            result = ask(connection, ask="step")
            _accept(one, result)
            done += 1
            if one.note is None:
                last[one.spec] = max(result["seconds"].values())
                full = bool(result["full"]) or done == WARM_UP_LIMIT
                one.rings_full = None if one.spec.kind == "bare" else bool(result["full"])
        if one.note is None:
            count = done
    return count, last


def _round(one: Measured, connection: Connection, *, skipped: bool) -> None:
    if skipped:
        for values in one.seconds.values():
            values.append(None)
        return
    time.sleep(SETTLE_SECONDS)
    result = ask(connection, ask="step")
    _accept(one, result)
    if one.note is not None:
        return
    for name, value in result["seconds"].items():
        one.seconds.setdefault(name, []).append(value)
    one.confident.append((result["confident"][0], result["confident"][1]))


def _finish(one: Measured, connection: Connection, profiled: int) -> None:
    result = ask(connection, ask="memory")
    _accept(one, result)
    if one.note is not None:
        return
    one.peak_bytes, one.memory_how = result["peak"], result["how"]
    if one.spec.kind == "tanl":
        time.sleep(SETTLE_SECONDS)
        result = ask(connection, ask="breakdown", steps=profiled)
        _accept(one, result)
        if one.note is None:
            one.breakdown, one.moved_bytes = result["seconds"], result["moved_bytes"]


def _accept(one: Measured, result: Answer) -> None:
    """Note what went wrong, if something did; a contender that failed has no times."""
    for key, prefix in (("not run", "not run"), ("failed", "failed")):
        if key in result:
            one.note, one.failed = f"{prefix}: {result[key]}", key == "failed"
            one.seconds = {}


def step_seconds(measured: Measured) -> list[float | None]:
    """Seconds of the naive step or of tanl's."""
    return measured.seconds[STEP]


def confident_text(measured: Measured) -> str:
    """How many rows of a batch were confident, in words."""
    total = statistics.median(a + b for a, b in measured.confident)
    low, high = (f(a + b for a, b in measured.confident) for f in (min, max))
    return f"{total:.0f} confident rows a batch ({low} to {high})"


def as_json(result: CaseResult) -> dict[str, Any]:
    """Everything that was measured, and the ratios that follow from it."""
    record = asdict(result)
    for one, measured in zip(record["contenders"], result.contenders, strict=True):
        one["name"] = measured.spec.name
        bare = result.bare_for(measured.spec)
        if measured.seconds and bare is not None:
            one["ratio_to_bare"] = {
                action: ratio(values, bare[1])._asdict() for action, values in measured.seconds.items()
            }
    return record
