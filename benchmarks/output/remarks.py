"""What to say beside a run's tables: what was run, what figures mean, and which of those in print they meet."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import product
from typing import Any

from tanl.io.text import counted, first_of
from tanl.metrics import HEADLINE

from ..data.splits import SPLITS
from ..engine.bootstrap import RESAMPLES
from ..engine.run_folder import ANY_ORDER, RunFolder
from ..engine.tasks import PUBLISHED as PUBLISHED_PROTOCOL
from .published import BACKBONE, PUBLISHED, TOLERANCE, Published, is_published_backbone, of_split
from .summary import Block, Value, beside

MEANINGS = (
    "FPR95: share of ID images flagged when 95 % of OOD images are caught (OOD is the positive class, as in OpenOOD).",
    "FPR95_ID: share of OOD images accepted when 95 % of ID images are (ID is positive, as in MCM and NegLabel).",
)

INTERVALS = (
    f"In brackets bootstrap 95 % intervals over images: {RESAMPLES} resamples, the same for every method, order and "
    "seed, of the streams as they were measured."
)

_NAMES_SHOWN = 5


def wants_intervals(asked: bool, folders: Iterable[RunFolder]) -> bool:
    """Whether tables of these runs have intervals: where they are asked for, and where a split has few images."""
    splits = (SPLITS.get(str(folder.run["config"].get("split"))) for folder in folders)
    return asked or any(split is not None and split.few_images for split in splits)


def caption(folder: RunFolder) -> str:
    """What was run, in a line."""
    config, environment = folder.run["config"], folder.run["environment"]
    seeds, orders = config.get("seeds", []), config.get("orders", [])
    split = SPLITS.get(str(config.get("split")))
    one_stream = split is not None and bool(split.drift)
    state = "the state kept from one OOD set to the next" if one_stream else "the state new for each OOD set"
    return (
        f"{config.get('split')}: backbone {environment.get('backbone', config.get('backbone'))}, "
        f"corpus {environment.get('corpus', config.get('corpus'))} with the removal {config.get('removal')!r}, "
        f"{config.get('preprocessing')} preprocessing, batches of {config.get('batch_size')}, "
        f"{counted(len(seeds), 'seed')} ({', '.join(map(str, seeds))}), "
        f"{counted(len(orders), 'order')} ({', '.join(orders)}), {state}"
    )


def notes(folder: RunFolder) -> list[str]:
    """What a reader of the figures must know: cut, augmented, miscounted and unfinished runs, unreadable images."""
    config = folder.run["config"]
    lines = []
    if config.get("limit"):
        lines.append(
            f"Limited to {config['limit']} images a set: a quick look, comparable with no other figures."
        )
    if config.get("augmented") or config.get("stream_length"):
        length = f" of {config['stream_length']} images" if config.get("stream_length") else ""
        lines.append(
            f"Augmented: the streams{length} were drawn from smaller sets by seeded augmentation; "
            "they are not the sets' own results. Intervals resample the sets' own images, each with its variants."
        )
    if config.get("only_ood"):
        lines.append(
            f"Of the split's OOD sets only {', '.join(config['only_ood'])}: means are over these alone."
        )
    if config.get("full_spectrum"):
        lines.append("Full spectrum: covariate-shifted images of the ID classes count as ID.")
    for method, reason in folder.run.get("left_out", {}).items():
        lines.append(f"{method} was not run: {reason}.")
    for part in folder.run["sets"]:
        name = _set_name(part)
        if _is_miscounted(part, config):
            count, expected = (f"{part[key]:,}".replace(",", " ") for key in ("count", "expected"))
            lines.append(f"{name}: {count} images, where the published set has {expected}.")
        unreadable = part.get("unreadable") or []
        if unreadable:
            some = f"{counted(len(unreadable), 'image')} left out, because unreadable"
            lines.append(f"{name}: {some}: {first_of(unreadable, _NAMES_SHOWN)}.")
    missing = _missing(folder)
    if missing:
        lines.append(f"Unfinished: {counted(missing, 'stream')} missing of those that were asked for.")
    return lines


def reproduction(folder: RunFolder, blocks: Sequence[Block]) -> list[str]:
    """Which figures in print this run reproduces and which it does not, plainly; pass it the blocks of all orders."""
    split = folder.run["config"].get("split", "")
    splits = list(dict.fromkeys(row.split for row in PUBLISHED))
    reasons = _not_comparable(folder)
    if reasons:
        return [
            f"This run reproduces no published figure ({'; '.join(reasons)}). "
            f"Not reproduced: all published figures of {', '.join(splits)}."
        ]
    measured: dict[Published, dict[str, Value]] = {}
    for block in blocks:
        for method, column, metric in product(block.methods, block.columns, HEADLINE):
            figure, value = beside(split, block, method, column, metric), block.value(method, column, metric)
            if figure is not None and value is not None:
                measured.setdefault(figure, {})[method] = value
    agreeing: list[str] = []
    differing: list[str] = []
    unmeasured: list[str] = []
    for row in of_split(split):
        what = f"{row.ood} {row.metric}" + ("" if row.order == "shuffled" else f" {row.order}")
        if row not in measured:
            unmeasured.append(f"{row.method} {what} {100 * row.value:.2f}")
        for method, value in measured.get(row, {}).items():
            near = abs(value.mean - row.value) <= TOLERANCE[split]
            found = f"{method} {what} {100 * value.mean:.1f} (published {100 * row.value:.2f})"
            (agreeing if near else differing).append(found)
    points = f"{100 * TOLERANCE[split]:.1f} points"
    elsewhere = [name for name in splits if name != split]
    return [
        f"Within {points} of print: {', '.join(agreeing) or 'none'}.",
        f"Not reproduced, further than {points} from print: {', '.join(differing) or 'none'}.",
        f"Not reproduced, because not measured in this run: {', '.join(unmeasured) or 'none'}.",
        f"Not reproduced, because of other splits: all published figures of {', '.join(elsewhere)}.",
    ]


def _not_comparable(folder: RunFolder) -> list[str]:
    """Why a run's figures cannot be held against those in print; empty where they can."""
    config = folder.run["config"]
    backbone = str(folder.run["environment"].get("backbone", config.get("backbone")))
    reasons = []
    if not of_split(config.get("split", "")):
        reasons.append(f"other images: none is published for the split {config.get('split')!r}")
    if not is_published_backbone(backbone):
        reasons.append(f"another backbone: {backbone}, not {BACKBONE}")
    for name, value in PUBLISHED_PROTOCOL.items():
        if config.get(name) != value:
            reasons.append(f"{name} {config.get(name)}, not {value} (run with --published)")
    if config.get("limit"):
        reasons.append("fewer images")
    if config.get("augmented") or config.get("stream_length"):
        reasons.append("augmented streams")
    if config.get("full_spectrum"):
        reasons.append("covariate-shifted images among the ID images")
    if config.get("labels"):
        reasons.append("class names of one's own")
    if any(part.get("unreadable") or _is_miscounted(part, config) for part in folder.run["sets"]):
        reasons.append("sets that are not whole")
    return reasons


def _is_miscounted(part: Mapping[str, Any], config: Mapping[str, Any]) -> bool:
    if config.get("limit") or config.get("stream_length") or part.get("expected") is None:
        return False
    return bool(part["count"] != part["expected"])


def _missing(folder: RunFolder) -> int:
    """How many streams the configuration asks for that have no cell yet."""
    config = folder.run["config"]
    there: dict[tuple[str, str, str], set[tuple[str, int | None]]] = {}
    for cell in folder.cells():
        there.setdefault((cell.track, cell.method, cell.ood), set()).add((cell.order, cell.seed))
    streamless = {method for (_, method, _), streams in there.items() if (ANY_ORDER, None) in streams}
    wanted = set(product(config.get("orders", []), config.get("seeds", [])))
    missing = 0
    for part in folder.run["sets"]:
        for method in config.get("methods", []) if part["role"] not in ("id", "covariate") else ():
            streams = there.get((part["track"], method, part["name"]), set())
            missing += len(({(ANY_ORDER, None)} if method in streamless else wanted) - streams)
    return missing


def _set_name(part: Mapping[str, Any]) -> str:
    return f"{part['track']}, {part['name']}" if part.get("track") else str(part["name"])
