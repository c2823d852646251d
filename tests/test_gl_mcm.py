"""GL-MCM: the whole image's score and its best patch's, and what it says without patches."""

import pytest
import torch
from states import assert_same_state, state_of

import tanl
from conftest import unit
from tanl.detectors import gl_mcm as module
from tanl.detectors.gl_mcm import GLMCM
from tanl.detectors.mcm import MCM


def patches(images, count, seed=7):
    return unit(images, count, 16, seed=seed)


def confidence(bank, z, local, weight, temperature):
    """The published confidence, written out in float64."""
    ids = bank.id_embeddings.double()
    whole = (z.double() @ ids.T / temperature).softmax(dim=-1).amax(dim=-1)
    best = (local.double() @ ids.T / temperature).softmax(dim=-1).amax(dim=(1, 2))
    return whole + weight * best


@pytest.mark.parametrize(("images", "count"), [(1, 1), (5, 49), (63, 3), (2, 197)])
@pytest.mark.parametrize(("weight", "temperature"), [(1.0, 1.0), (0.5, 0.01), (3.0, 0.1)])
def test_score_is_the_published_confidence_turned_round(bank, images, count, weight, temperature):
    z, local = unit(images, 16, seed=6), patches(images, count)
    detector = GLMCM(bank, lambda_value=weight, temperature=temperature)
    expected = 1 + weight - confidence(bank, z, local, weight, temperature)
    torch.testing.assert_close(detector.score(z, local=local).double(), expected, atol=1e-5, rtol=0)


def test_call_score_and_predict_agree_and_keep_nothing(bank):
    z, local = unit(40, 16, seed=6), patches(40, 9)
    detector = GLMCM(bank)
    before = state_of(detector)
    scores = detector(z, local=local)
    assert torch.equal(scores, detector.score(z, local=local))
    assert scores.shape == (40,)
    assert scores.dtype == torch.float32
    assert_same_state(detector.state_dict(), before)
    with pytest.raises(ValueError, match="no threshold yet: call calibrate"):
        detector.predict(z, local=local)
    threshold = detector.calibrate(scores, tpr=0.8)
    assert torch.equal(detector.predict(z, local=local), scores > threshold)


def test_one_id_patch_makes_an_image_more_id(bank):
    z, local = unit(5, 16, seed=6), patches(5, 4)
    closer = local.clone()
    closer[:, 2] = bank.id_embeddings[:5]
    detector = GLMCM(bank, temperature=0.05)
    assert bool((detector.score(z, local=closer) < detector.score(z, local=local)).all())


def test_patches_that_are_the_image_give_mcm_twice(bank):
    z = unit(11, 16, seed=6)
    scores = GLMCM(bank, temperature=0.05).score(z, local=z[:, None].expand(-1, 6, -1))
    torch.testing.assert_close(scores, 2 * MCM(bank, temperature=0.05).score(z))


def test_an_image_does_not_depend_on_the_others(bank):
    z, local = unit(17, 16, seed=6), patches(17, 5)
    detector = GLMCM(bank)
    alone = torch.cat([detector.score(z[i : i + 1], local=local[i : i + 1]) for i in range(17)])
    torch.testing.assert_close(detector.score(z, local=local), alone, atol=1e-6, rtol=0)


@pytest.mark.parametrize("at_once", [1, 20, 700])
def test_patches_are_taken_in_parts_of_any_size(bank, monkeypatch, at_once):
    z, local = unit(13, 16, seed=6), patches(13, 7)
    whole = GLMCM(bank, temperature=0.1).score(z, local=local)
    monkeypatch.setattr(module, "_LOGITS_AT_ONCE", at_once)
    torch.testing.assert_close(GLMCM(bank, temperature=0.1).score(z, local=local), whole, atol=1e-6, rtol=0)


def test_confident_images_keep_their_digits(bank):
    z = bank.id_embeddings
    scores = GLMCM(bank, temperature=0.02).score(z, local=z[:, None])
    assert 0 < float(scores.min()) < 1e-9


@pytest.mark.parametrize(
    ("local", "kind", "message"),
    [
        (
            None,
            ValueError,
            r"needs the embeddings of each image's patches, local=\[B, P, D\]: the backbone must",
        ),
        (unit(3, 16), ValueError, r"local embeddings must have shape \[3, P, D\], not \[3, 16\]"),
        (unit(4, 5, 16), ValueError, r"must have shape \[3, P, D\], not \[4, 5, 16\]"),
        (unit(3, 0, 16), ValueError, "local embeddings is empty"),
        (unit(3, 5, 15), ValueError, "local embeddings has D = 15, but the label bank has D = 16"),
        (2 * unit(3, 5, 16), ValueError, "local embeddings: row 0 has norm 2, not 1"),
        (unit(3, 5, 16) * float("nan"), ValueError, "row 0 has a NaN"),
        (unit(3, 5, 16).to("meta"), ValueError, "on meta, but the label bank is on cpu"),
        (
            unit(3, 5, 16).tolist(),
            TypeError,
            "local embeddings must be a torch.Tensor or a NumPy array, not list",
        ),
        (torch.ones(3, 5, 16, dtype=torch.long), TypeError, "floating dtype, not torch.int64"),
    ],
)
def test_unusable_patches_are_refused(bank, local, kind, message):
    detector = GLMCM(bank)
    for verb in (detector, detector.score, detector.predict):
        with pytest.raises(kind, match=message):
            verb(unit(3, 16), local=local)


def test_whole_images_are_checked_first(bank):
    with pytest.raises(ValueError, match="image embeddings has D = 15"):
        GLMCM(bank).score(unit(3, 15))


def test_explain_takes_whole_images(bank):
    assert GLMCM(bank).explain(bank.id_embeddings[2:4], k=1) == [(), ()]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"lambda_value": 0}, "lambda_value must be positive and finite, not 0"),
        ({"lambda_value": float("inf")}, "lambda_value must be positive"),
        ({"temperature": 0}, "temperature must be positive and finite, not 0"),
    ],
)
def test_unusable_settings_are_refused(bank, settings, message):
    with pytest.raises(ValueError, match=message):
        GLMCM(bank, **settings)


def test_one_id_label_is_refused(bank):
    one = tanl.LabelBank(["only"], bank.id_embeddings[:1], num_id=1)
    with pytest.raises(ValueError, match="at least two ID labels"):
        GLMCM(one)
