"""Scores of every method against its formula in float64: `python -m tools numerics` in short."""

import pytest
import torch

import tanl
from conftest import unit
from tanl import kernels
from tanl.detectors import Detector
from tanl.labels import bank
from tools.numerics import METHODS, Case, deviations

HALF, DOUBLE = torch.float16, torch.float64
CASES = [
    Case(),
    Case(1, 1, 50, 1, 1),
    Case(1, 12, 600, 600, 33, labels=HALF, images=DOUBLE),
    Case(100, 7, 1003, 1003, 63, labels=HALF),
    Case(1000, 12, 600, 600, 301, images=HALF),
    Case(1, 503, 600, 1, 5),
    Case(30, 12, 601, 50, 63, "tied"),
    Case(1000, 12, 601, 601, 301, "tied", HALF, HALF),
    Case(1, 1, 501, 500, 301, "tied", images=DOUBLE),
    Case(100, 12, 501, 501, 301, "identical"),
    Case(1000, 12, 501, 100, 63, "identical", HALF),
    Case(100, 12, 501, 501, 63, "all identical"),
    Case(1000, 1, 501, 1, 63, "all identical", HALF, DOUBLE),
    Case(30, 20_000, 150, 150, 2),
    Case(1000, 3, 150, 150, 4096),
]


@pytest.fixture(params=["reference", "native"])
def backend(request):
    if request.param not in kernels.available():
        pytest.skip("the native extension was not compiled")
    return request.param


@pytest.mark.parametrize("case", CASES, ids=str)
def test_scores_are_the_formulas_in_float64_and_the_same_each_time(backend, case):
    found = deviations(case, backend)
    assert found.keys() == {*METHODS} - ({"MCM"} if case.num_id == 1 else set())
    assert max(found.values()) <= 1, found


@pytest.mark.parametrize("method", METHODS)
def test_logits_that_are_off_by_a_hundred_thousandth_are_found(method, monkeypatch):
    checked = Detector._checked
    monkeypatch.setattr(Detector, "_checked", lambda self, z: checked(self, z) * (1 + 1e-5))
    assert deviations(Case(1, images=torch.float64), "reference", (method,))[method] > 1


def test_another_label_than_the_most_relevant_is_found(monkeypatch):
    best = kernels.stable_topk
    monkeypatch.setattr(kernels, "stable_topk", lambda values, k: best(values, k + 1)[1:])
    assert deviations(Case(), "reference", ("TANL (paper)",))["TANL (paper)"] > 1


def test_more_id_labels_than_older_torch_ranks_at_once_are_mined(monkeypatch):
    """Releases before took a quantile of 2**24 numbers at most, which are 4096 negatives with 4096 ID labels."""
    labels = tanl.LabelBank([str(i) for i in range(400)], unit(400, 16), num_id=250, logit_scale=30.0)
    whole = labels.mined(60).names
    parts = []
    monkeypatch.setattr(bank, "_MINING_CELLS", 250 * 7)
    quantile = torch.quantile

    def few(cosines, *arguments, **options):
        parts.append(cosines.numel())
        return quantile(cosines, *arguments, **options)

    monkeypatch.setattr(torch, "quantile", few)
    assert labels.mined(60).names == whole
    tanl.CSP(labels, groups=2)
    assert max(parts) == 250 * 7
    assert len(parts) == 2 * -(-150 // 7)
