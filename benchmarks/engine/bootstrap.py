"""Bootstrap intervals of AUROC, FPR95 and FPR95_ID, all resamples at once."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from .protocol import StreamScores

METRICS = ("AUROC", "FPR95", "FPR95_ID")
LEVEL = 0.95

Floats = npt.NDArray[np.float64]
Counts = npt.NDArray[np.int64]


def resample_counts(num_images: int, resamples: int, generator: np.random.Generator) -> Counts:
    """How often each image is drawn in each resample with replacement, ``[resamples, num_images]``."""
    return generator.multinomial(num_images, np.full(num_images, 1 / num_images), size=resamples)


def resampled_metrics(scores: StreamScores, id_counts: Counts, ood_counts: Counts) -> Floats:
    """The metrics of each resample of a stream's scores, ``[resamples, 3]`` in the order of :data:`METRICS`.

    The stream isn't run again: the intervals are of the measured images, given what the detector learned.
    With counts of one it gives what :class:`tanl.OODMetrics` does.
    """
    id_total, ood_total = len(scores.id), len(scores.ood)
    values = np.concatenate([scores.id, scores.ood])
    order = np.argsort(values)
    place = np.argsort(order)  # where each image stands among the sorted scores
    first_of_ties = np.flatnonzero(np.append(True, np.diff(values[order]) != 0))
    # [R, V]: how many images of each resample have each distinct score.
    id_mass = _spread(id_counts, place[:id_total], first_of_ties, len(values))
    ood_mass = _spread(ood_counts, place[id_total:], first_of_ties, len(values))
    id_up_to, ood_up_to = id_mass.cumsum(axis=1), ood_mass.cumsum(axis=1)
    id_from, ood_from = id_total - id_up_to + id_mass, ood_total - ood_up_to + ood_mass

    wins = (ood_mass * (id_up_to - 0.5 * id_mass)).sum(axis=1)
    # Whole numbers, because 0.95 * n may round the wrong way.
    ood_wanted, id_wanted = -(-95 * ood_total // 100), -(-95 * id_total // 100)
    catching = (ood_from >= ood_wanted).sum(axis=1) - 1
    accepting = (id_up_to < id_wanted).sum(axis=1)
    row = np.arange(len(id_mass))
    return np.stack(
        [
            wins / (id_total * ood_total),
            id_from[row, catching] / id_total,
            ood_up_to[row, accepting] / ood_total,
        ],
        axis=1,
    )


def interval(samples: Floats, level: float = LEVEL) -> tuple[float, float]:
    """The percentile interval of resampled values ``[resamples]``."""
    low, high = np.quantile(samples, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def mean_of_sets(per_set: Sequence[Floats]) -> Floats:
    """Resampled means over OOD sets, ``[resamples, 3]``; the sets must share their resamples of ID images."""
    means: Floats = np.mean(np.stack(per_set), axis=0)
    return means


def _spread(
    counts: Counts, place: npt.NDArray[np.intp], first_of_ties: npt.NDArray[np.intp], size: int
) -> Counts:
    at_place = np.zeros((len(counts), size), dtype=np.int64)
    at_place[:, place] = counts
    spread: Counts = np.add.reduceat(at_place, first_of_ties, axis=1)
    return spread
