"""Names of labels as text: what is invisible in them, which are the same, and which are refused."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Sequence

from ..io.text import some_of

_SHOWN = 5
# Line breaks, tabs and the like, and halves of characters, which cannot be written to a file.
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
_LOST = "\ufffd"  # stands for what could not be decoded
_JOINERS = "\u200c\u200d\u180e"
# Fillers of Hangul, a braille cell without dots and the grapheme joiner: blank, though Unicode has them as letters.
_BLANK = "\u034f\u115f\u1160\u17b4\u17b5\u2800\u3164\uffa0"
_PRESENTATION = "\ufe0e\ufe0f"  # as text, or as a picture
# Format characters that are seen: signs that Arabic, Syriac and Kaithi write around numbers.
_SEEN = "\u0600\u0601\u0602\u0603\u0604\u0605\u06dd\u070f\u0890\u0891\u08e2\U000110bd\U000110cd"
_BLACK_FLAG = "\U0001f3f4"
# Scripts that are written without joiners.
_UNJOINED = (
    "LATIN",
    "GREEK",
    "CYRILLIC",
    "ARMENIAN",
    "GEORGIAN",
    "HEBREW",
    "HIRAGANA",
    "KATAKANA",
    "CJK",
    "HANGUL",
)


def cleaned(name: str) -> str:
    """The name without what nobody sees of it: byte order marks, spaces of no width, soft hyphens, marks of direction.

    Joiners stay where a script or an emoji is written with them, and so do the tags of a flag; accents stay as
    they were given, composed or not.
    """
    if name.isascii():
        return name
    return "".join(each for i, each in enumerate(name) if not _is_invisible(name, i))


def _is_invisible(name: str, place: int) -> bool:
    each = name[place]
    if each in _BLANK:
        return True
    if each in _PRESENTATION:  # of a picture or a sign, and of no letter; the letter i is one
        before = name[place - 1 : place]
        return not before or (before.isalpha() and before != "\u2139")
    if unicodedata.category(each) != "Cf" or each in _SEEN:
        return False
    if each in _JOINERS:
        before, after = name[:place].rstrip("\ufe0e\ufe0f"), name[place + 1 :]
        if (
            before and unicodedata.combining(before[-1]) == 9
        ):  # after a virama it shapes the letter, at the end too
            return False
        return not (before and after and _is_joined(before[-1]) and _is_joined(after[0]))
    if "\U000e0020" <= each <= "\U000e007f":
        return _BLACK_FLAG not in name[:place]
    return True


def _is_joined(each: str) -> bool:
    """Whether a character is of a script, or of pictures, where a joiner means something."""
    if unicodedata.category(each)[0] not in "LMNS" or each.isascii():
        return False
    return not unicodedata.name(each, "").startswith(_UNJOINED)


def normalise(word: str) -> str:
    """How words are compared: in lower case, without what is invisible, with hyphens and underscores as spaces.

    ``Flying_fox`` is ``flying fox``. Composed and decomposed accents, full-width and other forms of a letter for
    compatibility's sake are one (Unicode's NFKC).
    """
    return " ".join(_folded(word).casefold().replace("_", " ").replace("-", " ").split())


def _folded(word: str) -> str:
    if word.isascii():
        return word
    return re.sub("[\u2010-\u2012\u2212]", "-", unicodedata.normalize("NFKC", cleaned(word)))


def checked_names(names: Sequence[str], what: str) -> tuple[str, ...]:
    """The names, or an error that tells which is empty, repeated or no string."""
    if isinstance(names, str):
        raise TypeError(f"{what}s must be a list of strings, not the one string {names!r}")
    names = tuple(names)
    for name in names:
        if not isinstance(name, str):
            raise TypeError(f"every {what} must be a string, not {name!r}")
        if not name.strip():
            raise ValueError(f"there is an empty {what}: {name!r}; leave it out")
    if not names:
        raise ValueError(f"no {what}s; give at least one")
    try:
        "".join(names).encode()
    except UnicodeEncodeError:
        name, half = next((name, each) for name in names for each in name if "\ud800" <= each <= "\udfff")
        raise ValueError(f"{what} {name!r:.80} holds {half!r}, half a character; read it as UTF-8") from None
    repeated = [name for name, count in Counter(names).items() if count > 1]
    if repeated:
        raise ValueError(f"{what}s occur more than once: {some_of(repeated, _SHOWN)}; give each of them once")
    return names


def checked_id_names(names: Sequence[str]) -> tuple[str, ...]:
    """The ID labels as they are shown: as they were given, less what is invisible in them.

    Raises:
        TypeError: no list of strings.
        ValueError: no label, or one that is empty or no plain text, such as a line that was read with its end; two that
            are the same but for invisible characters, hyphens and underscores, or the forms of their letters.
    """
    given = checked_names(names, "ID label")
    names = tuple(map(cleaned, given))
    for name, as_given in zip(names, given, strict=True):
        if not name.strip():
            raise ValueError(
                f"there is an empty ID label: {as_given!r} has invisible characters alone; leave it out"
            )
        if name != name.strip():
            raise ValueError(f"ID label {name!r:.80} has spaces around it; give {name.strip()!r:.80}")
        if not name.isprintable() and (found := _CONTROL.search(name)):
            raise ValueError(
                f"ID label {name!r:.80} holds {found[0]!r}; give text without tabs, line breaks and control characters"
            )
        if _LOST in name:
            raise ValueError(
                f"ID label {name!r:.80} holds {_LOST!r}, which stands for what could not be decoded; read it as UTF-8"
            )
    first: dict[str, str] = {}
    for name, as_given in zip(names, given, strict=True):
        other = first.setdefault(_same_text(name), as_given)
        if other is not as_given:
            raise ValueError(
                f"the ID labels {other!a:.80} and {as_given!a:.80} are the same text, but for invisible characters, "
                "hyphens, underscores or the forms of their letters; keep one of them"
            )
    return names


def _same_text(name: str) -> str:
    return _folded(name).replace("_", " ").replace("-", " ")
