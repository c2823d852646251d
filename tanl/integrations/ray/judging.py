"""The driver of a run on Ray: what is to be done, in which order, and what is done already."""

from __future__ import annotations

import json
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ...checks import whole_number
from ...detectors import Detector
from ...detectors.base import Evidence
from ...detectors.verdict import Verdict
from ...io.options import BATCH_SIZE
from ...io.shards import Shards, open_shards
from ...io.stores import open_store
from ...labels.not_shown import hidden_in
from ...streams.batches import Ready, Unusable
from ...streams.partitions import Partitions, Position
from ...streams.pump import Pump, judged
from ...streams.results import Result
from .attempts import Attempts
from .cluster import plain_errors, session
from .embedding import BackboneMaker, NamedBackbone, Work
from .settings import RaySettings
from .workers import EmbeddingWorker, JudgingWorker, Merger, Scoring, Task, beginning_of

if TYPE_CHECKING:
    from torch import Tensor

    from ...backbones import Backbone
    from ...guard.guard import Guard


@dataclass(frozen=True)
class Done:
    """What a run has come to.

    Attributes:
        folder: where the partitions are.
        rows: how many images have a row, earlier runs of the same folder counted.
        counts: how many of them are "ID", "OOD", "-" (judged without a verdict) and "unreadable".
        before: how many were done before this run began.
        complete: whether all are done.
    """

    folder: str
    rows: int
    counts: Mapping[str, int]
    before: int
    complete: bool


@dataclass(frozen=True)
class Judgement:
    """What judges: a method over labels, and the model that embeds for it.

    Attributes:
        detector: the method.
        judge: embeddings ``[B, D]`` to verdicts, where they are scored in one place.
        evidence: negative labels that a verdict comes with.
        hidden: labels that are not named.
        backbone: makes the model on a worker.
        fingerprint: of the model that embedded the labels.
    """

    detector: Detector
    judge: Callable[[Tensor], Iterable[Verdict]]
    evidence: int
    hidden: frozenset[str]
    backbone: BackboneMaker
    fingerprint: str

    @classmethod
    def of_guard(cls, guard: Guard, backbone: BackboneMaker | None = None) -> Judgement:
        """What a guard judges with. Without ``backbone`` workers load its model by name.

        Raises:
            TypeError: it is no guard.
        """
        return cls(
            guard.detector,
            guard.detect_embeddings,
            guard.evidence,
            frozenset() if guard.show_all else hidden_in(guard.corpus),
            backbone or NamedBackbone(guard.backbone.name),
            guard.backbone.fingerprint,
        )


def judge(
    guard: Guard | Judgement,
    inputs: str | os.PathLike[str] | Iterable[str | os.PathLike[str]] | Shards | Any,
    out: str | os.PathLike[str],
    *,
    settings: RaySettings | None = None,
    backbone: Callable[[str], Backbone] | None = None,
    batch_size: int = BATCH_SIZE,
    about: Mapping[str, Any] | None = None,
    seen: Callable[[list[Result]], object] | None = None,
) -> Done:
    """Judge images on a Ray cluster into a folder of Parquet partitions; what is there already is not judged again.

    A run that ends before its time, by whatever (a worker, a node or this process killed, a full disk, an
    interruption), is gone on with by the same call: each image has one row in the end. ``manifest.json`` in the folder
    names the partitions that are finished, with checksums; `tanl.streams.saved_results.read_results` reads them.

    Args:
        guard: what judges. It learns in this process in an ordered run; in a merged one it has what the workers have
            learnt at the end.
        inputs: as `tanl.io.shards.open_shards` takes them, or what it gives.
        out: a folder, or its address (``s3://bucket/results``), of such a run, or new, or empty.
        settings: how the run is spread over the cluster.
        backbone: makes the model on a worker, given "cpu" or "cuda"; None loads the guard's by its name.
        batch_size: usable images a batch; a method with a stream learns from every batch.
        about: what is told of the run in the partitions' metadata, beside what is known here.
        seen: is given each batch's results as they come.

    Raises:
        ValueError: unusable inputs; a folder of something else, or that another run writes into; another model on
            the workers; a partition that is damaged.
        OSError: nothing can be read or written, or there is no such cluster; workers die on image after image. What
            was finished is kept.
        ImportError: Ray is not there, or too old; or the library of an address or a format.
    """
    settings = settings or RaySettings()
    batch_size = whole_number(batch_size, "batch_size", at_least=1)
    with session(settings.address) as ray:
        judgement = guard if isinstance(guard, Judgement) else Judgement.of_guard(guard, backbone)
        shards = inputs if isinstance(inputs, Shards) else open_shards(inputs, unit_rows=settings.unit_rows)
        plan = _plan(judgement, shards, settings, batch_size)
        store = open_store(out)
        with Partitions(store, key="path", plan=plan, rows=settings.partition_rows) as partitions:
            run = _Run(ray, judgement, shards, settings, batch_size, partitions, dict(about or {}), seen)
            return run.carried_out(store.name)


def _plan(judgement: Judgement, shards: Shards, settings: RaySettings, batch_size: int) -> dict[str, Any]:
    """What the results depend on."""
    detector = judgement.detector
    plan = {
        "inputs": shards.fingerprint,
        "kind": shards.kind,
        "units": len(shards.units),
        "mode": settings.mode,
        "batch_size": batch_size,
        "method": type(detector).__name__,
        "settings": {name: str(value) for name, value in detector.settings.items()},
        "labels": detector.bank.fingerprint,
        "tpr": detector.tpr,
        "backbone": judgement.fingerprint,
        "evidence": judgement.evidence,
        "hidden": len(judgement.hidden),
    }
    return plan | ({"merge_every": settings.merge_every} if settings.mode == "merged" else {})


class _Run:
    """One run, from where the folder is to the end."""

    def __init__(
        self,
        ray: Any,
        judgement: Judgement,
        shards: Shards,
        settings: RaySettings,
        batch_size: int,
        partitions: Partitions,
        about: dict[str, Any],
        seen: Callable[[list[Result]], object] | None,
    ) -> None:
        self._ray, self._judgement, self._shards = ray, judgement, shards
        self._settings, self._batch_size = settings, batch_size
        self._partitions, self._about, self._seen = partitions, about, seen

    def carried_out(self, folder: str) -> Done:
        partitions, detector = self._partitions, self._judgement.detector
        before = partitions.manifest.rows
        if partitions.manifest.state is not None:
            detector.load_state_dict(partitions.state)
        if not partitions.manifest.complete:
            if self._settings.mode == "ordered":
                self._ordered()
            else:
                self._merged()
        manifest = partitions.manifest
        return Done(folder, manifest.rows, manifest.counts, before, manifest.complete)

    # --- in one place -----------------------------------------------------------------------------------------

    def _ordered(self) -> None:
        """Score what the workers embed, in its order, in this process."""
        judgement, partitions = self._judgement, self._partitions
        device = judgement.detector.bank.device
        behind: deque[Position] = deque()
        at = partitions.manifest.next
        failed = False

        def rows(blocks: Iterator[Any]) -> Iterator[Ready | Unusable]:
            nonlocal failed
            try:
                for row in _in_order(blocks, at, self._shards):
                    behind.append(Position(row["unit"], row["row"] + 1))
                    if row["error"] is not None:
                        yield Unusable(row["name"], row["error"])
                    else:
                        z = torch.from_numpy(np.frombuffer(row["embedding"], dtype=np.float32).copy())
                        yield Ready(row["name"], z)
            except Exception:
                failed = True
                raise

        rows_match_state = True

        def judge(z: Tensor) -> Iterable[Verdict]:
            nonlocal rows_match_state
            rows_match_state = False  # from here on the method may have learnt from rows that nobody holds
            return judgement.judge(z)

        with (
            plain_errors(self._ray),
            self._attempts() as attempts,
            self._blocks(EmbeddingWorker, (self._work(), attempts)) as blocks,
        ):
            pump = Pump(
                rows(blocks),
                lambda number, row: row,
                lambda parts: torch.stack(list(parts)).to(device),
                batch_size=self._batch_size,
                threads=0,  # there is nothing to prepare
            )
            # A batch that an error has cut short is none of one process's: the next run has it whole.
            whole = (batch for batch in pump if not failed)
            try:
                for results in judged(whole, judge):
                    for _ in results:
                        at = behind.popleft()
                    partitions.add(results, at)
                    rows_match_state = True
                    self._told(results)
                    if partitions.is_due:
                        self._finish()
            except (KeyboardInterrupt, OSError, self._ray.exceptions.RayError):
                if rows_match_state:
                    self._keep_what_there_is()
                raise
            self._finish(complete=True)

    # --- on the workers -----------------------------------------------------------------------------------------

    def _merged(self) -> None:
        """Write what the workers judge, in its order, and hold what they have learnt."""
        ray, judgement, partitions = self._ray, self._judgement, self._partitions
        detector = judgement.detector
        first = beginning_of(detector)
        scoring = Scoring(
            ray.put(detector),
            self._batch_size,
            judgement.evidence,
            judgement.hidden,
            self._settings.merge_every,
        )
        with (
            plain_errors(ray),
            self._attempts() as attempts,
            self._beside(Merger, type(detector), first) as merger,
            self._blocks(JudgingWorker, (self._work(), attempts, scoring, merger)) as blocks,
        ):

            def learnt() -> None:
                detector.load_state_dict(ray.get(merger.state.remote()))

            try:
                for row in _in_order(blocks, partitions.manifest.next, self._shards):
                    results = [_result(row["result"])]
                    partitions.add(results, Position(row["unit"], row["row"] + 1))
                    self._told(results)
                    if partitions.is_due:
                        learnt()
                        self._finish()
            except (KeyboardInterrupt, OSError, ray.exceptions.RayError):
                with suppress(ray.exceptions.RayError):
                    learnt()
                    self._keep_what_there_is()
                raise
            learnt()
            self._finish(complete=True)

    # --- both -----------------------------------------------------------------------------------------------------

    def _work(self) -> Work:
        settings, judgement = self._settings, self._judgement
        return Work(
            judgement.backbone,
            judgement.fingerprint,
            settings.encode_batch,
            settings.num_cpus,
            settings.num_gpus > 0,
        )

    @contextmanager
    def _beside(self, kind: type[Any], *arguments: Any, **options: Any) -> Iterator[Any]:
        """An actor on this node, whose end would be that of all; it ends with the run."""
        ray = self._ray
        here = ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(
            ray.get_runtime_context().get_node_id(), soft=False
        )
        made = ray.remote(kind).options(num_cpus=0, scheduling_strategy=here, **options)
        actor = made.remote(*arguments)
        try:
            yield actor
        finally:
            ray.kill(actor)

    def _attempts(self) -> AbstractContextManager[Any]:
        """The actor that knows who tried what; one that begins anew has but forgotten some of it."""
        return self._beside(Attempts, max_restarts=-1, max_task_retries=-1)

    @contextmanager
    def _blocks(self, worker: type[Any], arguments: tuple[Any, ...]) -> Iterator[Iterator[Any]]:
        """What the workers give, block by block, in the order of the units; they end with it."""
        ray, settings = self._ray, self._settings
        at = self._partitions.manifest.next
        tasks = [
            Task(number, unit, at.row if number == at.unit else 0).packed
            for number, unit in enumerate(self._shards.units)
            if number >= at.unit
        ]
        if not tasks:
            yield iter(())
            return
        most = settings.workers or self._room()
        data = ray.data.from_items(tasks, override_num_blocks=len(tasks)).map_batches(
            worker,
            fn_constructor_args=arguments,
            batch_size=1,
            compute=ray.data.ActorPoolStrategy(min_size=1, max_size=min(most, len(tasks))),
            num_cpus=settings.num_cpus,
            num_gpus=settings.num_gpus or None,
        )
        data.context.execution_options.preserve_order = True
        data.context.enable_progress_bars = False  # it would not know of the rows of earlier runs
        blocks = iter(data.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=1))
        try:
            yield blocks
        finally:
            # Not when it is collected: the session may be over then, and Ray would begin another one to end this.
            blocks.close()

    def _room(self) -> int:
        """How many workers the cluster has room for."""
        settings, there = self._settings, self._ray.cluster_resources()
        room = there.get("CPU", 1.0) / settings.num_cpus
        if settings.num_gpus:
            room = min(room, there.get("GPU", 0.0) / settings.num_gpus)
        if room < 1:
            raise ValueError(
                f"the cluster has {there.get('CPU', 0):g} cores and {there.get('GPU', 0):g} GPUs, which is less than "
                f"one worker needs: num_cpus={settings.num_cpus:g}, num_gpus={settings.num_gpus:g}"
            )
        return int(room)

    def _told(self, results: list[Result]) -> None:
        if self._seen is not None:
            self._seen(results)

    def _finish(self, *, complete: bool = False) -> None:
        detector = self._judgement.detector
        about = {**self._about, "threshold": detector.threshold}
        self._partitions.finish(detector.state_dict(), about, complete=complete)

    def _keep_what_there_is(self) -> None:
        """Where a run ends before its time, by an error that is told: a disk may be full now."""
        if self._partitions.waiting:
            with suppress(OSError):
                self._finish()


def _in_order(blocks: Iterable[Any], at: Position, shards: Shards) -> Iterator[dict[str, Any]]:
    """The rows of blocks, each held against the recorded order: none is missing, and none comes twice.

    Raises:
        OSError: one is, or does: an input has changed since its rows were counted.
    """
    for block in blocks:
        for row in block.to_pylist():
            here = Position(row["unit"], row["row"])
            if here != at and not (here.row == 0 and _is_over(shards, at, here.unit)):
                raise OSError(_out_of_order(shards, at, here))
            at = Position(here.unit, here.row + 1)
            yield row
    end = Position(len(shards.units))
    if at != end and not _is_over(shards, at, end.unit):
        raise OSError(_out_of_order(shards, at, end))


def _is_over(shards: Shards, at: Position, unit: int) -> bool:
    """Whether there is nothing between a position and the beginning of a later unit."""
    if unit <= at.unit:
        return False
    counts = [each.rows for each in shards.units[at.unit : unit]]
    return counts[0] in (None, at.row) and not any(counts[1:])


def _out_of_order(shards: Shards, at: Position, here: Position) -> str:
    name = shards.units[at.unit].identity.splitlines()[0]
    return (
        f"image {at.row} of unit {at.unit} ({name}) was to come next, and image {here.row} of unit {here.unit} came: "
        "the inputs have changed while they were read; judge them into another folder"
    )


def _result(packed: str) -> Result:
    name, label, probability, score, is_ood, evidence, error = json.loads(packed)
    if error is not None:
        return Result(name, error=error)
    found = tuple(Evidence(*item) for item in evidence)
    return Result(name, Verdict(score, is_ood, label, probability, found))
