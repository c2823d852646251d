"""TANL's guarded memory: what enters its rings, what it weighs, and a calibration that follows the stream."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from states import assert_same_state
from torch import Tensor
from torch.nn.functional import normalize

import tanl
from conftest import unit
from tanl.detectors.guarded import Start, anchored_value, shrunk, without_duplicates
from tanl.functional import otsu_threshold

PRACTICE = tanl.TANL.preset("practice")


@pytest.fixture(scope="module")
def world() -> dict[str, Any]:
    """Labels in clusters, as words are: 12 ID classes, words around each of them, and 900 words elsewhere."""
    centres = unit(72, 48, seed=5)
    generator = torch.Generator().manual_seed(6)

    def around(centre: Tensor, count: int, spread: float) -> Tensor:
        return normalize(centre + spread * torch.randn(count, 48, generator=generator) / 48**0.5, dim=1)

    words = torch.cat([around(centre, 25, 0.6) for centre in centres])
    names = [f"class {i}" for i in range(12)] + [f"word {i}" for i in range(len(words))]
    bank = tanl.LabelBank(names, torch.cat([centres[:12], words]), num_id=12, logit_scale=15.0)
    # Images of ID classes lie wide enough for some of them to score low.
    inside = torch.cat([around(centres[i % 12], 1, 1.3) for i in range(1500)])
    outside = torch.cat([around(centres[12 + i % 60], 1, 1.3) for i in range(300)])
    return {"bank": bank, "noise": unit(15, 48, seed=9), "inside": inside, "outside": outside}


def detector(world: dict[str, Any], **settings: Any) -> tanl.TANL:
    return tanl.TANL(world["bank"], num_selected=100, initial_ood=world["noise"], **settings)


def run(it: tanl.TANL, z: Tensor, size: int = 50) -> Tensor:
    return torch.cat([it(part) for part in z.split(size)])


def test_a_pure_stream_does_not_run_away(world):
    published, guarded = detector(world), detector(world, memory="guarded")
    for it in (published, guarded):
        run(it, world["inside"])
    assert guarded.state.admitted_ood < published.state.admitted_ood
    late = world["inside"][-500:]
    assert guarded.predict(late).float().mean() < published.predict(late).float().mean()


def test_only_what_the_frozen_labels_call_confident_enters(world):
    it = detector(world, memory=tanl.GuardedMemory(gate=0.0, duplicate=1.0))
    run(it, torch.cat([world["inside"][:200], world["outside"][:200]]))
    assert it.state.admitted_ood == 0  # no confidence is below 0
    it = detector(world, memory=tanl.GuardedMemory(gate=1.0, duplicate=1.0))
    run(it, torch.cat([world["inside"][:200], world["outside"][:200]]))
    assert it.state.admitted_id == 0


def test_both_memories_start_alike(world):
    """With alpha 1 no image of a batch has a say in the labels that it is scored with."""
    z = torch.cat([world["inside"][:30], world["outside"][:30]])
    published, guarded = detector(world, alpha=1.0), detector(world, alpha=1.0, memory="guarded")
    assert torch.equal(published(z), guarded(z))
    assert not torch.equal(run(published, world["inside"]), run(guarded, world["inside"]))


def test_duplicates_enter_once(world):
    one = world["outside"][:1]
    it = detector(world, memory="guarded")
    it(one.repeat(40, 1))
    it(one.repeat(7, 1))
    assert it.state.admitted_id + it.state.admitted_ood <= 1
    free = detector(world, memory=tanl.GuardedMemory(duplicate=1.0))
    free(one.repeat(40, 1))
    assert free.state.admitted_id + free.state.admitted_ood in (0, 40)


def test_rows_like_an_earlier_or_a_remembered_one_are_left_out():
    rows = normalize(torch.tensor([[1.0, 0.0], [1.0, 0.01], [0.0, 1.0], [-1.0, 0.0]]), dim=1)
    every = torch.ones(4, dtype=torch.bool)
    assert without_duplicates(rows, every, rows[:0], 0.9).tolist() == [True, False, True, True]
    assert without_duplicates(rows, every, rows[2:3], 0.9).tolist() == [True, False, False, True]
    assert without_duplicates(rows, every, rows, 1.0).all()


def test_rows_like_one_that_is_not_taken_itself_are_taken():
    rows = normalize(torch.tensor([[1.0, 0.0], [1.0, 0.01], [1.0, 0.02]]), dim=1)
    taken = torch.tensor([False, True, True])
    assert without_duplicates(rows, taken, rows[:0], 0.9).tolist() == [False, True, False]
    assert not without_duplicates(rows, ~taken & taken, rows[:0], 0.9).any()


def test_means_are_drawn_to_the_start():
    mean, start = torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0])
    assert shrunk(mean, start, 0, 50).tolist() == [0, 1]
    assert shrunk(mean, start, 150, 50).tolist() == [0.75, 0.25]
    assert shrunk(mean, start, 0, 0) is mean


def test_the_anchor_weighs_labels_and_outliers_alike():
    history = torch.rand(1000, generator=torch.Generator().manual_seed(0)) * 0.2 + 0.6
    empty = torch.zeros(0)
    start = Start(empty, empty, empty, torch.full((10,), 0.99), torch.full((2,), 0.01))
    assert float(anchored_value(history, start, 0.0)) == otsu_threshold(history)
    assert otsu_threshold(history) > 0.6  # parts the stream itself
    assert anchored_value(history, start, 0.5) < 0.6  # parts it from the outliers
    alone = Start(empty, empty, empty, torch.full((10,), 0.99), empty)
    expected = otsu_threshold(torch.cat([history, torch.full((500,), 0.99)]))
    assert float(anchored_value(history, alone, 0.5)) == expected


def test_candidates_are_the_mined_ones(world):
    bank = world["bank"]
    few = detector(world, candidates=300)
    alone = tanl.TANL(bank.mined(300), num_selected=100, initial_ood=world["noise"])
    z = torch.cat([world["inside"][:200], world["outside"][:100]])
    assert torch.equal(run(few, z), run(alone, z))
    assert few.selected == alone.selected
    assert set(few.selected) <= set(bank.mined(300).negative_names)
    assert [name for name, _ in few.activated(7)] == few.selected[:7]
    relevance = [value for _, value in few.activated(300)]
    assert len(relevance) == 300 and relevance == sorted(relevance, reverse=True)
    assert [e.label for e in few.explain(z[:1])[0]] == [e.label for e in alone.explain(z[:1])[0]]
    many = detector(world, candidates=10**9)
    assert torch.equal(run(many, z), run(detector(world), z))


@pytest.mark.parametrize("compact", [False, True])
def test_practice_resumes(world, compact):
    z = torch.cat([world["inside"][:400], world["outside"]])
    z = z[torch.randperm(len(z), generator=torch.Generator().manual_seed(3))]
    settings = {**PRACTICE, "candidates": 300}
    it = detector(world, **settings)
    it.calibrate_embeddings(world["inside"][-60:])
    run(it, z[:350])
    other = detector(world, **settings)
    other.load_state_dict(it.state_dict(compact=compact))
    if not compact:
        assert_same_state(other.state_dict(), it.state_dict())
    for part in z[350:].split(50):
        torch.testing.assert_close(other(part), it(part), rtol=0, atol=1e-5 if compact else 0)
        assert other.threshold == pytest.approx(it.threshold, abs=1e-5 if compact else 0)
    with pytest.raises(ValueError, match="another settings"):
        detector(world).load_state_dict(it.state_dict())


def test_practice_follows_to_other_labels(world):
    bank = world["bank"]
    it = detector(world, **{**PRACTICE, "candidates": 300})
    it.calibrate_embeddings(world["inside"][-60:])
    run(it, torch.cat([world["inside"][:300], world["outside"][:100]]))
    names = [*bank.names[:11], *bank.names[12:]]
    fewer = tanl.LabelBank(
        names, torch.cat([bank.embeddings[:11], bank.embeddings[12:]]), num_id=11, logit_scale=15.0
    )
    other = it.relabelled(fewer)
    assert other.state.admitted_ood == it.state.admitted_ood
    assert other.threshold != it.threshold
    assert other(world["inside"][:50]).isfinite().all()
    assert it.bank is bank


def test_a_calibration_on_images_follows_the_state(world):
    """Its threshold is the quantile of its own images' scores, batch by batch."""
    it = detector(world, alpha=1.0)
    known = world["inside"][-99:]
    it.calibrate_embeddings(known, tpr=0.9)
    seen = set()
    for part in torch.cat([world["outside"], world["inside"][:500]]).split(50):
        now = it.score(known).sort().values[89]  # alpha 1: the labels are those of before the batch
        flagged = it.predict(part)
        scores = it(part)
        assert it.threshold == pytest.approx(float(now), abs=1e-6)
        assert torch.equal(flagged, scores > it.threshold)
        seen.add(it.threshold)
    assert len(seen) > 5
    it.calibrate(it.score(known), 0.9)
    fixed = it.threshold
    it(world["outside"][:50])
    assert it.threshold == fixed
    it.calibrate_embeddings(known, tpr=0.9)
    it.uncalibrate()
    assert it.state_dict()["calibration"] is None
    assert it.threshold == 1 - it.state_dict()["running_threshold"]


def test_new_id_images_are_kept_at_the_promised_rate_whatever_the_stream_was(world):
    """In streams of outliers alone, of ID images alone, and of both."""
    inside, outside = world["inside"], world["outside"]
    for stream in (outside, inside[:600], torch.cat([inside[:300], outside])):
        it = detector(world, alpha=1.0, memory="guarded")
        it.calibrate_embeddings(inside[600:800])
        run(it, stream)
        kept = 1 - it.predict(inside[800:]).float().mean()
        assert 0.90 <= float(kept) <= 0.99


def test_a_reset_keeps_the_calibration(world):
    it = detector(world, alpha=1.0)
    start = it.calibrate_embeddings(world["inside"][-60:])
    run(it, world["outside"])
    assert it.threshold != start
    it.reset()
    assert it.threshold == start


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"memory": "guard"}, ValueError, "no memory 'guard'; there are 'published', 'guarded'"),
        ({"memory": None}, TypeError, "a name or a GuardedMemory, not None"),
        ({"candidates": 0}, ValueError, "candidates must be at least 1"),
        ({"candidates": 2.5}, TypeError, "candidates must be a whole number"),
    ],
)
def test_unusable_settings_are_refused(world, settings, error, message):
    with pytest.raises(error, match=message):
        detector(world, **settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"gate": 1.5}, "gate must lie in"),
        ({"anchor": 1.0}, "anchor must be below 1"),
        ({"prior": -1}, "prior must be at least 0"),
        ({"duplicate": float("nan")}, "duplicate must lie in"),
    ],
)
def test_unusable_rules_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        tanl.GuardedMemory(**settings)


def test_too_few_calibration_images_change_nothing(world):
    it = detector(world)
    it.calibrate_embeddings(world["inside"][:40])
    before = it.state_dict()
    with pytest.raises(ValueError, match="too few"):
        it.calibrate_embeddings(world["inside"][:10])
    assert_same_state(it.state_dict(), before)


def places_of(it: tanl.TANL, source: str) -> list[int]:
    return [held.count(source) for held in (it.state.sources_id, it.state.sources_ood)]


def test_a_source_holds_its_share_of_places_at_most(world):
    free = detector(world, memory=tanl.GuardedMemory(duplicate=1.0), capacity=100)
    run(free, world["outside"])
    bounded = detector(world, memory=tanl.GuardedMemory(duplicate=1.0), capacity=100)
    for part in world["outside"].split(50):
        bounded(part, source="camera 3")
        assert places_of(bounded, "camera 3")[1] <= 10
    assert free.state.admitted_ood > 10
    assert places_of(bounded, "camera 3")[1] == 10
    assert bounded.state.admitted_ood == 10


def test_sources_change_nothing_while_each_stays_within_its_share(world):
    z = torch.cat([world["inside"][:300], world["outside"]])
    plain, told = detector(world, memory="guarded"), detector(world, memory="guarded")
    for start in range(0, len(z), 50):
        part = z[start : start + 50]
        of_its_own = [None if i % 7 == 0 else f"visitor {start + i}" for i in range(len(part))]
        assert torch.equal(plain(part), told(part, source=of_its_own))
    kept, other = told.state_dict(), plain.state_dict()
    for name in ("sources_id", "sources_ood"):
        assert kept["stream"].pop(name) != other["stream"].pop(name)
    assert_same_state(kept, other)


def test_a_place_is_free_again_when_its_image_leaves_the_ring(world):
    it = detector(world, memory=tanl.GuardedMemory(duplicate=1.0, per_source=0.2), capacity=20)
    for start in range(0, 300, 20):
        z = world["outside"][start : start + 20]
        it(z, source=["a" if i < 10 else None for i in range(20)])
        assert places_of(it, "a")[1] <= 4
        assert len(it.state.sources_ood) == len(it.state.negative)
    assert it.state.admitted_ood > 20


@pytest.mark.parametrize("compact", [False, True])
def test_sources_are_saved_and_follow_to_other_labels(world, compact):
    it, again = detector(world, memory="guarded"), detector(world, memory="guarded")
    it(world["inside"][:60], source="left")
    it(world["outside"][:60], source=["right", None] * 30)
    again.load_state_dict(it.state_dict(compact=compact))
    assert again.state.sources_id == it.state.sources_id
    assert again.state.sources_ood == it.state.sources_ood
    assert {"right", None} <= set(it.state.sources_ood)
    fewer = world["bank"]
    keep = [*range(6), *range(12, len(fewer.names))]
    bank = tanl.LabelBank([fewer.names[i] for i in keep], fewer.embeddings[keep], num_id=6, logit_scale=15.0)
    other = it.relabelled(bank)
    assert len(other.state.sources_id) == len(other.state.positive) < len(it.state.positive)
    assert other.state.sources_ood == it.state.sources_ood


@pytest.mark.parametrize(
    ("source", "error", "message"),
    [
        (["a"], ValueError, "1 sources for 4 images"),
        ("", ValueError, "must have a name"),
        (["a", "b", "", None], ValueError, "must have a name"),
        ([1, 2, 3, 4], TypeError, "must be a string or None, not 1"),
    ],
)
def test_unusable_sources_are_refused_and_change_nothing(world, source, error, message):
    for it in (detector(world, memory="guarded"), tanl.NegLabel(world["bank"]), tanl.MCM(world["bank"])):
        before = it.state_dict()
        with pytest.raises(error, match=message):
            it(world["inside"][:4], source=source)
        assert_same_state(it.state_dict(), before)


def test_the_guarded_memory_alone_bounds_sources(world):
    assert [detector(world, memory=memory).bounds_sources for memory in ("published", "guarded")] == [
        False,
        True,
    ]
    assert not tanl.NegLabel(world["bank"]).bounds_sources


@pytest.mark.parametrize("make", [tanl.TANL, tanl.AdaNeg])
def test_a_memory_without_bounds_refuses_sources(world, make):
    it = make(world["bank"])
    before = it.state_dict()
    with pytest.raises(ValueError, match="cannot bound a source"):
        it(world["inside"][:4], source="a")
    assert_same_state(it.state_dict(), before)


def test_damaged_sources_in_a_state_are_refused(world):
    it = detector(world, memory="guarded")
    it(world["inside"][:60], source="left")
    for damage in ("[]", '["left"]', "{}", "[1]", "[", ""):
        state = it.state_dict()
        state["stream"]["sources_id"] = damage
        other = detector(world, memory="guarded")
        before = other.state_dict()
        with pytest.raises(ValueError, match="sources_id"):
            other.load_state_dict(state)
        assert_same_state(other.state_dict(), before)
