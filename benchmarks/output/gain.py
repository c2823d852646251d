"""What each method of a run gains over one of them, with paired intervals: ``tanl bench table RUN --over METHOD``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from tanl.io.text import did_you_mean
from tanl.metrics import HEADLINE

from ..engine.bootstrap import Floats, interval, mean_of_sets
from ..engine.run_folder import ANY_ORDER, Cell, RunFolder
from .markdown import escaped, pipes
from .remarks import INTERVALS, MEANINGS, caption, notes
from .summary import (
    cells_of,
    columns_of,
    in_brackets,
    overall,
    percent,
    resampled,
    resamples_of,
    wanted_orders,
)

Stream = tuple[str, str, int | None]
"""OOD set, order and seed."""


@dataclass(frozen=True)
class Gain:
    """What a method's metric is on one ID set, less the other method's: fractions.

    Attributes:
        mean: over orders and seeds, of the means over near and far OOD sets.
        interval: its bootstrap 95 % interval over images, those of both methods the same.
    """

    mean: float
    interval: tuple[float, float]

    @property
    def is_clear(self) -> bool:
        """Whether the interval leaves out zero."""
        return self.interval[0] > 0 or self.interval[1] < 0


def gains(
    folder: RunFolder, over: str, orders: Sequence[str] | None = None
) -> dict[tuple[str, str, str], Gain]:
    """By method, ID set and metric; methods that lack a stream which the other has are left out there.

    Args:
        folder: the run.
        over: the method that is subtracted.
        orders: the orders that are wanted; None for all.

    Raises:
        ValueError: the run has no cell yet, or none of a method or an order that is wanted; damaged scores.
    """
    cells = cells_of(folder)
    methods = tuple(dict.fromkeys(cell.method for cell in cells))
    if over not in methods:
        hint = did_you_mean(over, methods)
        raise ValueError(f"{folder.path} has no method {over}; it has {', '.join(methods)}{hint}")
    orders = wanted_orders(folder, cells, orders)
    found: dict[tuple[str, str, str], Gain] = {}
    for track in dict.fromkeys(cell.track for cell in cells):
        found |= _of_track(folder, track, [cell for cell in cells if cell.track == track], over, orders)
    return found


def _of_track(
    folder: RunFolder, track: str, cells: Sequence[Cell], over: str, orders: Sequence[str]
) -> dict[tuple[str, str, str], Gain]:
    resamples = resamples_of(folder, cells)
    sets = overall(columns_of({cell.ood: cell.role for cell in cells})).sets
    wanted = [cell for cell in cells if cell.ood in sets and cell.order in (*orders, ANY_ORDER)]
    means: dict[str, dict[str, float]] = {}
    samples: dict[str, Floats] = {}
    streams: dict[str, frozenset[Stream]] = {}
    for method in dict.fromkeys(cell.method for cell in wanted):
        own = [cell for cell in wanted if cell.method == method]
        # One method at a time: the resamples of all cells of a large run take gigabytes.
        samples[method] = mean_of_sets(list(resampled(folder, resamples, own).values()))
        means[method] = {metric: fmean(cell.metrics[metric] for cell in own) for metric in HEADLINE}
        streams[method] = frozenset((cell.ood, cell.order, cell.seed) for cell in own)
    found = {}
    for method in means if over in means else ():
        if method == over or not _alike(streams[method], streams[over]):
            continue
        for place, metric in enumerate(HEADLINE):
            difference = samples[method][:, place] - samples[over][:, place]
            mean = means[method][metric] - means[over][metric]
            found[method, track, metric] = Gain(mean, interval(difference))
    return found


def _alike(one: frozenset[Stream], other: frozenset[Stream]) -> bool:
    """Whether two methods judged the same streams; of one that keeps no state, the same sets."""
    if any(order == ANY_ORDER for _, order, _ in one | other):
        return {ood for ood, _, _ in one} == {ood for ood, _, _ in other}
    return one == other


def gain_markdown(folder: RunFolder, over: str, orders: Sequence[str] | None = None) -> str:
    """A table for each metric: rows are methods, columns ID sets, their mean, and on how many a gain is clear."""
    found = gains(folder, over, orders)
    cells = folder.cells()
    there = {method for method, _, _ in found}
    methods = [name for name in dict.fromkeys(cell.method for cell in cells) if name in there]
    tracks = list(dict.fromkeys(cell.track for cell in cells))
    parts = [
        f"**{escaped(caption(folder))}**",
        f"Points of percent more (+) or less (-) than {escaped(over)}: means over orders and seeds of the means over "
        f"near and far OOD sets. {INTERVALS} The mean over ID sets has none, since they may share images. *better / "
        "worse*: on how many ID sets the interval leaves out zero. An ID set's best is bold.",
        " ".join(MEANINGS),
    ]
    for metric in HEADLINE:
        lines = [
            pipes([metric, *(escaped(track or "overall") for track in tracks), "mean", "better / worse"])
        ]
        lines.append(pipes(["---"] * (len(tracks) + 3)))
        sign = 1 if metric == "AUROC" else -1
        best = {
            track: max(
                (sign * gain.mean for (_, *at), gain in found.items() if at == [track, metric]), default=0
            )
            for track in tracks
        }
        for method in methods:
            own = [found.get((method, track, metric)) for track in tracks]
            shown = [_shown(gain, sign, best[track]) for track, gain in zip(tracks, own, strict=True)]
            measured = [gain for gain in own if gain is not None]
            mean = (
                _signed(fmean(gain.mean for gain in measured)) if len(measured) == len(tracks) else "not run"
            )
            clear = [sign * gain.mean > 0 for gain in measured if gain.is_clear]
            lines.append(pipes([escaped(method), *shown, mean, f"{sum(clear)} / {len(clear) - sum(clear)}"]))
        parts.append("\n".join(lines))
    parts += [escaped(line) for line in notes(folder)]
    return "\n\n".join(parts) + "\n"


def _shown(gain: Gain | None, sign: int, best: float) -> str:
    if gain is None:
        return "not run"
    text = _signed(gain.mean)
    bold = sign * gain.mean == best and best > 0
    return f"{f'**{text}**' if bold else text} {in_brackets(gain.interval)}"


def _signed(fraction: float) -> str:
    text = percent(fraction)
    return text if text.startswith("-") else f"+{text}"
