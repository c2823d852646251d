"""Small pictures that lie in a page itself."""

from __future__ import annotations

import base64
import io
from pathlib import Path

from .images import UnreadableImage, read_image


def thumbnail(path: Path, *, size: int, quality: int) -> str | None:
    """An image as the ``data:`` address of a WebP picture; None where it cannot be read.

    Args:
        path: the image's file.
        size: of the longer side, in pixels; smaller images stay as they are.
        quality: WebP's, from 0 to 100.
    """
    try:
        image = read_image(path)
    except UnreadableImage:
        return None
    image.thumbnail((size, size))
    file = io.BytesIO()
    image.save(file, "WEBP", quality=quality, method=4)
    return "data:image/webp;base64," + base64.b64encode(file.getvalue()).decode("ascii")
