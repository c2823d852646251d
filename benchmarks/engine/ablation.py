"""The measuring of an ablation, point by point: TANL with one setting or condition changed at a time.

An ablation's folder holds runs (`tanl.benchmarks.engine.run_folder`): ``baseline``, with the paper's settings and
each change of a setting as a method of its own, and one for each other condition, such as ``corpus-csp``. What is
there is not measured again.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from tanl.backbones import Backbone, load_backbone
from tanl.detectors import TANL
from tanl.io.progress import Progress
from tanl.labels.bank import LabelBank
from tanl.labels.build import build_bank
from tanl.labels.corpus import Corpus

from ..data.preprocessing import prepared
from .ablation_plan import ADJECTIVES, ALL, DEFAULT, DIMENSIONS, OWN, PAPER, Plan, Point
from .methods import CorpusKind, Maker, Method
from .run_folder import Key, RunFolder
from .runner import Measuring, environment
from .tasks import Config, Gathering, Part, Task

_SAMPLE_SEED = 0

Banks = dict[tuple[str, CorpusKind | None], LabelBank]


def ablate(
    plan: Plan,
    out: Path,
    *,
    device: str = "cpu",
    data_root: Path | None = None,
    workers: int | None = None,
    cache_dir: Path | None = None,
    folder: Path | None = None,
    progress: bool = False,
    say: Callable[[str], None] = lambda message: None,
    command: str = "",
) -> None:
    """Measure every point of a plan that is not there yet.

    Args:
        plan: what to measure.
        out: the folder; points that are there are kept, and others added to them.
        device: where the backbones run.
        data_root: where the images of splits are.
        workers: threads that read images.
        cache_dir: where embeddings are kept; None is the user's cache folder.
        folder: where the images of a split that ships with tanl are; None is where they came.
        progress: show progress bars.
        say: is told what a person should know.
        command: how to run it again; kept with the results.

    Raises:
        ValueError: an unknown corpus or backbone, or a folder that holds an ablation of another configuration.
        FileNotFoundError: a corpus file or a set of images is not there.
        tanl.BackboneError: a backbone's weights cannot be fetched.
    """
    if out.exists() and not out.is_dir():
        raise ValueError(f"{out} is a file; give a folder for the ablation")
    runs: dict[str, list[Point]] = {}
    for point in plan.points():
        runs.setdefault(point.run, []).append(point)
    conditions = [_Condition.of(plan, name, points) for name, points in runs.items()]
    corpora = {name: load_corpus(name) for name in dict.fromkeys(part.config.corpus for part in conditions)}
    for condition in conditions:
        RunFolder.check(out / condition.name, condition.record())
    # All are loaded before the first is measured with, for a wrong name to be told at once.
    names = dict.fromkeys(part.config.backbone for part in conditions)
    backbones = {name: load_backbone(name, device=device) for name in names}
    # Conditions that share their labels' embeddings come one after another, and those of a backbone do too.
    places = list(dict.fromkeys(part.labels for part in conditions))
    conditions.sort(key=lambda part: places.index(part.labels))

    bar: Progress | None = None
    tasks: dict[str, list[Task]] = {}
    banks: dict[tuple[str, str, str], Banks] = {}
    try:
        for condition in conditions:
            name = condition.config.backbone
            given = prepared(backbones[name], condition.config.preprocessing)
            gathering = Gathering(given, data_root, folder, 0, cache_dir, False, workers, progress, say)
            if name not in tasks:
                tasks = {name: gathering.tasks(condition.config)}
            if bar is None:
                bar = _bar(conditions, tasks[name], out, progress, say)
            if condition.labels not in banks:
                banks = {condition.labels: {}}  # those of the condition before are no longer needed
            _measure(
                condition,
                out / condition.name,
                tasks[name],
                backbones[name],
                corpora[condition.config.corpus],
                gathering,
                bar,
                banks[condition.labels],
                command,
            )
    finally:
        if bar is not None:
            bar.close()


def load_corpus(name: str) -> Corpus:
    """As `tanl.Corpus.load`, and `ADJECTIVES`: those of WordNet that are not nouns too."""
    if name != ADJECTIVES:
        return Corpus.load(name)
    whole = Corpus.load("wordnet")
    pairs = zip(whole.words, whole.parts_of_speech, strict=True)
    words = tuple(word for word, part in pairs if part == "adj")
    return Corpus(words, ("adj",) * len(words), ADJECTIVES)


def with_share(num_id: int, num_ood: int, share: float) -> tuple[int, int]:
    """The most ID and OOD images of which this share is OOD, one of either at least."""
    if num_ood * (1 - share) >= num_id * share:
        return num_id, max(1, round(num_id * share / (1 - share)))
    return max(1, round(num_ood * (1 - share) / share)), num_ood


def with_total(num_id: int, num_ood: int, total: int) -> tuple[int, int]:
    """So many ID and OOD images together, in the same proportion, one of either at least; all where they are fewer."""
    if total >= num_id + num_ood:
        return num_id, num_ood
    wanted = min(max(1, round(total * num_id / (num_id + num_ood))), total - 1)
    return wanted, total - wanted


@dataclass(frozen=True)
class _Drawn(Task):
    """A task whose streams take a part of its images: the first, which a fixed seed has put into random order."""

    share: float | None = None
    total: int | None = None

    @classmethod
    def of(cls, task: Task, share: float | None, total: int | None) -> _Drawn:
        return cls(
            task.track,
            task.classes,
            tuple(map(_shuffled, task.id)),
            tuple(map(_shuffled, task.ood)),
            task.one_stream,
            share=share,
            total=total,
        )

    def counts(self, ood: Part) -> tuple[int, int]:
        """See `Task.counts`."""
        own = super().counts(ood)
        if self.share is not None:
            return with_share(*own, self.share)
        return own if self.total is None else with_total(*own, self.total)


def _shuffled(part: Part) -> Part:
    generator = torch.Generator().manual_seed(_SAMPLE_SEED)
    order = torch.randperm(part.originals, generator=generator).tolist()
    return replace(
        part,
        images=part.images.subset(order),
        embeddings=part.embeddings[order],
        paths=None if part.paths is None else tuple(part.paths[index] for index in order),
    )


@dataclass(frozen=True)
class _Condition:
    """The points of one run's folder.

    Attributes:
        name: the folder's.
        points: in it.
        config: as `tanl.benchmarks.engine.runner.run` would take it, but for the methods.
        template: of prompts, or "default".
        share: of OOD images in a stream; None for that of the sets.
        total: images in a stream; None for all.
    """

    name: str
    points: tuple[Point, ...]
    config: Config
    template: str
    share: float | None
    total: int | None

    @classmethod
    def of(cls, plan: Plan, name: str, points: Sequence[Point]) -> _Condition:
        values = {dimension: plan.baseline(dimension) for dimension in DIMENSIONS}
        if not points[0].is_setting:
            values[points[0].dimension] = points[0].value
        config = replace(
            plan.config,
            methods=(PAPER.name,),
            corpus=values["corpus"],
            backbone=values["backbones"],
            orders=(values["order"],),
        )
        share = None if values["ratio"] == OWN else float(values["ratio"])
        total = None if values["samples"] == ALL else int(values["samples"])
        return cls(name, tuple(points), config, values["templates"], share, total)

    @property
    def labels(self) -> tuple[str, str, str]:
        """What tells its labels' embeddings from others."""
        return self.config.backbone, self.config.corpus, self.template

    def methods(self) -> list[Method]:
        return [
            replace(PAPER, name=point.method, make=_maker(point)) if point.dimension else PAPER
            for point in self.points
        ]

    def record(self) -> dict[str, Any]:
        return {
            **self.config.record(),
            "methods": [point.method for point in self.points],
            "template": self.template,
            "ood_share": self.share,
            "samples": self.total,
            "sample_seed": _SAMPLE_SEED if self.share or self.total else None,
        }

    def tasks(self, tasks: list[Task]) -> list[Task]:
        if self.share is None and self.total is None:
            return tasks
        return [_Drawn.of(task, self.share, self.total) for task in tasks]

    def keys(self, tasks: list[Task]) -> set[Key]:
        return {
            Key(task.track, point.method, part.name, self.config.orders[0], seed)
            for task in tasks
            for point in self.points
            for part in task.ood
            for seed in self.config.seeds
        }


def _maker(point: Point) -> Maker:
    settings = TANL.preset("paper")
    setting = DIMENSIONS[point.dimension].setting
    if setting is not None:
        settings[setting] = type(settings[setting])(point.value)
    return lambda given: TANL(given.bank, **settings, seed=given.seed, initial_ood=given.noise)


class _WithTemplate(Measuring):
    """Fills a run's folder with labels in another template, or with those of the run before."""

    def __init__(self, *given: Any, template: str, banks: Banks) -> None:
        super().__init__(*given)
        self._templates = None if template == DEFAULT else {"noun": template, "adj": template}
        self._banks = banks

    def _bank(self, task: Task, kind: CorpusKind | None) -> LabelBank:
        if (task.track, kind) not in self._banks:
            self._banks[task.track, kind] = build_bank(
                self._backbone,
                task.classes,
                corpus=self._corpora[kind],
                templates=self._templates,
                removal=self._config.removal,
                cache_dir=self._gathering.cache_dir,
                progress=self._gathering.progress,
            )
        return self._banks[task.track, kind]


def _bar(
    conditions: Sequence[_Condition],
    tasks: list[Task],
    out: Path,
    progress: bool,
    say: Callable[[str], None],
) -> Progress:
    total = done = 0
    for condition in conditions:
        wanted = condition.keys(tasks)
        total += len(wanted)
        if RunFolder.is_in(out / condition.name):
            done += len(wanted & {cell.key for cell in RunFolder.open(out / condition.name).cells()})
    if done:
        say(f"{done} of {total} cells were there already")
    return Progress(total, "cells", done=done, quiet=not progress)


def _measure(
    condition: _Condition,
    path: Path,
    whole: list[Task],
    backbone: Backbone,
    corpus: Corpus,
    gathering: Gathering,
    bar: Progress,
    banks: Banks,
    command: str,
) -> None:
    """Measure what is missing of one condition."""
    started = time.perf_counter()
    tasks = condition.tasks(whole)
    parts = [(task.track, part) for task in tasks for part in (*task.id, *task.ood)]
    result = RunFolder.create(
        path,
        condition.record(),
        environment(gathering.backbone, corpus, tasks),
        [part.entry(track) for track, part in parts],
        images={(track, part.name): part.paths for track, part in parts if part.paths is not None},
        command=command,
    )
    result.forget_damaged()
    there = {cell.key for cell in result.cells()}
    if condition.keys(tasks) <= there:
        return
    measuring = _WithTemplate(
        condition.config,
        result,
        backbone,
        corpus,
        gathering,
        there,
        bar,
        template=condition.template,
        banks=banks,
    )
    try:
        for task in tasks:
            measuring.task(task, condition.methods())
    finally:
        result.note(seconds=time.perf_counter() - started)
