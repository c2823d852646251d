"""Every kind of image file has one outcome: the right pixels, or an error with its name and the reason."""

import os
import pickle
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tanl.io.images import SUFFIXES, UnreadableImage, find_images, read_image, to_rgb

# Pillow warns of flaws that it can live with; whether it does is not what is tested here.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")

RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 128, 0), (0, 0, 255), (255, 255, 255)


def half_and_half(size=(6, 4), left=RED, right=BLUE) -> Image.Image:
    image = Image.new("RGB", size, left)
    image.paste(right, (size[0] // 2, 0, *size))
    return image


def png_chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


@pytest.mark.parametrize("suffix", sorted(SUFFIXES - {".pbm", ".pgm"}))
def test_read_image_every_suffix(tmp_path, suffix):
    path = tmp_path / f"image{suffix}"
    try:
        half_and_half((64, 48)).save(path)
    except (KeyError, ValueError, OSError):
        pytest.skip(f"this Pillow does not write {suffix}")
    image = read_image(path)
    assert (image.mode, image.size) == ("RGB", (64, 48))
    assert np.abs(np.subtract(image.getpixel((8, 24)), RED)).max() < 30
    assert np.abs(np.subtract(image.getpixel((56, 24)), BLUE)).max() < 30


def test_read_image_survives_the_closing_of_its_file(tmp_path):
    path = tmp_path / "a.png"
    half_and_half().save(path)
    image = read_image(path)
    path.unlink()
    assert image.getpixel((0, 0)) == RED


def test_read_image_ending_does_not_matter(tmp_path):
    path = tmp_path / "really-a-png.jpg"
    half_and_half().save(path, format="PNG")
    assert read_image(str(path)).getpixel((5, 3)) == BLUE


@pytest.mark.parametrize(("orientation", "top_left"), [(1, RED), (2, BLUE), (3, BLUE), (6, RED), (8, BLUE)])
def test_read_image_applies_exif_orientation(tmp_path, orientation, top_left):
    exif = Image.Exif()
    exif[0x0112] = orientation
    half_and_half().save(tmp_path / "a.png", exif=exif)
    image = read_image(tmp_path / "a.png")
    assert image.size == ((4, 6) if orientation >= 5 else (6, 4))
    assert image.getpixel((0, 0)) == top_left


def test_read_image_ignores_a_garbled_exif_block(tmp_path):
    half_and_half().save(tmp_path / "a.png", exif=b"Exif\x00\x00II*\x00\xff\xff\xff\x7f")
    assert read_image(tmp_path / "a.png").getpixel((0, 0)) == RED


@pytest.mark.parametrize("suffix", [".gif", ".webp", ".png", ".tiff"])
def test_read_image_animated_gives_the_first_frame(tmp_path, suffix):
    path = tmp_path / f"moving{suffix}"
    frames = [Image.new("RGB", (8, 8), colour) for colour in (RED, GREEN, BLUE)]
    frames[0].save(path, save_all=True, append_images=frames[1:])
    with Image.open(path) as stored:
        assert stored.n_frames == 3
    assert np.abs(np.subtract(read_image(path).getpixel((4, 4)), RED)).max() < 10


@pytest.mark.parametrize("mode", ["RGBA", "LA", "RGBa", "La"])
def test_to_rgb_lays_transparency_on_white(mode):
    source = Image.new("RGBA", (4, 4), (0, 0, 0, 0))
    source.paste((0, 0, 0, 255), (0, 0, 2, 4))
    if mode == "La":
        source = source.convert("LA")
    image = to_rgb(source if source.mode == mode else source.convert(mode))
    assert image.mode == "RGB"
    assert image.getpixel((0, 0)) == (0, 0, 0)
    assert image.getpixel((3, 0)) == WHITE


def test_to_rgb_lays_a_palette_with_alpha_on_white():
    source = Image.new("PA", (2, 1), (0, 255))
    source.putpalette([*RED])
    source.putpixel((1, 0), (0, 0))
    assert [to_rgb(source).getpixel((x, 0)) for x in (0, 1)] == [RED, WHITE]


def test_to_rgb_half_transparent_red_is_pink():
    assert to_rgb(Image.new("RGBA", (2, 2), (255, 0, 0, 128))).getpixel((0, 0)) == (255, 127, 127)


@pytest.mark.parametrize(("mode", "transparent"), [("P", 0), ("L", 0), ("RGB", (0, 0, 0)), ("1", 0)])
def test_read_image_png_with_one_transparent_colour(tmp_path, mode, transparent):
    source = Image.new(mode, (4, 2), 0)
    if mode == "P":
        source.putpalette([0, 0, 0, *RED])
    source.putpixel((3, 0), 1 if mode != "RGB" else RED)
    source.save(tmp_path / "a.png", transparency=transparent)
    assert read_image(tmp_path / "a.png").getpixel((0, 0)) == WHITE


def test_to_rgb_palette():
    source = Image.new("P", (2, 1), 1)
    source.putpalette([0, 0, 0, *GREEN])
    assert to_rgb(source).getpixel((0, 0)) == GREEN


def test_read_image_cmyk_jpeg(tmp_path):
    half_and_half((32, 32)).convert("CMYK").save(tmp_path / "a.jpg", quality=95)
    assert np.abs(np.subtract(read_image(tmp_path / "a.jpg").getpixel((4, 16)), RED)).max() < 10


@pytest.mark.parametrize("suffix", [".png", ".tiff"])
def test_read_image_16_bit_grey_keeps_the_upper_8_bits(tmp_path, suffix):
    values = np.array([[0, 255, 256], [32768, 65280, 65535]], dtype=np.uint16)
    Image.fromarray(values).save(tmp_path / f"a{suffix}")
    image = read_image(tmp_path / f"a{suffix}")
    np.testing.assert_array_equal(np.asarray(image)[..., 0], [[0, 0, 1], [128, 255, 255]])


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (np.array([[0, 7, 255]], dtype=np.int32), [[0, 7, 255]]),
        (np.array([[0, 256, 65535]], dtype=np.int32), [[0, 1, 255]]),
        (np.array([[-100, 0, 100]], dtype=np.int32), [[0, 128, 255]]),
        (np.array([[0, 100_000, 200_000]], dtype=np.int32), [[0, 128, 255]]),
        (np.array([[0.0, 0.5, 1.0]], dtype=np.float32), [[0, 128, 255]]),
        (np.array([[3.0, 3.0, 3.0]], dtype=np.float32), [[128, 128, 128]]),
    ],
)
def test_to_rgb_32_bit_grey(values, expected):
    np.testing.assert_array_equal(np.asarray(to_rgb(Image.fromarray(values)))[..., 1], expected)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_to_rgb_refuses_values_that_are_not_finite(bad):
    with pytest.raises(ValueError, match="not finite"):
        to_rgb(Image.fromarray(np.array([[0.0, bad]], dtype=np.float32)))


def test_to_rgb_one_pixel():
    assert to_rgb(Image.new("RGB", (1, 1), RED)).size == (1, 1)


@pytest.mark.parametrize("size", [(0, 5), (5, 0)])
def test_to_rgb_refuses_no_pixels(size):
    with pytest.raises(ValueError, match="no pixels"):
        to_rgb(Image.new("RGB", size))


@pytest.mark.parametrize("size", [(1, 101), (1010, 10)])
def test_to_rgb_refuses_a_thin_strip(size):
    with pytest.raises(ValueError, match="over 100 times the other"):
        to_rgb(Image.new("RGB", size))


def test_to_rgb_accepts_the_thinnest_allowed_strip():
    assert to_rgb(Image.new("L", (1, 100))).size == (1, 100)


@pytest.mark.parametrize("thing", ["a.png", None, np.zeros((4, 4, 3), np.uint8)])
def test_to_rgb_refuses_what_is_not_an_image(thing):
    with pytest.raises(TypeError, match="expected a PIL image, got"):
        to_rgb(thing)


def truncated(path: Path) -> None:
    Image.effect_noise((64, 64), 50).save(path, format="PNG")
    path.write_bytes(path.read_bytes()[:900])


def bomb(path: Path) -> None:
    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    body = png_chunk(b"IHDR", header) + png_chunk(b"IDAT", zlib.compress(b"")) + png_chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + body)


UNREADABLE = {
    "missing": (lambda path: None, "there is no such file"),
    "empty": (lambda path: path.touch(), "the file is empty"),
    "text": (lambda path: path.write_text("not an image"), "it is not an image, or in a format"),
    "directory": (lambda path: path.mkdir(), "it is a directory"),
    "fifo": (os.mkfifo, "it is not a regular file"),
    "broken link": (lambda path: path.symlink_to("nowhere.png"), "there is no such file"),
    "truncated": (truncated, "truncated"),
    "bomb": (bomb, "PIL.Image.MAX_IMAGE_PIXELS"),
    "strip": (lambda path: Image.new("L", (1, 2000)).save(path), "over 100 times the other"),
    "garbage after a signature": (lambda path: path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"\0" * 99), ""),
    "broken TIFF": (lambda path: path.write_bytes(b"II*\x00\x08\x00\x00\x00\xff\xff" + b"\xff" * 99), ""),
}


@pytest.mark.parametrize("case", UNREADABLE)
def test_read_image_unreadable_names_file_and_reason(tmp_path, case):
    make, reason = UNREADABLE[case]
    path = tmp_path / "broken.png"
    make(path)
    with pytest.raises(UnreadableImage) as caught:
        read_image(path)
    assert caught.value.path == path
    assert caught.value.reason
    assert reason in caught.value.reason
    assert str(caught.value) == f"cannot read the image {path}: {caught.value.reason}"
    assert isinstance(caught.value, ValueError)


def test_unreadable_image_survives_pickling():
    error = pickle.loads(pickle.dumps(UnreadableImage("a.png", "the file is empty")))
    assert (error.path, error.reason) == (Path("a.png"), "the file is empty")


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "WEBP", "BMP", "TIFF"])
def test_read_image_random_damage_never_raises_anything_else(tmp_path, kind):
    path = tmp_path / "damaged"
    half_and_half((40, 30)).save(path, format=kind)
    intact = np.frombuffer(path.read_bytes(), np.uint8)
    generator = np.random.default_rng(0)
    for _ in range(100):
        damaged = intact.copy()
        places = generator.integers(0, len(intact), 4)
        damaged[places] = generator.integers(0, 256, 4)
        path.write_bytes(damaged[: generator.integers(1, len(intact) + 1)].tobytes())
        try:
            assert read_image(path).mode == "RGB"
        except UnreadableImage as error:
            assert error.reason


@pytest.fixture
def tree(tmp_path) -> Path:
    for name in ("b.png", "a.JPG", "notes.txt", ".hidden.png", "sub/c.webp", "sub/deep/d.gif", ".git/e.png"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return tmp_path


def test_find_images_directory_sorted_and_without_hidden_files(tree):
    found = [str(path.relative_to(tree)) for path in find_images(tree)]
    assert found == ["a.JPG", "b.png", "sub/c.webp", "sub/deep/d.gif"]


def test_find_images_not_recursive(tree):
    assert [path.name for path in find_images(str(tree), recursive=False)] == ["a.JPG", "b.png"]


def test_find_images_in_a_hidden_directory_that_was_named(tree):
    assert [path.name for path in find_images(tree / ".git")] == ["e.png"]


def test_find_images_file_whatever_its_ending(tree):
    assert find_images(tree / "notes.txt") == [tree / "notes.txt"]


@pytest.mark.parametrize(("recursive", "where"), [(True, "in or below"), (False, "directly in")])
def test_find_images_directory_without_images(tmp_path, recursive, where):
    (tmp_path / "readme.md").touch()
    with pytest.raises(ValueError, match=f"no images {where} .*looked for .*[.]jpg"):
        find_images(tmp_path, recursive=recursive)


def test_find_images_nothing_there(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no file or directory .*nowhere"):
        find_images(tmp_path / "nowhere")


def test_find_images_ends_on_a_link_to_its_parent(tree):
    (tree / "sub" / "loop").symlink_to(tree, target_is_directory=True)
    assert len(find_images(tree)) == 4
