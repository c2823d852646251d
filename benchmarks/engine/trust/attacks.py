"""Attacks on methods that learn from their stream: images that are sent before an honest stream."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn.functional import normalize

from tanl.detectors import Detector

from .images import FLOOD, Images


def floods(detector: Detector, images: Images, seed: int) -> Iterator[tuple[str, Tensor]]:
    """Name and images ``[FLOOD, D]`` of each attack; first none at all."""
    generator = torch.Generator().manual_seed(seed)
    one = images.inside[images.target][:1]

    noise = torch.randn(FLOOD, one.shape[1], generator=generator) / one.shape[1] ** 0.5

    yield "none", one[:0]
    yield "one image repeated", one.repeat(FLOOD, 1)
    yield "near-duplicates", normalize(one + 0.3 * noise, dim=1)
    yield "noisy ID class", images.noisy
    yield "halfway images", images.halfway
    detector.reset()
    yield "white-box: flag", aimed(detector, images.inside[images.target], True, generator)
    yield "white-box: hide", aimed(detector, images.outside[images.hidden], False, generator)


def aimed(detector: Detector, victims: Tensor, flag: bool, generator: torch.Generator) -> Tensor:
    """Embeddings that teach a detector, whose labels and scores are known, about the labels that victims activate.

    Each is the text of a label that the victims activate much, drawn as little as it takes to the nearest ID label (to
    hide the victims: the label then counts as one that ID images activate) or to the nearest of the negative labels
    far from all ID labels (to flag them), until the detector as it starts is confident of it.
    """
    bank = detector.bank
    activations = (bank.logit_scale * victims @ bank.embeddings.T).softmax(dim=1).mean(dim=0)[bank.num_id :]
    used = bank.negative_embeddings[activations.topk(min(100, bank.num_negatives)).indices].float()
    far = bank.mined(min(1000, bank.num_negatives)).negative_embeddings.float()
    towards = far if flag else bank.id_embeddings

    def drawn(of: Tensor) -> Tensor:
        return of[torch.randint(len(of), (FLOOD,), generator=generator)]

    labels = drawn(used)
    labels = normalize(
        labels + 0.3 * torch.randn(labels.shape, generator=generator) / labels.shape[1] ** 0.5, dim=1
    )
    helpers = towards[(labels @ towards.T).argmax(dim=1)]
    best = helpers
    for weight in torch.linspace(0.95, 0, 20).tolist():
        mixed = normalize((1 - weight) * labels + weight * helpers, dim=1)
        score = detector.score(mixed)
        convinced = score > 0.65 if flag else score < 0.35
        best = torch.where(convinced[:, None], mixed, best)
    return best
