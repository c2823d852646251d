"""A run of the benchmark on disk: what was asked for, and a cell for each stream; killed runs go on in it.

The folder holds::

    run.json                     what was run, on what, over which sets of images
    images/SLUG.json             the paths of a set's images, in the order of its scores
    cells/SLUG.json              one stream's metrics
    cells/SLUG.safetensors       its scores: "id" [N_id], "ood" [N_ood], "positions" [N_id + N_ood]

Every file is written beside its place and moved into it, whole. A cell's scores are written before its JSON, so that a
cell is there when its JSON is. The ID scores are of the track's ID set, followed in a full-spectrum run by its
covariate sets; a stream that takes fewer images than a set lists takes the first of them.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from datetime import datetime, timezone
from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError
from safetensors.numpy import load_file, save

from tanl.io.paths import local_path

FORMAT = 1
METRICS = ("AUROC", "AUPR_IN", "AUPR_OUT", "FPR95", "FPR95_ID")
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
        """The cell's file name, without its ending."""
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
        run: what ``run.json`` holds.
    """

    def __init__(self, path: Path, run: dict[str, Any]) -> None:
        self.path = path
        self.run = run

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
        """Make a run's folder, or go on with the one that is there.

        Args:
            path: the folder; its parents are made.
            config: what is run; its "methods", "seeds" and "orders" may differ from those of the run that is
                there, and are added to them.
            environment: versions, device, fingerprints.
            sets: name, role, track, count, expected and unreadable of each set of images.
            images: the paths of a set's images, by its track and name; none for sets that are no files.
            command: how to run it again.

        Raises:
            ValueError: a run of another configuration, with other weights, words or images is there; the message
                names the difference. Nothing is written then.
        """
        cls.check(path, config)
        folder = local_path(path)
        entries, lists = _with_image_files(sets, images or {})
        wanted = _plain(
            {
                "format": FORMAT,
                "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
                "command": command,
                "config": dict(config),
                "environment": dict(environment),
                "sets": entries,
                "seconds": 0.0,
            }
        )
        if (folder / "run.json").exists():
            found = cls.open(folder)
            found._continue_with(wanted)
            return found
        (folder / "cells").mkdir(parents=True, exist_ok=True)
        (folder / "images").mkdir(exist_ok=True)
        for name, paths in lists.items():
            _write_json(folder / name, list(paths))
        made = cls(folder, wanted)
        made._save()
        return made

    @classmethod
    def check(cls, path: str | PathLike[str], config: Mapping[str, Any]) -> None:
        """Whether a run of this configuration may be written to a folder, before any work is done for it.

        Raises:
            ValueError: it may not; the message says why.
        """
        folder = local_path(path)
        if folder.exists() and not folder.is_dir():
            raise ValueError(f"{folder} is a file; give a folder for the run")
        if (folder / "run.json").exists():
            names = (name for name in config if name not in _MAY_GROW)
            _check_same(folder, cls.open(folder).run["config"], _plain(config), names)
        elif any((folder / "cells").glob("*.json")):
            raise ValueError(f"{folder} has cells but no run.json; give another folder, or delete it")

    @classmethod
    def open(cls, path: str | PathLike[str]) -> RunFolder:
        """The run in a folder.

        Raises:
            FileNotFoundError: there is none.
            ValueError: its ``run.json`` is damaged, or of another format.
        """
        folder = local_path(path)
        file = folder / "run.json"
        if not file.is_file():
            raise FileNotFoundError(f"there is no run in {path}: it has no run.json")
        run = _read_json(file)
        if not isinstance(run, dict) or run.get("format") != FORMAT:
            raise ValueError(f"{file} is not a run of format {FORMAT}")
        for name, kind in (("config", dict), ("environment", dict), ("sets", list)):
            if not isinstance(run.get(name), kind):
                raise ValueError(f"{file} has no {name!r}, or one of another kind")
        return cls(folder, run)

    def has(self, key: Key) -> bool:
        """Whether that cell is there."""
        return self._file(key, "json").exists()

    def write(self, cell: Cell, scores: CellScores) -> None:
        """Keep a cell; one of the same key is replaced.

        Raises:
            ValueError: the scores do not fit the cell's counts.
        """
        _check_scores(cell, scores, f"the cell {cell.key.slug}")
        _write(self._file(cell.key, "safetensors"), save(scores._asdict()))
        _write_json(self._file(cell.key, "json"), asdict(cell))

    def cells(self) -> list[Cell]:
        """All cells, in the order of the configuration's tracks, methods, OOD sets, orders and seeds.

        Raises:
            ValueError: a cell's file is damaged or lacks its scores; the message names it.
        """
        cells = [self._read(file) for file in sorted((self.path / "cells").glob("*.json"))]
        config = self.run["config"]
        tracks = [part["track"] for part in self.run["sets"]]
        names = [part["name"] for part in self.run["sets"]]

        def place(cell: Cell) -> tuple[int, int, int, int, int, str]:
            return (
                _index(tracks, cell.track),
                _index(config.get("methods", []), cell.method),
                _index(names, cell.ood),
                _index(config.get("orders", []), cell.order),
                _index(config.get("seeds", []), cell.seed),
                cell.key.slug,
            )

        return sorted(cells, key=place)

    def scores(self, cell: Cell) -> CellScores:
        """A cell's scores.

        Raises:
            ValueError: their file is missing, damaged or does not fit the cell; the message names it.
        """
        file = self._file(cell.key, "safetensors")
        try:
            tensors = load_file(file)
            scores = CellScores(*(tensors[name] for name in CellScores._fields))
        except (OSError, SafetensorError, KeyError, ValueError) as error:
            raise ValueError(f"{file} is damaged ({error}); {_AGAIN}") from error
        _check_scores(cell, scores, str(file))
        return scores

    def images(self, entry: Mapping[str, Any]) -> list[Path] | None:
        """The paths of a set's images, in the order of its scores; None where they are no files.

        Args:
            entry: one of ``run["sets"]``.
        """
        if entry.get("images_file") is None:
            return None
        paths = _read_json(self.path / entry["images_file"])
        from .shipped import SHIPPED

        shipped = SHIPPED.get(self.run["config"].get("split"))
        # Theirs are kept relative, so that a run can be read on another machine.
        if shipped is not None:
            return [shipped.folder / path for path in paths]
        return [Path(path) for path in paths]

    def note(self, **values: Any) -> None:
        """Keep more about the run in ``run.json``."""
        self.run.update(_plain(values))
        self._save()

    def _continue_with(self, wanted: dict[str, Any]) -> None:
        """Check that a run of the same configuration may go on here, and add its methods, seeds and orders."""
        found = self.run
        _check_same(self.path, found["environment"], wanted["environment"], _FIXED_ENVIRONMENT)
        _check_same_sets(self.path, found["sets"], wanted["sets"])
        for name in _MAY_GROW:
            old, new = found["config"].get(name, []), wanted["config"].get(name, [])
            found["config"][name] = [*old, *(value for value in new if value not in old)]
        self._save()

    def _read(self, file: Path) -> Cell:
        try:
            content = json.loads(file.read_text(encoding="utf-8"))
            if content.keys() != {field.name for field in fields(Cell)}:
                raise ValueError("it has other fields")
            content["activated"] = tuple((str(label), float(value)) for label, value in content["activated"])
            cell = Cell(**content)
            if set(cell.metrics) != set(METRICS):
                raise ValueError(f"it has the metrics {', '.join(cell.metrics)}")
            if cell.key.slug != file.stem:
                raise ValueError("it is another cell than its name says")
        except (ValueError, TypeError, AttributeError, RecursionError) as error:
            raise ValueError(f"{file} is damaged ({error}); {_AGAIN}") from error
        if not file.with_suffix(".safetensors").is_file():
            raise ValueError(f"{file} has no scores beside it; {_AGAIN}")
        return cell

    def _file(self, key: Key, ending: str) -> Path:
        return self.path / "cells" / f"{key.slug}.{ending}"

    def _save(self) -> None:
        _write_json(self.path / "run.json", self.run)


_AGAIN = "delete it to have it measured again"


def _with_image_files(
    sets: Sequence[Mapping[str, Any]], images: Mapping[tuple[str, str], Sequence[str]]
) -> tuple[list[dict[str, Any]], dict[str, Sequence[str]]]:
    """The sets with the names of their image lists, and the lists by name; equal lists share one."""
    entries: list[dict[str, Any]] = []
    lists: dict[str, Sequence[str]] = {}
    for part in sets:
        paths = images.get((part["track"], part["name"]))
        name = None
        if paths is not None:
            name = f"images/{_slug(list(paths))}.json"
            lists[name] = paths
        entries.append({**part, "images_file": name})
    return entries, lists


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


def _read_json(file: Path) -> Any:
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{file} is damaged ({error})") from error


def _write_json(file: Path, value: Any) -> None:
    _write(file, (json.dumps(value, indent=1, ensure_ascii=False) + "\n").encode())


def _write(file: Path, content: bytes) -> None:
    """Write a file whole: under a temporary name in the same folder, then moved to its own."""
    temporary = file.with_name(f".{file.name}.{os.getpid()}.part")
    try:
        with temporary.open("wb") as part:
            part.write(content)
            part.flush()
            os.fsync(part.fileno())
        temporary.replace(file)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
