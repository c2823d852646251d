"""Verdicts in words."""

from __future__ import annotations

import pytest
import torch

import tanl


def test_verdicts_explain_themselves_in_words():
    evidence = (tanl.Evidence("basketball player", 0.297), tanl.Evidence("basketball", 0.0042))
    detection = tanl.Detection(
        torch.tensor([0.9143, 0.0359]),
        torch.tensor([True, False]),
        ["dragon", "dragon"],
        torch.tensor([0.11, 0.372]),
        [evidence, ()],
    )
    assert detection.describe() == [
        "OOD (0.914): basketball player 30%, basketball 0.42%",
        "ID (0.036): dragon 37%",
    ]
    assert detection[0].describe() == detection.describe()[0]


def test_verdicts_without_threshold_or_evidence_claim_nothing_more():
    assert tanl.Verdict(0.5, None, "cat", 0.8, ()).describe() == "no verdict (0.500): cat 80%"
    assert tanl.Verdict(0.97, True, "cat", 0.8, ()).describe() == "OOD (0.970)"  # not that it is like a cat


def detection(count, *, decided=True):
    scores = torch.linspace(0, 1, count)
    evidence = tuple((tanl.Evidence(f"word {i}", 0.5),) for i in range(count))
    return tanl.Detection(
        scores,
        scores > 0.5 if decided else None,
        [f"label {i}" for i in range(count)],
        scores / 2,
        list(evidence),
    )


@pytest.mark.parametrize("decided", [True, False])
@pytest.mark.parametrize(
    "rows",
    [slice(0, 2), slice(None), slice(-3, None), slice(None, None, -1), slice(1, 100, 3), slice(4, 2)],
    ids=str,
)
def test_a_slice_is_the_detection_of_those_images(rows, decided):
    whole = detection(7, decided=decided)
    part = whole[rows]
    assert isinstance(part, tanl.Detection)
    assert list(part) == list(whole)[rows]
    assert len(part) == len(part.ood_score) == len(part.id_probability) == len(part.evidence)
    assert part.ood_score.dtype == whole.ood_score.dtype
    assert (part.is_ood is None) is not decided
    if decided:
        assert part.is_ood.dtype == torch.bool
    assert part.describe() == whole.describe()[rows]


def test_a_verdict_is_counted_from_the_end_too():
    assert detection(7)[-1] == detection(7)[6]
    with pytest.raises(IndexError):
        detection(7)[7]
