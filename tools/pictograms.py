"""Render the held-out vendors' pictograms and write their manifest.

    python -m tools.pictograms --packages FOLDER

``FOLDER`` holds the npm archives that :mod:`tools.mini.inputs` lists; what is missing is named with the
command that fetches it. The output depends on those archives and the versions of resvg and libwebp alone.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import shutil
import tempfile
import unicodedata
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from tanl.benchmarks.pictograms.manifest import FOLDER, Row, coarse_of, read_manifest, set_of, write_manifest
from tanl.io.arguments import a_path

from .mini.inputs import MissingInputError, Package, find, unpack
from .mini.pictograms import EMOJIBASE, PICTOGRAM_PACKAGES, Concept, is_unseen, read_pictograms, render

if TYPE_CHECKING:
    from PIL import Image

SIZE = 160
# Fewer differing pixels than this share leave nothing to recognise: white shapes, which white paper swallows.
_BLANK_SHARE = 0.002
_BLANK_LEVEL = 24


def label_of(concept: Concept) -> str:
    """The concept's name in plain ASCII: curly quotes made straight, accents dropped."""
    name = concept.name.translate(str.maketrans("’‘“”", "''\"\""))
    plain = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode()
    return " ".join(plain.split())


def on_white(image: Image.Image) -> Image.Image:
    """An RGBA image laid on white paper, as RGB."""
    from PIL import Image

    paper = Image.new("RGBA", image.size, "white")
    paper.alpha_composite(image)
    return paper.convert("RGB")


def is_blank(image: Image.Image) -> bool:
    """Whether almost nothing of an RGB image stands out from white."""
    ink = 255 - np.asarray(image).min(axis=-1)  # [H, W], 0 where white
    return float((ink > _BLANK_LEVEL).mean()) < _BLANK_SHARE


def build(packages: Path, output: Path = FOLDER) -> list[str]:
    """Render everything into ``output/images`` and write the manifest; returns what was left out, and why."""
    archives = find(packages, (EMOJIBASE, *PICTOGRAM_PACKAGES))
    left_out: list[str] = []
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as scratch:
        unpack(archives, scratch)
        pictograms = read_pictograms(scratch)
        trained = {
            pictogram.concept.hex
            for pictogram in pictograms
            if pictogram.package.role == "train" and not is_unseen(pictogram.concept.hex)
        }
        test_packages = [package for package in PICTOGRAM_PACKAGES if package.role == "test"]
        for package in test_packages:
            shutil.rmtree(output / "images" / folder_of(package), ignore_errors=True)
            (output / "images" / folder_of(package)).mkdir(parents=True)
        written: dict[tuple[Package, str], str] = {}
        for pictogram in pictograms:
            if pictogram.package.role != "test":
                continue
            concept = pictogram.concept
            file = f"images/{folder_of(pictogram.package)}/{concept.hex}.webp"
            image = on_white(render(pictogram, SIZE))
            if is_blank(image):
                left_out.append(f"{file}: nothing to see on white ({concept.name})")
                continue
            content = _encode(image)
            digest = hashlib.sha256(content).hexdigest()
            if (output / file).exists():
                left_out.append(f"{file}: another drawing of the same concept ({concept.name})")
                continue
            twin = written.setdefault((pictogram.package, digest), concept.name)
            if twin != concept.name:
                left_out.append(f"{file}: {concept.name} is drawn exactly as {twin}")
                continue
            (output / file).write_bytes(content)
            rows.append(
                Row(
                    file=file,
                    label=label_of(concept),
                    group=concept.group,
                    subgroup=concept.subgroup,
                    set=set_of(concept.group, concept.subgroup),
                    coarse=coarse_of(concept.subgroup),
                    split="seen" if concept.hex in trained else "unseen",
                    concept=concept.hex,
                    vendor=pictogram.vendor,
                    sha256=digest,
                )
            )
    write_manifest(rows, output)
    (output / "LICENSES.md").write_text(describe_licences(test_packages, rows), encoding="utf-8")
    return left_out


def folder_of(package: Package) -> str:
    """The name of the folder below ``images`` that holds a package's drawings."""
    return package.name.rsplit("/", 1)[-1]


def describe_licences(packages: Iterable[Package], rows: Iterable[Row]) -> str:
    """Who drew what, under which licence, and what was changed."""
    counts = Counter(row.file.split("/")[1] for row in rows)
    lines = [
        "# Licences of the images",
        "",
        "The images below `images/` are not under this project's own licence. Each folder holds drawings of one",
        f"package, changed in one way: rendered from SVG to {SIZE} x {SIZE} pixels on white, as lossless WebP.",
        "The renderings stay under the licence of the drawings; the licence texts lie beside this file.",
        "",
        "| Folder | Images | Drawn by | Package | Licence |",
        "| --- | ---: | --- | --- | --- |",
    ]
    for package in packages:
        source = f"[{package.attribution}]({package.url})"
        licence = f"[{package.licence}]({package.licence}.txt)"
        folder = folder_of(package)
        archive = f"npm `{package.name}` {package.version}"
        lines.append(f"| `images/{folder}` | {counts[folder]} | {source} | {archive} | {licence} |")
    lines += [
        "",
        f"Names, groups and subgroups in `manifest.csv` are from npm `{EMOJIBASE.name}` {EMOJIBASE.version}",
        f"({EMOJIBASE.licence}; {EMOJIBASE.attribution}).",
        "",
    ]
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Render the pictogram benchmark and write its manifest.")
    parser.add_argument("--packages", type=a_path, required=True, help="the folder of the package archives")
    parser.add_argument(
        "--output", type=a_path, default=FOLDER, help="where to write (default: this package)"
    )
    options = parser.parse_args(arguments)
    try:
        left_out = build(options.packages, options.output)
    except MissingInputError as error:
        parser.exit(2, f"{parser.prog}: {error}\n")
    rows = read_manifest(options.output)
    size = sum((options.output / row.file).stat().st_size for row in rows)
    for line in left_out:
        print("left out", line)
    for (name, split), count in sorted(Counter((row.set, row.split) for row in rows).items()):
        print(f"{name:14} {split:7} {count:5}")
    print(f"{len(rows)} images, {size / 1e6:.1f} MB")


def _encode(image: Image.Image) -> bytes:
    stream = io.BytesIO()
    # For lossless WebP, quality is effort: above 60 it costs a hundred times the time for 1 % of the size.
    image.save(stream, "WEBP", lossless=True, quality=60, method=6)
    return stream.getvalue()


if __name__ == "__main__":
    main()
