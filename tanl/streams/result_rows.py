"""The rows of results: what is in their columns, and Parquet of them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from ..io.text import shown_path, valid_text

if TYPE_CHECKING:
    from .results import Result

COLUMNS = ("label", "id_probability", "ood_score", "is_ood")
"""What stands between the key and the evidence."""

_ROWS_IN_A_GROUP = 4096

Record = dict[str, Any]


def row_of(result: Result) -> list[Any]:
    """A result as JSON can hold it: key, `COLUMNS`, evidence, error."""
    verdict = result.verdict
    if verdict is None:
        return [shown_path(result.path), None, None, None, None, [], valid_text(result.error or "")]
    return [
        shown_path(result.path),
        valid_text(verdict.label),
        verdict.id_probability,
        verdict.ood_score,
        verdict.is_ood,
        [[valid_text(item.label), item.probability] for item in verdict.evidence],
        None,
    ]


def record_of(key: str, row: Sequence[Any]) -> Record:
    """What `row_of` gives, by the columns' names, the evidence as dicts.

    Raises:
        TypeError, ValueError: it is no such row.
    """
    path, *values, evidence, error = row
    return {
        key: path,
        **dict(zip(COLUMNS, values, strict=True)),
        "evidence": [{"label": label, "probability": probability} for label, probability in evidence],
        "error": error,
    }


def write_parquet(
    target: Path | IO[bytes], key: str, records: Iterable[Record], about: Mapping[str, Any]
) -> None:
    """Write records as Parquet, and under "tanl" in its metadata how they were made.

    Raises:
        ImportError: without pyarrow.
        OSError: it cannot be written.
    """
    pa, pq = pyarrow()
    evidence = pa.struct([("label", pa.string()), ("probability", pa.float64())])
    kinds = (pa.string(), pa.float64(), pa.float64(), pa.bool_())
    schema = pa.schema(
        [
            (key, pa.string()),
            *zip(COLUMNS, kinds, strict=True),
            ("evidence", pa.list_(evidence)),
            ("error", pa.string()),
        ]
    )
    if about:
        schema = schema.with_metadata({"tanl": json.dumps(about, ensure_ascii=False)})
    rows = iter(records)
    with pq.ParquetWriter(target, schema) as file:
        while group := list(islice(rows, _ROWS_IN_A_GROUP)):
            file.write_table(pa.Table.from_pylist(group, schema=schema))


def pyarrow() -> tuple[Any, Any]:
    """pyarrow, and its Parquet.

    Raises:
        ImportError: it is not there; the message names the extra.
    """
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as error:
        raise ImportError(
            "writing Parquet needs pyarrow: pip install 'tanl[parquet]', or name a .csv or .jsonl file"
        ) from error
    return pa, pq
