"""A run as a picture: ratios to the bare product, time against M, time against L."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Any

from .measure import CaseResult, Measured, ratio, spread, step_seconds, thousands, threads_text
from .run import Result
from .targets import curve

# Okabe and Ito's colours, which colour-blind readers can tell apart; hatches and markers say the same again.
_STYLES: dict[str, tuple[str, str, str]] = {
    "bare": ("#000000", "", "x"),
    "naive": ("#D55E00", "//", "s"),
    "reference": ("#56B4E9", "..", "^"),
    "native": ("#009E73", "", "o"),
    "triton": ("#CC79A7", "\\\\", "D"),
}
_ROOM = 1.3  # of an axis above what it shows, for the legend


def draw(result: Result, path: Path) -> None:
    """Write the chart as a PNG file."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(15, 5.6), dpi=130, layout="constrained")
    bars, against_labels, against_capacity = figure.subplots(1, 3)
    _draw_bars(bars, result)
    _draw_labels(against_labels, result)
    _draw_capacity(against_capacity, result)
    config, environment = result.config, result.environment
    figure.suptitle(
        textwrap.fill(
            f"One step of TANL on {environment['processor']}, {threads_text(config.threads)}, "
            f"{environment['date'][:10]} "
            f"(fp32, B = {config.batch}, D = {config.dim}, C = {thousands(config.num_id)}, "
            f"K = {thousands(config.main_case.selected)}, q = {config.main_case.step})",
            130,
        ),
        fontsize=12,
    )
    figure.savefig(path, format="png")


def _draw_bars(axes: Any, result: Result) -> None:
    """Ratio to the bare product, a group of bars for every M of the table."""
    main = result.config.main_case
    cases = [
        case
        for case in result.table
        if case.case.step == main.step and case.case.selected == min(main.selected, case.case.labels)
    ]
    who = ["naive", *result.backends]
    width = 0.8 / len(who)
    bars: list[tuple[float, float, float]] = []
    for number, name in enumerate(who):
        colour, hatch, _ = _STYLES[name]
        positions, medians, below, above = [], [], [], []
        for group, case in enumerate(cases):
            measured = _find(case, name)
            bare = None if measured is None else case.bare_for(measured.spec)
            if measured is None or bare is None:
                continue
            value = ratio(step_seconds(measured), bare[1])
            positions.append(group + (number - (len(who) - 1) / 2) * width)
            medians.append(value.median)
            below.append(value.median - value.low)
            above.append(value.high - value.median)
        axes.bar(
            positions,
            medians,
            width,
            yerr=[below, above],
            color=colour,
            hatch=hatch,
            edgecolor="white",
            ecolor="0.3",
            capsize=3,
            label="naive step" if name == "naive" else f"tanl {name}",
        )
        bars += zip(positions, medians, above, strict=True)
    top = _ROOM * max((median for _, median, _ in bars), default=1.0)  # a noisy round may lie far above
    for position, median, over in bars:
        axes.annotate(
            f"{median:.2g}" if median >= 10 else f"{median:.2f}",
            (position, min(median + over, 0.93 * top)),
            xytext=(0, 3),
            textcoords="offset points",
            ha="center",
            fontsize=9,
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 1},
        )
    axes.axhline(1, color="black", linestyle="--", linewidth=1, label="bare product")
    axes.set_xticks(range(len(cases)), [f"M = {thousands(case.case.labels)}" for case in cases])
    axes.set_ylim(0, top)
    axes.set_ylabel("time of a step / bare product")
    axes.set_title("Times the bare matrix product (median, range)", fontsize=11)
    axes.legend(fontsize=9)


def _draw_labels(axes: Any, result: Result) -> None:
    """Time against M, with the bare product and the naive step where it ran."""
    cases = [*result.table, *result.labels_curve]
    bare: dict[int, float] = {}
    naive: dict[int, float] = {}
    for backend in result.backends:
        points = curve(cases, result.config, backend, against="labels")
        for labels, measured, case in points:
            if (product := case.bare_for(measured.spec)) is not None:
                bare[labels] = 1e3 * spread(product[1]).median
            if (written_out := case.find("naive")) is not None:
                naive[labels] = 1e3 * spread(step_seconds(written_out)).median
        _line(axes, backend, f"tanl {backend}", _milliseconds(points))
    _line(axes, "naive", "naive step", naive)
    _line(axes, "bare", "bare product", bare, linestyle="--")
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xticks(sorted(bare), [_short(labels) for labels in sorted(bare)])
    axes.minorticks_off()
    axes.set_xlabel("negative labels M")
    axes.set_ylabel("time of a step [ms]")
    axes.set_title(f"Against the labels (L = {result.config.capacity})", fontsize=11)
    axes.grid(True, color="0.9")
    axes.legend(fontsize=9)


def _draw_capacity(axes: Any, result: Result) -> None:
    """Time against L, from zero up."""
    cases = [*result.table, *result.capacity_curve]
    bare: dict[int, float] = {}
    for backend in result.backends:
        points = curve(cases, result.config, backend, against="capacity")
        for capacity, measured, case in points:
            if (product := case.bare_for(measured.spec)) is not None:
                bare[capacity] = 1e3 * spread(product[1]).median
        _line(axes, backend, f"tanl {backend}", _milliseconds(points))
    _line(axes, "bare", "bare product", bare, linestyle="--")
    axes.set_xscale("log")
    axes.set_xticks(sorted(bare), [thousands(capacity) for capacity in sorted(bare)])
    axes.minorticks_off()
    axes.set_ylim(0, _ROOM * axes.get_ylim()[1])
    axes.set_xlabel("ring length L")
    axes.set_ylabel("time of a step [ms]")
    axes.set_title(f"Against the rings (M = {thousands(result.config.main_labels)})", fontsize=11)
    axes.grid(True, color="0.9")
    axes.legend(fontsize=9, loc="upper left", ncols=2)


def _line(axes: Any, style: str, label: str, points: dict[int, float], linestyle: str = "-") -> None:
    colour, _, marker = _STYLES[style]
    if points:
        xs = sorted(points)
        axes.plot(
            xs,
            [points[x] for x in xs],
            color=colour,
            marker=marker,
            linestyle=linestyle,
            label=label,
        )


def _short(number: int) -> str:
    """``70k``, ``1M``."""
    for unit, size in (("M", 1_000_000), ("k", 1000)):
        if number >= size:
            return f"{number / size:.3g}{unit}"
    return str(number)


def _milliseconds(points: list[tuple[int, Measured, CaseResult]]) -> dict[int, float]:
    return {value: 1e3 * spread(step_seconds(measured)).median for value, measured, _ in points}


def _find(case: CaseResult, name: str) -> Measured | None:
    return case.find("naive") if name == "naive" else case.find("tanl", name)
