"""What a run measures on: the sets of images of a split or of one's own, embedded."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from tanl.backbones import Backbone
from tanl.io.arguments import a_name_or_path
from tanl.io.options import BATCH_SIZE, check_settings, setting
from tanl.io.text import did_you_mean
from tanl.labels.label_files import read_labels
from tanl.labels.terms import REMOVALS

from ..data import augment
from ..data.class_names import class_names
from ..data.download import fetch_split
from ..data.image_cache import cached_image_embeddings
from ..data.image_sets import ImageSet, encode_image_set
from ..data.imagenet_folder import CLASS_TRACKS, IMAGENET_FOLDER, ClassTrack, open_imagenet_folder
from ..data.imglist import OOD_LABEL
from ..data.preprocessing import PREPROCESSINGS
from ..data.shipped import Selection, ShippedSplit, Track, fingerprint, open_image
from ..data.sources import custom_set, data_root, open_source
from ..data.splits import find_split
from ..pictograms import extreme
from ..pictograms.extreme import EXTREME_IMAGES
from .methods import DEFAULT, METHODS, find_methods
from .protocol import ORDERS
from .shipped import SHIPPED

CUSTOM = "custom"
_LIMIT_SEED = 0
_SHOTS_SEED = 0
_AUGMENTATION_SEED = 0
# Variants are embedded and kept in parts, so that a longer stream finds what a shorter one has made.
_VARIANTS_AT_ONCE = 1024


PUBLISHED: Mapping[str, str | int] = MappingProxyType(
    {"corpus": "neglabel", "removal": "names", "preprocessing": "published", "batch_size": 256}
)
"""What NegLabel, AdaNeg and TANL were measured with, where this library's own defaults differ; prompts do not."""


@dataclass(frozen=True)
class Config:
    """What is run, with the options of `tanl bench run`.

    What it says decides the results; where images lie and how they are read is no part of it. Images of one's own
    are the split "custom". Without ``tracks`` or ``only_ood`` all are measured; without ``limit`` or
    ``stream_length`` the sets are taken as they are.
    """

    split: str = setting("pictograms", "what to measure on; `tanl bench list` has all", metavar="NAME")
    backbone: str = setting("mini", "model to measure with", metavar="NAME")
    corpus: str = setting("wordnet", "negative labels", metavar="NAME")
    removal: str = setting(
        "synonyms",
        "which of them leave for the ID labels, see tanl bank --help",
        choices=sorted(REMOVALS),
    )
    preprocessing: str = setting(
        "own",
        "of images: the model's own, or the published evaluation's, resized to 256 and cropped to 224",
        choices=sorted(PREPROCESSINGS),
    )
    methods: tuple[str, ...] = setting(
        DEFAULT,
        "some of those below (default: all but those that say otherwise in tanl bench list)",
        names=("--methods", "--method"),
        metavar="NAMES",
        gather=find_methods,
    )
    seeds: tuple[int, ...] = setting(
        (0,),
        "of the stream's order and of methods that keep a state",
        names=("--seeds", "--seed"),
        metavar="N",
        at_least=0,
    )
    orders: tuple[str, ...] = setting(
        ("shuffled",), f"of the stream: {', '.join(ORDERS)}", names=("--orders", "--order"), metavar="NAMES"
    )
    batch_size: int = setting(BATCH_SIZE, "images that are judged at a time", metavar="N", at_least=1)
    limit: int | None = setting(None, "at most N images of a set, for a quick look", metavar="N", at_least=2)
    stream_length: int | None = setting(
        None,
        "bring shorter streams to N images by seeded augmentation; results say so",
        metavar="N",
        at_least=2,
    )
    shots: int = setting(
        0,
        "ID images a class that are set aside for the methods that choose by ID images; no stream has them, whatever "
        "the method",
        metavar="N",
        at_least=0,
    )
    full_spectrum: bool = setting(False, "add the covariate-shifted sets to the ID images")
    tracks: tuple[str, ...] = setting((), "some of the split's ID sets (default: all)", metavar="NAMES")
    id: str | None = setting(
        None,
        "ID images of your own: a folder, or a CSV file that lists them",
        metavar="PATH",
        parse=a_name_or_path,
    )
    ood: tuple[str, ...] = setting(
        (), "OOD images of your own, a set each; with --id", metavar="PATH", parse=a_name_or_path
    )
    labels: str | None = setting(
        None,
        "class names (text, .json, .csv, .yaml; see tanl judge --help): needed with --id, else in place of the "
        "split's own",
        names=("--labels", "--class-names"),
        metavar="FILE",
        parse=a_name_or_path,
    )
    only_ood: tuple[str, ...] | None = setting(
        None, "some of the split's OOD sets; results say so (default: all)", metavar="NAMES"
    )

    def __post_init__(self) -> None:
        if self.split == CUSTOM:
            if self.id is None or not self.ood or self.labels is None:
                raise ValueError("images of one's own take --id, --ood and --labels")
        else:
            find_split(self.split)
            if self.id is not None or self.ood:
                raise ValueError(f"--id and --ood name images of one's own; leave out --split {self.split}")
        _check_names("method", self.methods, METHODS)
        _check_names("order", self.orders, ORDERS)
        tracks = tracks_of(self.split)
        if self.tracks:
            _check_names("track", self.tracks, tracks)
        if self.labels is not None and tracks:
            raise ValueError(f"{self.split} has class names of its own; leave --labels out")
        if self.only_ood is not None:
            self._check_only_ood(self.only_ood)
        check_settings(self)
        if self.full_spectrum and (self.split == CUSTOM or not find_split(self.split).covariate):
            raise ValueError(f"{self.split} has no covariate-shifted sets; leave --full-spectrum out")
        if self.full_spectrum and self.stream_length is not None:
            raise ValueError("--full-spectrum and --stream-length do not go together")

    def _check_only_ood(self, names: tuple[str, ...]) -> None:
        if self.split == CUSTOM:
            raise ValueError("--ood says which OOD sets of one's own are measured; leave --only-ood out")
        split = find_split(self.split)
        if split.drift:
            raise ValueError(f"{self.split} is one stream of all its OOD sets; leave --only-ood out")
        tracks = tracks_of(self.split)
        if tracks:
            known = [name for track in self.tracks or tracks for name in tracks[track].ood]
            known += SHIPPED[self.split].generated if self.split in SHIPPED else ()
        else:
            known = [source.name for role, source in split.sets() if role in ("near", "far")]
        _check_names("OOD set", names, dict.fromkeys(known))

    @property
    def is_published(self) -> bool:
        """Whether words, preprocessing and batches are those of the papers."""
        return all(getattr(self, name) == value for name, value in PUBLISHED.items())

    def takes(self, ood: str) -> bool:
        """Whether an OOD set of the split is measured."""
        return self.only_ood is None or ood in self.only_ood

    def record(self) -> dict[str, Any]:
        """As results keep it."""
        return {**asdict(self), "augmented": self.stream_length is not None}


@dataclass(frozen=True)
class Part:
    """One set of readable images with their embeddings ``[n, D]``.

    Attributes:
        role: "id", "covariate", "near", "far", "extreme" or "ood".
        images: opens each image, for methods that take more than its embedding.
        embeddings: in the same order.
        originals: how many images are the set's own; those after them are variants.
        fingerprint: tells the set's images from others; the same on every machine.
        pixels: tells what variants are made from.
        paths: of the images' files, for results; None where they are no files.
        unreadable: files of the set that could not be read.
    """

    role: str
    images: ImageSet
    embeddings: Tensor
    originals: int
    fingerprint: str
    pixels: str
    paths: tuple[str, ...] | None
    unreadable: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """Of the set, as in results."""
        return self.images.name

    def entry(self, track: str) -> dict[str, Any]:
        """As a run keeps it."""
        return {
            "name": self.name,
            "role": self.role,
            "track": track,
            "count": len(self.images),
            "originals": self.originals,
            "expected": self.images.expected,
            "unreadable": list(self.unreadable),
            "fingerprint": self.fingerprint,
        }


@dataclass(frozen=True)
class Task:
    """One ID set with its classes and its OOD sets.

    Attributes:
        track: its name where a run has several, else empty.
        classes: the ID labels.
        id: the ID set, followed by the covariate-shifted sets of a full-spectrum run.
        ood: the OOD sets.
        one_stream: the OOD sets come one after another, each with the ID images, and the state is kept.
        stream_length: of `Config`.
        shots: embeddings ``[n, D]`` of the ID images that are set aside; None for none.
        shot_labels: the class of each.
    """

    track: str
    classes: tuple[str, ...]
    id: tuple[Part, ...]
    ood: tuple[Part, ...]
    one_stream: bool = False
    stream_length: int | None = None
    shots: Tensor | None = None
    shot_labels: tuple[str, ...] = ()

    def counts(self, ood: Part) -> tuple[int, int]:
        """How many ID and OOD images the stream with an OOD set has; of either kind the first are taken."""
        own = sum(part.originals for part in self.id), ood.originals
        return own if self.stream_length is None else stream_counts(*own, self.stream_length)

    def chains(self) -> list[tuple[Part, ...]]:
        """The OOD sets whose streams share one state, in their order."""
        return [self.ood] if self.one_stream else [(part,) for part in self.ood]


def stream_counts(num_id: int, num_ood: int, length: int) -> tuple[int, int]:
    """How many ID and OOD images make a stream of ``length`` in the same proportion; never fewer than there are."""
    wanted = max(num_id, round(length * num_id / (num_id + num_ood)))
    return wanted, max(num_ood, length - wanted)


@dataclass(frozen=True)
class Gathering:
    """How images are come by; none of it changes results.

    Attributes:
        backbone: what embeds them.
        root: the data root of splits that do not ship with tanl.
        folder: where the images of one that does are; None is where they came.
        extreme_images: how many images each generated set of such a split has; 0 for none.
        cache_dir: where embeddings are kept; None is the user's cache folder.
        download: fetch what is missing of a split.
        workers: threads that read images.
        progress: show progress bars.
        say: is told what a person should know.
    """

    backbone: Backbone
    root: Path | None = None
    folder: Path | None = None
    extreme_images: int = EXTREME_IMAGES
    cache_dir: Path | None = None
    download: bool = False
    workers: int | None = None
    progress: bool = False
    say: Callable[[str], None] = lambda message: None

    def tasks(self, config: Config) -> list[Task]:
        """The sets of images that a configuration names, embedded.

        Raises:
            FileNotFoundError: a set is not there; the message says where it was looked for and where to get it.
            ValueError: a set without readable images, class names that cannot be told, or a changed image of a split
                that ships.
        """
        if config.split == CUSTOM:
            tasks = [self._own(config)]
        elif (shipped := SHIPPED.get(config.split)) is not None:
            tasks = self._shipped(shipped, config)
        elif config.split == IMAGENET_FOLDER:
            tasks = self._imagenet_folder(config)
        else:
            tasks = [self._split(config)]
        if config.shots:
            tasks = [_with_shots(task, config.shots) for task in tasks]
        if config.stream_length is None:
            return tasks
        return [self._lengthened(task, config.stream_length) for task in tasks]

    def _split(self, config: Config) -> Task:
        split = find_split(config.split)
        # What is not measured is neither fetched nor looked for.
        split = replace(
            split,
            near=tuple(source for source in split.near if config.takes(source.name)),
            far=tuple(source for source in split.far if config.takes(source.name)),
            covariate=split.covariate if config.full_spectrum else (),
        )
        root = data_root(self.root)
        if self.download:
            for message in fetch_split(split, root):
                self.say(message)
        # All are found before the first is embedded, which may take hours.
        found = [
            (role, open_source(source, root, ood=role in ("near", "far"))) for role, source in split.sets()
        ]
        classes = class_names(split.class_names, file=config.labels, images=found[0][1])
        parts = [self._embedded(role, images, config.limit) for role, images in found]
        return Task(
            "",
            tuple(classes),
            tuple(part for part in parts if part.role in ("id", "covariate")),
            tuple(part for part in parts if part.role in ("near", "far")),
            one_stream=bool(split.drift),
            stream_length=config.stream_length,
        )

    def _own(self, config: Config) -> Task:
        assert config.id is not None and config.labels is not None, "Config has checked them"
        classes = read_labels(config.labels)
        given = [config.id, *config.ood]
        names = [Path(path).name for path in given]
        # Folders of one name are told apart by their whole paths.
        named = [None] * len(given) if len(set(names)) == len(names) else given
        found = [
            custom_set(path, name=name, ood=number > 0, classes=classes)
            for number, (path, name) in enumerate(zip(given, named, strict=True))
        ]
        if len({images.name for images in found}) < len(found):
            raise ValueError(f"two sets have the same name: {', '.join(images.name for images in found)}")
        parts = [
            self._embedded("ood" if number else "id", images, config.limit)
            for number, images in enumerate(found)
        ]
        return Task("", tuple(classes), (parts[0],), tuple(parts[1:]), stream_length=config.stream_length)

    def _shipped(self, split: ShippedSplit, config: Config) -> list[Task]:
        folder = self.folder or split.folder
        rows = split.read(folder)
        every = split.embeddings(
            self.backbone, rows, folder=folder, cache_dir=self.cache_dir, progress=self.progress
        )

        def part(name: str, role: str, members: Sequence[int], labels: Sequence[int]) -> Part:
            places = _chosen(len(members), config.limit)
            chosen = [rows[members[place]] for place in places]
            files = tuple(row.file for row in chosen)
            images = ImageSet(
                name,
                folder,
                files,
                tuple(labels[place] for place in places),
                decode=lambda index: open_image(folder, chosen[index]),
            )
            key = fingerprint(chosen)
            vectors = every[[members[place] for place in places]]
            return Part(role, images, vectors, len(images), key, key, files)

        extremes = [part for part in self._generated(split, folder, config.limit) if config.takes(part.name)]
        chosen = {name: split.tracks[name].select(rows) for name in config.tracks or split.tracks}
        return _tracked(config, chosen, part, extremes)

    def _imagenet_folder(self, config: Config) -> list[Task]:
        every = self._embedded("id", open_imagenet_folder(data_root(self.root)), None)
        found = every.images

        def part(name: str, role: str, members: Sequence[int], labels: Sequence[int]) -> Part:
            places = _chosen(len(members), config.limit)
            taken = [members[place] for place in places]
            images = replace(found.subset(taken), name=name, labels=tuple(labels[place] for place in places))
            return Part(
                role,
                images,
                every.embeddings[taken],
                len(images),
                images.fingerprint,
                images.pixels_fingerprint,
                tuple(str(images.path(index).absolute()) for index in range(len(images))),
            )

        names = config.tracks or tuple(CLASS_TRACKS)
        chosen = {name: CLASS_TRACKS[name].select(found.labels) for name in names}
        return _tracked(config, chosen, part, [])

    def _generated(self, split: ShippedSplit, folder: Path, limit: int | None) -> list[Part]:
        parts = []
        for name, make in split.generated.items() if self.extreme_images else ():
            pictures = make(self.extreme_images, 0)
            pictures = [pictures[place] for place in _chosen(len(pictures), limit)]
            key = extreme.fingerprint(pictures)
            vectors = cached_image_embeddings(
                self.backbone,
                partial(iter, pictures),
                count=len(pictures),
                fingerprint=key,
                cache_dir=self.cache_dir,
            )
            files = tuple(f"{name}/{number}" for number in range(len(pictures)))
            labels = (OOD_LABEL,) * len(pictures)
            images = ImageSet(name, folder, files, labels, decode=pictures.__getitem__)
            parts.append(Part("extreme", images, vectors, len(pictures), key, key, None))
        return parts

    def _embedded(self, role: str, images: ImageSet, limit: int | None) -> Part:
        if images.mismatch is not None:
            self.say(images.mismatch)
        if limit is not None and limit < len(images):
            images = images.subset(_chosen(len(images), limit))
        encoded = encode_image_set(
            self.backbone, images, cache_dir=self.cache_dir, progress=self.progress, workers=self.workers
        )
        warning = encoded.warning(images.name)
        if warning is not None:
            self.say(warning)
            lost = set(encoded.unreadable)
            expected = images.expected
            kept = [index for index, file in enumerate(images.files) if file not in lost]
            images = replace(images.subset(kept), expected=expected)
        paths = None
        if images.decode is None:
            paths = tuple(str(images.path(index).absolute()) for index in range(len(images)))
        return Part(
            role,
            images,
            encoded.embeddings,
            len(images),
            images.fingerprint,
            images.pixels_fingerprint,
            paths,
            encoded.unreadable,
        )

    def _lengthened(self, task: Task, length: int) -> Task:
        counts = [task.counts(part) for part in task.ood]
        (id_part,) = task.id
        ood = [
            self._with_variants(part, num_ood) for part, (_, num_ood) in zip(task.ood, counts, strict=True)
        ]
        return replace(
            task,
            id=(self._with_variants(id_part, max(num_id for num_id, _ in counts)),),
            ood=tuple(ood),
            stream_length=length,
        )

    def _with_variants(self, part: Part, count: int) -> Part:
        own = part.originals
        if count == own:
            return part
        source = part.images
        longer = augment.Augmented(source.open, own, count, _AUGMENTATION_SEED)
        key = augment.fingerprint(part.pixels, _AUGMENTATION_SEED)
        rows = [part.embeddings]
        for start in range(own, count, _VARIANTS_AT_ONCE):
            stop = min(count, start + _VARIANTS_AT_ONCE)
            files = tuple(f"{key}/{index}" for index in range(start, stop))
            variants = ImageSet(
                f"variants of {part.name}",
                source.base,
                files,
                (0,) * len(files),
                decode=partial(_shifted, longer, start),
            )
            rows.append(
                encode_image_set(
                    self.backbone,
                    variants,
                    cache_dir=self.cache_dir,
                    progress=self.progress,
                    workers=self.workers,
                ).embeddings
            )
        originals = [index % own for index in range(count)]
        images = replace(source.subset(originals), decode=longer.__getitem__, expected=None)
        return replace(
            part,
            images=images,
            embeddings=torch.cat(rows),
            paths=None if part.paths is None else tuple(part.paths[index] for index in originals),
        )


def tracks_of(split: str) -> Mapping[str, Track | ClassTrack]:
    """The tracks of a split, by name; none for most of them."""
    if split == IMAGENET_FOLDER:
        return CLASS_TRACKS
    return SHIPPED[split].tracks if split in SHIPPED else {}


def _tracked(
    config: Config,
    chosen: Mapping[str, Selection],
    part: Callable[[str, str, Sequence[int], Sequence[int]], Part],
    extremes: Sequence[Part],
) -> list[Task]:
    """A task for each track: what was selected for it, and the extreme OOD sets of all."""
    tasks = []
    for name, selected in chosen.items():
        ood = [
            part(title, kind, members, [OOD_LABEL] * len(members))
            for title, (kind, members) in selected.ood.items()
            if config.takes(title)
        ]
        if not ood and not extremes:
            raise ValueError(
                f"the track {name} has none of the OOD sets {', '.join(config.only_ood or ())}; "
                f"it has {', '.join(selected.ood)}; name other --tracks"
            )
        id_part = part(name, "id", selected.images, selected.targets)
        tasks.append(
            Task(
                name,
                tuple(selected.classes),
                (id_part,),
                (*ood, *extremes),
                stream_length=config.stream_length,
            )
        )
    return tasks


def _with_shots(task: Task, shots: int) -> Task:
    """The task with so many images of each class set aside, drawn by a fixed seed; each class keeps one at least.

    Raises:
        ValueError: no class has two images.
    """
    part = task.id[0]
    generator = torch.Generator().manual_seed(_SHOTS_SEED)
    left = Counter(part.images.labels)
    taken: dict[int, list[int]] = {}
    for place in torch.randperm(len(part.images), generator=generator).tolist():
        label = part.images.labels[place]
        if len(taken.get(label, ())) < shots and left[label] > 1:
            taken.setdefault(label, []).append(place)
            left[label] -= 1
    aside = sorted(place for places in taken.values() for place in places)
    if not aside:
        raise ValueError(f"no class of {part.name} has two images, so that none can be set aside")
    gone = set(aside)
    kept = [place for place in range(len(part.images)) if place not in gone]

    def key(of: str) -> str:
        return hashlib.sha256(f"{of} without {aside}".encode()).hexdigest()

    streamed = replace(
        part,
        images=replace(part.images.subset(kept), expected=None),
        embeddings=part.embeddings[kept],
        originals=len(kept),
        fingerprint=key(part.fingerprint),
        pixels=key(part.pixels),
        paths=None if part.paths is None else tuple(part.paths[place] for place in kept),
    )
    return replace(
        task,
        id=(streamed, *task.id[1:]),
        shots=part.embeddings[aside],
        shot_labels=tuple(task.classes[part.images.labels[place]] for place in aside),
    )


def _chosen(count: int, limit: int | None) -> list[int]:
    """Which images of a set are taken: all, or ``limit`` of them by a fixed seed, in their order."""
    if limit is None or limit >= count:
        return list(range(count))
    generator = torch.Generator().manual_seed(_LIMIT_SEED)
    chosen: list[int] = torch.randperm(count, generator=generator)[:limit].sort().values.tolist()
    return chosen


def _shifted(images: augment.Augmented, start: int, index: int) -> Image.Image:
    return images[start + index]


def _check_names(what: str, names: Sequence[str], known: Iterable[str]) -> None:
    listed = list(known)
    unknown = [name for name in names if name not in listed]
    if unknown or not names:
        there = f"there are {', '.join(listed)}" if listed else "this split has none"
        hint = did_you_mean(unknown[0], listed) if unknown else ""
        raise ValueError(f"no {what} {', '.join(unknown) or 'named'}; {there}{hint}")
    if len(set(names)) < len(names):
        raise ValueError(f"a {what} is named twice: {', '.join(names)}")
