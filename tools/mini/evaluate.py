"""Measure the embedded model through open_clip, on vendors whose drawings it never saw, and write ``figures.json``.

    python -m tools.mini.evaluate --packages DIR [--model DIR]

``--packages`` holds the archives of :mod:`tools.mini.inputs`; only pictograms and WordNet are read.
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from tanl.backbones import Backbone
from tanl.backbones.base import height_and_width
from tanl.backbones.clip import ClipBackbone
from tanl.backbones.mini import PATH
from tanl.backbones.open_clip import load_open_clip
from tanl.io.arguments import a_path

from . import inputs, pictograms
from .teacher import NOUN_TEMPLATE, read_wordnet

PROMPTS = {"name": "{}", "the nice": NOUN_TEMPLATE}
_RENDER_SIZE = 224
_RESAMPLES = 2000
_GROUPS_WITHOUT_OBJECTS = ("flags", "symbols")


def draw(record: pictograms.Pictogram) -> Image.Image:
    """The pictogram over white, in RGB."""
    picture = pictograms.render(record, _RENDER_SIZE)
    canvas = Image.new("RGBA", picture.size, "white")
    canvas.alpha_composite(picture)
    return canvas.convert("RGB")


def tasks(
    records: Sequence[pictograms.Pictogram], trained: set[str], concepts: dict[str, pictograms.Concept]
) -> dict[str, tuple[list[int], list[pictograms.Concept]]]:
    """Zero-shot tasks over one vendor's drawings: name -> (indices of drawings, classes)."""
    available = sorted({record.concept.hex for record in records} & trained)
    objects = [code for code in available if concepts[code].group not in _GROUPS_WITHOUT_OBJECTS]
    chosen = {
        "seen-100": random.Random(0).sample(objects, 100),
        "animals": [code for code in available if concepts[code].subgroup.startswith("animal")],
        "all-seen": available,
        "unseen": sorted(code for code in concepts if pictograms.is_unseen(code)),
    }
    return {
        task: (
            [index for index, record in enumerate(records) if record.concept.hex in set(codes)],
            [concepts[code] for code in codes],
        )
        for task, codes in chosen.items()
    }


def accuracy(similarity: Tensor, labels: Tensor) -> dict[str, Any]:
    """Top-1 and top-5 accuracy with bootstrap 95 % intervals over images."""
    ranks = (similarity > similarity.gather(1, labels[:, None])).sum(1).numpy()
    rng = np.random.default_rng(0)
    resamples = rng.integers(len(ranks), size=(_RESAMPLES, len(ranks)))
    result: dict[str, Any] = {"classes": similarity.shape[1], "images": len(ranks)}
    for k in (1, 5):
        hits = (ranks < k).astype(np.float64)
        low, high = np.percentile(hits[resamples].mean(1), [2.5, 97.5])
        result[f"top{k}"] = round(float(hits.mean()), 4)
        result[f"top{k}_interval"] = [round(float(low), 4), round(float(high), 4)]
    return result


def measure_vendor(
    backbone: Backbone,
    records: Sequence[pictograms.Pictogram],
    trained: set[str],
    concepts: dict[str, pictograms.Concept],
) -> dict[str, dict[str, Any]]:
    """Accuracy on every task, by prompt."""
    pixels = torch.stack([backbone.preprocess(draw(record)) for record in records])
    embeddings = backbone.encode_images(pixels)
    figures: dict[str, dict[str, Any]] = {prompt: {} for prompt in PROMPTS}
    for task, (indices, classes) in tasks(records, trained, concepts).items():
        position = {concept.hex: number for number, concept in enumerate(classes)}
        labels = torch.tensor([position[records[index].concept.hex] for index in indices])
        for prompt, template in PROMPTS.items():
            texts = backbone.encode_texts([template.format(concept.name) for concept in classes])
            figures[prompt][task] = accuracy(embeddings[indices] @ texts.T, labels)
    return figures


def measure_throughput(backbone: Backbone, lemmas: Sequence[str], threads: int) -> dict[str, Any]:
    """Images per second (encoder alone) and texts per second (with tokenisation)."""
    pixels = torch.rand(512, 3, *height_and_width(backbone.image_size)) * 2 - 1
    backbone.encode_images(pixels[:64])
    started = time.perf_counter()
    backbone.encode_images(pixels)
    images = len(pixels) / (time.perf_counter() - started)
    prompts = [NOUN_TEMPLATE.format(lemma) for lemma in lemmas]
    backbone.encode_texts(prompts[:512])
    started = time.perf_counter()
    backbone.encode_texts(prompts)
    texts = len(prompts) / (time.perf_counter() - started)
    return {"threads": threads, "images_per_second": round(images), "texts_per_second": round(texts)}


def check_embeddings(backbone: ClipBackbone) -> dict[str, float]:
    """Largest difference between two runs, and between padded and shortened token rows."""
    texts = ["a dog", "the nice hot beverage."]
    size = height_and_width(backbone.image_size)
    pixels = torch.rand(2, 3, *size, generator=torch.Generator().manual_seed(0))
    image, again = backbone.encode_images(pixels), backbone.encode_images(pixels)
    with torch.inference_mode():
        padded = F.normalize(backbone.model.encode_text(backbone.tokenizer(texts)), dim=-1)
    short = backbone.encode_texts(texts)
    return {
        "repeat_difference": (image - again).abs().max().item(),
        "padding_difference": (padded - short).abs().max().item(),
    }


def measure(packages: Path, model: Path, threads: int) -> dict[str, Any]:
    """All figures of the model in the folder ``model``."""
    torch.set_num_threads(threads)
    backbone = load_open_clip(f"local-dir:{model}")
    wanted = [p for p in inputs.PACKAGES if p.vendor or p.name in ("emojibase-data", "wordnet-base")]
    with tempfile.TemporaryDirectory() as scratch:
        folders = inputs.unpack(inputs.find(packages, wanted), scratch)
        records = pictograms.read_pictograms(scratch)
        concepts = pictograms.read_concepts(scratch)
        wordnet = next(folder for package, folder in folders.items() if package.name == "wordnet-base")
        lemmas = sorted(set(read_wordnet(wordnet)[0]))
        trained = {
            record.concept.hex
            for record in records
            if record.package.role == "train" and not pictograms.is_unseen(record.concept.hex)
        }
        figures: dict[str, Any] = {"validation": {}, "test": {}}
        for role, vendors in (("validation", ("mozilla",)), ("test", ("openmoji", "emojione"))):
            for vendor in vendors:
                drawn = [record for record in records if record.vendor == vendor]
                figures[role][vendor] = measure_vendor(backbone, drawn, trained, concepts)
    weights = model / "open_clip_model.safetensors"
    figures["model"] = {
        "bytes": weights.stat().st_size,
        "sha256": inputs.sha256_of(weights),
        "parameters": sum(parameter.numel() for parameter in backbone.model.parameters()),
        "logit_scale": round(backbone.logit_scale, 2),
        **check_embeddings(backbone),
    }
    figures["throughput"] = measure_throughput(backbone, random.Random(0).sample(lemmas, 20_000), threads)
    return figures


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--packages", type=a_path, required=True, help="folder of package archives")
    parser.add_argument(
        "--model", type=a_path, default=PATH, help="open_clip folder; figures.json is written there"
    )
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args(arguments)
    figures = measure(options.packages, options.model, options.threads)
    (options.model / "figures.json").write_text(json.dumps(figures, indent=1) + "\n")
    for role in ("validation", "test"):
        for vendor, prompts in figures[role].items():
            for prompt, results in prompts.items():
                for task, result in results.items():
                    print(
                        f"{role} {vendor} [{prompt}] {task} ({result['classes']} classes, {result['images']} images): "
                        f"top-1 {100 * result['top1']:.1f}, top-5 {100 * result['top5']:.1f}"
                    )
    print(json.dumps({key: figures[key] for key in ("model", "throughput")}))


if __name__ == "__main__":
    main()
