"""`tanl bench run`: whole runs on a few images, interrupted and continued ones, and what is refused."""

import argparse
import shlex
import shutil
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from colour_backbone import COLOURS, ColourBackbone, paint
from run_folders import damage, without
from states import same_state, state_of
from test_pictograms import RandomBackbone

from tanl import OODMetrics
from tanl.benchmarks import run as command_module
from tanl.benchmarks.data.splits import SPLITS, Source, Split
from tanl.benchmarks.engine import runner, tasks
from tanl.benchmarks.engine.methods import DEFAULT, METHODS, PUBLISHED, Given, describe_methods, find_methods
from tanl.benchmarks.engine.protocol import ORDERS, run_stream, stream_order
from tanl.benchmarks.engine.run_folder import RunFolder
from tanl.benchmarks.engine.runner import run
from tanl.benchmarks.engine.tasks import Config, stream_counts
from tanl.benchmarks.pictograms import manifest
from tanl.benchmarks.run import add_arguments, command, main
from tanl.cli import main as cli
from tanl.detectors import TANL
from tanl.detectors.registry import METHODS as NAMED
from tanl.detectors.registry import make_detector
from tanl.io.options import BATCH_SIZE
from tanl.labels.bank import LabelBank
from tanl.labels.build import build_bank
from tanl.labels.corpus import Corpus
from tanl.metrics import METRICS

TANL_NAME = "TANL (batch-adaptive)"
WORDS = [f"word {letter}{number}" for letter in "abcdefgh" for number in range(10)]


@pytest.fixture(scope="module")
def pictograms(tmp_path_factory):
    """A folder with up to 4 images of each set and coarse class, and a list of words."""
    folder = tmp_path_factory.mktemp("pictograms")
    taken = Counter()
    rows = []
    for row in manifest.read_manifest():
        taken[row.set, row.coarse] += 1
        if taken[row.set, row.coarse] <= 4:
            (folder / row.file).parent.mkdir(parents=True, exist_ok=True)
            (folder / row.file).write_bytes((manifest.FOLDER / row.file).read_bytes())
            rows.append(row)
    manifest.write_manifest(rows, folder)
    (folder / "words.txt").write_text("\n".join(WORDS) + "\n", encoding="utf-8")
    return folder


@pytest.fixture
def offline(pictograms):
    """Runs a configuration of the pictograms."""

    def go(out, backbone=None, **changes):
        said, keep = changes.pop("said", []), changes.pop("keep", 0)
        given = {
            "corpus": str(pictograms / "words.txt"),
            "tracks": ("food", "coarse-5"),
            "methods": ("MCM", "NegLabel", "AdaNeg", TANL_NAME),
            "batch_size": 16,
            **changes,
        }
        return run(
            Config(**given),
            out,
            backbone=backbone or RandomBackbone(),
            folder=pictograms,
            extreme_images=5,
            cache_dir=pictograms / "cache",
            keep=keep,
            say=said.append,
        )

    return go


def content(folder):
    """All cells with their scores, as comparable values; how long they took is left out."""
    found = {}
    for cell in folder.cells():
        assert cell.key not in found
        values = tuple(part.tobytes() for part in folder.scores(cell))
        found[cell.key] = (replace(cell, seconds=0.0), values)
    return found


def test_a_run_measures_every_stream_once(offline, tmp_path):
    said = []
    result = offline(tmp_path / "run", seeds=(0, 1), orders=("shuffled", "drift"), said=said)
    cells = result.cells()
    sets = [part for part in result.run["sets"] if part["role"] != "id"]
    assert len(cells) == len(sets) * (2 + 2 * 2 * 2)
    for cell in cells:
        stateless = cell.method in ("MCM", "NegLabel")
        assert ((cell.order, cell.seed) == ("any", None)) == stateless
        assert (cell.threshold is None) == (cell.method != TANL_NAME)
        assert len(cell.activated) == (30 if cell.method == TANL_NAME else 0)
        assert cell.seconds > 0
        assert cell.batch_size == 16
        scores = result.scores(cell)
        metrics = OODMetrics()
        metrics.update(scores.id, np.zeros(cell.num_id))
        metrics.update(scores.ood, np.full(cell.num_ood, -1))
        assert cell.metrics == {name: metrics.compute()[name] for name in METRICS}
        if stateless:
            assert scores.positions.tolist() == list(range(cell.num_id + cell.num_ood))
        else:
            positions = stream_order(cell.num_id, cell.num_ood, cell.order, cell.seed)
            assert scores.positions.tolist() == positions.tolist()
    assert {cell.role for cell in cells} == {"near", "far", "extreme"}
    labels, values = zip(*next(cell for cell in cells if cell.activated).activated, strict=True)
    assert set(labels) <= set(WORDS)
    assert list(values) == sorted(values, reverse=True)
    environment = result.run["environment"]
    assert environment["backbone_fingerprint"] == "random projection"
    assert environment["corpus"] == "words.txt (80 words)"
    assert environment["corpus_fingerprint"] == Corpus.load(result.run["config"]["corpus"]).fingerprint
    assert environment["device"] == "cpu"
    assert {"tanl", "torch", "python", "numpy", "pillow", "machine", "threads", "kernels"} < set(environment)
    assert result.run["seconds"] > 0
    assert said == []


def test_image_lists_name_the_images_of_the_scores(offline, tmp_path):
    result = offline(tmp_path / "run", methods=("MCM",), tracks=("food",))
    rows = {row.file: row for row in manifest.read_manifest()}
    for part in result.run["sets"]:
        paths = result.images(part)
        assert (paths is None) == (part["role"] == "extreme")
        if paths is not None:
            assert len(paths) == part["count"]
            names = [path.relative_to(manifest.FOLDER).as_posix() for path in paths]
            assert {rows[name].set for name in names} == {part["name"]}


def test_scores_are_those_of_a_stream_by_hand(offline, pictograms, tmp_path):
    """The runner only arranges: a stream put together here gives the same scores."""
    result = offline(tmp_path / "run", methods=("NegLabel", TANL_NAME), orders=("ood-first",), seeds=(3,))
    backbone = RandomBackbone()
    gathering = tasks.Gathering(backbone, folder=pictograms, extreme_images=5, cache_dir=pictograms / "cache")
    task = gathering.tasks(Config(tracks=("food",)))[0]
    bank = build_bank(
        backbone, task.classes, corpus=str(pictograms / "words.txt"), cache_dir=pictograms / "cache"
    )
    noise = runner.noise_embeddings(backbone)
    part = next(part for part in task.ood if part.name == "plants")
    for method, seed in (("NegLabel", 0), (TANL_NAME, 3)):
        detector = METHODS[method].make(Given(bank, noise, seed, backbone.encode_texts))
        expected = run_stream(
            detector, task.id[0].embeddings, part.embeddings, order="ood-first", seed=3, batch_size=16
        )
        cell = next(
            cell
            for cell in result.cells()
            if (cell.track, cell.method, cell.ood) == ("food", method, "plants")
        )
        scores = result.scores(cell)
        assert scores.id == pytest.approx(expected.id, abs=1e-6)
        assert scores.ood == pytest.approx(expected.ood, abs=1e-6)


@pytest.mark.parametrize("after", [4, 23])
def test_an_interrupted_run_goes_on_without_a_lost_or_double_cell(offline, tmp_path, monkeypatch, after):
    asked = {"seeds": (0, 1), "orders": ("shuffled", "blocks"), "tracks": ("food",)}
    whole = content(offline(tmp_path / "whole", **asked))
    calls = []
    judge = TANL.__call__

    def interrupted(self, z):
        calls.append(len(z))
        if len(calls) == after * 3:
            raise KeyboardInterrupt
        return judge(self, z)

    monkeypatch.setattr(TANL, "__call__", interrupted)
    with pytest.raises(KeyboardInterrupt):
        offline(tmp_path / "run", **asked)
    monkeypatch.undo()
    left = content(RunFolder.open(tmp_path / "run"))
    assert 0 < len(left) < len(whole)
    times = {cell.key: cell.seconds for cell in RunFolder.open(tmp_path / "run").cells()}
    said = []
    result = offline(tmp_path / "run", said=said, **asked)
    assert said == [f"{len(left)} of {len(whole)} cells were there already"]
    assert content(result) == whole
    assert {cell.key: cell.seconds for cell in result.cells() if cell.key in times} == times


def test_a_finished_run_measures_nothing_again_and_can_grow(offline, tmp_path, monkeypatch):
    small = content(offline(tmp_path / "run", methods=("MCM", TANL_NAME)))

    def refuse(*_, **__):
        raise AssertionError("there is nothing to measure")

    monkeypatch.setattr(runner, "run_stream", refuse)
    monkeypatch.setattr(runner, "build_bank", refuse)
    before = offline(tmp_path / "run", methods=("MCM", TANL_NAME)).run["seconds"]
    monkeypatch.undo()
    grown = offline(tmp_path / "run", methods=("NegLabel", TANL_NAME), seeds=(1,), orders=("drift",))
    assert grown.run["seconds"] > before
    assert grown.run["config"]["methods"] == ["MCM", TANL_NAME, "NegLabel"]
    assert grown.run["config"]["seeds"] == [0, 1]
    everything = content(grown)
    assert {key: everything[key] for key in small} == small
    kinds = {(key.method, key.order, key.seed) for key in everything}
    assert kinds == {
        ("MCM", "any", None),
        ("NegLabel", "any", None),
        (TANL_NAME, "shuffled", 0),
        (TANL_NAME, "drift", 1),
    }


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch_size": 8}, "another batch_size: 16, not 8"),
        ({"limit": 3}, "another limit: None, not 3"),
        ({"tracks": ("food",)}, r"another tracks: \['food', 'coarse-5'\], not \['food'\]"),
    ],
)
def test_another_configuration_is_refused_before_anything_is_loaded(offline, tmp_path, changes, message):
    class Unused(RandomBackbone):
        def encode_images(self, pixels):
            raise AssertionError("too early")

    offline(tmp_path / "run", methods=("MCM",))
    with pytest.raises(ValueError, match=message):
        offline(tmp_path / "run", Unused(), methods=("MCM",), **changes)


def test_other_weights_are_refused_and_damaged_cells_measured_again(offline, tmp_path):
    class Other(RandomBackbone):
        fingerprint = "other weights"

    result = offline(tmp_path / "run", methods=("MCM",))
    with pytest.raises(ValueError, match="another backbone_fingerprint"):
        offline(tmp_path / "run", Other(), methods=("MCM",))
    whole = content(result)
    one, other, third = [cell.key for cell in result.cells()][:3]
    damage(result, "cell", one.slug, lambda text: text[:-1])
    damage(result, "scores", other.slug, lambda values: values[:-1] + bytes([values[-1] ^ 1]))
    without(result, third, kinds=["scores"])
    with pytest.raises(ValueError, match=f"the cell {one.slug} is damaged"):
        RunFolder.open(result.path).cells()
    said = []
    again = offline(tmp_path / "run", methods=("MCM",), said=said)
    assert "3 damaged cells are measured again" in said
    assert content(again) == whole


def test_limit_takes_a_seeded_part_of_every_set(offline, tmp_path):
    first = offline(tmp_path / "a", methods=("MCM",), limit=3)
    again = offline(tmp_path / "b", methods=("MCM",), limit=3)
    assert {part["count"] for part in first.run["sets"]} <= {2, 3}
    assert first.run["sets"] == again.run["sets"]
    assert content(first) == content(again)
    assert first.run["config"]["limit"] == 3


def test_only_the_named_ood_sets_are_measured_and_to_the_same_scores(offline, tmp_path):
    whole = content(offline(tmp_path / "whole"))
    few = offline(tmp_path / "few", only_ood=("noise", "plants"))
    assert few.run["config"]["only_ood"] == ["noise", "plants"]
    assert [(part["track"], part["name"]) for part in few.run["sets"] if part["role"] != "id"] == [
        (track, name) for track in ("food", "coarse-5") for name in ("plants", "noise")
    ]
    assert content(few) == {
        key: values for key, values in whole.items() if key.ood in few.run["config"]["only_ood"]
    }
    with pytest.raises(ValueError, match=r"another only_ood: \['noise', 'plants'\], not None"):
        offline(tmp_path / "few")


def test_a_track_without_a_named_ood_set_is_refused(offline, tmp_path):
    with pytest.raises(
        ValueError, match="the track food has none of the OOD sets food; it has animals, plants"
    ):
        offline(tmp_path / "run", tracks=("animals", "food"), only_ood=("food",))
    assert not (tmp_path / "run").exists()


def test_order_and_seed_change_what_a_stream_learns(offline, tmp_path):
    result = offline(
        tmp_path / "run", methods=("AdaNeg", TANL_NAME), tracks=("food",), orders=ORDERS, seeds=(0, 5)
    )
    for method in ("AdaNeg", TANL_NAME):
        streams = {
            (cell.order, cell.seed): result.scores(cell).id.tobytes()
            for cell in result.cells()
            if (cell.method, cell.ood) == (method, "objects")
        }
        assert len(streams) == 2 * len(ORDERS)
        assert len(set(streams.values())) > len(ORDERS)


def test_longer_streams_keep_the_proportion_and_begin_with_the_originals(offline, tmp_path):
    plain = offline(tmp_path / "plain", methods=("MCM",), tracks=("food",))
    longer = offline(tmp_path / "long", methods=("MCM", TANL_NAME), tracks=("food",), stream_length=90)
    assert longer.run["config"]["augmented"]
    assert not plain.run["config"]["augmented"]
    own = {cell.ood: cell for cell in plain.cells()}
    counts = {part["name"]: part["count"] for part in longer.run["sets"]}
    assert {name: short.num_ood for name, short in own.items()}.items() <= {
        part["name"]: part["originals"] for part in longer.run["sets"]
    }.items()
    assert counts["food"] == max(cell.num_id for cell in longer.cells())
    for cell in longer.cells():
        short = own[cell.ood]
        assert cell.num_id + cell.num_ood == 90
        assert cell.num_id / 90 == pytest.approx(short.num_id / (short.num_id + short.num_ood), abs=0.5 / 90)
        assert counts[cell.ood] == cell.num_ood
        if cell.method == "MCM":
            scores, originals = longer.scores(cell), plain.scores(short)
            assert np.array_equal(scores.id[: short.num_id], originals.id)
            assert np.array_equal(scores.ood[: short.num_ood], originals.ood)
            assert len(set(scores.ood.tolist())) > short.num_ood
        id_sources, ood_sources = longer.sources(cell)
        assert np.array_equal(id_sources, np.arange(cell.num_id) % short.num_id)
        assert np.array_equal(ood_sources, np.arange(cell.num_ood) % short.num_ood)
    for part in longer.run["sets"]:
        paths = longer.images(part)
        if paths is not None:
            assert len(paths) == part["count"]
            assert len(set(paths)) < len(paths)


@pytest.mark.parametrize(
    ("given", "expected"), [((10, 30, 400), (100, 300)), ((10, 30, 20), (10, 30)), ((1, 2, 10), (3, 7))]
)
def test_stream_counts(given, expected):
    assert stream_counts(*given) == expected


def test_csp_has_words_of_its_own(offline, tmp_path, monkeypatch):
    pool = [f"thing number {number}" for number in range(800)] + [
        f"odd{number} scene" for number in range(800)
    ]
    monkeypatch.setattr(runner, "conjugated_words", lambda: Corpus(tuple(pool), ("noun",) * 1600, "pool"))
    banks = []
    build = build_bank

    def recorded(*arguments, **given):
        banks.append(build(*arguments, **given))
        return banks[-1]

    monkeypatch.setattr(runner, "build_bank", recorded)
    result = offline(tmp_path / "run", methods=("MCM", "NegLabel", "CSP"), tracks=("food",))
    assert [bank.num_negatives for bank in banks] == [0, 80, 1600]
    assert {cell.method for cell in result.cells()} == {"MCM", "NegLabel", "CSP"}


def test_gl_mcm_is_left_out_where_there_are_no_patches(offline, tmp_path):
    said = []
    result = offline(tmp_path / "run", methods=("MCM", "GL-MCM"), tracks=("food",), said=said)
    (message,) = said
    assert message.startswith("GL-MCM is left out: backbone must be a ClipBackbone")
    assert result.run["config"]["methods"] == ["MCM"]
    assert "ClipBackbone" in result.run["left_out"]["GL-MCM"]
    with pytest.raises(ValueError, match="no method is left"):
        offline(tmp_path / "other", methods=("GL-MCM",))


def test_gl_mcm_runs_from_the_images_of_a_vision_transformer(offline, tiny_backbone, tmp_path):
    from tanl.backbones.local_features import encode_images_local
    from tanl.benchmarks.data.image_sets import read_as_stored
    from tanl.detectors.gl_mcm import GLMCM

    result = offline(tmp_path / "run", tiny_backbone, methods=("MCM", "GL-MCM"), tracks=("food",))
    cells = [cell for cell in result.cells() if cell.method == "GL-MCM"]
    assert len(cells) == len(result.run["sets"]) - 1
    assert {(cell.order, cell.seed) for cell in cells} == {("any", None)}
    part = next(part for part in result.run["sets"] if part["name"] == "plants")
    pixels = torch.stack([tiny_backbone.preprocess(read_as_stored(path)) for path in result.images(part)])
    z, local = encode_images_local(tiny_backbone, pixels)
    kept = {path.relative_to(manifest.FOLDER).as_posix() for path in result.images(result.run["sets"][0])}
    names = sorted({row.label for row in manifest.read_manifest() if row.file in kept})
    expected = GLMCM(build_bank(tiny_backbone, names, corpus=None))(z, local=local)
    scores = result.scores(next(cell for cell in cells if cell.ood == "plants"))
    assert scores.ood == pytest.approx(expected.numpy(), abs=1e-4)


@pytest.fixture
def own(tmp_path, monkeypatch):
    """Folders of colours: red and green are ID, the others OOD; and the files that go with them."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TANL_CACHE", str(tmp_path / "cache"))
    for number in range(8):
        for colour in COLOURS:
            group = colour if colour not in ("red", "green") else f"id/{colour}"
            paint(tmp_path / group / f"{number}-{colour}.png", colour)
    Path("labels.txt").write_text("red\ngreen\n")
    Path("corpus.txt").write_text("blue\nyellow\npurple\nwhite\n" + "".join(f"word {i}\n" for i in range(40)))
    monkeypatch.setattr(runner, "load_backbone", lambda name, device: ColourBackbone())
    return tmp_path


def parse(*arguments):
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    return parser.parse_args(arguments)


OWN = ["--id", "id", "--ood", "blue", "yellow", "--labels", "labels.txt", "--corpus", "corpus.txt"]
QUICK = ["--methods", "mcm,TANL batch-adaptive", "--batch-size", "8"]


def test_published_is_the_papers_words_and_images_and_the_rows_that_print_has_figures_for():
    config = command_module._config(parse("--published"))
    assert (config.corpus, config.removal, config.preprocessing) == ("neglabel", "names", "published")
    assert config.batch_size == 256
    assert config.is_published
    assert config.methods == PUBLISHED
    assert {"TANL (batch-adaptive, float16)", "TANL (official-script, float16)"} == set(PUBLISHED) - set(
        DEFAULT
    )
    words = "--corpus neglabel --removal names --preprocessing published --batch-size 256"
    assert all(part in command(config) for part in words.split(" --"))
    spelled = command_module._config(parse(*words.split()))
    assert spelled == config
    assert command_module._config(parse(*shlex.split(command(config))[3:])) == config
    assert command_module._config(parse("--published", "--methods", "mcm")).methods == ("MCM",)
    own = command_module._config(parse())
    assert (own.corpus, own.removal, own.preprocessing) == ("wordnet", "synonyms", "own")
    assert own.methods == DEFAULT and not own.is_published
    assert own.batch_size == BATCH_SIZE
    with pytest.raises(ValueError, match="--published stands for --corpus neglabel; leave --corpus csp out"):
        command_module._config(parse("--published", "--corpus", "csp"))
    with pytest.raises(ValueError, match="--published stands for --batch-size 256; leave --batch-size 9 out"):
        command_module._config(parse("--published", "--batch-size", "9"))
    with pytest.raises(ValueError, match=r"removal must be one of .*, not 'name'; did you mean 'names'"):
        Config(removal="name")


def test_the_command_measures_folders_of_ones_own(own, monkeypatch, capsys):
    monkeypatch.setattr("tanl.io.progress._SECONDS", 0.0)  # where there is no terminal, a line a minute
    Path("blue/broken.png").write_bytes(b"no image")
    assert main(parse(*OWN, *QUICK, "--orders", "shuffled,drift", "--seeds", "0", "1")) == 0
    output = capsys.readouterr()
    result = RunFolder.open("tanl-bench/custom")
    assert f"{2 * (1 + 4)} cells in tanl-bench" in output.out
    assert "TANL (batch-adaptive)" in output.out
    assert ": 10 of 10 cells in" in output.err
    assert "blue: 1 images could not be read: broken.png" in output.err
    blue = next(part for part in result.run["sets"] if part["name"] == "blue")
    assert (blue["role"], blue["count"], blue["unreadable"]) == ("ood", 8, ["broken.png"])
    assert [path.name for path in result.images(blue)] == [f"{number}-blue.png" for number in range(8)]
    for cell in result.cells():
        assert (cell.num_id, cell.num_ood) == (16, 8)
        assert cell.metrics["AUROC"] > 0.9
    again = shlex.split(result.run["command"])
    assert again[:3] == ["tanl", "bench", "run"]
    assert command(command_module._config(parse(*again[3:]))) == result.run["command"]


def test_the_command_goes_on_after_an_interrupt(own, monkeypatch, capsys):
    monkeypatch.setitem(cli._BENCHMARKS, "run", "measure methods")
    judge = TANL.__call__

    def interrupted(self, z):
        raise KeyboardInterrupt

    arguments = ["bench", "run", *OWN, *QUICK]
    monkeypatch.setattr(TANL, "__call__", interrupted)
    assert cli.main(arguments) == 130
    assert capsys.readouterr().err.endswith("tanl: interrupted\n")
    monkeypatch.setattr(TANL, "__call__", judge)
    assert cli.main(arguments) == 0
    output = capsys.readouterr()
    assert "tanl: 2 of 4 cells were there already\n" in output.err
    assert "4 cells in" in output.out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--id", "id", "--labels", "labels.txt"], "--id, --ood and --labels"),
        (["--split", "four-ood", *OWN], "leave out --split four-ood"),
        (["--split", "birds"], "no split 'birds'; there are pictograms"),
        (["--split", "four-ood", *QUICK], "the set imagenet-val is not in data"),
        (["--split", "four-ood", "--tracks", "food"], "this split has none"),
        (["--split", "four-ood", "--full-spectrum"], "no covariate-shifted sets"),
        (["--tracks", "birds"], "no track birds; there are animals"),
        (["--tracks", "food", "--only-ood", "food"], "no OOD set food; there are animals, plants"),
        (["--split", "four-ood", "--only-ood", "sun,ninco"], "no OOD set ninco; there are inaturalist, sun"),
        (["--split", "drift-spti", "--only-ood", "sun"], "is one stream of all its OOD sets"),
        ([*OWN, "--only-ood", "blue"], "leave --only-ood out"),
        (["--methods", "mcm,best"], "no method best; there are MCM"),
        (["--orders", "sorted"], "no order sorted; there are shuffled"),
        (["--corpus", "nonsense", *OWN[:-2]], "unknown corpus 'nonsense'"),
        ([*OWN[:2], "--ood", "missing", *OWN[5:], *QUICK], "missing"),
    ],
)
def test_what_cannot_be_run_is_told_in_one_line(own, monkeypatch, capsys, arguments, message):
    monkeypatch.setitem(cli._BENCHMARKS, "run", "measure methods")
    assert cli.main(["bench", "run", *arguments]) == 2
    error = capsys.readouterr().err
    assert error.startswith("tanl: error: ")
    assert error.count("\n") == 1
    assert message in error


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--seeds", "0", "-1"], "argument --seeds/--seed: '-1' is not a whole number of at least 0"),
        (["--limit", "1"], "argument --limit: '1' is not a whole number of at least 2"),
        (["--batch-size", "many"], "argument --batch-size: 'many' is not a whole number of at least 1"),
        (["--removal", "name"], "argument --removal: invalid choice: 'name'"),
    ],
)
def test_unusable_values_are_refused_by_their_options(own, monkeypatch, capsys, arguments, message):
    monkeypatch.setitem(cli._BENCHMARKS, "run", "measure methods")
    with pytest.raises(SystemExit, match="2"):
        cli.main(["bench", "run", *OWN, *arguments])
    assert message in capsys.readouterr().err


def test_sets_of_one_name_are_told_apart(own):
    shutil.copytree("blue", "more/blue")
    Path("more/blue/0-blue.png").unlink()
    arguments = [*OWN[:2], "--ood", "blue", "more/blue", *OWN[5:], "--methods", "mcm"]
    assert main(parse(*arguments)) == 0
    counts = {cell.ood: cell.num_ood for cell in RunFolder.open("tanl-bench/custom").cells()}
    assert counts == {"blue": 8, "more/blue": 7}


def lay_out(root, monkeypatch, **changes):
    """A split of colours on disk, in OpenOOD's layout."""
    lines = {"red": 0, "green": 1, "blue": -1, "yellow": -1}
    for colour, label in lines.items():
        names = [f"{colour}/{number}.png" for number in range(9)]
        for name in names:
            paint(root / "data" / "images" / name, colour)
        listed = root / "data" / "lists" / f"{colour}.txt"
        listed.parent.mkdir(exist_ok=True)
        listed.write_text("".join(f"{name} {label}\n" for name in names))

    def source(*names, count=None):
        return Source("-".join(names), tuple(f"lists/{name}.txt" for name in names), ("images",), count=count)

    split = Split(
        "colours",
        id=source("red"),
        near=(source("yellow", count=9),),
        far=(source("blue", count=10),),
        covariate=(source("green"),),
        class_names="colours",
        **changes,
    )
    monkeypatch.setitem(SPLITS, "colours", split)


SPLIT = ["--split", "colours", "--labels", "labels.txt", "--corpus", "corpus.txt", *QUICK]


def test_a_split_on_disk_with_its_roles(own, monkeypatch, capsys):
    lay_out(own, monkeypatch)
    assert main(parse(*SPLIT)) == 0
    result = RunFolder.open("tanl-bench/colours")
    assert [(part["name"], part["role"], part["count"], part["expected"]) for part in result.run["sets"]] == [
        ("red", "id", 9, None),
        ("yellow", "near", 9, 9),
        ("blue", "far", 9, 10),
    ]
    assert "blue: 9 images, but the published set has 10" in capsys.readouterr().err
    assert main(parse(*SPLIT, "--full-spectrum", "--out", "full")) == 0
    full = RunFolder.open("full")
    assert [part["role"] for part in full.run["sets"]] == ["id", "covariate", "near", "far"]
    assert {cell.num_id for cell in full.cells()} == {18}
    with pytest.raises(ValueError, match="another full_spectrum: True, not False"):
        main(parse(*SPLIT, "--out", "full"))


def test_ood_sets_that_are_not_asked_for_need_not_be_there(own, monkeypatch, capsys):
    lay_out(own, monkeypatch)
    Path("data/lists/blue.txt").unlink()
    with pytest.raises(FileNotFoundError, match="the set blue is not in data"):
        main(parse(*SPLIT))
    assert main(parse(*SPLIT, "--only-ood", "yellow")) == 0
    result = RunFolder.open("tanl-bench/colours")
    assert [part["name"] for part in result.run["sets"]] == ["red", "yellow"]
    assert "Of the split's OOD sets only yellow: means are over these alone." in capsys.readouterr().out
    again = shlex.split(result.run["command"])
    assert command(command_module._config(parse(*again[3:]))) == result.run["command"]
    assert "--only-ood yellow" in result.run["command"]
    assert main(parse(*SPLIT, "--only-ood", "yellow", "--full-spectrum", "--out", "full")) == 0
    assert [part["name"] for part in RunFolder.open("full").run["sets"]] == ["red", "green", "yellow"]


def test_sets_of_one_stream_share_a_state_and_a_broken_chain_is_run_again(own, monkeypatch):
    lay_out(own, monkeypatch, drift=("yellow", "blue"))
    resets = []
    reset = TANL.reset
    monkeypatch.setattr(TANL, "reset", lambda self: resets.append(1) or reset(self))
    assert main(parse(*SPLIT)) == 0
    assert len(resets) == 1  # before the first set
    result = RunFolder.open("tanl-bench/colours")
    whole = content(result)
    last = next(cell for cell in result.cells() if (cell.method, cell.ood) == (TANL_NAME, "blue"))
    written = []
    write = RunFolder.write
    monkeypatch.setattr(
        RunFolder, "write", lambda self, cell, scores: written.append(cell.key) or write(self, cell, scores)
    )
    without(result, last.key)
    assert main(parse(*SPLIT)) == 0
    assert content(RunFolder.open(result.path)) == whole
    assert written == [last.key]


def texts(prompts):
    """An embedding for each text, of the banks here."""
    rows = [torch.randn(16, generator=torch.Generator().manual_seed(sum(map(ord, each)))) for each in prompts]
    return torch.nn.functional.normalize(torch.stack(rows), dim=1)


def test_methods_are_found_by_name_and_described():
    assert find_methods(["tanl (official script)", "GLMCM", "mcm", "MCM"]) == (
        "MCM",
        "GL-MCM",
        "TANL (official-script)",
    )
    with pytest.raises(ValueError, match="no method named"):
        find_methods([" "])
    text = describe_methods()
    assert all(name in text and method.memory in text for name, method in METHODS.items())
    assert [name for name, method in METHODS.items() if method.streaming] == [
        "AdaNeg",
        "TANL (distribution)",
        TANL_NAME,
        "TANL (official-script)",
        "TANL (medical)",
        "TANL (siglip)",
        "TANL (practice)",
        "TANL (batch-adaptive, float16)",
        "TANL (official-script, float16)",
        "NegLabel + dictionary",
        "TANL (official-script) + balanced",
        "TANL (official-script) + debiased",
        "TANL (official-script) + dictionary",
        "TANL (official-script) + pairs",
        "TANL (official-script) + inter-modal",
    ]
    assert find_methods(["neglabel + pairs"]) == ("NegLabel + pairs",)
    assert not {name for name in METHODS if "+" in name} & {*DEFAULT, *PUBLISHED}


@pytest.mark.parametrize("name", NAMED)
def test_a_method_with_a_name_is_found_by_it_and_made_as_guards_make_it(name):
    draw = torch.Generator().manual_seed(0)
    rows, noise = (torch.nn.functional.normalize(torch.randn(n, 16, generator=draw)) for n in (1010, 4))
    bank = LabelBank([f"word {i}" for i in range(1010)], rows, num_id=10, logit_scale=20.0)
    (found,) = find_methods([name])
    made = METHODS[found].make(Given(bank, noise, 3, texts))
    expected = make_detector(name, bank, seed=3, initial_ood=noise)
    assert type(made) is type(expected)
    assert made.settings == expected.settings
    assert same_state(made.state_dict(), expected.state_dict())
    assert torch.equal(made(rows[5:50]), expected(rows[5:50]))


def test_every_method_is_made_from_a_bank(bank):
    shots = bank.id_embeddings[:2], bank.id_names[:2]
    given = Given(bank, bank.id_embeddings[:3], 0, texts, None, *shots)
    for name, method in METHODS.items():
        if name == "CSP":
            continue
        detector = method.make(given)
        if method.streaming:
            before = state_of(detector)
            detector(bank.negative_embeddings[:40])
            assert not same_state(detector.state_dict(), before)
        elif not method.needs_local:  # its scores may be kept: nothing it has seen changes them
            before = detector(bank.negative_embeddings[:7])
            detector(bank.id_embeddings)
            assert torch.equal(detector(bank.negative_embeddings[:7]), before)
    alphas = {name: METHODS[name].make(given).alpha for name in ("TANL (distribution)", TANL_NAME)}
    assert alphas["TANL (distribution)"] == 1.0
    assert alphas[TANL_NAME] == 0.95


def test_kept_activations_give_the_same_scores(offline, tmp_path):
    asked = {"methods": ("TANL (official-script)", "TANL (practice)"), "orders": ("shuffled", "ood-first")}
    plain = offline(tmp_path / "plain", **asked)
    kept = offline(tmp_path / "kept", keep=1 << 24, **asked)
    cells = {cell.key: cell for cell in kept.cells()}
    assert len(cells) == len(plain.cells()) > 0
    for cell in plain.cells():
        expected, scores = plain.scores(cell), kept.scores(cells[cell.key])
        assert scores.id == pytest.approx(expected.id, abs=1e-5)
        assert scores.ood == pytest.approx(expected.ood, abs=1e-5)


def test_id_images_that_are_set_aside_are_in_no_stream(offline, tmp_path):
    methods = ("NegLabel", "NegLabel + inter-modal", "TANL (official-script) + inter-modal")
    said = []
    whole = offline(tmp_path / "whole", methods=methods, tracks=("coarse-5",), said=said)
    assert {cell.method for cell in whole.cells()} == {"NegLabel"}
    assert sum("give --shots" in message for message in said) == 2
    some = offline(tmp_path / "some", methods=methods, tracks=("coarse-5",), shots=2)
    assert {cell.method for cell in some.cells()} == set(methods)
    [all_of_it] = {cell.num_id for cell in whole.cells()}
    assert {cell.num_id for cell in some.cells()} == {all_of_it - 2 * 5}
    part = next(part for part in some.run["sets"] if part["role"] == "id")
    other = next(part for part in whole.run["sets"] if part["role"] == "id")
    assert part["count"] == all_of_it - 2 * 5
    assert part["fingerprint"] != other["fingerprint"]


def test_what_is_set_aside_leaves_each_class_an_image(pictograms):
    gathering = tasks.Gathering(
        RandomBackbone(), folder=pictograms, extreme_images=5, cache_dir=pictograms / "cache"
    )
    config = Config(tracks=("coarse-5",), shots=100)
    [task], [whole] = gathering.tasks(config), gathering.tasks(replace(config, shots=0))
    part, every = task.id[0], whole.id[0]
    assert sorted(part.images.labels) == list(range(5))
    assert len(task.shots) == len(task.shot_labels) == len(every.images) - 5
    streamed = {tuple(row.tolist()) for row in part.embeddings}
    aside = {tuple(row.tolist()) for row in task.shots}
    assert streamed | aside == {tuple(row.tolist()) for row in every.embeddings}
    assert not streamed & aside
    assert len(part.paths) == len(part.images) == 5
    label_of = {
        tuple(row.tolist()): whole.classes[label]
        for row, label in zip(every.embeddings, every.images.labels, strict=True)
    }
    assert [label_of[tuple(row.tolist())] for row in task.shots] == list(task.shot_labels)


def test_the_configuration_refuses_what_does_not_go_together():
    for changes, message in [
        ({"methods": ("MCM", "MCM")}, "named twice"),
        ({"seeds": ()}, "seeds must"),
        ({"batch_size": 0}, "batch_size must be at least 1, not 0"),
        ({"shots": -1}, "shots must be at least 0, not -1"),
        ({"labels": "x.txt"}, "class names of its own"),
        ({"split": "openood-imagenet-1k", "full_spectrum": True, "stream_length": 9}, "do not go together"),
    ]:
        with pytest.raises(ValueError, match=message):
            Config(**changes)


def test_help_names_all_that_can_be_chosen(monkeypatch, capsys):
    monkeypatch.setitem(cli._BENCHMARKS, "run", "measure methods")
    with pytest.raises(SystemExit) as stop:
        cli.main(["bench", "run", "--help"])
    assert stop.value.code == 0
    text = capsys.readouterr().out
    for name in (*SPLITS, *METHODS, *ORDERS):
        assert name in text
    assert sys.modules["tanl.benchmarks.run"] is command_module
