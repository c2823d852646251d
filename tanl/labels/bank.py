"""LabelBank: ID and negative labels with their embeddings."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from os import PathLike
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn.functional import normalize

from ..checks import Embeddings, unit_embeddings, whole_number
from ..io.cache import cached_text_embeddings
from .corpus import TEMPLATES, Corpus

if TYPE_CHECKING:
    from ..backbones import Backbone

MINING_QUANTILE = 0.95
# Rows that a bank took as bfloat16 are no nearer to unit norm, whatever they are kept as.
KEPT_TOLERANCE = 1e-2
_MINING_ROWS = 4096
_ROUNDING = 1e-5  # distance of embeddings that differ by float32 rounding alone, at most
_NEAR = 1 - 1e-5  # cosine of embeddings that may be so near, at least
_COMPARED_ROWS = 1024
_SURELY_READ = 30  # bytes
_LAST_WORD = re.compile(r"\w+\W*$")
# Line breaks, tabs and the like, and halves of characters, which cannot be written to a file.
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


class LabelBank:
    """ID labels and negative labels, named and embedded by one backbone.

    Args:
        names: C + M label names, the ID labels first. No name occurs twice.
        embeddings: ``[C + M, D]``, a tensor or a NumPy array, unit rows in the same order; kept on their device.
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
        embeddings: Embeddings,
        *,
        num_id: int,
        logit_scale: float = 100.0,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self._set_up(names, unit_embeddings(embeddings, "label embeddings", dtype=dtype), num_id, logit_scale)

    @classmethod
    def _of_kept(
        cls,
        names: Sequence[str],
        embeddings: Tensor,
        *,
        num_id: int,
        logit_scale: float,
    ) -> LabelBank:
        """A bank of what was kept of one in a file: checked as any other, its rows as they are."""
        bank = cls.__new__(cls)
        rows = unit_embeddings(
            embeddings, "label embeddings", dtype=embeddings.dtype, tolerance=KEPT_TOLERANCE
        )
        bank._set_up(names, rows, num_id, logit_scale)
        return bank

    @classmethod
    def _of_checked(
        cls, names: tuple[str, ...], embeddings: Tensor, *, num_id: int, logit_scale: float
    ) -> LabelBank:
        """A bank of names and rows that were all checked, as the arguments of a bank are."""
        bank = cls.__new__(cls)
        bank._keep(names, embeddings, num_id, logit_scale)
        return bank

    def _set_up(self, names: Sequence[str], embeddings: Tensor, num_id: int, logit_scale: float) -> None:
        names = checked_names(names, "label")
        _checked_dtype(embeddings.dtype)
        whole_number(num_id, "num_id", at_least=1)
        if num_id > len(names):
            raise ValueError(f"num_id is {num_id}, but there are only {len(names)} labels")
        if not 0 < logit_scale < float("inf"):
            raise ValueError(f"logit_scale must be positive and finite, not {logit_scale}")
        if len(embeddings) != len(names):
            raise ValueError(f"{len(names)} names, but {len(embeddings)} embeddings; give one row a name")
        self._keep(names, embeddings, num_id, logit_scale)

    def _keep(self, names: tuple[str, ...], embeddings: Tensor, num_id: int, logit_scale: float) -> None:
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
            templates: prompt per part of speech, such as ``{"noun": "The nice {}."}``, and for ID labels, such as
                ``{"id": "a chest X-ray showing {}."}``; what is not named keeps its default, which for ID labels
                is the noun's.
            cache_dir: where embeddings are kept; None is the user's cache folder (``TANL_CACHE``).
            progress: show progress bars.
            dtype: what the embeddings are kept as, float32 or float16.

        Raises:
            TypeError, ValueError: labels or corpus are unusable, or the model gives two ID labels the same embedding,
                or does not read one to its end; the message names the offending one.
        """
        id_names = checked_id_names(id_names)
        id_prompts = label_prompts(id_names, None, templates)
        if corpus is None:
            id_embeddings = backbone.encode_texts(id_prompts)
            check_id_labels(backbone, id_names, id_embeddings, templates)
            return cls(
                id_names,
                id_embeddings,
                num_id=len(id_names),
                logit_scale=backbone.logit_scale,
                dtype=dtype,
            )
        words = corpus if isinstance(corpus, Corpus) else Corpus.load(corpus)
        kept = words.without(id_names)
        id_embeddings = backbone.encode_texts(id_prompts)
        check_id_labels(backbone, id_names, id_embeddings, templates)
        embeddings = cached_text_embeddings(
            backbone,
            label_prompts((), words, templates),
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

    def save(
        self,
        path: str | PathLike[str],
        *,
        initial_ood: Embeddings | None = None,
        backbone: Backbone | None = None,
    ) -> None:
        """Write the bank to one file (safetensors); `tanl.labels.files.save_bank` says what is in it."""
        from .files import save_bank

        save_bank(self, path, initial_ood=initial_ood, backbone=backbone)

    @classmethod
    def load(cls, path: str | PathLike[str], *, device: torch.device | str = "cpu") -> LabelBank:
        """The bank in a file that `save` or ``tanl bank`` made, bit for bit.

        `tanl.load_bank` also gives the outliers that TANL starts from, and which model embedded the labels.

        Raises:
            ValueError: not a bank's file, a damaged one, or one of a newer format than this version reads.
            OSError: it cannot be read.
        """
        from .files import load_bank

        return load_bank(path, device=device).bank

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

    @cached_property
    def names_fingerprint(self) -> str:
        """SHA-256 of names, C, D and the logit scale: the same for embeddings computed again on another machine."""
        kept_as = (self.num_id, self.dim, self.logit_scale)
        return hashlib.sha256("\0".join([repr(kept_as), *self.names]).encode()).hexdigest()

    def to(self, device: torch.device | str | None = None, *, dtype: torch.dtype | None = None) -> LabelBank:
        """The same labels with their embeddings on another device, or kept as another dtype.

        Args:
            device: where to; None leaves them where they are.
            dtype: float32 or float16; None leaves them as they are.
        """
        dtype = _checked_dtype(self.dtype if dtype is None else dtype)
        embeddings = self.embeddings.to(self.device if device is None else device, dtype)
        return self._of_checked(self.names, embeddings, num_id=self.num_id, logit_scale=self.logit_scale)

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
        return self._of_checked(
            (*self.id_names, *(names[i] for i in order.tolist())),
            torch.cat([self.embeddings[: self.num_id], negatives[order]]),
            num_id=self.num_id,
            logit_scale=self.logit_scale,
        )

    def __repr__(self) -> str:
        return (
            f"LabelBank({self.num_id} ID labels, {self.num_negatives} negatives, D={self.dim}, {self.device}"
            f"{', float16' if self.dtype == torch.float16 else ''})"
        )


def _checked_dtype(dtype: torch.dtype) -> torch.dtype:
    if dtype not in (torch.float32, torch.float16):
        raise ValueError(f"dtype must be torch.float32 or torch.float16, not {dtype!r}")
    return dtype


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


def checked_id_names(names: Sequence[str]) -> tuple[str, ...]:
    """The ID labels, or an error that tells which is no plain text: such as a line that was read with its end."""
    names = checked_names(names, "ID label")
    for name in names:
        if name != name.strip():
            raise ValueError(f"ID label {name!r:.80} has spaces around it; give {name.strip()!r:.80}")
        if not name.isprintable() and (found := _CONTROL.search(name)):
            raise ValueError(
                f"ID label {name!r:.80} holds {found[0]!r}; give text without tabs, line breaks and control characters"
            )
    return names


def label_prompts(
    id_names: Iterable[str], negatives: Corpus | None, templates: Mapping[str, str] | None
) -> list[str]:
    """The prompt that each label is embedded with: the ID labels, then the negatives.

    Args:
        id_names: the ID labels.
        negatives: words that are not ID labels, or None.
        templates: as `LabelBank.build` takes them.

    Raises:
        ValueError: an unusable template.
    """
    merged = full_templates(templates)
    prompts = [merged["id"].replace("{}", name) for name in id_names]
    return prompts if negatives is None else prompts + negatives.prompts(merged)


def full_templates(templates: Mapping[str, str] | None) -> dict[str, str]:
    """The template of every part of speech, and "id": that of the ID labels.

    Raises:
        ValueError: one for something else, or one that does not hold ``{}`` once.
    """
    for part, template in (templates or {}).items():
        if part not in TEMPLATES and part != "id":
            raise ValueError(f"no part of speech {part!r}; templates are for {', '.join(TEMPLATES)} and id")
        if not isinstance(template, str) or template.count("{}") != 1:
            raise ValueError(
                f"the template for {part!r} must hold {{}} once, for the label; it is {template!r}"
            )
    merged = {**TEMPLATES, **(templates or {})}
    merged.setdefault("id", merged["noun"])
    return merged


def check_id_labels(
    backbone: Backbone,
    names: Sequence[str],
    embeddings: Tensor,
    templates: Mapping[str, str] | None,
    *,
    first_new: int = 0,
) -> None:
    """Refuse ID labels that the model cannot tell apart, or does not read to their ends.

    Args:
        backbone: what embedded them; prompts of over 30 bytes are embedded again, with and without the last word.
        names: the ID labels.
        embeddings: of their prompts, ``[C, D]``.
        templates: as `LabelBank.build` takes them.
        first_new: where the labels begin that were not checked before.

    Raises:
        ValueError: two labels with the same embedding; one whose last word makes no difference to the model.
    """
    rows = normalize(unit_embeddings(embeddings, "label embeddings", tolerance=KEPT_TOLERANCE), dim=1)
    template = full_templates(templates)["id"]
    # A prompt of few bytes has no more tokens, and fits into any context.
    long = [
        i
        for i, prompt in enumerate(label_prompts(names, None, templates))
        if i >= first_new and len(prompt.encode()) > _SURELY_READ
    ]
    if long:
        # Whole and shortened in one call: in half precision, equal texts of two calls differ.
        whole = label_prompts([names[i] for i in long], None, templates)
        shorter = [template.replace("{}", _without_end(names[i])) for i in long]
        both = backbone.encode_texts([*whole, *shorter])
        for i, unread in zip(long, _same(both[: len(long)], both[len(long) :]).tolist(), strict=True):
            if unread:
                raise ValueError(
                    f"the end of ID label {_shortened(names[i])!r} makes no difference to {backbone.name}: a model "
                    "reads a limited number of tokens and cuts off the rest; give a shorter label"
                )
    for start in range(0, len(names), _COMPARED_ROWS):
        later = max(start, first_new)
        near = rows[start : start + _COMPARED_ROWS] @ rows[later:].T > _NEAR
        found = near.triu(diagonal=1 + start - later).nonzero() + torch.tensor([start, later]).to(near.device)
        for pairs in torch.split(found, _COMPARED_ROWS):
            for i, j in pairs[_same(rows[pairs[:, 0]], rows[pairs[:, 1]])].tolist():
                raise ValueError(
                    f"{backbone.name} cannot tell the ID labels {_shortened(names[i])!r} and {_shortened(names[j])!r} "
                    "apart: it reads them as the same text (case or spaces make no difference to it, or it knows "
                    "neither word); keep one of them, or name them in other words"
                )


def _without_end(label: str) -> str:
    """The label less its last word, or half of a label that is one word."""
    shorter = _LAST_WORD.sub("", label)
    return shorter if shorter.strip() else label[: len(label) // 2]


def _same(first: Tensor, second: Tensor) -> Tensor:
    """Which rows ``[n, D]`` of unit vectors are the same up to rounding, ``[n]``."""
    # Not by their cosines, which float32 rounds to 1 for vectors that are a hundred times as far apart.
    distance: Tensor = torch.linalg.vector_norm(first.float() - second.float(), dim=1)
    return distance < _ROUNDING


def _shortened(label: str) -> str:
    return label if len(label) <= 60 else f"{label[:40]}...{label[-17:]}"
