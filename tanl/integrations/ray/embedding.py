"""What a worker does: read a unit's images, decode them in threads, embed them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch

from ...backbones import load_backbone
from ...io.image_files import reason_in_words
from ...io.images import UnreadableImage, image_from_bytes
from ...io.shards.files import opened
from ...io.shards.items import Broken, Item, Remote, Unit
from ...streams.batches import Ready, Unusable
from ...streams.images import ImageEncoder
from ...streams.pump import Batch, Pump
from .attempts import Attempt

if TYPE_CHECKING:
    from ...backbones import Backbone

BackboneMaker = Callable[[str], "Backbone"]
"""Makes the model, given the device: "cpu" or "cuda"."""


@dataclass(frozen=True)
class NamedBackbone:
    """Loads a model by its name, in a precision."""

    name: str
    precision: str = "fp32"

    def __call__(self, device: str) -> Backbone:
        return load_backbone(self.name, device=device, precision=self.precision)  # type: ignore[arg-type]


@dataclass(frozen=True)
class Work:
    """What all workers of a run are given.

    Attributes:
        backbone: makes the model.
        fingerprint: of the model that embedded the labels.
        encode_batch: images that are encoded at once.
        num_cpus: cores of a worker.
        on_gpu: whether it has a GPU.
    """

    backbone: BackboneMaker
    fingerprint: str
    encode_batch: int
    num_cpus: float
    on_gpu: bool


@dataclass(frozen=True)
class Embedded:
    """A batch of a unit's images: names or what is wrong, and embeddings of the others."""

    row: int
    batch: Batch


class UnitEmbedder:
    """Embeds units of images, one after the other."""

    def __init__(self, work: Work) -> None:
        self._work = work
        torch.set_num_threads(max(1, int(work.num_cpus)))
        backbone = work.backbone("cuda" if work.on_gpu else "cpu")
        if backbone.fingerprint != work.fingerprint:
            raise ValueError(
                f"the workers' model {backbone.name} has other weights or another preprocessing than the one that "
                "embedded the labels: give both the same, precision included"
            )
        self._encoder = ImageEncoder(backbone)

    def batches(
        self, unit: Unit, skip: int, batch_size: int, attempt: Attempt, at: Callable[[int], object]
    ) -> Iterator[Embedded]:
        """The unit's images from ``skip`` on, batch by batch.

        Args:
            unit: what to read.
            skip: how many of its images are done already.
            batch_size: usable images a batch.
            attempt: how to go about it.
            at: is told the row of an image before it is touched, if the attempt is watched.
        """
        row = skip

        def items() -> Iterator[Item]:
            for place, item in enumerate(unit.items(skip), start=skip):
                if attempt.watched:
                    at(place)
                if place in attempt.culprits:
                    wrong = "workers died on it again and again: it may need more memory than they have"
                    item = Item(item.name, Broken(wrong))
                yield item

        pump = Pump(
            items(),
            self.prepared,
            self._encoder.encode,
            batch_size=1 if attempt.watched else batch_size,
            read_ahead=0 if attempt.watched else None,
            threads=0 if attempt.watched else max(1, math.ceil(self._work.num_cpus)),
        )
        try:
            for batch in pump:
                yield Embedded(row, batch)
                row += len(batch.images)
        finally:
            pump.close()

    def prepared(self, number: int, item: Item) -> Ready | Unusable:
        """An image to pixels, or to what is wrong with it."""
        content: Any = item.content
        if isinstance(content, Broken):
            return Unusable(item.name, content.reason)
        try:
            if isinstance(content, Remote):
                content = _fetched(content.address)
            if isinstance(content, bytes):
                content = image_from_bytes(content, item.name)
        except UnreadableImage as error:
            return Unusable(item.name, error.reason)
        except (OSError, ImportError, ValueError) as error:
            return Unusable(item.name, reason_in_words(error))
        return replace(self._encoder.prepare(number, content), name=item.name)


def _fetched(address: str) -> bytes:
    with opened(address) as file:
        return file.read()
