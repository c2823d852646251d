"""``python -m tools beyond``: what the modules of tanl.beyond find where the answer is known.

A module a part: planted differences, long tails to be curated, downsized images, pools of examples, and a small
language model that knows some facts. Nothing was tuned on these figures: the modules' constants, and the words that
count as found, were set before the first run.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from tanl.benchmarks.output.targets import add_json_option, check_targets, write_json
from tanl.io.options import add_options, check_settings, setting, settings_of

from . import curation, differences, examples, head_entropy, latents
from .images import MODELS, Images, load

_MEASURED: dict[str, Callable[[Mapping[str, Images], Sequence[int]], Iterable[dict[str, Any]]]] = {
    "difference": differences.measured,
    "curation": curation.measured,
    "latents": latents.measured,
    "examples": examples.measured,
    "head-entropy": head_entropy.measured,
}
_WITHOUT_IMAGES = {"head-entropy"}
PARTS = tuple(_MEASURED)


@dataclass(frozen=True)
class Config:
    """What is measured."""

    parts: tuple[str, ...] = setting(PARTS, "of what", choices=PARTS, metavar="NAMES")
    seeds: tuple[int, ...] = setting((0, 1), "of groups, tails, pools and facts", metavar="N", at_least=0)

    def __post_init__(self) -> None:
        check_settings(self)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the study's options."""
    add_options(parser, Config)
    add_json_option(parser)


def main(arguments: argparse.Namespace) -> int:
    """Run the study and print its tables."""
    config = settings_of(arguments, Config())
    check_targets(arguments.json)
    found: dict[str, Any] = {}
    needed = {*config.parts} - _WITHOUT_IMAGES
    loaded = {name: load(name) for name in MODELS} if needed else {}
    for part in config.parts:
        found[part] = []
        print(f"\n{part}", flush=True)
        for line in _MEASURED[part](loaded, config.seeds):
            found[part].append(line)
            shown = (f"{key} {_shown(value)}" for key, value in line.items() if key != "pairs")
            print("  " + "  ".join(shown), flush=True)
    if arguments.json is not None:
        write_json(arguments.json, {"torch": torch.__version__, **vars(config), "found": found})
    return 0


def _shown(value: object) -> str:
    return f"{value:.1f}" if isinstance(value, float) else str(value)
