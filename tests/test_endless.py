"""A short form of the study of endless streams, and what a stream of any length may not do."""

import json

import pytest
import torch

from tools import endless
from tools.__main__ import main


@pytest.mark.parametrize("memory", ["published", "guarded"])
def test_a_stream_without_an_end_keeps_its_size_and_its_means(memory, tmp_path, capsys):
    small = [
        "--batches",
        "100",
        "--batch-size",
        "210",
        "--id-labels",
        "7",
        "--negatives",
        "90",
        "--dim",
        "12",
    ]
    small += ["--selected", "20", "--memory", memory, "--json", str(tmp_path / "run.json")]
    assert main(["endless", *small]) == 0
    told = capsys.readouterr().out
    marks = json.loads((tmp_path / "run.json").read_text())["marks"]
    assert len(marks) == 100
    assert [mark["batches"] for mark in marks] == list(range(1, 101))
    assert [mark["images"] for mark in marks] == [210 * mark["batches"] for mark in marks]
    assert max(mark["off_rebuilt"] for mark in marks) < 1e-6
    assert max(mark["off_formula"] for mark in marks) < 1e-6
    full = [mark["state"] for mark in marks if mark["images"] >= 20_000]
    # The blocks of rings that are full hold up to 19 evicted rows each, 13 numbers and a log-sum-exp; and their sums.
    assert max(full) - min(full) <= 2 * 19 * 4 * 13 + 3 * 4 * 90 + 4
    assert marks[-1]["resident"] > 0
    assert "mean activations: at most" in told
    assert told.count("\n") == 15


def test_the_study_refuses_too_short_a_stream(capsys):
    assert main(["endless", "--batches", "99"]) == 2
    assert "--batches must be at least 100, not 99" in capsys.readouterr().err


def test_bytes_of_a_state_are_those_of_its_leaves():
    assert (
        endless.held_bytes({"a": torch.zeros(3, 2), "b": {"c": 4, "d": "four"}, "e": None}) == 24 + 8 + 4 + 8
    )
