"""Training-free out-of-distribution detection for any vision-language model.

Public names load on first use, so ``import tanl`` costs nothing and needs no network.
"""

from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from .lazy import loader

_HOME = {
    "load_backbone": "backbones",
    "Backbone": "backbones",
    "BackboneError": "backbones",
    "ClipBackbone": "backbones.clip",
    "HuggingFaceBackbone": "backbones.hugging_face",
    "CallableBackbone": "backbones.callables",
    "Corpus": "labels.corpus",
    "LabelBank": "labels.bank",
    "LabelIndex": "labels.index",
    "near_duplicates": "labels.index",
    "ApproximateActivation": "detectors.approximate",
    "ShortlistActivation": "detectors.shortlist",
    "CapturedTANL": "detectors.captured",
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
    "GuardedMemory": "detectors",
    "Fused": "detectors",
    "PairScore": "detectors",
    "VisualDictionary": "detectors",
    "BalancedMass": "detectors",
    "DebiasedMass": "detectors",
    "InterModal": "labels.inter_modal",
    "Answer": "detectors.verdict",
    "Proposals": "guard.proposals",
    "ActivationState": "detectors.state",
    "noise_embeddings": "backbones.noise",
    "Guard": "guard.guard",
    "Detection": "detectors.verdict",
    "Verdict": "detectors.verdict",
    "detect_embeddings": "detectors.verdict",
    "read_embeddings": "io.embeddings",
    "build_bank": "labels.build",
    "save_bank": "labels.files",
    "load_bank": "labels.files",
    "save_bank_parts": "labels.files",
    "SavedBank": "labels.files",
    "read_labels": "labels.label_files",
    "understood_labels": "labels.understood",
    "UnderstoodLabel": "labels.understood",
    "guard_pipeline": "integrations.transformers",
    "GuardedPipeline": "integrations.transformers",
    "GuardedModel": "guard.wrapped",
    "wrap": "guard.wrapped",
    "as_pytorch_ood": "integrations.pytorch_ood",
    "curate": "beyond.curation",
    "label_next": "beyond.curation",
    "describe_difference": "beyond.difference",
    "order_examples": "beyond.examples",
    "head_entropy": "beyond.head_entropy",
    "HeadEntropyProbe": "beyond.head_entropy",
    "LabelTree": "beyond.tree",
    "tree_verdicts": "beyond.tree",
    "hierarchical_f1": "beyond.tree",
    "wordnet_tree": "beyond.wordnet_tree",
    "read_volume": "io.volumes",
    "OODMetrics": "metrics",
    "UnreadableImage": "io.images",
}
__all__ = [*_HOME, "__version__"]

if TYPE_CHECKING:
    __version__: str
    from .backbones import Backbone, BackboneError, load_backbone
    from .backbones.callables import CallableBackbone
    from .backbones.clip import ClipBackbone
    from .backbones.hugging_face import HuggingFaceBackbone
    from .backbones.local_features import encode_images_local
    from .backbones.noise import noise_embeddings
    from .beyond.curation import curate, label_next
    from .beyond.difference import describe_difference
    from .beyond.examples import order_examples
    from .beyond.head_entropy import HeadEntropyProbe, head_entropy
    from .beyond.tree import LabelTree, hierarchical_f1, tree_verdicts
    from .beyond.wordnet_tree import wordnet_tree
    from .detectors import (
        CSP,
        GLMCM,
        MCM,
        TANL,
        AdaNeg,
        BalancedMass,
        DebiasedMass,
        Detector,
        Energy,
        Evidence,
        Fused,
        GuardedMemory,
        MaxLogit,
        NegLabel,
        PairScore,
        VisualDictionary,
        conjugated_words,
    )
    from .detectors.approximate import ApproximateActivation
    from .detectors.captured import CapturedTANL
    from .detectors.shortlist import ShortlistActivation
    from .detectors.state import ActivationState
    from .detectors.verdict import Answer, Detection, Verdict, detect_embeddings
    from .guard.guard import Guard
    from .guard.proposals import Proposals
    from .guard.wrapped import GuardedModel, wrap
    from .integrations.pytorch_ood import as_pytorch_ood
    from .integrations.transformers import GuardedPipeline, guard_pipeline
    from .io.embeddings import read_embeddings
    from .io.images import UnreadableImage
    from .io.volumes import read_volume
    from .labels.bank import LabelBank
    from .labels.build import build_bank
    from .labels.corpus import Corpus
    from .labels.files import SavedBank, load_bank, save_bank, save_bank_parts
    from .labels.index import LabelIndex, near_duplicates
    from .labels.inter_modal import InterModal
    from .labels.label_files import read_labels
    from .labels.understood import UnderstoodLabel, understood_labels
    from .metrics import OODMetrics


_load = loader(__name__, _HOME)


def __getattr__(name: str) -> Any:
    return version("tanl") if name == "__version__" else _load(name)


def __dir__() -> list[str]:
    return sorted(__all__)
