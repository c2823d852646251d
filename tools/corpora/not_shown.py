"""Make ``not_shown.tsv.gz``: words that score, but are not named beside a picture unless one asks for all.

    python -m tools.corpora.not_shown /usr/share/wordnet        # where Debian's wordnet-base puts the dictionary

A category a line: its name, then its words, sorted. They come from WordNet 3.0: what its usage domains *ethnic slur*,
*disparagement* and *obscenity* mark, what its glosses call offensive, and what lies below the synsets of `BRANCHES`. Of
these a word counts whose first sense, in WordNet's order, is such a one, and which names no thing that a picture may
show in another sense; of slurs and obscenities any sense does. `SHOWN` and `ADDED` are what reading the lists changed.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from tanl.io.arguments import a_path

from .wordnet import CORPORA, LEXICOGRAPHER_FILES, DictionaryError, read_licence, write_rows

DOMAINS = {"ethnic slur": "slurs", "disparagement": "slurs", "obscenity": "obscenities"}
"""First words of the synsets that mark others as of their usage, and the category of these."""

_GLOSS = {
    "slurs": re.compile(
        r"\b(?:offensive|derogatory|disparaging|insulting|contemptuous|pejorative)\b[^;]*"
        r"\b(?:term|name|word|reference|nickname|way)s?\b|\((?:offensive|derogatory|disparaging|ethnic slur)"
    ),
    "obscenities": re.compile(
        r"\b(?:obscene|vulgar|coarse)\b[^;]*\b(?:term|word|slang)s?\b|\((?:vulgar|obscene)"
    ),
}


THINGS = frozenset({"noun.animal", "noun.artifact", "noun.food", "noun.object", "noun.plant"})
"""Lexicographer files of what a picture may show: "skunk" is an animal, whatever it is called besides."""


@dataclass(frozen=True)
class Branch:
    """Synsets below others.

    Attributes:
        roots: lexicographer file and first word of each.
        names: whether only words with a capital count.
        places: whether adjectives that pertain to a place are among them.
    """

    roots: tuple[tuple[str, str], ...]
    names: bool = False
    places: bool = False


BRANCHES: Mapping[str, Branch] = {
    "accusations": Branch(
        (
            ("noun.person", "wrongdoer"),
            ("noun.person", "bad person"),
            ("noun.person", "unpleasant person"),
            ("noun.person", "simpleton"),
            ("noun.person", "fool"),
            ("noun.person", "pervert"),
            ("noun.person", "extremist"),
            ("noun.person", "bigot"),
            ("noun.person", "radical"),
            ("noun.person", "prostitute"),
            ("noun.person", "drug user"),
            ("noun.person", "alcoholic"),
            ("noun.person", "suspect"),
            ("noun.person", "prisoner"),
            ("noun.person", "failure"),
            ("noun.person", "incompetent"),
        ),
    ),
    "crimes": Branch(
        (
            ("noun.act", "crime"),
            ("noun.act", "terrorism"),
            ("noun.act", "sexual activity"),
            ("noun.act", "homicide"),
            ("noun.group", "terrorist organization"),
            ("noun.group", "organized crime"),
        )
    ),
    "diseases": Branch(
        (
            ("noun.state", "ill health"),
            ("noun.state", "mental disorder"),
            ("noun.state", "nervous disorder"),
            ("noun.state", "disability"),
            ("noun.state", "mental illness"),
            ("noun.person", "sick person"),
            ("noun.person", "handicapped person"),
            ("noun.person", "neurotic"),
            ("noun.person", "psychotic"),
        )
    ),
    "peoples": Branch(
        (
            ("noun.person", "inhabitant"),
            ("noun.person", "person of color"),
            ("noun.person", "White"),
            ("noun.person", "native"),
            ("noun.person", "African"),
            ("noun.person", "Asian"),
            ("noun.person", "European"),
            ("noun.person", "American"),
            ("noun.person", "Arab"),
            ("noun.person", "Slav"),
            ("noun.person", "Amerindian"),
            ("noun.person", "Semite"),
            ("noun.person", "homosexual"),
            ("noun.group", "ethnic group"),
            ("noun.group", "race"),
        ),
        names=True,
        places=True,
    ),
    "religions": Branch(
        (
            ("noun.person", "religious person"),
            ("noun.person", "religious"),
            ("noun.person", "spiritual leader"),
            ("noun.person", "nonreligious person"),
            ("noun.group", "religion"),
            ("noun.cognition", "religion"),
        )
    ),
}
"""Categories of words for what a person is, has, does or believes, which say nothing of a picture and may accuse."""

SHOWN = frozenset(
    {
        # A usage domain or gloss marks another sense, or WordNet puts a rare sense before the one that people mean.
        *(
            "Guinea",
            "Nip",
            "boy",
            "bull",
            "dirt",
            "dump",
            "fairy",
            "gamin",
            "half-pint",
            "name",
            "pansy",
            "peewee",
        ),
        *(
            "queen",
            "runt",
            "sanatorium",
            "shag",
            "shaft",
            "shrimp",
            "slit",
            "snake pit",
            "softness",
            "spade",
            "suit",
        ),
        *("taco", "throwaway", "tool", "mongrel", "puss", "Jerry", "dike", "filth", "snatch", "bushwhacker"),
        # What they mean are words, not people.
        *(
            "aspersion",
            "calumny",
            "defamation",
            "denigration",
            "slander",
            "epithet",
            "obscenity",
            "dirty word",
        ),
        *("bowdleriser", "bowdlerizer", "expurgator", "vulgarism"),
        # Below a branch, and harmless.
        *("patient", "inpatient", "outpatient", "shepherd"),
    }
)

ADDED: Mapping[str, tuple[str, ...]] = {
    "slurs": (
        "Eskimo",
        "gipsy",
        "gypsy",
        "squaw",
        "mulatto",
        "octoroon",
        "quadroon",
        "Negro",
        "Negroid",
        "Mongoloid",
    ),
    "accusations": ("nazi", "Nazi", "terrorist", "savage", "barbarian"),
    "diseases": ("cancer", "plague", "leprosy"),
    "religions": ("Islam",),
    "peoples": ("gay", "homosexual", "lesbian", "homophile", "transsexual", "transvestite"),
}


class _Sense(NamedTuple):
    """A synset, with what `tools.corpora.wordnet` has no use for."""

    key: tuple[str, str]  # "n" or "a", and the offset
    file: str
    words: list[str]
    pointers: list[
        tuple[str, tuple[str, str], int]
    ]  # symbol, target, number of the word that it is of, 0 for all
    gloss: str


def words_not_shown(dictionary: Path) -> dict[str, list[str]]:
    """The words of each category, sorted; a word of several is in the first of slurs, obscenities and `BRANCHES`."""
    senses = {sense.key: sense for part in ("noun", "adj") for sense in _senses(dictionary, part)}
    of_word = {part[0]: _senses_of_words(dictionary, part) for part in ("noun", "adj")}
    found: dict[str, list[str]] = {}
    taken: set[str] = set()
    for category, words in (*_marked(senses).items(), *_below(senses, of_word).items()):
        kept = {word for word in (*words, *ADDED.get(category, ())) if word not in SHOWN}
        # Case makes no difference to who looks a word up.
        spelled = {word.casefold(): word for word in sorted(kept) if word.casefold() not in taken}
        taken |= spelled.keys()
        found[category] = sorted(spelled.values())
    return found


def _marked(senses: Mapping[tuple[str, str], _Sense]) -> dict[str, set[str]]:
    """Slurs and obscenities, in any sense."""
    found: dict[str, set[str]] = {category: set() for category in _GLOSS}
    for sense in senses.values():
        for symbol, target, number in sense.pointers:
            category = DOMAINS.get(senses[target].words[0]) if symbol == ";u" and target in senses else None
            if category is not None:
                found[category].update(sense.words if number == 0 else [sense.words[number - 1]])
        for category, pattern in _GLOSS.items():
            if pattern.search(sense.gloss):
                found[category].update(sense.words)
    return found


def _below(
    senses: Mapping[tuple[str, str], _Sense], of_word: Mapping[str, Mapping[str, list[str]]]
) -> dict[str, set[str]]:
    """The words whose first sense lies below the roots of a branch, and adjectives that pertain to one."""
    below: dict[tuple[str, str], list[tuple[str, str]]] = {}
    for sense in senses.values():
        for symbol, target, _ in sense.pointers:
            if symbol in ("@", "@i"):
                below.setdefault(target, []).append(sense.key)
    found = {}
    for category, branch in BRANCHES.items():
        waiting = []
        for file, word in branch.roots:
            roots = [key for key, sense in senses.items() if sense.file == file and sense.words[0] == word]
            if not roots:
                raise DictionaryError(f"no synset {word!r} in {file}; WordNet 3.0 is needed")
            waiting += roots
        reached = set()
        while waiting:
            if (key := waiting.pop()) not in reached:
                reached.add(key)
                waiting += below.get(key, ())
        reached |= {
            sense.key
            for sense in senses.values()
            for symbol, target, _ in sense.pointers
            if symbol == "\\"
            and (target in reached or (branch.places and senses[target].file == "noun.location"))
        }
        found[category] = {
            word
            for key in reached
            for word in senses[key].words
            if of_word[key[0]][word.lower()][0] == key[1] and (word != word.lower() or not branch.names)
        }
        found[category] -= {
            word
            for word in found[category]
            if any(senses["n", offset].file in THINGS for offset in of_word["n"].get(word.lower(), ()))
        }
    return found


def _senses(dictionary: Path, part: str) -> Iterator[_Sense]:
    for line in (dictionary / f"data.{part}").read_text(encoding="ascii").splitlines():
        if line.startswith(" "):
            continue
        head, _, gloss = line.partition(" | ")
        fields = head.split()
        after = 4 + 2 * int(fields[3], 16)
        words = [re.sub(r"\((?:a|p|ip)\)$", "", word).replace("_", " ") for word in fields[4:after:2]]
        pointers = []
        for start in range(after + 1, after + 1 + 4 * int(fields[after]), 4):
            symbol, offset, kind, source = fields[start : start + 4]
            pointers.append((symbol, ("n" if kind == "n" else "a", offset), int(source[:2], 16)))
        yield _Sense((part[0], fields[0]), LEXICOGRAPHER_FILES[int(fields[1])], words, pointers, gloss)


def _senses_of_words(dictionary: Path, part: str) -> dict[str, list[str]]:
    """The offsets of each word's senses, in lower case, the first one first."""
    found = {}
    for line in (dictionary / f"index.{part}").read_text(encoding="ascii").splitlines():
        if not line.startswith(" "):
            fields = line.split()
            found[fields[0].replace("_", " ")] = fields[6 + int(fields[3]) :]
    return found


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description="Make the list of words that are not named beside a picture."
    )
    parser.add_argument(
        "dictionary", type=a_path, help="the folder of WordNet 3.0's data.noun and index.noun"
    )
    parser.add_argument(
        "--output", type=a_path, default=CORPORA, help="where to write (default: this package)"
    )
    options = parser.parse_args(arguments)
    try:
        read_licence(options.dictionary)
        found = words_not_shown(options.dictionary)
    except DictionaryError as error:
        parser.exit(2, f"{parser.prog}: {error}\n")
    write_rows(options.output / "not_shown.tsv.gz", [(category, *words) for category, words in found.items()])
    for category, words in found.items():
        print(f"{category}: {len(words)} words")


if __name__ == "__main__":
    main()
