"""The report's charts, as what is drawn where, and the curves that they show; ``charts.jinja`` makes SVG of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import ceil, floor, log10

import numpy as np
import numpy.typing as npt

from tanl.metrics import wanted_at_95

Floats = npt.NDArray[np.floating]
Curve = Sequence[tuple[float, float]]

BINS = 40
STREAM_POINTS = 20
# Below this many OOD images "95 % of them" is all of them, and the figure says little.
_FEWEST = 20
_ROC_POINTS = 60
SERIES = 6
"""How many colours there are; the lines after them take the same colours again, dashed."""


@dataclass(frozen=True)
class Line:
    """A line of a chart: what it is called, its place among the series, its points, and whether it is drawn bold."""

    name: str
    series: int
    points: Curve
    bold: bool = False

    @property
    def kind(self) -> str:
        """Its classes in the style sheet."""
        dashed = f" dash{min(self.series // SERIES, 2)}" if self.series >= SERIES else ""
        return f"line s{self.series % SERIES}{dashed}{' bold' * self.bold}"


@dataclass(frozen=True)
class Path:
    """The course of a path, as SVG writes it, and its class in the style sheet."""

    kind: str
    course: str


@dataclass(frozen=True)
class Text:
    """Text at a place: "end" and "mid" say what of it is there, else its beginning."""

    x: str
    y: str
    shown: str
    anchor: str = ""


@dataclass(frozen=True)
class Polyline:
    """A drawn line, with its class in the style sheet, its points as SVG writes them, and what it is called."""

    kind: str
    points: str
    name: str


@dataclass(frozen=True)
class Chart:
    """A drawing of so many units, what it shows for those who cannot see it, and its parts, the topmost last."""

    width: int
    height: int
    label: str
    paths: Sequence[Path]
    texts: Sequence[Text]
    lines: Sequence[Polyline] = ()


def threshold_at_95(ood: Floats) -> float:
    """The largest threshold that catches 95 % of the OOD scores."""
    caught = wanted_at_95(len(ood))
    return float(np.partition(ood, len(ood) - caught)[len(ood) - caught])


def fpr95(id_scores: Floats, ood_scores: Floats) -> float:
    """The share of ID scores at or above the largest threshold that catches 95 % of the OOD scores."""
    return float((id_scores >= threshold_at_95(ood_scores)).mean())


def stream_curve(id_scores: Floats, ood_scores: Floats, positions: npt.NDArray[np.integer]) -> Curve:
    """FPR95 over all images so far, at evenly spaced points of the stream; pairs of images seen and FPR95.

    Points are left out before there are 20 ID and 20 OOD images.
    """
    scores = np.concatenate([id_scores, ood_scores])[positions]
    is_ood = positions >= len(id_scores)
    curve = []
    for part in range(1, STREAM_POINTS + 1):
        end = -(-part * len(scores) // STREAM_POINTS)
        seen, outside = scores[:end], is_ood[:end]
        if min(int(outside.sum()), int((~outside).sum())) >= _FEWEST:
            curve.append((float(end), fpr95(seen[~outside], seen[outside])))
    return curve


def roc_curve(id_scores: Floats, ood_scores: Floats) -> Curve:
    """Pairs of the share of ID images flagged and the share of OOD images caught, from (0, 0) to (1, 1)."""
    thresholds = np.unique(np.concatenate([id_scores, ood_scores]))[::-1]
    flagged = 1 - np.searchsorted(np.sort(id_scores), thresholds) / len(id_scores)
    caught = 1 - np.searchsorted(np.sort(ood_scores), thresholds) / len(ood_scores)
    # Evenly along the curve, so that neither its steep nor its flat part loses its shape.
    steps = np.diff(flagged, prepend=0) + np.diff(caught, prepend=0)
    wanted = np.linspace(0, steps.sum(), _ROC_POINTS)
    chosen = np.unique(np.searchsorted(np.cumsum(steps), wanted).clip(max=len(thresholds) - 1))
    return [(0.0, 0.0), *zip(flagged[chosen].tolist(), caught[chosen].tolist(), strict=True)]


def histogram(id_scores: Floats, ood_scores: Floats, label: str) -> Chart:
    """Score histograms, ID filled and OOD outlined, with a dashed line at the threshold that catches 95 % of OOD.

    Heights are square roots of the shares, so that the tails, where the mistakes are, can be seen. The first and the
    last bar hold what lies beyond the 0.1 and 99.9 % quantiles.
    """
    both = np.concatenate([id_scores, ood_scores])
    low, high = (float(value) for value in np.quantile(both, [0.001, 0.999]))
    if not high > low:
        low, high = low - 0.5, high + 0.5
    shares = [
        np.histogram(scores.clip(low, high), BINS, (low, high))[0] / len(scores)
        for scores in (id_scores, ood_scores)
    ]
    tallest = max(float(share.max()) for share in shares)
    left, width, top, base = 2, 196, 4, 72
    paths = []
    for share, kind in zip(shares, ("id", "ood"), strict=True):
        heights = np.sqrt(share / tallest) * (base - top)
        steps = "".join(
            f"V{base - height:.3g}H{left + width * (bar + 1) / BINS:.4g}"
            for bar, height in enumerate(heights)
        )
        paths.append(Path(kind, f"M{left} {base}{steps}V{base}z"))
    threshold = min(max((threshold_at_95(ood_scores) - low) / (high - low), 0), 1)
    paths.append(Path("guide", f"M{left + width * threshold:.4g} {top}V{base}"))
    paths.append(Path("axis", f"M{left} {base}h{width}"))
    ends = [Text(f"{left}", "84", _number(low)), Text(f"{left + width}", "84", _number(high), "end")]
    return Chart(200, 88, label, paths, ends)


def roc(lines: Sequence[Line], label: str) -> Chart:
    """ROC curves, with guides where 95 % of OOD is caught and where 5 % of ID is flagged."""
    return _line_chart(
        lines,
        label,
        x_top=1,
        y_top=1,
        x_title="ID images flagged, %",
        y_title="OOD images caught, %",
        x_shown=_percent,
        guides=(("h", 0.95), ("v", 0.05)),
    )


def stream(lines: Sequence[Line], label: str) -> Chart:
    """FPR95 so far against the number of images seen."""
    longest = max((point[0] for line in lines for point in line.points), default=1)
    highest = max((point[1] for line in lines for point in line.points), default=1)
    return _line_chart(
        lines,
        label,
        x_top=longest,
        y_top=min(1, max(0.1, ceil(10 * highest) / 10)),
        x_title="images seen",
        y_title=f"FPR95 so far, % (from {_FEWEST} ID and {_FEWEST} OOD images on)",
        x_shown=thousands,
        guides=(),
    )


def thousands(value: float) -> str:
    """A whole number with narrow spaces between its thousands."""
    return f"{round(value):,}".replace(",", "\u202f")


def _line_chart(
    lines: Sequence[Line],
    label: str,
    *,
    x_top: float,
    y_top: float,
    x_title: str,
    y_title: str,
    x_shown: Callable[[float], str],
    guides: Sequence[tuple[str, float]],
) -> Chart:
    left, right, top, bottom = 34, 412, 20, 226

    def x_of(value: float) -> float:
        return left + (right - left) * value / x_top

    def y_of(value: float) -> float:
        return bottom - (bottom - top) * value / y_top

    paths = [Path("grid", f"M{left} {y_of(tick):.4g}H{right}") for tick in _ticks(y_top)]
    for direction, value in guides:
        course = (
            f"M{left} {y_of(value):.4g}H{right}" if direction == "h" else f"M{x_of(value):.4g} {top}V{bottom}"
        )
        paths.append(Path("guide", course))
    texts = [Text(f"{left - 5}", f"{y_of(tick) + 3:.4g}", _percent(tick), "end") for tick in _ticks(y_top)]
    texts += [Text(f"{x_of(tick):.4g}", f"{bottom + 13}", x_shown(tick), "mid") for tick in _ticks(x_top)]
    texts += [Text("4", "10", y_title), Text(f"{right}", f"{bottom + 27}", x_title, "end")]
    # Bold lines last, above the others.
    drawn = [
        Polyline(line.kind, " ".join(f"{x_of(x):.4g},{y_of(y):.4g}" for x, y in line.points), line.name)
        for line in sorted(lines, key=lambda line: line.bold)
        if line.points
    ]
    return Chart(right + 8, bottom + 32, label, paths, texts, drawn)


def _ticks(top: float) -> list[float]:
    """Round values from 0 to at most ``top``, six of them or fewer."""
    unit = 10.0 ** floor(log10(top / 5))
    step = next(unit * factor for factor in (1, 2, 2.5, 5, 10) if top / (unit * factor) <= 5 + 1e-9)
    return [number * step for number in range(int(top / step + 1e-9) + 1)]


def _percent(value: float) -> str:
    return f"{100 * value:.3g}"


def _number(value: float) -> str:
    """A score with as many digits as tell the ends of an axis apart."""
    if value == 0:
        return "0"
    return f"{value:.1e}" if abs(log10(abs(value))) > 4 else f"{value:.3g}"
