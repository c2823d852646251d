"""The reference, and the native kernels in every instruction set, against the formulas in float64."""

import pytest
import torch
from states import assert_same_state, state_of

import tanl
from conftest import golden, golden_bank, unit
from tanl import kernels
from tanl.kernels import native, reference, surroundings

CPU = torch.device("cpu")
SHAPES = [(1, 65, 40), (5, 1003, 64), (63, 1003, 512), (63, 65, 768), (17, 2049, 513)]
# By the dtype of the labels: differences of logits of size 100 in float32 are good to about 1e-5.
TOLERANCE = {torch.float32: 5e-5, torch.float16: 5e-5}


@pytest.fixture(params=["reference", "reference by oneDNN", *native.VARIANTS])
def backend(request, monkeypatch):
    """A backend's module; the native one in one of its instruction sets, the reference with either product."""
    if request.param.startswith("reference"):
        by_onednn = request.param != "reference"
        if by_onednn and not torch.backends.mkldnn.is_available():
            pytest.skip("this torch comes without oneDNN")
        monkeypatch.setattr(surroundings, "_mkl_is_slow", lambda: by_onednn)
        return reference
    if request.param not in native.variants():
        pytest.skip(f"this processor or build has no {request.param}")
    monkeypatch.setattr(native, "_variant", lambda: native.VARIANTS.index(request.param))
    return native


def problem(n, labels, dim, dtype=torch.float32):
    """Rows and labels whose logits reach from far below the largest to exactly ``scale``, in the last tile."""
    z, matrix = unit(n, dim, seed=n), unit(labels, dim, seed=labels)
    matrix[-1] = z[0]
    matrix[0] = -z[-1]
    return z, matrix.to(dtype)


def cut(n):
    """Segments: all, the first row, the last row, overlapping ones."""
    return [(0, n), (0, 1), (n - 1, n), (n // 3, n // 2 + 1), (n // 4, n)]


def softmax_rows(z, labels, scale):
    logits = scale * z.double() @ labels.double().T
    return logits, logits.softmax(dim=1)


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("scale", [1.0, 100.0, 1000.0])
def test_log_sum_exps_and_stored_and_fresh_sums_are_the_formula(backend, shape, dtype, scale):
    z, labels = problem(*shape, dtype)
    logits, probabilities = softmax_rows(z, labels, scale)
    segments = cut(len(z))
    expected = torch.stack([probabilities[first:stop].sum(0) for first, stop in segments]).float()
    atol = TOLERANCE[dtype] * max(1.0, scale / 100)

    lse = backend.row_lse(z, labels, scale)
    torch.testing.assert_close(lse.double(), logits.logsumexp(1), atol=atol, rtol=1e-6)
    stored = backend.exp_store(z, labels, scale)
    torch.testing.assert_close(stored.lse, lse, atol=atol, rtol=1e-6)
    sums = backend.segment_colsum_stored(stored, segments)
    torch.testing.assert_close(sums, expected, atol=atol, rtol=2e-4)
    fresh = backend.segment_colsum(z, labels, scale, lse, segments)
    torch.testing.assert_close(fresh, expected, atol=atol, rtol=2e-4)
    assert bool((sums >= 0).all())
    assert bool((fresh >= 0).all())


def test_stored_exponentials_are_at_most_one_even_at_an_absurd_scale(backend):
    z, labels = problem(5, 300, 40)
    stored = backend.exp_store(z, labels, 1e4)
    assert float(stored.values.max()) <= 1
    assert bool(stored.lse.isfinite().all())
    assert bool(backend.segment_colsum_stored(stored, cut(5)).isfinite().all())


def test_memory_of_an_earlier_result_may_be_used_again(backend):
    z, labels = problem(21, 1003, 40)
    fresh = backend.segment_colsum_stored(backend.exp_store(z, labels, 50.0), cut(21))
    for rows, count in ((33, 1003), (21, 1003), (21, 400)):
        earlier = backend.exp_store(unit(rows, 40, seed=9), unit(count, 40, seed=8), 50.0)
        earlier.values.fill_(torch.nan)
        again = backend.exp_store(z, labels, 50.0, earlier)
        assert torch.equal(backend.segment_colsum_stored(again, cut(21)), fresh)
        assert (again.values.data_ptr() == earlier.values.data_ptr()) == (count == 1003)


def test_log_sum_exps_of_shards_merge(backend):
    z, labels = problem(7, 500, 40)
    parts = [backend.row_lse(z, part, 80.0) for part in labels.split(170)]
    merged = parts[0]
    for part in parts[1:]:
        merged = torch.logaddexp(merged, part)
    whole = backend.row_lse(z, labels, 80.0)
    torch.testing.assert_close(merged, whole, atol=2e-5, rtol=1e-6)
    shard = backend.segment_colsum(z, labels[170:340], 80.0, whole, cut(7))
    every = backend.segment_colsum(z, labels, 80.0, whole, cut(7))
    torch.testing.assert_close(shard, every[:, 170:340], atol=1e-6, rtol=1e-5)


def test_a_row_comes_out_the_same_whatever_rows_are_beside_it(backend):
    """So that streams do not depend on what else is in a pass; the reference's products may round differently."""
    z, labels = problem(40, 700, 64)
    whole = backend.segment_colsum_stored(
        backend.exp_store(z, labels, 100.0), [(i, i + 1) for i in range(40)]
    )
    for i in (0, 13, 39):
        alone = backend.segment_colsum_stored(backend.exp_store(z[i : i + 1], labels, 100.0), [(0, 1)])
        tolerance = 0 if backend is native else 1e-5
        torch.testing.assert_close(alone[0], whole[i], atol=tolerance, rtol=10 * tolerance)


def test_results_do_not_depend_on_the_number_of_threads(backend):
    z, labels = problem(63, 5003, 64)
    before, results = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            stored = backend.exp_store(z, labels, 100.0)
            results.append((stored.lse, backend.segment_colsum_stored(stored, cut(63))))
    finally:
        torch.set_num_threads(before)
    tolerance = 0 if backend is native else 1e-6
    for lse, sums in results[1:]:
        torch.testing.assert_close(lse, results[0][0], atol=10 * tolerance, rtol=tolerance)
        torch.testing.assert_close(sums, results[0][1], atol=tolerance, rtol=10 * tolerance)


@pytest.mark.parametrize("step", [0, 1, 2, 7, 100, 101, 500])
@pytest.mark.parametrize("shape", [(1, 1), (5, 6), (63, 101), (2, 1003)], ids=str)
def test_prefix_share_is_the_mean_over_prefixes(backend, shape, step):
    rows, k = shape
    id_lse, logits = 4 * unit(rows, 3)[:, 0], 30 * unit(rows, k, seed=k)
    ratio = (logits.double() - id_lse.double()[:, None]).exp()
    prefixes = sorted({*range(step, k + 1, step), k}) if step else [k]
    sums = torch.stack([ratio[:, :m].sum(1) for m in prefixes])
    expected = (sums / (1 + sums)).mean(0).float()
    torch.testing.assert_close(backend.prefix_share(id_lse, logits, step), expected, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("step", [0, 1])
def test_prefix_share_survives_extreme_logits(backend, step):
    certain = backend.prefix_share(torch.tensor([100.0]), torch.tensor([[40.0, 20.0]]), step)
    assert certain.item() == pytest.approx(8.7565e-27, rel=1e-3)
    lost = backend.prefix_share(torch.tensor([-100.0]), torch.full((1, 60_000), 100.0), step)
    assert lost.item() == 1.0


def test_otsu_histogram_bins_grid_values_upwards(backend):
    grid = torch.arange(0, 1, 0.01, dtype=torch.float32)
    scores = torch.cat([grid, torch.rand(5000), torch.tensor([0.0, 1.0])])
    counts, sums, squares = backend.otsu_histogram(scores, grid)
    inside = (scores >= grid[:, None]).sum(0)  # how many grid values are at or below a score
    assert counts.tolist() == [(inside == k).sum().item() for k in range(101)]
    exact = scores.double()
    for k in (1, 50, 100):
        assert sums[k].item() == pytest.approx(exact[inside == k].sum().item(), abs=1e-10)
        assert squares[k].item() == pytest.approx((exact[inside == k] ** 2).sum().item(), abs=1e-10)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_stable_topk_keeps_the_order_of_ties(backend, dtype):
    values = torch.tensor([1.0, 3.0, 2.0, 3.0, 2.0, 2.0, 0.0], dtype=dtype)
    assert backend.stable_topk(values, 4).tolist() == [1, 3, 2, 4]
    assert backend.stable_topk(values, 99).tolist() == [1, 3, 2, 4, 5, 0, 6]
    assert backend.stable_topk(torch.zeros(5, dtype=dtype), 3).tolist() == [0, 1, 2]
    assert backend.stable_topk(values[:1], 1).tolist() == [0]
    many = torch.randn(1003, generator=torch.Generator().manual_seed(0), dtype=dtype).round(decimals=1)
    expected = sorted(range(1003), key=lambda i: (-float(many[i]), i))
    for k in (1, 63, 500, 1003):
        assert backend.stable_topk(many, k).tolist() == expected[:k]


def test_the_native_kernels_refuse_other_dtypes():
    if "native" not in kernels.available():
        pytest.skip("the native extension was not compiled")
    with pytest.raises(TypeError, match="float64"):
        native.row_lse(unit(2, 8), unit(3, 8).double(), 1.0)


def test_the_switch_names_its_backends(monkeypatch):
    monkeypatch.setenv("TANL_KERNELS", "numba")
    with pytest.raises(ValueError, match="'numba': there are auto, reference, native, triton"):
        kernels.row_lse(unit(2, 8), unit(3, 8), 1.0)


def test_a_forced_backend_that_is_not_there_raises(monkeypatch):
    monkeypatch.setattr(native, "_library", lambda: None)
    monkeypatch.setenv("TANL_KERNELS", "native")
    with pytest.raises(RuntimeError, match="TANL_KERNELS=native: the native extension was not compiled"):
        kernels.row_lse(unit(2, 8), unit(3, 8), 1.0)
    assert "native" not in kernels.available()
    monkeypatch.setenv("TANL_KERNELS", "auto")
    expected = reference.row_lse(unit(2, 8), unit(3, 8), 1.0)
    assert torch.equal(kernels.row_lse(unit(2, 8), unit(3, 8), 1.0), expected)


def test_native_is_for_cpu_tensors_and_triton_for_others(monkeypatch):
    assert "cuda" in native.why_not(torch.device("cuda", 0))
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    monkeypatch.setenv("TANL_KERNELS", "triton")
    with pytest.raises(RuntimeError, match="TANL_KERNELS=triton"):
        kernels.row_lse(unit(2, 8), unit(3, 8), 1.0)


@pytest.mark.parametrize("half", [False, True])
def test_backends_agree_on_a_stream_and_each_resumes_bit_for_bit(monkeypatch, half):
    case = golden("aware_score_mixed")
    bank = golden_bank(case)
    bank = bank.to(dtype=torch.float16) if half else bank
    settings = {name: case[name] for name in ("step", "gap", "alpha")}
    settings["num_selected"] = case["num_negatives"]
    streams = {}
    for name in kernels.available():
        if name == "triton":
            continue
        monkeypatch.setenv("TANL_KERNELS", name)
        first, second = (
            tanl.TANL(bank, capacity=case["queue_length"], initial_ood=case["noise_features"], **settings)
            for _ in range(2)
        )
        half_way = len(case["images"]) // 2
        scores = [first(z) for z in case["images"][:half_way]]
        second.load_state_dict(first.state_dict())
        for z in case["images"][half_way:]:
            scores.append(first(z))
            assert torch.equal(second(z), scores[-1])
        streams[name] = torch.cat(scores)
    assert len(streams) >= 1
    for scores in streams.values():
        torch.testing.assert_close(scores, streams["reference"], atol=1e-5, rtol=0)


BAD = {
    "NaN": (lambda z: z.index_fill(0, torch.tensor([1]), torch.nan), ValueError, "row 1 has a NaN"),
    "infinite": (lambda z: z.index_fill(0, torch.tensor([2]), torch.inf), ValueError, "row 2 has a NaN"),
    "wrong D": (lambda z: z[:, 1:], ValueError, "D = "),
    "wrong dtype": (lambda z: z.int(), TypeError, "floating dtype, not torch.int32"),
    "not unit": (lambda z: 3 * z, ValueError, "norm 3"),
    "empty": (lambda z: z[:0], ValueError, "is empty"),
    "one row": (lambda z: z[0], ValueError, r"must have shape \[n, D\]"),
}


@pytest.mark.parametrize("name", ["reference", "native"])
@pytest.mark.parametrize("case", BAD)
def test_bad_embeddings_are_refused_before_any_state_changes(monkeypatch, name, case):
    if name not in kernels.available():
        pytest.skip("the native extension was not compiled")
    monkeypatch.setenv("TANL_KERNELS", name)
    bank = tanl.LabelBank([str(i) for i in range(40)], unit(40, 16), num_id=5, logit_scale=30.0)
    detector = tanl.TANL(bank, num_selected=9, initial_ood=unit(3, 16), capacity=8)
    z = unit(12, 16, seed=4)
    detector(z)
    before = state_of(detector)
    spoil, error, message = BAD[case]
    for judge in (detector, detector.score, detector.predict, detector.explain):
        with pytest.raises(error, match=message):
            judge(spoil(z))
        assert_same_state(detector.state_dict(), before)


def test_the_native_kernels_give_the_same_on_threads_of_their_own(monkeypatch):
    if "native" not in kernels.available():
        pytest.skip("the native extension was not compiled")
    z, labels = problem(63, 5003, 64)
    shared = native.exp_store(z, labels, 100.0)
    library = native._library()
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        library.tanl_use_pool(None)
        own = native.exp_store(z, labels, 100.0)
    finally:
        library.tanl_use_pool(native._torch_pool())
        torch.set_num_threads(before)
    assert torch.equal(own.lse, shared.lse)
    assert torch.equal(
        native.segment_colsum_stored(own, cut(63)), native.segment_colsum_stored(shared, cut(63))
    )
