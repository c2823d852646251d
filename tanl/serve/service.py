"""What a service does with its one guard, for callers side by side: plain values in and out, no HTTP."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from os import PathLike, cpu_count
from typing import TYPE_CHECKING, Any, NamedTuple

from .. import __version__
from ..io.images import MAX_PIXELS, UnreadableImage, image_from_bytes
from ..io.keeping import Keeper
from ..io.text import first_of, one_line, valid_text
from ..streams.batches import Ready, Unusable
from ..streams.images import ImageEncoder
from ..streams.pump import Batch, Pump, judged

if TYPE_CHECKING:
    from ..guard.guard import Guard

_SHOWN = 3
_LONGEST_NAME = 200  # characters of a file's name that are repeated
_MOST_LABELS = 10_000  # each is embedded, so that many more would keep a service from its work


class Upload(NamedTuple):
    """An image as it was sent: what its sender calls it, and the bytes of its file."""

    name: str
    content: bytes


class Service:
    """One guard, and what callers may ask of it; any number of threads may call it.

    Images are read and embedded side by side, as many requests at a time as there are cores. What comes then, judging,
    calibrating, and editing labels, is done one after the other, each whole. Whatever is wrong with a request is
    raised before anything changes. All answers are made of dicts, lists, text, numbers and None, as JSON has them.

    Args:
        guard: nobody else should change it meanwhile.
        folder: where the guard is kept, every ``save_every`` seconds and by `close`; None keeps it nowhere.
        save_every: seconds.
        max_images: the most images in a request.
        max_pixels: the most pixels of an image.
        told: is given a line about what goes wrong beside requests: a save that fails.
    """

    def __init__(
        self,
        guard: Guard,
        folder: str | PathLike[str] | None = None,
        *,
        save_every: float = 60.0,
        max_images: int = 256,
        max_pixels: int = MAX_PIXELS,
        told: Callable[[str], object] = lambda line: None,
    ) -> None:
        self.guard = guard
        self.max_images, self.max_pixels = max_images, max_pixels
        self._folder = folder
        self._told = told
        self._one_by_one = threading.Lock()
        self._reading = threading.BoundedSemaphore(cpu_count() or 1)
        self._saved: float | None = None
        self._save_error: str | None = None
        self._keeper = Keeper(self._save, save_every, self._tell) if folder is not None else None

    def judge(
        self, images: Sequence[Upload], *, source: str | None = None, learn: bool = True
    ) -> dict[str, Any]:
        """Judge images as one batch of the stream, and learn from it unless ``learn`` is False.

        An image that cannot be used has its ``error`` in the place of a verdict; the others are judged without it.

        Args:
            images: at least one, in any order that means something to the caller.
            source: as `tanl.Guard.judge` takes it.
            learn: False gives the same verdicts, and leaves the stream as it is.

        Returns:
            ``threshold``, ``results`` with an entry an image, and ``warnings`` about the stream.

        Raises:
            ValueError, TypeError: no images, too many, none that can be used; an unusable source.
        """
        batch = self._embedded(images)
        with self._one_by_one:
            (results,) = judged([batch], partial(self.guard.detect_embeddings, source=source, learn=learn))
            threshold = self.guard.detector.threshold
        if learn:
            self._changed()
        answers, warnings = [], ()
        for upload, result in zip(images, results, strict=True):
            name = shown_name(upload.name)
            if result.verdict is None:
                answers.append({"name": name, "error": result.error})
                continue
            said = result.verdict.to_dict()
            warnings = said.pop("warnings")
            answers.append({"name": name, **said, "error": None})
        return {"threshold": threshold, "results": answers, "warnings": list(warnings)}

    def calibrate(self, images: Sequence[Upload], tpr: float = 0.95) -> dict[str, Any]:
        """Set the threshold from images that belong to the classes; see `tanl.Guard.calibrate`.

        Returns:
            ``threshold``, ``tpr``, ``count`` of the images that it is from, and ``unreadable``, which it is not from.

        Raises:
            ValueError, TypeError: as `judge`; too few images for this share.
        """
        batch = self._embedded(images)
        assert batch.z is not None, "a batch without any usable image was refused"
        with self._one_by_one:
            threshold = self.guard.calibrate_embeddings(batch.z, tpr)
        self._changed()
        unreadable = [
            {"name": shown_name(upload.name), "error": image.reason}
            for upload, image in zip(images, batch.images, strict=True)
            if isinstance(image, Unusable)
        ]
        return {"threshold": threshold, "tpr": tpr, "count": len(batch.z), "unreadable": unreadable}

    def uncalibrate(self) -> dict[str, Any]:
        """Forget the threshold that was calibrated; gives the one that the method has by itself, or None."""
        with self._one_by_one:
            self.guard.uncalibrate()
            threshold = self.guard.detector.threshold
        self._changed()
        return {"threshold": threshold}

    def labels(self) -> dict[str, Any]:
        """The ID labels, in their order, and what they are told from."""
        guard = self.guard
        bank, corpus = guard.bank, guard.corpus
        return {
            "labels": list(bank.id_names),
            "negatives": bank.num_negatives,
            "corpus": None if corpus is None else corpus.name,
        }

    def set_labels(self, names: Sequence[str]) -> dict[str, Any]:
        """Make these the ID labels; gives `labels`, and a ``note`` where a threshold was calibrated with others.

        Raises:
            ValueError, TypeError: as `tanl.Guard.set_labels`; too many. All labels stay then.
        """
        return self._edit(lambda: names)

    def edit_labels(self, add: Sequence[str] = (), remove: Sequence[str] = ()) -> dict[str, Any]:
        """Add and remove ID labels in one edit; see `set_labels`.

        Raises:
            ValueError, TypeError: as `set_labels`; a label to remove that is not there, or one to add that is.
        """

        def edited() -> list[str]:
            own = self.guard.bank.id_names
            if unknown := [name for name in remove if name not in own]:
                raise ValueError(
                    f"{unknown[0]!r} is not among the labels: {first_of(own, _SHOWN)}; leave it out"
                )
            if present := [name for name in add if name in own]:
                raise ValueError(f"{present[0]!r} is among the labels already; leave it out")
            if not (add or remove):
                raise ValueError("nothing to add and nothing to remove: name labels")
            return [*(name for name in own if name not in remove), *add]

        return self._edit(edited)

    def health(self) -> dict[str, Any]:
        """How the service, its stream and its threshold are; ``status`` is "ok", or "warning" with ``warnings``."""
        with self._one_by_one:
            health, detector = self.guard.health(), self.guard.detector
            threshold, tpr = detector.threshold, detector.tpr
            labels = self.labels()
        stream = asdict(health)
        warnings = list(stream.pop("warnings"))
        if self._save_error is not None:
            warnings.append(f"save: {self._save_error}")
        return {
            "status": "warning" if warnings else "ok",
            "warnings": warnings,
            "version": __version__,
            "backbone": self.guard.backbone.name,
            "method": stream.pop("method"),
            "settings": stream.pop("settings"),
            "labels": len(labels["labels"]),
            "negatives": labels["negatives"],
            "threshold": threshold,
            "calibrated_tpr": tpr,
            "stream": _finite(stream),
            "kept": self._folder is not None,
            "saved_seconds_ago": None if self._saved is None else round(time.monotonic() - self._saved, 1),
        }

    def close(self) -> None:
        """Keep what has changed since it was kept last, and end.

        Raises:
            OSError: it cannot be kept.
        """
        if self._keeper is not None and self._keeper.stop():
            self._save()
            self._keeper = None

    def _embedded(self, images: Sequence[Upload]) -> Batch:
        if not images:
            raise ValueError("no images: send one or more")
        if len(images) > self.max_images:
            raise ValueError(
                f"{len(images)} images are more than the {self.max_images} of one request; send them in several"
            )
        encoder = _OfUploads(self.guard.backbone, self.max_pixels)
        with self._reading:
            # One batch: as large as the request, read and prepared in this thread.
            pump = Pump(
                images, encoder.prepare, encoder.encode, batch_size=len(images), read_ahead=0, threads=0
            )
            try:
                batch = next(pump)
            finally:
                pump.close()
        if batch.z is None:
            reasons = [
                f"{image.name}: {image.reason}" for image in batch.images if isinstance(image, Unusable)
            ]
            raise ValueError(f"no image can be used: {first_of(reasons, _SHOWN)}")
        return batch

    def _edit(self, names: Callable[[], Sequence[str]]) -> dict[str, Any]:
        with self._one_by_one:
            wanted = names()
            if len(wanted) > _MOST_LABELS:
                raise ValueError(
                    f"{len(wanted)} labels are more than {_MOST_LABELS}; make another guard of them"
                )
            calibrated = self.guard.detector.tpr is not None
            self.guard.set_labels(wanted)
            answer = self.labels()
        self._changed()
        if calibrated:
            answer["note"] = "the threshold was calibrated with other labels: calibrate again"
        return answer

    def _changed(self) -> None:
        if self._keeper is not None:
            self._keeper.changed()

    def _save(self) -> None:
        assert self._folder is not None
        try:
            self.guard.save(self._folder)
        except OSError as error:
            self._save_error = error.strerror or str(error)
            raise
        self._saved, self._save_error = time.monotonic(), None

    def _tell(self, error: Exception) -> None:
        self._told(f"the guard cannot be kept now: {error}; it is tried again")


class _OfUploads(ImageEncoder):
    """Prepares images that were sent; what they are called is never opened."""

    def __init__(self, backbone: Any, max_pixels: int) -> None:
        super().__init__(backbone)
        self._max_pixels = max_pixels

    def prepare(self, number: int, image: Upload) -> Ready | Unusable:
        name = shown_name(image.name)
        try:
            rgb = image_from_bytes(image.content, name, max_pixels=self._max_pixels)
        except UnreadableImage as error:
            return Unusable(name, error.reason, error)
        prepared = super().prepare(number, rgb)
        if isinstance(prepared, Unusable):
            return Unusable(name, prepared.reason, prepared.cause)
        return Ready(name, prepared.content)


def shown_name(name: str) -> str:
    """What a sender calls an image, in a line of bounded length."""
    shown = one_line(valid_text(name)) or "an image without a name"
    return shown if len(shown) <= _LONGEST_NAME else shown[: _LONGEST_NAME - 3] + "..."


def _finite(value: Any) -> Any:
    """With None in the place of what JSON has no number for."""
    if isinstance(value, dict):
        return {name: _finite(each) for name, each in value.items()}
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return list(value) if isinstance(value, tuple) else value
