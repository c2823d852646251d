"""Greys of any kind of number: the same pixels give the same picture, whatever holds them."""

import io
import zlib

import numpy as np
import pytest
from PIL import Image

from tanl.io.images import UnreadableImage, read_image, to_rgb
from tanl.io.levels import to_8_bits, white_of

ALL = [np.uint8, np.uint16, ">u2", np.int16, np.int32, ">i4", np.uint32, np.int64, np.float32, np.float64]


def grey_of(image: Image.Image) -> np.ndarray:
    assert image.mode == "RGB"
    return np.asarray(image)[..., 0]


def ramp(bits: int) -> np.ndarray:
    """Every level of this many bits, from 0 to the largest, 2-D."""
    return np.arange(1 << bits).reshape(1 << bits // 2, -1)


@pytest.mark.parametrize("kind", ALL)
@pytest.mark.parametrize("bits", [8, 10, 12, 14, 15, 16])
def test_the_upper_8_bits_of_what_is_used_are_kept_in_every_kind_of_number(kind, bits):
    values = ramp(bits)
    if values.max() > (np.iinfo(kind).max if np.dtype(kind).kind in "iu" else 1 << 24):
        pytest.skip("this kind does not hold it")
    depth = 16 if bits == 15 else bits
    np.testing.assert_array_equal(to_8_bits(values.astype(kind)), values >> (depth - 8))


@pytest.mark.parametrize("mode", ["I;16", "I;16B", "I;16L", "I;16N", "I", "F", "L"])
@pytest.mark.parametrize("bits", [8, 12, 16])
def test_the_same_pixels_in_every_mode_give_the_same_picture(mode, bits):
    values = ramp(bits)
    if mode == "L" and bits > 8:
        pytest.skip("8 bits hold no more")
    kinds = {"I": "=i4", "F": "=f4", "L": "u1", "I;16B": ">u2", "I;16N": "=u2"}
    raw = values.astype(kinds.get(mode, "<u2"))
    image = Image.frombytes(mode, values.shape[::-1], raw.tobytes())
    np.testing.assert_array_equal(grey_of(to_rgb(image)), values >> (bits - 8))


@pytest.mark.parametrize("suffix", [".png", ".tiff", ".jp2", ".pgm"])
@pytest.mark.parametrize("bits", [8, 10, 12, 14, 16])
def test_16_bit_files_that_hold_fewer_bits_are_not_black(tmp_path, suffix, bits):
    values = ramp(bits).astype(np.uint16)
    path = tmp_path / f"film{suffix}"
    if suffix == ".pgm":
        rows, columns = values.shape
        path.write_bytes(b"P5\n%d %d\n65535\n" % (columns, rows) + values.astype(">u2").tobytes())
    else:
        Image.fromarray(values).save(path)
    np.testing.assert_array_equal(grey_of(read_image(path)), values >> (bits - 8))


def test_a_12_bit_film_is_not_scaled_to_15(tmp_path):
    Image.fromarray(np.array([[0, 2048, 4095]], np.uint16)).save(tmp_path / "film.png")
    np.testing.assert_array_equal(grey_of(read_image(tmp_path / "film.png")), [[0, 128, 255]])


def test_the_largest_value_decides_between_depths():
    assert [white_of(value) for value in (0, 255, 256, 1023, 1024, 4095, 4096, 16383, 16384, 65535)] == [
        255,
        255,
        1023,
        1023,
        4095,
        4095,
        16383,
        16383,
        65535,
        65535,
    ]


def test_declared_white_comes_before_the_range_unless_a_value_goes_beyond_it():
    values = np.array([[0, 100, 200]], np.uint16)
    np.testing.assert_array_equal(to_8_bits(values, 4095), values >> 4)
    np.testing.assert_array_equal(to_8_bits(values, 127), values)


def test_fewer_than_256_levels_that_are_declared_are_spread():
    np.testing.assert_array_equal(to_8_bits(np.array([[0, 1]], np.uint8), 1), [[0, 255]])
    np.testing.assert_array_equal(to_8_bits(np.array([[0, 31, 63]], np.uint16), 63), [[0, 125, 255]])


def tiff(values, bits, photometric=1) -> bytes:
    """A little-endian TIFF of grey pixels, of which each row is packed into bits as the format has it."""
    rows, columns = values.shape
    if bits == 12:
        as_bits = (values[..., None] >> np.arange(11, -1, -1)) & 1
        data = np.packbits(as_bits.reshape(rows, -1), axis=1).tobytes()
    else:
        data = values.astype("<u2").tobytes()
    tags = {
        256: columns,
        257: rows,
        258: bits,
        259: 1,
        262: photometric,
        273: 8,
        277: 1,
        278: rows,
        279: len(data),
    }
    entries = b"".join(
        np.array([(tag, 4, 1, value)], "<u2,<u2,<u4,<u4").tobytes() for tag, value in tags.items()
    )
    table = len(tags).to_bytes(2, "little") + entries + bytes(4)
    return b"II*\0" + (8 + len(data)).to_bytes(4, "little") + data + table


def test_a_tiff_of_12_bits_declares_its_white(tmp_path):
    values = np.array([[0, 16, 1600, 0]] * 4)
    (tmp_path / "dark.tif").write_bytes(tiff(values, 12))
    np.testing.assert_array_equal(grey_of(read_image(tmp_path / "dark.tif")), values >> 4)


def test_a_tiff_whose_white_is_0_is_turned_round(tmp_path):
    values = np.array([[0, 32768, 65535]] * 2)
    (tmp_path / "negative.tif").write_bytes(tiff(values, 16, photometric=0))
    np.testing.assert_array_equal(grey_of(read_image(tmp_path / "negative.tif")), 255 - (values >> 8))


@pytest.mark.parametrize(("largest", "expected"), [(4095, [0, 6, 255]), (1023, [0, 25, 255])])
def test_a_pgm_declares_its_white(tmp_path, largest, expected):
    (tmp_path / "a.pgm").write_bytes(
        b"P5\n3 1\n%d\n" % largest + np.array([0, 100, largest], ">u2").tobytes()
    )
    np.testing.assert_array_equal(grey_of(read_image(tmp_path / "a.pgm")), [expected])
    (tmp_path / "dark.pgm").write_bytes(b"P5\n3 1\n%d\n" % largest + np.array([0, 100, 101], ">u2").tobytes())
    np.testing.assert_array_equal(grey_of(read_image(tmp_path / "dark.pgm")), [[0, expected[1], expected[1]]])


@pytest.mark.parametrize("precision", [10, 12])
def test_jpeg_2000_of_other_depths_is_spread_by_what_it_declares(tmp_path, precision):
    encode = pytest.importorskip("openjpeg.utils").encode_array
    values = np.tile(np.array([0, 100, 200, 900], np.uint16), (32, 8))
    (tmp_path / "a.j2k").write_bytes(encode(values, bits_stored=precision))
    np.testing.assert_array_equal(grey_of(read_image(tmp_path / "a.j2k")), values >> (precision - 8))


@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_floats_up_to_1_are_shares_of_white(kind):
    values = np.array([[0.0, 0.2, 0.4]], kind)
    np.testing.assert_array_equal(to_8_bits(values), [[0, 51, 102]])


@pytest.mark.parametrize(
    "values",
    [
        np.array([[-1000, 0, 1000]], np.int16),
        np.array([[0, 50_000, 100_000]], np.int32),
        np.array([[0.5, 50.25, 100.0]], np.float32),
        np.array([[-1e30, 0, 1e30]], np.float64),
    ],
)
def test_everything_else_is_stretched_from_minimum_to_maximum(values):
    np.testing.assert_array_equal(to_8_bits(values), [[0, 128, 255]])


def test_an_even_picture_that_would_be_stretched_is_mid_grey():
    for value in (-7, 1 << 20, 3.5):
        np.testing.assert_array_equal(to_8_bits(np.full((2, 2), value)), 128)


def test_a_picture_of_many_strips_is_the_same_as_in_one(monkeypatch):
    values = np.random.default_rng(0).integers(-500, 3000, (97, 41)).astype(np.int16)
    whole = to_8_bits(values)
    monkeypatch.setattr("tanl.io.levels._ROWS_AT_ONCE", 100)
    np.testing.assert_array_equal(to_8_bits(values), whole)


def colours_of_16_bits(values: np.ndarray) -> bytes:
    """A PNG of 16-bit colours, which Pillow reads and does not write."""
    import struct
    import zlib

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    rows, columns, channels = values.shape
    kind = {2: 4, 3: 2, 4: 6}[channels]
    data = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    header = struct.pack(">IIBBBBB", columns, rows, 16, kind, 0, 0, 0)
    parts = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(data)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + parts


@pytest.mark.parametrize("channels", [2, 3, 4])
def test_16_bit_colours_that_hold_fewer_bits_are_refused_rather_than_black(tmp_path, channels):
    path = tmp_path / "colours.png"
    values = np.full((4, 6, channels), 4095)
    if channels != 3:
        values[..., -1] = 65535  # opaque
    path.write_bytes(colours_of_16_bits(values))
    with pytest.raises(UnreadableImage, match="16 bits and use at most the lower 12"):
        read_image(path)
    values[0, 0, 0] = 65535
    path.write_bytes(colours_of_16_bits(values))
    assert read_image(path).getpixel((0, 0))[0] == 255


def test_what_is_declared_is_asked_only_of_files(tmp_path):
    values = ramp(12).astype(np.uint16)
    stream = io.BytesIO()
    Image.fromarray(values).save(stream, "PNG")
    opened = Image.open(stream)
    opened.load()
    np.testing.assert_array_equal(grey_of(to_rgb(opened)), values >> 4)


def png_of_16_bits(path, values: np.ndarray, used: int) -> None:
    """A grey PNG whose chunk sBIT says how many bits are used."""
    Image.fromarray(values.astype(np.uint16)).save(path)
    whole = path.read_bytes()
    chunk = b"sBIT" + bytes([used])
    start = whole.index(b"IDAT") - 4
    told = (1).to_bytes(4, "big") + chunk + zlib.crc32(chunk).to_bytes(4, "big")
    path.write_bytes(whole[:start] + told + whole[start:])


@pytest.mark.parametrize("bits", [9, 10, 11, 12, 13, 14])
@pytest.mark.parametrize("place", ["lower", "upper", "upper, filled"])
@pytest.mark.parametrize("share", [1, 4])
def test_a_png_of_16_bits_declares_how_many_are_used(tmp_path, bits, place, share):
    values = ramp(bits) // share  # a dark film stays dark
    stored = {
        "lower": values,
        "upper": values << (16 - bits),
        "upper, filled": values << (16 - bits) | values >> (2 * bits - 16),
    }
    png_of_16_bits(tmp_path / "film.png", stored[place], bits)
    np.testing.assert_array_equal(grey_of(read_image(tmp_path / "film.png")), values >> (bits - 8))


@pytest.mark.parametrize("used", [1, 8, 10, 16, 0, 77])
def test_a_png_that_declares_what_is_not_so_goes_by_its_values(tmp_path, used):
    png_of_16_bits(tmp_path / "film.png", ramp(12), used)
    np.testing.assert_array_equal(grey_of(read_image(tmp_path / "film.png")), ramp(12) >> 4)


@pytest.mark.parametrize(
    ("largest", "expected"), [(4095, 62), (None, 250), (500, 250), (0, 250), (65535, 250)]
)
def test_a_tiff_may_declare_its_largest_sample(tmp_path, largest, expected):
    values = np.array([[0, 1000], [500, 100]], np.uint16)
    tags = {} if largest is None else {281: largest}
    Image.fromarray(values).save(tmp_path / "film.tiff", tiffinfo=tags)
    assert grey_of(read_image(tmp_path / "film.tiff"))[0, 1] == expected
