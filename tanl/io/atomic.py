"""Files that are written whole or not at all."""

from __future__ import annotations

import contextlib
import os
import re
import stat
import time
import uuid
from collections.abc import Callable
from pathlib import Path

PART = ".part"
"""How the name of a file that is being written ends; it begins with the name that the file will have."""

_LEFTOVER = re.compile(r".+\.[0-9a-f]{12}" + re.escape(PART))
_OLD = 24 * 3600.0  # seconds: longer than any write takes


def write_whole(path: Path, content: bytes | Callable[[Path], object]) -> None:
    """Write a file beside its place and move it there: it is on the disk when this returns.

    Until the move an older file of that name stays as it is; an error or an interruption leaves that and nothing
    beside it. A process that is killed, or a crash, may leave a file ``NAME.*.part``, which `clear_leftovers` takes
    away. The file may be read by whom any new file of this process may be. Several threads and processes may write
    the same file: the last one stays.

    Args:
        path: the file, in a folder that is there.
        content: what to write, or a function that writes it to the path that it is given: an empty file.

    Raises:
        OSError: it cannot be written; the message names the file.
    """
    # Beside the target, because a move is atomic only inside one file system.
    part = path.with_name(f"{path.name}.{uuid.uuid4().hex[:12]}{PART}")
    try:
        with part.open("xb") as file:  # not tempfile, which makes files for their owner alone
            if isinstance(content, bytes):
                file.write(content)
        if not isinstance(content, bytes):
            mode = part.stat().st_mode
            content(part)
            part.chmod(stat.S_IMODE(mode))  # the function may have put a file of other rights into its place
        with part.open("r+b") as written:  # Windows syncs only what is open for writing
            os.fsync(written.fileno())
        part.replace(path)
    except BaseException as error:
        with contextlib.suppress(OSError):  # the first error is the one to tell
            part.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno is not None:
            # A full disk's error names no file, and others name the one beside the target.
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise
    if hasattr(os, "O_DIRECTORY"):  # elsewhere a folder cannot be opened
        descriptor = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def clear_leftovers(folder: Path) -> None:
    """Take away what writes that were killed a day ago or earlier left in a folder: files ``NAME.*.part``.

    Others' files stay, whatever they are called, and so does one that cannot be deleted.
    """
    oldest = time.time() - _OLD
    for path in folder.glob(f"*{PART}"):
        if _LEFTOVER.fullmatch(path.name) is not None:
            with contextlib.suppress(OSError):  # another process may have taken it away
                if path.lstat().st_mtime < oldest:
                    path.unlink()
