"""Bootstrap intervals of AUROC, FPR95 and FPR95_ID, all resamples at once.

Where a stream was made longer by variants of its images, these are no new images: what is resampled are the images
that the variants were made from, and each comes with all of its variants (a bootstrap of clusters).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from tanl.metrics import HEADLINE, wanted_at_95

from .protocol import StreamScores

LEVEL = 0.95
RESAMPLES = 1000
_AT_ONCE = 4_000_000  # numbers of an array: resamples of many images are gone through a few at a time

Floats = npt.NDArray[np.float64]
Counts = npt.NDArray[np.integer[Any]]
Sources = npt.NDArray[np.integer[Any]]


def resample_counts(num_images: int, resamples: int, generator: np.random.Generator) -> Counts:
    """How often each image is drawn in each resample with replacement, uint16 ``[resamples, num_images]``."""
    chances = np.full(num_images, 1 / num_images)
    counts = np.empty((resamples, num_images), np.uint16)
    for rows in _parts(resamples, num_images):
        counts[rows] = generator.multinomial(num_images, chances, size=rows.stop - rows.start)
    return counts


class PairedResamples:
    """Resamples of an ID set and its OOD sets, the same for every method, order and seed: differences are paired.

    Args:
        sets: for each OOD set, by name, the source of each ID and of each OOD image of its streams, ``[N_id]`` and
            ``[N_ood]``: numbers from 0 on, none of them left out; images of one source are resampled together.
        resamples: how many there are.
        seed: of them all.
    """

    def __init__(
        self, sets: Mapping[str, tuple[Sources, Sources]], *, resamples: int = RESAMPLES, seed: int = 0
    ) -> None:
        generator = np.random.default_rng(seed)
        self._sources = dict(sets)
        # Streams of one run may take different parts of the ID images.
        self._id: dict[int, Counts] = {}
        self._ood: dict[str, Counts] = {}
        for name, (id_sources, ood_sources) in sets.items():
            num_id = _number_of(id_sources)
            if num_id not in self._id:
                self._id[num_id] = resample_counts(num_id, resamples, generator)
            self._ood[name] = resample_counts(_number_of(ood_sources), resamples, generator)

    def metrics(self, ood: str, scores: StreamScores) -> Floats:
        """The metrics of a stream's resamples, ``[resamples, 3]`` in the order of `tanl.metrics.HEADLINE`.

        Raises:
            ValueError: the stream has another number of images than was said of the set.
        """
        id_sources, ood_sources = self._sources[ood]
        sizes, others = (len(scores.id), len(scores.ood)), (len(id_sources), len(ood_sources))
        if sizes != others:
            raise ValueError(f"a stream with {ood} has {sizes} images, others have {others}")
        return resampled_metrics(
            scores, self._id[_number_of(id_sources)][:, id_sources], self._ood[ood][:, ood_sources]
        )


def resampled_metrics(scores: StreamScores, id_counts: Counts, ood_counts: Counts) -> Floats:
    """The metrics of each resample of a stream's scores, ``[resamples, 3]`` in the order of `tanl.metrics.HEADLINE`.

    The stream isn't run again: the intervals are of the measured images, given what the detector learned.
    With counts of one it gives what :class:`tanl.OODMetrics` does.

    Args:
        scores: of the stream.
        id_counts: how often each ID image is in each resample, ``[resamples, N_id]``, one at least in each.
        ood_counts: how often each OOD image is, likewise ``[resamples, N_ood]``.
    """
    parts = _parts(len(id_counts), len(scores.id) + len(scores.ood))
    return np.concatenate([_metrics(scores, id_counts[rows], ood_counts[rows]) for rows in parts])


def _metrics(scores: StreamScores, id_counts: Counts, ood_counts: Counts) -> Floats:
    values = np.concatenate([scores.id, scores.ood])
    order = np.argsort(values)
    place = np.argsort(order)  # where each image stands among the sorted scores
    first_of_ties = np.flatnonzero(np.append(True, np.diff(values[order]) != 0))
    # [R, V]: how many images of each resample have each distinct score.
    num_id = len(scores.id)
    id_mass = _spread(id_counts, place[:num_id], first_of_ties, len(values))
    ood_mass = _spread(ood_counts, place[num_id:], first_of_ties, len(values))
    id_up_to, ood_up_to = id_mass.cumsum(axis=1), ood_mass.cumsum(axis=1)
    id_total, ood_total = id_up_to[:, -1:], ood_up_to[:, -1:]  # [R, 1]
    id_from, ood_from = id_total - id_up_to + id_mass, ood_total - ood_up_to + ood_mass

    wins = (ood_mass * (id_up_to - 0.5 * id_mass)).sum(axis=1)
    ood_wanted, id_wanted = wanted_at_95(ood_total), wanted_at_95(id_total)
    catching = (ood_from >= ood_wanted).sum(axis=1) - 1
    accepting = (id_up_to < id_wanted).sum(axis=1)
    row = np.arange(len(id_mass))
    id_total, ood_total = id_total[:, 0], ood_total[:, 0]
    values_of = {
        "AUROC": wins / (id_total * ood_total),
        "FPR95": id_from[row, catching] / id_total,
        "FPR95_ID": ood_up_to[row, accepting] / ood_total,
    }
    return np.stack([values_of[name] for name in HEADLINE], axis=1)


def interval(samples: Floats, level: float = LEVEL) -> tuple[float, float]:
    """The percentile interval of resampled values ``[resamples]``."""
    low, high = np.quantile(samples, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def mean_of_sets(per_set: Sequence[Floats]) -> Floats:
    """Resampled means over OOD sets, ``[resamples, 3]``; the sets must share their resamples of ID images."""
    means: Floats = np.mean(np.stack(per_set), axis=0)
    return means


def _number_of(sources: Sources) -> int:
    return int(sources.max()) + 1


def _parts(rows: int, length: int) -> list[slice]:
    step = max(1, _AT_ONCE // length)
    return [slice(start, min(start + step, rows)) for start in range(0, rows, step)]


def _spread(
    counts: Counts, place: npt.NDArray[np.intp], first_of_ties: npt.NDArray[np.intp], size: int
) -> npt.NDArray[np.int64]:
    at_place = np.zeros((len(counts), size), dtype=np.int64)
    at_place[:, place] = counts
    spread: npt.NDArray[np.int64] = np.add.reduceat(at_place, first_of_ties, axis=1)
    return spread
