"""Results that later runs go on with: no row is lost or twice there, whatever ended the run before."""

import csv
import json

import pytest

from tanl.cli.main import main
from tanl.detectors import Evidence
from tanl.detectors.verdict import Verdict
from tanl.streams.result_files import continue_results, open_results
from tanl.streams.results import Result


def result(name, error=None):
    if error:
        return Result(name, error=error)
    return Result(name, Verdict(0.75, True, "dog", 0.5, (Evidence("car", 0.25),)))


def names(path):
    if path.suffix == ".jsonl":
        return [json.loads(line)["path"] for line in path.read_text().splitlines()]
    with path.open(newline="") as file:
        return [row["path"] for row in csv.DictReader(file)]


@pytest.mark.parametrize("ending", [".csv", ".jsonl"])
def test_runs_go_on_with_the_rows_of_those_before(tmp_path, ending):
    target = tmp_path / f"results{ending}"
    for run in range(3):
        with continue_results(target) as writer:
            assert writer.rows == 2 * run
            assert list(writer.notes()) == [{"run": each} for each in range(run)]
            writer.write([result(f"{run}a"), result(f"{run}b", "broken")], noted={"run": run})
    assert names(target) == ["0a", "0b", "1a", "1b", "2a", "2b"]
    assert sorted(path.name for path in tmp_path.iterdir()) == [target.name, f"{target.name}.watch.partial"]


def test_parquet_goes_on_too(tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    target = tmp_path / "results.parquet"
    for run in range(2):
        with continue_results(target) as writer:
            writer.describe({"run": run})
            writer.write([result(f"{run}")])
    table = parquet.read_table(target)
    assert table["path"].to_pylist() == ["0", "1"]
    assert json.loads(table.schema.metadata[b"tanl"]) == {"run": 1}


def test_results_are_made_while_a_run_goes_on(tmp_path):
    target = tmp_path / "results.csv"
    with continue_results(target) as writer:
        writer.publish()
        assert not target.exists()
        writer.write([result("a")])
        writer.publish()
        assert names(target) == ["a"]
        writer.write([result("b")])
        assert names(target) == ["a"]
    assert names(target) == ["a", "b"]


def test_a_run_without_rows_leaves_no_trace(tmp_path):
    with continue_results(tmp_path / "results.csv"):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_part_of_a_line_that_a_killed_run_left_goes(tmp_path):
    target = tmp_path / "results.csv"
    with continue_results(target) as writer:
        writer.write([result("a"), result("b")], noted={"b": 1})
    content = writer.journal.read_bytes()
    lines = [place + 1 for place, byte in enumerate(content) if byte == ord("\n")]
    for end in [0, 1, *(place + off for place in lines for off in (-1, 0, 1, 20)), len(content) // 2]:
        end = min(end, len(content) - 1)  # less than all of it: with all of it the note would be there
        writer.journal.write_bytes(content[:end])
        target.unlink(missing_ok=True)
        with continue_results(target) as again:
            whole = content[:end].count(b"\n") - 1
            assert again.rows == min(max(whole, 0), 2)
            assert list(again.notes()) == []
            again.write([result("c")], noted={"c": 2})
        assert names(target) == [*["a", "b"][: again.rows - 1], "c"]
        assert list(again.notes()) == [{"c": 2}]


def test_two_runs_at_once_are_refused(tmp_path):
    target = tmp_path / "results.csv"
    with continue_results(target) as writer:
        writer.write([result("a")])
        with pytest.raises(ValueError, match="is being written by another run; stop that one"):
            continue_results(target)
        writer.write([result("b")])
    assert names(target) == ["a", "b"]


def test_results_of_another_kind_of_run_stay_as_they_are(tmp_path):
    target = tmp_path / "results.csv"
    with open_results(target) as writer:
        writer.write([result("a")])
    with pytest.raises(ValueError, match="is there already, and nothing to go on with"):
        continue_results(target)
    assert names(target) == ["a"]


def test_judge_does_not_write_over_them(tmp_path):
    target = tmp_path / "results.csv"
    with continue_results(target) as writer:
        writer.write([result("a")])
    with pytest.raises(ValueError, match="is what a tanl watch goes on with"):
        open_results(target)


def test_rows_of_embeddings_are_not_gone_on_with(tmp_path):
    with continue_results(tmp_path / "results.csv", key="id") as writer:
        writer.write([result("7")])
    with pytest.raises(ValueError, match="has rows of the column 'id', not 'path'"):
        continue_results(tmp_path / "results.csv")


def test_another_file_in_the_journals_place_is_refused_and_kept(tmp_path):
    journal = tmp_path / "results.csv.watch.partial"
    journal.write_text("something else\n")
    with pytest.raises(ValueError, match="is not what a run of tanl judge or watch leaves"):
        continue_results(tmp_path / "results.csv")
    assert journal.read_text() == "something else\n"


def test_recover_makes_results_of_them_elsewhere(tmp_path, capsys):
    with continue_results(tmp_path / "results.csv") as writer:
        writer.write([result("a")], noted={"a": 1})
    assert main(["recover", str(writer.journal), "--out", str(tmp_path / "other.jsonl")]) == 0
    assert names(tmp_path / "other.jsonl") == ["a"]
