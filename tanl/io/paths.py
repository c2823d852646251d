"""Paths as people write them: ``~`` is their home, and an address is no path."""

from __future__ import annotations

import os
import re
from pathlib import Path

# Path("s3://bucket/a") keeps one slash of the two. A drive of Windows is a single letter.
_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:[/\\]")


def is_address(text: object) -> bool:
    """Whether it is text such as ``s3://bucket/a`` or ``file:///a``, which is no path of this machine."""
    return isinstance(text, str) and _ADDRESS.match(text) is not None


def local_path(text: str | os.PathLike[str]) -> Path:
    """A path of this machine's file systems, with ``~`` and ``~name`` as the home folders that they stand for.

    What is no user's name after ``~`` stays as it is, as in a shell. Nothing need be there yet.

    Args:
        text: a path, of a file or folder to read or to write.

    Raises:
        TypeError: neither a string nor a path.
        ValueError: an address such as ``s3://bucket/a`` or ``file:///a``, nothing, a NUL character, or ``~`` where
            this user has no home folder.
    """
    path = os.fspath(text) if isinstance(text, str | os.PathLike) else None
    if not isinstance(path, str):
        raise TypeError(f"a path must be a string or a pathlib.Path, not {text!r:.80}")
    if not path:
        raise ValueError("the path is empty; give . for the current folder")
    if "\0" in path:
        raise ValueError(f"the path {path!r} has a NUL character in it, which no path may have")
    if is_address(path):
        raise ValueError(
            f"{path} is an address, and only paths of this machine can be read and written: copy or mount it, and "
            f"give the path that it has here (a folder of that name is ./{path})"
        )
    expanded = os.path.expanduser(path)  # noqa: PTH111, Path's refuses a file that is called ~x
    if expanded.startswith("~") and re.match(r"~(?:[/\\]|$)", path):
        raise ValueError(f"{path}: this user has no home folder; give the whole path")
    return Path(expanded)
