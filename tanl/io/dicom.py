"""Pictures in DICOM files, as a viewer shows them."""

from __future__ import annotations

import struct
import zlib
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from .levels import to_8_bits

EXTRA = 'pip install "tanl[medical]"'

# Beyond any value that a picture holds: what a window makes of it is the window's end.
_BEYOND = 1e15
_ROWS_AT_ONCE = 256
_HEAD = 1024
_DEFLATED = b"1.2.840.10008.1.2.1.99"
_INFLATED = 1 << 28  # bytes, of a deflated file
_FRAME_MARKERS = frozenset({*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC} | {0xF7})  # of JPEG, the last of JPEG-LS


class DicomFile:
    """The picture in a DICOM file; its pixels are decoded when they are asked for.

    Args:
        path: the file.

    Raises:
        ImportError: pydicom is not installed.
        ValueError: the file holds no picture, or several frames, of which none stands for the others.
    """

    def __init__(self, path: Path) -> None:
        try:
            import pydicom
        except ImportError as error:
            raise ImportError(f"it is DICOM, which needs pydicom: {EXTRA}") from error
        self._path = path
        _check_inflated(path)
        # Old files lack the preamble.
        self._data: Any = pydicom.dcmread(path, stop_before_pixels=True, force=True)
        if "Rows" not in self._data or "Columns" not in self._data:
            kind = f" (modality {self._data.Modality})" if self._data.get("Modality") else ""
            raise ValueError(f"the DICOM file holds no picture{kind}")
        if (frames := int(self._data.get("NumberOfFrames") or 1)) != 1:
            raise ValueError(
                f"the DICOM file holds {frames} frames; save those that matter as files of their own"
            )
        self._take_the_frames_values()

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels."""
        return int(self._data.Columns), int(self._data.Rows)

    @property
    def series(self) -> str:
        """The series that it is a slice of; empty where the file does not say."""
        return str(self._data.get("SeriesInstanceUID") or "")

    @property
    def position(self) -> float:
        """Where the slice lies along the normal of its plane, in millimetres; without a position its number."""
        place, axes = self._data.get("ImagePositionPatient"), self._data.get("ImageOrientationPatient")
        if place and axes:
            rows, columns = np.array(axes[:3], dtype=float), np.array(axes[3:], dtype=float)
            return float(np.cross(rows, columns) @ np.array(place, dtype=float))
        return float(self._data.get("InstanceNumber") or 0)

    @property
    def pixel_spacing(self) -> tuple[float, float]:
        """Millimetres between rows and between columns; 1 and 1 where the file does not say."""
        rows, columns = self._data.get("PixelSpacing") or (1.0, 1.0)
        return float(rows), float(columns)

    def image(self) -> Image.Image:
        """The picture, ``L`` or ``RGB``.

        Grey pixels go through the modality's table, or its rescale slope and intercept, then through the first VOI
        table or window. Without either they follow `to_8_bits`, where the bits that are stored are what is
        declared. MONOCHROME1 is turned round: its largest values are dark. Colours become RGB.

        Raises:
            ImportError: what decodes its compression is not installed.
            ValueError: unusable pixels or an unusable window.
        """
        pixels = self._pixels()
        kind = str(self._data.PhotometricInterpretation)
        if kind.startswith("MONOCHROME"):
            grey = self._grey(pixels)
            return Image.fromarray(255 - grey if kind == "MONOCHROME1" else grey)
        if kind == "PALETTE COLOR":
            pixels = _of_pydicom().apply_color_lut(pixels, self._data)[..., :3]
            return Image.fromarray(to_8_bits(pixels, int(np.iinfo(pixels.dtype).max)))
        return Image.fromarray(to_8_bits(pixels, self._largest_stored))

    @property
    def _largest_stored(self) -> int:
        return (1 << (int(self._data.BitsStored) - int(self._data.PixelRepresentation))) - 1

    def _pixels(self) -> NDArray[Any]:
        """The pixels as they are stored, ``[H, W]`` or ``[H, W, 3]``; colours as RGB."""
        import pydicom
        from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian

        whole: Any = pydicom.dcmread(self._path, force=True)
        if "TransferSyntaxUID" not in whole.file_meta:  # of a file that lacks its preamble
            is_implicit = whole.original_encoding[0]
            whole.file_meta.TransferSyntaxUID = (
                ImplicitVRLittleEndian if is_implicit else ExplicitVRLittleEndian
            )
        self._check_encoded(whole)
        try:
            pixels: NDArray[Any] = _of_pydicom().pixel_array(whole, index=0)
        except RuntimeError as error:
            if "missing dependencies" not in str(error):
                raise
            syntax = whole.file_meta.TransferSyntaxUID.name
            raise ImportError(
                f"nothing is installed that decodes its compression, {syntax}: {EXTRA}"
            ) from error
        return pixels

    def _check_encoded(self, whole: Any) -> None:
        """Refuse a compressed picture of another size than the file declares: a decoder believes the former."""
        if not whole.file_meta.TransferSyntaxUID.is_encapsulated:
            return
        frame: bytes = import_module("pydicom.encaps").get_frame(whole.PixelData, 0, number_of_frames=1)
        size = encoded_size(frame)
        if size is not None and size != self.size:
            declared = "{} x {}".format(*self.size)
            raise ValueError(
                f"its compressed picture has {size[0]} x {size[1]} pixels, but it declares {declared}"
            )

    def _grey(self, pixels: NDArray[Any]) -> NDArray[np.uint8]:
        data = self._data
        has_window = data.get("WindowWidth") is not None and data.get("WindowCenter") is not None
        table = data.get("VOILUTSequence")
        if not has_window and not table:
            return self._without_window(pixels)
        if table:
            low, high = 0.0, float((1 << int(table[0].LUTDescriptor[2])) - 1)
        else:
            low, high = self._ends_of_window()
        grey, of_pydicom = np.empty(pixels.shape, np.uint8), _of_pydicom()
        for start in range(0, len(pixels), _ROWS_AT_ONCE):
            rows = slice(start, start + _ROWS_AT_ONCE)
            shown = of_pydicom.apply_voi_lut(of_pydicom.apply_modality_lut(pixels[rows], data), data)
            grey[rows] = np.rint((shown.astype(np.float64) - low) * 255 / (high - low)).clip(0, 255)
        return grey

    def _ends_of_window(self) -> tuple[float, float]:
        """What is black and what is white after `apply_voi_lut`, whose output fills the range of its input."""
        with np.errstate(over="ignore"):  # of a sigmoid
            black, white = _of_pydicom().apply_voi_lut(np.array([-_BEYOND, _BEYOND]), self._data)
        return float(black), float(white)

    def _without_window(self, pixels: NDArray[Any]) -> NDArray[np.uint8]:
        data = self._data
        if table := data.get("ModalityLUTSequence"):
            declared: int | None = (1 << int(table[0].LUTDescriptor[2])) - 1
        elif (float(data.get("RescaleSlope") or 1), float(data.get("RescaleIntercept") or 0)) != (1, 0):
            declared = None
        else:
            # As many bits as the container has say nothing, it may hold fewer; but that a container has less than a
            # byte says it all.
            is_declared = data.BitsStored < max(8, data.BitsAllocated)
            declared = self._largest_stored if is_declared else None
            return to_8_bits(pixels, declared)
        return to_8_bits(_of_pydicom().apply_modality_lut(pixels, data), declared)

    def _take_the_frames_values(self) -> None:
        """Put an enhanced object's window and slope, which it has for each frame, where those of a plain one are."""
        for groups in ("PerFrameFunctionalGroupsSequence", "SharedFunctionalGroupsSequence"):
            for group in list(self._data.get(groups) or ())[:1]:
                for name in ("FrameVOILUTSequence", "PixelValueTransformationSequence"):
                    for item in list(group.get(name) or ())[:1]:
                        for element in item:
                            if element.tag not in self._data:
                                self._data.add(element)


def _check_inflated(path: Path) -> None:
    """Refuse a deflated file that grows beyond what a picture needs, before pydicom inflates it whole."""
    with path.open("rb") as file:
        head = file.read(_HEAD)
        if head[128:132] != b"DICM" or _DEFLATED not in head:
            return
        # The group that tells the syntax follows, and first of all its own length.
        file.seek(144 + int.from_bytes(head[140:144], "little"))
        if zlib.decompressobj(-zlib.MAX_WBITS).decompress(file.read(), _INFLATED + 1)[_INFLATED:]:
            raise ValueError(f"it is deflated, and holds more than {_INFLATED >> 20} MB")


def encoded_size(frame: bytes) -> tuple[int, int] | None:
    """Width and height in the header of a picture in JPEG, JPEG-LS or JPEG 2000; None for another."""
    if frame[:4] == b"\xff\x4f\xff\x51":
        right, bottom, left, top = struct.unpack(">4I", frame[8:24])
        return right - left, bottom - top
    place = 2
    while frame[:2] == b"\xff\xd8" and place + 9 <= len(frame) and frame[place] == 0xFF:
        marker, length = frame[place + 1], int.from_bytes(frame[place + 2 : place + 4], "big")
        if marker in _FRAME_MARKERS:
            height, width = struct.unpack(">2H", frame[place + 5 : place + 9])
            return width, height
        place += 1 if marker == 0xFF else 2 + length
    return None


def _of_pydicom() -> Any:
    """What pydicom does with pixels."""
    return import_module("pydicom.pixels")
