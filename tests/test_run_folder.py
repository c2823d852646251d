"""A run on disk: written whole, continued, and refused where it is another run or damaged."""

import json

import numpy as np
import pytest

from tanl.benchmarks.engine.run_folder import METRICS, Cell, CellScores, Key, RunFolder

CONFIG = {
    "split": "toy",
    "backbone": "b",
    "methods": ["MCM"],
    "seeds": [0],
    "orders": ["shuffled"],
    "limit": None,
}
ENVIRONMENT = {
    "tanl": "1",
    "device": "cpu",
    "backbone_fingerprint": "x",
    "corpus_fingerprint": "y",
    "torch": "2",
}
SETS = [
    {"name": "cats", "role": "id", "track": "", "count": 5, "expected": None, "unreadable": []},
    {"name": "dogs", "role": "near", "track": "", "count": 3, "expected": 4, "unreadable": ["a.png"]},
]
IMAGES = {("", "cats"): [f"/x/cat <{i}>.png" for i in range(5)]}


def create(path, config=CONFIG, environment=ENVIRONMENT, sets=SETS, images=IMAGES):
    return RunFolder.create(path, config, environment, sets, images=images, command="tanl bench run")


def cell(method="MCM", order="shuffled", seed=0, ood="dogs", **changes):
    metrics = {name: 0.5 + 0.01 * number for number, name in enumerate(METRICS)}
    given = {"seconds": 0.1, "activated": (("wolf", 0.25), ("Bär", -0.5)), "threshold": 0.75, **changes}
    return Cell("", method, ood, "near", order, seed, 256, 5, 3, metrics, **given)


def scores(num_id=5, num_ood=3, seed=0):
    generator = np.random.default_rng(seed)
    return CellScores(
        generator.random(num_id, dtype=np.float32),
        generator.random(num_ood, dtype=np.float32),
        generator.permutation(num_id + num_ood).astype(np.int32),
    )


@pytest.fixture
def folder(tmp_path):
    made = create(tmp_path / "deep" / "run")
    made.write(cell(), scores())
    return made


def test_a_run_comes_back_as_it_was_written(folder):
    again = RunFolder.open(folder.path)
    assert again.run == folder.run
    assert again.run["format"] == 1
    assert again.run["command"] == "tanl bench run"
    assert [set(part) - set(SETS[0]) for part in again.run["sets"]] == [{"images_file"}] * 2
    (back,) = again.cells()
    assert back == cell()
    for old, new in zip(scores(), again.scores(back), strict=True):
        assert old.dtype == new.dtype
        assert np.array_equal(old, new)
    assert again.has(cell().key)
    assert not again.has(cell(seed=1).key)


def test_image_lists_are_kept_once_and_come_back(tmp_path):
    images = {("", "cats"): ["a", "b"], ("", "dogs"): ["a", "b"]}
    folder = create(tmp_path, images=images)
    assert len(list((tmp_path / "images").iterdir())) == 1
    cats, dogs = folder.run["sets"]
    assert [str(path) for path in folder.images(cats)] == ["a", "b"]
    assert folder.images(cats) == folder.images(dogs)
    assert create(tmp_path / "other", images=None).images(cats | {"images_file": None}) is None


def test_pictures_that_ship_with_tanl_are_found_wherever_it_is_installed(tmp_path):
    folder = create(tmp_path, {**CONFIG, "split": "pictograms"}, images={("", "cats"): ["images/x.webp"]})
    (path,) = folder.images(folder.run["sets"][0])
    assert path.is_absolute()
    assert path.parts[-3:] == ("pictograms", "images", "x.webp")
    assert "images/x.webp" in next((tmp_path / "images").iterdir()).read_text()


def test_cells_come_in_the_order_of_the_configuration(folder):
    create(folder.path, {**CONFIG, "methods": ["TANL", "MCM"], "orders": ["blocks"], "seeds": [2, 1]})
    for method, order, seed in [("TANL", "blocks", 2), ("MCM", "blocks", 1), ("MCM", "shuffled", 2)]:
        folder.write(cell(method, order, seed), scores())
    found = [(part.method, part.order, part.seed) for part in RunFolder.open(folder.path).cells()]
    expected = [("MCM", "shuffled", 0), ("MCM", "shuffled", 2), ("MCM", "blocks", 1), ("TANL", "blocks", 2)]
    assert found == expected


def test_a_key_names_one_file_whatever_its_parts_hold():
    slugs = {
        Key("", "a/b", "c", "any", None).slug,
        Key("a/b", "", "c", "any", None).slug,
        Key("", "a/b", "c", "any", 0).slug,
        Key("", "a/b", "<c>", "any", None).slug,
    }
    assert len(slugs) == 4
    assert all(len(slug) == 16 and slug.isalnum() for slug in slugs)


def test_writing_a_cell_again_does_not_make_it_two(folder):
    folder.write(cell(seconds=9.0), scores(seed=1))
    (back,) = folder.cells()
    assert back.seconds == 9.0
    assert np.array_equal(folder.scores(back).id, scores(seed=1).id)


def test_a_killed_write_leaves_no_cell_and_no_rubbish_that_counts(folder, monkeypatch):
    def die(*_):
        raise KeyboardInterrupt

    other = cell(seed=1)
    monkeypatch.setattr("tanl.benchmarks.engine.run_folder._write_json", die)
    with pytest.raises(KeyboardInterrupt):
        folder.write(other, scores())
    monkeypatch.undo()
    assert not folder.has(other.key)
    assert folder.cells() == [cell()]
    monkeypatch.setattr("os.fsync", die)
    with pytest.raises(KeyboardInterrupt):
        folder.write(other, scores())
    monkeypatch.undo()
    assert not list(folder.path.rglob("*.part"))
    folder.write(other, scores())
    assert folder.cells() == [cell(), other]


def test_a_run_goes_on_with_more_methods_seeds_and_orders(folder):
    more = {**CONFIG, "methods": ["TANL"], "seeds": [1, 0], "orders": ["drift"]}
    again = create(folder.path, more, {**ENVIRONMENT, "torch": "3"})
    assert again.run["config"] == {
        **CONFIG,
        "methods": ["MCM", "TANL"],
        "seeds": [0, 1],
        "orders": ["shuffled", "drift"],
    }
    assert again.run["created"] == folder.run["created"]
    assert again.run == RunFolder.open(folder.path).run
    assert again.cells() == [cell()]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"config": {**CONFIG, "limit": 10}}, "another limit: None, not 10"),
        ({"config": {**CONFIG, "split": "other"}}, "another split: 'toy', not 'other'"),
        ({"config": {**CONFIG, "extra": 1}}, "another extra: None, not 1"),
        (
            {"environment": {**ENVIRONMENT, "backbone_fingerprint": "z"}},
            "another backbone_fingerprint: 'x', not 'z'",
        ),
        ({"environment": {**ENVIRONMENT, "tanl": "2"}}, "another tanl: '1', not '2'"),
        ({"sets": [SETS[0], {**SETS[1], "count": 4}]}, r"another set dogs \(3 images, now 4,"),
        ({"sets": SETS[:1]}, r"another set dogs \(3 images, now none,"),
        ({"images": {("", "cats"): ["/y/1.png"]}}, r"another set cats \(5 images, now 5, or other files\)"),
    ],
)
def test_another_run_is_refused_and_nothing_changes(folder, changes, message):
    before = (folder.path / "run.json").read_bytes()
    with pytest.raises(ValueError, match=message):
        create(folder.path, **changes)
    assert (folder.path / "run.json").read_bytes() == before


def test_a_run_that_cannot_be_is_refused_before_it_starts(folder, tmp_path):
    with pytest.raises(ValueError, match="another limit"):
        RunFolder.check(folder.path, {**CONFIG, "limit": 10})
    RunFolder.check(folder.path, {**CONFIG, "seeds": [7]})
    RunFolder.check(tmp_path / "new", CONFIG)
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="file is a file; give a folder"):
        RunFolder.check(tmp_path / "file", CONFIG)
    (folder.path / "run.json").unlink()
    with pytest.raises(ValueError, match=r"has cells but no run\.json"):
        create(folder.path)
    with pytest.raises(FileNotFoundError, match="there is no run in"):
        RunFolder.open(folder.path)


def damaged_json(file):
    file.write_text(file.read_text()[:-20])


def other_fields(file):
    file.write_text(json.dumps({"method": "MCM"}))


def no_object(file):
    file.write_text("3")


def other_metrics(file):
    content = json.loads(file.read_text())
    del content["metrics"]["FPR95"]
    file.write_text(json.dumps(content))


def other_key(file):
    file.write_text(file.read_text().replace('"seed": 0', '"seed": 3'))


def not_text(file):
    file.write_bytes(b"\xff\xfe\x00")


def lost_scores(file):
    file.with_suffix(".safetensors").unlink()


@pytest.mark.parametrize(
    "damage", [damaged_json, other_fields, no_object, other_metrics, other_key, not_text, lost_scores]
)
def test_a_damaged_cell_is_named(folder, damage):
    file = folder.path / "cells" / f"{cell().key.slug}.json"
    damage(file)
    with pytest.raises(ValueError, match=f"{cell().key.slug}.json .*delete it to have it measured again"):
        folder.cells()


def test_damaged_scores_are_named(folder):
    file = folder.path / "cells" / f"{cell().key.slug}.safetensors"
    whole = file.read_bytes()
    file.write_bytes(whole[:-3])
    with pytest.raises(ValueError, match=f"{cell().key.slug}.safetensors is damaged"):
        folder.scores(cell())
    file.write_bytes(whole)
    with pytest.raises(ValueError, match=r"'id' is float32 \[5\], not float32 \[6\]"):
        folder.scores(cell().__class__(**{**cell().__dict__, "num_id": 6}))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ood": np.zeros(2, np.float32)}, r"'ood' is float32 \[2\], not float32 \[3\]"),
        ({"id": np.zeros(5)}, r"'id' is float64 \[5\], not float32 \[5\]"),
        ({"positions": np.zeros(8, np.int32)}, "each once"),
    ],
)
def test_scores_that_do_not_fit_are_not_written(folder, changes, message):
    with pytest.raises(ValueError, match=message):
        folder.write(cell(seed=5), scores()._replace(**changes))
    assert not folder.has(cell(seed=5).key)
    assert len(list((folder.path / "cells").iterdir())) == 2


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is damaged"),
        ("[]", "not a run of format 1"),
        ('{"format": 2}', "not a run of format 1"),
        ('{"format": 1, "config": {}}', "has no 'environment'"),
    ],
)
def test_a_damaged_run_is_named(folder, text, message):
    (folder.path / "run.json").write_text(text)
    with pytest.raises(ValueError, match=f"run.json.*{message}"):
        RunFolder.open(folder.path)


def test_notes_are_kept(folder):
    folder.note(seconds=3.5, left_out={"GL-MCM": "no patches"})
    again = RunFolder.open(folder.path)
    assert again.run["seconds"] == 3.5
    assert again.run["left_out"] == {"GL-MCM": "no patches"}
