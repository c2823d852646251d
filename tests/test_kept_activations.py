"""Activations that a benchmark keeps: the sums of the exact ones, whatever was seen before."""

import pytest
import torch
from torch.nn.functional import normalize

from tanl.benchmarks.engine.kept_activations import KeptActivations
from tanl.detectors import TANL
from tanl.detectors.exact import ExactActivation
from tanl.labels.bank import LabelBank


@pytest.fixture
def bank():
    rows = normalize(torch.randn(1008, 16, generator=torch.Generator().manual_seed(0)))
    return LabelBank([f"word {i}" for i in range(1008)], rows, num_id=7, logit_scale=20.0)


def images(count, seed=1):
    return normalize(torch.randn(count, 16, generator=torch.Generator().manual_seed(seed)))


@pytest.mark.parametrize("rows", [0, 1, 40, 1000])
def test_sums_are_the_exact_ones_within_and_beyond_the_limit(bank, rows):
    kept, exact = KeptActivations(bank, limit=rows * 4 * bank.num_negatives), ExactActivation(bank)
    z = images(63)
    for segments in ([(0, 63)], [(0, 1), (1, 20), (20, 40), (3, 9)], [(60, 63), (0, 60)]):
        for part in (z, z.flip(0), torch.cat([z[:31], z[:32]])):
            expected, lse = exact(part, segments)
            sums, rest = kept(part, segments, lse[:5])
            assert sums == pytest.approx(expected, abs=1e-6)
            assert rest == pytest.approx(lse[5:], abs=1e-5)
    assert kept.kept == (63 if rows == 1000 else 0 if rows < 32 else 32)


def test_a_row_is_computed_once(bank, monkeypatch):
    kept = KeptActivations(bank, limit=1 << 20)
    z = images(9)
    first, lse = kept(z, [(0, 9)])
    monkeypatch.setattr(kept, "_exact", None)  # nothing is left to compute
    again, rest = kept(z, [(0, 9)], lse[:4])
    assert torch.equal(again, first)
    assert torch.equal(rest, lse[4:])
    assert torch.equal(kept(z[[4, 4]], [(0, 1), (1, 2)])[0][:1], kept(z[[4]], [(0, 1)])[0])


def test_tanl_scores_as_with_exact_activations(bank):
    kept = KeptActivations(bank, limit=1 << 20)
    settings = {**TANL.preset("official-script"), "num_selected": 50}
    for seed in (1, 1, 2):
        plain = TANL(bank, **settings, initial_ood=images(3, 9))
        quick = TANL(bank, **settings, initial_ood=images(3, 9), activation=kept)
        for batch in images(101, seed).split(17):
            assert quick(batch) == pytest.approx(plain(batch), abs=1e-5)
