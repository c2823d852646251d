"""The guard's monitor: figures of a stream and of a memory, and the warnings that come of them."""

from __future__ import annotations

import copy
import logging
import pickle

import pytest
import torch
from colour_backbone import ColourBackbone
from test_guarded_memory import detector, run, world  # noqa: F401 (a fixture)
from torch.nn.functional import normalize

import tanl
from conftest import unit
from tanl.detectors.memory import mean_cosine
from tanl.detectors.thresholds import calibration_doubt
from tanl.guard.monitor import REFERENCE, WINDOW, Monitor


def watched(it, z, monitor=None, size=64):
    monitor = Monitor() if monitor is None else monitor
    for part in z.split(size):
        scores = it(part)
        monitor.observe(it, part, None if it.threshold is None else scores > it.threshold)
    return monitor


def shuffled(*parts, seed=0):
    z = torch.cat(parts)
    return z[torch.randperm(len(z), generator=torch.Generator().manual_seed(seed))]


def kinds(warnings):
    return {warning.partition(":")[0] for warning in warnings}


def test_a_stream_that_goes_on_as_it_began_gives_no_warning(world):  # noqa: F811
    it = detector(world, **tanl.TANL.preset("practice"))
    it.calibrate_embeddings(world["inside"][:200])
    monitor = Monitor()
    for part in shuffled(world["inside"][200:], world["outside"]).split(64):
        scores = it(part)
        assert monitor.observe(it, part, scores > it.threshold) == ()
    health = monitor.health(it)
    assert health.images == 1600
    assert health.window == WINDOW
    assert health.promised == pytest.approx(0.05)
    assert 0 < health.flagged < 0.5
    assert health.overturned < 0.1
    assert abs(health.shift) < 4
    assert health.usual_similarity == pytest.approx(health.similarity, abs=0.05)


def test_a_runaway_is_told(world):  # noqa: F811
    it, monitor, told = detector(world), Monitor(), set()
    for part in world["inside"].split(64):
        scores = it(part)
        told |= kinds(monitor.observe(it, part, scores > it.threshold))
    assert "runaway" in told
    guarded = detector(world, **tanl.TANL.preset("practice"))
    safe = watched(guarded, world["inside"])
    assert monitor.health(it).overturned > safe.health(guarded).overturned


@pytest.mark.parametrize("spread", [0.0, 0.3])
def test_a_flood_of_one_image_is_told(world, spread):  # noqa: F811
    it = detector(world, memory="guarded")
    monitor = watched(it, shuffled(world["inside"][:700], world["outside"]))
    assert "flood" not in kinds(monitor.warnings)
    one = world["outside"][:1]
    watched(it, normalize(one + spread * unit(256, one.shape[1], seed=3), dim=1), monitor)
    assert "flood" in kinds(monitor.warnings)
    watched(it, world["inside"][700:1200], monitor)
    assert "flood" not in kinds(monitor.warnings)  # it is over


def test_other_images_are_told_as_a_shift(world):  # noqa: F811
    it = tanl.MCM(world["bank"])
    monitor = watched(it, shuffled(world["inside"][:700]))
    assert monitor.warnings == ()
    watched(it, world["outside"], monitor)
    assert "shift" in kinds(monitor.warnings)


def test_before_the_first_images_are_together_nothing_is_compared(world):  # noqa: F811
    it = tanl.MCM(world["bank"])
    monitor = watched(it, world["inside"][: REFERENCE - 1])
    health = monitor.health(it)
    assert (health.usual_similarity, health.shift) == (None, None)
    watched(it, world["inside"][:1], monitor)
    assert monitor.health(it).shift is not None


def test_figures_that_a_method_has_not_are_none(world):  # noqa: F811
    it = tanl.NegLabel(world["bank"])
    health = Monitor().health(it)
    assert (health.images, health.window, health.flagged, health.similarity) == (0, 0, None, None)
    health = watched(it, world["inside"][:100]).health(it)
    assert health.flagged is None  # no threshold
    assert health.promised is None
    assert (health.overturned, health.memory, health.admitted_id, health.turnover_ood) == (None,) * 4
    it.calibrate(it.score(world["inside"][:100]), 0.9)
    assert Monitor().health(it).promised == pytest.approx(0.1)
    it.calibrate_unlabelled(it.score(world["inside"][:100]))
    assert Monitor().health(it).promised is None


def test_the_memory_figures_are_the_rings(world):  # noqa: F811
    it = detector(world, memory=tanl.GuardedMemory(duplicate=1.0), capacity=40)
    monitor = watched(it, shuffled(world["inside"][:600], world["outside"]), size=32)
    health, state = monitor.health(it), it.state
    assert health.memory.admitted_id == state.admitted_id
    assert health.memory.held_ood == len(state.negative) == 40
    assert health.memory.concentration_id == mean_cosine(state.positive.embeddings)
    assert 0 <= health.memory.moved <= 1
    assert 0 < health.admitted_id <= 1
    assert 0 < health.turnover_id < 900


def test_figures_do_not_depend_on_how_the_stream_is_cut(world):  # noqa: F811
    z = shuffled(world["inside"][:700], world["outside"])[:960]
    one = watched(tanl.MCM(world["bank"]), z, size=1).health(tanl.MCM(world["bank"]))
    for size in (64, 960):
        assert watched(tanl.MCM(world["bank"]), z, size=size).health(tanl.MCM(world["bank"])) == one


def test_what_would_be_decided_at_the_start_is_what_a_new_detector_decides(world):  # noqa: F811
    learnt, new = detector(world, alpha=1.0, memory="guarded"), detector(world, alpha=1.0, memory="guarded")
    for it in (learnt, new):
        it.calibrate_embeddings(world["inside"][:100])
    run(learnt, world["outside"])
    z = torch.cat([world["inside"][100:200], world["outside"][:50]])
    assert torch.equal(learnt.decided_at_start(z), new.predict(z))
    assert not torch.equal(learnt.score(z), new.score(z))
    assert tanl.MCM(world["bank"]).decided_at_start(z) is None


def test_the_mean_cosine_is_of_different_rows():
    rows = unit(30, 8, seed=1)
    products = (rows.double() @ rows.double().T).fill_diagonal_(0)
    assert mean_cosine(rows) == pytest.approx(float(products.sum()) / (30 * 29))
    assert mean_cosine(rows[:1]) is None


def guard_of(tmp_path, world):  # noqa: F811
    """A guard over these labels: its method runs away."""

    def method(bank):
        return detector(world)

    return tanl.Guard(ColourBackbone(), ["red", "green"], corpus=["blue"], cache_dir=tmp_path, method=method)


def test_warnings_come_with_verdicts_and_are_logged_once(world, tmp_path, caplog):  # noqa: F811
    guard = guard_of(tmp_path, world)
    with caplog.at_level(logging.WARNING, logger="tanl.guard.guard"):
        for part in world["inside"].split(64):
            detection = guard.detect_embeddings(part)
            if detection.warnings:
                break
    assert kinds(detection.warnings) == {"runaway"}
    assert detection[0].warnings == detection.warnings == guard.health().warnings
    assert detection[:2].warnings == detection.warnings
    assert all(verdict.warnings == detection.warnings for verdict in detection)
    assert detection[0].to_dict()["warnings"] == list(detection.warnings)
    assert detection.to_dict()["warnings"] == [list(detection.warnings)] * len(detection)
    with caplog.at_level(logging.WARNING, logger="tanl.guard.guard"):
        guard.detect_embeddings(world["inside"][:8])  # too few for another look
    assert [record.getMessage() for record in caplog.records] == list(detection.warnings)


def test_a_reset_forgets_the_stream_in_the_monitor_too(world, tmp_path):  # noqa: F811
    guard = guard_of(tmp_path, world)
    for part in world["inside"].split(64):
        guard.detect_embeddings(part)
    assert guard.health().images == 1500
    guard.reset()
    health = guard.health()
    assert (health.images, health.warnings, health.flagged) == (0, (), None)
    assert guard.detect_embeddings(world["inside"][:5]).warnings == ()


def test_a_refused_batch_is_not_counted(world, tmp_path):  # noqa: F811
    guard = guard_of(tmp_path, world)
    guard.detect_embeddings(world["inside"][:5])
    with pytest.raises(ValueError, match="NaN"):
        guard.detect_embeddings(torch.full((3, 48), torch.nan))
    assert guard.health().images == 5


def test_copies_have_a_monitor_of_their_own(world, tmp_path):  # noqa: F811
    guard = guard_of(tmp_path, world)
    guard.detect_embeddings(world["inside"][:70])
    for other in (copy.deepcopy(guard), pickle.loads(pickle.dumps(guard))):
        assert other.health() == guard.health()
        other.detect_embeddings(world["inside"][:30])
        assert (other.health().images, guard.health().images) == (100, 70)


def test_a_calibration_with_images_that_look_ood_is_told(world):  # noqa: F811
    """With too few flagged for chance; a calibration with ID images is not doubted."""
    inside, outside = world["inside"], world["outside"]
    for known, doubted in ((outside[:100], True), (inside[:100], False)):
        it = detector(world, **tanl.TANL.preset("practice"))
        it.calibrate_embeddings(known)
        monitor = watched(it, inside[200:900])
        assert ("calibration" in kinds(monitor.warnings)) is doubted
        assert ("calibration" in kinds(monitor.health(it).warnings)) is doubted
        monitor.calibrated()  # what a new threshold flags is counted anew
        assert "calibration" not in kinds(monitor.health(it).warnings)


@pytest.mark.parametrize(
    ("flagged", "judged", "tpr", "doubted"),
    [
        (0, 0, 0.95, False),
        (0, 200, 0.95, False),  # chance leaves none of 200 six times in a thousand, at half the rate
        (0, 300, 0.95, True),
        (7, 300, 0.95, False),
        (15, 300, 0.95, False),
        (300, 300, 0.95, False),
        (0, 63, 0.9, False),
        (0, 1001, 0.99, False),
        (0, 1501, 0.99, True),
    ],
)
def test_a_calibration_is_doubted_beyond_chance(flagged, judged, tpr, doubted):
    said = calibration_doubt(flagged, judged, tpr)
    assert bool(said) is doubted
    assert not doubted or said.startswith(f"{flagged} of {judged} images are flagged")
