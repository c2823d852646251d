"""Results files, read again: what `result_files` wrote, in any of its formats."""

from __future__ import annotations

import csv
import json
import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import IO, Any

from ..detectors.base import Evidence
from ..detectors.verdict import Verdict
from ..io.paths import local_path
from ..io.stores import open_store
from ..io.text import shown_path
from .partitions import MANIFEST, read_manifest, read_partition
from .results import Result

_KEYS = ("path", "id")
_NEEDED = ("label", "id_probability", "ood_score", "is_ood", "error")
_LONGEST_FIELD = (
    1 << 26
)  # characters, a limit of the whole process: a path or an error may pass csv's 131 072
_VERDICTS = {"true": True, "false": False, "": None}

Record = Mapping[str, Any]


@dataclass(frozen=True)
class SavedResults:
    """A results file as it was read.

    Attributes:
        file: where it is.
        key: what a row is about: "path" of an image, or "id" of an embedding.
        rows: the results in the file's order, which is the stream's.
        about: how they were made, in the words of the run that wrote them; empty where nobody said.
    """

    file: Path
    key: str
    rows: tuple[Result, ...] = field(repr=False)
    about: Mapping[str, Any] = field(default_factory=dict, repr=False)


def read_results(path: str | os.PathLike[str]) -> SavedResults:
    """Read what ``tanl judge --out`` wrote: .csv or .jsonl, with NAME.json beside it if that is there, or .parquet.

    A folder of partitions (see `tanl.streams.partitions`) is read too, in its order, as far as its manifest names them
    as finished.

    Raises:
        ValueError: another ending, a file that is no such results, or no rows; the message names file and row.
        OSError: it cannot be read.
        ImportError: Parquet without pyarrow.
    """
    file = local_path(path)
    if not file.exists():
        raise FileNotFoundError(f"there is no file or directory {shown_path(file)}")
    is_folder = (file / MANIFEST).is_file()
    if not is_folder and file.suffix.lower() not in _READERS:
        raise ValueError(
            f"{shown_path(file)} is no results file: these are {', '.join(_READERS)}, as `tanl judge --out` writes them"
        )
    records, about = _read_partitions(file) if is_folder else _READERS[file.suffix.lower()](file)
    rows: list[Result] = []
    key = None
    for number, record in enumerate(records, start=1):
        key = key or next((each for each in _KEYS if each in record), None)
        missing = [name for name in _NEEDED if name not in record]
        if key is None or key not in record or missing:
            wanted = ", ".join([f"{_KEYS[0]} or {_KEYS[1]}"] * (key is None) + missing) or key
            raise ValueError(
                f"{shown_path(file)}, row {number}: no {wanted}; it is not what `tanl judge --out` writes"
            )
        try:
            rows.append(_result(record, key))
        except (ValueError, TypeError, KeyError) as error:
            raise ValueError(
                f"{shown_path(file)}, row {number} is not what `tanl judge --out` writes: {error}"
            ) from error
    if not rows or key is None:
        raise ValueError(f"{shown_path(file)} holds no rows")
    return SavedResults(file, key, tuple(rows), about)


def _result(record: Record, key: str) -> Result:
    name: Any = record[key]
    if not isinstance(name, str):
        raise ValueError(f"its {key} is {name!r}, which is no text")
    path = Path(name) if key == "path" else name
    if record["error"] is not None:
        return Result(path, error=str(record["error"]))
    label, is_ood = record["label"], record["is_ood"]
    if not isinstance(label, str) or not label:
        raise ValueError(f"its label is {label!r}, which is no text")
    if is_ood is not None and not isinstance(is_ood, bool):
        raise ValueError(f"its is_ood is {is_ood!r}; that is true, false or nothing")
    evidence = tuple(
        Evidence(str(item["label"]), _finite(item["probability"], "evidence"))
        for item in record.get("evidence") or ()
    )
    score = _finite(record["ood_score"], "ood_score")
    return Result(
        path, Verdict(score, is_ood, label, _finite(record["id_probability"], "id_probability"), evidence)
    )


def _finite(value: Any, name: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"its {name} is {value!r}, which is no finite number")
    return float(value)


# --- the formats --------------------------------------------------------------------------------------------


def _read_csv(file: Path) -> tuple[Iterable[Record], Mapping[str, Any]]:
    return _csv_records(file), _sidecar(file)


def _csv_records(file: Path) -> Iterator[Record]:
    csv.field_size_limit(max(csv.field_size_limit(), _LONGEST_FIELD))
    with file.open(encoding="utf-8", newline="") as lines:
        try:
            reader = csv.DictReader(lines, strict=True)
            names: Sequence[str] = reader.fieldnames or ()
            pairs = [
                (name, f"{name}_probability")
                for name in names
                if name.startswith("evidence_") and f"{name}_probability" in names
            ]
            for row in reader:
                yield _from_text(row, pairs)
        except (csv.Error, UnicodeDecodeError) as error:
            raise ValueError(f"{shown_path(file)} cannot be read as CSV: {error}") from error


def _from_text(row: Mapping[str, Any], pairs: Sequence[tuple[str, str]]) -> Record:
    """A row of a CSV file with its values as the other formats have them; what does not fit stays as it is."""
    record = dict(row)
    for name in ("label", "error"):
        if name in record:
            record[name] = record[name] or None
    for name in ("id_probability", "ood_score"):
        if name in record:
            record[name] = _number(record[name])
    if "is_ood" in record:
        record["is_ood"] = _VERDICTS.get(record["is_ood"] or "", record["is_ood"])
    record["evidence"] = [
        {"label": row[label], "probability": _number(row[probability])}
        for label, probability in pairs
        if row[label]
    ]
    return record


def _number(text: str | None) -> Any:
    try:
        return float(text) if text else None
    except ValueError:
        return text


def _read_json_lines(file: Path) -> tuple[Iterable[Record], Mapping[str, Any]]:
    return _json_records(file), _sidecar(file)


def _json_records(file: Path) -> Iterator[Record]:
    with file.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            try:
                record = json.loads(line.decode("utf-8"))
            except UnicodeDecodeError as error:
                raise ValueError(f"{shown_path(file)}, line {number} is not UTF-8 text: {error}") from error
            except ValueError as error:
                raise ValueError(f"{shown_path(file)}, line {number} is no JSON: {error}") from error
            if not isinstance(record, dict):
                raise ValueError(f"{shown_path(file)}, line {number} is no JSON object")
            yield record


def _read_parquet(file: Path) -> tuple[Iterable[Record], Mapping[str, Any]]:
    return _parquet(file, file)


def _parquet(source: Path | IO[bytes], file: Path) -> tuple[Iterable[Record], Mapping[str, Any]]:
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as error:
        raise ImportError("reading Parquet needs pyarrow: pip install 'tanl[parquet]'") from error
    try:
        table = pq.ParquetFile(source).read()
    except pa.ArrowInvalid as error:
        raise ValueError(f"{shown_path(file)} cannot be read as Parquet: {error}") from error
    metadata: Mapping[bytes, bytes] = table.schema.metadata or {}
    return table.to_pylist(), _object(metadata.get(b"tanl", b"{}"), file)


def _read_partitions(folder: Path) -> tuple[Iterable[Record], Mapping[str, Any]]:
    store = open_store(folder)
    manifest = read_manifest(store)

    def records() -> Iterator[Record]:
        for entry in manifest.partitions:
            yield from _parquet(BytesIO(read_partition(store, entry)), folder / str(entry["file"]))[0]

    return records(), manifest.about


def _sidecar(file: Path) -> Mapping[str, Any]:
    beside = file.with_name(f"{file.name}.json")
    return _object(beside.read_bytes(), beside) if beside.is_file() else {}


def _object(content: bytes, file: Path) -> Mapping[str, Any]:
    try:
        about = json.loads(content)
    except ValueError as error:
        raise ValueError(f"what {shown_path(file)} says of the run is no JSON: {error}") from error
    if not isinstance(about, dict):
        raise ValueError(f"what {shown_path(file)} says of the run is no JSON object")
    return about


_READERS: dict[str, Callable[[Path], tuple[Iterable[Record], Mapping[str, Any]]]] = {
    ".csv": _read_csv,
    ".jsonl": _read_json_lines,
    ".parquet": _read_parquet,
}
