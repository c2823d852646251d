"""The pictograms: their images and manifest, their tracks, and how they were made."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import normalize

from tanl.benchmarks.data.image_cache import cached_image_embeddings
from tanl.benchmarks.data.shipped import MANIFEST, read_image_bytes
from tanl.benchmarks.engine.runner import run
from tanl.benchmarks.engine.shipped import SHIPPED
from tanl.benchmarks.engine.tasks import Config
from tanl.benchmarks.pictograms import extreme, manifest
from tanl.benchmarks.pictograms.tracks import TRACKS
from tools import pictograms as build
from tools.mini.pictograms import Concept, Pictogram, is_unseen

ROWS = manifest.read_manifest()
WORDS = [f"word {letter}{number}" for letter in "abcdefgh" for number in range(10)]


class RandomBackbone:
    """Projects shrunken images at random, and gives each text a direction of its own."""

    name = "random"
    fingerprint = "random projection"
    logit_scale = 20.0
    image_size = 8
    device = torch.device("cpu")

    def __init__(self) -> None:
        self.encoded = 0
        self._matrix = torch.randn(3 * 8 * 8, 16, generator=torch.Generator().manual_seed(0))

    def preprocess(self, image: Image.Image) -> Tensor:
        pixels = np.asarray(image.resize((8, 8)), dtype=np.float32) / 255 - 0.5
        return torch.from_numpy(pixels).permute(2, 0, 1)

    def encode_images(self, pixels: Tensor) -> Tensor:
        self.encoded += len(pixels)
        return normalize(pixels.flatten(1) @ self._matrix, dim=1)

    def encode_texts(self, texts: Sequence[str], *, batch_size: int = 256) -> Tensor:
        seeds = [int.from_bytes(hashlib.sha256(text.encode()).digest()[:6], "big") for text in texts]
        rows = [torch.randn(16, generator=torch.Generator().manual_seed(seed)) for seed in seeds]
        return normalize(torch.stack(rows), dim=1)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with up to 6 images of each set and coarse class, and a list of words."""
    folder = tmp_path_factory.mktemp("pictograms")
    taken: Counter[tuple[str, str]] = Counter()
    rows = []
    for row in ROWS:
        taken[row.set, row.coarse] += 1
        if taken[row.set, row.coarse] <= 6:
            (folder / row.file).parent.mkdir(parents=True, exist_ok=True)
            (folder / row.file).write_bytes((manifest.FOLDER / row.file).read_bytes())
            rows.append(row)
    manifest.write_manifest(rows, folder)
    (folder / "words.txt").write_text("\n".join(WORDS) + "\n", encoding="utf-8")
    return folder


def test_every_image_is_there_and_is_the_manifests() -> None:
    assert len(ROWS) >= 3000
    for row in ROWS:
        read_image_bytes(manifest.FOLDER, row)
    files = {path.relative_to(manifest.FOLDER).as_posix() for path in manifest.FOLDER.glob("images/*/*")}
    assert files == {row.file for row in ROWS}


def test_images_are_square_lossless_webp_with_something_on_them() -> None:
    for row in ROWS[::50]:
        with Image.open(manifest.FOLDER / row.file) as image:
            assert (image.format, image.size, image.mode) == ("WEBP", (build.SIZE, build.SIZE), "RGB")
            assert not build.is_blank(image)


def test_labels_are_ascii_and_one_concept_has_one_label() -> None:
    labels: dict[str, str] = {}
    for row in ROWS:
        assert row.label.isascii()
        assert row.label == row.label.strip() != ""
        assert labels.setdefault(row.concept, row.label) == row.label
    assert max(Counter(labels.values()).values()) == 1


def test_manifest_says_what_the_rules_say() -> None:
    for row in ROWS:
        assert row.split == ("unseen" if is_unseen(row.concept) else "seen")
        assert row.set == manifest.set_of(row.group, row.subgroup)
        assert row.coarse == manifest.coarse_of(row.subgroup)
        assert row.vendor in ("openmoji", "emojione")
        assert row.file.endswith(f"/{row.concept}.webp")
    assert {row.coarse for row in ROWS} - {""} == set(manifest.COARSE_CLASSES)


def test_no_drawing_comes_twice_from_one_package() -> None:
    drawings = Counter((row.file.split("/")[1], row.sha256) for row in ROWS)
    assert max(drawings.values()) == 1


def test_licences_lie_beside_the_images() -> None:
    text = (manifest.FOLDER / "LICENSES.md").read_text(encoding="utf-8")
    for name in {row.file.split("/")[1] for row in ROWS}:
        assert f"`images/{name}`" in text
    for licence in ("CC-BY-4.0", "CC-BY-SA-4.0"):
        assert f"{licence}.txt" in text
        assert "Creative Commons" in (manifest.FOLDER / f"{licence}.txt").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", list(TRACKS))
def test_track_has_id_and_ood_images_that_do_not_meet(name: str) -> None:
    chosen = TRACKS[name].select(ROWS)
    assert len(chosen.images) == len(chosen.targets) >= 200
    assert set(chosen.targets) == set(range(len(chosen.classes)))
    outside = [index for _, members in chosen.ood.values() for index in members]
    assert len(set(chosen.images) | set(outside)) == len(chosen.images) + len(outside)
    assert {kind for kind, _ in chosen.ood.values()} == {"near", "far"}
    for index in chosen.images + outside:
        assert ROWS[index].split == "seen"
        assert ROWS[index].set != "animal-faces"
    if name.startswith("coarse"):
        assert len(chosen.classes) == int(name.removeprefix("coarse-"))
        assert {ROWS[index].coarse for index in chosen.images} == set(chosen.classes)
    else:
        assert {ROWS[index].set for index in chosen.images} == {name}


def test_track_without_images_is_refused() -> None:
    rows = [row for row in ROWS if row.set != "food"]
    with pytest.raises(ValueError, match="no images for the track 'food'"):
        TRACKS["food"].select(rows)


@pytest.mark.parametrize("name", list(extreme.EXTREME_SETS))
def test_extreme_sets_follow_their_seed(name: str) -> None:
    make = extreme.EXTREME_SETS[name]
    images = make(17, 0)
    assert [(image.size, image.mode) for image in images] == [((extreme.SIZE,) * 2, "RGB")] * 17
    assert len({image.tobytes() for image in images}) == 17
    assert extreme.fingerprint(images) == extreme.fingerprint(make(17, 0))
    assert extreme.fingerprint(images) != extreme.fingerprint(make(17, 1))


def test_images_are_encoded_once_and_shared_by_the_tracks(small: Path, tmp_path: Path) -> None:
    backbone = RandomBackbone()
    counts = []
    for number in range(2):
        config = Config(tracks=("food", "coarse-10"), methods=("MaxLogit",), corpus=str(small / "words.txt"))
        run(
            config,
            tmp_path / f"run {number}",
            backbone=backbone,
            folder=small,
            extreme_images=0,
            cache_dir=tmp_path / "cache",
        )
        counts.append(backbone.encoded)
    noise = 15
    assert counts == [len(manifest.read_manifest(small)) + noise, counts[0] + noise]


def test_changed_image_is_refused(small: Path, tmp_path: Path) -> None:
    row = manifest.read_manifest(small)[0]
    (tmp_path / row.file).parent.mkdir(parents=True)
    (tmp_path / row.file).write_bytes((small / row.file).read_bytes() + b"x")
    manifest.write_manifest([row], tmp_path)
    with pytest.raises(ValueError, match=rf"{row.file} has the SHA-256 \w+, not the manifest's"):
        SHIPPED["pictograms"].embeddings(
            RandomBackbone(), [row], folder=tmp_path, cache_dir=tmp_path / "cache"
        )


@pytest.mark.parametrize(
    ("text", "message"), [("file,label\n", "has the columns"), (None, "lists no images")]
)
def test_manifest_refused(tmp_path: Path, text: str | None, message: str) -> None:
    if text is None:
        manifest.write_manifest([], tmp_path)
    else:
        (tmp_path / MANIFEST).write_text(text, encoding="ascii")
    with pytest.raises(ValueError, match=message):
        manifest.read_manifest(tmp_path)


def test_damaged_image_cache_is_computed_again(tmp_path: Path) -> None:
    backbone = RandomBackbone()

    def images() -> Iterator[Image.Image]:
        yield from extreme.digits(70)

    def embed() -> Tensor:
        return cached_image_embeddings(backbone, images, count=70, fingerprint="x", cache_dir=tmp_path)

    first = embed()
    path = next(tmp_path.glob("images/*.safetensors"))
    path.write_bytes(b"not safetensors")
    with pytest.warns(UserWarning, match="cannot be used"):
        assert torch.equal(embed(), first)
    encoded = backbone.encoded
    assert torch.equal(embed(), first)
    assert backbone.encoded == encoded == 140


def test_cache_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "images").write_text("a file where the folder should be", encoding="ascii")
    with pytest.warns(UserWarning, match="could not be kept"):
        embeddings = cached_image_embeddings(
            RandomBackbone(), lambda: extreme.digits(3), count=3, fingerprint="x", cache_dir=tmp_path
        )
    assert embeddings.shape == (3, 16)


def test_build_leaves_out_blanks_and_repeats(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train = next(package for package in build.PICTOGRAM_PACKAGES if package.role == "train")
    test = next(package for package in build.PICTOGRAM_PACKAGES if package.role == "test")
    seen = [f"{code:x}" for code in range(0x1F400, 0x1F500) if not is_unseen(f"{code:x}")]
    unseen = next(f"{code:x}" for code in range(0x1F400, 0x1F500) if is_unseen(f"{code:x}"))

    def concept(code: str, name: str) -> Concept:
        return Concept(code, name, (), "animals-nature", "animal-bird")

    drawings = [
        (train, concept(seen[0], "r\u00e9d bird"), "red"),
        (train, concept(unseen, "new bird"), "red"),
        (test, concept(seen[0], "r\u00e9d bird"), "red"),
        (test, concept(seen[0], "r\u00e9d bird"), "blue"),
        (test, concept(seen[1], "ghost"), "white"),
        (test, concept(seen[2], "twin"), "red"),
        (test, concept(unseen, "new bird"), "green"),
    ]
    pictures = [Pictogram(concept, package, svg=colour) for package, concept, colour in drawings]
    monkeypatch.setattr(build, "find", lambda folder, packages: {})
    monkeypatch.setattr(build, "unpack", lambda archives, folder: {})
    monkeypatch.setattr(build, "read_pictograms", lambda folder: pictures)
    monkeypatch.setattr(
        build, "render", lambda picture, size: Image.new("RGBA", (size, size), str(picture.svg))
    )

    left_out = build.build(tmp_path, tmp_path)
    assert [line.partition(": ")[2] for line in left_out] == [
        "another drawing of the same concept (r\u00e9d bird)",
        "nothing to see on white (ghost)",
        "twin is drawn exactly as r\u00e9d bird",
    ]
    rows = manifest.read_manifest(tmp_path)
    assert {(row.label, row.split, row.set, row.coarse) for row in rows} == {
        ("red bird", "seen", "animals", "bird"),
        ("new bird", "unseen", "animals", "bird"),
    }
    assert [read_image_bytes(tmp_path, row)[:4] for row in rows] == [b"RIFF"] * 2
    before = (tmp_path / MANIFEST).read_bytes()
    build.build(tmp_path, tmp_path)
    assert (tmp_path / MANIFEST).read_bytes() == before


def test_build_names_missing_packages(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        build.main(["--packages", str(tmp_path), "--output", str(tmp_path)])
    assert stop.value.code == 2
    assert "npm pack @iconify-json/openmoji@1.2.29" in capsys.readouterr().err


def test_transparent_drawings_are_laid_on_white() -> None:
    clear = Image.new("RGBA", (8, 8), (255, 0, 0, 0))
    assert build.on_white(clear).getcolors() == [(64, (255, 255, 255))]
    assert build.is_blank(build.on_white(clear))
    assert not build.is_blank(build.on_white(Image.new("RGBA", (8, 8), (255, 255, 0, 255))))
