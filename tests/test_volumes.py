"""Volumes: planted slices are found, regions, windows, spacing, files."""

import math

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn.functional import normalize

import tanl
from tanl.io.volumes import Volume, read_volume


class GreyBackbone:
    """Embeds an image by its mean grey and its proportions; the text "dark" is black, "bright" white."""

    name = fingerprint = "greys"
    logit_scale = 20.0
    image_size = 8
    device = torch.device("cpu")

    def __init__(self):
        self.sizes = []

    def preprocess(self, image):
        self.sizes.append(image.size)
        return torch.from_numpy(np.asarray(image.resize((8, 8)), dtype=np.float32) / 255).permute(2, 0, 1)

    def encode_images(self, pixels):
        return self._at(pixels.mean(dim=(1, 2, 3)))

    def encode_texts(self, texts, *, batch_size=256):
        greys = [0.0 if "dark" in text else 1.0 if "bright" in text else 0.5 for text in texts]
        return self._at(torch.tensor(greys))

    def _at(self, grey):
        angle = grey * math.pi
        return normalize(torch.stack([angle.cos(), angle.sin()], dim=1), dim=1)


def neglabel(bank):
    return tanl.NegLabel(bank, num_negatives=None, groups=1)


@pytest.fixture
def guard():
    made = tanl.Guard(GreyBackbone(), ["dark"], corpus=["bright", "medium"], method=neglabel, progress=False)
    dark = [Image.new("RGB", (9, 9), (level, level, level)) for level in range(0, 40, 2)]
    made.calibrate(dark, 0.9)
    return made


def volume(foreign=(), shape=(12, 10, 14)):
    values = np.random.default_rng(0).integers(0, 20, shape).astype(np.int16)
    values[-1, -1, -1] = 255  # white, so that levels are those of 8 bits
    for number in foreign:
        values[number] = 230
    return values


def test_planted_slices_are_found_slice_and_all(guard):
    clean, planted = guard.score_volume(volume()), guard.score_volume(volume(foreign=(3, 7)))
    assert clean.flagged == [] and planted.flagged == [3, 7]
    assert planted.ood_score > clean.ood_score
    assert {verdict.evidence[0].label for verdict in planted.slices[3:4]} == {"bright"}


def test_nothing_is_learnt():
    learner = tanl.Guard(GreyBackbone(), ["dark"], corpus=["bright", "medium"], progress=False)
    before = {
        name: value.clone()
        for name, value in learner.detector.state_dict().items()
        if isinstance(value, torch.Tensor)
    }
    learner.score_volume(volume(foreign=(3,)))
    after = learner.detector.state_dict()
    assert before and all(torch.equal(value, after[name]) for name, value in before.items())


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_any_axis_can_be_cut(guard, axis):
    values = np.moveaxis(volume(foreign=(5,)), 0, axis)
    found = guard.score_volume(values, axis=axis)
    assert len(found.slices) == 12 and found.flagged == [5]


def test_scores_are_put_together_as_said(guard):
    values = volume(foreign=(3, 7))
    scores = guard.score_volume(values).slices.ood_score.double()
    highest = scores.sort(descending=True).values
    for aggregate, k, expected in (
        ("max", 3, highest[0]),
        ("mean", 3, scores.mean()),
        ("top", 3, highest[:3].mean()),
        ("top", 99, scores.mean()),
    ):
        assert guard.score_volume(values, aggregate=aggregate, k=k).ood_score == pytest.approx(
            float(expected), abs=1e-9
        )


def test_a_region_is_judged_by_what_lies_inside(guard):
    values = volume()
    values[4, 2:5, 3:6] = 240
    inside, outside, empty = (np.zeros(values.shape, dtype=bool) for _ in range(3))
    inside[4, 2:5, 3:6] = True
    outside[4, 7:9, 3:6] = True
    found = guard.score_volume(
        values, masks={"spot": inside, "beside": outside, "nothing": empty}, aggregate="max"
    )
    assert found.regions["spot"] > guard.detector.threshold > found.regions["beside"]
    assert math.isnan(found.regions["nothing"])


def test_a_window_says_what_is_black_and_white(guard):
    values = volume(foreign=(3,)).astype(np.float32) * 4 - 1000
    assert guard.score_volume(values, window=(-1000, 20)).flagged == [3]
    assert guard.score_volume(values, window=(0, 5000)).flagged == []


def test_slices_are_resized_to_square_pixels(guard):
    guard.backbone.sizes.clear()
    guard.score_volume(Volume(volume(), (5.0, 2.0, 1.0)))
    assert {*guard.backbone.sizes} == {(14, 20)}
    guard.backbone.sizes.clear()
    guard.score_volume(Volume(volume(), (5.0, 2.0, 1.0)), axis=2)
    assert {*guard.backbone.sizes} == {(10, 30)}


@pytest.mark.parametrize(
    ("values", "options", "message"),
    [
        (np.zeros((3, 4)), {}, r"\[D, H, W\], not float64 \[3, 4\]"),
        (np.zeros((0, 4, 4)), {}, r"not float64 \[0, 4, 4\]"),
        (np.array([[["a"]]]), {}, "a volume is numbers"),
        (np.zeros((2, 4, 4)), {"axis": 3}, "axis must be at most 2"),
        (np.zeros((2, 4, 4)), {"k": 0}, "k must be at least 1"),
        (np.zeros((2, 4, 4)), {"aggregate": "median"}, "aggregate is 'median'"),
        (np.zeros((2, 4, 4)), {"window": (5, 5)}, "window is"),
        (np.zeros((2, 4, 4)), {"window": (0, math.nan)}, "window is"),
        (np.full((2, 4, 4), math.nan), {}, "not finite"),
        (np.full((2, 4, 4), math.nan), {"window": (0, 1)}, "not finite"),
        (np.zeros((2, 4, 4)), {"masks": {"m": np.zeros((2, 4, 5), dtype=bool)}}, "the mask 'm' is bool"),
        (np.zeros((2, 4, 4)), {"masks": {"m": np.zeros((2, 4, 4))}}, "the mask 'm' is float64"),
        (Volume(np.zeros((2, 4, 4)), (1, 0, 1)), {}, "spacing is"),
    ],
)
def test_what_is_no_volume_is_refused(guard, values, options, message):
    with pytest.raises((ValueError, TypeError), match=message):
        guard.score_volume(values, **options)


def test_numpy_files(tmp_path):
    np.save(tmp_path / "v.npy", volume())
    assert np.array_equal(read_volume(tmp_path / "v.npy").values, volume())
    np.save(tmp_path / "flat.npy", np.zeros((3, 4)))
    with pytest.raises(ValueError, match="has 2 axes"):
        read_volume(tmp_path / "flat.npy")
    with pytest.raises(ValueError, match="volumes are"):
        read_volume(tmp_path / "v.txt")


@pytest.mark.parametrize("ending", ["nii", "nii.gz"])
def test_nifti_files(tmp_path, ending):
    nibabel = pytest.importorskip("nibabel", reason='needs nibabel: pip install "tanl[medical]"')
    values = volume().transpose(2, 1, 0)  # x, y, z
    nibabel.save(nibabel.Nifti1Image(values, np.diag([1.0, 2.0, 5.0, 1.0])), tmp_path / f"v.{ending}")
    found = read_volume(tmp_path / f"v.{ending}")
    assert np.array_equal(found.values, volume())
    assert found.spacing == (5.0, 2.0, 1.0)
    (tmp_path / "bad.nii").write_bytes(b"no header")
    with pytest.raises(ValueError, match=r"bad\.nii is no NIfTI file"):
        read_volume(tmp_path / "bad.nii")


def dicom(path, values, position, series="1.2.3"):
    pydicom = pytest.importorskip("pydicom", reason='needs pydicom: pip install "tanl[medical]"')
    data = pydicom.Dataset()
    data.file_meta = pydicom.dataset.FileMetaDataset()
    data.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    data.file_meta.MediaStorageSOPClassUID = data.SOPClassUID = pydicom.uid.CTImageStorage
    data.file_meta.MediaStorageSOPInstanceUID = data.SOPInstanceUID = f"1.2.3.{position + 1}"
    data.SeriesInstanceUID = series
    data.Rows, data.Columns = values.shape
    data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
    data.BitsAllocated, data.BitsStored, data.HighBit, data.PixelRepresentation = 16, 8, 7, 0
    data.ImagePositionPatient, data.ImageOrientationPatient = [0, 0, position], [1, 0, 0, 0, 1, 0]
    data.PixelSpacing = [0.5, 0.25]
    data.PixelData = values.astype("<u2").tobytes()
    data.save_as(path, enforce_file_format=True)


def test_a_folder_of_a_dicom_series_is_ordered_by_position(tmp_path):
    values = volume()
    for number, position in enumerate((30, 0, 10, 20)):
        dicom(tmp_path / f"{number}.dcm", values[position // 10], position)
    found = read_volume(tmp_path)
    assert np.array_equal(found.values, values[:4].astype(np.uint8))
    assert found.spacing == (10.0, 0.5, 0.25)
    dicom(tmp_path / "other.dcm", values[0], 40, series="1.2.4")
    with pytest.raises(ValueError, match="holds 2 series"):
        read_volume(tmp_path)


def test_an_empty_folder_is_no_series(tmp_path):
    with pytest.raises(ValueError, match="holds no files"):
        read_volume(tmp_path)
