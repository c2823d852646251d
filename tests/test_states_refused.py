"""Damaged states are refused and change nothing; an interrupt leaves the old state or the new one."""

from __future__ import annotations

import copy
import sys
from typing import Any

import numpy as np
import pytest
import torch
from states import assert_same_state, same_state, state_of

import tanl
from conftest import unit
from tanl.detectors import GLMCM

KINDS = {
    "TANL": lambda labels: tanl.TANL(
        labels, num_selected=9, capacity=25, initial_ood=unit(3, 8, seed=4), gap=0.0
    ),
    "TANL, guarded": lambda labels: tanl.TANL(labels, num_selected=9, capacity=25, gap=0.0, memory="guarded"),
    "AdaNeg": lambda labels: tanl.AdaNeg(labels, num_negatives=30, groups=3, gap=0.0),
    "NegLabel": lambda labels: tanl.NegLabel(labels, num_negatives=30, groups=3),
    "CSP": lambda labels: tanl.CSP(labels, share=0.5, groups=3),
    "MCM": tanl.MCM,
    "GLMCM": GLMCM,
    "Energy": tanl.Energy,
    "MaxLogit": tanl.MaxLogit,
}


def bank():
    names = (
        [f"class {i}" for i in range(5)] + [f"word {i}" for i in range(36)] + [f"{w} area" for w in "abcdef"]
    )
    return tanl.LabelBank(names, unit(47, 8, seed=1), num_id=5, logit_scale=20.0)


def after_a_stream(kind):
    detector = KINDS[kind](bank())
    if kind != "GLMCM":
        for seed in (5, 6):
            detector(torch.cat([unit(16, 8, seed=seed), bank().embeddings[:4]]))
        detector.calibrate_embeddings(unit(30, 8, seed=9))
    return detector


def leaves(state: Any, path: tuple[str, ...] = ()):
    for key, value in state.items():
        yield (*path, key), value
        if isinstance(value, dict) and key != "settings":
            yield from leaves(value, (*path, key))


def with_leaf(state: dict[str, Any], path: tuple[str, ...], value: Any) -> dict[str, Any]:
    state = copy.deepcopy(state)
    part = state
    for key in path[:-1]:
        part = part[key]
    part[path[-1]] = value
    return state


def damaged(value: Any):
    """Values that a leaf may not have."""
    yield from (object(), [], b"x", torch.zeros(2, 2).to_sparse(), torch.empty(3, device="meta"), np.zeros(3))
    yield torch.nested.nested_tensor([torch.zeros(2), torch.zeros(3)])
    if isinstance(value, torch.Tensor):
        yield from (None, 3, "x", value.tolist(), value.to("meta"), value[None], value.numpy())
        if value.is_floating_point():
            yield from (value.half() if value.dtype != torch.float16 else value.double(), value.int())
            yield torch.full_like(value, torch.nan) if value.numel() else value[None]
            if value.numel():
                spoiled = value.clone()
                spoiled.view(-1)[-1] = torch.inf
                yield spoiled
        if value.ndim and len(value):
            yield torch.cat([value, value])
        if value.ndim == 2 and len(value):
            yield from (value[:, :-1], value.T.contiguous() if len(value) != value.shape[1] else value[:-1])
    elif isinstance(value, bool | int | float):
        yield from (float("nan"), "3", [value], torch.zeros(2))


def may_be(name: str, value: Any, other: Any) -> bool:
    """Whether the other is the same twice, and the name is of what may have any length, or be missing."""
    if name == "calibration" and other is None:
        return True
    if name not in ("history", "calibration") or not isinstance(other, torch.Tensor) or other.is_nested:
        return False
    return other.layout is torch.strided and other.shape == (2 * len(value), *value.shape[1:])


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
@pytest.mark.parametrize("compact", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_a_damaged_state_is_refused_and_changes_nothing(kind, compact):
    saved = after_a_stream(kind).state_dict(compact=compact)
    detector = KINDS[kind](bank())
    before, tried = state_of(detector), 0
    for path, value in leaves(saved):
        for bad in damaged(value):
            if may_be(path[-1], value, bad):
                continue
            with pytest.raises((TypeError, ValueError), match=r"state|memory|ring|stream|calibration"):
                detector.load_state_dict(with_leaf(saved, path, bad))
                pytest.fail(f"{path} was taken as {bad!r}")
            assert_same_state(detector.state_dict(), before)
            tried += 1
    for path, value in leaves(saved):
        lacking = with_leaf(saved, path, value)
        part = lacking
        for key in path[:-1]:
            part = part[key]
        del part[path[-1]]
        if path[-1] not in ("sums", "front"):
            with pytest.raises(ValueError, match=r"state|lacks"):
                detector.load_state_dict(lacking)
            assert_same_state(detector.state_dict(), before)
    for nothing in (None, [], "state", 3, {}, torch.zeros(3)):
        with pytest.raises((TypeError, ValueError), match="state"):
            detector.load_state_dict(nothing)
    assert tried > 20
    detector.load_state_dict(saved)
    assert_same_state(detector.state_dict(compact=compact), saved)


def test_a_front_that_does_not_fit_the_count_is_refused():
    saved = after_a_stream("TANL").state_dict()
    for side in ("positive", "negative"):
        ring = saved["stream"][side]
        fitting = ring["front"]
        other = None if fitting is not None else torch.zeros(42)
        for bad in (
            [other]
            if fitting is None
            else [other, fitting[:-1], fitting[None], torch.cat([fitting, fitting])]
        ):
            with pytest.raises(ValueError, match="front"):
                after_a_stream("TANL").load_state_dict(with_leaf(saved, ("stream", side, "front"), bad))


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("stream", "images"), -1),
        (("stream", "admitted_id"), 1.5),
        (("stream", "positive", "total"), 10**30),
        (("stream", "positive", "total"), True),
        (("stream", "history"), torch.full((20_001,), 0.5)),
        (("stream", "history"), torch.tensor([2.0])),
        (("stream", "sources_id"), "[3]"),
        (("running_threshold",), 1.5),
        (("tpr",), None),
        (("tpr",), 0.999),
        (("threshold",), float("inf")),
        (("calibration",), torch.ones(30, 8)),
    ],
    ids=str,
)
def test_values_out_of_range_are_refused(path, value):
    detector, saved = after_a_stream("TANL"), after_a_stream("TANL").state_dict()
    before = state_of(detector)
    with pytest.raises(ValueError):
        detector.load_state_dict(with_leaf(saved, path, value))
    assert_same_state(detector.state_dict(), before)


# --- interrupts


def run_traced(detector, action, z, saved, interrupt_at):
    """Run an action, with a KeyboardInterrupt at that line of tanl that runs; gives how many lines ran."""
    lines = 0

    def trace(frame, event, argument):
        nonlocal lines
        if "/tanl/" not in frame.f_code.co_filename:
            return None
        if event == "line":
            lines += 1
            if lines == interrupt_at:
                raise KeyboardInterrupt
        return trace

    before, gradients = sys.gettrace(), torch.is_grad_enabled()
    sys.settrace(trace)
    try:
        action(detector, z, saved)
        assert interrupt_at is None
    except KeyboardInterrupt:
        pass
    finally:
        sys.settrace(before)
        torch.set_grad_enabled(gradients)  # the interrupt may come between a block's last line and its end
    return lines


ACTIONS = {
    "call": lambda detector, z, saved: detector(z),
    "score": lambda detector, z, saved: detector.score(z),
    "reset": lambda detector, z, saved: detector.reset(),
    "calibrate": lambda detector, z, saved: detector.calibrate(torch.linspace(0, 1, 30), 0.8),
    "calibrate_embeddings": lambda detector, z, saved: detector.calibrate_embeddings(z, 0.8),
    "uncalibrate": lambda detector, z, saved: detector.uncalibrate(),
    "load_state_dict": lambda detector, z, saved: detector.load_state_dict(saved),
}


@pytest.mark.parametrize("action", ACTIONS)
@pytest.mark.parametrize("kind", ["TANL", "TANL, guarded", "AdaNeg", "NegLabel"])
def test_an_interrupt_at_any_line_leaves_the_old_state_or_the_new_one(kind, action):
    z = torch.cat([unit(20, 8, seed=7), bank().embeddings[:3]])
    started = after_a_stream(kind)
    old = state_of(started)
    ahead = after_a_stream(kind)
    ahead(z)
    saved = ahead.state_dict()
    after = copy.deepcopy(started)
    ACTIONS[action](after, z, saved)
    new = state_of(after)
    assert action == "score" or kind == "NegLabel" or not same_state(new, old)
    total = run_traced(copy.deepcopy(started), ACTIONS[action], z, saved, None)
    outcomes = {"old": 0, "new": 0}
    # Every line near the end, where the state is replaced, and some of those before.
    for line in sorted({*range(1, total + 1, max(1, total // 60)), *range(max(1, total - 40), total + 1)}):
        detector = copy.deepcopy(started)
        run_traced(detector, ACTIONS[action], z, saved, line)
        found = detector.state_dict()
        assert same_state(found, old) or same_state(found, new), f"interrupted at line {line} of {total}"
        outcomes["old" if same_state(found, old) else "new"] += 1
    assert outcomes["old"] > 0


@pytest.mark.parametrize("kind", ["TANL", "TANL, guarded", "AdaNeg"])
def test_scoring_touches_nothing_that_is_shared(kind):
    """The state before a call is whole afterwards: what was handed out of it does not change under its holder."""
    detector, z = after_a_stream(kind), unit(20, 8, seed=7)
    now = detector._now
    held = state_of(detector)
    detector.score(z)
    assert detector._now is now
    detector(z)
    assert detector._now is not now
    detector._now = now
    assert_same_state(detector.state_dict(), held)
