"""The command: one part after the other, each with its own luck, into a file and a table for docs/speed.md."""

from __future__ import annotations

import argparse
import datetime
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from tanl.benchmarks.output.targets import check_targets, write_json
from tanl.io.arguments import a_path

from .ceilings import ceilings, environment, floors
from .choices import choices
from .operations import operations
from .parity import against_float64, golden_cases, surroundings
from .sizes import QUICK, Sizes
from .steps import asked, profile, steps

# What tells most comes first, in case the time on the device ends.
PARTS: dict[str, Callable[[torch.device, Sizes], Any]] = {
    "parity": against_float64,
    "golden": golden_cases,
    "ceilings": ceilings,
    "floors": floors,
    "choices": choices,
    "steps": steps,
    "asked": asked,
    "surroundings": surroundings,
    "profile": profile,
    "operations": lambda device, sizes: list(operations(device, sizes)),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the command's options."""
    parser.description = (
        "Everything that the first minutes on a GPU should tell: parity with float64 and with the published outputs, "
        "ceilings, the step eager and captured, where it waits, a profile, and each operation."
    )
    parser.add_argument(
        "--device", default="cuda", help="cuda, cuda:1; cpu only to try the command (default: cuda)"
    )
    parser.add_argument("--quick", action="store_true", help="small shapes: a minute on a CPU")
    parser.add_argument("--parts", metavar="NAMES", default=",".join(PARTS), help="some of %(default)s")
    parser.add_argument(
        "--json",
        type=a_path,
        default=Path("tanl-gpu.json"),
        metavar="FILE",
        help="where everything that was measured goes, part by part (default: %(default)s)",
    )


def main(arguments: argparse.Namespace) -> int:
    """Run the command and print its tables; 1 where a part failed."""
    check_targets(arguments.json)
    device = torch.device(arguments.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ValueError("there is no GPU here; --device cpu --quick runs the same on the CPU, to try it")
    chosen = [name.strip() for name in arguments.parts.split(",")]
    for name in chosen:
        if name not in PARTS:
            raise ValueError(f"no part {name!r}; there are {', '.join(PARTS)}")
    sizes = QUICK if arguments.quick else Sizes()
    record: dict[str, Any] = {
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "sizes": asdict(sizes),
        "environment": environment(device),
        "seconds": {},
        "failed": {},
    }
    print(described(record["environment"]))
    for name in chosen:
        began = time.perf_counter()
        try:
            record[name] = PARTS[name](device, sizes)
            print(f"\n### {name}\n\n{table(name, record[name])}", flush=True)
        except Exception as error:  # the others are worth having
            record["failed"][name] = f"{type(error).__name__}: {error}"
            print(f"\n### {name}\n\nfailed: {record['failed'][name]}", flush=True)
        record["seconds"][name] = time.perf_counter() - began
        write_json(arguments.json, record)
    return 1 if record["failed"] else 0


def described(about: dict[str, Any]) -> str:
    """The device and the versions in a line."""
    name = about.get("gpu", about["device"])
    return (
        f"{name}, torch {about['torch']}, Triton {about['triton']}, tanl {about['tanl']}, "
        f"backends {', '.join(about['backends'])}"
    )


def table(name: str, content: Any) -> str:
    """A part as Markdown."""
    if name == "asked":
        content = [
            {
                "step": step,
                **{what: one[what]["count"] for what in ("operations", "launches", "waits")},
                "places where torch waits": one["sites"]
                if isinstance(one["sites"], str)
                else len(one["sites"]),
            }
            for step, one in content.items()
        ]
    rows = [content] if isinstance(content, dict) else content
    columns = list(dict.fromkeys(key for row in rows for key in row))
    lines = [_line(columns), _line("---" for _ in columns)]
    return "\n".join(lines + [_line(_cell(row.get(column)) for column in columns) for row in rows])


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _cell(value: Any) -> str:
    return "" if value is None else f"{value:.3g}" if isinstance(value, float) else str(value)
