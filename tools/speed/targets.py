"""What was aimed at, and whether a run got there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .config import TARGET_LABELS, Config
from .measure import CaseResult, Measured, ratio, spread, step_seconds, thousands

SMALL_LABELS = 10_000
LARGE_LABELS = 1_000_000
TARGET_SELECTED = 1000
TARGET_STEP = 1
_GROWTH = 1.25


@dataclass(frozen=True)
class Target:
    """One aim.

    Attributes:
        what: is measured.
        limit: as text.
        measured: as text.
        met: None where it was not measured.
    """

    what: str
    limit: str
    measured: str = "not measured"
    met: bool | None = None


def judge(
    table: Sequence[CaseResult],
    labels_curve: Sequence[CaseResult],
    capacity_curve: Sequence[CaseResult],
    config: Config,
    backends: Sequence[str],
) -> list[Target]:
    """Every target with what the run measured; ``ours`` is the backend that tanl takes by itself."""
    best = backends[-1]
    main = _at(table, TARGET_LABELS, TARGET_SELECTED)
    small = _at(table, SMALL_LABELS, TARGET_SELECTED)
    return [
        _to_bare(main, "native", 1.0),
        _to_bare(main, "reference", 1.6),
        _naive_to_ours(main, best, 4, TARGET_LABELS),
        _naive_to_ours(small, best, 12, SMALL_LABELS),
        _peak([main] if main else [], best, 300e6, f"M = {thousands(TARGET_LABELS)}, K = 1 000, q = 1"),
        _peak(
            [case for case in table if case.case.labels == LARGE_LABELS],
            best,
            2.5e9,
            f"M = {thousands(LARGE_LABELS)}, every K and q",
        ),
        _growth([*table, *labels_curve], config, best, against="labels"),
        _growth([*table, *capacity_curve], config, best, against="capacity"),
    ]


def _at(table: Sequence[CaseResult], labels: int, selected: int) -> CaseResult | None:
    for result in table:
        case = result.case
        if (case.labels, case.selected, case.step) == (labels, selected, TARGET_STEP):
            return result
    return None


def _to_bare(result: CaseResult | None, backend: str, limit: float) -> Target:
    what = f"{backend} / bare product, M = {thousands(TARGET_LABELS)}, K = 1 000, q = 1"
    target = Target(what, f"<= {limit:.1f}")
    measured = None if result is None else result.find("tanl", backend)
    if result is None or measured is None or (bare := result.bare_for(measured.spec)) is None:
        return target
    value = ratio(step_seconds(measured), bare[1])
    return Target(
        what, target.limit, f"{value.median:.2f} [{value.low:.2f}, {value.high:.2f}]", value.median <= limit
    )


def _naive_to_ours(result: CaseResult | None, backend: str, limit: float, labels: int) -> Target:
    target = Target(f"naive / {backend}, M = {thousands(labels)}, K = 1 000, q = 1", f">= {limit}")
    naive = None if result is None else result.find("naive")
    ours = None if result is None else result.find("tanl", backend)
    if naive is None or ours is None:
        return target
    value = ratio(step_seconds(naive), step_seconds(ours))
    return Target(
        target.what,
        target.limit,
        f"{value.median:.1f} [{value.low:.1f}, {value.high:.1f}]",
        value.median >= limit,
    )


def _peak(results: Sequence[CaseResult], backend: str, limit: float, where: str) -> Target:
    target = Target(f"peak memory of {backend} above the data, {where}", f"<= {thousands(limit / 1e6)} MB")
    found = [result.find("tanl", backend) for result in results]
    peaks = [one.peak_bytes for one in found if one is not None and one.peak_bytes is not None]
    if not peaks:
        return target
    return Target(target.what, target.limit, f"{thousands(max(peaks) / 1e6)} MB", max(peaks) <= limit)


def curve(
    results: Sequence[CaseResult], config: Config, backend: str, *, against: str
) -> list[tuple[int, Measured, CaseResult]]:
    """The cases that differ from the main one only in ``against`` (labels or capacity), in its order."""
    main = config.main_case
    found = []
    for result in results:
        case = result.case
        # A small M has fewer labels to select from.
        same = case.step == main.step and case.selected == min(main.selected, case.labels)
        fixed = case.capacity == main.capacity if against == "labels" else case.labels == main.labels
        measured = result.find("tanl", backend)
        if same and fixed and measured is not None:
            found.append((case.labels if against == "labels" else case.capacity, measured, result))
    return sorted(found, key=lambda point: point[0])


def _growth(results: Sequence[CaseResult], config: Config, backend: str, *, against: str) -> Target:
    """How a step's time grows from the main case to the largest: per label against M, the whole of it against L."""
    per_label = against == "labels"
    letter, main = ("M", config.main_labels) if per_label else ("L", config.capacity)
    what = f"time of {backend}{' per label' if per_label else ''}, largest {letter} / {letter} = {thousands(main)}"
    times = {
        size: spread(step_seconds(measured)).median / (size if per_label else 1)
        for size, measured, _ in curve(results, config, backend, against=against)
    }
    if main not in times or len(times) < 2:
        return Target(what, f"<= {_GROWTH}")
    largest = max(times)
    value = times[largest] / times[main]
    return Target(what, f"<= {_GROWTH}", f"{value:.2f} at {letter} = {thousands(largest)}", value <= _GROWTH)
