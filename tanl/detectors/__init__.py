"""OOD detectors: each takes a `LabelBank` and then embeddings, and gives OOD scores (higher = more OOD).

One method a file; they load on first use, so that their names and settings can be had without torch.
"""

from typing import TYPE_CHECKING

from ..lazy import loader

_HOME = {
    "AdaNeg": "adaneg",
    "Detector": "base",
    "Evidence": "base",
    "CSP": "csp",
    "conjugated_words": "csp",
    "Energy": "energy",
    "GLMCM": "gl_mcm",
    "MaxLogit": "max_logit",
    "MCM": "mcm",
    "NegLabel": "neglabel",
    "TANL": "tanl",
    "GuardedMemory": "guarded",
}
__all__ = [
    "CSP",
    "GLMCM",
    "MCM",
    "TANL",
    "AdaNeg",
    "Detector",
    "Energy",
    "Evidence",
    "GuardedMemory",
    "MaxLogit",
    "NegLabel",
    "conjugated_words",
]
__getattr__ = loader(__name__, _HOME)

if TYPE_CHECKING:
    from .adaneg import AdaNeg
    from .base import Detector, Evidence
    from .csp import CSP, conjugated_words
    from .energy import Energy
    from .gl_mcm import GLMCM
    from .guarded import GuardedMemory
    from .max_logit import MaxLogit
    from .mcm import MCM
    from .neglabel import NegLabel
    from .tanl import TANL
