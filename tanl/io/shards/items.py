"""What units of images give: one image after the other, or why it cannot be had."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, Protocol, runtime_checkable

Kind = Literal["images", "parquet", "webdataset", "huggingface"]
KINDS: tuple[Kind, ...] = ("images", "parquet", "webdataset", "huggingface")


@dataclass(frozen=True)
class Broken:
    """What stands in the place of an image that cannot be had: why."""

    reason: str


@dataclass(frozen=True)
class Remote:
    """An image file behind an address, which is read where the image is prepared."""

    address: str


@dataclass(frozen=True)
class Item:
    """One image of a unit.

    Attributes:
        name: what to call it in the results.
        content: where it is on this machine, or behind an address; the bytes of its file; a Pillow image; or why it is
            not there.
    """

    name: str
    content: str | Remote | bytes | Any


@runtime_checkable
class Unit(Protocol):
    """What one worker reads in one go."""

    @property
    def rows(self) -> int | None:
        """How many images it holds; None where nobody knows before it is read."""

    @property
    def identity(self) -> str:
        """What tells it from others, for a run that goes on."""

    def items(self, skip: int = 0) -> Iterator[Item]:
        """Its images in their order, without the first ``skip``.

        A part that cannot be read is an item with the reason; nothing is raised for what is damaged.
        """
