"""Texts embedded once for a backbone: kept as they come, so that a run that is stopped goes on where it was."""

from __future__ import annotations

import logging
import time
import warnings
from collections.abc import Callable, Sequence
from os import PathLike
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..checks import unit_embeddings
from ..io.cache import default_cache_dir
from ..io.paths import local_path
from ..io.progress import Progress, duration
from ..io.text import shown_path
from ..io.text_store import Found, TextStore
from ..kernels.surroundings import undisturbed
from .bank import KEPT_TOLERANCE

if TYPE_CHECKING:
    from ..backbones import Backbone

_LOG = logging.getLogger(__name__)

_AT_ONCE = 1024  # texts that a backbone is given
_KEPT_ROWS, _KEPT_SECONDS = 8192, 30.0  # what a file holds at most, and how long embeddings wait for one
_WORTH_TELLING = 20.0  # seconds of work that are told before they begin


@undisturbed
def embed_texts(
    backbone: Backbone,
    texts: Sequence[str],
    *,
    cache_dir: str | PathLike[str] | None = None,
    progress: bool | None = None,
    title: str = "texts",
    cheaper: Callable[[], tuple[str, int] | None] | None = None,
) -> Tensor:
    """Embeddings of texts ``[n, D]`` (unit rows, float32, on the backbone's device), from the cache as far as they are
    there.

    What the cache lacks is embedded and kept there a few thousand texts at a time: a run that is interrupted or killed
    loses less than a minute's work. A text's embedding is the same bits whenever it is asked for, whatever the texts
    beside it. Several processes may embed with one model at once; each takes what others have kept meanwhile.

    Args:
        backbone: what embeds them; they are found by its fingerprint.
        texts: one or more.
        cache_dir: the cache; None is the user's cache folder (``TANL_CACHE``).
        progress: as `build_bank` takes it.
        title: of the texts, for people.
        cheaper: gives, for a run that takes long, what takes less time in words, and its number of texts.

    Raises:
        ValueError: the model gives a row that is not of unit norm.
    """
    unique = list(dict.fromkeys(texts))
    store = _store(backbone, cache_dir)
    found = (
        Found(None, torch.zeros(len(unique), dtype=torch.bool, device="cpu"))
        if store is None
        else store.read(unique)
    )
    if not bool(found.is_there.all()):
        run = _Run(backbone, unique, found, store, progress, title, cheaper)
        found = run.finish()
    rows = found.rows
    assert rows is not None, "all texts are there"
    if len(unique) < len(texts):
        place = {text: i for i, text in enumerate(unique)}
        rows = rows[torch.tensor([place[text] for text in texts], dtype=torch.int64, device="cpu")]
    return rows.to(backbone.device)


class _Run:
    """Embedding what is not there yet."""

    def __init__(
        self,
        backbone: Backbone,
        texts: list[str],
        found: Found,
        store: TextStore | None,
        progress: bool | None,
        title: str,
        cheaper: Callable[[], tuple[str, int] | None] | None,
    ) -> None:
        self._backbone, self._texts, self._store = backbone, texts, store
        self._rows, self._is_there = found.rows, found.is_there
        self._seen = set() if store is None else set(store.files())
        self._met_others = False
        self._pending: list[int] = []
        self._since = time.monotonic()
        self._cheaper = cheaper
        log = _LOG if progress is None else None
        self._progress = Progress(
            self._missing, "texts", title=f"embedding {title}", quiet=progress is False, log=log
        )

    @property
    def _missing(self) -> int:
        return len(self._texts) - int(self._is_there.sum())

    def finish(self) -> Found:
        """Embed all that is missing."""
        total, started = self._missing, time.monotonic()
        with self._progress as bar:
            try:
                while self._missing:
                    before = self._missing
                    self._embed(torch.nonzero(~self._is_there)[:_AT_ONCE, 0].tolist())
                    if before == total and self._missing:
                        self._estimate((time.monotonic() - started) / (total - self._missing))
                    full = len(self._pending) >= _KEPT_ROWS or time.monotonic() - self._since >= _KEPT_SECONDS
                    if full or not self._missing:
                        self._keep()
                        self._take_from_others()
                    bar.update(before - self._missing)
            except BaseException:
                self._keep()
                if self._store is not None and 0 < self._missing < total:
                    done = len(self._texts) - self._missing
                    bar.tell(f"{done} of {len(self._texts)} texts are kept; the next run goes on from there")
                raise
        if self._met_others and self._store is not None:
            # What was kept first counts for everyone, also where another process embedded the same text.
            kept = self._store.read(self._texts)
            if bool(kept.is_there.all()):
                return kept
        return Found(self._rows, self._is_there)

    def _embed(self, chosen: list[int]) -> None:
        encoded = self._backbone.encode_texts([self._texts[i] for i in chosen])
        rows = unit_embeddings(encoded, "label embeddings", tolerance=KEPT_TOLERANCE).cpu()
        if len(rows) != len(chosen):
            raise ValueError(f"{self._backbone.name} gives {len(rows)} embeddings for {len(chosen)} texts")
        if self._rows is None:
            self._rows = torch.empty(len(self._texts), rows.shape[1], dtype=torch.float32, device="cpu")
        if rows.shape[1] != self._rows.shape[1]:
            raise ValueError(
                f"{self._backbone.name} gives D = {rows.shape[1]}, but the cache has D = {self._rows.shape[1]} for a "
                "model of its fingerprint; give models that differ fingerprints that do"
            )
        places = torch.tensor(chosen, dtype=torch.int64, device="cpu")
        self._rows[places] = rows
        self._is_there[places] = True
        self._pending += chosen

    def _keep(self) -> None:
        """Write what has not been written."""
        pending, self._pending, self._since = self._pending, [], time.monotonic()
        if self._store is None or not pending:
            return
        assert self._rows is not None, "there are texts that were embedded"
        try:
            rows = self._rows[torch.tensor(pending, dtype=torch.int64, device="cpu")]
            self._seen.add(self._store.write([self._texts[i] for i in pending], rows))
        except OSError as error:
            warnings.warn(f"text embeddings could not be kept in {self._store.folder}: {error}", stacklevel=2)
            self._store = None  # told once, not with every file

    def _take_from_others(self) -> None:
        """Take what other processes have kept meanwhile."""
        if self._store is None:
            return
        files = set(self._store.files())
        if not files - self._seen:
            return
        self._seen |= files
        self._met_others = True
        missing = torch.nonzero(~self._is_there)[:, 0]
        if len(missing) == 0:
            return
        found = self._store.read([self._texts[i] for i in missing.tolist()])
        if found.rows is not None and self._rows is not None and found.rows.shape[1] == self._rows.shape[1]:
            there = missing[found.is_there]
            self._rows[there] = found.rows[found.is_there]
            self._is_there[there] = True

    def _estimate(self, seconds_a_text: float) -> None:
        seconds = seconds_a_text * self._missing
        if seconds < _WORTH_TELLING:
            return
        device = self._backbone.device
        where = "this processor" if device.type == "cpu" else device
        parts = [
            f"{self._missing} texts to embed with {self._backbone.name}: about {duration(seconds)} on {where}, once"
        ]
        if self._store is not None:
            parts.append(f"they are kept in {shown_path(self._store.cache)}")
        cheaper = None if self._cheaper is None else self._cheaper()
        if cheaper is not None:
            what, count = cheaper
            parts.append(f"{what} takes {duration(seconds_a_text * count)}")
        self._progress.tell("; ".join(parts))


def _store(backbone: Backbone, cache_dir: str | PathLike[str] | None) -> TextStore | None:
    try:
        cache = local_path(cache_dir) if cache_dir is not None else default_cache_dir()
    except OSError as error:
        warnings.warn(f"text embeddings are not kept: {error}", stacklevel=3)
        return None
    return TextStore(cache, backbone.fingerprint, backbone.name)
