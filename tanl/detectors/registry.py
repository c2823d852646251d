"""The methods that go by a name, without importing any of them: `tanl.Guard` and the command line share them."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Any, NamedTuple

from ..io.text import did_you_mean, letters_of

if TYPE_CHECKING:
    from ..checks import Embeddings
    from ..labels.bank import LabelBank
    from . import Detector

METHODS = {
    "tanl": ("TANL", "practice"),
    "tanl-paper": ("TANL", "paper"),
    "tanl-official-script": ("TANL", "official-script"),
    "neglabel": ("NegLabel", None),
    "adaneg": ("AdaNeg", None),
    "csp": ("CSP", None),
    "mcm": ("MCM", None),
    "max_logit": ("MaxLogit", None),
    "energy": ("Energy", None),
}
"""Names; the classes in `tanl.detectors` that they stand for; and the presets that these are made with, or None for the
settings of their papers. ``tanl`` is for streams as people have them, in which outliers may be rare."""

MINED = 10_000
"""How many negatives NegLabel and AdaNeg mine."""

WITH_NEGATIVES = ("tanl", "tanl-paper", "tanl-official-script", "neglabel", "adaneg", "csp")
"""Those that score with negative labels; their random choices take a seed."""

FROM_OUTLIERS = ("tanl", "tanl-paper", "tanl-official-script")
"""Those that start from known outliers."""

LEARNING = (*FROM_OUTLIERS, "adaneg")
"""Those that learn from their stream, once a batch."""

_GIVEN = ("bank", "seed", "initial_ood")
"""What `make_detector` gives a class beside the settings."""


class InUse(NamedTuple):
    """A method as it is used, for people and for JSON; as text: "tanl-paper with gap=0.5".

    Attributes:
        name: in `METHODS`; of a detector that a function made, its class.
        settings: those that are others than the method's own, by name, as `settings_told` tells them.
    """

    name: str
    settings: dict[str, Any]

    def __str__(self) -> str:
        told = ", ".join(f"{name}={value!r}" for name, value in self.settings.items())
        return f"{self.name} with {told}" if told else self.name


def known_method(name: str) -> str:
    """The name in `METHODS` that is meant, whatever its case and punctuation: "TANL (official-script)" is one.

    Raises:
        ValueError: there is no such method.
    """
    meant = [known for known in METHODS if letters_of(known) == letters_of(name)]
    if not meant:
        raise ValueError(
            f"no method {name!r}; there are {', '.join(METHODS)}, or give a function{did_you_mean(name, METHODS)}"
        )
    return meant[0]


def refuse_settings(method: str, settings: Mapping[str, Any]) -> None:
    """Refuse settings that a method has not, and values that they cannot have.

    Args:
        method: a name in `METHODS`.
        settings: of the method's class, by name.

    Raises:
        ValueError: the method has no such setting; the message names those that it has. Or an unusable value.
        TypeError: an unusable value.
    """
    made = _made(METHODS[method][0])
    known = [name for name in inspect.signature(made).parameters if name not in _GIVEN]
    checks = made.checked | made.lasting
    for name, value in settings.items():
        if name not in known:
            there = f"its settings are {', '.join(known)}" if known else "it has none"
            raise ValueError(
                f"the method {method!r} has no setting {name!r}; {there}{did_you_mean(name, known)}"
            )
        checks[name](value, name)


def method_in_use(detector: Detector, method: str | None, *, by_images: bool = False) -> InUse:
    """What method a detector is of, and which of its settings are not the method's own.

    Args:
        detector: as it is now.
        method: the name in `METHODS` that it was made by, None of one that a function made.
        by_images: its negatives were chosen by ID images, which is no setting of the method then.
    """
    from .base import is_same

    made: Any = type(detector)
    name, preset = made.__name__, None
    if method is not None and made is _made(METHODS[method][0]):  # no other was put in its place
        name, preset = method, METHODS[method][1]
    own = {each: known.default for each, known in inspect.signature(made).parameters.items()}
    if preset is not None:
        own |= made.preset(preset)
    left_out = (*_GIVEN, CHOICES.get(made.__name__)) if by_images else _GIVEN
    told = settings_told(detector)
    by_hand = {
        each: told[each]
        for each, value in detector.settings.items()
        if each not in left_out and not is_same(value, own.get(each))
    }
    return InUse(name, by_hand)


def settings_told(detector: Detector) -> dict[str, Any]:
    """All settings of a detector as JSON can hold them: an object is told by its text."""
    return {name: value if _is_plain(value) else str(value) for name, value in detector.settings.items()}


def held_settings(detector: Detector, names: Iterable[str]) -> dict[str, Any]:
    """Those of the named settings that JSON can hold, without the objects among them."""
    return {name: value for name in names if _is_plain(value := getattr(detector, name))}


def _is_plain(value: object) -> bool:
    if isinstance(value, list | tuple):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, str | int | float | bool)


def _made(kind: str) -> Any:
    return getattr(import_module(__package__), kind)


CHOICES = {"TANL": "candidates", "NegLabel": "num_negatives", "AdaNeg": "num_negatives"}
"""The classes that may choose their negatives by ID images, and the setting that says how."""


def make_detector(
    method: str,
    bank: LabelBank,
    *,
    seed: int = 0,
    initial_ood: Embeddings | None = None,
    id_images: Embeddings | None = None,
    settings: Mapping[str, Any] | None = None,
) -> Detector:
    """A detector of the method with that name.

    Args:
        method: a name in `METHODS`, as `known_method` takes it.
        bank: the labels.
        seed: of the method's random choices.
        initial_ood: ``[n, D]`` known outliers that those of `FROM_OUTLIERS` start from; the other methods use none.
        id_images: ``[n, D]`` a few ID images that choose the negatives (`InterModal`), as many as the method takes
            otherwise; None for the method's own choice.
        settings: of the method's class, by name, in place of the preset's: ``{"gap": 0.5}``.

    Raises:
        TypeError, ValueError: an unknown name, a bank that the method cannot use, ID images for a method that takes
            none, an unknown setting, a value that it cannot have.
    """
    method = known_method(method)
    own = dict(settings or {})
    refuse_settings(method, own)
    kind, preset = METHODS[method]
    made = _made(kind)
    chosen: dict[str, Any] = {**({} if preset is None else made.preset(preset)), **own}
    if method in WITH_NEGATIVES:
        chosen["seed"] = seed
    if method in FROM_OUTLIERS:
        chosen["initial_ood"] = initial_ood
    if id_images is not None:
        if kind not in CHOICES:
            takers = ", ".join(name for name, (its, _) in METHODS.items() if its in CHOICES)
            raise ValueError(f"the method {method!r} chooses nothing by ID images; {takers} do")
        from ..labels.inter_modal import InterModal

        count = chosen.get(CHOICES[kind], None if kind == "TANL" else MINED)
        chosen[CHOICES[kind]] = InterModal(id_images, count=count)
    detector: Detector = made(bank, **chosen)
    return detector
