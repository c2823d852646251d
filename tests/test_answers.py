"""One answer an image: a label or "unknown", with a probability that agrees with the verdict."""

import pytest
import torch
from colour_backbone import ColourBackbone

import tanl
from conftest import unit
from tanl.detectors.verdict import answers, detect_embeddings

WORDS = [f"word {letter}{number}" for letter in "abcd" for number in range(10)]


def detectors(bank):
    return {
        "NegLabel": tanl.NegLabel(bank, num_negatives=50, groups=3),
        "AdaNeg": tanl.AdaNeg(bank, num_negatives=50, groups=3, gap=0.2, lambda_value=0.5),
        "TANL": tanl.TANL(bank, num_selected=20, capacity=30, initial_ood=unit(15, 16, seed=9)),
        "CSP": tanl.CSP(bank, share=0.5, groups=3),
    }


@pytest.mark.parametrize("method", ["NegLabel", "AdaNeg", "TANL", "CSP"])
def test_unknown_is_said_exactly_where_an_image_is_ood(bank, method):
    detector = detectors(bank)[method]
    z = unit(60, 16, seed=3)
    detector.calibrate(detector.score(z), 0.6)
    detection = detect_embeddings(detector, z)
    given = answers(detector, detection)
    whole = 1.5 if method == "AdaNeg" else 1.0
    t = detector.threshold / whole
    for answer, verdict in zip(given, detection, strict=True):
        u = verdict.ood_score / whole
        unknown = u * (1 - t) / (u * (1 - t) + t * (1 - u))
        assert (answer.label == "unknown") is verdict.is_ood is (unknown > 0.5)
        expected = unknown if verdict.is_ood else (1 - unknown) * verdict.id_probability
        assert answer.probability == pytest.approx(expected, rel=1e-4, abs=1e-6)
        assert answer.label in ("unknown", verdict.label)
    assert {answer.label == "unknown" for answer in given} == {True, False}


def test_scores_of_0_and_1_and_thresholds_there_have_answers(bank):
    detector = tanl.NegLabel(bank, num_negatives=50, groups=3)
    scores = torch.tensor([0.0, 0.5, 1.0])
    for threshold, probabilities in ((0.0, [0.0, 1.0, 1.0]), (1.0, [0.0, 0.0, 0.0]), (0.5, [0.0, 0.5, 1.0])):
        detector.calibrate(torch.full((20,), threshold), 0.9)
        is_ood = scores > threshold
        told = tanl.Detection(scores, is_ood, ["a"] * 3, torch.ones(3), [()] * 3)
        found = [
            a.probability if a.label == "unknown" else 1 - a.probability for a in answers(detector, told)
        ]
        assert found == pytest.approx(probabilities)


def test_a_guard_answers_and_learns_as_judge_does(tmp_path):
    pixels = torch.rand(40, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    one, two = (
        tanl.Guard(ColourBackbone(), ["red", "blue"], corpus=WORDS, cache_dir=tmp_path) for _ in range(2)
    )
    for guard in (one, two):
        guard.calibrate(pixels[:20])
    given, detection = one.answer(pixels[20:], unknown="neither"), two.judge(pixels[20:])
    assert [answer.label == "neither" for answer in given] == detection.is_ood.tolist()
    assert all(type(answer) is tanl.Answer and 0 <= answer.probability <= 1 for answer in given)
    assert torch.equal(one.score(pixels), two.score(pixels))


def test_what_has_no_answer_is_refused_before_anything_is_learnt(bank, tmp_path):
    pixels = torch.rand(20, 3, 4, 4)
    guard = tanl.Guard(ColourBackbone(), ["red", "blue"], corpus=WORDS, method="neglabel", cache_dir=tmp_path)
    with pytest.raises(ValueError, match="no threshold yet: call calibrate first"):
        guard.answer(pixels)
    guard.calibrate(pixels)
    with pytest.raises(ValueError, match="'red' is one of the ID labels"):
        guard.answer(pixels, unknown="red")
    energy = tanl.Guard(ColourBackbone(), ["red", "blue"], method="energy", cache_dir=tmp_path)
    energy.calibrate(pixels)
    with pytest.raises(ValueError, match="Energy's scores are no probabilities"):
        energy.answer(pixels)
    detector = tanl.NegLabel(bank, num_negatives=50)
    detection = detect_embeddings(detector, unit(3, 16))
    with pytest.raises(ValueError, match="NegLabel has no threshold yet"):
        answers(detector, detection)
    detector.calibrate(detector.score(unit(30, 16)), 0.9)
    with pytest.raises(TypeError, match="unknown must be text"):
        answers(detector, detection, unknown=None)
