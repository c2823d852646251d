"""Words that a function proposes for outliers become negatives: new ones, so many, and no ID label's."""

import pytest
import torch
from colour_backbone import ColourBackbone

import tanl

WORDS = [f"word {letter}{number}" for letter in "abcd" for number in range(10)]


def pixels(count, seed=0):
    return torch.rand(count, 3, 4, 4, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def guard(tmp_path):
    guard = tanl.Guard(
        ColourBackbone(), ["cat", "dog"], corpus=WORDS, method="tanl-paper", cache_dir=tmp_path
    )
    guard.calibrate(pixels(20), 0.5)
    return guard


class Proposer:
    def __init__(self, *words):
        self.words, self.seen = list(words), []

    def __call__(self, images):
        self.seen.append(images)
        return self.words


def test_new_words_are_added_for_the_most_ood_images(guard):
    propose = Proposer(
        "granite", " violin ", "Granite", "word a0", "WORD A1", "true cat", "hound", "", "x" * 500
    )
    judge = tanl.Proposals(guard, propose, images=3)
    images = pixels(30, seed=5)
    twin = guard.score(images)
    detection = judge(images)
    assert torch.equal(detection.ood_score, twin)  # this batch is judged without the words
    assert judge.last is detection
    (asked,) = propose.seen
    flagged = [
        row for row in detection.ood_score.sort(descending=True).indices.tolist() if detection.is_ood[row]
    ]
    assert len(flagged) > 3
    assert [row.tolist() for row in asked] == [images[row].tolist() for row in sorted(flagged[:3])]
    # Not the labels' synonyms, nor what is there, nor what is no word.
    assert judge.added == ("granite", "violin")
    assert guard.bank.negative_names[-2:] == ("granite", "violin")
    assert guard.detector.bank is guard.bank
    judge(images)
    assert judge.added == ("granite", "violin") and len(propose.seen) == 2


def test_no_more_words_are_added_than_allowed_and_then_nothing_is_asked(guard):
    propose = Proposer(*(f"thing {i}" for i in range(10)))
    judge = tanl.Proposals(guard, propose, most=4)
    judge(pixels(30, seed=5))
    assert judge.added == tuple(f"thing {i}" for i in range(4))
    judge(pixels(30, seed=6))
    assert len(propose.seen) == 1 and guard.bank.num_negatives == 44


def test_batches_without_outliers_ask_for_nothing(guard):
    propose = Proposer("granite")
    guard.detector.calibrate(torch.ones(30), 0.9)
    tanl.Proposals(guard, propose)(pixels(10))
    assert propose.seen == []


def test_an_error_of_the_function_leaves_the_verdicts_and_the_labels(guard):
    def fails(images):
        raise RuntimeError("the model is away")

    judge = tanl.Proposals(guard, fails)
    names = guard.bank.names
    with pytest.raises(RuntimeError, match="the model is away"):
        judge(pixels(30, seed=5))
    assert len(judge.last) == 30 and guard.bank.names == names
    for words, kind, message in (
        ("granite", TypeError, "not the one string 'granite'"),
        ([3], TypeError, r"words must be strings; got 3 \(int\)"),
    ):
        with pytest.raises(kind, match=message):
            tanl.Proposals(guard, lambda images, words=words: words)(pixels(30, seed=5))
    assert guard.bank.names == names


def test_add_new_negatives_takes_what_add_negatives_would(guard):
    assert guard.add_new_negatives(["word a0", "cat", "cats"]) == ()
    assert guard.add_new_negatives(["granite", "violin", "cloud"], most=2) == ("granite", "violin")
    with pytest.raises(ValueError, match="already in the corpus"):
        guard.add_negatives(["granite"])


def test_unusable_arguments_are_refused(guard, tmp_path):
    without = tanl.Guard(ColourBackbone(), ["cat", "dog"], method="mcm", cache_dir=tmp_path)
    fresh = tanl.Guard(ColourBackbone(), ["cat", "dog"], corpus=WORDS, method="neglabel", cache_dir=tmp_path)
    for make, kind, message in (
        (lambda: tanl.Proposals(guard.detector, list), TypeError, "guard must be a Guard"),
        (lambda: tanl.Proposals(guard, "words"), TypeError, "propose must be a function"),
        (lambda: tanl.Proposals(without, list), ValueError, "has no corpus"),
        (lambda: tanl.Proposals(guard, list, most=0), ValueError, "most must be"),
        (
            lambda: tanl.Proposals(fresh, list)(pixels(3)),
            ValueError,
            "no threshold yet, so that no image is OOD",
        ),
    ):
        with pytest.raises(kind, match=message):
            make()
