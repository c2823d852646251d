"""The made-up embeddings have the structure that they are said to have."""

import pytest
import torch

from tanl.benchmarks.data.structured import World


@pytest.fixture(scope="module")
def world():
    return World()


def images(world, concepts, seed=0, **options):
    chosen = torch.tensor(concepts).repeat_interleave(20)
    return world.images(chosen, torch.Generator().manual_seed(seed), **options)


def cosines(one, other):
    return float((one @ other.T).mean())


def test_texts_and_images_lie_in_two_cones_with_a_gap(world):
    bank = world.bank
    shown = images(world, world.inside)
    own = torch.arange(len(world.inside)).repeat_interleave(20)
    similar = shown @ bank.id_embeddings.T
    assert float(similar[torch.arange(len(own)), own].mean()) == pytest.approx(0.32, abs=0.01)
    assert cosines(shown, bank.negative_embeddings) == pytest.approx(0.17, abs=0.01)
    assert cosines(bank.embeddings[:500], bank.embeddings[-500:]) == pytest.approx(0.76, abs=0.01)
    assert cosines(shown, images(world, world.far[:100])) == pytest.approx(0.49, abs=0.01)
    assert float((similar.argmax(dim=1) == own).float().mean()) == pytest.approx(0.86, abs=0.02)


def test_near_outliers_are_nearer_to_the_id_labels_than_far_ones(world):
    ids = world.bank.id_embeddings
    inside, near, far = (
        images(world, of).matmul(ids.T).amax(dim=1).mean() for of in (world.inside, world.near, world.far)
    )
    assert inside > near > far


def test_every_concept_that_is_no_id_label_has_its_word(world):
    names = set(world.bank.negative_names)
    assert len(world.inside) == world.bank.num_id == len(world.near) == 48
    assert {f"concept {number}" for number in (*world.near, *world.far)} <= names
    assert not {f"concept {number}" for number in world.inside} & names
    assert not {*world.inside} & {*world.near}
    assert not {*world.inside, *world.near} & {*world.far}


def test_directions_are_not_equal(world):
    of_axes = images(world, world.far).std(dim=0)
    assert float(of_axes[:8].mean()) > 2 * float(of_axes[-64:].mean())


def test_images_follow_the_seed_and_labels_do_not(world):
    assert torch.equal(images(world, world.far), images(world, world.far))
    assert not torch.equal(images(world, world.far), images(world, world.far, seed=1))
    assert torch.equal(World().bank.embeddings, world.bank.embeddings)


def test_mixed_and_noisy_images_are_less_of_their_concept(world):
    one, ids = [world.inside[0]], world.bank.id_embeddings[:1]
    half = images(world, one, mixed_with=torch.tensor(world.far[:1]).repeat(20))
    assert cosines(images(world, one), ids) > cosines(half, ids)
    assert cosines(images(world, one), ids) > cosines(images(world, one, signal=0.1), ids)
