"""Cases for the Triton kernels, run by test_triton.py in a process of their own.

Triton settles between interpreter and compiler when it is imported, and other tests import it. By hand:
``TRITON_INTERPRET=1 pytest tests/triton_cases.py``; without the variable the same cases run on a GPU.
"""

import os

import pytest
import torch
import triton
import triton.language as tl

import tanl
from conftest import golden, golden_bank, golden_tanl, unit
from tanl.detectors.captured import CapturedTANL
from tanl.kernels import StoredExponentials, reference
from tanl.kernels import triton as backend
from tanl.kernels.triton.ops.product import factor, logits_tile, product_operands
from tanl.kernels.triton.shapes import FORMS, SEGMENTS, forms_on, product_shape, target
from tools.gpu_first.counts import counted
from tools.speed.data import Features

DEVICE = torch.device("cpu" if os.environ.get("TRITON_INTERPRET") == "1" else "cuda")
# By the dtype of the labels: errors of logits of size 100, which are relative errors of exponentials.
TOLERANCE = {torch.float32: 3e-5, torch.float16: 5e-5}
SHAPES = [
    *[(b, 65, d) for b in (1, 5, 63) for d in (40, 64, 512, 768)],
    *[(1, 1003, 768), (5, 1003, 40), (5, 1003, 513), (63, 1003, 64), (63, 1003, 512)],
]


@pytest.fixture(autouse=True)
def poisoned(monkeypatch):
    """Memory that a wrapper asks for is full of NaN, so that what a kernel leaves unwritten shows."""
    empty = torch.empty
    monkeypatch.setattr(torch, "empty", lambda *shape, **kind: empty(*shape, **kind).fill_(torch.nan))


def problem(n, count, dim, dtype=torch.float32):
    """Rows and labels whose logits reach from -scale to scale, the largest of the first row in the last tile."""
    z, labels = unit(n, dim, seed=n), unit(count, dim, seed=count)
    labels[-1] = z[0]
    labels[0] = -z[-1]
    return z.to(DEVICE), labels.to(dtype).to(DEVICE)


def cut(n):
    """All rows, the first, the last, none, overlapping ones, and one next to another."""
    return [(0, n), (0, 1), (n - 1, n), (n // 2, n // 2), (n // 3, n // 2 + 1), (n // 4, n), (0, n // 4)]


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_log_sum_exps_and_segment_sums(shape, dtype):
    z, labels = problem(*shape, dtype)
    scale, segments = 100.0, cut(len(z))
    lse = reference.row_lse(z, labels, scale)
    expected = reference.segment_colsum(z, labels, scale, lse, segments)
    tolerance = {"atol": TOLERANCE[dtype], "rtol": TOLERANCE[dtype]}

    torch.testing.assert_close(backend.row_lse(z, labels, scale), lse, **tolerance)
    stored = backend.exp_store(z, labels, scale)
    torch.testing.assert_close(stored.lse, lse, **tolerance)
    torch.testing.assert_close(backend.segment_colsum_stored(stored, segments), expected, **tolerance)
    recomputed = backend.segment_colsum(z, labels, scale, lse, segments)
    torch.testing.assert_close(recomputed, expected, **tolerance)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("shape", [(1, 65, 40), (63, 203, 512), (33, 65, 768), (5, 65, 513)], ids=str)
def test_other_forms_of_the_kernels_are_the_same_to_rounding(monkeypatch, shape, form):
    if form not in forms_on(target(DEVICE)):
        pytest.skip("this device has not this form")
    z, labels = problem(*shape, torch.float16)
    scale, segments = 100.0, cut(len(z))
    lse = reference.row_lse(z, labels, scale)
    expected = reference.segment_colsum(z, labels, scale, lse, segments)
    tolerance = {"atol": TOLERANCE[torch.float16], "rtol": TOLERANCE[torch.float16]}
    monkeypatch.setenv("TANL_TRITON_FORM", form)
    assert product_shape(labels).descriptors == (shape[2] % 8 == 0)
    torch.testing.assert_close(backend.row_lse(z, labels, scale), lse, **tolerance)
    stored = backend.exp_store(z, labels, scale)
    torch.testing.assert_close(stored.lse, lse, **tolerance)
    torch.testing.assert_close(backend.segment_colsum_stored(stored, segments), expected, **tolerance)
    torch.testing.assert_close(backend.segment_colsum(z, labels, scale, lse, segments), expected, **tolerance)


def test_a_form_that_is_not_there_is_told(monkeypatch):
    z, labels = problem(1, 65, 40, torch.float16)
    monkeypatch.setenv("TANL_TRITON_FORM", "fast")
    with pytest.raises(ValueError, match=r"TANL_TRITON_FORM='fast': for .* there are addresses"):
        backend.row_lse(z, labels, 100.0)


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
def test_exponentials_that_would_overflow_stay_below_one(dtype):
    z, labels = problem(5, 301, 40, dtype)
    scale, segments = 1000.0, cut(5)
    assert float(reference.row_lse(z, labels, scale).max()) > 900
    probabilities = (scale * z.double() @ labels.double().T).softmax(dim=1)
    expected = torch.stack([probabilities[first:stop].sum(0) for first, stop in segments]).float()
    tolerance = {"atol": 10 * TOLERANCE[dtype], "rtol": 10 * TOLERANCE[dtype]}

    stored = backend.exp_store(z, labels, scale)
    assert float(stored.values.max()) == 1
    torch.testing.assert_close(backend.segment_colsum_stored(stored, segments), expected, **tolerance)
    lse = backend.row_lse(z, labels, scale)
    torch.testing.assert_close(backend.segment_colsum(z, labels, scale, lse, segments), expected, **tolerance)


def test_stored_mean_activations_keep_five_digits():
    """What float16 storage would not do."""
    z, labels = problem(20, 513, 64)
    z = torch.nn.functional.normalize(z + 2 * labels[:20], dim=1)
    stored = backend.exp_store(z, labels, 10.0)
    mean = backend.segment_colsum_stored(stored, [(0, 20)])[0].double() / 20
    expected = (10.0 * z.double() @ labels.double().T).softmax(dim=1).mean(dim=0)
    assert float((mean / expected - 1).abs().max()) < 1e-5


@pytest.mark.parametrize("dim", [40, 512, 513])
def test_rows_keep_their_float32_beside_float16_labels(dim):
    """Rounded to float16 they would be off by a thousandth; components below float16's smallest number count too."""
    z, labels = unit(7, dim, seed=1), unit(65, dim, seed=2).half().to(DEVICE)
    z[:, ::3] *= 1e-6
    z = torch.nn.functional.normalize(z, dim=1).to(DEVICE)
    expected = (100.0 * z.double() @ labels.double().T).logsumexp(dim=1)
    rounded = reference.row_lse(z.half().float(), labels, 100.0)
    found = backend.row_lse(z, labels, 100.0)
    torch.testing.assert_close(found.double(), expected, atol=TOLERANCE[torch.float16], rtol=0)
    assert float((rounded - expected).abs().max()) > 5 * TOLERANCE[torch.float16]


def test_segments_with_sums_over_more_labels_than_are_given():
    z, labels = problem(9, 300, 40)
    lse = reference.row_lse(z, labels, 50.0)
    whole = backend.segment_colsum(z, labels, 50.0, lse, cut(9))
    parts = [backend.segment_colsum(z, part, 50.0, lse, cut(9)) for part in (labels[:107], labels[107:])]
    torch.testing.assert_close(torch.cat(parts, dim=1), whole, atol=3e-5, rtol=3e-5)


@pytest.mark.parametrize("segments", [[], [(3, 3)], [(2, 4)], [(4, 6), (0, 4)]], ids=str)
def test_no_segments_empty_ones_and_unordered_ones(segments):
    z, labels = problem(6, 70, 40)
    lse = reference.row_lse(z, labels, 50.0)
    expected = reference.segment_colsum(z, labels, 50.0, lse, segments) if segments else z.new_empty(0, 70)
    fresh = backend.segment_colsum(z, labels, 50.0, lse, segments)
    torch.testing.assert_close(fresh, expected, atol=3e-5, rtol=3e-5)
    kept = backend.segment_colsum_stored(backend.exp_store(z, labels, 50.0), segments)
    torch.testing.assert_close(kept, expected, atol=3e-5, rtol=3e-5)


def test_no_rows_give_no_results():
    z, labels = unit(3, 40)[:0].to(DEVICE), unit(65, 40).to(DEVICE)
    assert backend.row_lse(z, labels, 100.0).shape == (0,)
    assert backend.exp_store(z, labels, 100.0).lse.shape == (0,)


def test_memory_of_an_earlier_result_is_used_again_where_it_suffices():
    z, labels = problem(21, 300, 40)
    fresh = backend.segment_colsum_stored(backend.exp_store(z, labels, 50.0), cut(21))
    for rows, count, reused in ((33, 300, True), (21, 300, True), (20, 300, False), (21, 65, False)):
        earlier = backend.exp_store(unit(rows, 40).to(DEVICE), unit(count, 40).to(DEVICE), 50.0)
        earlier.values.fill_(torch.nan)
        stored = backend.exp_store(z, labels, 50.0, out=earlier)
        assert (stored.values.data_ptr() == earlier.values.data_ptr()) == reused
        assert torch.equal(backend.segment_colsum_stored(stored, cut(21)), fresh)


def test_a_smaller_result_does_not_shrink_the_memory_for_the_next():
    z, labels = problem(33, 300, 40)
    first = backend.exp_store(z, labels, 50.0)
    small = backend.exp_store(z[:5], labels, 50.0, out=first)
    again = backend.exp_store(z, labels, 50.0, out=small)
    assert again.values.data_ptr() == first.values.data_ptr()


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
def test_more_segments_than_one_program_takes_in_any_order_and_overlapping(dtype):
    z, labels = problem(63, 130, 40, dtype)
    draw = torch.randint(0, 64, (2 * SEGMENTS + 3, 2), generator=torch.Generator().manual_seed(1))
    segments = [(first, stop) for first, stop in draw.sort(dim=1).values.tolist()]
    lse = reference.row_lse(z, labels, 30.0)
    expected = reference.segment_colsum(z, labels, 30.0, lse, segments)
    found = backend.segment_colsum(z, labels, 30.0, lse, segments)
    torch.testing.assert_close(found, expected, atol=TOLERANCE[dtype], rtol=TOLERANCE[dtype])


def test_small_activations_keep_five_digits_too():
    """Which labels are selected hangs on them: halves of a float16 hold 22 bits down to 2e-9, a float16 would not."""
    z, labels = unit(20, 64, seed=1).to(DEVICE), unit(301, 64, seed=2).to(DEVICE)
    exact = (100.0 * z.double() @ labels.double().T).softmax(dim=1).sum(dim=0)
    assert float(exact.min()) < 1e-8
    lse = reference.row_lse(z, labels, 100.0)
    found = backend.segment_colsum(z, labels, 100.0, lse, [(0, 20)])[0].double()
    torch.testing.assert_close(found, exact, atol=1e-14, rtol=3e-5)


@triton.jit
def one_tile_kernel(z, labels, out, first_label, num_labels, D: tl.constexpr):
    logits = logits_tile(
        z, labels, tl.program_id(0), first_label, 32, num_labels, 1.0, D, 32, 32, 32, "ieee", 2, False
    )
    place = tl.arange(0, 32)
    tl.store(out + place[:, None] * 32 + place[None, :], logits)


def test_labels_beyond_2_to_the_31_components(monkeypatch):
    monkeypatch.undo()  # 4.3 GB of address space, of which two pages are touched: poison would fill it
    dim, first_label = 1024, 1 << 21
    labels = torch.empty(first_label + 32, dim, dtype=torch.float16, device=DEVICE)
    labels[first_label:] = unit(32, dim, seed=1).half().to(DEVICE)
    z, out = unit(32, dim, seed=2).to(DEVICE), torch.empty(32, 32, device=DEVICE)
    parts, labels = product_operands(z, labels)
    one_tile_kernel[(1,)](parts, labels, out, first_label, len(labels), D=dim)
    expected = z @ labels[first_label:].float().T
    torch.testing.assert_close(out / factor(labels), expected, atol=1e-5, rtol=0)


def test_stored_exponentials_beyond_2_to_the_31(monkeypatch):
    monkeypatch.undo()
    tiles, n, columns = 33, 1 << 20, 64
    values = torch.empty(tiles, n, columns, dtype=torch.float16, device=DEVICE)
    maxima = torch.empty(tiles, n, device=DEVICE)
    lse = torch.zeros(n, device=DEVICE)
    values[:, -3:], maxima[:, -3:] = 0.5, 0.0
    stored = StoredExponentials("triton", values, maxima, lse, tiles * columns)
    sums = backend.segment_colsum_stored(stored, [(n - 3, n)])
    assert torch.equal(sums, torch.full_like(sums, 1.5))


@pytest.mark.parametrize(("batch", "k"), [(1, 1), (5, 37), (63, 1003), (5, 2500)])
def test_prefix_share(batch, k):
    logits = 5 * torch.randn(batch, k, generator=torch.Generator().manual_seed(k)).to(DEVICE)
    id_lse = torch.randn(batch, generator=torch.Generator().manual_seed(batch)).to(DEVICE)
    for step in (0, 1, 7, k, k + 3):
        expected = reference.prefix_share(id_lse, logits, step)
        torch.testing.assert_close(backend.prefix_share(id_lse, logits, step), expected, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("step", [0, 1, 7])
def test_prefix_share_of_extreme_logits(step):
    logits = torch.zeros(4, 1003, device=DEVICE)
    logits[0, 3], logits[1], logits[2] = 2000.0, -2000.0, 2000.0
    logits[3, 500] = torch.nan
    id_lse = torch.tensor([0.0, 1000.0, -1000.0, 0.0], device=DEVICE)
    expected = reference.prefix_share(id_lse, logits, step)
    share = backend.prefix_share(id_lse, logits, step)
    torch.testing.assert_close(share, expected, atol=1e-6, rtol=1e-5, equal_nan=True)
    assert share[1] == 0
    assert share[2] == 1
    assert share[3].isnan()


@pytest.mark.parametrize("n", [1, 1024, 5003])
def test_otsu_histogram_puts_scores_on_the_grid_where_the_reference_does(n):
    grid = torch.arange(0, 1, 0.01)[:100].to(DEVICE)
    scores = torch.rand(n, generator=torch.Generator().manual_seed(n)).to(DEVICE)
    near = torch.cat([grid, grid.nextafter(grid - 1), grid.nextafter(grid + 1), grid.new_tensor([-1.0, 2.0])])
    scores[: len(near)] = near[: len(scores)]
    moments, expected = backend.otsu_histogram(scores, grid), reference.otsu_histogram(scores, grid)
    assert moments.dtype == torch.float64
    assert torch.equal(moments[0], expected[0])
    torch.testing.assert_close(moments, expected, atol=1e-12, rtol=1e-12)


def test_otsu_histogram_of_no_and_of_infinite_scores():
    grid = torch.tensor([0.0, 0.5], device=DEVICE)
    assert torch.equal(
        backend.otsu_histogram(grid[:0], grid), torch.zeros(3, 3, dtype=torch.float64, device=DEVICE)
    )
    scores = torch.tensor([torch.inf, -torch.inf, torch.nan], device=DEVICE)
    counts = backend.otsu_histogram(scores, grid)[0]
    assert torch.equal(counts, reference.otsu_histogram(scores, grid)[0])


def test_stable_topk_keeps_the_order_of_equal_values():
    values = torch.tensor([1.0, 3.0, 2.0, 3.0, 2.0], dtype=torch.float64, device=DEVICE)
    assert backend.stable_topk(values, 4).tolist() == [1, 3, 2, 4]


def test_few_rows_are_stored_and_many_are_not(monkeypatch):
    def rows(n, count, dim, dtype=torch.float32):
        one = torch.zeros(1, 1, dtype=dtype, device=DEVICE)
        return backend.stored_rows(one.expand(n, dim), one.expand(count, dim))

    assert rows(32, 1000, 64) == 32
    assert rows(33, 1000, 64) == 0  # more than D / 2
    assert rows(16, 1000, 64, torch.float16) == 16
    assert rows(17, 1000, 64, torch.float16) == 0  # more than D / 4
    assert rows(256, 1 << 20, 1024) == 256  # 1 GiB
    assert rows(257, 1 << 20, 1024) == 0
    monkeypatch.setenv("TANL_TRITON_STORED", "40")
    assert (rows(40, 1000, 64), rows(41, 1000, 64), rows(40, 1 << 23, 64)) == (40, 0, 0)
    monkeypatch.setenv("TANL_TRITON_STORED", "many")
    with pytest.raises(ValueError, match="TANL_TRITON_STORED='many': give a number of rows"):
        rows(1, 1000, 64)


def test_labels_of_another_dtype_are_refused():
    with pytest.raises(TypeError, match=r"float16 or float32, not torch\.bfloat16"):
        backend.row_lse(unit(3, 40).to(DEVICE), unit(65, 40).bfloat16().to(DEVICE), 100.0)


@pytest.mark.parametrize("stored_bytes", [1 << 30, 0])
def test_tanl_agrees_with_the_published_stream(monkeypatch, stored_bytes):
    """Whole steps, by stored exponentials and by products made twice."""
    monkeypatch.setenv("TANL_KERNELS", "triton")
    monkeypatch.setattr(backend, "STORED_BYTES", stored_bytes)
    case = golden("aware_score_batch")
    bank = golden_bank(case).to(DEVICE)
    detector = golden_tanl(case, bank)
    for images, expected in zip(case["images"][:2], case["scores"], strict=False):
        scores = detector(images.to(DEVICE))
        torch.testing.assert_close(1 - scores.cpu(), expected, atol=1e-5, rtol=0)


def structured(batch):
    features = Features(40, 500, 32, batch, 0)
    names = [f"label {i}" for i in range(540)]
    bank = tanl.LabelBank(names, features.labels(), num_id=40, logit_scale=100.0).to(DEVICE)
    detector = tanl.TANL(bank, num_selected=90, capacity=45, initial_ood=features.known_ood.to(DEVICE))
    return detector, [features.batch(i).to(DEVICE) for i in range(4)]


@pytest.mark.parametrize("stored_bytes", [1 << 30, 0])
def test_a_step_asks_no_more_of_a_gpu_than_it_did(monkeypatch, stored_bytes):
    """Limits a little above what was counted, so that a wait or a launch an image or a block shows."""
    monkeypatch.undo()
    monkeypatch.setenv("TANL_KERNELS", "triton")
    monkeypatch.setattr(backend, "STORED_BYTES", stored_bytes)
    detector, batches = structured(40)
    for z in batches[:3]:
        detector(z)
    with counted() as eager:
        detector(batches[3])
    # "tensor", and one of the reads, are of the history's batch sizes, which lie on the CPU: for them nothing waits.
    assert dict(eager.waits) == {"aten._local_scalar_dense": 2, "tolist": 1, "tensor": 1}
    assert eager.operations.total() <= 128
    assert eager.launches.total() <= 6

    steps = CapturedTANL(detector, 40)
    with counted() as fixed:
        steps(batches[3])
    assert dict(fixed.waits) == {"aten._local_scalar_dense": 1}
    assert fixed.operations.total() <= 210
    assert fixed.launches.total() <= 6


@pytest.mark.parametrize("stored_bytes", [1 << 30, 0])
def test_steps_in_fixed_shapes_are_the_detectors(monkeypatch, stored_bytes):
    monkeypatch.setenv("TANL_KERNELS", "triton")
    monkeypatch.setattr(backend, "STORED_BYTES", stored_bytes)
    (detector, batches), (other, _) = structured(40), structured(40)
    steps = CapturedTANL(other, 40)
    for z in batches:
        torch.testing.assert_close(steps(z), detector(z), atol=1e-5, rtol=1e-4)
