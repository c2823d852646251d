"""Measure methods on a split, stream by stream, into a run's folder; what is there already is not measured again."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import time
from collections.abc import Callable, Iterator
from os import PathLike
from pathlib import Path
from typing import Any, cast

import numpy as np
import PIL
import torch
from torch import Tensor

import tanl
from tanl import kernels
from tanl.backbones import Backbone, load_backbone
from tanl.backbones.clip import ClipBackbone
from tanl.backbones.local_features import encode_images_local
from tanl.backbones.noise import noise_embeddings, noise_images
from tanl.detectors import Detector
from tanl.detectors.csp import conjugated_words
from tanl.io.images import UnreadableImage
from tanl.io.progress import Progress
from tanl.labels.bank import LabelBank
from tanl.labels.build import build_bank
from tanl.labels.corpus import Corpus
from tanl.metrics import METRICS, OODMetrics

from ..data.preprocessing import prepared
from ..pictograms.extreme import EXTREME_IMAGES
from .kept_activations import KeptActivations
from .methods import METHODS, CorpusKind, Given, Method
from .protocol import Order, run_stream, stream_order
from .run_folder import ANY_ORDER, Cell, CellScores, Key, RunFolder
from .tasks import Config, Gathering, Part, Task

ACTIVATED = 30
"""How many of the labels that a stream activated most are kept."""

_LOCAL_BATCH = 64  # images whose patches are held at a time


def run(
    config: Config,
    out: str | PathLike[str],
    *,
    backbone: Backbone | None = None,
    device: str = "cpu",
    data_root: Path | None = None,
    download: bool = False,
    workers: int | None = None,
    cache_dir: Path | None = None,
    folder: Path | None = None,
    extreme_images: int = EXTREME_IMAGES,
    keep: int = 0,
    progress: bool = False,
    say: Callable[[str], None] = lambda message: None,
    command: str = "",
) -> RunFolder:
    """Measure what a configuration asks for and is not in the folder yet.

    A method without state is measured once, whatever the seeds and orders. One with a state is reset before each
    stream and sees the ID images anew in every one of them; its seed is the stream's. In a split whose OOD sets share
    one stream, the state is kept from each set to the next.

    Args:
        config: what to run.
        out: the run's folder; one that is there is continued.
        backbone: used in place of the one that ``config`` names.
        device: where the backbone runs.
        data_root: where the images of splits are (`tanl.benchmarks.data.sources.data_root`).
        download: fetch what is missing of the split.
        workers: threads that read images.
        cache_dir: where embeddings are kept; None is the user's cache folder.
        folder: where the images of a split that ships with tanl are; None is where they came.
        extreme_images: how many images each generated set of such a split has.
        keep: bytes for the activations of an ID set's images, which TANL then computes once for all orders, seeds and
            settings (`KeptActivations`); its scores stay the same up to rounding.
        progress: show progress bars.
        say: is told what a person should know: sets of another size, unreadable images, methods left out.
        command: how to run it again; kept with the results.

    Raises:
        ValueError: an unusable configuration, or a folder that holds a run of another one.
        FileNotFoundError: a set of images is not there.
        tanl.BackboneError: the backbone's weights cannot be fetched.
    """
    started = time.perf_counter()
    RunFolder.check(out, config.record())
    corpus = Corpus.load(config.corpus)
    if backbone is None:
        backbone = load_backbone(config.backbone, device=device)
    left_out = _left_out(config, backbone)
    for name, reason in left_out.items():
        say(f"{name} is left out: {reason}")
    methods = [METHODS[name] for name in config.methods if name not in left_out]
    if not methods:
        raise ValueError("no method is left to measure")
    gathering = Gathering(
        prepared(backbone, config.preprocessing),
        data_root,
        folder,
        extreme_images,
        cache_dir,
        download,
        workers,
        progress,
        say,
    )
    tasks = gathering.tasks(config)
    result = RunFolder.create(
        out,
        {**config.record(), "methods": [method.name for method in methods]},
        environment(gathering.backbone, corpus, tasks),
        [part.entry(task.track) for task in tasks for part in (*task.id, *task.ood)],
        images={
            (task.track, part.name): part.paths
            for task in tasks
            for part in (*task.id, *task.ood)
            if part.paths is not None
        },
        command=command,
    )
    result.note(left_out=left_out)
    damaged = result.forget_damaged()
    if damaged:
        say(f"{damaged} damaged cells are measured again")
    there = {cell.key for cell in result.cells()}
    wanted = [key for task in tasks for method in methods for key in _keys(task, method, config)]
    done = sum(key in there for key in wanted)
    if done:
        say(f"{done} of {len(wanted)} cells were there already")
    with Progress(len(wanted), "cells", done=done, quiet=not progress) as bar:
        measuring = Measuring(config, result, backbone, corpus, gathering, there, bar, keep=keep)
        try:
            for task in tasks:
                measuring.task(task, methods)
        finally:
            result.note(seconds=time.perf_counter() - started)
    return result


class Measuring:
    """Fills a run's folder, task by task."""

    def __init__(
        self,
        config: Config,
        result: RunFolder,
        backbone: Backbone,
        corpus: Corpus,
        gathering: Gathering,
        there: set[Key],
        bar: Progress,
        *,
        keep: int = 0,
    ) -> None:
        self._config = config
        self._result = result
        self._backbone = backbone
        self._corpora: dict[CorpusKind | None, Corpus | None] = {None: None, "user": corpus}
        self._gathering = gathering
        self._there = there
        self._bar = bar
        self._noise = noise_embeddings(backbone)
        self._keep_bytes = keep
        self._kept: dict[tuple[CorpusKind | None, int | None], KeptActivations] = {}

    def task(self, task: Task, methods: list[Method]) -> None:
        """Measure what is missing of one task."""
        banks: dict[CorpusKind | None, LabelBank] = {}
        self._kept.clear()
        for method in methods:
            if all(key in self._there for key in _keys(task, method, self._config)):
                continue
            if method.corpus not in banks:
                banks[method.corpus] = self._bank(task, method.corpus)
            bank = banks[method.corpus]
            self._bar.entitle(f"{task.track} {method.name}".strip())
            if method.streaming:
                self._streams(task, method, bank)
            else:
                self._stateless(task, method, bank)

    def _bank(self, task: Task, kind: CorpusKind | None) -> LabelBank:
        if kind == "csp" and kind not in self._corpora:
            self._corpora[kind] = conjugated_words()
        return build_bank(
            self._backbone,
            task.classes,
            corpus=self._corpora[kind],
            removal=self._config.removal,
            cache_dir=self._gathering.cache_dir,
            progress=self._gathering.progress,
        )

    def _given(self, task: Task, method: Method, bank: LabelBank, seed: int) -> Given:
        """What a method's detector is made from."""

        def kept(candidates: int | None) -> KeptActivations:
            if candidates is not None and candidates >= bank.num_negatives:
                candidates = None  # TANL then takes the bank as it is
            key = method.corpus, candidates
            if key not in self._kept:
                labels = bank if candidates is None else bank.mined(candidates)
                self._kept[key] = KeptActivations(labels, limit=self._keep_bytes)
            return self._kept[key]

        return Given(
            bank,
            self._noise,
            seed,
            self._backbone.encode_texts,
            kept if self._keep_bytes else None,
            task.shots,
            task.shot_labels,
        )

    def _streams(self, task: Task, method: Method, bank: LabelBank) -> None:
        """Every stream of a method with a state; one detector serves all of a seed."""
        config = self._config
        ids = torch.cat([part.embeddings for part in task.id])
        for seed in config.seeds:
            detector: Detector | None = None
            for order in config.orders:
                for chain in task.chains():
                    keys = [Key(task.track, method.name, part.name, order, seed) for part in chain]
                    if all(key in self._there for key in keys):
                        continue
                    if detector is None:
                        detector = method.make(self._given(task, method, bank, seed))
                    # A chain that is there in part is run again from its start, for the state that it leads to.
                    for number, (key, part) in enumerate(zip(keys, chain, strict=True)):
                        num_id, num_ood = task.counts(part)
                        started = time.perf_counter()
                        scores = run_stream(
                            detector,
                            ids[:num_id],
                            part.embeddings[:num_ood],
                            order=cast(Order, order),
                            seed=seed,
                            batch_size=config.batch_size,
                            reset=number == 0,
                        )
                        seconds = time.perf_counter() - started
                        positions = stream_order(num_id, num_ood, cast(Order, order), seed).numpy()
                        values = CellScores(
                            scores.id.astype(np.float32),
                            scores.ood.astype(np.float32),
                            positions.astype(np.int32),
                        )
                        self._keep(key, part.role, values, seconds, detector)

    def _stateless(self, task: Task, method: Method, bank: LabelBank) -> None:
        """One cell an OOD set: scores that depend on no other image are computed once, the ID images' too."""
        detector = method.make(self._given(task, method, bank, 0))
        started = time.perf_counter()
        id_scores = np.concatenate([self._scores(detector, part) for part in task.id])
        id_seconds = time.perf_counter() - started
        for part in task.ood:
            key = Key(task.track, method.name, part.name, ANY_ORDER, None)
            if key in self._there:
                continue
            num_id, num_ood = task.counts(part)
            started = time.perf_counter()
            values = CellScores(
                id_scores[:num_id],
                self._scores(detector, part)[:num_ood],
                np.arange(num_id + num_ood, dtype=np.int32),
            )
            seconds = id_seconds * num_id / len(id_scores) + (time.perf_counter() - started) * num_ood / len(
                part.images
            )
            self._keep(key, part.role, values, seconds, detector)

    def _scores(self, detector: Detector, part: Part) -> np.ndarray[Any, np.dtype[np.float32]]:
        batches = (
            self._local_scores(detector, part)
            if detector.needs_local
            else map(detector, torch.split(part.embeddings, self._config.batch_size))
        )
        return torch.cat([batch.float().cpu() for batch in batches]).numpy()

    def _local_scores(self, detector: Callable[..., Tensor], part: Part) -> Iterator[Tensor]:
        """Scores with patches, from the images: hundreds of embeddings each are too many to keep."""
        backbone = cast(ClipBackbone, self._backbone)
        images = part.images.images(self._gathering.backbone.preprocess, workers=self._gathering.workers)
        waiting: list[Tensor] = []
        title, quiet = f"patches of {part.name}", not self._gathering.progress
        with Progress(len(part.images), "images", title=title, quiet=quiet) as bar:
            for index, pixels in images:
                if isinstance(pixels, UnreadableImage):
                    raise pixels
                waiting.append(pixels)
                if len(waiting) == _LOCAL_BATCH or index == len(part.images) - 1:
                    z, local = encode_images_local(backbone, torch.stack(waiting).to(backbone.device))
                    yield detector(z, local=local)
                    waiting.clear()
                bar.update()

    def _keep(self, key: Key, role: str, scores: CellScores, seconds: float, detector: Detector) -> None:
        if key in self._there:
            return
        measured = OODMetrics()
        measured.update(scores.id, np.zeros(len(scores.id)))
        measured.update(scores.ood, np.full(len(scores.ood), -1))
        metrics = measured.compute()
        cell = Cell(
            **key._asdict(),
            role=role,
            batch_size=self._config.batch_size,
            num_id=len(scores.id),
            num_ood=len(scores.ood),
            metrics={name: metrics[name] for name in METRICS},
            seconds=seconds,
            activated=tuple(detector.activated(ACTIVATED)),
            threshold=detector.threshold,
        )
        self._result.write(cell, scores)
        self._there.add(key)
        self._bar.update()


def _keys(task: Task, method: Method, config: Config) -> list[Key]:
    """The cells of a method on a task."""
    streams: list[tuple[str, int | None]] = [(ANY_ORDER, None)]
    if method.streaming:
        streams = [(order, seed) for seed in config.seeds for order in config.orders]
    return [
        Key(task.track, method.name, part.name, order, seed) for order, seed in streams for part in task.ood
    ]


def _left_out(config: Config, backbone: Backbone) -> dict[str, str]:
    """The methods that the backbone cannot serve, or that lack what they need, with the reason."""
    reason = "it chooses by ID images that are set aside: give --shots"
    lacking = {name: reason for name in config.methods if METHODS[name].needs_id_images and not config.shots}
    wanted = [name for name in config.methods if METHODS[name].needs_local]
    if not wanted:
        return lacking
    try:
        pixels = noise_images(backbone.image_size, per_kind=1)[:1].to(backbone.device)
        encode_images_local(cast(ClipBackbone, backbone), pixels)
    except TypeError as error:
        return lacking | dict.fromkeys(wanted, str(error))
    return lacking


def environment(backbone: Backbone, corpus: Corpus, tasks: list[Task]) -> dict[str, str]:
    classes = json.dumps([[task.track, task.classes] for task in tasks])
    return {
        "tanl": tanl.__version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "numpy": np.__version__,
        "pillow": PIL.__version__,
        "machine": platform.machine(),
        "threads": str(torch.get_num_threads()),
        "device": str(backbone.device),
        "backbone": backbone.name,
        "backbone_fingerprint": backbone.fingerprint,
        "corpus": f"{corpus.name} ({len(corpus)} words)",
        "corpus_fingerprint": corpus.fingerprint,
        "classes_fingerprint": hashlib.sha256(classes.encode()).hexdigest(),
        "kernels": _kernels(backbone.device),
    }


def _kernels(device: torch.device) -> str:
    """The backend that serves the run's tensors."""
    wanted = os.environ.get("TANL_KERNELS", "auto")
    if wanted != "auto":
        return wanted
    served = kernels.available(device)
    best = "native" if device.type == "cpu" else "triton"
    return best if best in served else "reference"
