"""Verdicts on a stream of images, one by one: `Guard.stream`, and `Guard.astream` for asyncio."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterable, Generator, Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property, partial
from os import PathLike
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, TypeAlias

import torch
from PIL import Image
from torch import Tensor

from ..io.images import UnreadableImage
from ..streams.batches import Batches

if TYPE_CHECKING:
    from ..detectors.verdict import Verdict
    from .guard import Guard, OneImage

    Outcome: TypeAlias = Verdict | UnreadableImage


def stream(
    guard: Guard,
    images: Iterable[OneImage],
    *,
    batch_size: int,
    max_wait: float | None,
    read_ahead: int | None,
    errors: str,
) -> Generator[Outcome, None, None]:
    """See `tanl.Guard.stream`."""
    prepare = _Preparation(guard, errors)
    batches = Batches(
        _checked(images), prepare, batch_size=batch_size, max_wait=max_wait, read_ahead=read_ahead
    )

    def outcomes() -> Generator[Outcome, None, None]:
        try:
            for batch in batches:
                yield from _judged(guard, batch)
        finally:
            batches.close()

    return outcomes()


def astream(
    guard: Guard,
    images: Iterable[OneImage] | AsyncIterable[OneImage],
    *,
    batch_size: int,
    max_wait: float | None,
    read_ahead: int | None,
    errors: str,
) -> AsyncGenerator[Outcome, None]:
    """See `tanl.Guard.astream`."""
    prepare = _Preparation(guard, errors)
    bridge = _FromAsync(images) if isinstance(images, AsyncIterable) else None
    batches = Batches(
        bridge or _checked(images),  # type: ignore[arg-type]
        prepare,
        batch_size=batch_size,
        max_wait=max_wait,
        read_ahead=read_ahead,
        in_background=True,  # so that `stop` ends a wait for the source
    )

    async def outcomes() -> AsyncGenerator[Outcome, None]:
        loop = asyncio.get_running_loop()
        judged = map(partial(_judged, guard), batches)
        # Not the loop's own threads: they are few, and a slow source would keep one to itself.
        with ThreadPoolExecutor(1, thread_name_prefix="tanl-stream") as thread:
            if bridge is not None:
                bridge.start()
            try:
                while True:
                    verdicts = await asyncio.shield(loop.run_in_executor(thread, next, judged, None))
                    if verdicts is None:
                        break
                    for verdict in verdicts:
                        yield verdict
            finally:
                batches.stop()
                if bridge is not None:
                    bridge.stop()
                # In the one thread, so after a call that still runs. A loop that ends cancels only the wait for it.
                await asyncio.shield(loop.run_in_executor(thread, batches.close))

    return outcomes()


def _judged(guard: Guard, batch: list[Tensor | UnreadableImage]) -> list[Outcome]:
    """The verdicts on a batch, each unusable image in its place."""
    pixels = [content for content in batch if isinstance(content, Tensor)]
    device = guard.backbone.device
    # Those of files and PIL images; pixels that were given are there already, or were refused.
    if len({each.device for each in pixels}) > 1:
        pixels = [each.to(device) for each in pixels]
    verdicts = iter(guard.detect_embeddings(guard.encode(torch.stack(pixels).to(device))) if pixels else ())
    return [next(verdicts) if isinstance(content, Tensor) else content for content in batch]


def _checked(images: Iterable[OneImage]) -> Iterable[OneImage]:
    if isinstance(images, AsyncIterable):
        raise TypeError(f"{images!r} is an asynchronous source: give it to guard.astream")
    if isinstance(images, str | PathLike | Image.Image) or not isinstance(images, Iterable | Tensor):
        raise TypeError(f"give an iterable of images, not {images!r}")
    return images


class _Preparation:
    """An image of the stream to pixels ``[3, H, W]``, or to what is wrong with it."""

    def __init__(self, guard: Guard, errors: str) -> None:
        if errors not in ("raise", "yield"):
            raise ValueError(f'errors must be "raise" or "yield", not {errors!r}')
        self._guard = guard
        self._raises = errors == "raise"

    def __call__(self, number: int, image: Any) -> Tensor | UnreadableImage:
        try:
            return self._pixels(image) if isinstance(image, Tensor) else self._guard._pixels(image)
        except UnreadableImage as error:
            unreadable = error
        except (ValueError, OSError) as error:
            name = getattr(image, "filename", None) or f"number {number} of the stream"
            unreadable = UnreadableImage(name, str(error))
            unreadable.__cause__ = error
        if self._raises:
            raise unreadable
        return unreadable

    def _pixels(self, pixels: Tensor) -> Tensor:
        """Pixels that are ready. What the whole batch would be refused for is found here, image by image."""
        if not pixels.is_floating_point():
            raise TypeError(f"pixels must be a floating torch.Tensor, not {pixels.dtype}")
        if pixels.shape != self._shape:
            raise ValueError(f"pixels must have shape {list(self._shape)}, not {list(pixels.shape)}")
        if pixels.device != (device := self._guard.backbone.device):
            raise ValueError(
                f"its pixels are on {pixels.device}, but the backbone is on {device}; move one with .to(...)"
            )
        if not bool(pixels.isfinite().all()):
            raise ValueError("its pixels have a NaN or infinite value")
        return pixels

    @cached_property
    def _shape(self) -> torch.Size:
        backbone = self._guard.backbone
        return backbone.preprocess(Image.new("RGB", (backbone.image_size,) * 2)).shape


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
