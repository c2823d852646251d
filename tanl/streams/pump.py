"""The one pump: a source is read ahead and prepared, encoded in batches, and judged batch by batch."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from numbers import Real
from os import PathLike
from typing import TYPE_CHECKING, TypeVar

import torch
from torch import Tensor

from ..checks import off_norm, whole_number
from ..io.options import BATCH_SIZE
from .batches import End, Read, Reader, Ready, Unusable, default_threads
from .results import Result

if TYPE_CHECKING:
    from ..detectors.verdict import Verdict

S = TypeVar("S")

READ_AHEAD = 64
"""Images that a source is read beyond a batch, if nothing else is said: the same on every machine, as a batch that
holds so many unusable images more than its size is judged although it is not full."""

_AHEAD_A_THREAD = 4


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


@dataclass(frozen=True)
class Batch:
    """Images in their source's order: what each is called, or why it cannot be used.

    Attributes:
        images: names, and an `Unusable` in the place of each that has no embedding.
        z: the embeddings ``[B, D]`` of the others, unit rows; None if there are none.
    """

    images: list[str | PathLike[str] | Unusable]
    z: Tensor | None


class Pump(Iterator[Batch]):
    """Batches of a source's images, embedded.

    A batch holds ``batch_size`` usable images, and what could not be used among them; the last one may hold fewer, and
    so does one after ``max_wait``, or for which ``batch_size + read_ahead`` images were read. Nothing is read before
    the first batch is asked for, and then at most ``batch_size + read_ahead`` images, usable or not, beyond the batches
    that were handed out before. Errors of the source and of ``prepare`` are raised after the batch of what came before
    them, an error of ``encode`` in place of its batch.

    Args:
        source: any iterable.
        prepare: gets an image and its number in the source, from 0. It runs in threads.
        encode: the contents of usable images to embeddings ``[n, D]``. An image whose row is not finite or not of
            unit norm turns out unusable; its place in the batch goes to another.
        batch_size: at least 1.
        read_ahead: images beyond a batch; None is `READ_AHEAD`, of which four a thread are prepared at once.
        max_wait: seconds after which a batch is handed out although it is not full, counted from when its oldest
            image came; None waits for ever.
        in_background: read the source in a thread of its own, so that waiting for it can be cut short; otherwise
            it is read where batches are asked for. Always so with ``max_wait``.
        refuse: makes the error that is raised for an unusable image, after the batch of what came before it; None
            leaves it in its place.
        threads: that prepare images; None is one a core, at most 16; 0 prepares them where the source is read.
        timings: its ``images`` and ``encoding`` are filled in as the stream goes.

    Raises:
        TypeError, ValueError: an unusable setting; a source that is no iterable.
    """

    def __init__(
        self,
        source: Iterable[S],
        prepare: Callable[[int, S], Ready | Unusable],
        encode: Callable[[Sequence[Tensor]], Tensor],
        *,
        batch_size: int = BATCH_SIZE,
        read_ahead: int | None = None,
        max_wait: float | None = None,
        in_background: bool = False,
        refuse: Callable[[Unusable], Exception] | None = None,
        threads: int | None = None,
        timings: Timings | None = None,
    ) -> None:
        self._batch_size = whole_number(batch_size, "batch_size", at_least=1)
        threads = default_threads() if threads is None else whole_number(threads, "threads", at_least=0)
        at_once = _AHEAD_A_THREAD * threads + 1
        if read_ahead is not None:
            read_ahead = whole_number(read_ahead, "read_ahead", at_least=0)
            at_once = max(at_once, read_ahead)
        self._limit = self._batch_size + (READ_AHEAD if read_ahead is None else read_ahead)
        is_number = isinstance(max_wait, Real) and not isinstance(max_wait, bool)
        if max_wait is not None and not (is_number and 0 <= max_wait < float("inf")):
            raise ValueError(
                f"max_wait must be a number of seconds, or None to wait for ever, not {max_wait!r}"
            )
        self._max_wait = None if max_wait is None else float(max_wait)
        self._encode = encode
        self._refuse = refuse
        self._timings = Timings() if timings is None else timings
        self._reader = Reader(
            source,
            prepare,
            threads=threads,
            at_once=at_once,
            in_background=in_background or max_wait is not None,
        )
        self._stopped = False
        self._batches = self._made()

    def __next__(self) -> Batch:
        return next(self._batches)

    def stop(self) -> None:
        """Hand out no more batches, and end a wait for the next one in another thread; does not wait itself."""
        self._stopped = True
        self._reader.stop()

    def close(self) -> None:
        """Stop, drop what was read ahead, and end all threads. Not while another thread asks for a batch."""
        self._stopped = True
        self._reader.close()

    def _made(self) -> Iterator[Batch]:
        handed, end = 0, None
        while end is None:
            batch = _Draft()
            due: float | None = None
            may_grow = True
            self._reader.allow(handed + self._limit)
            while may_grow and (room := self._batch_size - batch.usable):
                fresh: list[Ready] = []
                while (may_grow := len(batch.images) < self._limit) and len(fresh) < room:
                    found = self._next_one(due, bool(batch.images))
                    if not isinstance(found, Read):
                        end, may_grow = found, False
                        break
                    if due is None and self._max_wait is not None:
                        due = found.at + self._max_wait
                    try:
                        image = found.content.result()
                    except Exception as error:
                        end, may_grow = End(error), False
                        break
                    self._reader.take()
                    if isinstance(image, Unusable) and self._refuse is not None:
                        end, may_grow = End(self._refuse(image)), False
                        break
                    if isinstance(image, Ready):
                        fresh.append(image)
                    batch.images.append(image)
                if fresh:
                    unusable = batch.add(self._encoded(fresh), fresh)
                    if unusable is not None and self._refuse is not None:
                        batch.cut(unusable)
                        end, may_grow = End(self._refuse(unusable)), False
            if self._stopped:
                return
            self._timings.images += batch.usable
            handed += len(batch.images)
            if batch.images:
                yield batch.whole()
        if end.error is not None:
            raise end.error

    def _next_one(self, due: float | None, something_waits: bool) -> Read | End | None:
        """The next image, or the end; None if it is not there in time."""
        found = self._reader.peek(_seconds_until(due))
        if due is None or not isinstance(found, Read) or not something_waits:
            return found
        # It may come in time and not be prepared in time: then it is the next batch's first.
        return found if found.is_prepared(_seconds_until(due)) else None

    def _encoded(self, fresh: Sequence[Ready]) -> Tensor:
        before = time.perf_counter()
        z = self._encode([image.content for image in fresh])
        self._timings.encoding += time.perf_counter() - before
        if z.ndim != 2 or len(z) != len(fresh):
            raise ValueError(
                f"the backbone gives embeddings of shape {list(z.shape)} for {len(fresh)} images, not [{len(fresh)}, D]"
            )
        return z


class _Draft:
    """A batch that is being made."""

    def __init__(self) -> None:
        self.images: list[Ready | Unusable] = []
        self.usable = 0
        self._rows: list[Tensor] = []

    def add(self, z: Tensor, images: Sequence[Ready]) -> Unusable | None:
        """Take the embeddings ``[n, D]`` of the last n usable images; gives the first that has turned out unusable."""
        norms, off = off_norm(z)
        first = None
        if bool(off.any()):
            place = {id(image): i for i, image in enumerate(self.images)}
            for row in off.nonzero()[:, 0].tolist():
                unusable = Unusable(images[row].name, what_is_wrong(z[row], float(norms[row])))
                self.images[place[id(images[row])]] = unusable
                first = first or unusable
            z = z[~off]
        self._rows.append(z)
        self.usable += len(z)
        return first

    def cut(self, image: Unusable) -> None:
        """Keep what came before an unusable image."""
        place = next(i for i, each in enumerate(self.images) if each is image)
        self.images = self.images[:place]
        usable = sum(isinstance(each, Ready) for each in self.images)
        self._rows = [torch.cat(self._rows)[:usable]]
        self.usable = usable

    def whole(self) -> Batch:
        z = None
        if self.usable:
            z = self._rows[0] if len(self._rows) == 1 else torch.cat(self._rows)
        return Batch([each.name if isinstance(each, Ready) else each for each in self.images], z)


def judged(
    batches: Iterable[Batch], judge: Callable[[Tensor], Iterable[Verdict]], timings: Timings | None = None
) -> Iterator[list[Result]]:
    """Judge one batch after the other: a result for each image, in order.

    Args:
        batches: from a `Pump`.
        judge: embeddings ``[B, D]`` to their verdicts; a method with a stream learns from each batch.
        timings: its ``scoring`` and ``total`` are filled in as the stream goes.
    """
    timings = Timings() if timings is None else timings
    started = time.perf_counter()
    for batch in batches:
        before = time.perf_counter()
        verdicts = iter(() if batch.z is None else judge(batch.z))
        results = [
            Result(image.name, error=image.reason)
            if isinstance(image, Unusable)
            else Result(image, next(verdicts))
            for image in batch.images
        ]
        timings.scoring += time.perf_counter() - before
        timings.total = time.perf_counter() - started
        yield results


def what_is_wrong(row: Tensor, norm: float) -> str:
    """What to tell of an image whose embedding ``[D]`` is no unit vector."""
    if not bool(row.isfinite().all()):
        return "the model gives an embedding with NaN or infinite values for it"
    if norm == 0:
        return "the model gives an embedding of zeros for it"
    return f"the model gives an embedding of norm {norm:.4g} for it, not 1"


def _seconds_until(due: float | None) -> float | None:
    return None if due is None else max(0.0, due - time.monotonic())
