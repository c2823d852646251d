"""The first minutes on a GPU, run through on the CPU: every part, its file and its table."""

import json

import pytest
import torch

import tools.__main__ as studies
from tools.gpu_first import command, sizes
from tools.gpu_first.counts import counted

TINY = sizes.Sizes(
    labels=(130,),
    main_labels=130,
    num_id=20,
    dim=16,
    batch=24,
    selected=40,
    capacity=25,
    rows=(5,),
    square=16,
    copied=1 << 10,
    rounds=3,
    seconds=0.01,
)


@pytest.fixture
def tiny(monkeypatch):
    monkeypatch.setattr(command, "QUICK", TINY)


def test_every_part_runs_on_the_cpu_and_is_written(tiny, tmp_path, capsys):
    target = tmp_path / "gpu.json"
    assert studies.main(["gpu-first", "--device", "cpu", "--quick", "--json", str(target)]) == 0
    record = json.loads(target.read_text(encoding="utf-8"))
    assert record["failed"] == {}
    assert record.keys() >= command.PARTS.keys()
    shown = capsys.readouterr().out
    for name in command.PARTS:
        assert f"### {name}" in shown
    assert {row["operation"] for row in record["operations"]} >= {"row_lse", "segment_colsum", "stable_topk"}
    assert all(row["seconds"] > 0 for row in record["operations"])
    assert all(row["row_lse"] < 5e-5 and row["segment_colsum"] < 5e-5 for row in record["parity"])
    assert all(row["largest_difference"] < 1e-5 for row in record["golden"])
    assert all(row["largest_difference"] < 1e-5 for row in record["surroundings"])
    assert all(row["largest_difference"] < 1e-4 for row in record["steps"])
    assert record["asked"]["eager"]["sites"] == "not measured"
    assert len(record["profile"]) > 5


def test_a_part_that_fails_is_told_and_the_others_run(tiny, tmp_path, capsys, monkeypatch):
    def broken(device, sizes):
        raise RuntimeError("no such thing")

    monkeypatch.setitem(command.PARTS, "ceilings", broken)
    target = tmp_path / "gpu.json"
    options = ["--device", "cpu", "--quick", "--parts", "ceilings,parity", "--json", str(target)]
    assert studies.main(["gpu-first", *options]) == 1
    record = json.loads(target.read_text(encoding="utf-8"))
    assert record["failed"] == {"ceilings": "RuntimeError: no such thing"}
    assert record["parity"]
    assert "failed: RuntimeError: no such thing" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "there is no GPU here; --device cpu --quick runs the same"),
        (["--device", "cpu", "--parts", "all"], "no part 'all'"),
        (["--json", "no/such/folder/a.json"], "can't be written"),
    ],
)
def test_what_cannot_be_done_is_one_line(options, message, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert studies.main(["gpu-first", *options]) == 2
    told = capsys.readouterr().err
    assert message in told
    assert len(told.splitlines()) == 1


def test_counts_see_operations_and_waits():
    values = torch.tensor([3.0, 1.0, 2.0])
    with counted() as seen:
        values[values > 1.5].sum().item()
        values.view(3).tolist()
        torch.tensor([1.0], device=values.device)
    assert seen.operations["aten.gt"] == seen.operations["aten.sum"] == 1
    assert "aten.view" not in seen.operations
    assert dict(seen.waits) == {"aten.index": 1, "aten._local_scalar_dense": 1, "tolist": 1, "tensor": 1}
    assert seen.as_json()["waits"]["count"] == 4
    with counted() as nothing:
        values.view(1, 3).expand(4, 3)
    assert nothing.operations.total() == nothing.waits.total() == 0
