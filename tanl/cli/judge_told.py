"""What `tanl judge` tells beside its results: what could not be read, where the threshold is from, and what is odd."""

from __future__ import annotations

import argparse
import os
from typing import TYPE_CHECKING, Any

from ..detectors.registry import LEARNING
from ..io.text import one_line, shown_path

if TYPE_CHECKING:
    from ..streams.pump import Timings
    from ..streams.results import Result

_FEW_BATCHES = 4


def warning(path: str | os.PathLike[str], reason: str) -> str:
    # An embedding goes by its id, which is text.
    kind = "embedding " if isinstance(path, str) else ""
    return f"tanl: warning: cannot read {kind}{one_line(f'{shown_path(path)}: {reason}')}"


def threshold_told(threshold: float | None, calibration: dict[str, Any] | None, what: str) -> str:
    """Where the threshold is from, where it went since, and what to do for a better one."""
    if calibration is not None:
        told = calibration_told(calibration, what)
        # Shown to as many places as scores are: else one may stand on the wrong side of it.
        at_first, now = (f"{each:.4f}" for each in (calibration["threshold"], threshold))
        return told if at_first == now else f"{told}; it follows the stream, and is {now} at the end"
    if threshold is None:  # the summary tells
        return ""
    return (
        f"threshold {threshold:.4f}, found in the stream; --calibrate DIR sets it from what is known to belong to the "
        "classes, and holds where outliers are few"
    )


def calibration_told(calibration: dict[str, Any], what: str) -> str:
    """What a calibration gave, and from which images or embeddings."""
    return (
        f"threshold {calibration['threshold']:.4f}, from {calibration['count']} {what} of {calibration['of']}, so that "
        f"{calibration['tpr']:.0%} of such pass"
    )


def advice(count: int, what: str, arguments: argparse.Namespace) -> str:
    """What is said where a method had hardly a batch to learn from; else nothing."""
    if arguments.method not in LEARNING or count < 2 or count >= _FEW_BATCHES * arguments.batch_size:
        return ""
    return (
        f"{count} {what} are fewer than {_FEW_BATCHES} batches of {arguments.batch_size}, and {arguments.method} "
        f"learns from batch to batch: --batch-size {max(1, count // (2 * _FEW_BATCHES))} lets it learn from these"
    )


def doubt(counts: dict[str, int], calibration: dict[str, Any]) -> str:
    """What `tanl.guard.monitor` says of a calibration whose images look OOD themselves; nothing of any other."""
    from ..detectors.thresholds import calibration_doubt

    said = calibration_doubt(counts["OOD"], counts["ID"] + counts["OOD"], calibration["tpr"])
    return f"calibration: {said}" if said else ""


def is_doubted(result: Result) -> bool:
    """Whether a guard's monitor says of this image's stream that what it was calibrated on looks OOD itself."""
    warnings = () if result.verdict is None else result.verdict.warnings
    return any(warning.startswith("calibration:") for warning in warnings)


def summary(counts: dict[str, int], timings: Timings, what: str) -> str:
    parts = [f"{counts['ID']} ID", f"{counts['OOD']} OOD"] if not counts["-"] else []
    if counts["-"]:
        parts.append(f"{counts['-']} judged without a verdict (--calibrate sets a threshold)")
    if counts["unreadable"]:
        parts.append(f"{counts['unreadable']} unreadable")
    speed = f"{timings.images_per_second:.0f} {what}/s, {timings.scoring_share:.0%} of the time in scoring"
    return f"{sum(counts.values())} {what}: {', '.join(parts)}; {speed}"
