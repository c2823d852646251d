"""Any source of images in batches: prepared in threads, in order, and read no further ahead than is allowed."""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from itertools import count
from queue import Empty, SimpleQueue
from typing import Generic, TypeVar

from ..checks import whole_number
from ..io.images import UnreadableImage

S = TypeVar("S")
T = TypeVar("T")

_PATIENCE = 1.0  # seconds that closing waits for a source that blocks


@dataclass(frozen=True)
class _Read(Generic[T]):
    """An image of the source: when it came, and what is being made of it."""

    at: float
    content: Future[T | UnreadableImage]


@dataclass(frozen=True)
class _End:
    """There is no more, because of an error or not."""

    error: BaseException | None = None


class Batches(Iterator[list[T | UnreadableImage]], Generic[T]):
    """Batches of what ``prepare`` makes of each image of a source, in the source's order.

    A batch holds ``batch_size`` usable images and any number of unusable ones, the last one fewer. Errors, of the
    source or of ``prepare``, are raised after the batch of what came before them. Nothing is read before the
    first batch is asked for, and then at most ``read_ahead`` images beyond those that were handed out.

    Args:
        source: any iterable.
        prepare: gets an image and its number in the source, from 0; gives what is put into batches, or an
            `UnreadableImage` for one that takes no place. It runs in threads.
        batch_size: at least 1.
        read_ahead: how many images are prepared before they are asked for; None is four a thread.
        max_wait: seconds after which a batch is handed out although it is not full, counted from when its oldest
            image came; None waits for ever.
        in_background: read the source in a thread of its own, so that waiting for it can be cut short; otherwise
            it is read where batches are asked for. Always so with ``max_wait``.

    Raises:
        TypeError, ValueError: an unusable setting; a source that is no iterable.
    """

    def __init__(
        self,
        source: Iterable[S],
        prepare: Callable[[int, S], T | UnreadableImage],
        *,
        batch_size: int = 64,
        read_ahead: int | None = None,
        max_wait: float | None = None,
        in_background: bool = False,
    ) -> None:
        workers = min(16, os.cpu_count() or 1)
        self._batch_size = whole_number(batch_size, "batch_size", at_least=1)
        read_ahead = 4 * workers if read_ahead is None else whole_number(read_ahead, "read_ahead", at_least=0)
        if max_wait is not None and not (isinstance(max_wait, int | float) and 0 <= max_wait < float("inf")):
            raise ValueError(
                f"max_wait must be a number of seconds, or None to wait for ever, not {max_wait!r}"
            )
        self._max_wait = max_wait
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="tanl-images")
        numbers = count()

        def read(image: S) -> _Read[T]:
            return _Read(time.monotonic(), self._pool.submit(prepare, next(numbers), image))

        kind = _Inline if max_wait is None and not in_background else _Background
        self._images = kind(map(read, source), read_ahead)
        self._stopped = False
        self._batches = self._made()

    def __next__(self) -> list[T | UnreadableImage]:
        return next(self._batches)

    def stop(self) -> None:
        """Hand out no more batches, and end a wait for the next one in another thread; does not wait itself."""
        self._stopped = True
        self._images.stop()

    def close(self) -> None:
        """Stop, drop what was read ahead, and end all threads. Not while another thread asks for a batch."""
        self.stop()
        self._images.join()
        self._pool.shutdown(cancel_futures=True)

    def _made(self) -> Iterator[list[T | UnreadableImage]]:
        end: _End | None = None
        next_one: _Read[T] | None = None
        while end is None:
            batch: list[T | UnreadableImage] = []
            room, due = self._batch_size, None
            while room:
                if next_one is None:
                    found = self._images.get(_seconds_until(due))
                    if isinstance(found, _End):
                        end = found
                        break
                    if found is None:
                        break
                    next_one = found
                if due is None and self._max_wait is not None:
                    due = next_one.at + self._max_wait
                # It may come in time and not be prepared in time: then it is the next batch's first.
                if batch and not wait([next_one.content], _seconds_until(due)).done:
                    break
                try:
                    content = next_one.content.result()
                except Exception as error:
                    end = _End(error)
                    break
                next_one = None
                batch.append(content)
                room -= not isinstance(content, UnreadableImage)
            if self._stopped:
                return
            if batch:
                yield batch
        if end.error is not None:
            raise end.error


def _seconds_until(due: float | None) -> float | None:
    return None if due is None else max(0.0, due - time.monotonic())


class _Inline(Generic[T]):
    """Reads a source where it is asked for the next image, always ``read_ahead`` images beyond it."""

    def __init__(self, source: Iterator[_Read[T]], read_ahead: int) -> None:
        self._source = source
        self._read_ahead = read_ahead
        self._waiting: deque[_Read[T]] = deque()
        self._end: _End | None = None

    def get(self, timeout: float | None) -> _Read[T] | _End | None:
        while self._end is None and len(self._waiting) <= self._read_ahead:
            try:
                self._waiting.append(next(self._source))
            except StopIteration:
                self._end = _End()
            except Exception as error:
                self._end = _End(error)
        return self._waiting.popleft() if self._waiting else self._end

    def stop(self) -> None:
        self._end = self._end or _End()

    def join(self) -> None:
        self._waiting.clear()


class _Background(Generic[T]):
    """Reads a source in a thread of its own, at most ``read_ahead`` images beyond what was asked for."""

    def __init__(self, source: Iterator[_Read[T]], read_ahead: int) -> None:
        self._source = source
        self._wanted = threading.Semaphore(read_ahead)
        self._found: SimpleQueue[_Read[T] | _End] = SimpleQueue()
        self._asked = self._stopped = False
        # A daemon: a source that blocks for ever must not keep the interpreter from ending.
        self._thread = threading.Thread(target=self._run, name="tanl-source", daemon=True)

    def get(self, timeout: float | None) -> _Read[T] | _End | None:
        """The next image, or the end; None if neither comes in time."""
        if self._thread.ident is None:
            self._thread.start()
        if not self._asked:
            self._asked = True
            self._wanted.release()
        try:
            found = self._found.get(timeout=timeout)
        except Empty:
            return None
        self._asked = False
        return found

    def stop(self) -> None:
        self._stopped = True
        self._wanted.release()
        self._found.put(_End())

    def join(self) -> None:
        if self._thread.ident is not None:
            self._thread.join(_PATIENCE)

    def _run(self) -> None:
        end = _End()
        try:
            while True:
                self._wanted.acquire()
                if self._stopped:
                    break
                self._found.put(next(self._source))
        except StopIteration:
            pass
        except BaseException as error:  # raised again where batches are asked for
            end = _End(error)
        self._found.put(end)
