"""Embeddings on disk, so that a corpus or a folder of images is encoded once for a backbone."""

from __future__ import annotations

import hashlib
import os
import warnings
from collections.abc import Callable, Sequence
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from .atomic import write_whole

if TYPE_CHECKING:
    from ..backbones import Backbone


def default_cache_dir() -> Path:
    """``TANL_CACHE`` where it is set, else ``tanl`` in the user's cache folder."""
    if own := os.environ.get("TANL_CACHE"):
        return Path(own)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tanl"


def cached_text_embeddings(
    backbone: Backbone,
    prompts: Sequence[str],
    *,
    cache_dir: str | PathLike[str] | None = None,
    progress: bool = False,
    title: str = "texts",
) -> Tensor:
    """Embeddings of prompts ``[n, D]`` (unit rows, float32), read from the cache or encoded and kept there.

    The key is the SHA-256 of the backbone's fingerprint and of all prompts in order, so that other weights,
    templates or words never meet; see `cached_embeddings`.
    """
    return cached_embeddings(
        lambda: backbone.encode_texts(prompts, progress=progress, title=title),
        kind="text",
        key=(backbone.fingerprint, *prompts),
        about={"backbone": backbone.name, "title": title, "first_prompt": prompts[0]},
        cache_dir=cache_dir,
    ).to(backbone.device)


def cached_embeddings(
    compute: Callable[[], Tensor],
    *,
    kind: str,
    key: Sequence[str],
    about: dict[str, str],
    cache_dir: str | PathLike[str] | None = None,
) -> Tensor:
    """What ``compute`` gives, read from the cache or kept there.

    A file is written whole or not at all. A damaged file or a folder that cannot be
    written is warned of, and the embeddings are computed.

    Args:
        compute: gives the embeddings ``[n, D]``.
        kind: the folder inside the cache.
        key: all that the embeddings depend on, the backbone's fingerprint first.
        about: notes for a person who looks into the file.
        cache_dir: None is the user's cache folder (`default_cache_dir`).
    """
    digest = hashlib.sha256("\0".join(key).encode()).hexdigest()
    path = Path(cache_dir or default_cache_dir()) / kind / f"{digest}.safetensors"
    found = _read(path, digest)
    if found is not None:
        return found
    embeddings = compute()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        tensors = {"embeddings": embeddings.cpu().contiguous()}
        write_whole(path, lambda part: save_file(tensors, part, metadata={**about, "key": digest}))
    except OSError as error:
        warnings.warn(f"{kind} embeddings could not be kept in {path.parent}: {error}", stacklevel=3)
    return embeddings


def _read(path: Path, digest: str) -> Tensor | None:
    if not path.exists():
        return None
    try:
        with safe_open(path, framework="pt") as file:  # type: ignore[no-untyped-call]
            if (file.metadata() or {}).get("key") == digest:
                embeddings: Tensor = file.get_tensor("embeddings")
                return embeddings
            reason = "it holds other embeddings"
    except (SafetensorError, OSError) as error:
        reason = str(error)
    warnings.warn(f"{path} cannot be used ({reason}); it is computed and written again", stacklevel=4)
    return None
