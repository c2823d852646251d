"""``tanl bench pictograms``: the methods measured on pictograms of vendors that the embedded model never saw."""

from __future__ import annotations

import argparse
import json
import platform
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import PIL
import torch
from PIL import features
from torch import Tensor
from tqdm import tqdm

import tanl
from tanl.backbones import Backbone, load_backbone
from tanl.backbones.noise import noise_embeddings
from tanl.detectors import MCM, TANL, Detector, MaxLogit, NegLabel
from tanl.io.arguments import a_path
from tanl.labels.bank import LabelBank
from tanl.labels.build import build_bank
from tanl.labels.corpus import Corpus
from tanl.metrics import OODMetrics

from ..data.image_cache import cached_image_embeddings
from ..data.shipped import Kind, Selection, fingerprint, open_image
from ..engine.bootstrap import METRICS, Floats, interval, mean_of_sets, resample_counts, resampled_metrics
from ..engine.protocol import ORDERS, Order, run_stream
from ..output.targets import check_targets
from . import extreme, manifest
from .tracks import TRACKS, check_tracks

EXTREME_IMAGES = 200
_HEADLINE: tuple[Kind, ...] = ("near", "far")


@dataclass(frozen=True)
class Config:
    """What is run.

    Attributes:
        backbone: as :func:`tanl.load_backbone` takes it.
        corpus: as :meth:`tanl.Corpus.load` takes it.
        tracks: names in ``TRACKS``.
        seed: of the stream's order, of the methods and of the bootstrap.
        order: of the stream, one of `tanl.benchmarks.engine.protocol.ORDERS`.
        batch_size: images that are judged at a time.
        resamples: of the bootstrap.
        device: where the backbone runs.
    """

    backbone: str = "mini"
    corpus: str = "wordnet"
    tracks: tuple[str, ...] = tuple(TRACKS)
    seed: int = 0
    order: Order = "shuffled"
    batch_size: int = 64
    resamples: int = 1000
    device: str = "cpu"

    def __post_init__(self) -> None:
        check_tracks(self.tracks)
        if self.order not in ORDERS:
            raise ValueError(f"no order {self.order!r}; there are {', '.join(ORDERS)}")
        for name, least in (("batch_size", 1), ("resamples", 1), ("seed", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}, not {getattr(self, name)}")


@dataclass(frozen=True)
class Score:
    """A metric with its bootstrap 95 % interval, fractions."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class SetScores:
    """One OOD set, or the mean over several."""

    name: str
    kind: str
    num_ood: int
    metrics: dict[str, Score]


@dataclass(frozen=True)
class MethodScores:
    """A method on a track: its OOD sets, and means over the near and far ones together and over each kind."""

    name: str
    sets: list[SetScores]
    means: dict[str, SetScores]


@dataclass(frozen=True)
class TrackScores:
    """One ID set."""

    name: str
    num_id: int
    num_classes: int
    num_negatives: int
    accuracy: Score
    methods: list[MethodScores]


@dataclass(frozen=True)
class Result:
    """A run: what was asked for, on what, and what came out."""

    config: Config
    environment: dict[str, str]
    tracks: list[TrackScores]
    seconds: float = field(compare=False)


# The bank, the embeddings of noise images that TANL starts with, and the seed -> the detector.
METHODS: dict[str, Callable[[LabelBank, Tensor, int], Detector]] = {
    "max cosine": lambda bank, noise, seed: MaxLogit(bank),
    "MCM": lambda bank, noise, seed: MCM(bank),
    "NegLabel": lambda bank, noise, seed: NegLabel(bank, seed=seed),
    "TANL": lambda bank, noise, seed: TANL(bank, **TANL.preset("paper"), seed=seed, initial_ood=noise),
    "TANL, alpha = 0": lambda bank, noise, seed: TANL(
        bank, **{**TANL.preset("paper"), "alpha": 0.0}, seed=seed, initial_ood=noise
    ),
}


def run(
    config: Config,
    *,
    backbone: Backbone | None = None,
    folder: Path = manifest.FOLDER,
    extreme_images: int = EXTREME_IMAGES,
    cache_dir: Path | None = None,
    progress: bool = False,
) -> Result:
    """Measure every method on every track of ``config``.

    Args:
        config: what to run.
        backbone: used in place of the one that ``config`` names.
        folder: where the manifest and its images are.
        extreme_images: how many images each generated set has; 0 for none.
        cache_dir: where embeddings are kept; None is the user's cache folder.
        progress: show progress bars.

    Raises:
        ValueError: an image isn't the manifest's, or a setting is unusable.
        tanl.BackboneError: the backbone's weights can't be fetched.
    """
    started = time.perf_counter()
    corpus = Corpus.load(config.corpus)
    if backbone is None:
        backbone = load_backbone(config.backbone, device=config.device)
    rows = manifest.read_manifest(folder)
    images = embeddings(backbone, rows, folder=folder, cache_dir=cache_dir, progress=progress)
    extremes = _embed_extremes(backbone, extreme_images, cache_dir)
    noise = noise_embeddings(backbone)
    tracks = []
    for name in config.tracks:
        chosen = TRACKS[name].select(rows)
        bank = build_bank(backbone, chosen.classes, corpus=corpus, cache_dir=cache_dir, progress=progress)
        ood: dict[str, tuple[Kind, Tensor]] = {
            title: (kind, images[members]) for title, (kind, members) in chosen.ood.items()
        }
        ood |= {title: ("extreme", members) for title, members in extremes.items()}
        tracks.append(_run_track(name, config, bank, chosen, images[chosen.images], ood, noise, progress))
    return Result(config, _environment(backbone, corpus, rows), tracks, seconds=time.perf_counter() - started)


def embeddings(
    backbone: Backbone,
    rows: Sequence[manifest.Row],
    *,
    folder: Path = manifest.FOLDER,
    cache_dir: Path | None = None,
    progress: bool = False,
) -> Tensor:
    """Embeddings ``[len(rows), D]`` of the manifest's images, from the cache where they are there."""
    return cached_image_embeddings(
        backbone,
        lambda: (open_image(folder, row) for row in rows),
        count=len(rows),
        fingerprint=fingerprint(rows),
        cache_dir=cache_dir,
        progress=progress,
        title="pictograms",
    )


def format_table(result: Result, *, detail: bool = False) -> str:
    """The result as text: a block a track with a line a method, in percent.

    ``detail`` adds the means over each kind of OOD set and a line for each set.
    """
    config, environment = result.config, result.environment
    lines = [
        f"Pictograms: backbone {environment['backbone']}, corpus {environment['corpus']}",
        f"stream seed {config.seed}, order {config.order}, batches of {config.batch_size}, "
        "state new for each OOD set",
        "In percent, with bootstrap 95 % intervals; means over the near and far OOD sets. FPR95: ID flagged "
        "when 95 % of OOD is caught.",
        "FPR95_ID: OOD accepted when 95 % of ID is accepted.",
    ]
    for track in result.tracks:
        counted = next(iter(track.methods[0].means.values()), None)
        lines += [
            "",
            f"{track.name}: {track.num_id} ID images of {track.num_classes} classes, accuracy "
            f"{_percent(track.accuracy)}; {track.num_negatives} negative labels"
            + (f"; {counted.name}, {counted.num_ood} images" if counted else ""),
            f"  {'':26}" + "".join(f"{metric:>22}" for metric in METRICS),
        ]
        for method in track.methods:
            means = list(method.means.values())
            lines += [_line(method.name, mean) for mean in means[:1]]
            if detail:
                lines += [_line(f"  {part.name}", part) for part in (*means[1:], *method.sets)]
    lines += ["", f"{result.seconds:.0f} s"]
    return "\n".join(lines)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the command's options."""
    default = Config()
    names = ", ".join(TRACKS)
    parser.add_argument(
        "--backbone", default=default.backbone, help="model to measure (default: %(default)s)"
    )
    parser.add_argument("--corpus", default=default.corpus, help="negative labels (default: %(default)s)")
    parser.add_argument("--tracks", metavar="NAMES", default=names, help="some of %(default)s (default: all)")
    parser.add_argument(
        "--seed", type=int, default=default.seed, help="of order, methods and bootstrap (default: 0)"
    )
    parser.add_argument(
        "--order", choices=ORDERS, default=default.order, help="of the stream (default: %(default)s)"
    )
    parser.add_argument(
        "--batch-size", type=int, default=default.batch_size, help="images judged at a time (default: 64)"
    )
    parser.add_argument(
        "--device", default=default.device, help="where the model runs (default: %(default)s)"
    )
    parser.add_argument("--detail", action="store_true", help="a line for each OOD set")
    parser.add_argument(
        "--json", type=a_path, metavar="FILE", help="write everything that was measured there"
    )


def main(arguments: argparse.Namespace) -> int:
    """Run the command and print its table."""
    config = Config(
        backbone=arguments.backbone,
        corpus=arguments.corpus,
        tracks=tuple(dict.fromkeys(name.strip() for name in arguments.tracks.split(","))),
        seed=arguments.seed,
        order=arguments.order,
        batch_size=arguments.batch_size,
        device=arguments.device,
    )
    target: Path | None = arguments.json
    check_targets(target)
    result = run(config, progress=sys.stderr.isatty())
    if target is not None:
        target.write_text(json.dumps(asdict(result), indent=1) + "\n", encoding="utf-8")
    print(format_table(result, detail=arguments.detail))
    return 0


def _run_track(
    name: str,
    config: Config,
    bank: LabelBank,
    chosen: Selection,
    id_images: Tensor,
    ood: dict[str, tuple[Kind, Tensor]],
    noise: Tensor,
    progress: bool,
) -> TrackScores:
    generator = np.random.default_rng(config.seed)
    # The same resamples of the ID images for every OOD set and method, so that means and differences are paired.
    id_counts = resample_counts(len(id_images), config.resamples, generator)
    ood_counts = {
        title: resample_counts(len(members), config.resamples, generator)
        for title, (_, members) in ood.items()
    }
    best = (id_images @ bank.id_embeddings.T).argmax(dim=1).cpu().numpy()
    right = best == np.array(chosen.targets)
    accuracy = Score(float(right.mean()), *interval(id_counts @ right / len(right)))

    methods = []
    bar = tqdm(total=len(METHODS) * len(ood), desc=f"streams of {name}", disable=not progress)
    for method, make in METHODS.items():
        detector = make(bank, noise, config.seed)
        sets: list[SetScores] = []
        resampled: list[Floats] = []
        for title, (kind, members) in ood.items():
            scores = run_stream(
                detector,
                id_images,
                members,
                order=config.order,
                seed=config.seed,
                batch_size=config.batch_size,
            )
            measured = OODMetrics()
            measured.update(scores.id, np.zeros(len(scores.id)))
            measured.update(scores.ood, np.full(len(scores.ood), -1))
            resampled.append(resampled_metrics(scores, id_counts, ood_counts[title]))
            point = measured.compute()
            sets.append(_set_scores(title, kind, len(members), point, resampled[-1]))
            bar.update()
        methods.append(MethodScores(method, sets, _means(sets, resampled)))
    bar.close()
    return TrackScores(name, len(id_images), len(chosen.classes), bank.num_negatives, accuracy, methods)


def _means(sets: list[SetScores], resampled: list[Floats]) -> dict[str, SetScores]:
    """Means over near and far together, then over each kind; kinds without a set are left out."""
    means = {}
    kinds: dict[str, tuple[str, ...]] = {"near and far": _HEADLINE}
    kinds |= {kind: (kind,) for kind in ("near", "far", "extreme")}
    for title, wanted in kinds.items():
        members = [index for index, part in enumerate(sets) if part.kind in wanted]
        if not members:
            continue
        point = {
            metric: float(np.mean([sets[index].metrics[metric].value for index in members]))
            for metric in METRICS
        }
        total = sum(sets[index].num_ood for index in members)
        samples = mean_of_sets([resampled[index] for index in members])
        means[title] = _set_scores(f"mean of {len(members)} {title} sets", title, total, point, samples)
    return means


def _set_scores(name: str, kind: str, num_ood: int, point: dict[str, float], samples: Floats) -> SetScores:
    metrics = {
        metric: Score(point[metric], *interval(samples[:, column])) for column, metric in enumerate(METRICS)
    }
    return SetScores(name, kind, num_ood, metrics)


def _embed_extremes(backbone: Backbone, count: int, cache_dir: Path | None) -> dict[str, Tensor]:
    embedded = {}
    for name, make in extreme.EXTREME_SETS.items() if count else ():
        images = make(count, 0)
        embedded[name] = cached_image_embeddings(
            backbone,
            partial(iter, images),
            count=count,
            fingerprint=extreme.fingerprint(images),
            cache_dir=cache_dir,
        )
    return embedded


def _environment(backbone: Backbone, corpus: Corpus, rows: Sequence[manifest.Row]) -> dict[str, str]:
    return {
        "backbone": backbone.name,
        "backbone_fingerprint": backbone.fingerprint,
        "corpus": f"{corpus.name} ({len(corpus)} words)",
        "corpus_fingerprint": corpus.fingerprint,
        "images_fingerprint": fingerprint(rows),
        "device": str(backbone.device),
        "threads": str(torch.get_num_threads()),
        "machine": platform.machine(),
        "python": platform.python_version(),
        "tanl": tanl.__version__,
        "torch": torch.__version__,
        "numpy": np.__version__,
        "pillow": PIL.__version__,
        "libwebp": str(features.version("webp")),
    }


def _percent(score: Score) -> str:
    return f"{100 * score.value:.1f} [{100 * score.low:.1f}, {100 * score.high:.1f}]"


def _line(title: str, part: SetScores) -> str:
    return f"  {title:26}" + "".join(f"{_percent(part.metrics[metric]):>22}" for metric in METRICS)
