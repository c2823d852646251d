"""Training-free out-of-distribution detection for any vision-language model.

Public names load on first use, so ``import tanl`` costs nothing and needs no network.
"""

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

_HOME = {
    "load_backbone": "backbones",
    "Backbone": "backbones",
    "BackboneError": "backbones",
    "ClipBackbone": "backbones.clip",
    "HuggingFaceBackbone": "backbones.hugging_face",
    "CallableBackbone": "backbones.callables",
    "Corpus": "corpus",
    "LabelBank": "labels",
    "LabelIndex": "index",
    "near_duplicates": "index",
    "ApproximateActivation": "approximate",
    "Detector": "detectors",
    "Evidence": "detectors",
    "AdaNeg": "detectors",
    "CSP": "detectors",
    "conjugated_words": "detectors",
    "Energy": "detectors",
    "GLMCM": "detectors",
    "encode_images_local": "backbones.local_features",
    "MCM": "detectors",
    "MaxLogit": "detectors",
    "NegLabel": "detectors",
    "TANL": "detectors",
    "ActivationState": "state",
    "noise_embeddings": "noise",
    "Guard": "guard",
    "Detection": "detection",
    "Verdict": "detection",
    "detect_embeddings": "detection",
    "read_embeddings": "embedding_files",
    "load_bank": "bank_files",
    "SavedBank": "bank_files",
    "guard_pipeline": "pipeline",
    "GuardedPipeline": "pipeline",
    "GuardedModel": "guarded_model",
    "as_pytorch_ood": "pytorch_ood_adapter",
    "OODMetrics": "metrics",
    "UnreadableImage": "images",
}
__all__ = [*_HOME, "__version__"]

if TYPE_CHECKING:
    __version__: str
    from .approximate import ApproximateActivation
    from .backbones import Backbone, BackboneError, load_backbone
    from .backbones.callables import CallableBackbone
    from .backbones.clip import ClipBackbone
    from .backbones.hugging_face import HuggingFaceBackbone
    from .backbones.local_features import encode_images_local
    from .bank_files import SavedBank, load_bank
    from .corpus import Corpus
    from .detection import Detection, Verdict, detect_embeddings
    from .detectors import (
        CSP,
        GLMCM,
        MCM,
        TANL,
        AdaNeg,
        Detector,
        Energy,
        Evidence,
        MaxLogit,
        NegLabel,
        conjugated_words,
    )
    from .embedding_files import read_embeddings
    from .guard import Guard
    from .guarded_model import GuardedModel
    from .images import UnreadableImage
    from .index import LabelIndex, near_duplicates
    from .labels import LabelBank
    from .metrics import OODMetrics
    from .noise import noise_embeddings
    from .pipeline import GuardedPipeline, guard_pipeline
    from .pytorch_ood_adapter import as_pytorch_ood
    from .state import ActivationState


def __getattr__(name: str) -> Any:
    if name == "__version__":
        value: Any = version("tanl")
    elif name in _HOME:
        value = getattr(import_module(f".{_HOME[name]}", __name__), name)
    else:
        raise AttributeError(f"module 'tanl' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
