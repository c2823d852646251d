"""What the speed benchmark runs: its settings, the cases that they stand for, and who takes part."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

from tanl.io.options import check_settings, setting

LOGIT_SCALE = 100.0
GAP = 0.2
ALPHA = 0.95
# The shape that the targets are stated for; curves are drawn around it.
TARGET_LABELS = 70_000
CURVE_FACTORS = (1 / 7, 1 / 2, 1, 2, 4)

Kind = Literal["bare", "naive", "tanl"]


@dataclass(frozen=True)
class Case:
    """One shape of the problem.

    Attributes:
        labels: M, the negative labels.
        selected: K.
        step: q.
        capacity: L, what a ring holds.
        batch: B.
        dim: D.
        num_id: C.
        seed: of the features.
        threads: that a process may use.
    """

    labels: int
    selected: int
    step: int
    capacity: int
    batch: int
    dim: int
    num_id: int
    seed: int
    threads: int


@dataclass(frozen=True)
class Spec:
    """Who takes part: the bare product, the naive step, or tanl with one of its backends."""

    kind: Kind
    backend: str = ""
    dtype: Literal["float32", "float16"] = "float32"
    device: str = "cpu"

    @property
    def name(self) -> str:
        """What tables and charts call it."""
        parts = [{"bare": "bare product", "naive": "naive step", "tanl": f"tanl {self.backend}"}[self.kind]]
        if self.dtype == "float16":
            parts.append("fp16" if self.kind == "bare" else "fp16 labels")
        return ", ".join(parts)


def _numbers(default: tuple[int, ...], help: str, at_least: int = 1) -> Any:
    """Several numbers, each once, ascending."""
    return setting(
        default, help, metavar="N", at_least=at_least, gather=lambda values: tuple(sorted({*values}))
    )


@dataclass(frozen=True)
class Config:
    """What is run, with the command's options. Of the selected labels K, one above M is left out: tanl takes all M.

    Raises:
        TypeError, ValueError: a setting that is not a whole number, or too small.
    """

    labels: tuple[int, ...] = _numbers((10_000, TARGET_LABELS, 1_000_000), "numbers of negative labels M")
    selected: tuple[int, ...] = _numbers((1000, 10_000, 60_000), "numbers of selected labels K")
    steps: tuple[int, ...] = _numbers(
        (0, 1), "distances q between the score's prefixes, 0 for the last alone", 0
    )
    capacities: tuple[int, ...] = _numbers((64, 300, 1000, 3000), "ring lengths L of the curve against L")
    capacity: int = setting(300, "ring length L everywhere else", metavar="N", at_least=1)
    batch: int = setting(256, "images in a batch", metavar="N", at_least=1)
    dim: int = setting(512, "dimensions of the embeddings", metavar="N", at_least=1)
    num_id: int = setting(1000, "ID labels", names=("--classes",), metavar="N", at_least=1)
    repeats: int = setting(7, "timed rounds", metavar="N", at_least=1)
    threads: int = setting(
        1, "threads of every process (default: as many as torch takes)", metavar="N", at_least=1
    )
    seed: int = setting(0, "of the features", metavar="N", at_least=0)
    half: bool = setting(False, "measure labels in half precision too")
    curves: bool = setting(True, "measure the curves against M and L")

    def __post_init__(self) -> None:
        check_settings(self)

    def case(self, labels: int, selected: int, step: int, capacity: int | None = None) -> Case:
        """A case with this configuration's other settings."""
        return Case(
            labels=labels,
            selected=selected,
            step=step,
            capacity=self.capacity if capacity is None else capacity,
            batch=self.batch,
            dim=self.dim,
            num_id=self.num_id,
            seed=self.seed,
            threads=self.threads,
        )

    @property
    def table(self) -> list[Case]:
        """The cases of the table; where every K is above an M, its K is M."""
        cases = []
        for labels in self.labels:
            possible = [k for k in self.selected if k <= labels] or [labels]
            cases += [self.case(labels, k, q) for k in possible for q in self.steps]
        return cases

    @property
    def main_labels(self) -> int:
        """The M of the table that is nearest to the targets', around which curves are drawn."""
        return min(self.labels, key=lambda labels: abs(math.log(labels / TARGET_LABELS)))

    @property
    def main_case(self) -> Case:
        """The case that curves and chart are about: the smallest K, the last q."""
        return self.case(self.main_labels, min(*self.selected, self.main_labels), self.steps[-1])

    @property
    def labels_curve(self) -> list[Case]:
        """The cases of the curve against M that the table does not hold."""
        if not self.curves:
            return []
        main = self.main_case
        wanted = sorted({max(1, round(main.labels * factor)) for factor in CURVE_FACTORS} - {*self.labels})
        return [self.case(m, min(main.selected, m), main.step) for m in wanted]

    @property
    def capacity_curve(self) -> list[Case]:
        """The cases of the curve against L that the table does not hold."""
        if not self.curves:
            return []
        main = self.main_case
        return [
            self.case(main.labels, main.selected, main.step, capacity)
            for capacity in sorted({*self.capacities} - {self.capacity})
        ]
