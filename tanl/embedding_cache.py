"""Text embeddings on disk, so that a corpus is encoded once for a backbone and a template."""

from __future__ import annotations

import hashlib
import os
import tempfile
import warnings
from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

if TYPE_CHECKING:
    from .backbones import Backbone


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
    templates or words never meet. A file is written beside its place and moved into it, whole. A damaged file
    or a folder that cannot be written is warned of, and the embeddings are computed.
    """
    digest = hashlib.sha256(backbone.fingerprint.encode())
    digest.update("\0".join(prompts).encode())
    key = digest.hexdigest()
    path = Path(cache_dir or default_cache_dir()) / "text" / f"{key}.safetensors"
    found = _read(path, key)
    if found is not None:
        return found.to(backbone.device)
    embeddings = backbone.encode_texts(prompts, progress=progress, title=title)
    about = {"key": key, "backbone": backbone.name, "title": title, "first_prompt": prompts[0]}
    try:
        _write(path, embeddings, about)
    except OSError as error:
        warnings.warn(f"text embeddings could not be kept in {path.parent}: {error}", stacklevel=2)
    return embeddings


def _read(path: Path, key: str) -> Tensor | None:
    if not path.exists():
        return None
    try:
        with safe_open(path, framework="pt") as file:  # type: ignore[no-untyped-call]
            if (file.metadata() or {}).get("key") == key:
                embeddings: Tensor = file.get_tensor("embeddings")
                return embeddings
            reason = "it holds other embeddings"
    except (SafetensorError, OSError) as error:
        reason = str(error)
    warnings.warn(f"{path} cannot be used ({reason}); it is computed and written again", stacklevel=3)
    return None


def _write(path: Path, embeddings: Tensor, about: dict[str, str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=path.parent, suffix=".part", delete=False) as part:
        temporary = Path(part.name)
    try:
        save_file({"embeddings": embeddings.cpu().contiguous()}, temporary, metadata=about)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
