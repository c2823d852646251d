"""DICOM files: the picture that a viewer would show, or an error that says what is missing."""

import io
import sys

import numpy as np
import pytest
from PIL import Image

from tanl.io.dicom import encoded_size
from tanl.io.image_files import find_images
from tanl.io.images import UnreadableImage, read_image

pydicom = pytest.importorskip("pydicom")
# It warns of whatever in a file is not as the standard has it.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")

CT = "1.2.840.10008.5.1.4.1.1.2"
ROWS, COLUMNS = 48, 64


def dataset(pixels: np.ndarray, **attributes):
    """A secondary capture of these stored values, ``[H, W]`` or ``[H, W, 3]``, 12 of 16 bits unless said otherwise."""
    from pydicom.dataset import FileDataset, FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian, generate_uid

    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = CT
    meta.MediaStorageSOPInstanceUID = generate_uid()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    data.SOPClassUID, data.SOPInstanceUID = CT, meta.MediaStorageSOPInstanceUID
    data.Modality = "CT"
    data.Rows, data.Columns = pixels.shape[:2]
    data.SamplesPerPixel = 3 if pixels.ndim == 3 else 1
    data.PhotometricInterpretation = "RGB" if pixels.ndim == 3 else "MONOCHROME2"
    if pixels.ndim == 3:
        data.PlanarConfiguration = 0
    data.BitsAllocated = 8 * pixels.dtype.itemsize
    data.BitsStored = min(12, data.BitsAllocated)
    data.PixelRepresentation = int(pixels.dtype.kind == "i")
    for name, value in attributes.items():
        setattr(data, name, value)
    data.HighBit = data.BitsStored - 1
    data.PixelData = pixels.tobytes()
    return data


def save(path, data):
    data.save_as(path, enforce_file_format=True)
    return path


def ramp(low: int, high: int, kind=np.uint16) -> np.ndarray:
    return np.linspace(low, high, ROWS * COLUMNS).astype(kind).reshape(ROWS, COLUMNS)


def grey(path) -> np.ndarray:
    image = read_image(path)
    assert (image.mode, image.size) == ("RGB", (COLUMNS, ROWS))
    values = np.asarray(image)
    assert (values == values[..., :1]).all()
    return values[..., 0].astype(int)


def linear(values, center, width) -> np.ndarray:
    """The linear window of DICOM PS3.3, C.11.2.1.2.1, to 0 to 255."""
    shown = ((values - (center - 0.5)) / (width - 1) + 0.5) * 255
    return np.where(
        values <= center - 0.5 - (width - 1) / 2,
        0,
        np.where(values > center - 0.5 + (width - 1) / 2, 255, shown),
    )


def test_rescale_slope_and_window_are_applied(tmp_path):
    stored = ramp(0, 4095)
    data = dataset(stored, RescaleSlope=2, RescaleIntercept=-1024, WindowCenter=40, WindowWidth=400)
    shown = grey(save(tmp_path / "a.dcm", data))
    assert np.abs(shown - linear(stored * 2.0 - 1024, 40, 400)).max() <= 0.51
    assert (shown[0, 0], shown[-1, -1]) == (0, 255)


def test_signed_values_and_the_first_of_several_windows(tmp_path):
    stored = ramp(-1000, 2000, np.int16)
    data = dataset(stored, BitsStored=16, WindowCenter=[300, 40], WindowWidth=[1500, 400])
    assert (
        np.abs(grey(save(tmp_path / "a.dcm", data)) - linear(stored.astype(float), 300, 1500)).max() <= 0.51
    )


def test_a_sigmoid_window(tmp_path):
    stored = ramp(0, 4095)
    data = dataset(stored, WindowCenter=2048, WindowWidth=1000, VOILUTFunction="SIGMOID")
    expected = 255 / (1 + np.exp(-4 * (stored.astype(float) - 2048) / 1000))
    assert np.abs(grey(save(tmp_path / "a.dcm", data)) - expected).max() <= 1


def test_a_voi_table(tmp_path):
    from pydicom.dataset import Dataset
    from pydicom.sequence import Sequence

    stored = ramp(0, 255)
    table = Dataset()
    table.LUTDescriptor = [256, 0, 12]
    table.add_new("LUTData", "OW", np.arange(4095, 0, -16, dtype="<u2").tobytes())
    data = dataset(stored, VOILUTSequence=Sequence([table]))
    np.testing.assert_allclose(
        grey(save(tmp_path / "a.dcm", data)), (4095 - 16.0 * stored) * 255 / 4095, atol=0.51
    )


def test_monochrome1_is_turned_round(tmp_path):
    stored = ramp(0, 4095)
    data = dataset(stored)
    plain = grey(save(tmp_path / "a.dcm", data))
    data.PhotometricInterpretation = "MONOCHROME1"
    np.testing.assert_array_equal(grey(save(tmp_path / "b.dcm", data)), 255 - plain)


def test_without_a_window_the_declared_bits_decide(tmp_path):
    stored = ramp(0, 900)
    np.testing.assert_array_equal(grey(save(tmp_path / "a.dcm", dataset(stored))), stored >> 4)
    # A container's 16 bits say nothing: the rule for greys of unknown depth.
    whole = dataset(stored, BitsStored=16)
    np.testing.assert_array_equal(grey(save(tmp_path / "b.dcm", whole)), stored >> 2)


def shipped(name):
    """A file that comes with pydicom."""
    file = pydicom.data.get_testdata_file(name, download=False)
    if file is None:
        pytest.skip(f"this pydicom ships without {name}")
    return file


@pytest.mark.parametrize("kind", ["RLE", "implicit", "bigendian", "jp2klossless", "jpeg_ls_lossless"])
def test_the_same_picture_in_every_syntax(kind):
    if kind == "jpeg_ls_lossless":
        pytest.importorskip("gdcm")
    plain = np.asarray(read_image(shipped("MR_small.dcm")))
    assert plain.max() > 200
    np.testing.assert_array_equal(np.asarray(read_image(shipped(f"MR_small_{kind}.dcm"))), plain)


@pytest.mark.parametrize("name", ["liver_1frame.dcm", "image_dfl.dcm"])
def test_masks_of_1_bit_and_deflated_files(name):
    values = np.asarray(read_image(shipped(name)))
    assert (values.min(), values.max()) == (0, 255)


def test_rescaled_values_without_a_window_are_stretched_where_they_are_negative(tmp_path):
    stored = ramp(0, 4000)
    data = dataset(stored, RescaleSlope=1, RescaleIntercept=-1000)
    np.testing.assert_array_equal(grey(save(tmp_path / "a.dcm", data)), np.rint(stored * 255.0 / 4000))


def test_colours_and_palettes(tmp_path):
    from pydicom.pixels import convert_color_space

    colours = np.zeros((ROWS, COLUMNS, 3), np.uint8)
    colours[:, :32], colours[:, 32:] = (200, 30, 10), (10, 20, 220)
    rgb = read_image(save(tmp_path / "a.dcm", dataset(colours, BitsStored=8)))
    np.testing.assert_array_equal(np.asarray(rgb), colours)
    ybr = convert_color_space(colours, "RGB", "YBR_FULL")
    data = dataset(ybr, BitsStored=8, PhotometricInterpretation="YBR_FULL")
    assert np.abs(np.asarray(read_image(save(tmp_path / "b.dcm", data))).astype(int) - colours).max() <= 2
    data = dataset(
        np.full((ROWS, COLUMNS), 1, np.uint8), BitsStored=8, PhotometricInterpretation="PALETTE COLOR"
    )
    for name, levels in zip(("Red", "Green", "Blue"), ((0, 255), (0, 128), (255, 0)), strict=True):
        setattr(data, f"{name}PaletteColorLookupTableDescriptor", [2, 0, 16])
        table = np.array([level * 257 for level in levels], "<u2").tobytes()
        setattr(data, f"{name}PaletteColorLookupTableData", table)
    assert read_image(save(tmp_path / "c.dcm", data)).getpixel((3, 3)) == (255, 128, 0)


@pytest.mark.parametrize("syntax", ["RLELossless", "JPEG2000Lossless"])
def test_compressed_pixels(tmp_path, syntax):
    stored = ramp(0, 4095)
    plain = grey(save(tmp_path / "plain.dcm", dataset(stored)))
    data = dataset(stored)
    try:
        data.compress(getattr(pydicom.uid, syntax))
    except (RuntimeError, NotImplementedError) as error:
        pytest.skip(f"nothing here writes it: {error}")
    np.testing.assert_array_equal(grey(save(tmp_path / "a.dcm", data)), plain)


@pytest.mark.parametrize("kind", ["JPEG2000", "JPEG"])
def test_a_compressed_picture_of_another_size_is_not_decoded(tmp_path, monkeypatch, kind):
    stream = io.BytesIO()
    Image.new("L", (3000, 2000)).save(stream, kind, **({"no_jp2": True} if kind == "JPEG2000" else {}))
    data = dataset(np.zeros((ROWS, COLUMNS), np.uint8), BitsStored=8)
    data.PixelData = pydicom.encaps.encapsulate([stream.getvalue()])
    data["PixelData"].is_undefined_length = True
    data.file_meta.TransferSyntaxUID = getattr(
        pydicom.uid, "JPEG2000Lossless" if kind == "JPEG2000" else "JPEGBaseline8Bit"
    )
    monkeypatch.setattr("pydicom.pixels.pixel_array", lambda *_, **__: pytest.fail("decoded"))
    with pytest.raises(UnreadableImage, match="has 3000 x 2000 pixels, but it declares 64 x 48"):
        read_image(save(tmp_path / "a.dcm", data))


@pytest.mark.parametrize("name", ["JPEG2000.dcm", "SC_rgb_jpeg.dcm", "MR_small_jpeg_ls_lossless.dcm"])
def test_sizes_in_compressed_pictures_are_those_that_are_declared(name):
    pytest.importorskip("gdcm")
    whole = pydicom.dcmread(shipped(name))
    frame = pydicom.encaps.get_frame(whole.PixelData, 0, number_of_frames=1)
    assert encoded_size(frame) == (whole.Columns, whole.Rows)
    assert read_image(shipped(name)).size == (whole.Columns, whole.Rows)


def test_a_file_that_inflates_beyond_what_a_picture_needs_is_refused(tmp_path, monkeypatch):
    stored = ramp(0, 4095)
    data = dataset(stored)
    data.file_meta.TransferSyntaxUID = pydicom.uid.DeflatedExplicitVRLittleEndian
    path = save(tmp_path / "a.dcm", data)
    assert grey(path).max() == 255
    data.add_new(0x00091001, "OB", bytes(3_000_000))
    path = save(tmp_path / "b.dcm", data)
    assert grey(path).max() == 255
    monkeypatch.setattr("tanl.io.dicom._INFLATED", 2 << 20)
    monkeypatch.setattr("pydicom.dcmread", lambda *_, **__: pytest.fail("inflated"))
    with pytest.raises(UnreadableImage, match="it is deflated, and holds more than 2 MB"):
        read_image(path)


def test_an_enhanced_object_has_its_window_with_its_frame(tmp_path):
    from pydicom.dataset import Dataset
    from pydicom.sequence import Sequence

    voi, transformation, group = Dataset(), Dataset(), Dataset()
    voi.WindowCenter, voi.WindowWidth = 40, 400
    transformation.RescaleSlope, transformation.RescaleIntercept = 2, -1024
    group.FrameVOILUTSequence = Sequence([voi])
    shared = Dataset()
    shared.PixelValueTransformationSequence = Sequence([transformation])
    stored = ramp(0, 4095)
    data = dataset(
        stored,
        NumberOfFrames=1,
        PerFrameFunctionalGroupsSequence=Sequence([group]),
        SharedFunctionalGroupsSequence=Sequence([shared]),
    )
    shown = grey(save(tmp_path / "a.dcm", data))
    assert np.abs(shown - linear(stored * 2.0 - 1024, 40, 400)).max() <= 0.51


def test_several_frames_are_refused(tmp_path):
    data = dataset(np.zeros((3 * ROWS, COLUMNS), np.uint16), NumberOfFrames=3)
    data.Rows = ROWS
    with pytest.raises(UnreadableImage, match="holds 3 frames; save those that matter"):
        read_image(save(tmp_path / "a.dcm", data))


def test_what_holds_no_picture_says_so(tmp_path):
    data = dataset(np.zeros((ROWS, COLUMNS), np.uint16))
    for name in ("Rows", "Columns", "PixelData"):
        delattr(data, name)
    data.Modality = "SR"
    with pytest.raises(UnreadableImage, match=r"holds no picture \(modality SR\)"):
        read_image(save(tmp_path / "a.dcm", data))
    data = dataset(np.zeros((ROWS, COLUMNS), np.uint16))
    del data.PixelData
    with pytest.raises(UnreadableImage):
        read_image(save(tmp_path / "b.dcm", data))


def test_an_old_file_without_the_preamble_is_known_by_its_ending(tmp_path):
    data = dataset(ramp(0, 4095))
    plain = grey(save(tmp_path / "a.dcm", data))
    whole = (tmp_path / "a.dcm").read_bytes()
    group = (
        132 + 12 + int.from_bytes(whole[140:144], "little")
    )  # preamble, and the group that tells the syntax
    (tmp_path / "old.DCM").write_bytes(whole[group:])
    np.testing.assert_array_equal(grey(tmp_path / "old.DCM"), plain)


def test_an_ending_does_not_make_it_dicom_and_none_is_needed(tmp_path):
    Image.new("RGB", (4, 4), "red").save(tmp_path / "a.dcm", "PNG")
    assert read_image(tmp_path / "a.dcm").getpixel((0, 0)) == (255, 0, 0)
    (tmp_path / "text.dcm").write_text("not DICOM at all\n" * 50)
    with pytest.raises(UnreadableImage):
        read_image(tmp_path / "text.dcm")
    save(tmp_path / "1.2.840.113619.2", dataset(ramp(0, 4095)))
    assert tmp_path / "1.2.840.113619.2" in find_images(tmp_path)


def test_damage_never_raises_anything_else(tmp_path):
    path = save(tmp_path / "a.dcm", dataset(ramp(0, 4095), WindowCenter=40, WindowWidth=400))
    intact = np.frombuffer(path.read_bytes(), np.uint8)
    generator = np.random.default_rng(0)
    for _ in range(150):
        damaged = intact.copy()
        places = generator.integers(132, len(intact), 6)
        damaged[places] = generator.integers(0, 256, 6)
        path.write_bytes(damaged[: generator.integers(132, len(intact) + 1)].tobytes())
        try:
            assert read_image(path).mode == "RGB"
        except UnreadableImage as error:
            assert error.reason


def test_an_unusable_window_is_told(tmp_path):
    data = dataset(ramp(0, 4095), WindowCenter=40, WindowWidth=0)
    with pytest.raises(UnreadableImage, match=r"[Ww]idth"):
        read_image(save(tmp_path / "a.dcm", data))


def test_without_pydicom_the_extra_is_named(tmp_path, monkeypatch):
    path = save(tmp_path / "a.dcm", dataset(ramp(0, 4095)))
    monkeypatch.setitem(sys.modules, "pydicom", None)
    with pytest.raises(UnreadableImage, match=r'DICOM, which needs pydicom: pip install "tanl\[medical\]"'):
        read_image(path)


def test_a_picture_over_the_limit_is_refused_before_it_is_decoded(tmp_path, monkeypatch):
    path = save(tmp_path / "a.dcm", dataset(ramp(0, 4095)))
    monkeypatch.setattr("tanl.io.images.MAX_PIXELS", ROWS * COLUMNS - 1)
    monkeypatch.setattr("tanl.io.dicom.DicomFile.image", lambda self: pytest.fail("decoded"))
    with pytest.raises(UnreadableImage, match="more than the limit of 3071"):
        read_image(path)
