"""Text for people: paths and names that any file or terminal can hold, and percentages."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence

_SURROGATE = re.compile("[\ud800-\udfff]")


def valid_text(text: str) -> str:
    r"""The text with what UTF-8 cannot hold spelled out, as ``\udcff``."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def shown_path(path: str | os.PathLike[str]) -> str:
    r"""A path, or an id, as valid text, also where its name is no text: such bytes are spelled out, as ``\xff``."""
    if isinstance(path, str) or _SURROGATE.search(os.fspath(path)) is None:
        return valid_text(os.fspath(path))
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def one_line(text: str) -> str:
    r"""Text for a line of a terminal: line ends and other control characters are spelled out, as ``\n`` or ``\x1b``.

    A file's name may hold any of them, and would break the line or drive the terminal.
    """
    if text.isprintable():
        return text
    return "".join(each if each.isprintable() else valid_text(repr(each)[1:-1]) for each in text)


def counted(count: int, noun: str) -> str:
    """A number of things, such as "1 label" or "3 labels"."""
    return f"{count} {noun}" + ("" if count == 1 else "s")


def first_of(texts: Sequence[str], shown: int) -> str:
    """The first texts, and how many more there are."""
    more = f" and {len(texts) - shown} more" if len(texts) > shown else ""
    return ", ".join(texts[:shown]) + more


def some_of(names: Sequence[str], shown: int) -> str:
    """The first names, quoted, and how many more there are."""
    return first_of([*map(repr, names)], shown)


def did_you_mean(unknown: object, known: Iterable[str]) -> str:
    """The end of a message about an unknown name, "; did you mean 'neglabel'?"; empty where nothing is like it."""
    if not isinstance(unknown, str):
        return ""
    nearest = nearest_names(unknown, known, 1)
    return f"; did you mean {nearest[0]!r}?" if nearest else ""


def nearest_names(unknown: str, known: Iterable[str], shown: int, *, likeness: float = 0.6) -> list[str]:
    """The names that are spelled most like this one, the nearest first; case and punctuation count for little."""
    from difflib import SequenceMatcher

    wanted = letters_of(unknown)
    ranked = sorted(
        (-SequenceMatcher(None, wanted, letters_of(name)).ratio(), place, name)
        for place, name in enumerate(known)
    )
    return [name for ratio, _, name in ranked[:shown] if -ratio >= likeness]


def letters_of(name: str) -> str:
    """A name without what people write otherwise: case, spaces and punctuation."""
    return re.sub(r"[\W_]+", "", name).casefold()


def shown_percentage(probability: float) -> str:
    """Two digits of a probability: over 70 000 labels even the strongest may hold less than one per cent."""
    percent = 100 * probability
    return f"{percent:.0f}%" if percent >= 10 else f"{percent:.2g}%" if percent >= 1e-4 else "0%"
