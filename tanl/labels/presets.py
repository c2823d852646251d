"""ID labels of tasks that many models share, and prompts for them."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

# Irvin et al. 2019, "CheXpert: A Large Chest Radiograph Dataset" (arXiv 1901.07031), table 1, in its order.
CHEXPERT: tuple[str, ...] = (
    "No Finding",
    "Enlarged Cardiomediastinum",
    "Cardiomegaly",
    "Lung Opacity",
    "Lung Lesion",
    "Edema",
    "Consolidation",
    "Pneumonia",
    "Atelectasis",
    "Pneumothorax",
    "Pleural Effusion",
    "Pleural Other",
    "Fracture",
    "Support Devices",
)
"""The 14 observations of CheXpert, spelled and ordered as in its label files.

A film may show several of them at once: which one is the best match says little, that none matches is what counts.
"""

CHEST_XRAY_TEMPLATES: Mapping[str, str] = MappingProxyType(
    {
        "id": "a chest X-ray showing {}.",
        "noun": "a medical image of {}.",
        "adj": "a {} medical image.",
    }
)
"""Prompts for a radiology model: ID labels are findings on a chest film, negatives are not. Chosen, not tuned."""
