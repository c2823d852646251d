"""Streams that went on side by side, merged, against one stream that saw all of it."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from states import assert_same_state

import tanl
from conftest import unit
from tanl.detectors.guarded import within_share
from tanl.detectors.merging import Shared, merged_streams, trimmed
from tanl.detectors.state import ActivationState
from tanl.functional import activation_sums

NAMES = [f"class {i}" for i in range(3)] + [f"word {i}" for i in range(41)]


def labels(dtype=torch.float32, seed=1):
    return tanl.LabelBank(NAMES, unit(44, 8, seed=seed).to(dtype), num_id=3, logit_scale=30.0)


BANK = labels()


def activations(z, segments, known):
    return activation_sums(z, BANK.embeddings, BANK.num_id, BANK.logit_scale, segments, known=known)


def begun(capacity, per_source=None):
    state = ActivationState.initial(BANK, activations, capacity, None, unit(5, 8), per_source)
    state.begin(torch.rand(8, generator=torch.Generator().manual_seed(0)))
    return state


def again(state):
    """A state that goes on from this one elsewhere."""
    return restored(state.state_dict(compact=True), state.positive.capacity, state.per_source)


def restored(compact, capacity, per_source=None):
    return ActivationState.from_state_dict(BANK, activations, capacity, compact, per_source)


def batch(images, seed):
    """Of a batch of so many images: the confident ID and OOD ones, first-pass confidences, sources."""
    rows, generator = unit(max(1, images), 8, seed=seed)[:images], torch.Generator().manual_seed(seed)
    kinds = torch.randint(0, 3, (images,), generator=generator)
    confidences = torch.rand(images, generator=generator)
    sources = [None if seed % 2 else f"camera {i % 3}" for i in range(images)]
    sides = [(kinds == side).nonzero()[:, 0].tolist() for side in (0, 1)]
    return [rows[side] for side in sides], confidences, [[sources[i] for i in side] for side in sides]


def joined(batches):
    """Batches that came at the same time, as one."""
    sides = [torch.cat([of_batch[0][side] for of_batch in batches]) for side in (0, 1)]
    sources = [[source for of_batch in batches for source in of_batch[2][side]] for side in (0, 1)]
    return sides, torch.cat([of_batch[1] for of_batch in batches]), sources


def push(state, of_batch):
    rows, confidences, sources = of_batch
    if state.per_source is not None:
        held = (state.sources_id, state.sources_ood)
        kept = [
            within_share(range(len(told)), told, its, state.per_source)
            for told, its in zip(sources, held, strict=True)
        ]
        rows = [side[chosen] for side, chosen in zip(rows, kept, strict=True)]
        sources = [[told[i] for i in chosen] for told, chosen in zip(sources, kept, strict=True)]
    updates = state.prepare(*rows)
    state.learn(len(confidences), state.extended_history(confidences), *updates, *sources)


def assert_same_stream(found, expected):
    """The same rows, history and numbers bit for bit, and means up to rounding."""
    for ring, own in ((found.positive, expected.positive), (found.negative, expected.negative)):
        assert torch.equal(ring.embeddings, own.embeddings)
        torch.testing.assert_close(ring.mean, own.mean, atol=1e-7, rtol=1e-5)
    ours, theirs = found.state_dict(compact=True), expected.state_dict(compact=True)
    for name in ours.keys() - {"positive", "negative", "shared"}:
        assert_same_state(ours[name], theirs[name], name)


counts = st.lists(st.lists(st.integers(1, 30), min_size=2, max_size=4), max_size=5)


@settings(max_examples=25, deadline=None)
@given(capacity=st.integers(1, 50), before=st.lists(st.integers(1, 40), max_size=3), steps=counts)
def test_shards_merge_to_what_one_stream_is_of_their_batches_together(capacity, before, steps):
    one = begun(capacity)
    for seed, images in enumerate(before):
        push(one, batch(images, seed))
    one.shared = one.seen
    shards = [again(one) for _ in range(max(map(len, steps), default=2))]
    for number, images in enumerate(
        sorted(steps, key=len, reverse=True)
    ):  # shards come to their ends one by one
        parts = [batch(n, 100 * number + i) for i, n in enumerate(images)]
        for shard, part in zip(shards, parts, strict=False):
            push(shard, part)
        push(one, joined(parts))
    states = [copy.deepcopy(shard.state_dict()) for shard in shards]
    merged = shards[0].merge(*shards[1:])
    assert_same_stream(merged, one)
    assert merged.shared == merged.seen == one.seen
    for shard, before_it in zip(shards, states, strict=True):
        assert_same_state(shard.state_dict(), before_it)


@st.composite
def shards_and_trees(draw):
    """States of shards that went on from one state for a different time each, and two orders of merging them."""
    capacity, per_source = draw(st.integers(1, 40)), draw(st.sampled_from([None, 1, 3]))
    start = begun(capacity, per_source)
    push(start, batch(draw(st.integers(1, 60)), 7))
    start.shared = start.seen
    states = []
    for shard in range(draw(st.integers(1, 5))):
        state = again(start)
        for number, images in enumerate(draw(st.lists(st.integers(1, 25), max_size=4))):
            push(state, batch(images, 1000 * shard + number))
        states.append(state.state_dict(compact=True))
    return states, start.state_dict(compact=True), draw(st.randoms(use_true_random=False))


@settings(max_examples=25, deadline=None)
@given(case=shards_and_trees())
def test_merging_is_associative(case):
    states, _, random = case
    at_once, parts = merged_streams(states), list(states)
    while len(parts) > 1:
        place = random.randrange(len(parts) - 1)
        parts[place : place + 2] = [merged_streams(parts[place : place + 2], partial=True)]
    assert_same_state(merged_streams(parts), at_once)


@settings(max_examples=25, deadline=None)
@given(case=shards_and_trees())
def test_what_the_streams_became_takes_in_one_after_the_other(case):
    """As where every worker brings its state to one place when it is ready."""
    states, start, _ = case
    together, news = start, [state for state in states if state["batches"] > start["batches"]]
    for state in news:
        together = merged_streams([together, state])
    assert_same_state(merged_streams([together]), merged_streams([start, *news]))


@settings(max_examples=25, deadline=None)
@given(case=shards_and_trees())
def test_an_order_of_shards_changes_ties_alone(case):
    states, _, random = case
    shuffled = list(states)
    random.shuffle(shuffled)
    ours, theirs = merged_streams(shuffled), merged_streams(states)
    for name in ("images", "admitted_id", "admitted_ood", "batches", "shared", "history_sizes"):
        assert_same_state(ours[name], theirs[name], name)
    if all(state["per_source"] is None for state in states):
        for name in ("numbers_id", "numbers_ood"):
            assert_same_state(ours[name], theirs[name], name)
    if int(theirs["history_sizes"].sum()) < 20_000:
        assert torch.equal(ours["history"].sort().values, theirs["history"].sort().values)


@settings(max_examples=25, deadline=None)
@given(case=shards_and_trees())
def test_a_source_never_holds_more_than_its_places(case):
    states, _, _ = case
    merged = merged_streams(states)
    if merged["per_source"] is not None:
        state = restored(merged, merged["capacity"], merged["per_source"])
        for sources in (state.sources_id, state.sources_ood):
            assert all(sources.count(f"camera {i}") <= merged["per_source"] for i in range(3))


def test_long_histories_keep_the_newest_of_all():
    one, shards = begun(5), [begun(5), begun(5)]
    for number in range(5):
        parts = [batch(3000 + i, 10 * number + i) for i in range(2)]
        for shard, part in zip(shards, parts, strict=True):
            push(shard, part)
        push(one, joined(parts))
    merged = shards[0].merge(shards[1])
    assert len(merged.history) == 20_000
    assert_same_stream(merged, one)


def test_streams_that_are_merged_over_and_over_count_nothing_twice():
    one, shards = begun(30), [begun(30) for _ in range(3)]
    for number in range(6):
        parts = [batch(4 + 3 * i, 10 * number + i) for i in range(3)]
        for shard, part in zip(shards, parts, strict=True):
            push(shard, part)
        push(one, joined(parts))
        merged = shards[0].merge(*shards[1:])
        assert_same_stream(merged, one)
        shards = [again(merged) for _ in shards]
    assert again(merged).merge(again(merged)).seen == one.seen  # nobody has seen anything since


def test_sizes_are_cut_from_the_oldest():
    sizes = torch.tensor([3, 4, 5], dtype=torch.int32)
    for total, expected in (
        (12, [3, 4, 5]),
        (11, [2, 4, 5]),
        (9, [4, 5]),
        (5, [5]),
        (2, [2]),
        (30, [3, 4, 5]),
    ):
        assert trimmed(sizes, total).tolist() == expected
    assert sizes.tolist() == [3, 4, 5]


def after(start, *seeds):
    state = again(start)
    for seed in seeds:
        push(state, batch(9, seed))
    return state


def test_streams_without_a_common_beginning_are_refused():
    start = begun(20)
    left, right = after(start, 1, 2), after(start, 3)
    joint = left.merge(right)
    earlier, later = left, after(joint, 4)
    with pytest.raises(
        ValueError, match="did not go on from one state: they were last alike after 0, 27 images"
    ):
        earlier.merge(later)
    assert joint.merge(after(start, 5)).images == 27 + 9  # it is what they have become together
    other = ActivationState.initial(BANK, activations, 20, None, unit(5, 8, seed=3))
    other.begin(torch.rand(8))
    with pytest.raises(
        ValueError, match=r"did not go on from one state: what they remember from before differs"
    ):
        after(start, 1).merge(after(other, 2))
    with pytest.raises(ValueError, match="parted at different times"):
        merged_streams([joint.state_dict(compact=True), left.state_dict(compact=True)], partial=True)


def test_other_labels_and_settings_are_refused():
    state, bank = begun(20), labels(seed=2)
    other = ActivationState.initial(bank, activations, 20, None, unit(5, 8))
    with pytest.raises(ValueError, match="over other labels"):
        state.merge(other)
    with pytest.raises(ValueError, match="capacity is 20 in one and 21 in another"):
        state.merge(begun(21))
    with pytest.raises(ValueError, match="per_source is None in one and 3 in another"):
        state.merge(begun(20, 3))


def test_counts_beyond_what_floats_and_int32_hold_are_exact():
    many = 2**31 + 2**53 + 1
    saved = begun(20).state_dict(compact=True)
    saved |= {"images": many, "admitted_id": many - 7, "admitted_ood": 2**24 + 1, "batches": many - 3}
    saved["shared"] = {name: saved[name] for name in ("batches", "images", "admitted_id", "admitted_ood")}
    for name in ("numbers_id", "numbers_ood"):
        saved[name] = saved[name] + many - 4
    start = restored(saved, 20)
    left, right = after(start, 1, 2), after(start, 3)
    merged = left.merge(right)
    assert merged.images == many + 27
    assert merged.batches == many - 1
    new = len(batch(9, 1)[0][0]) + len(batch(9, 2)[0][0]) + len(batch(9, 3)[0][0])
    assert merged.admitted_id == many - 7 + new
    assert int(merged.numbers_id[-1]) in (many - 2, many - 1)
    assert_same_state(restored(merged.state_dict(), 20).state_dict(), merged.state_dict())


def test_one_stream_that_several_have_is_that_stream():
    state = after(begun(20), 1, 2, 3)
    saved = state.state_dict(compact=True)
    merged = merged_streams([saved, copy.deepcopy(saved), copy.deepcopy(saved)])
    assert_same_state(merged, merged_streams([saved]))
    assert merged["images"] == 27
    assert merged["shared"] == {name: merged[name] for name in Shared._fields}


def test_streams_that_parted_later_than_they_tell_are_refused():
    loaded = after(begun(20), 1, 2, 3)
    left, right = after(loaded, 4), after(loaded, 5)
    with pytest.raises(ValueError, match=r"streams 0 and 1 saw the same images.* right after loading"):
        left.merge(right)
    black = batch(1, 11)
    for state in (left := begun(20), right := begun(20)):
        push(state, black)  # both saw one picture, by chance
    push(left, batch(5, 12))
    assert left.merge(right).images == 7


def test_a_stream_without_news_is_not_taken_for_one_with():
    start = begun(20)
    one, other = (after(start, i, i + 1).merge(after(start, i + 2)) for i in (1, 10))
    push(one := again(one.merge(after(start, 20))), batch(3, 30))
    together = merged_streams([one.state_dict(compact=True)])
    with pytest.raises(
        ValueError, match="a stream has seen nothing since it was last like the others, after 27"
    ):
        merged_streams([together, other.state_dict(compact=True)])


@pytest.mark.parametrize("more", [2**24, 2**31, 2**53])
def test_rings_of_any_number_of_rows_go_on_alike(more):
    """Rows are numbered, and their numbers decide which block they are in."""
    state = after(begun(30), *range(20))
    saved = state.state_dict()
    for ring in ("positive", "negative"):
        saved[ring]["total"] += 20 * more
    later = restored(saved, 30)
    for seed in range(30, 50):
        for each in (state, later):
            push(each, batch(7, seed))
        for ring, own in ((later.positive, state.positive), (later.negative, state.negative)):
            assert torch.equal(ring.mean, own.mean)
            assert torch.equal(ring.embeddings, own.embeddings)
