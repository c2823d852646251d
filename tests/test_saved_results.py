"""Results files read again: the same rows as were written, and files that are something else."""

import json
from pathlib import Path

import pytest

from tanl import Evidence, Verdict
from tanl.streams.result_files import open_results
from tanl.streams.results import Result
from tanl.streams.saved_results import read_results

ENDINGS = ["csv", "jsonl", "parquet"]
ROWS = (
    Result(Path("a.png"), Verdict(0.125, False, "cat", 0.75, ())),
    Result(
        Path('b, "c"\n.png'),
        Verdict(0.1 + 0.2, True, "dog", 0.5, (Evidence("spoon, big", 0.25), Evidence("fork", 1e-9))),
    ),
    Result(Path("d.png"), error="the file is empty"),
    Result(Path("é.png"), Verdict(0.5, None, "naïve label", 0.5, ())),
)
ABOUT = {"tanl": "0.1.0", "labels": ["cat", "dog"], "threshold": 0.9}


def written(tmp_path: Path, ending: str, *, about=ABOUT, rows=ROWS, **options) -> Path:
    if ending == "parquet":
        pytest.importorskip("pyarrow")
    target = tmp_path / f"r.{ending}"
    with open_results(target, **options) as writer:
        if about:
            writer.describe(about)
        writer.write(rows)
    return target


@pytest.mark.parametrize("ending", ENDINGS)
def test_what_was_written_is_read_again(tmp_path, ending):
    results = read_results(str(written(tmp_path, ending)))
    assert results.rows == ROWS
    assert (results.key, results.about, results.file) == ("path", ABOUT, tmp_path / f"r.{ending}")


@pytest.mark.parametrize("ending", ENDINGS)
def test_embeddings_go_by_their_ids(tmp_path, ending):
    rows = (Result("7", Verdict(0.5, False, "cat", 0.5, ())), Result("x/y", error="its length is 3"))
    results = read_results(written(tmp_path, ending, rows=rows, key="id"))
    assert results.key == "id"
    assert results.rows == rows


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_file_that_says_nothing_of_its_run(tmp_path, ending):
    assert read_results(written(tmp_path, ending, about=None)).about == {}


def test_a_path_longer_than_the_csv_module_takes(tmp_path):
    rows = (Result(Path("a" * 140_000), error="no such file"),)
    assert read_results(written(tmp_path, "csv", rows=rows)).rows == rows


GOOD = {
    "path": "a.png",
    "label": "cat",
    "id_probability": 0.5,
    "ood_score": 0.5,
    "is_ood": True,
    "evidence": [],
    "error": None,
}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"path": 3}, "row 2 .* its path is 3"),
        ({"label": None}, "its label is None"),
        ({"label": ""}, "its label is ''"),
        ({"id_probability": "high"}, "its id_probability is 'high'"),
        ({"ood_score": float("nan")}, "its ood_score is nan"),
        ({"ood_score": True}, "its ood_score is True"),
        ({"is_ood": "maybe"}, "its is_ood is 'maybe'"),
        ({"evidence": [{"label": "spoon"}]}, "row 2 is not what .* 'probability'"),
        ({"evidence": 3}, "row 2 is not what"),
    ],
)
def test_a_row_that_is_no_result(tmp_path, change, message):
    file = tmp_path / "r.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in (GOOD, {**GOOD, **change})))
    with pytest.raises(ValueError, match=message) as error:
        read_results(file)
    assert str(file) in str(error.value)


@pytest.mark.parametrize("missing", ["path", "label", "ood_score", "is_ood", "error"])
def test_a_column_that_is_missing(tmp_path, missing):
    file = tmp_path / "r.jsonl"
    file.write_text(json.dumps({name: value for name, value in GOOD.items() if name != missing}))
    with pytest.raises(ValueError, match=f"row 1: no .*{missing}"):
        read_results(file)


@pytest.mark.parametrize("ending", ["csv", "jsonl"])
def test_no_rows(tmp_path, ending):
    file = tmp_path / f"r.{ending}"
    file.write_text("")
    with pytest.raises(ValueError, match="holds no rows"):
        read_results(file)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("r.txt", b"", r"is no results file: these are \.csv, \.jsonl, \.parquet"),
        ("r.jsonl", b"[1]\n", "line 1 is no JSON object"),
        ("r.jsonl", b"{\n", "line 1 is no JSON"),
        ("r.jsonl", b"\xff\xfe\n", "is not UTF-8 text"),
        ("r.csv", b"path,label\n\xff,cat\n", "cannot be read as CSV"),
        ("r.csv", b'path,label\n"a"b,cat\n', "cannot be read as CSV"),
        ("r.csv", b"file,class\na.png,cat\n", "row 1: no path or id, label"),
        ("r.csv", b"path,label,id_probability,ood_score,is_ood,error\na,cat,x,0.5,true,\n", "id_probability is 'x'"),
        ("r.csv", b"path,label,id_probability,ood_score,is_ood,error\na,cat,0.5,0.5,yes,\n", "is_ood is 'yes'"),
        ("r.csv", b"path,label,id_probability,ood_score,is_ood,error\na,cat\n", "row 1 is not what"),
        ("r.parquet", b"PAR1 not really", "cannot be read as Parquet"),
    ],
)  # fmt: skip
def test_a_file_that_is_something_else(tmp_path, name, content, message):
    if name.endswith("parquet"):
        pytest.importorskip("pyarrow")
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message):
        read_results(tmp_path / name)


@pytest.mark.parametrize("content", ["{", "[]"])
def test_a_damaged_description_is_named(tmp_path, content):
    file = written(tmp_path, "csv")
    (tmp_path / "r.csv.json").write_text(content)
    with pytest.raises(ValueError, match=r"r\.csv\.json says of the run is no JSON"):
        read_results(file)


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no file or directory"):
        read_results(tmp_path / "r.csv")
