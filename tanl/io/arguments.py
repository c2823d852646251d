"""The types of command-line arguments, and checks of arguments that exclude one another."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar

from .paths import is_address, local_path

_N = TypeVar("_N", int, float)


class Arguments(Protocol):
    """Where arguments are described: a parser, or a group of one."""

    def add_argument(self, *names: str, **description: Any) -> Any:
        """As `argparse.ArgumentParser.add_argument`."""


def given(arguments: argparse.Namespace, option: str) -> bool:
    """Whether an option such as ``--id-column`` was given: its value is not that of its absence."""
    return getattr(arguments, option.strip("-").replace("-", "_")) not in (None, False, [])


def refuse(arguments: argparse.Namespace, options: Sequence[str], why: str) -> None:
    """Refuse options that mean nothing here.

    Raises:
        ValueError: one of them was given; ``why`` says in its message what is wrong with that.
    """
    for option in options:
        if given(arguments, option):
            raise ValueError(f"{option} {why}; leave it out")


def positive_number(text: str) -> int:
    """The type of an argument that is a whole number from 1 on."""
    return _number(int, text, lambda number: number >= 1, "a whole number of at least 1")


def whole_number(text: str) -> int:
    """The type of an argument that is a whole number from 0 on."""
    return _number(int, text, lambda number: number >= 0, "a whole number of at least 0")


def share(text: str) -> float:
    """The type of an argument that is a share, without none and all."""
    return _number(float, text, lambda number: 0 < number < 1, "a number between 0 and 1, such as 0.95")


def positive(text: str) -> float:
    """The type of an argument that is a number above 0."""
    return _number(float, text, lambda number: 0 < number < float("inf"), "a positive number, such as 100")


def not_negative(text: str) -> float:
    """The type of an argument that is a number from 0 on."""
    return _number(
        float, text, lambda number: 0 <= number < float("inf"), "a number of at least 0, such as 0.5"
    )


def _number(kind: Callable[[str], _N], text: str, fits: Callable[[_N], bool], wanted: str) -> _N:
    try:
        number = kind(text)
    except ValueError:
        pass
    else:
        if fits(number):
            return number
    raise argparse.ArgumentTypeError(f"{text!r} is not {wanted}")


def a_path(text: str) -> Path:
    """The type of an argument that names a file or folder: ``~`` is a home folder, and an address is refused."""
    try:
        return local_path(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def a_path_or_address(text: str) -> Path | str:
    """The type of an argument that is a path as `a_path` takes it, or an address: ``s3://bucket/a``, which is left."""
    return text if is_address(text) else a_path(text)


def a_name_or_path(text: str) -> str:
    """The type of an argument that is a name, or a file: ``~`` in front of it is a home folder."""
    path = a_path(text)
    # What is no name's is left as it is written: ./wordnet is a file, wordnet a selection of words.
    return str(path) if text.startswith("~") else text
