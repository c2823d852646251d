"""Make ``wordnet.tsv.gz`` from WordNet 3.0's own dictionary files.

    python -m tanl.corpora.build_wordnet /usr/share/wordnet        # where Debian's wordnet-base puts them
    python -m tanl.corpora.build_wordnet --report                  # counts, beside the published ones

One synset a line, tabs between: part of speech, lexicographer file, then the lemmas in WordNet's order. Nouns
come first. The output depends on the dictionary files alone, byte for byte.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import io
import re
from collections.abc import Iterator
from pathlib import Path

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
PUBLISHED_NEGLABEL = 69_554
_HERE = Path(__file__).parent
_HEADER = re.compile(r"^ +\d+ ?(.*?) *$")
_SYNTACTIC_MARKER = re.compile(r"\((?:a|p|ip)\)$")


class DictionaryError(ValueError):
    """A folder that doesn't hold WordNet 3.0's dictionary files."""


def read_licence(dictionary: Path) -> str:
    """The licence text at the head of ``data.noun``; refuses every dictionary but WordNet 3.0."""
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
    if version.group(1) != VERSION:
        raise DictionaryError(f"{dictionary} holds WordNet {version.group(1)}; version {VERSION} is needed")
    return licence


def read_synsets(dictionary: Path, part_of_speech: str) -> Iterator[tuple[str, list[str]]]:
    """Each synset's lexicographer file and lemmas, in the file's order."""
    with _open(dictionary, part_of_speech) as stream:
        for number, line in enumerate(stream, start=1):
            if line.startswith(" "):
                continue
            try:
                fields = line.split(" ")
                name = LEXICOGRAPHER_FILES[int(fields[1])]
                count = int(fields[3], 16)
                lemmas = [_spell(fields[4 + 2 * index]) for index in range(count)]
            except (IndexError, KeyError, ValueError) as error:
                raise DictionaryError(
                    f"{PARTS_OF_SPEECH[part_of_speech]}, line {number}: not a synset of WordNet {VERSION}"
                ) from error
            yield name, list(dict.fromkeys(lemmas))


def build(dictionary: Path, output: Path = _HERE) -> dict[str, int]:
    """Write ``wordnet.tsv.gz`` and ``WORDNET_LICENSE.txt`` into ``output``; returns synset counts."""
    licence = read_licence(dictionary)
    counts: dict[str, int] = {}
    text = io.StringIO()
    for part in PARTS_OF_SPEECH:
        counts[part] = 0
        for name, lemmas in read_synsets(dictionary, part):
            counts[part] += 1
            text.write("\t".join([part, name, *lemmas]) + "\n")
    (output / "wordnet.tsv.gz").write_bytes(gzip.compress(text.getvalue().encode("utf-8"), 9, mtime=0))
    (output / "WORDNET_LICENSE.txt").write_text(licence, encoding="utf-8")
    return counts


def report() -> str:
    """How many words each selection has, and how NegLabel's compares with the published number."""
    from open_clip import IMAGENET_CLASSNAMES

    from tanl.corpus import SELECTIONS, Corpus

    lines = ["selection        nouns  adjectives    total"]
    for name in SELECTIONS:
        corpus = Corpus.load(name)
        nouns = corpus.parts_of_speech.count("noun")
        lines.append(f"{name:13} {nouns:8} {len(corpus) - nouns:11} {len(corpus):8}")
    names = {name.casefold() for name in IMAGENET_CLASSNAMES}
    left = sum(word.casefold() not in names for word in Corpus.load("neglabel"))
    lines.append(f"neglabel less the ImageNet-1k names, as spelled: {left} (published: {PUBLISHED_NEGLABEL})")
    for name in ("neglabel", "wordnet"):
        left = len(Corpus.load(name).without(IMAGENET_CLASSNAMES))
        lines.append(f"{name} less the ImageNet-1k names and their synonyms: {left}")
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description="Make the WordNet corpus from WordNet 3.0's dictionary files."
    )
    parser.add_argument("dictionary", type=Path, nargs="?", help="the folder of data.noun and data.adj")
    parser.add_argument("--output", type=Path, default=_HERE, help="where to write (default: this package)")
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


def _spell(lemma: str) -> str:
    return _SYNTACTIC_MARKER.sub("", lemma).replace("_", " ")


if __name__ == "__main__":
    main()
