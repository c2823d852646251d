"""`make fuzz` in short, and that it finds what it looks for."""

import pytest
import torch

pytest.importorskip("pyarrow", reason='needs pyarrow: pip install "tanl[parquet]"')

import tanl
from tools.fuzz.__main__ import AREAS, fuzzed, main
from tools.fuzz.watch import Watch


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("area", AREAS)
def test_what_cannot_be_used_is_refused_and_changes_nothing(area):
    watch = fuzzed(AREAS[area], 60, seed=1)
    assert watch.accepted + watch.refused >= 50
    assert not watch.faults, watch.examples


def detector():
    bank = tanl.LabelBank(list("abcdef"), torch.eye(6), num_id=2)
    return tanl.NegLabel(bank, groups=1)


def test_other_errors_are_found():
    watch = Watch()
    watch.call("an input", lambda: [][0])
    assert [kind for kind, _ in watch.faults] == ["uncaught"]
    assert list(watch.examples.values()) == ["an input: list index out of range"]


def test_refusals_that_change_a_state_are_found():
    watch, changed, kept = Watch(), detector(), detector()

    def refuse():
        changed.calibrate(torch.rand(30))
        raise ValueError("no")

    watch.call("an input", refuse, [changed, kept])
    assert (watch.refused, [kind for kind, _ in watch.faults]) == (1, ["changed"])
    watch = Watch()
    watch.call("an input", refuse, [kept])
    assert not watch.faults


def test_what_is_accepted_and_does_not_work_is_found():
    watch = Watch()
    assert watch.call("an input", lambda: 3) == 3
    watch.works("an input", lambda: 1 / 0)
    assert (watch.accepted, [kind for kind, _ in watch.faults]) == (1, ["broken"])


def test_inputs_that_hang_are_found(monkeypatch):
    monkeypatch.setattr("tools.fuzz.watch.SECONDS", 0.05)
    watch = Watch()

    def wait():
        while True:
            pass

    assert watch.call("an input", wait) is None
    assert [kind for kind, _ in watch.faults] == ["hung"]


@pytest.mark.filterwarnings("ignore")
def test_the_command_prints_a_table_and_tells_of_faults(monkeypatch, capsys):
    assert main(["--examples", "40", "--only", "metrics"]) == 0
    monkeypatch.setattr(tanl.OODMetrics, "merge_state", lambda self, other: [][0])
    assert main(["--examples", "40", "--only", "metrics"]) == 1
    printed = capsys.readouterr().out
    assert "| metrics |" in printed
    assert "metrics: uncaught" in printed
