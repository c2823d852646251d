"""WordNet 3.0: its synsets, the selections of its words, and the synonyms of a word.

It ships with the package (``corpora/README.md`` says how it was made), is read on first use and kept in memory.
"""

from __future__ import annotations

import gzip
import unicodedata
from collections.abc import Iterable, Mapping
from functools import lru_cache
from importlib import resources
from types import MappingProxyType
from typing import NamedTuple

from .names import normalise

SELECTIONS: Mapping[str, str] = MappingProxyType(
    {
        "wordnet": "all nouns and adjectives of WordNet 3.0",
        "wordnet-nouns": "all nouns of WordNet 3.0",
        "neglabel": "NegLabel's: the first word of each synset, nouns for animals and food left out",
        "csp": "CSP's: NegLabel's, less persons, quantities, groups, and adjectives that pertain to a noun",
        "wordnet-medical": "WordNet's words for anatomy, diseases, medical instruments and substances",
    }
)

_LEAVES_OUT = {
    "neglabel": frozenset({"noun.animal", "noun.food"}),
    "csp": frozenset({"noun.animal", "noun.food", "noun.person", "noun.quantity", "noun.group", "adj.pert"}),
}


class _Synset(NamedTuple):
    part_of_speech: str
    lexicographer_file: str
    lemmas: tuple[str, ...]


def merge_spellings(words: Iterable[str]) -> dict[str, str]:
    """One spelling for words that differ only by case, keyed by the case-folded word, in order of appearance.

    The spelling with the fewest capitals is kept, so that ``china`` stands for ``China`` too.
    """
    merged: dict[str, str] = {}
    for word in words:
        kept = merged.setdefault(word.casefold(), word)
        if kept != word and _capitals(word) < _capitals(kept):
            merged[word.casefold()] = word
    return merged


def _capitals(word: str) -> int:
    return sum(map(str.isupper, word))


@lru_cache(maxsize=1)
def _read_wordnet() -> tuple[_Synset, ...]:
    return _read_synsets("wordnet.tsv.gz")


def _read_synsets(file: str) -> tuple[_Synset, ...]:
    packed = resources.files("tanl.corpora").joinpath(file).read_bytes()
    synsets = []
    for line in gzip.decompress(packed).decode("utf-8").splitlines():
        part, lexicographer_file, *lemmas = line.split("\t")
        synsets.append(_Synset(part, lexicographer_file, tuple(lemmas)))
    return tuple(synsets)


@lru_cache(maxsize=1)
def _spellings() -> dict[str, str]:
    """The one spelling of every lemma, whatever the selection, keyed by its case-folded form."""
    return merge_spellings(lemma for synset in _read_wordnet() for lemma in synset.lemmas)


def selected_words(name: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The words of a selection in a fixed order, and their parts of speech."""
    parts: dict[str, str] = {}
    synsets = _read_synsets("wordnet_medical.tsv.gz") if name == "wordnet-medical" else _read_wordnet()
    # Nouns come before adjectives in the files, so a word that is both stays a noun.
    for synset in synsets:
        lemmas = synset.lemmas
        if name in _LEAVES_OUT:
            lemmas = () if synset.lexicographer_file in _LEAVES_OUT[name] else lemmas[:1]
        elif name == "wordnet-nouns" and synset.part_of_speech != "noun":
            break
        for lemma in lemmas:
            parts.setdefault(lemma.casefold(), synset.part_of_speech)
    spellings = _spellings()
    return tuple(spellings[key] for key in parts), tuple(parts.values())


@lru_cache(maxsize=1)
def _noun_index() -> dict[str, list[tuple[str, ...]]]:
    """Normalised noun -> the normalised lemmas of each of its synsets."""
    index: dict[str, list[tuple[str, ...]]] = {}
    for synset in _read_wordnet():
        if synset.part_of_speech == "noun":
            lemmas = tuple(normalise(lemma) for lemma in synset.lemmas)
            for lemma in lemmas:
                index.setdefault(lemma, []).append(lemmas)
    return index


_IRREGULAR = MappingProxyType(
    {
        "children": "child",
        "dice": "die",
        "feet": "foot",
        "geese": "goose",
        "lice": "louse",
        "mice": "mouse",
        "oxen": "ox",
        "people": "person",
        "teeth": "tooth",
    }
)
# Endings of plurals and what they are in the singular, as WordNet's own morphology has them, and Latin's.
_PLURALS = (
    ("s", ""),
    ("es", ""),
    ("ies", "y"),
    ("ves", "f"),
    ("ves", "fe"),
    ("men", "man"),
    ("i", "us"),
    ("a", "um"),
    ("ae", "a"),
    ("ices", "ex"),
    ("ices", "ix"),
)


def known_forms(word: str) -> tuple[str, ...]:
    """A normalised word, and what WordNet knows it as if it does not know it so: in the singular, without accents."""
    index = _noun_index()
    if word in index:
        return (word,)
    plain = word
    if not word.isascii():
        plain = "".join(
            each for each in unicodedata.normalize("NFKD", word) if not unicodedata.combining(each)
        )
        if plain in index:
            return (word, plain)
    head, _, last = plain.rpartition(" ")
    stems = [_IRREGULAR[last]] if last in _IRREGULAR else []
    stems += [last[: len(last) - len(plural)] + one for plural, one in _PLURALS if last.endswith(plural)]
    singular = (f"{head} {stem}" if head else stem for stem in stems)
    return (word, *(form for form in singular if form in index))


def is_known(word: str) -> bool:
    """Whether WordNet has a normalised word among its nouns, in the singular or plural."""
    index = _noun_index()
    return any(form in index for form in known_forms(word))


def related(word: str) -> set[str]:
    """A normalised word, its known forms, and every spelling that shares a noun synset with one of them, normalised."""
    index = _noun_index()
    found: set[str] = set()
    for form in known_forms(word):
        found.add(form)
        for lemmas in index.get(form, ()):
            found.update(lemmas)
    return found
