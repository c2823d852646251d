"""A folder of partitions: whatever ends a run, the manifest names what is finished, and the next run goes on there."""

import errno
import json

import pytest
import torch
from states import assert_same_state

from tanl import Evidence, Verdict
from tanl.io.stores import open_store
from tanl.streams.partitions import MANIFEST, Partitions, Position, read_manifest, read_partition
from tanl.streams.results import Result

pq = pytest.importorskip("pyarrow.parquet", reason='needs pyarrow: pip install "tanl[parquet]"')

ROWS = [
    Result(f"{i:02d}.png", error="it is empty")
    if i == 3
    else Result(f"{i:02d}.png", Verdict(i / 8, i > 4, "cat", 0.5, (Evidence("dog", 0.25),) * (i > 4)))
    for i in range(11)
]
PLAN = {"labels": "abc", "batch_size": 4}


@pytest.fixture(params=["folder", "address"])
def place(request, tmp_path):
    if request.param == "folder":
        yield str(tmp_path / "results")
        return
    fsspec = pytest.importorskip("fsspec")
    yield "memory://results"
    fsspec.filesystem("memory").store.clear()


def state_at(row):
    return {"threshold": None, "stream": {"rows": torch.arange(row * 3.0).reshape(row, 3), "images": row}}


def write(place, start, stop, *, complete=False, plan=PLAN, step=2):
    """Rows in batches of ``step``, a partition of every four at least."""
    with Partitions(open_store(place), key="path", plan=plan, rows=4) as partitions:
        for row in range(start, stop, step):
            partitions.add(ROWS[row : min(row + step, stop)], Position(0, min(row + step, stop)))
            if partitions.is_due:
                partitions.finish(state_at(row + step), {"method": "tanl"})
        if complete:
            partitions.finish(state_at(stop), {"method": "tanl"}, complete=True)
        return partitions.manifest


def rows_in(place):
    store = open_store(place)
    entries = read_manifest(store).partitions
    tables = [
        pq.read_table(pytest.importorskip("pyarrow").BufferReader(read_partition(store, e))) for e in entries
    ]
    return [name for table in tables for name in table["path"].to_pylist()]


def test_partitions_hold_the_rows_of_a_results_file(place, tmp_path):
    from tanl.streams.result_files import open_results

    manifest = write(place, 0, 11, complete=True)
    assert [each["rows"] for each in manifest.partitions] == [4, 4, 3]
    assert manifest.counts == {"ID": 4, "OOD": 6, "-": 0, "unreadable": 1}
    assert rows_in(place) == [row.path for row in ROWS]
    with open_results(tmp_path / "one.parquet") as writer:
        writer.write(ROWS)
        writer.describe({"method": "tanl"})
    one = pq.read_table(tmp_path / "one.parquet")
    store = open_store(place)
    import pyarrow as pa

    parts = [pq.read_table(pa.BufferReader(read_partition(store, each))) for each in manifest.partitions]
    assert pa.concat_tables(parts).to_pylist() == one.to_pylist()
    assert parts[0].schema.equals(one.schema)
    told = json.loads(parts[-1].schema.metadata[b"tanl"])
    assert told == {
        "method": "tanl",
        "rows": 11,
        "ID": 4,
        "OOD": 6,
        "unreadable": 1,
        "without_verdict": 0,
        "complete": True,
    }


def test_partitions_are_a_data_set_of_hugging_faces(tmp_path):
    datasets = pytest.importorskip("datasets", reason='needs datasets: pip install "tanl[ray]"')
    write(tmp_path / "r", 0, 11, complete=True)
    data = datasets.load_dataset(
        "parquet", data_files=f"{tmp_path}/r/part-*.parquet", split="train", streaming=True
    )
    rows = list(data)
    assert [row["path"] for row in rows] == [row.path for row in ROWS]
    assert [row["error"] for row in rows] == [row.error for row in ROWS]


def test_a_run_goes_on_behind_the_last_finished_row(place):
    manifest = write(place, 0, 7)  # six rows and one wait, four are finished
    assert (manifest.rows, manifest.next) == (4, Position(0, 4))
    with Partitions(open_store(place), key="path", plan=PLAN) as partitions:
        assert partitions.manifest == manifest
        assert_same_state(partitions.state, state_at(4))
    again = write(place, 4, 11, complete=True)
    assert again.complete and rows_in(place) == [row.path for row in ROWS]
    assert sorted(open_store(place).names()) == sorted(
        [MANIFEST, again.state["file"], *(each["file"] for each in again.partitions)]
    )


@pytest.mark.parametrize("killed_before", ["part-", "state-", MANIFEST])
def test_a_kill_between_two_files_leaves_what_was_finished(place, monkeypatch, killed_before):
    write(place, 0, 4)
    store = open_store(place)
    write_one = store.write

    class Killed(BaseException):
        """As a kill: nothing cleans up behind it."""

    def dies(name, content):
        if name.startswith(killed_before):
            raise Killed
        write_one(name, content)

    with Partitions(store, key="path", plan=PLAN, rows=4) as partitions:
        partitions.add(ROWS[4:8], Position(0, 8))
        monkeypatch.setattr(store, "write", dies)
        with pytest.raises(Killed):
            partitions.finish(state_at(8), {})
    assert rows_in(place) == [row.path for row in ROWS[:4]]
    with Partitions(open_store(place), key="path", plan=PLAN) as partitions:
        assert partitions.manifest.next == Position(0, 4)
        assert_same_state(partitions.state, state_at(4))
    write(place, 4, 11, complete=True)
    assert rows_in(place) == [row.path for row in ROWS]


def test_a_full_disk_leaves_what_was_finished_and_names_the_file(tmp_path, monkeypatch):
    write(tmp_path / "r", 0, 4)
    store = open_store(tmp_path / "r")

    def full(path, content):
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    with Partitions(store, key="path", plan=PLAN, rows=4) as partitions:
        partitions.add(ROWS[4:8], Position(0, 8))
        with monkeypatch.context() as patch:
            patch.setattr("tanl.io.stores.write_whole", full)
            with pytest.raises(OSError, match=r"No space left.*part-00001\.parquet"):
                partitions.finish(state_at(8), {})
        assert rows_in(tmp_path / "r") == [row.path for row in ROWS[:4]]
        partitions.finish(state_at(8), {})  # there is room again
    assert rows_in(tmp_path / "r") == [row.path for row in ROWS[:8]]


def test_two_runs_on_one_folder_are_refused(tmp_path):
    with (
        Partitions(open_store(tmp_path / "r"), key="path", plan=PLAN),
        pytest.raises(ValueError, match=r"another run writes into .*: wait for its end"),
    ):
        Partitions(open_store(tmp_path / "r"), key="path", plan=PLAN)
    Partitions(open_store(tmp_path / "r"), key="path", plan=PLAN).close()


def test_a_run_of_something_else_is_refused(place):
    write(place, 0, 4)
    with pytest.raises(ValueError, match=r"holds a run of something else \(batch_size: 4 there, 5 here"):
        write(place, 4, 8, plan={**PLAN, "batch_size": 5})
    with pytest.raises(ValueError, match="mode: None there, 'merged' here"):
        write(place, 4, 8, plan={**PLAN, "mode": "merged"})
    assert rows_in(place) == [row.path for row in ROWS[:4]]


def test_a_folder_of_something_else_is_left_alone(tmp_path):
    (tmp_path / "part-00000.parquet").write_bytes(b"mine")
    with pytest.raises(
        ValueError, match=r"holds part-00000.parquet and no manifest.json; name a new or empty"
    ):
        Partitions(open_store(tmp_path), key="path", plan=PLAN)
    assert (tmp_path / "part-00000.parquet").read_bytes() == b"mine"
    with pytest.raises(ValueError, match="is a file, and partitions need a folder"):
        open_store(tmp_path / "part-00000.parquet")


@pytest.mark.parametrize("damage", [lambda path: path.unlink(), lambda path: path.write_bytes(b"short")])
def test_a_finished_partition_that_is_damaged_is_told(tmp_path, damage):
    manifest = write(tmp_path / "r", 0, 8)
    damage(tmp_path / "r" / manifest.partitions[0]["file"])
    with pytest.raises(ValueError, match=r"part-00000.parquet is missing or not as it was written"):
        write(tmp_path / "r", 8, 11)
    with pytest.raises(ValueError, match=r"part-00000.parquet is (missing|damaged)"):
        read_partition(open_store(tmp_path / "r"), manifest.partitions[0])


def test_a_damaged_state_or_manifest_is_told(tmp_path):
    manifest = write(tmp_path / "r", 0, 8)
    file = tmp_path / "r" / manifest.state["file"]
    content = file.read_bytes()
    file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with (
        Partitions(open_store(tmp_path / "r"), key="path", plan=PLAN) as partitions,
        pytest.raises(ValueError, match="is damaged or missing"),
    ):
        _ = partitions.state
    for wrong in (b"", b"{}", b"[1]", b'{"format": 9}', b'{"format": 1, "partitions": 3, "next": {}}'):
        (tmp_path / "r" / MANIFEST).write_bytes(wrong)
        with pytest.raises(ValueError, match="is no manifest of partitions"):
            Partitions(open_store(tmp_path / "r"), key="path", plan=PLAN)
