"""Guard: images in, verdicts out, around any CLIP-like pipeline."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from os import PathLike
from typing import NamedTuple

import torch
from PIL import Image
from torch import Tensor

from .backbones import Backbone
from .backbones.clip import ClipBackbone
from .checks import whole_number
from .corpus import Corpus
from .detectors import CSP, MCM, TANL, AdaNeg, Detector, Energy, Evidence, MaxLogit, NegLabel
from .images import read_image, to_rgb
from .labels import LabelBank
from .noise import noise_embeddings

Images = Sequence[Image.Image | str | PathLike[str]] | Tensor
Method = str | Callable[[LabelBank], Detector]

METHODS: dict[str, type[Detector]] = {
    "tanl": TANL,
    "neglabel": NegLabel,
    "adaneg": AdaNeg,
    "csp": CSP,
    "mcm": MCM,
    "max_logit": MaxLogit,
    "energy": Energy,
}
"""Methods that `Guard` knows by name, with the settings of their papers."""


class Verdict(NamedTuple):
    """What is said of one image; the fields are `Detection`'s."""

    ood_score: float
    is_ood: bool | None
    label: str
    id_probability: float
    evidence: tuple[Evidence, ...]


@dataclass(frozen=True)
class Detection:
    """What is said of B images, in columns; ``detection[i]`` and iteration give a `Verdict` each.

    Attributes:
        ood_score: ``[B]``, higher = more OOD.
        is_ood: ``[B]`` bool; None while the method has no threshold (see `Guard.calibrate`).
        label: the best ID label of each image, whatever the verdict.
        id_probability: ``[B]``, that label's softmax probability among the ID labels alone: how sure the
            choice is if the image is ID at all.
        evidence: for each image judged OOD the negative labels that it activates most; empty for the others.
    """

    ood_score: Tensor
    is_ood: Tensor | None
    label: list[str]
    id_probability: Tensor
    evidence: list[tuple[Evidence, ...]]

    def __len__(self) -> int:
        return len(self.label)

    def __getitem__(self, i: int) -> Verdict:
        return Verdict(
            float(self.ood_score[i]),
            None if self.is_ood is None else bool(self.is_ood[i]),
            self.label[i],
            float(self.id_probability[i]),
            self.evidence[i],
        )

    def __iter__(self) -> Iterator[Verdict]:
        return (self[i] for i in range(len(self)))


class Guard:
    """OOD detection around a vision-language model: knows the backbone and the detector.

    Each call is one batch of the stream that a stateful method such as TANL learns from. Whatever is wrong
    with a batch is raised before the state changes.

    Args:
        backbone: from `tanl.load_backbone`, or any `ClipBackbone`.
        labels: the ID classes.
        corpus: the negative labels, as `LabelBank.build` takes them; not used by "mcm", "max_logit", "energy".
        method: "tanl", "neglabel", "adaneg", "csp", "mcm", "max_logit", "energy", with the settings of their
            papers, or a function from the `LabelBank` to a `Detector`.
        templates: prompt per part of speech, as `LabelBank.build` takes them.
        cache_dir: where corpus embeddings are kept; None is the user's cache folder.
        evidence: how many negative labels an OOD verdict comes with; 0 for none.
        progress: show progress bars while the corpus is embedded.

    Raises:
        TypeError, ValueError: unusable labels, corpus or method; the message names the value.
    """

    def __init__(
        self,
        backbone: Backbone,
        labels: Sequence[str],
        *,
        corpus: Corpus | str | PathLike[str] | Iterable[str] | None = "wordnet",
        method: Method = "tanl",
        templates: Mapping[str, str] | None = None,
        cache_dir: str | PathLike[str] | None = None,
        evidence: int = 5,
        progress: bool = False,
    ) -> None:
        if isinstance(method, str) and method not in METHODS:
            raise ValueError(f"no method {method!r}; there are {', '.join(METHODS)}, or give a function")
        self.evidence = whole_number(evidence, "evidence", at_least=0)
        if isinstance(method, str) and METHODS[method] in (MCM, MaxLogit, Energy):
            corpus = None
        self.backbone = backbone
        self.bank = LabelBank.build(
            backbone, labels, corpus=corpus, templates=templates, cache_dir=cache_dir, progress=progress
        )
        self.detector = self._detector(method)

    @classmethod
    def wrap(
        cls,
        model: torch.nn.Module,
        preprocess: Callable[[Image.Image], Tensor],
        tokenizer: Callable[[list[str]], Tensor],
        labels: Sequence[str],
        *,
        corpus: Corpus | str | PathLike[str] | Iterable[str] | None = "wordnet",
        method: Method = "tanl",
        templates: Mapping[str, str] | None = None,
        cache_dir: str | PathLike[str] | None = None,
        evidence: int = 5,
        progress: bool = False,
    ) -> Guard:
        """A guard around a CLIP-like model that is already loaded, with its preprocessing and tokenizer.

        ``model``, ``preprocess`` and ``tokenizer`` are as `ClipBackbone` takes them, the rest as `Guard` does.
        """
        return cls(
            ClipBackbone(model, preprocess, tokenizer),
            labels,
            corpus=corpus,
            method=method,
            templates=templates,
            cache_dir=cache_dir,
            evidence=evidence,
            progress=progress,
        )

    def __call__(self, images: Images) -> Detection:
        """Judge one batch of the stream, and learn from it.

        Args:
            images: PIL images and paths, or pixels ``[B, 3, H, W]`` as ``backbone.preprocess`` makes them.

        Raises:
            UnreadableImage: a path holds no readable image.
            TypeError, ValueError: no images, or something that is none.
        """
        return self.detect_embeddings(self.encode(images))

    def encode(self, images: Images) -> Tensor:
        """Embed images, ``[B, D]`` unit rows, without judging them."""
        if isinstance(images, Tensor):
            return self.backbone.encode_images(images.to(self.backbone.device))
        if isinstance(images, str | PathLike | Image.Image):
            raise TypeError(f"give a list of images, not the one image {images!r}")
        images = list(images)
        if not images:
            raise ValueError("no images; leave empty batches out")
        with ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:
            pixels = torch.stack(list(pool.map(self._pixels, images)))
        return self.backbone.encode_images(pixels.to(self.backbone.device))

    @torch.no_grad()
    def detect_embeddings(self, z: Tensor) -> Detection:
        """Judge one batch of embeddings ``[B, D]``, and learn from it."""
        scores = self.detector(z)
        threshold = self.detector.threshold
        is_ood = None if threshold is None else scores > threshold
        best = (z.float() @ self.bank.id_embeddings.T * self.bank.logit_scale).softmax(dim=1).max(dim=1)
        evidence: list[tuple[Evidence, ...]] = [()] * len(z)
        if is_ood is not None and self.evidence and bool(is_ood.any()):
            rows = is_ood.nonzero()[:, 0]
            for row, found in zip(rows.tolist(), self.detector.explain(z[rows], self.evidence), strict=True):
                evidence[row] = found
        names = self.bank.id_names
        return Detection(scores, is_ood, [names[i] for i in best.indices.tolist()], best.values, evidence)

    def calibrate(self, images: Images, tpr: float = 0.95) -> float:
        """Set the threshold from ID images, so that new ones are kept with probability at least ``tpr``.

        The images are scored with the stream as it stands, which stays as it is.

        Returns:
            The threshold; see `tanl.calibration.threshold_at_tpr` for what it guarantees.
        """
        return self.detector.calibrate(self.detector.score(self.encode(images)), tpr)

    def reset(self) -> None:
        """Forget the stream; a calibrated threshold stays."""
        self.detector.reset()

    def _detector(self, method: Method) -> Detector:
        if not isinstance(method, str):
            return method(self.bank)
        if method == "tanl":
            return TANL(self.bank, initial_ood=noise_embeddings(self.backbone))
        return METHODS[method](self.bank)

    def _pixels(self, image: Image.Image | str | PathLike[str]) -> Tensor:
        if isinstance(image, str | PathLike):
            return self.backbone.preprocess(read_image(image))
        return self.backbone.preprocess(to_rgb(image))
