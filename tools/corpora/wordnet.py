"""Make ``wordnet.tsv.gz`` and ``wordnet_medical.tsv.gz`` from WordNet 3.0's own dictionary files.

    python -m tools.corpora.wordnet /usr/share/wordnet        # where Debian's wordnet-base puts them
    python -m tools.corpora.wordnet --report                  # counts, beside the published ones

One synset a line, tabs between: part of speech, lexicographer file, hypernyms, then the lemmas in WordNet's order.
Nouns come first. Hypernyms are the numbers of their lines, from 0, with commas between; an ``i`` before one says that
the synset is an instance of it. Medical synsets have their branch in place of the lexicographer file, and no hypernyms.
The output depends on the dictionary files alone, byte for byte.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import io
import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from tanl.io.arguments import a_path

from .medical_branches import BRANCHES, Branch

VERSION = "3.0"
PARTS_OF_SPEECH = {"noun": "data.noun", "adj": "data.adj"}
# Numbers of the lexicographer files that hold nouns and adjectives, from WordNet's lexnames(5WN).
_NOUN_FILES = (
    *("Tops", "act", "animal", "artifact", "attribute", "body", "cognition", "communication", "event"),
    *("feeling", "food", "group", "location", "motive", "object", "person", "phenomenon", "plant"),
    *("possession", "process", "quantity", "relation", "shape", "state", "substance", "time"),
)
LEXICOGRAPHER_FILES = {
    0: "adj.all",
    1: "adj.pert",
    44: "adj.ppl",
    **{number: f"noun.{name}" for number, name in enumerate(_NOUN_FILES, start=3)},
}
CORPORA = Path(__file__).parents[2] / "corpora"
_HEADER = re.compile(r"^ +\d+ ?(.*?) *$")
_SYNTACTIC_MARKER = re.compile(r"\((?:a|p|ip)\)$")


# Pointers down and up, of kinds and of instances, and from a relational adjective to its noun: from WordNet's
# wninput(5WN).
_DOWN = frozenset({"~", "~i"})
_UP = {"@": "", "@i": "i"}
_PERTAINS_TO = frozenset({"\\"})


class DictionaryError(ValueError):
    """A folder that doesn't hold WordNet 3.0's dictionary files."""


class Synset(NamedTuple):
    """A line of a dictionary file.

    Attributes:
        offset: its number in the file, eight digits.
        kind: "n", of adjectives "a" for the head of a cluster and "s" for its satellites.
        lexicographer_file: such as ``noun.body``.
        lemmas: as they are spelled in the corpus.
        pointers: symbol, offset and part of speech ("n", "a") of the synsets that it points to.
    """

    offset: str
    kind: str
    lexicographer_file: str
    lemmas: list[str]
    pointers: list[tuple[str, str, str]]

    def nouns(self, symbols: Collection[str]) -> list[tuple[str, str]]:
        """Symbol and offset of the nouns that it points to with one of these symbols."""
        return [
            (symbol, offset) for symbol, offset, part in self.pointers if part == "n" and symbol in symbols
        ]


def read_licence(dictionary: Path, wanted: str = VERSION) -> str:
    """The licence text at the head of ``data.noun``; refuses every dictionary but that version of WordNet."""
    lines = []
    with _open(dictionary, "noun") as stream:
        for line in stream:
            header = _HEADER.match(line)
            if header is None:
                break
            lines.append(header.group(1))
    licence = "\n".join(lines).strip() + "\n"
    version = re.search(r"WordNet (\S+) Copyright", licence)
    if version is None:
        raise DictionaryError(f"{dictionary / 'data.noun'} has no WordNet licence at its head")
    if version.group(1) != wanted:
        raise DictionaryError(f"{dictionary} holds WordNet {version.group(1)}; version {wanted} is needed")
    return licence


def read_synsets(dictionary: Path, part_of_speech: str) -> Iterator[Synset]:
    """Every synset, in the file's order."""
    with _open(dictionary, part_of_speech) as stream:
        for number, line in enumerate(stream, start=1):
            if line.startswith(" "):
                continue
            try:
                fields = line.split(" ")
                name = LEXICOGRAPHER_FILES[int(fields[1])]
                after = 4 + 2 * int(fields[3], 16)
                lemmas = [_spell(fields[index]) for index in range(4, after, 2)]
                pointers = []
                for start in range(after + 1, after + 1 + 4 * int(fields[after]), 4):
                    symbol, offset, part, _ = fields[start : start + 4]
                    pointers.append((symbol, offset, part))
            except (IndexError, KeyError, ValueError) as error:
                raise DictionaryError(
                    f"{PARTS_OF_SPEECH[part_of_speech]}, line {number}: not a synset of WordNet"
                ) from error
            yield Synset(fields[0], fields[2], name, list(dict.fromkeys(lemmas)), pointers)


def build(dictionary: Path, output: Path = CORPORA) -> dict[str, int]:
    """Write ``wordnet.tsv.gz`` and ``WORDNET_LICENSE.txt`` into ``output``; returns synset counts."""
    licence = read_licence(dictionary)
    synsets = [(part, synset) for part in PARTS_OF_SPEECH for synset in read_synsets(dictionary, part)]
    line = {synset.offset: number for number, (part, synset) in enumerate(synsets) if part == "noun"}
    rows = []
    for part, synset in synsets:
        hypernyms = synset.nouns(_UP) if part == "noun" else []
        if lost := [offset for _, offset in hypernyms if offset not in line]:
            raise DictionaryError(f"data.noun has no synset {lost[0]}, the hypernym of {synset.lemmas[0]!r}")
        above = ",".join(f"{_UP[symbol]}{line[offset]}" for symbol, offset in hypernyms)
        rows.append((part, synset.lexicographer_file, above, *synset.lemmas))
    write_rows(output / "wordnet.tsv.gz", rows)
    (output / "WORDNET_LICENSE.txt").write_text(licence, encoding="utf-8")
    return Counter(row[0] for row in rows)


def build_medical(
    dictionary: Path, output: Path = CORPORA, branches: Mapping[str, Branch] = BRANCHES
) -> dict[str, int]:
    """Write ``wordnet_medical.tsv.gz`` into ``output``; returns synset counts by branch, adjectives counted as "adj".

    A noun belongs to the first branch that reaches it; a relational adjective to that of the first such noun that it
    pertains to.
    """
    nouns = {synset.offset: synset for synset in read_synsets(dictionary, "noun")}
    branch_of: dict[str, str] = {}
    for name, branch in branches.items():
        for offset in _reached(nouns, branch):
            branch_of.setdefault(offset, name)
    rows = [("noun", branch_of[offset], *nouns[offset].lemmas) for offset in nouns if offset in branch_of]
    counts = Counter(row[1] for row in rows)
    for synset in read_synsets(dictionary, "adj"):
        found = [branch_of[offset] for _, offset in synset.nouns(_PERTAINS_TO) if offset in branch_of]
        if found:
            rows.append(("adj", found[0], *synset.lemmas))
            counts["adj"] += 1
    write_rows(output / "wordnet_medical.tsv.gz", rows)
    return counts


def _reached(nouns: Mapping[str, Synset], branch: Branch) -> set[str]:
    """The branch's roots and all below them, less what is pruned and what other lexicographer files hold."""
    for offset, lemma in (branch.roots | branch.pruned).items():
        if offset not in nouns or nouns[offset].lemmas[0] != lemma:
            raise DictionaryError(f"data.noun has no synset {offset} {lemma!r}; WordNet {VERSION} is needed")
    waiting, seen = list(branch.roots), set(branch.pruned)
    while waiting:
        offset = waiting.pop()
        if offset not in seen:
            seen.add(offset)
            waiting += [target for _, target in nouns[offset].nouns(_DOWN)]
    return {
        offset
        for offset in seen - set(branch.pruned)
        if nouns[offset].lexicographer_file in branch.lexicographer_files
    }


def report() -> str:
    """How many words each selection has, and what is left of it for ImageNet-1k."""
    from open_clip import IMAGENET_CLASSNAMES

    from tanl.labels.corpus import Corpus
    from tanl.labels.terms import REMOVALS
    from tanl.labels.wordnet import SELECTIONS

    lines = ["selection        nouns  adjectives    total"]
    for name in SELECTIONS:
        corpus = Corpus.load(name)
        nouns = corpus.parts_of_speech.count("noun")
        lines.append(f"{name:15} {nouns:6} {len(corpus) - nouns:11} {len(corpus):8}")
    for name in ("neglabel", "wordnet"):
        for removal in REMOVALS:
            left = len(Corpus.load(name).without(IMAGENET_CLASSNAMES, removal))
            lines.append(f"{name} less the ImageNet-1k names, removal {removal!r}: {left}")
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description="Make the WordNet corpus from WordNet 3.0's dictionary files."
    )
    parser.add_argument("dictionary", type=a_path, nargs="?", help="the folder of data.noun and data.adj")
    parser.add_argument(
        "--output", type=a_path, default=CORPORA, help="where to write (default: this package)"
    )
    parser.add_argument(
        "--report", action="store_true", help="print word counts of the corpus that is in place"
    )
    options = parser.parse_args(arguments)
    if options.dictionary is None and not options.report:
        parser.error("give the dictionary's folder, or --report")
    try:
        if options.dictionary is not None:
            for part, count in build(options.dictionary, options.output).items():
                digest = hashlib.sha256((options.dictionary / PARTS_OF_SPEECH[part]).read_bytes()).hexdigest()
                print(f"{PARTS_OF_SPEECH[part]}: {count} synsets, SHA-256 {digest}")
            counts = build_medical(options.dictionary, options.output)
            print("medical synsets:", ", ".join(f"{count} {name}" for name, count in counts.items()))
    except DictionaryError as error:
        parser.exit(2, f"{parser.prog}: {error}\n")
    if options.report:
        print(report())


def _open(dictionary: Path, part_of_speech: str) -> io.TextIOWrapper:
    path = dictionary / PARTS_OF_SPEECH[part_of_speech]
    if not path.is_file():
        raise DictionaryError(
            f"no {path.name} in {dictionary}; Debian's wordnet-base has it in /usr/share/wordnet"
        )
    return path.open(encoding="ascii", errors="strict")


def write_rows(path: Path, rows: Iterable[Iterable[str]]) -> None:
    """Tables with tabs, packed so that the same rows are the same bytes."""
    text = "".join("\t".join(row) + "\n" for row in rows)
    path.write_bytes(gzip.compress(text.encode("utf-8"), 9, mtime=0))


def _spell(lemma: str) -> str:
    return _SYNTACTIC_MARKER.sub("", lemma).replace("_", " ")


if __name__ == "__main__":
    main()
