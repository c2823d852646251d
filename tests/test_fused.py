"""Fused: the detector's score and the terms', each against its formula; the stream's promises hold for both."""

import copy

import pytest
import torch
from states import assert_same_state, state_of

import tanl
from conftest import unit


class Texts:
    """Embeds a text by itself, and counts what it is asked for."""

    def __init__(self):
        self.asked = []

    def __call__(self, texts):
        self.asked += texts
        return torch.cat([unit(1, 16, seed=sum(map(ord, text))) for text in texts])


def neglabel(bank):
    return tanl.NegLabel(bank, num_negatives=50, groups=3)


def queue(images, scores, size):
    """The rows with the highest scores, by a sort of the whole stream: earlier ones first among equals."""
    order = sorted(range(len(images)), key=lambda i: (-scores[i], i))[:size]
    return torch.stack([images[i] for i in order]).double()


@pytest.mark.parametrize("size", [1, 7, 40, 2048])
@pytest.mark.parametrize("neighbours", [1, 5])
def test_dictionary_adds_the_cosine_to_a_neighbour_among_the_most_ood(bank, stream, size, neighbours):
    detector = tanl.Fused(neglabel(bank), tanl.VisualDictionary(size, neighbours, weight=0.7))
    alone = neglabel(bank)
    seen, told = [], []
    for z in stream:
        expected = alone.score(z).double()
        if seen:
            kept = queue(seen, told, size)
            cosines = (z.double() @ kept.T).sort(dim=1, descending=True).values
            expected = expected + 0.7 * cosines[:, min(neighbours, len(kept)) - 1]
        torch.testing.assert_close(detector(z), expected.float(), atol=1e-5, rtol=1e-5)
        seen += list(z)
        told += alone.score(z).tolist()
    (term,) = detector.terms
    assert len(term.rows) == min(size, len(seen))
    assert sorted(term.scores.tolist()) == sorted(sorted(told, reverse=True)[:size])


def test_dictionary_keeps_out_what_the_detector_is_not_sure_of(bank, stream):
    scores = torch.cat([neglabel(bank).score(z) for z in stream])
    least = float(scores.median())
    detector = tanl.Fused(neglabel(bank), tanl.VisualDictionary(least=least))
    for z in stream:
        detector(z)
    assert sorted(detector.terms[0].scores.tolist()) == sorted(scores[scores >= least].tolist())
    assert tanl.VisualDictionary(least=2.0).learnt(stream[0], scores[: len(stream[0])]).rows is None


@pytest.mark.parametrize("labels", [1, 2, 5, 100])
def test_pair_score_is_negrefines(bank, labels):
    texts, z = Texts(), unit(9, 16, seed=3)
    term = tanl.PairScore(texts, labels=labels, weight=2, template="a {}!")
    detector = tanl.Fused(neglabel(bank), term)
    names, negatives = detector.negatives()
    s, expected = bank.logit_scale, []
    for row in z.double():
        ids = (bank.id_embeddings.double() @ row).topk(min(labels, 7)).indices.tolist()
        best = (negatives.double() @ row).topk(min(labels, 50)).indices.tolist()
        values = []
        for p in ids:
            for n in best:
                t = unit(1, 16, seed=sum(map(ord, f"a {bank.id_names[p]} and {names[n]}!")))[0].double()
                both, alone = (s * (t @ row)).exp(), (s * (negatives[n].double() @ row)).exp()
                values.append(float(both / (both + alone)))
        expected.append(2 * (1 - max(values)))
    found = detector.score(z) - neglabel(bank).score(z)
    torch.testing.assert_close(found, torch.tensor(expected), atol=1e-4, rtol=1e-3)
    asked = len(texts.asked)
    assert asked == len(set(texts.asked)) <= 9 * min(labels, 7) * min(labels, 50)
    detector(z)
    assert len(texts.asked) == asked  # the pairs are kept


def test_pairs_that_are_kept_are_bounded(bank):
    texts = Texts()
    detector = tanl.Fused(neglabel(bank), tanl.PairScore(texts, kept=30))
    z = unit(12, 16, seed=3)
    whole, one_by_one = detector.score(z), torch.cat([detector.score(row[None]) for row in z])
    torch.testing.assert_close(whole, one_by_one, atol=1e-5, rtol=1e-5)
    assert len(texts.asked) > len(set(texts.asked))
    last = z[-1:]  # its 25 pairs are among the 30 that were needed last
    before = len(texts.asked)
    detector.score(last)
    assert len(texts.asked) == before
    detector.score(z[:1])
    assert len(texts.asked) > before
    with pytest.raises(ValueError, match="kept"):
        tanl.PairScore(texts, kept=0)


def test_the_detector_learns_as_alone_and_the_one_given_stays(bank, stream):
    given = tanl.TANL(bank, num_selected=20, capacity=30, initial_ood=unit(15, 16, seed=9))
    before, alone = state_of(given), copy.deepcopy(given)
    detector = tanl.Fused(given, tanl.VisualDictionary(50), tanl.PairScore(Texts()))
    for z in stream:
        pure, committed = detector.score(z), detector(z)
        torch.testing.assert_close(pure, committed, atol=0, rtol=0)
        alone(z)
    assert_same_state(given.state_dict(), before)
    assert_same_state(detector.detector.state_dict(), alone.state_dict())
    assert detector.memory_report() == alone.memory_report()
    detector.reset()
    assert detector.terms[0].rows is None and detector.detector.state.images == 0


@pytest.mark.parametrize("compact", [False, True])
def test_a_stream_goes_on_from_its_state(bank, stream, compact):
    def make():
        base = tanl.TANL(bank, num_selected=20, capacity=30, initial_ood=unit(15, 16, seed=9))
        return tanl.Fused(base, tanl.VisualDictionary(25), tanl.PairScore(Texts()))

    first, second = make(), make()
    second.load_state_dict(first.state_dict(compact=compact))  # an empty queue too
    for z in stream[:3]:
        first(z)
    first.calibrate(first.score(stream[3]), 0.8)
    second.load_state_dict(first.state_dict(compact=compact))
    for z in stream[3:]:
        torch.testing.assert_close(first(z), second(z), atol=1e-5 if compact else 0, rtol=0)
    assert second.threshold == first.threshold
    state = first.state_dict()
    for change, message in (
        (lambda s: s["terms"].pop("0"), "terms must hold 2 states"),
        (lambda s: s["terms"]["0"].pop("rows"), "must hold rows and scores"),
        (lambda s: s["terms"]["0"].update(scores=torch.zeros(3)), "the dictionary's scores"),
        (lambda s: s["terms"]["0"].update(rows=2 * s["terms"]["0"]["rows"]), "the dictionary's rows"),
        (lambda s: s["terms"]["1"].update(x=1), "a PairScore has no state"),
        (lambda s: s["detector"].pop("stream"), "lacks stream"),
    ):
        broken = copy.deepcopy(state)
        change(broken)
        before = state_of(second)
        with pytest.raises(ValueError, match=message):
            second.load_state_dict(broken)
        assert_same_state(second.state_dict(), before)
    other = tanl.Fused(neglabel(bank), tanl.VisualDictionary(25), tanl.PairScore(Texts()))
    with pytest.raises(ValueError, match="saved with another settings"):
        other.load_state_dict(state)
    base = tanl.TANL(bank, num_selected=20, capacity=30, initial_ood=unit(15, 16, seed=9))
    with pytest.raises(ValueError, match="saved with another settings"):
        tanl.Fused(base, tanl.VisualDictionary(26), tanl.PairScore(Texts())).load_state_dict(state)


def test_labels_are_edited_and_the_queue_stays(bank, stream):
    detector = tanl.Fused(neglabel(bank), tanl.VisualDictionary(25))
    for z in stream:
        detector(z)
    fewer = tanl.LabelBank(bank.names[:90], bank.embeddings[:90], num_id=7, logit_scale=bank.logit_scale)
    other = detector.relabelled(fewer)
    assert other.bank is fewer is other.detector.bank and detector.bank is bank
    assert torch.equal(other.terms[0].rows, detector.terms[0].rows)
    assert set(other.negatives()[0]) <= set(fewer.negative_names)


def test_there_is_no_threshold_but_a_calibrated_one_and_evidence_is_the_detectors(bank, stream):
    base = tanl.TANL(bank, num_selected=20, capacity=30, initial_ood=unit(15, 16, seed=9))
    detector = tanl.Fused(base, tanl.VisualDictionary())
    assert detector.threshold is None and base.threshold is not None
    with pytest.raises(ValueError, match="Fused has no threshold yet"):
        detector.predict(stream[0])
    assert detector.explain(stream[0][:3]) == base.explain(stream[0][:3])
    with pytest.raises(ValueError, match="Fused's scores are no probabilities"):
        detector.as_share(torch.zeros(1))


@pytest.mark.parametrize(
    ("make", "kind", "message"),
    [
        (lambda bank: tanl.Fused(neglabel(bank)), ValueError, "needs a term beside NegLabel"),
        (
            lambda bank: tanl.Fused(bank, tanl.VisualDictionary()),
            TypeError,
            "must be a Detector, not LabelBank",
        ),
        (lambda bank: tanl.Fused(neglabel(bank), 3), TypeError, "a term has learns, values, learnt"),
        (lambda bank: tanl.Fused(neglabel(bank), tanl.VisualDictionary), TypeError, "a term has learns"),
        (lambda bank: tanl.VisualDictionary(0), ValueError, "size must be"),
        (lambda bank: tanl.VisualDictionary(neighbours=0), ValueError, "neighbours must be"),
        (lambda bank: tanl.VisualDictionary(weight=-1), ValueError, "weight must be positive"),
        (lambda bank: tanl.PairScore("texts"), TypeError, "encode_texts must be a function"),
        (lambda bank: tanl.PairScore(Texts(), labels=0), ValueError, "labels must be"),
        (lambda bank: tanl.PairScore(Texts(), template="x"), ValueError, r"must hold \{\} once"),
        (
            lambda bank: tanl.Fused(tanl.MCM(bank), tanl.PairScore(Texts())).score(unit(2, 16)),
            ValueError,
            "pairs ID labels with negatives, and MCM has none",
        ),
        (
            lambda bank: tanl.Fused(
                neglabel(bank), tanl.PairScore(lambda texts: torch.zeros(len(texts), 16))
            ).score(unit(2, 16)),
            ValueError,
            "embeddings of pairs",
        ),
    ],
)
def test_unusable_parts_are_refused(bank, make, kind, message):
    with pytest.raises(kind, match=message):
        make(bank)
