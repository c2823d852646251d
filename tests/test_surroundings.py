"""What a process sets for all of torch does not reach a detector: the same scores, bit for bit."""

from __future__ import annotations

import ast
import contextlib
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from states import assert_same_state, state_of
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

import tanl
from conftest import default_dtype, unit
from tanl import kernels
from tanl.backbones.noise import noise_images
from tanl.detectors import GLMCM
from tanl.kernels import native, reference, surroundings

ROOT = Path(tanl.__file__).parent
WORDS = [f"word {i}" for i in range(97)]
PHRASES = ["red object", "old space", "new thing", "wide area", "flat scene", "dim view"]
NAMES = [*(f"class {i}" for i in range(7)), *WORDS, *PHRASES]
LABELS, OUTLIERS, PATCHES = unit(110, 16, seed=1), unit(9, 16, seed=4), unit(40, 5, 16, seed=6)


def bank(dtype: torch.dtype = torch.float32) -> tanl.LabelBank:
    return tanl.LabelBank(NAMES, LABELS, num_id=7, logit_scale=40.0).to(dtype=dtype)


def stream() -> list[torch.Tensor]:
    """Three batches of 40: near the ID labels, near all, near many."""
    batches = []
    for count in (7, 110, 60):
        nearest = torch.randint(0, count, (40,), generator=torch.Generator().manual_seed(count))
        batches.append(nn.functional.normalize(LABELS[nearest] + 0.1 * unit(40, 16, seed=count), dim=1))
    return batches


MAKERS = {
    "TANL": lambda labels: tanl.TANL(labels, num_selected=30, capacity=25, initial_ood=OUTLIERS),
    "TANL, practice": lambda labels: tanl.TANL(
        labels, num_selected=30, capacity=25, initial_ood=OUTLIERS, memory="guarded", candidates=60
    ),
    "TANL, float16 scores": lambda labels: tanl.TANL(
        labels, num_selected=30, capacity=25, initial_ood=OUTLIERS, final_pass="float16"
    ),
    "NegLabel": lambda labels: tanl.NegLabel(labels, num_negatives=60, groups=3),
    "AdaNeg": lambda labels: tanl.AdaNeg(labels, num_negatives=60, groups=3, gap=0.1),
    "CSP": lambda labels: tanl.CSP(labels, share=0.5, groups=3),
    "MCM": tanl.MCM,
    "MaxLogit": tanl.MaxLogit,
    "Energy": tanl.Energy,
}


def run(make, batches, dtype=torch.float32):
    """Everything that a detector gives: scores, decisions, evidence, a threshold, and its state."""
    detector = make(bank(dtype))
    scores = [part for z in batches for part in (detector.score(z), detector(z))]
    detector.calibrate_embeddings(batches[0])
    found = {
        "scores": scores,
        "is_ood": detector.predict(batches[1]),
        "threshold": detector.threshold,
        "evidence": [[tuple(item) for item in row] for row in detector.explain(batches[2])],
        "verdicts": [tuple(verdict)[:4] for verdict in tanl.detect_embeddings(detector, batches[2])],
        "state": state_of(detector),
    }
    other = make(bank(dtype))
    other.load_state_dict(found["state"])
    return found | {
        "resumed": [other(z) for z in batches],
        "unlabelled": other.calibrate_unlabelled(torch.cat(scores)),
    }


def local_scores(batches):
    detector = GLMCM(bank())
    return detector(batches[0], local=PATCHES)


@contextlib.contextmanager
def deterministic() -> Iterator[None]:
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)


SURROUNDINGS = {
    "float64": lambda: default_dtype(torch.float64),
    "float16": lambda: default_dtype(torch.float16),
    "bfloat16": lambda: default_dtype(torch.bfloat16),
    "meta device": lambda: torch.device("meta"),
    "autocast": lambda: torch.autocast("cpu", dtype=torch.bfloat16),
    "autocast to float16": lambda: torch.autocast("cpu", dtype=torch.float16),
    "autocast of a GPU": lambda: torch.autocast("cuda", dtype=torch.bfloat16),
    "inference mode": torch.inference_mode,
    "gradients": torch.enable_grad,
    "deterministic algorithms": deterministic,
    "anomaly detection": torch.autograd.detect_anomaly,
}


@pytest.fixture(params=["reference", "native"])
def backend(request, monkeypatch):
    if request.param not in kernels.available():
        pytest.skip("the native extension was not compiled")
    monkeypatch.setenv("TANL_KERNELS", request.param)
    return request.param


@pytest.mark.filterwarnings("ignore")  # torch warns of autocast without a GPU, and of anomaly detection
@pytest.mark.parametrize("name", MAKERS)
def test_scores_are_the_same_whatever_is_set_around_them(name, backend):
    batches = stream()
    expected = run(MAKERS[name], batches)
    for around, entered in SURROUNDINGS.items():
        with entered():
            found = run(MAKERS[name], batches)
        assert_same_state(found, expected, around)


@pytest.mark.filterwarnings("ignore")
def test_half_precision_labels_patches_and_noise_too():
    batches = stream()
    expected = (
        run(MAKERS["TANL"], batches, torch.float16),
        local_scores(batches),
        noise_images(8, seed=1),
    )
    for around, entered in SURROUNDINGS.items():
        with entered():
            found = (
                run(MAKERS["TANL"], batches, torch.float16),
                local_scores(batches),
                noise_images(8, seed=1),
            )
        assert_same_state(found, expected, around)


@pytest.mark.parametrize("name", MAKERS)
def test_a_detector_made_in_inference_mode_serves_outside_and_the_other_way_round(name):
    batches = stream()
    expected = [MAKERS[name](bank())(z) for z in batches[:1]]
    with torch.inference_mode():
        inside = MAKERS[name](bank())
        inside(batches[0])
        kept = inside.state_dict()
    outside = MAKERS[name](bank())
    outside(batches[0])
    with torch.inference_mode():
        theirs = [outside(z) for z in batches[1:]]
    ours = [inside(z) for z in batches[1:]]
    assert_same_state(ours, theirs)
    assert_same_state(inside.state_dict(), outside.state_dict())
    other = MAKERS[name](bank())
    other.load_state_dict(kept)
    assert_same_state([other(z) for z in batches[1:]], ours)
    assert_same_state([MAKERS[name](bank())(batches[0])], expected)


@pytest.mark.parametrize("name", MAKERS)
def test_scores_while_another_thread_sets_the_default_dtype(name):
    batches = stream()
    expected = run(MAKERS[name], batches)
    stop, flips = threading.Event(), 0

    def flip() -> None:
        nonlocal flips
        while not stop.is_set():
            for dtype in (torch.float64, torch.float16, torch.bfloat16, torch.float32):
                torch.set_default_dtype(dtype)
            flips += 1

    other = threading.Thread(target=flip)
    other.start()
    try:
        found = [run(MAKERS[name], batches) for _ in range(3)]
    finally:
        stop.set()
        other.join()
        torch.set_default_dtype(torch.float32)
    assert flips > 0
    for each in found:
        assert_same_state(each, expected)


@pytest.mark.parametrize("precision", ["high", "medium"])
@pytest.mark.parametrize("name", MAKERS)
def test_products_keep_full_precision_whatever_torch_is_told(name, precision):
    batches = stream()
    expected = run(MAKERS[name], batches)
    try:
        torch.set_float32_matmul_precision(precision)
        found = run(MAKERS[name], batches)
    finally:
        torch.set_float32_matmul_precision("highest")
    torch.testing.assert_close(found["scores"], expected["scores"], atol=1e-5, rtol=1e-5)
    assert found["evidence"] == [
        [(label, pytest.approx(probability, rel=1e-4)) for label, probability in row]
        for row in expected["evidence"]
    ]


def test_the_product_by_onednn_keeps_full_precision_too(monkeypatch):
    """It is not taken where convolutions may round their operands, nor where oneDNN is turned off."""
    if not torch.backends.mkldnn.is_available():
        pytest.skip("this torch comes without oneDNN")
    monkeypatch.setattr(surroundings, "_mkl_is_slow", lambda: True)
    labels, columns = unit(301, 40, seed=1), unit(7, 40, seed=2).T
    made = []
    conv2d = torch.nn.functional.conv2d
    monkeypatch.setattr(torch.nn.functional, "conv2d", lambda *args: made.append(1) or conv2d(*args))
    exact = (labels.double() @ columns.double()).float()

    def check(by_onednn):
        made.clear()
        torch.testing.assert_close(surroundings.tall_product(labels, columns), exact, atol=5e-7, rtol=0)
        assert bool(made) == by_onednn

    check(by_onednn=True)
    torch._C._set_mkldnn_enabled(False)
    try:
        check(by_onednn=False)
    finally:
        torch._C._set_mkldnn_enabled(True)
    torch.set_float32_matmul_precision("medium")
    try:
        check(by_onednn=False)
    finally:
        torch.set_float32_matmul_precision("highest")


@pytest.mark.parametrize("labels", [torch.float32, torch.float16])
def test_kernels_do_not_depend_on_how_a_thread_treats_denormal_numbers(labels):
    if "native" not in kernels.available():
        pytest.skip("the native extension was not compiled")
    z, matrix = unit(33, 40), unit(700, 40, seed=2)
    matrix[:, ::3] *= 1e-5  # below the normal numbers of float16
    matrix = nn.functional.normalize(matrix, dim=1).to(labels)
    logits = torch.linspace(-95, -80, 1000).repeat(3, 1)

    def compute():
        stored = native.exp_store(z, matrix, 100.0)
        shares = native.prefix_share(torch.zeros(3), logits, 1)
        return stored.lse, stored.values, native.segment_colsum_stored(stored, [(0, 33)]), shares

    expected = compute()
    assert torch.set_flush_denormal(True)
    try:
        found = compute()
    finally:
        torch.set_flush_denormal(False)
    assert_same_state(found, expected)


@pytest.mark.parametrize("name", MAKERS)
def test_denormal_scores_may_become_zero_and_nothing_else_changes(name):
    batches = stream()
    expected = run(MAKERS[name], batches)
    torch.set_flush_denormal(True)
    try:
        found = run(MAKERS[name], batches)
    finally:
        torch.set_flush_denormal(False)
    torch.testing.assert_close(found["scores"], expected["scores"], atol=2e-38, rtol=0)


@pytest.mark.parametrize("name", MAKERS)
def test_any_layout_of_the_same_rows_gives_the_same_scores(name):
    z = stream()[0]
    expected = MAKERS[name](bank())(z)
    strided = torch.empty(40, 32)
    strided[:, ::2] = z
    channels_last = z.view(40, 16, 1, 1).contiguous(memory_format=torch.channels_last).flatten(1)
    negated = torch.complex(torch.zeros_like(z), -z).conj().imag
    assert negated.is_neg()
    wanted = z.clone().requires_grad_()
    layouts = {
        "strided": strided[:, ::2],
        "transposed": z.T.contiguous().T,
        "channels last": channels_last,
        "lazily negated": negated,
        "of a graph": wanted,
        "a result of a graph": wanted * 1,
        "a parameter": nn.Parameter(z.clone()),
        "float64": z.double(),
        "an array": z.numpy(),
        "an array of Fortran's order": np.asfortranarray(z.numpy()),
    }
    for layout, rows in layouts.items():
        scores = MAKERS[name](bank())(rows)
        assert torch.equal(scores, expected), layout
        assert not scores.requires_grad, layout


def test_a_subclass_of_tensors_is_scored_as_its_values():
    class Tagged(torch.Tensor):
        pass

    z = stream()[0]
    scores = MAKERS["TANL"](bank())(z.as_subclass(Tagged))
    assert type(scores) is torch.Tensor
    assert torch.equal(scores, MAKERS["TANL"](bank())(z))


@pytest.mark.parametrize("threads", [1, 2, 5])
@pytest.mark.parametrize("name", MAKERS)
def test_scores_do_not_hang_on_the_number_of_threads(name, threads):
    batches = stream()
    expected = run(MAKERS[name], batches)["scores"]
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        found = run(MAKERS[name], batches)["scores"]
    finally:
        torch.set_num_threads(before)
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-6)


UNUSABLE = {
    "z of float64": (lambda z, labels: (z.double(), labels), TypeError),
    "labels of bfloat16": (lambda z, labels: (z, labels.bfloat16()), TypeError),
    "labels on another device": (lambda z, labels: (z, labels.to("meta")), ValueError),
    "another width": (lambda z, labels: (z[:, 1:], labels), ValueError),
    "sparse rows": (lambda z, labels: (z.to_sparse(), labels), (TypeError, ValueError)),
}


@pytest.mark.parametrize("case", UNUSABLE)
def test_the_native_kernels_check_what_they_are_pointed_at(case):
    if "native" not in kernels.available():
        pytest.skip("the native extension was not compiled")
    spoil, error = UNUSABLE[case]
    z, labels = spoil(unit(5, 16), unit(9, 16))
    for call in (
        lambda: native.row_lse(z, labels, 1.0),
        lambda: native.exp_store(z, labels, 1.0),
        lambda: native.segment_colsum(z, labels, 1.0, torch.zeros(5), [(0, 5)]),
    ):
        with pytest.raises(error):
            call()


def test_kernels_refuse_sizes_that_do_not_fit(backend):
    module = kernels.reference if backend == "reference" else native
    z, labels = unit(5, 16), unit(9, 16)
    stored = module.exp_store(z, labels, 1.0)
    for segments in ([(0, 6)], [(-1, 3)], [(4, 3)], [(0, 5), (0, 1 << 40)]):
        with pytest.raises(ValueError, match="is no range of 5 rows"):
            module.segment_colsum_stored(stored, segments)
        with pytest.raises(ValueError, match="is no range of 5 rows"):
            module.segment_colsum(z, labels, 1.0, stored.lse, segments)
    with pytest.raises(ValueError, match="at least one value"):
        module.stable_topk(torch.zeros(0, dtype=torch.float64), 3)
    with pytest.raises(ValueError, match="at least one value"):
        module.stable_topk(torch.zeros(5), 0)
    for place in (0, 7, 99):
        values = torch.arange(100.0, dtype=torch.float64).index_fill(0, torch.tensor([place]), torch.nan)
        with pytest.raises(ValueError, match="must not be NaN"):
            module.stable_topk(values, 10)
    assert module.stable_topk(torch.tensor([-torch.inf, torch.inf, 0.0]), 3).tolist() == [1, 2, 0]


def test_the_native_kernels_refuse_memory_that_is_too_small():
    if "native" not in kernels.available():
        pytest.skip("the native extension was not compiled")
    with pytest.raises(ValueError, match=r"id_lse must have shape \[5\], not \[4\]"):
        native.prefix_share(torch.zeros(4), torch.zeros(5, 7), 1)
    with pytest.raises(
        TypeError, match=r"id_lse must be a plain tensor of torch\.float32, not torch\.float64"
    ):
        native.prefix_share(torch.zeros(5, dtype=torch.float64), torch.zeros(5, 7), 1)
    with pytest.raises(ValueError, match="no step below 0"):
        native.prefix_share(torch.zeros(5), torch.zeros(5, 7), -1)
    with pytest.raises(ValueError, match="must be a negative"):
        native.prefix_share(torch.zeros(5), torch.zeros(5, 0), 1)
    stored = native.exp_store(unit(5, 16), unit(9, 16), 1.0)
    small = kernels.StoredExponentials("native", stored.values[:-1], stored.maxima, stored.lse, 9)
    with pytest.raises(ValueError, match="values must have shape"):
        native.segment_colsum_stored(small, [(0, 5)])


# What makes a tensor of the process's default dtype or on its default device, unless it is told otherwise.
FACTORIES = {
    *("arange", "as_tensor", "asarray", "empty", "empty_strided", "eye", "full", "linspace", "logspace"),
    *("normal", "ones", "rand", "randint", "randn", "randperm", "scalar_tensor", "tensor", "zeros"),
    *("sparse_coo_tensor", "tril_indices", "triu_indices", "hann_window", "complex", "polar"),
}
OF_DEFAULT_DTYPE = {
    "Tensor",
    "FloatTensor",
    "DoubleTensor",
    "HalfTensor",
    "set_default_dtype",
    "set_default_device",
}


def untold(source: str) -> list[str]:
    """Calls that leave dtype or device to the process, each with its line."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
            continue
        if not isinstance(node.func.value, ast.Name) or node.func.value.id != "torch":
            continue
        told = {keyword.arg for keyword in node.keywords}
        if node.func.attr in OF_DEFAULT_DTYPE or (
            node.func.attr in FACTORIES and not {"dtype", "device"} <= told
        ):
            found.append(f"line {node.lineno}: {ast.unparse(node)}")
        if node.func.attr == "Generator" and not (node.args or "device" in told):
            found.append(f"line {node.lineno}: {ast.unparse(node)}")
    return found


def test_every_new_tensor_is_told_its_dtype_and_device():
    found = {
        str(path.relative_to(ROOT)): untold(path.read_text(encoding="utf-8")) for path in ROOT.rglob("*.py")
    }
    assert not {path: calls for path, calls in found.items() if calls}


def test_the_check_of_new_tensors_sees_what_it_is_for():
    bad = ["torch.empty(3)", "torch.zeros(3, dtype=d)", "torch.arange(3, device=x)", "torch.Tensor(3)"]
    bad += ["torch.Generator()", "f(torch.full((1,), 2.0))", "torch.set_default_dtype(d)"]
    for line in bad:
        assert untold(line), line
    good = ["torch.zeros(3, dtype=d, device=x)", "torch.zeros_like(x)", "x.new_empty(3)"]
    for line in [*good, 'torch.Generator("cpu")']:
        assert not untold(line), line


def test_native_kernels_refuse_no_labels(monkeypatch):
    """They would read behind the end of their memory."""
    if "native" not in kernels.available():
        pytest.skip("the native extension was not compiled")
    monkeypatch.setenv("TANL_KERNELS", "native")
    z, none = unit(3, 16), torch.empty(0, 16)
    for call in (
        lambda: kernels.row_lse(z, none, 10.0),
        lambda: kernels.exp_store(z, none, 10.0),
        lambda: kernels.segment_colsum(z, none, 10.0, torch.zeros(3), [(0, 3)]),
    ):
        with pytest.raises(ValueError, match="there are no labels; give at least one"):
            call()


class RefusedOnAGPU(TorchDispatchMode):
    """Raises where torch would on a GPU, told to use deterministic algorithms: what its documentation lists."""

    NAMES = frozenset(
        {"histc", "index_reduce", "kthvalue", "median", "nanmedian", "put_", "scatter_add", "scatter_reduce"}
    )

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        floating = isinstance(args[0], torch.Tensor) and args[0].is_floating_point() if args else False
        weighted = args[1:2] not in ((), (None,)) or (kwargs or {}).get("weights") is not None
        if name in self.NAMES or (name == "cumsum" and floating) or (name == "bincount" and weighted):
            raise RuntimeError(f"{name} does not have a deterministic implementation")
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("name", MAKERS)
def test_no_operation_has_to_be_refused_where_a_gpu_is_told_to_repeat_itself(name, monkeypatch):
    batches = stream()
    monkeypatch.setenv("TANL_KERNELS", "reference")
    expected = run(MAKERS[name], batches)
    monkeypatch.setattr(reference, "must_repeat", lambda device: True)
    with deterministic(), RefusedOnAGPU():
        found = run(MAKERS[name], batches)
    torch.testing.assert_close(found["scores"], expected["scores"], atol=1e-6, rtol=1e-5)


def test_refusing_operations_see_those_that_were_used():
    for refused in (
        lambda: torch.rand(3, 4).cumsum(1),
        lambda: torch.bincount(torch.tensor([0, 1]), weights=torch.rand(2)),
        lambda: torch.rand(5).kthvalue(2),
    ):
        with RefusedOnAGPU(), pytest.raises(RuntimeError, match="deterministic"):
            refused()


@pytest.mark.parametrize("shape", [(1, 1), (3, 2), (2, 63), (5, 1001)])
def test_running_sums_by_doubling_are_running_sums(shape, monkeypatch):
    monkeypatch.setattr(reference, "must_repeat", lambda device: True)
    values = torch.rand(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    torch.testing.assert_close(reference.running_sum(values), values.cumsum(1), atol=0, rtol=1e-14)


@pytest.mark.parametrize("name", ["TANL", "TANL, practice", "AdaNeg"])
def test_a_device_without_float64_is_refused_in_a_line(name, monkeypatch):
    labels = bank()
    monkeypatch.setattr(tanl.LabelBank, "device", torch.device("mps"))
    with pytest.raises(ValueError, match=r"adds up in float64, which mps has not; use the CPU"):
        MAKERS[name](labels)


class Pixels:
    """A tensor of a GPU, as far as streams are concerned."""

    is_cuda, device = True, torch.device("cuda", 0)

    def __init__(self, log):
        self.log = log

    def record_stream(self, stream):
        self.log.append(f"held for {stream}")


def test_pixels_of_another_stream_are_waited_for_and_held(monkeypatch):
    log = []
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: log.append(f"waited for {device}"))
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: f"a stream of {device}")
    pixels = Pixels(log)
    assert surroundings.finished(pixels) is pixels
    assert surroundings.held(pixels) is pixels
    assert log == ["waited for cuda:0", "held for a stream of cuda:0"]
    on_the_cpu = torch.zeros(3)
    assert surroundings.held(surroundings.finished(on_the_cpu)) is on_the_cpu
    assert len(log) == 2
