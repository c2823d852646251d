"""Embeddings on disk, so that a corpus or a folder of images is encoded once for a backbone."""

from __future__ import annotations

import hashlib
import os
import warnings
from collections.abc import Callable, Sequence
from os import PathLike
from pathlib import Path

import torch
from torch import Tensor

from ..checks import norm_tolerance
from .paths import local_path
from .tensors import read_tensors, write_tensors

_FORMAT = "2"  # part of every key: what another version of tanl wrote in another way is not looked at
# Rows that a model gave in half precision are kept as float32, and are no nearer to unit norm.
_TOLERANCE = norm_tolerance(torch.bfloat16)


def default_cache_dir() -> Path:
    """``TANL_CACHE`` where it is set, else ``tanl`` in the user's cache folder.

    Raises:
        OSError: neither is set, and the system knows no home of this user.
    """
    if own := os.environ.get("TANL_CACHE") or os.environ.get("XDG_CACHE_HOME"):
        folder = local_path(own)
        return folder if os.environ.get("TANL_CACHE") else folder / "tanl"
    try:
        return Path.home() / ".cache" / "tanl"
    except RuntimeError as error:
        raise OSError("this user has no home folder; set TANL_CACHE to a folder for the cache") from error


def cached_embeddings(
    compute: Callable[[], Tensor],
    *,
    kind: str,
    key: Sequence[str],
    rows: int,
    about: dict[str, str],
    cache_dir: str | PathLike[str] | None = None,
    gaps: bool = False,
) -> Tensor:
    """What ``compute`` gives, read from the cache or kept there.

    A file is written whole or not at all, with a checksum. One that is damaged, or does not hold what it should, is
    warned of by its name, and is computed and written again; a folder that cannot be written is warned of.

    Args:
        compute: gives the embeddings ``[rows, D]``, unit rows.
        kind: the folder inside the cache.
        key: all that the embeddings depend on, the backbone's fingerprint first.
        rows: how many there are.
        about: notes for a person who looks into the file.
        cache_dir: None is the user's cache folder (`default_cache_dir`).
        gaps: whether a row may be NaN, for what cannot be embedded.
    """
    digest = hashlib.sha256("\0".join((_FORMAT, *key)).encode()).hexdigest()
    try:
        folder = local_path(cache_dir) if cache_dir is not None else default_cache_dir()
    except OSError as error:
        _warn(f"{kind} embeddings are not kept: {error}")
        return compute()
    path = folder / kind / f"{digest}.safetensors"
    found = _read(path, digest, rows, gaps)
    if found is not None:
        return found
    embeddings = compute()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_tensors(path, {"embeddings": embeddings}, {**about, "key": digest})
    except OSError as error:
        _warn(f"{kind} embeddings could not be kept in {path.parent}: {error}")
    return embeddings


def _read(path: Path, digest: str, rows: int, gaps: bool) -> Tensor | None:
    try:
        tensors, about = read_tensors(path)
        if about.get("key") != digest or "embeddings" not in tensors:
            raise ValueError("it holds something else")
        embeddings = tensors["embeddings"]
        if embeddings.ndim != 2 or len(embeddings) != rows:
            raise ValueError(f"it holds embeddings {list(embeddings.shape)}, not {rows} rows")
        if not embeddings.is_floating_point():
            raise ValueError(f"it holds {embeddings.dtype}, no floats")
        norms = torch.linalg.vector_norm(embeddings, dim=1, dtype=torch.float64)
        usable = (norms - 1).abs() <= _TOLERANCE
        if gaps:
            usable |= embeddings.isnan().all(dim=1)
        if not bool(usable.all()):
            row = int((~usable).nonzero()[0])
            raise ValueError(f"row {row} has norm {float(norms[row]):.4g}, not 1")
    except (FileNotFoundError, NotADirectoryError):  # of the latter, writing warns
        return None
    except (ValueError, OSError) as error:
        _warn(f"{path} cannot be used: {error}; it is computed and written again")
        return None
    return embeddings


def _warn(message: str) -> None:
    warnings.warn(message, stacklevel=4)
