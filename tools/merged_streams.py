"""``python -m tools merged-streams``: what a stream costs that several workers share, each with a memory of its own.

Streams of pictograms are dealt out, batch by batch in turn, to so many workers, which merge what they have learnt every
so many batches of their own, as the workers of ``tanl judge --engine ray --mode merged`` do, but in a fixed order: the
batches of a round are judged as if at the same time. One worker is the ordered stream. Beside the metrics: how far
scores are from the ordered ones, and the bytes of the states that a merge sends.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
import torch
from torch import Tensor

from tanl.backbones.noise import noise_embeddings
from tanl.benchmarks.engine.protocol import StreamScores, stream_order
from tanl.benchmarks.output.targets import add_json_option, check_targets, write_json
from tanl.benchmarks.pictograms.tracks import TRACKS
from tanl.detectors import Detector
from tanl.detectors.registry import make_detector
from tanl.integrations.ray.workers import Merger, beginning_of
from tanl.io.arguments import positive_number
from tanl.io.nested import split_tensors
from tanl.labels.bank import LabelBank
from tanl.labels.build import build_bank
from tanl.metrics import OODMetrics

from .embedded_pictograms import embedded_pictograms, tracks_of

NEVER = 0


@dataclass(frozen=True)
class Row:
    """One stream, shared in one way.

    Attributes:
        track: the ID set.
        ood: the OOD set.
        images: the length of the stream.
        seed: of its order.
        workers: how many share it.
        every: batches of its own after which a worker merges; 0 never.
        merges: how many there were.
        auroc: fraction.
        fpr95_id: ID positive, fraction.
        difference: the mean difference of a score from the ordered one.
        state_bytes: of the largest state that a merge sent.
    """

    track: str
    ood: str
    images: int
    seed: int
    workers: int
    every: int
    merges: int
    auroc: float
    fpr95_id: float
    difference: float
    state_bytes: int


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the command's options."""
    parser.add_argument("--tracks", metavar="NAMES", default=", ".join(TRACKS), help="some of %(default)s")
    parser.add_argument("--method", default="tanl", help="default: %(default)s")
    parser.add_argument("--seeds", metavar="N", type=int, nargs="+", default=[0, 1, 2], help="default: 0 1 2")
    parser.add_argument(
        "--workers", metavar="N", type=positive_number, nargs="+", default=[2, 8], help="default: 2 8"
    )
    parser.add_argument(
        "--every",
        metavar="N",
        type=int,
        nargs="+",
        default=[1, 4, 16, NEVER],
        help="batches of a worker from merge to merge; 0 never merges (default: 1 4 16 0)",
    )
    parser.add_argument(
        "--together",
        action="store_true",
        help="all OOD sets of a track in one stream: longer ones, so that a worker merges more often",
    )
    parser.add_argument(
        "--batch-size", metavar="N", type=positive_number, default=32, help="default: %(default)s"
    )
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
        sets = {ood: list(members) for ood, (_, members) in chosen.ood.items()}
        if arguments.together:
            sets = {"all": sorted({row for members in sets.values() for row in members})}
        for ood, members in sets.items():
            parts = (images[chosen.images], images[members])
            for seed in arguments.seeds:
                results += _shared_streams(track, ood, bank, parts, noise, seed, arguments)
    print(format_table(results))
    if arguments.json is not None:
        record = {
            "torch": torch.__version__,
            "batch_size": arguments.batch_size,
            "method": arguments.method,
            "rows": [asdict(row) for row in results],
        }
        write_json(arguments.json, record)
    return 0


def format_table(results: Sequence[Row]) -> str:
    """Means over all streams, a line each way of sharing, and the ordered streams above them."""
    ways = dict.fromkeys((row.workers, row.every) for row in results)
    ordered = [row for row in results if row.workers == 1]
    lines = [
        f"{len(ordered)} streams of {min(r.images for r in ordered)} to {max(r.images for r in ordered)} images; means",
        f"{'workers':>8}{'every':>8}{'merges':>8}{'AUROC %':>10}{'FPR95_ID %':>12}{'worst +':>10}{'|score|':>10}"
        f"{'state kB':>10}",
    ]
    for workers, every in ways:
        here = [row for row in results if (row.workers, row.every) == (workers, every)]
        worst = max(row.fpr95_id - base.fpr95_id for row, base in zip(here, ordered, strict=True))
        lines.append(
            f"{workers:8}{'never' if every == NEVER and workers > 1 else every or '':>8}"
            f"{np.mean([row.merges for row in here]):8.1f}"
            f"{100 * np.mean([row.auroc for row in here]):10.2f}{100 * np.mean([row.fpr95_id for row in here]):12.2f}"
            f"{100 * worst:10.2f}{np.mean([row.difference for row in here]):10.4f}"
            f"{max(row.state_bytes for row in here) / 1e3:10.0f}"
        )
    return "\n".join(lines)


def _shared_streams(
    track: str,
    ood: str,
    bank: LabelBank,
    parts: tuple[Tensor, Tensor],
    noise: Tensor,
    seed: int,
    arguments: argparse.Namespace,
) -> list[Row]:
    num_id = len(parts[0])
    embeddings = torch.cat(parts)
    positions = stream_order(num_id, len(parts[1]), "shuffled", seed)
    batches = [*torch.split(positions, arguments.batch_size)]
    ways = [(1, NEVER), *((workers, every) for workers in arguments.workers for every in arguments.every)]
    rows: list[Row] = []
    ordered: Tensor | None = None
    for workers, every in ways:
        detectors = [
            make_detector(arguments.method, bank, seed=seed, initial_ood=noise) for _ in range(workers)
        ]
        scores, merges, size = _judged(detectors, embeddings, batches, every)
        ordered = scores if ordered is None else ordered
        measured = _metrics(StreamScores(scores[:num_id].numpy(), scores[num_id:].numpy()))
        difference = float((scores - ordered).abs().mean())
        auroc, fpr = measured["AUROC"], measured["FPR95_ID"]
        rows.append(Row(track, ood, len(scores), seed, workers, every, merges, auroc, fpr, difference, size))
    return rows


def _judged(
    detectors: Sequence[Detector], embeddings: Tensor, batches: Sequence[Tensor], every: int
) -> tuple[Tensor, int, int]:
    """Scores ``[N]`` in the embeddings' order, how many merges there were, and the largest state's bytes."""
    merger = Merger(type(detectors[0]), beginning_of(detectors[0]))
    scores = torch.empty(len(embeddings), dtype=torch.float64)
    merges = size = 0
    for number, batch in enumerate(batches):
        detector = detectors[number % len(detectors)]
        own = number // len(detectors)  # batches that it has judged
        if every and own and own % every == 0 and len(detectors) > 1:
            state = detector.state_dict(compact=True)
            size = max(size, sum(tensor.nbytes for tensor in split_tensors(state)[1].values()))
            detector.load_state_dict(merger.merge(state))
            merges += 1
        scores[batch] = detector(embeddings[batch]).double()
    return scores, merges, size


def _metrics(scores: StreamScores) -> dict[str, float]:
    measured = OODMetrics()
    measured.update(scores.id, np.zeros(len(scores.id)))
    measured.update(scores.ood, np.full(len(scores.ood), -1))
    return measured.compute()
