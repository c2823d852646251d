"""Small pictures that lie in the page itself."""

from __future__ import annotations

import base64
import io
from pathlib import Path

from tanl.io.images import UnreadableImage, read_image

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
            self._made[path] = self._make(path)
        address = self._made[path]
        if address is None:
            return None
        if len(address) > self.left:
            self.refused += 1
            return None
        self.left -= len(address)
        return address

    def _make(self, path: Path) -> str | None:
        try:
            image = read_image(path)
        except UnreadableImage:
            return None
        image.thumbnail((self.size, self.size))
        file = io.BytesIO()
        image.save(file, "WEBP", quality=_QUALITY, method=4)
        return "data:image/webp;base64," + base64.b64encode(file.getvalue()).decode("ascii")
