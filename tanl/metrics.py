"""OOD metrics, with both meanings of FPR95 that are in print."""

from __future__ import annotations

from typing import TypeVar

import numpy as np
import numpy.typing as npt
from scipy.stats import rankdata
from torch import Tensor

from .checks import is_dense

Array = npt.NDArray[np.float64]
Count = TypeVar("Count", int, npt.NDArray[np.int64])

METRICS = ("AUROC", "AUPR_IN", "AUPR_OUT", "FPR95", "FPR95_ID")
"""All of them, in their order."""

HEADLINE = ("AUROC", "FPR95", "FPR95_ID")
"""Those that tables show, in the same order."""


class OODMetrics:
    """AUROC, AUPR and FPR95 of OOD scores, gathered batch by batch.

    ``FPR95`` is OpenOOD's: OOD is the positive class, the share of ID images flagged at the largest threshold
    that catches 95 % of OOD. ``FPR95_ID`` is the older one of MCM and NegLabel: the share of OOD images
    accepted at the smallest threshold that accepts 95 % of ID. All values are fractions in [0, 1].
    """

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Forget all scores."""
        self._scores: list[Array] = []
        self._is_ood: list[npt.NDArray[np.bool_]] = []

    def update(self, scores: Tensor | npt.ArrayLike, labels: Tensor | npt.ArrayLike) -> None:
        """Add scores ``[n]`` (higher = more OOD) with labels ``[n]``: ``>= 0`` is ID, any negative value OOD.

        Raises:
            TypeError: labels are bools, of which nobody can tell whether True is ID or OOD; scores or labels are no
                real numbers, or masked.
            ValueError: shapes differ or are not ``[n]``, a score is NaN or infinite, or a label is no whole number.
        """
        values, targets = _array(scores), _labels(labels)
        if values.ndim != 1 or targets.shape != values.shape:
            raise ValueError(f"scores and labels must both be [n], not {values.shape} and {targets.shape}")
        if not np.isfinite(values).all():
            raise ValueError(
                f"score {int(np.argmin(np.isfinite(values)))} is {values[~np.isfinite(values)][0]}"
            )
        self._scores.append(values)
        self._is_ood.append(targets < 0)

    def merge_state(self, other: OODMetrics) -> None:
        """Add all that another one has gathered.

        Raises:
            TypeError: it is no OODMetrics.
        """
        if not isinstance(other, OODMetrics):
            raise TypeError(f"other must be an OODMetrics, not a {type(other).__name__}")
        self._scores += other._scores
        self._is_ood += other._is_ood

    def compute(self) -> dict[str, float]:
        """The metrics so far, those of `METRICS`, and num_id and num_ood.

        Raises:
            ValueError: ID or OOD images are missing.
        """
        scores = np.concatenate([*self._scores, np.zeros(0)])
        is_ood = np.concatenate([*self._is_ood, np.zeros(0, bool)])
        num_id, num_ood = int((~is_ood).sum()), int(is_ood.sum())
        if not num_id or not num_ood:
            raise ValueError(f"metrics need ID and OOD images; there are {num_id} and {num_ood}")
        id_scores, ood_scores = scores[~is_ood], scores[is_ood]
        return {
            "AUROC": _auroc(id_scores, ood_scores),
            "AUPR_IN": _aupr(-id_scores, -ood_scores),
            "AUPR_OUT": _aupr(ood_scores, id_scores),
            "FPR95": _fpr_at_95(ood_scores, id_scores),
            "FPR95_ID": _fpr_at_95(-id_scores, -ood_scores),
            "num_id": num_id,
            "num_ood": num_ood,
        }


def _array(values: Tensor | npt.ArrayLike) -> Array:
    if isinstance(values, Tensor):
        _check_dense(values)
        values = values.detach().cpu()
        values = values.double() if values.is_floating_point() else values  # NumPy has no bfloat16
    _refuse_masked(values, "scores")
    given = np.asarray(values)
    if given.dtype.kind not in "iufb" and given.size and given.ndim:
        raise TypeError(f"scores must be real numbers, not of dtype {given.dtype}")
    return given.astype(np.float64)


def _refuse_masked(values: object, what: str) -> None:
    if isinstance(values, np.ma.MaskedArray) and np.ma.is_masked(values):
        raise TypeError(f"{what} must not be masked; leave those images out of scores and labels alike")


def _check_dense(values: Tensor) -> None:
    if not is_dense(values) or values.is_meta:
        raise TypeError("scores and labels must be dense tensors that hold values")


def _labels(labels: Tensor | npt.ArrayLike) -> Array:
    if isinstance(labels, Tensor):
        _check_dense(labels)
        labels = labels.detach().cpu()
        labels = labels.double() if labels.is_floating_point() else labels  # NumPy has no bfloat16
    _refuse_masked(labels, "labels")
    given = np.asarray(labels)
    if given.dtype.kind not in "iuf" and given.size:
        what = "bools: give 0 for ID and -1 for OOD" if given.dtype.kind == "b" else f"of dtype {given.dtype}"
        raise TypeError(f"labels must be whole numbers, not {what}")
    found = given.astype(np.float64)
    odd = ~(np.isfinite(found) & (found == np.floor(found)))
    if odd.any():
        place = int(np.argmax(odd)) if found.ndim == 1 else 0
        raise ValueError(f"label {place} is {found[odd][0]}, not a whole number: >= 0 is ID, below 0 OOD")
    return found


def _auroc(negatives: Array, positives: Array) -> float:
    """Mann-Whitney: the share of pairs in which the positive scores higher, ties counted half."""
    ranks = rankdata(np.concatenate([positives, negatives]))[: len(positives)]
    wins = ranks.sum() - len(positives) * (len(positives) + 1) / 2
    return float(wins / (len(positives) * len(negatives)))


def wanted_at_95(count: Count) -> Count:
    """The least number of ``count`` images that is 95 % of them, in whole numbers: 0.95 n may round the wrong way.

    Arrays of counts give an array.
    """
    return -(-95 * count // 100)


def _fpr_at_95(positives: Array, negatives: Array) -> float:
    """Share of negatives at or above the largest threshold that catches 95 % of the positives."""
    return float((negatives >= np.sort(positives)[-wanted_at_95(len(positives))]).mean())


def _aupr(positives: Array, negatives: Array) -> float:
    """Trapezoid area under the precision-recall curve with a point at each distinct score."""
    scores = np.concatenate([positives, negatives])
    order = np.argsort(-scores, kind="stable")
    hits = np.cumsum(order < len(positives))
    last_of_ties = np.append(np.diff(scores[order]) != 0, True)
    true_positives = hits[last_of_ties].astype(np.float64)
    precision = np.append(1.0, true_positives / (np.flatnonzero(last_of_ties) + 1))
    recall = np.append(0.0, true_positives / len(positives))
    return float(np.sum(np.diff(recall) * (precision[1:] + precision[:-1]) / 2))
