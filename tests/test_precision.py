"""Half precision, autocast and compiled models: float32 unit rows near the exact ones, nothing moved or copied."""

import pytest
import torch
from tiny_open_clip import FAMILIES, SIZE, config, tiny_model
from torch import nn

import tanl
from tanl.backbones.clip import image_dtype

TEXTS = ["The nice dog.", "a", "a very long and colourful photo, of 7 things", "cat"]
DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16}

# About twice the largest difference that was seen: 1.3e-3 and 8.4e-3, in unit rows of 24 and 32 values.
TOLERANCE = {torch.float16: 2.5e-3, torch.bfloat16: 1.6e-2}


@pytest.fixture(scope="module")
def exact(folders):
    return {family: tanl.load_backbone(f"local-dir:{folder}") for family, folder in folders.items()}


def pixels(count=5):
    generator = torch.Generator().manual_seed(0)
    brightness = torch.linspace(0.2, 2, count)[:, None, None, None]
    return brightness * torch.rand(count, 3, SIZE, SIZE, generator=generator)


def assert_near(backbone, reference, tolerance):
    for found, expected in (
        (backbone.encode_images(pixels()), reference.encode_images(pixels())),
        (backbone.encode_texts(TEXTS), reference.encode_texts(TEXTS)),
    ):
        assert found.dtype == torch.float32
        torch.testing.assert_close(found.norm(dim=1), torch.ones(len(found)))
        torch.testing.assert_close(found, expected, atol=tolerance, rtol=0)


def wrapped(model, reference):
    return tanl.ClipBackbone(model, reference.preprocess, reference.tokenizer)


@pytest.mark.parametrize("precision", DTYPES)
@pytest.mark.parametrize("family", FAMILIES)
def test_loaded_in_half_precision(folders, exact, family, precision):
    dtype = DTYPES[precision]
    backbone = tanl.load_backbone(f"local-dir:{folders[family]}", precision=precision)
    assert image_dtype(backbone.model) == dtype
    assert_near(backbone, exact[family], TOLERANCE[dtype])
    assert backbone.logit_scale == pytest.approx(exact[family].logit_scale, rel=2e-2)
    assert backbone.fingerprint != exact[family].fingerprint


def test_native_towers_keep_normalisation_and_scale_in_float32(folders):
    model = tanl.load_backbone(f"local-dir:{folders['clip']}", precision="fp16").model
    assert next(model.parameters()).dtype == torch.float32  # the scale: not what pixels are cast to
    assert model.visual.ln_post.weight.dtype == model.text.ln_final.weight.dtype == torch.float32
    assert model.visual.conv1.weight.dtype == torch.float16


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("family", FAMILIES)
def test_wrapped_model_cast_whole(exact, family, dtype):
    assert_near(wrapped(tiny_model(family).to(dtype), exact[family]), exact[family], TOLERANCE[dtype])


@pytest.mark.parametrize("dtype", TOLERANCE)
def test_wrapped_model_of_mixed_precision(exact, dtype):
    """As OpenAI's weights are cast: the first parameter stays in float32."""
    import open_clip

    model = open_clip.CLIP(**config("clip"), cast_dtype=dtype)
    model.load_state_dict(tiny_model("clip").state_dict())
    open_clip.model.convert_weights_to_lp(model, dtype=dtype)
    assert next(model.parameters()).dtype == torch.float32
    assert image_dtype(model) == dtype
    assert_near(wrapped(model, exact["clip"]), exact["clip"], TOLERANCE[dtype])


@pytest.mark.parametrize("family", FAMILIES)
def test_autocast_gives_float32_unit_rows(exact, family):
    reference = (exact[family].encode_images(pixels()), exact[family].encode_texts(TEXTS))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = (exact[family].encode_images(pixels()), exact[family].encode_texts(TEXTS))
    for rows, expected in zip(found, reference, strict=True):
        assert rows.dtype == torch.float32
        torch.testing.assert_close(rows.norm(dim=1), torch.ones(len(rows)))
        torch.testing.assert_close(rows, expected, atol=TOLERANCE[torch.bfloat16], rtol=0)


@pytest.mark.parametrize("precision", ["fp32", *DTYPES])
def test_scores_are_float32(folders, tmp_path, precision):
    backbone = tanl.load_backbone(f"local-dir:{folders['clip']}", precision=precision)
    guard = tanl.Guard(backbone, ["cat", "dog"], corpus=[f"w{i}" for i in range(20)], cache_dir=tmp_path)
    detection = guard(pixels())
    assert detection.ood_score.dtype == detection.id_probability.dtype == torch.float32
    assert guard.bank.embeddings.dtype == torch.float32


def test_hugging_face_in_half_precision(tmp_path):
    transformers = pytest.importorskip("transformers", reason='needs transformers: pip install "tanl[hf]"')
    from tiny_hugging_face import tiny_image_processor, tiny_tokenizer
    from tiny_hugging_face import tiny_model as tiny

    for part in (tiny("clip"), tiny_image_processor("clip"), tiny_tokenizer(40)):
        part.save_pretrained(tmp_path)
    reference = tanl.load_backbone(f"hf:{tmp_path}")
    for precision, dtype in DTYPES.items():
        backbone = tanl.load_backbone(f"hf:{tmp_path}", precision=precision)
        assert isinstance(backbone.model, transformers.CLIPModel)
        assert {parameter.dtype for parameter in backbone.model.parameters()} == {dtype}
        assert_near(backbone, reference, 1.5 * TOLERANCE[dtype])  # older torch rounds more
    # Pixels follow the image tower, whatever the other one has.
    reference.model.vision_model.bfloat16()
    assert image_dtype(reference.model) == torch.bfloat16


def test_pixels_that_fit_are_not_copied(exact):
    model, given = tiny_model("clip"), pixels(3)
    seen = []
    model.visual.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    wrapped(model, exact["clip"]).encode_images(given)
    assert [part.data_ptr() for part in seen] == [given.data_ptr()]
    model.half()
    wrapped(model, exact["clip"]).encode_images(given.half())
    assert seen[1].dtype == torch.float16


def test_dtype_of_pixels_is_that_of_the_first_layer_of_the_image_tower():
    model = nn.Module()
    model.register_parameter("scale", nn.Parameter(torch.zeros(())))
    assert image_dtype(model) == torch.float32
    model.text = nn.Conv2d(1, 1, 1).double()
    model.visual = nn.Sequential(nn.LayerNorm(4), nn.Linear(4, 4).bfloat16())
    assert image_dtype(model) == torch.bfloat16
    model.visual.append(nn.Conv2d(1, 1, 1).half())
    assert image_dtype(model) == torch.float16
    assert image_dtype(nn.Module()) is None


@pytest.mark.parametrize("part", ["model", "tower"])
def test_compiled_model_is_the_same_backbone(exact, part):
    plain, model = wrapped(tiny_model("clip"), exact["clip"]), tiny_model("clip")
    calls = []

    def backend(graph, _):
        return lambda *inputs: calls.append(1) or graph(*inputs)

    if part == "model":
        model = torch.compile(model, backend=backend)
    else:
        model.visual = torch.compile(model.visual, backend=backend)
    backbone = wrapped(model, exact["clip"])
    assert any("_orig_mod" in key for key in model.state_dict())
    assert backbone.fingerprint == plain.fingerprint
    assert (backbone.logit_scale, backbone.image_size) == (plain.logit_scale, plain.image_size)
    assert_near(backbone, plain, 1e-6)
    assert bool(calls) == (part == "tower")  # only forward is compiled


def test_guarded_compiled_model_answers_through_its_graph(exact, tmp_path):
    calls = []

    def backend(graph, _):
        return lambda *inputs: calls.append(1) or graph(*inputs)

    model = torch.compile(tiny_model("clip"), backend=backend)
    guarded = tanl.wrap(
        model,
        exact["clip"].preprocess,
        exact["clip"].tokenizer,
        ["cat", "dog"],
        corpus=[f"w{i}" for i in range(20)],
        cache_dir=tmp_path,
    )
    assert len(guarded.judge(pixels())) == 5
    assert not calls
    tokens = exact["clip"].tokenizer(TEXTS)
    with torch.no_grad():
        images, texts, _ = guarded(pixels(), tokens)
    assert calls
    torch.testing.assert_close(images, exact["clip"].encode_images(pixels()), atol=1e-5, rtol=0)
    torch.testing.assert_close(texts, exact["clip"].encode_texts(TEXTS), atol=1e-5, rtol=0)
    assert guarded.eval() is guarded


@pytest.mark.parametrize("precision", ["fp8", "float16", "", None])
def test_unknown_precision_is_refused_before_anything_is_loaded(precision):
    for name in ("mini", "hf:/nowhere", "ViT-B-99/openai"):
        with pytest.raises(ValueError, match=r"no precision .*; there are fp32, fp16, bf16"):
            tanl.load_backbone(name, precision=precision)
