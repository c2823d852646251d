"""``tanl bench trust``: what few outliers, orders, batch sizes and attacks do to methods that learn from their stream.

Long streams are made of seeded variants of the pictograms, or of the photographs (`tanl.benchmarks.data.augment`).
Pictures that calibration images are made of are in no stream. The settings of TANL's preset ``practice`` were chosen on
the pictograms' ID sets animals and food with variants of another seed; the sets and seeds here took no part in that.
The split ``structured`` is made-up embeddings with CLIP's structure (`tanl.benchmarks.data.structured`).
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from statistics import fmean

import torch

from tanl.backbones import load_backbone
from tanl.io.options import BATCH_SIZE, add_options, check_settings, setting, settings_of
from tanl.io.text import did_you_mean

from .engine.shipped import SHIPPED
from .engine.trust.images import Images, made_up, variants_of
from .engine.trust.measures import JUDGED, MEASURED, Found, measure
from .output.targets import add_json_option, check_targets, write_json

STRUCTURED = "structured"
# Split -> what its images are embedded by, where it has images, and the ID sets that took no part in choosing.
_SPLITS: dict[str, tuple[str | None, tuple[str, ...]]] = {
    "pictograms": ("mini", ("travel", "objects", "coarse-10")),
    "photographs": ("mini-photo", ("animals", "animal-classes")),
    STRUCTURED: (None, ("near", "far", "both")),
}


@dataclass(frozen=True)
class Config:
    """What is measured, with the command's options.

    Raises:
        TypeError, ValueError: an unknown split, ID set, method or part, a backbone where there are no images, or a
            number that is too small; the message names it.
    """

    split: str = setting(
        "pictograms", f"whose images; {STRUCTURED}: made-up embeddings with CLIP's structure", choices=_SPLITS
    )
    backbone: str | None = setting(
        None, "what embeds the images (default: mini; of photographs mini-photo)", metavar="NAME"
    )
    tracks: tuple[str, ...] = setting(
        (),
        f"ID sets (default: {'; '.join(f'of {split} ' + ', '.join(names) for split, (_, names) in _SPLITS.items())})",
        metavar="NAMES",
    )
    length: int = setting(2400, "images a stream", metavar="N", at_least=20 * BATCH_SIZE)
    seeds: int = setting(3, "orders of each", metavar="N", at_least=1)
    augment_seed: int = setting(1, "of the variants", metavar="N", at_least=1)
    parts: tuple[str, ...] = setting(
        tuple(MEASURED),
        f"what to measure (default: {', '.join(MEASURED)})",
        metavar="NAMES",
        choices=MEASURED,
    )
    methods: tuple[str, ...] = setting(
        tuple(JUDGED), f"what is judged (default: {', '.join(JUDGED)})", metavar="NAMES", choices=JUDGED
    )

    def __post_init__(self) -> None:
        check_settings(self)
        there = self._tracks()
        if unknown := [name for name in self.tracks if name not in there]:
            hint = did_you_mean(unknown[0], there)
            raise ValueError(f"no track {unknown[0]!r} of {self.split}; there are {', '.join(there)}{hint}")
        if self.split == STRUCTURED and self.backbone is not None:
            raise ValueError(
                f"--split {STRUCTURED} has no images for --backbone {self.backbone}: leave it out"
            )

    def _tracks(self) -> tuple[str, ...]:
        return _SPLITS[self.split][1] if self.split == STRUCTURED else tuple(SHIPPED[self.split].tracks)

    def with_defaults(self) -> Config:
        """The same with the split's ID sets and backbone, where none were given."""
        backbone, tracks = _SPLITS[self.split]
        return replace(self, backbone=self.backbone or backbone, tracks=self.tracks or tracks)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the command's options."""
    add_options(parser, Config)
    add_json_option(parser)


def main(arguments: argparse.Namespace) -> int:
    """Run the command and print its tables."""
    config = settings_of(arguments, Config()).with_defaults()
    check_targets(arguments.json)
    found = measure(
        config.tracks,
        _images_of(config),
        length=config.length,
        seeds=range(config.seeds),
        parts=config.parts,
        methods=config.methods,
        progress=True,
    )
    print(
        f"{config.split}: means over {', '.join(config.tracks)} and {config.seeds} orders; {config.length} images a "
        f"stream, batches of {BATCH_SIZE}; percent"
    )
    print(format_tables(found))
    if arguments.json is not None:
        streams = [
            {"part": part, "case": case, "method": method, **values}
            for (part, case, method), values in found.items()
        ]
        write_json(arguments.json, {"torch": torch.__version__, **asdict(config), "streams": streams})
    return 0


def _images_of(config: Config) -> Callable[[str], Images]:
    """What gives the images of an ID set."""
    if config.backbone is None:
        return lambda track: made_up(track, length=config.length, seed=config.augment_seed)
    split, backbone = SHIPPED[config.split], load_backbone(config.backbone)
    return lambda track: variants_of(
        split, track, backbone, length=config.length, seed=config.augment_seed, progress=True
    )


def format_tables(found: Found) -> str:
    """A table for each part, a line for each case and method, means over the streams."""
    lines = []
    for part in dict.fromkeys(part for part, _, _ in found):
        rows = {key[1:]: values for key, values in found.items() if key[0] == part}
        measures = list(dict.fromkeys(name for values in rows.values() for name in values))
        lines += ["", f"{part:34}{'':16}" + "".join(f"{name:>24}" for name in measures)]
        for (case, method), values in rows.items():
            cells = [f"{fmean(values[name]):24.1f}" if name in values else f"{'-':>24}" for name in measures]
            lines.append(f"{case:34}{method:16}" + "".join(cells))
    return "\n".join(lines)
