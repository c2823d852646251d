"""Images in tar files, as webdataset keeps them, read by webdataset's own reader."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from ..image_files import SUFFIXES, reason_in_words
from .files import opened, size_of
from .items import Broken, Item

ENDINGS = (".tar", ".tar.gz", ".tgz")
_END = 1024  # bytes of zeros that end a tar file


@dataclass(frozen=True)
class TarUnit:
    """One shard. Its members that end as images do are its images, each by ``shard.tar/member``."""

    file: str

    @property
    def rows(self) -> None:
        return None

    @property
    def identity(self) -> str:
        return self.file

    def items(self, skip: int = 0) -> Iterator[Item]:
        from webdataset.tariterators import tar_file_iterator

        at, wrong = 0, None
        try:
            with opened(self.file) as source:
                for member in tar_file_iterator(source, select_files=_is_image):
                    if at >= skip:
                        yield Item(f"{self.file}/{member['fname']}", member["data"])
                    at += 1
            wrong = self._missing(at)
        except Exception as error:  # of damaged bytes tarfile, gzip and zlib raise what they stumble on
            wrong = reason_in_words(error)
        if wrong is not None and at >= skip:
            yield Item(
                self.file, Broken(f"the shard {self.file} cannot be read beyond its image {at}: {wrong}")
            )

    def _missing(self, images: int) -> str | None:
        """What is wrong with a shard that was read to its end: tarfile takes a cut between two members for the end."""
        if not self.file.lower().endswith(".tar"):
            return None if images else "it holds no image"
        size = size_of(self.file)
        with opened(self.file) as source:
            source.seek(max(0, size - _END))
            if source.read().strip(b"\0"):
                return "it has no end; it was cut"
        return None if images else "it holds no image"


def units(files: Sequence[str]) -> list[TarUnit]:
    """A unit a shard.

    Raises:
        ImportError: without webdataset.
    """
    try:
        import webdataset  # noqa: F401
    except ImportError as error:
        raise ImportError("reading tar shards needs webdataset: pip install 'tanl[ray]'") from error
    return [TarUnit(file) for file in files]


def _is_image(name: str) -> bool:
    return PurePosixPath(name).suffix.lower() in SUFFIXES
