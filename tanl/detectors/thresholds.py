"""Thresholds: from scores of known ID images, or from a stream's scores alone."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from ..checks import is_dense, real
from ..functional import otsu_threshold


def threshold_at_tpr(id_scores: Tensor, tpr: float = 0.95) -> float:
    """The OOD score above which an image is called OOD, so that new ID images are kept with probability >= tpr.

    Split conformal prediction: the k-th smallest score, ``k = ceil((n + 1) tpr)``. The guarantee is marginal
    and holds for a finite sample when calibration and future ID scores are exchangeable (Vovk et al. 2005,
    *Algorithmic learning in a random world*); a stateful method's scores are so only approximately.

    Args:
        id_scores: ``[n]`` OOD scores of ID images.
        tpr: wanted share of ID images that are kept, in (0, 1).

    Raises:
        ValueError: tpr outside (0, 1), scores not ``[n]`` or not finite, or too few of them for this tpr.
    """
    if not 0 < real(tpr, "tpr") < 1:
        raise ValueError(f"tpr must lie strictly between 0 and 1, not {tpr}")
    scores = _checked_scores(id_scores, "id_scores")
    # Rounding first: (19 + 1) * 0.95 must count as 19, whatever its last bit says.
    rank = max(1, math.ceil(round((len(scores) + 1) * tpr, 9)))
    if rank > len(scores):
        raise ValueError(
            f"{len(scores)} ID scores are too few for tpr = {tpr}: {fewest_at_tpr(tpr)} are needed, or a lower tpr"
        )
    return float(scores.sort().values[rank - 1])


def fewest_at_tpr(tpr: float) -> int:
    """How many ID scores `threshold_at_tpr` needs for a share in (0, 1): 19 for 0.95."""
    return math.ceil(round(tpr / (1 - tpr), 9))


def threshold_from_stream(scores: Tensor) -> float:
    """The OOD score that parts a stream's scores into two groups best, by Otsu's method; no image is labelled.

    Otsu 1979, *A threshold selection method from gray-level histograms*: of 100 thresholds between the smallest and
    the largest score the one with the least variance within the two groups. It promises nothing: it parts any
    scores, so in a stream without outliers it flags ID images, and a rare kind of image cannot pull it to its place.

    Args:
        scores: ``[n]`` OOD scores of a stream in which both kinds of images are frequent; any range.

    Raises:
        ValueError: scores not ``[n]`` or not finite, or all equal.
    """
    scores = _checked_scores(scores, "scores")
    low, high = (float(scores.min()), float(scores.max())) if len(scores) else (0.0, 0.0)
    if low == high:
        raise ValueError(
            f"{len(scores)} scores without any difference cannot be parted; give a stream of both kinds"
        )
    return high - (high - low) * otsu_threshold((high - scores) / (high - low))


def calibration_doubt(flagged: int, judged: int, tpr: float) -> str:
    """What is to be said where less is flagged than even ID images would be, by more than chance; else nothing.

    A share of ``1 - tpr`` of ID images is flagged, and outliers come on top. Where not half of that is, and chance
    would do so once in a thousand times (the binomial distribution's lower tail), the images that the threshold is
    from score higher than what is judged: as they do that look OOD themselves.

    Args:
        flagged: how many were judged OOD under the calibrated threshold.
        judged: of how many.
        tpr: of the calibration.
    """
    half = (1 - tpr) / 2
    if flagged >= half * judged:
        return ""
    from scipy.stats import binom  # seldom needed, and slow to load

    if binom.cdf(flagged, judged, half) > 0.001:
        return ""
    return (
        f"{flagged} of {judged} images are flagged, and of {judged} that belong to the classes about "
        f"{(1 - tpr) * judged:.0f} would be: those that the threshold is from look less like the classes than these; "
        "do they belong to them?"
    )


def _checked_scores(scores: Tensor, name: str) -> Tensor:
    if isinstance(scores, Tensor):
        if not is_dense(scores) or scores.is_meta or scores.is_complex():
            raise TypeError(f"{name} must be a dense tensor of real values")
        scores = scores.detach().float()
    elif isinstance(scores, np.ma.MaskedArray) and np.ma.is_masked(scores):
        raise TypeError(f"{name} must not be masked; leave such images out")
    else:
        try:
            scores = torch.as_tensor(scores, dtype=torch.float32, device="cpu")
        except (RuntimeError, OverflowError, TypeError, ValueError) as error:
            raise TypeError(f"{name} must be a tensor [n], not {type(scores).__name__}: {error}") from error
    if scores.ndim != 1:
        raise ValueError(f"{name} must have shape [n], not {list(scores.shape)}")
    if not bool(scores.isfinite().all()):
        raise ValueError(f"{name} has a NaN or infinite value; leave such images out")
    return scores
