"""What was understood of ID labels, and which words leave the negatives for each of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..io.text import first_of, some_of
from .corpus import Corpus
from .names import checked_id_names
from .terms import REMOVALS, terms_of

_SHOWN = 5


@dataclass(frozen=True)
class UnderstoodLabel:
    """What was understood of an ID label.

    Attributes:
        label: as it is shown.
        terms: what it stands for, in the form that words are compared in; the label itself is the first.
        removed: the words of the corpus that leave the negatives for it, in the corpus's order.
    """

    label: str
    terms: tuple[str, ...]
    removed: tuple[str, ...]


def understood_labels(
    labels: Sequence[str], corpus: Corpus, removal: str = "synonyms"
) -> list[UnderstoodLabel]:
    """What was understood of each ID label, and which words of a corpus leave the negatives for it.

    A word that several labels claim is told for each of them. A label that claims none is the one to look at: its own
    word may be among the negatives under another name, and then counts against it.

    Raises:
        TypeError, ValueError: unusable labels.
    """
    return [
        UnderstoodLabel(label, terms_of(label), corpus.words_for([label], removal))
        for label in checked_id_names(labels)
    ]


def told(understood: Sequence[UnderstoodLabel], corpus: Corpus, removal: str = "synonyms") -> str:
    """The same in one line: how many words leave, which labels were read otherwise than they are written, and for
    which no word was found.
    """
    removed = {word for each in understood for word in each.removed}
    parts = [f"{len(removed)} of the {len(corpus)} words of {corpus.name} are {REMOVALS[removal]}"]
    if read := [
        f"{each.label!r} as {' and '.join(map(repr, each.terms[1:]))}"
        for each in understood
        if each.terms[1:]
    ]:
        parts.append(f"understood {first_of(read, _SHOWN)}")
    if unknown := [each.label for each in understood if not each.removed]:
        parts.append(f"no word found for {some_of(unknown, _SHOWN)}")
    return "; ".join(parts)
