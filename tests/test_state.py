"""The rings against plain queues of activation rows."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from states import assert_same_state, state_of

import tanl
from conftest import unit
from tanl import kernels
from tanl.detectors.state import BLOCK, ActivationRing, ActivationState
from tanl.functional import activation_sums


def activations(bank, z):
    """The formula, on all labels at once, in float64."""
    logits = bank.logit_scale * z.double() @ bank.embeddings.double().T
    return logits.softmax(dim=1)[:, bank.num_id :]


def log_sum_exps(bank, z):
    """Of all labels, in float64."""
    return (bank.logit_scale * z.double() @ bank.embeddings.double().T).logsumexp(dim=1).float()


def exact(bank, seen=None):
    """The activations that a state takes its sums from; ``seen`` gets the number of rows of every call."""

    def sums(z, segments, known):
        torch.testing.assert_close(known, log_sum_exps(bank, z[: len(known)]), atol=1e-5, rtol=0)
        if seen is not None:
            seen.append(len(z))
        return activation_sums(z, bank.embeddings, bank.num_id, bank.logit_scale, segments, known=known)

    return sums


def prepare(ring, rows, seen=None):
    """One ring's update alone, as `ActivationState.prepare` makes it."""
    other, bank = ActivationRing(ring._bank, 5), ring._bank
    both = ActivationState(bank, exact(bank, seen), ring, other, torch.zeros(0))
    update, nothing = both.prepare(rows, rows[:0])
    assert nothing is None
    return update


def small_bank(seed=1):
    names = [f"class {i}" for i in range(3)] + [f"word {i}" for i in range(41)]
    return tanl.LabelBank(names, unit(44, 8, seed=seed), num_id=3, logit_scale=30.0)


@settings(max_examples=60, deadline=None)
@given(capacity=st.integers(1, 70), pushes=st.lists(st.integers(1, 90), min_size=1, max_size=8))
def test_ring_keeps_the_last_rows_and_their_mean(capacity, pushes):
    bank = small_bank()
    ring = ActivationRing(bank, capacity)
    everything = torch.zeros(0, 8)
    for i, count in enumerate(pushes):
        rows = unit(count, 8, seed=i)
        before = state_of(ring)
        update = prepare(ring, rows)
        assert_same_state(ring.state_dict(), before)
        torch.testing.assert_close(update.mean, activations(bank, rows).mean(0), atol=1e-6, rtol=1e-4)
        ring.commit(update)
        everything = torch.cat([everything, rows])
        kept = everything[-capacity:]
        assert len(ring) == len(kept)
        assert torch.equal(ring.embeddings, kept)
        torch.testing.assert_close(ring.mean, activations(bank, kept).mean(0), atol=1e-6, rtol=1e-4)
        assert bool((ring.mean >= 0).all())
        state = ring.state_dict()
        torch.testing.assert_close(state["lse"], log_sum_exps(bank, state["rows"]), atol=1e-5, rtol=0)


def test_ring_prepares_a_push_with_at_most_half_a_block_recomputed():
    bank = small_bank()
    ring = ActivationRing(bank, 40)
    seen = []
    pushed = [40, *range(1, 40), 1, 1, 1]
    for i, count in enumerate(pushed):
        ring.commit(prepare(ring, unit(count, 8, seed=i), seen))
    assert max(rows - new for rows, new in zip(seen, pushed, strict=True)) <= BLOCK // 2


def test_both_rings_are_prepared_in_one_pass():
    bank = small_bank()
    passes = []
    both = ActivationState.initial(bank, exact(bank, passes), 20, None, unit(15, 8))
    assert passes == [3 + 15]
    ids, outliers = unit(9, 8, seed=5), unit(13, 8, seed=6)
    both.commit(*both.prepare(ids, outliers))
    assert len(passes) == 2
    for ring, rows in ((both.positive, ids), (both.negative, torch.cat([unit(15, 8), outliers])[-20:])):
        rows = torch.cat([bank.id_embeddings, rows]) if ring is both.positive else rows
        torch.testing.assert_close(ring.mean, activations(bank, rows).mean(0), atol=1e-6, rtol=1e-4)
    assert both.prepare(ids[:0], ids[:0]) == (None, None)


def test_ring_does_not_drift_over_many_pushes():
    bank = small_bank()
    ring = ActivationRing(bank, 33)
    rows = unit(5000, 8, seed=3)
    for start in range(0, 5000, 7):
        ring.commit(prepare(ring, rows[start : start + 7]))
    torch.testing.assert_close(ring.mean, activations(bank, rows[-33:]).mean(0), atol=1e-7, rtol=1e-5)


def test_ring_resumes_bit_for_bit():
    bank = small_bank()
    first = ActivationRing(bank, 37)
    for i, count in enumerate((20, 30, 9)):
        first.commit(prepare(first, unit(count, 8, seed=i)))
    second = ActivationRing.from_state_dict(bank, 37, first.state_dict())
    for i, count in enumerate((1, 13, 50)):
        for ring in (first, second):
            ring.commit(prepare(ring, unit(count, 8, seed=10 + i)))
        assert torch.equal(first.mean, second.mean)
        assert torch.equal(first.embeddings, second.embeddings)


@pytest.mark.parametrize("capacity", [16, 17, 32, 300])
def test_ring_memory_is_the_blocks_of_its_capacity(capacity):
    bank = small_bank()
    ring = ActivationRing(bank, capacity)
    for i in range(30):
        ring.commit(prepare(ring, unit(29, 8, seed=i)))
    state = ring.state_dict()
    assert len(state["rows"]) < capacity + BLOCK
    assert len(state["sums"]) <= (capacity + BLOCK - 2) // BLOCK + 1


def filled(capacity, counts, seed=0):
    """Both rings after pushes of so many rows each."""
    bank = small_bank()
    state = ActivationState.initial(bank, exact(bank), capacity, None, unit(15, 8))
    for i, count in enumerate(counts):
        ids, outliers = unit(count, 8, seed=seed + i), unit(count + 3, 8, seed=seed + 50 + i)
        seen = 2 * count + 3
        state.learn(seen, state.extended_history(torch.rand(seen)), *state.prepare(ids, outliers))
    return bank, state


@settings(max_examples=60, deadline=None)
@given(capacity=st.integers(1, 70), counts=st.lists(st.integers(1, 60), max_size=6))
def test_compact_state_makes_its_sums_again(capacity, counts):
    bank, state = filled(capacity, counts)
    compact = state.state_dict(compact=True)
    passes = []
    again = ActivationState.from_state_dict(bank, exact(bank, passes), capacity, compact)
    assert passes == [len(compact["positive"]["rows"]) + len(compact["negative"]["rows"])]
    assert torch.equal(again.history, state.history)
    assert again.images == state.images
    for i, count in enumerate((0, 1, 13, 50)):  # that the stream goes on shows that block sums are right too
        if count:
            for each in (state, again):
                each.commit(*each.prepare(unit(count, 8, seed=90 + i), unit(count, 8, seed=80 + i)))
        for ring, own in ((again.positive, state.positive), (again.negative, state.negative)):
            assert torch.equal(ring.embeddings, own.embeddings)
            torch.testing.assert_close(ring.mean, own.mean, atol=1e-7, rtol=1e-5)
            ours, theirs = ring.state_dict(), own.state_dict()
            assert (ours["front"] is None) == (theirs["front"] is None)
            torch.testing.assert_close(ours["sums"], theirs["sums"], atol=1e-6, rtol=1e-5)


def test_full_state_asks_for_no_activations():
    bank, state = filled(37, (20, 30, 9))
    passes = []
    again = ActivationState.from_state_dict(bank, exact(bank, passes), 37, state.state_dict())
    assert passes == []
    assert_same_state(again.state_dict(), state.state_dict())


def test_empty_rings_are_restored_from_a_compact_state():
    bank = small_bank()
    state = ActivationState(
        bank, exact(bank), ActivationRing(bank, 9), ActivationRing(bank, 9), torch.zeros(0)
    )
    again = ActivationState.from_state_dict(bank, exact(bank), 9, state.state_dict(compact=True))
    assert len(again.positive) == len(again.negative) == 0
    again.commit(*again.prepare(unit(11, 8), unit(2, 8)))
    torch.testing.assert_close(
        again.positive.mean, activations(bank, unit(11, 8)[-9:]).mean(0), atol=1e-6, rtol=1e-4
    )


def test_compact_state_of_70000_labels_takes_a_megabyte_and_a_half():
    names, rows = [str(i) for i in range(70_010)], unit(1, 512)
    bank = tanl.LabelBank(names, rows.expand(70_010, -1), num_id=10)

    def nothing(z, segments, known):
        return torch.zeros(len(segments), bank.num_negatives), torch.zeros(len(z) - len(known))

    state = ActivationState.initial(bank, nothing, 300, 0, None)
    for count in (310, 9):  # the front block keeps 19 evicted rows
        state.commit(*state.prepare(unit(count, 512), unit(count, 512)))
    for _ in range(20_000):  # batches of one image, whose sizes take the most
        state.history_sizes = torch.cat([state.history_sizes, torch.ones(1, dtype=torch.int32)])
    state.history = state.extended_history(torch.rand(25_000))

    def size(value):
        if isinstance(value, torch.Tensor):
            return value.nbytes
        return sum(map(size, value.values())) if isinstance(value, dict) else 0

    assert size(state.state_dict(compact=True)) <= 1.5e6
    assert size(state.state_dict()) > 1e7


@pytest.mark.parametrize("part", ["lse", "sums", "front"])
def test_half_of_what_a_ring_holds_is_no_state(part):
    bank, state = filled(20, (30,))
    saved = state.state_dict()
    del saved["positive"][part]
    with pytest.raises(ValueError, match=f"lacks '{part}'"):
        ActivationState.from_state_dict(bank, exact(bank), 20, saved)


@pytest.mark.parametrize("fresh", [0, 1, 6])
def test_log_sum_exps_of_older_rows_are_not_made_again(monkeypatch, fresh):
    """Where the product is made twice, the first one is of the new rows alone."""
    _, state = filled(33, (50, 8))
    passed = []
    row_lse = kernels.row_lse
    monkeypatch.setattr(kernels, "stored_rows", lambda z, labels: 0)
    monkeypatch.setattr(kernels, "row_lse", lambda z, *more: passed.append(len(z)) or row_lse(z, *more))
    ids, outliers = unit(7, 8, seed=70), unit(fresh, 8, seed=71)
    state.commit(*state.prepare(ids, outliers))
    assert passed == [7 + fresh]


@pytest.mark.parametrize(
    ("found", "error", "message"),
    [
        (torch.zeros(3, 41), TypeError, "sums and log-sum-exps, two tensors, not a Tensor"),
        ((torch.zeros(3, 41), None), TypeError, "sums and log-sum-exps, two tensors, not a tuple"),
        ((torch.zeros(9, 41), torch.zeros(7)), ValueError, "give 2 sums and 7 log-sum-exps, not 9 and 7"),
        ((torch.zeros(2, 41), torch.zeros(8)), ValueError, "give 2 sums and 7 log-sum-exps, not 2 and 8"),
    ],
)
def test_activations_of_ones_own_that_are_no_pair_are_refused(found, error, message):
    bank = small_bank()
    ring = ActivationRing(bank, 10)
    ring.commit(prepare(ring, unit(12, 8)))
    state = ActivationState(bank, lambda *given: found, ring, ActivationRing(bank, 10), torch.zeros(0))
    before = state_of(state)
    with pytest.raises(error, match=message):
        state.prepare(unit(7, 8), unit(0, 8))
    assert_same_state(state.state_dict(), before)
