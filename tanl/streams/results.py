"""What was decided about images or embeddings, a row each, written as it comes: CSV, JSON lines or Parquet."""

from __future__ import annotations

import csv
import json
import os
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, TextIO

from ..io.text import shown_percentage

if TYPE_CHECKING:
    from ..detectors.verdict import Verdict

_ROWS_IN_A_GROUP = 4096


@dataclass(frozen=True)
class Result:
    """One image's or embedding's outcome: either its verdict, or the ``error`` that kept it from having one.

    ``path`` is the image's file; of an embedding it is the id, as text.
    """

    path: str | os.PathLike[str]
    verdict: Verdict | None = None
    error: str | None = None

    def __post_init__(self) -> None:
        if (self.verdict is None) is (self.error is None):
            raise ValueError(f"{self.path}: give a verdict, or the error that stands for it")

    @property
    def outcome(self) -> str:
        """ "ID", "OOD", "unreadable", or "-" where the method has no threshold."""
        if self.verdict is None:
            return "unreadable"
        if self.verdict.is_ood is None:
            return "-"
        return "OOD" if self.verdict.is_ood else "ID"

    def shown_evidence(self, count: int = 3) -> str:
        """The ``count`` strongest pieces of evidence in a line of text."""
        evidence = () if self.verdict is None else self.verdict.evidence
        return ", ".join(f"{item.label} {shown_percentage(item.probability)}" for item in evidence[:count])


def shown_path(path: str | os.PathLike[str]) -> str:
    """The path or id as text that any table and encoding can hold, even where the name is not valid text."""
    if isinstance(path, str):
        return path.encode("utf-8", "backslashreplace").decode("utf-8")
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def open_results(path: str | os.PathLike[str], *, key: str = "path") -> ResultWriter:
    """A writer for a new results file, in the format that the ending of ``path`` names.

    Everything that could go wrong later is checked now: the ending, the folder, the optional package.

    Args:
        path: the file.
        key: what the first column is called, which tells what a row is about: the image's path, or an id.

    Raises:
        ValueError: an ending other than .csv, .jsonl or .parquet, or no such folder.
        OSError: the folder cannot be written to.
        ImportError: Parquet without pyarrow.
    """
    target = Path(path)
    writers: dict[str, type[ResultWriter]] = {
        ".csv": _CsvWriter,
        ".jsonl": _JsonLinesWriter,
        ".parquet": _ParquetWriter,
    }
    writer = writers.get(target.suffix.lower())
    if writer is None:
        raise ValueError(f"results are written as {', '.join(writers)}; {str(target)!r} ends in none of them")
    if target.is_dir():
        raise ValueError(f"results cannot be written to {target}: it is a directory; name a file in it")
    if not target.parent.is_dir():
        raise ValueError(f"results cannot be written to {target}: make the directory {target.parent} first")
    return writer(target, key)


class ResultWriter(ABC):
    """Writes rows beside the target and moves them into its place when the ``with`` block ends, in any way.

    So an interrupted run keeps what it has, an older file stays whole until then, and a run that wrote no row
    leaves no trace.
    """

    def __init__(self, target: Path, key: str) -> None:
        self.target = target
        self._key = key
        self.rows = 0
        # Beside the target, because a move is atomic only inside one file system; the process number keeps
        # two runs with the same target apart.
        self._partial = target.with_name(f"{target.name}.{os.getpid()}.partial")

    @abstractmethod
    def _append(self, results: Sequence[Result]) -> None: ...

    @abstractmethod
    def _close(self) -> None: ...

    def write(self, results: Sequence[Result]) -> None:
        """Append rows."""
        self._append(results)
        self.rows += len(results)

    def _record(self, result: Result) -> dict[str, Any]:
        """The row in the columns' order."""
        verdict = result.verdict
        return {
            self._key: shown_path(result.path),
            "label": None if verdict is None else verdict.label,
            "id_probability": None if verdict is None else verdict.id_probability,
            "ood_score": None if verdict is None else verdict.ood_score,
            "is_ood": None if verdict is None else verdict.is_ood,
            "evidence": []
            if verdict is None
            else [
                {"label": item.label, "probability": item.probability, "is_negative": item.is_negative}
                for item in verdict.evidence
            ],
            "error": result.error,
        }

    def __enter__(self) -> ResultWriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._close()
        if self.rows:
            self._partial.replace(self.target)
        else:
            self._partial.unlink()


class _TextWriter(ResultWriter):
    def __init__(self, target: Path, key: str) -> None:
        super().__init__(target, key)
        self._file: TextIO = self._partial.open("w", encoding="utf-8", newline="")

    def _close(self) -> None:
        self._file.close()


class _CsvWriter(_TextWriter):
    """Evidence as a JSON list of [label, probability] in one cell; what is unknown is empty."""

    def __init__(self, target: Path, key: str) -> None:
        super().__init__(target, key)
        self._csv = csv.writer(self._file, lineterminator="\n")
        self._csv.writerow([key, "label", "id_probability", "ood_score", "is_ood", "evidence", "error"])

    def _append(self, results: Sequence[Result]) -> None:
        for result in results:
            record = self._record(result)
            pairs = [[item["label"], item["probability"]] for item in record["evidence"]]
            record["evidence"] = json.dumps(pairs, ensure_ascii=False) if pairs else None
            if record["is_ood"] is not None:
                record["is_ood"] = str(record["is_ood"]).lower()
            self._csv.writerow(record.values())
        self._file.flush()


class _JsonLinesWriter(_TextWriter):
    def _append(self, results: Sequence[Result]) -> None:
        for result in results:
            self._file.write(json.dumps(self._record(result), ensure_ascii=False) + "\n")
        self._file.flush()


class _ParquetWriter(ResultWriter):
    def __init__(self, target: Path, key: str) -> None:
        super().__init__(target, key)
        try:
            import pyarrow as pa
            import pyarrow.parquet as pq
        except ImportError as error:
            raise ImportError(
                "writing Parquet needs pyarrow: pip install 'tanl[parquet]', or name a .csv or .jsonl file"
            ) from error
        evidence = pa.struct(
            [("label", pa.string()), ("probability", pa.float64()), ("is_negative", pa.bool_())]
        )
        self._schema = pa.schema(
            [
                (key, pa.string()),
                ("label", pa.string()),
                ("id_probability", pa.float64()),
                ("ood_score", pa.float64()),
                ("is_ood", pa.bool_()),
                ("evidence", pa.list_(evidence)),
                ("error", pa.string()),
            ]
        )
        self._table_of = pa.Table.from_pylist
        self._parquet = pq.ParquetWriter(self._partial, self._schema)
        self._waiting: list[dict[str, Any]] = []

    def _append(self, results: Sequence[Result]) -> None:
        self._waiting += [self._record(result) for result in results]
        if len(self._waiting) >= _ROWS_IN_A_GROUP:
            self._write_group()

    def _write_group(self) -> None:
        self._parquet.write_table(self._table_of(self._waiting, schema=self._schema))
        self._waiting = []

    def _close(self) -> None:
        if self._waiting:
            self._write_group()
        self._parquet.close()
