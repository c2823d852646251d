"""A label bank made with a backbone: prompts, embeddings from the cache, checks of what the model can tell."""

from __future__ import annotations

import logging
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from os import PathLike
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn.functional import normalize

from ..checks import unit_embeddings
from ..kernels.surroundings import product, undisturbed
from .bank import KEPT_TOLERANCE, LabelBank
from .corpus import Corpus
from .embedding import embed_texts
from .names import checked_id_names
from .prompts import full_templates
from .understood import told, understood_labels
from .wordnet import SELECTIONS

if TYPE_CHECKING:
    from ..backbones import Backbone

_LOG = logging.getLogger(__name__)

_ROUNDING = 1e-5  # distance of embeddings that differ by float32 rounding alone, at most
_NEAR = 1 - 1e-5  # cosine of embeddings that may be so near, at least
_COMPARED_ROWS = 1024
_SMALLER = "wordnet-10k"  # what is named to whom a corpus takes too long
_SURELY_READ = 30  # bytes
_LAST_WORD = re.compile(r"\w+\W*$")


@undisturbed
def build_bank(
    backbone: Backbone,
    id_names: Sequence[str],
    *,
    corpus: Corpus | str | PathLike[str] | Iterable[str] | None = "wordnet",
    templates: Mapping[str, str] | None = None,
    removal: str = "synonyms",
    cache_dir: str | PathLike[str] | None = None,
    progress: bool | None = None,
    dtype: torch.dtype = torch.float32,
) -> LabelBank:
    """Embed class names and a corpus of negative labels with a backbone.

    Words of the corpus that name an ID label are left out, see ``removal``. Each word is embedded once for a backbone
    and a template and then read from the cache, whatever the ID labels and the other words.

    Args:
        backbone: what embeds the prompts; gives the logit scale too.
        id_names: the classes, at least one, none twice.
        corpus: a selection of WordNet by name, a text file, words, or None for no negatives.
        templates: prompt per part of speech, such as ``{"noun": "The nice {}."}``, and for ID labels, such as
            ``{"id": "a chest X-ray showing {}."}``; what is not named keeps its default, which for ID labels
            is the noun's.
        removal: which words leave the corpus for the ID labels (`Corpus.without`): "synonyms", those that are an ID
            label or a WordNet synonym of one; "names", those spelled as an ID label is; "kinds", as "synonyms", and
            WordNet's hyponyms of the ID labels, and proper nouns.
        cache_dir: where embeddings are kept; None is the user's cache folder (``TANL_CACHE``).
        progress: show a progress bar while the corpus is embedded (where stderr is no terminal, a line a minute); None
            shows the bar on a terminal and otherwise writes to the log ``tanl``; False does neither.
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
        return LabelBank(
            id_names,
            id_embeddings,
            num_id=len(id_names),
            logit_scale=backbone.logit_scale,
            dtype=dtype,
        )
    words = corpus if isinstance(corpus, Corpus) else Corpus.load(corpus)
    kept = words.without(id_names, removal)
    log_understood(id_names, words, removal)
    id_embeddings = backbone.encode_texts(id_prompts)
    check_id_labels(backbone, id_names, id_embeddings, templates)
    embeddings = embed_texts(
        backbone,
        label_prompts((), words, templates),
        cache_dir=cache_dir,
        progress=progress,
        title=f"corpus {words.name}",
        cheaper=lambda: _smaller(words),
    )
    row = {word: i for i, word in enumerate(words.words)}
    rows = torch.tensor([row[word] for word in kept.words], dtype=torch.int64, device=embeddings.device)
    return LabelBank(
        [*id_names, *kept.words],
        torch.cat([id_embeddings, embeddings[rows]]),
        num_id=len(id_names),
        logit_scale=backbone.logit_scale,
        dtype=dtype,
    )


def _smaller(corpus: Corpus) -> tuple[str, int] | None:
    """A selection of WordNet that takes less time than this one, and its number of words."""
    if corpus.name not in SELECTIONS or corpus.name == _SMALLER:
        return None
    smaller = Corpus.load(_SMALLER)
    return (f"corpus {_SMALLER!r}", len(smaller)) if len(smaller) < len(corpus) else None


def log_understood(id_names: Sequence[str], corpus: Corpus, removal: str = "synonyms") -> None:
    """Log, at the level INFO, what was understood of ID labels."""
    if _LOG.isEnabledFor(logging.INFO):
        _LOG.info("%s", told(understood_labels(id_names, corpus, removal), corpus, removal))


def label_prompts(
    id_names: Iterable[str], negatives: Corpus | None, templates: Mapping[str, str] | None
) -> list[str]:
    """The prompt that each label is embedded with: the ID labels, then the negatives.

    Args:
        id_names: the ID labels.
        negatives: words that are not ID labels, or None.
        templates: as `build_bank` takes them.

    Raises:
        ValueError: an unusable template.
    """
    merged = full_templates(templates)
    # Composed accents: a tokenizer reads the same text otherwise when it is decomposed.
    prompts = [merged["id"].replace("{}", unicodedata.normalize("NFC", name)) for name in id_names]
    return prompts if negatives is None else prompts + negatives.prompts(merged)


@undisturbed
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
        templates: as `build_bank` takes them.
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
        near = product(rows[start : start + _COMPARED_ROWS], rows[later:].T) > _NEAR
        corner = torch.tensor([start, later], dtype=torch.int64, device=near.device)
        found = near.triu(diagonal=1 + start - later).nonzero() + corner
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
