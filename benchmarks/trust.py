"""``tanl bench trust``: what few outliers, orders, batch sizes and floods do to methods that learn from their stream.

Long streams are made of seeded variants of the pictograms (`tanl.benchmarks.data.augment`). Drawings that calibration
images are made of are in no stream. The settings of TANL's preset ``practice`` were chosen on the ID sets animals and
food with variants of another seed; the sets and seeds here took no part in that.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from tanl.backbones import Backbone, load_backbone
from tanl.backbones.noise import noise_embeddings
from tanl.detectors import TANL, Detector, NegLabel
from tanl.detectors.thresholds import threshold_from_stream
from tanl.io.arguments import positive_number
from tanl.labels.bank import LabelBank
from tanl.labels.build import build_bank
from tanl.metrics import OODMetrics

from .data.augment import fingerprint, variant
from .data.image_cache import cached_image_embeddings
from .data.shipped import open_image
from .engine.protocol import ORDERS, stream_order
from .output.targets import check_targets
from .pictograms import manifest
from .pictograms.tracks import TRACKS, check_tracks

DEFAULT_TRACKS = ("travel", "objects", "coarse-10")
SHARES = (0.0, 0.01, 0.1, 0.5, 0.9)
BATCH_SIZES = (1, 8, 64, 256)
BATCH = 64
CALIBRATION = 150
FLOOD = 600
_EVERY = 6  # every sixth drawing of the ID set is for calibration

Maker = Callable[[LabelBank, Tensor], Detector]
METHODS: dict[str, Maker] = {
    "NegLabel": lambda bank, noise: NegLabel(bank),
    "TANL (paper)": lambda bank, noise: TANL(bank, initial_ood=noise),
    "TANL (practice)": lambda bank, noise: TANL(bank, initial_ood=noise, **TANL.preset("practice")),
}
# Measure -> values of single streams, by (part, case, method).
Found = dict[tuple[str, str, str], dict[str, list[float]]]


@dataclass(frozen=True)
class Images:
    """Embeddings of one ID set's variants and of its outliers'.

    Attributes:
        bank: the labels.
        inside: ID images, ``[n, D]``, those of one drawing far apart.
        known: ID images of other drawings, for calibration, ``[CALIBRATION, D]``.
        outside: OOD images, ``[m, D]``.
        flood: noisy pictures of one ID class, ``[FLOOD, D]``.
    """

    bank: LabelBank
    inside: Tensor
    known: Tensor
    outside: Tensor
    flood: Tensor


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the command's options."""
    parser.add_argument(
        "--tracks", metavar="NAMES", default=", ".join(DEFAULT_TRACKS), help="ID sets (default: %(default)s)"
    )
    parser.add_argument(
        "--length",
        type=positive_number,
        metavar="N",
        default=2400,
        help="images a stream (default: %(default)s)",
    )
    parser.add_argument(
        "--seeds", type=positive_number, metavar="N", default=3, help="orders of each (default: %(default)s)"
    )
    parser.add_argument(
        "--augment-seed",
        type=positive_number,
        metavar="N",
        default=1,
        help="of the variants (default: %(default)s)",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything that was measured there")


def main(arguments: argparse.Namespace) -> int:
    """Run the command and print its tables."""
    tracks = [name.strip() for name in arguments.tracks.split(",")]
    check_tracks(tracks)
    check_targets(arguments.json)
    if arguments.length < 20 * BATCH:
        raise ValueError(f"--length must be at least {20 * BATCH}, not {arguments.length}")
    found = measure(
        tracks,
        length=arguments.length,
        seeds=range(arguments.seeds),
        augment_seed=arguments.augment_seed,
        progress=sys.stderr.isatty(),
    )
    print(
        f"Means over {', '.join(tracks)} and {arguments.seeds} orders; {arguments.length} images a stream, batches of "
        f"{BATCH}; percent"
    )
    print(format_tables(found))
    if arguments.json is not None:
        record = {
            "torch": torch.__version__,
            "tracks": tracks,
            "length": arguments.length,
            "seeds": arguments.seeds,
            "augment_seed": arguments.augment_seed,
            "streams": [
                {"part": part, "case": case, "method": method, **values}
                for (part, case, method), values in found.items()
            ],
        }
        arguments.json.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    return 0


def format_tables(found: Found) -> str:
    """A table for each part, a line for each case and method, means over the streams."""
    lines = []
    for part in dict.fromkeys(part for part, _, _ in found):
        rows = {key[1:]: values for key, values in found.items() if key[0] == part}
        measures = list(dict.fromkeys(name for values in rows.values() for name in values))
        lines += ["", f"{part:24}{'':18}" + "".join(f"{name:>24}" for name in measures)]
        for (case, method), values in rows.items():
            cells = [f"{fmean(values[name]):24.1f}" if name in values else f"{'-':>24}" for name in measures]
            lines.append(f"{case:24}{method:18}" + "".join(cells))
    return "\n".join(lines)


def measure(
    tracks: Sequence[str],
    *,
    length: int,
    seeds: Sequence[int],
    augment_seed: int,
    progress: bool = False,
) -> Found:
    """Judge every stream with every method.

    Args:
        tracks: ID sets, of `TRACKS`.
        length: images a stream.
        seeds: of the order, one after the other.
        augment_seed: of the variants.
        progress: show progress bars.
    """
    backbone = load_backbone("mini")
    noise = noise_embeddings(backbone)
    found: Found = {}
    for track in tqdm(tracks, unit="sets", disable=not progress):
        images = _images(backbone, track, length, augment_seed, progress)
        for name, maker in METHODS.items():
            detector = maker(images.bank, noise)
            for seed in seeds:
                for part, case, values in _measured(detector, images, length, seed):
                    into = found.setdefault((part, case, name), {})
                    for key, value in values.items():
                        into.setdefault(key, []).append(100 * value)
    return found


def _measured(
    detector: Detector, images: Images, length: int, seed: int
) -> Iterator[tuple[str, str, Mapping[str, float]]]:
    """Part, case and measures of every stream of one method and seed."""
    for share in SHARES:
        count = round(length * share)
        stream, is_ood = _mixed(images, length - count, count, "shuffled", seed)
        own = _judged(detector, stream, is_ood, BATCH)
        detector.reset()
        detector.calibrate_embeddings(images.known)
        following = _judged(detector, stream, is_ood, BATCH)
        detector.uncalibrate()
        values = _ranked(own) if "AUROC" in own else {}
        for title, judged in (("own", own), ("calibrated", following)):
            values |= {
                f"{title}: {what}": judged[what] for what in ("flagged ID", "caught") if what in judged
            }
        yield "outliers", f"{share:.0%}", values
    half = length // 2
    for order in ORDERS:
        stream, is_ood = _mixed(images, half, half, order, seed)
        yield "order", order, _ranked(_judged(detector, stream, is_ood, BATCH))
    for size in BATCH_SIZES:
        stream, is_ood = _mixed(images, half, half, "shuffled", seed)
        yield "batch size", str(size), _ranked(_judged(detector, stream, is_ood, size))
    stream, is_ood = _mixed(images, half, half, "shuffled", seed)
    for case, before in (("none", images.flood[:0]), ("600 noisy, one class", images.flood)):
        detector.reset()
        for part in torch.split(before, BATCH) if len(before) else ():
            detector(part)
        yield "flood before", case, _ranked(_judged(detector, stream, is_ood, BATCH, reset=False))


def _ranked(judged: Mapping[str, float]) -> dict[str, float]:
    return {"AUROC": judged["AUROC"], "FPR95_ID": judged["FPR95_ID"]}


def _mixed(images: Images, num_id: int, num_ood: int, order: str, seed: int) -> tuple[Tensor, Tensor]:
    """A stream ``[n, D]`` and which of it is OOD, ``[n]``."""
    generator = torch.Generator().manual_seed(seed)

    def drawn(of: Tensor, count: int) -> Tensor:
        if count > len(of):
            raise ValueError(f"a stream needs {count} images, and there are {len(of)}; lower --length")
        return of[torch.randperm(len(of), generator=generator)[:count]]

    both = torch.cat([drawn(images.inside, num_id), drawn(images.outside, num_ood)])
    positions = stream_order(num_id, num_ood, order, seed)  # type: ignore[arg-type]
    return both[positions], positions >= num_id


def _judged(
    detector: Detector, stream: Tensor, is_ood: Tensor, size: int, *, reset: bool = True
) -> dict[str, float]:
    """AUROC and FPR95_ID of a stream; of its second half the shares of ID and of OOD images that were flagged."""
    if reset:
        detector.reset()
    scores, thresholds = [], []
    for part in torch.split(stream, size):
        scores.append(detector(part))
        thresholds.append(
            torch.full((len(part),), torch.nan if detector.threshold is None else detector.threshold)
        )
    score, threshold = torch.cat(scores), torch.cat(thresholds)
    if bool(threshold.isnan().all()):
        threshold = torch.full_like(score, threshold_from_stream(score))
    late = torch.arange(len(stream)) >= len(stream) // 2
    flagged = score > threshold
    values = {}
    for name, chosen in (("flagged ID", late & ~is_ood), ("caught", late & is_ood)):
        if bool(chosen.any()):
            values[name] = float(flagged[chosen].float().mean())
    if bool(is_ood.any()) and not bool(is_ood.all()):
        metrics = OODMetrics()
        metrics.update(score, torch.where(is_ood, -1, 0))
        computed = metrics.compute()
        values |= {"AUROC": float(computed["AUROC"]), "FPR95_ID": float(computed["FPR95_ID"])}
    return values


def _images(backbone: Backbone, track: str, length: int, seed: int, progress: bool) -> Images:
    rows = manifest.read_manifest(manifest.FOLDER)
    chosen = TRACKS[track].select(rows)
    known = chosen.images[::_EVERY]
    apart = set(known)
    inside = [image for image in chosen.images if image not in apart]
    outside = sorted({member for _, members in chosen.ood.values() for member in members})
    outside = np.random.default_rng(seed).permutation(outside).tolist()  # all kinds of them in any number
    first_class = [image for image, target in zip(chosen.images, chosen.targets, strict=True) if target == 0]

    def embedded(title: str, wanted: list[int], count: int, changed: Callable[..., Image.Image]) -> Tensor:
        def made() -> Iterator[Image.Image]:
            for number in range(count):
                row = wanted[number % len(wanted)]
                generator = np.random.default_rng([seed, row, number // len(wanted)])
                yield changed(open_image(manifest.FOLDER, rows[row]), generator)

        own = "\0".join([title, str(count), *(rows[row].sha256 for row in wanted)])
        return cached_image_embeddings(
            backbone, made, count=count, fingerprint=fingerprint(own, seed), progress=progress, title=title
        )

    return Images(
        build_bank(backbone, chosen.classes, progress=progress),
        embedded(f"{track}, ID", inside, length, variant),
        embedded(f"{track}, calibration", known, CALIBRATION, variant),
        embedded(f"{track}, OOD", outside, round(max(SHARES) * length), variant),
        embedded(f"{track}, flood", first_class, FLOOD, _noisy),
    )


def _noisy(image: Image.Image, generator: np.random.Generator) -> Image.Image:
    """A variant under Gaussian noise with a standard deviation of 60 of 255."""
    pixels = np.asarray(variant(image, generator), dtype=np.float32)
    noisy = pixels + generator.normal(0, 60, pixels.shape).astype(np.float32)
    return Image.fromarray(noisy.clip(0, 255).astype(np.uint8))
