"""Backbones through transformers: tiny random models of five families, loaded from folders as any other."""

from types import SimpleNamespace

import pytest
import torch
from PIL import Image

huggingface_hub = pytest.importorskip("huggingface_hub", reason='needs transformers: pip install "tanl[hf]"')
transformers = pytest.importorskip("transformers", reason='needs transformers: pip install "tanl[hf]"')

from tiny_hugging_face import (  # noqa: E402
    KINDS,
    save_tiny,
    tiny_image_processor,
    tiny_model,
    tiny_tokenizer,
)
from torch.nn.functional import normalize  # noqa: E402

import tanl  # noqa: E402
from tanl.backbones import hugging_face  # noqa: E402
from tanl.backbones.hugging_face import HuggingFaceBackbone, load_hugging_face  # noqa: E402

needs_naflex = pytest.mark.skipif("siglip2" not in KINDS, reason="needs transformers 4.49 or later")

TEXTS = ["The nice dog.", "a", "a photo of a very long, detailed picture.", "The nice dog.", "b"]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("hugging_face")
    return {kind: save_tiny(kind, root / kind) for kind in KINDS}


@pytest.fixture(scope="module")
def backbones(folders):
    return {kind: load_hugging_face(f"hf:{folder}") for kind, folder in folders.items()}


def pictures(*sizes):
    return [Image.effect_noise(size, 80).convert("RGB") for size in sizes]


def wrapped(kind="clip", model=None):
    model = tiny_model(kind) if model is None else model
    context = 64 if kind.startswith("siglip") else 40
    return HuggingFaceBackbone(model, tiny_image_processor(kind), tiny_tokenizer(context))


def embeddings_of(output):
    return normalize(output if isinstance(output, torch.Tensor) else output.pooler_output, dim=1)


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_embeddings_and_scale_are_those_of_transformers(folders, backbones, kind):
    backbone = backbones[kind]
    assert isinstance(backbone, tanl.Backbone)
    model = transformers.AutoModel.from_pretrained(folders[kind]).eval()
    processor = transformers.AutoImageProcessor.from_pretrained(folders[kind])
    tokenizer = transformers.AutoTokenizer.from_pretrained(folders[kind])
    fixed = {"padding": "max_length", "max_length": 64} if kind.startswith("siglip") else {"padding": True}
    tokens = tokenizer(TEXTS, return_tensors="pt", **fixed)
    # Taller, wider and square; siglip2 keeps the shape of each.
    images = pictures((50, 33), (20, 64), (32, 32), (90, 30), (40, 40))
    output = model(**processor(images=images, return_tensors="pt"), **tokens)
    pixels = torch.stack([backbone.preprocess(image) for image in images])
    assert pixels.dtype == torch.float32
    z, texts = backbone.encode_images(pixels), backbone.encode_texts(TEXTS)
    torch.testing.assert_close(z, normalize(output.image_embeds, dim=1), atol=1e-5, rtol=0)
    torch.testing.assert_close(texts, normalize(output.text_embeds, dim=1), atol=1e-5, rtol=0)
    assert float((texts[0] - texts[1]).norm()) > 1e-3 < float((texts[1] - texts[4]).norm())
    bias = getattr(model, "logit_bias", torch.zeros(1))
    logits = backbone.logit_scale * z @ texts.T + bias
    torch.testing.assert_close(logits, output.logits_per_image, atol=1e-4, rtol=1e-5)
    # What the bias adds to every label leaves shares as they are.
    torch.testing.assert_close((logits - bias).softmax(1), output.logits_per_image.softmax(1))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [1, 5, 19])
def test_any_number_of_images_and_texts(backbones, kind, size):
    backbone = backbones[kind]
    pixels = torch.stack([backbone.preprocess(image) for image in pictures(*[(33, 47)] * size)])
    z = backbone.encode_images(pixels)
    one_by_one = torch.cat([backbone.encode_images(row[None]) for row in pixels])
    torch.testing.assert_close(z, one_by_one, atol=1e-5, rtol=0)
    texts = [f"word{i % 7} {'x' * (i % 4)}" for i in range(size)]
    whole = backbone.encode_texts(texts)
    torch.testing.assert_close(backbone.encode_texts(texts, batch_size=3), whole, atol=1e-5, rtol=0)
    for embeddings in (z, whole):
        assert embeddings.dtype == torch.float32
        torch.testing.assert_close(embeddings.norm(dim=1), torch.ones(size))


@pytest.mark.parametrize("kind", KINDS)
def test_guard_runs_on_noise_and_images(backbones, tmp_path, kind):
    backbone = backbones[kind]
    assert backbone.image_size == 32
    assert tanl.noise_embeddings(backbone).shape[0] == 15
    guard = tanl.Guard(backbone, ["cat", "dog"], corpus=[f"w{i}" for i in range(20)], cache_dir=tmp_path)
    detection = guard(pictures((40, 40), (50, 33), (33, 50)))
    assert len(detection) == 3
    assert guard.bank.logit_scale == pytest.approx(backbone.logit_scale)
    assert detection.is_ood is not None


@needs_naflex
def test_naflex_takes_square_pixels_as_its_processor_cuts_them(backbones):
    backbone = backbones["siglip2"]
    pixels = torch.rand(5, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    steps = range(0, 32, 8)
    patches = [
        pixels[:, :, y : y + 8, x : x + 8].permute(0, 2, 3, 1).flatten(1) for y in steps for x in steps
    ]
    with torch.no_grad():
        output = backbone.model.get_image_features(
            pixel_values=torch.stack(patches, dim=1),
            pixel_attention_mask=torch.ones(5, 16, dtype=torch.int32),
            spatial_shapes=torch.full((5, 2), 4),
        )
    torch.testing.assert_close(backbone.encode_images(pixels), embeddings_of(output), atol=1e-5, rtol=0)


def test_text_longer_than_the_context_is_cut(backbones):
    long = "abcdefgh " * 30
    assert torch.equal(backbones["clip"].encode_texts([long]), backbones["clip"].encode_texts([long + "z"]))


def test_scale_is_read_where_the_model_has_it():
    clip, align = wrapped("clip"), wrapped("align")
    with torch.no_grad():
        clip.model.logit_scale.fill_(3.0)
        align.model.temperature.fill_(0.02)
    assert clip.logit_scale == pytest.approx(torch.tensor(3.0).exp().item())
    assert align.logit_scale == pytest.approx(50.0)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float16, 1e-2), (torch.bfloat16, 5e-2)])
def test_half_precision_models_give_float32(dtype, tolerance):
    exact, half = wrapped(), wrapped(model=tiny_model("clip").to(dtype))
    pixels = torch.stack([exact.preprocess(image) for image in pictures((40, 40), (50, 30))])
    for rows, reference in (
        (half.encode_images(pixels), exact.encode_images(pixels)),
        (half.encode_texts(TEXTS), exact.encode_texts(TEXTS)),
    ):
        assert rows.dtype == torch.float32
        torch.testing.assert_close(rows.norm(dim=1), torch.ones(len(rows)))
        torch.testing.assert_close(rows, reference, atol=tolerance, rtol=0)
    assert half.logit_scale == pytest.approx(exact.logit_scale, rel=tolerance)
    assert half.fingerprint != exact.fingerprint


def test_autocast_gives_float32_unit_rows():
    backbone = wrapped()
    pixels = backbone.preprocess(pictures((40, 40))[0])[None]
    exact = backbone.encode_images(pixels)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        z = backbone.encode_images(pixels)
    assert z.dtype == torch.float32
    torch.testing.assert_close(z.norm(dim=1), torch.ones(1))
    torch.testing.assert_close(z, exact, atol=5e-2, rtol=0)


def test_compiled_model_is_the_same_backbone():
    plain = wrapped()
    compiled = wrapped(model=torch.compile(tiny_model("clip"), backend="eager"))
    assert compiled.fingerprint == plain.fingerprint
    assert compiled.logit_scale == plain.logit_scale
    assert torch.equal(compiled.encode_texts(TEXTS), plain.encode_texts(TEXTS))


@pytest.mark.parametrize("kind", ["tensor", "tuple"])
def test_what_older_and_tuple_models_give_is_understood(monkeypatch, kind):
    backbone = wrapped()
    expected = backbone.encode_texts(TEXTS)
    original = backbone.model.get_text_features

    def older(**inputs):
        output = original(**inputs)
        pooled = output if isinstance(output, torch.Tensor) else output.pooler_output
        return pooled if kind == "tensor" else (None, pooled)

    monkeypatch.setattr(backbone.model, "get_text_features", older)
    assert torch.equal(backbone.encode_texts(TEXTS), expected)


@pytest.mark.parametrize(
    ("output", "found"),
    [
        (torch.zeros(1, 4, 12), r"\[1, 4, 12\]"),
        (torch.zeros(2, 12), r"\[2, 12\]"),
        (SimpleNamespace(pooler_output=None), "SimpleNamespace"),
    ],
    ids=["every token", "too many rows", "nothing pooled"],
)
def test_features_that_are_no_row_a_text_are_refused(monkeypatch, output, found):
    backbone = wrapped()
    monkeypatch.setattr(backbone.model, "get_text_features", lambda **_: output)
    message = rf"get_text_features of CLIPModel gives {found} for 1 inputs, not a tensor \[1, D\]"
    with pytest.raises(TypeError, match=message):
        backbone.encode_texts(["a"])


def test_fingerprint_follows_weights_config_preprocessing_and_tokenizer(folders, backbones):
    first = wrapped().fingerprint
    assert wrapped().fingerprint == first
    assert load_hugging_face(f"hf:{folders['clip']}").fingerprint == backbones["clip"].fingerprint
    used = wrapped()
    used.encode_texts(TEXTS)
    assert used.fingerprint == first
    changed = [wrapped() for _ in range(4)]
    with torch.no_grad():
        changed[0].model.logit_scale += 1e-3
    changed[1].model.config.vision_config.hidden_act = "relu"
    changed[2].image_processor.image_mean = [0.4, 0.4, 0.4]
    changed[3].tokenizer.add_tokens(["dog"])
    assert len({first, *(backbone.fingerprint for backbone in changed)}) == 5


def test_wrap_refuses_what_is_no_dual_encoder():
    vision = transformers.CLIPVisionModel(tiny_model("clip").config.vision_config)
    with pytest.raises(
        TypeError, match="CLIPVisionModel has no get_image_features, get_text_features; a dual encoder"
    ):
        HuggingFaceBackbone(vision, None, None)
    with pytest.raises(TypeError, match=r"must be a torch.nn.Module, not str"):
        HuggingFaceBackbone("openai/clip", None, None)
    scaleless = tiny_model("clip")
    del scaleless.logit_scale
    with pytest.raises(TypeError, match="CLIPModel has no logit_scale"):
        HuggingFaceBackbone(scaleless, None, None)


@pytest.mark.parametrize(
    ("pixels", "kind", "message"),
    [
        (torch.zeros(3, 32, 32), ValueError, r"shape \[B, 3, 32, 32\] with B >= 1, not \[3, 32, 32\]"),
        (torch.zeros(()), ValueError, r"not \[\]"),
        (torch.zeros(0, 3, 32, 32), ValueError, r"not \[0, 3, 32, 32\]"),
        (torch.zeros(1, 3, 32, 32, dtype=torch.uint8), TypeError, "floating torch.Tensor, not torch.uint8"),
        ("image.png", TypeError, "not str"),
        (torch.zeros(1, 3, 32, 32, device="meta"), ValueError, "on meta, but"),
    ],
)
def test_unusable_pixels_are_refused(backbones, pixels, kind, message):
    with pytest.raises(kind, match=message):
        backbones["clip"].encode_images(pixels)


@needs_naflex
def test_naflex_names_both_shapes_that_it_takes(backbones):
    with pytest.raises(ValueError, match=r"\[B, 20, 194\] or \[B, 3, 32, 32\] with B >= 1"):
        backbones["siglip2"].encode_images(torch.zeros(1, 3, 40, 40))


@pytest.mark.parametrize(
    ("texts", "kind", "message"),
    [
        ([], ValueError, "no texts"),
        ("dog", TypeError, "list of strings, not 'dog'"),
        ([1], TypeError, "strings"),
    ],
)
def test_unusable_texts_are_refused(backbones, texts, kind, message):
    with pytest.raises(kind, match=message):
        backbones["clip"].encode_texts(texts)


def test_load_backbone_knows_the_prefix(folders):
    backbone = tanl.load_backbone(f"hf:{folders['siglip']}")
    assert isinstance(backbone, HuggingFaceBackbone)
    assert backbone.name == f"hf:{folders['siglip']}"


def test_half_precision_weights_are_loaded_in_float32(folders, tmp_path):
    for part in (tiny_model("clip").half(), tiny_image_processor("clip"), tiny_tokenizer(40)):
        part.save_pretrained(tmp_path)
    parameters = load_hugging_face(f"hf:{tmp_path}").model.parameters()
    assert {parameter.dtype for parameter in parameters} == {torch.float32}


def test_loading_prints_nothing_and_keeps_settings(folders, capfd):
    shown = transformers.utils.logging.is_progress_bar_enabled()
    load_hugging_face(f"hf:{folders['clip']}")
    assert capfd.readouterr() == ("", "")
    assert transformers.utils.logging.is_progress_bar_enabled() == shown


def test_folder_without_all_weights_is_refused(folders, tmp_path):
    model = tiny_model("clip")
    weights = model.state_dict()
    del weights["visual_projection.weight"]
    for part in (tiny_image_processor("clip"), tiny_tokenizer(40)):
        part.save_pretrained(tmp_path)
    model.save_pretrained(tmp_path, state_dict=weights)
    with pytest.raises(tanl.BackboneError, match=r"its files lack 1 weights, visual_projection\.weight"):
        load_hugging_face(f"hf:{tmp_path}")


def test_folder_with_another_kind_of_model_is_refused(tmp_path):
    transformers.CLIPVisionModel(tiny_model("clip").config.vision_config).save_pretrained(tmp_path)
    with pytest.raises(TypeError, match="CLIPVisionModel has no get_image_features"):
        load_hugging_face(f"hf:{tmp_path}")


def test_folder_without_a_tokenizer_is_refused(tmp_path):
    tiny_model("clip").save_pretrained(tmp_path)
    tiny_image_processor("clip").save_pretrained(tmp_path)
    with pytest.raises(tanl.BackboneError, match=r"cannot be loaded: .*need no network") as error:
        load_hugging_face(f"hf:{tmp_path}")
    assert "\n" not in str(error.value)


def test_name_without_a_model_is_refused():
    with pytest.raises(ValueError, match=r'nothing follows "hf:"'):
        load_hugging_face("hf:")


def refuse(monkeypatch, hub_error):
    """A cache without the model, and a hub that answers with an error; gives what is asked, in order."""
    asked = []

    def load(source, *, local_files_only, **options):
        asked.append("cache" if local_files_only else "hub")
        raise OSError(f"{source} is not a model\nmore lines")

    def look(url, *, timeout):
        asked.append(f"look for {url.rpartition('/')[2]}")
        raise hub_error

    monkeypatch.setattr(transformers.AutoModel, "from_pretrained", load)
    monkeypatch.setattr(huggingface_hub, "get_hf_file_metadata", look)
    return asked


def test_hub_out_of_reach_is_asked_once_after_the_cache(monkeypatch):
    asked = refuse(monkeypatch, ConnectionError("no route\nmore lines"))
    with pytest.raises(
        tanl.BackboneError,
        match=r"'hf:owner/model' cannot be loaded: the local cache .* the hub cannot be reached: no route \(",
    ) as error:
        load_hugging_face("hf:owner/model")
    assert asked == ["cache", "look for config.json"]
    assert "\n" not in str(error.value)


def test_model_that_the_hub_has_not_is_told_by_transformers(monkeypatch):
    class NotFound(huggingface_hub.utils.HfHubHTTPError):
        def __init__(self):
            """Without the answer, whose type differs between versions of huggingface_hub."""

    asked = refuse(monkeypatch, NotFound())
    with pytest.raises(tanl.BackboneError, match=r"cannot be loaded: owner/model is not a model \("):
        load_hugging_face("hf:owner/model")
    assert asked == ["cache", "look for config.json", "hub"]


def test_missing_transformers_names_the_extra(monkeypatch):
    def absent(name, *rest):
        raise ImportError(f"No module named {name!r}")

    monkeypatch.setattr(hugging_face, "import_module", absent)
    with pytest.raises(ImportError, match=r"'hf:owner/model' needs transformers: pip install \"tanl\[hf\]\""):
        load_hugging_face("hf:owner/model")
