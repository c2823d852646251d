"""TANL's step in fixed shapes: the detector's own, without a wait, and the same operations whatever the batch is."""

import pytest
import torch
from states import assert_same_state, state_of
from torch.utils._python_dispatch import TorchDispatchMode

import tanl
from conftest import golden, golden_bank, golden_tanl, unit
from tanl.detectors import captured
from tanl.detectors.captured import CapturedTANL
from tanl.kernels import triton
from tools.speed.data import Features


def made(batch, *, capacity=60, **settings):
    """A detector on structured features, and its stream's batches."""
    features = Features(30, 400, 24, batch, seed=1)
    names = [f"label {i}" for i in range(430)]
    bank = tanl.LabelBank(names, features.labels(), num_id=30, logit_scale=100.0)
    settings = {"num_selected": 80, "initial_ood": features.known_ood, **settings}
    return tanl.TANL(bank, capacity=capacity, **settings), features.batch


def assert_close_states(found, expected):
    assert found["running_threshold"] == expected["running_threshold"]
    ours, theirs = found["stream"], expected["stream"]
    for name in ours.keys() - {"history", "positive", "negative"}:
        assert_same_state(ours[name], theirs[name], name)
    torch.testing.assert_close(ours["history"], theirs["history"], atol=1e-6, rtol=0)
    for ring in ("positive", "negative"):
        assert ours[ring]["total"] == theirs[ring]["total"]
        assert torch.equal(ours[ring]["rows"], theirs[ring]["rows"])
        torch.testing.assert_close(ours[ring]["lse"], theirs[ring]["lse"], atol=2e-5, rtol=0)
        torch.testing.assert_close(ours[ring]["sums"], theirs[ring]["sums"], atol=1e-6, rtol=1e-4)
        assert (ours[ring]["front"] is None) == (theirs[ring]["front"] is None)
        if ours[ring]["front"] is not None:
            torch.testing.assert_close(ours[ring]["front"], theirs[ring]["front"], atol=2e-6, rtol=1e-4)


@pytest.mark.parametrize("initial", [True, False])
@pytest.mark.parametrize(
    ("batch", "capacity"), [(1, 60), (7, 60), (64, 60), (64, 300), (64, 20), (63, 1), (100, 33), (40, 40)]
)
def test_steps_are_those_of_the_detector(batch, capacity, initial):
    settings = {} if initial else {"initial_ood": None}
    detector, batches = made(batch, capacity=capacity, **settings)
    other, _ = made(batch, capacity=capacity, **settings)
    steps = CapturedTANL(other, batch)
    for i in range(12 if batch < 20 else 6):
        torch.testing.assert_close(steps(batches(i)), detector(batches(i)), atol=2e-6, rtol=1e-4)
        steps.commit()
        assert_close_states(other.state_dict(), detector.state_dict())


def test_steps_agree_with_the_published_stream():
    case = golden("aware_score_batch")
    detector = golden_tanl(case, golden_bank(case))
    steps = CapturedTANL(detector, len(case["images"][0]))
    for images, expected in zip(case["images"], case["scores"], strict=True):
        torch.testing.assert_close(1 - steps(images), expected, atol=1e-5, rtol=0)


def test_a_stream_goes_on_after_commits_and_the_detector_stays_until_then():
    detector, batches = made(32)
    for i in range(3):
        detector(batches(i))
    before, expected = state_of(detector), made(32)[0]
    for i in range(3):
        expected(batches(i))
    steps = CapturedTANL(detector, 32)
    steps(batches(3))
    assert_same_state(detector.state_dict(), before)
    steps(batches(4))
    steps.commit()
    for i in (3, 4):
        expected(batches(i))
    short = batches(5)[:5]
    torch.testing.assert_close(detector(short), expected(short), atol=2e-6, rtol=1e-4)


class Shapes(TorchDispatchMode):
    """The operations and their shapes, in order: what a graph would hold."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        results = result if isinstance(result, tuple | list) else [result]
        shapes = [tuple(each.shape) for each in results if isinstance(each, torch.Tensor)]
        self.seen.append((str(func), shapes))
        return result


@pytest.fixture
def as_on_a_gpu(monkeypatch):
    """The reference, which runs anywhere, but for the ranking, for which it selects and the GPU's backend sorts."""
    monkeypatch.setenv("TANL_KERNELS", "reference")
    monkeypatch.setattr(captured.kernels, "stable_topk", triton.stable_topk)


@pytest.mark.usefixtures("as_on_a_gpu")
def test_operations_and_shapes_do_not_hang_on_the_images():
    """So that a step can be captured once: with none confident, few, many, and rings empty, filling and full."""
    detector, batches = made(40, initial_ood=None)
    steps = CapturedTANL(detector, 40)
    sequences = []
    for z in [*map(batches, range(4)), unit(40, 24, seed=9), batches(5)[:1].repeat(40, 1)]:
        with Shapes() as shapes:
            steps(z)
        sequences.append(shapes.seen)
    assert len(sequences[0]) > 100
    for sequence in sequences[1:]:
        for found, first in zip(sequence, sequences[0], strict=True):
            assert found == first


def test_memory_of_the_step_stays_where_it_is():
    """A graph reads and writes at the addresses that it was captured with."""
    detector, batches = made(16)
    steps = CapturedTANL(detector, 16)
    held = steps.kept
    before = [tensor.data_ptr() for tensor in held]
    for i in range(5):
        steps(batches(i))
        steps.commit()
    assert [tensor.data_ptr() for tensor in held] == before


def test_capturing_changes_nothing_and_happens_after_a_warm_up(monkeypatch):
    log = []

    class Nothing:
        def __init__(self, *args):
            pass

        def __enter__(self):
            log.append("entered")

        def __exit__(self, *error):
            log.append("left")

        def wait_stream(self, stream):
            pass

    class Graph:
        def replay(self):
            log.append("replayed")

    for name in ("Stream", "stream", "device", "graph"):
        monkeypatch.setattr(torch.cuda, name, Nothing)
    monkeypatch.setattr(torch.cuda, "current_stream", Nothing)
    monkeypatch.setattr(torch.cuda, "CUDAGraph", Graph)
    state = torch.zeros(3)

    def advance():
        log.append("advanced")
        state.add_(1)

    replay = captured.captured(advance, [state])
    entered, left, advanced = "entered", "left", "advanced"
    assert log == [entered, entered, *[advanced] * 3, left, entered, advanced, left, left]
    assert state.tolist() == [0, 0, 0]
    replay()
    assert log[-1] == "replayed"


def test_what_cannot_be_captured_is_told():
    detector, batches = made(16)
    with pytest.raises(TypeError, match="not one of a MCM"):
        CapturedTANL(tanl.MCM(detector.bank), 16)
    for name, value in (("memory", "guarded"), ("final_pass", "float16"), ("weighing", "balanced")):
        with pytest.raises(ValueError, match=f"not with {name}='{value}'"):
            CapturedTANL(made(16, **{name: value})[0], 16)
    with pytest.raises(ValueError, match="batch_size must be at least 1, not 0"):
        CapturedTANL(detector, 0)
    steps = CapturedTANL(detector, 16)
    before = steps(batches(0))
    with pytest.raises(ValueError, match="captured for 16 rows, not 3"):
        steps(batches(0)[:3])
    with pytest.raises(ValueError, match="norm"):
        steps(2 * batches(0))
    again = CapturedTANL(detector, 16)
    assert torch.equal(again(batches(0)), before)
    detector.calibrate_embeddings(batches(3).repeat(2, 1))
    with pytest.raises(ValueError, match="follows its images"):
        CapturedTANL(detector, 16)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_a_replayed_step_is_the_detectors():
    detector, batches = made(64)
    bank = detector.bank.to("cuda")
    eager = tanl.TANL(bank, num_selected=80, capacity=60, initial_ood=detector.initial_ood.cuda())
    other = tanl.TANL(bank, num_selected=80, capacity=60, initial_ood=detector.initial_ood.cuda())
    steps = CapturedTANL(other, 64)
    for i in range(8):
        z = batches(i).cuda()
        torch.testing.assert_close(steps(z), eager(z), atol=1e-5, rtol=1e-4)
    steps.commit()
    assert_close_states(other.state_dict(), eager.state_dict())
