"""Guards that watched streams of their own, merged."""

import pytest
import torch
from states import assert_same_state, state_of
from test_guard_saved import CORPUS, LABELS, load, make, pixels, small_adaneg, small_tanl  # noqa: F401

import tanl


@pytest.mark.parametrize("method", ["tanl", "function tanl", "function adaneg", "mcm"])
@pytest.mark.parametrize("saved", [False, True])
def test_guards_learn_from_each_other(make, tmp_path, method, saved):  # noqa: F811
    made = {"function tanl": small_tanl, "function adaneg": small_adaneg}.get(method, method)
    guards = [make(method=made) for _ in range(3)]
    for seed, guard in enumerate(guards):
        for batch in range(2):
            guard(pixels(9 + seed, seed=10 * seed + batch))
        guard.save(tmp_path / str(seed), compact=seed == 1)
    states = [guard.detector.state_dict(compact=True) for guard in guards]
    before = [state_of(guard.detector) for guard in guards]
    guards[0].merge(*([tmp_path / "1", str(tmp_path / "2")] if saved else guards[1:]))
    expected = make(method=made)
    expected.detector.load_state_dict(type(expected.detector).merged(states))
    assert_same_state(guards[0].detector.state_dict(), expected.detector.state_dict())
    for guard, own in zip(guards[1:], before[1:], strict=True):
        assert_same_state(guard.detector.state_dict(), own)
    report = guards[0].detector.memory_report()
    assert report is None or report.images == 2 * (9 + 10 + 11)
    assert guards[0].health().images == 2 * 9
    guards[0](pixels(5))


def test_guards_that_part_from_a_saved_one_meet_again(make, load, tmp_path):  # noqa: F811
    guard = make(method=small_tanl)
    guard(pixels(20))
    guard.merge()  # what it has seen is what all of them will have seen
    guard.save(tmp_path / "saved")
    left, right = (load(method=small_tanl) for _ in range(2))
    left(pixels(8, seed=1))
    right(pixels(6, seed=2))
    left.merge(right)
    assert left.detector.state.images == 20 + 8 + 6


def test_guards_that_are_not_alike_are_refused_and_nothing_changes(make, tmp_path):  # noqa: F811
    guard, other = make(method=small_tanl), make(method=small_tanl)
    guard(pixels(9))
    before = state_of(guard.detector)
    (tmp_path / "empty").mkdir()
    fewer = tanl.Corpus(CORPUS.words[:-1], CORPUS.parts_of_speech[:-1], "fewer")
    for each, error, message in (
        (make(method=small_tanl, labels=LABELS[:2]), ValueError, "labels: "),
        (make(method=small_tanl, corpus=fewer), ValueError, "corpus: "),
        (make(method=lambda bank: small_tanl(bank, gap=0.1)), ValueError, "gap=0.1"),
        (make(method="mcm"), ValueError, "saved with the method MCM"),
        (make(method=small_tanl, dtype=torch.float16), ValueError, "torch.float32 and as torch.float16"),
        (tmp_path / "empty", FileNotFoundError, "no guard was saved"),
        (tmp_path / "nowhere", FileNotFoundError, "no guard was saved"),
    ):
        with pytest.raises(error, match=message):
            guard.merge(other, each)
        assert_same_state(guard.detector.state_dict(), before)
    with pytest.raises(ValueError, match="this process is in no group"):
        guard.synchronize()
