"""Results in a folder of Parquet partitions, with a manifest of those that are finished, for runs that go on.

The manifest is what counts. A partition is written first, then the state that the method had after its last row, then
the manifest that names both with their checksums: whatever kills the run leaves the manifest before or the one after,
and the next run goes on behind the last row that it names. What a killed run left beside it is written anew.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from io import BytesIO
from typing import TYPE_CHECKING, Any, NamedTuple

from filelock import FileLock, Timeout
from safetensors import SafetensorError
from safetensors.torch import load as tensors_from_bytes
from safetensors.torch import save as bytes_of_tensors

from ..io.nested import joined_tensors, split_tensors
from ..io.stores import FolderStore, Store
from .result_rows import pyarrow, record_of, row_of, write_parquet

if TYPE_CHECKING:
    from typing_extensions import Self

    from .results import Result

MANIFEST = "manifest.json"
_FORMAT = 1
_LOCK = ".lock"
_OUTCOMES = ("ID", "OOD", "-", "unreadable")


@dataclass(frozen=True)
class Position:
    """Where in the recorded order a run is: the next image to judge is image ``row`` of unit ``unit``."""

    unit: int = 0
    row: int = 0


@dataclass(frozen=True)
class Manifest:
    """What a folder of partitions says of itself.

    Attributes:
        key: what the first column is called.
        plan: what the results depend on, in words and checksums: a run that goes on must have the same.
        about: how the rows were made, as in a single results file's metadata.
        partitions: the finished ones, each with ``file``, ``rows``, ``bytes``, ``sha256`` and the counts of outcomes.
        next: behind the last row of the last one.
        state: the method's state there: ``file``, ``sha256``, ``tree``; None before the first partition.
        complete: whether all is judged.
    """

    key: str
    plan: Mapping[str, Any]
    about: Mapping[str, Any]
    partitions: tuple[Mapping[str, Any], ...] = ()
    next: Position = Position()
    state: Mapping[str, Any] | None = None
    complete: bool = False

    @property
    def rows(self) -> int:
        return sum(int(each["rows"]) for each in self.partitions)

    @property
    def counts(self) -> dict[str, int]:
        """How many rows have which outcome; see `tanl.streams.results.Result.outcome`."""
        return {name: sum(int(each["counts"][name]) for each in self.partitions) for name in _OUTCOMES}


class _Batch(NamedTuple):
    """Rows that wait, their outcomes, and where the run goes on behind them."""

    rows: list[list[Any]]
    counts: Counter[str]
    after: Position
    rows_by_now: int


class Partitions:
    """Writes the partitions of one run; a context manager that holds the folder against other runs on this machine.

    Args:
        store: the folder.
        key: what the first column is called.
        plan: what the results depend on.
        rows: after how many rows, at least, a partition ends: with the batch or unit that it then is in.

    Raises:
        ValueError: another run writes there; the folder holds something else, or results of another plan; a
            finished partition is missing, or its manifest or state is damaged.
        OSError: it cannot be read or written.
        ImportError: without pyarrow.
    """

    def __init__(self, store: Store, *, key: str, plan: Mapping[str, Any], rows: int = 65_536) -> None:
        pyarrow()
        self._store, self._rows = store, rows
        self._waiting: list[_Batch] = []
        self._lock = FileLock(store.folder / _LOCK) if isinstance(store, FolderStore) else None
        try:
            if self._lock is not None:
                self._lock.acquire(timeout=0)
        except Timeout as error:
            raise ValueError(
                f"another run writes into {store.name}: wait for its end, or name another folder"
            ) from error
        try:
            self.manifest = self._begun(key, json.loads(json.dumps(plan)))
        except BaseException:
            self.close()
            raise

    @property
    def state(self) -> Any:
        """The method's state behind the last finished partition; None before the first one."""
        kept = self.manifest.state
        if kept is None:
            return None
        where = f"{self._store.name}/{kept['file']}"
        try:
            content = self._store.read(kept["file"])
            if hashlib.sha256(content).hexdigest() != kept["sha256"]:
                raise ValueError("its content is not what was saved")
            return joined_tensors(kept["tree"], tensors_from_bytes(content))
        except (FileNotFoundError, SafetensorError, ValueError) as error:
            raise ValueError(f"{where} is damaged or missing ({error}): judge into another folder") from error

    @property
    def waiting(self) -> int:
        """How many rows wait to be written."""
        return self._waiting[-1].rows_by_now if self._waiting else 0

    @property
    def is_due(self) -> bool:
        """Whether enough rows wait for a partition of their own."""
        return self.waiting >= self._rows

    def add(self, results: Sequence[Result], after: Position) -> None:
        """Take the next rows, and where the run goes on behind them; they are safe once `finish` has written them."""
        rows = [row_of(result) for result in results]
        counts = Counter(result.outcome for result in results)
        # One step, so that an interruption finds all of them there, or none.
        self._waiting.append(_Batch(rows, counts, after, self.waiting + len(rows)))

    def finish(
        self,
        state: Mapping[str, Any],
        about: Mapping[str, Any],
        *,
        complete: bool = False,
    ) -> None:
        """Make a partition of the rows that wait; it is safe when this returns.

        Args:
            state: the method's state behind the last of them, from ``state_dict``.
            about: how the rows were made, by now.
            complete: whether all is judged.

        Raises:
            OSError: it cannot be written; the manifest then says what it said before.
        """
        old = self.manifest
        counts = {name: old.counts[name] + self._counts()[name] for name in _OUTCOMES}
        after = self._waiting[-1].after if self._waiting else old.next
        about = {**about, **_told(counts), "complete": complete}
        new = [self._partition(about)] if self._waiting else []
        tree, tensors = split_tensors(state)
        packed = bytes_of_tensors(tensors)
        digest = hashlib.sha256(packed).hexdigest()
        kept = {"file": f"state-{digest[:16]}.safetensors", "sha256": digest, "tree": tree}
        if old.state is None or old.state["file"] != kept["file"]:
            self._store.write(kept["file"], packed)
        self._keep(Manifest(old.key, old.plan, about, (*old.partitions, *new), after, kept, complete))
        self._waiting = []
        if old.state is not None and old.state["file"] != kept["file"]:
            self._store.remove(old.state["file"])

    def close(self) -> None:
        """Leave the folder to others; what was not finished is judged again by the run that goes on."""
        if self._lock is not None:
            self._lock.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _begun(self, key: str, plan: Mapping[str, Any]) -> Manifest:
        there = self._store.names()
        if MANIFEST not in there:
            if there:
                raise ValueError(
                    f"{self._store.name} holds {min(there)} and no {MANIFEST}; name a new or empty folder"
                )
            manifest = Manifest(key, plan, {})
            self._keep(manifest)
            return manifest
        manifest = read_manifest(self._store)
        _refuse_other(manifest.plan, plan, self._store.name)
        _check_partitions(manifest, there, self._store.name)
        finished = {str(each["file"]) for each in manifest.partitions}
        for name in there:  # of a run that was killed before its manifest told of them
            state = None if manifest.state is None else manifest.state["file"]
            if name.startswith(("part-", "state-")) and name not in finished and name != state:
                self._store.remove(name)
        return manifest

    def _partition(self, about: Mapping[str, Any]) -> dict[str, Any]:
        name = f"part-{len(self.manifest.partitions):05d}.parquet"
        content = BytesIO()
        records = (record_of(self.manifest.key, row) for batch in self._waiting for row in batch.rows)
        write_parquet(content, self.manifest.key, records, about)
        packed = content.getvalue()
        self._store.write(name, packed)
        return {
            "file": name,
            "rows": self.waiting,
            "bytes": len(packed),
            "sha256": hashlib.sha256(packed).hexdigest(),
            "counts": self._counts(),
        }

    def _counts(self) -> dict[str, int]:
        total = sum((batch.counts for batch in self._waiting), Counter())
        return {name: total[name] for name in _OUTCOMES}

    def _keep(self, manifest: Manifest) -> None:
        content = json.dumps({"format": _FORMAT, **asdict(manifest)}, ensure_ascii=False, indent=1)
        self._store.write(MANIFEST, content.encode("utf-8", "backslashreplace"))
        self.manifest = manifest


def read_manifest(store: Store) -> Manifest:
    """The manifest of a folder of partitions.

    Raises:
        FileNotFoundError: there is none.
        ValueError: it is damaged, or of another version.
        OSError: it cannot be read.
    """
    content = store.read(MANIFEST)
    try:
        held = json.loads(content)
        if held.pop("format") != _FORMAT:
            raise ValueError("it is of another version")
        return Manifest(
            **{
                **held,
                "next": Position(**held["next"]),
                "partitions": tuple(dict(each) for each in held["partitions"]),
            }
        )
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"{store.name}/{MANIFEST} is no manifest of partitions: {error!r}") from error


def read_partition(store: Store, entry: Mapping[str, Any]) -> bytes:
    """A finished partition's content, held against its checksum.

    Raises:
        ValueError: it is missing, or not as it was written.
        OSError: it cannot be read.
    """
    name = f"{store.name}/{entry['file']}"
    try:
        content = store.read(str(entry["file"]))
    except FileNotFoundError as error:
        raise ValueError(f"{name} is missing, and {MANIFEST} names it") from error
    if hashlib.sha256(content).hexdigest() != entry["sha256"]:
        raise ValueError(f"{name} is damaged: its checksum is not the one in {MANIFEST}")
    return content


def _told(counts: Mapping[str, int]) -> dict[str, int]:
    told = {"rows": sum(counts.values()), **counts}
    told["without_verdict"] = told.pop("-")
    return told


def _check_partitions(manifest: Manifest, there: Mapping[str, int], folder: str) -> None:
    for each in manifest.partitions:
        if there.get(each["file"]) != each["bytes"]:
            raise ValueError(
                f"{folder}/{each['file']} is missing or not as it was written, and {MANIFEST} names it as finished: "
                "bring it back, or judge into another folder"
            )


def _refuse_other(saved: Mapping[str, Any], own: Mapping[str, Any], folder: str) -> None:
    names: Sequence[str] = sorted(
        name
        for name in {*saved, *own}
        if saved.get(name) != own.get(name) or (name in saved) != (name in own)
    )
    if names:
        told = ", ".join(
            f"{name}: {saved.get(name)!r:.60} there, {own.get(name)!r:.60} here" for name in names
        )
        raise ValueError(
            f"{folder} holds a run of something else ({told}): go on with the same, or name another folder"
        )
