"""One embedding as records hold it: a list of numbers, or the text of one as databases, NumPy and pandas write it."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .file import length_error

_NO_LIST = "the embedding is not a list of numbers"
# array([...], dtype=float32), tensor([...]), jax's Array(...), a list, a tuple, PostgreSQL's {...}; or no brackets.
_TEXT = re.compile(
    r"""\s*(?:(?:\w+\.)*\w*\()?      \s*
        (?P<open>[\[({<]?)(?P<numbers>[^\[\](){}<>]*)[\])}>]?
        \s*(?:,\s*[a-z_]+\s*=.*)?\)?\s*""",
    re.VERBOSE | re.DOTALL,
)
_OF_TENSORFLOW = re.compile(r"\s*<tf\.Tensor:.*?numpy=(.*)>\s*", re.DOTALL)
_NUMPY_NUMBER = re.compile(r"\b(?:np|numpy)\.float\d+\(([^()]*)\)")
_IN_BRACKETS = re.compile(
    r"""\s*['"]?\s*(?:<?[\w.]+[(:][^\[]*)?[\[({]+\s*['"]?(?:[-+\u2212.\d]|np\.|nan)""", re.IGNORECASE
)
_LEAST_IN_THE_OPEN = 3  # numbers of a text without brackets that is looked at as an embedding
_DECIMAL_COMMA = re.compile(r"\d,\d[^;]*(?:;|\s+-?\d+,\d)")


def vector(value: Any) -> NDArray[np.float32] | str:
    """The embedding in a value, as float32 ``[D]``; what is wrong with it otherwise."""
    if value is None or (isinstance(value, str) and not value.strip()):
        return length_error(-1, 0)
    if isinstance(value, str):
        return _of_text(value)
    if not isinstance(value, list) or not value:
        return _NO_LIST
    if isinstance(value[0], list):
        return "the embedding is a list of lists; give one list of numbers a row"
    # NumPy would also take True, and the text of a number.
    if not {type(each) for each in value} <= {int, float, type(None)}:
        return _NO_LIST
    try:
        with np.errstate(over="ignore"):  # what is too large becomes infinite, and is told as such
            return np.array(value, dtype=np.float32)
    except OverflowError:
        return "the embedding has NaN or infinite values"


def is_usable(found: NDArray[np.float32] | str) -> bool:
    """Whether a vector could be judged: finite, and not all zeros."""
    return not isinstance(found, str) and bool(np.isfinite(found).all() and found.any())


def looks_like_a_vector(value: Any) -> bool:
    """Whether a column with this value may be meant to hold embeddings: a list of numbers, or text in brackets."""
    if isinstance(value, str):
        return _IN_BRACKETS.match(value) is not None
    return isinstance(value, list) and bool(value) and isinstance(value[0], int | float | None | list)


def may_be_a_vector(value: Any) -> bool:
    """Whether a text without brackets may be meant as an embedding, where no column has one that looks like it."""
    if not isinstance(value, str) or "." not in value:
        return False
    found = vector(value)
    return not isinstance(found, str) and len(found) >= _LEAST_IN_THE_OPEN


def _of_text(text: str) -> NDArray[np.float32] | str:
    if "..." in text or "…" in text:
        return (
            "the embedding was cut when it was printed (it has ...): save the numbers themselves, as "
            "json.dumps(z.tolist()) writes them"
        )
    if inner := _OF_TENSORFLOW.fullmatch(text):
        text = inner[1]
    text = _NUMPY_NUMBER.sub(r"\1", text.strip().strip("'\"").replace("\u2212", "-"))
    if text.lstrip().startswith("[["):
        return "the embedding is a list of lists; give one list of numbers a row"
    whole = _TEXT.fullmatch(text)
    if whole is None:
        return _NO_LIST
    content = whole["numbers"]
    separator = next((mark for mark in ";,|" if mark in content), None)
    parts = content.split(separator)
    if separator is not None and not parts[-1].strip():
        parts.pop()
    try:
        with np.errstate(over="ignore"):
            found = np.array([float(part) for part in parts], dtype=np.float32)
    except ValueError:
        if _DECIMAL_COMMA.search(content):
            return "the embedding has decimal commas; write numbers with a point"
        return _NO_LIST
    return found if len(found) else _NO_LIST
