"""Levels of grey, of any kind of number, to the 8 bits of an ordinary picture: the one rule for all of them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

DEPTHS = (8, 10, 12, 14, 16)
"""The bits a sample that cameras, films and scanners have."""

_ROWS_AT_ONCE = 1 << 20  # values in memory as float64


def to_8_bits(values: NDArray[Any], white: int | None = None) -> NDArray[np.uint8]:
    """Numbers ``[H, W]`` or ``[H, W, channels]`` as grey levels 0 to 255.

    1. Whole numbers of which none is negative are levels of ``white + 1``, and keep their upper 8 bits:
       ``value * 256 // (white + 1)``; fewer than 256 levels are spread. What is white is what the picture declares.
       Where it declares nothing, or values go beyond that, it is ``2**bits - 1`` with the smallest of `DEPTHS` that
       holds the largest value: a file of 16 bits is often a container for fewer.
    2. Numbers in [0, 1] that are kept as floats are shares of white.
    3. All others (negative numbers, fractions beyond 1, more than 16 bits) are stretched from their minimum to their
       maximum; where both are the same, the picture is mid-grey, 128.

    Floats that are whole numbers, beyond 1 and not all the same, are read as whole numbers.

    Args:
        values: integers or floats of any size and byte order.
        white: the largest value that the picture declares.

    Raises:
        ValueError: a value is not finite.
    """
    low, high = float(values.min()), float(values.max())
    is_float = values.dtype.kind == "f"
    if not (np.isfinite(low) and np.isfinite(high)):
        raise ValueError("the image holds values that are not finite")
    if is_float and low >= 0 and high <= 1:
        return _mapped(values, lambda part: np.rint(part * 255))
    is_whole = not is_float or (
        low < high and all(bool((part == np.floor(part)).all()) for _, part in _parts(values))
    )
    if is_whole and low >= 0 and high < 1 << DEPTHS[-1]:
        top = white_of(int(high)) if white is None or high > white else white
        if top < 255:
            return _mapped(values, lambda part: np.rint(part * 255 / top))
        return _mapped(values, lambda part: part * 256 // (top + 1))
    if low == high:
        return np.full(values.shape, 128, np.uint8)
    return _mapped(values, lambda part: np.rint((part - low) * 255 / (high - low)))


def white_of(largest: int) -> int:
    """What is white in a picture whose largest value is this, by the smallest depth that holds it."""
    return next((1 << bits) - 1 for bits in DEPTHS if largest < 1 << bits)


def _mapped(values: NDArray[Any], function: Any) -> NDArray[np.uint8]:
    grey = np.empty(values.shape, np.uint8)
    for rows, part in _parts(values):
        grey[rows] = function(part)
    return grey


def _parts(values: NDArray[Any]) -> Iterator[tuple[slice, NDArray[np.float64]]]:
    """The values as float64, some rows at a time: a large picture need not be in memory as such."""
    step = max(1, _ROWS_AT_ONCE // max(1, values[0].size))
    for start in range(0, len(values), step):
        rows = slice(start, start + step)
        yield rows, values[rows].astype(np.float64)
