"""Patch embeddings: agree with the value path written out, leave the model as it was, refuse other towers."""

import open_clip
import pytest
import torch
from torch.nn.functional import linear, normalize

import tanl
from tanl.backbones.local_features import encode_images_local

VISION = {"image_size": 32, "layers": 3, "width": 32, "head_width": 16, "patch_size": 8}
TEXT = {"context_length": 20, "vocab_size": 100, "width": 16, "heads": 2, "layers": 1}


def backbone(**vision):
    torch.manual_seed(0)
    model = open_clip.model.CLIP(24, {**VISION, **vision}, TEXT)
    return tanl.ClipBackbone(model, lambda image: image, lambda texts: torch.zeros(len(texts), 20))


def pixels(count):
    return torch.randn(count, 3, 32, 32, generator=torch.Generator().manual_seed(1))


def value_path(model, images):
    """What the published code does, written out: values in place of attention in the last block."""
    visual = model.visual
    x = visual._embeds(images)
    *earlier, last = visual.transformer.resblocks
    for block in earlier:
        x = block(x)
    width = x.shape[-1]
    weight, bias = last.attn.in_proj_weight[2 * width :], last.attn.in_proj_bias[2 * width :]
    x = x + last.ls_1(last.attn.out_proj(linear(last.ln_1(x), weight, bias)))
    x = x + last.ls_2(last.mlp(last.ln_2(x)))
    return normalize(visual.ln_post(x)[:, 1:] @ visual.proj, dim=2)


@pytest.mark.parametrize("count", [1, 5, 19])
@pytest.mark.parametrize("vision", [{}, {"layers": 1}, {"ls_init_value": 0.3}, {"no_ln_pre": True}], ids=str)
def test_patches_are_the_last_blocks_values(count, vision):
    tower = backbone(**vision)
    images, local = encode_images_local(tower, pixels(count))
    assert local.shape == (count, 16, 24)
    assert local.dtype == torch.float32
    with torch.no_grad():
        torch.testing.assert_close(local, value_path(tower.model, pixels(count)), atol=1e-5, rtol=0)
    assert torch.equal(images, tower.encode_images(pixels(count)))


@pytest.mark.parametrize("vision", [{"pool_type": "avg"}, {"final_ln_after_pool": True}], ids=str)
def test_other_ways_of_pooling_the_whole_image_leave_the_patches_alone(vision):
    _, local = encode_images_local(backbone(**vision), pixels(2))
    _, usual = encode_images_local(backbone(), pixels(2))
    torch.testing.assert_close(local, usual, atol=1e-5, rtol=0)


def test_patches_of_a_tower_that_takes_its_tokens_first():
    usual, turned = backbone(), backbone()
    turned.model.visual.transformer.batch_first = False
    for block in turned.model.visual.transformer.resblocks:
        block.attn.batch_first = False
    torch.testing.assert_close(
        encode_images_local(turned, pixels(3)), encode_images_local(usual, pixels(3)), atol=1e-5, rtol=0
    )


def test_a_patch_sees_its_own_pixels_most():
    # One block: nothing else mixes the patches, so that a change to one patch must stay there.
    tower = backbone(layers=1)
    changed = pixels(1)
    changed[..., 8:16, 16:24] += 1.0
    _, before = encode_images_local(tower, pixels(1))
    _, after = encode_images_local(tower, changed)
    moved = (before - after).abs().amax(dim=2)[0] > 1e-6
    assert moved.nonzero()[:, 0].tolist() == [1 * 4 + 2]


def test_the_model_is_left_as_it_was(tiny_backbone):
    image = pixels(2)
    before = tiny_backbone.encode_images(image)
    encode_images_local(tiny_backbone, image)
    block = tiny_backbone.model.visual.transformer.resblocks[-1]
    assert not block._forward_pre_hooks
    with pytest.raises(ValueError, match="pixels must have shape"):
        encode_images_local(tiny_backbone, image[0])
    assert not block._forward_pre_hooks
    assert torch.equal(tiny_backbone.encode_images(image), before)


def test_local_embeddings_feed_gl_mcm(tiny_backbone):
    from tanl.detectors.gl_mcm import GLMCM

    bank = tanl.build_bank(tiny_backbone, ["dog", "cat", "tree"], corpus=None)
    z, local = encode_images_local(tiny_backbone, pixels(3))
    scores = GLMCM(bank)(z, local=local)
    assert scores.shape == (3,)
    assert bool(scores.isfinite().all())


def test_towers_without_patch_embeddings_are_refused():
    with pytest.raises(TypeError, match=r"image tower ModifiedResNet, which gives no patch embeddings"):
        encode_images_local(backbone(layers=[1, 1, 1, 1]), pixels(1))
    pooled = backbone(attentional_pool=True, attn_pooler_queries=4, attn_pooler_heads=2)
    with pytest.raises(TypeError, match="pools its patches by attention"):
        encode_images_local(pooled, pixels(1))
    with pytest.raises(TypeError, match="must be a ClipBackbone, not str"):
        encode_images_local("mini", pixels(1))


def test_the_embedded_model_is_refused():
    with pytest.raises(TypeError, match="mini has the image tower TimmModel"):
        encode_images_local(tanl.load_backbone("mini"), pixels(1))
