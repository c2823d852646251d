"""Results files: checked before they are needed, whole at the end, and nothing left behind."""

import csv
import json
from pathlib import Path

import pytest

from tanl import Evidence, Verdict
from tanl.io.text import shown_path, shown_percentage
from tanl.streams import result_rows
from tanl.streams.result_files import open_results
from tanl.streams.results import Result

pq = pytest.importorskip("pyarrow.parquet", reason='needs pyarrow: pip install "tanl[parquet]"')

ROWS = [
    Result(Path("a.png"), Verdict(0.125, False, "cat", 0.75, ())),
    Result(
        Path('b, "c".png'),
        Verdict(0.875, True, "dog", 0.5, (Evidence("spoon", 0.25), Evidence("fork", 0.125))),
    ),
    Result(Path("d.png"), error="the file is empty"),
    Result(Path("é.png"), Verdict(0.5, None, "naïve label", 0.5, ())),
]
RECORDS = [
    {"path": "a.png", "label": "cat", "id_probability": 0.75, "ood_score": 0.125, "is_ood": False},
    {"path": 'b, "c".png', "label": "dog", "id_probability": 0.5, "ood_score": 0.875, "is_ood": True},
    {"path": "d.png", "label": None, "id_probability": None, "ood_score": None, "is_ood": None},
    {"path": "é.png", "label": "naïve label", "id_probability": 0.5, "ood_score": 0.5, "is_ood": None},
]
for record in RECORDS:
    record |= {"evidence": [], "error": None}
RECORDS[1]["evidence"] = [
    {"label": "spoon", "probability": 0.25},
    {"label": "fork", "probability": 0.125},
]
RECORDS[2]["error"] = "the file is empty"


def test_jsonl(tmp_path):
    with open_results(tmp_path / "r.jsonl") as writer:
        writer.write(ROWS[:3])
        writer.write(ROWS[3:])
    lines = (tmp_path / "r.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line) for line in lines] == RECORDS


@pytest.mark.parametrize("rows_in_a_group", [1, 3, 4096])
def test_parquet(tmp_path, monkeypatch, rows_in_a_group):
    monkeypatch.setattr(result_rows, "_ROWS_IN_A_GROUP", rows_in_a_group)
    with open_results(tmp_path / "r.parquet") as writer:
        for row in ROWS:
            writer.write([row])
    file = pq.ParquetFile(tmp_path / "r.parquet")
    assert file.read().to_pylist() == RECORDS
    assert file.num_row_groups == {1: 4, 3: 2, 4096: 1}[rows_in_a_group]


def test_csv(tmp_path):
    with open_results(str(tmp_path / "r.csv"), evidence=1) as writer:
        writer.write(ROWS)
    with (tmp_path / "r.csv").open(encoding="utf-8", newline="") as file:
        header, *rows = csv.reader(file)
    # A column for all that there is, even if less was announced.
    evidence = ["evidence_1", "evidence_1_probability", "evidence_2", "evidence_2_probability"]
    assert header == ["path", "label", "id_probability", "ood_score", "is_ood", *evidence, "error"]
    assert rows == [
        ["a.png", "cat", "0.75", "0.125", "false", "", "", "", "", ""],
        ['b, "c".png', "dog", "0.5", "0.875", "true", "spoon", "0.25", "fork", "0.125", ""],
        ["d.png", "", "", "", "", "", "", "", "", "the file is empty"],
        ["é.png", "naïve label", "0.5", "0.5", "", "", "", "", "", ""],
    ]


@pytest.mark.parametrize("ending", ["csv", "jsonl", "parquet"])
def test_rows_reach_the_disk_batch_by_batch_and_the_target_at_the_end(tmp_path, ending):
    target = tmp_path / f"r.{ending}"
    target.write_text("an older file")
    with open_results(target) as writer:
        writer.write(ROWS)
        (partial,) = tmp_path.glob("*.partial")
        assert target.read_text() == "an older file"
        assert partial == writer.journal
        assert "the file is empty" in partial.read_text(encoding="utf-8")
    assert list(tmp_path.iterdir()) == [target]
    assert target.read_bytes() != b"an older file"


@pytest.mark.parametrize("ending", ["csv", "jsonl", "parquet"])
@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_an_error_keeps_the_rows(tmp_path, ending, error):
    target = tmp_path / f"r.{ending}"
    with pytest.raises(error), open_results(target) as writer:
        writer.write(ROWS[:2])
        raise error
    assert list(tmp_path.iterdir()) == [target]
    assert target.stat().st_size > 20


@pytest.mark.parametrize("ending", ["csv", "jsonl", "parquet"])
def test_no_rows_leave_no_trace(tmp_path, ending):
    with open_results(tmp_path / f"r.{ending}") as writer:
        writer.write([])
    assert list(tmp_path.iterdir()) == []


def test_two_runs_with_one_target_do_not_meet(tmp_path, monkeypatch):
    with open_results(tmp_path / "r.csv") as first:
        monkeypatch.setattr("os.getpid", lambda: -1)
        with open_results(tmp_path / "r.csv") as second:
            first.write(ROWS[:1])
            second.write(ROWS)
        assert len((tmp_path / "r.csv").read_text(encoding="utf-8").splitlines()) == 5
    assert len((tmp_path / "r.csv").read_text(encoding="utf-8").splitlines()) == 2


@pytest.mark.parametrize("name", ["r.xls", "r", "r.csv.gz"])
def test_other_endings_are_refused(tmp_path, name):
    with pytest.raises(ValueError, match=r"written as \.csv, \.jsonl, \.parquet"):
        open_results(tmp_path / name)


def test_a_folder_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(ValueError, match="make the directory"):
        open_results(tmp_path / "nowhere" / "r.csv")


def test_a_folder_as_target_is_refused(tmp_path):
    (tmp_path / "r.csv").mkdir()
    with pytest.raises(ValueError, match="it is a directory"):
        open_results(tmp_path / "r.csv")


@pytest.mark.parametrize(
    ("probability", "shown"),
    [
        (1.0, "100%"),
        (0.5, "50%"),
        (0.0996, "10%"),
        (0.0123, "1.2%"),
        (0.00123, "0.12%"),
        (1e-5, "0.001%"),
        (0, "0%"),
    ],
)
def test_shown_percentage(probability, shown):
    assert shown_percentage(probability) == shown


def test_shown_path_of_a_name_that_is_not_text():
    assert shown_path(Path("a\udcff.png")) == "a\\xff.png"


def test_outcome_and_evidence_as_text():
    assert [row.outcome for row in ROWS] == ["ID", "OOD", "unreadable", "-"]
    assert ROWS[1].shown_evidence() == "spoon 25%, fork 12%"
    assert ROWS[1].shown_evidence(1) == "spoon 25%"
