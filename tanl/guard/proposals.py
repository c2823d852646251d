"""Proposals: words that something looks up for images judged OOD become negatives while the stream runs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from torch import Tensor

from ..checks import whole_number
from ..detectors.verdict import Detection
from .guard import Guard, Images, Source

Propose = Callable[[Sequence[Any]], Iterable[str]]
"""From images that were judged OOD to words for what they show: a captioner, or a language model that sees images."""


class Proposals:
    """Judges batches with a guard, and adds the words that a function proposes to its negatives.

    ANTS (arXiv 2509.03951) asks a language model that sees images what the likely outliers are; any function will do::

        judge = tanl.Proposals(guard, lambda images: [caption(image) for image in images])
        for batch in batches:
            detection = judge(batch)

    The words come after the batch: they count from the next one on. They are added as `Guard.add_new_negatives` adds
    them, so that no ID label, synonym of one or word that is there comes in; each edit encodes only the new words, and
    costs a stateful method a pass over all labels. Nothing is asked once ``most`` words were added.

    An error of the function is passed on. The batch has been judged and learnt from by then; its `Detection` is
    ``last``.

    Args:
        guard: with a corpus and a threshold.
        propose: see `Propose`; it is given the images as they were given, in order.
        most: words that are added in all.
        images: images that it is asked about at a time, the most OOD of a batch first.

    Raises:
        TypeError, ValueError: unusable arguments.
    """

    def __init__(self, guard: Guard, propose: Propose, *, most: int = 200, images: int = 8) -> None:
        if not isinstance(guard, Guard):
            raise TypeError(f"guard must be a Guard, not {type(guard).__name__}")
        if not callable(propose):
            raise TypeError(f"propose must be a function of images, not {propose!r}")
        if guard.corpus is None:
            raise ValueError("the guard has no corpus, so that no negative can be added: give it one")
        self.guard, self.propose = guard, propose
        self.most = whole_number(most, "most", at_least=1)
        self.images = whole_number(images, "images", at_least=1)
        self.added: tuple[str, ...] = ()
        self.last: Detection | None = None

    def __call__(self, images: Images, *, source: Source = None) -> Detection:
        """Judge one batch of the stream, learn from it, and then add what is proposed for its outliers.

        Raises:
            UnreadableImage, TypeError, ValueError: as `Guard.judge`; there is no threshold; what is proposed is no list
                of strings.
        """
        if self.guard.detector.threshold is None:
            raise ValueError("the guard has no threshold yet, so that no image is OOD: calibrate it first")
        given = images if isinstance(images, Tensor) else list(images)
        self.last = detection = self.guard.judge(given, source=source)
        room = self.most - len(self.added)
        if room > 0 and detection.is_ood is not None and bool(detection.is_ood.any()):
            order = detection.ood_score.sort(descending=True, stable=True).indices.tolist()
            chosen = [row for row in order if bool(detection.is_ood[row])][: self.images]
            words = self.propose([given[row] for row in sorted(chosen)])
            self.added += self.guard.add_new_negatives(words, room)
        return detection
