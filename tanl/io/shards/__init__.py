"""Many images, cut into units that several machines read: folders, Parquet files, tar shards, data sets.

A unit is what one worker reads in one go. Units are picklable and know no engine; their order, and that of the images
in each, is the order in which a stream sees the images.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from ..text import did_you_mean
from . import data_sets, files, parquet, tars
from .items import KINDS, Kind, Unit


@dataclass(frozen=True)
class Shards:
    """Where the images are, in the order in which they are judged.

    Attributes:
        kind: of what.
        units: in their order.
        notes: what is to be told of what was passed over, a line each.
        unlisted: how many folders could not be listed.
    """

    kind: Kind
    units: Sequence[Unit]
    notes: tuple[str, ...] = ()
    unlisted: int = 0

    @property
    def count(self) -> int | None:
        """How many images there are; None where nobody knows before they are read."""
        rows = [unit.rows for unit in self.units]
        return None if None in rows else sum(row or 0 for row in rows)

    @property
    def fingerprint(self) -> str:
        """The SHA-256 of all that makes their order: names, cuts, numbers."""
        digest = hashlib.sha256(self.kind.encode())
        for unit in self.units:
            digest.update(unit.identity.encode("utf-8", "surrogateescape") + b"\0")
        return digest.hexdigest()


def open_shards(
    inputs: str | os.PathLike[str] | Iterable[str | os.PathLike[str]] | Any,
    *,
    kind: str | None = None,
    column: str | None = None,
    id_column: str | None = None,
    recursive: bool = True,
    split: str = "train",
    unit_rows: int = 1024,
    seed: int | None = None,
) -> Shards:
    """Find the images, without reading one of them.

    Args:
        inputs: image files and folders of images; ``.parquet`` files, ``.tar`` shards as webdataset has them, and
            folders that hold nothing but such; a data set of Hugging Face's `datasets`, or with ``kind="huggingface"``
            its name. All but the last may be addresses (``s3://bucket/shards/{000..123}.tar``, ``gs://...``), which
            fsspec reads; there ``*`` and, of tar shards, ``{000..123}`` are filled in.
        kind: "images", "parquet", "webdataset" or "huggingface"; None tells it by the names.
        column: where the images are, in Parquet and data sets: bytes of image files, structs of bytes and path as
            `datasets` writes them, or paths. None takes ``image``, or the only column that can hold them.
        id_column: what names the rows of Parquet and data sets; None takes file and number.
        recursive: whether to look into the folders of folders of images.
        split: of a data set.
        unit_rows: images a unit, where units can be cut so; more if there would be over 20 000 units.
        seed: shuffles files of images; the others are read in their order. None leaves all in order.

    Raises:
        ValueError: nothing there, several kinds, no such column, an unknown kind.
        OSError: it cannot be listed.
        ImportError: a library that is needed is not there.
    """
    if kind is not None and kind not in KINDS:
        raise ValueError(f"kind must be one of {', '.join(KINDS)}, not {kind!r}{did_you_mean(kind, KINDS)}")
    if data_sets.is_data_set(inputs):
        return Shards(
            "huggingface",
            data_sets.units(inputs, "data set", column, id_column, unit_rows=unit_rows),
        )
    given = [inputs] if isinstance(inputs, str | os.PathLike) else list(inputs)
    if not given:
        raise ValueError("name an input: nothing is given")
    if kind == "huggingface":
        opened = [data_sets.opened(os.fspath(name), split) for name in given]
        units = [
            unit
            for name, each in zip(given, opened, strict=True)
            for unit in data_sets.units(each, f"{name}[{split}]", column, id_column, unit_rows=unit_rows)
        ]
        return Shards("huggingface", units)
    kinds = {kind or files.kind_of(source) for source in given}
    if len(kinds) > 1:
        raise ValueError(
            f"these are {' and '.join(sorted(map(str, kinds)))}; judge each kind in a run of its own"
        )
    if kinds == {"parquet"}:
        return Shards("parquet", parquet.units(files.named(given, ".parquet"), column, id_column, unit_rows))
    if kinds == {"webdataset"}:
        return Shards("webdataset", tars.units(files.named(given, *tars.ENDINGS)))
    found = files.images(given, recursive=recursive, seed=seed)
    return Shards("images", files.units(found.names, unit_rows), notes=found.notes, unlisted=found.unlisted)
