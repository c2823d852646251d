"""Two processes of a `torch.distributed` group against one that saw all of it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import two_processes
from states import assert_same_state
from two_processes import CUTS, FEATURES, MAKERS

import tanl

PROGRAM = Path(two_processes.__file__)


def started(folder, what):
    return [
        subprocess.Popen(
            [sys.executable, str(PROGRAM), str(folder), str(rank), what],
            stdin=subprocess.PIPE,
            env={**os.environ, "GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1"},
        )
        for rank in range(2)
    ]


def told(folder, rank):
    return torch.load(folder / f"{rank}.pt", weights_only=False)


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    folder = tmp_path_factory.mktemp("group")
    processes = started(folder, "learn")
    try:
        assert [process.wait(280) for process in processes] == [0, 0]
    finally:
        for process in processes:
            process.kill()
            process.wait()
    return [told(folder, rank) for rank in range(2)]


@pytest.fixture
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.parametrize("kind", MAKERS)
def test_together_two_processes_are_one_that_gets_whole_batches(found, one_thread, kind):
    """Scores and states bit for bit, with uneven parts and empty ones."""
    one = MAKERS[kind]()
    for number, cut in enumerate(CUTS):
        source = None
        if kind == "guarded":
            source = two_processes.sources(number, 0) + two_processes.sources(number, 1)
        scores = one(FEATURES.batch(number), source=source)
        parts = [each[kind]["scores"][number] for each in found]
        assert [len(part) for part in parts] == [cut, 24 - cut]
        assert torch.equal(torch.cat(parts), scores)
    expected = one.state_dict()
    states = [each[kind]["together"] for each in found]
    assert_same_state(states[0], states[1])
    for state in (states[0], expected):
        (state.get("stream") or state.get("memory") or {}).pop("shared", None)
    assert_same_state(states[0], expected)


@pytest.mark.parametrize("kind", MAKERS)
def test_processes_that_met_have_the_merged_state(found, one_thread, kind):
    shards = [MAKERS[kind]() for _ in range(2)]
    for number in range(len(CUTS)):
        for rank, shard in enumerate(shards):
            if len(part := two_processes.part(number, rank)):
                shard(part)
        merged = type(shards[0]).merged([shard.state_dict(compact=True) for shard in shards])
        for shard in shards:
            shard.load_state_dict(merged)
    assert_same_state(found[0][kind]["apart"], found[1][kind]["apart"])
    assert_same_state(found[0][kind]["apart"], shards[0].state_dict())
    assert_same_state(found[0][kind]["mixed"], found[1][kind]["mixed"])


def test_adaneg_met_after_every_batch_remembers_what_one_does(found, one_thread):
    one, met = MAKERS["AdaNeg"](), MAKERS["AdaNeg"]()
    for number in range(len(CUTS)):
        one(FEATURES.batch(number))
    met.load_state_dict(found[0]["AdaNeg"]["apart"])
    z = FEATURES.batch(50)
    torch.testing.assert_close(met.score(z), one.score(z), atol=1e-6, rtol=1e-5)


def test_a_state_that_all_loaded_counts_once(found, one_thread):
    for each in found:
        before, loaded = each["reduce"]["before"]["stream"], each["reduce"]["loaded"]["stream"]
        assert before["images"] == loaded["images"] == 24
        for ring in ("positive", "negative"):
            held = min(before[ring]["total"], 50)
            assert torch.equal(before[ring]["rows"][-held:], loaded[ring]["rows"])
        assert each["reduce"]["reduced"]["images"] == 3 * 24
    assert_same_state(found[0]["reduce"]["reduced"], found[1]["reduce"]["reduced"])
    merged = tanl.TANL.merged([each["reduce"]["alone"] for each in found])
    fresh = MAKERS["published"]()
    fresh.load_state_dict(merged)
    assert_same_state(found[0]["reduce"]["reduced"], fresh.state.state_dict())


REFUSALS = {
    "rows": ("ValueError", "has norm 2", "process 1 of 2 failed, so that none took anything over"),
    "dim": ("ValueError", "has D = 5", "process 1 of 2 failed"),
    "source": ("ValueError", "cannot bound a source", None),
    "kind": ("ValueError", "have another settings", "have another settings"),
    "progress": ("ValueError", "have another stream", "have another stream"),
    "settings": ("ValueError", "saved with other settings", "saved with other settings"),
    "method": ("ValueError", "one of a TANL, not of a AdaNeg", "not all of TANL's"),
    "memory": ("MemoryError", "no memory left", "process 1 of 2 failed"),
    "memory of merging": ("MemoryError", "no memory left", "process 1 of 2 failed"),
    "apart": ("ValueError", "learnt apart from the others: call synchronize", "process 1 of 2 failed"),
    "loaded": ("ValueError", "Merge them once right after loading", "Merge them once right after loading"),
}


@pytest.mark.parametrize("what", REFUSALS)
def test_what_one_process_refuses_no_process_takes_over(found, what):
    kind, here, there = REFUSALS[what]
    name, message = found[1]["refusals"]["told"][what]
    assert name == kind
    assert here in message
    name, message = found[0]["refusals"]["told"][what]
    assert name == ("OSError" if kind == "MemoryError" else "ValueError")
    assert (here if there is None else there) in message
    for each in found:
        assert_same_state(each["refusals"]["after"], each["refusals"]["before"])


@pytest.mark.parametrize("what", ["lost", "late"])
def test_a_process_that_does_not_come_is_told_and_nothing_has_changed(tmp_path, what):
    processes = started(tmp_path, what)
    try:
        assert processes[0].wait(120) == 0
    finally:
        for process in processes:
            process.kill()
            process.wait()
    there = told(tmp_path, 0)
    name, message = there["told"]
    assert name == "ConnectionError"
    assert "process 0 of 2 waited for the others in vain" in message
    assert_same_state(there["after"], there["before"])


def test_one_process_alone_is_told_that_it_is_in_no_group():
    detector = MAKERS["published"]()
    for call in (
        detector.synchronize,
        detector.state.all_reduce,
        lambda: detector.together(FEATURES.batch(0)),
    ):
        with pytest.raises(ValueError, match="this process is in no group"):
            call()
