"""``tanl bench masking``: which methods degrade gracefully when parts of every image are missing.

Masked image modelling (MAE, He et al. 2022; CheXmix for chest films) trains on images with most patches masked. Here
nothing is trained: every image of a shipped split is judged with 0 to 90 % of its 16-pixel patches masked, ID and OOD
images alike. One more score is measured beside the methods: *consistency*, one minus the cosine of an image's embedding
with and without the mask.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import torch
from torch import Tensor

from tanl.backbones import load_backbone
from tanl.backbones.noise import noise_embeddings
from tanl.detectors import conjugated_words
from tanl.io.options import BATCH_SIZE, add_options, check_settings, setting, settings_of
from tanl.io.progress import Progress
from tanl.labels.bank import LabelBank
from tanl.labels.build import build_bank
from tanl.metrics import OODMetrics

from .data.masking import Masked
from .engine.methods import DEFAULT, METHODS, Given, find_methods
from .engine.protocol import StreamScores, run_stream
from .engine.shipped import SHIPPED
from .output.targets import add_json_option, check_targets, write_json

CONSISTENCY = "consistency"
MEASURES = ("AUROC", "FPR95_ID")


@dataclass(frozen=True)
class Config:
    """What is measured, with the options of `tanl bench masking`."""

    split: str = setting("pictograms", "which images", choices=tuple(SHIPPED))
    backbone: str = setting("mini", "model to measure with", metavar="NAME")
    tracks: tuple[str, ...] = setting(("travel", "objects", "coarse-10"), "ID sets", metavar="NAMES")
    methods: tuple[str, ...] = setting(
        tuple(name for name in DEFAULT if not METHODS[name].needs_local),
        "methods (default: all that take embeddings)",
        metavar="NAMES",
        gather=find_methods,
    )
    percent: tuple[int, ...] = setting(
        (0, 10, 30, 50, 70, 90), "shares of masked patches", names=("--percent",), metavar="N", at_least=0
    )
    seeds: tuple[int, ...] = setting((0, 1, 2), "of masks and orders", metavar="N", at_least=0)
    batch_size: int = setting(BATCH_SIZE, "images that are judged at a time", metavar="N", at_least=1)

    def __post_init__(self) -> None:
        check_settings(self)
        tracks = SHIPPED[self.split].tracks
        if unknown := [name for name in self.tracks if name not in tracks]:
            raise ValueError(f"{self.split} has no track {unknown[0]!r}; it has {', '.join(tracks)}")
        if over := [each for each in self.percent if each > 100]:
            raise ValueError(f"--percent is {over[0]}; it is at most 100")
        if local := [name for name in self.methods if METHODS[name].needs_local]:
            raise ValueError(
                f"{local[0]} takes embeddings of patches, which are not masked here; leave it out"
            )


@dataclass(frozen=True)
class Cell:
    """One method on one track at one share with one seed: percent of AUROC and FPR95_ID, means over the OOD sets."""

    track: str
    method: str
    percent: int
    seed: int
    AUROC: float
    FPR95_ID: float


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the command's options."""
    add_options(parser, Config)
    add_json_option(parser)


def main(arguments: argparse.Namespace) -> int:
    """Run the command and print its tables."""
    config = settings_of(arguments, Config())
    check_targets(arguments.json)
    cells = measure(config, progress=True)
    print(
        f"{config.split}: {', '.join(config.tracks)}; {config.backbone}; seeds {' '.join(map(str, config.seeds))}; "
        f"batches of {config.batch_size}; percent"
    )
    print(format_tables(cells))
    if arguments.json is not None:
        write_json(
            arguments.json,
            {"torch": torch.__version__, **vars(config), "cells": [vars(cell) for cell in cells]},
        )
    return 0


def measure(config: Config, *, progress: bool = False) -> list[Cell]:
    """Judge every track at every share with every method."""
    backbone = load_backbone(config.backbone)
    noise = noise_embeddings(backbone)
    split = SHIPPED[config.split]
    rows = split.read(split.folder)
    cells = []
    whole = split.embeddings(backbone, rows, folder=split.folder, progress=progress)
    banks: dict[tuple[str, str | None], LabelBank] = {}
    plans = [(percent, seed) for percent in config.percent for seed in config.seeds]
    with Progress(len(plans), "masks", quiet=not progress) as bar:
        for percent, seed in plans:
            masked = Masked(backbone, percent / 100, seed=seed)
            seen = split.embeddings(masked, rows, folder=split.folder, progress=progress)
            for track in config.tracks:
                chosen = split.tracks[track].select(rows)
                inside = list(chosen.images)
                outside = [list(members) for _, members in chosen.ood.values()]
                for name in config.methods:
                    kind = METHODS[name].corpus
                    if (track, kind) not in banks:
                        corpus: Any = {
                            None: None,
                            "user": "wordnet",
                            "csp": conjugated_words() if kind == "csp" else None,
                        }[kind]
                        banks[track, kind] = build_bank(
                            backbone, chosen.classes, corpus=corpus, progress=progress
                        )
                    given = Given(banks[track, kind], noise, seed, backbone.encode_texts)
                    detector = METHODS[name].make(given)
                    scores = [
                        run_stream(
                            detector,
                            seen[inside],
                            seen[each],
                            order="shuffled",
                            seed=seed,
                            batch_size=config.batch_size,
                        )
                        for each in outside
                    ]
                    cells.append(_cell(track, name, percent, seed, scores))
                if percent:
                    away = 1 - (whole * seen).sum(dim=1)
                    alone = [_split(away, inside, each) for each in outside]
                    cells.append(_cell(track, CONSISTENCY, percent, seed, alone))
            bar.update()
    return cells


def format_tables(cells: Sequence[Cell]) -> str:
    """A table for each measure: a line for each method, a column for each share, means over tracks and seeds."""
    shares = sorted({cell.percent for cell in cells})
    lines = []
    for measure_ in MEASURES:
        lines += ["", f"{measure_:24}" + "".join(f"{f'{share} %':>9}" for share in shares)]
        for method in dict.fromkeys(cell.method for cell in cells):
            found = {
                share: [
                    getattr(cell, measure_)
                    for cell in cells
                    if (cell.method, cell.percent) == (method, share)
                ]
                for share in shares
            }
            lines.append(
                f"{method:24}"
                + "".join(f"{fmean(each):9.1f}" if each else f"{'-':>9}" for each in found.values())
            )
    return "\n".join(lines)


def _split(scores: Tensor, inside: Sequence[int], outside: Sequence[int]) -> StreamScores:
    values = scores.double().cpu().numpy()
    return StreamScores(values[list(inside)], values[list(outside)])


def _cell(track: str, method: str, percent: int, seed: int, streams: Sequence[StreamScores]) -> Cell:
    found: dict[str, list[float]] = {name: [] for name in MEASURES}
    for scores in streams:
        metrics = OODMetrics()
        metrics.update(scores.id, torch.zeros(len(scores.id), dtype=torch.int64, device="cpu"))
        metrics.update(scores.ood, torch.full((len(scores.ood),), -1, dtype=torch.int64, device="cpu"))
        computed = metrics.compute()
        for name in MEASURES:
            found[name].append(100 * float(computed[name]))
    return Cell(track, method, percent, seed, **{name: fmean(values) for name, values in found.items()})
