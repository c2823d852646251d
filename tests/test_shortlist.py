"""ShortlistActivation against exact sums, over mapped and edited labels; what it saves and refuses."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from test_approximate import structured
from torch import Tensor
from torch.nn.functional import normalize

import tanl
from conftest import unit
from tanl.detectors.shortlist import ShortlistActivation, representatives_of
from tanl.functional import activation_sums
from tanl.labels.index import LabelIndex

NUM_ID = 50


@pytest.fixture(scope="module")
def data() -> tuple[tanl.LabelBank, Tensor, Tensor]:
    bank, id_images, ood_images = structured(6003)
    order = torch.randperm(120, generator=torch.Generator().manual_seed(0))
    return bank, torch.cat([id_images, ood_images])[order], ood_images


@pytest.fixture(scope="module")
def index(data: Any) -> LabelIndex:
    return LabelIndex.of(data[0], kind="flat")


def detectors(data: Any, index: LabelIndex, **settings: Any) -> tuple[tanl.TANL, tanl.TANL]:
    """An exact one and one with a short list."""
    bank, _, outliers = data
    given = {"candidates": 400, "size": 2000, "sample": 6000, **settings}
    common = {"num_selected": 100, "initial_ood": outliers[:9], "capacity": 47}
    short = ShortlistActivation(bank, index, **given)
    return tanl.TANL(bank, **common), tanl.TANL(bank, activation=short, **common)


def equal(one: Any, other: Any) -> bool:
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(equal(one[key], other[key]) for key in one)
    return bool(torch.equal(one, other)) if isinstance(one, Tensor) else bool(one == other)


@pytest.mark.parametrize("batch", [1, 31, 120])
def test_with_all_labels_on_the_list_it_is_exact(data: Any, index: LabelIndex, batch: int) -> None:
    exact, short = detectors(data, index, candidates=10_000, size=10_000, sample=10_000)
    for z in torch.split(data[1][: 4 * batch], batch):
        torch.testing.assert_close(short(z), exact(z), atol=2e-6, rtol=1e-4)
        assert set(short.negatives()[0]) == set(exact.negatives()[0])
    rows = short.state.activations.rows
    assert len(rows) == data[0].num_negatives
    mean = exact.state.negative.mean
    torch.testing.assert_close(short.state.negative.mean, mean[rows], atol=1e-8, rtol=1e-4)


@pytest.mark.parametrize(
    ("settings", "least"), [({}, 90), ({"sample": 600}, 85), ({"representatives": 4}, 80)]
)
def test_a_short_list_selects_nearly_the_same(
    data: Any, index: LabelIndex, settings: Any, least: int
) -> None:
    exact, short = detectors(data, index, **settings)
    for z in data[1].split(31):
        exact(z), short(z)
    same = set(short.negatives()[0]) & set(exact.negatives()[0])
    assert len(same) >= least
    assert len(short.state.activations.rows) <= 2000


def test_a_full_list_drops_the_least_relevant_and_never_the_first_choice(
    data: Any, index: LabelIndex
) -> None:
    _, short = detectors(data, index, size=700)
    start = set(short.negatives()[0])
    for z in data[1].split(17):
        short(z)
        names = short.state.bank.negative_names
        assert len(names) == len(set(names)) <= 700
        assert set(names[:100]) == start
        assert short.state.positive.mean.shape == (len(names),)


def test_sums_on_the_list_are_those_of_its_rows(data: Any, index: LabelIndex) -> None:
    """However labels came and went, the rings' means are what a list made anew has."""
    _, short = detectors(data, index, size=700)
    for z in data[1].split(13):
        short(z)
    state, listed = short.state, short.state.activations
    for ring in (state.positive, state.negative):
        rows = ring.embeddings
        anew = listed(rows.contiguous(), [(0, len(rows))], rows.new_zeros(0))[0][0] / len(rows)
        torch.testing.assert_close(ring.mean.float(), anew, atol=1e-9, rtol=1e-5)


def test_denominators_are_estimated_without_bias(data: Any, index: LabelIndex) -> None:
    bank, z, _ = data
    exact = (bank.logit_scale * z.double() @ bank.embeddings.double().T).logsumexp(dim=1)
    errors = []
    for seed in range(12):
        whole = ShortlistActivation(bank, index, sample=1500, seed=seed)
        errors.append((whole.denominators(z).double() - exact).exp())
    ratio = torch.stack(errors)
    assert abs(float(ratio.mean()) - 1) < 0.02
    assert float((ratio - 1).abs().mean()) < 0.3


def test_score_is_pure_and_a_state_goes_on_bit_for_bit(data: Any, index: LabelIndex) -> None:
    _, short = detectors(data, index)
    batches = data[1].split(31)
    short(batches[0])
    before = short.state_dict()
    assert torch.equal(short.score(batches[1]), short.score(batches[1]))
    assert equal(short.state_dict(), before)
    _, other = detectors(data, index)
    other.load_state_dict(before)
    twin = copy.deepcopy(short)
    for z in batches[1:]:
        scores = short(z)
        assert torch.equal(other(z), scores)
        assert torch.equal(twin(z), scores)
    assert equal(other.state_dict(), short.state_dict())
    short.reset()
    assert equal(short.state_dict(), detectors(data, index)[1].state_dict())


def test_a_compact_state_goes_on_up_to_rounding(data: Any, index: LabelIndex) -> None:
    _, short = detectors(data, index)
    _, other = detectors(data, index)
    batches = data[1].split(31)
    short(batches[0])
    other.load_state_dict(short.state_dict(compact=True))
    torch.testing.assert_close(other(batches[1]), short(batches[1]), atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("change", ["none", "twice", "beyond", "struck"])
def test_unusable_lists_are_refused_and_nothing_changes(data: Any, index: LabelIndex, change: str) -> None:
    bank = data[0]
    name = bank.negative_names[17]
    edited = index.without([name])
    _, short = detectors(data, edited)
    state = short.state_dict()
    before = short.score(data[1][:9])
    rows = state["shortlist"]
    if change == "none":
        del state["shortlist"]
    else:
        rows[-1] = {"twice": int(rows[-2]), "beyond": len(index), "struck": 17}[change]
    with pytest.raises(ValueError, match=r"short ?list"):
        short.load_state_dict(state)
    assert torch.equal(short.score(data[1][:9]), before)


def test_labels_that_were_struck_out_are_neither_selected_nor_counted(data: Any, index: LabelIndex) -> None:
    bank, z, outliers = data
    gone = list(bank.negative_names[: 5953 // 2])
    kept = [*range(NUM_ID), *range(NUM_ID + len(gone), len(bank.names))]
    less = tanl.LabelBank(
        [bank.names[i] for i in kept], bank.embeddings[kept], num_id=NUM_ID, logit_scale=bank.logit_scale
    )
    ids = tanl.LabelBank(bank.id_names, bank.id_embeddings, num_id=NUM_ID, logit_scale=bank.logit_scale)
    all_of_it = {"candidates": 10_000, "size": 10_000, "sample": 10_000}
    common = {"num_selected": 100, "initial_ood": outliers[:9]}
    short = tanl.TANL(ids, activation=ShortlistActivation(ids, index.without(gone), **all_of_it), **common)
    exact = tanl.TANL(less, **common)
    for part in z.split(31):
        torch.testing.assert_close(short(part), exact(part), atol=2e-6, rtol=1e-4)
    assert not set(short.negatives()[0]) & set(gone)


def test_labels_that_came_later_are_selected(data: Any, index: LabelIndex) -> None:
    bank, z, outliers = data
    ids = tanl.LabelBank(bank.id_names, bank.id_embeddings, num_id=NUM_ID, logit_scale=bank.logit_scale)
    near = normalize(outliers[20:30], dim=1)
    more = index.extended([f"late {i}" for i in range(10)], near)
    whole = ShortlistActivation(ids, more, candidates=400, size=2000, sample=6000)
    short = tanl.TANL(ids, num_selected=100, initial_ood=outliers[:9], activation=whole)
    for part in z.split(31):
        short(part)
    assert sum(name.startswith("late") for name in short.negatives()[0]) >= 8


def test_a_mapped_bank_gives_the_same_as_one_in_memory(data: Any, tmp_path: Path) -> None:
    bank, z, outliers = data
    half = bank.to(dtype=torch.float16)
    path = tmp_path / "bank.safetensors"
    tanl.save_bank(half, path)
    mapped = tanl.load_bank(path, mmap=True).bank
    scores = []
    for own in (half, mapped):
        short = ShortlistActivation(
            own, LabelIndex.of(own, kind="flat"), candidates=400, size=2000, sample=500
        )
        detector = tanl.TANL(own, num_selected=100, initial_ood=outliers[:9], activation=short)
        scores.append(torch.cat([detector(part) for part in z.split(31)]))
    assert torch.equal(*scores)
    state = detector.state_dict()
    with path.open("r+b") as file:
        file.truncate(4096)
    with pytest.raises(OSError, match="was written to while it was mapped"):
        detector.load_state_dict(state)  # would read rows that are gone


@pytest.mark.parametrize(("rows", "count"), [(1, 16), (5, 5), (63, 16), (63, 1), (200, 7)])
def test_representatives_are_unit_rows_and_sum_up_groups(rows: int, count: int) -> None:
    centres = unit(count, 24, seed=1)
    z = normalize(centres[torch.arange(rows) % count] + 0.05 * unit(rows, 24, seed=2), dim=1)
    found = representatives_of(z, count)
    assert found.shape == (min(rows, count), 24)
    torch.testing.assert_close(torch.linalg.vector_norm(found, dim=1), torch.ones(len(found)))
    assert float((z @ found.T).amax(dim=1).min()) > 0.99
    assert torch.equal(representatives_of(z, count), found)
    assert representatives_of(z[:1].repeat(9, 1), 4).isfinite().all()


def test_without_known_outliers_it_starts_from_a_sample(data: Any, index: LabelIndex) -> None:
    bank = data[0]
    short = tanl.TANL(
        bank, num_selected=100, activation=ShortlistActivation(bank, index, sample=700, size=500)
    )
    assert len(short.state.activations.rows) == 500
    assert short(data[1][:9]).shape == (9,)


def test_refusals_name_what_is_wrong(data: Any, index: LabelIndex) -> None:
    bank = data[0]
    short = ShortlistActivation(bank, index)
    other = tanl.LabelBank(["a", "b"], unit(2, 64), num_id=1)
    cases: list[tuple[Any, str]] = [
        (lambda: ShortlistActivation(bank, index, size=0), "size must be at least 1"),
        (lambda: ShortlistActivation(bank, index, representatives=0), "representatives must be at least 1"),
        (lambda: ShortlistActivation(other, index), "is not an index of the 1 negatives"),
        (
            lambda: ShortlistActivation(bank, LabelIndex(["x"], unit(1, 15))),
            "has D = 15",
        ),
        (
            lambda: ShortlistActivation(
                tanl.LabelBank([bank.negative_names[3]], unit(1, 64), num_id=1), index
            ),
            "both ID label and negative: give index.without",
        ),
        (lambda: tanl.TANL(other, activation=short), "make one for this bank"),
        (lambda: tanl.TANL(bank, activation=short, memory="guarded"), 'give memory="published", or'),
        (lambda: tanl.TANL(bank, activation=short, **tanl.TANL.preset("practice")), 'memory="published"'),
        (
            lambda: tanl.TANL(bank, activation=short, candidates=99),
            "candidates=99 needs all labels at once: leave it out",
        ),
        (lambda: tanl.CapturedTANL(tanl.TANL(bank, activation=short), 8), "captured with activation='exact'"),
        (lambda: tanl.TANL(bank, activation=short).relabelled(bank), "make a new TANL with Short"),
    ]
    for call, message in cases:
        with pytest.raises(ValueError, match=message):
            call()
    with pytest.raises(TypeError, match="index must be a LabelIndex"):
        ShortlistActivation(bank, "index")  # type: ignore[arg-type]


def test_the_exact_sums_are_what_the_list_has_where_the_sample_is_all(data: Any, index: LabelIndex) -> None:
    bank, z, _ = data
    listed = ShortlistActivation(bank, index, sample=10_000).of_rows(torch.tensor([5, 2, 5952]))
    segments = [(0, 31), (7, 7), (60, 120)]
    expected, lse = activation_sums(z, bank.embeddings, bank.num_id, bank.logit_scale, segments)
    sums, own = listed(z, segments, z.new_zeros(0))
    torch.testing.assert_close(sums, expected[:, [5, 2, 5952]], atol=1e-7, rtol=1e-4)
    torch.testing.assert_close(own, lse, atol=1e-5, rtol=1e-5)
    again, rest = listed(z, segments, own[:9])
    assert torch.equal(again, sums)
    assert torch.equal(rest, own[9:])


def test_states_with_short_lists_merge(data: Any, index: LabelIndex) -> None:
    first, second = (detectors(data, index)[1] for _ in range(2))
    batches = data[1].split(31)
    first(batches[0]), second(batches[1])
    states = [each.state_dict(compact=True) for each in (first, second)]
    first.load_state_dict(tanl.TANL.merged(states))
    rows = [set(state["shortlist"].tolist()) for state in states]
    assert set(first.state.activations.rows.tolist()) == rows[0] | rows[1]
    assert first.state.images == 62
    assert first(batches[2]).shape == (31,)
