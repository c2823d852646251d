"""``tanl judge``: judge image files, or embeddings of images, against class names."""

from __future__ import annotations

import argparse
import os
import random
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import __version__
from ..detectors.registry import FROM_OUTLIERS, LEARNING, METHODS, WITH_NEGATIVES, make_detector
from ..io.arguments import Arguments, a_name_or_path, a_path, positive_number, refuse, share
from ..io.progress import Progress
from ..io.text import one_line, shown_path
from ..labels.corpus import Corpus
from ..labels.wordnet import SELECTIONS
from ..streams.result_files import ResultWriter, open_results
from .signals import exit_code, held, in_words
from .table import Table

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

OF_PHOTOGRAPHS = "mini-photo"
"""The model that images are judged with where none is named."""

_LABELS = ("--labels", "--label", "--label-column", "--corpus")  # what a bank stands in place of
_FEW_BATCHES = 4
_ID_WIDTH = 36  # a UUID's; ids are not known before they are read

_DESCRIPTION = """\
Judge images against class names. Each image gets an OOD score (higher = further from all your
classes), the best of your labels with its probability among them, a verdict and, for an outlier,
the negative labels that it activated. Files of embeddings are judged in the same way, without any
image: with a bank of labels from the model that made them."""

_EPILOG = """\
examples:
  tanl judge photos/ --labels labels.txt --backbone ViT-B-16/openai --calibrate known-good/
  tanl judge photos/ --labels labels.txt --backbone ViT-B-16/openai --shuffle --out results.csv
  tanl judge photos/ --labels labels.txt --backbone ViT-B-16/openai --device cuda --precision fp16
  tanl judge photos/ --bank bank.safetensors --calibrate known-good/ --tpr 0.95
  tanl judge a.jpg b.png --label cat --label dog --method neglabel
  tanl judge embeddings.npy --bank bank.safetensors --out results.parquet
  tanl judge export.parquet --column vector --id-column id --bank bank.safetensors --normalize

embeddings: .npy; .npz and .safetensors with one 2-D array (or --column NAME); .parquet with a column of
lists of floats; .jsonl, one object a line, and .csv, where a column holds [0.1, 0.2, ...]. They are read
a batch at a time, in their order. Exports of vector databases are such files. `tanl bank --help` says how
to make a bank; --labels with --backbone does without one, if that is the model that made the embeddings.

models: the model that comes with tanl for photographs, mini-photo, is there to try things out. A real CLIP tells far
more apart. It is fetched once, and embeds the negative labels once, which is told with the minutes that it takes and
goes on where it was stopped; `tanl cache` shows what is kept.

order: TANL learns from the stream as it goes, so its verdicts depend on the order of the images and on
the batch size. A folder sorted by class is its worst case: add --shuffle where the order means nothing.

threshold: TANL finds its own in the stream. The other methods give scores and no verdicts until
--calibrate sets a threshold from images that are known to belong to the classes.

results: a .csv or .jsonl file comes with NAME.json beside it, which says how its rows were made: labels, method
and settings, threshold, calibration, version. In .parquet this is in the metadata, under "tanl". A run that is
killed leaves NAME.*.partial; `tanl recover` makes a results file of it.

exit codes: 0 all judged; 1 some could not be read (each is named on stderr; an image keeps a row with its
error); 2 a mistake in what was asked for; 130 interrupted, 143 terminated (what was judged by then is kept)."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the command's arguments."""
    parser.description = _DESCRIPTION
    parser.epilog = _EPILOG
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument(
        "inputs",
        nargs="+",
        metavar="INPUT",
        type=a_path,
        help="image files, and folders of images; or files of embeddings",
    )

    labels = parser.add_argument_group("labels")
    add_label_arguments(labels)
    labels.add_argument(
        "--corpus",
        metavar="NAME_OR_FILE",
        type=a_name_or_path,
        help=f"negative labels: {', '.join(SELECTIONS)}, a text file with a word a line, or none "
        "(default: wordnet; for csp its own phrases; none for the methods without negatives)",
    )

    labels.add_argument(
        "--bank",
        metavar="FILE",
        type=a_path,
        help="labels with their embeddings, in place of all of the above (see tanl bank); for images the model that "
        "made them is loaded",
    )

    embeddings = parser.add_argument_group("embeddings")
    embeddings.add_argument(
        "--column",
        metavar="NAME",
        help="where the embeddings are in the file (default: the only column that can hold them); in .jsonl, "
        "vector.image is the value image in the object vector",
    )
    embeddings.add_argument(
        "--id-column",
        metavar="NAME",
        help="what names the rows in the results (default: id if there is one, else row numbers from 0 on)",
    )
    add_normalize_argument(embeddings)

    method = parser.add_argument_group("method")
    add_backbone_argument(method)
    method.add_argument("--method", choices=tuple(METHODS), default="tanl", help="(default: %(default)s)")
    method.add_argument(
        "--batch-size",
        metavar="N",
        type=positive_number,
        default=64,
        help="images or embeddings a batch; TANL learns once a batch (default: %(default)s)",
    )
    method.add_argument(
        "--calibrate",
        metavar="DIR_OR_FILE",
        type=a_path,
        help="images, or embeddings, that belong to the classes: the threshold is set so that such ones pass",
    )
    method.add_argument(
        "--tpr",
        metavar="SHARE",
        type=share,
        help="with --calibrate: the share of them that is to pass (default: 0.95)",
    )
    method.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1, mps (default: %(default)s)")
    add_precision_argument(method)
    method.add_argument(
        "--float16",
        action="store_true",
        help="keep the labels' embeddings as float16: half the memory, nearly the same scores",
    )

    order = parser.add_argument_group("order")
    order.add_argument(
        "--recursive",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="look into the folders of folders (default: yes)",
    )
    order.add_argument("--shuffle", action="store_true", help="judge the images in random order")
    order.add_argument(
        "--seed",
        metavar="N",
        type=int,
        default=0,
        help="of the order and of the method (default: %(default)s)",
    )

    output = parser.add_argument_group("output")
    output.add_argument(
        "--out",
        metavar="FILE",
        type=a_path,
        help="write the results here, as .csv, .jsonl or .parquet, in place of the table on stdout; "
        "an older file is replaced when the run is over",
    )
    output.add_argument(
        "--evidence",
        metavar="K",
        type=positive_number,
        default=5,
        help="negative labels to name for an outlier (default: %(default)s)",
    )
    output.add_argument(
        "--show-all",
        action="store_true",
        help="name any negative label as evidence; without it slurs, obscenities, peoples, religions, crimes and "
        "diseases among WordNet's words score, but are not named",
    )
    output.add_argument("--quiet", action="store_true", help="no progress bars and no summary")


def main(arguments: argparse.Namespace) -> int:
    """Carry the command out and return its exit code."""
    from ..io.embeddings import is_embedding_file

    # All that can be wrong is looked at before the slow parts: the model, the corpus, the images.
    if arguments.tpr is not None and arguments.calibrate is None:
        raise ValueError("--tpr is the share of what --calibrate names that is to pass: give --calibrate too")
    beside_images = arguments.bank is not None
    if any(is_embedding_file(source, beside_images=beside_images) for source in arguments.inputs):
        return _judge(_embeddings(arguments), arguments)
    return _judge(_images(arguments), arguments)


@dataclass(frozen=True)
class _Stream:
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


def _images(arguments: argparse.Namespace) -> _Stream:
    refuse(
        arguments, ("--column", "--id-column", "--normalize"), "is for files of embeddings; these are images"
    )
    saved, labels, corpus = None, [], None
    if arguments.bank is not None:
        refuse(arguments, _LABELS, "contradicts --bank, which has labels")
        saved = _bank(arguments)
        name = _model_of(saved, arguments)
    else:
        labels, corpus = class_names(arguments), _corpus(arguments)
        name = arguments.backbone or OF_PHOTOGRAPHS
    paths, unlisted = _image_files(arguments.inputs, arguments.recursive)
    known, unlisted_known = _image_files(
        [arguments.calibrate] * bool(arguments.calibrate), arguments.recursive
    )
    if arguments.shuffle:
        random.Random(arguments.seed).shuffle(paths)

    def begin(timings: Timings) -> tuple[Detector, Iterable[Batch], Iterator[list[Result]]]:
        from ..streams.images import ImageEncoder, embed_images, judge_images

        backbone = _backbone(name, arguments)
        judge: Callable[[Tensor], Detection]
        if saved is None:
            guard = _guard(backbone, arguments, labels, corpus)
            detector, judge = guard.detector, guard.detect_embeddings
        else:
            _refuse_other_model(saved, backbone, arguments)
            outliers = saved.initial_ood
            if outliers is None and arguments.method in FROM_OUTLIERS:
                outliers = _noise(backbone, arguments)
            detector = make_detector(arguments.method, saved.bank, seed=arguments.seed, initial_ood=outliers)
            judge = _judging(detector, None, arguments)
        encoder = ImageEncoder(backbone)
        results = judge_images(encoder, paths, judge, batch_size=arguments.batch_size, timings=timings)
        return detector, embed_images(encoder, known) if known else (), results

    longest = max(len(one_line(shown_path(path))) for path in paths)
    about = {"backbone": name, **_labels_in_words(arguments, labels, corpus)}
    if saved is not None:
        about = {"backbone": name, "bank": shown_path(arguments.bank)}
    return _Stream(
        "path", "images", len(paths), longest, about, labels, corpus, begin, unlisted + unlisted_known
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
    from ..labels.not_shown import hidden_in, words

    hidden: frozenset[str] = frozenset()
    if not arguments.show_all:
        # A bank does not say where its words are from.
        hidden = words() if arguments.bank is not None else hidden_in(corpus)
    return partial(detect_embeddings, detector, evidence=arguments.evidence, hidden=hidden)


def _image_files(sources: Sequence[Path], recursive: bool) -> tuple[list[Path], int]:
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


def _embeddings(arguments: argparse.Namespace) -> _Stream:
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
    known = None if arguments.calibrate is None else opened(arguments.calibrate)
    labels, corpus = (
        ([], None) if arguments.bank is not None else (class_names(arguments), _corpus(arguments))
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
    return _Stream("id", "embeddings", count, longest, about, labels, corpus, begin)


def _labels_in_words(
    arguments: argparse.Namespace, labels: Sequence[str], corpus: Corpus | None
) -> dict[str, Any]:
    words = None if corpus is None else len(corpus)
    named = arguments.corpus or ("wordnet" if arguments.method != "csp" else "csp's own phrases")
    return {
        "labels": list(labels),
        "corpus": None if corpus is None else shown_path(named),
        "corpus_words": words,
    }


def _judge(stream: _Stream, arguments: argparse.Namespace) -> int:
    """Judge a stream into a file or a table, and return the exit code."""
    from ..streams.pump import Timings

    timings = Timings()
    counts = {"ID": 0, "OOD": 0, "-": 0, "unreadable": 0}
    stop: KeyboardInterrupt | None = None
    with _results(arguments, stream.key) as writer:
        detector, known, results = stream.begin(timings)
        calibration = None if arguments.calibrate is None else _calibrate(detector, known, arguments)
        about = {
            "tanl": __version__,
            **stream.about,
            "method": arguments.method,
            "settings": _settings(detector),
            "seed": arguments.seed,
            "batch_size": arguments.batch_size,
            "inputs": [shown_path(source) for source in arguments.inputs],
            "shuffled": arguments.shuffle,
            "calibration": calibration,
        }
        if stream.corpus is not None and not arguments.quiet:
            print(labels_told(stream.labels, stream.corpus))
        table = None
        if writer is None:
            table = Table("file" if stream.key == "path" else "id", stream.longest, detector.bank.id_names)
            print(table.header())
        else:
            writer.describe({**about, "complete": False})
        with Progress(stream.count, stream.what, quiet=arguments.quiet) as progress:
            try:
                for batch in results:
                    # What is counted and shown is in the file, and what is in the file is counted and shown.
                    with held():
                        if writer is not None:
                            writer.write(batch)
                        for result in batch:
                            counts[result.outcome] += 1
                            if table is not None:
                                progress.write(table.row(result), sys.stdout)
                            if result.error is not None:
                                progress.write(_warning(result.path, result.error), sys.stderr)
                        progress.update(len(batch))
            except KeyboardInterrupt as interruption:
                stop = interruption
        if writer is not None:
            with held():
                end = {"threshold": detector.threshold, "rows": sum(counts.values()), **counts}
                end["without_verdict"] = end.pop("-")
                writer.describe({**about, **end, "complete": stop is None})

    if not arguments.quiet:
        print(_summary(counts, timings, stream.what))
        for line in (
            _threshold_told(detector.threshold, calibration),
            _advice(sum(counts.values()), stream.what, arguments) if stop is None else "",
        ):
            if line:
                print(one_line(line))
    if calibration is not None and (doubt := _doubt(counts, calibration)):
        print(f"tanl: warning: {one_line(doubt)}", file=sys.stderr)
    if stop is not None:
        kept = (
            f"; {writer.rows} rows are kept in {shown_path(writer.target)}" if writer and writer.rows else ""
        )
        print(f"tanl: {in_words(stop)}{kept}", file=sys.stderr)
        return exit_code(stop)
    left_out = counts["unreadable"] + (calibration or {}).get("unreadable", 0) + stream.unlisted
    return 1 if left_out else 0


@contextmanager
def _results(arguments: argparse.Namespace, key: str) -> Iterator[ResultWriter | None]:
    if arguments.out is None:
        yield None
        return
    writer = open_results(arguments.out, key=key, evidence=arguments.evidence)
    try:
        yield writer
    finally:
        with held():
            writer.close()


def _settings(detector: Detector) -> dict[str, Any]:
    """The method's settings as JSON can hold them."""
    plain = (str, int, float, bool, type(None))
    return {name: each if isinstance(each, plain) else str(each) for name, each in detector.settings.items()}


def add_label_arguments(group: Arguments) -> None:
    """Describe the arguments that `class_names` reads."""
    group.add_argument(
        "--labels",
        metavar="FILE",
        type=a_path,
        help="class names: text, one a line (lines that start with # are skipped); a .json list or index; .csv or .tsv "
        "with a header; .yaml with names:",
    )
    group.add_argument(
        "--label-column",
        metavar="NAME",
        help="the column of a .csv or .tsv with several that has the class names",
    )
    group.add_argument(
        "--label", metavar="NAME", action="append", default=[], help="one more class name; may be repeated"
    )


def add_backbone_argument(group: Arguments) -> None:
    """Describe ``--backbone``, which is None where it is not given."""
    group.add_argument(
        "--backbone",
        metavar="NAME",
        help="the model: open_clip fetches names such as ViT-B-16/openai, transformers those such as "
        "hf:google/siglip-base-patch16-224; mini-photo (of photographs) and mini (of pictograms) come with tanl, to "
        "try things out (default: mini-photo)",
    )


def add_precision_argument(group: Arguments) -> None:
    """Describe ``--precision`` of a model's weights, which is None where it is not given."""
    group.add_argument(
        "--precision",
        choices=("fp32", "fp16", "bf16"),
        help="of the model's weights: the halves are faster on a GPU, and give nearly the same embeddings "
        "(default: fp32)",
    )


def add_normalize_argument(group: Arguments) -> None:
    """Describe ``--normalize``, of embeddings in files."""
    group.add_argument(
        "--normalize",
        action="store_true",
        help="bring the embeddings to unit norm; without it they must have it",
    )


def class_names(arguments: argparse.Namespace) -> list[str]:
    """The classes that ``--labels`` and ``--label`` name, as they are shown.

    Raises:
        ValueError: none, a name twice, one that is no plain text, or a file that cannot be read in one way.
        OSError: the file cannot be read.
    """
    from ..labels.label_files import read_labels
    from ..labels.names import checked_id_names

    labels = list(arguments.label)
    if arguments.labels is not None:
        labels = read_labels(arguments.labels, column=arguments.label_column) + labels
    elif arguments.label_column is not None:
        raise ValueError(
            "--label-column says where the names are in a table that --labels names: give --labels too"
        )
    if not labels:
        raise ValueError("no labels: give --labels FILE with a class name a line, or --label NAME")
    repeated = [label for label, count in Counter(labels).items() if count > 1]
    if repeated:
        raise ValueError(f"labels given more than once: {', '.join(map(repr, repeated))}; give each once")
    return list(checked_id_names(labels))


def labels_told(labels: Sequence[str], corpus: Corpus, removal: str = "synonyms") -> str:
    """A line that says what was understood of the labels, and for which no word of the corpus was found."""
    from ..labels.understood import told, understood_labels

    return one_line(f"labels: {told(understood_labels(labels, corpus, removal), corpus, removal)}")


def _corpus(arguments: argparse.Namespace) -> Corpus | None:
    if arguments.method not in WITH_NEGATIVES:
        if arguments.corpus not in (None, "none"):
            raise ValueError(f"--method {arguments.method} uses no negative labels: leave --corpus out")
        return None
    if arguments.corpus == "none":
        raise ValueError(f"--method {arguments.method} scores with negative labels: --corpus cannot be none")
    if arguments.method == "csp" and arguments.corpus is None:
        from ..detectors import conjugated_words

        return conjugated_words(seed=arguments.seed)
    return Corpus.load(arguments.corpus or "wordnet")


def _backbone(name: str, arguments: argparse.Namespace) -> Backbone:
    from ..backbones import load_backbone

    return load_backbone(name, device=arguments.device or "cpu", precision=arguments.precision or "fp32")


def _noise(backbone: Backbone, arguments: argparse.Namespace) -> Tensor:
    from ..backbones.noise import noise_embeddings

    return noise_embeddings(backbone, seed=arguments.seed)


def _guard(
    backbone: Backbone, arguments: argparse.Namespace, labels: Sequence[str], corpus: Corpus | None
) -> Guard:
    import torch

    from ..guard.guard import Guard

    outliers = _noise(backbone, arguments) if arguments.method in FROM_OUTLIERS else None

    def detector(bank: LabelBank) -> Detector:
        return make_detector(arguments.method, bank, seed=arguments.seed, initial_ood=outliers)

    return Guard(
        backbone,
        labels,
        corpus=corpus,
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
        return _guard(_backbone(arguments.backbone, arguments), arguments, labels, corpus).detector
    saved = _bank(arguments)
    return make_detector(arguments.method, saved.bank, seed=arguments.seed, initial_ood=saved.initial_ood)


def _calibrate(detector: Detector, batches: Iterable[Batch], arguments: argparse.Namespace) -> dict[str, Any]:
    """Set the threshold from what is known to be ID; gives what is told of that in the results."""
    import torch

    from ..streams.batches import Unusable

    embeddings, unreadable = [], 0
    with Progress(None, "calibrated", quiet=arguments.quiet) as progress:
        for batch in batches:
            for image in batch.images:
                if isinstance(image, Unusable):
                    unreadable += 1
                    progress.write(_warning(image.name, image.reason), sys.stderr)
            if batch.z is not None:
                embeddings.append(batch.z)
            progress.update(len(batch.images))
    if not embeddings:
        raise ValueError(
            "nothing of what --calibrate names can be read; give something else, or leave --calibrate out"
        )
    z = torch.cat(embeddings)
    tpr = arguments.tpr or 0.95
    threshold = detector.calibrate_embeddings(z, tpr, batch_size=arguments.batch_size)
    return {
        "of": shown_path(arguments.calibrate),
        "count": len(z),
        "unreadable": unreadable,
        "tpr": tpr,
        "threshold": threshold,
    }


def _warning(path: str | os.PathLike[str], reason: str) -> str:
    # An embedding goes by its id, which is text.
    kind = "embedding " if isinstance(path, str) else ""
    return f"tanl: warning: cannot read {kind}{one_line(f'{shown_path(path)}: {reason}')}"


def _threshold_told(threshold: float | None, calibration: dict[str, Any] | None) -> str:
    """Where the threshold is from, and what to do for a better one."""
    if calibration is not None:
        return (
            f"threshold {calibration['threshold']:.4f} from {calibration['count']} of {calibration['of']}, so that "
            f"{calibration['tpr']:.0%} of such pass"
        )
    if threshold is None:  # the summary tells
        return ""
    return (
        f"threshold {threshold:.4f}, found in the stream; --calibrate DIR sets it from what is known to belong to the "
        "classes, and holds where outliers are few"
    )


def _advice(count: int, what: str, arguments: argparse.Namespace) -> str:
    """What is said where a method had hardly a batch to learn from; else nothing."""
    if arguments.method not in LEARNING or count < 2 or count >= _FEW_BATCHES * arguments.batch_size:
        return ""
    return (
        f"{count} {what} are fewer than {_FEW_BATCHES} batches of {arguments.batch_size}, and {arguments.method} "
        f"learns from batch to batch: --batch-size {max(1, count // (2 * _FEW_BATCHES))} lets it learn from these"
    )


def _doubt(counts: dict[str, int], calibration: dict[str, Any]) -> str:
    """What is said where less is flagged than even images of the classes would be, by more than chance; else nothing.

    A share of ``1 - tpr`` of what belongs to the classes is flagged. Where not half of that is, and chance would do so
    once in a thousand times, what was calibrated on scores higher than what is judged.
    """
    from scipy.stats import binom

    judged = counts["ID"] + counts["OOD"]
    if not judged or binom.cdf(counts["OOD"], judged, (1 - calibration["tpr"]) / 2) > 0.001:
        return ""
    return (
        f"{counts['OOD']} of {judged} are flagged, and of {judged} that belong to the classes about "
        f"{(1 - calibration['tpr']) * judged:.0f} would be: what is in {calibration['of']} looks less like the classes "
        "than what is judged; does it belong to them?"
    )


def _summary(counts: dict[str, int], timings: Timings, what: str) -> str:
    parts = [f"{counts['ID']} ID", f"{counts['OOD']} OOD"] if not counts["-"] else []
    if counts["-"]:
        parts.append(f"{counts['-']} judged without a verdict (--calibrate sets a threshold)")
    if counts["unreadable"]:
        parts.append(f"{counts['unreadable']} unreadable")
    speed = f"{timings.images_per_second:.0f} {what}/s, {timings.scoring_share:.0%} of the time in scoring"
    return f"{sum(counts.values())} {what}: {', '.join(parts)}; {speed}"
