"""The image tower: train the trunk's tail and a projection against the teacher's texts with CLIP's loss.

Texts pass through a learned linear *map*, which starts as the identity; the text tower takes it over afterwards.
Pictures of one concept are positives of each other's captions. Beside real pictures, *pseudo-features* are made from
the rows of the ImageNet classifier, so that classes of photographs keep a place in the joint space.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import open_clip  # type: ignore[import-untyped]
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .distil import Tokens, encode_rows, learning_rate_factor
from .images import Tail
from .teacher import TEMPLATES

_SOFT_TEMPERATURE = 0.05
_SAME_TEXT = 0.95


@dataclass(frozen=True)
class ContrastSettings:
    """Steps, rates and weights of the image tower's training."""

    steps: int
    batch_size: int = 384
    frozen_steps: int = 200
    learning_rate: float = 1e-3
    map_learning_rate: float = 3e-4
    tail_learning_rate: float = 3e-4
    warmup: int = 50
    dropout: float = 0.3
    negatives: int = 1500
    soft_share: float = 0.05
    pseudo_weight: float = 0.3
    pseudo_batch: int = 192
    seed: int = 0


@dataclass(frozen=True)
class RefitSettings:
    """Steps and rates of the image projection's last fit."""

    steps: int
    batch_size: int = 512
    learning_rate: float = 5e-4
    warmup: int = 30
    dropout: float = 0.3
    seed: int = 0


@dataclass(frozen=True)
class Examples:
    """Training pictures: activations of every view, the concept's number, and the captions' teacher embeddings.

    ``captions[i]`` lists rows of ``texts``; the first is the picture's name and is drawn half of the time.
    """

    views: Sequence[npt.NDArray[np.float16]]  # V arrays [N, 192, 5, 5]
    concepts: Tensor  # [N]
    captions: list[list[int]]
    texts: Tensor  # [T, 384], unit norm

    def draw(self, rng: np.random.Generator, chosen: npt.NDArray[np.int64]) -> tuple[Tensor, Tensor]:
        """One random view [B, 192, 5, 5] and one random caption's row [B] of each chosen picture."""
        view = rng.integers(len(self.views), size=len(chosen))
        activations = np.stack([self.views[v][i] for v, i in zip(view, chosen, strict=True)])
        return torch.from_numpy(activations).float(), self.draw_captions(rng, chosen)

    def draw_captions(self, rng: np.random.Generator, chosen: npt.NDArray[np.int64]) -> Tensor:
        rows = [
            rows[0] if rng.random() < 0.5 else rows[int(rng.integers(len(rows)))]
            for rows in (self.captions[i] for i in chosen)
        ]
        return torch.tensor(rows)


class ImageTower(nn.Module):
    """Tail, fixed standardisation, and projection into the joint space."""

    def __init__(self, tail: Tail, mean: Tensor, std: Tensor, dimension: int) -> None:
        super().__init__()
        self.tail = tail
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", mean)
        self.register_buffer("std", std)
        self.projection = nn.Linear(len(mean), dimension)

    def project(self, features: Tensor) -> Tensor:
        return F.normalize(self.projection((features.float() - self.mean) / self.std).float(), dim=-1)

    def forward(self, activations: Tensor) -> Tensor:
        return self.project(self.tail(activations))

    def folded_projection(self) -> tuple[Tensor, Tensor]:
        """Weight and bias that act on unstandardised features."""
        weight = self.projection.weight / self.std
        return weight.detach(), (self.projection.bias - weight @ self.mean).detach()


@dataclass(frozen=True)
class PseudoFeatures:
    """Features that the ImageNet classifier would assign to each of its classes."""

    features: Tensor  # [1000, 1280]
    texts: Tensor  # [1000, 384]
    centre: Tensor  # [1280], the mean of real features

    @classmethod
    def from_classifier(cls, weight: Tensor, texts: Tensor, centre: Tensor) -> PseudoFeatures:
        """Move the mean feature along the ridge inverse of the classifier, far enough to be sure of each class."""
        rows = weight - weight.mean(0)
        gram = rows @ rows.T
        ridge = 0.1 * gram.diag().mean() * torch.eye(len(gram))
        inverse = rows.T @ torch.linalg.inv(gram + ridge)
        return cls((centre + 12 * (inverse - inverse.mean(1, keepdim=True)).T).clamp(0, 6), texts, centre)

    def sample(self, real: Tensor, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Random strengths of random classes [count, 1280], each mixed with a real picture's deviation; and classes."""
        classes = torch.randint(0, len(self.features), (count,), generator=generator)
        strength = torch.rand(count, 1, generator=generator) * 1.2 + 0.3
        share = torch.rand(count, 1, generator=generator) * 0.6
        other = real[torch.randint(0, len(real), (count,), generator=generator)]
        mixed = (
            self.centre + (self.features[classes] - self.centre) * strength + (other - self.centre) * share
        )
        return mixed.clamp(0, 6), classes


@dataclass(frozen=True)
class TextContrast:
    """CLIP's loss for the text tower against image embeddings that no longer change."""

    tower: open_clip.transformer.TextTransformer
    tokens: Tokens
    examples: Examples
    embeddings: Tensor  # [V, N, D], unit norm
    chosen: npt.NDArray[np.int64]
    scale: float
    batch_size: int = 256
    bank_size: int = 2048
    template_share: float = 0.5
    weight: float = 0.1

    def __call__(self, rng: np.random.Generator) -> Tensor:
        """The loss of one batch of captions against their pictures and a bank of other pictures."""
        batch = rng.choice(self.chosen, self.batch_size, replace=False)
        captions = self.examples.draw_captions(rng, batch)
        rows = [
            self.tokens.row(caption, int(rng.integers(len(TEMPLATES))) if use_template else None)
            for caption, use_template in zip(
                captions.tolist(), rng.random(self.batch_size) < self.template_share, strict=True
            )
        ]
        with torch.autocast("cpu", torch.bfloat16):
            text = encode_rows(self.tower, rows)
        bank = np.concatenate([batch, rng.choice(self.chosen, self.bank_size)])
        views = rng.integers(len(self.embeddings), size=len(bank))
        image = self.embeddings[views, bank]
        concepts = self.examples.concepts
        same = concepts[batch][:, None] == concepts[bank][None]
        logits = self.scale * text @ image.T
        teacher = self.examples.texts[captions]
        similar = teacher @ teacher.T
        to_text = soft_targets(same[:, : self.batch_size], similar, 0.05)
        to_image = same.float() / same.float().sum(-1, keepdim=True)
        loss = cross_entropy(logits, to_image) + cross_entropy(logits[:, : self.batch_size].T, to_text)
        return self.weight * loss


def soft_targets(same: Tensor, similarity: Tensor, soft_share: float) -> Tensor:
    """Rows sum to one: equal mass on texts that mean the same, and a little on texts that mean something close."""
    hard = torch.maximum(same.float(), (similarity > _SAME_TEXT).float())
    hard = hard / hard.sum(-1, keepdim=True)
    return (1 - soft_share) * hard + soft_share * (similarity / _SOFT_TEMPERATURE).softmax(-1)


def cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    return -(targets * logits.log_softmax(-1)).sum(-1).mean()


def train_image_tower(
    tower: ImageTower,
    text_map: nn.Linear,
    log_scale: nn.Parameter,
    examples: Examples,
    pseudo: PseudoFeatures,
    chosen: npt.NDArray[np.int64],
    settings: ContrastSettings,
) -> None:
    """Train in place on the pictures ``chosen``; the tail joins after ``frozen_steps``."""
    rng = np.random.default_rng(settings.seed)
    generator = torch.Generator().manual_seed(settings.seed)
    torch.manual_seed(settings.seed)
    groups = [
        {"params": [*tower.projection.parameters(), log_scale], "lr": settings.learning_rate},
        {"params": list(text_map.parameters()), "lr": settings.map_learning_rate},
        {"params": list(tower.tail.parameters()), "lr": settings.tail_learning_rate},
    ]
    optimizer = torch.optim.AdamW(groups, weight_decay=0.05, fused=True)
    rates = [group["lr"] for group in optimizer.param_groups]
    tower.eval()  # batch statistics stay those of ImageNet
    started = time.perf_counter()
    order = np.empty(0, np.int64)
    for step in range(settings.steps):
        factor = learning_rate_factor(step, settings.steps, settings.warmup)
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate * factor
        if len(order) < settings.batch_size:
            order = rng.permutation(chosen)
        batch, order = order[: settings.batch_size], order[settings.batch_size :]
        activations, captions = examples.draw(rng, batch)
        with torch.set_grad_enabled(step >= settings.frozen_steps):
            with torch.autocast("cpu", torch.bfloat16):
                features = tower.tail(activations)
            features = features.float()
        image = tower.project(F.dropout(features, settings.dropout))
        others = rng.choice(chosen, settings.negatives)
        rows = torch.cat([captions, examples.draw_captions(rng, others)])
        concepts = examples.concepts[np.concatenate([batch, others])]
        teacher = examples.texts[rows]
        text = F.normalize(text_map(teacher), dim=-1)
        size = len(batch)
        same = concepts[:size, None] == concepts[None]
        target = soft_targets(same, teacher[:size] @ teacher.T, settings.soft_share)
        transposed = soft_targets(same[:, :size], teacher[:size] @ teacher[:size].T, settings.soft_share)
        logits = log_scale.exp() * image @ text.T
        loss = 0.5 * cross_entropy(logits, target) + 0.5 * cross_entropy(logits[:, :size].T, transposed)
        if settings.pseudo_weight:
            made, classes = pseudo.sample(features.detach(), settings.pseudo_batch, generator)
            names = F.normalize(text_map(pseudo.texts), dim=-1)
            near = (pseudo.texts[classes] @ pseudo.texts.T / _SOFT_TEMPERATURE).softmax(-1)
            wanted = 0.9 * F.one_hot(classes, len(pseudo.texts)) + 0.1 * near
            loss = loss + settings.pseudo_weight * cross_entropy(
                log_scale.exp() * tower.project(made) @ names.T, wanted
            )
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        with torch.no_grad():
            log_scale.clamp_(max=math.log(100))
        if step % 50 == 49:
            print(
                f"contrast {step + 1}/{settings.steps} {time.perf_counter() - started:.0f} s loss {loss.item():.3f} "
                f"scale {log_scale.exp().item():.1f}",
                flush=True,
            )


def refit_projection(
    tower: ImageTower, features: Tensor, targets: Tensor, texts: Tensor, scale: float, settings: RefitSettings
) -> None:
    """Fit the projection in place, the trunk and the text tower fixed: each picture's name against all names.

    Args:
        tower: its projection is the start.
        features: ``[n, 1280]``, the tail's output for every view of every picture.
        targets: ``[n]``, each one's row of ``texts``.
        texts: ``[T, D]``, unit norm.
        scale: the logit scale.
        settings: steps and rates.
    """
    torch.manual_seed(settings.seed)
    optimizer = torch.optim.AdamW(tower.projection.parameters(), weight_decay=0.05)
    for step in range(settings.steps):
        factor = learning_rate_factor(step, settings.steps, settings.warmup)
        optimizer.param_groups[0]["lr"] = settings.learning_rate * factor
        batch = torch.randint(len(features), (settings.batch_size,))
        image = tower.project(F.dropout(features[batch], settings.dropout))
        loss = F.cross_entropy(scale * image @ texts.T, targets[batch])
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    print(f"refit {settings.steps} steps, loss {loss.item():.3f}", flush=True)
