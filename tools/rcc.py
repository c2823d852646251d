"""Qt resource archives (``.rcc``), read: files by their paths.

The format is that of Qt's ``qresource.cpp``, versions 1 to 3: a header, a tree of nodes in breadth-first order, names
in UTF-16, and the files' contents, plain or compressed with zlib or Zstandard. All numbers are big-endian.
"""

from __future__ import annotations

import struct
import zlib

_MAGIC = b"qres"
_COMPRESSED, _DIRECTORY, _ZSTANDARD = 0x01, 0x02, 0x04


def read_archive(content: bytes) -> dict[str, bytes]:
    """The files of an archive, by their paths in it, in the archive's order.

    A path has forward slashes and none at its start. Of a file in several languages the last one is kept.

    Raises:
        ValueError: it is no such archive, of a version that is not known, or damaged.
        ImportError: it holds files compressed with Zstandard, and the package ``zstandard`` is not there.
    """
    if content[:4] != _MAGIC:
        raise ValueError(f"no Qt resource archive: it starts with {content[:4]!r}, not {_MAGIC!r}")
    try:
        return _read(content)
    except (struct.error, zlib.error, UnicodeDecodeError) as error:
        raise ValueError(f"a damaged Qt resource archive: {error}") from error


def _read(content: bytes) -> dict[str, bytes]:
    version, tree, data, names = struct.unpack_from(">4I", content, 4)
    if version not in (1, 2, 3):
        raise ValueError(f"a Qt resource archive of version {version}; versions 1 to 3 can be read")
    size = 14 if version == 1 else 22  # of a node; from version 2 on it ends in the time of change
    most = len(content) // size
    files: dict[str, bytes] = {}
    waiting = [(0, "")]
    for _ in range(most):
        if not waiting:
            return files
        number, path = waiting.pop()
        node = tree + number * size
        _, flags = struct.unpack_from(">IH", content, node)
        if flags & _DIRECTORY:
            count, first = struct.unpack_from(">II", content, node + 6)
            children = []
            for child in range(first, first + count):
                (offset,) = struct.unpack_from(">I", content, tree + child * size)
                children.append((child, f"{path}/{_name(content, names + offset)}".lstrip("/")))
            waiting += reversed(children)
        else:
            (offset,) = struct.unpack_from(">I", content, node + 10)
            files[path] = _file(content, data + offset, flags)
    raise ValueError("a damaged Qt resource archive: a folder holds itself")


def _name(content: bytes, offset: int) -> str:
    (length,) = struct.unpack_from(">H", content, offset)
    return _slice(content, offset + 6, 2 * length).decode("utf-16-be")


def _file(content: bytes, offset: int, flags: int) -> bytes:
    (length,) = struct.unpack_from(">I", content, offset)
    stored = _slice(content, offset + 4, length)
    if flags & _ZSTANDARD:
        try:
            import zstandard
        except ImportError:
            raise ImportError(
                "this archive's files are compressed with Zstandard; pip install zstandard"
            ) from None
        try:
            return bytes(zstandard.ZstdDecompressor().decompress(stored))
        except zstandard.ZstdError as error:
            raise ValueError(f"a damaged Qt resource archive: {error}") from error
    # Before the compressed bytes stands how many there are without compression.
    return zlib.decompress(stored[4:]) if flags & _COMPRESSED else stored


def _slice(content: bytes, start: int, length: int) -> bytes:
    if start + length > len(content):
        raise ValueError(f"a damaged Qt resource archive: it ends at {len(content)}, not {start + length}")
    return content[start : start + length]
