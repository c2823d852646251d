"""The formulas against the same formulas written naively."""

import math
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from conftest import unit
from tanl import functional as f


def naive_negative_share(id_logits, negative_logits, step):
    ids = id_logits.double().exp().sum(1)
    prefixes = [negative_logits.shape[1]]
    if step:
        prefixes = sorted({*range(step, negative_logits.shape[1] + 1, step), negative_logits.shape[1]})
    shares = [negative_logits[:, :m].double().exp().sum(1) for m in prefixes]
    return torch.stack([w / (ids + w) for w in shares]).mean(0).float()


@pytest.mark.parametrize("step", [0, 1, 2, 7, 100, 101, 500])
@pytest.mark.parametrize("k", [1, 6, 101])
def test_negative_share_is_the_mean_over_prefixes(k, step):
    id_logits, negative_logits = 5 * unit(4, 9, seed=k), 9 * unit(4, k, seed=step)
    expected = naive_negative_share(id_logits, negative_logits, step)
    torch.testing.assert_close(
        f.negative_share(id_logits, negative_logits, step), expected, atol=1e-6, rtol=1e-5
    )


@pytest.mark.parametrize("step", [0, 1])
def test_negative_share_keeps_tiny_scores_and_survives_extreme_logits(step):
    certain = f.negative_share(torch.tensor([[100.0]]), torch.tensor([[40.0, 20.0]]), step)
    assert certain.item() == pytest.approx(math.exp(-60), rel=1e-3)
    lost = f.negative_share(torch.tensor([[-100.0]]), torch.full((1, 1000), 100.0), step)
    assert lost.item() == 1.0


def published_half(z, ids, negatives, scale, step):
    """The published activation-aware score of float16 tensors, label by label in float64, rounded where it rounds."""

    def half(values):
        return values.to(torch.float16).double()

    z, ids, negatives = half(z), half(ids), half(negatives)
    logits = half(half(z * scale) @ torch.cat([ids, negatives]).T)
    count = len(ids)
    ends = range(count, logits.shape[1], step) if step else [count]
    width = step or logits.shape[1]
    shares = [half(half(logits[:, : end + width].softmax(1))[:, :count].sum(1)) for end in ends]
    return half(torch.stack(shares, dim=1).mean(1))


@pytest.mark.parametrize("rows", [1, 63])
@pytest.mark.parametrize("step", [0, 1, 2, 7, 40, 41, 100])
def test_half_precision_share_rounds_where_the_published_code_does(rows, step, monkeypatch):
    z, ids, negatives = unit(rows, 16, seed=1), unit(9, 16, seed=2), unit(40, 16, seed=3)
    found = f.half_precision_share(z, ids, negatives, 20.0, step)
    assert found.dtype == torch.float32
    expected = 1 - published_half(z, ids, negatives, 20.0, step)
    torch.testing.assert_close(found, expected.float(), atol=2**-10, rtol=0)
    assert (
        float((found == expected.float()).float().mean()) > 0.7
    )  # the order of sums moves a last bit now and then
    assert torch.equal((1 - found).half().float(), 1 - found)  # a float16 number, and nothing finer
    exact = f.negative_share(20 * z @ ids.T, 20 * z @ negatives.T, step)
    torch.testing.assert_close(found, exact, atol=0.02, rtol=0)
    monkeypatch.setattr(f, "_HALF_AT_ONCE", 1)
    assert torch.equal(f.half_precision_share(z, ids, negatives, 20.0, step), found)


def test_half_precision_share_ties_what_float32_tells_apart():
    z, ids, negatives = unit(50, 16, seed=1), unit(3, 16, seed=2), -unit(3, 16, seed=2)
    sure = torch.cat([ids, torch.nn.functional.normalize(ids + 0.05 * z[:3], dim=1)])
    assert f.half_precision_share(sure, ids, negatives, 50.0, 1).unique().numel() == 1
    assert f.negative_share(50 * sure @ ids.T, 50 * sure @ negatives.T, 1).unique().numel() == 6


def test_mcm_is_one_minus_the_largest_probability():
    cosines = unit(5, 12)
    expected = 1 - cosines.double().softmax(1).max(1).values
    torch.testing.assert_close(f.mcm_score(cosines), expected.float(), atol=1e-6, rtol=1e-6)
    sure = f.mcm_score(torch.tensor([[1.0, 0.0]]), temperature=0.02)
    assert sure.item() == pytest.approx(math.exp(-50), rel=1e-4)


@pytest.mark.parametrize("rows", [1, 63, 64, 65, 200])
def test_activation_sums_are_sums_of_softmax_rows(rows):
    z, matrix = unit(rows, 6), unit(300, 6, seed=1)
    segments = [(0, rows), (0, 1), (rows // 2, rows), (rows // 3, rows // 2 + 1)]
    activations = (80 * z.double() @ matrix.double().T).softmax(1)[:, 4:]
    expected = torch.stack([activations[first:stop].sum(0) for first, stop in segments])
    result, lse = f.activation_sums(z, matrix, 4, 80.0, segments)
    exact = (80 * z.double() @ matrix.double().T).logsumexp(1)
    torch.testing.assert_close(lse, exact.float(), atol=2e-5, rtol=1e-6)
    torch.testing.assert_close(result, expected.float(), atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("at_once", [0, 1, 7, 64])
@pytest.mark.parametrize("known", [0, 1, 7, 39, 40])
def test_activation_sums_are_the_same_in_parts_recomputed_and_with_known_rows(monkeypatch, at_once, known):
    z, matrix, segments = unit(40, 6), unit(300, 6, seed=1), [(0, 40), (3, 9), (38, 40)]
    sums, lse = f.activation_sums(z, matrix, 4, 80.0, segments)
    assert lse.shape == (40,)
    passed = []
    row_lse = f.kernels.row_lse
    monkeypatch.setattr(f.kernels, "row_lse", lambda z, *more: passed.append(len(z)) or row_lse(z, *more))
    monkeypatch.setattr(f.kernels, "stored_rows", lambda z, labels: at_once)
    found, rest = f.activation_sums(z, matrix, 4, 80.0, segments, known=lse[:known])
    torch.testing.assert_close(found, sums, atol=2e-5, rtol=1e-4)
    torch.testing.assert_close(rest, lse[known:], atol=2e-5, rtol=1e-6)
    assert passed == ([40 - known] if at_once == 0 and known < 40 else [])


def naive_otsu(scores):
    grid = torch.arange(0, 1, 0.01)
    values = []
    for t in grid:
        low, high = scores[scores < t], scores[scores >= t]
        if len(low) == 0 or len(high) == 0:
            values.append(math.inf)
            continue
        values.append(sum(len(side) * side.double().var(unbiased=False).item() for side in (low, high)))
    smallest = [i for i, value in enumerate(values) if value <= min(values) + 1e-12]
    return grid[smallest[len(smallest) // 2]].item()


@pytest.mark.parametrize("seed", range(20))
def test_otsu_equals_a_pass_for_every_threshold(seed):
    generator = torch.Generator().manual_seed(seed)
    low = 0.3 * torch.rand(1 + 40 * seed, generator=generator)
    high = 1 - 0.4 * torch.rand(200, generator=generator)
    scores = torch.cat([low, high])
    assert f.otsu_threshold(scores) == pytest.approx(naive_otsu(scores), abs=1e-7)


@pytest.mark.parametrize("value", [0.0, 0.37, 1.0])
def test_otsu_of_equal_scores_is_the_middle(value):
    assert f.otsu_threshold(torch.full((9,), value)) == 0.5


def test_otsu_takes_the_middle_of_a_gap():
    assert f.otsu_threshold(torch.tensor([0.101, 0.101, 0.899, 0.899])) == pytest.approx(0.5, abs=0.011)


def test_otsu_reads_grid_values_as_the_upper_side():
    grid = torch.arange(0, 1, 0.01)
    scores = torch.cat([grid[10].repeat(5), grid[80].repeat(5)])
    assert f.otsu_threshold(scores) == pytest.approx(naive_otsu(scores), abs=1e-7)


def test_grouped_share_drops_the_remainder_and_averages():
    z, ids, negatives = unit(4, 6), unit(3, 6, seed=1), unit(11, 6, seed=2)
    i = (20 * z @ ids.T).exp().sum(1)
    shares = [(20 * z @ negatives[a : a + 3].T).exp().sum(1) for a in (0, 3, 6)]
    expected = torch.stack([w / (i + w) for w in shares]).mean(0)
    torch.testing.assert_close(
        f.grouped_negative_share(z, ids, negatives, 20.0, 3), expected, atol=1e-6, rtol=1e-5
    )


def test_activation_sums_in_several_threads_do_not_share_memory():
    problems = [(unit(20 + i, 6, seed=i), unit(200 + 30 * i, 6, seed=50 + i)) for i in range(6)]
    expected = [f.activation_sums(z, labels, 4, 80.0, [(0, len(z))])[0] for z, labels in problems]
    with ThreadPoolExecutor(6) as pool:
        for _ in range(20):
            found = pool.map(lambda p: f.activation_sums(p[0], p[1], 4, 80.0, [(0, len(p[0]))])[0], problems)
            for one, other in zip(found, expected, strict=True):
                torch.testing.assert_close(one, other, atol=2e-5, rtol=1e-4)
