"""What `tanl judge` tells beside its results: what could not be read, where the threshold is from, and what is odd."""

from __future__ import annotations

import argparse
import os
from typing import TYPE_CHECKING, Any

from ..detectors.registry import LEARNING
from ..io.text import one_line, shown_path

if TYPE_CHECKING:
    from ..streams.pump import Timings

_FEW_BATCHES = 4


def warning(path: str | os.PathLike[str], reason: str) -> str:
    # An embedding goes by its id, which is text.
    kind = "embedding " if isinstance(path, str) else ""
    return f"tanl: warning: cannot read {kind}{one_line(f'{shown_path(path)}: {reason}')}"


def threshold_told(threshold: float | None, calibration: dict[str, Any] | None) -> str:
    """Where the threshold is from, and what to do for a better one."""
    if calibration is not None:
        return (
            f"threshold {calibration['threshold']:.4f} from {calibration['count']} of {calibration['of']}, so that "
            f"{calibration['tpr']:.0%} of such pass"
        )
    if threshold is None:  # the summary tells
        return ""
    return (
        f"threshold {threshold:.4f}, found in the stream; --calibrate DIR sets it from what is known to belong to the "
        "classes, and holds where outliers are few"
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
    """What is said where less is flagged than even images of the classes would be, by more than chance; else nothing.

    A share of ``1 - tpr`` of what belongs to the classes is flagged. Where not half of that is, and chance would do so
    once in a thousand times, what was calibrated on scores higher than what is judged.
    """
    from scipy.stats import binom

    judged = counts["ID"] + counts["OOD"]
    if not judged or binom.cdf(counts["OOD"], judged, (1 - calibration["tpr"]) / 2) > 0.001:
        return ""
    return (
        f"{counts['OOD']} of {judged} are flagged, and of {judged} that belong to the classes about "
        f"{(1 - calibration['tpr']) * judged:.0f} would be: what is in {calibration['of']} looks less like the classes "
        "than what is judged; does it belong to them?"
    )


def summary(counts: dict[str, int], timings: Timings, what: str) -> str:
    parts = [f"{counts['ID']} ID", f"{counts['OOD']} OOD"] if not counts["-"] else []
    if counts["-"]:
        parts.append(f"{counts['-']} judged without a verdict (--calibrate sets a threshold)")
    if counts["unreadable"]:
        parts.append(f"{counts['unreadable']} unreadable")
    speed = f"{timings.images_per_second:.0f} {what}/s, {timings.scoring_share:.0%} of the time in scoring"
    return f"{sum(counts.values())} {what}: {', '.join(parts)}; {speed}"
