"""A run of the benchmark on disk: what was asked for, and a cell for each stream; killed runs go on in it.

The folder holds ``run.sqlite``, a database with one table, ``entries``. Its rows are::

    kind    name       content
    run                what was run, on what, over which sets of images, as JSON
    images  SLUG       the paths of a set's images, in the order of its scores, as JSON
    cell    SLUG       one stream's metrics, as JSON
    scores  SLUG       its scores, little-endian: float32 [N_id] and [N_ood], then int32 positions [N_id + N_ood]

Each row has a SHA-256 of its kind, name and content, because SQLite tells damage of its own structure alone. A cell and
its scores are written in one transaction. The ID scores are of the track's ID set, followed in a full-spectrum run by
its covariate sets; a stream that takes fewer images than a set lists takes the first of them.

Several processes may write to one run at once: each transaction begins with the database's lock, and what was run is
merged inside it. The journal is SQLite's own, deleted after each transaction, not a write-ahead log: a cell takes
seconds to measure and milliseconds to write, and between transactions the run is one file, which may be copied, and
lie on a file system of other machines, where the log's shared memory does not work.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from datetime import datetime, timezone
from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import numpy.typing as npt

from tanl.io.paths import local_path
from tanl.io.text import shown_path
from tanl.metrics import METRICS

from .run_database import FILE, FORMAT, TABLE, as_json, connection, is_whole, put, read_run, transaction

ANY_ORDER = "any"
"""The order of a cell whose method keeps no state: its scores are those of every order and seed."""

# What may differ between a run and its continuation, and what of the environment may not.
_MAY_GROW = ("methods", "seeds", "orders")
_FIXED_ENVIRONMENT = ("tanl", "device", "backbone_fingerprint", "corpus_fingerprint", "classes_fingerprint")


class Key(NamedTuple):
    """What tells a cell from the others of its run. A method without state has order "any" and seed None."""

    track: str
    method: str
    ood: str
    order: str
    seed: int | None

    @property
    def slug(self) -> str:
        """The cell's name in the run's file."""
        return _slug(self._asdict())


class CellScores(NamedTuple):
    """OOD scores in the order of the sets, float32 ``[N_id]`` and ``[N_ood]``, and the order of the stream.

    ``positions [N_id + N_ood]``, int32, are indices into the ID images followed by the OOD images: those of the
    first image of the stream, of the second, and so on.
    """

    id: npt.NDArray[np.float32]
    ood: npt.NDArray[np.float32]
    positions: npt.NDArray[np.int32]


@dataclass(frozen=True)
class Cell:
    """What was measured of one stream.

    Attributes:
        track: the ID set's name where a run has several, else empty.
        method: by its name in `tanl.benchmarks.engine.methods`.
        ood: the OOD set.
        role: of the OOD set: "near", "far", "extreme" or "ood".
        order: of the stream, or "any".
        seed: of the stream and the method, or None.
        batch_size: images that were judged at a time.
        num_id: ID images in the stream.
        num_ood: OOD images in it.
        metrics: the values of `METRICS`, fractions.
        seconds: what judging the stream took, from embeddings.
        activated: the labels that the stream activated most, with their relevance; empty for other methods.
        threshold: the running threshold at the stream's end, as an OOD score; None for methods without one.
    """

    track: str
    method: str
    ood: str
    role: str
    order: str
    seed: int | None
    batch_size: int
    num_id: int
    num_ood: int
    metrics: dict[str, float]
    seconds: float
    activated: tuple[tuple[str, float], ...] = ()
    threshold: float | None = None

    @property
    def key(self) -> Key:
        """What tells it from the other cells."""
        return Key(self.track, self.method, self.ood, self.order, self.seed)


class RunFolder:
    """One run on disk; see the module's text for what lies where. `create` and `open` make one.

    Attributes:
        path: the folder.
        run: what was run: "format", "created", "command", "config", "environment", "sets", "seconds", "left_out".
    """

    def __init__(self, path: Path, run: dict[str, Any]) -> None:
        self.path = path
        self.run = run
        self._cells: list[Cell] | None = None

    @classmethod
    def create(
        cls,
        path: str | PathLike[str],
        config: Mapping[str, Any],
        environment: Mapping[str, Any],
        sets: Sequence[Mapping[str, Any]],
        *,
        images: Mapping[tuple[str, str], Sequence[str]] | None = None,
        command: str = "",
    ) -> RunFolder:
        """Make a run's folder, or go on with the one that is there, which another process may be writing to.

        Args:
            path: the folder; its parents are made.
            config: what is run; its "methods", "seeds" and "orders" may differ from those of the run that is
                there, and are added to them.
            environment: versions, device, fingerprints.
            sets: name, role, track, count, originals, expected and unreadable of each set of images; those after
                its originals are variants of these, in turn.
            images: the paths of a set's images, by its track and name; none for sets that are no files.
            command: how to run it again.

        Raises:
            ValueError: a run of another configuration, with other weights, words or images is there; the message
                names the difference. Nothing is written then.
            OSError: it cannot be written; the message names the file.
        """
        folder = local_path(path)
        _refuse_file(folder)
        entries, lists = _with_image_lists(sets, images or {})
        wanted = _plain(
            {
                "format": FORMAT,
                "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
                "command": command,
                "config": dict(config),
                "environment": dict(environment),
                "sets": entries,
                "seconds": 0.0,
                "left_out": {},
            }
        )
        folder.mkdir(parents=True, exist_ok=True)
        with transaction(folder, make=True) as database:
            # Asked inside the transaction: another process may have made it since this one looked.
            run = read_run(database, folder)
            if run is None:
                database.execute(TABLE)
            else:
                wanted = _continued(folder, run, wanted)
            for name, paths in lists.items():
                put(database, "images", name, as_json(list(paths)))
            put(database, "run", "", as_json(wanted))
        return cls(folder, wanted)

    @classmethod
    def check(cls, path: str | PathLike[str], config: Mapping[str, Any]) -> None:
        """Whether a run of this configuration may be written to a folder, before any work is done for it.

        Raises:
            ValueError: it may not; the message says why.
        """
        folder = local_path(path)
        _refuse_file(folder)
        if cls.is_in(folder):
            names = (name for name in config if name not in _MAY_GROW)
            _check_same(folder, cls.open(folder).run["config"], _plain(config), names)

    @classmethod
    def is_in(cls, path: str | PathLike[str]) -> bool:
        """Whether a folder holds a run.

        Raises:
            ValueError: it holds a damaged one.
        """
        folder = local_path(path)
        if not (folder / FILE).is_file():
            return False
        with connection(folder) as database:
            return read_run(database, folder) is not None

    @classmethod
    def open(cls, path: str | PathLike[str]) -> RunFolder:
        """The run in a folder.

        Raises:
            FileNotFoundError: there is none.
            ValueError: it is damaged, or of another format.
        """
        folder = local_path(path)
        run = None
        if (folder / FILE).is_file():
            with connection(folder) as database:
                run = read_run(database, folder)
        if run is None:
            if not folder.is_dir():
                raise FileNotFoundError(f"there is no folder {shown_path(folder)}")
            raise FileNotFoundError(f"there is no run in {path}: it has no {FILE} with one in it")
        return cls(folder, run)

    def has(self, key: Key) -> bool:
        """Whether that cell is there."""
        with connection(self.path) as database:
            query = "SELECT 1 FROM entries WHERE kind = 'cell' AND name = ?"
            return database.execute(query, (key.slug,)).fetchone() is not None

    def write(self, cell: Cell, scores: CellScores) -> None:
        """Keep a cell; one of the same key is replaced.

        Raises:
            ValueError: the scores do not fit the cell's counts.
            OSError: it cannot be written; the message names the file.
        """
        _check_scores(cell, scores, f"the cell {cell.key.slug}")
        content = b"".join(
            values.astype(kind).tobytes() for values, kind in zip(scores, _SCORES, strict=True)
        )
        with transaction(self.path) as database:
            put(database, "cell", cell.key.slug, as_json(asdict(cell)))
            put(database, "scores", cell.key.slug, content)
        self._cells = None

    def cells(self) -> list[Cell]:
        """All cells, in the order of the configuration's tracks, methods, OOD sets, orders and seeds.

        They are read at the first call, and again only after this object wrote: what other processes wrote since is
        seen by `open`, `note` and `create`.

        Raises:
            ValueError: a cell is damaged or lacks its scores; the message names it.
        """
        if self._cells is None:
            with connection(self.path) as database:
                cells = [self._read(*row) for row in database.execute(_CELLS)]
            self._cells = sorted(cells, key=self._place)
        return list(self._cells)

    def scores(self, cell: Cell) -> CellScores:
        """A cell's scores.

        Raises:
            ValueError: they are missing, damaged or do not fit the cell; the message names it.
        """
        slug = cell.key.slug
        with connection(self.path) as database:
            query = "SELECT content, sha256 FROM entries WHERE kind = 'scores' AND name = ?"
            row = database.execute(query, (slug,)).fetchone()
        what = f"{self.path / FILE}: the scores of {_told(cell.key)}"
        total = cell.num_id + cell.num_ood
        counts = (cell.num_id, cell.num_ood, total)
        if row is None or not is_whole("scores", slug, *row):
            raise ValueError(f"{what} are {'missing' if row is None else 'damaged'}; {_AGAIN}")
        content: bytes = row[0]
        if len(content) != sum(4 * count for count in counts):
            raise ValueError(
                f"{what} are {len(content)} bytes, not those of {cell.num_id} and {cell.num_ood} images; {_AGAIN}"
            )
        parts, start = [], 0
        for count, kind in zip(counts, _SCORES, strict=True):
            values = np.frombuffer(content, kind, count, start)
            parts.append(values.astype(kind.newbyteorder("=")))
            start += values.nbytes
        scores = CellScores(*parts)
        _check_scores(cell, scores, what)
        return scores

    def sources(self, cell: Cell) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
        """The image that each ID and each OOD image of a stream is, or is a variant of, ``[N_id]`` and ``[N_ood]``."""
        own = {"id": 0, "ood": 0}
        for part in self.run["sets"]:
            if part["track"] == cell.track:
                if part["role"] in ("id", "covariate"):
                    own["id"] += part["originals"]
                elif part["name"] == cell.ood:
                    own["ood"] = part["originals"]
        return np.arange(cell.num_id) % own["id"], np.arange(cell.num_ood) % own["ood"]

    def images(self, entry: Mapping[str, Any]) -> list[Path] | None:
        """The paths of a set's images, in the order of its scores; None where they are no files.

        Args:
            entry: one of ``run["sets"]``.

        Raises:
            ValueError: they are missing or damaged.
        """
        name = entry.get("images")
        if name is None:
            return None
        with connection(self.path) as database:
            query = "SELECT content, sha256 FROM entries WHERE kind = 'images' AND name = ?"
            row = database.execute(query, (name,)).fetchone()
        if row is None or not is_whole("images", name, *row):
            raise ValueError(
                f"{self.path / FILE}: the list of the images of {entry['name']} is "
                f"{'missing' if row is None else 'damaged'}; {_AGAIN}"
            )
        paths = json.loads(row[0])
        from .shipped import SHIPPED

        shipped = SHIPPED.get(self.run["config"].get("split"))
        # Theirs are kept relative, so that a run can be read on another machine.
        if shipped is not None:
            return [shipped.folder / path for path in paths]
        return [Path(path) for path in paths]

    def note(self, *, seconds: float = 0.0, left_out: Mapping[str, str] | None = None) -> None:
        """Keep more about the run, beside what other processes have added to it, and see what they did.

        Args:
            seconds: that were spent on it since.
            left_out: methods that were not run, with the reasons.
        """
        with transaction(self.path) as database:
            run = read_run(database, self.path)
            if run is None:
                raise ValueError(f"the run in {self.path} has gone")
            run["seconds"] += seconds
            run["left_out"].update(left_out or {})
            put(database, "run", "", as_json(run))
        self.run = run
        self._cells = None

    def forget_damaged(self) -> int:
        """Take away cells that cannot be read, for them to be measured again; gives their number."""
        with transaction(self.path) as database:
            whole = set()
            for slug, content, digest, _ in database.execute(_CELLS).fetchall():
                try:
                    cell = self._read(slug, content, digest, True)
                    self.scores(cell)
                except ValueError:
                    continue
                whole.add(slug)
            query = "SELECT DISTINCT name FROM entries WHERE kind IN ('cell', 'scores')"
            damaged = [(name,) for (name,) in database.execute(query).fetchall() if name not in whole]
            database.executemany("DELETE FROM entries WHERE kind IN ('cell', 'scores') AND name = ?", damaged)
        self._cells = None
        return len(damaged)

    def _place(self, cell: Cell) -> tuple[int, int, int, int, int, str]:
        config = self.run["config"]
        return (
            _index([part["track"] for part in self.run["sets"]], cell.track),
            _index(config.get("methods", []), cell.method),
            _index([part["name"] for part in self.run["sets"]], cell.ood),
            _index(config.get("orders", []), cell.order),
            _index(config.get("seeds", []), cell.seed),
            cell.key.slug,
        )

    def _read(self, slug: str, content: str | bytes, digest: bytes, has_scores: bool) -> Cell:
        what = f"{self.path / FILE}: the cell {slug}"
        try:
            if not is_whole("cell", slug, content, digest):
                raise ValueError("its SHA-256 is another")
            values = json.loads(content)
            if values.keys() != {field.name for field in fields(Cell)}:
                raise ValueError("it has other fields")
            values["activated"] = tuple((str(label), float(value)) for label, value in values["activated"])
            cell = Cell(**values)
            if set(cell.metrics) != set(METRICS):
                raise ValueError(f"it has the metrics {', '.join(cell.metrics)}")
            if cell.key.slug != slug:
                raise ValueError("it is another cell than its name says")
        except (ValueError, TypeError, AttributeError, RecursionError) as error:
            raise ValueError(f"{what} is damaged ({error}); {_AGAIN}") from error
        if not has_scores:
            raise ValueError(f"{what} has no scores beside it; {_AGAIN}")
        return cell


_AGAIN = "the command that made the run measures such cells again"
_SCORES = (np.dtype("<f4"), np.dtype("<f4"), np.dtype("<i4"))
_CELLS = """
SELECT cell.name, cell.content, cell.sha256, scores.name IS NOT NULL
FROM entries AS cell LEFT JOIN entries AS scores ON scores.kind = 'scores' AND scores.name = cell.name
WHERE cell.kind = 'cell' ORDER BY cell.name
"""


def _continued(folder: Path, found: dict[str, Any], wanted: dict[str, Any]) -> dict[str, Any]:
    """What was run, with the methods, seeds and orders of another run of the same configuration."""
    _check_same(
        folder, found["config"], wanted["config"], (n for n in wanted["config"] if n not in _MAY_GROW)
    )
    _check_same(folder, found["environment"], wanted["environment"], _FIXED_ENVIRONMENT)
    _check_same_sets(folder, found["sets"], wanted["sets"])
    grown = {}
    for name in _MAY_GROW:
        old, new = found["config"].get(name, []), wanted["config"].get(name, [])
        grown[name] = [*old, *(value for value in new if value not in old)]
    return {**found, "config": {**found["config"], **grown}}


def _refuse_file(folder: Path) -> None:
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is a file; give a folder for the run")


def _with_image_lists(
    sets: Sequence[Mapping[str, Any]], images: Mapping[tuple[str, str], Sequence[str]]
) -> tuple[list[dict[str, Any]], dict[str, Sequence[str]]]:
    """The sets with the names of their image lists, and the lists by name; equal lists share one."""
    entries: list[dict[str, Any]] = []
    lists: dict[str, Sequence[str]] = {}
    for part in sets:
        paths = images.get((part["track"], part["name"]))
        name = None
        if paths is not None:
            name = _slug(list(paths))
            lists[name] = paths
        entries.append({**part, "images": name})
    return entries, lists


def _told(key: Key) -> str:
    parts = [key.track, key.method, key.ood, key.order, "" if key.seed is None else f"seed {key.seed}"]
    return ", ".join(filter(None, parts))


def _check_same(path: Path, old: Mapping[str, Any], new: Mapping[str, Any], names: Iterable[str]) -> None:
    for name in names:
        if old.get(name) != new.get(name):
            raise ValueError(
                f"{path} holds a run with another {name}: {old.get(name)!r}, not {new.get(name)!r}; "
                "give another folder with --out"
            )


def _check_same_sets(path: Path, old: list[dict[str, Any]], new: list[dict[str, Any]]) -> None:
    found, wanted = ({(part["track"], part["name"]): part for part in sets} for sets in (old, new))
    for key in dict.fromkeys([*found, *wanted]):
        if found.get(key) == wanted.get(key):
            continue
        title = " ".join(filter(None, key))
        counts = [str(sets[key]["count"]) if key in sets else "none" for sets in (found, wanted)]
        raise ValueError(
            f"{path} holds a run with another set {title} ({counts[0]} images, now {counts[1]}, or other files); "
            "give another folder with --out"
        )


def _check_scores(cell: Cell, scores: CellScores, what: str) -> None:
    total = cell.num_id + cell.num_ood
    for name, count, values in (
        ("id", cell.num_id, scores.id),
        ("ood", cell.num_ood, scores.ood),
        ("positions", total, scores.positions),
    ):
        kind = np.int32 if name == "positions" else np.float32
        if values.shape != (count,) or values.dtype != kind:
            raise ValueError(
                f"{what}: {name!r} is {values.dtype} {list(values.shape)}, not {kind.__name__} [{count}]"
            )
    if not np.array_equal(np.sort(scores.positions), np.arange(total)):
        raise ValueError(f"{what}: the positions are not those of {total} images, each once")


def _index(values: Sequence[Any], value: Any) -> int:
    return values.index(value) if value in values else len(values)


def _plain(values: Mapping[str, Any]) -> dict[str, Any]:
    """As JSON will give it back: tuples become lists."""
    return cast(dict[str, Any], json.loads(json.dumps(values)))


def _slug(value: Any) -> str:
    text = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]
