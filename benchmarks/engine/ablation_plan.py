"""What can vary in an ablation of TANL: its dimensions, the values of each, and the points that a plan measures."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from tanl.detectors import TANL
from tanl.io.text import did_you_mean

from .methods import METHODS
from .protocol import ORDERS
from .tasks import Config

ADJECTIVES = "wordnet-adjectives"
"""A corpus beside those of `tanl.Corpus.load`: WordNet's adjectives that are not nouns too."""

PAPER = METHODS["TANL (batch-adaptive)"]
"""The baseline's method."""

BASELINE = "baseline"
"""The run's folder of the baseline and of all changes of settings."""

OWN, ALL, DEFAULT = "own", "all", "default"
"""Values of conditions: the sets' own share of OOD images, all of their images, and the usual prompts."""

_PAPER_SETTINGS = TANL.preset("paper")


@dataclass(frozen=True)
class Dimension:
    """What is varied.

    Attributes:
        what: what it is, for tables and charts.
        values: those that are measured unless others are named.
        parse: gives a value its one spelling, or raises ``ValueError``.
        setting: the argument of `TANL` that it is, or None for a condition.
        paper: the paper's value; empty where it is the configuration's.
    """

    what: str
    values: tuple[str, ...]
    parse: Callable[[str], str]
    setting: str | None = None
    paper: str = ""


def _whole(at_least: int) -> Callable[[str], str]:
    def parse(text: str) -> str:
        if not re.fullmatch(r"\d+", text, re.ASCII) or int(text) < at_least:
            raise ValueError(f"a whole number of at least {at_least}")
        return str(int(text))

    return parse


def _fraction(text: str) -> str:
    if not re.fullmatch(r"\d*\.?\d*", text, re.ASCII) or text in ("", ".") or float(text) > 1:
        raise ValueError("a number from 0 to 1, such as 0.25")
    return repr(float(text)).removesuffix(".0")


def _share(text: str) -> str:
    problem = f"a number between 0 and 1, or {OWN!r} for the sets as they are"
    if text == OWN:
        return text
    try:
        share = _fraction(text)
    except ValueError as error:
        raise ValueError(problem) from error
    if share in ("0", "1"):
        raise ValueError(problem)
    return share


def _samples(text: str) -> str:
    if text == ALL:
        return text
    try:
        return _whole(2)(text)
    except ValueError as error:
        raise ValueError(f"{error}, or {ALL!r}") from error


def _order(text: str) -> str:
    if text not in ORDERS:
        raise ValueError(f"one of {', '.join(ORDERS)}")
    return text


def _template(text: str) -> str:
    if text != DEFAULT and (text.count("{}") != 1 or re.search("[{}]", text.replace("{}", ""))):
        raise ValueError(f"text that holds {{}} once, for the label, or {DEFAULT!r}")
    return text


def _name(text: str) -> str:
    if not text:
        raise ValueError("a name")
    return text


def _paper(setting: str) -> str:
    return repr(_PAPER_SETTINGS[setting]).removesuffix(".0")


DIMENSIONS: dict[str, Dimension] = {
    "K": Dimension(
        "how many activated negatives are used",
        ("100", "300", "1000", "3000", "10000"),
        _whole(1),
        "num_selected",
        _paper("num_selected"),
    ),
    "L": Dimension(
        "how many confident embeddings of either kind are remembered",
        ("50", "100", "300", "1000"),
        _whole(1),
        "capacity",
        _paper("capacity"),
    ),
    "gap": Dimension(
        "how far past the threshold a confident image lies",
        ("0", "0.1", "0.2", "0.3", "0.5"),
        _fraction,
        "gap",
        _paper("gap"),
    ),
    "alpha": Dimension(
        "weight of the rings against the batch",
        ("0", "0.5", "0.8", "0.95", "1"),
        _fraction,
        "alpha",
        _paper("alpha"),
    ),
    "step": Dimension(
        "distance between the score's prefixes; 0 is NegLabel's sum",
        ("0", "1", "5", "10", "100"),
        _whole(0),
        "step",
        _paper("step"),
    ),
    "corpus": Dimension(
        "words to choose negatives from", ("wordnet", "wordnet-nouns", "neglabel", "csp", ADJECTIVES), _name
    ),
    "templates": Dimension(
        "prompt of labels and words", (DEFAULT, "{}", "a photo of a {}."), _template, paper=DEFAULT
    ),
    "order": Dimension("order of the stream", ORDERS, _order, paper="shuffled"),
    "ratio": Dimension(
        "share of OOD images in the stream",
        (OWN, "0.1", "0.25", "0.5", "0.75", "0.9"),
        _share,
        paper=OWN,
    ),
    "samples": Dimension("images in the stream", ("100", "300", "1000", ALL), _samples, paper=ALL),
    "backbones": Dimension("model", (), _name),
}


class Point(NamedTuple):
    """One change from the baseline; of no dimension is the baseline itself."""

    dimension: str = ""
    value: str = ""

    @property
    def is_setting(self) -> bool:
        """Whether it changes the method alone, or nothing: its streams are the baseline's."""
        return not self.dimension or DIMENSIONS[self.dimension].setting is not None

    @property
    def method(self) -> str:
        """Its name in the run's folder."""
        return f"TANL {self.dimension}={self.value}" if self.dimension else PAPER.name

    @property
    def run(self) -> str:
        """The run's folder, in that of the ablation."""
        if self.is_setting:
            return BASELINE
        name = re.sub(r"[^A-Za-z0-9._-]+", "-", self.value).strip("-.")
        if name != self.value:
            name = f"{name[-40:]}-{hashlib.sha256(self.value.encode()).hexdigest()[:6]}"
        return f"{self.dimension}-{name}"


@dataclass(frozen=True)
class Plan:
    """What is measured.

    Attributes:
        config: the baseline's corpus, backbone, images, batch size and seeds.
        values: of each dimension, in the spelling that `plan_values` gives.
    """

    config: Config
    values: dict[str, tuple[str, ...]]

    def baseline(self, dimension: str) -> str:
        """The value of a dimension while another one varies."""
        of_config = {"corpus": self.config.corpus, "backbones": self.config.backbone}
        return of_config.get(dimension, DIMENSIONS[dimension].paper)

    def point(self, dimension: str, value: str) -> Point:
        """The point of a value; those of baseline values are one and the same."""
        return Point() if value == self.baseline(dimension) else Point(dimension, value)

    def points(self) -> tuple[Point, ...]:
        """Every point once."""
        named = [self.point(name, value) for name, values in self.values.items() for value in values]
        return tuple(dict.fromkeys(named))


def plan_values(
    config: Config,
    of: Iterable[str] = (),
    values: Iterable[str] = (),
    corpus_files: Sequence[str] = (),
    backbones: Sequence[str] = (),
) -> dict[str, tuple[str, ...]]:
    """The values of each dimension that is wanted.

    Args:
        config: its corpus and its backbone are the first of their dimensions' defaults.
        of: names of dimensions, whatever their case; none for all.
        values: texts such as ``gap=0,0.2,0.5`` that replace the defaults. A template may hold commas: name one at a
            time.
        corpus_files: added to the values of "corpus".
        backbones: added to those of "backbones".

    Raises:
        ValueError: an unknown dimension, one with values that is not wanted, or an unusable value.
    """
    known = {name.casefold(): name for name in DIMENSIONS}
    asked = list(of)
    unknown = [name for name in asked if name.casefold() not in known]
    if unknown:
        there = f"there are {', '.join(DIMENSIONS)}{did_you_mean(unknown[0], DIMENSIONS)}"
        raise ValueError(f"no dimension {', '.join(unknown)}; {there}")
    wanted = {known[name.casefold()] for name in asked} or set(DIMENSIONS)
    given: dict[str, list[str]] = {}
    for text in values:
        name, equals, listed = text.partition("=")
        dimension = known.get(name.strip().casefold())
        if dimension is None or not equals:
            raise ValueError(
                f"no dimension in --values {text!r}; write NAME=VALUE,VALUE with one of {', '.join(DIMENSIONS)}"
            )
        given.setdefault(dimension, []).extend([listed] if dimension == "templates" else listed.split(","))
    for name, more in (("corpus", corpus_files), ("backbones", backbones)):
        if more:
            given[name] = [*given.get(name, _defaults(name, config)), *more]
    unasked = [name for name in given if name not in wanted]
    if unasked:
        raise ValueError(f"there are values for {', '.join(unasked)}, which --of does not name")
    return {
        name: _parsed(name, given.get(name, _defaults(name, config))) for name in DIMENSIONS if name in wanted
    }


def _defaults(name: str, config: Config) -> tuple[str, ...]:
    first = {"corpus": (config.corpus,), "backbones": (config.backbone,)}.get(name, ())
    return (*first, *DIMENSIONS[name].values)


def _parsed(name: str, values: Iterable[str]) -> tuple[str, ...]:
    found = []
    for value in values:
        try:
            found.append(DIMENSIONS[name].parse(value.strip()))
        except ValueError as error:
            raise ValueError(f"{name} must be {error}, not {value.strip()!r}") from error
    return tuple(dict.fromkeys(found))
