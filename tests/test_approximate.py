"""ApproximateActivation against the exact sums."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

import tanl
from conftest import unit
from tanl.detectors.approximate import ApproximateActivation
from tanl.functional import activation_sums
from tanl.kernels import reference
from tanl.labels.index import LabelIndex

pytest.importorskip("faiss")
SEGMENTS = [(0, 31), (31, 63), (5, 40), (63, 63), (62, 63)]


def structured(
    labels: int, dim: int = 64, num_id: int = 50, seed: int = 0
) -> tuple[tanl.LabelBank, Tensor, Tensor]:
    """Labels in clusters on a cone; ID and OOD images across a gap from them, the OOD images of few concepts."""
    generator = torch.Generator().manual_seed(seed)

    def directions(count: int) -> Tensor:
        return normalize(torch.randn(count, dim, generator=generator), dim=1)

    def pick(below: int, count: int) -> Tensor:
        return torch.randint(below, (count,), generator=generator)

    cone, gap = directions(2)
    centres = directions(labels // 50)
    concepts = 0.75 * centres[pick(len(centres), labels)] + 0.65 * directions(labels)

    def images(shown: Tensor) -> Tensor:
        return normalize(
            1.3 * gap + 0.3 * cone + 0.35 * concepts[shown] + 0.4 * directions(len(shown)), dim=1
        )

    few = num_id + pick(labels - num_id, 30)
    id_images, ood_images = images(pick(num_id, 60)), images(few[pick(30, 60)])
    texts = normalize(concepts + cone, dim=1)
    names = [f"label {i}" for i in range(labels)]
    return tanl.LabelBank(names, texts, num_id=num_id, logit_scale=30.0), id_images, ood_images


@pytest.fixture(scope="module")
def data() -> tuple[tanl.LabelBank, Tensor, Tensor]:
    return structured(6003)


@pytest.fixture(scope="module", params=["flat", "ivf"])
def index(request: pytest.FixtureRequest, data: Any) -> LabelIndex:
    return LabelIndex.of(data[0], kind=request.param)


def exact(bank: tanl.LabelBank, z: Tensor, segments: list[tuple[int, int]]) -> Tensor:
    return activation_sums(z, bank.embeddings, bank.num_id, bank.logit_scale, segments)[0]


@pytest.mark.parametrize("kind", ["flat", "ivf"])
@pytest.mark.parametrize("candidates", [96, 5000])
@pytest.mark.parametrize("sample", [1, 17, 4096])
def test_it_is_exact_where_all_labels_are_candidates(
    bank: tanl.LabelBank, kind: Any, candidates: int, sample: int
) -> None:
    bank = tanl.LabelBank(bank.names[:103], bank.embeddings[:103], num_id=7, logit_scale=20.0)
    z = unit(63, 16, seed=4)
    activations = ApproximateActivation(
        bank, LabelIndex.of(bank, kind=kind), candidates=candidates, sample=sample
    )
    torch.testing.assert_close(activations(z, SEGMENTS)[0], exact(bank, z, SEGMENTS), atol=1e-6, rtol=1e-5)
    assert activations.covered_mass == pytest.approx(1, abs=1e-9)


def test_the_rest_is_exact_where_the_sample_is_all_labels(data: Any) -> None:
    bank, images, _ = data
    activations = ApproximateActivation(bank, LabelIndex.of(bank, kind="flat"), candidates=100, sample=10_000)
    sums, expected = activations(images, [(0, 60)])[0], exact(bank, images, [(0, 60)])
    kept = sums > 0
    assert 100 <= int(kept.sum()) < bank.num_negatives
    # A label is a candidate of some rows only, so sums are equal for one row, and lower for several.
    assert bool((sums <= expected * (1 + 1e-5)).all())
    for row in images[:5]:
        one, wanted = activations(row[None], [(0, 1)])[0][0], exact(bank, row[None], [(0, 1)])[0]
        torch.testing.assert_close(one[one > 0], wanted[one > 0], atol=1e-7, rtol=1e-4)
        assert int((one > 0).sum()) == 100
        assert float(one[one > 0].min()) >= float(wanted[one == 0].max()) * (1 - 1e-5)


def test_the_estimated_denominator_is_close_and_has_no_bias(data: Any) -> None:
    bank, _, images = data
    z = images[:20]
    lse = reference.row_lse(z, bank.embeddings, bank.logit_scale)
    errors = []
    index = LabelIndex.of(bank, kind="flat")
    for seed in range(8):
        activations = ApproximateActivation(bank, index, candidates=200, sample=600, seed=seed)
        for i, row in enumerate(z):
            sums, estimated = activations(row[None], [(0, 1)])
            best = int(sums[0].argmax())
            logit = float(bank.logit_scale * row @ bank.negative_embeddings[best])
            errors.append(logit - float(sums[0, best].log()) - float(lse[i]))
            assert float(estimated) - float(lse[i]) == pytest.approx(errors[-1], abs=1e-4)
    error = torch.tensor(errors)
    assert float(error.abs().mean()) < 0.03
    assert float(error.abs().max()) < 0.2
    assert abs(float(error.exp().mean()) - 1) < 0.01


@pytest.mark.parametrize(("candidates", "least"), [(300, 0.85), (1500, 0.95)])
def test_the_selected_labels_are_nearly_those_of_the_exact_sums(
    data: Any, index: LabelIndex, candidates: int, least: float
) -> None:
    bank, id_images, ood_images = data
    z, segments = torch.cat([id_images, ood_images]), [(0, 60), (60, 120)]
    activations = ApproximateActivation(bank, index, candidates=candidates, sample=1000)
    chosen = [
        set((sums[1] - sums[0]).topk(300).indices.tolist())
        for sums in (activations(z, segments)[0], exact(bank, z, segments))
    ]
    assert len(chosen[0] & chosen[1]) / 300 >= least


def test_covered_mass_is_what_exact_sums_give_the_candidates(data: Any) -> None:
    bank, images, _ = data
    activations = ApproximateActivation(bank, LabelIndex.of(bank, kind="flat"), candidates=200, sample=10_000)
    assert activations.covered_mass is None
    assert activations.mean_covered_mass is None
    activations(images[:40], [(0, 40)])
    first = activations.covered_mass
    logits = bank.logit_scale * images.double() @ bank.embeddings.double().T
    shares = logits.softmax(dim=1)
    covered = shares[:, : bank.num_id].sum(1) + shares[:, bank.num_id :].topk(200).values.sum(1)
    assert first == pytest.approx(float(covered[:40].mean()), abs=1e-4)
    assert 0 < float(covered.min()) < 0.95
    activations(images[40:], [(0, 20)])
    assert activations.covered_mass == pytest.approx(float(covered[40:].mean()), abs=1e-4)
    assert activations.mean_covered_mass == pytest.approx(float(covered.mean()), abs=1e-4)


@pytest.mark.parametrize("candidates", [1, 7, 100])
def test_covered_mass_is_a_share(data: Any, index: LabelIndex, candidates: int) -> None:
    bank, id_images, _ = data
    activations = ApproximateActivation(bank, index, candidates=candidates, sample=64)
    sums, lse = activations(id_images, [(0, 60)])
    assert lse.shape == (60,)
    assert activations.covered_mass is not None
    assert 0 < activations.covered_mass <= 1
    assert bool((sums >= 0).all())
    assert float(sums.sum()) <= 60


def test_a_row_has_the_same_bits_whatever_is_beside_it(data: Any, index: LabelIndex) -> None:
    bank, id_images, ood_images = data
    z = torch.cat([id_images, ood_images] * 3)[:333]  # over more than one block of rows
    activations = ApproximateActivation(bank, index, candidates=300, sample=500)
    each, lse = activations(z, [(i, i + 1) for i in range(len(z))])
    for rows in (slice(0, 1), slice(7, 70), slice(250, 270), slice(332, 333)):
        part = z[rows]
        found, rest = activations(part, [(i, i + 1) for i in range(len(part))], lse[rows][:1])
        assert torch.equal(found, each[rows])
        assert torch.equal(rest, lse[rows][1:])
    whole, _ = activations(z, [(10, 300)])
    again, _ = activations(z[3:301], [(7, 297)])
    assert torch.equal(whole, again)


def test_lists_that_hold_too_few_labels_leave_the_rest_to_the_sample(data: Any) -> None:
    bank, images, _ = data
    index = LabelIndex.of(bank, kind="ivf", probe=0.0)  # one list
    activations = ApproximateActivation(bank, index, candidates=2000, sample=10_000)
    for row in images[:5]:
        sums, expected = activations(row[None], [(0, 1)])[0][0], exact(bank, row[None], [(0, 1)])[0]
        assert 0 < int((sums > 0).sum()) < 2000
        torch.testing.assert_close(sums[sums > 0], expected[sums > 0], atol=1e-7, rtol=1e-4)


def test_half_precision_labels_give_what_their_float32_values_give(data: Any) -> None:
    bank, images, _ = data
    half = tanl.LabelBank(
        bank.names, bank.embeddings, num_id=bank.num_id, logit_scale=30.0, dtype=torch.float16
    )
    rounded = tanl.LabelBank(
        bank.names,
        normalize(half.embeddings.float(), dim=1),
        num_id=bank.num_id,
        logit_scale=bank.logit_scale,
    )
    one, other = (
        ApproximateActivation(each, candidates=500, sample=500)(images[:9], [(0, 9)])[0]
        for each in (half, rounded)
    )
    torch.testing.assert_close(one.sum(), other.sum(), atol=0, rtol=1e-2)


def test_the_sample_depends_on_the_seed_alone(data: Any, index: LabelIndex) -> None:
    bank, images, _ = data
    one, same, other = (
        ApproximateActivation(bank, index, candidates=50, sample=200, seed=seed)(images, [(0, 60)])[0]
        for seed in (1, 1, 2)
    )
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


@pytest.mark.parametrize("rows", [slice(1, None), slice(None, None, -1)], ids=["fewer", "another order"])
def test_an_index_of_other_labels_is_refused(data: Any, rows: slice) -> None:
    bank, _, _ = data
    order = list(range(bank.num_negatives))[rows]
    index = LabelIndex(bank.negative_names[rows], bank.negative_embeddings[order], kind="flat")
    with pytest.raises(ValueError, match="not an index of the 5953 negatives"):
        ApproximateActivation(bank, index)


def test_an_index_with_other_embeddings_is_refused(data: Any) -> None:
    bank, _, _ = data
    index = LabelIndex(bank.negative_names, unit(bank.num_negatives, 64, seed=3))
    with pytest.raises(ValueError, match="has other embeddings"):
        ApproximateActivation(bank, index)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"candidates": 0}, "candidates must be at least 1, not 0"),
        ({"sample": 0}, "sample must be at least 1, not 0"),
        ({"seed": -1}, "seed must be at least 0, not -1"),
    ],
)
def test_unusable_settings_are_refused(bank: tanl.LabelBank, settings: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ApproximateActivation(bank, **settings)


def test_rows_and_segments_are_checked(bank: tanl.LabelBank) -> None:
    activations = ApproximateActivation(bank)
    with pytest.raises(ValueError, match=r"the segment \(2, 6\) is no range of the 5 rows"):
        activations(unit(5, 16), [(0, 5), (2, 6)])
    with pytest.raises(ValueError, match="D = 15"):
        activations(unit(5, 15), [(0, 5)])
    assert activations.covered_mass is None
    bare = tanl.LabelBank(bank.id_names, bank.id_embeddings, num_id=bank.num_id)
    with pytest.raises(ValueError, match="no negative labels"):
        ApproximateActivation(bare)
    with pytest.raises(TypeError, match="bank must be a LabelBank, not Tensor"):
        ApproximateActivation(bank.embeddings)  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", ["flat", "ivf"])
def test_a_stream_judged_with_it_agrees_with_the_exact_one_and_resumes_bit_for_bit(
    data: Any, kind: Any
) -> None:
    bank, id_images, ood_images = data
    activations = ApproximateActivation(bank, LabelIndex.of(bank, kind=kind), candidates=1500, sample=1000)
    settings: dict[str, Any] = {"num_selected": 300, "capacity": 50, "initial_ood": ood_images[:5]}
    exactly = tanl.TANL(bank, **settings)
    detector, resumed = (tanl.TANL(bank, activation=activations, **settings) for _ in range(2))
    images = torch.cat([id_images, ood_images])[
        torch.randperm(120, generator=torch.Generator().manual_seed(1))
    ]
    for batch in images[:60].split(20):
        detector(batch)
        exactly(batch)
    resumed.load_state_dict(detector.state_dict())
    for batch in images[60:].split(13):
        scores = detector(batch)
        assert torch.equal(resumed(batch), scores)
        torch.testing.assert_close(scores, exactly(batch), atol=0.02, rtol=0)
    common = set(detector.selected) & set(exactly.selected)
    assert len(common) / 300 >= 0.95
