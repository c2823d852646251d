"""The file of a run: one SQLite table of entries, each with its SHA-256, that is locked for each transaction."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

FILE = "run.sqlite"
FORMAT = 3
LOCK_SECONDS = 60.0  # how long another process's transaction is waited for

TABLE = """
CREATE TABLE entries (
    kind TEXT NOT NULL, name TEXT NOT NULL, content NOT NULL, sha256 BLOB NOT NULL, PRIMARY KEY (kind, name)
)
"""


@contextmanager
def connection(folder: Path, *, make: bool = False) -> Iterator[sqlite3.Connection]:
    """A connection to a run's file, closed at the end.

    Raises:
        OSError: the file cannot be read or written.
        ValueError: it is damaged.
    """
    file = folder / FILE
    address = f"{file.absolute().as_uri()}?mode={'rwc' if make else 'rw'}"
    try:
        # Without isolation_level, transactions begin and end where this module says so.
        with closing(sqlite3.connect(address, uri=True, timeout=LOCK_SECONDS, isolation_level=None)) as found:
            yield found
    except sqlite3.DatabaseError as error:
        # A full disk, a lock or a file that is not to be written; SQLite's messages name no file.
        if isinstance(error, sqlite3.OperationalError) and "decode" not in str(error):
            full = "full" in str(error)
            reason = os.strerror(errno.ENOSPC) if full else str(error)
            raise OSError(errno.ENOSPC if full else errno.EIO, reason, str(file)) from error
        raise ValueError(f"{file} is damaged ({error}); delete it, or give another folder") from error


@contextmanager
def transaction(folder: Path, *, make: bool = False) -> Iterator[sqlite3.Connection]:
    """A connection that holds the lock: all that is written through it is there together, or none of it."""
    with connection(folder, make=make) as database:
        database.execute("BEGIN IMMEDIATE")
        try:
            yield database
            database.execute("COMMIT")
        except BaseException:
            # After some errors SQLite has rolled back by itself.
            if database.in_transaction:
                database.execute("ROLLBACK")
            raise


def put(database: sqlite3.Connection, kind: str, name: str, content: str | bytes) -> None:
    """Keep an entry, in place of an older one of its kind and name."""
    row = (kind, name, content, _digest(kind, name, content))
    database.execute("INSERT OR REPLACE INTO entries VALUES (?, ?, ?, ?)", row)


def _digest(kind: str, name: str, content: str | bytes) -> bytes:
    data = content.encode() if isinstance(content, str) else content
    return hashlib.sha256(f"{kind}\n{name}\n".encode() + data).digest()


def is_whole(kind: str, name: str, content: str | bytes, digest: bytes) -> bool:
    """Whether an entry is as it was put there."""
    return isinstance(content, str | bytes) and _digest(kind, name, content) == digest


def read_run(database: sqlite3.Connection, folder: Path) -> dict[str, Any] | None:
    """What was run; None where a file is there, but nothing in it yet: whoever made it was killed."""
    file = folder / FILE
    tables = [name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
    if not tables:
        return None
    if tables != ["entries"]:
        raise ValueError(f"{file} is no run, but a database of something else; give another folder")
    row = database.execute("SELECT name, content, sha256 FROM entries WHERE kind = 'run'").fetchone()
    try:
        if row is None or not is_whole("run", *row):
            raise ValueError("its SHA-256 is another")
        run = json.loads(row[1])
    except (ValueError, RecursionError) as error:
        raise ValueError(
            f"{file} is damaged (what was run: {error}); delete it, or give another folder"
        ) from error
    if not isinstance(run, dict) or run.get("format") != FORMAT:
        raise ValueError(f"{file} is not a run of format {FORMAT}; give another folder")
    return run


def as_json(value: Any) -> str:
    """A value as an entry's content, in ASCII: paths that are no UTF-8 hold what SQLite cannot keep."""
    return json.dumps(value)
