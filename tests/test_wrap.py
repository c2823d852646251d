"""tanl.wrap: models and pairs of functions that people already hold, guarded in their place."""

import copy
import pickle

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image
from states import assert_same_state, state_of
from torch import nn
from torch.nn.functional import normalize

import tanl
from tanl.guard.wrapped import backbone_around

LABELS = ["red thing", "green thing", "blue thing"]
CORPUS = [f"word{i}" for i in range(30)]


def pictures(count, seed=0):
    rng = np.random.default_rng(seed)
    return [Image.fromarray(rng.integers(0, 256, (40, 30, 3), dtype=np.uint8)) for _ in range(count)]


def to_pixels(image):
    array = np.asarray(image.resize((16, 16)), dtype=np.float32) / 255
    return torch.from_numpy(array).permute(2, 0, 1)


def tokenize(texts, context_length=12):
    """As ``clip.tokenize``: whole numbers ``[n, 77]``, for one string too."""
    texts = [texts] if isinstance(texts, str) else texts
    tokens = torch.zeros(len(texts), context_length, dtype=torch.int32)
    for row, text in zip(tokens, texts, strict=True):
        codes = [98, *(ord(letter) % 97 + 1 for letter in text), 99]
        row[: len(codes)] = torch.tensor(
            [*codes[: context_length - 1], 99][: min(len(codes), context_length)]
        )
    return tokens


class OpenAIVisual(nn.Module):
    def __init__(self):
        super().__init__()
        self.input_resolution = 16
        self.conv1 = nn.Conv2d(3, 20, 8, stride=8, bias=False)
        self.dropout = nn.Dropout(0.5)
        self.proj = nn.Parameter(torch.randn(20, 10))

    def forward(self, x):
        return self.dropout(nn.functional.gelu(self.conv1(x))).mean((2, 3)) @ self.proj


class OpenAIClip(nn.Module):
    """The interface of OpenAI's ``clip.model.CLIP``: names, casts, and what a call gives."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        # The first parameter is not of the image tower, and stays in float32 in half precision.
        self.positional_embedding = nn.Parameter(0.1 * torch.randn(12, 10))
        self.visual = OpenAIVisual()
        self.token_embedding = nn.Embedding(100, 10)
        self.text_projection = nn.Parameter(torch.randn(10, 10))
        self.logit_scale = nn.Parameter(torch.tensor(3.5))
        self.output_dict = False

    @property
    def dtype(self):
        return self.visual.conv1.weight.dtype

    def encode_image(self, image):
        return self.visual(image.type(self.dtype))

    def encode_text(self, text):
        x = self.token_embedding(text).type(self.dtype) + self.positional_embedding.type(self.dtype)
        return x.cumsum(dim=1)[torch.arange(len(x)), text.argmax(dim=-1)] @ self.text_projection.type(
            self.dtype
        )

    def forward(self, image, text):
        images, texts = normalize(self.encode_image(image), dim=1), normalize(self.encode_text(text), dim=1)
        logits = self.logit_scale.exp() * images @ texts.t()
        return {"logits": logits} if self.output_dict else (logits, logits.t())


def guarded_clip(tmp_path, **options):
    settings = {"corpus": CORPUS, "cache_dir": tmp_path, **options}
    return tanl.wrap(OpenAIClip(), to_pixels, tokenize, LABELS, **settings)


@pytest.fixture
def guarded(tmp_path):
    return guarded_clip(tmp_path)


def test_openai_clip_is_guarded_with_its_own_embeddings(guarded):
    model = OpenAIClip().eval()
    images = pictures(9)
    pixels = torch.stack([to_pixels(image) for image in images])
    with torch.no_grad():
        z = normalize(model.encode_image(pixels), dim=1)
        texts = normalize(model.encode_text(tokenize([f"The nice {label}." for label in LABELS])), dim=1)
    torch.testing.assert_close(guarded.encode(images), z, atol=1e-6, rtol=0)
    torch.testing.assert_close(guarded.bank.id_embeddings, texts, atol=1e-6, rtol=0)
    assert guarded.bank.logit_scale == pytest.approx(float(torch.tensor(3.5).exp()))
    expected = guarded.detector.score(z)
    detection = guarded(images)
    assert isinstance(detection, tanl.Detection)
    torch.testing.assert_close(detection.ood_score, expected, atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_call_with_images_and_texts_is_the_models(guarded):
    model = OpenAIClip().eval()
    pixels = torch.stack([to_pixels(image) for image in pictures(5)])
    tokens = tokenize(["a dog", "a cat", "seven"])
    before = state_of(guarded.detector)
    for given, expected in (
        (guarded(pixels, tokens), model(pixels, tokens)),
        (guarded(pixels, text=tokens), model(pixels, tokens)),
        (guarded(image=pixels, text=tokens), model(pixels, tokens)),
    ):
        assert torch.equal(given[0], expected[0])
        assert torch.equal(given[1], expected[1])
    with pytest.raises(TypeError, match="text"):  # OpenAI's model takes no images alone
        guarded(pixels)
    assert_same_state(guarded.detector.state_dict(), before)
    assert isinstance(guarded.judge(pixels), tanl.Detection)
    assert isinstance(guarded([pictures(1)[0]]), tanl.Detection)
    assert guarded.detector.state.images == 6


def test_keywords_and_outputs_of_open_clip(tiny_clip, tmp_path):
    name = f"local-dir:{tiny_clip}"
    model, _, preprocess = open_clip.create_model_and_transforms(name)
    tokenizer = open_clip.get_tokenizer(name)
    guarded = tanl.wrap(
        model, preprocess=preprocess, tokenizer=tokenizer, labels=LABELS, corpus=CORPUS, cache_dir=tmp_path
    )
    pixels = torch.stack([preprocess(image) for image in pictures(3)])
    tokens = tokenizer(["a dog", "a cat"])
    with torch.no_grad():
        images, texts, scale = guarded(image=pixels, text=tokens)
        assert torch.equal(images, model.encode_image(pixels, normalize=True))
        assert torch.equal(texts, guarded.encode_text(tokens, normalize=True))
        only_images, nothing, _ = guarded(image=pixels)
        by_position, _, _ = guarded(pixels)
    assert torch.equal(only_images, images)
    assert torch.equal(by_position, images)
    assert nothing is None
    assert float(scale) == pytest.approx(guarded.bank.logit_scale)
    assert guarded.detector.state.images == 0  # the model's calls teach the guard nothing
    assert isinstance(guarded.judge(pixels), tanl.Detection)


def test_attributes_are_the_models(guarded):
    model = guarded.model
    assert guarded.visual is model.visual
    assert guarded.visual.input_resolution == 16
    assert guarded.logit_scale is model.logit_scale
    assert guarded.dtype == torch.float32
    assert next(guarded.parameters()) is model.positional_embedding
    assert list(guarded.state_dict()) == list(model.state_dict())
    pixels = torch.rand(2, 3, 16, 16)
    assert torch.equal(guarded.encode_image(pixels), model.encode_image(pixels))
    assert guarded.encode_image(pixels).requires_grad
    with pytest.raises(AttributeError, match="OpenAIClip' object has no attribute 'nothing'"):
        guarded.nothing  # noqa: B018
    assert not hasattr(guarded, "nothing")


def test_attributes_are_written_to_the_model_that_has_them(guarded):
    guarded.output_dict = True
    assert guarded.model.output_dict is True
    assert set(guarded(torch.rand(1, 3, 16, 16), tokenize("a"))) == {"logits"}
    guarded.logit_scale = nn.Parameter(torch.tensor(1.0))
    assert guarded.model.logit_scale.item() == 1.0
    guarded.evidence = 2
    guarded.note = "mine"
    assert not hasattr(guarded.model, "evidence")
    assert not hasattr(guarded.model, "note")


def test_methods_that_give_the_model_give_the_guarded_one(guarded):
    for chained in (
        guarded.eval(),
        guarded.to("cpu"),
        guarded.float(),
        guarded.cpu(),
        guarded.requires_grad_(False),
        guarded.to(torch.float32).eval(),
    ):
        assert chained is guarded
    assert not any(parameter.requires_grad for parameter in guarded.parameters())


def test_model_in_training_mode_is_refused_before_any_change(guarded):
    images = pictures(3)
    before = state_of(guarded.detector)
    assert guarded.train() is guarded
    with pytest.raises(ValueError, match=r"training mode, which gives other embeddings; call its eval\(\)"):
        guarded(images)
    with pytest.raises(ValueError, match="training mode"):
        guarded.backbone.encode_texts(["a"])
    assert_same_state(guarded.detector.state_dict(), before)
    assert len(guarded.eval()(images)) == 3


def test_model_moved_to_another_device_is_refused_before_any_change(guarded):
    before = state_of(guarded.detector)
    guarded.to("meta")
    with pytest.raises(
        ValueError, match="model is on meta, but its labels were embedded on cpu: move it back"
    ):
        guarded(pictures(2))
    with pytest.raises(ValueError, match="model is on meta"):
        guarded.judge(torch.rand(2, 3, 16, 16, device="meta"))
    with pytest.raises(ValueError, match="model is on meta"):
        list(guarded.stream(pictures(2)))
    assert_same_state(guarded.detector.state_dict(), before)


@pytest.mark.parametrize(("cast", "tolerance"), [("half", 5e-3), ("bfloat16", 3e-2)])
def test_half_precision_after_wrapping_goes_on(guarded, cast, tolerance):
    images = pictures(7)
    z, scores = guarded.encode(images), guarded.detector.score(guarded.encode(images))
    assert getattr(guarded, cast)() is guarded
    half = guarded.encode(images)
    assert half.dtype == torch.float32
    torch.testing.assert_close(half, z, atol=tolerance, rtol=0)
    detection = guarded(images)
    assert detection.ood_score.dtype == torch.float32
    # Cosines are multiplied by 33.
    torch.testing.assert_close(detection.ood_score, scores, atol=33 * tolerance / 2, rtol=0)


def test_pixels_elsewhere_are_refused_not_moved(guarded):
    with pytest.raises(ValueError, match=r"pixels are on meta, but wrapped is on cpu; move one with \.to"):
        guarded.judge(torch.rand(1, 3, 16, 16, device="meta"))


def test_copies_and_pickles_are_guarded_and_apart(guarded):
    images = pictures(6)
    deep = copy.deepcopy(guarded)
    again = pickle.loads(pickle.dumps(guarded))
    assert copy.copy(guarded).model is guarded.model
    expected = guarded(images).ood_score
    for other in (deep, again):
        assert type(other) is tanl.GuardedModel
        assert other.model is not guarded.model
        torch.testing.assert_close(other(images).ood_score, expected, atol=1e-6, rtol=0)
        assert other.eval() is other


def test_saved_guarded_model_goes_on_as_one(guarded, tmp_path):
    guarded(pictures(8))
    guarded.save(tmp_path / "guard")
    backbone = tanl.ClipBackbone(OpenAIClip(), to_pixels, tokenize)
    again = tanl.GuardedModel.load(tmp_path / "guard", backbone=backbone, cache_dir=tmp_path)
    assert type(again) is tanl.GuardedModel
    images = pictures(5, seed=1)
    assert torch.equal(again(images).ood_score, guarded(images).ood_score)
    assert again.visual is backbone.model.visual
    with pytest.raises(ValueError, match="backbone"):
        tanl.GuardedModel.load(tmp_path / "guard", cache_dir=tmp_path)


def test_bare_object_does_not_look_for_its_backbone_for_ever():
    bare = tanl.GuardedModel.__new__(tanl.GuardedModel)
    for name in ("model", "backbone", "visual", "__deepcopy__", "_private"):
        with pytest.raises(AttributeError):
            getattr(bare, name)


def test_fingerprint_is_the_same_in_every_process_and_follows_preprocessing_and_tokenizer():
    def other(image):
        return to_pixels(image) * 2

    def words(texts):
        return tokenize([text.upper() for text in texts])

    first = tanl.ClipBackbone(OpenAIClip(), to_pixels, tokenize).fingerprint
    # A function's description has its address in it, which another process does not share.
    assert tanl.ClipBackbone(OpenAIClip(), lambda image: to_pixels(image), tokenize).fingerprint == first
    assert tanl.ClipBackbone(OpenAIClip(), other, tokenize).fingerprint != first
    assert tanl.ClipBackbone(OpenAIClip(), to_pixels, words).fingerprint != first


def test_other_tokenizer_does_not_meet_the_embeddings_of_the_first(tmp_path):
    first = guarded_clip(tmp_path)
    second = tanl.wrap(
        OpenAIClip(), to_pixels, lambda texts: tokenize([t[::-1] for t in texts]), LABELS,
        corpus=CORPUS, cache_dir=tmp_path,
    )  # fmt: skip
    assert not torch.allclose(first.bank.embeddings[3:], second.bank.embeddings[3:], atol=1e-3)


def pair():
    model = OpenAIClip().eval()
    return model, model.encode_image, lambda texts: model.encode_text(tokenize(texts))


def test_pair_of_functions_without_a_tokenizer(tmp_path):
    _, encode_image, encode_text = pair()
    guarded = tanl.wrap(
        (encode_image, encode_text), to_pixels, None, LABELS, corpus=CORPUS, cache_dir=tmp_path
    )
    assert isinstance(guarded, tanl.GuardedModel)
    assert isinstance(guarded.backbone, tanl.CallableBackbone)
    assert isinstance(guarded.backbone, tanl.Backbone)
    assert guarded.encode_image == encode_image
    assert guarded.encode_text is encode_text
    reference = guarded_clip(tmp_path)
    images = pictures(9)
    torch.testing.assert_close(guarded.encode(images), reference.encode(images), atol=1e-6, rtol=0)
    torch.testing.assert_close(guarded.bank.embeddings, reference.bank.embeddings, atol=1e-6, rtol=0)
    assert guarded.bank.logit_scale == 100.0
    assert len(guarded(images)) == 9
    for inputs in ((torch.rand(1, 3, 16, 16), ["a dog"]), (torch.rand(1, 3, 16, 16),)):
        with pytest.raises(
            TypeError, match=r"no model to call: guard\.judge\(pixels\) judges .* their logits are"
        ):
            guarded(*inputs)


def test_callables_of_numpy_with_a_tokenizer_and_a_scale(tmp_path):
    model, _, _ = pair()
    calls = []

    def encode_image(pixels):
        calls.append(len(pixels))
        assert not torch.is_grad_enabled()
        return model.encode_image(pixels).numpy().astype(np.float64)

    def encode_text(tokens):
        calls.append(len(tokens))
        return model.encode_text(tokens).numpy() * 7

    backbone = tanl.CallableBackbone(
        encode_image,
        encode_text,
        lambda image: to_pixels(image).numpy(),
        tokenize,
        logit_scale=20,
        name="onnx",
        fingerprint="v1",
    )
    reference = tanl.ClipBackbone(model, to_pixels, tokenize)
    pixels = torch.rand(19, 3, 16, 16)
    z, texts = (
        backbone.encode_images(pixels),
        backbone.encode_texts([f"thing {i}" for i in range(7)], batch_size=3),
    )
    assert calls == [19, 3, 3, 1]
    assert z.dtype == texts.dtype == torch.float32
    torch.testing.assert_close(z, reference.encode_images(pixels), atol=1e-6, rtol=0)
    torch.testing.assert_close(
        texts, reference.encode_texts([f"thing {i}" for i in range(7)]), atol=1e-6, rtol=0
    )
    assert (backbone.name, backbone.fingerprint, backbone.logit_scale) == ("onnx", "v1", 20.0)
    assert (backbone.image_size, backbone.device) == (16, torch.device("cpu"))
    guarded = tanl.GuardedModel(backbone, LABELS, corpus=CORPUS, cache_dir=tmp_path)
    assert guarded.bank.logit_scale == 20.0
    assert len(guarded(pictures(5))) == 5
    assert tanl.noise_embeddings(backbone).shape == (15, 10)


def test_fingerprint_of_callables_is_of_what_they_do():
    _, encode_image, encode_text = pair()
    first = tanl.CallableBackbone(encode_image, encode_text, to_pixels).fingerprint
    assert len(first) == 64
    _, same_image, same_text = pair()
    assert tanl.CallableBackbone(same_image, same_text, to_pixels).fingerprint == first
    changed = [
        tanl.CallableBackbone(lambda pixels: encode_image(pixels + 0.1), encode_text, to_pixels),
        tanl.CallableBackbone(encode_image, lambda texts: encode_text([t + "!" for t in texts]), to_pixels),
        tanl.CallableBackbone(encode_image, encode_text, lambda image: to_pixels(image) / 2),
    ]
    assert len({first, *(backbone.fingerprint for backbone in changed)}) == 4


@pytest.mark.parametrize(
    ("change", "kind", "message"),
    [
        ({"encode_image": None}, TypeError, "encode_image must be callable, not None"),
        ({"encode_text": "text"}, TypeError, "encode_text must be callable, not 'text'"),
        ({"preprocess": 5}, TypeError, "preprocess must be callable, not 5"),
        ({"tokenizer": 5}, TypeError, "tokenizer must be callable, not 5"),
        ({"logit_scale": 0}, ValueError, "logit_scale must be positive and finite, not 0"),
        ({"logit_scale": float("inf")}, ValueError, "finite, not inf"),
        ({"logit_scale": float("nan")}, ValueError, "finite, not nan"),
        ({"logit_scale": torch.tensor(4.6)}, TypeError, r"must be a number, not tensor.*\.item\(\)"),
        ({"fingerprint": ""}, ValueError, "fingerprint is empty"),
    ],
)
def test_callables_refuse_unusable_settings(change, kind, message):
    settings = {"encode_image": len, "encode_text": len, "preprocess": to_pixels, **change}
    with pytest.raises(kind, match=message):
        tanl.CallableBackbone(**settings)


def backwards(array):
    return np.ascontiguousarray(array[::-1, ::-1])[::-1, ::-1]


def read_only(array):
    array = array.copy()
    array.flags.writeable = False
    return array


@pytest.mark.parametrize("form", [backwards, read_only])
@pytest.mark.filterwarnings("error")
def test_callables_may_give_arrays_of_any_memory(form):
    model, _, _ = pair()
    backbone = tanl.CallableBackbone(
        lambda pixels: form(model.encode_image(pixels).numpy()),
        lambda texts: form(model.encode_text(tokenize(texts)).numpy()),
        lambda image: np.flip(np.flip(to_pixels(image).numpy(), 2).copy(), 2),
    )
    reference = tanl.ClipBackbone(model, to_pixels, tokenize)
    image, pixels, texts = pictures(1)[0], torch.rand(5, 3, 16, 16), ["a dog", "cat", "b"]
    assert torch.equal(backbone.preprocess(image), to_pixels(image))
    torch.testing.assert_close(
        backbone.encode_images(pixels), reference.encode_images(pixels), atol=1e-6, rtol=0
    )
    torch.testing.assert_close(backbone.encode_texts(texts), reference.encode_texts(texts), atol=1e-6, rtol=0)


def test_names_of_the_model_are_listed_beside_the_guards(tmp_path):
    guarded = guarded_clip(tmp_path)
    names = dir(guarded)
    assert {"encode_text", "visual", "state_dict", "eval", "calibrate", "bank", "model"} <= set(names)
    assert names == sorted(set(names))
    assert all(hasattr(guarded, name) for name in names if name not in dir(type(guarded)))
    assert repr(guarded).startswith("GuardedModel(tanl, 3 ID labels, 30 negatives, backbone ")


@pytest.mark.parametrize(
    ("output", "message"),
    [
        (None, "encode_image gives NoneType for 2 inputs, not a tensor"),
        (torch.rand(10), r"encode_image gives \[10\] for 2 inputs"),
        (torch.rand(3, 10), r"encode_image gives \[3, 10\] for 2 inputs"),
        ([[1.0], [2.0]], "encode_image gives list for 2 inputs"),
    ],
)
def test_what_is_no_row_an_input_is_refused(output, message):
    backbone = tanl.CallableBackbone(lambda _: output, len, to_pixels)
    with pytest.raises(TypeError, match=message):
        backbone.encode_images(torch.rand(2, 3, 16, 16))
    model = OpenAIClip()
    model.encode_image = lambda _: output
    with pytest.raises(TypeError, match=message):
        tanl.ClipBackbone(model, to_pixels, tokenize).encode_images(torch.rand(2, 3, 16, 16))


@pytest.mark.parametrize(
    ("preprocess", "found"),
    [(lambda image: image, "Image"), (lambda image: to_pixels(image)[None], r"\[1, 3, 16, 16\]")],
)
def test_preprocessing_that_gives_no_pixels_is_refused(preprocess, found):
    for backbone in (
        tanl.ClipBackbone(OpenAIClip(), preprocess, tokenize),
        tanl.CallableBackbone(*pair()[1:], preprocess),
    ):
        with pytest.raises(
            TypeError, match=rf"preprocess gives {found} for an image, not a torch.Tensor \[3"
        ):
            backbone.preprocess(pictures(1)[0])


@pytest.mark.parametrize(
    ("pixels", "kind", "message"),
    [
        (torch.zeros(3, 16, 16), ValueError, r"shape \[B, 3, 16, 16\] with B >= 1, not \[3, 16, 16\]"),
        (torch.zeros(1, 3, 16, 16, dtype=torch.uint8), TypeError, "not torch.uint8"),
        (torch.zeros(1, 3, 16, 16, device="meta"), ValueError, "pixels are on meta, but callables is on cpu"),
    ],
)
def test_callables_refuse_unusable_pixels(pixels, kind, message):
    with pytest.raises(kind, match=message):
        tanl.CallableBackbone(*pair()[1:], to_pixels).encode_images(pixels)


@pytest.mark.parametrize(("texts", "kind"), [([], ValueError), ("dog", TypeError), ([1], TypeError)])
def test_callables_refuse_unusable_texts(texts, kind):
    with pytest.raises(kind, match="texts"):
        tanl.CallableBackbone(*pair()[1:], to_pixels).encode_texts(texts)


@pytest.mark.parametrize(
    ("model", "tokenizer", "message"),
    [
        (nn.Linear(1, 1), tokenize, "Linear has no encode_image, encode_text, logit_scale"),
        ("ViT-B-16", tokenize, "model must be a torch.nn.Module, not str"),
        (OpenAIClip(), None, "OpenAIClip needs its tokenizer; only a pair of functions goes without"),
        (OpenAIClip(), "clip", "tokenizer must be callable, not 'clip'"),
        (
            OpenAIClip(),
            lambda texts: [[1]] * len(texts),
            "tokenizer gives list for .* texts, not a torch.Tensor",
        ),
        ((len,), None, r"a pair of functions is \(encode_image, encode_text\), not 1 of them"),
        ((len, None), None, "encode_text must be callable"),
    ],
)
def test_wrap_refuses_what_it_cannot_hold(tmp_path, model, tokenizer, message):
    with pytest.raises(TypeError, match=message):
        tanl.wrap(model, to_pixels, tokenizer, LABELS, corpus=CORPUS, cache_dir=tmp_path)


def test_guarded_models_of_ones_own_are_made_around_the_same_backbone(tmp_path):
    class OwnModel(tanl.GuardedModel):
        pass

    backbone = backbone_around(OpenAIClip(), to_pixels, tokenize)
    guarded = OwnModel(backbone, LABELS, corpus=CORPUS, cache_dir=tmp_path)
    images = pictures(3)
    assert guarded.eval() is guarded
    assert list(guarded(images)) == list(guarded_clip(tmp_path)(images))


def test_dual_encoder_of_transformers(tmp_path):
    pytest.importorskip("transformers", reason='needs transformers: pip install "tanl[hf]"')
    from tiny_hugging_face import tiny_image_processor, tiny_model, tiny_tokenizer

    model, processor, tokenizer = tiny_model("clip"), tiny_image_processor("clip"), tiny_tokenizer(40)
    guarded = tanl.wrap(model, processor, tokenizer, ["cat", "dog"], corpus=CORPUS, cache_dir=tmp_path)
    images = pictures(3)
    assert len(guarded(images)) == 3
    inputs = {
        **processor(images=images, return_tensors="pt"),
        **tokenizer(["a dog", "cat"], return_tensors="pt", padding=True),
    }
    with torch.no_grad():
        assert torch.equal(guarded(**inputs).logits_per_image, model(**inputs).logits_per_image)
    assert guarded.config is model.config
    assert guarded.train() is guarded
    with pytest.raises(ValueError, match="training mode"):
        guarded(images)
    with pytest.raises(ValueError, match="training mode"):
        guarded.backbone.encode_texts(["a"])
    assert guarded.eval() is guarded
