"""Detectors over changed labels: what follows, what stays, what is refused; compact states."""

import pytest
import torch
from states import assert_same_state, state_of
from test_detectors import MAKERS, STREAMING, tanl_detector
from torch.nn.functional import normalize

import tanl
from conftest import unit
from tanl.functional import activation_sums


def with_labels(bank, ids, negatives):
    """A bank of these labels of another; ``new N`` has an embedding of its own."""
    names = [*ids, *negatives]
    own = {name: i for i, name in enumerate(bank.names)}
    rows = [
        bank.embeddings[own[name]] if name in own else unit(1, bank.dim, seed=1000 + int(name.split()[1]))[0]
        for name in names
    ]
    return tanl.LabelBank(names, torch.stack(rows), num_id=len(ids), logit_scale=bank.logit_scale)


def edited(bank):
    """An ID label less, one more; three negatives less, two more."""
    ids, negatives = bank.id_names, bank.negative_names
    return with_labels(
        bank, [*ids[:2], *ids[3:], "new 1"], ["class 2", *negatives[1:50], *negatives[52:], "new 2"]
    )


@pytest.fixture(params=MAKERS)
def make(request):
    return MAKERS[request.param]


def run(detector, stream):
    for z in stream:
        detector(z)
    return detector


# --- every method -------------------------------------------------------------------------------------------


def test_relabelled_before_a_stream_is_a_new_detector(make, bank, stream):
    first = make(bank)
    moved, fresh = first.relabelled(edited(bank)), make(edited(bank))
    assert type(moved) is type(first)
    assert repr(moved) == repr(fresh)
    for z in stream:
        assert torch.equal(moved(z), fresh(z))


def test_relabelled_leaves_the_detector_alone_and_shares_nothing(make, bank, stream):
    first = run(make(bank), stream[:5])
    before, expected = state_of(first), first.score(stream[5])
    moved = first.relabelled(edited(bank))
    saved = state_of(moved)
    run(moved, stream[5:])
    moved.calibrate(torch.linspace(0, 1, 30))
    moved.reset()
    assert_same_state(first.state_dict(), before)
    assert torch.equal(first.score(stream[5]), expected)
    moved = first.relabelled(edited(bank))
    run(first, stream[5:])
    assert_same_state(moved.state_dict(), saved)


def test_relabelled_keeps_the_calibrated_threshold(make, bank, stream):
    detector = make(bank)
    threshold = detector.calibrate(torch.linspace(0, 1, 30), tpr=0.8)
    assert detector.relabelled(edited(bank)).threshold == threshold


def test_relabelled_to_the_same_labels_goes_on_as_before(make, bank, stream):
    first = run(make(bank), stream[:6])
    moved = first.relabelled(tanl.LabelBank(bank.names, bank.embeddings, num_id=7, logit_scale=20.0))
    for z in stream[6:]:
        torch.testing.assert_close(moved(z), first(z), atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ("change", "kind", "message"),
    [
        (lambda bank: bank.embeddings, TypeError, "must be a LabelBank, not Tensor"),
        (
            lambda bank: tanl.LabelBank(bank.names, unit(110, 15), num_id=7, logit_scale=20.0),
            ValueError,
            "dim = 15, the detector's have 16; both must come from the same backbone",
        ),
        (
            lambda bank: tanl.LabelBank(bank.names, bank.embeddings, num_id=7),
            ValueError,
            r"logit_scale = 100\.0, the detector's have 20\.0",
        ),
    ],
)
def test_relabelled_refuses_labels_of_another_backbone(make, bank, stream, change, kind, message):
    detector = run(make(bank), stream[:3])
    before = state_of(detector)
    with pytest.raises(kind, match=message):
        detector.relabelled(change(bank))
    assert_same_state(detector.state_dict(), before)


@pytest.mark.parametrize("method", ["TANL", "NegLabel", "CSP", "AdaNeg"])
def test_relabelled_refuses_labels_without_negatives(method, bank):
    ids = with_labels(bank, bank.id_names, [])
    with pytest.raises(ValueError, match="needs negative labels, and the bank has none"):
        MAKERS[method](bank).relabelled(ids)


def test_relabelled_mcm_needs_two_labels(bank):
    with pytest.raises(ValueError, match="at least two ID labels"):
        tanl.MCM(bank).relabelled(with_labels(bank, ["class 0"], []))


# --- TANL ---------------------------------------------------------------------------------------------------


def check_sums(detector):
    """The rings' means and log-sum-exps are those of their rows over the detector's labels."""
    bank = detector.bank
    for ring in (detector.state.positive, detector.state.negative):
        rows = ring.embeddings
        if len(rows):
            matrix = bank.embeddings
            sums, lse = activation_sums(rows, matrix, bank.num_id, bank.logit_scale, [(0, len(rows))])
            torch.testing.assert_close(ring.mean, sums[0].double() / len(rows), atol=1e-7, rtol=1e-5)
            kept = ring.state_dict()["lse"]
            torch.testing.assert_close(kept[len(kept) - len(rows) :], lse, atol=2e-5, rtol=1e-6)


@pytest.mark.parametrize("capacity", [3, 19, 30, 300])
def test_tanl_keeps_its_rows_and_history_and_makes_its_sums_anew(bank, stream, capacity):
    first = run(tanl_detector(bank, capacity=capacity), stream[:7])
    known, outliers = first.state.positive.embeddings, first.state.negative.embeddings
    best = (known @ bank.id_embeddings.T).argmax(dim=1)
    assert capacity == 3 or bool((best == 2).any())
    moved = first.relabelled(edited(bank))
    assert torch.equal(moved.state.positive.embeddings, known[best != 2])
    assert torch.equal(moved.state.negative.embeddings, outliers)
    assert torch.equal(moved.state.history, first.state.history)
    assert moved.state.images == sum(map(len, stream[:7]))
    check_sums(moved)
    for z in stream[7:]:
        assert bool(moved(z).isfinite().all())
        check_sums(moved)


def test_tanl_drops_known_rows_only_of_labels_that_are_gone(bank, stream):
    first = run(tanl_detector(bank), stream)
    known = first.state.positive.embeddings
    more = with_labels(bank, [*bank.id_names[::-1], "new 1"], bank.negative_names[:60])
    assert torch.equal(first.relabelled(more).state.positive.embeddings, known)


def test_tanl_goes_on_with_no_known_row_left(bank, stream):
    first = run(tanl_detector(bank), stream[:7])
    moved = first.relabelled(with_labels(bank, ["new 1", "new 3"], bank.negative_names))
    assert len(moved.state.positive) == 0
    for z in stream[7:]:
        assert bool(moved(z).isfinite().all())
    check_sums(moved)


def test_tanl_selects_a_label_that_comes_back_for_the_stream_that_activates_it(bank):
    outliers = normalize(bank.embeddings[40:41] + 0.4 * unit(60, 16, seed=7), dim=1)
    less = with_labels(bank, bank.id_names, [n for n in bank.negative_names if n != bank.names[40]])
    detector = run(tanl_detector(less, gap=0.0), outliers.split(20))
    assert bank.names[40] in detector.relabelled(bank).selected[:3]


def test_tanl_with_a_function_for_its_activations_cannot_follow(bank, stream):
    own = tanl.ApproximateActivation(bank, tanl.LabelIndex.of(bank))
    detector = tanl_detector(bank, activation=own)
    with pytest.raises(ValueError, match=r"activation=ApproximateActivation\(.*make a new TANL, or use"):
        detector.relabelled(edited(bank))


def test_tanl_approximates_over_the_new_labels(bank, stream):
    first = run(tanl_detector(bank, activation="approximate"), stream[:4])
    moved = first.relabelled(edited(bank))
    assert moved.activations.bank is moved.bank
    exact = run(tanl_detector(bank), stream[:4]).relabelled(edited(bank))
    torch.testing.assert_close(moved(stream[5]), exact(stream[5]), atol=1e-4, rtol=1e-3)


# --- AdaNeg -------------------------------------------------------------------------------------------------


def memory_by_name(detector):
    names = detector._label_names()
    return {
        (names[label], label >= detector.bank.num_id): images.rows
        for label, images in detector._memory.items()
    }


def test_adaneg_labels_that_stay_what_they_are_keep_their_images(bank, stream):
    first = run(tanl.AdaNeg(bank, num_negatives=None, groups=3, gap=0.2), stream)
    before = memory_by_name(first)
    assert ("class 2", False) in before
    new = edited(bank)
    moved = first.relabelled(new)
    after = memory_by_name(moved)
    there = {(name, i >= new.num_id) for i, name in enumerate(moved._label_names())}
    assert 3 < len(after) < len(before)
    assert after.keys() == before.keys() & there
    assert all(torch.equal(rows, before[key]) for key, rows in after.items())
    assert ("class 2", True) in there
    assert ("class 2", True) not in after  # what it remembered was ID
    for label, images in moved._memory.items():
        ids = label < new.num_id
        labels = new.id_embeddings if ids else moved._embeddings
        p = (new.logit_scale * images.rows @ labels.T).softmax(dim=1)
        assert images.entropies == pytest.approx((-(p * (p + 1e-8).log()).sum(1)).tolist(), abs=1e-5)
        text = torch.cat([new.id_embeddings, moved._embeddings])[label]
        torch.testing.assert_close(moved._proxies[label], normalize(text + images.rows.sum(0), dim=0))


# --- compact states -----------------------------------------------------------------------------------------


def test_compact_states_go_on_up_to_rounding(make, bank, stream):
    first, second = run(make(bank), stream[:6]), make(bank)
    first.calibrate(torch.linspace(0, 1, 30))
    second.load_state_dict(first.state_dict(compact=True))
    assert second.threshold == first.threshold
    for z in stream[6:]:
        torch.testing.assert_close(second(z), first(z), atol=1e-6, rtol=1e-5)


def test_compact_states_go_to_embeddings_computed_again(make, bank, stream):
    noise = 1e-7 * torch.randn(110, 16, generator=torch.Generator().manual_seed(5))
    again = tanl.LabelBank(bank.names, bank.embeddings + noise, num_id=7, logit_scale=20.0)
    assert again.fingerprint != bank.fingerprint
    assert again.names_fingerprint == bank.names_fingerprint
    first, second = run(make(bank), stream[:6]), make(again)
    with pytest.raises(ValueError, match="another bank"):
        second.load_state_dict(first.state_dict())
    second.load_state_dict(first.state_dict(compact=True))
    for z in stream[6:]:
        torch.testing.assert_close(second(z), first(z), atol=1e-4, rtol=1e-3)


def test_compact_states_of_other_labels_or_settings_are_refused(make, bank, stream):
    detector = run(make(bank), stream[:3])
    before, saved = state_of(detector), detector.state_dict(compact=True)
    for labels in (
        bank.names[::-1],
        [*bank.names[:-1], "another"],
    ):
        other = make(tanl.LabelBank(labels, bank.embeddings, num_id=7, logit_scale=20.0))
        with pytest.raises(ValueError, match="another labels"):
            other.load_state_dict(saved)
    for change, message in (
        ({"settings": {"x": 1}}, "another settings"),
        ({"method": "X"}, "another method"),
    ):
        with pytest.raises(ValueError, match=message):
            detector.load_state_dict({**saved, **change})
    del saved["threshold"]
    with pytest.raises(ValueError, match="lacks threshold"):
        detector.load_state_dict(saved)
    assert_same_state(detector.state_dict(), before)


def test_compact_adaneg_state_forgets_labels_that_are_not_mined(bank, stream):
    first, second = run(MAKERS["AdaNeg"](bank), stream), MAKERS["AdaNeg"](bank)
    saved = first.state_dict(compact=True)
    saved["memory"]["names"][-1] = "not mined here"
    second.load_state_dict(saved)
    assert len(second._memory) == len(first._memory) - 1
    second(stream[0])


def test_names_fingerprint_tells_labels_apart(bank):
    for other in (
        tanl.LabelBank(bank.names, bank.embeddings, num_id=8, logit_scale=20.0),
        tanl.LabelBank(bank.names, bank.embeddings, num_id=7, logit_scale=21.0),
        tanl.LabelBank(bank.names[::-1], bank.embeddings, num_id=7, logit_scale=20.0),
        tanl.LabelBank(bank.names, unit(110, 15), num_id=7, logit_scale=20.0),
        bank.mined(50),
    ):
        assert other.names_fingerprint != bank.names_fingerprint


def test_streaming_methods_are_those_that_remember(bank, stream):
    for name, maker in MAKERS.items():
        moved = run(maker(bank), stream).relabelled(edited(bank))
        fresh = maker(edited(bank))
        assert torch.equal(moved.score(stream[2]), fresh.score(stream[2])) == (name not in STREAMING)
