"""``tanl demo``: a model that ships with tanl judges a stream of pictures that do, animals and everything else."""

from __future__ import annotations

import argparse
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

from ..io.arguments import a_path, positive_number
from ..io.options import BATCH_SIZE
from ..io.text import shown_percentage
from ..streams.results import Result

if TYPE_CHECKING:
    from ..backbones import Backbone
    from ..detectors.verdict import Verdict
    from ..guard.guard import Guard

_TRACK = "animals"
_KEPT = 0.95  # the share of animals that the threshold is to keep
_LISTED = 16
_PICTURED = 28


@dataclass(frozen=True)
class Subject:
    """What the demo judges: a split that ships with tanl.

    Attributes:
        split: its name.
        backbone: the model that is taken where none is named.
        calibration: how many animals set the threshold and are not in the stream; with 0 it is the method's own.
    """

    split: str
    backbone: str
    calibration: int


PHOTOGRAPHS = Subject("photographs", "mini-photo", calibration=20)
PICTOGRAMS = Subject("pictograms", "mini", calibration=0)


@dataclass(frozen=True)
class Picture:
    """An image of the benchmark, with what is really on it."""

    path: Path
    label: str
    is_id: bool


@dataclass(frozen=True)
class Judged:
    """A picture with what was said of it."""

    truth: Picture
    result: Result

    @property
    def verdict(self) -> Verdict:
        verdict = self.result.verdict
        assert verdict is not None, f"{self.truth.path} ships with tanl: {self.result.error}"
        return verdict

    @property
    def is_right(self) -> bool:
        return self.verdict.is_ood is not self.truth.is_id

    @property
    def why(self) -> list[tuple[str, str]]:
        """The negative labels that an outlier activated, or the best ID label of an image judged ID."""
        verdict = self.verdict
        if verdict.is_ood:
            return [(item.label, shown_percentage(item.probability)) for item in verdict.evidence]
        return [(verdict.label, shown_percentage(verdict.id_probability))]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the command's arguments."""
    parser.description = (
        "Judge photographs that come with tanl by a model that comes with it: is it an animal, or something "
        "else? Needs no network. The first run embeds the words of WordNet and keeps the embeddings."
    )
    parser.add_argument(
        "--pictograms",
        action="store_true",
        help="judge pictograms, more of them, without a calibrated threshold",
    )
    parser.add_argument(
        "--backbone",
        metavar="NAME",
        help=f"the model (default: {PHOTOGRAPHS.backbone}; of pictograms {PICTOGRAMS.backbone})",
    )
    parser.add_argument(
        "--out",
        metavar="DIR",
        type=a_path,
        default=Path("tanl-demo"),
        help="where the picture of the run goes (default: %(default)s)",
    )
    parser.add_argument(
        "--images",
        metavar="N",
        type=positive_number,
        default=256,
        help="how many images to judge, half of them animals as far as there are enough (default: %(default)s)",
    )
    parser.add_argument(
        "--seed",
        metavar="N",
        type=int,
        default=0,
        help="which images, in which order, and which are shown (default: %(default)s)",
    )


def main(arguments: argparse.Namespace) -> int:
    """Carry the command out and return its exit code."""
    started = time.perf_counter()
    if arguments.images < _LISTED:
        raise ValueError(f"--images {arguments.images} is too few to show anything; give {_LISTED} or more")
    arguments.out.mkdir(parents=True, exist_ok=True)
    subject = PICTOGRAMS if arguments.pictograms else PHOTOGRAPHS
    pictures = read_pictures(subject.split)
    labels = sorted({picture.label for picture in pictures if picture.is_id})
    chance = random.Random(arguments.seed)
    known, pictures = hold_out(pictures, subject.calibration, chance)
    stream = draw_stream(pictures, arguments.images, chance)
    _say(f"tanl demo: is it an animal? A vision-language model judges {subject.split}, without training.\n")

    from ..backbones import load_backbone
    from ..backbones.base import height_and_width
    from ..streams.images import ImageEncoder, judge_images
    from ..streams.pump import Timings

    backbone = load_backbone(arguments.backbone or subject.backbone)
    loading = time.perf_counter() - started
    height, width = height_and_width(backbone.image_size)
    _say(f"model      {backbone.name}, {height} x {width} pixels; needs no network")
    _say(f"ID labels  {len(labels)} animals: {', '.join(labels[:6])}, ...")
    guard, embedding, was_cached = _guard(backbone, labels)
    _say(f"negatives  {guard.bank.num_negatives} nouns and adjectives of WordNet")
    if known:
        threshold = guard.calibrate([picture.path for picture in known], _KEPT)
        _say(
            f"threshold  {threshold:.4f} at first, to keep {_KEPT:.0%} of animals: from {len(known)} that are not in "
            "the stream, which it follows"
        )
    _say(f"stream     {len(stream)} images, animals and others shuffled, in batches of {BATCH_SIZE}\n")

    timings = Timings()
    paths = [picture.path for picture in stream]
    batches = judge_images(
        ImageEncoder(backbone), paths, guard.detect_embeddings, batch_size=BATCH_SIZE, timings=timings
    )
    judged = [Judged(*pair) for pair in zip(stream, chain.from_iterable(batches), strict=True)]

    inside, outside = choose_examples(judged, _PICTURED // 2, random.Random(arguments.seed))
    _list([*inside[: _LISTED // 2], *outside[: _LISTED // 2]])
    _say(f"\n{counts(judged)}; threshold {guard.detector.threshold:.4f} at the end\n")
    picture = arguments.out / "verdicts.png"
    draw_picture(inside, outside, counts(judged), picture)

    cache = "from the cache" if was_cached else "kept in the cache for the next run"
    share = f"{timings.images_per_second:.0f} images/s; scoring is {timings.scoring_share:.0%} of the time"
    _say(f"loading the model        {loading:6.1f} s")
    _say(f"text embeddings          {embedding:6.1f} s  ({cache})")
    _say(f"image files to verdicts  {timings.total:6.1f} s  ({share})")
    _say(f"the whole run            {time.perf_counter() - started:6.1f} s")
    _say(f"\nThe picture of this run: {picture}")
    return 0


def _say(line: str) -> None:
    # Flushed, so that a reader behind a pipe sees each step when it is done.
    print(line, flush=True)


def _guard(backbone: Backbone, labels: Sequence[str]) -> tuple[Guard, float, bool]:
    """The guard, the seconds that its text embeddings took, and whether the corpus's were in the cache."""
    from ..guard.guard import Guard
    from ..io.cache import default_cache_dir

    def files() -> set[Path]:
        return set(default_cache_dir().rglob("*.safetensors"))

    before, started = files(), time.perf_counter()
    if not before:
        _say("           (embedding all of WordNet, once; later runs read it from the cache)")
    guard = Guard(backbone, labels, corpus="wordnet", progress=True)
    return guard, time.perf_counter() - started, files() == before


def read_pictures(split: str) -> list[Picture]:
    """The images of the animal track of a split that ships, with their class names, and of all its OOD sets."""
    from tanl.benchmarks.engine.shipped import SHIPPED

    shipped = SHIPPED[split]
    rows = shipped.read(shipped.folder)
    chosen = shipped.tracks[_TRACK].select(rows)
    inside = [
        Picture(shipped.folder / rows[index].file, chosen.classes[target], is_id=True)
        for index, target in zip(chosen.images, chosen.targets, strict=True)
    ]
    outside = [
        Picture(shipped.folder / rows[index].file, rows[index].label, is_id=False)
        for _, members in chosen.ood.values()
        for index in members
    ]
    return inside + outside


def hold_out(
    pictures: Sequence[Picture], count: int, chance: random.Random
) -> tuple[list[Picture], list[Picture]]:
    """``count`` of the ID pictures, and all others."""
    known = chance.sample([picture for picture in pictures if picture.is_id], count)
    return known, [picture for picture in pictures if picture not in known]


def draw_stream(pictures: Sequence[Picture], count: int, chance: random.Random) -> list[Picture]:
    """``count`` pictures in random order, half of them ID as far as there are enough."""
    inside = [picture for picture in pictures if picture.is_id]
    outside = [picture for picture in pictures if not picture.is_id]
    num_inside = min(count // 2, len(inside))
    drawn = chance.sample(inside, num_inside) + chance.sample(outside, min(count - num_inside, len(outside)))
    chance.shuffle(drawn)
    return drawn


def choose_examples(
    judged: Sequence[Judged], count: int, chance: random.Random
) -> tuple[list[Judged], list[Judged]]:
    """``count`` ID and ``count`` OOD images: random ones of the stream's second half, not the best ones."""
    settled = judged[len(judged) // 2 :]
    sides = ([item for item in settled if item.truth.is_id is is_id] for is_id in (True, False))
    inside, outside = (chance.sample(side, min(count, len(side))) for side in sides)
    return inside, outside


def counts(judged: Sequence[Judged]) -> str:
    """How many verdicts were right, in a line, and how well the scores separate ID from OOD."""
    from ..metrics import OODMetrics

    metrics = OODMetrics()
    metrics.update(
        [item.verdict.ood_score for item in judged], [0 if item.truth.is_id else -1 for item in judged]
    )
    values = metrics.compute()
    right = [sum(item.is_right for item in judged if item.truth.is_id is is_id) for is_id in (True, False)]
    named = sum(item.verdict.label == item.truth.label for item in judged if item.truth.is_id)
    return (
        f"{right[0]} of {values['num_id']} animals judged ID ({named} by their right name), "
        f"{right[1]} of {values['num_ood']} others judged OOD; "
        f"AUROC {values['AUROC']:.1%}, FPR95 {values['FPR95']:.1%}"
    )


def draw_picture(inside: Sequence[Judged], outside: Sequence[Judged], line: str, path: Path) -> None:
    """Write the contact sheet of these verdicts: the animals, then the others."""
    from .contact_sheet import Tile, contact_sheet

    tiles = [
        Tile(
            item.truth.path,
            item.truth.label,
            is_ood=bool(item.verdict.is_ood),
            ood_score=item.verdict.ood_score,
            why=item.why,
            is_wrong=not item.is_right,
        )
        for item in [*inside, *outside]
    ]
    lines = (
        line,
        "Random images of the stream's second half, animals first. Each has its verdict, its OOD score, what it "
        "really is, and why:",
        "an image judged ID the animal that it resembles, an image judged OOD the negative labels that it activated.",
    )
    contact_sheet(tiles, title="Is it an animal?", lines=lines).save(path)


def _list(judged: Sequence[Judged]) -> None:
    rows = [("file", "really", "verdict", "score", "looks like, or activates the negative labels")]
    for item in judged:
        name = "/".join(item.truth.path.parts[-2:])
        verdict = item.result.outcome + ("" if item.is_right else " wrong")
        why = ", ".join(" ".join(pair) for pair in item.why[:3])
        rows.append((name, item.truth.label, verdict, f"{item.verdict.ood_score:.4f}", why))
    name_width, label_width = (max(len(row[column]) for row in rows) for column in (0, 1))
    for name, label, verdict, score, why in rows:
        _say(f"{name:<{name_width}}  {label:<{label_width}}  {verdict:<9}  {score:>6}  {why}")
