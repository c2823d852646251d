"""The pictures of a report, as many as there is room for."""

from __future__ import annotations

from pathlib import Path

from tanl.io.thumbnails import thumbnail

_QUALITY = 60


class Thumbnails:
    """Makes thumbnails as data addresses until together they would be larger than ``budget`` bytes.

    Args:
        size: of the longer side, in pixels.
        budget: what all of them together may take in the page.
    """

    def __init__(self, *, size: int, budget: int) -> None:
        self.size = size
        self.left = budget
        self.refused = 0
        self._made: dict[Path, str | None] = {}

    def get(self, path: Path) -> str | None:
        """The picture's ``data:`` address; None where the file cannot be read, or the budget is used up."""
        if path not in self._made:
            self._made[path] = thumbnail(path, size=self.size, quality=_QUALITY)
        address = self._made[path]
        if address is None:
            return None
        if len(address) > self.left:
            self.refused += 1
            return None
        self.left -= len(address)
        return address
