"""Images that were sent: read from memory, in few formats, up to a limit, and never as a path."""

from io import BytesIO

import numpy as np
import pytest
from PIL import Image
from test_images import half_and_half

from tanl.io.images import UnreadableImage, image_from_bytes, read_image


def test_an_image_in_memory_is_read_as_the_file_is(tmp_path):
    for name, image in {
        "a.jpg": half_and_half((60, 40)),
        "b.png": half_and_half((30, 20)),
        "c.webp": half_and_half((50, 50)),
    }.items():
        image.save(tmp_path / name)
        read = image_from_bytes((tmp_path / name).read_bytes(), name)
        assert read.mode == "RGB"
        assert np.array_equal(np.asarray(read), np.asarray(read_image(tmp_path / name)))


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "it is empty"),
        (b"hello", "it is not an image"),
        (b"\0" * 128 + b"DICM" + b"\0" * 64, "it is DICOM"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "it is not an image"),
        (b"/etc/passwd", "it is not an image"),
        (b"http://127.0.0.1/a.png", "it is not an image"),
    ],
)
def test_bytes_that_are_no_image_are_refused_by_their_name(content, reason):
    with pytest.raises(UnreadableImage, match=reason) as caught:
        image_from_bytes(content, "sent.png")
    assert str(caught.value.path) == "sent.png"


def test_formats_that_people_do_not_send_are_not_decoded():
    buffer = BytesIO()
    half_and_half((8, 8)).save(buffer, "PCX")
    with pytest.raises(UnreadableImage, match="not an image, or in a format"):
        image_from_bytes(buffer.getvalue(), "a.pcx")


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_an_image_in_memory_over_its_limit_is_refused_before_it_is_decoded(kind, monkeypatch):
    buffer = BytesIO()
    half_and_half((40, 30)).save(buffer, kind)
    monkeypatch.setattr(Image.Image, "convert", lambda *_: pytest.fail("decoded"))
    with pytest.raises(
        UnreadableImage, match=r"40 x 30 pixels are more than the limit of 1199 for one image; make"
    ):
        image_from_bytes(buffer.getvalue(), "a", max_pixels=1199)
    monkeypatch.undo()
    assert image_from_bytes(buffer.getvalue(), "a", max_pixels=1200).size == (40, 30)
