"""`curate`, `farthest_points`, `label_next`: what is kept, what is set aside, what a person should see."""

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

from conftest import unit
from tanl.beyond.curation import curate, farthest_points, label_next

pytest.importorskip("faiss", reason='needs faiss: pip install "tanl[faiss]"')


def long_tail(seed=0, sizes=(600, 300, 60, 12, 6, 3)):
    """Clusters from frequent to rare in 32 dimensions; gives rows and their cluster."""
    generator = torch.Generator().manual_seed(seed)
    centres = normalize(torch.randn(len(sizes), 32, generator=generator), dim=1)
    labels = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes))
    noise = 0.08 * torch.randn(len(labels), 32, generator=generator)
    return normalize(centres[labels] + noise, dim=1), labels


@pytest.mark.parametrize("budget", [0.05, 0.2, 0.4, 1, 63, 980])
def test_the_budget_is_kept_and_nothing_comes_twice(budget):
    z, _ = long_tail()
    found = curate(z, budget)
    wanted = round(budget * len(z)) if budget < 1 else budget
    room = len(z) - len(found.outliers)
    assert len(found.kept) == min(wanted, room) == len(found.kept.unique())
    assert not torch.isin(found.kept, found.outliers).any()
    assert torch.isin(found.tail, found.kept).all()
    assert torch.equal(found.kept, found.kept.sort().values)
    assert found.prototypes.shape == (round(len(z) ** 0.5), 32)


def test_parts_follow_from_the_distances():
    z, _ = long_tail()
    found = curate(z, 0.4)
    distances = 1 - (z.double() @ found.prototypes.double().T).amax(dim=1)
    torch.testing.assert_close(found.distances.double(), distances, atol=1e-5, rtol=0)
    tail, far = np.quantile(found.distances.double().numpy(), [0.85, 0.95])
    assert found.outliers.tolist() == np.flatnonzero(found.distances.double().numpy() > far).tolist()
    rare = (found.distances.double().numpy() > tail) & (found.distances.double().numpy() <= far)
    assert found.tail.tolist() == np.flatnonzero(rare).tolist()


def test_a_tail_larger_than_the_budget_gives_its_farthest():
    z, _ = long_tail()
    found = curate(z, 10)
    whole = curate(z, 0.4)
    assert len(found.kept) == 10 and torch.equal(found.kept, found.tail)
    left = whole.tail[~torch.isin(whole.tail, found.tail)]
    assert whole.distances[found.tail].min() >= whole.distances[left].max()


def test_the_same_seed_gives_the_same_rows():
    z, _ = long_tail()
    first, second = curate(z, 0.2, seed=3), curate(z.numpy(), 0.2, seed=3)
    assert torch.equal(first.kept, second.kept) and torch.equal(first.prototypes, second.prototypes)


def test_rare_clusters_are_kept_more_often_than_by_chance():
    """With nothing set aside, since every row here is data."""
    z, labels = long_tail(sizes=(2000, 1000, 12, 6, 3))
    rare = labels >= 2
    kept = torch.zeros(len(z), dtype=torch.bool)
    kept[curate(z, 0.1, prototypes=8, outliers=1.0).kept] = True
    assert float(kept[rare].float().mean()) > 0.3  # by chance 0.1


def test_farthest_points_by_the_definition():
    z = unit(63, 8, seed=4)
    candidates, near = torch.arange(10, 63), torch.tensor([0, 3])
    chosen = farthest_points(z, candidates, 7, near=near)
    have = near.tolist()
    for row in chosen.tolist():
        closest = (z[candidates] @ z[have].T).amax(dim=1)
        assert closest[row - 10] == closest.min()
        have.append(row)
    assert len(farthest_points(z, candidates, 0)) == 0
    assert sorted(farthest_points(z, candidates, 53).tolist()) == candidates.tolist()


@pytest.mark.parametrize(
    ("flagged", "budget", "of_flagged"), [(30, 10, 5), (2, 10, 2), (62, 10, 9), (0, 5, 0), (63, 7, 7)]
)
def test_both_sides_are_labelled_next(flagged, budget, of_flagged):
    z = unit(63, 8, seed=5)
    is_ood = torch.arange(63) < flagged
    rows = label_next(z, is_ood, budget)
    assert len(rows) == budget == len(rows.unique())
    assert int(is_ood[rows].sum()) == of_flagged
    assert is_ood[rows[:of_flagged]].all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"budget": 0}, "budget is 0"),
        ({"budget": 64}, "budget is 64"),
        ({"budget": 2.5}, "budget is 2.5"),
        ({"budget": True}, "budget is True"),
        ({"budget": 5, "prototypes": 64}, "prototypes is 64, but there are only 63"),
        ({"budget": 5, "tail": 1.5}, "tail"),
        ({"budget": 5, "tail": 0.9, "outliers": 0.8}, "tail begins before the outliers"),
        ({"budget": 5, "momentum": float("nan")}, "momentum"),
    ],
)
def test_what_cannot_be_is_refused(options, message):
    with pytest.raises((ValueError, TypeError), match=message):
        curate(unit(63, 8), **options)


def test_unusable_embeddings_and_verdicts_are_refused():
    with pytest.raises(ValueError, match="row 0 has norm"):
        curate(2 * unit(5, 8), 2)
    with pytest.raises(ValueError, match="give two or more"):
        curate(unit(1, 8), 1)
    with pytest.raises(ValueError, match="is_ood must be 5 bools"):
        label_next(unit(5, 8), torch.zeros(4, dtype=torch.bool), 2)
    with pytest.raises(ValueError, match="budget is 6"):
        label_next(unit(5, 8), torch.zeros(5, dtype=torch.bool), 6)
