"""No step ever holds the softmax of a whole batch over all labels."""

import torch
from torch.utils._python_dispatch import TorchDispatchMode

import tanl
from conftest import unit

BATCH, LABELS = 256, 30_000


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


def test_tanl_and_neglabel_never_hold_a_batch_of_all_activations():
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
        assert 0 < largest.elements < BATCH * LABELS / 3
    ring = detectors[0].state.negative
    assert len(ring) > 100  # most of the batch was confident, so the label matrix was streamed for it
