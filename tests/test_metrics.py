"""OODMetrics against scikit-learn and cases done by hand."""

import numpy as np
import pytest
import torch
from sklearn.metrics import auc, precision_recall_curve, roc_auc_score, roc_curve

import tanl


def compute(scores, labels):
    metrics = tanl.OODMetrics()
    metrics.update(scores, labels)
    return metrics.compute()


@pytest.mark.parametrize("decimals", [1, 2, 8])
@pytest.mark.parametrize("seed", range(5))
def test_equals_scikit_learn_with_and_without_ties(seed, decimals):
    rng = np.random.default_rng(seed)
    labels = np.where(rng.random(500) < 0.3, -1, rng.integers(0, 9, 500))
    scores = (rng.normal(size=500) + (labels < 0)).round(decimals)
    is_ood = labels < 0
    found = compute(scores, labels)
    assert found["AUROC"] == pytest.approx(roc_auc_score(is_ood, scores))
    for name, positive, s in (("AUPR_OUT", is_ood, scores), ("AUPR_IN", ~is_ood, -scores)):
        precision, recall, _ = precision_recall_curve(positive, s)
        assert found[name] == pytest.approx(auc(recall, precision))
    for name, positive, s in (("FPR95", is_ood, scores), ("FPR95_ID", ~is_ood, -scores)):
        fpr, tpr, _ = roc_curve(positive, s, drop_intermediate=False)
        assert found[name] == pytest.approx(fpr[np.argmax(tpr >= 0.95)])


def test_perfect_and_useless_scores():
    labels = [0] * 30 + [-1] * 10
    perfect = compute([0.0] * 30 + [1.0] * 10, labels)
    assert (perfect["AUROC"], perfect["FPR95"], perfect["FPR95_ID"]) == (1.0, 0.0, 0.0)
    assert (perfect["AUPR_IN"], perfect["AUPR_OUT"]) == (1.0, 1.0)
    useless = compute([0.5] * 40, labels)
    assert (useless["AUROC"], useless["FPR95"], useless["FPR95_ID"]) == (0.5, 1.0, 1.0)


def test_the_two_meanings_of_fpr95_differ():
    # 20 OOD: 19 of them at 2, one at 0. 10 ID: nine at 1, one at 3.
    found = compute([2] * 19 + [0] + [1] * 9 + [3], [-1] * 20 + [0] * 10)
    assert found["FPR95"] == 0.1  # the threshold 2 catches 19 of 20 OOD and flags one ID of ten
    assert found["FPR95_ID"] == 1.0  # accepting 10 of 10 ID takes threshold 3, which accepts every OOD


def test_any_negative_label_is_ood_and_batches_merge():
    whole = compute(torch.arange(6.0), torch.tensor([0, 3, -7, 2, -1, -1]))
    first, second = tanl.OODMetrics(), tanl.OODMetrics()
    first.update([0.0, 1.0, 2.0], [0, 3, -7])
    second.update([3.0, 4.0, 5.0], [2, -1, -1])
    first.merge_state(second)
    assert first.compute() == whole
    assert (whole["num_id"], whole["num_ood"]) == (3, 3)
    first.reset()
    with pytest.raises(ValueError, match="there are 0 and 0"):
        first.compute()


@pytest.mark.parametrize(
    ("scores", "labels", "message"),
    [
        ([1.0, 2.0], [0], "must both be"),
        ([[1.0]], [[0]], "must both be"),
        ([0.0, float("nan")], [0, -1], "score 1 is nan"),
    ],
)
def test_refuses_what_it_cannot_count(scores, labels, message):
    metrics = tanl.OODMetrics()
    with pytest.raises(ValueError, match=message):
        metrics.update(scores, labels)


def test_needs_both_sides():
    with pytest.raises(ValueError, match="there are 2 and 0"):
        compute([0.0, 1.0], [0, 1])


@pytest.mark.parametrize(
    ("labels", "error", "message"),
    [
        ([0, float("nan")], ValueError, "label 1 is nan, not a whole number"),
        ([float("inf"), -1], ValueError, "label 0 is inf"),
        ([0.5, -1], ValueError, "label 0 is 0.5"),
        ([-0.5, 0], ValueError, "label 0 is -0.5"),
        (
            torch.tensor([True, False]),
            TypeError,
            "labels must be whole numbers, not bools: give 0 for ID and -1",
        ),
        (np.array([True, False]), TypeError, "bools"),
        (["0", "-1"], TypeError, "of dtype <U2"),
        ([None, -1], TypeError, "of dtype object"),
    ],
    ids=str,
)
def test_labels_that_say_neither_id_nor_ood_are_refused_and_nothing_is_added(labels, error, message):
    metrics = tanl.OODMetrics()
    metrics.update([0.0, 1.0], [0, -1])
    before = metrics.compute()
    with pytest.raises(error, match=message):
        metrics.update([0.0, 1.0], labels)
    assert metrics.compute() == before


def test_whole_labels_of_any_dtype_count_and_an_empty_batch_adds_nothing():
    scores, labels = [0.0, 1.0, 0.5, 2.0], [3, -1, 0, -7]
    expected = compute(scores, labels)
    for given in (
        np.array(labels, np.float32),
        torch.tensor(labels).bfloat16(),
        torch.tensor(labels).to(torch.int8),
    ):
        metrics = tanl.OODMetrics()
        metrics.update([], [])
        metrics.update(scores, given)
        assert metrics.compute() == expected


HIDDEN = np.ma.masked_array([0.1, 0.2, 0.8, 0.9], mask=[False, True, False, False])


@pytest.mark.parametrize(
    ("scores", "labels", "message"),
    [
        (HIDDEN, [0, 0, -1, -1], "scores must not be masked"),
        (
            [0.1, 0.2, 0.8, 0.9],
            np.ma.masked_array([0, 0, -1, -1], mask=[0, 0, 1, 0]),
            "labels must not be masked",
        ),
        (np.array([1j, 2, 3, 4]), [0, 0, -1, -1], "scores must be real numbers, not of dtype complex128"),
        (torch.tensor([1j, 2, 3, 4]), [0, 0, -1, -1], "scores must be real numbers, not of dtype complex64"),
        (["a", "b", "c", "d"], [0, 0, -1, -1], "scores must be real numbers, not of dtype <U1"),
        ([0.1, None, 0.8, 0.9], [0, 0, -1, -1], "scores must be real numbers, not of dtype object"),
    ],
)
def test_scores_and_labels_that_are_hidden_or_no_numbers_are_refused(scores, labels, message):
    metrics = tanl.OODMetrics()
    with pytest.raises(TypeError, match=message):
        metrics.update(scores, labels)
    with pytest.raises(ValueError, match="there are 0 and 0"):
        metrics.compute()


def test_a_mask_that_hides_nothing_and_scores_of_any_number_are_counted():
    for scores in (
        np.ma.masked_array([1, 2, 3, 4]),
        torch.tensor([1, 2, 3, 4]),
        torch.tensor([1, 2, 3, 4]).bfloat16(),
    ):
        metrics = tanl.OODMetrics()
        metrics.update(scores, np.ma.masked_array([0, 0, -1, -1]))
        assert metrics.compute()["AUROC"] == 1
