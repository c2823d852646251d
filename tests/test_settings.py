"""Settings of detectors: checked where they are set, NumPy's numbers too, and some fixed once they are set."""

from __future__ import annotations

import ast
import copy
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from states import assert_same_state, state_of

import tanl
from conftest import unit
from tanl.detectors import GLMCM
from tanl.streams.batches import Ready
from tanl.streams.pump import Pump

MAKERS = {
    "TANL": (tanl.TANL, {"num_selected": 30, "capacity": 25}),
    "NegLabel": (tanl.NegLabel, {"num_negatives": 60}),
    "AdaNeg": (tanl.AdaNeg, {"num_negatives": 60}),
    "CSP": (tanl.CSP, {"groups": 3}),
    "MCM": (tanl.MCM, {}),
    "GLMCM": (GLMCM, {}),
}
WHOLE = [True, np.True_, 1.5, "3", None, -1, float("nan"), torch.tensor(3)]
SEEDS = [True, np.False_, 1.5, "3", -1, float("nan"), 1 << 63, torch.tensor(3)]
SHARES = [True, "0.5", None, -0.1, 1.1, float("nan"), float("inf"), torch.tensor(0.5)]
ABOVE_0 = [True, "1", None, 0, -1.0, float("nan"), float("inf")]
ILLEGAL = {
    "TANL": {
        "num_selected": [0, *WHOLE], "step": WHOLE, "capacity": [0, *WHOLE], "seed": SEEDS, "gap": SHARES,
        "alpha": SHARES, "memory": ["learned", 1, None], "candidates": [0, True, 1.5, "3"], "activation": ["fast", 1],
        "final_pass": ["half", "float64", 16, None], "weighing": ["balance", "", 3, None],
    },
    "NegLabel": {
        "num_negatives": [0, True, 1.5, "3"], "groups": [0, *WHOLE], "seed": SEEDS,
        "weighing": ["balance", "", 3, None],
    },
    "AdaNeg": {
        "num_negatives": [0, True, 1.5, "3"], "groups": [0, *WHOLE], "seed": SEEDS, "memory_length": [1, *WHOLE],
        "lambda_value": [True, "1", -1, float("nan"), float("inf")], "memory_threshold": SHARES, "gap": SHARES,
    },
    "CSP": {"share": [0, *SHARES], "superclasses": ["area", [], [""], [3]], "groups": [0, *WHOLE], "seed": SEEDS},
    "MCM": {"temperature": ABOVE_0},
    "GLMCM": {"temperature": ABOVE_0, "lambda_value": ABOVE_0},
}  # fmt: skip
CASES = [(method, name) for method, settings in ILLEGAL.items() for name in settings]


def bank():
    names = [f"class {i}" for i in range(7)] + [f"word {i}" for i in range(80)]
    names += [
        f"{word} {kind}" for word in ("red", "old", "new", "wide") for kind in ("area", "object", "scene")
    ]
    return tanl.LabelBank(names, unit(len(names), 16, seed=1), num_id=7, logit_scale=20.0)


def make(method, **settings):
    kind, usual = MAKERS[method]
    return kind(bank(), **(usual | settings))


@pytest.mark.parametrize(("method", "name"), CASES)
def test_illegal_settings_are_refused_by_name_when_made_and_later(method, name):
    detector = make(method)
    before, own = state_of(detector), getattr(detector, name)
    for value in ILLEGAL[method][name]:
        for attempt in (
            lambda v=value: make(method, **{name: v}),
            lambda v=value: setattr(detector, name, v),
        ):
            with pytest.raises(
                (TypeError, ValueError), match="superclass" if name == "superclasses" else name
            ):
                attempt()
        assert getattr(detector, name) is own
    assert_same_state(detector.state_dict(), before)


@pytest.mark.parametrize("method", MAKERS)
def test_every_setting_is_checked(method):
    kind, detector = MAKERS[method][0], make(method)
    assert set(detector.settings) == set(kind.checked) | set(kind.lasting) == set(ILLEGAL[method])


def test_what_a_detector_is_made_of_cannot_change():
    for method, name, value in (
        ("TANL", "capacity", 26),
        ("TANL", "memory", "guarded"),
        ("NegLabel", "groups", 4),
        ("AdaNeg", "seed", None),
        ("CSP", "share", 0.5),
    ):
        detector = make(method)
        with pytest.raises(AttributeError, match=f"{name} of a {method} cannot change; make another"):
            setattr(detector, name, value)
        setattr(detector, name, getattr(detector, name))
    with pytest.raises(AttributeError, match="initial_ood"):
        make("TANL").initial_ood = unit(3, 16)


def test_what_may_change_takes_effect():
    detector, z = make("TANL"), unit(9, 16, seed=3)
    detector.step, detector.gap, detector.num_selected = np.int64(0), np.float32(0.25), np.uint8(12)
    other = make("TANL", step=0, gap=0.25, num_selected=12)
    assert detector.settings == other.settings
    assert {type(value) for value in (detector.step, detector.num_selected)} == {int}
    assert type(detector.gap) is float
    assert torch.equal(detector(z), other(z))


NUMPY = {
    "TANL": {"num_selected": np.int32(20), "step": np.uint8(2), "gap": np.float64(0.5), "alpha": np.float16(0.5),
             "capacity": np.int64(9), "seed": np.int16(3), "candidates": np.int64(50)},
    "NegLabel": {"num_negatives": np.int64(50), "groups": np.int8(4), "seed": np.uint64(3)},
    "AdaNeg": {"num_negatives": np.int64(50), "memory_length": np.int8(4), "lambda_value": np.float32(0.5),
               "memory_threshold": np.float64(0.25), "gap": np.int64(0)},
    "CSP": {"share": np.float32(0.5), "groups": np.int8(4), "seed": np.uint64(3)},
    "MCM": {"temperature": np.float32(0.5)},
    "GLMCM": {"temperature": np.int64(2), "lambda_value": np.float32(0.5)},
}  # fmt: skip


@pytest.mark.parametrize("method", NUMPY)
def test_numbers_of_numpy_are_settings_and_kept_as_pythons(method):
    plain = {name: value.item() for name, value in NUMPY[method].items()}
    found, expected = make(method, **NUMPY[method]), make(method, **plain)
    assert_same_state({k: float(v) for k, v in plain.items()}, {k: float(getattr(found, k)) for k in plain})
    assert all(type(getattr(found, name)) in (int, float) for name in plain)
    assert repr(found) == repr(expected).replace("gap=0,", "gap=0.0,").replace(
        "temperature=2)", "temperature=2.0)"
    )
    if method != "GLMCM":
        assert torch.equal(found(unit(9, 16, seed=3)), expected(unit(9, 16, seed=3)))


@pytest.mark.parametrize("method", MAKERS)
def test_copies_keep_their_settings(method):
    detector = make(method)
    for again in (copy.copy(detector), copy.deepcopy(detector), pickle.loads(pickle.dumps(detector))):
        assert again.settings == detector.settings
        assert_same_state(again.state_dict(), detector.state_dict())


@pytest.mark.parametrize("tpr", [0, 1, -1, 2, float("nan"), True, "0.95", None])
def test_an_unusable_rate_is_refused_by_name(tpr):
    detector = make("NegLabel")
    with pytest.raises((TypeError, ValueError), match="tpr"):
        detector.calibrate(torch.rand(40), tpr)
    assert detector.threshold is None


def test_a_tiny_rate_takes_the_smallest_score_not_the_largest():
    scores = torch.linspace(0, 1, 40)
    assert make("NegLabel").calibrate(scores, 1e-12) == 0.0
    assert make("NegLabel").calibrate(scores, np.float64(0.5)) == float(scores[20])


def test_no_setting_is_checked_and_then_used_as_it_was_given():
    # np.int8(100) + 64 is -92: what a check gives back is Python's number, and has to be what is used.
    checks = {"whole_number", "fraction", "positive", "number", "finite", "seed_number"}
    unused = [
        f"{path.name}, line {node.lineno}"
        for path in Path(tanl.__file__).parent.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Call)
        and isinstance(node.value.func, ast.Name)
        and node.value.func.id in checks
    ]
    assert unused == []


def test_small_numbers_of_numpy_do_not_overflow():
    names = [f"word {i}" for i in range(300)]
    labels = tanl.LabelBank(names, unit(300, 16), num_id=np.int8(100), logit_scale=np.float16(20))
    assert (labels.num_negatives, type(labels.num_id), type(labels.logit_scale)) == (200, int, float)
    assert labels.mined(np.uint8(200)).num_negatives == 200
    detector, z = tanl.MCM(labels), unit(300, 16, seed=3)
    assert detector.calibrate_embeddings(z, batch_size=np.int8(100)) == detector.calibrate_embeddings(z)
    pump = Pump(
        range(300), lambda number, _: Ready(str(number), number), lambda rows: z[rows],
        batch_size=np.int8(64), read_ahead=np.int8(100), max_wait=np.float32(5),
    )  # fmt: skip
    try:
        assert [len(batch.images) for batch in pump] == [64, 64, 64, 64, 44]
    finally:
        pump.close()
    index = tanl.LabelIndex(names, unit(300, 16), probe=np.float16(0.5), seed=np.int8(3))
    assert index.search(z[:1], np.int8(100)).rows.shape == (1, 100)


@pytest.mark.parametrize("value", [torch.tensor(3), np.array(3), torch.tensor(0.5), np.array(0.5)])
def test_a_number_in_an_array_is_told_how_to_be_given(value):
    with pytest.raises(TypeError, match=r"gap must be a number, not .*; give its \.item\(\)"):
        make("TANL", gap=value)
    with pytest.raises(TypeError, match=r"step must be a whole number, not .*; give its \.item\(\)"):
        make("TANL", step=value)


@pytest.mark.parametrize("value", [3, np.int8(3), np.array("area")])
def test_superclasses_that_are_no_list_are_told(value):
    with pytest.raises(TypeError, match="superclasses must be a list of words, not"):
        make("CSP", superclasses=value)
