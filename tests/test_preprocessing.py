"""The published preprocessing is torchvision's resize to 256 and crop to 224, and is told from a model's own."""

import numpy as np
import pytest
import torch
from PIL import Image

from tanl.benchmarks.data.preprocessing import PublishedPreprocessing, prepared, resized_and_cropped

SIZES = [(256, 256), (300, 200), (200, 300), (999, 63), (224, 224), (31, 500), (1, 1)]


def picture(width, height):
    values = np.random.default_rng(width).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(values)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("side", [224, 64, 33])
def test_images_are_resized_and_cropped_as_torchvision_does(size, side):
    transforms = pytest.importorskip("torchvision.transforms")
    image = picture(*size)
    found = resized_and_cropped(image, side, side)
    bicubic = transforms.InterpolationMode.BICUBIC
    resize = transforms.Resize(round(side * 256 / 224), interpolation=bicubic)
    assert np.array_equal(np.asarray(found), np.asarray(transforms.CenterCrop(side)(resize(image))))


def test_less_of_an_image_is_seen_than_by_the_models_own(tiny_backbone):
    own = tiny_backbone
    published = prepared(own, "published")
    assert prepared(own, "own") is own
    assert isinstance(published, PublishedPreprocessing)
    image = picture(300, 200)
    pixels = published.preprocess(image)
    assert pixels.shape == own.preprocess(image).shape
    assert not torch.equal(pixels, own.preprocess(image))
    side = pixels.shape[-1]
    assert torch.equal(pixels, own.preprocess(resized_and_cropped(image, side, side)))
    assert published.fingerprint != own.fingerprint
    assert published.fingerprint == PublishedPreprocessing(own).fingerprint
    assert (published.name, published.device, published.logit_scale) == (
        own.name,
        own.device,
        own.logit_scale,
    )
    assert torch.equal(published.encode_images(pixels[None]), own.encode_images(pixels[None]))
    assert torch.equal(published.encode_texts(["a dog"]), own.encode_texts(["a dog"]))
