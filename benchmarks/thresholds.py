"""``tanl bench thresholds``: what the ways to a threshold do to ID and OOD images, where they hold and where they fail.

Pictograms of each ID set are parted by seed into calibration images and the rest, which meet outliers in streams with
different shares of them.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from statistics import fmean

import torch
from torch import Tensor
from tqdm import tqdm

from tanl.backbones import load_backbone
from tanl.backbones.noise import noise_embeddings
from tanl.detectors import TANL, Detector, NegLabel
from tanl.detectors.thresholds import threshold_at_tpr, threshold_from_stream
from tanl.io.arguments import a_path, positive_number
from tanl.labels.bank import LabelBank
from tanl.labels.build import build_bank

from .engine.shipped import SHIPPED
from .output.targets import check_targets, write_json
from .pictograms import manifest
from .pictograms.tracks import TRACKS, check_tracks

DEFAULT_TRACKS = ("animals", "food", "travel", "objects")
STREAMS = {"as many outliers": 0.5, "one in 20": 0.05, "none": 0.0}
"""The share of OOD images in each stream."""
RULES = {
    "calibrated before": "on ID images, with the state of the start of the stream",
    "calibrated midway": "on the same images, with the state of the middle of the stream",
    "Otsu": "from the stream alone: TANL's own after each batch, NegLabel's from all scores at the end",
}


@dataclass(frozen=True)
class Row:
    """What a rule for the threshold comes to, means over ID sets and seeds.

    Attributes:
        method: the detector.
        rule: of `RULES`.
        stream: of `STREAMS`.
        kept: the share of ID images that are kept.
        lowest: the smallest such share in any stream.
        caught: the share of OOD images that are flagged; None where there are none.
    """

    method: str
    rule: str
    stream: str
    kept: float
    lowest: float
    caught: float | None


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the command's options."""
    parser.add_argument(
        "--tracks", metavar="NAMES", default=", ".join(DEFAULT_TRACKS), help="ID sets (default: %(default)s)"
    )
    parser.add_argument(
        "--calibration",
        type=positive_number,
        metavar="N",
        default=50,
        help="ID images to calibrate on; at least 19 (default: %(default)s)",
    )
    parser.add_argument(
        "--seeds", type=positive_number, metavar="N", default=10, help="draws of them (default: %(default)s)"
    )
    parser.add_argument(
        "--batch-size", type=positive_number, metavar="N", default=64, help="(default: %(default)s)"
    )
    parser.add_argument(
        "--json", type=a_path, metavar="FILE", help="write everything that was measured there"
    )


def main(arguments: argparse.Namespace) -> int:
    """Run the command and print its table."""
    tracks = [name.strip() for name in arguments.tracks.split(",")]
    check_tracks(tracks)
    check_targets(arguments.json)
    if arguments.calibration < 19:
        raise ValueError(f"--calibration must be at least 19 for a rate of 0.95, not {arguments.calibration}")
    rows = measure(
        tracks,
        calibration=arguments.calibration,
        seeds=range(arguments.seeds),
        batch_size=arguments.batch_size,
        progress=sys.stderr.isatty(),
    )
    print(
        f"Threshold for keeping 95 % of ID images, from {arguments.calibration} of them or from the stream; means over "
        f"{len(tracks)} ID sets and {arguments.seeds} draws; batches of {arguments.batch_size}"
    )
    print(format_table(rows))
    if arguments.json is not None:
        record = {
            "torch": torch.__version__,
            "tracks": tracks,
            "calibration": arguments.calibration,
            "seeds": arguments.seeds,
            "batch_size": arguments.batch_size,
            "rows": [asdict(row) for row in rows],
        }
        write_json(arguments.json, record)
    return 0


def format_table(rows: Sequence[Row]) -> str:
    """The rows as text, percent, and what the rules are."""
    lines = [f"{'':32}" + "".join(f"{stream + ':':>28}" for stream in STREAMS)]
    lines.append(f"{'':32}" + f"{'ID kept (least)':>18}{'caught':>10}" * len(STREAMS))
    for method, rule in dict.fromkeys((row.method, row.rule) for row in rows):
        cells = ""
        for stream in STREAMS:
            (row,) = (
                each for each in rows if (each.method, each.rule, each.stream) == (method, rule, stream)
            )
            caught = "-" if row.caught is None else f"{100 * row.caught:.1f}"
            cells += f"{f'{100 * row.kept:.1f} ({100 * row.lowest:.1f})':>18}{caught:>10}"
        lines.append(f"{method:12}{rule:20}{cells}")
    return "\n".join([*lines, *(f"{rule}: {what}" for rule, what in RULES.items())])


def measure(
    tracks: Sequence[str],
    *,
    calibration: int,
    seeds: Sequence[int],
    batch_size: int,
    progress: bool = False,
) -> list[Row]:
    """Judge every stream with every rule.

    Args:
        tracks: ID sets, of `TRACKS`.
        calibration: ID images that the threshold is made from; they are in no stream.
        seeds: of the draw and the order, one after the other.
        batch_size: images that are judged at a time.
        progress: show progress bars.
    """
    backbone = load_backbone("mini")
    pictograms = manifest.read_manifest(manifest.FOLDER)
    images = SHIPPED["pictograms"].embeddings(backbone, pictograms, progress=progress)
    noise = noise_embeddings(backbone)
    found: dict[tuple[str, str, str], list[tuple[float, float | None]]] = {}
    for track in tqdm(tracks, unit="sets", disable=not progress):
        chosen = TRACKS[track].select(pictograms)
        bank = build_bank(backbone, chosen.classes, progress=progress)
        outliers = images[sorted({member for _, members in chosen.ood.values() for member in members})]
        makers: dict[str, Callable[[LabelBank], Detector]] = {
            "NegLabel": NegLabel,
            "TANL": lambda bank: TANL(bank, initial_ood=noise),
        }
        for method, maker in makers.items():
            detector = maker(bank)
            for seed in seeds:
                known, rest = _parted(images[chosen.images], calibration, seed)
                for stream, share in STREAMS.items():
                    batches = _stream(rest, outliers, share, seed, batch_size)
                    for rule, shares in _judged(detector, known, batches):
                        found.setdefault((method, rule, stream), []).append(shares)
    return [
        Row(
            *key,
            fmean(kept for kept, _ in shares),
            min(kept for kept, _ in shares),
            fmean(each) if (each := [caught for _, caught in shares if caught is not None]) else None,
        )
        for key, shares in found.items()
    ]


Batches = list[tuple[Tensor, Tensor]]  # embeddings [B, D] and whether each is OOD [B]


def _parted(images: Tensor, count: int, seed: int) -> tuple[Tensor, Tensor]:
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))
    return images[order[:count]], images[order[count:]]


def _stream(ids: Tensor, outliers: Tensor, share: float, seed: int, batch_size: int) -> Batches:
    """All ID images and as many outliers as make up their share, shuffled."""
    generator = torch.Generator().manual_seed(seed)
    count = min(len(outliers), round(len(ids) * share / (1 - share)))
    picked = outliers[torch.randperm(len(outliers), generator=generator)[:count]]
    images, is_ood = torch.cat([ids, picked]), torch.arange(len(ids) + count) >= len(ids)
    order = torch.randperm(len(images), generator=generator)
    return [(images[part], is_ood[part]) for part in torch.split(order, batch_size)]


def _judged(
    detector: Detector, known: Tensor, batches: Batches
) -> Iterator[tuple[str, tuple[float, float | None]]]:
    """The shares of ID images kept and of OOD images caught in the stream's second half, under each rule."""
    middle = len(batches) // 2
    is_ood = torch.cat([truth for _, truth in batches[middle:]])
    detector.reset()
    before = threshold_at_tpr(detector.score(known))
    scores, own, midway = [], [], before
    for number, (z, _) in enumerate(batches):
        if number == middle:
            midway = threshold_at_tpr(detector.score(known))
        scores.append(detector(z))
        own.append(torch.full((len(z),), torch.nan if detector.threshold is None else detector.threshold))
    late = torch.cat(scores[middle:])
    yield "calibrated before", _shares(late > before, is_ood)
    if isinstance(detector, TANL):  # the scores of the other do not change
        yield "calibrated midway", _shares(late > midway, is_ood)
        yield "Otsu", _shares(late > torch.cat(own[middle:]), is_ood)
    else:
        yield "Otsu", _shares(late > threshold_from_stream(torch.cat(scores)), is_ood)


def _shares(flagged: Tensor, is_ood: Tensor) -> tuple[float, float | None]:
    caught = float(flagged[is_ood].float().mean()) if bool(is_ood.any()) else None
    return float((~flagged[~is_ood]).float().mean()), caught
