"""Agreement with the published implementations, to 1e-5 in float32."""

import pytest
import torch

import tanl
from conftest import golden, golden_bank, golden_tanl
from tanl import kernels

TANL_CASES = [
    "aware_score_batch",
    "aware_score_distribution",
    "aware_score_mixed",
    "aware_score_step7_batch",
    "more_labels_than_queue",
    "plain_score_distribution",
]


@pytest.fixture(params=["reference", "native"], autouse=True)
def backend(request, monkeypatch):
    """Every backend that runs here; Triton's cases are in triton_cases.py."""
    if request.param not in kernels.available():
        pytest.skip("the native extension was not compiled")
    monkeypatch.setenv("TANL_KERNELS", request.param)


@pytest.mark.parametrize("name", TANL_CASES)
def test_tanl_matches_published_stream(name):
    case = golden(name)
    bank = golden_bank(case)
    detector = golden_tanl(case, bank)
    for batch, expected in enumerate(case["scores"]):
        pure = detector.score(case["images"][batch])
        scores = detector(case["images"][batch])
        assert torch.equal(pure, scores)
        torch.testing.assert_close(1 - scores, expected, atol=1e-5, rtol=0)
        assert 1 - detector.threshold == pytest.approx(float(case["thresholds"][batch]), abs=1e-6)
        assert len(detector.state.positive) == case["positive_queue_length"][batch]
        assert len(detector.state.negative) == case["negative_queue_length"][batch]
    for ring, expected in (
        (detector.state.positive, case["positive_activation"]),
        (detector.state.negative, case["negative_activation"]),
    ):
        torch.testing.assert_close(ring.mean.float(), expected, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("name", ["neglabel_one_group", "neglabel_seven_groups"])
def test_neglabel_matches_published_scores(name):
    case = golden(name)
    detector = tanl.NegLabel(golden_bank(case), num_negatives=None, groups=case["groups"], seed=None)
    for batch, expected in enumerate(case["scores"]):
        torch.testing.assert_close(1 - detector(case["images"][batch]), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", TANL_CASES)
def test_scores_do_not_depend_on_the_number_of_threads(name):
    case = golden(name)
    before, streams = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            detector = tanl.TANL(
                golden_bank(case),
                num_selected=case["num_negatives"],
                initial_ood=case["noise_features"],
                seed=None,
            )
            streams.append(torch.cat([detector(z) for z in case["images"]]))
    finally:
        torch.set_num_threads(before)
    for scores in streams[1:]:
        torch.testing.assert_close(scores, streams[0], atol=1e-6, rtol=0)
