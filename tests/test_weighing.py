"""The weighings of the negatives' mass against their formulas in float64, in NegLabel and in TANL."""

import pytest
import torch

import tanl
from conftest import unit
from tanl import functional as f
from tanl.detectors.weighing import WEIGHINGS, BalancedMass, DebiasedMass, odds_of, weighing_of


def balanced(ids, negatives):
    """The ID share ``I / (I + C mean_j e^{s z.n_j})`` of logits, in float64."""
    mass = ids.double().exp().sum(1)
    return mass / (mass + ids.shape[1] * negatives.double().exp().mean(1))


def debiased(ids, negatives, tau, whole):
    """The ID share ``I / Z`` with Z as printed, the bracket at least 0, in float64."""
    mass, mean = ids.double().exp().sum(1), ids.double().exp().mean(1)
    true = negatives.double().exp().mean(1) / tau - (1 - tau) / tau * mean
    return mass / (mass + (whole or negatives.shape[1]) * true.clamp(min=0))


CASES = {
    "balanced": (BalancedMass(), balanced),
    "debiased": (DebiasedMass(), lambda i, n: debiased(i, n, 0.9, None)),
    "debiased, tau 0.5, Q 1000": (DebiasedMass(0.5, 1000), lambda i, n: debiased(i, n, 0.5, 1000)),
    "debiased, tau 1": (
        DebiasedMass(1),
        lambda i, n: i.double().exp().sum(1) / (i.double().exp().sum(1) + n.double().exp().sum(1)),
    ),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("rows", [1, 63])
@pytest.mark.parametrize("groups", [1, 7])
def test_grouped_share_is_the_formula_of_each_group(case, rows, groups):
    weighing, formula = CASES[case]
    z, ids, negatives = unit(rows, 16, seed=1), unit(9, 16, seed=2), unit(41, 16, seed=3)
    found = f.grouped_negative_share(z, ids, negatives, 12.0, groups, odds_of(weighing, 9))
    size = 41 // groups
    parts = [negatives[g * size : (g + 1) * size] for g in range(groups)]
    expected = torch.stack([1 - formula(12 * z @ ids.T, 12 * z @ part.T) for part in parts]).mean(0)
    torch.testing.assert_close(found, expected.float(), atol=5e-5, rtol=1e-3)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("step", [0, 1, 7, 40, 100])
def test_prefix_share_is_the_formula_of_each_prefix(case, step):
    weighing, formula = CASES[case]
    ids, negatives = 5 * unit(4, 9, seed=step), 6 * unit(4, 40, seed=1)
    ends = sorted({*range(step, 41, step), 40}) if step else [40]
    expected = torch.stack([1 - formula(ids, negatives[:, :end]) for end in ends]).mean(0)
    found = f.weighed_prefix_share(ids.logsumexp(1), negatives, step, odds_of(weighing, 9))
    torch.testing.assert_close(found, expected.float(), atol=1e-5, rtol=1e-4)


def test_debiased_with_tau_1_is_the_plain_sum(bank):
    z = unit(20, 16, seed=5)
    plain, debiased_ = tanl.NegLabel(bank), tanl.NegLabel(bank, weighing=DebiasedMass(1))
    torch.testing.assert_close(plain.score(z), debiased_.score(z), atol=1e-6, rtol=1e-5)


def test_numbers_of_labels_do_not_count_in_balanced_mass(bank):
    z = unit(20, 16, seed=5)
    twice = tanl.LabelBank(
        [*bank.names, *(f"again {name}" for name in bank.negative_names)],
        torch.cat([bank.embeddings, bank.negative_embeddings]),
        num_id=bank.num_id,
        logit_scale=bank.logit_scale,
    )
    for weighing, same in (("balanced", True), ("sum", False)):
        one, two = (
            tanl.NegLabel(each, num_negatives=None, groups=1, weighing=weighing).score(z)
            for each in (bank, twice)
        )
        assert torch.allclose(one, two, atol=1e-6) is same


@pytest.mark.parametrize("weighing", WEIGHINGS[1:])
def test_extreme_logits_give_no_nan(weighing):
    odds = odds_of(weighing_of(weighing), 3)
    low, high = torch.tensor([-200.0]), torch.full((1, 50), 200.0)
    for step in (0, 1):
        assert f.weighed_prefix_share(low, high, step, odds).item() == pytest.approx(1, abs=1e-6)
        assert f.weighed_prefix_share(-low, -high, step, odds).item() == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("weighing", WEIGHINGS)
def test_tanl_scores_with_the_weighing_and_learns_with_it(bank, stream, weighing):
    detector = tanl.TANL(
        bank, num_selected=20, capacity=30, step=3, weighing=weighing, initial_ood=unit(15, 16, seed=9)
    )
    for z in stream[:3]:
        selected = [bank.negative_names.index(name) for name in detector.selected]
        first = odds_of(weighing_of(weighing), bank.num_id) or (lambda ratio, count: ratio)
        logits = bank.logit_scale * z @ bank.negative_embeddings[selected].T
        lse = (bank.logit_scale * z @ bank.id_embeddings.T).logsumexp(1)
        before = detector.state.history
        detector(z)
        confidence = detector.state.history[-len(z) :]
        torch.testing.assert_close(
            1 - confidence, f.weighed_prefix_share(lse, logits, 3, first), atol=1e-5, rtol=1e-4
        )
        assert len(detector.state.history) >= len(before)


def test_settings_are_kept_and_told(bank):
    own = DebiasedMass(0.7)
    detector = tanl.NegLabel(bank, groups=3, num_negatives=50, weighing=own)
    assert detector.weighing is own
    assert detector.state_dict()["settings"]["weighing"] == "DebiasedMass(tau=0.7, negatives=None)"
    again = tanl.NegLabel(bank, groups=3, num_negatives=50, weighing=DebiasedMass(0.7))
    again.load_state_dict(detector.state_dict())
    with pytest.raises(ValueError, match="saved with another settings"):
        tanl.NegLabel(bank, groups=3, num_negatives=50, weighing="debiased").load_state_dict(
            detector.state_dict()
        )
    assert detector.relabelled(bank).weighing is own


@pytest.mark.parametrize(
    ("make", "kind", "message"),
    [
        (
            lambda bank: tanl.NegLabel(bank, weighing="balance"),
            ValueError,
            "weighing must be one of 'sum', 'balanced'",
        ),
        (
            lambda bank: tanl.TANL(bank, weighing=3),
            TypeError,
            "weighing must be one of sum, balanced, debiased",
        ),
        (lambda bank: tanl.TANL(bank, weighing=BalancedMass), TypeError, "or a Weighing, not <class"),
        (lambda bank: DebiasedMass(0), ValueError, "tau must be positive"),
        (lambda bank: DebiasedMass(1.1), ValueError, r"tau must lie in \(0, 1\], not 1.1"),
        (lambda bank: DebiasedMass(0.5, -1), ValueError, "negatives must be positive"),
        (
            lambda bank: tanl.TANL(bank, weighing="balanced", final_pass="float16"),
            ValueError,
            "final_pass='float16' is the published code's: leave weighing at 'sum'",
        ),
    ],
)
def test_unusable_weighings_are_refused(bank, make, kind, message):
    with pytest.raises(kind, match=message):
        make(bank)
