"""Every kind of image file has one outcome: the right pixels, or an error with its name and the reason."""

import os
import pickle
import struct
import subprocess
import sys
import time
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFile

from tanl.io.image_files import SUFFIXES, find_images
from tanl.io.images import LARGE, MAX_PIXELS, UnreadableImage, read_image, to_rgb

# Pillow warns of flaws that it can live with; whether it does is not what is tested here.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")

RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 128, 0), (0, 0, 255), (255, 255, 255)


def half_and_half(size=(6, 4), left=RED, right=BLUE) -> Image.Image:
    image = Image.new("RGB", size, left)
    image.paste(right, (size[0] // 2, 0, *size))
    return image


def png_chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


# Those of DICOM are in test_dicom.py.
@pytest.mark.parametrize("suffix", sorted(SUFFIXES - {".pbm", ".pgm", ".dcm", ".dicom"}))
def test_read_image_every_suffix(tmp_path, suffix):
    path = tmp_path / f"image{suffix}"
    try:
        if suffix in (".heic", ".heif", ".hif"):
            pytest.importorskip("pillow_heif").from_pillow(half_and_half((64, 48))).save(path, format="HEIF")
        else:
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
    "program": (
        lambda path: path.write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 99 99\n%%EndComments\n"),
        "it is EPS, a program",
    ),
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


def test_read_image_heic_is_upright_and_needs_no_opener(tmp_path):
    pillow_heif = pytest.importorskip("pillow_heif")
    exif = Image.Exif()
    exif[0x0112] = 6
    path = tmp_path / "phone.jpg"  # the ending does not matter here either
    pillow_heif.from_pillow(half_and_half((96, 64))).save(path, format="HEIF", exif=exif.tobytes())
    openers = dict(Image.OPEN)
    upright = read_image(path)
    assert upright.size == (64, 96)
    assert np.abs(np.subtract(upright.getpixel((32, 10)), RED)).max() < 30
    assert np.abs(np.subtract(upright.getpixel((32, 86)), BLUE)).max() < 30
    assert openers == Image.OPEN


def test_read_image_heic_of_10_bits_keeps_its_upper_8(tmp_path):
    pillow_heif = pytest.importorskip("pillow_heif")
    values = np.full((64, 96, 3), 60_000, np.uint16)
    heif = pillow_heif.from_bytes(mode="RGB;16", size=(96, 64), data=values.tobytes())
    heif.save(tmp_path / "hdr.heic", quality=-1)
    assert np.abs(np.asarray(read_image(tmp_path / "hdr.heic")).astype(int) - (60_000 >> 8)).max() <= 2


def test_read_image_damaged_heic_names_the_file(tmp_path):
    path = tmp_path / "phone.heic"
    path.write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0" + bytes(range(256)) * 9)
    with pytest.raises(UnreadableImage, match=r"phone\.heic"):
        read_image(path)


def test_read_image_heic_without_pillow_heif_names_the_extra(tmp_path, monkeypatch):
    path = tmp_path / "phone.heic"
    path.write_bytes(b"\0\0\0\x18ftypheic" + b"\0" * 99)
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    with pytest.raises(UnreadableImage, match=r'pip install "tanl\[heif\]"'):
        read_image(path)


@pytest.fixture
def small_limits(monkeypatch):
    """Limits that small images reach: 6 000 pixels at once, 1 500 large."""
    monkeypatch.setattr("tanl.io.images.MAX_PIXELS", 6000)
    monkeypatch.setattr("tanl.io.images.LARGE", 1500)
    monkeypatch.setattr("tanl.io.images._SHORTEST_SIDE", 8)
    monkeypatch.setattr("tanl.io.images._STRIP", 300)


def test_the_limits_are_the_documented_ones():
    assert (MAX_PIXELS, LARGE) == (134_217_728, 33_554_432)


def test_read_image_over_the_limit_is_refused_before_it_is_decoded(tmp_path, small_limits, monkeypatch):
    Image.new("RGB", (100, 60)).save(tmp_path / "at.png")
    Image.new("RGB", (100, 61)).save(tmp_path / "over.png")
    assert read_image(tmp_path / "at.png").size == (50, 30)
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", lambda self: pytest.fail("decoded"))
    with pytest.raises(
        UnreadableImage, match=r"100 x 61 pixels are more than the limit of 6000 .*MAX_PIXELS"
    ):
        read_image(tmp_path / "over.png")
    with pytest.raises(ValueError, match="more than the limit"):
        to_rgb(Image.new("RGB", (100, 61)))


@pytest.mark.parametrize("kind", ["JPEG", "MPO"])
def test_read_image_jpeg_over_the_limit_is_decoded_smaller(tmp_path, small_limits, kind):
    path = tmp_path / "photo.jpg"
    half_and_half((160, 120)).save(path, kind, quality=95)
    image = read_image(path)
    assert image.size == (40, 30)
    assert np.abs(np.subtract(image.getpixel((5, 15)), RED)).max() < 10
    assert np.abs(np.subtract(image.getpixel((35, 15)), BLUE)).max() < 10


def test_images_that_are_not_large_are_decoded_as_they_are(tmp_path):
    noise = Image.effect_noise((300, 200), 80).convert("RGB")
    noise.save(tmp_path / "a.jpg")
    with Image.open(tmp_path / "a.jpg") as plain:
        np.testing.assert_array_equal(np.asarray(read_image(tmp_path / "a.jpg")), np.asarray(plain))


@pytest.mark.parametrize("mode", ["RGB", "L", "P", "RGBA", "LA", "CMYK", "I;16"])
def test_large_images_are_made_smaller_strip_by_strip(small_limits, mode):
    values = np.tile(np.arange(8, dtype=np.uint8).repeat(10) * 32, (60, 1))
    grey = Image.fromarray(values.astype(np.uint16) * 257) if mode == "I;16" else Image.fromarray(values)
    large = to_rgb(grey if grey.mode == mode else grey.convert(mode))
    assert large.size == (40, 30)
    rgb = to_rgb(Image.fromarray(values)).convert("RGB")
    np.testing.assert_allclose(np.asarray(large).astype(int), np.asarray(rgb), atol=1)
    np.testing.assert_array_equal(np.asarray(rgb)[..., 0], values[::2, ::2])


def test_large_images_are_turned_upright(tmp_path, small_limits):
    exif = Image.Exif()
    exif[0x0112] = 6
    half_and_half((100, 60)).save(tmp_path / "a.png", exif=exif)
    image = read_image(tmp_path / "a.png")
    assert (image.size, image.getpixel((0, 0)), image.getpixel((0, 49))) == ((30, 50), RED, BLUE)


def test_transparency_is_laid_on_white_the_same_in_strips(monkeypatch):
    generator = np.random.default_rng(0)
    image = Image.fromarray(generator.integers(0, 256, (53, 31, 4), np.uint8))
    paper = Image.new("RGBA", image.size, "white")
    whole = np.asarray(Image.alpha_composite(paper, image).convert("RGB"))
    np.testing.assert_array_equal(np.asarray(to_rgb(image)), whole)
    monkeypatch.setattr("tanl.io.images._STRIP", 100)
    np.testing.assert_array_equal(np.asarray(to_rgb(image)), whole)


def test_large_images_are_decoded_one_at_a_time(tmp_path, small_limits, monkeypatch):
    half_and_half((100, 60)).save(tmp_path / "a.png")
    at_once, most = [], []
    load = ImageFile.ImageFile.load

    def slowly(self):
        if self.filename == str(tmp_path / "a.png"):
            at_once.append(1)
            most.append(len(at_once))
            time.sleep(0.001)
            at_once.pop()
        return load(self)

    monkeypatch.setattr(ImageFile.ImageFile, "load", slowly)
    with ThreadPoolExecutor(4) as pool:
        sizes = list(pool.map(lambda _: read_image(tmp_path / "a.png").size, range(8)))
    assert sizes == [(50, 30)] * 8
    assert max(most) == 1


def test_an_image_near_the_limit_takes_little_more_than_its_pixels(tmp_path):
    pytest.importorskip("resource")
    Image.new("RGBA", (6000, 6000), (10, 20, 30, 128)).save(tmp_path / "a.png", compress_level=1)
    code = (
        "import resource, sys\nfrom tanl.io.images import read_image\n"
        "def peak():\n    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "before = peak()\nread_image(sys.argv[1])\nprint(peak() - before)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, tmp_path / "a.png"], capture_output=True, text=True, check=True
    )
    unit = 1 if sys.platform == "darwin" else 1024
    assert int(done.stdout) * unit < 8 * 6000 * 6000


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
    assert list(find_images(tree / "notes.txt")) == [tree / "notes.txt"]


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
    found = find_images(tree)
    assert len(found) == 4
    assert found.passed_over == {"linked folder": 1, ".txt file": 1}


def test_find_images_counts_and_names_what_it_passed_over(tree):
    for name in ("x.MP4", "y.mp4", "z.svg", "a.cr2", "b.doc", "c.doc", "LICENSE", "DICOMDIR", ".DS_Store"):
        (tree / "sub" / name).write_bytes(b"x" * 200)
    for name in ("cats", "dogs"):
        (tree / name).symlink_to(tree / "sub", target_is_directory=True)
    (tree / "hidden").mkdir()
    (tree / "sub" / "gone.jpg").symlink_to("nowhere.jpg")
    found = find_images(tree)
    assert [path.name for path in found] == ["a.JPG", "b.png", "c.webp", "d.gif", "gone.jpg"]
    assert found.passed_over == {
        ".mp4 file": 2,
        ".doc file": 2,
        "extensionless file": 2,
        "linked folder": 2,
        ".svg file": 1,
        ".cr2 file": 1,
        ".txt file": 1,
    }
    assert found.notes() == [
        "passed over 2 .doc files, 2 .mp4 files, 2 extensionless files, 2 linked folders, 3 others"
    ]
    assert find_images(tree, recursive=False).passed_over["sub-folder"] == 2


def test_find_images_of_a_folder_with_links_alone_names_them(tree):
    classes = tree / "classes"
    classes.mkdir()
    for name in ("cats", "dogs", "cows"):
        (classes / name).symlink_to(tree / "sub", target_is_directory=True)
    with pytest.raises(
        ValueError, match=r"no images in or below .*looked for .*; passed over 3 linked folders"
    ):
        find_images(classes)
    assert len(find_images(classes / "cats")) == 2


def unlisted(monkeypatch, *folders: Path) -> None:
    """Have these folders refuse to be listed, as those of others do to all but root."""
    scandir = os.scandir

    def refuse(path):
        if Path(path) in folders:
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)


def test_find_images_goes_on_after_a_folder_that_cannot_be_listed(tree, monkeypatch):
    unlisted(monkeypatch, tree / "sub" / "deep")
    found = find_images(tree)
    assert [path.name for path in found] == ["a.JPG", "b.png", "c.webp"]
    assert [(folder, type(error)) for folder, error in found.unreadable] == [
        (tree / "sub" / "deep", PermissionError)
    ]
    assert found.notes()[-1] == f"cannot list the folder {tree / 'sub' / 'deep'}: permission denied"


def test_find_images_names_the_folder_that_cannot_be_listed_where_there_is_nothing_else(
    tmp_path, monkeypatch
):
    (tmp_path / "lost+found").mkdir()
    unlisted(monkeypatch, tmp_path / "lost+found")
    with pytest.raises(
        ValueError, match=r"no images .*cannot list the folder .*lost\+found: permission denied"
    ):
        find_images(tmp_path)
    with pytest.raises(PermissionError):
        find_images(tmp_path / "lost+found")


SIGNATURES = {
    "IM000001": b"\0" * 128 + b"DICM",
    "1.2.840.10008": b"\0" * 128 + b"DICM",
    "photo": b"\xff\xd8\xff\xe0",
    "picture": b"\x89PNG\r\n\x1a\n",
    "page": b"II*\0",
    "web": b"RIFF\0\0\0\0WEBPVP8 ",
    "phone": b"\0\0\0\x18ftypheic",
    "slide": b"\0\0\0\x0cjP  \r\n\x87\n",
}


def test_find_images_knows_files_without_an_ending_by_their_first_bytes(tmp_path):
    for name, head in SIGNATURES.items():
        (tmp_path / name).write_bytes(head)
    (tmp_path / "README").write_text("words")
    (tmp_path / "log.1").write_text("words")
    (tmp_path / "song.ogg").write_bytes(SIGNATURES["photo"])
    os.mkfifo(tmp_path / "pipe")
    found = find_images(tmp_path)
    assert {path.name for path in found} == set(SIGNATURES)
    assert sum(found.passed_over.values()) == 4
