"""A whole run: the table, the curves, and the GPU's rows where there is one."""

from __future__ import annotations

import datetime
import os
import platform
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

import tanl
from tanl import kernels

from .config import Case, Config, Spec
from .measure import CaseResult, as_json, describe, measure
from .process import Connect
from .roofline import Roofline, roofline_of
from .targets import Target, judge

Log = Callable[[str], None]


@dataclass
class Result:
    """What a run gave.

    Attributes:
        config: what was asked for.
        environment: on what.
        table: the cases of the table.
        labels_curve: cases of the curve against M that the table does not hold.
        capacity_curve: the same against L.
        gpu: the table's cases on a GPU; None without one.
        roofline: that GPU's.
        targets: what was aimed at, and what came out.
        seconds: that the run took.
    """

    config: Config
    environment: dict[str, Any]
    table: list[CaseResult]
    labels_curve: list[CaseResult]
    capacity_curve: list[CaseResult]
    gpu: list[CaseResult] | None
    roofline: Roofline | None
    targets: list[Target]
    seconds: float

    @property
    def backends(self) -> tuple[str, ...]:
        """The CPU's, the one that tanl takes by itself last."""
        return tuple(self.environment["backends"])

    @property
    def failed(self) -> list[str]:
        """Contenders that should have run and did not."""
        cases = self.table + self.labels_curve + self.capacity_curve + (self.gpu or [])
        return [f"{one.spec.name}: {one.note}" for case in cases for one in case.contenders if one.failed]

    def as_json(self) -> dict[str, Any]:
        """Everything, down to the single rounds."""
        return {
            "config": asdict(self.config),
            "environment": self.environment,
            "table": [as_json(case) for case in self.table],
            "labels_curve": [as_json(case) for case in self.labels_curve],
            "capacity_curve": [as_json(case) for case in self.capacity_curve],
            "gpu": "not measured" if self.gpu is None else [as_json(case) for case in self.gpu],
            "roofline": None if self.roofline is None else asdict(self.roofline),
            "targets": [asdict(target) for target in self.targets],
            "seconds": self.seconds,
        }


def run(config: Config, *, connect: Connect, log: Log, gpu_only: bool = False) -> Result:
    """Measure everything that the configuration asks for.

    Args:
        config: what to run.
        connect: makes workers, `process.OwnProcess` for figures that are meant.
        log: takes a line of progress.
        gpu_only: leave the CPU's cases out, and with them the targets.
    """
    started = time.perf_counter()
    backends = kernels.available("cpu")
    ours = [Spec("tanl", backend) for backend in backends]
    halves = [Spec("tanl", backend, "float16") for backend in backends if config.half]
    environment = _environment(config, backends)

    def measured(cases: list[Case], what: str, specs: list[Spec]) -> list[CaseResult]:
        results = []
        for number, case in enumerate(cases, start=1):
            log(f"{time.perf_counter() - started:4.0f} s: {what} {number} of {len(cases)}: {describe(case)}")
            results.append(measure(case, specs, repeats=config.repeats, connect=connect))
        return results

    on_cpu = [] if gpu_only else config.table
    table = measured(on_cpu, "case", [Spec("bare"), Spec("naive"), *ours, *halves])
    labels_curve = measured(
        [] if gpu_only else config.labels_curve, "curve against M,", [Spec("bare"), *ours]
    )
    capacity_curve = measured(
        [] if gpu_only else config.capacity_curve, "curve against L,", [Spec("bare"), *ours]
    )
    gpu, roofline = None, None
    if torch.cuda.is_available():
        roofline = roofline_of(torch.device("cuda"))
        gpu = measured(config.table, "case on the GPU,", gpu_specs("cuda"))
    result = Result(
        config, environment, table, labels_curve, capacity_curve, gpu, roofline, targets=[], seconds=0.0
    )
    if not gpu_only:
        result.targets = judge(table, labels_curve, capacity_curve, config, backends)
    result.seconds = time.perf_counter() - started
    return result


def gpu_specs(device: str) -> list[Spec]:
    """Who takes part on a GPU."""
    backends = kernels.available(device)
    return [
        Spec("bare", device=device),
        Spec("bare", dtype="float16", device=device),
        Spec("naive", device=device),
        *(Spec("tanl", backend, device=device) for backend in backends),
        *(Spec("tanl", backend, "float16", device) for backend in backends),
    ]


def _environment(config: Config, backends: tuple[str, ...]) -> dict[str, Any]:
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    return {
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "processor": processor(),
        "processors": os.cpu_count(),
        "threads": config.threads,
        "load_before": load,
        "machine": platform.machine(),
        "system": f"{platform.system()} {platform.release()}",
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "backends": list(backends),
        "python": platform.python_version(),
        "tanl": tanl.__version__,
        "torch": torch.__version__,
        "mkl": torch.backends.mkl.is_available(),  # type: ignore[no-untyped-call]
    }


def processor() -> str:
    """The processor's model name."""
    described = Path("/proc/cpuinfo")  # Linux only
    lines = described.read_text(encoding="utf-8").splitlines() if described.exists() else []
    for line in lines:
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()
