"""OOD detectors: each takes a `LabelBank` and then embeddings, and gives OOD scores (higher = more OOD)."""

from .base import Detector, Evidence
from .energy import Energy
from .max_logit import MaxLogit
from .mcm import MCM
from .neglabel import NegLabel
from .tanl import TANL

__all__ = ["MCM", "TANL", "Detector", "Energy", "Evidence", "MaxLogit", "NegLabel"]
