"""`tanl bench ablate`: points and their folders, values, drawn parts, interrupts, and what is refused."""

import argparse
import csv
import json
import shlex
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from colour_backbone import ColourBackbone, paint
from run_folders import write_run

from tanl.backbones.noise import noise_embeddings
from tanl.benchmarks import ablate as command_module
from tanl.benchmarks.ablate import add_arguments, command, main, plan_of, text_tables
from tanl.benchmarks.engine import ablation, runner
from tanl.benchmarks.engine.ablation import load_corpus, with_share, with_total
from tanl.benchmarks.engine.ablation_plan import ADJECTIVES, DIMENSIONS, PAPER, Point
from tanl.benchmarks.engine.protocol import ORDERS, run_stream, stream_order
from tanl.benchmarks.engine.run_folder import FILE, RunFolder
from tanl.benchmarks.engine.tasks import Config
from tanl.benchmarks.output import table
from tanl.benchmarks.output.figures import read_figures
from tanl.cli import main as cli
from tanl.detectors import TANL
from tanl.labels.build import build_bank
from tanl.metrics import HEADLINE

WORDS = ["blue", "yellow", "purple", "white", *(f"word {number}" for number in range(40))]
OWN = ["--id", "id", "--ood", "blue", "yellow", "--labels", "labels.txt", "--corpus", "corpus.txt"]
QUICK = [*OWN, "--batch-size", "8", "--out", "out", "--no-chart"]
# One value of each dimension beside the baseline's.
EVERY = {
    "K": "5,1000",
    "L": "3,300",
    "gap": "0,0.2",
    "alpha": "0.5,0.95",
    "step": "0,1",
    "corpus": "corpus.txt,few.txt",
    "order": "shuffled,drift",
    "ratio": "own,0.25",
    "samples": "9,all",
}


class OtherBackbone(ColourBackbone):
    name = fingerprint = "other"
    logit_scale = 20.0


@pytest.fixture
def own(tmp_path, monkeypatch):
    """Folders of colours: 16 red and green images are ID, 8 blue and 7 yellow ones OOD; and lists of words."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TANL_CACHE", str(tmp_path / "cache"))
    for number in range(8):
        for colour in ("id/red", "id/green", "blue", "yellow"):
            if (colour, number) != ("yellow", 7):
                paint(tmp_path / colour / f"{number}-{Path(colour).name}.png", Path(colour).name)
    Path("labels.txt").write_text("red\ngreen\n")
    Path("corpus.txt").write_text("\n".join(WORDS) + "\n")
    Path("few.txt").write_text("\n".join(f"{word}\tadj" for word in WORDS[::2]) + "\n")
    backbones = {"mini": ColourBackbone, "other": OtherBackbone}
    monkeypatch.setattr(ablation, "load_backbone", lambda name, device: backbones[name]())
    return tmp_path


def parse(*arguments):
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    return parser.parse_args(arguments)


def every(dimensions=EVERY):
    return ["--values", *(f"{name}={values}" for name, values in dimensions.items())]


def cells(out="out"):
    """Each folder's cells with their scores, as comparable values; how long they took is left out."""
    found = {}
    for path in sorted(Path(out).glob(f"*/{FILE}")):
        folder = RunFolder.open(path.parent)
        for cell in folder.cells():
            assert (path.parent.name, cell.key) not in found
            values = tuple(part.tobytes() for part in folder.scores(cell))
            found[path.parent.name, cell.key] = (replace(cell, seconds=0.0), values)
    return found


def test_every_dimension_has_its_points_and_they_share_one_baseline(own, monkeypatch, capsys):
    streams = []
    stream = runner.run_stream
    monkeypatch.setattr(runner, "run_stream", lambda *args, **kw: streams.append(1) or stream(*args, **kw))
    given = [*QUICK, *every(), "templates=default", "templates=a {}, perhaps", "backbones=mini,other"]
    assert main(parse(*given, "--seeds", "0", "4")) == 0
    found = Counter((run, key.method, key.order) for run, key in cells())
    expected = {("baseline", PAPER.name, "shuffled")}
    expected |= {
        ("baseline", f"TANL {name}={EVERY[name].split(',')[0]}", "shuffled")
        for name in ("K", "L", "gap", "alpha", "step")
    }
    (template,) = (path.name for path in Path("out").glob("templates-*"))
    expected |= {
        ("corpus-few.txt", "TANL corpus=few.txt", "shuffled"),
        (template, "TANL templates=a {}, perhaps", "shuffled"),
        ("order-drift", "TANL order=drift", "drift"),
        ("ratio-0.25", "TANL ratio=0.25", "shuffled"),
        ("samples-9", "TANL samples=9", "shuffled"),
        ("backbones-other", "TANL backbones=other", "shuffled"),
    }
    assert template.startswith("templates-a-perhaps-")
    assert found == dict.fromkeys(expected, 2 * 2)
    assert len(streams) == 2 * 2 * len(expected)
    content = json.loads(Path("out/ablation.json").read_text())
    assert list(content["dimensions"]) == list(DIMENSIONS)
    baselines = []
    for name, dimension in content["dimensions"].items():
        assert len(dimension["rows"]) == 2
        (baseline,) = (row for row in dimension["rows"] if row["is_baseline"])
        assert baseline["value"] == dimension["baseline"]
        assert baseline["run"] == "baseline"
        baselines.append({**baseline, "value": ""})
        other = next(row for row in dimension["rows"] if row is not baseline)
        assert other["method"] == f"TANL {name}={other['value']}"
        assert other["metrics"]["AUROC"]["seeds"] == 2
    assert all(baseline == baselines[0] for baseline in baselines)
    environments = content["environments"]
    assert environments["backbones-other"]["backbone_fingerprint"] == "other"
    assert environments["corpus-few.txt"]["corpus"] == "few.txt (22 words)"
    output = capsys.readouterr().out
    assert "corpus.txt *" in output
    assert f"{len(expected)} points in 7 runs, ablation.json, ablation.csv and 0 charts in out" in output


def test_figures_are_means_over_sets_then_over_seeds(own):
    assert main(parse(*QUICK, "--of", "K", "--values", "K=5", "--seeds", "0", "1", "2")) == 0
    measured = {
        (key.seed, key.ood): cell.metrics
        for (_, key), (cell, _) in cells().items()
        if key.method == "TANL K=5"
    }
    assert len(measured) == 6
    with Path("out/ablation.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["dimension"], row["value"], row["metric"]) for row in rows] == [
        ("K", "5", metric) for metric in HEADLINE
    ]
    for row in rows:
        per_seed = [
            np.mean([measured[seed, ood][row["metric"]] for ood in ("blue", "yellow")]) for seed in range(3)
        ]
        assert float(row["mean"]) == pytest.approx(np.mean(per_seed), abs=1e-6)
        assert float(row["spread"]) == pytest.approx(np.std(per_seed, ddof=1), abs=1e-6)
        assert [row[name] for name in ("seeds", "is_baseline", "num_id", "num_ood")] == [
            "3",
            "0",
            "16.0",
            "7.5",
        ]


def test_settings_and_labels_reach_the_detector(own, monkeypatch):
    made = []
    make = TANL.__init__

    def recorded(self, bank, **settings):
        made.append((settings, bank))
        make(self, bank, **settings)

    monkeypatch.setattr(TANL, "__init__", recorded)
    values = ["--values", "K=7", "L=9", "gap=0.5", "alpha=1", "step=10", "templates={}", "corpus=few.txt"]
    of = ["--of", "K", "L", "gap", "alpha", "step", "templates", "corpus"]
    assert main(parse(*QUICK, *of, *values)) == 0
    paper = TANL.preset("paper")
    prompts = ["The nice word 2.", "This is a word 2 photo.", "word 2"]
    embedded = ColourBackbone().encode_texts(prompts)
    found = []
    for settings, bank in made:
        assert settings["seed"] == 0
        assert all(type(settings[name]) is type(value) for name, value in paper.items())
        changed = {name: settings[name] for name, value in paper.items() if settings[name] != value}
        word = bank.negative_embeddings[bank.negative_names.index("word 2")]
        (prompt,) = (text for text, row in zip(prompts, embedded, strict=True) if torch.allclose(word, row))
        found.append((changed, bank.num_negatives, prompt))
    assert found == [
        ({"num_selected": 7}, 44, "The nice word 2."),
        ({"capacity": 9}, 44, "The nice word 2."),
        ({"gap": 0.5}, 44, "The nice word 2."),
        ({"alpha": 1.0}, 44, "The nice word 2."),
        ({"step": 10}, 44, "The nice word 2."),
        ({}, 22, "This is a word 2 photo."),
        ({}, 44, "word 2"),
    ]


def test_a_point_is_the_stream_that_one_makes_by_hand(own):
    """The drawn part too: the first of a seeded permutation of each set, and no others."""
    assert (
        main(parse(*QUICK, "--of", "gap", "ratio", "--values", "gap=0.5", "ratio=0.25", "--seeds", "3")) == 0
    )
    backbone = ColourBackbone()
    names = Path("labels.txt").read_text().split()
    bank = build_bank(backbone, names, corpus="corpus.txt")
    gathering = ablation.Gathering(backbone)
    config = Config(split="custom", id="id", ood=("blue", "yellow"), labels="labels.txt")
    (task,) = gathering.tasks(config)
    blue = task.ood[0].embeddings
    for run, gap, count in (("baseline", 0.5, 8), ("ratio-0.25", 0.2, 5)):
        ids = task.id[0].embeddings
        chosen = torch.arange(8)
        if count < 8:
            ids = ids[torch.randperm(16, generator=torch.Generator().manual_seed(0))]
            chosen = torch.randperm(8, generator=torch.Generator().manual_seed(0))[:count]
        detector = TANL(
            bank, **{**TANL.preset("paper"), "gap": gap}, seed=3, initial_ood=noise_embeddings(backbone)
        )
        expected = run_stream(detector, ids, blue[chosen], order="shuffled", seed=3, batch_size=8)
        folder = RunFolder.open(Path("out") / run)
        cell = next(cell for cell in folder.cells() if cell.ood == "blue")
        scores = folder.scores(cell)
        assert scores.id == pytest.approx(expected.id, abs=1e-6)
        assert scores.ood == pytest.approx(expected.ood, abs=1e-6)
        assert scores.positions.tolist() == stream_order(16, count, "shuffled", 3).tolist()
        entry = next(part for part in folder.run["sets"] if part["name"] == "blue")
        listed = [path.name for path in folder.images(entry)]
        assert listed[:count] == [f"{number}-blue.png" for number in chosen.tolist()]
        assert len(set(listed)) == 8


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ((100, 100, 0.5), (100, 100)),
        ((100, 400, 0.5), (100, 100)),
        ((400, 100, 0.75), (33, 100)),
        ((90, 400, 0.1), (90, 10)),
        ((90, 5, 0.1), (45, 5)),
        ((9, 1, 0.1), (9, 1)),
        ((63, 1003, 0.9), (63, 567)),
        ((5, 2, 0.9), (1, 2)),
    ],
)
def test_a_share_takes_the_most_images_that_have_it(given, expected):
    assert with_share(*given) == expected


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ((300, 100, 100), (75, 25)),
        ((300, 100, 399), (299, 100)),
        ((300, 100, 400), (300, 100)),
        ((300, 100, 10**6), (300, 100)),
        ((1000, 1, 5), (4, 1)),
        ((1, 1000, 5), (1, 4)),
        ((63, 1003, 2), (1, 1)),
    ],
)
def test_a_total_keeps_the_proportion(given, expected):
    assert with_total(*given) == expected


def test_smaller_samples_are_part_of_larger_ones_whatever_the_seed(own):
    values = ["--values", "samples=6,12,100", "ratio=0.1,0.9"]
    assert main(parse(*QUICK, "--of", "samples", "ratio", *values, "--seeds", "0", "1")) == 0
    counts = {(run, cell.ood): (cell.num_id, cell.num_ood) for (run, _), (cell, _) in cells().items()}
    assert counts == {
        ("samples-6", "blue"): (4, 2),
        ("samples-6", "yellow"): (4, 2),
        ("samples-12", "blue"): (8, 4),
        ("samples-12", "yellow"): (8, 4),
        ("samples-100", "blue"): (16, 8),
        ("samples-100", "yellow"): (16, 7),
        ("ratio-0.1", "blue"): (16, 2),
        ("ratio-0.1", "yellow"): (16, 2),
        ("ratio-0.9", "blue"): (1, 8),
        ("ratio-0.9", "yellow"): (1, 7),
    }
    folders = [RunFolder.open(path.parent) for path in Path("out").glob(f"*/{FILE}")]
    for number in range(3):
        orders = {tuple(folder.images(folder.run["sets"][number])) for folder in folders}
        assert len(orders) == 1
        assert list(*orders) != sorted(*orders)


@pytest.mark.parametrize("after", [5, 31])
def test_an_interrupted_ablation_goes_on_without_a_lost_or_double_cell(own, monkeypatch, capsys, after):
    given = [*QUICK[:-3], *every({"K": "5,1000", "order": "shuffled,drift", "ratio": "own,0.25"})]
    given += ["--of", "K", "order", "ratio", "--no-chart", "--seeds", "0", "1"]
    assert main(parse(*given, "--out", "whole")) == 0
    whole = cells("whole")
    calls = []
    judge = TANL.__call__

    def interrupted(self, z):
        calls.append(1)
        if len(calls) == after:
            raise KeyboardInterrupt
        return judge(self, z)

    monkeypatch.setattr(TANL, "__call__", interrupted)
    with pytest.raises(KeyboardInterrupt):
        main(parse(*given, "--out", "out"))
    monkeypatch.setattr(TANL, "__call__", judge)
    left = cells()
    assert 0 < len(left) < len(whole) == 16
    assert not Path("out/ablation.json").exists()
    capsys.readouterr()
    assert main(parse(*given, "--out", "out")) == 0
    assert f"tanl: {len(left)} of 16 cells were there already\n" in capsys.readouterr().err
    assert cells() == whole
    assert Path("out/ablation.csv").read_text() == Path("whole/ablation.csv").read_text()


def test_what_is_there_is_not_measured_again_and_more_can_be_added(own, monkeypatch):
    assert main(parse(*QUICK, "--of", "K", "gap", "--values", "K=5,1000", "gap=0")) == 0
    before = cells()
    streams = []
    stream = runner.run_stream
    monkeypatch.setattr(runner, "run_stream", lambda *args, **kw: streams.append(1) or stream(*args, **kw))
    assert main(parse(*QUICK, "--of", "k", "--values", "K=5,1000")) == 0
    assert not streams
    assert list(json.loads(Path("out/ablation.json").read_text())["dimensions"]) == ["K"]
    assert main(parse(*QUICK, "--of", "K", "step", "--values", "K=5,9", "step=1,7")) == 0
    assert len(streams) == 2 * 2
    after = cells()
    assert {key: after[key] for key in before} == before
    assert len(after) == len(before) + 4


def test_another_configuration_is_refused_before_anything_is_loaded(own, monkeypatch):
    assert main(parse(*QUICK, "--of", "K", "--values", "K=5")) == 0

    def refuse(*_, **__):
        raise AssertionError("too early")

    monkeypatch.setattr(ablation, "load_backbone", refuse)
    with pytest.raises(ValueError, match="another batch_size: 8, not 9"):
        main(parse(*OWN, "--out", "out", "--no-chart", "--batch-size", "9", "--of", "gap"))
    with pytest.raises(ValueError, match=r"another corpus: 'corpus\.txt', not 'few\.txt'"):
        main(parse(*QUICK, "--of", "gap", "--corpus", "few.txt"))
    Path("file").write_text("")
    with pytest.raises(ValueError, match="file is a file"):
        main(parse(*QUICK, "--of", "gap", "--out", "file"))


def test_runs_are_read_by_the_table(own):
    assert main(parse(*QUICK, "--of", "K", "corpus", *every({"K": "5,1000", "corpus": "few.txt"}))) == 0
    text = table.markdown([RunFolder.open("out/baseline"), RunFolder.open("out/corpus-few.txt")])
    for name in ("TANL K=5", PAPER.name, "TANL corpus=few.txt"):
        assert f"| AUROC | {name} |" in text
    assert "Unfinished" not in text


def test_every_id_set_has_its_figures_from_near_and_far_sets_alone(tmp_path):
    roles = {"near one": "near", "far one": "far", "noise": "extreme"}
    folder = write_run(
        tmp_path / "baseline",
        tracks={"animals": roles, "coarse-5": roles},
        methods={PAPER.name: 1.0, "TANL gap=0": 2.0},
        seeds=(0, 1),
        orders=("shuffled",),
    )
    plan = plan_of(parse("--of", "gap", "--values", "gap=0,0.2"))
    figures = read_figures(plan, tmp_path)
    assert [(row.value, row.track, row.point.dimension) for row in figures] == [
        ("0", "animals", "gap"),
        ("0", "coarse-5", "gap"),
        ("0.2", "animals", ""),
        ("0.2", "coarse-5", ""),
    ]
    for row in figures:
        measured = [
            cell.metrics["AUROC"]
            for cell in folder.cells()
            if (cell.track, cell.method) == (row.track, row.point.method) and cell.role != "extreme"
        ]
        assert len(measured) == 4
        assert row.metrics["AUROC"].mean == pytest.approx(np.mean(measured))
        assert (row.num_id, row.num_ood) == (131, 63)
    lines = text_tables(plan, figures).splitlines()
    (start,) = (number for number, line in enumerate(lines) if line.startswith("gap: "))
    assert [line.split()[0] for line in lines[start + 1 :]] == ["animals", "0", "0.2", "coarse-5", "0", "0.2"]
    assert "0.2 * " in lines[start + 3]
    assert f"{100 * figures[0].metrics['FPR95'].mean:.1f} ± " in lines[start + 2]


def test_charts_are_self_contained_and_repeatable(own, capsys):
    pytest.importorskip("matplotlib")
    given = [*QUICK[:-1], "--of", "gap", "templates", "--values", "gap=0,0.2,0.5", "templates=$a {}$"]
    assert main(parse(*given, "--seeds", "0", "1")) == 0
    charts = [Path("out/ablation-gap.svg"), Path("out/ablation-templates.svg")]
    first = [chart.read_bytes() for chart in charts]
    for chart in first:
        assert chart.startswith(b"<?xml")
        assert len(chart) < 150_000
        assert b'href="http' not in chart
    assert main(parse(*given, "--seeds", "0", "1")) == 0
    assert [chart.read_bytes() for chart in charts] == first
    assert "2 charts in out" in capsys.readouterr().out


def test_missing_matplotlib_is_told_before_anything_is_measured(own, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ImportError, match=r"tanl\[bench\].*--no-chart"):
        main(parse(*QUICK[:-1], "--of", "K", "--values", "K=5"))
    assert not Path("out").exists()
    assert main(parse(*QUICK, "--of", "K", "--values", "K=5")) == 0


def test_values_have_one_spelling_each():
    given = ["K=0010,10", "gap=0.50,.5,1.0,0", "ratio=own,.250", "samples=07,all", "Order=drift, shuffled"]
    given += ["templates=a {}, b", "templates={}"]
    plan = plan_of(parse("--of", "k,gap", "Ratio", "samples", "order", "templates", "--values", *given))
    assert plan.values == {
        "K": ("10",),
        "gap": ("0.5", "1", "0"),
        "templates": ("a {}, b", "{}"),
        "order": ("drift", "shuffled"),
        "ratio": ("own", "0.25"),
        "samples": ("7", "all"),
    }


def test_the_defaults_are_around_the_papers_settings():
    plan = plan_of(parse())
    assert plan.config.tracks == ("animals", "coarse-5")
    assert plan.config.batch_size == 256
    assert list(plan.values) == list(DIMENSIONS)
    for name, values in plan.values.items():
        assert plan.baseline(name) in values
        assert values == tuple(dict.fromkeys(map(DIMENSIONS[name].parse, values)))
    assert plan.values["backbones"] == ("mini",)
    assert plan.values["order"] == ORDERS
    assert len(plan.points()) == 1 + sum(len(values) - 1 for values in plan.values.values())
    paper = TANL.preset("paper")
    for name in ("K", "L", "gap", "alpha", "step"):
        assert float(plan.baseline(name)) == paper[DIMENSIONS[name].setting]


def test_the_folders_of_conditions_differ_and_are_plain_names():
    values = ["a {}", "a  {}", "a-{}", "{}", "../{}", "ü {}", "{}" + "x" * 99, "A/{}"]
    names = [Point("templates", value).run for value in values]
    names += [Point("corpus", name).run for name in ("../a.txt", "a.txt", "./a.txt", "b/a.txt", "csp")]
    assert len(set(names)) == len(names)
    for name in names:
        assert name.isascii()
        assert len(name) < 64
        assert Path(name).name == name


def test_corpus_files_and_backbones_are_added_to_the_defaults(own):
    plan = plan_of(parse("--corpus-file", "few.txt", "--backbones", "other", "mini,third"))
    assert plan.values["corpus"] == ("wordnet", "wordnet-nouns", "neglabel", "csp", ADJECTIVES, "few.txt")
    assert plan.values["backbones"] == ("other", "mini", "third")
    assert plan.baseline("backbones") == "other"
    given = parse("--of", "corpus", "--values", "corpus=csp", "--corpus-file", "few.txt")
    assert plan_of(given).values == {"corpus": ("csp", "few.txt")}


def test_adjectives_are_a_corpus():
    corpus = load_corpus(ADJECTIVES)
    assert set(corpus.parts_of_speech) == {"adj"}
    assert "beautiful" in corpus.words
    assert "table" not in corpus.words
    assert load_corpus("wordnet").parts_of_speech.count("adj") == len(corpus)


def test_the_command_that_is_kept_gives_the_same_plan(own):
    values = ["--values", "templates=it's {}, or not", "gap=0.3", "corpus=few.txt,csp"]
    given = parse(
        *OWN, "--of", "templates", "gap", "corpus", *values, "--seeds", "3", "1", "--backbones", "x"
    )
    plan = plan_of(given)
    words = shlex.split(command(plan))
    assert words[:3] == ["tanl", "bench", "ablate"]
    assert plan_of(parse(*words[3:])) == plan
    plan = plan_of(parse("--limit", "9", "--only-ood", "plants,noise"))
    assert plan.config.only_ood == ("plants", "noise")
    assert plan_of(parse(*shlex.split(command(plan))[3:])) == plan


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--of", "K", "colour"], "no dimension colour; there are K, L, gap"),
        (["--values", "colour=1"], "no dimension in --values 'colour=1'"),
        (["--values", "gap"], "no dimension in --values 'gap'"),
        (["--of", "K", "--values", "gap=0"], "there are values for gap, which --of does not name"),
        (["--of", "K", "--backbones", "mini", "other"], "there are values for backbones"),
        (["--values", "K=0"], "K must be a whole number of at least 1, not '0'"),
        (["--values", "K=1,x"], "K must be a whole number of at least 1, not 'x'"),
        (["--values", "L=2.5"], "L must be a whole number"),
        (["--values", "step=-1"], "step must be a whole number of at least 0, not '-1'"),
        (["--values", "gap=1.5"], "gap must be a number from 0 to 1, such as 0.25, not '1.5'"),
        (["--values", "alpha=nan"], "alpha must be a number from 0 to 1, such as 0.25, not 'nan'"),
        (["--values", "alpha="], "alpha must be a number from 0 to 1, such as 0.25, not ''"),
        (["--values", "ratio=1"], "ratio must be a number between 0 and 1, or 'own'"),
        (["--values", "samples=1"], "samples must be a whole number of at least 2, or 'all', not '1'"),
        (["--values", "order=sorted"], "order must be one of shuffled, id-first"),
        (["--values", "templates=a photo"], "templates must be text that holds {} once"),
        (["--values", "templates={} {x}"], "templates must be text that holds {} once"),
        (["--values", "corpus=few.txt,"], "corpus must be a name, not ''"),
        (["--values", "corpus=nonsense"], "unknown corpus 'nonsense'"),
        (["--values", "corpus=missing.txt"], "no such corpus file: missing.txt"),
        (["--corpus-file", "missing"], "no such corpus file: missing"),
        (["--tracks", "birds"], "no track birds"),
        (["--tracks", "animals", "--only-ood", "noise"], "of those of the track animals, plants, food, "),
        (
            ["--split", "photographs", "--tracks", "fish", "--only-ood", "noise"],
            "of the track fish, animals, ",
        ),
        (["--split", "birds"], "no split 'birds'"),
    ],
)
def test_mistakes_are_told_in_one_line_before_any_work(own, monkeypatch, capsys, arguments, message):
    def refuse(*_, **__):
        raise AssertionError("too early")

    monkeypatch.setattr(ablation, "load_backbone", refuse)
    monkeypatch.setitem(cli._BENCHMARKS, "ablate", "vary settings")
    given = arguments if {"--split", "--tracks"} & {*arguments} else [*OWN, *arguments]
    assert cli.main(["bench", "ablate", *given, "--no-chart", "--out", "out"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("tanl: error: ")
    assert error.count("\n") == 1
    assert message in error
    assert not Path("out").exists()


def test_help_names_every_dimension_and_the_default_tracks(monkeypatch, capsys):
    monkeypatch.setitem(cli._BENCHMARKS, "ablate", "vary settings")
    with pytest.raises(SystemExit) as stop:
        cli.main(["bench", "ablate", "--help"])
    assert stop.value.code == 0
    text = " ".join(capsys.readouterr().out.split())
    for name, dimension in DIMENSIONS.items():
        assert f" {name} {dimension.what} " in text
    assert "(default: animals, coarse-5)" in text
    assert command_module.DEFAULT_TRACKS == ("animals", "coarse-5")
