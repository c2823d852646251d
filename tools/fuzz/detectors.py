"""Areas: what detectors are called with, what they are made with, and states that they are to go on from."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import cache, partial
from typing import Any

import torch
from hypothesis import strategies as st
from hypothesis.strategies import DataObject

from tanl.detectors import CSP, GLMCM, MCM, TANL, AdaNeg, Detector, Energy, MaxLogit, NegLabel
from tanl.labels.bank import LabelBank
from tanl.labels.index import LabelIndex
from tanl.metrics import OODMetrics

from .values import D, Named, anything, changed_states, rows, scalars, unit
from .watch import Broken, Watch, all_finite


@cache
def bank(seed: int = 1, labels: int = 5, dim: int = D) -> LabelBank:
    """Labels of which two banks share most, as after an edit."""
    names = [f"class {i}" for i in range(labels)] + [f"word {i}" for i in range(60)]
    return LabelBank(names, unit(len(names), dim, seed), num_id=labels, logit_scale=20.0)


def _tanl(bank: LabelBank, **settings: Any) -> TANL:
    given = {"num_selected": 10, "capacity": 25, "initial_ood": unit(6, bank.dim, seed=9), **settings}
    return TANL(bank, **given)


MAKERS: dict[str, Callable[[LabelBank], Detector]] = {
    "MCM": MCM,
    "MaxLogit": MaxLogit,
    "Energy": Energy,
    "NegLabel": lambda bank: NegLabel(bank, num_negatives=30, groups=3),
    "CSP": lambda bank: CSP(bank, share=0.5, groups=3),
    "AdaNeg": lambda bank: AdaNeg(bank, num_negatives=30, groups=3, gap=0.2, memory_length=4),
    "TANL": _tanl,
    "TANL, guarded": lambda bank: _tanl(bank, memory="guarded", candidates=40),
}


@cache
def _used(method: str, calibrated: bool) -> Detector:
    """A detector in the middle of its stream."""
    detector = MAKERS[method](bank())
    for seed in range(3):
        detector(unit(7 + seed, seed=20 + seed))
    if calibrated:
        detector.calibrate_embeddings(unit(30, seed=31))
    return detector


def _fresh(method: str, calibrated: bool = False) -> Detector:
    return copy.deepcopy(_used(method, calibrated))


def _loaded(detector: Detector, state: Any) -> bool:
    detector.load_state_dict(state)
    return True


def _works(detector: Detector) -> None:
    """All that a detector must still be able to do."""
    for seed in (1, 2):
        z = unit(9, seed=40 + seed)
        all_finite(detector.score(z), "a score")
        all_finite(detector(z), "a score")
        detector.explain(z, k=2)
    threshold = detector.threshold
    if threshold is not None:
        if not (isinstance(threshold, float) and threshold == threshold):
            raise Broken(f"the threshold is {threshold!r}")
        detector.predict(unit(2))
    for compact in (False, True):
        other = copy.deepcopy(detector)
        other.load_state_dict(detector.state_dict(compact=compact))
    detector.relabelled(bank(labels=4))(unit(3))
    detector.reset()
    all_finite(detector(unit(4)), "a score after reset")


def calls(data: DataObject, watch: Watch) -> None:
    """Verbs of every detector, with something else than embeddings."""
    method = data.draw(st.sampled_from(list(MAKERS)))
    detector = _fresh(method, data.draw(st.booleans()))
    verb = data.draw(st.sampled_from(sorted(_VERBS)))
    drawn = [data.draw(kind()) for kind in _VERBS[verb][0]]
    what = f"{method}: {verb} with {drawn}"
    result = watch.call(what, lambda: _VERBS[verb][1](detector, *(each.value for each in drawn)), [detector])
    if result is not None:
        if isinstance(result, torch.Tensor) and result.is_floating_point():
            watch.works(what, lambda: all_finite(result, "a score"))
        watch.works(what, lambda: _works(detector))


_VERBS: dict[str, tuple[tuple[Callable[[], Any], ...], Callable[..., Any]]] = {
    "call": ((anything,), lambda d, z: d(z)),
    "call with source": ((anything,), lambda d, source: d(unit(3), source=source)),
    "score": ((anything,), lambda d, z: d.score(z)),
    "predict": ((rows,), lambda d, z: d.predict(z)),
    "explain": ((rows, scalars), lambda d, z, k: d.explain(z, k)),
    "explain k": ((anything,), lambda d, k: d.explain(unit(3), k)),
    "explain with index": ((anything,), lambda d, index: d.explain(unit(3), 2, index=index)),
    "calibrate": ((anything,), lambda d, scores: d.calibrate(scores)),
    "calibrate to tpr": ((anything,), lambda d, tpr: d.calibrate(torch.linspace(0, 1, 40), tpr)),
    "calibrate_embeddings": ((rows, scalars), lambda d, z, tpr: d.calibrate_embeddings(z, tpr)),
    "calibrate_embeddings to tpr": ((anything,), lambda d, tpr: d.calibrate_embeddings(unit(40), tpr)),
    "calibrate_unlabelled": ((anything,), lambda d, scores: d.calibrate_unlabelled(scores)),
    "relabelled": ((anything,), lambda d, bank: d.relabelled(bank)),
    "load_state_dict": ((anything,), _loaded),
}


def states(data: DataObject, watch: Watch) -> None:
    """Saved states with something changed in them."""
    method = data.draw(st.sampled_from(list(MAKERS)))
    used = _used(method, data.draw(st.booleans()))
    compact = data.draw(st.booleans())
    said, state = data.draw(changed_states(used.state_dict(compact=compact)))
    detector = data.draw(st.sampled_from([_fresh(method), MAKERS[method](bank())]))
    what = f"{method}, {'compact' if compact else 'full'}: {said}"
    if watch.call(what, partial(_loaded, detector, state), [detector]):
        watch.works(what, lambda: _works(detector))


def states_of_others(data: DataObject, watch: Watch) -> None:
    """States and labels of other detectors, settings and banks."""
    methods = st.sampled_from(list(MAKERS))
    theirs, ours = data.draw(methods), data.draw(methods)
    other = data.draw(st.sampled_from([bank(), bank(2), bank(labels=4), bank(dim=D + 1)]))
    detector = _fresh(ours)
    what = f"{ours} from {theirs} over {other!r}"
    if data.draw(st.booleans()):
        relabelled = watch.call(f"relabelled: {what}", lambda: detector.relabelled(other), [detector])
        if relabelled is not None:
            watch.works(what, lambda: all_finite(relabelled(unit(3)), "a score"))
        return
    state = MAKERS[theirs](other).state_dict(compact=data.draw(st.booleans()))
    if watch.call(what, partial(_loaded, detector, state), [detector]):
        watch.works(what, lambda: _works(detector))


_SETTINGS: dict[type[Detector], tuple[str, ...]] = {
    NegLabel: ("num_negatives", "groups", "seed"),
    CSP: ("share", "groups", "seed"),
    GLMCM: ("weight",),
    AdaNeg: (
        *("num_negatives", "groups", "memory_length", "lambda_value", "memory_threshold", "gap", "seed"),
    ),
    TANL: (
        *("num_selected", "step", "gap", "alpha", "capacity", "seed", "initial_ood", "activation", "memory"),
        "candidates",
    ),
}


def settings(data: DataObject, watch: Watch) -> None:
    """Detectors made with settings of any kind."""
    kind = data.draw(st.sampled_from(list(_SETTINGS)))
    names = data.draw(st.lists(st.sampled_from(_SETTINGS[kind]), min_size=1, max_size=2, unique=True))
    drawn = {name: data.draw(anything()) for name in names}
    what = f"{kind.__name__} with {drawn}"
    small = {"num_negatives": 30, "groups": 3} if kind in (NegLabel, AdaNeg) else {}
    detector = watch.call(
        what, lambda: kind(bank(), **{**small, **{name: each.value for name, each in drawn.items()}})
    )
    if detector is not None and kind is not GLMCM:
        watch.works(what, lambda: _works(detector))


def local_features(data: DataObject, watch: Watch) -> None:
    """GL-MCM's patches."""
    drawn = data.draw(anything())
    detector = GLMCM(bank())
    scores = watch.call(
        f"GLMCM: local = {drawn}", lambda: detector.score(unit(3), local=drawn.value), [detector]
    )
    if scores is not None:
        watch.works(f"GLMCM: local = {drawn}", lambda: all_finite(scores, "a score"))


def metrics(data: DataObject, watch: Watch) -> None:
    """Scores and labels for the metrics."""
    scores, labels = data.draw(anything()), data.draw(anything())
    gathered = OODMetrics()
    gathered.update([0.1, 0.9], [0, -1])
    before = gathered.compute()
    what = f"metrics of {scores} and {labels}"
    if watch.call(what, _done(gathered.update, scores, labels)):
        watch.works(what, gathered.compute)
    elif gathered.compute() != before:
        watch.works(what, lambda: _raise(Broken("a refused update changed the metrics")))
    watch.call(f"merge of {scores}", _done(gathered.merge_state, scores))


def indices(data: DataObject, watch: Watch) -> None:
    """Label indices: made, searched."""
    drawn = data.draw(anything())
    k = data.draw(anything())
    index = LabelIndex([f"word {i}" for i in range(60)], unit(60, seed=1))
    watch.call(f"search {drawn} for 2", lambda: index.search(drawn.value, 2))
    watch.call(f"search for {k}", lambda: index.search(unit(3), k.value))
    watch.call(f"index of {drawn}", lambda: LabelIndex(["a", "b", "c"], drawn.value))
    watch.call(f"index with probe {k}", lambda: LabelIndex(["a", "b", "c"], unit(3), probe=k.value))
    watch.call(f"index with seed {k}", lambda: LabelIndex(["a", "b", "c"], unit(3), seed=k.value))
    watch.call(f"index of kind {k}", lambda: LabelIndex(["a", "b", "c"], unit(3), kind=k.value))
    watch.call(f"index of the labels {k}", lambda: LabelIndex.of(k.value))


def _done(function: Callable[..., object], *values: Named) -> Callable[[], bool]:
    """Calls it; gives True, as what it does gives nothing."""

    def call() -> bool:
        function(*(each.value for each in values))
        return True

    return call


def _raise(error: Exception) -> None:
    raise error


AREAS = {
    "detectors' calls": calls,
    "states, changed": states,
    "states of others": states_of_others,
    "detectors' settings": settings,
    "patches": local_features,
    "metrics": metrics,
    "label indices": indices,
}
