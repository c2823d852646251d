"""Monitor: whether a stream still looks as it did, and whether what it taught the method can be right."""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..detectors import Detector
from ..detectors.memory import MemoryReport, mean_cosine
from ..detectors.registry import InUse, method_in_use
from ..detectors.thresholds import calibration_doubt

WINDOW = 256
"""Images that each look is at: the latest ones."""
REFERENCE = 512
"""Images at the beginning that later ones are compared with."""
EVERY = 64
"""Images from one look to the next, at least; a batch is looked at once."""
# Chosen on the ID sets animals and food of the pictograms, see docs/reliability.md.
OVERTURNED = 0.1
CONCENTRATED = 0.1
SHIFTED = 4.0


@dataclass(frozen=True)
class Health:
    """How a guard's stream and its method's memory are, from the latest 256 images.

    Attributes:
        method: its name, as `Guard` takes it; of a detector that a function made, its class.
        settings: those of the method's settings that are not its own.
        images: how many the monitor has seen, since the guard was made or loaded, or since `Guard.reset`.
        window: how many of them the shares below are of, at most 256.
        flagged: the share judged OOD; None while there is no threshold.
        promised: the share of ID images that a calibrated threshold may flag; None without such a promise.
        overturned: the share judged OOD that the method would have kept, had it learnt nothing: false alarms that the
            stream taught it, or outliers that it learnt to tell. None for a method without such a start.
        admitted_id: the share that the memory took for ID; None for a method without a memory.
        admitted_ood: the share that it took for OOD.
        turnover_id: how many images ago the middle one of those that the memory holds for ID came; None while half of
            them or more are from before the stream.
        turnover_ood: the same for OOD.
        similarity: the mean cosine of two of these images.
        usual_similarity: the same of the first 512; None until they are there.
        shift: how far the mean image is from the mean of the first 512, in standard deviations of what chance does;
            None until they are there.
        memory: what the memory holds; None for a method without one.
        warnings: what looks wrong, a sentence each, beginning with "runaway", "flood", "shift" or
            "calibration".
    """

    method: str
    settings: dict[str, Any]
    images: int
    window: int
    flagged: float | None
    promised: float | None
    overturned: float | None
    admitted_id: float | None
    admitted_ood: float | None
    turnover_id: int | None
    turnover_ood: int | None
    similarity: float | None
    usual_similarity: float | None
    shift: float | None
    memory: MemoryReport | None
    warnings: tuple[str, ...]


@dataclass(frozen=True)
class _Usual:
    """The first images: mean ``[D]``, mean cosine, and the two figures of their spread that chance comes from."""

    mean: Tensor
    similarity: float
    spread: float  # the trace of their covariance
    spread_squared: float  # the trace of its square


class Monitor:
    """Watches the embeddings and verdicts of one stream.

    It keeps the latest 256 embeddings, and the mean and spread of the first 512. Looking costs the scores of up to 64
    images with the labels of the start, and 256 x 256 cosines; this is done every 64 images, or once a batch.
    """

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Begin anew."""
        self.warnings: tuple[str, ...] = ()
        self._images = 0
        self._looked = 0
        self._rows: deque[Tensor] = deque(maxlen=WINDOW)  # [D] each
        self._flagged: deque[bool | None] = deque(maxlen=WINDOW)
        self._overturned: deque[bool] = deque(maxlen=WINDOW)
        self._first: list[Tensor] = []
        self._usual: _Usual | None = None
        self._admitted: deque[tuple[int, int, int]] = deque(maxlen=4 * WINDOW)  # images, into either side
        self.calibrated()

    def calibrated(self) -> None:
        """There is another threshold: what it flags is counted anew."""
        self._judged_since = self._flagged_since = 0

    def observe(self, detector: Detector, z: Tensor, is_ood: Tensor | None) -> tuple[str, ...]:
        """Take a batch ``[B, D]`` and its verdicts ``[B]`` in, after the detector has; the warnings as they are now."""
        z = z.detach()
        self._images += len(z)
        latest = z[-WINDOW:].float().clone()
        self._rows.extend(latest.unbind())
        self._flagged.extend([None] * len(latest) if is_ood is None else map(bool, is_ood[-WINDOW:].tolist()))
        if is_ood is not None:
            self._judged_since += len(z)
            self._flagged_since += int(is_ood.sum())
        if self._usual is None:
            self._gather(z.float())
        if self._images - self._looked >= EVERY:
            self._looked = self._images
            report = detector.memory_report()
            if report is not None:
                self._admitted.append((report.images, report.admitted_id, report.admitted_ood))
            self._compare_with_start(detector)
            self.warnings = self._figures(detector, report)["warnings"]
        return self.warnings

    def health(self, detector: Detector, used: InUse | None = None) -> Health:
        """The figures of now; ``used`` says by what method the detector was made, None that a function made it."""
        method, settings = used or method_in_use(detector, None)
        figures = self._figures(detector, detector.memory_report())
        return Health(method=method, settings=settings, **figures)

    def _figures(self, detector: Detector, report: MemoryReport | None) -> dict[str, Any]:
        rows = torch.stack(list(self._rows)) if self._rows else None
        flags = [flag for flag in self._flagged if flag is not None]
        flagged = sum(flags) / len(flags) if flags else None
        overturned = sum(self._overturned) / len(self._overturned) if self._overturned else None
        similarity = None if rows is None else mean_cosine(rows)
        usual = self._usual
        shift = None if usual is None or rows is None else _shift(rows, usual)
        figures: dict[str, Any] = {
            "images": self._images,
            "window": len(self._rows),
            "flagged": flagged,
            "promised": None if detector.tpr is None else 1 - detector.tpr,
            "overturned": overturned,
            "similarity": similarity,
            "usual_similarity": None if usual is None else usual.similarity,
            "shift": shift,
            "memory": report,
            **self._memory_figures(report),
        }
        doubt = ""
        if detector.tpr is not None:
            doubt = calibration_doubt(self._flagged_since, self._judged_since, detector.tpr)
        warnings = _warnings(figures) + ((f"calibration: {doubt}",) if doubt else ())
        return {**figures, "warnings": warnings}

    def _gather(self, z: Tensor) -> None:
        self._first.append(z[: REFERENCE - sum(map(len, self._first))].clone())
        if sum(map(len, self._first)) == REFERENCE:
            rows = torch.cat(self._first).double()
            mean = rows.mean(dim=0)
            products = (rows - mean) @ (rows - mean).T / (REFERENCE - 1)
            self._usual = _Usual(
                mean, mean_cosine(rows) or 0.0, float(products.trace()), float(products.square().sum())
            )
            self._first = []

    def _compare_with_start(self, detector: Detector) -> None:
        """Whether the latest images that are judged OOD would have been kept at the start."""
        latest = list(self._rows)[-EVERY:]
        before = detector.decided_at_start(torch.stack(latest))
        now = list(self._flagged)[-EVERY:]
        if before is not None:
            pairs = zip(now, before.tolist(), strict=True)
            self._overturned.extend(bool(flag) and not at_start for flag, at_start in pairs)

    def _memory_figures(self, report: MemoryReport | None) -> dict[str, Any]:
        names = ("admitted_id", "admitted_ood", "turnover_id", "turnover_ood")
        if report is None or not self._admitted:
            return dict.fromkeys(names)
        images, *admitted = report.images, report.admitted_id, report.admitted_ood
        earlier = next(
            (past for past in reversed(self._admitted) if images - past[0] >= WINDOW), self._admitted[0]
        )
        if earlier[0] == images:
            earlier = (0, 0, 0)
        shares = [
            (now - then) / (images - earlier[0]) for now, then in zip(admitted, earlier[1:], strict=True)
        ]
        ages = []
        for side, held in enumerate((report.held_id, report.held_ood), start=1):
            middle = (
                admitted[side - 1] - held // 2
            )  # the number of the ring's middle image among those admitted
            came = next((past[0] for past in self._admitted if past[side] >= middle), images)
            ages.append(images - came if middle > 0 else None)
        return dict(zip(names, [*shares, *ages], strict=True))


def _shift(rows: Tensor, usual: _Usual) -> float:
    """How far the rows' mean is from the usual one, in standard deviations from what chance does.

    For rows drawn alike the squared distance has the mean ``tr S (1/n + 1/m)`` and, for nearly normal means, the
    variance ``2 tr S^2 (1/n + 1/m)^2`` (S their covariance).
    """
    both = 1 / len(rows) + 1 / REFERENCE
    distance = float((rows.double().mean(dim=0) - usual.mean).square().sum())
    deviation = math.sqrt(2 * usual.spread_squared) * both
    return (distance - usual.spread * both) / max(deviation, 1e-12)


def kind_of(warning: str) -> str:
    """What a warning is of: runaway, flood, shift or calibration."""
    return warning.partition(":")[0]


def _warnings(figures: dict[str, Any]) -> tuple[str, ...]:
    overturned, window = figures["overturned"], figures["window"]
    if window < WINDOW:  # too few to tell from chance
        return ()
    found = []
    if overturned is not None and overturned > OVERTURNED:
        found.append(
            f"runaway: {overturned:.0%} of the latest images are judged OOD only because of what the stream taught; "
            "look at them, and reset or restore the guard if they are ID"
        )
    similarity, usual = figures["similarity"], figures["usual_similarity"]
    if usual is not None and similarity is not None and similarity - usual > CONCENTRATED:
        found.append(
            f"flood: the latest {window} images resemble each other more (mean cosine {similarity:.2f}) than the first "
            f"{REFERENCE} did ({usual:.2f})"
        )
    if figures["shift"] is not None and figures["shift"] > SHIFTED:
        found.append(
            f"shift: the latest {window} images are unlike the first {REFERENCE}, by {figures['shift']:.1f} standard "
            "deviations of chance; a calibration from before may not hold"
        )
    return tuple(found)
