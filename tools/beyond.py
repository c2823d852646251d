"""``python -m tools beyond``: what the modules of tanl.beyond find in images where the answer is known.

- **difference**: pairs of groups whose difference was planted; found if one of the first k texts holds the planted
  word, a synonym or a kind of it. Kinds: images of a coarse class of the pictograms, or of a set of the photographs,
  against others. Colours: pictograms on a coloured background against the same kind of pictograms on white.
- **curation**: pictograms thinned to a long tail; the share of the rare classes' images that is kept.
- **latents**: photographs and pictograms from 1/4 and 1/8 of their sides: how far errors of reconstruction, and
  embeddings of what came back, tell OOD images.
- **examples**: pools in which one example in five does not belong.

Nothing was tuned on these figures: the modules' constants were set before the first run.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from tanl.backbones import Backbone, load_backbone
from tanl.benchmarks.data.shipped import ShippedImage, ShippedSplit, open_image
from tanl.benchmarks.engine.shipped import SHIPPED
from tanl.benchmarks.output.targets import add_json_option, check_targets, write_json
from tanl.beyond.curation import curate, farthest_points
from tanl.beyond.difference import Difference, describe_difference
from tanl.beyond.examples import order_examples
from tanl.beyond.latents import Resampling, combined, reconstruct
from tanl.detectors import NegLabel
from tanl.io.options import add_options, check_settings, setting, settings_of
from tanl.labels.build import build_bank
from tanl.labels.names import normalise
from tanl.labels.terms import with_kinds
from tanl.metrics import OODMetrics

PARTS = ("difference", "curation", "latents", "examples")
MODELS = {"pictograms": "mini", "photographs": "mini-photo"}
COLOURS = {
    "red": (220, 30, 30), "green": (30, 160, 50), "blue": (40, 60, 220), "yellow": (245, 220, 40),
    "orange": (245, 140, 20), "purple": (130, 40, 160), "pink": (250, 150, 190), "black": (0, 0, 0),
}  # fmt: skip
BUDGETS = (0.05, 0.1, 0.2, 0.4)
_GROUP = 24  # images on either side of a difference
_FEWEST = 12


@dataclass(frozen=True)
class Config:
    """What is measured."""

    parts: tuple[str, ...] = setting(PARTS, "of what", choices=PARTS, metavar="NAMES")
    seeds: tuple[int, ...] = setting((0, 1), "of groups, tails and pools", metavar="N", at_least=0)

    def __post_init__(self) -> None:
        check_settings(self)


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


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the study's options."""
    add_options(parser, Config)
    add_json_option(parser)


def main(arguments: argparse.Namespace) -> int:
    """Run the study and print its tables."""
    config = settings_of(arguments, Config())
    check_targets(arguments.json)
    found: dict[str, Any] = {}
    loaded = {name: _images(name, model) for name, model in MODELS.items()}
    for part in config.parts:
        found[part] = []
        print(f"\n{part}", flush=True)
        for line in _MEASURED[part](loaded, config.seeds):
            found[part].append(line)
            shown = (f"{key} {_shown(value)}" for key, value in line.items() if key != "pairs")
            print("  " + "  ".join(shown), flush=True)
    if arguments.json is not None:
        write_json(arguments.json, {"torch": torch.__version__, **vars(config), "found": found})
    return 0


def _shown(value: object) -> str:
    return f"{value:.1f}" if isinstance(value, float) else str(value)


def _images(name: str, model: str) -> Images:
    split = SHIPPED[name]
    backbone = load_backbone(model)
    rows = split.read(split.folder)
    return Images(split, backbone, rows, split.embeddings(backbone, rows, progress=sys.stderr.isatty()))


# --- differences --------------------------------------------------------------------------------------------

Pair = tuple[str, list[Image.Image], list[Image.Image]]


def _differences(loaded: dict[str, Images], seeds: Sequence[int]) -> Iterator[dict[str, Any]]:
    kinds: dict[str, Callable[[Images, int], Iterator[Pair]]] = {"kind": _of_kinds, "colour": _on_colours}
    sources = [("pictograms", "kind"), ("pictograms", "colour"), ("photographs", "kind")]
    for rounds, zoom in ((1, False), (2, False), (3, False), (2, True)):
        for name, kind in sources:
            images = loaded[name]
            places = []
            pairs = []
            for seed in seeds:
                for truth, a, b in kinds[kind](images, seed):
                    differences = describe_difference(
                        images.backbone, a, b, rounds=rounds, zoom=zoom, seed=seed
                    )
                    place = _place(truth, differences)
                    places.append(place)
                    pairs.append(
                        {"truth": truth, "place": place, "found": [each.text for each in differences]}
                    )
            yield {
                "images": name,
                "planted": kind,
                "rounds": rounds,
                "zoom": zoom,
                "of": len(places),
                "accuracy@1": 100 * fmean(place == 1 for place in places),
                "accuracy@5": 100 * fmean(place is not None for place in places),
                "pairs": pairs,
            }


def _of_kinds(images: Images, seed: int) -> Iterator[Pair]:
    generator = np.random.default_rng(seed)
    names = [row.coarse or ("" if images.split.name == "pictograms" else row.set) for row in images.rows]
    for name, count in sorted(Counter(names).items()):
        inside = [index for index, each in enumerate(names) if each == name and images.rows[index].in_tracks]
        others = [
            index
            for index, each in enumerate(names)
            if each not in (name, "") and images.rows[index].in_tracks
        ]
        if name and len(inside) >= _FEWEST and count:
            size = min(_GROUP, len(inside))
            a, b = (generator.permutation(side)[:size].tolist() for side in (inside, others))
            yield name, [images.open(index) for index in a], [images.open(index) for index in b]


def _on_colours(images: Images, seed: int) -> Iterator[Pair]:
    generator = np.random.default_rng(seed)
    taken = [index for index, row in enumerate(images.rows) if row.in_tracks and row.set != "flags"]
    for name, colour in COLOURS.items():
        a, b = generator.permutation(taken)[: 2 * _GROUP].reshape(2, -1).tolist()
        yield name, [_painted(images.open(index), colour) for index in a], [images.open(index) for index in b]


def _painted(image: Image.Image, colour: tuple[int, int, int]) -> Image.Image:
    """White paper, from the edges in as far as it is white, in a colour."""
    from PIL import ImageDraw

    image = image.copy()
    for corner in ((0, 0), (image.width - 1, 0), (0, image.height - 1), (image.width - 1, image.height - 1)):
        ImageDraw.floodfill(image, corner, colour, thresh=60)
    return image


def _place(truth: str, differences: Sequence[Difference]) -> int | None:
    accepted = {normalise(word) for word in with_kinds([truth])} | {
        normalise(truth),
        normalise(truth.removesuffix("s")),
    }
    for place, difference in enumerate(differences, start=1):
        if any(normalise(word) in accepted for word in difference.text.split(" with ")):
            return place
    return None


# --- curation -----------------------------------------------------------------------------------------------


def _curation(loaded: dict[str, Images], seeds: Sequence[int]) -> list[dict[str, Any]]:
    images = loaded["pictograms"]
    kept: dict[tuple[str, float], list[float]] = {}
    for seed in seeds:
        members, rare = _long_tail(images, seed)
        z = images.z[members]
        for budget in BUDGETS:
            count = round(budget * len(z))
            generator = torch.Generator().manual_seed(seed)
            chosen = {
                "curate": curate(z, budget, seed=seed).kept,
                "curate, nothing set aside": curate(z, budget, outliers=1.0, seed=seed).kept,
                "k-centre": farthest_points(z, torch.arange(len(z)), count),
                "random": torch.randperm(len(z), generator=generator)[:count],
            }
            for name, rows in chosen.items():
                kept.setdefault((name, budget), []).append(100 * float(torch.isin(rare, rows).float().mean()))
    return [
        {"method": name, "budget": f"{budget:.0%}", "rare kept %": fmean(values)}
        for (name, budget), values in kept.items()
    ]


def _long_tail(images: Images, seed: int) -> tuple[Tensor, Tensor]:
    """Images of the coarse classes with numbers that fall as 1 / rank; and which of them are of the rarest third."""
    generator = np.random.default_rng(seed)
    classes: dict[str, list[int]] = {}
    for index, row in enumerate(images.rows):
        if row.coarse and row.in_tracks:
            classes.setdefault(row.coarse, []).append(index)
    names = generator.permutation(
        [name for name, members in classes.items() if len(members) >= _FEWEST]
    ).tolist()
    names.sort(key=lambda name: -len(classes[name]))
    members: list[int] = []
    rare: list[int] = []
    for rank, name in enumerate(names, start=1):
        size = max(2, min(len(classes[name]), round(200 / rank)))
        if rank > 2 * len(names) // 3:
            size = max(2, size // 4)
            rare += range(len(members), len(members) + size)
        members += generator.permutation(classes[name])[:size].tolist()
    return torch.tensor(members), torch.tensor(rare)


# --- latents ------------------------------------------------------------------------------------------------


def _latents(loaded: dict[str, Images], seeds: Sequence[int]) -> list[dict[str, Any]]:
    lines = []
    for name, track in (("photographs", "animals"), ("pictograms", "animals")):
        images = loaded[name]
        chosen = images.split.tracks[track].select(images.rows)
        inside = list(chosen.images)
        outside = sorted({index for _, members in chosen.ood.values() for index in members})
        outside = np.random.default_rng(seeds[0]).permutation(outside)[: 2 * len(inside)].tolist()
        bank = build_bank(images.backbone, chosen.classes)
        detector = NegLabel(bank)
        known = inside[::3]  # what p-values are measured by
        judged = [index for index in inside if index not in set(known)] + outside
        is_ood = torch.tensor([index in set(outside) for index in judged])
        place = {index: row for row, index in enumerate(known + judged)}
        for factor in (1, 4, 8):
            pixels = torch.stack([_square(images.open(index)) for index in known + judged])
            if factor == 1:
                scores = {"NegLabel": detector.score(images.z[known + judged])}
            else:
                codec = Resampling(factor)
                errors = reconstruct(pixels, codec.encode, codec.decode)
                back = codec.decode(codec.encode(pixels)).clamp(0, 1)
                z = torch.cat([_embedded(images.backbone, part) for part in torch.split(back, 64)])
                scores = {"NegLabel": detector.score(z), "MSE": errors.mse, "1 - SSIM": 1 - errors.ssim}
                first = len(known)
                signals = [scores["NegLabel"], scores["MSE"]]
                joint = combined([each[first:] for each in signals], [each[:first] for each in signals])
                scores["NegLabel and MSE"] = torch.cat([torch.zeros(first, dtype=joint.dtype), joint])
            for method, values in scores.items():
                rows = torch.tensor([place[index] for index in judged])
                lines.append(
                    {
                        "images": name,
                        "sides": f"1/{factor}",
                        "score": method,
                        "AUROC": _auroc(values[rows], is_ood),
                    }
                )
    return lines


def _square(image: Image.Image) -> Tensor:
    array = (
        np.asarray(image.convert("RGB").resize((224, 224), Image.Resampling.BICUBIC), dtype=np.float32) / 255
    )
    return torch.from_numpy(array).permute(2, 0, 1)


def _embedded(backbone: Backbone, pixels: Tensor) -> Tensor:
    pictures = [
        Image.fromarray((each.permute(1, 2, 0) * 255).round().to(torch.uint8).numpy()) for each in pixels
    ]
    return backbone.encode_images(torch.stack([backbone.preprocess(each) for each in pictures]))


def _auroc(scores: Tensor, is_ood: Tensor) -> float:
    metrics = OODMetrics()
    metrics.update(scores, torch.where(is_ood, -1, 0))
    return 100 * float(metrics.compute()["AUROC"])


# --- examples -----------------------------------------------------------------------------------------------


def _examples(loaded: dict[str, Images], seeds: Sequence[int]) -> list[dict[str, Any]]:
    """Pools of 40 examples of animals, eight of which are something else; queries are other animals."""
    lines = []
    for name in MODELS:
        images = loaded[name]
        chosen = images.split.tracks["animals"].select(images.rows)
        outside = sorted({index for _, members in chosen.ood.values() for index in members})
        bank = build_bank(images.backbone, chosen.classes)
        wrong: dict[str, list[float]] = {"screened": [], "not screened": [], "random": []}
        for seed in seeds:
            generator = np.random.default_rng(seed)
            inside = generator.permutation(list(chosen.images))
            known, pool_in, queries = inside[:20], inside[20:52], inside[52:]
            pool = [*pool_in.tolist(), *generator.permutation(outside)[:8].tolist()]
            detector = NegLabel(bank)
            detector.calibrate_embeddings(images.z[known.tolist()], 0.9)
            for query in queries.tolist():
                z = images.z[[query]]
                for title, screen in (("screened", detector), ("not screened", None)):
                    found = order_examples(z, images.z[pool], 8, detector=screen)
                    wrong[title].append(100 * fmean(row >= 32 for row in found.order.tolist()))
                wrong["random"].append(
                    100 * fmean(row >= 32 for row in generator.permutation(40)[:8].tolist())
                )
        lines += [
            {"images": name, "choice": title, "wrong among 8 %": fmean(values)}
            for title, values in wrong.items()
        ]
    return lines


_MEASURED: dict[str, Callable[[dict[str, Images], Sequence[int]], Iterable[dict[str, Any]]]] = {
    "difference": _differences,
    "curation": _curation,
    "latents": _latents,
    "examples": _examples,
}
