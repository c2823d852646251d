"""Any source of images, prepared in threads, in order, and read no further ahead than is allowed."""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from itertools import count
from os import PathLike
from queue import Empty, SimpleQueue
from typing import Any, TypeVar

S = TypeVar("S")

_PATIENCE = 1.0  # seconds that closing waits for a source that blocks


@dataclass(frozen=True)
class Ready:
    """An image that can be encoded: what to call it, and what it was made into: as a rule pixels ``[3, H, W]``."""

    name: str | PathLike[str]
    content: Any


@dataclass(frozen=True)
class Unusable:
    """An image that takes no place in a batch: what to call it, and why."""

    name: str | PathLike[str]
    reason: str
    cause: Exception | None = None


@dataclass(frozen=True)
class Read:
    """An image of the source: when it came, and what is being made of it."""

    at: float
    content: Future[Ready | Unusable]

    def is_prepared(self, timeout: float | None) -> bool:
        """Whether it is prepared within so many seconds."""
        return self.content.done() or bool(wait([self.content], timeout).done)


@dataclass(frozen=True)
class End:
    """There is no more, because of an error or not."""

    error: BaseException | None = None


def default_threads() -> int:
    """How many threads prepare images: as many as there are cores, at most 16."""
    return min(16, os.cpu_count() or 1)


class Reader:
    """The images of a source in its order. Nothing is read before it is allowed and looked at.

    Args:
        source: any iterable.
        prepare: gets an image and its number in the source, from 0. It runs in threads; what it raises is raised by
            the ``content`` of its `Read`.
        threads: how many; 0 prepares where the source is read.
        at_once: how many images wait at most, prepared or not, for `peek`.
        in_background: read the source in a thread of its own, so that waiting for it can be cut short; otherwise
            it is read by `peek`.
    """

    def __init__(
        self,
        source: Iterable[S],
        prepare: Callable[[int, S], Ready | Unusable],
        *,
        threads: int,
        at_once: int,
        in_background: bool,
    ) -> None:
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="tanl-images") if threads else None
        numbers = count()

        def read(image: S) -> Read:
            at = time.monotonic()
            if self._pool is not None:
                return Read(at, self._pool.submit(prepare, next(numbers), image))
            content: Future[Ready | Unusable] = Future()
            content.set_result(prepare(next(numbers), image))
            return Read(at, content)

        kind = _Background if in_background else _Inline
        self._images: _Background | _Inline = kind(map(read, source), at_once)

    def allow(self, total: int) -> None:
        """Let the source be read until so many images of it have been read in all."""
        self._images.allow(total)

    def peek(self, timeout: float | None) -> Read | End | None:
        """The next image, or the end; None if neither comes in time. It stays the next one until `take`."""
        return self._images.peek(timeout)

    def take(self) -> None:
        """Go past the image that `peek` gave."""
        self._images.take()

    def stop(self) -> None:
        """End a wait for the next image in another thread; does not wait itself."""
        self._images.stop()

    def close(self) -> None:
        """Stop, drop what was read ahead, and end all threads. Not while another thread looks at the next image."""
        self.stop()
        self._images.join()
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)


class _Inline:
    """Reads a source where the next image is asked for."""

    def __init__(self, source: Iterator[Read], at_once: int) -> None:
        self._source = source
        self._at_once = at_once
        self._allowed = self._read = 0
        self._waiting: deque[Read] = deque()
        self._end: End | None = None

    def allow(self, total: int) -> None:
        self._allowed = total

    def peek(self, timeout: float | None) -> Read | End | None:
        while self._end is None and self._read < self._allowed and len(self._waiting) < self._at_once:
            try:
                self._waiting.append(next(self._source))
                self._read += 1
            except StopIteration:
                self._end = End()
            except Exception as error:
                self._end = End(error)
        return self._waiting[0] if self._waiting else self._end

    def take(self) -> None:
        self._waiting.popleft()

    def stop(self) -> None:
        self._end = self._end or End()

    def join(self) -> None:
        self._waiting.clear()


class _Background:
    """Reads a source in a thread of its own."""

    def __init__(self, source: Iterator[Read], at_once: int) -> None:
        self._source = source
        self._at_once = at_once
        self._changed = threading.Condition()  # held while the numbers below are read or changed
        self._allowed = self._read = self._taken = 0
        self._stopped = False
        self._found: SimpleQueue[Read | End] = SimpleQueue()
        self._next: Read | End | None = None
        # A daemon: a source that blocks for ever must not keep the interpreter from ending.
        self._thread = threading.Thread(target=self._run, name="tanl-source", daemon=True)

    def allow(self, total: int) -> None:
        with self._changed:
            self._allowed = total
            self._changed.notify()

    def peek(self, timeout: float | None) -> Read | End | None:
        if self._thread.ident is None:
            self._thread.start()
        if self._next is None:
            try:
                self._next = self._found.get(timeout=timeout)
            except Empty:
                return None
        return self._next

    def take(self) -> None:
        self._next = None
        with self._changed:
            self._taken += 1
            self._changed.notify()

    def stop(self) -> None:
        with self._changed:
            self._stopped = True
            self._changed.notify()
        self._found.put(End())

    def join(self) -> None:
        if self._thread.ident is not None:
            self._thread.join(_PATIENCE)

    def _may_go_on(self) -> bool:
        return self._stopped or self._read < min(self._allowed, self._taken + self._at_once)

    def _run(self) -> None:
        end = End()
        try:
            while True:
                with self._changed:
                    self._changed.wait_for(self._may_go_on)
                    if self._stopped:
                        break
                    self._read += 1
                self._found.put(next(self._source))
        except StopIteration:
            pass
        except BaseException as error:  # raised again where images are asked for
            end = End(error)
        self._found.put(end)
