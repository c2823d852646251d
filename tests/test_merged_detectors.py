"""Detectors that learnt side by side, merged."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from states import assert_same_state, state_of

import tanl
from conftest import unit
from tanl.detectors import VisualDictionary
from tanl.integrations.ray.workers import Merger, beginning_of
from tools.speed.data import Features

FEATURES = Features(30, 400, 24, 24, seed=1)
BANK = tanl.LabelBank([f"label {i}" for i in range(430)], FEATURES.labels(), num_id=30, logit_scale=30.0)
MAKERS = {
    "published": lambda bank: tanl.TANL(
        bank, num_selected=80, capacity=60, gap=0.0, initial_ood=FEATURES.known_ood
    ),
    "guarded": lambda bank: tanl.TANL(
        bank,
        num_selected=80,
        capacity=60,
        gap=0.0,
        initial_ood=FEATURES.known_ood,
        alpha=1.0,
        memory=tanl.GuardedMemory(gate=0.05, prior=5),
    ),
    "AdaNeg": lambda bank: tanl.AdaNeg(bank, num_negatives=300, groups=3, gap=0.0, memory_length=4),
    "NegLabel": lambda bank: tanl.NegLabel(bank, num_negatives=300),
    "MCM": tanl.MCM,
}
STREAMS = [name for name in MAKERS if name not in ("NegLabel", "MCM")]


def batches(count):
    return [FEATURES.batch(i) for i in range(count)]


def side_by_side(kind, count=2, steps=5):
    shards = [MAKERS[kind](BANK) for _ in range(count)]
    for i, z in enumerate(batches(count * steps)):
        shards[i % count](z)
    return shards


@pytest.mark.parametrize("kind", MAKERS)
def test_merging_in_place_is_loading_what_the_states_become(kind):
    shards = side_by_side(kind, 3)
    others = [state_of(shard) for shard in shards]
    merged = type(shards[0]).merged([shard.state_dict(compact=True) for shard in shards])
    fresh = MAKERS[kind](BANK)
    fresh.load_state_dict(merged)
    shards[0].merge(shards[1], shards[2].state_dict(compact=True))
    assert_same_state(shards[0].state_dict(), fresh.state_dict())
    for shard, before in zip(shards[1:], others[1:], strict=True):
        assert_same_state(shard.state_dict(), before)
    z = FEATURES.batch(99)
    assert torch.equal(shards[0](z), fresh(z))


@pytest.mark.parametrize("kind", ["published", "guarded"])
def test_what_tanl_says_after_merging_is_of_all_its_images(kind):
    shards = side_by_side(kind, 3)
    told = [shard.memory_report() for shard in shards]
    shards[0].merge(*shards[1:])
    report = shards[0].memory_report()
    assert report.images == sum(each.images for each in told) == 15 * 24
    assert report.admitted_ood == sum(each.admitted_ood for each in told) > 0
    assert report.admitted_id == sum(each.admitted_id for each in told)
    before_next = shards[0].threshold
    assert before_next != 1.0
    state = shards[0].state_dict(compact=True)
    assert state["running_threshold"] == 1 - before_next


def test_a_threshold_that_follows_images_follows_to_the_merged_stream():
    shards = [MAKERS["guarded"](BANK) for _ in range(2)]
    z = torch.cat([FEATURES.batch(50 + i) for i in range(5)])
    known = z[shards[0].score(z).argsort()[:40]]
    for shard in shards:
        shard.calibrate_embeddings(known)
    for i, z in enumerate(batches(10)):
        shards[i % 2](z)
    assert shards[0].threshold != shards[1].threshold
    shards[0].merge(shards[1])
    again = copy.copy(shards[0])
    assert shards[0].threshold == again.calibrate_embeddings(known)


def test_adaneg_remembers_what_one_that_saw_everything_does():
    """Which images it takes depends on them alone; which of them stay, on their entropies."""
    shards, one = [MAKERS["AdaNeg"](BANK) for _ in range(3)], MAKERS["AdaNeg"](BANK)
    for step in range(4):
        parts = [FEATURES.batch(3 * step + i) for i in range(3)]
        for shard, part in zip(shards, parts, strict=True):
            shard(part)
        one(torch.cat(parts))
        if step % 2:
            shards[0].merge(*shards[1:])
            for shard in shards[1:]:
                shard.load_state_dict(shards[0].state_dict())
    ours, theirs = (held_images(each) for each in (shards[0], one))
    assert ours == theirs
    assert max(map(len, ours.values())) == 3
    z = FEATURES.batch(99)
    torch.testing.assert_close(shards[0].score(z), one.score(z), atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("workers", [2, 3])
@pytest.mark.parametrize("kind", STREAMS)
def test_what_a_detector_knew_before_a_run_is_shared_counts_once(kind, workers):
    """As the workers of a merged run on a cluster do: whoever is ready brings its state in, and goes on from all."""
    known, rest = batches(4), [FEATURES.batch(10 + i)[:5] for i in range(2 * workers)]
    detector, one = MAKERS[kind](BANK), MAKERS[kind](BANK)
    for z in known:
        detector(z), one(z)
    merger = Merger(type(detector), beginning_of(detector))
    shards = [MAKERS[kind](BANK) for _ in range(workers)]
    for shard in shards:
        shard.load_state_dict(merger.state())
    for step in range(2):
        for shard, z in zip(shards, rest[step * workers :], strict=False):
            shard(z)
            one(z)
            shard.load_state_dict(merger.merge(shard.state_dict(compact=True)))
    detector.load_state_dict(merger.state())
    if kind == "AdaNeg":  # of which images it takes, and which of them stay, no batch decides
        ours, theirs = (
            {name: {row for _, row in rows} for name, rows in held_images(each).items()}
            for each in (detector, one)
        )
        assert ours == theirs
        return
    state = detector.state
    assert state.images == one.state.images == 4 * 24 + 2 * workers * 5
    assert state.history_sizes.tolist()[-6:] == [24] * 4 + [5 * workers] * 2
    seen_before = {row.numpy().tobytes() for row in torch.cat(known)}
    rows = [row.numpy().tobytes() for row in state.negative.embeddings]
    assert len(rows) == len(set(rows))
    assert seen_before & set(rows)


def held_images(detector):
    memory = detector.state_dict(compact=True)["memory"]
    rows = iter(zip(memory["numbers"].tolist(), memory["entropies"].tolist(), memory["rows"], strict=True))
    held = {}
    for name, count in zip(memory["names"], memory["counts"].tolist(), strict=True):
        told = (next(rows) for _ in range(count))
        held[name] = sorted((number, row.numpy().tobytes()) for number, _, row in told)
    return held


@pytest.mark.parametrize("kind", STREAMS)
def test_parts_of_a_merge_are_merged_in_any_grouping(kind):
    cls, states = type(MAKERS[kind](BANK)), [s.state_dict(compact=True) for s in side_by_side(kind, 4, 3)]
    whole = cls.merged(states)
    left = cls.merged([cls.merged(states[:3], partial=True), states[3]])
    right = cls.merged(
        [states[0], cls.merged([states[1], cls.merged(states[2:], partial=True)], partial=True)]
    )
    assert_same_state(left, whole)
    assert_same_state(right, whole)


shards_of_batches = st.lists(st.lists(st.integers(1, 24), max_size=3), min_size=1, max_size=5)


@settings(max_examples=25, deadline=None)
@given(before=st.integers(1, 24), sizes=shards_of_batches, random=st.randoms(use_true_random=False))
def test_adanegs_memory_is_one_streams_however_many_shards_merge_in_whatever_order(before, sizes, random):
    start, one = MAKERS["AdaNeg"](BANK), MAKERS["AdaNeg"](BANK)
    for detector in (start, one):
        detector(FEATURES.batch(0)[:before])
    begun, states = beginning_of(start), []
    for number, batches_of_shard in enumerate(sizes):
        shard = MAKERS["AdaNeg"](BANK)
        shard.load_state_dict(begun)
        for step, size in enumerate(batches_of_shard):
            z = FEATURES.batch(10 * number + step + 1)[:size]
            shard(z), one(z)
        states.append(shard.state_dict(compact=True))
    at_once = tanl.AdaNeg.merged(states)
    parts = list(states)
    while len(parts) > 1:
        place = random.randrange(len(parts) - 1)
        parts[place : place + 2] = [tanl.AdaNeg.merged(parts[place : place + 2], partial=True)]
    assert_same_state(tanl.AdaNeg.merged(parts), at_once)
    random.shuffle(states)
    for merged in (at_once, tanl.AdaNeg.merged(states)):
        found = MAKERS["AdaNeg"](BANK)
        found.load_state_dict(merged)
        ours, theirs = (
            {name: {row for _, row in rows} for name, rows in held_images(each).items()}
            for each in (found, one)
        )
        assert ours == theirs


@pytest.mark.parametrize("kind", STREAMS)
def test_what_is_not_alike_is_refused_and_changes_nothing(kind):
    left, right = side_by_side(kind)
    before, state = state_of(left), right.state_dict(compact=True)
    renamed = tanl.LabelBank([f"l {i}" for i in range(430)], BANK.embeddings, num_id=30, logit_scale=30.0)
    half = tanl.LabelBank(BANK.names, BANK.embeddings, num_id=30, logit_scale=30.0, dtype=torch.float16)
    turned = tanl.LabelBank(BANK.names, unit(430, 24), num_id=30, logit_scale=30.0)
    calibrated = MAKERS[kind](BANK)
    calibrated.calibrate(torch.rand(50))
    rest = "stream" if "stream" in state else "memory"
    for other, error, message in (
        (tanl.MCM(BANK), ValueError, "not all of|one of a MCM"),
        (MAKERS[kind](renamed), ValueError, "labels have another fingerprint"),
        (MAKERS[kind](half), ValueError, "labels have another dtype: torch.float32 and torch.float16"),
        (MAKERS[kind](turned), ValueError, "labels have another fingerprint"),
        (MAKERS[kind](renamed).state_dict(compact=True), ValueError, "saved with other labels"),
        ({**state, "settings": {**state["settings"], "gap": 0.9}}, ValueError, "saved with other settings"),
        (calibrated, ValueError, "another tpr"),
        (right.state_dict(), ValueError, "only compact states"),
        ({**state, rest: None}, ValueError, "state must be a dict, not a NoneType"),
        ({**state, rest: {**state[rest], "batches": -1}}, ValueError, "batches must be at least 0"),
        ({}, ValueError, "only compact states"),
        (3, TypeError, "must be a dict, from state_dict"),
        (None, TypeError, "must be a dict, from state_dict"),
    ):
        with pytest.raises(error, match=message):
            left.merge(right, other)
        assert_same_state(left.state_dict(), before)
    with pytest.raises(ValueError, match="no states to merge"):
        type(left).merged([])


def test_other_known_outliers_are_refused():
    left, right = (MAKERS["published"](BANK) for _ in range(2))
    other = tanl.TANL(
        BANK, num_selected=80, capacity=60, gap=0.0, initial_ood=unit(len(FEATURES.known_ood), 24, seed=9)
    )
    few = tanl.TANL(BANK, num_selected=80, capacity=60, gap=0.0, initial_ood=FEATURES.known_ood[:3])
    none = tanl.TANL(BANK, num_selected=80, capacity=60, gap=0.0)
    for each in (other, few, none):
        with pytest.raises(ValueError, match="another initial_ood"):
            left.merge(right, each)


def test_methods_without_a_way_to_merge_say_so():
    class Counting(tanl.MCM):
        def state_dict(self, *, compact=False):
            return {**super().state_dict(compact=compact), "seen": 3}

    with pytest.raises(ValueError, match="Counting does not say how its streams merge: its states have seen"):
        Counting(BANK).merge(Counting(BANK))
    fused = [tanl.Fused(tanl.MCM(BANK), VisualDictionary()) for _ in range(2)]
    with pytest.raises(ValueError, match="what terms learnt cannot be merged"):
        fused[0].merge(fused[1])
