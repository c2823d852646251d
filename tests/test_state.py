"""The rings against plain queues of activation rows."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import tanl
from conftest import unit
from tanl.functional import activation_sums
from tanl.state import BLOCK, ActivationRing, ActivationState


def activations(bank, z):
    """The formula, on all labels at once, in float64."""
    logits = bank.logit_scale * z.double() @ bank.embeddings.double().T
    return logits.softmax(dim=1)[:, bank.num_id :]


def exact(bank, seen=None):
    """The activations that a state takes its sums from; ``seen`` gets the number of rows of every call."""

    def sums(z, segments):
        if seen is not None:
            seen.append(len(z))
        return activation_sums(z, bank.embeddings, bank.num_id, bank.logit_scale, segments)

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
        before = ring.state_dict()
        update = prepare(ring, rows)
        assert str(ring.state_dict()) == str(before)
        torch.testing.assert_close(update.mean, activations(bank, rows).mean(0), atol=1e-6, rtol=1e-4)
        ring.commit(update)
        everything = torch.cat([everything, rows])
        kept = everything[-capacity:]
        assert len(ring) == len(kept)
        assert torch.equal(ring.embeddings, kept)
        torch.testing.assert_close(ring.mean, activations(bank, kept).mean(0), atol=1e-6, rtol=1e-4)
        assert bool((ring.mean >= 0).all())


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
