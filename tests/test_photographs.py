"""The photographs that ship: their manifest, licences and tracks, a run on a few, and the tool that took them."""

import io
import struct
import sys
import zlib
from collections import Counter

import pytest
from PIL import Image

from tanl import load_backbone
from tanl.benchmarks.data.shipped import read_image_bytes
from tanl.benchmarks.engine.runner import run
from tanl.benchmarks.engine.shipped import SHIPPED
from tanl.benchmarks.engine.tasks import Config
from tanl.benchmarks.photographs import manifest
from tanl.benchmarks.photographs.tracks import COARSE, TRACKS
from tanl.metrics import METRICS
from tools import photographs as build
from tools.rcc import read_archive

ROWS = manifest.read_manifest()
SETS = {row.set for row in ROWS}


def test_every_photograph_is_there_and_is_the_manifests():
    assert len(ROWS) == 255
    for row in ROWS:
        read_image_bytes(manifest.FOLDER, row)
    files = {path.relative_to(manifest.FOLDER).as_posix() for path in manifest.FOLDER.glob("images/*/*")}
    assert files == {row.file for row in ROWS}


def test_changed_photographs_are_refused_by_name(tmp_path):
    row = ROWS[0]
    (tmp_path / row.file).parent.mkdir(parents=True)
    (tmp_path / row.file).write_bytes((manifest.FOLDER / row.file).read_bytes() + b"x")
    with pytest.raises(ValueError, match=rf"{row.file} has the SHA-256 \w+, not the manifest's {row.sha256}"):
        read_image_bytes(tmp_path, row)


def test_photographs_are_small_jpeg_files_without_metadata():
    for row in ROWS:
        with Image.open(manifest.FOLDER / row.file) as image:
            assert (image.format, image.mode) == ("JPEG", "RGB")
            assert 100 <= min(image.size) <= build.SHORT_SIDE
            assert not image.getexif()
            assert not {"comment", "icc_profile", "photoshop", "xmp"} & set(image.info)
    assert sum((manifest.FOLDER / row.file).stat().st_size for row in ROWS) < 8e6


def test_every_photograph_has_an_author_a_free_licence_a_source_and_an_origin():
    for row in ROWS:
        assert row.author, row
        assert row.label, row
        assert row.licence in manifest.LICENCES, row
        assert row.source.startswith(("https://", "http://")), row
        assert row.package in {f"{package.name} {package.version}" for package in build.PACKAGES}, row
        assert len(row.sha256) == len(row.origin_sha256) == 64
    for column in ("file", "origin", "origin_sha256", "sha256"):
        assert len({getattr(row, column) for row in ROWS}) == len(ROWS), column


def test_licences_lie_beside_the_photographs_and_name_each_of_them():
    text = (manifest.FOLDER / "LICENSES.md").read_text(encoding="utf-8")
    assert text == build.describe_licences(ROWS)
    for licence in set(manifest.LICENCES) - {"public domain"}:
        assert (manifest.FOLDER / f"{licence}.txt").stat().st_size > 5000, licence
    assert all(f"`{row.file}` | {row.author}" in text for row in ROWS)


def test_the_manifest_is_what_the_selection_says():
    choices = {choice.origin: choice for choice in build.read_selection()}
    taken = {origin for origin, choice in choices.items() if not choice.left_out}
    assert taken == {row.origin for row in ROWS}
    for row in ROWS:
        choice = choices[row.origin]
        assert (choice.set, choice.label, choice.coarse) == (row.set, row.label, row.coarse)
    assert not any(choice.set or choice.label for choice in choices.values() if choice.left_out)


def test_only_animals_have_a_coarse_class():
    for row in ROWS:
        assert row.coarse in (*COARSE, "")
        assert (row.coarse == "fish") is (row.set == "fish")
        assert (row.coarse in COARSE) is (row.set in ("animals", "fish")), row


@pytest.mark.parametrize(
    ("name", "images", "classes", "ood"),
    [("animals", 53, 43, 8), ("animal-classes", 53, 4, 8), ("fish", 28, 19, 9)],
)
def test_tracks(name, images, classes, ood):
    chosen = TRACKS[name].select(ROWS)
    assert len(chosen.images) == images
    assert len(chosen.classes) == classes
    assert len(chosen.ood) == ood
    assert set(chosen.ood) <= SETS
    members = [member for _, found in chosen.ood.values() for member in found]
    assert len(members) == len(set(members)) == len(ROWS) - images
    assert not set(members) & set(chosen.images)


def test_no_generated_set_has_the_name_of_one_of_photographs():
    for split in SHIPPED.values():
        named = {name for track in split.tracks.values() for name in track.ood}
        assert not named & set(split.generated)


@pytest.mark.parametrize("length", [None, 40])
def test_the_split_runs_with_the_embedded_model(tmp_path, length):
    taken = Counter()
    few = []
    for row in ROWS:
        taken[row.set] += 1
        if taken[row.set] <= (6 if row.set == "animals" else 2):
            (tmp_path / row.file).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / row.file).write_bytes(read_image_bytes(manifest.FOLDER, row))
            few.append(row)
    manifest.write_manifest(few, tmp_path)
    words = tmp_path / "words.txt"
    words.write_text(
        "\n".join(["spire", "hammer", "windmill", "saucer", "violin", "planet", "canvas"]) + "\n"
    )
    config = Config(
        split="photographs",
        tracks=("animals",),
        corpus=str(words),
        methods=("MCM", "NegLabel"),
        only_ood=("buildings", "tools", "noise"),
        batch_size=4,
        stream_length=length,
    )
    result = run(
        config,
        tmp_path / "run",
        backbone=load_backbone("mini"),
        folder=tmp_path,
        extreme_images=4,
        cache_dir=tmp_path / "cache",
    )
    cells = result.cells()
    assert len(cells) == 2 * 3
    for cell in cells:
        assert all(0 <= cell.metrics[metric] <= 1 for metric in METRICS)


def archive(files, version=3, zstandard=None):
    """A Qt resource archive with these files, by path: plain, or where the name says so, compressed."""
    nodes = [("", {})]
    for path, content in files.items():
        folder = nodes[0][1]
        *parents, name = path.split("/")
        for parent in parents:
            folder = folder.setdefault(parent, {})
        folder[name] = content
    tree, names, data = b"", b"", b""
    placed = 1
    stamp = b"\0" * 8 if version > 1 else b""
    while nodes:
        name, content = nodes.pop(0)
        head = struct.pack(">I", len(names))
        names += struct.pack(">HI", len(name), 0) + name.encode("utf-16-be")
        if isinstance(content, dict):
            tree += head + struct.pack(">HII", 2, len(content), placed) + stamp
            nodes += content.items()
            placed += len(content)
            continue
        flags = 0
        if name.endswith(".zlib"):
            flags, content = 1, struct.pack(">I", len(content)) + zlib.compress(content)
        elif name.endswith(".zstd"):
            flags, content = 4, zstandard.ZstdCompressor().compress(content)
        tree += head + struct.pack(">HHHI", flags, 0, 1, len(data)) + stamp
        data += struct.pack(">I", len(content)) + content
    start = 20 if version < 3 else 24
    offsets = struct.pack(">4I", version, start, start + len(tree), start + len(tree) + len(data))
    return b"qres" + offsets + b"\0" * (start - 20) + tree + data + names


FILES = {
    "a/README": b"hello",
    "a/b/c.zlib": b"x" * 1000,
    "a/b/\u00e9.webp": b"",
    "top.txt": bytes(range(256)),
}


@pytest.mark.parametrize("version", [1, 2, 3])
def test_archives_are_read(version):
    assert read_archive(archive(FILES, version)) == FILES


def test_archives_with_zstandard_are_read():
    zstandard = pytest.importorskip("zstandard")
    files = {"a/b.zstd": b"y" * 1000, **FILES}
    assert read_archive(archive(files, zstandard=zstandard)) == files


def test_archives_with_zstandard_name_the_package_that_reads_them(monkeypatch):
    content = bytearray(archive({"a": b"z"}))
    content[24 + 22 + 5] = 4  # the flags of the second node
    monkeypatch.setitem(sys.modules, "zstandard", None)
    with pytest.raises(ImportError, match="pip install zstandard"):
        read_archive(bytes(content))


def test_damaged_archives_are_refused():
    whole = archive(FILES)
    with pytest.raises(ValueError, match="no Qt resource archive: it starts with b'PK"):
        read_archive(b"PK\3\4" + whole[4:])
    with pytest.raises(ValueError, match="of version 9"):
        read_archive(whole[:4] + struct.pack(">I", 9) + whole[8:])
    for size in range(4, len(whole)):
        with pytest.raises(ValueError, match="damaged"):
            read_archive(whole[:size])


def test_archive_whose_folder_holds_itself_is_refused():
    content = bytearray(archive({"a/b": b"z"}))
    content[24 + 22 + 10 : 24 + 22 + 14] = struct.pack(">I", 1)  # the first child of the second node: itself
    with pytest.raises(ValueError, match="damaged"):
        read_archive(bytes(content))


def test_credits_of_a_readme():
    text = """Copyright: Ann, 2020
License: CC-BY-SA 4.0
Files:
drawing.svg

Copyright: 2004 Bob
Source: https://example.org/File:Bee.jpg
License: CC-BY-2.0
Comments: cropping, sharpening
Files: bee.webp

Copyright: 2000, 2008 Cy and others
License: CC-BY-SA 4.0
castle_0.webp
castle_background.webp
Comment: based on a photo by Dee, license CC-BY-SA 3.0, source at https://example.org/File:Castle.jpg

Copyright:
  Copyright 2011 NASA
  Copyright 2018 Eve
License: Public Domain
Comment: original source at https://example.org/File:Mars.jpg
Files:
  mars.webp

Copyright: Flo
License: GPLv2+
Source: https://example.org/File:Mill.jpg
Files:
mill.webp
"""
    credits = build.read_credits(text)
    assert credits == {
        "bee.webp": build.Credit("Bob", "CC-BY-2.0", "https://example.org/File:Bee.jpg"),
        "castle_0.webp": build.Credit(
            "Dee; changed by Cy and others", "CC-BY-SA-4.0", "https://example.org/File:Castle.jpg"
        ),
        "castle_background.webp": credits["castle_0.webp"],
        "mars.webp": build.Credit("NASA, Eve", "public domain", "https://example.org/File:Mars.jpg"),
        "mill.webp": build.Credit("Flo", "GPLv2+", "https://example.org/File:Mill.jpg"),
    }
    with pytest.raises(ValueError, match=r"names bee\.webp twice"):
        build.read_credits(text + "\nFiles: bee.webp\n")


def encoded(colour, size=(900, 300), mode="RGB"):
    stream = io.BytesIO()
    Image.new(mode, size, colour).save(stream, "PNG")
    return stream.getvalue()


def test_images_are_made_small_but_never_larger():
    for size, wanted in (((900, 300), (768, 256)), ((300, 901), (256, 769)), ((90, 30), (90, 30))):
        with Image.open(io.BytesIO(build.prepare(encoded("red", size)))) as image:
            assert (image.format, image.size) == ("JPEG", wanted)
    assert build.prepare(encoded("red")) == build.prepare(encoded("red"))
    with Image.open(io.BytesIO(build.prepare(encoded((255, 0, 0, 0), mode="RGBA")))) as image:
        assert image.getpixel((5, 5)) == (0, 0, 0)


CREDIT = build.Credit("Ann", "CC0-1.0", "https://example.org/a")


def choice(origin, left_out=""):
    return build.Choice(origin, "animals", "red fish", "fish", left_out)


def test_select_takes_what_is_chosen_and_leaves_out_what_matches():
    images = {"x/a.png": encoded("red"), "x/b.png": encoded("blue"), "x/b_1.png": b"", "x/b_2.png": b""}
    credits = {"x/a.png": CREDIT, "x/b.png": build.Credit("Bob", "public domain", "https://example.org/b")}
    choices = [choice("x/a.png"), choice("x/b_*.png", "is a piece"), choice("x/b.png")]
    taken = build.select(images, credits, choices)
    assert [row.file for row, _ in taken] == [
        "images/animals/red-fish-1.jpg",
        "images/animals/red-fish-2.jpg",
    ]
    assert [row.author for row, _ in taken] == ["Ann", "Bob"]


@pytest.mark.parametrize(
    ("credits", "choices", "message"),
    [
        ({"a": CREDIT}, [choice("a")], "says nothing of b"),
        ({"a": CREDIT}, [choice("a"), choice("c")], "names c, but there is no such image left"),
        ({"a": CREDIT}, [choice("a"), choice("b")], "b has no author and source: None"),
        ({"a": CREDIT, "b": CREDIT}, [choice("a"), choice("b")], "b is a again"),
        ({"a": build.Credit("Ann", "GPLv2+", "x")}, [choice("a"), choice("b", "y")], r"a is under GPLv2\+"),
        ({"a": build.Credit("", "CC0-1.0", "x")}, [choice("a"), choice("b", "y")], "a has no author"),
    ],
)
def test_select_refuses_what_is_not_decided_or_not_free(credits, choices, message):
    images = {"a": encoded("red"), "b": encoded("blue")}
    with pytest.raises(ValueError, match=message):
        build.select(images, credits, choices)


def test_build_names_missing_packages(tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        build.main(["--packages", str(tmp_path), "--output", str(tmp_path)])
    assert stop.value.code == 2
    said = capsys.readouterr().err
    assert "apt-get download gcompris-qt-data=3.1-2" in said
    assert "--platform manylinux_2_28_x86_64 scikit-image==0.26.0" in said
    assert not list(tmp_path.iterdir())
