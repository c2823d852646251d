"""Words to look for besides the ID labels: WordNet's nouns and adjectives, NegLabel's choice, or any list.

A corpus is words with their parts of speech; each part of speech has a prompt template.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import compress
from os import PathLike, sep

from ..io.paths import local_path
from ..io.text import did_you_mean, some_of
from .label_files import decoded, read_labels, structured
from .label_lines import lines_of, names_in_lines
from .names import normalise
from .prompts import TEMPLATES
from .terms import checked_labels, checked_removal, synonyms, with_kinds
from .wordnet import SELECTIONS, known_forms, proper_nouns, selected_words

_SHOWN = 5


@dataclass(frozen=True, repr=False)
class Corpus:
    """Immutable words with their parts of speech, ``"noun"`` or ``"adj"``, in a fixed order.

    Words that differ only by case are one word, so no two may. Usually made by :meth:`load`.

    Raises ``TypeError`` for words that are not strings, ``ValueError`` for empty or repeated words, unknown
    parts of speech and lists of unequal length.
    """

    words: tuple[str, ...]
    parts_of_speech: tuple[str, ...]
    name: str = "custom"

    def __post_init__(self) -> None:
        words, parts = self.words, self.parts_of_speech
        for name, given in (("words", words), ("parts_of_speech", parts)):
            if not isinstance(given, list | tuple):
                raise TypeError(f"{name} must be a tuple, not a {type(given).__name__}")
        if len(words) != len(parts):
            raise ValueError(f"{len(words)} words but {len(parts)} parts of speech; give one for each word")
        if not words:
            raise ValueError(f"the corpus {self.name!r} has no words")
        for index, word in enumerate(words):
            if not isinstance(word, str):
                raise TypeError(f"words must be strings; word {index} is {word!r} ({type(word).__name__})")
            if word != word.strip() or not word or "\t" in word or "\r" in word or "\n" in word:
                raise ValueError(f"word {index} is {word!r}; it must have text, without tabs or outer spaces")
        unknown = sorted({repr(part) for part in parts} - {repr(part) for part in TEMPLATES})
        if unknown:
            raise ValueError(f"unknown part of speech {unknown[0]}; use one of {list(TEMPLATES)}")
        if len({word.casefold() for word in words}) != len(words):
            raise ValueError(_describe_duplicates(words, self.name))

    @classmethod
    def load(cls, source: str | PathLike[str] | Iterable[str]) -> Corpus:
        """A corpus by the name of a selection, from a text file, or from words.

        Args:
            source: a name in ``tanl.labels.wordnet.SELECTIONS``; the path of a UTF-8 text file with a word a line,
                optionally followed by a tab and ``noun`` or ``adj`` (a noun when nothing is said), or of a JSON, CSV
                or YAML file as ``tanl.read_labels`` takes it; or words, taken as nouns. A file that is named like a
                selection is reached as ``./wordnet``.

        Raises:
            ValueError: an unknown selection, no words, an empty line, a repeated word, text that isn't UTF-8.
            FileNotFoundError: no such file.
            TypeError: words that are not strings.
        """
        if isinstance(source, str) and source in SELECTIONS:
            return _selection(source)
        if isinstance(source, (str, PathLike)):
            return _read_file(source)
        if isinstance(source, (bytes, Mapping)) or not isinstance(source, Iterable):
            kind = type(source).__name__
            raise TypeError(f"a corpus is a selection's name, a path or an iterable of words, not {kind}")
        words = tuple(word.strip() if isinstance(word, str) else word for word in source)
        return cls(words, ("noun",) * len(words), "custom")

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 (hexadecimal) of the words and their parts of speech, in order."""
        lines = (f"{part}\t{word}\n" for word, part in zip(self.words, self.parts_of_speech, strict=True))
        return hashlib.sha256("".join(lines).encode("utf-8")).hexdigest()

    @cached_property
    def _words_of(self) -> dict[str, tuple[str, ...]]:
        """Normalised form -> the words that have it. It goes from an edit to the next, and is never changed."""
        found: dict[str, tuple[str, ...]] = {}
        for word in self.words:
            _add_forms(found, word)
        return found

    @cached_property
    def _places(self) -> dict[str, int]:
        return {word: place for place, word in enumerate(self.words)}

    def words_for(self, labels: Iterable[str], removal: str = "synonyms") -> tuple[str, ...]:
        """The words here that leave for one of ``labels``, in order; see `without`."""
        return tuple(sorted(self._claimed(labels, removal), key=self._places.__getitem__))

    def without(self, labels: Iterable[str], removal: str = "synonyms") -> Corpus:
        """This corpus less what names the labels.

        Args:
            labels: the ID labels.
            removal: what leaves (``tanl.labels.terms.REMOVALS``). "synonyms": the labels and their WordNet
                synonyms; case, hyphens, underscores, accents, articles, prompts, counts, marks and plurals make no
                difference, a list stands for each of its parts, and a word goes whatever its part of speech (see
                ``tanl.labels.terms``). "names": words that are spelled exactly as a label is, as NegLabel's published
                code has it. "kinds": as "synonyms", and WordNet's hyponyms of the labels in any sense, and proper
                nouns.

        Raises:
            ValueError: an unknown removal; no word would be left.
        """
        removed = self._claimed(labels, removal)
        if removal == "kinds":
            removed |= {word for form in proper_nouns() for word in self._words_of.get(form, ())}
        if len(removed) == len(self.words):
            raise ValueError(f"every word of the corpus {self.name!r} is a label or a synonym of one")
        return self._subset(removed) if removed else self

    def _claimed(self, labels: Iterable[str], removal: str) -> set[str]:
        if checked_removal(removal) == "names":
            return self._places.keys() & set(checked_labels(labels))
        forms = with_kinds(labels) if removal == "kinds" else synonyms(labels)
        return {word for form in forms for word in self._words_of.get(form, ())}

    def _subset(self, removed: Set[str]) -> Corpus:
        kept = [word not in removed for word in self.words]
        words, parts = compress(self.words, kept), compress(self.parts_of_speech, kept)
        return _of_checked(tuple(words), tuple(parts), self.name)

    def less(self, removed: Set[str]) -> Corpus:
        """These words less some of them, as they are spelled here, but not all; at once ready for the next edit."""
        words_of = dict(self._words_of)
        for word in removed:
            for form in known_forms(normalise(word)):
                left = tuple(other for other in words_of.pop(form) if other != word)
                if left:
                    words_of[form] = left
        less = self._subset(removed)
        less.__dict__["_words_of"] = words_of
        return less

    def more(self, other: Corpus) -> Corpus:
        """These words, then those of another corpus, none of which is here in any case; ready for the next edit."""
        words_of = dict(self._words_of)
        for word in other.words:
            _add_forms(words_of, word)
        more = _of_checked(self.words + other.words, self.parts_of_speech + other.parts_of_speech, self.name)
        more.__dict__["_words_of"] = words_of
        return more

    def spelled(self, word: str) -> str | None:
        """The word as it is written here, whatever its case; None if it is not here."""
        if not isinstance(word, str):
            raise TypeError(f"a word must be a string, not {word!r}")
        alike = self._words_of.get(normalise(word), ())
        return next((own for own in alike if own.casefold() == word.casefold()), None)

    def prompts(self, templates: Mapping[str, str] | None = None) -> list[str]:
        """Each word in the template of its part of speech, in order.

        Args:
            templates: text with ``{}`` where the word goes, by part of speech; default ``prompts.TEMPLATES``.
        """
        chosen = TEMPLATES if templates is None else templates
        if not isinstance(chosen, Mapping):
            raise TypeError(f"templates must be a dict, not a {type(chosen).__name__}")
        for part in sorted(set(self.parts_of_speech)):
            if part not in chosen:
                raise ValueError(f"no template for {part!r}; the templates given are for {sorted(chosen)}")
            if "{}" not in chosen[part]:
                raise ValueError(f"the template {chosen[part]!r} for {part!r} has no {{}} for the word")
        pairs = zip(self.words, self.parts_of_speech, strict=True)
        return [chosen[part].replace("{}", word) for word, part in pairs]

    def __or__(self, other: Corpus) -> Corpus:
        """These words, then those of another corpus that are not among them, whatever their case.

        A word that both have keeps the spelling and the part of speech that it has here. Where the other has nothing
        new, this is the same corpus; else its name is ``"this | other"``.
        """
        if not isinstance(other, Corpus):
            return NotImplemented
        known = {word.casefold() for word in self.words}
        pairs = zip(other.words, other.parts_of_speech, strict=True)
        new = [(word, part) for word, part in pairs if word.casefold() not in known]
        if not new:
            return self
        words, parts = zip(*new, strict=True)
        return Corpus(self.words + words, self.parts_of_speech + parts, f"{self.name} | {other.name}")

    def __len__(self) -> int:
        return len(self.words)

    def __iter__(self) -> Iterator[str]:
        return iter(self.words)

    def __repr__(self) -> str:
        counts = ", ".join(f"{self.parts_of_speech.count(part)} {part}" for part in TEMPLATES)
        return f"Corpus({self.name!r}, {len(self)} words: {counts})"


def _of_checked(words: tuple[str, ...], parts_of_speech: tuple[str, ...], name: str) -> Corpus:
    """A corpus of words that were checked already."""
    corpus = Corpus.__new__(Corpus)
    corpus.__dict__.update(words=words, parts_of_speech=parts_of_speech, name=name)
    return corpus


def _add_forms(words_of: dict[str, tuple[str, ...]], word: str) -> None:
    for form in known_forms(normalise(word)):
        words_of[form] = (*words_of.get(form, ()), word)


def claimed(words: Iterable[str], labels: Sequence[str], removal: str = "synonyms") -> dict[str, str]:
    """The words that :meth:`Corpus.without` takes out for labels: each with the first label that claims it."""
    if checked_removal(removal) == "names":
        names = set(labels)
        return {word: word for word in words if word in names}
    owner: dict[str, str] = {}
    for label in labels:
        for form in with_kinds([label]) if removal == "kinds" else synonyms([label]):
            owner.setdefault(form, label)
    found = {}
    for word in words:
        owners = [owner[form] for form in known_forms(normalise(word)) if form in owner]
        if owners:
            found[word] = owners[0]
    return found


def is_proper(word: str) -> bool:
    """Whether a word is a name, as WordNet has it in all its senses: what removal "kinds" takes out with the kinds."""
    return any(form in proper_nouns() for form in known_forms(normalise(word)))


@lru_cache(maxsize=len(SELECTIONS))
def _selection(name: str) -> Corpus:
    return Corpus(*selected_words(name), name)


def _read_file(source: str | PathLike[str]) -> Corpus:
    path = local_path(source)
    if path.is_dir():
        raise ValueError(f"{path} is a folder; give the text file with a word a line")
    if not path.is_file():
        if not isinstance(source, str) or path.suffix or sep in source or "/" in source:
            raise FileNotFoundError(f"no such corpus file: {path}")
        names = ", ".join(SELECTIONS)
        hint = did_you_mean(source, SELECTIONS)
        raise ValueError(
            f"unknown corpus {source!r}: no file of that name, and the selections are {names}{hint}"
        )
    text = decoded(path)
    if not text.strip():
        raise ValueError(f"{path} is empty; write a word a line")
    if path.suffix.lower() in (".json", ".csv", ".yaml", ".yml"):
        listed: list[str] | None = read_labels(path)
    else:
        listed = structured(path, text)
    if listed is not None:
        return Corpus(tuple(listed), ("noun",) * len(listed), path.name)
    if "\t" not in text and all(line.strip() for line in text.strip("\n").splitlines()):
        try:
            listed = names_in_lines(lines_of(text))
        except ValueError as error:
            raise ValueError(f"{path} {error}") from None
        return Corpus(tuple(listed), ("noun",) * len(listed), path.name)
    words, parts = [], []
    for number, row in enumerate(text.removesuffix("\n").split("\n"), start=1):
        word, _, part = (field.strip() for field in row.partition("\t"))
        if not word:
            raise ValueError(f"{path}, line {number}: no word; remove the empty line")
        if "\t" in row and part not in TEMPLATES:
            raise ValueError(
                f"{path}, line {number}: {part!r} is no part of speech; use one of {list(TEMPLATES)}"
            )
        words.append(word)
        parts.append(part or "noun")
    return Corpus(tuple(words), tuple(parts), path.name)


def _describe_duplicates(words: tuple[str, ...], name: str) -> str:
    seen: set[str] = set()
    repeated: dict[str, None] = {}
    for word in words:
        key = word.casefold()
        if key in seen:
            repeated[word] = None
        seen.add(key)
    told = some_of(list(repeated), _SHOWN)
    return f"the corpus {name!r} repeats {told} (case makes no difference); give each word once"
