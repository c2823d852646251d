"""A run on disk: written whole, continued, and refused where it is another run or damaged."""

import errno
import json
import multiprocessing
import sqlite3
from contextlib import closing
from dataclasses import asdict, replace

import numpy as np
import pytest
from run_folders import damage, without

from tanl.benchmarks.engine import run_database, run_folder
from tanl.benchmarks.engine.run_folder import FILE, FORMAT, Cell, CellScores, Key, RunFolder
from tanl.metrics import METRICS

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
    {
        "name": "cats",
        "role": "id",
        "track": "",
        "count": 5,
        "originals": 2,
        "expected": None,
        "unreadable": [],
    },
    {
        "name": "dogs",
        "role": "near",
        "track": "",
        "count": 3,
        "originals": 3,
        "expected": 4,
        "unreadable": ["a.png"],
    },
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
    assert again.run["format"] == FORMAT
    assert again.run["command"] == "tanl bench run"
    assert [set(part) - set(SETS[0]) for part in again.run["sets"]] == [{"images"}] * 2
    (back,) = again.cells()
    assert back == cell()
    for old, new in zip(scores(), again.scores(back), strict=True):
        assert old.dtype == new.dtype
        assert np.array_equal(old, new)
    assert again.has(cell().key)
    assert not again.has(cell(seed=1).key)


def test_variants_have_the_source_that_they_were_made_from(tmp_path):
    sets = [
        *SETS,
        {**SETS[0], "name": "shifted", "role": "covariate", "count": 4, "originals": 4},
        {**SETS[0], "track": "other", "originals": 1},
        {**SETS[1], "name": "noise"},
    ]
    made = create(tmp_path, sets=[SETS[0], *sets[3:], SETS[1]])
    assert [part.tolist() for part in made.sources(cell())] == [[0, 1, 0, 1, 0], [0, 1, 2]]
    whole = create(tmp_path / "full spectrum", sets=sets)
    assert [part.tolist() for part in whole.sources(cell())] == [[0, 1, 2, 3, 4], [0, 1, 2]]


def test_paths_that_are_no_utf_8_come_back(tmp_path):
    paths = ["/x/caf\udce9.png", "/x/\U0001f43a.png"]
    folder = create(tmp_path, images={("", "cats"): paths})
    assert [str(path) for path in folder.images(RunFolder.open(tmp_path).run["sets"][0])] == paths


def test_image_lists_are_kept_once_and_come_back(tmp_path):
    images = {("", "cats"): ["a", "b"], ("", "dogs"): ["a", "b"]}
    folder = create(tmp_path, images=images)
    cats, dogs = folder.run["sets"]
    assert cats["images"] == dogs["images"]
    assert [str(path) for path in folder.images(cats)] == ["a", "b"]
    assert folder.images(cats) == folder.images(dogs)
    assert create(tmp_path / "other", images=None).images(cats | {"images": None}) is None


def test_pictures_that_ship_with_tanl_are_found_wherever_it_is_installed(tmp_path):
    folder = create(tmp_path, {**CONFIG, "split": "pictograms"}, images={("", "cats"): ["images/x.webp"]})
    (path,) = folder.images(folder.run["sets"][0])
    assert path.is_absolute()
    assert path.parts[-3:] == ("pictograms", "images", "x.webp")


def test_cells_come_in_the_order_of_the_configuration(folder):
    create(folder.path, {**CONFIG, "methods": ["TANL", "MCM"], "orders": ["blocks"], "seeds": [2, 1]})
    for method, order, seed in [("TANL", "blocks", 2), ("MCM", "blocks", 1), ("MCM", "shuffled", 2)]:
        folder.write(cell(method, order, seed), scores())
    found = [(part.method, part.order, part.seed) for part in RunFolder.open(folder.path).cells()]
    expected = [("MCM", "shuffled", 0), ("MCM", "shuffled", 2), ("MCM", "blocks", 1), ("TANL", "blocks", 2)]
    assert found == expected


def test_a_key_has_one_name_whatever_its_parts_hold():
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


def test_a_write_that_is_interrupted_anywhere_leaves_no_part_of_a_cell(folder, monkeypatch):
    other = cell(seed=1)
    put = run_folder.put
    for stop_before in ("cell", "scores"):

        def stop(database, kind, name, content, stop_before=stop_before):
            if kind == stop_before:
                raise KeyboardInterrupt
            put(database, kind, name, content)

        with monkeypatch.context() as patch:
            patch.setattr(run_folder, "put", stop)
            with pytest.raises(KeyboardInterrupt):
                folder.write(other, scores())
        assert not folder.has(other.key)
        assert RunFolder.open(folder.path).cells() == [cell()]
    assert [file.name for file in folder.path.iterdir()] == [FILE]
    folder.write(other, scores())
    assert folder.cells() == [cell(), other]


def test_a_folder_whose_maker_was_killed_has_no_run_and_takes_one(tmp_path):
    (tmp_path / FILE).touch()
    assert not RunFolder.is_in(tmp_path)
    RunFolder.check(tmp_path, CONFIG)
    with pytest.raises(FileNotFoundError, match="there is no run in"):
        RunFolder.open(tmp_path)
    create(tmp_path).write(cell(), scores())
    assert RunFolder.is_in(tmp_path)
    assert RunFolder.open(tmp_path).cells() == [cell()]


def fill(path, method, start):
    made = create(path, {**CONFIG, "methods": [method], "seeds": list(range(20))})
    start.wait()
    for seed in range(20):
        made.write(cell(method, seed=seed), scores(seed=seed))
        made.note(seconds=1.0, left_out={f"{method} {seed}": "why not"})


def test_processes_that_fill_one_folder_lose_nothing_of_each_other(tmp_path):
    context = multiprocessing.get_context("spawn")
    start = context.Barrier(2)
    processes = [
        context.Process(target=fill, args=(tmp_path / "run", method, start)) for method in ("MCM", "TANL")
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0]
    both = RunFolder.open(tmp_path / "run")
    assert sorted(both.run["config"]["methods"]) == ["MCM", "TANL"]
    assert both.run["seconds"] == 40.0
    assert len(both.run["left_out"]) == 40
    expected = {cell(method, seed=seed).key for method in ("MCM", "TANL") for seed in range(20)}
    assert {part.key for part in both.cells()} == expected
    for part in both.cells():
        assert np.array_equal(both.scores(part).id, scores(seed=part.seed).id)


def test_what_another_wrote_is_seen_after_a_note_and_cells_are_read_once_between(folder, monkeypatch):
    read = []
    of_one = RunFolder._read
    monkeypatch.setattr(RunFolder, "_read", lambda self, *row: read.append(row[0]) or of_one(self, *row))
    assert folder.cells() == folder.cells() == [cell()]
    assert read == [cell().key.slug]
    other = cell("TANL", seed=1)
    create(folder.path, {**CONFIG, "methods": ["TANL"]}).write(other, scores())
    assert folder.cells() == [cell()]
    folder.note(seconds=2.0)
    assert folder.run["config"]["methods"] == ["MCM", "TANL"]
    assert folder.cells() == [cell(), other]


def test_a_full_disk_names_the_file_and_keeps_what_was_there(folder, monkeypatch):
    before = (folder.path / FILE).read_bytes()
    connect = sqlite3.connect

    def small(*given, **named):
        made = connect(*given, **named)
        pages = made.execute("PRAGMA page_count").fetchone()[0]
        made.execute(f"PRAGMA max_page_count = {pages}")
        return made

    monkeypatch.setattr(sqlite3, "connect", small)
    large = cell(seed=1, activated=(("x" * 100_000, 1.0),))
    with pytest.raises(OSError, match="No space left") as error:
        folder.write(large, scores())
    assert error.value.errno == errno.ENOSPC
    assert error.value.filename == str(folder.path / FILE)
    monkeypatch.undo()
    assert (folder.path / FILE).read_bytes() == before
    assert folder.cells() == [cell()]


def test_a_locked_file_is_named(folder, monkeypatch):
    monkeypatch.setattr(run_database, "LOCK_SECONDS", 0.0)
    with closing(sqlite3.connect(folder.path / FILE, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(OSError, match="locked") as error:
            folder.write(cell(seed=1), scores())
    assert error.value.filename == str(folder.path / FILE)


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
    before = (folder.path / FILE).read_bytes()
    with pytest.raises(ValueError, match=message):
        create(folder.path, **changes)
    assert (folder.path / FILE).read_bytes() == before


def test_a_run_that_cannot_be_is_refused_before_it_starts(folder, tmp_path):
    with pytest.raises(ValueError, match="another limit"):
        RunFolder.check(folder.path, {**CONFIG, "limit": 10})
    RunFolder.check(folder.path, {**CONFIG, "seeds": [7]})
    RunFolder.check(tmp_path / "new", CONFIG)
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="file is a file; give a folder"):
        RunFolder.check(tmp_path / "file", CONFIG)
    (folder.path / FILE).unlink()
    with pytest.raises(FileNotFoundError, match="there is no run in"):
        RunFolder.open(folder.path)
    with pytest.raises(FileNotFoundError, match=r"there is no folder .*nothere$"):
        RunFolder.open(tmp_path / "nothere")


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text[:-20],
        lambda text: b"3",
        lambda text: b"\xff\xfe\x00",
        lambda text: text.replace(b'"seed": 0', b'"seed": 3'),
        lambda text: text.replace(b"0.5,", b"0.4,"),
    ],
)
def test_a_damaged_cell_is_named(folder, change):
    slug = cell().key.slug
    damage(folder, "cell", slug, change)
    with pytest.raises(ValueError, match=f"{FILE}.* is damaged .*measures|{FILE} is damaged"):
        folder.cells()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"method": "MCM"}, "it has other fields"),
        ([], "is damaged"),
        ({**asdict(cell()), "metrics": {"AUROC": 0.5}}, "it has the metrics AUROC"),
        (asdict(cell(seed=3)), "it is another cell than its name says"),
    ],
)
def test_a_cell_of_another_kind_is_named(folder, content, message):
    with run_database.transaction(folder.path) as database:
        run_database.put(database, "cell", cell().key.slug, json.dumps(content))
    with pytest.raises(ValueError, match=f"the cell {cell().key.slug} is damaged.*{message}|{message}"):
        folder.cells()


def test_a_cell_without_scores_is_named_and_forgotten(folder):
    folder.write(cell(seed=1), scores())
    again = without(folder, cell().key, kinds=["scores"])
    with pytest.raises(ValueError, match=f"{cell().key.slug} has no scores beside it; the command that made"):
        again.cells()
    assert again.forget_damaged() == 1
    assert again.forget_damaged() == 0
    assert again.cells() == [cell(seed=1)]


def test_damaged_scores_are_named(folder):
    with pytest.raises(ValueError, match="are 64 bytes, not those of 6 and 3 images"):
        folder.scores(replace(cell(), num_id=6))
    for bit in (0, 7):
        damage(
            folder,
            "scores",
            cell().key.slug,
            lambda values, bit=bit: bytes([values[0] ^ 1 << bit]) + values[1:],
        )
        with pytest.raises(
            ValueError, match=f"{FILE}: the scores of MCM, dogs, shuffled, seed 0 are damaged"
        ):
            folder.scores(cell())
        folder.write(cell(), scores())
    with pytest.raises(ValueError, match="the scores of MCM, dogs, shuffled, seed 7 are missing"):
        folder.scores(cell(seed=7))


def test_a_damaged_list_of_images_is_named(folder):
    entry = folder.run["sets"][0]
    damage(folder, "images", entry["images"], lambda text: text.replace(b"cat <0>", b"dog <0>"))
    with pytest.raises(ValueError, match="the list of the images of cats is damaged"):
        folder.images(entry)


@pytest.mark.parametrize("place", [0, 5, 100, 5000, 9000])
def test_a_damaged_file_is_never_taken_for_another_run(folder, place):
    """Wherever bytes are overwritten, what is read is what was written, or an error that names the file."""
    folder.write(cell(seed=1), scores(seed=1))
    file = folder.path / FILE
    whole = file.read_bytes()
    for start in range(place, len(whole), 10_007):
        file.write_bytes(
            whole[:start] + bytes(value ^ 255 for value in whole[start : start + 40]) + whole[start + 40 :]
        )
        try:
            again = RunFolder.open(folder.path)
            found = [(part, *(values.tobytes() for values in again.scores(part))) for part in again.cells()]
        except (ValueError, OSError) as error:
            assert FILE in str(error) or FILE in str(error.filename)
            continue
        assert again.run == folder.run
        for part, *values in found:
            assert part in (cell(), cell(seed=1))
            assert values == [each.tobytes() for each in scores(seed=part.seed)]


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
    assert folder.cells() == [cell()]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[]", f"not a run of format {FORMAT}"),
        ('{"format": 1}', f"not a run of format {FORMAT}"),
        ("{", "is damaged"),
    ],
)
def test_another_run_than_this_version_writes_is_named(folder, text, message):
    with run_database.transaction(folder.path) as database:
        run_database.put(database, "run", "", text)
    for use in (RunFolder.open, create, RunFolder.is_in):
        with pytest.raises(ValueError, match=f"{FILE}.*{message}"):
            use(folder.path)


def test_a_file_that_is_no_run_is_named(folder):
    damage(folder, "run", "", lambda text: text.replace(b'"b"', b'"c"'))
    with pytest.raises(ValueError, match=f"{FILE} is damaged"):
        RunFolder.open(folder.path)
    (folder.path / FILE).write_bytes(b"no database" * 100)
    with pytest.raises(ValueError, match=f"{FILE} is damaged .*delete it, or give another folder"):
        create(folder.path)
    (folder.path / FILE).unlink()
    with closing(sqlite3.connect(folder.path / FILE)) as other, other:
        other.execute("CREATE TABLE notes (text)")
    with pytest.raises(ValueError, match=f"{FILE} is no run, but a database of something else"):
        create(folder.path)


def test_notes_are_kept_and_added_up(folder):
    folder.note(seconds=3.0, left_out={"GL-MCM": "no patches"})
    folder.note(seconds=0.5)
    again = RunFolder.open(folder.path)
    assert again.run["seconds"] == 3.5
    assert again.run["left_out"] == {"GL-MCM": "no patches"}
