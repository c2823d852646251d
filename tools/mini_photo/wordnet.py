"""WordNet's nouns as a graph: synsets with their words, glosses and hypernyms, and the senses of each word."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

_HYPERNYMS = ("@", "@i")


@dataclass(frozen=True)
class Synset:
    """One meaning. ``hypernyms`` are the offsets of what it is a kind or an instance of."""

    words: tuple[str, ...]
    hypernyms: tuple[str, ...]
    gloss: str

    @property
    def described(self) -> str:
        """Its first word with the first clause of its gloss."""
        return f"{self.words[0]}: {self.gloss}"


@dataclass(frozen=True)
class Nouns:
    """``synsets`` by offset, such as ``02084071``; ``senses`` by word, most frequent first. Words are lower-case."""

    synsets: Mapping[str, Synset]
    senses: Mapping[str, tuple[str, ...]]

    def ancestors(self, offset: str) -> frozenset[str]:
        """The offsets of a synset and of everything above it."""
        seen: set[str] = set()
        queue = deque([offset])
        while queue:
            current = queue.popleft()
            if current not in seen:
                seen.add(current)
                queue.extend(self.synsets[current].hypernyms)
        return frozenset(seen)


def read_nouns(package: str | Path) -> Nouns:
    """The nouns of an unpacked ``wordnet-base``; wndb(5WN) describes the files."""
    root = Path(package) / "usr/share/wordnet"
    synsets = dict(_read_synset(line) for line in _lines(root / "data.noun"))
    senses: dict[str, tuple[str, ...]] = {}
    for line in _lines(root / "index.noun"):
        fields = line.split()
        senses[fields[0].replace("_", " ")] = tuple(fields[-int(fields[2]) :])
    return Nouns(synsets, senses)


def _lines(path: Path) -> list[str]:
    """Its lines but the licence, which is indented."""
    return [line for line in path.read_text(encoding="latin-1").splitlines() if not line.startswith("  ")]


def _read_synset(line: str) -> tuple[str, Synset]:
    head, _, gloss = line.partition(" | ")
    fields = head.split(" ")
    count = int(fields[3], 16)
    words = tuple(word.replace("_", " ").lower() for word in fields[4 : 4 + 2 * count : 2])
    start = 5 + 2 * count
    pointers = fields[start : start + 4 * int(fields[start - 1])]
    hypernyms = tuple(
        offset for symbol, offset in zip(pointers[::4], pointers[1::4], strict=True) if symbol in _HYPERNYMS
    )
    clause = re.sub(r"\([^)]*\)", "", re.split(r';|: "', gloss)[0])
    return fields[0], Synset(words, hypernyms, re.sub(r"\s+", " ", clause).strip().lower())
