"""Options that come from the fields of a dataclass, and their way back to a command line."""

from __future__ import annotations

import argparse
from dataclasses import dataclass

import pytest

from tanl.io.arguments import a_name_or_path
from tanl.io.options import add_options, check_settings, names_in, setting, settings_of, words_of


@dataclass(frozen=True)
class Settings:
    name: str = setting("mini", "model to measure with", metavar="NAME")
    kind: str = setting("flat", "of index", choices=("flat", "ivf"))
    count: int = setting(8, "images at a time", metavar="N", at_least=1)
    limit: int | None = setting(None, "at most N images", metavar="N", at_least=2)
    share: float = setting(0.5, "of them")
    seeds: tuple[int, ...] = setting(
        (0,), "of the order", names=("--seeds", "--orders"), metavar="N", at_least=0
    )
    sizes: tuple[int, ...] = setting((3,), "of sets", gather=lambda values: tuple(sorted(set(values))))
    only: tuple[str, ...] | None = setting(None, "some of the sets (default: all)", metavar="NAMES")
    files: tuple[str, ...] = setting((), "of one's own", metavar="PATH", parse=a_name_or_path)
    half: bool = setting(False, "in half precision too")
    curves: bool = setting(True, "draw curves")
    seed: int = setting(0, "of the features", metavar="N")
    hidden: int = 3

    def __post_init__(self) -> None:
        check_settings(self)


def parser_of(*names: str, **helps: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="it")
    add_options(parser, Settings, *names, **helps)
    return parser


def parsed(*words: str) -> Settings:
    return settings_of(parser_of().parse_args(words), Settings())


def test_what_is_not_given_is_as_the_start_has_it():
    assert parsed() == Settings()
    start = Settings(count=99, hidden=4)
    assert settings_of(parser_of().parse_args([]), start) == start
    assert settings_of(parser_of().parse_args(["--name", "x"]), start, count=5) == Settings(
        "x", count=5, hidden=4
    )


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (
            ["--name", "x", "--count", "1", "--limit", "2", "--share", "0.25"],
            Settings("x", count=1, limit=2, share=0.25),
        ),
        (["--seeds", "2", "1", "--orders", "2", "--seeds", "5,0"], Settings(seeds=(2, 1, 5, 0))),
        (["--sizes", "9,1", "9"], Settings(sizes=(1, 9))),
        (["--only", "a b,c", "a b"], Settings(only=("a b", "c"))),
        (["--files", "a,b.txt", "c"], Settings(files=("a,b.txt", "c"))),
        (["--half", "--no-curves", "--kind", "ivf"], Settings(half=True, curves=False, kind="ivf")),
    ],
)
def test_options_become_settings_and_settings_options(words: list[str], expected: Settings):
    assert parsed(*words) == expected
    again = words_of(expected, Settings())
    assert parsed(*again) == expected
    assert words_of(expected, expected) == []
    left_out = words_of(expected, Settings(), leave_out=list(vars(expected)))
    assert left_out == []


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--count", "0"], "argument --count: '0' is not a whole number of at least 1"),
        (["--limit", "1"], "argument --limit: '1' is not a whole number of at least 2"),
        (["--seeds", "0", "1,x"], "argument --seeds/--orders: 'x' is not a whole number of at least 0"),
        (["--sizes", "1.5"], "argument --sizes: '1.5' is not a whole number"),
        (["--kind", "hnsw"], "argument --kind: invalid choice: 'hnsw'"),
        (["--hidden", "3"], "unrecognized arguments: --hidden"),
    ],
)
def test_unusable_options_are_refused_by_name(words: list[str], message: str, capsys):
    with pytest.raises(SystemExit, match="2"):
        parser_of().parse_args(words)
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"count": 0}, ValueError, "count must be at least 1, not 0"),
        ({"count": True}, TypeError, "count must be a whole number, not True"),
        ({"seeds": (0, -1)}, ValueError, "seeds must be at least 0, not -1"),
        ({"seeds": ()}, ValueError, "seeds must have one value at least"),
        ({"limit": 1}, ValueError, "limit must be at least 2, not 1"),
        ({"kind": "hnsw"}, ValueError, "kind must be one of flat, ivf, not 'hnsw'"),
    ],
)
def test_the_same_bounds_hold_in_python(changes, error, message):
    with pytest.raises(error, match=message):
        Settings(**changes)


def test_help_has_the_defaults_and_may_be_another():
    text = " ".join(parser_of("limit", "name", "seed", "curves", name="which one").format_help().split())
    assert text.index("--limit N at most N images") < text.index("--name NAME which one (default: mini)")
    assert "of the features (default: 0)" in text
    assert "draw curves (default: yes)" in text
    assert "--count" not in text and "SUPPRESS" not in text
    assert "some of the sets (default: all)" in " ".join(parser_of("only").format_help().split())


def test_names_are_split_at_commas_and_come_once():
    assert names_in(["a, b", "b,,c", " "]) == ("a", "b", "c")
    assert names_in(["a (b, c), d", "a (b, c)"]) == ("a (b, c)", "d")
    assert names_in(None) == ()
