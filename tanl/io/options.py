"""Settings that are options of a command too: each is declared once, as a field of a dataclass.

The field's name, type, default, bounds and help are those of the option; the option's value is the field's::

    @dataclass(frozen=True)
    class Config:
        batch_size: int = setting(64, "images that are judged at a time", metavar="N", at_least=1)
        seeds: tuple[int, ...] = setting((0,), "of the order", metavar="N", at_least=0)

        def __post_init__(self) -> None:
            check_settings(self)

    add_options(parser, Config)                               # --batch-size N, --seeds N [N ...]
    config = settings_of(parser.parse_args(), Config())
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import Field, dataclass, field, fields, replace
from types import NoneType
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from .arguments import Arguments
from .text import did_you_mean

BATCH_SIZE = 64
"""Images of a batch where nobody says how many: the default of every command and of the library."""
# Chosen on the ID sets animals and food of the pictograms, see docs/streams.md.
_BATCHES, _SMALLEST = 8, 8

_OPTION = "option"
_T = TypeVar("_T")


@dataclass(frozen=True)
class _Option:
    """What a field's type and default do not say of its option."""

    help: str
    names: tuple[str, ...]
    metavar: str | None
    parse: Callable[[str], Any] | None
    gather: Callable[[Sequence[Any]], tuple[Any, ...]] | None
    at_least: int | None
    choices: tuple[str, ...] | None


def batch_size_for(count: int | None) -> int:
    """Images of a batch where a method learns from batch to batch and the stream has so many images.

    `BATCH_SIZE`, and fewer where it would have less than eight batches to learn from, down to 8; with None nobody knows
    the stream's length.
    """
    return BATCH_SIZE if count is None else min(BATCH_SIZE, max(_SMALLEST, count // _BATCHES))


def setting(
    default: Any,
    help: str,
    *,
    names: Sequence[str] = (),
    metavar: str | None = None,
    parse: Callable[[str], Any] | None = None,
    gather: Callable[[Sequence[Any]], tuple[Any, ...]] | None = None,
    at_least: int | None = None,
    choices: Iterable[str] | None = None,
) -> Any:
    """A field of a dataclass that is an option too.

    Of a bool the option is a flag. Of a tuple it takes several values, with spaces or commas between them, and may be
    repeated.

    Args:
        default: of the field.
        help: of the option, as argparse takes it; "(default: ...)" is added where it says nothing of a default.
        names: of the option, where they are not ``--`` and the field's.
        metavar: what its value is called.
        parse: makes a value of text, and raises `argparse.ArgumentTypeError`; by default the field's type. Such text
            may hold commas of its own.
        gather: makes the tuple of the values that were given; by default each once, in their order.
        at_least: the smallest whole number that is taken.
        choices: the only values that are taken.
    """
    option = _Option(
        help, tuple(names), metavar, parse, gather, at_least, None if choices is None else tuple(choices)
    )
    return field(default=default, metadata={_OPTION: option})


def add_options(group: Arguments, kind: type[Any], *wanted: str, **helps: str) -> None:
    """Add the options of a dataclass's settings.

    Args:
        group: a parser, or a group of one.
        kind: the dataclass.
        wanted: the fields, in the order of the help; none for all.
        helps: help in place of a field's own.
    """
    hints = get_type_hints(kind)
    known = {each.name: each for each in fields(kind) if _OPTION in each.metadata}
    for name in wanted or known:
        _add(group, known[name], hints[name], helps.get(name))


def settings_of(arguments: argparse.Namespace, start: _T, **more: Any) -> _T:
    """The settings ``start`` with what options say in their place, and ``more`` in place of that.

    Raises:
        TypeError, ValueError: as the dataclass does.
    """
    return replace(start, **{**_given(arguments, start), **more})  # type: ignore[type-var]


def words_of(settings: Any, start: Any, *, leave_out: Sequence[str] = ()) -> list[str]:
    """The words of a command line by which `settings_of` makes ``settings`` of ``start``; fields may be left out."""
    words: list[str] = []
    for each in _settings(settings):
        value = getattr(settings, each.name)
        if each.name in leave_out or value == getattr(start, each.name):
            continue
        name = _names(each)[0]
        if isinstance(value, bool):
            words.append(name if value else f"--no-{name.removeprefix('--')}")
        else:
            words += [name, *(str(item) for item in (value if isinstance(value, tuple) else (value,)))]
    return words


def check_settings(settings: Any) -> None:
    """Hold the bounds that `setting` declares.

    Raises:
        TypeError: a value is not a whole number where it must be one; the message names the field.
        ValueError: it is too small, none of the choices, or no value at all.
    """
    from ..checks import whole_number  # with torch, which a command's help does without

    for each in _settings(settings):
        option, value = each.metadata[_OPTION], getattr(settings, each.name)
        values = value if isinstance(value, tuple) else () if value is None else (value,)
        if option.at_least is not None:
            if value == ():
                raise ValueError(f"{each.name} must have one value at least")
            for item in values:
                _ = whole_number(item, each.name, at_least=option.at_least)
        for item in values if option.choices is not None else ():
            if item not in option.choices:
                hint = did_you_mean(item, option.choices)
                raise ValueError(
                    f"{each.name} must be one of {', '.join(option.choices)}, not {item!r}{hint}"
                )


def names_in(given: Iterable[str] | None) -> tuple[str, ...]:
    """Names that are given one by one or with commas between them, each once."""
    return tuple(dict.fromkeys(name for text in given or () for name in _parts(text)))


def _parts(text: str) -> list[str]:
    """What is between commas; those in parentheses are a part's own."""
    return [part.strip() for part in re.split(r",(?![^()]*\))", text) if part.strip()]


def _settings(settings: Any) -> list[Field[Any]]:
    return [each for each in fields(settings) if _OPTION in each.metadata]


def _names(each: Field[Any]) -> tuple[str, ...]:
    return each.metadata[_OPTION].names or (f"--{each.name.replace('_', '-')}",)


def _given(arguments: argparse.Namespace, start: Any) -> dict[str, Any]:
    found = {each.name: getattr(arguments, each.name) for each in _settings(start) if each.name in arguments}
    for each in _settings(start):
        if isinstance(found.get(each.name), list):
            values = [value for part in found[each.name] for value in part]
            gather = each.metadata[_OPTION].gather or (lambda values: tuple(dict.fromkeys(values)))
            found[each.name] = gather(values)
    return found


def _add(group: Arguments, each: Field[Any], hint: Any, help: str | None) -> None:
    option: _Option = each.metadata[_OPTION]
    # What is not given is not in the namespace: the dataclass has the default.
    about: dict[str, Any] = {"dest": each.name, "default": argparse.SUPPRESS}
    about["help"] = _with_default(help or option.help, each.default)
    kind, several = _value_type(hint)
    if kind is bool:
        about["action"] = argparse.BooleanOptionalAction if each.default else "store_true"
    elif several:
        about |= {
            "metavar": option.metavar,
            "nargs": "+",
            "action": "extend",
            "type": Several(_value(option, kind), commas=option.parse is None),
        }
    else:
        about |= {"metavar": option.metavar, "choices": option.choices, "type": _value(option, kind)}
    group.add_argument(*_names(each), **about)


def _with_default(help: str, default: Any) -> str:
    if "(default" in help or default is None or default is False or default == ():
        return help
    shown = (
        " ".join(map(str, default)) if isinstance(default, tuple) else "yes" if default is True else default
    )
    return f"{help} (default: {shown})"


def _value_type(hint: Any) -> tuple[type[Any], bool]:
    """The type of one value, and whether there may be several."""
    if get_origin(hint) is tuple:
        return get_args(hint)[0], True
    kinds = [kind for kind in get_args(hint) if kind is not NoneType]
    return _value_type(kinds[0]) if kinds else (hint, False)


@dataclass(frozen=True)
class Several:
    """The type of an option that takes several values: ``one`` of each; with ``commas`` some may stand in one word."""

    one: Callable[[str], Any]
    commas: bool

    def __call__(self, text: str) -> list[Any]:
        return [self.one(part) for part in (_parts(text) if self.commas else [text])]


def _value(option: _Option, kind: type[Any]) -> Callable[[str], Any]:
    if option.parse is not None or kind is not int:
        return option.parse or kind

    def parse(text: str) -> int:
        with suppress(ValueError):
            if option.at_least is None or int(text) >= option.at_least:
                return int(text)
        wanted = "a whole number" + ("" if option.at_least is None else f" of at least {option.at_least}")
        raise argparse.ArgumentTypeError(f"{text!r} is not {wanted}")

    return parse
