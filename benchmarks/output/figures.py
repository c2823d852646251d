"""What an ablation measured, read out of its runs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from tanl.metrics import HEADLINE

from ..engine.ablation_plan import Plan, Point
from ..engine.run_folder import RunFolder
from .published import OVERALL
from .summary import Value, summarise


@dataclass(frozen=True)
class Figures:
    """What came of one point on one ID set: means over its near and far OOD sets, and over seeds.

    Attributes:
        dimension: that it is shown under.
        value: of that dimension.
        point: what was measured.
        track: the ID set's name where there are several, else empty.
        metrics: the values of `tanl.metrics.HEADLINE`, fractions.
        num_id: ID images in a stream, mean over the OOD sets.
        num_ood: OOD images in it, likewise.
    """

    dimension: str
    value: str
    point: Point
    track: str
    metrics: dict[str, Value]
    num_id: float
    num_ood: float


def read_figures(plan: Plan, out: Path) -> list[Figures]:
    """What the folders of a finished plan say, dimension by dimension, over all the seeds that they have."""
    found: dict[tuple[Point, str], tuple[dict[str, Value], float, float]] = {}
    wanted = plan.points()
    for run in dict.fromkeys(point.run for point in wanted):
        folder = RunFolder.open(out / run)
        cells = folder.cells()
        for block in summarise(folder):
            (column,) = (column for column in block.columns if column.name == OVERALL)
            for point in wanted:
                if point.run != run or point.method not in block.methods:
                    continue
                streams = [
                    (cell.num_id, cell.num_ood)
                    for cell in cells
                    if (cell.track, cell.method) == (block.track, point.method) and cell.ood in column.sets
                ]
                metrics = {metric: block.value(point.method, column, metric) for metric in HEADLINE}
                found[point, block.track] = (
                    {metric: value for metric, value in metrics.items() if value is not None},
                    fmean(num_id for num_id, _ in streams),
                    fmean(num_ood for _, num_ood in streams),
                )
    tracks = dict.fromkeys(track for _, track in found)
    return [
        Figures(name, value, plan.point(name, value), track, *found[plan.point(name, value), track])
        for name, values in plan.values.items()
        for value in values
        for track in tracks
    ]
