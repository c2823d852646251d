"""Images that arrive in a folder, one by one, each once it is whole."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from .image_files import is_image_file, reason
from .paths import local_path
from .text import shown_path

_SHARE = 0.1  # of the time, at most, goes into looking: a large folder is looked at less often


class Stamp(NamedTuple):
    """What tells a file from the one that was there under its name before."""

    size: int
    changed: int  # nanoseconds, as the file system says


class _Waiting(NamedTuple):
    stamp: Stamp
    since: float


class Arrivals(Iterator[Path]):
    """The images of a folder, and those that come: an iterator that waits for them, until `stop`.

    A file counts as whole when its size and its time of change have stayed the same for ``settle`` seconds. One that
    changes after it was given is given again. What counts as an image, and what is passed over, is as `find_images` has
    it. The folder is looked at anew every ``interval`` seconds, or so seldom that looking takes a tenth of the time:
    the events of a file system are lost on network shares and in full queues, a look loses none.

    Args:
        folder: it may be empty, and may be away for a while.
        recursive: whether to look into the folders in it.
        settle: seconds.
        interval: seconds.
        seen: files that were given in an earlier run, by `key_of`: they are given again only if they changed.
        told: is given a line for a folder that cannot be listed, once until it can be.

    Raises:
        NotADirectoryError: there is no such folder.
        ValueError: an address in place of a path.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        *,
        recursive: bool = True,
        settle: float = 2.0,
        interval: float = 1.0,
        seen: Mapping[str, Stamp] | None = None,
        told: Callable[[str], object] = lambda line: None,
    ) -> None:
        self._folder = local_path(folder)
        if not self._folder.is_dir():
            raise NotADirectoryError(f"there is no folder {shown_path(self._folder)} to watch; make it first")
        self._recursive, self._settle, self._interval = recursive, settle, interval
        self._seen = dict(seen or {})
        self._told = told
        self._unlisted: set[Path] = set()
        self._waiting: dict[Path, _Waiting] = {}
        self._ready: list[Path] = []
        self._stopped = threading.Event()

    def __next__(self) -> Path:
        while not self._ready and not self._stopped.is_set():
            started = time.monotonic()
            self._ready = self.look()[::-1]
            if not self._ready:
                self._stopped.wait(max(self._interval, (time.monotonic() - started) / _SHARE))
        if self._stopped.is_set():
            raise StopIteration
        return self._ready.pop()

    def stop(self) -> None:
        """End the iteration, from any thread."""
        self._stopped.set()

    def stamp(self, path: Path) -> Stamp:
        """What a file was like when it was given last."""
        return self._seen[key_of(path)]

    def look(self) -> list[Path]:
        """Look once: the images that are whole now and were not given before, the oldest first."""
        now, found = time.monotonic(), self._found()
        whole = []
        for path, stamp in found.items():
            waiting = self._waiting.get(path)
            if waiting is None or waiting.stamp != stamp:
                self._waiting[path] = _Waiting(stamp, now)
            elif now - waiting.since >= self._settle:
                self._seen[key_of(path)] = stamp
                if is_image_file(path):
                    whole.append(path)
        self._waiting = {
            path: waiting
            for path, waiting in self._waiting.items()
            if path in found and self._seen.get(key_of(path)) != waiting.stamp
        }
        return sorted(whole, key=lambda path: (found[path].changed, path))

    def _found(self) -> dict[Path, Stamp]:
        """The files that are not known as they are now."""
        found: dict[Path, Stamp] = {}
        unlisted: set[Path] = set()
        folders = [self._folder]
        while folders:
            folder = folders.pop()
            try:
                with os.scandir(folder) as entries:
                    for entry in entries:
                        if entry.name.startswith("."):
                            continue
                        path = Path(entry.path)
                        if entry.is_dir(follow_symlinks=False):
                            folders += [path] * self._recursive
                        elif (stamp := _stamp(entry)) and self._seen.get(key_of(path)) != stamp:
                            found[path] = stamp
            except OSError as error:
                unlisted.add(folder)
                if folder not in self._unlisted:
                    self._told(
                        f"cannot list the folder {shown_path(folder)}: {reason(error)}; it is tried again"
                    )
        self._unlisted = unlisted
        return found


def key_of(path: Path) -> str:
    """How a file is called in ``seen``."""
    return shown_path(path)


def _stamp(entry: os.DirEntry[str]) -> Stamp | None:
    """None of what is no file, or has just gone."""
    try:
        if not entry.is_file():
            return None
        status = entry.stat()
    except OSError:
        return None
    return Stamp(status.st_size, status.st_mtime_ns)
