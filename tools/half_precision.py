"""``python -m tools half-precision``: what keeping the labels as float16 does to TANL on real embeddings.

The same streams of pictograms are judged with the labels kept as float32 and as float16, by the same kernels. The
first batch shows rounding alone; later ones, also what the stream makes of it.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import asdict, dataclass

import numpy as np
import torch
from torch import Tensor

from tanl.backbones.noise import noise_embeddings
from tanl.benchmarks.engine.protocol import StreamScores, run_stream, stream_order
from tanl.benchmarks.output.targets import add_json_option, check_targets, write_json
from tanl.benchmarks.pictograms.tracks import TRACKS
from tanl.detectors import TANL
from tanl.labels.bank import LabelBank
from tanl.labels.build import build_bank
from tanl.metrics import OODMetrics

from .embedded_pictograms import embedded_pictograms, tracks_of


@dataclass(frozen=True)
class Row:
    """One stream.

    Attributes:
        track: the ID set.
        ood: the OOD set.
        images: the length of the stream.
        first_batch: the largest difference of a score in the first batch.
        largest: the largest difference of a score in the stream.
        mean: the mean difference.
        overlap: the share of the selected labels that are the same at the end.
        auroc: with float32 and with float16, fractions.
        fpr95: likewise, OOD positive.
    """

    track: str
    ood: str
    images: int
    first_batch: float
    largest: float
    mean: float
    overlap: float
    auroc: tuple[float, float]
    fpr95: tuple[float, float]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the command's options."""
    parser.add_argument("--tracks", metavar="NAMES", default=", ".join(TRACKS), help="some of %(default)s")
    parser.add_argument("--seed", type=int, default=0, help="of order and method (default: 0)")
    parser.add_argument("--batch-size", type=int, default=64, help="images judged at a time (default: 64)")
    add_json_option(parser)


def main(arguments: argparse.Namespace) -> int:
    """Run the command and print its table."""
    tracks = tracks_of(arguments.tracks)
    check_targets(arguments.json)
    backbone, rows, images = embedded_pictograms()
    noise = noise_embeddings(backbone)
    results: list[Row] = []
    for track in tracks:
        chosen = TRACKS[track].select(rows)
        bank = build_bank(backbone, chosen.classes, progress=sys.stderr.isatty())
        for ood, (_, members) in chosen.ood.items():
            results.append(
                _compare(
                    track,
                    ood,
                    bank,
                    images[chosen.images],
                    images[members],
                    noise,
                    arguments.seed,
                    arguments.batch_size,
                )
            )
    print(format_table(results, bank))
    if arguments.json is not None:
        record = {"torch": torch.__version__, "seed": arguments.seed, "batch_size": arguments.batch_size}
        record["rows"] = [asdict(row) for row in results]
        write_json(arguments.json, record)
    return 0


def format_table(results: list[Row], bank: LabelBank) -> str:
    """The rows as text, and what they come to."""
    half = bank.to(dtype=torch.float16)
    lines = [
        f"TANL with labels kept as float32 and as float16: {bank.embeddings.nbytes / 1e6:.0f} and "
        f"{half.embeddings.nbytes / 1e6:.0f} MB of labels",
        f"{'':28}{'images':>8}{'difference of scores':>34}{'same':>10}{'AUROC %':>18}{'FPR95 %':>18}",
        f"{'':36}{'first batch':>14}{'largest':>10}{'mean':>10}{'labels %':>10}{'32':>10}{'16':>8}{'32':>10}{'16':>8}",
    ]
    lines += [
        f"{row.track + ' / ' + row.ood:28}{row.images:8}{row.first_batch:14.1e}{row.largest:10.1e}{row.mean:10.1e}"
        f"{100 * row.overlap:10.1f}"
        + "".join(f"{100 * a:10.2f}{100 * b:8.2f}" for a, b in (row.auroc, row.fpr95))
        for row in results
    ]
    auroc = max(abs(a - b) for a, b in (row.auroc for row in results))
    fpr95 = max(abs(a - b) for a, b in (row.fpr95 for row in results))
    lines.append(
        f"over all {len(results)} streams: mean difference of a score {np.mean([row.mean for row in results]):.1e}, "
        f"largest {max(row.largest for row in results):.1e}; same labels {100 * min(r.overlap for r in results):.1f} % "
        f"at least; AUROC moves by up to {100 * auroc:.2f}, FPR95 by up to {100 * fpr95:.2f} points"
    )
    return "\n".join(lines)


def _compare(
    track: str,
    ood: str,
    bank: LabelBank,
    id_images: Tensor,
    ood_images: Tensor,
    noise: Tensor,
    seed: int,
    batch_size: int,
) -> Row:
    streams, selected = [], []
    for labels in (bank, bank.to(dtype=torch.float16)):
        detector = TANL(labels, seed=seed, initial_ood=noise)
        streams.append(
            run_stream(detector, id_images, ood_images, order="shuffled", seed=seed, batch_size=batch_size)
        )
        selected.append(set(detector.selected))
    full, half = streams
    difference = np.abs(np.concatenate(full) - np.concatenate(half))
    first = stream_order(len(id_images), len(ood_images), "shuffled", seed)[:batch_size].numpy()
    metrics = [_metrics(stream) for stream in streams]
    return Row(
        track,
        ood,
        len(difference),
        float(difference[first].max()),
        float(difference.max()),
        float(difference.mean()),
        len(selected[0] & selected[1]) / len(selected[0]),
        (metrics[0]["AUROC"], metrics[1]["AUROC"]),
        (metrics[0]["FPR95"], metrics[1]["FPR95"]),
    )


def _metrics(scores: StreamScores) -> dict[str, float]:
    measured = OODMetrics()
    measured.update(scores.id, np.zeros(len(scores.id)))
    measured.update(scores.ood, np.full(len(scores.ood), -1))
    return measured.compute()
