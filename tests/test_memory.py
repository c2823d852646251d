"""What a step holds at once, and what a stream keeps."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import tanl
from conftest import unit
from tanl import kernels

BATCH, LABELS, ROWS = 256, 30_000, 130


class LargestTensor(TorchDispatchMode):
    """Remembers the number of elements of the largest tensor that any operation gave."""

    def __init__(self):
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for value in result if isinstance(result, tuple | list) else (result,):
            if isinstance(value, torch.Tensor):
                self.elements = max(self.elements, value.numel())
        return result


@pytest.mark.parametrize("backend", ["reference", "native"])
def test_no_step_holds_more_exponentials_than_its_backend_allows(monkeypatch, backend):
    if backend not in kernels.available():
        pytest.skip("the native extension was not compiled")
    monkeypatch.setenv("TANL_KERNELS", backend)
    monkeypatch.setattr(f"tanl.kernels.{backend}.STORED_BYTES", 4 * ROWS * LABELS)
    bank = tanl.LabelBank([str(i) for i in range(LABELS)], unit(LABELS, 8), num_id=10, logit_scale=50.0)
    detectors = [
        tanl.TANL(bank, num_selected=500, initial_ood=unit(15, 8), gap=0.0),
        tanl.NegLabel(bank, num_negatives=None, groups=1),
    ]
    z = bank.embeddings[: 20 * BATCH : 20]
    for detector in detectors:
        with LargestTensor() as largest:
            detector(z)
            detector(z)
            detector.explain(z[:64])
        assert 0 < largest.elements < (ROWS + 16) * (LABELS + 96)
    ring = detectors[0].state.negative
    assert len(ring) > 100  # most of the batch was confident, so the label matrix was streamed for it


def kept_bytes(state):
    """The storage that a stream holds on to, each piece of it once."""
    rings = [state.positive, state.negative]
    held = [t for ring in rings for t in (ring._rows, ring._sums, ring._whole) if t is not None]
    storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in (*held, state.history)}
    return sum(storages.values())


def test_a_stream_keeps_at_most_12_mb_at_70_000_labels():
    labels, dim, batch = 70_000, 512, 37
    bank = tanl.LabelBank([str(i) for i in range(100 + labels)], unit(100 + labels, dim), num_id=100)
    detector = tanl.TANL(bank, num_selected=50, initial_ood=unit(15, dim), gap=0.0, capacity=300)
    state, largest = detector.state, 0
    for i in range(9):
        ids, outliers = (unit(batch + 3 * i, dim, seed=2 * i + j) for j in (1, 2))
        state.commit(*state.prepare(ids, outliers))
        largest = max(largest, kept_bytes(state))
    assert len(state.positive) == len(state.negative) == 300
    assert 8e6 < largest <= 12e6
