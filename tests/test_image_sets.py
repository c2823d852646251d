"""Sets of images as they lie on disk: found, counted, opened, embedded once; and fetched only when asked to."""

import os
import sys
import types
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from colour_backbone import COLOURS, ColourBackbone, paint
from PIL import Image, ImageFile

from tanl.benchmarks.data import download
from tanl.benchmarks.data.download import fetch, fetch_imglists, fetch_split
from tanl.benchmarks.data.image_sets import ImageSet, encode_image_set, read_as_stored
from tanl.benchmarks.data.sources import custom_set, data_root, open_source
from tanl.benchmarks.data.splits import SPLITS, Source, Split
from tanl.benchmarks.data.torchvision_sets import torchvision_set
from tanl.io.images import UnreadableImage

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")

SIZE = (48, 32)


def noise(size=SIZE, seed=0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (*size[::-1], 3), dtype=np.uint8))


def put(path: Path, image: Image.Image | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    (image or Image.new("RGB", (4, 4), (200, 10, 10))).save(path)
    return path


def cut(path: Path, share=0.6) -> Path:
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    return path


def listing(root: Path, imglist: str, *lines: str) -> Path:
    path = root / imglist
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines))
    return path


def toy(**more) -> Source:
    given = {"imglists": ("benchmark_imglist/toy/test_toy.txt",), "images": ("images_classic",)}
    return Source("toy", **{**given, "where": "https://example.org/toy", **more})


@pytest.fixture
def root(tmp_path):
    """OpenOOD's layout with three images of two classes, listed."""
    for name in ("a.png", "b.png", "c.jpg"):
        put(tmp_path / "images_classic" / "toy" / name)
    listing(tmp_path, "benchmark_imglist/toy/test_toy.txt", "toy/c.jpg 1", "toy/a.png 0", "toy/b.png 1")
    return tmp_path


def test_data_root_given_then_environment_then_here(monkeypatch):
    monkeypatch.delenv("TANL_DATA", raising=False)
    assert data_root() == Path("data")
    monkeypatch.setenv("TANL_DATA", "/from/environment")
    assert data_root() == Path("/from/environment")
    assert data_root("given") == Path("given")


def test_open_source_follows_the_list(root):
    images = open_source(toy(count=3), root, ood=False)
    assert images.files == ("toy/c.jpg", "toy/a.png", "toy/b.png")
    assert images.labels == (1, 0, 1)
    assert (len(images), images.expected, images.mismatch) == (3, 3, None)
    assert images.path(1) == root / "images_classic/toy/a.png"
    assert images.open(1).getpixel((0, 0)) == (200, 10, 10)
    assert "toy" in repr(images)


def test_open_source_takes_the_data_root_from_the_environment(root, monkeypatch):
    monkeypatch.setenv("TANL_DATA", str(root))
    assert len(open_source(toy(), ood=False)) == 3


def test_open_source_as_ood_makes_every_label_minus_one(root):
    assert open_source(toy(), root, ood=True).labels == (-1, -1, -1)


def test_open_source_id_refuses_ood_labels(root):
    listing(root, "benchmark_imglist/toy/test_toy.txt", "toy/a.png 0", "toy/b.png -1")
    with pytest.raises(ValueError, match="toy is the ID set, but its list has OOD labels"):
        open_source(toy(), root, ood=False)


def test_open_source_prints_a_count_that_is_not_the_published_one(root):
    images = open_source(toy(count=4), root, ood=True)
    assert images.mismatch == "toy: 3 images, but the published set has 4"
    assert open_source(toy(count=None), root, ood=True).mismatch is None


def test_open_source_joins_lists(root):
    listing(root, "benchmark_imglist/toy/val_toy.txt", "toy/a.png 0")
    both = toy(imglists=("benchmark_imglist/toy/test_toy.txt", "benchmark_imglist/toy/val_toy.txt"))
    assert open_source(both, root, ood=False).labels == (1, 0, 1, 0)


def test_open_source_takes_the_first_folder_that_has_the_files(root):
    (root / "elsewhere").mkdir()
    source = toy(images=("absent", "elsewhere", "images_classic"))
    assert open_source(source, root, ood=False).base == root / "images_classic"


def test_open_source_follows_links_to_another_disk(root, tmp_path_factory):
    disk = tmp_path_factory.mktemp("disk")
    (root / "images_classic").rename(disk / "images_classic")
    (root / "images_classic").symlink_to(disk / "images_classic")
    assert open_source(toy(), root, ood=False).open(0).size == (4, 4)


def test_open_source_keeps_the_classes_of_a_subset_in_its_order(root):
    listing(
        root,
        "benchmark_imglist/toy/test_toy.txt",
        "toy/a.png 340",
        "toy/b.png 0",
        "toy/c.jpg 1",
        "toy/a.png 0",
    )
    subset = toy(wnids=("n02391049", "n01440764"), count=3)
    images = open_source(subset, root, ood=False)
    assert images.files == ("toy/a.png", "toy/b.png", "toy/a.png")
    assert images.labels == (0, 1, 1)
    with pytest.raises(ValueError, match="no image of the classes of toy"):
        open_source(toy(wnids=("n15075141",)), root, ood=False)


@pytest.mark.parametrize("lists", [True, False], ids=["list without its images", "no list"])
def test_open_source_takes_a_whole_folder_where_the_listed_files_are_not(tmp_path, lists):
    if lists:
        listing(tmp_path, "benchmark_imglist/toy/test_toy.txt", "toy/gone.png -1")
    put(tmp_path / "images_classic/other/deep/b.png")
    put(tmp_path / "images_classic/other/a.png")
    (tmp_path / "images_classic/other/readme.txt").write_text("no image")
    images = open_source(toy(folders=("nowhere", "images_classic/other"), count=2), tmp_path, ood=True)
    assert images.files == ("a.png", "deep/b.png")
    assert images.labels == (-1, -1)
    assert images.mismatch is None


def test_open_source_passes_over_an_empty_folder(tmp_path):
    (tmp_path / "empty").mkdir()
    put(tmp_path / "full/a.png")
    source = toy(folders=("empty", "full"))
    assert open_source(source, tmp_path, ood=True).base == tmp_path / "full"
    with pytest.raises(FileNotFoundError, match="the set toy is not in"):
        open_source(toy(folders=("empty",)), tmp_path, ood=True)


def test_open_source_class_folders(tmp_path):
    for name in ("n02/x.png", "n01/y.png", "n02/z.png"):
        put(tmp_path / "images" / name)
    images = open_source(Source("toy", folders=("images",), class_folders=True), tmp_path, ood=False)
    assert (images.files, images.labels) == (("n01/y.png", "n02/x.png", "n02/z.png"), (0, 1, 1))


def birds(root: Path, *rows: str) -> Source:
    put(root / "birds/1/a b.png")
    put(root / "birds/2/b.png")
    (root / "birds/metadata.csv").write_text("\n".join(("img_id,img_filename,y,split", *rows)) + "\n")
    return Source(
        "birds", images=("birds",), table="metadata.csv", columns=("img_filename", "y"), keep=("split", "2")
    )


def test_open_source_reads_the_rows_of_a_table(tmp_path):
    images = open_source(
        birds(tmp_path, "1,1/a b.png,1,2", "2,2/b.png,0,0", "3,2/b.png,0,2"), tmp_path, ood=False
    )
    assert (images.files, images.labels) == (("1/a b.png", "2/b.png"), (1, 0))


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("1,../a.png,1,2", "leaves the images' folder"),
        ("1,,1,2", "line 2: no path"),
        ("1,a.png,duck,2", "the label 'duck' is neither a number"),
        ("1,a.png,1,0", "lists no images"),
    ],
)
def test_open_source_refuses_a_table(tmp_path, row, message):
    with pytest.raises(ValueError, match=message):
        open_source(birds(tmp_path, row), tmp_path, ood=False)


def test_open_source_refuses_a_table_without_its_columns(tmp_path):
    source = birds(tmp_path, "1,a.png,1,2")
    with pytest.raises(ValueError, match="has no column 'group'; it has img_id, img_filename, y, split"):
        open_source(replace(source, keep=("group", "2")), tmp_path, ood=False)


def test_open_source_absent_says_where_how_many_and_where_from(tmp_path):
    source = toy(count=49_000, folders=("images_classic/toy",), fetch="ninco")
    with pytest.raises(FileNotFoundError) as caught:
        open_source(source, tmp_path, ood=True)
    for part in (
        f"the set toy is not in {tmp_path}",
        "benchmark_imglist/toy/test_toy.txt with images in images_classic, or all of images_classic/toy",
        "(49000 images)",
        "https://example.org/toy",
        "--download",
        "TANL_DATA",
    ):
        assert part in str(caught.value)
    with pytest.raises(FileNotFoundError, match="an unknown number of images") as caught:
        open_source(toy(), tmp_path, ood=True)
    assert "--download" not in str(caught.value)


@pytest.mark.parametrize("name", [name for name in SPLITS if name != "pictograms"])
def test_open_source_absent_every_split(tmp_path, name):
    for role, source in SPLITS[name].sets():
        with pytest.raises(FileNotFoundError, match=f"the set {source.name} is not in"):
            open_source(source, tmp_path, ood=role in ("near", "far"))


def test_open_source_refuses_an_escaping_list(root):
    listing(root, "benchmark_imglist/toy/test_toy.txt", "toy/a.png 0", "../../secret.png 0")
    with pytest.raises(ValueError, match=r"test_toy.txt, line 2: the path '../../secret.png' leaves"):
        open_source(toy(), root, ood=False)


@pytest.mark.parametrize(("suffix", "blank"), [(".jpg", 128), (".png", 0), (".bmp", 0)])
def test_read_as_stored_reads_what_is_there_of_a_truncated_file(tmp_path, suffix, blank):
    whole = put(tmp_path / f"whole{suffix}", noise((48, 128)))
    part = put(tmp_path / f"part{suffix}", noise((48, 128)))
    expected = np.asarray(read_as_stored(whole))
    cut(part)
    with Image.open(part) as image, pytest.raises(OSError):
        image.load()
    before = ImageFile.LOAD_TRUNCATED_IMAGES
    pixels = np.asarray(read_as_stored(part))
    assert ImageFile.LOAD_TRUNCATED_IMAGES is before
    assert pixels.shape == expected.shape == (128, 48, 3)
    # A BMP is stored from the bottom up.
    there, gone = (slice(-30, None), slice(0, 20)) if suffix == ".bmp" else (slice(0, 30), slice(-20, None))
    np.testing.assert_array_equal(pixels[there], expected[there])
    assert (pixels[gone] == blank).all()


@pytest.mark.parametrize("switch", [False, True])
def test_read_as_stored_leaves_pillows_switch_as_it_was(tmp_path, monkeypatch, switch):
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", switch)
    text = tmp_path / "text.png"
    text.write_text("not an image")
    with pytest.raises(UnreadableImage):
        read_as_stored(text)
    read_as_stored(cut(put(tmp_path / "a.png", noise())))
    assert ImageFile.LOAD_TRUNCATED_IMAGES is switch


def test_read_as_stored_applies_no_orientation_and_drops_transparency(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    noise((48, 32)).save(tmp_path / "turned.jpg", exif=exif)
    assert read_as_stored(tmp_path / "turned.jpg").size == (48, 32)
    Image.new("RGBA", (2, 2), (10, 20, 30, 0)).save(tmp_path / "clear.png")
    assert read_as_stored(tmp_path / "clear.png").getpixel((0, 0)) == (10, 20, 30)


@pytest.mark.parametrize(
    ("content", "reason"),
    [(None, "no such file"), (b"", "the file is empty"), (b"not an image", "cannot identify image file")],
)
def test_read_as_stored_unreadable(tmp_path, content, reason):
    path = tmp_path / "a.png"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UnreadableImage, match=reason) as caught:
        read_as_stored(path)
    assert caught.value.path == path


def test_image_set_refuses_labels_of_another_number(tmp_path):
    with pytest.raises(ValueError, match="toy: 2 images, but 1 labels"):
        ImageSet("toy", tmp_path, ("a.png", "b.png"), (0,))


@pytest.mark.parametrize("count", [1, 5, 63])
@pytest.mark.parametrize("workers", [1, 3, None])
def test_images_come_in_order_and_unreadable_ones_in_their_place(tmp_path, count, workers):
    files = tuple(f"{number}.png" for number in range(count))
    for number, file in enumerate(files):
        if number % 4:
            put(tmp_path / file, Image.new("RGB", (2, 2), (number, 0, 0)))
    images = ImageSet("toy", tmp_path, files, (0,) * count)
    seen = list(images.images(lambda image: image.getpixel((0, 0))[0], workers=workers))
    assert [index for index, _ in seen] == list(range(count))
    for index, result in seen:
        assert isinstance(result, UnreadableImage) if index % 4 == 0 else result == index


def test_images_refuses_no_workers(root):
    with pytest.raises(ValueError, match="workers must be at least 1, got 0"):
        list(open_source(toy(), root, ood=False).images(lambda image: image, workers=0))


def test_subset(root):
    images = open_source(toy(count=3), root, ood=False)
    chosen = images.subset([2, 0])
    assert (chosen.files, chosen.labels, chosen.mismatch) == (("toy/b.png", "toy/c.jpg"), (1, 1), None)


def test_fingerprint_is_of_names_sizes_and_labels_and_not_of_the_place(root, tmp_path_factory):
    images = open_source(toy(), root, ood=False)
    other = tmp_path_factory.mktemp("copy")
    for file in images.files:
        target = other / file
        target.parent.mkdir(exist_ok=True)
        target.write_bytes(images.path(images.files.index(file)).read_bytes())
    copy = replace(images, base=other)
    assert copy.fingerprint == images.fingerprint
    assert copy.pixels_fingerprint != images.pixels_fingerprint
    relabelled = replace(images, labels=(0, 0, 1))
    assert relabelled.fingerprint != images.fingerprint
    assert relabelled.pixels_fingerprint == images.pixels_fingerprint
    assert images.subset([1, 0, 2]).fingerprint != images.fingerprint
    assert replace(images, as_stored=False).pixels_fingerprint != images.pixels_fingerprint
    images.path(0).write_bytes(images.path(0).read_bytes() + b"\0")
    assert open_source(toy(), root, ood=False).fingerprint != images.fingerprint


class Counting(ColourBackbone):
    """Counts the images that it encodes."""

    def __init__(self) -> None:
        self.seen = 0

    def encode_images(self, pixels):
        self.seen += len(pixels)
        return super().encode_images(pixels)


def painted(folder: Path, count: int, missing: tuple[int, ...] = ()) -> ImageSet:
    colours = list(COLOURS)
    files = tuple(f"{number:03d}.png" for number in range(count))
    for number, file in enumerate(files):
        if number not in missing:
            paint(folder / file, colours[number % len(colours)])
    return ImageSet("painted", folder, files, tuple(number % len(colours) for number in range(count)))


@pytest.mark.parametrize(
    ("count", "missing"), [(1, ()), (5, (0,)), (65, (3, 64)), (130, tuple(range(64, 128)))]
)
def test_encode_image_set_once_and_without_the_unreadable(tmp_path, count, missing):
    images = painted(tmp_path / "images", count, missing)
    backbone = Counting()
    for _ in range(2):
        encoded = encode_image_set(backbone, images, cache_dir=tmp_path / "cache", workers=2)
        readable = [number for number in range(count) if number not in missing]
        assert backbone.seen == len(readable)
        assert encoded.labels.tolist() == [number % len(COLOURS) for number in readable]
        assert encoded.unreadable == tuple(f"{number:03d}.png" for number in missing)
        expected = torch.stack([backbone.preprocess(images.open(number)) for number in readable])
        torch.testing.assert_close(encoded.embeddings, ColourBackbone().encode_images(expected))
    assert (encoded.warning("painted") is None) == (not missing)


def test_encoded_set_names_the_first_unreadable(tmp_path):
    images = painted(tmp_path / "images", 10, missing=tuple(range(7)))
    encoded = encode_image_set(ColourBackbone(), images, cache_dir=tmp_path)
    assert encoded.warning("ninco") == (
        "ninco: 7 images could not be read: 000.png, 001.png, 002.png, 003.png, 004.png and 2 more"
    )


def test_encode_image_set_again_when_a_file_has_changed(tmp_path):
    images = painted(tmp_path / "images", 3)
    backbone = Counting()
    encode_image_set(backbone, images, cache_dir=tmp_path)
    paint(images.path(1), "white")
    encode_image_set(backbone, replace(images), cache_dir=tmp_path)
    assert backbone.seen == 6


def test_encode_image_set_of_the_same_files_under_another_name(tmp_path):
    images = painted(tmp_path / "images", 3)
    backbone = Counting()
    encode_image_set(backbone, images, cache_dir=tmp_path)
    encode_image_set(backbone, replace(images, name="b", labels=(-1,) * 3), cache_dir=tmp_path)
    assert backbone.seen == 3


def test_encode_image_set_refuses_a_set_without_readable_images(tmp_path):
    images = ImageSet("gone", tmp_path, ("a.png", "b.png"), (-1, -1))
    with pytest.raises(ValueError, match=r"gone: none of its 2 images can be read, the first being .*a.png"):
        encode_image_set(ColourBackbone(), images, cache_dir=tmp_path)


def test_custom_set_folder_is_recursive_and_sorted(tmp_path):
    for name in ("b.png", "a/z.png", "a/y.jpg", ".hidden/x.png"):
        put(tmp_path / "photos" / name)
    images = custom_set(tmp_path / "photos", ood=True)
    assert (images.name, images.files, images.labels) == (
        "photos",
        ("a/y.jpg", "a/z.png", "b.png"),
        (-1, -1, -1),
    )
    assert not images.as_stored
    assert custom_set(tmp_path / "photos", ood=True, name="mine").name == "mine"


def test_custom_set_single_file(tmp_path):
    images = custom_set(put(tmp_path / "a.png"), ood=False)
    assert (images.name, images.files, images.labels, images.classed) == ("a", ("a.png",), (0,), False)


@pytest.mark.parametrize(
    ("classes", "labels", "classed"),
    [
        (["zebra", "Great Auk"], (1, 0, 0), True),
        (["zebra", "dodo"], (0, 0, 0), False),
        (None, (0, 0, 0), False),
    ],
)
def test_custom_set_id_folder_takes_classes_from_sub_folders(tmp_path, classes, labels, classed):
    for name in ("great_auk/1.png", "zebra/1.png", "zebra/deep/2.png"):
        put(tmp_path / name)
    images = custom_set(tmp_path, ood=False, classes=classes)
    assert (images.labels, images.classed) == (labels, classed)


def test_custom_set_id_folder_with_a_loose_image_has_no_classes(tmp_path):
    put(tmp_path / "zebra/1.png")
    put(tmp_path / "2.png")
    assert not custom_set(tmp_path, ood=False, classes=["zebra"]).classed


def test_custom_set_reads_upright(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    noise((48, 32)).save(tmp_path / "turned.jpg", exif=exif)
    assert custom_set(tmp_path, ood=True).open(0).size == (32, 48)


def table(tmp_path, *lines: str) -> Path:
    path = tmp_path / "set.csv"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8-sig")
    return path


def test_custom_set_csv(tmp_path):
    far = put(tmp_path / "far/b.png")
    put(tmp_path / "near, by/a.png")
    rows = ('"near, by/a.png",Zebra', f"{far},0")
    images = custom_set(table(tmp_path, "path,label", *rows), ood=False, classes=["tench", "zebra"])
    assert (images.name, images.labels, images.classed) == ("set", (1, 0), True)
    assert [images.open(index).size for index in range(2)] == [(4, 4), (4, 4)]
    assert custom_set(tmp_path / "set.csv", ood=True).labels == (-1, -1)


def test_custom_set_csv_without_labels(tmp_path):
    images = custom_set(table(tmp_path, "path", "a.png", "b.png"), ood=False)
    assert (images.files, images.labels, images.classed) == (("a.png", "b.png"), (0, 0), False)


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["file,label", "a.png,0"], "has no column 'path'; it has file, label"),
        (["path,label"], "lists no images"),
        (["path,label", ",0"], "line 2: no path"),
        (["path,label", "a.png,horse"], "'horse' is neither a number nor a class: tench, zebra"),
        (["path,label", "a.png,2"], "the label 2 is not a class of the ID set"),
        (["path,label", "a.png,-1"], "the label -1 is not a class of the ID set"),
        (["path,label", "a.png,0", "b.png,"], "the label '' is neither"),
    ],
)
def test_custom_set_csv_refuses(tmp_path, lines, message):
    with pytest.raises(ValueError, match=message):
        custom_set(table(tmp_path, *lines), ood=False, classes=["tench", "zebra"])


def test_custom_set_absent_or_empty(tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no file or directory"):
        custom_set(tmp_path / "nowhere", ood=True)
    with pytest.raises(ValueError, match="there are no images in or below"):
        custom_set(tmp_path, ood=True)


class FakeTorchvision:
    """Stands for torchvision's sets: 3 images a part, there once they were downloaded."""

    def __init__(self, root, *, download, train=None, split=None):
        marker = Path(root, type(self).__name__)
        if download:
            marker.touch()
        if not marker.exists():
            raise RuntimeError("Dataset not found or corrupted.")
        self.shade = 100 if train else 200
        self.targets = torch.tensor([2, 0, 1])

    def __len__(self):
        return 3

    def __getitem__(self, index):
        return Image.new("L", (28, 28), self.shade + index), int(self.targets[index])


@pytest.fixture
def fake_torchvision(monkeypatch):
    import torchvision.datasets

    for name, _ in download.TORCHVISION.values():
        monkeypatch.setattr(torchvision.datasets, name, type(name, (FakeTorchvision,), {}))


def test_fetch_torchvision_joins_its_parts(tmp_path, fake_torchvision):
    source = toy(fetch="mnist", count=6)
    with pytest.raises(FileNotFoundError):
        open_source(source, tmp_path, ood=True)
    assert not (tmp_path / "torchvision").exists()
    assert fetch(source, tmp_path) == tmp_path / "torchvision"
    images = open_source(source, tmp_path, ood=False)
    assert (images.name, images.labels, images.mismatch) == ("toy", (2, 0, 1, 2, 0, 1), None)
    shades = [images.open(index).getpixel((0, 0)) for index in range(6)]
    assert shades == [(shade,) * 3 for shade in (100, 101, 102, 200, 201, 202)]
    assert images.subset([5, 0]).open(0).getpixel((0, 0)) == (202, 202, 202)
    encoded = encode_image_set(ColourBackbone(), images, cache_dir=tmp_path)
    assert (len(encoded.embeddings), encoded.unreadable) == (6, ())


def test_listed_files_go_before_torchvisions(root, fake_torchvision):
    source = toy(fetch="svhn")
    fetch(source, root)
    assert open_source(source, root, ood=True).base == root / "images_classic"


def test_torchvision_set_absent(tmp_path, fake_torchvision):
    assert torchvision_set("svhn", tmp_path) is None
    (tmp_path / "torchvision").mkdir()
    assert torchvision_set("svhn", tmp_path) is None


@pytest.fixture
def fake_pytorch_ood(monkeypatch):
    """Stands for pytorch-ood: writes down each download, and unpacks one image."""
    downloads: list[tuple[str, str]] = []

    class Base:
        base_folder = "data"

        def __init__(self, root, *, download=False, **arguments):
            assert download
            downloads.append((type(self).__name__, root))
            put(Path(root, self.base_folder, "one.png"))

    folders = {
        "iNaturalist": "iNaturalist/images",
        "OpenImagesO": "OpenImagesO/images",
        "SSBHard": "other",
        "ImageNetV2": "other",
        "Places365": "other",
        "NINCO": "NINCO/NINCO_OOD_classes",
        "ImageNetR": "imagenet-r",
        "ImageNetO": "imagenet-o",
        "Textures": "dtd/images/",
        "TinyImageNet": "tiny-imagenet-200",
    }
    images = types.ModuleType("pytorch_ood.dataset.img")
    for name, folder in folders.items():
        setattr(images, name, type(name, (Base,), {"base_folder": folder}))
    for name in ("pytorch_ood", "pytorch_ood.dataset", "gdown"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    monkeypatch.setitem(sys.modules, "pytorch_ood.dataset.img", images)
    return downloads


@pytest.mark.parametrize(
    ("key", "file"),
    [
        ("inaturalist", "images_largescale/inaturalist/images/one.png"),
        ("openimage_o", "images_largescale/openimage_o/images/one.png"),
        ("ssb_hard", "images_largescale/ssb_hard/one.png"),
        ("imagenet_v2", "images_largescale/imagenet_v2/one.png"),
        ("places365", "images_classic/places365/one.png"),
        ("ninco", "images_largescale/NINCO/NINCO_OOD_classes/one.png"),
        ("imagenet_r", "images_largescale/imagenet_r/one.png"),
        ("imagenet_o", "images_largescale/imagenet-o/one.png"),
        ("textures", "images_classic/texture/one.png"),
        ("tin", "images_classic/tin/one.png"),
    ],
)
def test_fetch_lays_a_set_where_the_lists_name_it(tmp_path, fake_pytorch_ood, key, file):
    assert set(download._ARCHIVES) >= {key}
    folder = fetch(toy(fetch=key), tmp_path)
    assert (tmp_path / file).is_file()
    assert folder in (tmp_path / file).parents
    fetch(toy(fetch=key), tmp_path)
    assert len(fake_pytorch_ood) == 1


def test_fetch_fills_an_empty_folder(tmp_path, fake_pytorch_ood):
    (tmp_path / "images_classic/texture").mkdir(parents=True)
    fetch(toy(fetch="textures"), tmp_path)
    assert (tmp_path / "images_classic/texture/one.png").is_file()


def test_fetch_imglists(tmp_path, fake_pytorch_ood):
    assert fetch_imglists(tmp_path) == tmp_path / "benchmark_imglist"
    assert fake_pytorch_ood == [("iNaturalist", str(tmp_path))]


def test_fetch_refuses_what_no_downloader_has(tmp_path):
    with pytest.raises(ValueError) as caught:
        fetch(toy(count=63), tmp_path)
    assert "the set toy cannot be fetched: get it from https://example.org/toy and put it at" in str(
        caught.value
    )
    assert f"(63 images) in {tmp_path}" in str(caught.value)


def test_fetch_failing_says_where_to_get_the_set(tmp_path, fake_pytorch_ood, monkeypatch):
    def fail(self, root, **arguments):
        raise RuntimeError("File not found or corrupted.")

    monkeypatch.setattr(sys.modules["pytorch_ood.dataset.img"].NINCO, "__init__", fail, raising=False)
    with pytest.raises(
        OSError,
        match=r"could not be fetched: File not found.* Get it from https://example.org/toy .*\(63 images\) in",
    ):
        fetch(toy(fetch="ninco", count=63), tmp_path)


@pytest.mark.parametrize(
    ("absent", "key"),
    [("gdown", "ssb_hard"), ("pytorch_ood.dataset.img", "ninco"), ("torchvision.datasets", "svhn")],
)
def test_fetch_without_its_package_names_the_extra(tmp_path, fake_pytorch_ood, monkeypatch, absent, key):
    monkeypatch.setitem(sys.modules, absent, None)
    with pytest.raises(ImportError, match=r"pip install 'tanl\[bench\]'"):
        fetch(toy(fetch=key), tmp_path)
    assert not fake_pytorch_ood


def test_fetch_with_an_older_pytorch_ood_names_the_version(tmp_path, fake_pytorch_ood, monkeypatch):
    monkeypatch.delattr(sys.modules["pytorch_ood.dataset.img"], "SSBHard")
    with pytest.raises(ImportError, match=r"pytorch-ood 0\.3 or later and gdown"):
        fetch(toy(fetch="ssb_hard"), tmp_path)


def test_fetch_split_gets_what_is_missing_and_tells_the_rest(root, fake_pytorch_ood):
    gone = Source("gone", folders=("gone",), where="https://example.org/gone")
    inaturalist = Source("inaturalist", folders=("images_largescale/inaturalist",), fetch="inaturalist")
    split = Split("toy", id=toy(), far=(inaturalist, gone))
    messages = fetch_split(split, root)
    assert fake_pytorch_ood == [("iNaturalist", str(root / "images_largescale"))]
    assert len(messages) == 1
    assert "the set gone cannot be fetched: get it from https://example.org/gone" in messages[0]
    assert len(open_source(inaturalist, root, ood=True)) == 1


def test_fetch_split_gets_the_lists_first(tmp_path, fake_pytorch_ood):
    messages = fetch_split(Split("toy", id=toy()), tmp_path)
    assert fake_pytorch_ood == [("iNaturalist", str(tmp_path))]
    assert len(messages) == 1


def test_the_archives_set_attributes_that_pytorch_ood_has():
    images = pytest.importorskip("pytorch_ood.dataset.img")
    for archive in (*download._ARCHIVES.values(), download._IMGLISTS):
        dataset = getattr(images, archive.dataset)
        assert all(hasattr(dataset, name) for name in archive.attributes)
        assert hasattr(dataset, "gdrive_id") == archive.google
        if archive.unpacked and hasattr(dataset, "base_folder"):
            assert dataset.base_folder.rstrip("/") == archive.unpacked


def test_torchvision_has_the_sets_and_their_parts():
    import inspect

    import torchvision.datasets

    for name, parts in download.TORCHVISION.values():
        known = inspect.signature(getattr(torchvision.datasets, name)).parameters
        assert all({"download", *part} <= set(known) for part in parts)


def test_a_set_with_a_folder_that_cannot_be_listed_is_refused(tmp_path, monkeypatch):
    paint(tmp_path / "set" / "red" / "a.png", "red")
    (tmp_path / "set" / "lost+found").mkdir()
    scandir = os.scandir

    def refuse(path):
        if Path(path).name == "lost+found":
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(
        PermissionError, match=r"a part of .*set cannot be read: Permission denied: .*lost\+found"
    ):
        custom_set(tmp_path / "set", ood=True)


def test_a_set_of_ones_own_tells_what_it_passed_over(tmp_path):
    paint(tmp_path / "set" / "red" / "a.png", "red")
    (tmp_path / "set" / "green").symlink_to(tmp_path / "set" / "red", target_is_directory=True)
    (tmp_path / "set" / "a.mp4").touch()
    with pytest.warns(UserWarning, match=r"set: passed over 1 \.mp4 file, 1 linked folder$"):
        assert len(custom_set(tmp_path / "set", ood=True)) == 1
