"""The benchmarks' table: each split's row, its names of classes, and its printed form."""

import pytest

from tanl.benchmarks.data.class_names import class_names
from tanl.benchmarks.data.download import _ARCHIVES
from tanl.benchmarks.data.image_sets import ImageSet
from tanl.benchmarks.data.imagenet import imagenet_index
from tanl.benchmarks.data.imglist import inside
from tanl.benchmarks.data.splits import SPLITS, describe_splits, find_split, place
from tanl.benchmarks.data.torchvision_sets import TORCHVISION
from tanl.benchmarks.engine.shipped import SHIPPED

ALL = [(split, role, source) for split in SPLITS.values() for role, source in split.sets()]

_V15_LARGE = {
    "ssb_hard": 49_000,
    "ninco": 5_879,
    "inaturalist": 10_000,
    "textures": 5_160,
    "openimage_o": 15_869,
}
_FOUR = {"inaturalist": 10_000, "sun": 10_000, "places": 10_000, "textures-all": 5_640}
PUBLISHED = {
    "pictograms": ({}, {}, {}),
    "photographs": ({}, {}, {}),
    "imagenet-folder": ({}, {}, {}),
    "openood-imagenet-1k": (
        {"imagenet": 45_000},
        _V15_LARGE,
        {"imagenet_v2": 10_000, "imagenet_c": 10_000, "imagenet_r": 30_000},
    ),
    "openood-imagenet-200": (
        {"imagenet-200": 9_000},
        _V15_LARGE,
        {"imagenet_v2": 2_000, "imagenet_c": None, "imagenet_r": 30_000},
    ),
    "openood-cifar-10": (
        {"cifar10": 9_000},
        {
            "cifar100": 9_000,
            "tin": 7_793,
            "mnist": 70_000,
            "svhn": 26_032,
            "textures-all": 5_640,
            "places365": 35_195,
        },
        {"cifar10c": 10_000},
    ),
    "openood-cifar-100": (
        {"cifar100": 9_000},
        {
            "cifar10": 10_000,
            "tin": 6_526,
            "mnist": 70_000,
            "svhn": 26_032,
            "textures-all": 5_640,
            "places365": 33_773,
        },
        {"cifar100c": None},
    ),
    "four-ood": ({"imagenet-val": 50_000}, _FOUR, {}),
    "imagenet-10-vs-20": ({"imagenet-10": 500}, {"imagenet-20": 1_000}, {}),
    "imagenet-20-vs-10": ({"imagenet-20": 1_000}, {"imagenet-10": 500}, {}),
    "imagenet-10-vs-100": ({"imagenet-10": 500}, {"imagenet-100": 5_000}, {}),
    "imagenet-100-vs-10": ({"imagenet-100": 5_000}, {"imagenet-10": 500}, {}),
    "imagenet-1k-vs-o": ({"imagenet-val": 50_000}, {"imagenet-o": 2_000}, {}),
    "waterbirds": ({"waterbirds": 5_794}, {"placesbg": None}, {}),
    "bimcv": ({"bimcv": None}, {"ct": None, "xraybone": 200}, {"actmed": None, "hannover": None}),
    "drift-spti": ({"imagenet-val": 50_000}, _FOUR, {}),
    "drift-ptis": ({"imagenet-val": 50_000}, _FOUR, {}),
    "drift-tisp": ({"imagenet-val": 50_000}, _FOUR, {}),
}


def test_every_split_has_a_published_row():
    assert list(SPLITS) == list(PUBLISHED)


@pytest.mark.parametrize("name", SPLITS)
def test_split_has_the_published_sets_and_counts(name):
    split = find_split(name)
    identity, ood, covariate = PUBLISHED[name]
    assert {source.name: source.count for role, source in split.sets() if role == "id"} == identity
    assert {source.name: source.count for role, source in split.sets() if role in ("near", "far")} == ood
    assert {source.name: source.count for role, source in split.sets() if role == "covariate"} == covariate
    assert split.source


@pytest.mark.parametrize(
    ("name", "near", "far"),
    [
        ("openood-imagenet-1k", ["ssb_hard", "ninco"], ["inaturalist", "textures", "openimage_o"]),
        ("openood-imagenet-200", ["ssb_hard", "ninco"], ["inaturalist", "textures", "openimage_o"]),
        ("openood-cifar-10", ["cifar100", "tin"], ["mnist", "svhn", "textures-all", "places365"]),
        ("openood-cifar-100", ["cifar10", "tin"], ["mnist", "svhn", "textures-all", "places365"]),
        ("four-ood", [], ["inaturalist", "sun", "places", "textures-all"]),
        ("bimcv", ["ct", "xraybone"], []),
    ],
)
def test_split_near_and_far(name, near, far):
    split = SPLITS[name]
    assert [source.name for source in split.near] == near
    assert [source.name for source in split.far] == far


@pytest.mark.parametrize(("split", "role", "source"), ALL, ids=[f"{s.name}-{x.name}" for s, _, x in ALL])
def test_source_can_be_looked_for_and_got(split, role, source):
    assert source.imglists or source.folders or source.table
    assert source.where
    assert place(source)
    for path in (*source.imglists, *source.images, *source.folders):
        assert inside(path) == path
    assert all(imglist.startswith("benchmark_imglist/") for imglist in source.imglists)
    assert not source.imglists or source.images
    assert source.fetch is None or source.fetch in {*TORCHVISION, *_ARCHIVES}
    # Only a list, a table or folders a class can tell an ID set's classes.
    assert role not in ("id", "covariate") or source.imglists or source.table or source.class_folders


@pytest.mark.parametrize("name", SPLITS)
def test_split_sets_are_named_once(name):
    names = [source.name for _, source in SPLITS[name].sets()]
    assert len(names) == len(set(names))


@pytest.mark.parametrize("name", [name for name in SPLITS if name.startswith("drift-")])
def test_drift_order_is_that_of_the_sets_and_of_the_name(name):
    split = SPLITS[name]
    assert split.drift == tuple(source.name for source in split.far)
    assert name == "drift-" + "".join(source.name[0] for source in split.far)


def test_hard_pairs_share_no_class():
    ten, twenty = SPLITS["imagenet-10-vs-20"].id.wnids, SPLITS["imagenet-20-vs-10"].id.wnids
    assert (len(set(ten)), len(set(twenty))) == (10, 20)
    assert not set(ten) & set(twenty)


def test_find_split_names_what_there_is():
    with pytest.raises(
        ValueError,
        match="no split 'imagenet'; there are pictograms, photographs, imagenet-folder, openood-imagenet-1k",
    ):
        find_split("imagenet")


def test_describe_splits_has_every_set_and_says_what_is_unknown():
    blocks = describe_splits().split("\n\n")
    assert len(blocks) == len(SPLITS)
    for split, block in zip(SPLITS.values(), blocks, strict=True):
        lines = block.splitlines()
        assert lines[0] == f"{split.name}: {split.source}"
        rows = [line.split()[:2] for line in lines[1:]]
        assert [[role, source.name] for role, source in split.sets()] == rows[: len(list(split.sets()))]
    assert (
        "49 000  imagenet/test_ssb_hard.txt; can be fetched"
        in blocks[list(SPLITS).index("openood-imagenet-1k")]
    )
    assert "unknown  hardood/ood_placesbg.txt" in "\n".join(blocks)


@pytest.mark.parametrize(
    ("key", "count", "some"),
    [
        (
            "imagenet-1k",
            1000,
            {0: "tench", 134: "crane bird", 657: "missile", 744: "projectile", 836: "sunglass"},
        ),
        ("imagenet-200", 200, {0: "goldfish", 77: "cheetah", 199: "acorn"}),
        ("imagenet-10", 10, {3: "Siamese cat", 9: "container ship"}),
        ("imagenet-20", 20, {10: "zebra", 15: "brown bear"}),
        ("cifar-10", 10, {0: "airplane", 9: "truck"}),
        ("cifar-100", 100, {1: "aquarium fish", 64: "possum", 99: "worm"}),
        ("waterbirds", 2, {0: "landbird", 1: "waterbird"}),
        ("bimcv", 2, {0: "normal chest X-ray"}),
    ],
)
def test_class_names(key, count, some):
    names = class_names(key)
    assert len(names) == len(set(names)) == count
    assert {index: names[index] for index in some} == some


def test_every_split_but_those_that_ship_and_one_has_class_names_of_its_own():
    asking = {
        split.name
        for split in SPLITS.values()
        if split.class_names != "imagenet-100" and split.id is not None
    }
    assert set(SPLITS) - asking == {*SHIPPED, "imagenet-folder", "imagenet-100-vs-10"}
    for name in asking:
        assert class_names(SPLITS[name].class_names)


def test_class_names_of_cifar_are_in_alphabetical_order():
    for key in ("cifar-10", "cifar-100"):
        assert class_names(key) == sorted(class_names(key))


def listed(tmp_path, *files_and_labels):
    files, labels = zip(*files_and_labels, strict=True)
    return ImageSet("imagenet-100", tmp_path, files, labels)


def test_class_names_from_the_ids_in_the_paths(tmp_path):
    images = listed(
        tmp_path, ("n02391049/a.JPEG", 1), ("n01440764/b.JPEG", 0), ("val/n02391049/n02391049_1.JPEG", 1)
    )
    assert class_names("imagenet-100", images=images) == ["tench", "zebra"]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([("a.JPEG", 0)], "the class of a.JPEG cannot be told from its path"),
        ([("n02391049/a.JPEG", 0), ("n01440764/b.JPEG", 0)], "the class of n01440764/b.JPEG cannot be told"),
        ([("n02391049/a.JPEG", 1)], "there are classes without images"),
        ([("n99999999/a.JPEG", 0)], "'n99999999' is no class of ImageNet-1k"),
    ],
)
def test_class_names_refuses_paths_that_do_not_tell(tmp_path, rows, message):
    with pytest.raises(ValueError, match=message):
        class_names("imagenet-100", images=listed(tmp_path, *rows))


def test_class_names_needs_the_set_where_the_paths_tell():
    with pytest.raises(ValueError, match="open it first, or give --class-names"):
        class_names("imagenet-100")


def test_class_names_unknown_key():
    with pytest.raises(ValueError, match="no class names 'cub'; give a file"):
        class_names("cub")


def test_class_names_file_goes_before_all_else(tmp_path):
    file = tmp_path / "names.txt"
    file.write_text("# mine\n\n great auk \nchair\n", encoding="utf-8-sig")
    assert class_names("cifar-10", file=file) == ["great auk", "chair"]


def test_imagenet_index():
    assert [imagenet_index(wnid) for wnid in ("n01440764", "n02391049", "n15075141")] == [0, 340, 999]
    with pytest.raises(ValueError, match="'n00000000' is no class of ImageNet-1k"):
        imagenet_index("n00000000")
