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
from types import ModuleType
from typing import IO

fcntl: ModuleType | None
try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

PART = ".part"
"""How the name of a file that is being written ends; it begins with the name that the file will have."""

_LEFTOVER = re.compile(r"(.+)\.[0-9a-f]{12}" + re.escape(PART))
_NEW = 60.0  # seconds: a file of that age is left alone, for its writer may be about to lock it
_OLD = 24 * 3600.0  # seconds: longer than any write takes, where locks cannot tell


def write_whole(path: Path, content: bytes | Callable[[Path], object]) -> None:
    """Write a file beside its place and move it there: it is on the disk when this returns.

    Until the move an older file of that name stays as it is; an error or an interruption leaves that and nothing
    beside it. A process that is killed, or a crash, may leave a file ``NAME.*.part``, which the next write of the same
    file takes away, and so does `clear_leftovers`. The file may be read by whom any new file of this process may be.
    Several threads and processes may write the same file: the last one stays.

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
            lock(file)
            if isinstance(content, bytes):
                file.write(content)
                file.flush()
            else:
                mode = part.stat().st_mode
                content(part)
                part.chmod(
                    stat.S_IMODE(mode)
                )  # the function may have put a file of other rights into its place
            with part.open("r+b") as written:  # Windows syncs only what is open for writing
                os.fsync(written.fileno())
            if os.name == "nt":
                file.close()  # Windows moves no file that is open; elsewhere it stays locked until it is moved
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
    clear_leftovers(path.parent, path.name)


def clear_leftovers(folder: Path, name: str | None = None) -> None:
    """Take away what writes that were killed left in a folder: files ``NAME.*.part`` that no process writes any more.

    A writer keeps its file locked, so that a leftover goes a minute after it was made; where files cannot be locked, a
    day after. Others' files stay, whatever they are called, and so does one that cannot be deleted.

    Args:
        folder: where to look; not in the folders inside it.
        name: of the file whose leftovers go; None for those of all files.
    """
    for path in folder.glob(f"*{PART}"):
        found = _LEFTOVER.fullmatch(path.name)
        if found is not None and name in (None, found[1]):
            with contextlib.suppress(OSError):  # another process may have taken it away
                if _is_given_up(path):
                    path.unlink()


def lock(file: IO[bytes]) -> bool:
    """Mark a file as one that is being written, until it is closed or the process ends.

    Returns:
        Whether nobody else writes it, as far as the system can tell.
    """
    if fcntl is not None:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError:  # some network's file systems have no locks
            pass
    return True


def is_locked(path: Path) -> bool | None:
    """Whether a process has the file under `lock`; None where the system cannot tell.

    Raises:
        OSError: the file cannot be opened.
    """
    if fcntl is None:
        return None
    with path.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        except OSError:
            return None
    return False


def _is_given_up(path: Path) -> bool:
    """Whether no process writes the file any more."""
    age = time.time() - path.lstat().st_mtime
    if age < _NEW or path.is_symlink():
        return False
    locked = is_locked(path)
    return age > _OLD if locked is None else not locked
