"""What ``python -m tools label-scale`` measures: what a short list of very many labels costs and what it loses.

Labels are the embedded model's, in bfloat16, kept as float16: WordNet's words, then adjective + noun; a smaller set is
the beginning of a larger one. Streams are of pictograms, shuffled. The short list's settings are chosen on streams of
the ID sets ``animals`` and ``food``, with a million labels: the least work (candidates times probe) whose selected
labels are, on average over the batches of both, at least 95 % those of the exact sums; the best where none reaches
that. Beside them, as *fast*, the least work with at least 90 %. ``travel`` and ``objects``, which had no say, report.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean, median

import torch

import tanl
from tanl import kernels
from tanl.backbones import load_backbone
from tanl.backbones.clip import ClipBackbone
from tanl.benchmarks.output.targets import add_json_option, check_targets, write_json
from tanl.io.options import add_options, check_settings, setting, settings_of

from .jobs import IN_MEMORY, Job, Outcome, Settings, Stream, run_job
from .store import make_store, rounds_for
from .vocabulary import Vocabulary

CHOOSING = (("animals", "travel"), ("food", "faces"))
REPORTING = (("travel", "food"), ("travel", "flags"), ("objects", "animals"), ("objects", "faces"))
TRIED = tuple(
    Settings(16, candidates, 65_536, probe) for candidates in (1024, 4096) for probe in (0.05, 0.1, 0.25)
)
LEAST_OVERLAP, FAST_OVERLAP = 0.95, 0.9
EXACT, SHORT, FAST = "exact", "short list", "short list, fast"


@dataclass(frozen=True)
class Config:
    """What is run, with the command's options."""

    folder: str = setting("build/label-scale", "where labels and indices are made, or found", metavar="DIR")
    labels: tuple[int, ...] = setting(
        (70_000, 999_364, 10_000_000), "numbers of labels; the largest is stored", metavar="N", at_least=2000
    )
    choosing: int = setting(999_364, "labels that the settings are chosen with", metavar="N", at_least=2000)
    exact: tuple[int, ...] = setting(
        (70_000, 999_364, 10_000_000),
        "those of them that are measured exactly too",
        metavar="N",
        at_least=2000,
    )
    timed: bool = setting(False, "measure again what is kept, but for exact sums of very many labels")
    batch_size: int = setting(128, "images of a batch", metavar="N", at_least=1)
    seed: int = setting(0, "of the streams' order", metavar="N", at_least=0)

    def __post_init__(self) -> None:
        check_settings(self)
        largest = max(self.labels)
        if self.choosing > largest:
            raise ValueError(f"choosing is {self.choosing}, but labels go up to {largest}: give fewer")


@dataclass(frozen=True)
class Line:
    """A stream with so many labels by one method.

    Attributes:
        labels: as they were asked for.
        method: ``exact``, ``short list`` or ``short list, fast``.
        track: ID set.
        ood: OOD set.
        negatives: labels less those that name ID labels.
        auroc: a fraction.
        fpr95_id: a fraction.
        overlap: share of the selected labels that the exact method selects too, mean over batches; None without it.
        seconds: median of a batch; None without a full one.
    """

    labels: int
    method: str
    track: str
    ood: str
    negatives: int
    auroc: float
    fpr95_id: float
    overlap: float | None
    seconds: float | None


@dataclass(frozen=True)
class Memory:
    """Of a process that did all streams of one method.

    Attributes:
        labels: how many.
        method: ``exact``, ``short list`` or ``short list, fast``.
        build: seconds that the index took; None where it was there, or there is none.
        index_bytes: of the index beside labels and names.
        peak: bytes at most, the mapped file's pages among them.
        own: bytes at the end that are not the file's.
    """

    labels: int
    method: str
    build: float | None
    index_bytes: int
    peak: int
    own: int


@dataclass(frozen=True)
class Tried:
    """Settings on the choosing streams: their mean overlap, and the median seconds of a batch."""

    settings: Settings
    overlap: float
    seconds: float


def run(config: Config, *, progress: bool = False) -> dict[str, object]:
    """Measure what ``config`` says; as JSON can hold it."""
    folder = Path(config.folder)
    store = _stored(folder, max(config.labels))

    def carried_out(
        labels: int, streams: tuple[tuple[str, str], ...], *settings: Settings | None
    ) -> list[Outcome]:
        if progress:
            print(f"{labels} labels, {len(settings)} methods", file=sys.stderr, flush=True)
        slow = None in settings and labels > IN_MEMORY
        job = Job(folder, store, labels, streams, settings, config.batch_size, config.seed)
        return run_job(job, anew=config.timed and not slow)

    truth, *others = carried_out(config.choosing, CHOOSING, None, *TRIED)
    tried = []
    for settings, outcome in zip(TRIED, others, strict=True):
        seconds = [second for stream in outcome.streams for second in stream.seconds]
        tried.append(Tried(settings, _overlap(outcome.streams, truth.streams), median(seconds)))
    best, fast = chosen(tried, LEAST_OVERLAP), chosen(tried, FAST_OVERLAP)
    if progress:
        print(tried, file=sys.stderr, flush=True)
    lines: list[Line] = []
    memory: list[Memory] = []
    for labels in config.labels:
        exact = carried_out(labels, REPORTING, None)[0] if labels in config.exact else None
        short = carried_out(labels, REPORTING, best)[0]
        faster = short if fast == best else carried_out(labels, REPORTING, fast)[0]
        for method, found in ((EXACT, exact), (SHORT, short), (FAST, faster)):
            if found is not None:
                memory.append(Memory(labels, method, found.build, found.index_bytes, found.peak, found.own))
                lines += _lines(labels, method, found, exact)
    return {
        "config": asdict(config),
        "environment": {
            "tanl": tanl.__version__,
            "torch": torch.__version__,
            "python": platform.python_version(),
            "machine": platform.machine(),
            "kernels": kernels.available("cpu")[-1],
            "threads": 1,
        },
        "tried": [asdict(each) for each in tried],
        "chosen": asdict(best),
        "fast": asdict(fast),
        "lines": [asdict(each) for each in lines],
        "memory": [asdict(each) for each in memory],
    }


def chosen(tried: list[Tried], least: float) -> Settings:
    """By the rule of the module: the least work with at least this overlap, the best where none reaches it."""
    enough = [each for each in tried if each.overlap >= least]
    if not enough:
        return max(tried, key=lambda each: each.overlap).settings
    return min(enough, key=lambda each: each.settings.candidates * each.settings.probe).settings


def format_table(result: dict[str, object]) -> str:
    """The result as tables: a row a stream and method, its means, then memory."""
    lines = [Line(**each) for each in result["lines"]]  # type: ignore[attr-defined]
    text = [
        "| labels | method | ID set | OOD set | negatives | AUROC | FPR95_ID | overlap % |",
        "| ---: | --- | --- | --- | ---: | ---: | ---: | ---: |",
    ]
    for line in lines:
        overlap = "" if line.overlap is None or line.method == EXACT else f"{100 * line.overlap:.1f}"
        text.append(
            f"| {line.labels} | {line.method} | {line.track} | {line.ood} | {line.negatives} | "
            f"{100 * line.auroc:.2f} | {100 * line.fpr95_id:.2f} | {overlap} |"
        )
    text += [
        "",
        "| labels | method | AUROC, mean | FPR95_ID, mean | overlap %, mean / least | s a batch | index, MB | "
        "own memory, MB | with the file's pages, MB |",
        "| ---: | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for held in [Memory(**each) for each in result["memory"]]:  # type: ignore[attr-defined]
        own = [line for line in lines if (line.labels, line.method) == (held.labels, held.method)]
        overlaps = [line.overlap for line in own if line.overlap is not None and line.method != EXACT]
        seconds = [line.seconds for line in own if line.seconds is not None]
        text.append(
            f"| {held.labels} | {held.method} | {100 * fmean(x.auroc for x in own):.2f} | "
            f"{100 * fmean(x.fpr95_id for x in own):.2f} | {_mean_and_least(overlaps)} | "
            f"{f'{median(seconds):.3f}' if seconds else ''} | {held.index_bytes / 1e6:.0f} | {held.own / 1e6:.0f} | "
            f"{held.peak / 1e6:.0f} |"
        )
    text += ["", "| candidates | probe | overlap %, choosing | s a batch |", "| ---: | ---: | ---: | ---: |"]
    for each in result["tried"]:  # type: ignore[attr-defined]
        mark = "**" if each["settings"] in (result["chosen"], result["fast"]) else ""
        text.append(
            f"| {mark}{each['settings']['candidates']}{mark} | {mark}{each['settings']['probe']}{mark} | "
            f"{100 * each['overlap']:.1f} | {each['seconds']:.3f} |"
        )
    return "\n".join(text)


def _mean_and_least(overlaps: list[float]) -> str:
    return f"{100 * fmean(overlaps):.1f} / {100 * min(overlaps):.1f}" if overlaps else ""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the command's options."""
    add_options(parser, Config)
    add_json_option(parser)
    parser.add_argument(
        "--table", metavar="JSON", help="print the tables of an earlier --json, and measure nothing"
    )


def main(arguments: argparse.Namespace) -> int:
    """Run the command and print its tables."""
    if arguments.table is not None:
        print(format_table(json.loads(Path(arguments.table).read_text(encoding="utf-8"))))
        return 0
    config = settings_of(arguments, Config())
    check_targets(arguments.json)
    result = run(config, progress=True)
    if arguments.json is not None:
        write_json(arguments.json, result)
    print(format_table(result))
    return 0


def _stored(folder: Path, labels: int) -> Path:
    path = folder / f"labels-{labels}.safetensors"
    if path.exists():
        return path
    backbone = load_backbone("mini", precision="bf16")
    assert isinstance(backbone, ClipBackbone)  # it embeds tokens, not only texts
    vocabulary = Vocabulary.of(backbone)
    rounds_for(vocabulary, labels)
    return make_store(folder, backbone, vocabulary, labels)


def _overlap(streams: list[Stream], truth: list[Stream]) -> float:
    shares = [
        len(set(one) & set(other)) / len(other)
        for stream, exact in zip(streams, truth, strict=True)
        for one, other in zip(stream.selected, exact.selected, strict=True)
    ]
    return fmean(shares)


def _lines(labels: int, method: str, outcome: Outcome, exact: Outcome | None) -> list[Line]:
    truth = [None] * len(outcome.streams) if exact is None else exact.streams
    return [
        Line(
            labels,
            method,
            stream.track,
            stream.ood,
            stream.negatives,
            stream.auroc,
            stream.fpr95_id,
            None if other is None else _overlap([stream], [other]),
            median(stream.seconds) if stream.seconds else None,
        )
        for stream, other in zip(outcome.streams, truth, strict=True)
    ]
