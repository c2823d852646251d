"""open_clip's families: embeddings, scale and preprocessing are the model's own, wherever it comes from."""

import json
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from tiny_open_clip import CAUSAL, EMBED, FAMILIES, SIZE, config, tiny_model
from torch import nn
from torch.nn.functional import normalize

import tanl
from tanl.backbones.causal_text import encode_tokens

TEXTS = ["The nice dog.", "a", "a very long and colourful photo, of 7 things", "The nice dog.", "cat"]


@pytest.fixture(scope="module")
def backbones(folders):
    return {family: tanl.load_backbone(f"local-dir:{folder}") for family, folder in folders.items()}


def pictures(count, seed=0):
    """From dark to bright, as towers without training hardly tell one noise from another."""
    rng = np.random.default_rng(seed)
    brightness = np.linspace(20, 256, count)
    return [
        Image.fromarray(rng.integers(0, top, (40 + i, 50, 3)).astype(np.uint8))
        for i, top in enumerate(brightness.astype(int))
    ]


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_embeddings_scale_and_size_are_those_of_open_clip(folders, backbones, family):
    backbone = backbones[family]
    assert isinstance(backbone, tanl.Backbone)
    name = f"local-dir:{folders[family]}"
    model, _, preprocess = open_clip.create_model_and_transforms(name)
    model.eval()
    images = pictures(9)
    pixels = torch.stack([backbone.preprocess(image) for image in images])
    assert torch.equal(pixels, torch.stack([preprocess(image) for image in images]))
    expected = normalize(model.encode_image(pixels), dim=1)
    torch.testing.assert_close(backbone.encode_images(pixels), expected, atol=1e-5, rtol=0)
    assert float((expected[0] - expected[-1]).norm()) > 1e-3
    texts = normalize(model.encode_text(open_clip.get_tokenizer(name)(TEXTS)), dim=1)
    torch.testing.assert_close(backbone.encode_texts(TEXTS), texts, atol=1e-5, rtol=0)
    torch.testing.assert_close(backbone.encode_texts(TEXTS, batch_size=2), texts, atol=1e-5, rtol=0)
    assert float((texts[0] - texts[1]).norm()) > 1e-3 < float((texts[1] - texts[4]).norm())
    assert (
        backbone.logit_scale
        == pytest.approx(float(model.logit_scale.exp()))
        == pytest.approx(20.0855, rel=1e-4)
    )
    assert backbone.image_size == SIZE


@pytest.mark.parametrize("family", FAMILIES)
def test_padding_is_cut_only_where_nothing_can_look_at_it(backbones, family):
    seen, _ = seen_by_text_tower(backbones[family], "a")
    whole = 22 if family == "coca" else 21  # CoCa's class token comes on top
    assert seen == [3 if family in CAUSAL else whole]


def seen_by_text_tower(backbone, text):
    """How many tokens of a text the tower sees, and the embedding."""
    seen = []
    tower = getattr(backbone.model, "text", backbone.model)
    hook = tower.transformer.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].shape[1]))
    embedding = backbone.encode_texts([text])
    hook.remove()
    return seen, embedding


@pytest.mark.parametrize("family", ["clip", "eva02", "coca", "siglip"])
def test_wrapped_model_is_cut_as_the_loaded_one_is(folders, backbones, family):
    name = f"local-dir:{folders[family]}"
    model, _, preprocess = open_clip.create_model_and_transforms(name)
    wrapped = tanl.ClipBackbone(model, preprocess, open_clip.get_tokenizer(name))
    for text in ("a", "two words"):
        seen, embedding = seen_by_text_tower(wrapped, text)
        expected, reference = seen_by_text_tower(backbones[family], text)
        assert seen == expected
        torch.testing.assert_close(embedding, reference, atol=1e-6, rtol=0)


def test_models_that_embed_texts_in_their_own_way_are_not_cut():
    class Own(open_clip.CLIP):
        def encode_text(self, text, normalize=False):
            return super().encode_text(text) + 1

    torch.manual_seed(0)
    own, patched = Own(**config("clip")), tiny_model("clip")
    patched.encode_text = lambda tokens: open_clip.CLIP.encode_text(patched, tokens) + 1
    compiled = open_clip.CustomTextCLIP(**config("clip"))
    tokenizer = open_clip.SimpleTokenizer(context_length=21)
    backbones = [tanl.ClipBackbone(model, Image.Image.copy, tokenizer) for model in (own, patched, compiled)]
    compiled.text = torch.compile(compiled.text, backend="eager")
    for backbone in backbones:
        with torch.no_grad():
            expected = normalize(backbone.model.encode_text(tokenizer(["a"])), dim=1)
        torch.testing.assert_close(backbone.encode_texts(["a"]), expected, atol=1e-6, rtol=0)
        if backbone.model is not compiled:
            assert seen_by_text_tower(backbone, "a")[0] == [21]


@pytest.mark.parametrize("family", FAMILIES)
def test_preprocessing_is_the_models_own(backbones, family):
    grey = backbones[family].preprocess(Image.new("RGB", (64, 20), (128, 128, 128)))
    assert grey.shape == (3, SIZE, SIZE)
    level = 128 / 255
    expected = torch.tensor([(level - 0.4) / 0.2, (level - 0.5) / 0.3, (level - 0.6) / 0.4])
    torch.testing.assert_close(grey.mean(dim=(1, 2)), expected)
    half = Image.new("RGB", (64, 20))
    half.paste((255, 255, 255), (32, 0, 64, 20))
    squashed = backbones[family].preprocess(half)  # a crop would lose no column's side, but the share of each
    assert squashed[0, :, :8].unique().numel() == squashed[0, :, -8:].unique().numel() == 1


@pytest.mark.parametrize("family", FAMILIES)
def test_guard_of_a_few_words(backbones, tmp_path, family):
    backbone = backbones[family]
    guard = tanl.Guard(backbone, ["cat", "dog"], corpus=[f"word{i}" for i in range(20)], cache_dir=tmp_path)
    detection = guard(pictures(5))
    assert detection.ood_score.dtype == torch.float32
    assert bool(detection.ood_score.isfinite().all())
    assert guard.bank.logit_scale == pytest.approx(backbone.logit_scale)
    assert guard.bank.embeddings.shape == (22, 32 if family == "siglip" else EMBED)


def test_sigmoid_bias_cancels_among_labels(folders, backbones):
    backbone = backbones["siglip"]
    model, _, _ = open_clip.create_model_and_transforms(f"local-dir:{folders['siglip']}")
    tokens = open_clip.get_tokenizer(f"local-dir:{folders['siglip']}")(["cat", "dog", "a bird"])
    pixels = torch.stack([backbone.preprocess(image) for image in pictures(3)])
    with torch.no_grad():
        logits, _ = model.eval().get_logits(pixels, tokens)
    own = (
        backbone.logit_scale
        * backbone.encode_images(pixels)
        @ backbone.encode_texts(["cat", "dog", "a bird"]).T
    )
    assert float((own - logits).abs().min()) > 5
    torch.testing.assert_close(own.softmax(dim=1), logits.softmax(dim=1), atol=1e-5, rtol=1e-4)


def test_fingerprint_tells_quickgelu_from_gelu_on_the_same_weights(backbones):
    plain, quick = backbones["clip"], backbones["clip_quickgelu"]
    weights = quick.model.state_dict()
    assert all(torch.equal(value, weights[key]) for key, value in plain.model.state_dict().items())
    assert plain.fingerprint != quick.fingerprint


@pytest.fixture
def architecture(tmp_path):
    """A small architecture that open_clip knows by its name while the test runs."""
    path = tmp_path / "tanl-tiny.json"
    path.write_text(json.dumps(config("clip")))
    before = list(open_clip.factory._MODEL_CONFIG_PATHS)
    open_clip.add_model_config(path)
    yield "tanl-tiny"
    open_clip.factory._MODEL_CONFIG_PATHS[:] = before
    del open_clip.factory._MODEL_CONFIGS["tanl-tiny"]


@pytest.mark.parametrize("ending", ["pt", "safetensors"])
def test_architecture_with_a_checkpoint_file(architecture, backbones, tmp_path, ending):
    path = tmp_path / f"weights.{ending}"
    weights = tiny_model("clip").state_dict()
    if ending == "pt":
        torch.save(
            {"epoch": 3, "state_dict": {f"module.{key}": value for key, value in weights.items()}}, path
        )
    else:
        save_file(weights, path)
    backbone = tanl.load_backbone(f"{architecture}/{path}")
    expected = backbones["clip"].encode_texts(TEXTS)
    torch.testing.assert_close(backbone.encode_texts(TEXTS), expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("quick", [True, False])
def test_published_weights_come_with_their_activation_and_preprocessing(
    architecture, backbones, tmp_path, monkeypatch, recwarn, quick
):
    weights = tmp_path / "openai.pt"
    torch.save(tiny_model("clip").state_dict(), weights)
    tag = {"url": "", "mean": (0.1, 0.2, 0.3), "std": (1.0, 1.0, 1.0), "interpolation": "bicubic"}
    tag |= {"quick_gelu": True} if quick else {}
    monkeypatch.setitem(open_clip.pretrained._PRETRAINED, architecture, {"openai": tag})
    monkeypatch.setattr(open_clip.factory, "download_pretrained", lambda *_, **__: str(weights))
    backbone = tanl.load_backbone(f"{architecture}/openai")
    gelu, quick_gelu = (backbones[family].encode_texts(TEXTS) for family in ("clip", "clip_quickgelu"))
    assert float((gelu - quick_gelu).abs().max()) > 1e-3
    torch.testing.assert_close(backbone.encode_texts(TEXTS), quick_gelu if quick else gelu, atol=1e-5, rtol=0)
    black = backbone.preprocess(Image.new("RGB", (32, 32)))
    torch.testing.assert_close(black.mean(dim=(1, 2)), torch.tensor([-0.1, -0.2, -0.3]))
    assert not [warning for warning in recwarn if "QuickGELU" in str(warning.message)]


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A function that lays files out as the hub's cache has them; nothing else can be had."""
    huggingface_hub = pytest.importorskip("huggingface_hub")

    def publish(owner_and_model, folder, leave_out=()):
        home = tmp_path / "hub" / f"models--{owner_and_model.replace('/', '--')}"
        commit = "0123456789abcdef0123456789abcdef01234567"
        snapshot = home / "snapshots" / commit
        snapshot.mkdir(parents=True)
        (home / "refs").mkdir()
        (home / "refs" / "main").write_text(commit)
        for path in folder.iterdir():
            if path.name not in leave_out:
                (snapshot / path.name).symlink_to(path)

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    return publish


@pytest.mark.parametrize("family", ["clip", "siglip"])
def test_model_of_the_hub(hub, folders, backbones, monkeypatch, family):
    hub("owner/model", folders[family])
    if family == "siglip":  # transformers reads the folder of its cache when it is imported
        from transformers import AutoTokenizer

        original = AutoTokenizer.from_pretrained
        monkeypatch.setattr(
            AutoTokenizer,
            "from_pretrained",
            lambda name, **_: original({"of/the-hub": folders[family]}[name]),
        )
    backbone = tanl.load_backbone("hf-hub:owner/model")
    assert backbone.name == "hf-hub:owner/model"
    assert backbone.fingerprint == backbones[family].fingerprint
    assert torch.equal(backbone.encode_texts(TEXTS), backbones[family].encode_texts(TEXTS))
    assert backbone.preprocess(pictures(1)[0]).equal(backbones[family].preprocess(pictures(1)[0]))


def test_model_without_weights_is_refused_not_made_at_random(hub, folders, tmp_path):
    weights = "open_clip_model.safetensors"
    hub("owner/model", folders["clip"], leave_out=[weights])
    with pytest.raises(tanl.BackboneError, match=r"cannot be loaded: .*weights.*could not be loaded"):
        tanl.load_backbone("hf-hub:owner/model")
    (tmp_path / "bare").mkdir()
    (tmp_path / "bare" / "open_clip_config.json").write_bytes(
        (folders["clip"] / "open_clip_config.json").read_bytes()
    )
    with pytest.raises(tanl.BackboneError, match=r"cannot be loaded: .*weights.*could not be loaded"):
        tanl.load_backbone(f"local-dir:{tmp_path / 'bare'}")


@torch.no_grad()
def test_texts_of_other_lengths_in_other_threads(backbones):
    """Each thread sees the embeddings of one thread alone, and the tower's own calls see its whole mask."""
    tower, tokenizer = backbones["clip"].model.text, backbones["clip"].tokenizer
    texts = ["a", "two words", "five words in a row", "now there are seven words in it"]
    tokens = [tokenizer([text] * 7) for text in texts]
    whole = [tower(rows) for rows in tokens]

    def short(turn):
        rows = tokens[turn % 4]
        return encode_tokens(tower, rows[:, : int(rows.argmax(dim=1).max()) + 1])

    def long(turn):
        return tower(tokens[turn % 4])

    with ThreadPoolExecutor(8) as pool:
        jobs = [pool.submit((short, long)[turn % 3 == 0], turn) for turn in range(240)]
        for turn, job in enumerate(jobs):
            torch.testing.assert_close(job.result(), whole[turn % 4], atol=1e-5, rtol=1e-5)


def test_backbone_in_threads_embeds_as_in_one(backbones):
    backbone = backbones["clip"]
    batches = [[f"thing {'of many words ' * (i % 4)}{j}" for j in range(5)] for i in range(40)]
    expected = [backbone.encode_texts(batch) for batch in batches]
    with ThreadPoolExecutor(6) as pool:
        for found, wanted in zip(pool.map(backbone.encode_texts, batches), expected, strict=True):
            assert torch.equal(found, wanted)


class OpenAIBlock(nn.Module):
    """A block as in OpenAI's ``clip``: tokens first, the mask of the whole context in the block."""

    def __init__(self, width, context):
        super().__init__()
        self.attn = nn.MultiheadAttention(width, 2)
        self.ln_1, self.ln_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))
        self.attn_mask = torch.full((context, context), -torch.inf).triu_(1)

    def forward(self, x):
        h = self.ln_1(x)
        x = x + self.attn(h, h, h, need_weights=False, attn_mask=self.attn_mask)[0]
        return x + self.mlp(self.ln_2(x))


class OpenAIText(nn.Module):
    """The text tower of OpenAI's ``clip.model.CLIP``, which takes whole contexts only."""

    def __init__(self, width=12, context=21):
        super().__init__()
        torch.manual_seed(0)
        self.token_embedding = nn.Embedding(49408, width)
        self.positional_embedding = nn.Parameter(torch.randn(context, width))
        self.transformer = nn.Module()
        self.transformer.resblocks = nn.Sequential(*(OpenAIBlock(width, context) for _ in range(2)))
        self.ln_final = nn.LayerNorm(width)
        self.text_projection = nn.Parameter(torch.randn(width, 6))
        self.logit_scale = nn.Parameter(torch.tensor(3.0))
        self.dtype = torch.float32

    def encode_image(self, pixels):
        raise NotImplementedError

    def encode_text(self, tokens):
        x = (self.token_embedding(tokens) + self.positional_embedding).permute(1, 0, 2)
        x = self.ln_final(self.transformer.resblocks(x).permute(1, 0, 2))
        return x[torch.arange(len(x)), tokens.argmax(dim=-1)] @ self.text_projection


def test_openais_clip_is_cut_and_embeds_as_it_does():
    tokenizer = open_clip.SimpleTokenizer(context_length=21)
    backbone = tanl.ClipBackbone(OpenAIText(), Image.Image.copy, tokenizer)
    texts = [*TEXTS, " ".join(["word"] * 30)]
    whole = backbone.encode_texts(texts)
    seen = []
    tower = backbone.model.transformer.resblocks[0].ln_1
    tower.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].shape[0]))
    backbone.encode_texts(["a"])
    assert seen == [21]  # a class of that shape alone says nothing of its forward
    backbone.model.__class__ = type("CLIP", (OpenAIText,), {"__module__": "clip.model"})
    torch.testing.assert_close(backbone.encode_texts(texts), whole, atol=1e-6, rtol=0)
    seen.clear()
    backbone.encode_texts(["a"])
    assert seen == [3]
