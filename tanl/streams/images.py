"""Images through the pump: files, PIL images and pixels, prepared and encoded by a backbone."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from functools import cached_property
from os import PathLike
from typing import TYPE_CHECKING, Any

import torch
from PIL import Image
from torch import Tensor

from ..backbones.base import height_and_width
from ..backbones.toys import tell_limits
from ..checks import is_dense, off_norm
from ..io.images import UnreadableImage, read_image, to_rgb
from ..io.options import BATCH_SIZE
from ..kernels.surroundings import finished, held
from .batches import Ready, Unusable
from .pump import Batch, Pump, Timings, judged, what_is_wrong

if TYPE_CHECKING:
    from ..backbones import Backbone
    from ..detectors.verdict import Verdict
    from .results import Result

OneImage = Image.Image | str | PathLike[str] | Tensor


class ImageEncoder:
    """What a `Pump` needs to embed images with a backbone.

    Args:
        backbone: prepares and encodes them.
        what: what they come in, for the messages about images without a path: "number 4 of the stream".
    """

    def __init__(self, backbone: Backbone, *, what: str = "the stream") -> None:
        self.backbone = backbone
        self._what = what

    def prepare(self, number: int, image: Any) -> Ready | Unusable:
        """A file, a PIL image or pixels ``[3, H, W]`` to pixels, or to what is wrong with it.

        Raises:
            TypeError: it is no image.
        """
        name = self._name(number, image)
        tell_limits(self.backbone, image)
        try:
            if isinstance(image, Tensor):
                # They may come from any stream of a GPU, and are checked and encoded on those of other threads.
                return Ready(name, self._checked(finished(image)))
            rgb = read_image(image) if isinstance(image, str | PathLike) else to_rgb(image)
            return Ready(name, self.backbone.preprocess(rgb))
        except UnreadableImage as error:
            return Unusable(error.path, error.reason, error)
        except (ValueError, OSError) as error:
            return Unusable(name, str(error), error)

    def encode(self, images: Sequence[Tensor]) -> Tensor:
        """Pixels ``[3, H, W]`` of n images to embeddings ``[n, D]``, on the backbone's device.

        Raises:
            ValueError: they are not all of one size.
        """
        shapes = {tuple(pixels.shape) for pixels in images}
        if len(shapes) > 1:
            raise ValueError(
                f"the model's preprocess gives pixels of several shapes, {' and '.join(map(str, sorted(shapes)))}: "
                "it must bring every image to one size"
            )
        device = self.backbone.device
        # Those of files and PIL images; pixels that were given are there already, or were refused.
        if len({pixels.device for pixels in images}) > 1:
            images = [pixels.to(device) for pixels in images]
        return self.encode_pixels(torch.stack([held(pixels) for pixels in images]).to(device))

    def encode_given(self, pixels: Tensor) -> Tensor:
        """Pixels ``[B, 3, H, W]`` that a caller has prepared to embeddings ``[B, D]``, none of them left out.

        Raises:
            ValueError: an embedding that is no unit vector; the message has the image's place.
        """
        tell_limits(self.backbone, pixels)
        z = self.encode_pixels(pixels)
        refuse_off_norm(z, self._what, pixels)
        return z

    def encode_pixels(self, pixels: Tensor) -> Tensor:
        """Pixels ``[B, 3, H, W]`` to embeddings ``[B, D]``."""
        return self.backbone.encode_images(pixels)

    def _name(self, number: int, image: Any) -> str | PathLike[str]:
        if isinstance(image, str | PathLike):
            return image
        return getattr(image, "filename", None) or f"number {number} of {self._what}"

    def _checked(self, pixels: Tensor) -> Tensor:
        """Pixels that are ready. What the whole batch would be refused for is found here, image by image."""
        if not is_dense(pixels) or not pixels.is_floating_point():
            raise TypeError(f"pixels must be a dense floating torch.Tensor, not {pixels.dtype}")
        if pixels.shape != self._shape:
            raise ValueError(f"pixels must have shape {list(self._shape)}, not {list(pixels.shape)}")
        if pixels.device != (device := self.backbone.device):
            raise ValueError(
                f"its pixels are on {pixels.device}, but the backbone is on {device}; move one with .to(...)"
            )
        if not bool(pixels.isfinite().all()):
            raise ValueError("its pixels have a NaN or infinite value")
        return pixels

    @cached_property
    def _shape(self) -> torch.Size:
        height, width = height_and_width(self.backbone.image_size)
        return self.backbone.preprocess(Image.new("RGB", (width, height))).shape


def refuse_off_norm(z: Tensor, what: str, pixels: Tensor | None = None) -> None:
    """Refuse embeddings ``[B, D]`` of images that came together, of which one is no unit vector.

    Args:
        z: the embeddings.
        what: what the images came in.
        pixels: ``[B, ...]``, if they were given as such: they may be to blame.

    Raises:
        ValueError: the message has the image's place.
    """
    norms, off = off_norm(z)
    if bool(off.any()):
        row = int(off.nonzero()[0])
        told = what_is_wrong(z[row], float(norms[row]))
        if pixels is not None and not bool(pixels[row].isfinite().all()):
            told = "it has a NaN or infinite value"
        raise ValueError(f"image {row} of {what}: {told}; leave it out")


def unreadable(image: Unusable) -> UnreadableImage:
    """What is wrong with an image, as an error."""
    error = UnreadableImage(image.name, image.reason)
    error.__cause__ = image.cause
    return error


def outcome(result: Result) -> Verdict | UnreadableImage:
    """An image's verdict, or the error that stands in its place."""
    if result.verdict is not None:
        return result.verdict
    assert result.error is not None, "what has no verdict has an error"
    return UnreadableImage(result.path, result.error)


def embed_images(
    encoder: ImageEncoder,
    images: Iterable[OneImage],
    *,
    batch_size: int = BATCH_SIZE,
    timings: Timings | None = None,
) -> Generator[Batch, None, None]:
    """Read and embed images, batch by batch, without judging them; closing it ends the threads.

    Args:
        encoder: of the backbone.
        images: any of what `ImageEncoder.prepare` takes.
        batch_size: usable images a batch, at least 1; see `Pump`.
        timings: filled in as the stream goes.
    """
    pump = Pump(images, encoder.prepare, encoder.encode, batch_size=batch_size, timings=timings)
    try:
        yield from pump
    finally:
        pump.close()


def judge_images(
    encoder: ImageEncoder,
    images: Iterable[OneImage],
    judge: Callable[[Tensor], Iterable[Verdict]],
    *,
    batch_size: int = BATCH_SIZE,
    timings: Timings | None = None,
) -> Iterator[list[Result]]:
    """Judge images in the order given and yield a list of results a batch.

    One that cannot be used gets a result with its ``error`` and takes no place in a batch.

    Args:
        encoder: of the backbone.
        images: any of what `ImageEncoder.prepare` takes.
        judge: embeddings ``[B, D]`` to their verdicts, such as ``guard.detect_embeddings``; a method with a
            stream learns from every batch.
        batch_size: usable images a batch, at least 1; see `Pump`.
        timings: filled in as the stream goes.
    """
    batches = embed_images(encoder, images, batch_size=batch_size, timings=timings)
    try:
        yield from judged(batches, judge, timings)
    finally:
        batches.close()
