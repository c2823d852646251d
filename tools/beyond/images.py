"""The shipped images with their embeddings, as the parts of the study take them."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from PIL import Image
from torch import Tensor

from tanl.backbones import Backbone, load_backbone
from tanl.benchmarks.data.shipped import ShippedImage, ShippedSplit, open_image
from tanl.benchmarks.engine.shipped import SHIPPED
from tanl.metrics import OODMetrics

MODELS = {"pictograms": "mini", "photographs": "mini-photo"}


@dataclass(frozen=True)
class Images:
    """A shipped split with its embeddings."""

    split: ShippedSplit
    backbone: Backbone
    rows: Sequence[ShippedImage]
    z: Tensor

    def open(self, index: int) -> Image.Image:
        """One of the images."""
        image: Image.Image = open_image(self.split.folder, self.rows[index])
        return image


def load(name: str) -> Images:
    """The images of a split, with the model that is made for them."""
    split = SHIPPED[name]
    backbone = load_backbone(MODELS[name])
    rows = split.read(split.folder)
    return Images(split, backbone, rows, split.embeddings(backbone, rows, progress=sys.stderr.isatty()))


def auroc(scores: Tensor, is_positive: Tensor) -> float:
    """AUROC in percent, of higher scores where it is true."""
    metrics = OODMetrics()
    metrics.update(scores, torch.where(is_positive, -1, 0))
    return 100 * float(metrics.compute()["AUROC"])
