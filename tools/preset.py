"""``python -m tools preset``: which settings of TANL are best over ID sets, orders and shares of outliers.

What chooses, what reports and the rule of choice are in docs/results.md, "A preset for every stream". Each candidate
is judged under seven conditions: four orders, with the sets as they are, in batches of 256; and streams of seeded
variants with few and many outliers, in batches of 64. What is there is not measured again, so that the same command
goes on where an interrupted one stopped.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from torch import Tensor

from tanl.backbones import Backbone, load_backbone
from tanl.backbones.noise import noise_embeddings
from tanl.benchmarks.engine.kept_activations import KeptActivations
from tanl.benchmarks.engine.protocol import stream_order
from tanl.benchmarks.engine.shipped import SHIPPED
from tanl.benchmarks.engine.tasks import Config, Gathering
from tanl.benchmarks.engine.trust.images import Images, variants_of
from tanl.benchmarks.engine.trust.measures import CALIBRATION, judge_stream, mixed_at
from tanl.benchmarks.output.targets import check_targets, write_json
from tanl.detectors import TANL, Detector, Fused, GuardedMemory, NegLabel, VisualDictionary
from tanl.detectors.registry import MINED
from tanl.io.arguments import a_path
from tanl.io.options import BATCH_SIZE
from tanl.labels.bank import LabelBank
from tanl.labels.build import build_bank
from tanl.labels.corpus import Corpus
from tanl.metrics import HEADLINE, OODMetrics

ORDERS = ("shuffled", "id-first", "ood-first", "drift")
SHARES = (0.01, 0.1, 0.5)
CONDITIONS = (*ORDERS, *(f"{share:.0%}" for share in SHARES))
PURE = "flagged of a stream without outliers"
_OF_ORDERS = 256  # images a batch

GUARDED: dict[str, Any] = {"alpha": 1.0, "memory": "guarded", "candidates": 30_000}
"""The preset `practice` as it was before it weighed means: what candidates change one thing of."""
SCRIPT = TANL.preset("official-script")


@dataclass(frozen=True)
class Half:
    """The streams that choose, or those that report.

    Attributes:
        tracks: ID sets.
        seeds: of the orders.
        variants: seed of the variants.
        length: images a stream of variants.
    """

    tracks: tuple[str, ...]
    seeds: tuple[int, ...]
    variants: int
    length: int


HALVES = {
    "choosing": Half(("animals", "food", "coarse-23"), (10, 11, 12), 0, 1600),
    "reporting": Half(("travel", "objects", "coarse-5", "coarse-10"), (0, 1, 2), 1, 2400),
}


@dataclass(frozen=True)
class Candidate:
    """Settings of TANL, what leaves its corpus, and a dictionary beside it; no settings stand for NegLabel."""

    settings: Mapping[str, Any] | None = field(default_factory=dict)
    removal: str = "synonyms"
    dictionary: VisualDictionary | None = None


def _guarded(**changes: Any) -> Candidate:
    return Candidate({**GUARDED, **changes})


def _memory(**changes: Any) -> Candidate:
    return _guarded(memory=GuardedMemory(**changes))


CANDIDATES: dict[str, Candidate] = {
    "neglabel": Candidate(None),
    "paper": Candidate(TANL.preset("paper")),
    "official-script": Candidate(SCRIPT),
    "guarded": Candidate(GUARDED),
    "alpha 0.95": _guarded(alpha=0.95),
    "alpha 0.5": _guarded(alpha=0.5),
    "alpha 0": _guarded(alpha=0.0),
    "gap 0": _guarded(gap=0.0),
    "gap 0.5": _guarded(gap=0.5),
    "K 100": _guarded(num_selected=100),
    "K 300": _guarded(num_selected=300),
    "K 3000": _guarded(num_selected=3000),
    "step 0": _guarded(step=0),
    "candidates all": _guarded(candidates=None),
    "candidates 10000": _guarded(candidates=10_000),
    "candidates 60000": _guarded(candidates=60_000),
    "balanced": _guarded(weighing="balanced"),
    "debiased": _guarded(weighing="debiased"),
    "gate 0.3": _memory(gate=0.3),
    "gate 0.7": _memory(gate=0.7),
    "prior 0": _memory(prior=0),
    "prior 200": _memory(prior=200),
    "anchor 0": _memory(anchor=0.0),
    "kinds": Candidate(GUARDED, removal="kinds"),
    "dictionary 1": Candidate(GUARDED, dictionary=VisualDictionary(least=0.9)),
    "dictionary 0.25": Candidate(GUARDED, dictionary=VisualDictionary(least=0.9, weight=0.25)),
    "official-script, guarded": Candidate({**SCRIPT, "memory": "guarded"}),
    "official-script, kinds": Candidate(SCRIPT, removal="kinds"),
    "balanced, alpha 0.5": _guarded(weighing="balanced", alpha=0.5),
    "balanced, alpha 0.8": _guarded(weighing="balanced", alpha=0.8),
    "balanced, kinds": Candidate({**GUARDED, "weighing": "balanced"}, removal="kinds"),
    "balanced, candidates 10000": _guarded(weighing="balanced", candidates=10_000),
    "balanced, candidates all": _guarded(weighing="balanced", candidates=None),
    "balanced, K 3000": _guarded(weighing="balanced", num_selected=3000),
    "balanced, dictionary 0.25": Candidate(
        {**GUARDED, "weighing": "balanced"}, dictionary=VisualDictionary(least=0.9, weight=0.25)
    ),
}
MIXES = ("", " + NegLabel", " + MCM")
"""What a candidate's score is taken alone or in the mean with: MCM's softmax has the model's logit scale here."""

# Candidate, track and seed -> condition -> metric -> fraction.
Figures = dict[str, dict[str, dict[str, dict[str, float]]]]


class Bench:
    """One ID set with its images and banks, on which candidates are judged."""

    def __init__(self, track: str, half: Half, backbone: Backbone, limit: int) -> None:
        self._half, self._backbone, self._limit = half, backbone, limit
        [self.task] = Gathering(backbone, extreme_images=0).tasks(Config(tracks=(track,)))
        self._noise = noise_embeddings(backbone)
        self._images: Images = variants_of(
            SHIPPED["pictograms"], track, backbone, length=half.length, seed=half.variants
        )
        self._banks: dict[str, LabelBank] = {}
        self._kept: dict[tuple[str, Any], KeptActivations] = {}
        self._neglabel: NegLabel | None = None
        self._scored: dict[bytes, Tensor] = {}

    def measured(self, candidate: Candidate, seed: int) -> dict[str, dict[str, dict[str, float]]]:
        """Mix, condition -> metrics; ``PURE`` has the share of ID images flagged."""
        detector = self._detector(candidate, seed)
        found: dict[str, dict[str, dict[str, float]]] = {mix: {} for mix in MIXES}
        ids = self.task.id[0].embeddings
        for order in ORDERS:
            sets: dict[str, list[dict[str, float]]] = {mix: [] for mix in MIXES}
            for part in self.task.ood:
                z = torch.cat([ids, part.embeddings])
                places = stream_order(len(ids), len(part.embeddings), order, seed)  # type: ignore[arg-type]
                for mix, values in self._judged(detector, z[places], places >= len(ids), _OF_ORDERS):
                    sets[mix].append(values)
            for mix, listed in sets.items():
                found[mix][order] = {name: fmean(values[name] for values in listed) for name in HEADLINE}
        for share in SHARES:
            stream = mixed_at(self._images, self._half.length, share, seed)
            for mix, values in self._judged(detector, stream.z, stream.is_ood, BATCH_SIZE):
                found[mix][f"{share:.0%}"] = values
        detector.reset()
        detector.calibrate_embeddings(self._images.known[:CALIBRATION])
        pure = judge_stream(detector, mixed_at(self._images, self._half.length, 0.0, seed))
        found[""][PURE] = {"flagged": pure["flagged ID"] / 100}
        return found

    def _judged(
        self, detector: Detector, z: Tensor, is_ood: Tensor, batch: int
    ) -> Iterator[tuple[str, dict[str, float]]]:
        detector.reset()
        scores = torch.cat([detector(part) for part in torch.split(z, batch)])
        others = self._stateless(z)
        for place, mix in enumerate(MIXES):
            metrics = OODMetrics()
            mixed = scores if not mix else (scores + others[:, place]) / 2
            metrics.update(mixed, torch.where(is_ood, -1, 0))
            computed = metrics.compute()
            yield mix, {name: float(computed[name]) for name in HEADLINE}

    def _stateless(self, z: Tensor) -> Tensor:
        """The scores of `MIXES` ``[B, 3]``, each image's computed once; none of the first."""
        bank = self._bank("synonyms")
        self._neglabel = self._neglabel or NegLabel(bank, num_negatives=MINED, seed=0)
        keys = [row.tobytes() for row in z.numpy()]
        new = {key: number for number, key in enumerate(keys) if key not in self._scored}
        if new:
            rows = z[list(new.values())]
            sure = (bank.logit_scale * rows @ bank.id_embeddings.T).softmax(dim=1).amax(dim=1)
            told = torch.stack([torch.zeros_like(sure), self._neglabel.score(rows), 1 - sure], dim=1)
            self._scored.update(zip(new, told, strict=True))
        return torch.stack([self._scored[key] for key in keys])

    def _bank(self, removal: str) -> LabelBank:
        if removal not in self._banks:
            corpus = Corpus.load("wordnet")
            self._banks[removal] = build_bank(
                self._backbone, self.task.classes, corpus=corpus, removal=removal
            )
        return self._banks[removal]

    def _detector(self, candidate: Candidate, seed: int) -> Detector:
        bank = self._bank(candidate.removal)
        if candidate.settings is None:
            return NegLabel(bank, num_negatives=MINED, seed=seed)
        count = candidate.settings.get("candidates")
        if count is not None and count >= bank.num_negatives:
            count = None  # TANL then takes the bank as it is
        if (candidate.removal, count) not in self._kept:
            labels = bank if count is None else bank.mined(count)
            self._kept[candidate.removal, count] = KeptActivations(labels, limit=self._limit)
        detector = TANL(
            bank,
            **candidate.settings,
            seed=seed,
            initial_ood=self._noise,
            activation=self._kept[candidate.removal, count],
        )
        return detector if candidate.dictionary is None else Fused(detector, candidate.dictionary)


def summary(figures: Figures, half: Half, seeds: Sequence[int]) -> list[tuple[str, dict[str, float]]]:
    """Each candidate that has every ID set with these seeds: its means by condition and over all, the best first."""
    rows: list[tuple[str, dict[str, float]]] = []
    for name, measured in figures.items():
        keys = [f"{track}, {seed}" for track in half.tracks for seed in seeds]
        if any(key not in measured for key in keys):
            continue
        of = [measured[key] for key in keys]
        row = {
            f"{condition} {metric}": 100 * fmean(each[condition][metric] for each in of)
            for condition in CONDITIONS
            for metric in HEADLINE
        }
        row |= {
            metric: fmean(row[f"{condition} {metric}"] for condition in CONDITIONS) for metric in HEADLINE
        }
        if all(PURE in each for each in of):
            row[PURE] = 100 * fmean(each[PURE]["flagged"] for each in of)
        rows.append((name, row))
    return sorted(rows, key=lambda row: row[1]["FPR95_ID"])


def table(rows: Sequence[tuple[str, Mapping[str, float]]]) -> str:
    """The rows as Markdown: AUROC / FPR95 / FPR95_ID over all, then AUROC / FPR95_ID by condition, percent."""
    heads = ("candidate", "all", *CONDITIONS, "0%: flagged")
    lines = [f"| {' | '.join(heads)} |", f"|{' --- |' * len(heads)}"]
    for name, row in rows:
        cells = [" / ".join(f"{row[metric]:.1f}" for metric in HEADLINE)]
        cells += [f"{row[f'{c} AUROC']:.1f} / {row[f'{c} FPR95_ID']:.1f}" for c in CONDITIONS]
        cells.append(f"{row[PURE]:.1f}" if PURE in row else "-")
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the study's options."""
    parser.add_argument("--half", choices=HALVES, default="choosing", help="(default: %(default)s)")
    parser.add_argument("--seeds", type=int, nargs="+", metavar="N", help="some of the half's (default: all)")
    parser.add_argument("--candidates", nargs="+", metavar="NAME", help="some of them (default: all)")
    parser.add_argument(
        "--keep", type=float, default=4.0, metavar="GIB", help="memory for activations (default: %(default)s)"
    )
    parser.add_argument(
        "--json", type=a_path, required=True, metavar="FILE", help="the figures; what is there is kept"
    )


def main(arguments: argparse.Namespace) -> int:
    """Measure what is missing, and print the table."""
    check_targets(arguments.json)
    half = HALVES[arguments.half]
    seeds = tuple(arguments.seeds or half.seeds)
    names = _checked(arguments.candidates or list(CANDIDATES), CANDIDATES, "candidate")
    _checked(seeds, half.seeds, "seed")
    path: Path = arguments.json
    figures: Figures = {}
    if path.exists():
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["half"] != arguments.half:
            raise ValueError(f"{path} is of the half {content['half']}: give another --json")
        figures = content["figures"]
    backbone: Backbone | None = None
    for track in half.tracks:
        missing = [
            (name, seed)
            for name in names
            for seed in seeds
            if f"{track}, {seed}" not in figures.get(name, {})
        ]
        if not missing:
            continue
        backbone = backbone or load_backbone("mini")
        bench = Bench(track, half, backbone, int(arguments.keep * (1 << 30)))
        for name, seed in missing:
            for mix, found in bench.measured(CANDIDATES[name], seed).items():
                figures.setdefault(name + mix, {})[f"{track}, {seed}"] = found
            write_json(path, {"half": arguments.half, "torch": torch.__version__, "figures": figures})
            print(f"{track}, {name}, seed {seed}", flush=True)
    print(table(summary(figures, half, seeds)))
    return 0


def _checked(given: Sequence[Any], known: Any, what: str) -> Sequence[Any]:
    for value in given:
        if value not in known:
            raise ValueError(f"no {what} {value}; there are {', '.join(map(str, known))}")
    return given
