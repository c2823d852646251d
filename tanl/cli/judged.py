"""What `tanl judge` judges: images, or embeddings in files, with the labels and the method that it names."""

from __future__ import annotations

import argparse
import random
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..detectors.registry import FROM_OUTLIERS, WITH_NEGATIVES, make_detector
from ..io.arguments import refuse
from ..io.text import one_line, shown_path
from ..labels.corpus import Corpus
from .label_arguments import DEFAULT_TPR, OF_PHOTOGRAPHS, class_names, removal_of

if TYPE_CHECKING:
    from torch import Tensor

    from ..backbones import Backbone
    from ..detectors import Detector
    from ..detectors.verdict import Detection
    from ..guard.guard import Guard
    from ..io.embeddings import EmbeddingFile
    from ..labels.bank import LabelBank
    from ..labels.files import SavedBank
    from ..streams.pump import Batch, Timings
    from ..streams.results import Result

_LABELS = ("--labels", "--label", "--label-column", "--corpus", "--removal")  # what a bank stands in place of
_ID_WIDTH = 36  # a UUID's; ids are not known before they are read


@dataclass(frozen=True)
class Judged:
    """What is to be judged: how its rows are named and counted, and how it begins once the slow parts are there.

    ``begin`` loads the model and gives the detector, the rows that are known to be ID, and the results. ``unlisted``
    is how many folders could not be listed.
    """

    key: str
    what: str
    count: int | None
    longest: int
    about: dict[str, Any]
    labels: Sequence[str]
    corpus: Corpus | None
    begin: Callable[[Timings], tuple[Detector, Iterable[Batch], Iterator[list[Result]]]]
    unlisted: int = 0


@dataclass(frozen=True)
class ImageMethod:
    """What images are judged with, before the slow parts.

    ``load`` loads the model, and gives it with the detector, and what judges embeddings by it.
    """

    backbone: str
    about: dict[str, Any]
    labels: Sequence[str]
    corpus: Corpus | None
    load: Callable[[], tuple[Backbone, Detector, Callable[[Tensor], Detection]]]


def image_method(arguments: argparse.Namespace) -> ImageMethod:
    """The method and the model that the command line names, for images."""
    saved, labels, corpus = None, [], None
    if arguments.bank is not None:
        refuse(arguments, _LABELS, "contradicts --bank, which has labels")
        saved = _bank(arguments)
        name = _model_of(saved, arguments)
    else:
        labels, corpus = class_names(arguments), corpus_of(arguments)
        name = arguments.backbone or OF_PHOTOGRAPHS

    def load() -> tuple[Backbone, Detector, Callable[[Tensor], Detection]]:
        backbone = loaded_backbone(name, arguments)
        if saved is None:
            guard = _guard(backbone, arguments, labels, corpus)
            return backbone, guard.detector, guard.detect_embeddings
        _refuse_other_model(saved, backbone, arguments)
        outliers = saved.initial_ood
        if outliers is None and arguments.method in FROM_OUTLIERS:
            outliers = _noise(backbone, arguments)
        detector = _detector(arguments, saved.bank, outliers)
        return backbone, detector, _judging(detector, None, arguments)

    about = {"backbone": name, **_labels_in_words(arguments, labels, corpus)}
    if saved is not None:
        about = {"backbone": name, "bank": shown_path(arguments.bank)}
    return ImageMethod(name, about, labels, corpus, load)


def judged_images(arguments: argparse.Namespace) -> Judged:
    refuse(
        arguments, ("--column", "--id-column", "--normalize"), "is for files of embeddings; these are images"
    )
    method = image_method(arguments)
    paths, unlisted = image_files(arguments.inputs, arguments.recursive)
    known, unlisted_known = known_images(arguments, arguments.recursive)
    if arguments.shuffle:
        random.Random(arguments.seed).shuffle(paths)

    def begin(timings: Timings) -> tuple[Detector, Iterable[Batch], Iterator[list[Result]]]:
        from ..streams.images import ImageEncoder, embed_images, judge_images

        backbone, detector, judge = method.load()
        encoder = ImageEncoder(backbone)
        results = judge_images(encoder, paths, judge, batch_size=arguments.batch_size, timings=timings)
        return detector, embed_images(encoder, known) if known else (), results

    longest = max(len(one_line(shown_path(path))) for path in paths)
    return Judged(
        "path",
        "images",
        len(paths),
        longest,
        method.about,
        method.labels,
        method.corpus,
        begin,
        unlisted + unlisted_known,
    )


def known_images(arguments: argparse.Namespace, recursive: bool) -> tuple[list[Path], int]:
    """The images that ``--calibrate`` names, none without it, and how many folders could not be listed.

    Raises:
        ValueError: there are too few for ``--tpr``, or embeddings are named.
        OSError: they cannot be listed.
    """
    from ..io.embeddings import is_embedding_file

    if arguments.calibrate is None:
        return [], 0
    if is_embedding_file(arguments.calibrate):
        raise ValueError(
            f"--calibrate {shown_path(arguments.calibrate)} names embeddings, and these are images: give a folder of "
            "images, or an image"
        )
    paths, unlisted = image_files([arguments.calibrate], recursive)
    _refuse_too_few(len(paths), "images", arguments)
    return paths, unlisted


def _known_embeddings(file: EmbeddingFile, arguments: argparse.Namespace) -> EmbeddingFile:
    """The embeddings that ``--calibrate`` names, read as far as it takes to see that they are enough.

    Raises:
        ValueError: there are too few for ``--tpr``, or they cannot be used.
        OSError: they cannot be read.
    """
    from ..detectors.thresholds import fewest_at_tpr

    usable, needed = 0, fewest_at_tpr(arguments.tpr or DEFAULT_TPR)
    batches = file.batches(needed, normalize=arguments.normalize)
    while usable < needed and (batch := next(batches, None)) is not None:
        usable += len(batch.ids) - len(batch.errors)
    _refuse_too_few(usable, "usable embeddings", arguments)
    return file


def _refuse_too_few(count: int, what: str, arguments: argparse.Namespace) -> None:
    from ..detectors.thresholds import fewest_at_tpr

    tpr = arguments.tpr or DEFAULT_TPR
    if count < (needed := fewest_at_tpr(tpr)):
        raise ValueError(
            f"--tpr {tpr:g} needs {needed} {what} to calibrate with, and {shown_path(arguments.calibrate)} has "
            f"{count}; give more, or a lower --tpr"
        )


def _bank(arguments: argparse.Namespace) -> SavedBank:
    import torch

    from ..labels.files import load_bank

    return load_bank(
        arguments.bank, device=arguments.device, dtype=torch.float16 if arguments.float16 else None
    )


def _model_of(saved: SavedBank, arguments: argparse.Namespace) -> str:
    """The name of the model that made a bank, by which it loads."""
    name = arguments.backbone or saved.backbone
    if name is None:
        raise ValueError(
            f"{arguments.bank} does not say which model made it, and images need that model: give its --backbone, or "
            "judge files of embeddings"
        )
    return str(name)


def _refuse_other_model(saved: SavedBank, backbone: Backbone, arguments: argparse.Namespace) -> None:
    if saved.backbone_fingerprint not in (None, backbone.fingerprint):
        raise ValueError(
            f"{arguments.bank} was made by {saved.backbone}, with other weights or another preprocessing than those of "
            f"{backbone.name}: images and labels must be embedded by the same model (--precision counts, too)"
        )


def _judging(
    detector: Detector, corpus: Corpus | None, arguments: argparse.Namespace
) -> Callable[[Tensor], Detection]:
    from ..detectors.verdict import detect_embeddings

    hidden = hidden_labels(corpus, arguments)
    return partial(detect_embeddings, detector, evidence=arguments.evidence, hidden=hidden)


def hidden_labels(corpus: Corpus | None, arguments: argparse.Namespace) -> frozenset[str]:
    """The labels that are not named as evidence."""
    from ..labels.not_shown import hidden_in, words

    if arguments.show_all:
        return frozenset()
    # A bank does not say where its words are from.
    return words() if arguments.bank is not None else hidden_in(corpus)


def image_files(sources: Sequence[Path], recursive: bool = True) -> tuple[list[Path], int]:
    """The images that are named, and how many folders could not be listed; these and what was passed over are told."""
    from ..io.image_files import Found, find_images

    paths: list[Path] = []
    unlisted = 0
    for source in sources:
        try:
            found = find_images(source, recursive)
        except PermissionError as error:
            # Of several, as a shell makes them of photos/*, one is passed over as it is inside a folder.
            if len(sources) == 1:
                raise
            found = Found((), unreadable=((source, error),))
        for note in found.notes():
            where = "" if note.startswith("cannot") else f"{shown_path(source)}: "
            print(f"tanl: warning: {one_line(where + note)}", file=sys.stderr)
        paths += found
        unlisted += len(found.unreadable)
    if sources and not paths:
        raise ValueError(f"there are no images: {sources[0]} and what else is named cannot be listed")
    return paths, unlisted


def judged_embeddings(arguments: argparse.Namespace) -> Judged:
    from ..io.embeddings import endings, is_embedding_file, open_embeddings

    refuse(
        arguments, () if arguments.backbone else ("--precision",), "is the model's, and none is loaded here"
    )
    for source in arguments.inputs:
        if not is_embedding_file(source, beside_images=arguments.bank is not None):
            raise ValueError(
                f"{source} is no file of embeddings ({endings()}), as others here are; images are judged in a run of "
                "their own"
            )
    refuse(
        arguments,
        ("--shuffle",),
        "is for images: rows are read once, in their order; shuffle the file instead",
    )
    if arguments.bank is not None:
        refuse(arguments, (*_LABELS, "--backbone"), "contradicts --bank, which has labels")
    elif arguments.backbone is None:
        raise ValueError(
            "embeddings are judged against labels of the model that made them: give --bank FILE (tanl bank makes "
            "one), or --labels and --backbone"
        )

    def opened(path: Path) -> EmbeddingFile:
        # The images that are known may be in a file of another kind, with other columns.
        of_one_kind = path.suffix.lower() == Path(arguments.inputs[0]).suffix.lower()
        return open_embeddings(path, column=arguments.column if of_one_kind else None)

    files = [
        open_embeddings(source, column=arguments.column, id_column=arguments.id_column)
        for source in arguments.inputs
    ]
    known = None if arguments.calibrate is None else _known_embeddings(opened(arguments.calibrate), arguments)
    labels, corpus = (
        ([], None) if arguments.bank is not None else (class_names(arguments), corpus_of(arguments))
    )

    def begin(timings: Timings) -> tuple[Detector, Iterable[Batch], Iterator[list[Result]]]:
        from ..streams.embeddings import embedding_batches, judge_embeddings

        detector = _embeddings_detector(arguments, labels, corpus)
        results = judge_embeddings(
            files,
            detector.bank,
            _judging(detector, corpus, arguments),
            batch_size=arguments.batch_size,
            normalize=arguments.normalize,
            timings=timings,
        )
        ready: Iterable[Batch] = ()
        if known is not None:
            ready = embedding_batches([known], detector.bank, normalize=arguments.normalize)
        return detector, ready, results

    counts = [file.rows for file in files]
    count = None if None in counts else sum(rows or 0 for rows in counts)
    named_by_number = not any(file.has_ids for file in files) and len(files) == 1
    if arguments.bank is None:
        about = {"backbone": arguments.backbone, **_labels_in_words(arguments, labels, corpus)}
    else:
        about = {"bank": shown_path(arguments.bank)}
    longest = len(str(count)) if named_by_number and count else _ID_WIDTH
    return Judged("id", "embeddings", count, longest, about, labels, corpus, begin)


def _labels_in_words(
    arguments: argparse.Namespace, labels: Sequence[str], corpus: Corpus | None
) -> dict[str, Any]:
    words = None if corpus is None else len(corpus)
    named = arguments.corpus or ("wordnet" if arguments.method != "csp" else "csp's own phrases")
    return {
        "labels": list(labels),
        "corpus": None if corpus is None else shown_path(named),
        "corpus_words": words,
        "removal": None if corpus is None else removal_of(arguments),
    }


def corpus_of(arguments: argparse.Namespace) -> Corpus | None:
    """The corpus that ``--corpus`` names, for the method; None for a method without negatives.

    Raises:
        ValueError: it contradicts the method, or is no corpus.
    """
    if arguments.method not in WITH_NEGATIVES:
        if arguments.corpus not in (None, "none"):
            raise ValueError(f"--method {arguments.method} uses no negative labels: leave --corpus out")
        if arguments.removal is not None:
            raise ValueError(f"--method {arguments.method} uses no negative labels: leave --removal out")
        return None
    if arguments.corpus == "none":
        raise ValueError(f"--method {arguments.method} scores with negative labels: --corpus cannot be none")
    if arguments.method == "csp" and arguments.corpus is None:
        from ..detectors import conjugated_words

        return conjugated_words(seed=arguments.seed)
    return Corpus.load(arguments.corpus or "wordnet")


def loaded_backbone(name: str, arguments: argparse.Namespace) -> Backbone:
    """The model of this name, on ``--device`` and in ``--precision``."""
    from ..backbones import load_backbone

    return load_backbone(name, device=arguments.device or "cpu", precision=arguments.precision or "fp32")


def _noise(backbone: Backbone, arguments: argparse.Namespace) -> Tensor:
    from ..backbones.noise import noise_embeddings

    return noise_embeddings(backbone, seed=arguments.seed)


def _detector(arguments: argparse.Namespace, bank: LabelBank, outliers: Tensor | None) -> Detector:
    return make_detector(
        arguments.method,
        bank,
        seed=arguments.seed,
        initial_ood=outliers,
        settings=dict(arguments.settings),
    )


def _guard(
    backbone: Backbone, arguments: argparse.Namespace, labels: Sequence[str], corpus: Corpus | None
) -> Guard:
    import torch

    from ..guard.guard import Guard

    outliers = _noise(backbone, arguments) if arguments.method in FROM_OUTLIERS else None

    def detector(bank: LabelBank) -> Detector:
        return _detector(arguments, bank, outliers)

    return Guard(
        backbone,
        labels,
        corpus=corpus,
        removal=removal_of(arguments),
        method=detector,
        dtype=torch.float16 if arguments.float16 else torch.float32,
        evidence=arguments.evidence,
        show_all=arguments.show_all,
        progress=not arguments.quiet,
    )


def _embeddings_detector(
    arguments: argparse.Namespace, labels: Sequence[str], corpus: Corpus | None
) -> Detector:
    if arguments.bank is None:
        return _guard(loaded_backbone(arguments.backbone, arguments), arguments, labels, corpus).detector
    saved = _bank(arguments)
    return _detector(arguments, saved.bank, saved.initial_ood)
