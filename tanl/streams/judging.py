"""Embedded batches in, results out: the part of a stream that images and files of embeddings share."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from .results import Result

if TYPE_CHECKING:
    from torch import Tensor

    from ..detectors.verdict import Detection


@dataclass
class Timings:
    """Where the time of a stream went, in seconds of wall clock.

    ``total`` runs from the first file to the last verdict; what is neither ``encoding`` nor ``scoring`` was
    spent waiting for files, or in the consumer. ``images`` counts what was judged, be it an image or a row.
    """

    images: int = 0
    total: float = 0.0
    encoding: float = 0.0
    scoring: float = 0.0

    @property
    def images_per_second(self) -> float:
        return self.images / self.total if self.total else 0.0

    @property
    def scoring_share(self) -> float:
        return self.scoring / self.total if self.total else 0.0


def judge_batches(
    batches: Iterable[tuple[list[Result], Tensor | None]],
    detect: Callable[[Tensor], Detection],
    timings: Timings,
) -> Iterator[list[Result]]:
    """Judge one batch after the other.

    Args:
        batches: results that have an error or wait for their verdict, and the embeddings ``[B, D]`` of those
            that wait, in their order (None if there are none).
        detect: judges a batch of embeddings.
        timings: filled in as the stream goes.
    """
    started = time.perf_counter()
    for results, z in batches:
        before = time.perf_counter()
        verdicts = iter(() if z is None else detect(z))
        timings.scoring += time.perf_counter() - before
        judged = []
        for result in results:
            if result.error is None:
                verdict = next(verdicts)
                result = replace(
                    result,
                    label=verdict.label,
                    id_probability=verdict.id_probability,
                    ood_score=verdict.ood_score,
                    is_ood=verdict.is_ood,
                    evidence=verdict.evidence,
                )
            judged.append(result)
        timings.total = time.perf_counter() - started
        yield judged
