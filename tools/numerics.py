"""``python -m tools numerics``: every method's scores against its formula in float64, from the smallest to the largest.

A method chooses (labels that are selected, images that are remembered), and what is nearly equal may be chosen either
way in float32. So two things are held: what was chosen is the best up to the tolerance, and the score is the formula's
for that choice. Both are relative: logits of float32 are off by a few units of rounding of the logit scale, and a share
W / (I + W) by as much of itself, however small it is.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import product as combinations
from unittest.mock import patch

import torch
from torch import Tensor
from torch.nn.functional import normalize
from tqdm import tqdm

from tanl import kernels
from tanl.benchmarks.output.targets import add_json_option, check_targets, write_json
from tanl.detectors import CSP, MCM, TANL, AdaNeg, Detector, Energy, MaxLogit, NegLabel
from tanl.detectors.neglabel import chosen as candidates
from tanl.labels.bank import LabelBank

ROUNDING = 6e-7
"""Of a logit, in units of the largest of 1 and the logit scale: what float32 products of unit rows are off by, and the
sums of their exponentials. It holds for labels of float32 and of float16, which are brought to float32 first."""
IMAGE_ROUNDING = {torch.float64: 1.2e-7, torch.float32: 0.0, torch.float16: 0.0}
"""What is added for images that are rounded to float32 first, by the dtype that they come as."""
SMALLEST = 1e-30
"""Shares below this may be anything below it: exponentials of float32 end at 1e-38."""
LOST = 1e-6
"""Of one activation: what a ring's mean may be off by, as its front block's sum is less that of evicted rows."""

KINDS = ("spread", "tied", "identical", "all identical")
METHODS = ("MCM", "MaxLogit", "Energy", "NegLabel", "CSP", "AdaNeg", "TANL (paper)", "TANL (practice)")
BACKENDS = ("reference", "native")
_DIM = 48
_ROWS = 512  # images at a time in float64


@dataclass(frozen=True)
class Case:
    """One size of everything.

    Attributes:
        scale: logit scale.
        num_id: C.
        negatives: M.
        selected: K, TANL's; at most M.
        batch: B.
        kind: "spread"; "tied": every label and every image is there twice; "identical": all images are one; "all
            identical": and all labels another.
        labels: dtype of the labels.
        images: dtype of the images.
    """

    scale: float = 100.0
    num_id: int = 12
    negatives: int = 1003
    selected: int = 100
    batch: int = 63
    kind: str = "spread"
    labels: torch.dtype = torch.float32
    images: torch.dtype = torch.float32

    @property
    def tolerance(self) -> float:
        """Of a score relative to itself, or of a logit."""
        return (ROUNDING + IMAGE_ROUNDING[self.images]) * max(1.0, self.scale)

    def __str__(self) -> str:
        kinds = "/".join(str(dtype).removeprefix("torch.") for dtype in (self.labels, self.images))
        return (
            f"scale {self.scale:g}, C {self.num_id}, M {self.negatives}, K {self.selected}, B {self.batch}, "
            f"{self.kind}, {kinds}"
        )


def grid() -> list[Case]:
    """All sizes together, those that mean the same once."""
    sizes = combinations(
        (1.0, 30.0, 100.0, 1000.0), (1, 12, 20_000), (1, 100, 3000), (1, 63, 4096), KINDS, (False, True)
    )
    return [
        Case(
            scale,
            num_id,
            3000,
            selected,
            batch,
            kind,
            torch.float16 if half else torch.float32,
            torch.float64 if half else torch.float32,
        )
        for scale, num_id, selected, batch, kind, half in sizes
    ]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the command's options."""
    parser.add_argument("--every", metavar="N", type=int, default=1, help="one case in N (default: all)")
    add_json_option(parser)


def main(arguments: argparse.Namespace) -> int:
    """Run the grid and print the largest deviation of each method, in units of what is allowed."""
    check_targets(arguments.json)
    cases = grid()[:: arguments.every]
    worst: dict[tuple[str, str], tuple[float, Case]] = {}
    for backend in (name for name in BACKENDS if name in kernels.available()):
        for case in tqdm(cases, unit="case", desc=backend, disable=None):
            for method, deviation in deviations(case, backend).items():
                key = (method, backend)
                worst[key] = max(worst.get(key, (-1.0, case)), (deviation, case), key=lambda pair: pair[0])
    print(f"{len(cases)} cases; largest deviation, as a share of what is allowed")
    for (method, backend), (deviation, case) in sorted(worst.items()):
        print(f"{method:16}{backend:12}{deviation:8.3f}   {case}")
    if arguments.json is not None:
        found = [
            {"method": method, "kernels": backend, "share of what is allowed": deviation, "case": str(case)}
            for (method, backend), (deviation, case) in sorted(worst.items())
        ]
        write_json(arguments.json, {"torch": torch.__version__, "cases": len(cases), "found": found})
    return 1 if any(not deviation <= 1 for deviation, _ in worst.values()) else 0


def deviations(case: Case, backend: str, methods: tuple[str, ...] = METHODS) -> dict[str, float]:
    """The largest deviation of each method that takes the case, as a share of what is allowed; above 1 is a fault.

    Args:
        case: the sizes.
        backend: of the kernels.
        methods: of `METHODS`.

    Raises:
        AssertionError: something is not finite, out of its range, or not the same when it is done again.
    """
    bank, noise, batches = _world(case)
    found = {}
    with patch.dict(os.environ, {"TANL_KERNELS": backend}):
        for method in methods:
            if method == "MCM" and case.num_id < 2:
                continue  # one label has probability 1 whatever comes
            detector, again = (_detector(method, case, bank, noise) for _ in range(2))
            found[method] = _deviation(case, detector, again, batches)
    return found


def _deviation(case: Case, detector: Detector, again: Detector, batches: list[Tensor]) -> float:
    worst = 0.0
    start = _rings(detector) if isinstance(detector, TANL) else None
    for z in batches:
        before = _rings(detector) if isinstance(detector, TANL) else None
        pure = detector.score(z)
        with _choices() as chosen:
            scores = detector(z)
        assert torch.equal(pure, scores), "score is not what the call gives"
        assert torch.equal(again(z), scores), "the same stream has other scores"
        assert detector.threshold == again.threshold, "the same stream has another threshold"
        assert bool(scores.isfinite().all()), "a score is not finite"
        x = z.double()
        if isinstance(detector, TANL):
            assert start is not None
            assert before is not None
            worst = max(worst, *_of_tanl(case, detector, start, before, x, scores, chosen))
        else:
            worst = max(worst, _off(scores, *_exact(case, detector, x)))
        for row, evidence in zip(x[:5], detector.explain(z[:5]), strict=True):
            assert all(0 <= item.probability <= 1 for item in evidence), "no probability"
            worst = max(worst, _off_evidence(case, detector, row, [item.probability for item in evidence]))
    return worst


def _detector(method: str, case: Case, bank: LabelBank, noise: Tensor) -> Detector:
    groups = min(5, bank.num_negatives)
    if method == "NegLabel":
        return NegLabel(bank, num_negatives=max(groups, 2 * bank.num_negatives // 3), groups=groups)
    if method == "CSP":
        return CSP(bank, share=1.0, groups=groups)
    if method == "AdaNeg":
        return AdaNeg(bank, num_negatives=None, groups=groups, gap=0.2, memory_length=4)
    if method == "TANL (paper)":
        return TANL(bank, **{**TANL.preset("paper"), "num_selected": case.selected}, initial_ood=noise)
    if method == "TANL (practice)":
        settings = {
            **TANL.preset("practice"),
            "num_selected": case.selected,
            "candidates": max(1, 2 * bank.num_negatives // 3),
        }
        return TANL(bank, **settings, initial_ood=noise)
    if method == "MCM":
        return MCM(bank, temperature=1 / case.scale)
    return {"MaxLogit": MaxLogit, "Energy": Energy}[method](bank)


def _world(case: Case) -> tuple[LabelBank, Tensor, list[Tensor]]:
    """Labels, known outliers ``[15, D]``, and three batches, of which the second has one image."""
    generator = torch.Generator().manual_seed(case.num_id + case.negatives + case.batch)

    def drawn(count: int) -> Tensor:
        return normalize(torch.randn(count, _DIM, generator=generator), dim=1)

    def twice(rows: Tensor) -> Tensor:
        return rows[torch.arange(len(rows)) // 2 * 2]

    labels, noise = drawn(case.num_id + case.negatives), drawn(15)
    images = [drawn(case.batch), drawn(1), drawn(case.batch)]
    for rows in images:  # the middle of the range, both of its ends, and what is near a label
        near = labels[torch.randint(len(labels), (len(rows) // 2,), generator=generator)]
        rows[: len(near)] = normalize(near + 0.5 * rows[: len(near)], dim=1)
        rows[:1] = labels[0]
        rows[1:2] = -labels[-1]
    if case.kind == "tied":
        labels, noise, images = twice(labels), twice(noise), [twice(rows) for rows in images]
    elif case.kind != "spread":
        images = [images[0][:1].expand(len(rows), -1) for rows in images]
        noise = noise[:1].expand(15, -1)
        if case.kind == "all identical":
            labels = drawn(1).expand(len(labels), -1)
    names = [f"class {i}" for i in range(case.num_id)] + [
        f"word {i} thing" if i % 3 == 0 else f"word {i}" for i in range(case.negatives)
    ]
    bank = LabelBank(names, labels.contiguous(), num_id=case.num_id, logit_scale=case.scale)
    bank = bank.to(dtype=case.labels) if case.labels != torch.float32 else bank
    return bank, noise.contiguous(), [rows.to(case.images).contiguous() for rows in images]


# --- the formulas -------------------------------------------------------------------------------------------


def _exact(case: Case, detector: Detector, z: Tensor) -> tuple[Tensor, Tensor]:
    """The scores of a method without choices, ``[B]`` float64, and what each may be off by."""
    bank = detector.bank
    ids = bank.embeddings[: bank.num_id].double()
    parts = []
    for rows in torch.split(z, _ROWS):
        logits = bank.logit_scale * rows @ ids.T
        if isinstance(detector, MCM):
            cosines = case.scale * rows @ ids.T
            best = cosines.max(dim=1, keepdim=True)
            others = (cosines - best.values).scatter(1, best.indices, -torch.inf).logsumexp(dim=1)
            parts.append(others.sigmoid())
        elif isinstance(detector, MaxLogit):
            parts.append(-logits.amax(dim=1))
        elif isinstance(detector, Energy):
            parts.append(-logits.logsumexp(dim=1))
        else:
            parts.append(_grouped(detector, rows))
    exact = torch.cat(parts)
    if isinstance(detector, MaxLogit | Energy):
        return exact, torch.full_like(exact, case.tolerance)
    return exact, _allowed(exact, case.tolerance)


def _allowed(share: Tensor, tolerance: float) -> Tensor:
    return 2 * tolerance * share + SMALLEST


def _grouped(detector: Detector, z: Tensor) -> Tensor:
    """NegLabel's share, and AdaNeg's two."""
    assert isinstance(detector, NegLabel | CSP | AdaNeg)
    bank = detector.bank
    place = {name: row for row, name in enumerate(bank.names)}
    rows = [place[name] for name in detector.selected]
    ids, negatives = bank.embeddings[: bank.num_id].double(), bank.embeddings[rows].double()
    share = _share_of_groups(z, ids, negatives, bank.logit_scale, detector.groups)
    if not isinstance(detector, AdaNeg):
        return share
    memory, texts = detector.state_dict()["memory"], torch.cat([ids, negatives])
    for label, images in zip(
        memory["labels"].tolist(), memory["rows"].split(memory["counts"].tolist()), strict=True
    ):
        texts[label] = normalize(texts[label] + images.double().sum(dim=0), dim=0).to(bank.dtype).double()
    adapted = _share_of_groups(z, texts[: len(ids)], texts[len(ids) :], bank.logit_scale, detector.groups)
    return adapted + detector.lambda_value * share


def _share_of_groups(z: Tensor, ids: Tensor, negatives: Tensor, scale: float, groups: int) -> Tensor:
    id_lse = (scale * z @ ids.T).logsumexp(dim=1, keepdim=True)
    size = len(negatives) // groups
    logits = scale * z @ negatives[: groups * size].T
    return (logits.view(len(z), groups, size).logsumexp(dim=2) - id_lse).sigmoid().mean(dim=1)


def _prefix_share(detector: TANL, z: Tensor, negatives: Tensor) -> Tensor:
    """TANL's score of rows with negatives in that order, ``[B]`` float64."""
    bank, step, count = detector.bank, detector.step, len(negatives)
    ends = [*range(step - 1, count - 1, step), count - 1] if step else [count - 1]
    parts = []
    for rows in torch.split(z, _ROWS):
        id_lse = (bank.logit_scale * rows @ bank.embeddings[: bank.num_id].double().T).logsumexp(dim=1)
        prefixes = (bank.logit_scale * rows @ negatives.T).logcumsumexp(dim=1)[:, ends]
        if detector.weighing == "balanced":
            prefixes = prefixes + (bank.num_id / (torch.tensor(ends).double() + 1)).log()
        parts.append((prefixes - id_lse[:, None]).sigmoid().mean(dim=1))
    return torch.cat(parts)


# --- TANL ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Rings:
    """Embeddings of both rings, and how many images each has admitted."""

    positive: Tensor
    negative: Tensor
    admitted: tuple[int, int]


def _rings(detector: TANL) -> _Rings:
    state = detector.state
    return _Rings(
        state.positive.embeddings.clone(),
        state.negative.embeddings.clone(),
        (state.admitted_id, state.admitted_ood),
    )


@contextmanager
def _choices() -> Iterator[list[Tensor]]:
    """What `kernels.stable_topk` chooses meanwhile."""
    chosen: list[Tensor] = []
    original = kernels.stable_topk

    def spied(values: Tensor, k: int) -> Tensor:
        result = original(values, k)
        chosen.append(result)
        return result

    with patch.object(kernels, "stable_topk", spied):
        yield chosen


def _of_tanl(
    case: Case,
    detector: TANL,
    start: _Rings,
    before: _Rings,
    z: Tensor,
    scores: Tensor,
    chosen: list[Tensor],
) -> Iterator[float]:
    """The deviations of a step: what was chosen, what was scored, what is remembered."""
    bank, state = detector.bank, detector.state
    labels = candidates(bank, detector.candidates)
    negatives = labels.negative_embeddings.double()
    guarded = detector.memory != "published"

    def mean(rows: Tensor, of_start: Tensor, admitted: int) -> Tensor:
        own = _mean_activation(labels, rows)
        if not guarded:
            return own
        count, prior = min(admitted, detector.capacity), 50
        return (count * own + prior * _mean_activation(labels, of_start)) / (count + prior)

    means = [
        mean(before.positive, start.positive, before.admitted[0]),
        mean(before.negative, start.negative, before.admitted[1]),
    ]
    first, final = chosen[0], chosen[1]
    yield _off_choice(case, first, means[1] - means[0], detector.num_selected)
    exact = 1 - _prefix_share(detector, z, negatives[first])
    yield _off(state.history[-len(z) :], exact, torch.full_like(exact, 2 * case.tolerance))

    for side, (ring, count, earlier) in enumerate(
        [
            (state.positive, state.admitted_id, before.admitted[0]),
            (state.negative, state.admitted_ood, before.admitted[1]),
        ]
    ):
        exact = _mean_activation(labels, ring.embeddings)
        yield _off(ring.mean, exact, 2 * case.tolerance * exact + LOST / max(1, len(ring)))
        new = ring.embeddings[-(count - earlier) :] if count > earlier else None
        if new is not None and count - earlier > detector.capacity:
            return  # more than the ring holds went through it: what the final choice was made of is gone
        if new is not None:
            means[side] = detector.alpha * means[side] + (1 - detector.alpha) * _mean_activation(labels, new)
    yield _off_choice(case, final, means[1] - means[0], detector.num_selected)
    exact = _prefix_share(detector, z, negatives[final])
    yield _off(scores, exact, _allowed(exact, case.tolerance))


def _mean_activation(labels: LabelBank, rows: Tensor) -> Tensor:
    """Mean activation of the negatives, ``[M]`` float64; zeros of no rows."""
    total = torch.zeros(labels.num_negatives, dtype=torch.float64)
    every = labels.embeddings.double()
    for part in torch.split(rows.double(), 100):
        total += (labels.logit_scale * part @ every.T).softmax(dim=1)[:, labels.num_id :].sum(dim=0)
    return total / max(1, len(rows))


def _off_choice(case: Case, chosen: Tensor, relevance: Tensor, count: int) -> float:
    """How far a choice is from the largest of these values, in order, in units of what is allowed."""
    assert len({*chosen.tolist()}) == len(chosen) == min(count, len(relevance)), (
        "not so many different labels"
    )
    allowed = 4 * case.tolerance * relevance.abs().max() + LOST / 10
    values = relevance[chosen]
    rest = torch.ones(len(relevance), dtype=torch.bool)
    rest[chosen] = False
    wrong = values.diff().clamp(min=0).max() if len(values) > 1 else torch.zeros(())
    if bool(rest.any()):
        wrong = torch.maximum(wrong, relevance[rest].max() - values.min())
    return float(wrong / allowed)


# --- deviations ---------------------------------------------------------------------------------------------


def _off(found: Tensor, exact: Tensor, allowed: Tensor) -> float:
    """The largest deviation, in units of what is allowed."""
    return float(((found.double() - exact).abs() / allowed).max())


def _off_evidence(case: Case, detector: Detector, row: Tensor, found: list[float]) -> float:
    """The same of an image's evidence: the largest probabilities of its negatives."""
    if not found:
        return 0.0
    bank = detector.bank
    place = {name: number for number, name in enumerate(bank.names)}
    used = bank.embeddings[[*range(bank.num_id), *(place[name] for name in detector.selected)]].double()
    exact = (bank.logit_scale * used @ row).softmax(dim=0)[bank.num_id :].sort(descending=True).values
    exact = exact[: len(found)]
    return _off(torch.tensor(found), exact, _allowed(exact, case.tolerance))
