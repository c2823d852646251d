"""A service of colours in a thread: a real server on a free port, for tests with a real client."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from colour_backbone import COLOURS, ColourBackbone
from PIL import Image

import tanl

LABELS = ["red", "green"]
CORPUS = ["blue", "yellow", "purple", "white", *(f"word {number}" for number in range(60))]


def colour_guard(cache: Path, method: Any = "tanl") -> tanl.Guard:
    return tanl.Guard(ColourBackbone(), LABELS, corpus=CORPUS, method=method, cache_dir=cache)


def picture(colour: str, seed: int = 0, size: int = 16, kind: str = "PNG") -> bytes:
    """A file's bytes: an image of one colour, with a little texture."""
    rng = np.random.default_rng(seed)
    pixels = np.array(COLOURS[colour]) + rng.normal(0, 8, (size, size, 3)) + rng.normal(0, 6, 3)
    buffer = BytesIO()
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(buffer, kind)
    return buffer.getvalue()


def parts(*colours: str, seed: int = 0) -> list[tuple[str, tuple[str, bytes]]]:
    """Images as a client sends them."""
    return [
        ("images", (f"{colour}-{number}.png", picture(colour, seed + number)))
        for number, colour in enumerate(colours)
    ]


@contextmanager
def served(app: Any) -> Iterator[str]:
    """Where an application answers, while this lasts."""
    import uvicorn

    from tanl.serve.server import bound, url_of

    listening = bound("127.0.0.1", 0)
    server = uvicorn.Server(uvicorn.Config(app, log_level="error", lifespan="on"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    try:
        deadline = time.monotonic() + 30
        while not server.started:
            assert thread.is_alive()
            assert time.monotonic() < deadline
            time.sleep(0.01)
        yield url_of(listening)
    finally:
        server.should_exit = True
        thread.join(30)
        listening.close()
        assert not thread.is_alive()
