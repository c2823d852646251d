"""The comparison that the other tests of states stand on sees every difference."""

import copy
import math

import numpy as np
import pytest
import torch
from states import assert_same_state, same_state, state_of

import tanl

SCORES = torch.tensor([0.0, math.nan, 0.25, -1.5])
STATE = {
    "scores": SCORES,
    "half": SCORES.half(),
    "bf16": SCORES.bfloat16(),
    "counts": torch.tensor([[1, 2], [3, 4]]),
    "flags": torch.tensor([True, False]),
    "empty": torch.zeros(0, 3),
    "scalar": torch.tensor(0.5),
    "array": np.array([1.0, math.nan], np.float32),
    "names": ["cat", "dog"],
    "pair": (1, 2.0),
    "threshold": None,
    "step": 1,
    "gap": 0.0,
    "unknown": math.nan,
    "exact": True,
    "method": "TANL",
    "nested": {"ring": {"rows": [torch.arange(3.0)]}},
}


def flipped(values, place, bit=0):
    """``values`` with one bit of its storage turned over."""
    values = values.clone()
    values.view(-1).view(torch.uint8)[place] ^= 1 << bit
    return values


TENSORS = [name for name, value in STATE.items() if isinstance(value, torch.Tensor)]
OTHERS = [
    ("scores", torch.tensor([-0.0, math.nan, 0.25, -1.5]), "1 bytes of torch.float32"),
    ("scores", SCORES.double(), "dtype"),
    ("scores", SCORES[:3], "shape"),
    ("scores", SCORES.view(2, 2), "shape"),
    ("scores", SCORES.numpy(), "ndarray is not Tensor"),
    ("scores", SCORES.tolist(), "list is not Tensor"),
    ("empty", torch.zeros(0, 4), "shape"),
    ("empty", torch.zeros(0, 3).double(), "dtype"),
    ("array", np.array([1.0, 2.0], np.float32), "bytes"),
    ("array", np.array([1.0, math.nan], np.float64), "dtype"),
    ("array", np.float32(1.0), "float32 is not ndarray"),
    ("array", np.array([[1.0, math.nan]], np.float32), "shape"),
    ("names", ["dog", "cat"], r"state\['names'\]\[0\]"),
    ("names", ["cat", "cow"], r"state\['names'\]\[1\]"),
    ("names", ["cat"], "1 entries are not 2"),
    ("names", ("cat", "dog"), "tuple is not list"),
    ("pair", [1, 2.0], "list is not tuple"),
    ("pair", (1, 2), r"state\['pair'\]\[1\]: int is not float"),
    ("threshold", 0.0, "float is not NoneType"),
    ("step", 2, "2 is not 1"),
    ("step", True, "bool is not int"),
    ("step", 1.0, "float is not int"),
    ("step", np.int64(1), "int64 is not int"),
    ("gap", -0.0, r"-0\.0 is not 0\.0"),
    ("gap", 5e-324, "5e-324 is not"),
    ("gap", torch.tensor(0.0), "Tensor is not float"),
    ("unknown", 0.0, "0.0 is not nan"),
    ("exact", False, "False is not True"),
    ("exact", 1, "int is not bool"),
    ("method", "tanl", "'tanl' is not 'TANL'"),
    ("nested", {"ring": {"rows": [torch.arange(4.0)]}}, r"state\['nested'\]\['ring'\]\['rows'\]\[0\]: shape"),
    ("nested", {"ring": {}}, "keys"),
    ("nested", {}, "keys"),
]


def test_a_state_is_the_same_as_its_copy_whatever_the_order_of_keys():
    assert_same_state(copy.deepcopy(STATE), STATE)
    assert_same_state(dict(reversed(STATE.items())), STATE)


@pytest.mark.parametrize("name", [*TENSORS])
def test_every_byte_of_every_tensor_counts(name):
    for place in range(STATE[name].nbytes):
        with pytest.raises(AssertionError, match=rf"state\['{name}'\]: 1 bytes"):
            assert_same_state({**STATE, name: flipped(STATE[name], place)}, STATE)
    assert same_state({**STATE, name: STATE[name].clone()}, STATE)


def test_an_entry_in_the_middle_of_a_long_tensor_counts():
    long = torch.zeros(100_000)
    assert str(long) == str(flipped(long, 200_000)), (
        "print shows no middle: why states are not compared by it"
    )
    assert not same_state({"rows": flipped(long, 200_000)}, {"rows": long})


@pytest.mark.parametrize(("name", "value", "message"), OTHERS, ids=lambda value: None)
def test_every_leaf_counts(name, value, message):
    assert_same_state({**STATE, name: copy.deepcopy(value)}, {**STATE, name: value})
    with pytest.raises(AssertionError, match=message):
        assert_same_state({**STATE, name: value}, STATE)
    assert not same_state(STATE, {**STATE, name: value})


def test_every_leaf_of_the_example_is_mutated_here():
    assert {name for name, *_ in OTHERS} | set(TENSORS) == set(STATE)


def test_a_key_more_or_less_or_of_another_type_counts():
    without = {name: value for name, value in STATE.items() if name != "step"}
    for found, expected in ((without, STATE), (STATE, without), ({1: 0}, {True: 0}), ({1: 0}, {"1": 0})):
        with pytest.raises(AssertionError, match="keys"):
            assert_same_state(found, expected)


def test_strided_views_are_compared_by_their_values():
    rows = torch.arange(12.0).view(3, 4)
    assert_same_state(rows.t().contiguous(), rows.t())
    assert not same_state(rows.t(), rows.t().flip(0))


def test_a_tensor_elsewhere_counts():
    with pytest.raises(AssertionError, match="device meta is not cpu"):
        assert_same_state({"scores": SCORES.to("meta")}, {"scores": SCORES})


def test_what_is_no_leaf_is_refused():
    with pytest.raises(TypeError, match="object is no leaf"):
        assert_same_state({"a": object()}, {"a": object()})


def test_a_state_taken_does_not_follow_its_detector(bank, stream):
    detector = tanl.TANL(bank, num_selected=20)
    detector(stream[0])
    before, twin = state_of(detector), state_of(detector)
    detector(stream[2])
    assert_same_state(before, twin)
    assert not same_state(state_of(detector), before)
