"""The report's charts as small SVG elements, coloured by the page's style, and the curves that they show."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
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


def histogram(id_scores: Floats, ood_scores: Floats, label: str) -> str:
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
    parts = []
    for share, kind in zip(shares, ("id", "ood"), strict=True):
        heights = np.sqrt(share / tallest) * (base - top)
        steps = "".join(
            f"V{base - height:.3g}H{left + width * (bar + 1) / BINS:.4g}"
            for bar, height in enumerate(heights)
        )
        parts.append(f'<path class="{kind}" d="M{left} {base}{steps}V{base}z"/>')
    threshold = min(max((threshold_at_95(ood_scores) - low) / (high - low), 0), 1)
    x = left + width * threshold
    parts.append(f'<path class="guide" d="M{x:.4g} {top}V{base}"/>')
    parts.append(f'<path class="axis" d="M{left} {base}h{width}"/>')
    parts.append(f'<text x="{left}" y="84">{escape(_number(low))}</text>')
    parts.append(f'<text x="{left + width}" y="84" class="end">{escape(_number(high))}</text>')
    return _svg(200, 88, label, parts)


def roc(lines: Sequence[Line], label: str) -> str:
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


def stream(lines: Sequence[Line], label: str) -> str:
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


def swatch(series: int, bold: bool = False) -> str:
    """A short piece of a series' line, for legends."""
    return (
        f'<svg viewBox="0 0 24 8" class="swatch" aria-hidden="true"><path class="{_line_class(series, bold)}" '
        'd="M0 4H24"/></svg>'
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
) -> str:
    left, right, top, bottom = 34, 412, 20, 226
    parts = []
    for tick in _ticks(y_top):
        y = bottom - (bottom - top) * tick / y_top
        parts.append(f'<path class="grid" d="M{left} {y:.4g}H{right}"/>')
        parts.append(f'<text x="{left - 5}" y="{y + 3:.4g}" class="end">{_percent(tick)}</text>')
    for tick in _ticks(x_top):
        x = left + (right - left) * tick / x_top
        parts.append(f'<text x="{x:.4g}" y="{bottom + 13}" class="mid">{escape(x_shown(tick))}</text>')
    for direction, value in guides:
        y, x = bottom - (bottom - top) * value / y_top, left + (right - left) * value / x_top
        path = f"M{left} {y:.4g}H{right}" if direction == "h" else f"M{x:.4g} {top}V{bottom}"
        parts.append(f'<path class="guide" d="{path}"/>')
    parts.append(f'<text x="4" y="10">{escape(y_title)}</text>')
    parts.append(f'<text x="{right}" y="{bottom + 27}" class="end">{escape(x_title)}</text>')
    # Bold lines last, above the others.
    for line in sorted(lines, key=lambda line: line.bold):
        points = " ".join(
            f"{left + (right - left) * x / x_top:.4g},{bottom - (bottom - top) * y / y_top:.4g}"
            for x, y in line.points
        )
        if points:
            parts.append(
                f'<polyline class="{_line_class(line.series, line.bold)}" points="{points}">'
                f"<title>{escape(line.name)}</title></polyline>"
            )
    return _svg(right + 8, bottom + 32, label, parts)


def _svg(width: int, height: int, label: str, parts: Sequence[str]) -> str:
    return (
        f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{escape(label)}">{"".join(parts)}</svg>'
    )


def _line_class(series: int, bold: bool) -> str:
    return f"line s{series % SERIES}{f' dash{min(series // SERIES, 2)}' if series >= SERIES else ''}{' bold' * bold}"


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
