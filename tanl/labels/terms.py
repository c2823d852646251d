"""What a label says, as people write labels: ``a photo of two cats.``, ``tench, Tinca tinca`` and ``Cat (animal)``.

A label's terms decide which words of a corpus leave the negatives for it, and nothing else: labels are embedded and
shown as they were given. Nothing is taken off a text that WordNet knows: ``hot dog`` and ``The Hague`` stay whole.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from types import MappingProxyType

from ..io.text import did_you_mean
from .names import cleaned, normalise
from .wordnet import is_known, kinds, related

REMOVALS: Mapping[str, str] = MappingProxyType(
    {
        "names": "spelled as a label is",
        "synonyms": "labels or synonyms of one",
        "kinds": "labels, synonyms of one or kinds of one",
    }
)
"""What leaves a corpus for ID labels, by the removal's name: as in NegLabel's published code, this library's default,
and with WordNet's hyponyms ("poodle" for "dog"). Proper nouns leave with the last, whatever the labels."""

_LONGEST = 400  # characters of a label that is looked into: no model reads as many
_LEAST = 2  # letters of a term that is a part of a label: the C of "C++" says nothing

_MEDIUM = (
    r"(?:photo|photograph|picture|image|pic|snapshot|shot|close-?up|view|painting|drawing|sketch|render|rendering|"
    r"rendition|sculpture|statue|cartoon|illustration|depiction|portrait|doodle|tattoo|graffiti|art|artwork|icon|"
    r"clip-?art|silhouette|screenshot|video|frame|x-?ray|radiograph|scan)s?"
)
_ARTICLE = (
    r"(?:an?|the|my|your|our|some|any|this|that|these|those|many|several|few|multiple|single|another|other|every|each|"
    r"both|all)"
)
_NUMBER = (
    r"(?:\d+|one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|(?:thir|four|fif|six|seven|eigh|nine)teen|"
    r"(?:twen|thir|for|fif|six|seven|eigh|nine)ty|(?:half )?(?:a |one )?(?:dozen|hundred|thousand))"
)
_GROUP = (
    r"(?:type|kind|sort|species|breed|piece|pair|couple|group|bunch|set|lot|number|herd|flock|pack|swarm|dozen|"
    r"hundred|thousand|example|instance)s?"
)
# Said of the thing in CLIP's prompts for ImageNet, where an article or "photo of" goes before.
_ADJECTIVE = (
    r"(?:hard to see|clean|dirty|cool|nice|cute|weird|large|big|small|good|bad|typical|toy|plastic|origami|embroidered|"
    r"cartoon|plushie)"
)
# What goes before a term or behind it and says nothing of it, in the order of trying.
_SHELLS = tuple(
    re.compile(pattern, re.IGNORECASE | re.DOTALL)
    for pattern in (
        r"n\d{8}[\s:_-]+(?P<term>.+)",  # a synset's id
        r"\d+\s*[.):_=]\s*(?P<term>.+)",  # a place in a list
        r"(?:no|nr|number)\.? ?\d+:? (?P<term>.+)",
        r"itap of (?P<term>.+)",  # "I took a picture"
        rf"(?:\S+ ){{0,8}}?{_MEDIUM} (?:of|showing|depicting|containing|with) "
        rf"(?:{_ARTICLE} )?(?P<adjective>{_ADJECTIVE} )?(?P<term>.+)",
        r"(?:this|that|it|here|there|these|those)(?: is| are|'s|\u2019s) (?P<term>.+)",
        rf"(?P<term>.+?) (?:in|on) (?:an?|the|this|that|my) {_MEDIUM}",
        r"(?P<term>.+) in (?:a video game|the (?:wild|background|foreground|scene))",
        rf"(?:an?|the) (?P<term>.+?) (?:medical )?{_MEDIUM}",
        r"(?:one|some|all|most|any) of (?P<term>.+)",
        rf"(?:{_ARTICLE} )?{_GROUP} of (?P<term>.+)",
        rf"(?:{_ARTICLE} )?{_NUMBER}(?:\s*[x\u00d7])? (?P<term>.+)",
        rf"{_ARTICLE} (?P<adjective>{_ADJECTIVE} )?(?P<term>.+)",
        r"(?P<term>.+) (?:species|breed)",
        r"(?P<term>.+)['\u2019]s",
        r"(?P<term>.+?)[\s_#x\u00d7-]*\d+",  # the second of several of a kind
    )
)
_LISTED = re.compile(r"\s*[,;/|:\u3001\u060c\u30fb\\\u2192]\s*|\s*[-=]>\s*|\s+[-\u2013\u2014]\s+")
_JOINED = re.compile(r"\s+(?:or|and|vs\.?|versus)\s+|(?<=\w{3})\s*[&+]\s*(?=\w{3})", re.IGNORECASE)
_BRACKETS = re.compile(r"\([^()]*\)|\[[^\[\]]*\]|\{[^{}]*\}|<[^<>]*>")
_HUMP = re.compile(r"(?<=[a-z])(?=[A-Z])")


def terms_of(label: str) -> tuple[str, ...]:
    """What a label stands for, normalised: the label itself, then what is left of it without its wrapping.

    Taken off are prompts (CLIP's for ImageNet and their like), articles, counts, numbers and ids, brackets, quotes and
    other marks around it; lists are taken apart, at commas, slashes, "or" and "and". What WordNet knows stays as it is.

    >>> terms_of("a photo of two cats.")
    ('a photo of two cats.', 'cats')
    >>> terms_of("tench, Tinca tinca")
    ('tench, tinca tinca', 'tench', 'tinca tinca')
    """
    text = unicodedata.normalize("NFKC", cleaned(label)).replace("_", " ").strip()
    if " " not in text:
        text = _HUMP.sub(" ", text)
    found = dict.fromkeys([normalise(label)])
    if len(text) > _LONGEST:
        return tuple(found)
    for term in _terms(" ".join(text.split())):
        form = normalise(term)
        if sum(map(str.isalpha, form)) >= _LEAST:
            found[form] = None
    return tuple(found)


def _terms(text: str) -> Iterator[str]:
    if is_known(normalise(text)):
        yield text
        return
    outside = " ".join(_BRACKETS.sub(" ", text).split())
    if outside and outside != text:
        found = [*_terms(outside)]
        yield from found
        if not any(len(term) >= _LEAST and is_known(normalise(term)) for term in found):
            for inside in _BRACKETS.findall(text):
                yield from _terms(inside)
        return
    inner = _unmarked(text)
    if inner and inner != text:
        yield from _terms(inner)
        return
    for parts in (_LISTED.split, _unwrapped, _JOINED.split):
        several = [part for part in parts(text) if part]
        if several and several != [text]:
            for part in several:
                yield from _terms(part)
            return
    yield text


def _unmarked(text: str) -> str:
    """The text from its first letter or number to its last."""
    start, end = 0, len(text)
    while start < end and unicodedata.category(text[start])[0] not in "LNM":
        start += 1
    while end > start and unicodedata.category(text[end - 1])[0] not in "LNM":
        end -= 1
    return text[start:end]


def _unwrapped(text: str) -> list[str]:
    for shell in _SHELLS:
        if found := shell.fullmatch(text):
            adjective = found.groupdict().get("adjective") or ""
            both = f"{adjective}{found['term']}".strip()
            return [both if adjective and is_known(normalise(both)) else found["term"].strip()]
    return [text]


def synonyms(labels: Iterable[str]) -> set[str]:
    """All terms of the labels and every spelling that shares a noun synset of WordNet with one of them, normalised.

    A term that WordNet doesn't know is also looked up in its singular (``giraffes``: ``giraffe``) and without accents.

    Raises:
        TypeError: labels that are no list of strings.
    """
    return {form for label in checked_labels(labels) for term in terms_of(label) for form in related(term)}


def with_kinds(labels: Iterable[str]) -> set[str]:
    """The `synonyms` of labels, and every spelling of what WordNet has below them in any sense, normalised.

    Raises:
        TypeError: labels that are no list of strings.
    """
    terms = [term for label in checked_labels(labels) for term in terms_of(label)]
    return {form for term in terms for form in related(term) | kinds(term)}


def checked_labels(labels: Iterable[str]) -> list[str]:
    """Labels as a list, or `TypeError`: it is no list of strings."""
    if isinstance(labels, (str, bytes)):
        raise TypeError(f"labels must be a list of strings, not the one string {labels!r}")
    labels = list(labels)
    for label in labels:
        if not isinstance(label, str):
            raise TypeError(f"labels must be strings; got {label!r} ({type(label).__name__})")
    return labels


def checked_removal(removal: str) -> str:
    """The name of a removal, or `ValueError`: there is none of that name."""
    if not isinstance(removal, str) or removal not in REMOVALS:
        hint = did_you_mean(removal, REMOVALS) if isinstance(removal, str) else ""
        raise ValueError(f"no removal {removal!r}; there are {', '.join(map(repr, REMOVALS))}{hint}")
    return removal
