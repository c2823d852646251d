"""AdaNeg: the published scores, a dense memory written out, a stream that is pure, ordered and resumable."""

import copy

import pytest
import torch
from states import assert_same_state, state_of
from torch.nn.functional import normalize

import tanl
from conftest import golden, golden_bank, unit
from tanl.detectors.adaneg import AdaNeg
from tanl.detectors.neglabel import NegLabel


def detector_for(bank, **settings):
    # Nearly every image is remembered, so that slots fill up and are fought over.
    return AdaNeg(bank, **{"groups": 3, "memory_length": 4, "gap": 0.1, **settings})


def at_scale(bank, scale):
    return tanl.LabelBank(bank.names, bank.embeddings, num_id=bank.num_id, logit_scale=scale)


@pytest.mark.parametrize("name", ["adaneg_a", "adaneg_b"])
def test_scores_are_the_published_ones(name):
    case = golden(name)
    detector = AdaNeg(
        golden_bank(case),
        num_negatives=None,
        groups=case["groups"],
        memory_length=case["memory_length"],
        lambda_value=case["lambda_value"],
        memory_threshold=case["threshold"],
        gap=case["gap"],
        seed=None,
    )
    for z, expected in zip(case["images"], case["scores"], strict=True):
        pure = detector.score(z)
        scores = detector(z)
        assert torch.equal(pure, scores)
        torch.testing.assert_close(1 + case["lambda_value"] - scores, expected, atol=1e-5, rtol=0)


class Dense:
    """The memory as it is published: every label owns all of its slots, most of them zeros."""

    def __init__(self, bank, groups, memory_length, lambda_value, memory_threshold, gap):
        self.bank, self.groups, self.length = bank, groups, memory_length
        self.weight, self.memory_threshold, self.gap = lambda_value, memory_threshold, gap
        self.texts = bank.embeddings.double()
        count = len(self.texts)
        self.slots = torch.zeros(count, 1 + memory_length, bank.dim, dtype=torch.float64)
        self.slots[:, 0] = self.texts
        self.entropies = torch.zeros(count, 1 + memory_length, dtype=torch.float64)
        self.counters = [1] * count

    def id_share(self, z, labels):
        num_id = self.bank.num_id
        logits = self.bank.logit_scale * z @ labels.T
        size = (logits.shape[1] - num_id) // self.groups
        shares = []
        for g in range(self.groups):
            start = num_id + g * size
            group = torch.cat([logits[:, :num_id], logits[:, start : start + size]], dim=1)
            shares.append(group.softmax(dim=1)[:, :num_id].sum(dim=1))
        return torch.stack(shares).mean(dim=0)

    def put(self, label, row, entropy):
        if self.counters[label] == self.length:
            if bool((self.entropies[label] > entropy).any()):
                worst = int(self.entropies[label].argmax())
                self.slots[label, worst], self.entropies[label, worst] = row, entropy
        else:
            self.slots[label, self.counters[label]] = row
            self.entropies[label, self.counters[label]] = entropy
            self.counters[label] += 1

    def __call__(self, z):
        z, num_id = z.double(), self.bank.num_id
        confidence = self.id_share(z, self.texts)
        logits = self.bank.logit_scale * z @ self.texts.T
        for labels, first, chosen in (
            (
                slice(None, num_id),
                0,
                confidence > self.memory_threshold + self.gap * (1 - self.memory_threshold),
            ),
            (
                slice(num_id, None),
                num_id,
                confidence < self.memory_threshold - self.gap * self.memory_threshold,
            ),
        ):
            for i in chosen.nonzero()[:, 0].tolist():
                p = logits[i, labels].softmax(dim=0)
                self.put(first + int(p.argmax()), z[i], -(p * (p + 1e-8).log()).sum())
        proxies = normalize(self.slots.mean(dim=1), dim=1)
        confidence_of_proxies = self.id_share(z, proxies)
        return (1 - confidence_of_proxies) + self.weight * (1 - confidence)


@pytest.mark.parametrize(
    ("groups", "memory_length", "lambda_value", "memory_threshold", "gap"),
    [(1, 2, 0.1, 0.5, 0.0), (3, 3, 0.0, 0.4, 0.1), (4, 5, 1.0, 0.6, 0.3), (103, 10, 0.1, 0.5, 0.5)],
)
def test_scores_are_those_of_a_dense_memory(
    bank, stream, groups, memory_length, lambda_value, memory_threshold, gap
):
    # At a larger scale entropies are so small that float32 and float64 order some of them differently.
    bank = at_scale(bank, 8.0)
    settings = {
        "groups": groups,
        "memory_length": memory_length,
        "lambda_value": lambda_value,
        "memory_threshold": memory_threshold,
        "gap": gap,
    }
    detector = AdaNeg(bank, num_negatives=None, seed=None, **settings)
    dense = Dense(bank, **settings)
    for z in stream:
        torch.testing.assert_close(detector(z).double(), dense(z), atol=1e-5, rtol=0)
    held = {label: counter - 1 for label, counter in enumerate(dense.counters) if counter > 1}
    assert {label: len(images.rows) for label, images in detector._memory.items()} == held
    assert max(held.values()) <= memory_length - 1


def test_the_dense_cases_do_replace_images(bank, stream):
    settings = {"groups": 3, "memory_length": 3, "memory_threshold": 0.4, "gap": 0.1}
    detector = AdaNeg(at_scale(bank, 8.0), num_negatives=None, seed=None, **settings)
    before = {}
    replaced = 0
    for z in stream:
        detector(z)
        for label, images in detector._memory.items():
            if label in before and len(before[label].rows) == 2:
                replaced += not torch.equal(before[label].rows, images.rows)
        before = dict(detector._memory)
    assert replaced > 0


def test_one_image_at_a_time_is_the_same_stream_but_for_later_images_of_a_batch(bank, stream):
    # Within a batch ID images are remembered before OOD ones, which cannot matter to labels of the other kind.
    whole, single = detector_for(bank), detector_for(bank)
    for z in stream:
        whole(z)
        for row in z:
            single(row[None])
    assert whole._memory.keys() == single._memory.keys()
    torch.testing.assert_close(whole._proxies, single._proxies, atol=1e-5, rtol=0)


def test_lambda_weighs_neglabel(bank, stream):
    plain, weighted = detector_for(bank, lambda_value=0), detector_for(bank, lambda_value=2.5)
    text = NegLabel(bank, groups=3)
    for z in stream:
        torch.testing.assert_close(plain(z) + 2.5 * text(z), weighted(z), atol=1e-6, rtol=1e-6)


def test_without_confident_images_the_proxies_are_the_texts(bank, stream):
    cautious = detector_for(bank, gap=1.0, lambda_value=0.1)
    text = NegLabel(bank, groups=3)
    for z in stream:
        torch.testing.assert_close(cautious(z), 1.1 * text(z), atol=1e-6, rtol=1e-6)
    assert not cautious._memory


@pytest.mark.parametrize("side", ["ID", "OOD"])
def test_a_batch_of_one_kind_only(bank, side):
    z = bank.id_embeddings if side == "ID" else bank.negative_embeddings
    share = NegLabel(bank, groups=3).score(z)
    z = z[(share < 0.2) if side == "ID" else (share > 0.8)]
    detector = detector_for(bank)
    scores = detector(z)
    assert bool(scores.isfinite().all())
    kinds = {label < bank.num_id for label in detector._memory}
    assert kinds == {side == "ID"}


def test_confident_images_keep_their_digits(bank):
    scores = AdaNeg(at_scale(bank, 100.0), groups=3).score(bank.id_embeddings)
    assert float(scores.min()) > 0
    assert float(scores.min()) < 1e-12  # 1 - score is 1 in float32


def test_only_remembered_images_are_kept(bank, stream):
    detector = detector_for(bank)
    for z in stream:
        detector(z)
    state = detector.state_dict()["memory"]
    assert len(state["rows"]) == int(state["counts"].sum()) <= sum(map(len, stream))
    assert len(state["labels"]) < len(detector._proxies)
    assert int(state["counts"].max()) == 3


def test_memory_does_not_share_the_users_tensor(bank, stream):
    first, second = detector_for(bank), detector_for(bank)
    z = stream[2].clone()
    first(z)
    second(stream[2])
    z.zero_()
    assert_same_state(first.state_dict(), second.state_dict())


def test_resumes_bit_for_bit_in_the_middle_of_a_stream(bank, stream):
    first, second = detector_for(bank), detector_for(bank)
    for z in stream[:5]:
        first(z)
    first.calibrate(torch.rand(40))
    second(stream[7])
    saved = copy.deepcopy(first.state_dict())
    second.load_state_dict(saved)
    assert second.threshold == first.threshold
    for z in stream[5:]:
        assert torch.equal(first(z), second(z))
    assert_same_state(first.state_dict(), second.state_dict())


def test_resumes_before_the_first_batch(bank, stream):
    first, second = detector_for(bank), detector_for(bank)
    second(stream[3])
    second.load_state_dict(first.state_dict())
    assert torch.equal(first(stream[2]), second(stream[2]))


def test_saved_state_does_not_follow_the_stream(bank, stream):
    detector = detector_for(bank)
    detector(stream[2])
    saved = detector.state_dict()
    frozen = copy.deepcopy(saved)
    other = detector_for(bank)
    other.load_state_dict(saved)
    for z in stream[3:]:
        detector(z)
        other(z)
    assert_same_state(saved, frozen)


def test_reset_forgets_the_stream_and_keeps_the_threshold(bank, stream):
    detector = detector_for(bank)
    fresh = [detector(z) for z in stream]
    detector.calibrate(torch.linspace(0, 1, 30))
    threshold = detector.threshold
    detector.reset()
    assert all(torch.equal(a, detector(z)) for a, z in zip(fresh, stream, strict=True))
    assert detector.threshold == threshold


def test_refuses_a_state_of_another_bank_method_or_setting(bank, stream):
    detector = detector_for(bank)
    detector(stream[2])
    before = state_of(detector)
    other = tanl.LabelBank(bank.names, unit(110, 16, seed=3), num_id=7, logit_scale=20.0)

    def damaged(key, value):
        state = detector.state_dict()
        state["memory"][key] = value(state["memory"][key])
        return state

    for state, message in (
        (detector_for(other).state_dict(), "another bank"),
        (detector_for(bank, memory_length=5).state_dict(), "another settings"),
        (tanl.MaxLogit(bank).state_dict(), "lacks memory: it is not one of AdaNeg's"),
        ({**detector.state_dict(), "memory": {}}, "memory's state lacks 'counts'"),
        (damaged("rows", lambda t: t[:, :9]), r"memory's rows must be \[\d+, 16\], not \[\d+, 9\]"),
        (damaged("proxies", lambda t: t[1:]), r"memory's proxies must be \[\d+, 16\]"),
        (damaged("labels", lambda t: t + 110), "labels must lie below 110"),
        (damaged("entropies", lambda t: t[1:]), r"memory's entropies must be \[\d+\], not"),
        (damaged("counts", lambda t: torch.cat([t[:1] * 0, t[1:2] + t[:1], t[2:]])), "remembers 1 to 3"),
    ):
        with pytest.raises(ValueError, match=message):
            detector.load_state_dict(state)
    assert_same_state(detector.state_dict(), before)


def test_half_precision_labels_change_scores_little(bank, stream):
    # No mining, slots for all, and a wide gap: rounding must not decide who counts where.
    settings = {"num_negatives": None, "memory_length": 200, "gap": 0.5}
    half, whole = detector_for(bank.to(dtype=torch.float16), **settings), detector_for(bank, **settings)
    assert half._proxies.dtype == torch.float16
    for z in stream:
        torch.testing.assert_close(half(z), whole(z), atol=2e-2, rtol=0)
    assert half.state_dict()["memory"]["rows"].dtype == torch.float32


def test_mines_and_shuffles_as_neglabel_does(bank):
    for settings in ({"num_negatives": 50, "groups": 3}, {"num_negatives": None, "seed": 4}, {"seed": None}):
        ours, plain = AdaNeg(bank, **settings), NegLabel(bank, **settings)
        assert ours._names == plain._names
        assert torch.equal(ours._embeddings, plain._embeddings)


def test_explains_with_the_negatives_it_scores_with(bank):
    detector = detector_for(bank, num_negatives=30)
    mined = bank.mined(30).negative_names
    for evidence in detector.explain(bank.negative_embeddings, k=3):
        assert all(e.label in mined for e in evidence)


@pytest.mark.parametrize(
    ("settings", "kind", "message"),
    [
        ({"groups": 0}, ValueError, "groups must be at least 1, not 0"),
        ({"groups": 104}, ValueError, "103 negatives cannot make 104 groups; lower groups"),
        ({"num_negatives": 0}, ValueError, "num_negatives must be at least 1"),
        ({"memory_length": 1}, ValueError, "memory_length must be at least 2, not 1"),
        ({"memory_length": 2.0}, TypeError, "memory_length must be a whole number"),
        ({"lambda_value": -0.1}, ValueError, "lambda_value must be finite and not negative, not -0.1"),
        ({"lambda_value": float("nan")}, ValueError, "lambda_value must be finite"),
        ({"memory_threshold": 1.5}, ValueError, r"memory_threshold must lie in \[0, 1\], not 1.5"),
        ({"gap": -1}, ValueError, r"gap must lie in \[0, 1\], not -1"),
    ],
)
def test_refuses_unusable_settings(bank, settings, kind, message):
    with pytest.raises(kind, match=message):
        AdaNeg(bank, **settings)


def test_refuses_a_bank_without_negatives(bank):
    ids = tanl.LabelBank(bank.id_names, bank.id_embeddings, num_id=7)
    with pytest.raises(ValueError, match="AdaNeg needs negative labels, and the bank has none"):
        AdaNeg(ids)


def test_calibration_images_are_scored_in_batches_of_the_streams_size():
    case = golden("adaneg_a")
    bank = golden_bank(case)
    z = unit(100, bank.dim, seed=9)
    one, other = AdaNeg(bank, num_negatives=None), AdaNeg(bank, num_negatives=None)
    for it in (one, other):
        it(unit(64, bank.dim, seed=10))
    parts = torch.cat([other.score(part) for part in z.split(16)])
    assert one.calibrate_embeddings(z, 0.9, batch_size=16) == other.calibrate(parts, 0.9)
    assert one.calibrate_embeddings(z, 0.9, batch_size=100) == other.calibrate(other.score(z), 0.9)
    with pytest.raises(ValueError, match="batch_size must be at least 1"):
        one.calibrate_embeddings(z, 0.9, batch_size=0)
