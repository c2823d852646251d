"""LabelBank: ID and negative labels with their embeddings."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from os import PathLike
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from .checks import unit_embeddings, whole_number
from .corpus import TEMPLATES, Corpus
from .embedding_cache import cached_text_embeddings

if TYPE_CHECKING:
    from .backbones import Backbone

MINING_QUANTILE = 0.95
_MINING_ROWS = 4096


class LabelBank:
    """ID labels and negative labels, named and embedded by one backbone.

    Args:
        names: C + M label names, the ID labels first. No name occurs twice.
        embeddings: ``[C + M, D]``, unit rows in the same order; kept on their device.
        num_id: C, at least 1. M may be 0 for methods that use no negatives.
        logit_scale: s, what cosines are multiplied by (CLIP: 100).
        dtype: what they are kept as: float32, or float16 for half the memory. Products accumulate in float32
            either way; docs/speed.md says what half precision does to scores.

    Raises:
        TypeError: names that are not strings, embeddings that are not a floating tensor.
        ValueError: an empty or repeated name, no ID label, counts that do not fit, rows that are not unit
            vectors, a scale that is not positive.
    """

    def __init__(
        self,
        names: Sequence[str],
        embeddings: Tensor,
        *,
        num_id: int,
        logit_scale: float = 100.0,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        names = checked_names(names, "label")
        if dtype not in (torch.float32, torch.float16):
            raise ValueError(f"dtype must be torch.float32 or torch.float16, not {dtype!r}")
        whole_number(num_id, "num_id", at_least=1)
        if num_id > len(names):
            raise ValueError(f"num_id is {num_id}, but there are only {len(names)} labels")
        if not 0 < logit_scale < float("inf"):
            raise ValueError(f"logit_scale must be positive and finite, not {logit_scale}")
        embeddings = unit_embeddings(embeddings, "label embeddings", dtype=dtype)
        if len(embeddings) != len(names):
            raise ValueError(f"{len(names)} names, but {len(embeddings)} embeddings; give one row a name")
        self.names = names
        self.embeddings = embeddings.contiguous()
        self.num_id = num_id
        self.logit_scale = float(logit_scale)

    @classmethod
    def build(
        cls,
        backbone: Backbone,
        id_names: Sequence[str],
        *,
        corpus: Corpus | str | PathLike[str] | Iterable[str] | None = "wordnet",
        templates: Mapping[str, str] | None = None,
        cache_dir: str | PathLike[str] | None = None,
        progress: bool = False,
        dtype: torch.dtype = torch.float32,
    ) -> LabelBank:
        """Embed class names and a corpus of negative labels with a backbone.

        Words of the corpus that are an ID label, or a WordNet synonym of one, are left out. The corpus is
        embedded once for a backbone and a template and then read from the cache, whatever the ID labels.

        Args:
            backbone: what embeds the prompts; gives the logit scale too.
            id_names: the classes, at least one, none twice.
            corpus: a selection of WordNet by name, a text file, words, or None for no negatives.
            templates: prompt per part of speech, such as ``{"noun": "The nice {}."}``; what is not named
                keeps its default. ID labels take the noun's.
            cache_dir: where embeddings are kept; None is the user's cache folder (``TANL_CACHE``).
            progress: show progress bars.
            dtype: what the embeddings are kept as, float32 or float16.

        Raises:
            TypeError, ValueError: labels or corpus are unusable; the message names the offending one.
        """
        id_names = checked_names(id_names, "ID label")
        merged = _checked_templates(templates)
        id_embeddings = backbone.encode_texts([merged["noun"].format(name) for name in id_names])
        if corpus is None:
            return cls(
                id_names, id_embeddings, num_id=len(id_names), logit_scale=backbone.logit_scale, dtype=dtype
            )
        words = corpus if isinstance(corpus, Corpus) else Corpus.load(corpus)
        kept = words.without(id_names)
        embeddings = cached_text_embeddings(
            backbone,
            words.prompts(merged),
            cache_dir=cache_dir,
            progress=progress,
            title=f"corpus {words.name}",
        )
        row = {word: i for i, word in enumerate(words.words)}
        rows = torch.tensor([row[word] for word in kept.words], device=embeddings.device)
        return cls(
            [*id_names, *kept.words],
            torch.cat([id_embeddings, embeddings[rows]]),
            num_id=len(id_names),
            logit_scale=backbone.logit_scale,
            dtype=dtype,
        )

    @property
    def num_negatives(self) -> int:
        """M."""
        return len(self.names) - self.num_id

    @property
    def dim(self) -> int:
        """D."""
        return self.embeddings.shape[1]

    @property
    def device(self) -> torch.device:
        """Where the embeddings are, and where image embeddings must be."""
        return self.embeddings.device

    @property
    def id_names(self) -> tuple[str, ...]:
        """The C ID labels."""
        return self.names[: self.num_id]

    @property
    def negative_names(self) -> tuple[str, ...]:
        """The M negative labels."""
        return self.names[self.num_id :]

    @property
    def id_embeddings(self) -> Tensor:
        """``[C, D]`` float32."""
        return self.embeddings[: self.num_id].float()

    @property
    def negative_embeddings(self) -> Tensor:
        """``[M, D]``, as they are kept: float32 or float16."""
        return self.embeddings[self.num_id :]

    @property
    def dtype(self) -> torch.dtype:
        """What the embeddings are kept as: float32 or float16."""
        return self.embeddings.dtype

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of names, embeddings, C and the logit scale: two banks score alike when it is the same."""
        kept_as = (self.num_id, self.logit_scale, tuple(self.embeddings.shape), str(self.dtype))
        digest = hashlib.sha256(repr(kept_as).encode())
        digest.update("\0".join(self.names).encode())
        digest.update(self.embeddings.cpu().contiguous().numpy().data)
        return digest.hexdigest()

    def to(self, device: torch.device | str | None = None, *, dtype: torch.dtype | None = None) -> LabelBank:
        """The same labels with their embeddings on another device, or kept as another dtype.

        Args:
            device: where to; None leaves them where they are.
            dtype: float32 or float16; None leaves them as they are.
        """
        return LabelBank(
            self.names,
            self.embeddings.to(self.device if device is None else device),
            num_id=self.num_id,
            logit_scale=self.logit_scale,
            dtype=self.dtype if dtype is None else dtype,
        )

    def mined(self, count: int) -> LabelBank:
        """NegLabel's mining: keep the ``count`` negatives that are least similar to the ID labels.

        A negative's similarity to the ID labels is the 0.95 quantile of its cosines with them
        (arXiv 2403.20078, section 3.2). The least similar comes first; fewer than ``count`` are all kept.

        Args:
            count: how many negatives to keep, at least 1.
        """
        whole_number(count, "count", at_least=1)
        negatives = self.negative_embeddings
        similarity = torch.cat(
            [
                torch.quantile(part.float() @ self.id_embeddings.T, MINING_QUANTILE, dim=1)
                for part in torch.split(negatives, _MINING_ROWS)
            ]
        )
        order = similarity.sort(stable=True).indices[:count]
        names = self.negative_names
        return LabelBank(
            [*self.id_names, *(names[i] for i in order.tolist())],
            torch.cat([self.embeddings[: self.num_id], negatives[order]]),
            num_id=self.num_id,
            logit_scale=self.logit_scale,
            dtype=self.dtype,
        )

    def __repr__(self) -> str:
        return (
            f"LabelBank({self.num_id} ID labels, {self.num_negatives} negatives, D={self.dim}, {self.device}"
            f"{', float16' if self.dtype == torch.float16 else ''})"
        )


def checked_names(names: Sequence[str], what: str) -> tuple[str, ...]:
    """The names, or an error that tells which is empty, repeated or no string."""
    if isinstance(names, str):
        raise TypeError(f"{what}s must be a list of strings, not the one string {names!r}")
    names = tuple(names)
    for name in names:
        if not isinstance(name, str):
            raise TypeError(f"every {what} must be a string, not {name!r}")
        if not name.strip():
            raise ValueError(f"there is an empty {what}: {name!r}; leave it out")
    if not names:
        raise ValueError(f"no {what}s; give at least one")
    repeated = [name for name, count in Counter(names).items() if count > 1]
    if repeated:
        listed = ", ".join(map(repr, repeated[:5])) + (", ..." if len(repeated) > 5 else "")
        raise ValueError(f"{what}s occur more than once: {listed}; give each of them once")
    return names


def _checked_templates(templates: Mapping[str, str] | None) -> dict[str, str]:
    for part, template in (templates or {}).items():
        if part not in TEMPLATES:
            raise ValueError(f"no part of speech {part!r}; templates are for {', '.join(TEMPLATES)}")
        if not isinstance(template, str) or template.count("{}") != 1:
            raise ValueError(
                f"the template for {part!r} must hold {{}} once, for the label; it is {template!r}"
            )
    return {**TEMPLATES, **(templates or {})}
