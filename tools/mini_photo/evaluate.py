"""Measure ``mini-photo`` on photographs of ImageNet's classes.

    python -m tools.mini_photo.evaluate --photos FOLDER --half choosing [--model DIR]

``--photos`` is a folder of photographs whose file names begin with the WordNet id of what they show, such as
``n02099601_golden_retriever.jpg``, one of each class. Sorted by name, those at even positions are for choosing
settings, those at odd positions for the one report that follows; nothing is trained on either. With
``--half reporting`` the photographs that ship with tanl are measured too, and the figures are written to
``figures.json`` beside the weights.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tanl.backbones import Backbone
from tanl.backbones.clip import ClipBackbone
from tanl.backbones.mini_photo import PATH
from tanl.backbones.open_clip import load_open_clip
from tanl.benchmarks.data.class_names import class_names
from tanl.benchmarks.data.imagenet import imagenet_index
from tanl.benchmarks.photographs import manifest
from tanl.benchmarks.photographs.tracks import TRACKS
from tanl.detectors import MCM, TANL, Detector, Energy, NegLabel
from tanl.io.arguments import a_path
from tanl.io.images import read_image
from tanl.labels.bank import LabelBank
from tanl.labels.build import build_bank
from tanl.metrics import OODMetrics

from ..mini import inputs
from ..mini.evaluate import accuracy, check_embeddings, measure_throughput
from ..mini.teacher import NOUN_TEMPLATE, read_wordnet
from .rows import meaning_of, visible
from .train import PACKAGES, imagenet_offsets
from .wordnet import Nouns, read_nouns

PROMPTS = {"name": "{}", "the nice": NOUN_TEMPLATE}
COARSE = {
    "dog": "dog",
    "cat": "feline",
    "bear": "bear",
    "monkey": "primate",
    "bird": "bird",
    "fish": "fish",
    "snake": "snake",
    "lizard": "lizard",
    "turtle": "turtle",
    "frog": "frog",
    "insect": "insect",
    "spider": "spider",
    "crustacean": "crustacean",
    "boat": "vessel",
    "aircraft": "aircraft",
    "car": "motor vehicle",
    "musical instrument": "musical instrument",
    "furniture": "furniture",
    "clothing": "clothing",
    "building": "building",
    "weapon": "weapon",
    "tool": "tool",
    "mushroom": "fungus",
    "fruit": "edible fruit",
}
"""A word and the word of WordNet whose meaning says which classes it is for; the first that fits a class counts."""
ID_CLASSES = 100
SEEDS = range(5)
BATCH = 32


def halves(folder: Path) -> dict[str, list[Path]]:
    """The photographs for choosing and those for reporting."""
    files = sorted(path for path in folder.iterdir() if path.suffix.lower() in (".jpg", ".jpeg"))
    return {"choosing": files[::2], "reporting": files[1::2]}


def coarse_targets(nouns: Nouns, classes: Sequence[int]) -> Tensor:
    """The place in :data:`COARSE` of each class, or -1."""
    offsets = imagenet_offsets()
    seen = visible(nouns, offsets)
    meanings = [meaning_of(nouns, seen, word) for word in COARSE.values()]
    targets = []
    for index in classes:
        above = nouns.ancestors(offsets[index])
        targets.append(next((place for place, meaning in enumerate(meanings) if meaning in above), -1))
    return torch.tensor(targets)


def zero_shot(backbone: Backbone, images: Tensor, classes: Sequence[int], nouns: Nouns) -> dict[str, Any]:
    """Accuracy among all 1000 names and among the coarse words, by prompt."""
    coarse = coarse_targets(nouns, classes)
    figures: dict[str, Any] = {}
    for prompt, template in PROMPTS.items():
        names = backbone.encode_texts([template.format(name) for name in class_names("imagenet-1k")])
        words = backbone.encode_texts([template.format(word) for word in COARSE])
        figures[prompt] = {
            "names": accuracy(images @ names.T, torch.tensor(classes)),
            "coarse": accuracy(images[coarse >= 0] @ words.T, coarse[coarse >= 0]),
        }
    return figures


def detectors(bank: LabelBank) -> Mapping[str, Detector]:
    return {
        "MCM": MCM(bank),
        "Energy": Energy(bank),
        "NegLabel": NegLabel(bank),
        "TANL (paper)": TANL(bank, **TANL.preset("paper")),
        "TANL (practice)": TANL(bank, **TANL.preset("practice")),
    }


def aurocs(bank: LabelBank, embeddings: Tensor, labels: Tensor, seed: int) -> dict[str, float]:
    """AUROC in percent of each method on the images in a random order; OOD images have the label -1."""
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    found = {}
    for name, detector in detectors(bank).items():
        metrics = OODMetrics()
        scores = torch.cat([detector(batch) for batch in torch.split(embeddings[order], BATCH)])
        metrics.update(scores, labels[order])
        found[name] = 100 * metrics.compute()["AUROC"]
    return found


def summary(runs: Sequence[Mapping[str, float]]) -> dict[str, Any]:
    """Mean and standard deviation over runs."""
    return {
        name: {
            "mean": round(statistics.mean(run[name] for run in runs), 2),
            "deviation": round(statistics.stdev(run[name] for run in runs), 2),
        }
        for name in runs[0]
    }


def detection(backbone: Backbone, images: Tensor, classes: Sequence[int]) -> dict[str, Any]:
    """AUROC where 100 random classes are ID and the others OOD."""
    names = class_names("imagenet-1k")
    runs = []
    for seed in SEEDS:
        chosen = torch.randperm(len(classes), generator=torch.Generator().manual_seed(seed))[:ID_CLASSES]
        bank = build_bank(backbone, [names[classes[place]] for place in chosen.tolist()])
        labels = torch.full((len(classes),), -1)
        labels[chosen] = 0
        runs.append(aurocs(bank, images, labels, seed))
    return summary(runs)


def measure(backbone: ClipBackbone, files: Sequence[Path], nouns: Nouns) -> dict[str, Any]:
    """Everything on one half of the photographs."""
    classes = [imagenet_index(path.name.partition("_")[0]) for path in files]
    images = embed(backbone, files)
    return {
        "photographs": len(files),
        "zero-shot": zero_shot(backbone, images, classes, nouns),
        "AUROC": detection(backbone, images, classes),
    }


def measure_shipped(backbone: ClipBackbone) -> dict[str, Any]:
    """Accuracy and AUROC on the tracks of the photographs that ship with tanl."""
    rows = manifest.read_manifest()
    images = embed(backbone, [manifest.FOLDER / row.file for row in rows])
    figures: dict[str, Any] = {}
    for name, track in TRACKS.items():
        chosen = track.select(rows)
        outliers = [index for _, members in chosen.ood.values() for index in members]
        targets = torch.tensor(chosen.targets)
        bank = build_bank(backbone, chosen.classes)
        labels = torch.cat([targets, torch.full((len(outliers),), -1)])
        embeddings = images[[*chosen.images, *outliers]]
        figures[name] = {
            "zero-shot": accuracy(images[chosen.images] @ bank.id_embeddings.T, targets),
            "outliers": len(outliers),
            "AUROC": summary([aurocs(bank, embeddings, labels, seed) for seed in SEEDS]),
        }
    return figures


def embed(backbone: ClipBackbone, files: Sequence[Path]) -> Tensor:
    """Embeddings [N, D] of image files."""
    return torch.cat([backbone.encode_images(backbone.preprocess(read_image(path))[None]) for path in files])


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--photos", type=a_path, required=True, help="folder of photographs, one of each class"
    )
    parser.add_argument("--half", choices=["choosing", "reporting"], required=True)
    parser.add_argument("--model", type=a_path, default=PATH, help="the open_clip folder")
    parser.add_argument("--packages", type=a_path, required=True, help="folder of package archives")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    backbone = load_open_clip(f"local-dir:{options.model}")
    wanted = [package for package in PACKAGES if package.name == "wordnet-base"]
    with tempfile.TemporaryDirectory() as scratch:
        (wordnet,) = inputs.unpack(inputs.find(options.packages, wanted), scratch).values()
        nouns, lemmas = read_nouns(wordnet), sorted(set(read_wordnet(wordnet)[0]))
    figures = measure(backbone, halves(options.photos)[options.half], nouns)
    if options.half == "reporting":
        figures["shipped"] = measure_shipped(backbone)
        weights = options.model / "open_clip_model.safetensors"
        figures["model"] = {
            "bytes": weights.stat().st_size,
            "sha256": inputs.sha256_of(weights),
            "parameters": sum(parameter.numel() for parameter in backbone.model.parameters()),
            "logit_scale": round(backbone.logit_scale, 2),
            **check_embeddings(backbone),
        }
        sample = random.Random(0).sample(lemmas, 20_000)
        figures["throughput"] = measure_throughput(backbone, sample, options.threads)
        (options.model / "figures.json").write_text(json.dumps(figures, indent=1) + "\n")
    print(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
