"""The benchmarks as data: which sets are ID, near OOD, far OOD or covariate-shifted ID, and where they lie.

Folders, list names and counts are OpenOOD v1.5's (arXiv 2306.09301): its ``scripts/download/download.py``, its
``configs/datasets`` and the lists of its ``benchmark_imglist.zip``, of which copies in public repositories were
counted. Four-OOD, the hard pairs, the medical pair and the drift orders follow ``configs/datasets`` of the published
TANL code (YBZh/OpenOOD-VLM). A count that could not be confirmed is None.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

from tanl.io.text import did_you_mean

Role = Literal["id", "near", "far", "covariate"]

_OPENOOD = "OpenOOD's scripts/download/download.py, https://github.com/Jingkang50/OpenOOD"
_IMAGENET = "ILSVRC 2012 validation images, https://image-net.org, with the lists of " + _OPENOOD
_HUANG = "https://github.com/deeplearning-wisc/large_scale_ood"
_DTD = "https://www.robots.ox.ac.uk/~vgg/data/dtd/"


@dataclass(frozen=True)
class Source:
    """One set of images: what lists it, where its files lie, how many they are.

    All paths are relative to the data root.

    Attributes:
        name: of the set, as in results.
        imglists: OpenOOD's lists that make up the set together.
        images: folders that the lists' paths may be relative to; the first that has the files is taken.
        folders: folders that are the whole set, for where a list is missing or its files are; the first that exists.
        class_folders: the folder's sub-folders are the classes, numbered in their sorted order.
        wnids: only these ImageNet-1k classes of the lists, numbered in this order.
        table: a CSV file that lists the set, in place of ``imglists``.
        columns: the table's columns of paths and of labels.
        keep: a column of the table and the value that it must have.
        count: how many images the published set has; None where that is not known.
        where: the page or paper to get it from.
        fetch: the key of a downloader in `tanl.benchmarks.data.download`, if one can fetch it.
        note: what else a reader of results should know.
    """

    name: str
    imglists: tuple[str, ...] = ()
    images: tuple[str, ...] = ()
    folders: tuple[str, ...] = ()
    class_folders: bool = False
    wnids: tuple[str, ...] = ()
    table: str = ""
    columns: tuple[str, str] = ("path", "label")
    keep: tuple[str, str] | None = None
    count: int | None = None
    where: str = ""
    fetch: str | None = None
    note: str = ""


@dataclass(frozen=True)
class Split:
    """One benchmark: an ID set and what it is measured against.

    Attributes:
        name: as given on the command line.
        id: the ID set; None for a package that brings its own, and for a folder that is sorted into sets.
        near: OOD sets whose classes are close to the ID classes.
        far: OOD sets of another nature.
        covariate: ID classes in another guise, added to the ID set in full-spectrum runs.
        class_names: the key of the ID classes' names in `tanl.benchmarks.data.class_names`.
        source: the paper or code that defines it.
        note: what else a reader of results should know.
        drift: the OOD sets come one after another, in this order, into one stream, and the state is kept.
        package: the module of a benchmark that brings its own images.
        few_images: so few that its tables always have intervals.
    """

    name: str
    id: Source | None
    near: tuple[Source, ...] = ()
    far: tuple[Source, ...] = ()
    covariate: tuple[Source, ...] = ()
    class_names: str = ""
    source: str = ""
    note: str = ""
    drift: tuple[str, ...] = ()
    package: str = ""
    few_images: bool = False

    def sets(self) -> Iterator[tuple[Role, Source]]:
        """Each set with its role: ID first, then near, far and covariate."""
        if self.id is not None:
            yield "id", self.id
        roles: tuple[tuple[Role, tuple[Source, ...]], ...] = (
            ("near", self.near),
            ("far", self.far),
            ("covariate", self.covariate),
        )
        for role, sources in roles:
            for source in sources:
                yield role, source


def find_split(name: str) -> Split:
    """The split of that name.

    Raises:
        ValueError: there is none; the message lists what there is.
    """
    try:
        return SPLITS[name]
    except KeyError:
        there = f"there are {', '.join(SPLITS)}{did_you_mean(name, SPLITS)}"
        raise ValueError(f"no split {name!r}; {there}") from None


def describe_splits() -> str:
    """A table of every split: its sets with role, number of images and list or folder, and who defines it."""
    blocks = []
    for split in SPLITS.values():
        lines = [f"{split.name}: {split.source}"]
        lines += [_row(role, source) for role, source in split.sets()]
        if split.drift:
            lines.append(f"  order      {', '.join(split.drift)}")
        if split.package:
            lines.append(f"  images     {split.package}")
        if split.note:
            lines.append(f"  note       {split.note}")
        blocks.append("\n".join(lines))
    return "\n\n".join(blocks)


def place(source: Source) -> str:
    """Where the set's list or folder is looked for, for a person: paths relative to the data root."""
    listed = source.table or " + ".join(source.imglists)
    folders = " or ".join(source.folders)
    if not listed:
        return folders
    images = f" with images in {' or '.join(source.images)}" if source.images else ""
    return listed + images + (f", or all of {folders}" if folders else "")


def wanted(source: Source) -> str:
    """`place`, with how many images the published set has."""
    count = "an unknown number of" if source.count is None else str(source.count)
    return f"{place(source)} ({count} images)"


def _row(role: Role, source: Source) -> str:
    count = "unknown" if source.count is None else _grouped(source.count)
    lists = [imglist.removeprefix("benchmark_imglist/") for imglist in source.imglists]
    listed = " + ".join(lists) or source.table or source.folders[0]
    remarks = (["can be fetched"] if source.fetch else []) + ([source.note] if source.note else [])
    return f"  {role:<9}  {source.name:<12}  {count:>7}  {listed}" + "".join(f"; {text}" for text in remarks)


def _grouped(count: int) -> str:
    return f"{count:,}".replace(",", " ")


def _classic(name: str, imglist: str, count: int | None, **more: str) -> Source:
    return _openood(name, f"benchmark_imglist/{imglist}", "images_classic", count, **more)


def _large(name: str, imglist: str, count: int | None, **more: str) -> Source:
    return _openood(name, f"benchmark_imglist/{imglist}", "images_largescale", count, **more)


def _openood(
    name: str,
    imglist: str,
    images: str,
    count: int | None,
    *,
    folder: str = "",
    where: str = _OPENOOD,
    fetch: str | None = None,
    note: str = "",
) -> Source:
    folders = (folder,) if folder else ()
    return Source(name, (imglist,), (images,), folders, count=count, where=where, fetch=fetch, note=note)


_SSB_HARD = _large(
    "ssb_hard", "imagenet/test_ssb_hard.txt", 49_000, folder="images_largescale/ssb_hard", fetch="ssb_hard"
)
_NINCO = replace(
    _large("ninco", "imagenet/test_ninco.txt", 5_879, fetch="ninco"),
    folders=("images_largescale/ninco", "images_largescale/NINCO/NINCO_OOD_classes"),
    where=_OPENOOD + ", or https://zenodo.org/record/8013288",
)
_INATURALIST = replace(
    _large("inaturalist", "imagenet/test_inaturalist.txt", 10_000, fetch="inaturalist"),
    folders=("images_largescale/inaturalist", "images_largescale/iNaturalist", "iNaturalist"),
    where=_OPENOOD + f", or {_HUANG}",
)
_TEXTURES = _classic(
    "textures",
    "imagenet/test_textures.txt",
    5_160,
    fetch="textures",
    note="DTD without four of its 47 classes",
)
_OPENIMAGE_O = _large("openimage_o", "imagenet/test_openimage_o.txt", 15_869, fetch="openimage_o")

_IMAGENET_TEST = _large("imagenet", "imagenet/test_imagenet.txt", 45_000, where=_IMAGENET)
_IMAGENET_ALL = Source(
    "imagenet-val",
    ("benchmark_imglist/imagenet/test_imagenet.txt", "benchmark_imglist/imagenet/val_imagenet.txt"),
    ("images_largescale",),
    count=50_000,
    where=_IMAGENET,
    note="OpenOOD's test and validation lists together are all of ILSVRC 2012 val",
)

_TEXTURES_ALL = Source(
    "textures-all",
    ("benchmark_imglist/imagenet/test_dtd.txt",),
    ("images_largescale",),
    ("images_largescale/dtd/images", "images_classic/texture", "images_classic/dtd/images", "dtd/images"),
    count=5_640,
    where=_DTD,
    fetch="textures",
    note="all of DTD",
)
_SUN = Source(
    "sun",
    ("benchmark_imglist/imagenet/test_sun.txt",),
    ("images_largescale",),
    ("images_largescale/sun", "images_largescale/SUN", "SUN"),
    count=10_000,
    where=_HUANG,
)
_PLACES = Source(
    "places",
    ("benchmark_imglist/imagenet/test_places.txt",),
    ("images_largescale",),
    ("images_largescale/places", "images_largescale/Places", "Places"),
    count=10_000,
    where=_HUANG,
)
_FOUR = {
    "inaturalist": _INATURALIST,
    "sun": _SUN,
    "places": _PLACES,
    "textures-all": _TEXTURES_ALL,
}

# The classes of MCM's two small ID sets (Ming et al., NeurIPS 2022; deeplearning-wisc/MCM, data/ImageNet10 and
# data/ImageNet20), which the hard pairs are made of.
_IMAGENET_10 = (
    "n04552348",
    "n04285008",
    "n01530575",
    "n02123597",
    "n02422699",
    "n02107574",
    "n01641577",
    "n03417042",
    "n02389026",
    "n03095699",
)
_IMAGENET_20 = (
    "n04147183",
    "n02951358",
    "n02782093",
    "n04389033",
    "n03773504",
    "n02917067",
    "n02317335",
    "n01632458",
    "n01630670",
    "n01631663",
    "n02391049",
    "n01693334",
    "n01697457",
    "n02120079",
    "n02114367",
    "n02132136",
    "n03785016",
    "n04310018",
    "n04266014",
    "n04252077",
)
_PER_CLASS = "50 validation images a class"
_SUBSET_10 = replace(_IMAGENET_ALL, name="imagenet-10", wnids=_IMAGENET_10, count=500, note=_PER_CLASS)
_SUBSET_20 = replace(_IMAGENET_ALL, name="imagenet-20", wnids=_IMAGENET_20, count=1_000, note=_PER_CLASS)
_SUBSET_100 = Source(
    "imagenet-100",
    folders=("images_largescale/ImageNet100/val", "ImageNet100/val"),
    class_folders=True,
    count=5_000,
    where="create_imagenet_subset.py of https://github.com/deeplearning-wisc/MCM, from ILSVRC 2012",
    note=_PER_CLASS + "; its classes are the folders' names",
)
_IMAGENET_O = Source(
    "imagenet-o",
    ("benchmark_imglist/hardood/ood_imagenet_o.txt",),
    ("images_largescale",),
    ("images_largescale/imagenet-o", "imagenet-o"),
    count=2_000,
    where="https://github.com/hendrycks/natural-adv-examples",
    fetch="imagenet_o",
)
_WATERBIRDS = "waterbird_complete90_forest2water2"
_SPURIOUS = "https://github.com/deeplearning-wisc/Spurious_OOD"

_COVID = "benchmark_imglist/covid/"


def _medical(name: str, count: int | None = None, note: str = "") -> Source:
    # OpenOOD's archive unpacks a folder of its name into a folder of its name.
    folders = ("images_medical", f"images_medical/{name}", "covid_images")
    return Source(name, (f"{_COVID}test_{name}.txt",), folders, count=count, where=_OPENOOD, note=note)


_V15 = "OpenOOD v1.5, arXiv 2306.09301"
_TANL_CODE = "configs of the published TANL code, YBZh/OpenOOD-VLM"
_MCM = f"Ming et al., NeurIPS 2022 (MCM), and {_TANL_CODE}"

_CIFAR_FULL = "torchvision's has all 10 000 test images"
_NOT_JPEG = "OpenOOD's are JPEG, torchvision's are not"


def _cifar(
    benchmark: str, other: str, counts: dict[str, int]
) -> tuple[tuple[Source, ...], tuple[Source, ...]]:
    near = (
        _classic(other, f"{benchmark}/test_{other}.txt", counts[other], fetch=other, note=_CIFAR_FULL),
        _classic("tin", f"{benchmark}/test_tin.txt", counts["tin"], fetch="tin"),
    )
    far = (
        _classic("mnist", f"{benchmark}/test_mnist.txt", 70_000, fetch="mnist", note=_NOT_JPEG),
        _classic("svhn", f"{benchmark}/test_svhn.txt", 26_032, fetch="svhn", note=_NOT_JPEG),
        _classic("textures-all", f"{benchmark}/test_texture.txt", 5_640, fetch="textures"),
        _classic("places365", f"{benchmark}/test_places365.txt", counts["places365"], fetch="places365"),
    )
    return near, far


_CIFAR10_NEAR, _CIFAR10_FAR = _cifar(
    "cifar10", "cifar100", {"cifar100": 9_000, "tin": 7_793, "places365": 35_195}
)
_CIFAR100_NEAR, _CIFAR100_FAR = _cifar(
    "cifar100", "cifar10", {"cifar10": 10_000, "tin": 6_526, "places365": 33_773}
)


def _drift(order: tuple[str, ...]) -> Split:
    initials = "".join(name[0] for name in order)
    return Split(
        f"drift-{initials}",
        id=_IMAGENET_ALL,
        far=tuple(_FOUR[name] for name in order),
        class_names="imagenet-1k",
        source=f"temporal drift, imagenet_temshift_{initials} of the {_TANL_CODE}",
        note="the published code gives the order; that the state is kept between the sets is how it is read here",
        drift=order,
    )


_ALL = (
    Split(
        "pictograms",
        id=None,
        source="ships with tanl",
        note="offline; its tracks and counts are in its manifest",
        package="tanl.benchmarks.pictograms",
    ),
    Split(
        "photographs",
        id=None,
        source="ships with tanl",
        note="offline; few images, so read the intervals; its tracks and counts are in its manifest",
        package="tanl.benchmarks.photographs",
        few_images=True,
    ),
    Split(
        "imagenet-folder",
        id=None,
        source="a folder of ImageNet photographs of your own: --data-root FOLDER",
        note="each image's WordNet id is in its path; some classes are ID, the others OOD: random-100, animals, dogs, "
        "artefacts (--tracks)",
    ),
    Split(
        "openood-imagenet-1k",
        id=_IMAGENET_TEST,
        near=(_SSB_HARD, _NINCO),
        far=(_INATURALIST, _TEXTURES, _OPENIMAGE_O),
        covariate=(
            _large("imagenet_v2", "imagenet/test_imagenet_v2.txt", 10_000, fetch="imagenet_v2"),
            _large("imagenet_c", "imagenet/test_imagenet_c.txt", 10_000),
            _large("imagenet_r", "imagenet/test_imagenet_r.txt", 30_000, fetch="imagenet_r"),
        ),
        class_names="imagenet-1k",
        source=_V15,
    ),
    Split(
        "openood-imagenet-200",
        id=_large("imagenet-200", "imagenet200/test_imagenet200.txt", 9_000, where=_IMAGENET),
        near=(_SSB_HARD, _NINCO),
        far=(_INATURALIST, _TEXTURES, _OPENIMAGE_O),
        covariate=(
            _large("imagenet_v2", "imagenet200/test_imagenet200_v2.txt", 2_000, fetch="imagenet_v2"),
            _large(
                "imagenet_c",
                "imagenet200/test_imagenet200_c.txt",
                None,
                note="a copy has about 2 000 lines, not confirmed",
            ),
            _large("imagenet_r", "imagenet200/test_imagenet200_r.txt", 30_000, fetch="imagenet_r"),
        ),
        class_names="imagenet-200",
        source=_V15,
    ),
    Split(
        "openood-cifar-10",
        id=_classic("cifar10", "cifar10/test_cifar10.txt", 9_000, fetch="cifar10", note=_CIFAR_FULL),
        near=_CIFAR10_NEAR,
        far=_CIFAR10_FAR,
        covariate=(_classic("cifar10c", "cifar10/test_cifar10c.txt", 10_000),),
        class_names="cifar-10",
        source=_V15,
        note="v1.5 publishes no full-spectrum results here; cifar10c is the covariate set of its evaluator's table",
    ),
    Split(
        "openood-cifar-100",
        id=_classic("cifar100", "cifar100/test_cifar100.txt", 9_000, fetch="cifar100", note=_CIFAR_FULL),
        near=_CIFAR100_NEAR,
        far=_CIFAR100_FAR,
        covariate=(_classic("cifar100c", "cifar100/test_cifar100c.txt", None),),
        class_names="cifar-100",
        source=_V15,
        note="v1.5 publishes no full-spectrum results here; cifar100c is in its cifar100_fsood configuration",
    ),
    Split(
        "four-ood",
        id=_IMAGENET_ALL,
        far=(_INATURALIST, _SUN, _PLACES, _TEXTURES_ALL),
        class_names="imagenet-1k",
        source=f"Huang and Li, CVPR 2021 (MOS), arXiv 2105.01879, and {_TANL_CODE}",
    ),
    Split("imagenet-10-vs-20", _SUBSET_10, near=(_SUBSET_20,), class_names="imagenet-10", source=_MCM),
    Split("imagenet-20-vs-10", _SUBSET_20, near=(_SUBSET_10,), class_names="imagenet-20", source=_MCM),
    Split("imagenet-10-vs-100", _SUBSET_10, near=(_SUBSET_100,), class_names="imagenet-10", source=_MCM),
    Split("imagenet-100-vs-10", _SUBSET_100, near=(_SUBSET_10,), class_names="imagenet-100", source=_MCM),
    Split(
        "imagenet-1k-vs-o",
        id=_IMAGENET_ALL,
        near=(_IMAGENET_O,),
        class_names="imagenet-1k",
        source=f"Hendrycks et al., CVPR 2021, arXiv 1907.07174, and {_TANL_CODE}",
    ),
    Split(
        "waterbirds",
        id=Source(
            "waterbirds",
            images=(f"images_largescale/{_WATERBIRDS}", _WATERBIRDS),
            table="metadata.csv",
            columns=("img_filename", "y"),
            keep=("split", "2"),
            count=5_794,
            where=f"generate_waterbird.py of {_SPURIOUS}",
            note="the test images; the published runs' own list is not public",
        ),
        near=(
            Source(
                "placesbg",
                ("benchmark_imglist/hardood/ood_placesbg.txt",),
                ("images_largescale",),
                ("images_largescale/placesbg", "ood_datasets/placesbg", "placesbg"),
                where=f"generate_placebg.py of {_SPURIOUS}",
            ),
        ),
        class_names="waterbirds",
        source=f"Ming et al., AAAI 2022, arXiv 2109.05642, and {_TANL_CODE}",
    ),
    Split(
        "bimcv",
        id=_medical("bimcv"),
        near=(_medical("ct"), _medical("xraybone", 200)),
        covariate=(_medical("actmed"), _medical("hannover")),
        class_names="bimcv",
        source=f"BIMCV-COVID19+ as in OpenOOD and the {_TANL_CODE}",
        note="OpenOOD's earlier configuration also has MNIST, CIFAR-10, Textures and Tiny ImageNet as far OOD",
    ),
    _drift(("sun", "places", "textures-all", "inaturalist")),
    _drift(("places", "textures-all", "inaturalist", "sun")),
    _drift(("textures-all", "inaturalist", "sun", "places")),
)

SPLITS: dict[str, Split] = {split.name: split for split in _ALL}
"""Every split, by the name it has on the command line."""
