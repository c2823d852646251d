"""What is measured of one number of labels with one method: in a process of its own, so that its memory is its own."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import resource
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tanl.backbones.noise import noise_embeddings
from tanl.benchmarks.engine.protocol import StreamScores, run_stream
from tanl.benchmarks.pictograms.tracks import TRACKS
from tanl.detectors.shortlist import ShortlistActivation
from tanl.detectors.tanl import TANL
from tanl.io.atomic import write_whole
from tanl.labels.bank import LabelBank
from tanl.labels.corpus import Corpus
from tanl.labels.index import LabelIndex
from tanl.labels.prompts import TEMPLATES
from tanl.metrics import OODMetrics

from ..embedded_pictograms import embedded_pictograms
from .exact import ExactOver, OverIndex
from .store import PAIR, beginning, make_index

IN_MEMORY = 200_000  # up to so many labels the exact method is the library's own


@dataclass(frozen=True)
class Settings:
    """Of the short list.

    Attributes:
        representatives: as `ShortlistActivation` takes it.
        candidates: the same.
        size: the same.
        probe: share of the index's lists that are read.
    """

    representatives: int
    candidates: int
    size: int
    probe: float


@dataclass(frozen=True)
class Job:
    """What a process does.

    Attributes:
        folder: of the labels.
        store: the file of all labels.
        labels: how many of them, from the beginning.
        streams: ID set and OOD set of each stream.
        settings: of the short list, one after the other; None is exact.
        batch: images of a batch.
        seed: of the streams' order.
    """

    folder: Path
    store: Path
    labels: int
    streams: tuple[tuple[str, str], ...]
    settings: tuple[Settings | None, ...]
    batch: int
    seed: int


@dataclass(frozen=True)
class Stream:
    """One stream's outcome.

    Attributes:
        track: the ID set.
        ood: the OOD set.
        auroc: a fraction.
        fpr95_id: a fraction, ID positive.
        negatives: labels that were left for this ID set.
        selected: names of the selected labels after each batch.
        seconds: of each full batch.
    """

    track: str
    ood: str
    auroc: float
    fpr95_id: float
    negatives: int
    selected: list[list[str]]
    seconds: list[float]


@dataclass(frozen=True)
class Outcome:
    """Of a job, with one of its settings.

    Attributes:
        streams: in the job's order.
        build: seconds that the index took to build; None where it was there.
        index_bytes: of the index, in memory beside labels and names.
        peak: bytes of memory at most, pages of the mapped file among them.
        own: bytes of memory at the end that are not of a file.
    """

    streams: list[Stream]
    build: float | None
    index_bytes: int
    peak: int
    own: int


def run_job(job: Job, *, anew: bool = False) -> list[Outcome]:
    """Carry a job out in a new process, unless what it gave is kept in its folder; ``anew``: then too."""
    told = f"{job.labels} {job.streams} {job.settings} {job.batch} {job.seed}"
    path = job.folder / "outcomes" / f"{hashlib.sha256(told.encode()).hexdigest()[:16]}.json"
    if path.exists() and not anew:
        return [_outcome(each) for each in json.loads(path.read_text(encoding="utf-8"))]
    found = _carried_out(job)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, json.dumps([asdict(each) for each in found]).encode())
    return found


def _outcome(kept: dict[str, Any]) -> Outcome:
    return Outcome(**{**kept, "streams": [Stream(**each) for each in kept["streams"]]})


def _carried_out(job: Job) -> list[Outcome]:
    # Not a Pool, which waits for ever for a process that died.
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(_measured, job).result()


def own_memory() -> int:
    """Bytes of this process that are not of a file; 0 where the system does not tell."""
    try:
        lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    except OSError:
        return 0
    return 1024 * sum(int(line.split()[1]) for line in lines if line.startswith("RssAnon"))


class _Watched:
    """A detector, the time of its batches and what it selected after each."""

    def __init__(self, detector: TANL, batch: int) -> None:
        self.detector, self._batch = detector, batch
        self.selected: list[list[str]] = []
        self.seconds: list[float] = []

    def reset(self) -> None:
        self.detector.reset()

    def __call__(self, z: Tensor) -> Tensor:
        started = time.perf_counter()
        scores = self.detector(z)
        if len(z) == self._batch:
            self.seconds.append(time.perf_counter() - started)
        self.selected.append(list(self.detector.negatives()[0]))
        return scores


def _measured(job: Job) -> list[Outcome]:
    torch.set_num_threads(1)
    backbone, rows, images = embedded_pictograms(progress=False)
    noise = noise_embeddings(backbone)
    bank = beginning(job.store, job.labels)
    index, build = None, None
    if job.settings != (None,) or job.labels > IN_MEMORY:
        index, build = make_index(job.folder, bank)
    found: list[list[Stream]] = [[] for _ in job.settings]
    for track in dict.fromkeys(track for track, _ in job.streams):
        selection = TRACKS[track].select(rows)
        ids = LabelBank(
            selection.classes,
            backbone.encode_texts([TEMPLATES["noun"].replace("{}", name) for name in selection.classes]),
            num_id=len(selection.classes),
            logit_scale=backbone.logit_scale,
        )
        gone = naming(bank.negative_names, tuple(selection.classes))
        less = None if index is None else index.without(gone)
        for settings, streams in zip(job.settings, found, strict=True):
            if settings is not None:
                assert less is not None, "a short list has an index"
                detector = _short(ids, less, noise, settings)
            elif job.labels > IN_MEMORY:
                assert less is not None, "so many labels have an index"
                detector = TANL(OverIndex(ids, less), activation=ExactOver(ids, less), initial_ood=noise)
            else:
                detector = TANL(_in_memory(ids, bank, set(gone)), initial_ood=noise)
            for ood in (ood for own, ood in job.streams if own == track):
                watched = _Watched(detector, job.batch)
                scores = run_stream(
                    watched,  # type: ignore[arg-type]
                    images[selection.images],
                    images[selection.ood[ood][1]],
                    order="shuffled",
                    seed=job.seed,
                    batch_size=job.batch,
                )
                left = bank.num_negatives - len(gone)
                streams.append(_stream(track, ood, scores, left, watched))
    peak = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    overhead, own = 0 if index is None else index.overhead, own_memory()
    return [Outcome(streams, build, overhead, peak, own) for streams in found]


def _short(ids: LabelBank, index: LabelIndex, noise: Tensor, settings: Settings) -> TANL:
    index.probe = settings.probe
    whole = ShortlistActivation(
        ids,
        index,
        representatives=settings.representatives,
        candidates=settings.candidates,
        size=settings.size,
    )
    return TANL(ids, activation=whole, initial_ood=noise)


def _in_memory(ids: LabelBank, bank: LabelBank, gone: set[str]) -> LabelBank:
    """The library's own way with few labels: a float32 bank without those that name ID labels."""
    kept = [row for row, name in enumerate(bank.negative_names) if name not in gone]
    return LabelBank(
        [*ids.names, *(bank.negative_names[row] for row in kept)],
        torch.cat([ids.embeddings, bank.negative_embeddings[kept].float()]),
        num_id=ids.num_id,
        logit_scale=ids.logit_scale,
    )


def _stream(track: str, ood: str, scores: StreamScores, left: int, watched: _Watched) -> Stream:
    metrics = OODMetrics()
    metrics.update(scores.id, np.zeros(len(scores.id)))
    metrics.update(scores.ood, np.full(len(scores.ood), -1))
    values = metrics.compute()
    auroc, fpr95_id = float(values["AUROC"]), float(values["FPR95_ID"])
    return Stream(track, ood, auroc, fpr95_id, left, watched.selected, watched.seconds)


def naming(names: tuple[str, ...], id_names: tuple[str, ...]) -> list[str]:
    """Labels that name one of the ID labels: a word of WordNet, or a pair either of whose words does, or all of it."""
    corpus = Corpus.load("wordnet")
    words = set(corpus.words_for(id_names))
    alike = {word.casefold() for word in words}
    gone = []
    for row, name in enumerate(names):
        plain = name.removesuffix(PAIR)
        if name in words if row < len(corpus) else plain in alike or not alike.isdisjoint(plain.split(" ")):
            gone.append(name)
    return gone
