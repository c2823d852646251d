"""What a label says, as people write labels: ``a photo of two cats.``, ``tench, Tinca tinca`` and ``Cat (animal)``.

A label's terms decide which words of a corpus leave the negatives for it, and nothing else: labels are embedded and
shown as they were given. Nothing is taken off a text that WordNet knows: ``hot dog`` and ``The Hague`` stay whole.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
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
    r"clip-?art|silhouette|screenshot|video|frame|x-?ray|radiograph|scan|selfie|meme|watercolou?r|emoji)s?"
)
# These only where "of" or the like follows.
_OF_A_THING = (
    rf"(?:{_MEDIUM}|close up|(?:imagery|footage|thumbnail|etching|engraving|mural|mosaic|poster|print|slide|CT|MRI|"
    r"ultrasound|sonogram|mammogram|micrograph|evidence|presence|sign|patient)s?)"
)
_SHOWS = r"(?:shows?|showing|depicts?|depicting|contains?|containing)"
# What a class, a file or a part of speech is called, beside its name.
_KIND = (
    r"(?:(?:class|category|label|object|obj|item|name|tag|target|concept|noun|cls|idx|index|id|dataset)(?:[ _]?name)?|"
    r"(?:photo|photograph|picture|image|pic|snapshot|drawing|clip-?art|emoji|icon)s?)"
)
_ARTICLE = (
    r"(?:an?|the|my|your|our|his|her|its|their|some|any|this|that|these|those|many|several|few|multiple|single|another|"
    r"other|every|each|both|all|various|different|enough|couple|either|half|(?:just|only|such|quite|what) an?)"
)
_NUMBER = (
    r"(?:\d+%?|\d*(?:1st|2nd|3rd|\dth)|first|second|third|one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|"
    r"(?:thir|four|fif|six|seven|eigh|nine)teen|(?:twen|thir|for|fif|six|seven|eigh|nine)ty|"
    r"(?:half )?(?:a |one )?(?:dozen|hundred|thousand))"
)
_GROUP = (
    r"(?:type|kind|sort|species|breed|piece|pair|couple|group|bunch|set|lot|number|herd|flock|pack|swarm|dozen|"
    r"hundred|thousand|example|instance|assortment|collection|variety)s?"
)
# Said of the thing in CLIP's prompts for ImageNet, where an article or "photo of" goes before.
_ADJECTIVE = (
    r"(?:hard to see|clean|dirty|cool|nice|cute|weird|large|big|small|good|bad|typical|toy|plastic|origami|embroidered|"
    r"cartoon|plushie)"
)
_ALSO = r"(?:a\.?k\.?a\.?|also (?:known as|called):?|i\.e\.,?|e\.g\.,?|viz\.|cf\.)"
# What goes before a term or behind it and says nothing of it, in the order of trying; the first ones before marks and
# lists are looked at, of which they have some.
_TAGS = tuple(
    re.compile(pattern, re.IGNORECASE | re.DOTALL)
    for pattern in (
        rf"{_KIND}[ _]?\d*\s*[:=]\s*(?P<term>.+)",
        r"(?P<term>.+)\.(?:jpe?g|png|gif|webp|bmp|tiff?|txt)",
        r"(?P<term>.+\w)(?:\.| )[nvasr]\.(?:\d+)?",  # a part of speech, as WordNet's synsets have it
        r"(?P<term>.+?)[\s_(]+n\d{8}\)?",
        rf"{_ALSO} (?P<term>.+)",
        r"(?P<term>.+?),? (?:etc|and so on|and (?:the )?others?|and the like)\b\.*",
    )
)
_SHELLS = tuple(
    re.compile(pattern, re.IGNORECASE | re.DOTALL)
    for pattern in (
        r"n\d{8}[\s:_-]+(?P<term>.+)",  # a synset's id
        r"(?:\d+\s*[.):_=\]>]|\d+-(?=\s)|0\d*-|(?:[a-z]|[ivx]+)\)|[ivx]+\.(?=\s))\s*(?P<term>.+)",  # a place in a list
        r"(?:no|nr|number|fig|figure)\.? ?\d+:? (?P<term>.+)",
        r"itap of (?P<term>.+)",  # "I took a picture"
        rf"(?!no |not |without )(?:\S+ ){{0,8}}?{_OF_A_THING} (?:of|with|(?:(?:that|which) )?{_SHOWS}) "
        rf"(?:{_ARTICLE} )?(?P<adjective>{_ADJECTIVE} )?(?P<term>.+)",
        rf"(?:(?:I|we|you) (?:can )?see|{_SHOWS}|namely|called|named|known as|so-called) (?P<term>.+)",
        rf"(?:{_ARTICLE} )?(?:thing|{_KIND}) (?:called|named) (?P<term>.+)",
        r"(?:this|that|it|here|there|these|those)(?: is| are|'s|\u2019s) (?P<term>.+)",
        rf"(?P<term>.+?) (?:in|on) (?:an?|the|this|that|my) {_MEDIUM}",
        r"(?P<term>.+) in (?:a video game|the (?:wild|background|foreground|scene))",
        rf"(?:an?|the) (?P<term>.+?) (?:medical )?{_MEDIUM}",
        r"(?:one|some|all|most|any) of (?P<term>.+)",
        rf"(?:{_ARTICLE} )?{_GROUP} of (?P<term>.+)",
        rf"(?:{_ARTICLE} )?(?:{_NUMBER}(?:\s*[x\u00d7])?|x ?\d+) (?P<term>.+)",
        rf"{_ARTICLE} (?P<adjective>{_ADJECTIVE} )?(?P<term>.+)",
        rf"{_KIND}[ _]?\d+ (?P<term>.+)",
        r"(?:class|category|label|object|cls|photos?|pictures?|images?) (?P<term>.+)",
        rf"(?P<term>.+) (?:species|breed|{_KIND})",
        r"(?P<term>.+)['\u2019]s",
        r"(?P<term>.+?)(?: (?:v|no|nr|version)\.?)?[\s_#x\u00d7-]*\d+x?",  # the second of several of a kind
    )
)
_SIGNS = re.compile("[\u2122\u2120\u00ae\u00a9]|[0-9#*]\ufe0f?\u20e3")  # of trade, and keys
_DASHES = "-\u2010-\u2015\u2212"
_LISTED = re.compile(
    r"\s*(?:[,;/|:=\u3001\u060c\u30fb\u2044\\\u2192\u21d2\u00bb\u203a\u25b8\u2022\u2014\u2015\u2248~]|>+|--+|[-=]>)\s*|"
    rf"\s+(?:[{_DASHES}]|[\u00b7\u2219.]|and/or|as well as|plus|{_ALSO})\s+",
    re.IGNORECASE,
)
_OF_ASIA = "[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]"
_JOINED = re.compile(
    r"\s+(?:or|and|nor|v\.|vs\.?|versus)\s+|(?<=\w{3})\s*[&+]\s*(?=\w{3})|(?<=\w{3})(?:\.\s*|\u00b7)(?=\w{3})|"
    rf"(?<={_OF_ASIA})\s*(?=[a-z])|(?<=[a-z])\s*(?={_OF_ASIA})",  # a name and its translation
    re.IGNORECASE,
)
_BRACKETS = re.compile(r"\([^()]*\)|\[[^\[\]]*\]|\{[^{}]*\}|<[^<>]*>")
_HYPHENED = re.compile(r"(?:an?|the|photo|picture|image)-")
_HUMP = re.compile(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z]{2})")


def terms_of(label: str) -> tuple[str, ...]:
    """What a label stands for, normalised: the label itself, then what is left of it without its wrapping.

    Taken off are prompts (CLIP's for ImageNet and their like), articles, counts, numbers and ids, brackets, quotes and
    other marks around it; lists are taken apart, at commas, slashes, "or" and "and". What WordNet knows stays as it is.

    >>> terms_of("a photo of two cats.")
    ('a photo of two cats.', 'cats')
    >>> terms_of("tench, Tinca tinca")
    ('tench, tinca tinca', 'tench', 'tinca tinca')
    """
    text = unicodedata.normalize("NFKC", _SIGNS.sub(" ", cleaned(label))).replace("_", " ").strip()
    if " " not in text and not is_known(normalise(text)):
        text = _HUMP.sub(" ", text.replace("-", " ") if _HYPHENED.match(text) else text)
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
    tagged = _unwrapped(text, _TAGS)
    if tagged != [text]:
        for part in tagged:
            yield from _terms(part)
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


def _unwrapped(text: str, shells: Sequence[re.Pattern[str]] = _SHELLS) -> list[str]:
    for shell in shells:
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
