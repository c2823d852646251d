"""The command of a model that is trained in stages, each of which keeps what it made."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from tanl.io.arguments import a_path

from . import inputs


@dataclass(frozen=True)
class Workspace:
    """The folder that holds every stage's outputs, and the unpacked packages."""

    root: Path
    packages: dict[str, Path]

    def path(self, name: str) -> Path:
        return self.root / name


def run_stages(
    stages: Mapping[str, Callable[[Workspace], None]],
    packages: Sequence[inputs.Package],
    *,
    description: str | None,
    threads: int,
    arguments: Sequence[str] | None = None,
) -> None:
    """Read the command's options, unpack the packages, and run the stages that are asked for, in their order.

    Args:
        stages: by name.
        packages: whose archives are needed.
        description: of the command.
        threads: that torch computes with, where no option says otherwise.
        arguments: of the command; None takes the process's.
    """
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--packages", type=a_path, required=True, help="folder of package archives")
    parser.add_argument("--out", type=a_path, required=True, help="folder for stage outputs and the model")
    parser.add_argument("--stage", choices=[*stages, "all"], default="all")
    parser.add_argument("--threads", type=int, default=threads)
    options = parser.parse_args(arguments)
    try:
        archives = inputs.find(options.packages, packages)
    except inputs.MissingInputError as error:
        parser.exit(1, f"{error}\n")
    torch.set_num_threads(options.threads)
    folders = inputs.unpack(archives, options.out / "packages")
    workspace = Workspace(options.out, {package.name: folder for package, folder in folders.items()})
    for name, stage in stages.items():
        if options.stage in (name, "all"):
            started = time.perf_counter()
            stage(workspace)
            print(f"{name}: {time.perf_counter() - started:.0f} s", flush=True)
