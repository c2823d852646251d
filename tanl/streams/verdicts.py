"""Verdicts on images one by one, as they come: a generator, and its like for asyncio."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterable, Callable, Generator, Iterable
from concurrent.futures import ThreadPoolExecutor
from os import PathLike
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, TypeAlias

from PIL import Image
from torch import Tensor

from ..io.images import UnreadableImage
from .images import ImageEncoder, OneImage, outcome, unreadable
from .pump import Pump, judged

if TYPE_CHECKING:
    from ..detectors.verdict import Verdict

    Outcome: TypeAlias = Verdict | UnreadableImage


def stream(
    encoder: ImageEncoder,
    images: Iterable[OneImage],
    judge: Callable[[Tensor], Iterable[Verdict]],
    *,
    batch_size: int,
    max_wait: float | None,
    read_ahead: int | None,
    errors: str,
) -> Generator[Outcome, None, None]:
    """`tanl.Guard.stream`, for any encoder and any function that judges embeddings."""
    pump = Pump(
        _checked(images),
        encoder.prepare,
        encoder.encode,
        batch_size=batch_size,
        read_ahead=read_ahead,
        max_wait=max_wait,
        refuse=_refusal(errors),
    )

    def outcomes() -> Generator[Outcome, None, None]:
        try:
            for results in judged(pump, judge):
                yield from map(outcome, results)
        finally:
            pump.close()

    return outcomes()


def astream(
    encoder: ImageEncoder,
    images: Iterable[OneImage] | AsyncIterable[OneImage],
    judge: Callable[[Tensor], Iterable[Verdict]],
    *,
    batch_size: int,
    max_wait: float | None,
    read_ahead: int | None,
    errors: str,
) -> AsyncGenerator[Outcome, None]:
    """`tanl.Guard.astream`, for any encoder and any function that judges embeddings."""
    bridge = _FromAsync(images) if isinstance(images, AsyncIterable) else None
    pump = Pump(
        bridge or _checked(images),  # type: ignore[arg-type]
        encoder.prepare,
        encoder.encode,
        batch_size=batch_size,
        read_ahead=read_ahead,
        max_wait=max_wait,
        in_background=True,  # so that `stop` ends a wait for the source
        refuse=_refusal(errors),
    )

    async def outcomes() -> AsyncGenerator[Outcome, None]:
        loop = asyncio.get_running_loop()
        batches = judged(pump, judge)
        # Not the loop's own threads: they are few, and a slow source would keep one to itself.
        with ThreadPoolExecutor(1, thread_name_prefix="tanl-stream") as thread:
            if bridge is not None:
                bridge.start()
            try:
                while True:
                    results = await asyncio.shield(loop.run_in_executor(thread, next, batches, None))
                    if results is None:
                        break
                    for result in results:
                        yield outcome(result)
            finally:
                pump.stop()
                if bridge is not None:
                    bridge.stop()
                # In the one thread, so after a call that still runs. A loop that ends cancels only the wait for it.
                await asyncio.shield(loop.run_in_executor(thread, pump.close))

    return outcomes()


def _refusal(errors: str) -> Callable[..., Exception] | None:
    if errors not in ("raise", "yield"):
        raise ValueError(f'errors must be "raise" or "yield", not {errors!r}')
    return unreadable if errors == "raise" else None


def _checked(images: Iterable[OneImage]) -> Iterable[OneImage]:
    if isinstance(images, AsyncIterable):
        raise TypeError(f"{images!r} is an asynchronous source: give it to guard.astream")
    if isinstance(images, str | PathLike | Image.Image) or not isinstance(images, Iterable | Tensor):
        raise TypeError(f"give an iterable of images, not {images!r}")
    return images


class _FromAsync:
    """A plain iterator over an asynchronous source, for a thread; one task on the event loop reads it on demand."""

    def __init__(self, source: AsyncIterable[OneImage]) -> None:
        self._source = source
        self._found: SimpleQueue[tuple[Any] | BaseException] = SimpleQueue()

    def start(self) -> None:
        """Begin, on the event loop."""
        self._loop = asyncio.get_running_loop()
        self._wanted = asyncio.Semaphore(0)
        self._task = self._loop.create_task(self._read())

    def stop(self) -> None:
        """Stop reading, on the event loop."""
        self._task.cancel()
        # A task that is cancelled before it ever ran tells nobody.
        self._found.put(StopIteration())

    def __iter__(self) -> _FromAsync:
        return self

    def __next__(self) -> OneImage:
        self._loop.call_soon_threadsafe(self._wanted.release)
        found = self._found.get()
        if isinstance(found, BaseException):
            raise found
        image: OneImage = found[0]
        return image

    async def _read(self) -> None:
        end: BaseException = StopIteration()
        try:
            await self._wanted.acquire()
            async for image in self._source:
                self._found.put((image,))
                await self._wanted.acquire()
        except BaseException as error:
            # A CancelledError too: one of `stop` comes after the StopIteration that the reader has ended with.
            end = error
            if not isinstance(error, Exception):
                raise
        finally:
            self._found.put(end)
