"""OpenOOD's image lists: one image a line, its path and its label."""

from __future__ import annotations

import ast
import json
from os import PathLike
from pathlib import PurePosixPath, PureWindowsPath
from typing import NamedTuple

from tanl.io.paths import local_path

OOD_LABEL = -1


class Entry(NamedTuple):
    """One image of a list: its path relative to the images' folder, and its class, -1 for an OOD image."""

    path: str
    label: int


def read_imglist(file: str | PathLike[str]) -> list[Entry]:
    """Read an image list as OpenOOD's ``ImglistDataset`` does.

    A line is ``relative/path label``, split at its first space: a path holds none. The label is a whole number, or a
    dict (Python or JSON) with a whole number under ``"label"``, and may hold spaces. Any negative label is OOD and
    given as -1. Blank lines are passed over; Windows line ends and a byte-order mark are no matter.

    Args:
        file: the list.

    Raises:
        FileNotFoundError: there is no such list.
        ValueError: a line without a label or with one of another kind, a path that is absolute or leaves the images'
            folder, no line at all, or a file that is not UTF-8; the message has the line's number.
    """
    try:
        text = local_path(file).read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{file} is not a UTF-8 text file: {error}") from error
    entries: list[Entry] = []
    # Not splitlines(): it also splits at characters such as U+2028, which a file name may hold.
    for number, line in enumerate(text.split("\n"), start=1):
        line = line.rstrip("\r")
        if not line.strip():
            continue
        try:
            entries.append(_entry(line))
        except ValueError as error:
            raise ValueError(f"{file}, line {number}: {error}") from error
    if not entries:
        raise ValueError(f"{file} lists no images")
    return entries


def inside(path: str) -> str:
    """The path, or an error: relative, and never above the folder that it is relative to.

    Only the path's text is looked at: data folders often are links to another disk.

    Raises:
        ValueError: an empty path, an absolute one (of POSIX or Windows), one that leaves its folder by ``..``, or one
            with a null character.
    """
    if not path or "\0" in path:
        raise ValueError(f"{path!r} is not a path")
    windows = PureWindowsPath(path)
    if PurePosixPath(path).is_absolute() or windows.drive or windows.root:
        raise ValueError(f"the path {path!r} is absolute; it has to be relative to the images' folder")
    depth = 0
    for part in windows.parts:
        depth += -1 if part == ".." else 1
        if depth < 0:
            raise ValueError(f"the path {path!r} leaves the images' folder")
    return path


def _entry(line: str) -> Entry:
    path, _, text = line.partition(" ")
    inside(path)
    if not text.strip():
        raise ValueError(f"{line!r} has no label; a line is a path, a space and a label")
    return Entry(path, max(_label(text.strip()), OOD_LABEL))


def _label(text: str) -> int:
    value = _value(text)
    if isinstance(value, dict):
        if "label" not in value:
            raise ValueError(f'the label {text!r} has no "label" among its keys')
        value = value["label"]
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError(
            f'the label {text!r} is neither a whole number nor a dict with one under "label"; '
            "a path must not hold a space"
        )
    return value


def _value(text: str) -> object:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        pass
    try:
        return ast.literal_eval(text)
    # Deep nesting exhausts the parser's stack, which it reports in either of the last two ways.
    except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
        return None
