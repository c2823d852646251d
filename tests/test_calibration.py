"""Thresholds: the conformal one keeps its promise, Otsu's parts two groups, and neither takes what it cannot use."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tanl.detectors.thresholds import threshold_at_tpr, threshold_from_stream


@pytest.mark.parametrize(("count", "tpr"), [(19, 0.95), (63, 0.9), (1001, 0.99)])
def test_conformal_threshold_keeps_its_share_of_new_images(count, tpr):
    """Over many draws of calibration images, the mean share of kept new images is at least tpr, and hardly more."""
    generator = torch.Generator().manual_seed(0)
    draws = torch.randn(4000, count, generator=generator).sigmoid()
    thresholds = torch.tensor([threshold_at_tpr(scores, tpr) for scores in draws])
    kept = torch.special.ndtr(
        torch.logit(thresholds, eps=1e-7)
    ).mean()  # a new image stays where it is at most that
    margin = 4 * (tpr * (1 - tpr) / (count * 4000)) ** 0.5
    assert tpr - margin <= kept <= tpr + 1 / (count + 1) + margin


@pytest.mark.parametrize(("low", "high"), [(0.0, 1.0), (-30.0, 5.0), (100.0, 100.01)])
def test_stream_threshold_parts_two_groups(low, high):
    """Whatever the range of a method's scores: MaxLogit and Energy have scores below zero."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.randn(501, generator=generator) * 0.05 + 0.2
    oods = torch.randn(301, generator=generator) * 0.05 + 0.8
    scores = low + (high - low) * torch.cat([ids, oods])
    threshold = threshold_from_stream(scores)
    flagged = scores > threshold
    assert float(flagged[:501].float().mean()) <= 0.01
    assert float(flagged[501:].float().mean()) >= 0.99


def test_stream_threshold_is_otsus_of_all_splits():
    """Against a search over every split of the scores: the variance within is no worse than a grid step's."""
    scores = torch.rand(101, generator=torch.Generator().manual_seed(1)) ** 2
    threshold = threshold_from_stream(scores)

    def within(t: float) -> float:
        sides = scores[scores > t], scores[scores <= t]
        return sum(len(side) * float(side.var(correction=0)) for side in sides if len(side))

    best = min(within(float(t)) for t in scores.sort().values[:-1])
    assert within(threshold) <= 1.02 * best


def test_stream_threshold_parts_a_stream_of_one_kind_too():
    """Its known failure, said in its docstring: without outliers it flags ID images."""
    scores = torch.randn(1001, generator=torch.Generator().manual_seed(0)) * 0.05 + 0.3
    share = float((scores > threshold_from_stream(scores)).float().mean())
    assert 0.3 < share < 0.7


@pytest.mark.parametrize(
    ("scores", "message"),
    [
        (torch.full((63,), 0.25), "63 scores without any difference"),
        (torch.zeros(1), "1 scores without any difference"),
        (torch.zeros(0), "0 scores without any difference"),
        (torch.zeros(3, 2), r"must have shape \[n\], not \[3, 2\]"),
        (torch.tensor([0.1, float("nan")]), "NaN or infinite"),
    ],
)
def test_stream_threshold_refuses_what_cannot_be_parted(scores, message):
    with pytest.raises(ValueError, match=message):
        threshold_from_stream(scores)


@pytest.mark.parametrize("threshold", [threshold_at_tpr, threshold_from_stream])
def test_scores_that_are_masked_or_no_numbers_are_refused(threshold):
    more = {"tpr": 0.5} if threshold is threshold_at_tpr else {}
    hidden = np.ma.masked_array([0.1, 0.2, 9.0], mask=[False, False, True])
    for scores, message in (
        (hidden, "must not be masked"),
        (["a", "b"], "must be a tensor"),
        (None, "must be a tensor"),
    ):
        with pytest.raises(TypeError, match=message):
            threshold(scores, **more)
    assert threshold(np.ma.masked_array([0.1, 0.2, 9.0]), **more) > 0
