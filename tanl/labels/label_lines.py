"""Class names from lines of text, one a line; numbers and bullets are taken off where they can be nothing else."""

from __future__ import annotations

import re
from collections.abc import Sequence

from .names import cleaned

# Names that the first line of a table has in place of a class.
HEADERS = frozenset(
    (
        "label",
        "name",
        "class",
        "category",
        "class name",
        "label name",
        "category name",
        "classname",
        "display name",
    )
)
HEADERS_OF_MANY = frozenset(
    ("labels", "names", "classes", "categories", "class names", "label names", "classnames")
)
_REMARKS = ("#", "//")
_QUOTED = re.compile(r"""(?:".*"|'.*')\s*(,?)""")
_BULLET = re.compile("[-*\u2022\u2013\u2014]\\s+(.+)")
_NUMBERED = re.compile(r"(\d{1,9})\s*(?:[.):=>]+|\s-|,(?!\d{3}(?!\d)))\s*(.+)")
_COUNTED = (re.compile(r"(\d{1,9})\s+\S.*"), re.compile(r".*\S\s+(\d{1,9})"))
# A list or dict that is called or assigned, in Python, JavaScript or TOML: array(['cat']), names = ["cat"].
_CODE = re.compile(
    r"""\A(?:[\w.]+\s*\(\s*[\[({]|(?:(?:const|let|var|export)\s+)*\w+\s*[:=]+\s*[\[({]).*[\])}]\s*;?\Z""",
    re.DOTALL,
)
_OF_CODE = re.compile(r"""(?:\w+\s*:?=?\s*)?[\[{(]|[\]})][,;]?|[\[{(].*["'].*[\])}],?""")


def lines_of(text: str) -> list[str]:
    """Those with a name, without outer spaces: no blank ones, and none that start with ``#`` or ``//``."""
    lines = [line.strip() for line in text.splitlines()]
    return [line for line in lines if (seen := cleaned(line).strip()) and not seen.startswith(_REMARKS)]


def header_of(line: str) -> str:
    """A line as it is compared with `HEADERS`."""
    return re.sub(r"[\s_-]+", " ", line.strip().removesuffix(":").casefold())


def names_in_lines(lines: Sequence[str]) -> list[str]:
    """The names, without bullets, with numbers taken off that are an index (``0: cat``), in the order of these.

    Raises:
        ValueError: lines that are a part of something else, or could be read in two ways; the message goes behind the
            file's name, and says what to do.
    """
    lines = list(lines)
    if not lines:
        return []
    quoted = [_QUOTED.fullmatch(line) for line in lines]
    if all(quoted) and (len(lines) > 1 or any(found is not None and found[1] for found in quoted)):
        raise ValueError(
            "has each name in quotes: make it a whole JSON list, or write one class name a line without quotes"
        )
    if _CODE.match("\n".join(lines)) or any(map(_OF_CODE.fullmatch, lines)):
        raise ValueError("is code, or a part of it: write a JSON list, or one class name a line")
    if any("\t" in line for line in lines):
        raise ValueError(
            "has columns, parted by tabs: name it .tsv, with a header, and give --label-column (column=), or write one "
            "class name a line"
        )
    if len(lines) > 1:
        return _of_several(lines)
    for mark, most in ((";", 1), (",", 2)):  # tench, Tinca tinca is a class of ImageNet
        if len([part for part in lines[0].split(mark) if part.strip()]) > most:
            raise ValueError(
                f"has one line, with {mark!r} in it, which may be one class or several: write one class name a line, "
                "or make it a JSON list if it is one class"
            )
    return lines


def _of_several(lines: list[str]) -> list[str]:
    first = header_of(lines[0])
    if first in HEADERS | HEADERS_OF_MANY:
        raise ValueError(
            f"begins with {lines[0]!r}, which may be a class or a header: leave the header out, or name the file .csv"
        )
    if all(line.startswith("|") and line.endswith("|") and len(line) > 1 for line in lines):
        raise ValueError("is a table with bars: name it .csv, with commas, or write one class name a line")
    if re.fullmatch(r"\[.*\]", lines[0]) and all("=" in line for line in lines[1:]):
        raise ValueError("is a file of settings: write one class name a line")
    columns = [field.strip() for field in re.split("[,;]", first)]
    if len(columns) > 1 and not (HEADERS | HEADERS_OF_MANY).isdisjoint(columns):
        raise ValueError(
            f"begins with {lines[0]!r:.80}, as a table does: name it .csv, and give --label-column (column=), or write "
            "one class name a line"
        )
    for mark in ";,":
        if all(line.endswith(mark) for line in lines[:-1]):
            lines = [line.removesuffix(mark).rstrip() for line in lines]
    bullets = [_BULLET.fullmatch(line) for line in lines]
    if all(bullets):
        lines = [found[1] for found in bullets if found is not None]
    numbered = [found for line in lines if (found := _NUMBERED.fullmatch(line)) is not None]
    places = [int(found[1]) for found in numbered]
    if len(places) == len(lines) and len(set(places)) == len(places):
        return [found[2] for _, found in sorted(zip(places, numbered, strict=True), key=lambda pair: pair[0])]
    for pattern in _COUNTED:
        counted = [found for line in lines if (found := pattern.fullmatch(line)) is not None]
        numbers = [int(found[1]) for found in counted]
        if len(numbers) == len(lines) and numbers in ([*range(len(lines))], [*range(1, len(lines) + 1)]):
            raise ValueError(
                f"has its lines numbered, such as {lines[0]!r:.80}, or classes with numbers in their names: leave the "
                'numbers out, write "0: cat" for an index, or make it a JSON list'
            )
    return lines
