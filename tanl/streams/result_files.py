"""Results in files: CSV, JSON lines or Parquet, safe against interruptions, kills and full disks.

While a run goes on its rows are kept in a journal beside the target, ``NAME.*.partial``, each batch with one write and
each line with a checksum.
When the run ends, in whatever way, the target is made of the journal and put into its place as a whole. A run that is
killed leaves the journal, and `recover` makes the target of it.
"""

from __future__ import annotations

import csv
import glob
import json
import os
import uuid
import warnings
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial, reduce
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, NamedTuple

from ..io.atomic import is_locked, lock, write_whole
from ..io.paths import local_path
from ..io.text import shown_path
from .result_rows import COLUMNS, Record, pyarrow, record_of, row_of, write_parquet

if TYPE_CHECKING:
    from .results import Result

PARTIAL = ".partial"
"""How the name of a journal ends; it begins with the name of the target."""

_CONTINUED = f".watch{PARTIAL}"
_FORMAT = 1


class _Kept(NamedTuple):
    """What is safely in the journal: one value, so that an interruption cannot part its members."""

    rows: int
    size: int


@dataclass(frozen=True)
class Recovered:
    """What `recover` made: the file, its rows, and how many lines of the journal were damaged."""

    target: Path
    rows: int
    damaged: int


def open_results(path: str | os.PathLike[str], *, key: str = "path", evidence: int = 5) -> ResultWriter:
    """A writer for a new results file, in the format that the ending of ``path`` names.

    Everything that could go wrong later is checked now: the ending, the folder, the optional package. A journal that
    a killed run left for the same file is warned of.

    Args:
        path: the file.
        key: what the first column is called, which tells what a row is about: the image's path, or an id.
        evidence: for how many pieces of evidence a CSV file has columns.

    Raises:
        ValueError: an ending other than .csv, .jsonl or .parquet, no such folder, or results that `continue_results`
            goes on with.
        OSError: the folder cannot be written to.
        ImportError: Parquet without pyarrow.
    """
    target = _checked(local_path(path))
    if (continued := _continued(target)).exists():
        raise ValueError(
            f"{shown_path(target)} is what a tanl watch goes on with, from {shown_path(continued.name)} beside it; "
            "name another file"
        )
    for left in sorted(target.parent.glob(f"{glob.escape(target.name)}.*{PARTIAL}")):
        if not is_locked(left) and _holds_rows(left):
            warnings.warn(
                f"{shown_path(left)} holds the rows of a run that was killed: tanl recover makes a results file of it",
                stacklevel=2,
            )
    return ResultWriter(target, key, evidence)


def continue_results(path: str | os.PathLike[str], *, key: str = "path", evidence: int = 5) -> ResultWriter:
    """A writer that goes on with the rows of earlier runs: for a stream that has no end.

    Its journal, ``NAME.watch.partial``, stays where it is between the runs, and is what counts; the results file is
    made of it by `ResultWriter.publish`, and when the writer is closed.

    Args:
        path: as `open_results` takes it.
        key: the same.
        evidence: the same.

    Raises:
        ValueError: as `open_results`; results that are not of such a run; another run that writes them.
        OSError, ImportError: as `open_results`.
    """
    target = _checked(local_path(path))
    journal = _continued(target)
    if target.exists() and not journal.exists():
        raise ValueError(
            f"{shown_path(target)} is there already, and nothing to go on with: {shown_path(journal.name)} is not "
            "beside it; name another file"
        )
    return ResultWriter(target, key, evidence, continued=journal)


def _continued(target: Path) -> Path:
    """The journal of results that later runs go on with."""
    return target.with_name(target.name + _CONTINUED)


def _checked(target: Path) -> Path:
    if target.suffix.lower() not in _FORMATS:
        raise ValueError(
            f"results are written as {', '.join(_FORMATS)}; {str(target)!r} ends in none of them"
        )
    if target.is_dir():
        raise ValueError(f"results cannot be written to {target}: it is a directory; name a file in it")
    if not target.parent.is_dir():
        raise ValueError(f"results cannot be written to {target}: make the directory {target.parent} first")
    if target.suffix.lower() == ".parquet":
        pyarrow()
    return target


class ResultWriter:
    """Keeps rows in a journal and makes the target of them when the ``with`` block ends, in any way.

    So an interrupted run keeps what it has, an older file stays whole until then, and a run that wrote no row
    leaves no trace. If the disk is full the older file stays too, and the journal holds the rows that were written.

    Args:
        target: the file to make.
        key: what the first column is called.
        evidence: for how many pieces of evidence a CSV file has columns.
        continued: a journal that stays, and that may hold rows already; None makes one that goes.

    Raises:
        ValueError: ``continued`` is no journal of such rows, or another run writes it.
        OSError: the journal cannot be written.
    """

    def __init__(self, target: Path, key: str, evidence: int, *, continued: Path | None = None) -> None:
        self.target = target
        # Beside the target, because a move is atomic only inside one file system; a name that no other run has, of
        # this machine or of a container where all processes have the same number.
        self.journal = continued or target.with_name(f"{target.name}.{uuid.uuid4().hex[:12]}{PARTIAL}")
        self._stays = continued is not None
        self._is_broken = False
        self._kept = _Kept(0, 0)
        is_there = self._stays and self.journal.exists()
        self._file = self.journal.open("r+b" if is_there else "xb", buffering=0)
        try:
            if not lock(self._file):
                raise ValueError(
                    f"{shown_path(self.journal)} is being written by another run; stop that one, or name another file"
                )
            if is_there:
                self._go_on(key)
            if not self._kept.size:
                head = {
                    "format": _FORMAT,
                    "target": shown_path(target.name),
                    "key": key,
                    "evidence": evidence,
                }
                self._append([head])
        except BaseException:
            self._file.close()
            if not is_there:
                self.journal.unlink()
            raise

    @property
    def rows(self) -> int:
        """How many rows are kept: those are in the target, once each, whatever comes."""
        return self._kept.rows

    def describe(self, about: Mapping[str, Any]) -> None:
        """Say how the rows were made: the last such word goes into Parquet's metadata, or into NAME.json beside it."""
        self._append([{"about": dict(about)}])

    def write(self, results: Sequence[Result], *, noted: Mapping[str, Any] | None = None) -> None:
        """Append rows, all or none.

        Args:
            results: a row each.
            noted: what `notes` is to give back to a run that goes on; it is kept if and only if the rows are.

        Raises:
            OSError: the disk is full, or another failure; the rows before are kept, and the message says where.
        """
        beside = [{"noted": dict(noted)}] if noted else []
        self._append([*map(row_of, results), *beside], len(results))

    def notes(self) -> Iterator[dict[str, Any]]:
        """What was noted with the rows, in their order."""
        with self.journal.open("rb") as file:
            yield from _words(file, "noted")

    def publish(self) -> None:
        """Make the results file of the rows that are there by now; not while another thread writes.

        Raises:
            OSError: it cannot be written: the older one stays, and so does the journal.
        """
        if not self._kept.rows:
            return
        try:
            _make(self.target, self.journal)
        except OSError as error:
            raise self._told(error, self._kept.rows) from error

    def _append(self, lines: Iterable[Any], rows: int = 0) -> None:
        content = b"".join(map(_sealed, lines))
        kept = _Kept(self._kept.rows + rows, self._kept.size + len(content))
        try:
            # An interruption or a failure may leave a part of this, or of what was tried before, behind what is kept.
            self._file.seek(self._kept.size)
            view = memoryview(content)
            while view:
                view = view[self._file.write(view) :]
        except OSError as error:
            self._is_broken = True
            raise self._told(error, self._kept.rows) from error
        self._kept = kept
        self._is_broken = False

    def _told(self, error: OSError, rows: int) -> OSError:
        hint = (
            f"; {rows} rows are kept in {shown_path(self.journal)}: make room, then tanl recover makes "
            f"{shown_path(self.target.name)} of them"
            if rows
            else ""
        )
        return OSError(error.errno, (error.strerror or str(error)) + hint, str(self.target))

    def close(self) -> None:
        """Make the target of the rows and take the journal away, unless it stays; what was written in part goes.

        Raises:
            OSError: the target cannot be written: the older one stays, and so does the journal.
        """
        rows, size = self._kept
        with self._file:
            self._file.truncate(size)
            if rows and self._is_broken:
                return
            self.publish()
        if not rows or not self._stays:
            self.journal.unlink()

    def _go_on(self, key: str) -> None:
        """Take over the rows that are there, up to the last whole line: a killed run may have left a part of one."""
        with self.journal.open("rb") as file:
            size = sum(len(line) for line in file if line.endswith(b"\n"))
        self._file.truncate(size)
        if not size:
            return
        head = _head(self._file, self.journal)
        if head["key"] != key:
            raise ValueError(
                f"{shown_path(self.journal)} has rows of the column {head['key']!r}, not {key!r}; name another file"
            )
        self._kept = _Kept(sum(1 for _ in _records(self.journal)), size)

    def __enter__(self) -> ResultWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def recover(journal: str | os.PathLike[str], out: str | os.PathLike[str] | None = None) -> Recovered:
    """Make a results file of the journal that a killed run left, and take the journal away.

    Args:
        journal: ``NAME.*.partial``.
        out: the file to write, of any ending that `open_results` takes; None is the one that the run was to write.

    Raises:
        ValueError: no journal, or one that a run still writes; a target that is there already; no rows in it.
        OSError: it cannot be read, or the target cannot be written; the journal stays then.
    """
    journal = local_path(journal)
    with journal.open("rb") as file:
        head = _head(file, journal)
    if is_locked(journal):
        raise ValueError(f"{shown_path(journal)} is still being written; stop that run first, or let it end")
    target = _checked(journal.with_name(str(head["target"])) if out is None else local_path(out))
    if target.exists():
        raise ValueError(f"{shown_path(target)} is there already; name another file with --out")
    damaged: list[int] = []
    rows = sum(1 for _ in _records(journal, damaged))
    if not rows:
        raise ValueError(f"{shown_path(journal)} holds no rows; delete it")
    _make(target, journal)
    journal.unlink()
    return Recovered(target, rows, len(damaged))


# --- the journal --------------------------------------------------------------------------------------------


def _sealed(value: Any) -> bytes:
    """A line of the journal: the value as JSON, and its checksum."""
    text = json.dumps(value).encode("ascii")
    return b"%s\t%08x\n" % (text, zlib.crc32(text))


def _values(file: IO[bytes], only: bytes = b"") -> Iterator[Any]:
    """What the lines that begin so say, from where the file is; None for one that is damaged, as the last may be."""
    for line in file:
        if not line.startswith(only):
            continue
        text, _, checksum = line.rstrip(b"\n").rpartition(b"\t")
        yield json.loads(text) if b"%08x" % zlib.crc32(text) == checksum and text else None


def _words(file: IO[bytes], name: str) -> Iterator[dict[str, Any]]:
    """What is said beside the rows, under that name."""
    said = _values(file, only=b'{"%s"' % name.encode())
    return (value[name] for value in said if value is not None)


def _head(file: IO[bytes], journal: Path) -> dict[str, Any]:
    head = next(_values(file), None)
    if isinstance(head, dict) and head.get("format") == _FORMAT:
        return head
    raise ValueError(
        f"{shown_path(journal)} is not what a run of tanl judge or watch leaves, or of another version"
    )


def _records(journal: Path, damaged: list[int] | None = None) -> Iterator[Record]:
    """The rows as records, the evidence as dicts, without those whose lines are damaged."""
    with journal.open("rb") as file:
        key = _head(file, journal)["key"]
        for number, row in enumerate(_values(file), start=2):
            if row is None and damaged is not None:
                damaged.append(number)
            if not isinstance(row, list):
                continue
            yield record_of(key, row)


def _holds_rows(journal: Path) -> bool:
    try:
        return next(_records(journal), None) is not None
    except ValueError:  # another's file
        return False


def _about(journal: Path) -> dict[str, Any]:
    """The last word on how the rows were made."""
    with journal.open("rb") as file:
        return reduce(lambda _, about: about, _words(file, "about"), {})


# --- the formats --------------------------------------------------------------------------------------------


def _make(target: Path, journal: Path) -> None:
    """Write the target of a journal as a whole, and what the run said of itself."""
    about = _about(journal)
    sidecar = target.with_name(f"{target.name}.json")
    if target.suffix.lower() == ".parquet":
        write_whole(target, partial(_write_parquet, journal=journal, about=about))
        return
    if about:
        # Before the rows change: an older description beside newer rows would lie.
        sidecar.unlink(missing_ok=True)
    write_whole(target, partial(_FORMATS[target.suffix.lower()], journal=journal))
    if about:
        write_whole(sidecar, (json.dumps(about, indent=2, ensure_ascii=False) + "\n").encode())


def _write_csv(path: Path, journal: Path) -> None:
    """Each piece of evidence in two columns; what is unknown is empty."""
    with journal.open("rb") as file:
        head = _head(file, journal)
    count = max([head["evidence"], *(len(record["evidence"]) for record in _records(journal))])
    pairs = [name for n in range(1, count + 1) for name in (f"evidence_{n}", f"evidence_{n}_probability")]
    with path.open("w", encoding="utf-8", newline="") as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow([head["key"], *COLUMNS, *pairs, "error"])
        for record in _records(journal):
            cells = [value for item in record["evidence"] for value in (item["label"], item["probability"])]
            cells += [None] * (len(pairs) - len(cells))
            if record["is_ood"] is not None:
                record["is_ood"] = str(record["is_ood"]).lower()
            rows.writerow([record[head["key"]], *(record[name] for name in COLUMNS), *cells, record["error"]])


def _write_json_lines(path: Path, journal: Path) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        for record in _records(journal):
            file.write(json.dumps(record, ensure_ascii=False) + "\n")


def _write_parquet(path: Path, journal: Path, about: Mapping[str, Any]) -> None:
    with journal.open("rb") as file:
        key = _head(file, journal)["key"]
    write_parquet(path, key, _records(journal), about)


_FORMATS: dict[str, Callable[..., None]] = {
    ".csv": _write_csv,
    ".jsonl": _write_json_lines,
    ".parquet": _write_parquet,
}
