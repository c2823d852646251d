"""The joint space: what an ImageNet classifier's rows make of photographs, and of every word that WordNet knows.

A row of the classifier is what a photograph of its class looks like to the trunk, so a thousand names have a
prototype without one photograph. :func:`project` takes the rows' principal directions as the image projection;
:class:`RowMap` carries the rows over to other words by kernel ridge regression.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from .wordnet import Nouns

ANCESTOR_SHARE = 0.3
"""Of the kernel that is WordNet's; names and descriptions share the rest alike."""
_SHARPNESS = 2.0
_RIDGE = 0.1
_CHUNK = 8192
_USUAL_SENSES = 3
_HYPERNYM_SHRINKAGE = 0.5


@dataclass(frozen=True)
class Projection:
    """Pooled features to the joint space: ``weight`` [k, 1280], ``bias`` [k]; and the classes' ``rows`` [1000, k]."""

    weight: Tensor
    bias: Tensor
    rows: Tensor


def project(weight: Tensor, bias: Tensor, dimensions: int) -> Projection:
    """The leading principal directions of a classifier's ``weight`` [1000, 1280], its ``bias`` [1000] folded in.

    What all classes share cannot tell them apart, so rows are centred. The classifier's logits grow with the length
    of a row, a cosine's do not: rows keep the square root of their length, the longest has norm 1.
    """
    centred = weight - weight.mean(0)
    basis = torch.linalg.svd(centred, full_matrices=False)[2][:dimensions]
    # An SVD leaves each direction's sign open, and machines differ in it.
    basis = basis * basis.gather(1, basis.abs().argmax(dim=1, keepdim=True)).sign()
    rows = centred @ basis.T
    shift = torch.linalg.lstsq(rows, (bias - bias.mean())[:, None]).solution[:, 0]
    norms = rows.norm(dim=1, keepdim=True)
    return Projection(basis, shift, rows / (norms * norms.max()).sqrt())


@dataclass(frozen=True)
class Words:
    """Texts with their meaning where one is known: an offset of WordNet.

    ``names`` and ``descriptions`` are the teacher's unit embeddings [N, 384] of the text and of its meaning's
    description; a text without a meaning has its name in both.
    """

    texts: Sequence[str]
    meanings: Sequence[str | None]
    names: Tensor
    descriptions: Tensor

    def chunk(self, start: int, size: int) -> Words:
        end = start + size
        return Words(
            self.texts[start:end],
            self.meanings[start:end],
            self.names[start:end],
            self.descriptions[start:end],
        )


def visible(nouns: Nouns, offsets: Sequence[str]) -> dict[str, tuple[int, ...]]:
    """The meanings that the classes with these ``offsets`` show, with the classes that do.

    Those are their own, and what two of them or more are kinds of.
    """
    below: dict[str, list[int]] = {}
    for index, offset in enumerate(offsets):
        for ancestor in nouns.ancestors(offset):
            below.setdefault(ancestor, []).append(index)
    shown: dict[str, tuple[int, ...]] = {offset: (index,) for index, offset in enumerate(offsets)}
    for offset in sorted(below):
        if len(below[offset]) > 1:
            shown.setdefault(offset, tuple(below[offset]))
    return shown


def meaning_of(nouns: Nouns, seen: Container[str], word: str) -> str | None:
    """What a word means in a photograph: the first of its usual senses that can be seen, else its most frequent one.

    A turtle is no turtleneck, which WordNet has first. None for a word that is no noun.
    """
    senses = nouns.senses.get(word, ())
    return next((sense for sense in senses[:_USUAL_SENSES] if sense in seen), senses[0] if senses else None)


def taught_words(
    nouns: Nouns, class_names: Sequence[Sequence[str]], offsets: Sequence[str]
) -> dict[str, tuple[str, tuple[int, ...]]]:
    """The words whose row is known: text -> (meaning, classes that its row is the mean of).

    Those are each class's own names, and every other word for a visible meaning that means it in a photograph.
    """
    words: dict[str, tuple[str, tuple[int, ...]]] = {}
    for index, names in enumerate(class_names):
        for name in names:
            words.setdefault(name.lower(), (offsets[index], (index,)))
    seen = visible(nouns, offsets)
    for meaning, classes in seen.items():
        for word in nouns.synsets[meaning].words:
            if meaning_of(nouns, seen, word) == meaning:
                words.setdefault(word, (meaning, classes))
    return words


class RowMap:
    """Words to rows, fitted on words whose rows are known.

    Args:
        nouns: WordNet.
        words: N words.
        rows: [N, k], theirs.
        offsets: the classes' meanings, whose ancestors the kernel compares by.
    """

    def __init__(self, nouns: Nouns, words: Words, rows: Tensor, offsets: Sequence[str]) -> None:
        counts = Counter(ancestor for offset in offsets for ancestor in nouns.ancestors(offset))
        self._nouns, self._words = nouns, words
        self._columns = {offset: column for column, offset in enumerate(sorted(counts))}
        # An ancestor counts by what it tells: one of all classes tells nothing.
        shares = torch.tensor([counts[offset] for offset in sorted(counts)]) / len(offsets)
        self._information = (-shares.log()).clamp_min(0).sqrt()
        self._ancestry = self._ancestry_of(words)
        self._mean = rows.mean(0)
        kernel = self._kernel(words)
        self._coefficients = torch.linalg.solve(kernel + _RIDGE * torch.eye(len(rows)), rows - self._mean)

    def __call__(self, words: Words) -> Tensor:
        """Rows [N, k]."""
        chunks = [words.chunk(start, _CHUNK) for start in range(0, len(words.texts), _CHUNK)]
        return torch.cat([self._mean + self._kernel(chunk) @ self._coefficients for chunk in chunks])

    def _ancestry_of(self, words: Words) -> Tensor:
        """Unit vectors [N, A] of weighted ancestors; zero where no meaning is known."""
        ancestry = torch.zeros(len(words.texts), len(self._columns))
        for row, meaning in enumerate(words.meanings):
            if meaning is not None:
                known = [self._columns[o] for o in self._nouns.ancestors(meaning) if o in self._columns]
                ancestry[row, known] = self._information[known]
        return F.normalize(ancestry, dim=1)

    def _kernel(self, words: Words) -> Tensor:
        texts = [
            (-_SHARPNESS * (2 - 2 * given @ own.T)).exp()
            for given, own in (
                (words.names, self._words.names),
                (words.descriptions, self._words.descriptions),
            )
        ]
        ancestry = self._ancestry_of(words) @ self._ancestry.T
        return ANCESTOR_SHARE * ancestry + (1 - ANCESTOR_SHARE) / 2 * (texts[0] + texts[1])


def known_rows(rows: Tensor, words: Mapping[str, tuple[str, tuple[int, ...]]]) -> Tensor:
    """The row of each taught word: its class's, or the mean of those below it, lengthened towards theirs.

    Rows of unlike classes cancel in the mean; half of what is lost (in the exponent) is given back.
    """
    return torch.stack([_mean_row(rows[list(classes)]) for _, classes in words.values()])


def _mean_row(rows: Tensor) -> Tensor:
    mean = rows.mean(0)
    return mean if len(rows) == 1 else mean / (mean.norm() / rows.norm(dim=1).mean()) ** _HYPERNYM_SHRINKAGE
