"""Backbones through open_clip: a tiny random CLIP, wrapped objects, and what cannot be loaded."""

import json
import logging
import random
import warnings
from functools import partial

import open_clip
import pytest
import torch
from colour_backbone import ColourBackbone
from PIL import Image
from safetensors.torch import save_file
from states import assert_same_state, state_of
from torchvision import transforms

import tanl
from conftest import TINY_CLIP
from tanl.backbones import mini
from tanl.backbones.folding import fold_batch_norms
from tanl.backbones.noise import noise_images

TEXTS = ["The nice dog.", "a", "This is a very long, detailed and colourful photo.", "The nice dog."]


def raw_model(tiny_clip):
    return open_clip.create_model_and_transforms(f"local-dir:{tiny_clip}")


def test_embeddings_are_those_of_open_clip(tiny_clip, tiny_backbone):
    model, _, preprocess = raw_model(tiny_clip)
    model.eval()
    tokens = open_clip.get_tokenizer(f"local-dir:{tiny_clip}")(TEXTS)
    image = Image.new("RGB", (50, 40), "red")
    with torch.no_grad():
        texts = model.encode_text(tokens, normalize=True)
        images = model.encode_image(preprocess(image)[None], normalize=True)
    torch.testing.assert_close(tiny_backbone.encode_texts(TEXTS), texts, atol=1e-6, rtol=1e-5)
    pixels = tiny_backbone.preprocess(image)[None]
    torch.testing.assert_close(tiny_backbone.encode_images(pixels), images, atol=1e-6, rtol=1e-5)
    assert tiny_backbone.logit_scale == pytest.approx(model.logit_scale.exp().item())
    assert tiny_backbone.image_size == 32


@pytest.mark.parametrize("batch_size", [1, 2, 3, 256])
def test_text_embeddings_keep_their_order_in_any_batches(tiny_backbone, batch_size):
    whole = tiny_backbone.encode_texts(TEXTS)
    torch.testing.assert_close(
        tiny_backbone.encode_texts(TEXTS, batch_size=batch_size), whole, atol=1e-6, rtol=1e-5
    )
    assert torch.equal(whole[0], whole[3])


def test_fingerprint_follows_weights(tiny_clip, tiny_backbone):
    again = tanl.load_backbone(f"local-dir:{tiny_clip}")
    assert again.fingerprint == tiny_backbone.fingerprint
    model, _, preprocess = raw_model(tiny_clip)
    tokenizer = open_clip.get_tokenizer(f"local-dir:{tiny_clip}")
    first = tanl.ClipBackbone(model, preprocess, tokenizer).fingerprint
    with torch.no_grad():
        model.logit_scale += 1e-3
    assert tanl.ClipBackbone(model, preprocess, tokenizer).fingerprint != first


def test_wrapped_model_without_visual_size_asks_its_preprocessing(tiny_clip):
    model, _, preprocess = raw_model(tiny_clip)

    class Bare(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.logit_scale = model.logit_scale
            self.encode_image, self.encode_text = model.encode_image, model.encode_text

    backbone = tanl.ClipBackbone(Bare(), preprocess, open_clip.get_tokenizer(f"local-dir:{tiny_clip}"))
    assert isinstance(backbone, tanl.Backbone)
    assert backbone.image_size == 32
    assert tanl.noise_embeddings(backbone).shape == (15, 24)


def test_wrap_refuses_what_is_no_clip():
    with pytest.raises(TypeError, match="Linear has no encode_image, encode_text, logit_scale"):
        tanl.ClipBackbone(torch.nn.Linear(1, 1), None, None)
    with pytest.raises(TypeError, match=r"must be a torch.nn.Module, not str"):
        tanl.ClipBackbone("ViT-B-16", None, None)


@pytest.mark.parametrize(
    ("pixels", "kind", "message"),
    [
        (torch.zeros(3, 32, 32), ValueError, r"shape \[B, 3, 32, 32\] with B >= 1, not \[3, 32, 32\]"),
        (torch.zeros(0, 3, 32, 32), ValueError, r"not \[0, 3, 32, 32\]"),
        (torch.zeros(1, 3, 64, 64), ValueError, r"not \[1, 3, 64, 64\]"),
        (torch.zeros(1, 3, 32, 32, dtype=torch.uint8), TypeError, "floating torch.Tensor, not torch.uint8"),
        ("image.png", TypeError, "not str"),
        (torch.zeros(1, 3, 32, 32, device="meta"), ValueError, "on meta, but"),
    ],
)
def test_unusable_pixels_are_refused(tiny_backbone, pixels, kind, message):
    with pytest.raises(kind, match=message):
        tiny_backbone.encode_images(pixels)


@pytest.mark.parametrize(
    ("texts", "kind", "message"),
    [
        ([], ValueError, "no texts"),
        ("dog", TypeError, "list of strings, not 'dog'"),
        ([1], TypeError, "strings"),
    ],
)
def test_unusable_texts_are_refused(tiny_backbone, texts, kind, message):
    with pytest.raises(kind, match=message):
        tiny_backbone.encode_texts(texts)


@pytest.mark.parametrize(
    ("name", "kind", "message"),
    [
        ("miny", ValueError, r"no backbone 'miny': there are \"mini\" and \"mini-photo\""),
        ("ViT-B-99/openai", ValueError, "architectures: .*ViT-B-16"),
        ("ViT-B-16", ValueError, "ViT-B-16 has no pretrained weights ''.*openai"),
        ("ViT-B-16/opnai", ValueError, "no pretrained weights 'opnai'; .*openai"),
        ("", TypeError, "named by a string"),
        (None, TypeError, "named by a string"),
        ("local-dir:/nowhere", OSError, "cannot be loaded.*mini.*need no network"),
    ],
)
def test_backbones_that_do_not_exist_are_refused(name, kind, message):
    with pytest.raises(kind, match=message):
        tanl.load_backbone(name)


def test_backbone_that_cannot_be_fetched_points_to_mini(monkeypatch, caplog):
    def offline(*arguments, **options):
        logging.error("a traceback nobody asked for")
        raise RuntimeError("Failed to download weights\nmore lines")

    monkeypatch.setattr(open_clip, "create_model_and_transforms", offline)
    with pytest.raises(
        tanl.BackboneError, match=r"Failed to download weights \(load_backbone\(\"mini\"\)"
    ) as e:
        tanl.load_backbone("ViT-B-16/openai")
    assert "\n" not in str(e.value)
    assert not caplog.records
    logging.getLogger("any").error("later lines are heard")
    assert len(caplog.records) == 1


def test_noise_is_five_kinds_scaled_to_one_and_seeded():
    noise = noise_images(16)
    assert noise.shape == (15, 3, 16, 16)
    for kind in noise.split(3):
        assert (float(kind.min()), float(kind.max())) == (0.0, 1.0)
    assert torch.equal(noise, noise_images(16))
    assert not torch.equal(noise, noise_images(16, seed=1))
    assert set(noise[12:].unique().tolist()) == {0.0, 1.0}
    gaussian, uniform, poisson, gamma = (kind.flatten() for kind in noise_images(64).split(3)[:4])
    assert abs(float(uniform.mean()) - 0.5) < 0.02
    assert abs(float(gaussian.mean()) - 0.5) < 0.1
    assert len(poisson.unique()) < 30  # whole numbers, scaled
    assert float(gamma.mean()) < 0.35  # a long tail to the right


def convolutions():
    nn = torch.nn

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.norm = nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8)
            self.shared, self.shared_norm = nn.Conv2d(8, 8, 1), nn.BatchNorm2d(8)
            self.alone = nn.BatchNorm2d(8, affine=False)

        def forward(self, x):
            x = self.norm(self.first(x)).relu()
            y = self.shared(x)
            return self.alone(self.shared_norm(y) + y)

    torch.manual_seed(0)
    net = Net()
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
            if module.affine:
                module.weight.data.uniform_(0.5, 2)
                module.bias.data.normal_()
    return net.eval()


def test_folding_keeps_the_function_and_what_others_read():
    net = convolutions()
    x = torch.randn(2, 3, 9, 9)
    expected = net(x)
    assert fold_batch_norms(net) == 1  # the second convolution is read twice, the last norm follows none
    assert isinstance(net.norm, torch.nn.Identity)
    torch.testing.assert_close(net(x), expected, atol=1e-5, rtol=1e-5)


def test_folding_leaves_alone_what_cannot_be_traced():
    class Dynamic(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.norm = torch.nn.BatchNorm2d(3)

        def forward(self, x):
            return self.norm(x) if x.sum() > 0 else x

    assert fold_batch_norms(Dynamic().eval()) == 0
    assert fold_batch_norms(torch.nn.Linear(2, 2)) == 0


def test_mini_is_folded_and_agrees_with_plain_open_clip():
    backbone = tanl.load_backbone("mini")
    assert not any(isinstance(m, torch.nn.BatchNorm2d) for m in backbone.model.visual.modules())
    model, _, _ = open_clip.create_model_and_transforms(f"local-dir:{mini.PATH}")
    pixels = torch.rand(3, 3, 160, 160, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = model.eval().encode_image(pixels, normalize=True)
    torch.testing.assert_close(backbone.encode_images(pixels), expected, atol=1e-5, rtol=0)


def test_log_lines_come_back_after_loads_that_overlap():
    from tanl.backbones.loading import quiet

    before = logging.root.manager.disable
    first, second = quiet(), quiet()
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert logging.root.manager.disable == logging.ERROR  # the second still loads
    second.__exit__(None, None, None)
    assert logging.root.manager.disable == before


@pytest.fixture(scope="module")
def wide_clip(tmp_path_factory):
    """A CLIP of images 32 high and 64 wide, saved."""
    folder = tmp_path_factory.mktemp("wide_clip")
    vision = {**TINY_CLIP["model_cfg"]["vision_cfg"], "image_size": [32, 64]}
    config = {
        "model_cfg": {**TINY_CLIP["model_cfg"], "vision_cfg": vision},
        "preprocess_cfg": {**TINY_CLIP["preprocess_cfg"], "size": [32, 64]},
    }
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    torch.manual_seed(0)
    model = open_clip.model.CLIP(config["model_cfg"]["embed_dim"], vision, config["model_cfg"]["text_cfg"])
    save_file(model.state_dict(), folder / "open_clip_model.safetensors")
    return folder


def wide_backbones(folder):
    """Every way to have a model whose images are not square."""
    loaded = tanl.load_backbone(f"local-dir:{folder}")
    model, _, preprocess = raw_model(folder)
    tokenizer = open_clip.get_tokenizer(f"local-dir:{folder}")
    encode = model.eval().encode_image
    return {
        "loaded": loaded,
        "wrapped": tanl.ClipBackbone(model, preprocess, tokenizer),
        "callables": tanl.CallableBackbone(encode, model.encode_text, preprocess, tokenizer),
    }


@pytest.mark.parametrize("way", ["loaded", "wrapped", "callables"])
def test_a_model_of_images_that_are_not_square_is_served_everywhere(wide_clip, tmp_path, way):
    backbone = wide_backbones(wide_clip)[way]
    assert backbone.image_size == (32, 64)
    assert noise_images(backbone.image_size).shape == (15, 3, 32, 64)
    guard = tanl.Guard(backbone, ["cat", "dog"], corpus=[f"w{i}" for i in range(30)], cache_dir=tmp_path)
    pictures = [Image.linear_gradient("L").convert("RGB").resize(size) for size in ((100, 40), (40, 100))]
    Image.new("RGB", (50, 20)).save(tmp_path / "a.png")
    pixels = torch.stack([backbone.preprocess(picture) for picture in pictures])
    assert pixels.shape == (2, 3, 32, 64)
    assert torch.equal(guard.score(pixels), guard.score(pictures))
    assert len(guard([*pictures, tmp_path / "a.png"])) == 3
    assert len(list(guard.stream([*pixels, *pictures, tmp_path / "a.png"], batch_size=2))) == 5
    turned = pixels.transpose(2, 3)
    with pytest.raises(ValueError, match=r"shape \[B, 3, 32, 64\] with B >= 1, not \[2, 3, 64, 32\]"):
        guard(turned)
    with pytest.raises(ValueError, match=r"shape \[3, 32, 64\], not \[3, 64, 32\]"):
        list(guard.stream([turned[0]]))
    guard.save(tmp_path / "guard")
    assert_same_state(
        state_of(tanl.Guard.load(tmp_path / "guard", backbone=backbone).detector.state),
        state_of(guard.detector.state),
    )


def test_patches_of_images_that_are_not_square(wide_clip):
    z, patches = tanl.encode_images_local(wide_backbones(wide_clip)["loaded"], torch.rand(2, 3, 32, 64))
    assert (z.shape, patches.shape) == ((2, 24), (2, 8, 24))


class Replicated(torch.nn.Module):
    """What DistributedDataParallel and FSDP are to what they wrap."""

    def __init__(self, module):
        super().__init__()
        self.module = module


@pytest.mark.parametrize("wrapper", [torch.nn.DataParallel, Replicated])
def test_models_spread_over_devices_are_told_by_their_module(tiny_clip, wrapper):
    model, _, preprocess = raw_model(tiny_clip)
    tokenizer = open_clip.get_tokenizer(f"local-dir:{tiny_clip}")
    spread = wrapper(model)
    message = f"{wrapper.__name__} wraps a CLIP and has not its methods: give its .module"
    for make in (tanl.ClipBackbone, partial(tanl.wrap, labels=["cat"])):
        for given in (spread, torch.compile(spread)):
            with pytest.raises(TypeError, match=message):
                make(given, preprocess, tokenizer)
    assert tanl.ClipBackbone(spread.module, preprocess, tokenizer).image_size == 32


def test_a_dual_encoder_of_transformers_spread_over_devices_is_told_too():
    transformers = pytest.importorskip("transformers")
    from tiny_hugging_face import tiny_image_processor, tiny_model, tiny_tokenizer

    spread = torch.nn.DataParallel(tiny_model("clip"))
    parts = (tiny_image_processor("clip"), tiny_tokenizer(40))
    for make in (tanl.HuggingFaceBackbone, partial(tanl.wrap, labels=["cat"])):
        with pytest.raises(TypeError, match=r"DataParallel wraps a CLIPModel .* give its \.module"):
            make(spread, *parts)
    pipe = transformers.pipeline(
        "zero-shot-image-classification",
        model=spread.module,
        image_processor=parts[0],
        tokenizer=parts[1],
        device="cpu",
    )
    pipe.model = spread
    with pytest.raises(TypeError, match=r"give its \.module"):
        tanl.guard_pipeline(pipe)


class Fitted(torch.nn.Module):
    """What a training framework has its model in."""

    def __init__(self, inner):
        super().__init__()
        self.net = inner


@pytest.mark.parametrize(
    ("around", "path"),
    [
        (Fitted, "net"),
        (lambda model: Replicated(Fitted(model)), "module.net"),
        (lambda model: Replicated(Replicated(model)), "module.module"),
        (lambda model: torch.compile(Replicated(torch.compile(model))), "module"),
    ],
)
def test_models_inside_others_are_told_by_their_path(tiny_clip, around, path):
    model, _, preprocess = raw_model(tiny_clip)
    tokenizer = open_clip.get_tokenizer(f"local-dir:{tiny_clip}")
    whole = around(model)
    with pytest.raises(TypeError, match=rf"wraps a CLIP and has not its methods: give its \.{path}$"):
        tanl.ClipBackbone(whole, preprocess, tokenizer)
    for name in path.split("."):
        whole = getattr(whole, name)
    assert tanl.ClipBackbone(whole, preprocess, tokenizer).image_size == 32


def compose(*parts):
    return transforms.Compose([*parts, transforms.Resize((32, 32)), transforms.ToTensor()])


RANDOM = {
    "RandomResizedCrop": compose(transforms.RandomResizedCrop(32)),
    "RandomHorizontalFlip": compose(transforms.Resize(40), transforms.RandomHorizontalFlip()),
    "ColorJitter": compose(transforms.ColorJitter(brightness=0.5)),
    "RandomErasing": transforms.Compose(
        [transforms.Resize((32, 32)), transforms.ToTensor(), transforms.RandomErasing(p=0.9)]
    ),
    "RandomSolarize": compose(transforms.RandomSolarize(100, p=0.001)),  # seldom seen in a few calls
    "RandomApply": compose(transforms.RandomApply([transforms.ColorJitter(0.5)], p=0.001)),
    "RandomGrayscale": compose(transforms.Compose([transforms.RandomGrayscale(0.001)])),
}


@pytest.mark.parametrize("name", RANDOM)
def test_a_training_transform_is_warned_of_by_its_name(tiny_clip, name):
    torch.manual_seed(0)
    random.seed(0)
    model, _, _ = raw_model(tiny_clip)
    tokenizer = open_clip.get_tokenizer(f"local-dir:{tiny_clip}")
    message = rf"gives other pixels for the same image from call to call, by {name}.*for training"
    with pytest.warns(UserWarning, match=message):
        tanl.ClipBackbone(model, RANDOM[name], tokenizer)
    with pytest.warns(UserWarning, match=message):
        tanl.CallableBackbone(model.encode_image, model.encode_text, RANDOM[name], tokenizer)


def test_open_clips_training_transform_and_a_functions_name_are_warned_of(tiny_clip):
    model, training, preprocess = raw_model(tiny_clip)
    tokenizer = open_clip.get_tokenizer(f"local-dir:{tiny_clip}")
    with pytest.warns(UserWarning, match="by RandomResizedCrop"):
        tanl.ClipBackbone(model, training, tokenizer)

    def with_noise(image):
        return preprocess(image) + torch.rand(1)

    with pytest.warns(UserWarning, match=r"by test_open_clips.*with_noise: it"):
        tanl.ClipBackbone(model, with_noise, tokenizer)


def test_a_backbone_of_ones_own_that_is_random_is_warned_of_by_the_guard(tmp_path):
    class Noisy(ColourBackbone):
        def preprocess(self, image):
            return super().preprocess(image) + torch.rand(1)

    options = {"corpus": ["granite"], "cache_dir": tmp_path}
    with pytest.warns(UserWarning, match=r"by .*Noisy\.preprocess: it is for training"):
        tanl.Guard(Noisy(), ["red", "blue"], **options)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tanl.Guard(ColourBackbone(), ["red", "blue"], **options)


def test_preprocessing_that_is_the_same_at_every_call_is_not_warned_of(tiny_clip):
    model, _, preprocess = raw_model(tiny_clip)
    tokenizer = open_clip.get_tokenizer(f"local-dir:{tiny_clip}")
    state = torch.get_rng_state()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tanl.ClipBackbone(model, preprocess, tokenizer)
        tanl.ClipBackbone(model, lambda image: preprocess(image) * float("nan"), tokenizer)
        # What cannot be used is told by the first image.
        tanl.ClipBackbone(model, lambda image: 1 / 0, tokenizer)
        tanl.ClipBackbone(model, lambda image: "pixels", tokenizer)
    assert torch.equal(torch.get_rng_state(), state)
    always = compose(transforms.RandomHorizontalFlip(p=1), transforms.RandomSolarize(9, p=0))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tanl.ClipBackbone(model, always, tokenizer)
