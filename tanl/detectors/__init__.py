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
    "Fused": "fused",
    "Term": "fused",
    "PairScore": "terms",
    "VisualDictionary": "terms",
    "BalancedMass": "weighing",
    "DebiasedMass": "weighing",
    "TANL": "tanl",
    "GuardedMemory": "guarded",
}
__all__ = [
    "CSP",
    "GLMCM",
    "MCM",
    "TANL",
    "AdaNeg",
    "BalancedMass",
    "DebiasedMass",
    "Detector",
    "Energy",
    "Evidence",
    "Fused",
    "GuardedMemory",
    "MaxLogit",
    "NegLabel",
    "PairScore",
    "Term",
    "VisualDictionary",
    "conjugated_words",
]
__getattr__ = loader(__name__, _HOME)

if TYPE_CHECKING:
    from .adaneg import AdaNeg
    from .base import Detector, Evidence
    from .csp import CSP, conjugated_words
    from .energy import Energy
    from .fused import Fused, Term
    from .gl_mcm import GLMCM
    from .guarded import GuardedMemory
    from .max_logit import MaxLogit
    from .mcm import MCM
    from .neglabel import NegLabel
    from .tanl import TANL
    from .terms import PairScore, VisualDictionary
    from .weighing import BalancedMass, DebiasedMass
