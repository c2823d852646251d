"""``--config FILE.toml``: options that one would type again and again."""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from importlib import import_module
from pathlib import Path
from typing import Any

from ..io.text import did_you_mean


def read_section(path: Path, command: Iterable[str]) -> dict[str, Any]:
    """What a TOML file says for a command: the table ``[judge]``, or ``[bench.run]``.

    Raises:
        ValueError: it is no TOML, or has no such table; the message names the file.
        OSError: it cannot be read.
        ImportError: Python 3.10 without tomli.
    """
    content = path.read_bytes()
    toml = _reader()
    try:
        found: Any = toml.loads(content.decode("utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is no TOML file: {error}") from error
    name = ".".join(command)
    for word in command:
        if not isinstance(found, dict) or word not in found:
            raise ValueError(f"{path} has no table [{name}], where the options of this command would be")
        found = found[word]
    if not isinstance(found, dict):
        raise ValueError(f"{path}: {name} must be a table, [{name}]")
    return found


def as_defaults(
    path: Path, section: dict[str, Any], actions: Iterable[argparse.Action]
) -> dict[argparse.Action, Any]:
    """The options of a section with their values, as a command line would have them.

    Raises:
        ValueError: no such option, or a value that it cannot have; the message names the file and the option.
    """
    known = {option.lstrip("-"): action for action in actions for option in action.option_strings}
    values = {}
    for name, value in section.items():
        action = known.get(name.replace("_", "-"))
        if action is None or name in ("help", "config"):
            raise ValueError(f"{path}: no option {name!r} here{did_you_mean(name, known)}")
        try:
            values[action] = _value(action, value)
        except (argparse.ArgumentTypeError, ValueError, TypeError) as error:
            raise ValueError(f"{path}: {name} = {value!r}: {error}") from error
    return values


def _value(action: argparse.Action, value: Any) -> Any:
    if isinstance(action, argparse.BooleanOptionalAction) or action.nargs == 0:
        if not isinstance(value, bool):
            raise ValueError("this option is true or false")
        return value
    # What may be repeated has a list to be added to.
    takes_several = action.nargs in ("+", "*") or isinstance(action.default, list)
    if takes_several:
        return [_one(action, each) for each in (value if isinstance(value, list) else [value])]
    if isinstance(value, list):
        raise ValueError("this option has one value, not a list")
    return _one(action, value)


def _one(action: argparse.Action, value: Any) -> Any:
    if isinstance(value, bool | dict | list):
        raise ValueError("this option is a text or a number")
    converted = action.type(str(value)) if callable(action.type) else str(value)
    if action.choices is not None and converted not in action.choices:
        raise ValueError(f"choose from {', '.join(map(str, action.choices))}")
    return converted


def _reader() -> Any:
    for module in ("tomllib", "tomli"):
        try:
            return import_module(module)
        except ImportError:
            continue
    raise ImportError("--config needs Python 3.11 or later, or tomli: pip install tomli")
