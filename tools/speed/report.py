"""A run as text."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from .config import Case
from .contenders import ONEDNN
from .measure import (
    CaseResult,
    Measured,
    Spread,
    confident_text,
    describe,
    ratio,
    spread,
    step_seconds,
    thousands,
    threads_text,
)
from .roofline import Roofline, gpu_row
from .run import Result
from .targets import curve

_NAME, _TIME, _RATIO = 30, 27, 23
_HEADER = f"  {'':{_NAME}}{'ms':>{_TIME}}{'x bare':>{_RATIO}}{'x mm':>{_RATIO}}{'naive / this':>{_RATIO}}{'peak MB':>9}"
_MET = {True: "met", False: "NOT met", None: "-"}


def format_report(result: Result) -> str:
    """The tables, the curves, the GPU's rows and the targets."""
    config, environment = result.config, result.environment
    load = environment["load_before"]
    lines = [
        f"Speed of a step: {environment['processor']}, {threads_text(config.threads)}, {environment['date']}",
        f"torch {environment['torch']}, tanl {environment['tanl']}, backends {', '.join(result.backends)}"
        + ("" if load is None else f", load before the run {load:.2f}"),
        f"B = {config.batch}, D = {config.dim}, C = {thousands(config.num_id)}, L = {config.capacity}, "
        f"gap 0.2, alpha 0.95, seed {config.seed}; structured synthetic features",
        "Times are medians [smallest, largest] of the rounds, in ms; everybody gets the same batches, in turn.",
        "Ratios are taken round by round, to the fastest way to make the bare fp32 product (x bare), and to the faster "
        "of torch's mm alone (x mm), which is MKL's and on AMD's processors slow; their median [smallest, largest].",
        "Memory is the peak above labels and stream, everything that a contender keeps included.",
    ]
    for case in result.table:
        lines += ["", *_case_lines(case)]
    if config.curves and result.table:
        lines += ["", *_curve_lines(result, "labels"), "", *_curve_lines(result, "capacity")]
    lines += ["", *_gpu_lines(result)]
    if result.targets:
        lines += ["", "Targets (for a quiet 2-core CPU):"]
    width = max((len(target.what) for target in result.targets), default=0)
    for target in result.targets:
        lines.append(f"  {target.what:{width}}  {target.limit:>11}  {target.measured:24}  {_MET[target.met]}")
    lines += ["", f"{result.seconds:.0f} s"]
    return "\n".join(lines)


def _case_lines(result: CaseResult) -> list[str]:
    lines = [f"{describe(result.case)}: {_rows_text(result)}"]
    lines.append(_HEADER)
    for one in result.contenders:
        lines += _contender_lines(result, one)
    return lines


def _rows_text(result: CaseResult) -> str:
    steps = [one for one in result.contenders if one.confident and one.spec.kind == "tanl"]
    if not steps:
        return "tanl not measured"
    rings = "rings full" if all(one.rings_full for one in steps) else "rings NOT full"
    return f"{confident_text(steps[-1])} of {result.case.batch}; {rings} after {result.warm_up} batches"


def _contender_lines(result: CaseResult, one: Measured, roofline: Roofline | None = None) -> list[str]:
    """A contender's rows and its breakdown; on a GPU with bandwidth and share of the roofline."""
    if one.note is not None:
        return [f"  {one.spec.name:{_NAME}}{one.note}"]
    bare, naive = result.bare_for(one.spec), result.find("naive", device=one.spec.device)
    mm = result.bare_for(one.spec, but=ONEDNN)
    lines = []
    for action, seconds in one.seconds.items():
        name = one.spec.name if one.spec.kind != "bare" else f"{one.spec.name}, {action}"
        cells = [f"  {name:{_NAME}}{_milliseconds(spread(seconds)):>{_TIME}}"]
        for base in (bare, mm):
            cells.append(f"{_ratio_text(ratio(seconds, base[1])) if base else '-':>{_RATIO}}")
        to_naive = ""
        if naive is not None and one.spec.kind == "tanl":
            to_naive = _ratio_text(ratio(step_seconds(naive), seconds))
        cells.append(f"{to_naive:>{_RATIO}}")
        cells.append(f"{'-' if one.peak_bytes is None else thousands(one.peak_bytes / 1e6):>9}")
        if roofline is not None and one.spec.kind != "bare":
            row = gpu_row(result.case, one, roofline)
            rate = "-" if row.bytes_per_second is None else thousands(row.bytes_per_second / 1e9)
            cells.append(f"{rate:>8}{row.share:>13.1%}")
        timed = sum(value is not None for value in seconds)
        if timed < len(seconds):
            cells.append(f"  ({timed} rounds)")
        lines.append("".join(cells).rstrip())
    if one.breakdown is not None:
        lines += [f"      {line}" for line in _breakdown_lines(one.breakdown)]
    return lines


def _breakdown_lines(breakdown: dict[str, float]) -> list[str]:
    step = breakdown["step"]
    parts = [
        f"{name} {1e3 * seconds:.3g} ({seconds / step:.0%})"
        for name, seconds in sorted(breakdown.items(), key=lambda item: -item[1])
        if name != "step" and seconds > 0
    ]
    return textwrap.wrap(
        f"by operation, ms of {1e3 * step:.4g}: " + ", ".join(parts), 110, subsequent_indent="  "
    )


def _curve_lines(result: Result, against: str) -> list[str]:
    main = result.config.main_case
    extra = result.labels_curve if against == "labels" else result.capacity_curve
    letter = "M" if against == "labels" else "L"
    fixed = f"L = {thousands(main.capacity)}" if against == "labels" else f"M = {thousands(main.labels)}"
    lines = [f"Time of a step against {letter} (K = {thousands(main.selected)}, q = {main.step}, {fixed}):"]
    header = f"  {letter:>9}{'bare ms':>12}"
    header += "".join(f"{backend + ' ms':>14}{'x bare':>8}{'peak MB':>9}" for backend in result.backends)
    lines.append(header)
    rows: dict[int, str] = {}
    short: set[int] = set()
    for backend in result.backends:
        for value, measured, case in curve([*result.table, *extra], result.config, backend, against=against):
            bare = case.bare_for(measured.spec)
            if bare is None:
                continue
            start = f"  {thousands(value):>9}{1e3 * spread(bare[1]).median:12.4g}"
            seconds = step_seconds(measured)
            peak = "-" if measured.peak_bytes is None else thousands(measured.peak_bytes / 1e6)
            cells = f"{1e3 * spread(seconds).median:14.4g}{ratio(seconds, bare[1]).median:8.3g}{peak:>9}"
            rows[value] = rows.get(value, start) + cells
            if not measured.rings_full:
                short.add(value)
    return lines + [rows[value] + ("  rings not full" if value in short else "") for value in sorted(rows)]


def _gpu_lines(result: Result) -> list[str]:
    if result.gpu is None or result.roofline is None:
        return ["GPU: not measured (no CUDA device)"]
    return gpu_lines(result.gpu, result.roofline)


def gpu_lines(cases: Sequence[CaseResult], roofline: Roofline) -> list[str]:
    """The rows of a GPU's cases."""
    lines = [
        f"GPU: {roofline.name}; roofline from {roofline.source}: {roofline.flop_per_second / 1e12:.0f} TFLOP/s in "
        f"half precision, {roofline.bytes_per_second / 1e12:.2f} TB/s",
        "Bandwidth counts labels read and exponentials written and read; the roofline is the larger of one product",
        "of the whole batch and one stream of the labels. The exact step cannot reach it: it needs every row's",
        "log-sum-exp before the sums, so it makes two products, or writes and reads the exponentials.",
    ]
    for result in cases:
        lines += [
            "",
            f"{describe(result.case)}: {_rows_text(result)}",
            _floors_line(result.case, roofline),
            f"{_HEADER}{'GB/s':>8}{'of roofline':>13}",
        ]
        for one in result.contenders:
            lines += _contender_lines(result, one, roofline)
    return lines


def _floors_line(case: Case, roofline: Roofline) -> str:
    shape = {"labels": case.labels, "num_id": case.num_id, "batch": case.batch, "dim": case.dim}
    one, twice, stored = (f"{1e6 * part:.0f} us" for part in roofline.floors(**shape, label_bytes=2))
    return (
        f"  at best, float16 labels: {one} for the roofline, {twice} for two products, "
        f"{stored} for stored exponentials"
    )


def _milliseconds(value: Spread) -> str:
    return "{:.4g} [{:.4g}, {:.4g}]".format(*(1e3 * part for part in value))


def _ratio_text(value: Spread) -> str:
    return "{:.3g} [{:.3g}, {:.3g}]".format(*value)
