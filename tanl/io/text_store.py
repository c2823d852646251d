"""Embeddings of texts on disk, text by text: whatever is asked for later, only texts that are new are embedded.

A model has a folder, ``text/`` and the SHA-256 of its fingerprint, with files of some thousand texts and their
embeddings each, every one written whole and with a checksum (`tanl.io.tensors`). Files are added and never changed, so
that any number of processes may use a folder; where two of them kept the same text, the older file's embedding counts.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import time
import uuid
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ..checks import norm_tolerance, off_norm
from .tensors import read_notes, read_tensors, write_tensors
from .text import valid_text

FOLDER = "text"
"""The folder of text embeddings inside the cache."""

_FORMAT = "3"  # part of every key: what another version of tanl wrote in another way is not looked at
_ENDING = ".safetensors"
# Rows that a model gave in half precision are kept as float32, and are no nearer to unit norm.
_TOLERANCE = norm_tolerance(torch.bfloat16)


@dataclass(frozen=True)
class Found:
    """What a store has of the texts that it was asked for.

    Attributes:
        rows: ``[n, D]`` float32; what stands for a text that is not there means nothing. None if none is there.
        is_there: ``[n]`` bool.
    """

    rows: Tensor | None
    is_there: Tensor


class TextStore:
    """The texts that a model has embedded, in the cache.

    Args:
        cache: the cache's folder; nothing need be there yet.
        fingerprint: of the model; what another one embedded is not found.
        name: of the model, as a note for people.
    """

    def __init__(self, cache: Path, fingerprint: str, name: str) -> None:
        self._key = hashlib.sha256(f"{_FORMAT}\0{fingerprint}".encode()).hexdigest()
        self._name = name
        self.cache = cache
        self.folder = cache / FOLDER / self._key

    def files(self) -> list[str]:
        """The names of the files that are there, the oldest first."""
        try:
            return sorted(path.name for path in self.folder.iterdir() if path.name.endswith(_ENDING))
        except (FileNotFoundError, NotADirectoryError):  # of the latter, writing tells
            return []

    def read(self, texts: Sequence[str]) -> Found:
        """The embeddings of texts, none of which occurs twice, as far as they are there.

        A file that is damaged, or does not hold what it should, is warned of by its name and taken away, so that its
        texts are embedded again.
        """
        place = {text: i for i, text in enumerate(texts)}
        rows, is_there = None, torch.zeros(len(texts), dtype=torch.bool, device="cpu")
        for name in self.files():
            path = self.folder / name
            try:
                # Most files hold nothing of a small corpus: their notes tell without reading all of them.
                held = json.loads(read_notes(path)["texts"])
                wanted = [(row, place[text]) for row, text in enumerate(held) if text in place]
                if not wanted:
                    continue
                embeddings = self._checked(path, len(held), None if rows is None else rows.shape[1])
            except FileNotFoundError:  # another process has taken it away
                continue
            except (ValueError, KeyError, TypeError, OSError) as error:
                reason = f"its notes lack {error}" if isinstance(error, KeyError) else error
                warnings.warn(f"{path} cannot be used: {reason}; its texts are embedded again", stacklevel=2)
                _take_away(path)
                continue
            if rows is None:
                rows = torch.empty(len(texts), embeddings.shape[1], dtype=torch.float32, device="cpu")
            source, target = torch.tensor(wanted, dtype=torch.int64, device="cpu").T
            new = ~is_there[target]
            rows[target[new]] = embeddings[source[new]]
            is_there[target] = True
            if bool(is_there.all()):
                break
        return Found(rows, is_there)

    def texts(self) -> set[str]:
        """The texts that are there, as far as the files' notes say; nothing is held against a checksum."""
        found: set[str] = set()
        for name in self.files():
            with contextlib.suppress(ValueError, KeyError, TypeError, OSError):  # reading it will tell
                found.update(json.loads(read_notes(self.folder / name)["texts"]))
        return found

    def write(self, texts: Sequence[str], rows: Tensor) -> str:
        """Keep texts with their embeddings ``[n, D]``, unit rows of float32; gives the name of the file.

        Raises:
            OSError: it cannot be written; the message names the file or folder.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / f"{time.time_ns():020d}-{uuid.uuid4().hex[:8]}{_ENDING}"
        about = {"key": self._key, "backbone": valid_text(self._name), "texts": json.dumps(list(texts))}
        write_tensors(path, {"embeddings": rows}, about)
        return path.name

    def _checked(self, path: Path, count: int, dim: int | None) -> Tensor:
        tensors, about = read_tensors(path)
        if about.get("key") != self._key or "embeddings" not in tensors:
            raise ValueError("it holds something else")
        embeddings = tensors["embeddings"]
        if embeddings.ndim != 2 or len(embeddings) != count:
            raise ValueError(f"it holds embeddings {list(embeddings.shape)}, not {count} rows")
        if embeddings.dtype != torch.float32:
            raise ValueError(f"it holds {embeddings.dtype}, not float32")
        if dim is not None and embeddings.shape[1] != dim:
            raise ValueError(f"it has D = {embeddings.shape[1]}, and other files of this model D = {dim}")
        norms, off = off_norm(embeddings, _TOLERANCE)
        if bool(off.any()):
            row = int(off.nonzero()[0])
            raise ValueError(f"row {row} has norm {float(norms[row]):.4g}, not 1")
        return embeddings


def _take_away(path: Path) -> None:
    with contextlib.suppress(OSError):  # it is told again the next time
        path.unlink()
