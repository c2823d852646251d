"""The methods that go by a name, without importing any of them: `tanl.Guard` and the command line share them."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..checks import Embeddings
    from ..labels.bank import LabelBank
    from . import Detector

METHODS = {
    "tanl": "TANL",
    "neglabel": "NegLabel",
    "adaneg": "AdaNeg",
    "csp": "CSP",
    "mcm": "MCM",
    "max_logit": "MaxLogit",
    "energy": "Energy",
}
"""Names, and the classes in `tanl.detectors` that they stand for, with the settings of their papers."""

WITH_NEGATIVES = ("tanl", "neglabel", "adaneg", "csp")
"""Those that score with negative labels; their random choices take a seed."""


def make_detector(
    method: str, bank: LabelBank, *, seed: int = 0, initial_ood: Embeddings | None = None
) -> Detector:
    """A detector of the method with that name.

    Args:
        method: a name in `METHODS`.
        bank: the labels.
        seed: of the method's random choices.
        initial_ood: ``[n, D]`` known outliers that TANL starts from; the other methods use none.

    Raises:
        ValueError: an unknown name, or a bank that the method cannot use.
    """
    if method not in METHODS:
        raise ValueError(f"no method {method!r}; there are {', '.join(METHODS)}")
    settings: dict[str, Any] = {"seed": seed} if method in WITH_NEGATIVES else {}
    if method == "tanl":
        settings["initial_ood"] = initial_ood
    detector: Detector = getattr(import_module(__package__), METHODS[method])(bank, **settings)
    return detector
