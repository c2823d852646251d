"""What a process sets for all of torch does not reach what is loaded, prepared and embedded here."""

from __future__ import annotations

import contextlib
import threading

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import tanl
from conftest import default_dtype
from tanl.backbones.callables import CallableBackbone
from tanl.backbones.defaults import in_float32, on_the_processor, plain_defaults

IMAGES = [
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (40, 52, 3), dtype=np.uint8))
    for seed in range(3)
]
TEXTS = ["a dog", "the nice cat."]


@contextlib.contextmanager
def default_device(device):
    torch.set_default_device(device)
    try:
        yield
    finally:
        torch.set_default_device(None)


AROUND = {
    "float64": lambda: default_dtype(torch.float64),
    "float16": lambda: default_dtype(torch.float16),
    "bfloat16": lambda: default_dtype(torch.bfloat16),
    "on meta": lambda: default_device("meta"),
    "within meta": lambda: torch.device("meta"),
}


def embedded(backbone):
    pixels = torch.stack([backbone.preprocess(image) for image in IMAGES])
    return pixels, backbone.encode_images(pixels), backbone.encode_texts(TEXTS)


@pytest.mark.parametrize("around", AROUND)
@pytest.mark.parametrize("name", ["mini", "mini-photo"])
def test_an_embedded_model_is_the_same_whatever_is_set_where_it_is_loaded_and_used(name, around):
    plain = tanl.load_backbone(name)
    expected = embedded(plain)
    with AROUND[around]():
        loaded = tanl.load_backbone(name)
        found = embedded(plain)
    for pixels_and_rows in (found, embedded(loaded)):
        for ours, theirs in zip(pixels_and_rows, expected, strict=True):
            assert ours.dtype == torch.float32
            assert torch.equal(ours, theirs)
    assert {part.dtype for part in loaded.model.parameters()} == {torch.float32}
    assert loaded.fingerprint == plain.fingerprint


@pytest.mark.parametrize("around", AROUND)
@pytest.mark.parametrize("kind", ["clip", "siglip", "siglip2"])
def test_a_model_of_transformers_too(tmp_path, kind, around):
    pytest.importorskip("transformers")
    from tiny_hugging_face import KINDS, save_tiny

    if kind not in KINDS:
        pytest.skip("this transformers has no such model")
    name = f"hf:{save_tiny(kind, tmp_path)}"
    plain = tanl.load_backbone(name)
    expected = embedded(plain)
    with AROUND[around]():
        loaded = tanl.load_backbone(name)
        found = embedded(plain)
    for pixels_and_rows in (found, embedded(loaded)):
        assert all(map(torch.equal, pixels_and_rows, expected))
    assert loaded.fingerprint == plain.fingerprint


@pytest.mark.parametrize("around", AROUND)
def test_a_guard_gives_the_same_scores(tmp_path, around):
    def judged():
        options = {"corpus": ["granite", "violin", "car", "lamp", "cup"], "cache_dir": tmp_path / around}
        guard = tanl.Guard(tanl.load_backbone("mini"), ["dog", "cat"], **options)
        return guard(IMAGES).ood_score.tolist() + [verdict.ood_score for verdict in guard.stream(IMAGES)]

    with AROUND[around]():
        found = judged()
    assert found == judged()


def test_pixels_while_another_thread_sets_the_default_dtype():
    backbone = tanl.load_backbone("mini")
    expected = embedded(backbone)
    stop = threading.Event()

    def flip():
        while not stop.is_set():
            for dtype in (torch.bfloat16, torch.float16, torch.float64, torch.float32):
                torch.set_default_dtype(dtype)

    other = threading.Thread(target=flip)
    other.start()
    try:
        found = [embedded(backbone) for _ in range(5)] + [
            embedded(tanl.load_backbone("mini")) for _ in range(2)
        ]
    finally:
        stop.set()
        other.join()
        torch.set_default_dtype(torch.float32)
    for each in found:
        assert all(map(torch.equal, each, expected))


def test_label_embeddings_are_made_outside_autocast_and_so_are_those_that_are_cached(tmp_path):
    backbone = tanl.load_backbone("mini")
    options = {"corpus": ["granite", "violin"], "cache_dir": tmp_path}
    with torch.autocast("cpu", dtype=torch.bfloat16):
        first = tanl.build_bank(backbone, ["dog", "cat"], **options)
    again = tanl.build_bank(backbone, ["dog", "cat"], **options)
    fresh = tanl.build_bank(backbone, ["dog", "cat"], corpus=options["corpus"], cache_dir=tmp_path / "other")
    assert first.fingerprint == again.fingerprint == fresh.fingerprint


def test_labels_that_are_added_too(tmp_path):
    def edited(around):
        guard = tanl.Guard(
            tanl.load_backbone("mini"), ["dog"], corpus=["granite", "violin"], cache_dir=tmp_path
        )
        with around:
            guard.add_labels(["cat"])
        return guard.bank.embeddings

    plain = edited(contextlib.nullcontext())
    assert torch.equal(edited(torch.autocast("cpu", dtype=torch.bfloat16)), plain)
    assert torch.equal(edited(default_device("meta")), plain)


def test_models_are_made_in_float32_on_the_processor():
    with default_dtype(torch.float64), torch.device("meta"), plain_defaults():
        layers = nn.Sequential(nn.Linear(3, 2), nn.LayerNorm(2), nn.Conv2d(1, 1, 1), nn.BatchNorm1d(2))
        made = [
            *layers.state_dict().values(),
            torch.tensor([0.5]),
            torch.full((2,), 0.5),
            torch.arange(0.0, 1.0, 0.5),
            torch.linspace(0, 1, 3),
        ]
        whole = torch.tensor([1]), torch.arange(3), torch.full((2,), 1)
        given = torch.tensor(np.ones(2)), torch.zeros(2, dtype=torch.float16)
    assert {each.device.type for each in (*made, *whole, *given)} == {"cpu"}
    assert {each.dtype for each in made if each.is_floating_point()} == {torch.float32}
    assert {each.dtype for each in whole} == {torch.int64}
    assert [each.dtype for each in given] == [torch.float64, torch.float16]
    with on_the_processor():
        assert torch.zeros(1).device.type == "cpu"


@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "1", "I", "F"])
def test_pixels_are_those_of_torchvision(mode):
    transforms = pytest.importorskip("torchvision.transforms")
    image = IMAGES[0].convert(mode)
    alone, several = transforms.ToTensor(), transforms.Compose([transforms.Resize(20), transforms.ToTensor()])
    for preprocess in (alone, several, transforms.Compose([several])):
        assert torch.equal(in_float32(preprocess)(image), preprocess(image))
        assert str(in_float32(preprocess)) == str(preprocess)
    assert in_float32(str) is str


def test_a_preprocessing_of_ones_own_with_torchvision_gives_float32():
    transforms = pytest.importorskip("torchvision.transforms")

    def rows(given):
        return torch.ones(len(given), 2)

    backbone = CallableBackbone(rows, rows, transforms.Compose([transforms.ToTensor()]))
    expected = backbone.preprocess(IMAGES[0])
    with default_dtype(torch.bfloat16):
        assert torch.equal(backbone.preprocess(IMAGES[0]), expected)
