"""``tanl bench ablate``: what each setting and condition of TANL does, as tables, files and charts."""

from __future__ import annotations

import argparse
import csv
import io
import shlex
import sys
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from itertools import cycle
from pathlib import Path

from tqdm import tqdm

from tanl.io.arguments import a_name_or_path, a_path
from tanl.io.atomic import write_whole
from tanl.io.options import names_in
from tanl.labels.wordnet import SELECTIONS
from tanl.metrics import HEADLINE

from . import run
from .engine.ablation import ablate
from .engine.ablation_plan import ADJECTIVES, DIMENSIONS, PAPER, Plan, plan_values
from .engine.options import add_image_options, add_stream_options, config_of
from .engine.run_folder import RunFolder
from .engine.tasks import PUBLISHED, Config, tracks_of
from .output import targets
from .output.figures import Figures, read_figures
from .output.remarks import MEANINGS, notes
from .output.summary import Value

DEFAULT_TRACKS = ("animals", "coarse-5")

_CSV_COLUMNS = (
    "dimension",
    "value",
    "is_baseline",
    "track",
    "metric",
    "mean",
    "spread",
    "seeds",
    "num_id",
    "num_ood",
    "run",
    "method",
)
_CATEGORIES = ("corpus", "templates", "order", "backbones")
_START = Config(batch_size=int(PUBLISHED["batch_size"]))
_SHOWN = 28  # characters of a value on a chart's axis


def text_tables(plan: Plan, figures: Sequence[Figures], remarks: Sequence[str] = ()) -> str:
    """A table for each dimension and ID set, in percent; a star marks the baseline."""
    paper = ", ".join(f"{name} {plan.baseline(name)}" for name in DIMENSIONS)
    lines = [
        f"{plan.config.split}: one change at a time from {paper}",
        "Percent, means over the near and far OOD sets; mean and standard deviation over seeds. * is the baseline.",
        "Images are those of a stream, means over the OOD sets.",
        *MEANINGS,
    ]
    for dimension, rows in _grouped(figures).items():
        lines += ["", f"{dimension}: {DIMENSIONS[dimension].what}"]
        names = max(len(row.value) for row in rows) + 2
        for track in dict.fromkeys(row.track for row in rows):
            head = "".join(f"{title:>16}" for title in (*HEADLINE, "ID images", "OOD images"))
            lines.append(f"  {track:{max(names, len(track))}}{head}")
            for row in rows:
                if row.track == track:
                    cells = [
                        *(_percent(row.metrics[metric]) for metric in HEADLINE),
                        f"{row.num_id:.0f}",
                        f"{row.num_ood:.0f}",
                    ]
                    value = row.value + ("" if row.point.dimension else " *")
                    lines.append(
                        f"  {value:{max(names, len(track))}}" + "".join(f"{cell:>16}" for cell in cells)
                    )
    return "\n".join([*lines, *(["", *remarks] if remarks else [])]) + "\n"


def write_json(
    plan: Plan, figures: Sequence[Figures], out: Path, command: str, remarks: Sequence[str]
) -> None:
    """Write ``ablation.json``: everything in the tables, as fractions."""
    dimensions = {
        name: {
            "what": DIMENSIONS[name].what,
            "baseline": plan.baseline(name),
            "rows": [
                {
                    "value": row.value,
                    "is_baseline": not row.point.dimension,
                    "track": row.track,
                    "run": row.point.run,
                    "method": row.point.method,
                    "num_id": row.num_id,
                    "num_ood": row.num_ood,
                    "metrics": {
                        metric: {"mean": value.mean, "spread": value.spread, "seeds": value.seeds}
                        for metric, value in row.metrics.items()
                    },
                }
                for row in rows
            ],
        }
        for name, rows in _grouped(figures).items()
    }
    content = {
        "format": 1,
        "command": command,
        "config": plan.config.record() | {"methods": [PAPER.name]},
        "environments": {
            name: RunFolder.open(out / name).run["environment"]
            for name in dict.fromkeys(row.point.run for row in figures)
        },
        "remarks": list(remarks),
        "dimensions": dimensions,
    }
    targets.write_json(out / "ablation.json", content)


def write_csv(figures: Sequence[Figures], out: Path) -> None:
    """Write ``ablation.csv``: a row for each point, ID set and metric, as fractions."""
    text = io.StringIO()
    writer = csv.DictWriter(text, _CSV_COLUMNS, lineterminator="\n")
    writer.writeheader()
    for row in figures:
        for metric, value in row.metrics.items():
            writer.writerow(
                {
                    "dimension": row.dimension,
                    "value": row.value,
                    "is_baseline": int(not row.point.dimension),
                    "track": row.track,
                    "metric": metric,
                    "mean": f"{value.mean:.6f}",
                    "spread": "" if value.spread is None else f"{value.spread:.6f}",
                    "seeds": value.seeds,
                    "num_id": f"{row.num_id:.1f}",
                    "num_ood": f"{row.num_ood:.1f}",
                    "run": row.point.run,
                    "method": row.point.method,
                }
            )
    write_whole(out / "ablation.csv", text.getvalue().encode())


def draw(plan: Plan, figures: Sequence[Figures], out: Path) -> list[Path]:
    """Write ``ablation-NAME.svg`` for each dimension: each metric against the value, a line an ID set."""
    import matplotlib
    from matplotlib.figure import Figure

    paths = []
    for dimension, rows in _grouped(figures).items():
        values = plan.values[dimension]
        figure = Figure(figsize=(10.5, 3.2), layout="constrained")
        for axes, metric in zip(figure.subplots(1, len(HEADLINE)), HEADLINE, strict=True):
            for marker, track in zip(
                cycle("os^Dv<>"), dict.fromkeys(row.track for row in rows), strict=False
            ):
                found = [row.metrics[metric] for row in rows if row.track == track]
                axes.errorbar(
                    range(len(values)),
                    [100 * value.mean for value in found],
                    yerr=[100 * (value.spread or 0) for value in found],
                    marker=marker,
                    capsize=3,
                    linestyle="none" if dimension in _CATEGORIES else "-",
                    label=_plain(track),
                )
            if plan.baseline(dimension) in values:
                axes.axvline(values.index(plan.baseline(dimension)), color="0.8", zorder=0)
            long = max(map(len, values)) > 7
            axes.set_xticks(
                range(len(values)),
                [_plain(value[-_SHOWN:]) for value in values],
                rotation=30 if long else 0,
                ha="right" if long else "center",
            )
            axes.set_title(f"{metric}, %, {'higher' if metric == 'AUROC' else 'lower'} is better", fontsize=9)
            axes.tick_params(labelsize=8)
            axes.grid(axis="y", color="0.92")
        if any(row.track for row in rows):
            axes.legend(fontsize=8)
        about = [_plain(plan.config.split)]
        if plan.config.limit is not None:
            about.append(f"at most {plan.config.limit} images a set")
        if plan.baseline(dimension) in values:
            about.append("the grey line is the baseline")
        figure.suptitle(f"{dimension}: {DIMENSIONS[dimension].what} ({'; '.join(about)})", fontsize=10)
        paths.append(out / f"ablation-{dimension}.svg")
        # With neither a date nor random names, the same figures give the same file.
        with matplotlib.rc_context({"svg.hashsalt": "tanl"}):
            write_whole(paths[-1], partial(figure.savefig, format="svg", metadata={"Date": None}))
    return paths


def _grouped(figures: Sequence[Figures]) -> dict[str, list[Figures]]:
    groups: dict[str, list[Figures]] = {}
    for row in figures:
        groups.setdefault(row.dimension, []).append(row)
    return groups


def _percent(value: Value) -> str:
    return f"{100 * value.mean:.1f}" + ("" if value.spread is None else f" ± {100 * value.spread:.1f}")


def _plain(text: str) -> str:
    """Text in which matplotlib finds no formula."""
    return text.replace("$", r"\$")


_DESCRIPTION = """\
Measure TANL with one setting or condition changed at a time, all others as in the paper. Streams that are there
already are not measured again, so that the same command goes on where an interrupted one stopped."""


_EXAMPLES = """\
examples:
  tanl bench ablate --of gap alpha --seeds 0 1 2
  tanl bench ablate --of gap --values gap=0,0.2,0.5 --limit 50
  tanl bench ablate --of corpus --corpus-file words.txt
  tanl bench ablate --of templates --values templates={} 'templates=a photo of a {}.'
  tanl bench ablate --of backbones --backbones mini ViT-B-16/openai --split four-ood --data-root data

dimensions, and the values that are measured unless --values names others:"""

_REMARKS = f"""\
{ADJECTIVES} are WordNet's adjectives that are not nouns too. For ratio and samples a part of the images
is drawn by a fixed seed, the same for every seed of the stream: for a ratio as many images as the sets allow, for
samples so many, in the sets' proportion. Tables say how many of either kind a stream has.

The folder holds runs that `tanl bench table` and `tanl bench report` read: baseline, with every change of a
setting, and one for each other condition. Beside them are ablation.json, ablation.csv and the charts, of the
dimensions that the last command asked for."""


def _epilog() -> str:
    lines = []
    for name, dimension in DIMENSIONS.items():
        values = ", ".join(dimension.values) or "those of --backbones"
        lines += [f"  {name:<10} {dimension.what}", f"  {'':<10} {values}"]
    return "\n".join([_EXAMPLES, *lines, "", _REMARKS])


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the command's options."""
    default = Config()
    parser.description = _DESCRIPTION
    parser.epilog = _epilog()
    parser.formatter_class = argparse.RawDescriptionHelpFormatter

    varied = parser.add_argument_group("what is varied")
    varied.add_argument(
        "--of",
        metavar="NAMES",
        nargs="+",
        action="extend",
        help=f"some of {', '.join(DIMENSIONS)} (default: all)",
    )
    varied.add_argument(
        "--values",
        metavar="NAME=V,V",
        nargs="+",
        action="extend",
        help="values of a dimension, in place of those below; templates one at a time",
    )
    varied.add_argument(
        "--corpus-file",
        metavar="FILE",
        type=a_name_or_path,
        nargs="+",
        action="extend",
        help="lists of words, added to the corpora",
    )
    varied.add_argument(
        "--backbones",
        metavar="NAMES",
        nargs="+",
        action="extend",
        help=f"models; the first is the baseline's (default: {default.backbone})",
    )

    add_image_options(parser, tracks=DEFAULT_TRACKS)
    add_stream_options(
        parser.add_argument_group("streams"),
        batch_size=f"images that are judged at a time (default: {_START.batch_size}, the paper's)",
    )
    parser.add_argument("--no-chart", action="store_true", help="draw none; needs no matplotlib")
    parser.add_argument(
        "--out",
        type=a_path,
        metavar="DIR",
        help="the ablation's folder (default: tanl-bench/ablation- and the split's name)",
    )


def main(arguments: argparse.Namespace) -> int:
    """Run the command, write its files and print its tables."""
    plan = plan_of(arguments)
    out: Path = arguments.out or Path("tanl-bench") / f"ablation-{plan.config.split}"
    if not arguments.no_chart:
        targets.require_matplotlib()
    words = command(plan)
    ablate(
        plan,
        out,
        device=arguments.device,
        data_root=arguments.data_root,
        workers=arguments.workers,
        progress=True,
        say=lambda message: tqdm.write(f"tanl: {message}", file=sys.stderr),
        command=words,
    )
    figures = read_figures(plan, out)
    runs = dict.fromkeys(row.point.run for row in figures)
    remarks = list(dict.fromkeys(line for run in runs for line in notes(RunFolder.open(out / run))))
    write_json(plan, figures, out, words, remarks)
    write_csv(figures, out)
    print(text_tables(plan, figures, remarks), end="")
    charts = [] if arguments.no_chart else draw(plan, figures, out)
    print(f"{len(plan.points())} points in {len(runs)} runs, ablation.json, ablation.csv and ", end="")
    print(f"{len(charts)} charts in {out}")
    return 0


def plan_of(arguments: argparse.Namespace) -> Plan:
    """What a command line asks for.

    Raises:
        ValueError: an unknown dimension, value, split or track; the message names it.
    """
    backbones = names_in(arguments.backbones)
    start = config_of(arguments, _START, methods=(PAPER.name,))
    config = replace(
        start,
        backbone=backbones[0] if backbones else start.backbone,
        tracks=start.tracks or (DEFAULT_TRACKS if start.split == "pictograms" else ()),
    )
    for name in config.tracks:
        ood = tracks_of(config.split)[name].ood
        if not any(map(config.takes, ood)):
            raise ValueError(
                f"the figures are of near and far OOD sets; of those of the track {name}, "
                f"{', '.join(ood)}, --only-ood names none"
            )
    for file in arguments.corpus_file or ():
        if not Path(file).is_file():
            raise FileNotFoundError(f"no such corpus file: {file}")
        if file in SELECTIONS or file == ADJECTIVES:
            raise ValueError(f"{file} is a selection's name too; write ./{file}")
    values = plan_values(
        config, names_in(arguments.of), arguments.values or (), arguments.corpus_file or (), backbones[1:]
    )
    return Plan(config, values)


def command(plan: Plan) -> str:
    """The command line that measures a plan."""
    words = ["tanl", "bench", "ablate", "--of", *plan.values, "--values"]
    for name, values in plan.values.items():
        # A template may hold commas.
        words += [f"{name}={text}" for text in (values if name == "templates" else [",".join(values)])]
    default = Config()
    if plan.config.backbone != default.backbone:
        words += ["--backbones", plan.config.backbone]
    others = run.command(replace(plan.config, methods=default.methods, backbone=default.backbone))
    return shlex.join([*words, *shlex.split(others)[3:]])
