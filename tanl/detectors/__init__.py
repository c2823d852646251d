"""OOD detectors: each takes a `LabelBank` and then embeddings, and gives OOD scores (higher = more OOD)."""

from .adaneg import AdaNeg
from .base import Detector, Evidence
from .csp import CSP, conjugated_words
from .energy import Energy
from .gl_mcm import GLMCM
from .max_logit import MaxLogit
from .mcm import MCM
from .neglabel import NegLabel
from .tanl import TANL

__all__ = [
    "CSP",
    "GLMCM",
    "MCM",
    "TANL",
    "AdaNeg",
    "Detector",
    "Energy",
    "Evidence",
    "MaxLogit",
    "NegLabel",
    "conjugated_words",
]
