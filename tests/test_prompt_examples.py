"""Examples for prompts: order, screening, rotations."""

import pytest
import torch
from torch.nn.functional import normalize

import tanl
from conftest import unit
from tanl.beyond.examples import order_examples, rotations, without_recency


def test_the_most_similar_is_the_last():
    pool, query = unit(63, 8), unit(1, 8, seed=1)
    found = order_examples(query, pool, 5)
    similarities = (pool @ query[0]).sort(descending=True)
    assert found.order.tolist() == similarities.indices[:5].flip(0).tolist()
    torch.testing.assert_close(found.similarities, similarities.values[:5].flip(0))
    assert len(found.screened) == 0


def test_examples_that_the_detector_flags_are_left_out_and_nothing_is_learnt(bank):
    near = normalize(bank.id_embeddings[torch.arange(20) % 7] + 0.05 * unit(20, 16, seed=3), dim=1)
    far = bank.negative_embeddings[:10]
    detector = tanl.NegLabel(bank, num_negatives=None)
    detector.calibrate_embeddings(near, 0.9)
    pool = torch.cat([near[:8], far])
    flagged = detector.predict(pool)
    assert flagged[8:].all() and not flagged[:8].all()
    found = order_examples(far[:1], pool, 18, detector=detector)
    assert found.screened.tolist() == flagged.nonzero()[:, 0].tolist()
    assert sorted(found.order.tolist()) == (~flagged).nonzero()[:, 0].tolist()


def test_a_detector_without_a_threshold_is_refused(bank):
    with pytest.raises((RuntimeError, ValueError), match="calibrate"):
        order_examples(unit(1, 16), unit(5, 16), 2, detector=tanl.MCM(bank))


@pytest.mark.parametrize(("k", "message"), [(0, "k must be at least 1"), (True, "k must be a whole number")])
def test_unusable_numbers_are_refused(k, message):
    with pytest.raises((ValueError, TypeError), match=message):
        order_examples(unit(1, 8), unit(5, 8), k)


def test_two_queries_are_refused():
    with pytest.raises(ValueError, match="query must be one row"):
        order_examples(unit(2, 8), unit(5, 8), 1)


def test_every_example_is_the_last_one_once():
    turned = rotations([3, 1, 2])
    assert turned == [[3, 1, 2], [1, 2, 3], [2, 3, 1]]
    assert sorted(each[-1] for each in turned) == [1, 2, 3]
    assert rotations([]) == []


def test_a_model_that_repeats_the_last_answer_gives_none_an_advantage():
    labels = {3: "a", 1: "b", 2: "c"}
    votes = [[labels[turn[-1]]] for turn in rotations([3, 1, 2])]
    assert without_recency("abc", votes) == pytest.approx({"a": 1 / 3, "b": 1 / 3, "c": 1 / 3})
    votes[0].append("b")  # what the query says once
    assert max(without_recency("abc", votes).items(), key=lambda item: item[1])[0] == "b"


@pytest.mark.parametrize("votes", [[], [["a"], []]])
def test_rotations_without_votes_are_refused(votes):
    with pytest.raises(ValueError, match="at least one answer"):
        without_recency("ab", votes)
