"""Every detector keeps the verbs' promises; TANL's stream is pure, ordered, resumable."""

import copy

import numpy as np
import pytest
import torch
from states import assert_same_state, state_of

import tanl
from conftest import golden, golden_bank, unit


def tanl_detector(bank, **settings):
    return tanl.TANL(
        bank, **{"num_selected": 20, "capacity": 30, "initial_ood": unit(15, 16, seed=9), **settings}
    )


class OwnPatch(tanl.GLMCM):
    """GL-MCM on images of one patch, the image itself: it takes embeddings alone, as the others do."""

    def score(self, z, *, local=None):
        return super().score(z, local=z[:, None] if getattr(z, "ndim", 0) == 2 else local)


def texts(prompts):
    return torch.cat([unit(1, 16, seed=sum(map(ord, prompt))) for prompt in prompts])


MAKERS = {
    "MCM": tanl.MCM,
    "MaxLogit": tanl.MaxLogit,
    "Energy": tanl.Energy,
    "NegLabel": lambda bank: tanl.NegLabel(bank, num_negatives=50, groups=3),
    "CSP": lambda bank: tanl.CSP(bank, share=0.5, groups=3),
    "GLMCM": OwnPatch,
    "AdaNeg": lambda bank: tanl.AdaNeg(bank, num_negatives=50, groups=3, gap=0.2),
    "TANL": tanl_detector,
    "NegLabel, balanced": lambda bank: tanl.NegLabel(bank, num_negatives=50, groups=3, weighing="balanced"),
    "NegLabel, debiased": lambda bank: tanl.NegLabel(bank, num_negatives=50, groups=3, weighing="debiased"),
    "TANL, balanced": lambda bank: tanl_detector(bank, weighing="balanced"),
    "TANL, float16": lambda bank: tanl_detector(bank, final_pass="float16"),
    "TANL, by ID images": lambda bank: tanl_detector(
        bank, candidates=tanl.InterModal(unit(110, 16, seed=1)[:7])
    ),
    "Fused, pairs": lambda bank: tanl.Fused(tanl.NegLabel(bank, num_negatives=50), tanl.PairScore(texts)),
    "Fused, dictionary": lambda bank: tanl.Fused(tanl.NegLabel(bank), tanl.VisualDictionary(20)),
    "Fused, all": lambda bank: tanl.Fused(
        tanl_detector(bank), tanl.VisualDictionary(20), tanl.PairScore(texts, labels=2)
    ),
}
STREAMING = {name for name in MAKERS if name.startswith(("AdaNeg", "TANL", "Fused"))} - {"Fused, pairs"}


@pytest.fixture(params=MAKERS)
def detector(request, bank):
    return MAKERS[request.param](bank)


def test_score_is_pure_and_equals_the_call(detector, stream):
    for z in stream:
        before = state_of(detector)
        pure = detector.score(z)
        again = detector.score(z)
        assert_same_state(detector.state_dict(), before)
        committed = detector(z)
        assert torch.equal(pure, again)
        assert torch.equal(pure, committed)
        assert pure.shape == (len(z),)
        assert pure.dtype == torch.float32


def test_higher_score_is_more_ood(detector, bank):
    assert detector.score(bank.id_embeddings).mean() < detector.score(bank.negative_embeddings).mean()


@pytest.mark.parametrize("rows", [1, 2, 17])
@pytest.mark.parametrize("method", sorted(MAKERS.keys() - STREAMING))
def test_stateless_scores_do_not_depend_on_the_other_rows(method, bank, rows):
    detector = MAKERS[method](bank)
    z = unit(rows, 16, seed=5)
    alone = torch.cat([detector.score(row[None]) for row in z])
    torch.testing.assert_close(detector.score(z), alone, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("method", sorted(MAKERS))
def test_members_say_what_a_method_is(method, bank, stream):
    detector = MAKERS[method](bank)
    assert detector.has_stream == (method in STREAMING)
    assert detector.needs_local == (method == "GLMCM")
    detector(stream[0])
    assert [bool(detector.activated(3))] == [method.startswith("TANL") or method == "Fused, all"]


def test_calibrate_sets_what_predict_uses(detector, stream):
    z = torch.cat(stream)
    if not isinstance(detector, tanl.TANL):
        with pytest.raises(ValueError, match=r"no threshold yet: call calibrate"):
            detector.predict(z)
    scores = detector.score(z)
    threshold = detector.calibrate(scores, tpr=0.8)
    assert detector.threshold == threshold
    assert torch.equal(detector.predict(z), scores > threshold)
    assert float((scores <= threshold).float().mean()) >= 0.8


def test_explain_gives_the_most_probable_of_the_negatives_it_scores_with(bank):
    z = unit(70, 16, seed=4)
    for method, used in (
        (tanl.NegLabel(bank, num_negatives=None, seed=3), bank.negative_names),
        (tanl.NegLabel(bank, num_negatives=30), bank.mined(30).negative_names),
        (tanl.AdaNeg(bank, num_negatives=30), bank.mined(30).negative_names),
        (tanl_detector(bank), tanl_detector(bank).selected),
    ):
        rows = torch.stack([bank.negative_embeddings[bank.negative_names.index(name)] for name in used])
        logits = 20 * z @ torch.cat([bank.id_embeddings, rows]).T
        best = logits.softmax(1)[:, bank.num_id :].topk(3, dim=1)
        for row, evidence in enumerate(method.explain(z, k=3)):
            assert [e.label for e in evidence] == [used[i] for i in best.indices[row].tolist()]
            assert [e.probability for e in evidence] == pytest.approx(best.values[row].tolist(), rel=1e-4)


@pytest.mark.parametrize("num_id", [7, 110])
def test_explain_without_negatives_has_no_evidence(bank, num_id):
    """Evidence is one kind of thing, negative labels, whatever else the bank holds."""
    labels = tanl.LabelBank(bank.names[:num_id], bank.embeddings[:num_id], num_id=7)
    for method in (tanl.MaxLogit(labels), tanl.MCM(labels), tanl.Energy(labels)):
        assert method.explain(bank.id_embeddings[:3], k=99) == [(), (), ()]
        with pytest.raises(ValueError, match=r"not of the 0 labels that \w+ scores with"):
            method.explain(bank.id_embeddings, index=tanl.LabelIndex.of(bank))
        with pytest.raises(ValueError, match="D = 15"):
            method.explain(unit(3, 15))


BAD_EMBEDDINGS = {
    "wrong D": (lambda: unit(3, 15), ValueError, r"D = 15, but the label bank has D = 16"),
    "one dimension": (lambda: unit(16), ValueError, r"one embedding is z\[None\]"),
    "empty batch": (lambda: torch.zeros(0, 16), ValueError, "is empty"),
    "NaN": (
        lambda: unit(3, 16).index_fill(0, torch.tensor([1]), float("nan")),
        ValueError,
        "row 1 has a NaN",
    ),
    "infinite": (lambda: unit(3, 16) * torch.tensor([[1.0], [1.0], [float("inf")]]), ValueError, "row 2 has"),
    "not unit": (lambda: 3 * unit(2, 16), ValueError, r"row 0 has norm 3, not 1; normalise"),
    "zero row": (lambda: torch.zeros(1, 16), ValueError, "has norm 0"),
    "integers": (lambda: torch.ones(2, 16, dtype=torch.long), TypeError, r"floating dtype, not torch.int64"),
    "a list": (
        lambda: unit(2, 16).tolist(),
        TypeError,
        "must be a torch.Tensor or a NumPy array, not list",
    ),
    "an array of integers": (
        lambda: np.ones((2, 16), dtype=int),
        TypeError,
        "floating dtype up to float64, not int",
    ),
    "an array, not unit": (
        lambda: 3 * unit(2, 16).numpy(),
        ValueError,
        r"norm 3, not 1; .* np\.linalg\.norm",
    ),
    "a masked array": (lambda: np.ma.masked_less(unit(2, 16).numpy(), 0), TypeError, "leave masked rows out"),
    "other device": (lambda: unit(2, 16).to("meta"), ValueError, r"on meta, but the label bank is on cpu"),
}


@pytest.mark.parametrize("case", BAD_EMBEDDINGS)
def test_bad_embeddings_are_refused_before_any_change(detector, case):
    make, kind, message = BAD_EMBEDDINGS[case]
    before = state_of(detector)
    for verb in (detector, detector.score, detector.predict, detector.explain):
        with pytest.raises(kind, match=message):
            verb(make())
    assert_same_state(detector.state_dict(), before)


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 1e-5), (torch.float16, 0.02), (torch.bfloat16, 0.15)]
)
def test_other_floating_types_are_scored_in_float32(detector, bank, dtype, tolerance):
    z = unit(20, 16, seed=6)
    scores = detector.score(z.to(dtype))
    assert scores.dtype == torch.float32
    spread = float(detector.score(z).std())
    torch.testing.assert_close(scores, detector.score(z), atol=tolerance * max(1, spread), rtol=0)


@pytest.mark.parametrize(
    "kind", ["float32", "float64", "big endian", "read only", "reversed", "columns first"]
)
def test_arrays_are_scored_as_tensors_are(bank, stream, detector, kind):
    twin = copy.deepcopy(detector)
    for z in stream:
        array = {
            "float32": lambda z: z,
            "float64": lambda z: z.astype(np.float64),
            "big endian": lambda z: z.astype(">f4"),
            "read only": lambda z: np.frombuffer(z.tobytes(), dtype=np.float32).reshape(z.shape),
            "reversed": lambda z: z[::-1].copy()[::-1],
            "columns first": np.asfortranarray,
        }[kind](z.numpy())
        # Columns first, the matrix product takes another way and rounds otherwise.
        torch.testing.assert_close(detector(array), twin(z), atol=1e-5, rtol=1e-5)
        found, expected = detector.explain(array, 1), twin.explain(z, 1)
        assert [[e.label for e in row] for row in found] == [[e.label for e in row] for row in expected]


def test_an_array_of_float16_is_scored_as_the_tensor(detector):
    z = unit(20, 16, seed=6).half()
    assert torch.equal(detector.score(z.numpy()), detector.score(z))


def test_gradients_are_neither_needed_nor_kept(detector):
    z = unit(3, 16).requires_grad_()
    assert not detector(z).requires_grad


# --- TANL's stream ------------------------------------------------------------------------------------------


def test_tanl_resumes_bit_for_bit_in_the_middle_of_a_stream(bank, stream):
    first, second = tanl_detector(bank), tanl_detector(bank)
    for z in stream[:5]:
        first(z)
    saved, frozen = state_of(first), state_of(first)
    second.load_state_dict(saved)
    for z in stream[5:]:
        assert torch.equal(first(z), second(z))
    assert first.threshold == second.threshold
    assert_same_state(first.state_dict(), second.state_dict())
    assert_same_state(saved, frozen)


def test_tanl_saved_state_does_not_follow_the_stream(bank, stream):
    detector = tanl_detector(bank)
    detector(stream[2])
    saved = detector.state_dict()
    frozen = copy.deepcopy(saved)
    for z in stream[3:]:
        detector(z)
    assert_same_state(saved, frozen)


def test_tanl_reset_forgets_the_stream_and_keeps_the_threshold(bank, stream):
    detector = tanl_detector(bank)
    fresh = [detector(z) for z in stream]
    detector.calibrate(torch.linspace(0, 1, 30))
    detector.reset()
    assert all(torch.equal(a, detector(z)) for a, z in zip(fresh, stream, strict=True))
    assert detector.threshold == pytest.approx(29 / 29, abs=0.04)


def test_tanl_refuses_a_state_of_another_bank_method_or_setting(bank, stream):
    detector = tanl_detector(bank)
    detector(stream[2])
    before = state_of(detector)
    other = tanl.LabelBank(bank.names, unit(110, 16, seed=3), num_id=7, logit_scale=20.0)
    cut = detector.state.state_dict()
    cut["negative"]["rows"] = cut["negative"]["rows"][:, :9]
    for state, message in (
        (tanl_detector(other).state_dict(), "another bank"),
        (tanl_detector(bank, gap=0.3).state_dict(), "another settings"),
        (
            tanl.MaxLogit(bank).state_dict(),
            "lacks calibration, initial_ood, running_threshold, stream: it is not one of TANL's",
        ),
        ({}, "lacks bank, calibration, initial_ood, method"),
        ({**detector.state_dict(), "stream": {}}, "state lacks 'positive'"),
        ({**detector.state_dict(), "stream": cut}, r"ring's rows must be \[\d+, 16\], not \[\d+, 9\]"),
    ):
        with pytest.raises(ValueError, match=message):
            detector.load_state_dict(state)
    assert_same_state(detector.state_dict(), before)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.update(threshold=torch.ones(3)), "state's threshold must be a number"),
        (lambda s: s.update(threshold=float("nan")), "state's threshold must be finite"),
        (lambda s: s.update(running_threshold=None), "running_threshold must be a number"),
        (lambda s: s["settings"].update(gap=torch.ones(3)), "another settings"),
        (lambda s: s.update(stream=None), "stream's state must be a dict, not a NoneType"),
        (lambda s: s["stream"].update(positive=[]), "ring's state must be a dict, not a list"),
        (lambda s: s["stream"].update(images=-1), "images must be at least 0"),
        (lambda s: s["stream"].update(images=1.5), "images must be a whole number"),
        (lambda s: s["stream"]["history"].fill_(float("nan")), "history has a NaN"),
        (lambda s: s["stream"]["history"].fill_(2), r"history must be at most 20000 confidences in \[0, 1\]"),
        (lambda s: s["stream"].update(history=torch.rand(3, 3)), r"history must be \[n\], not \[3, 3\]"),
        (lambda s: s["stream"].update(history=torch.rand(3).double()), "history must be of torch.float32"),
        (lambda s: s["stream"].update(history=torch.rand(3, device="meta")), "must be a dense tensor"),
        (lambda s: s["stream"].update(history=torch.rand(3).to_sparse()), "must be a dense tensor"),
        (lambda s: s["stream"]["negative"].update(front=torch.ones(5)), r"front must be \[103\], not \[5\]"),
        (lambda s: s["stream"]["negative"].update(front=None), "front does not belong to its total"),
        (lambda s: s["stream"]["negative"]["rows"].mul_(2), "ring's rows: row 0 has norm 2"),
        (lambda s: s["stream"]["negative"]["sums"].mul_(float("inf")), "ring's sums has a NaN or infinite"),
        (lambda s: s.update(calibration=unit(30, 16)), "has calibration images and no tpr"),
        (lambda s: s.update(initial_ood="a file"), "initial_ood must be a dense tensor"),
    ],
)
def test_states_that_are_damaged_are_refused_by_name(bank, stream, change, message):
    used = tanl_detector(bank, gap=0.0)
    for z in stream:
        used(z)
    state = state_of(used)
    assert state["stream"]["negative"]["front"] is not None
    detector = tanl_detector(bank, gap=0.0)
    detector(stream[2])
    before = state_of(detector)
    change(state)
    with pytest.raises((TypeError, ValueError), match=message):
        detector.load_state_dict(state)
    assert_same_state(detector.state_dict(), before)


def test_what_is_no_state_is_refused(detector):
    for state in (None, "state", [], torch.ones(3)):
        with pytest.raises(TypeError, match="state must be a dict, from state_dict"):
            detector.load_state_dict(state)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", ["sparse", "nested", "quantized", "float8"])
def test_tensors_of_other_kinds_are_refused(detector, kind):
    z = {
        "sparse": lambda: unit(3, 16).to_sparse(),
        "nested": lambda: torch.nested.nested_tensor([unit(3, 16), unit(2, 16)]),
        "quantized": lambda: torch.quantize_per_tensor(unit(3, 16), 0.1, 0, torch.qint8),
        "float8": lambda: unit(3, 16).to(torch.float8_e4m3fn),
    }[kind]()
    before = state_of(detector)
    for verb in (detector, detector.score, detector.explain):
        with pytest.raises(TypeError, match=r"dense tensor|floating dtype"):
            verb(z)
    assert_same_state(detector.state_dict(), before)


@pytest.mark.parametrize("seed", ["3", 1.5, -1, 2**63, [1], torch.ones(3)], ids=repr)
@pytest.mark.parametrize("method", ["NegLabel", "CSP", "AdaNeg", "TANL"])
def test_seeds_that_no_generator_takes_are_refused(bank, method, seed):
    with pytest.raises((TypeError, ValueError), match="seed must be"):
        getattr(tanl, method)(bank, seed=seed, **({} if method == "TANL" else {"groups": 2}))


def test_stateless_state_round_trips_and_refuses_others(bank):
    first, second = tanl.NegLabel(bank, groups=2), tanl.NegLabel(bank, groups=2)
    first.calibrate(torch.rand(40))
    second.load_state_dict(first.state_dict())
    assert second.threshold == first.threshold
    with pytest.raises(ValueError, match="another method"):
        tanl.Energy(bank).load_state_dict(tanl.MaxLogit(bank).state_dict())
    with pytest.raises(ValueError, match="another settings"):
        tanl.NegLabel(bank, groups=3).load_state_dict(first.state_dict())


def test_tanl_learns_from_confident_images_only(bank, stream):
    cautious = tanl_detector(bank, gap=1.0)
    before = cautious.state.relevance
    for z in stream:
        cautious(z)
    assert torch.equal(cautious.state.relevance, before)
    eager = tanl_detector(bank, gap=0.0)
    eager(stream[2])
    assert len(eager.state.negative) > 15


def test_tanl_threshold_runs_with_the_stream_until_calibrated(bank, stream):
    detector = tanl_detector(bank)
    z = stream[2]
    predicted = detector.predict(z)
    scores = detector(z)
    assert torch.equal(predicted, scores > detector.threshold)
    assert 0 <= detector.threshold <= 1


def test_uncalibrate_gives_back_the_detectors_own_threshold(detector, stream):
    twin = copy.deepcopy(detector)
    detector.uncalibrate()  # nothing to forget
    detector.calibrate(torch.linspace(2, 3, 30))
    for z in stream[:4]:
        detector(z)
        twin(z)
    assert detector.threshold > 2
    detector.uncalibrate()
    assert detector.threshold == twin.threshold
    assert (detector.threshold is None) is not isinstance(detector, tanl.TANL)
    assert_same_state(detector.state_dict(), twin.state_dict())


def test_tanl_seed_orders_the_labels_that_start_the_stream(bank):
    small = {"capacity": 3, "num_selected": 5}
    assert tanl_detector(bank, seed=1, **small).selected == tanl_detector(bank, seed=1, **small).selected
    natural = tanl_detector(bank, seed=None, **small).state.positive.embeddings
    assert torch.equal(natural, bank.id_embeddings[-3:])
    first, *others = [tanl_detector(bank, seed=s, **small).state.positive.embeddings for s in range(5)]
    assert any(not torch.equal(first, other) for other in others)


def test_tanl_starts_without_known_outliers(bank, stream):
    detector = tanl.TANL(bank, num_selected=10)
    assert len(detector.state.negative) == 0
    for z in stream:
        assert bool(detector(z).isfinite().all())


def test_tanl_uses_all_negatives_of_a_small_bank(bank, stream):
    whole = tanl_detector(bank, num_selected=103)
    more = tanl_detector(bank, num_selected=100_000)
    for z in stream:
        assert torch.equal(whole(z), more(z))


def test_tanl_with_one_id_label(bank, stream):
    one = tanl.LabelBank(
        ["only", *bank.negative_names],
        torch.cat([bank.embeddings[:1], bank.negative_embeddings]),
        num_id=1,
        logit_scale=20.0,
    )
    detector = tanl_detector(one)
    scores = torch.cat([detector(z) for z in stream])
    assert bool(scores.isfinite().all())
    assert 0 <= float(scores.min()) <= float(scores.max()) <= 1


def test_tanl_history_keeps_the_last_20000_scores(bank):
    detector = tanl_detector(bank)
    detector.state.learn(19_990, torch.rand(19_990), None, None)
    detector(unit(30, 16))
    assert len(detector.state.history) == 20_000
    assert detector.state.history_sizes.tolist() == [19_970, 30]


def test_tanl_does_not_depend_on_the_number_of_threads():
    case = golden("aware_score_mixed")
    settings = {"num_selected": 100, "gap": 0.5, "alpha": 0.95, "capacity": 50, "seed": None}
    results = []
    threads = torch.get_num_threads()
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            detector = tanl.TANL(golden_bank(case), initial_ood=case["noise_features"], **settings)
            results.append(torch.cat([detector(z) for z in case["images"]]))
    finally:
        torch.set_num_threads(threads)
    torch.testing.assert_close(*results, atol=1e-6, rtol=0)


def test_presets_are_settings_that_tanl_takes(bank):
    for name in ("paper", "official-script", "medical", "practice"):
        tanl.TANL(bank, **tanl.TANL.preset(name))
    defaults = tanl.TANL(bank)
    assert all(getattr(defaults, key) == value for key, value in tanl.TANL.preset("paper").items())
    tanl.TANL.preset("paper")["gap"] = 9
    assert tanl.TANL.preset("paper")["gap"] == 0.2
    with pytest.raises(ValueError, match=r"no preset 'papre'; there are 'paper'"):
        tanl.TANL.preset("papre")


# --- settings -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "kind", "message"),
    [
        ({"num_selected": 0}, ValueError, "num_selected must be at least 1, not 0"),
        ({"num_selected": 1.5}, TypeError, "num_selected must be a whole number, not 1.5"),
        ({"step": -1}, ValueError, "step must be at least 0"),
        ({"gap": 1.2}, ValueError, r"gap must lie in \[0, 1\], not 1.2"),
        ({"alpha": float("nan")}, ValueError, "alpha must lie"),
        ({"alpha": "0.5"}, TypeError, "alpha must be a number"),
        ({"capacity": 0}, ValueError, "capacity must be at least 1"),
        ({"initial_ood": unit(2, 15)}, ValueError, "initial_ood has D = 15"),
        ({"initial_ood": 2 * unit(2, 16)}, ValueError, "initial_ood: row 0 has norm 2"),
    ],
)
def test_tanl_refuses_unusable_settings(bank, settings, kind, message):
    with pytest.raises(kind, match=message):
        tanl.TANL(bank, **settings)


def test_methods_refuse_banks_they_cannot_use(bank):
    ids = tanl.LabelBank(bank.id_names, bank.id_embeddings, num_id=7)
    one = tanl.LabelBank(["only"], bank.id_embeddings[:1], num_id=1)
    for method in (tanl.TANL, tanl.NegLabel, tanl.CSP, tanl.AdaNeg):
        with pytest.raises(ValueError, match="needs negative labels, and the bank has none"):
            method(ids)
    with pytest.raises(ValueError, match="at least two ID labels"):
        tanl.MCM(one)
    with pytest.raises(ValueError, match="103 negatives cannot make 200 groups"):
        tanl.NegLabel(bank, groups=200)
    for value in (1e300, 1e13, 1e-13):
        with pytest.raises(ValueError, match=r"temperature must lie between 1e-12 and 1e\+12, not 1e"):
            tanl.MCM(bank, temperature=value)
        with pytest.raises(ValueError, match=r"lambda_value must lie between 1e-12 and 1e\+12, not 1e"):
            tanl.AdaNeg(bank, lambda_value=value)
    with pytest.raises(ValueError, match="temperature must be positive"):
        tanl.MCM(bank, temperature=0)
    with pytest.raises(TypeError, match="must be a LabelBank, not Tensor"):
        tanl.Energy(bank.embeddings)


@pytest.mark.parametrize(
    ("scores", "tpr", "message"),
    [
        (torch.rand(18), 0.95, "18 ID scores are too few for tpr = 0.95: 19 are needed"),
        (torch.rand(30), 1.0, "strictly between 0 and 1"),
        (torch.rand(3, 10), 0.5, r"must have shape \[n\]"),
        (torch.tensor([0.1, float("nan")]), 0.5, "NaN"),
    ],
)
def test_calibrate_refuses_what_gives_no_guarantee(bank, scores, tpr, message):
    with pytest.raises(ValueError, match=message):
        tanl.Energy(bank).calibrate(scores, tpr)


def test_calibrate_is_the_conformal_quantile(bank):
    detector = tanl.Energy(bank)
    assert detector.calibrate(torch.arange(19.0), 0.95) == 18
    assert detector.calibrate(torch.arange(99.0), 0.95) == 94
    assert detector.calibrate([3, 1, 2], tpr=0.5) == 2


def test_explain_through_an_index_names_the_same_labels(bank, stream):
    detector = tanl.NegLabel(bank, num_negatives=None, groups=1, seed=None)
    z = stream[0][:5]
    plain = detector.explain(z, 4)
    indexed = detector.explain(z, 4, index=tanl.LabelIndex.of(bank))
    for own, found in zip(plain, indexed, strict=True):
        assert [e.label for e in own] == [e.label for e in found]
        assert [e.probability for e in own] == pytest.approx([e.probability for e in found], abs=1e-6)
    with pytest.raises(ValueError, match=r"is not of the \d+ labels that MCM scores with"):
        tanl.MCM(bank).explain(z, index=tanl.LabelIndex.of(bank))


def test_tanl_takes_approximate_activations(bank, stream):
    approximate = tanl.ApproximateActivation(bank, tanl.LabelIndex.of(bank), candidates=bank.num_negatives)
    exact, near = (tanl.TANL(bank, num_selected=20, activation=a) for a in ("exact", approximate))
    for z in stream:
        torch.testing.assert_close(near(z), exact(z), atol=1e-5, rtol=1e-4)
    assert near.activations.covered_mass == pytest.approx(1.0, abs=1e-4)
    assert tanl.TANL(bank, activation="approximate")(stream[0]).shape == (len(stream[0]),)
    with pytest.raises(ValueError, match="'nearest'"):
        tanl.TANL(bank, activation="nearest")
    with pytest.raises(ValueError, match="another settings"):
        near.load_state_dict(exact.state_dict())


def test_the_published_final_pass_rounds_scores_and_nothing_that_is_learnt(bank, stream):
    exact, half = tanl_detector(bank, alpha=0.5), tanl_detector(bank, alpha=0.5, final_pass="float16")
    for z in stream:
        rounded, scores = half(z), exact(z)
        assert not torch.equal(rounded, scores)
        torch.testing.assert_close(rounded, scores, atol=0.02, rtol=0)
    assert_same_state(half.state.state_dict(), exact.state.state_dict())
    assert half.threshold == exact.threshold
    scores = half.score(stream[0])
    assert torch.equal((1 - scores).half().float(), 1 - scores)
    half.calibrate_embeddings(torch.cat(stream), 0.8)
    kept = half.score(torch.cat(stream)) <= half.threshold
    assert float(kept.float().mean()) >= 0.7
    with pytest.raises(ValueError, match=r'final_pass must be "float32" or "float16", not \'half\''):
        tanl_detector(bank, final_pass="half")


@pytest.mark.parametrize(
    "source", [3, torch.zeros(5), np.zeros(5), torch.nested.nested_tensor([torch.zeros(2)])]
)
def test_a_source_that_is_no_name_is_refused(detector, stream, source):
    before = state_of(detector)
    with pytest.raises((TypeError, ValueError), match="source"):
        detector(stream[2][:5], source=source)
    assert_same_state(detector.state_dict(), before)


def test_an_index_that_is_none_is_refused(bank):
    with pytest.raises(TypeError, match="index must be a LabelIndex, not a Tensor"):
        tanl.NegLabel(bank).explain(unit(2, 16), index=torch.zeros(30))


@pytest.mark.parametrize("scale", [1.1e6, 1e300])
def test_a_logit_scale_beyond_what_float32_can_tell_is_refused(bank, scale):
    with pytest.raises(ValueError, match=r"logit_scale (is 1.1e.06|must lie between .* not 1e.300)"):
        tanl.LabelBank(bank.names, bank.embeddings, num_id=7, logit_scale=scale)
    tanl.NegLabel(tanl.LabelBank(bank.names, bank.embeddings, num_id=7, logit_scale=1e6))(unit(3, 16))
