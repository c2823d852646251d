"""WordNet 3.0: its synsets, the selections of its words, and the synonyms and kinds of a word.

It ships with the package (``corpora/README.md`` says how it was made), is read on first use and kept in memory.
"""

from __future__ import annotations

import gzip
import hashlib
import re
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
        "wordnet-30k": "the 30 000 words of wordnet that have most kinds: what stands for many others",
        "wordnet-10k": "the 10 000 words of wordnet that have most kinds",
        "wordnet-nouns": "all nouns of WordNet 3.0",
        "neglabel": "NegLabel's, word for word: first words of WordNet 3.1's synsets, without animals and food",
        "csp": "CSP's: NegLabel's, less persons, quantities, groups, and adjectives that pertain to a noun",
        "wordnet-medical": "WordNet's words for anatomy, diseases, medical instruments and substances",
    }
)

_FROM_NEGLABEL = {
    "neglabel": frozenset[str](),
    "csp": frozenset({"noun.person", "noun.quantity", "noun.group", "adj.pert"}),
}
"""The selections of NegLabel's words, and the lexicographer files that each leaves out."""

_MOST_GENERAL = {"wordnet-10k": 10_000, "wordnet-30k": 30_000}
"""The selections of the words with the most kinds, and how many."""

# A word of a name: capital and small letters, as in "New York" and "Equidae", and not in "T-shirt" and "DVD".
_NAME_PART = re.compile(r"[A-Z][a-z]|(?:of|the|and|in|de|la|du|von|van)$")


class Synset(NamedTuple):
    part_of_speech: str
    lexicographer_file: str
    hypernyms: str  # numbers of synsets, commas between; "i" before one that this is an instance of
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
def synsets_of_wordnet() -> tuple[Synset, ...]:
    rows = _read("wordnet.tsv.gz")
    return tuple(Synset(part, file, above, tuple(lemmas)) for part, file, above, *lemmas in rows)


def _read(file: str) -> list[list[str]]:
    packed = resources.files("tanl.corpora").joinpath(file).read_bytes()
    return [line.split("\t") for line in gzip.decompress(packed).decode("utf-8").splitlines()]


@lru_cache(maxsize=1)
def _spellings() -> dict[str, str]:
    """The one spelling of every lemma, whatever the selection, keyed by its case-folded form."""
    return merge_spellings(lemma for synset in synsets_of_wordnet() for lemma in synset.lemmas)


def selected_words(name: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The words of a selection in a fixed order, and their parts of speech."""
    parts: dict[str, str] = {}
    # Nouns come before adjectives in the files, so a word that is both stays a noun.
    if name in _FROM_NEGLABEL:
        for file, *words in _read("neglabel.tsv.gz"):
            if file not in _FROM_NEGLABEL[name]:
                for word in words:
                    parts.setdefault(word, file.partition(".")[0])
        return tuple(parts), tuple(parts.values())
    if name == "wordnet-medical":
        synsets = [(part, lemmas) for part, _, *lemmas in _read("wordnet_medical.tsv.gz")]
    else:
        synsets = [(synset.part_of_speech, list(synset.lemmas)) for synset in synsets_of_wordnet()]
    for part, lemmas in synsets:
        if name == "wordnet-nouns" and part != "noun":
            break
        for lemma in lemmas:
            parts.setdefault(lemma.casefold(), part)
    spellings = _spellings()
    if name in _MOST_GENERAL:
        general = set(words_by_kinds()[: _MOST_GENERAL[name]])
        parts = {key: part for key, part in parts.items() if key in general}
    return tuple(spellings[key] for key in parts), tuple(parts.values())


@lru_cache(maxsize=1)
def _nouns() -> tuple[tuple[str, ...], ...]:
    """The normalised lemmas of each noun synset, by its number: nouns come first."""
    nouns = (synset for synset in synsets_of_wordnet() if synset.part_of_speech == "noun")
    return tuple(tuple(normalise(lemma) for lemma in synset.lemmas) for synset in nouns)


@lru_cache(maxsize=1)
def _noun_index() -> dict[str, list[int]]:
    """Normalised noun -> the numbers of its synsets."""
    index: dict[str, list[int]] = {}
    for number, lemmas in enumerate(_nouns()):
        for lemma in lemmas:
            index.setdefault(lemma, []).append(number)
    return index


@lru_cache(maxsize=1)
def _below() -> dict[int, list[int]]:
    """Number of a noun synset -> those of its kinds and instances."""
    below: dict[int, list[int]] = {}
    for number, synset in enumerate(synsets_of_wordnet()):
        if synset.hypernyms:
            for above in synset.hypernyms.split(","):
                below.setdefault(int(above.removeprefix("i")), []).append(number)
    return below


@lru_cache(maxsize=1)
def words_by_kinds() -> tuple[str, ...]:
    """All words, case-folded, those with the most synsets below one of theirs first; by SHA-256 where it is equal.

    Adjectives have none below, nor have the nouns that end a branch.
    """
    synsets = synsets_of_wordnet()
    above = [
        [int(number.removeprefix("i")) for number in synset.hypernyms.split(",") if number]
        for synset in synsets
    ]
    below = [0] * len(synsets)
    for number in range(len(synsets)):
        reached: set[int] = set()
        waiting = list(above[number])
        while waiting:
            if (each := waiting.pop()) not in reached:
                reached.add(each)
                below[each] += 1
                waiting += above[each]
    kinds: dict[str, int] = {}
    for number, synset in enumerate(synsets):
        for lemma in synset.lemmas:
            word = lemma.casefold()
            kinds[word] = max(kinds.get(word, 0), below[number])
    chance = {word: hashlib.sha256(_spellings()[word].encode()).digest() for word in kinds}
    return tuple(sorted(kinds, key=lambda word: (-kinds[word], chance[word])))


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
    return (word, *(form for form in singulars(plain) if form in index))


def singulars(word: str) -> list[str]:
    """What a word may be the plural of, by its last word's ending; most of it is no word."""
    head, _, last = word.rpartition(" ")
    stems = [_IRREGULAR[last]] if last in _IRREGULAR else []
    stems += [last[: len(last) - len(plural)] + one for plural, one in _PLURALS if last.endswith(plural)]
    return [f"{head} {stem}" if head else stem for stem in stems]


def is_known(word: str) -> bool:
    """Whether WordNet has a normalised word among its nouns, in the singular or plural."""
    index = _noun_index()
    return any(form in index for form in known_forms(word))


def related(word: str) -> set[str]:
    """A normalised word, its known forms, and every spelling that shares a noun synset with one of them, normalised."""
    index, nouns = _noun_index(), _nouns()
    found: set[str] = set()
    for form in known_forms(word):
        found.add(form)
        for number in index.get(form, ()):
            found.update(nouns[number])
    return found


def kinds(word: str) -> set[str]:
    """Every spelling of what lies below a normalised noun, in any of its senses: kinds and instances, normalised.

    The noun's own spellings are not among them, unless it is a kind of itself in another sense.
    """
    index, nouns, below = _noun_index(), _nouns(), _below()
    waiting = [number for form in known_forms(word) for number in index.get(form, ())]
    seen: set[int] = set()
    while waiting:
        lower = [number for number in below.get(waiting.pop(), ()) if number not in seen]
        seen.update(lower)
        waiting += lower
    return {lemma for number in seen for lemma in nouns[number]}


def senses(word: str) -> list[tuple[int, ...]]:
    """The noun synsets of a normalised word, in the order of the files, each as the way to it from the root.

    A way goes along first hypernyms, of instances too. Empty for what WordNet does not know.
    """
    index, synsets = _noun_index(), synsets_of_wordnet()
    numbers = dict.fromkeys(number for form in known_forms(word) for number in index.get(form, ()))
    ways = []
    for number in numbers:
        way = [number]
        while above := synsets[way[-1]].hypernyms:
            way.append(int(above.split(",")[0].removeprefix("i")))
        ways.append(tuple(reversed(way)))
    return ways


def lemmas_of(number: int) -> tuple[str, ...]:
    """A synset's spellings, the usual one first."""
    return synsets_of_wordnet()[number].lemmas


@lru_cache(maxsize=1)
def proper_nouns() -> frozenset[str]:
    """Nouns that are names in all their senses, normalised: of instances, or spelled with capitals throughout."""
    names: dict[str, bool] = {}
    for number, lemmas in enumerate(_nouns()):
        synset = synsets_of_wordnet()[number]
        instance = synset.hypernyms.startswith("i")
        for lemma, form in zip(synset.lemmas, lemmas, strict=True):
            parts = lemma.split()
            capitals = parts[0][:1].isupper() and all(_NAME_PART.match(part) for part in parts)
            names[form] = names.get(form, True) and (instance or capitals)
    return frozenset(form for form, is_name in names.items() if is_name)
