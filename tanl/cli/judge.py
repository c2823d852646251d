"""``tanl judge``: judge image files, or embeddings of images, against class names."""

from __future__ import annotations

import argparse
import random
import shutil
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from ..detectors.registry import METHODS, WITH_NEGATIVES, make_detector
from ..io.text import shown_percentage
from ..labels.corpus import Corpus
from ..labels.wordnet import SELECTIONS
from ..streams.results import Result, ResultWriter, open_results, shown_path
from .main import positive_number

if TYPE_CHECKING:
    from ..detectors import Detector
    from ..guard.guard import Guard
    from ..io.embeddings import EmbeddingFile
    from ..labels.bank import LabelBank
    from ..streams.pump import Batch, Timings

_ID_WIDTH = 36  # a UUID's; ids are not known before they are read

_DESCRIPTION = """\
Judge images against class names. Each image gets an OOD score (higher = further from all your
classes), the best of your labels with its probability among them, a verdict and, for an outlier,
the negative labels that it activated. Files of embeddings are judged in the same way, without any
image: with a bank of labels from the model that made them."""

_EPILOG = """\
examples:
  tanl judge photos/ --labels labels.txt
  tanl judge photos/ --labels labels.txt --shuffle --out results.csv
  tanl judge a.jpg b.png --label cat --label dog --method neglabel
  tanl judge photos/ --labels labels.txt --calibrate known-good/ --tpr 0.95
  tanl judge photos/ --labels labels.txt --backbone ViT-B-16/openai --device cuda
  tanl judge embeddings.npy --bank bank.safetensors --out results.parquet
  tanl judge export.parquet --column vector --id-column id --bank bank.safetensors --normalize

embeddings: .npy; .npz and .safetensors with one 2-D array (or --column NAME); .parquet with a column of
lists of floats; .jsonl, one object a line, and .csv, where a column holds [0.1, 0.2, ...]. They are read
a batch at a time, in their order. Exports of vector databases are such files. `tanl bank --help` says how
to make a bank; --labels with --backbone does without one, if that is the model that made the embeddings.

order: TANL learns from the stream as it goes, so its verdicts depend on the order of the images and on
the batch size. A folder sorted by class is its worst case: add --shuffle where the order means nothing.

threshold: TANL finds its own in the stream. The other methods give scores and no verdicts until
--calibrate sets a threshold from images that are known to belong to the classes.

exit codes: 0 all scored; 1 some could not be read (each is named on stderr and keeps a row with its
error); 2 a mistake in what was asked for; 130 interrupted (what was scored by then is kept)."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the command's arguments."""
    parser.description = _DESCRIPTION
    parser.epilog = _EPILOG
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument(
        "inputs",
        nargs="+",
        metavar="INPUT",
        help="image files, and folders of images; or files of embeddings",
    )

    labels = parser.add_argument_group("labels")
    add_label_arguments(labels)
    labels.add_argument(
        "--corpus",
        metavar="NAME_OR_FILE",
        help=f"negative labels: {', '.join(SELECTIONS)}, a text file with a word a line, or none "
        "(default: wordnet; for csp its own phrases; none for the methods without negatives)",
    )

    labels.add_argument(
        "--bank",
        metavar="FILE",
        type=Path,
        help="for embeddings: labels with their embeddings, in place of all of the above (see tanl bank)",
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
        type=Path,
        help="images, or embeddings, that belong to the classes: the threshold is set so that such ones pass",
    )
    method.add_argument(
        "--tpr",
        metavar="SHARE",
        type=_share,
        help="with --calibrate: the share of them that is to pass (default: 0.95)",
    )
    method.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1, mps (default: %(default)s)")

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
        type=Path,
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
    output.add_argument("--quiet", action="store_true", help="no progress bars and no summary")


def main(arguments: argparse.Namespace) -> int:
    """Carry the command out and return its exit code."""
    from ..io.embeddings import is_embedding_file

    # All that can be wrong is looked at before the slow parts: the model, the corpus, the images.
    if arguments.tpr is not None and arguments.calibrate is None:
        raise ValueError("--tpr is the share of what --calibrate names that is to pass: give --calibrate too")
    if arguments.bank is not None or any(map(is_embedding_file, arguments.inputs)):
        return _score_embeddings(arguments)
    return _score_images(arguments)


def _score_images(arguments: argparse.Namespace) -> int:
    from ..io.images import find_images

    _refuse(
        arguments, ("--column", "--id-column", "--normalize"), "is for files of embeddings; these are images"
    )
    labels = class_names(arguments)
    corpus = _corpus(arguments)
    paths = [path for source in arguments.inputs for path in find_images(source, arguments.recursive)]
    known = find_images(arguments.calibrate, arguments.recursive) if arguments.calibrate else []
    if arguments.shuffle:
        random.Random(arguments.seed).shuffle(paths)

    with nullcontext() if arguments.out is None else open_results(arguments.out) as writer:
        from ..streams.images import ImageEncoder, embed_images, judge_images
        from ..streams.pump import Timings

        guard = _guard(arguments, labels, corpus)
        encoder = ImageEncoder(guard.backbone)
        unreadable = _calibrate(guard.detector, embed_images(encoder, known), arguments) if known else 0
        timings = Timings()
        code = _report(
            judge_images(
                encoder, paths, guard.detect_embeddings, batch_size=arguments.batch_size, timings=timings
            ),
            timings,
            writer or _Table("file", max(len(shown_path(path)) for path in paths), guard.bank.id_names),
            what="images",
            count=len(paths),
            quiet=arguments.quiet,
        )
    return code or min(unreadable, 1)


def _score_embeddings(arguments: argparse.Namespace) -> int:
    from ..io.embeddings import endings, is_embedding_file, open_embeddings

    for source in arguments.inputs:
        if not is_embedding_file(source):
            raise ValueError(
                f"{source} is no file of embeddings ({endings()}); --bank is for such files alone, and images are "
                "scored in a run of their own"
            )
    _refuse(
        arguments,
        ("--shuffle",),
        "is for images: rows are read once, in their order; shuffle the file instead",
    )
    if arguments.bank is not None:
        _refuse(
            arguments,
            ("--labels", "--label", "--corpus", "--backbone"),
            "contradicts --bank, which has labels",
        )
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

    with nullcontext() if arguments.out is None else open_results(arguments.out, key="id") as writer:
        from ..detectors.verdict import detect_embeddings
        from ..streams.embeddings import embedding_batches, judge_embeddings
        from ..streams.pump import Timings

        detector = _embeddings_detector(arguments, labels, corpus)
        timings = Timings()
        results = judge_embeddings(
            files,
            detector.bank,
            partial(detect_embeddings, detector, evidence=arguments.evidence),
            batch_size=arguments.batch_size,
            normalize=arguments.normalize,
            timings=timings,
        )
        unreadable = 0
        if known is not None:
            batches = embedding_batches([known], detector.bank, normalize=arguments.normalize)
            unreadable = _calibrate(detector, batches, arguments)
        counts = [file.rows for file in files]
        count = None if None in counts else sum(rows or 0 for rows in counts)
        named_by_number = not any(file.has_ids for file in files) and len(files) == 1
        width = len(str(count)) if named_by_number and count else _ID_WIDTH
        code = _report(
            results,
            timings,
            writer or _Table("id", width, detector.bank.id_names),
            what="embeddings",
            count=count,
            quiet=arguments.quiet,
        )
    return code or min(unreadable, 1)


def _refuse(arguments: argparse.Namespace, options: Sequence[str], why: str) -> None:
    for option in options:
        if getattr(arguments, option.strip("-").replace("-", "_")):
            raise ValueError(f"{option} {why}; leave it out")


def _share(text: str) -> float:
    try:
        share = float(text)
    except ValueError:
        share = 0.0
    if not 0 < share < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number between 0 and 1, such as 0.95")
    return share


def add_label_arguments(group: argparse._ArgumentGroup) -> None:
    """Describe the arguments that `class_names` reads."""
    group.add_argument(
        "--labels",
        metavar="FILE",
        type=Path,
        help="class names, one a line; lines that start with # are skipped",
    )
    group.add_argument(
        "--label", metavar="NAME", action="append", default=[], help="one more class name; may be repeated"
    )


def add_backbone_argument(group: argparse._ArgumentGroup) -> None:
    """Describe ``--backbone``, which is None where it is not given."""
    group.add_argument(
        "--backbone",
        metavar="NAME",
        help="the model: mini comes with tanl and needs no network; open_clip fetches names such as "
        "ViT-B-16/openai, transformers those such as hf:google/siglip-base-patch16-224 (default: mini)",
    )


def add_normalize_argument(group: argparse._ArgumentGroup) -> None:
    """Describe ``--normalize``, of embeddings in files."""
    group.add_argument(
        "--normalize",
        action="store_true",
        help="bring the embeddings to unit norm; without it they must have it",
    )


def class_names(arguments: argparse.Namespace) -> list[str]:
    """The classes that ``--labels`` and ``--label`` name.

    Raises:
        ValueError: none, a name twice, or a file that is not text.
        OSError: the file cannot be read.
    """
    labels = list(arguments.label)
    if arguments.labels is not None:
        try:
            lines = arguments.labels.read_text(encoding="utf-8-sig").splitlines()
        except UnicodeDecodeError as error:
            raise ValueError(
                f"{arguments.labels} is not a UTF-8 text file; write one class name a line"
            ) from error
        named = [line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#")]
        if not named:
            raise ValueError(f"{arguments.labels} names no classes; write one class name a line")
        labels = named + labels
    if not labels:
        raise ValueError("no labels: give --labels FILE with a class name a line, or --label NAME")
    repeated = [label for label, count in Counter(labels).items() if count > 1]
    if repeated:
        raise ValueError(f"labels given more than once: {', '.join(map(repr, repeated))}; give each once")
    return labels


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


def _guard(arguments: argparse.Namespace, labels: Sequence[str], corpus: Corpus | None) -> Guard:
    from ..backbones import load_backbone
    from ..backbones.noise import noise_embeddings
    from ..guard.guard import Guard

    backbone = load_backbone(arguments.backbone or "mini", device=arguments.device)
    outliers = noise_embeddings(backbone, seed=arguments.seed) if arguments.method == "tanl" else None

    def detector(bank: LabelBank) -> Detector:
        return make_detector(arguments.method, bank, seed=arguments.seed, initial_ood=outliers)

    return Guard(
        backbone,
        labels,
        corpus=corpus,
        method=detector,
        evidence=arguments.evidence,
        progress=not arguments.quiet and sys.stderr.isatty(),
    )


def _embeddings_detector(
    arguments: argparse.Namespace, labels: Sequence[str], corpus: Corpus | None
) -> Detector:
    if arguments.bank is None:
        return _guard(arguments, labels, corpus).detector
    from ..labels.files import load_bank

    saved = load_bank(arguments.bank, device=arguments.device)
    return make_detector(arguments.method, saved.bank, seed=arguments.seed, initial_ood=saved.initial_ood)


def _calibrate(
    detector: Detector,
    batches: Iterable[Batch],
    arguments: argparse.Namespace,
) -> int:
    """Set the threshold from what is known to be ID and return how many of them could not be read."""
    import torch

    from ..streams.batches import Unusable

    embeddings, unreadable = [], 0
    for batch in batches:
        for image in batch.images:
            if isinstance(image, Unusable):
                unreadable += 1
                _warn_of(Result(image.name, error=image.reason))
        if batch.z is not None:
            embeddings.append(batch.z)
    if not embeddings:
        raise ValueError(
            "nothing of what --calibrate names can be read; give something else, or leave --calibrate out"
        )
    detector.calibrate(detector.score(torch.cat(embeddings)), arguments.tpr or 0.95)
    return unreadable


def _report(
    batches: Iterator[list[Result]],
    timings: Timings,
    output: ResultWriter | _Table,
    *,
    what: str,
    count: int | None,
    quiet: bool,
) -> int:
    """Write results as they come, to a file or as a table, and return the exit code."""
    from tqdm import tqdm

    counts = {"ID": 0, "OOD": 0, "-": 0, "unreadable": 0}
    interrupted = False
    if isinstance(output, _Table):
        print(output.header())
    # disable=None hides the bar where stderr is no terminal.
    with tqdm(total=count, unit=f" {what}", disable=True if quiet else None) as bar:
        try:
            for results in batches:
                if isinstance(output, ResultWriter):
                    output.write(results)
                for result in results:
                    counts[result.outcome] += 1
                    if isinstance(output, _Table):
                        tqdm.write(output.row(result), file=sys.stdout)
                    if result.error is not None:
                        _warn_of(result)
                bar.update(len(results))
        except KeyboardInterrupt:
            interrupted = True

    if not quiet:
        print(_summary(counts, timings, what))
    if interrupted:
        kept = ""
        if isinstance(output, ResultWriter) and output.rows:
            kept = f"; {output.rows} rows are kept in {output.target}"
        print(f"tanl: interrupted{kept}", file=sys.stderr)
        return 130
    return 1 if counts["unreadable"] else 0


def _warn_of(result: Result) -> None:
    from tqdm import tqdm

    kind = "embedding " if isinstance(result.path, str) else ""
    tqdm.write(f"tanl: warning: cannot read {kind}{shown_path(result.path)}: {result.error}", file=sys.stderr)


def _summary(counts: dict[str, int], timings: Timings, what: str) -> str:
    parts = [f"{counts['ID']} ID", f"{counts['OOD']} OOD"] if not counts["-"] else []
    if counts["-"]:
        parts.append(f"{counts['-']} scored without a verdict (--calibrate sets a threshold)")
    if counts["unreadable"]:
        parts.append(f"{counts['unreadable']} unreadable")
    speed = f"{timings.images_per_second:.0f} {what}/s, {timings.scoring_share:.0%} of the time in scoring"
    return f"{sum(counts.values())} {what}: {', '.join(parts)}; {speed}"


class _Table:
    """Results as lines of text in columns; the widths are chosen before the first result is there."""

    def __init__(self, key: str, longest: int, labels: Sequence[str]) -> None:
        self._key = key
        longest = max(longest, len(key))
        # In a terminal a line should stay a line; in a file or a pipe nothing may be cut.
        in_terminal = sys.stdout.isatty()
        self._path_width = min(longest, 36) if in_terminal else longest
        self._line_width = shutil.get_terminal_size().columns if in_terminal else None
        self._label_width = min(max(map(len, labels)), 24) + len(" 100%")

    def header(self) -> str:
        return self._line(self._key, "verdict", "score", "label", "negative labels that it activated")

    def row(self, result: Result) -> str:
        path = shown_path(result.path)
        if self._line_width is not None and len(path) > self._path_width:
            path = "..." + path[3 - self._path_width :]
        verdict = result.verdict
        if verdict is None:
            return self._line(path, result.outcome, "", result.error or "", "")
        label = verdict.label
        # The share is among the ID labels, whatever the image shows: of an outlier it would mislead.
        if not verdict.is_ood:
            label += f" {shown_percentage(verdict.id_probability)}"
        return self._line(path, result.outcome, f"{verdict.ood_score:.4f}", label, result.shown_evidence())

    def _line(self, path: str, verdict: str, score: str, label: str, evidence: str) -> str:
        columns = (
            f"{path:<{self._path_width}}",
            f"{verdict:<10}",
            f"{score:>7}",
            f"{label:<{self._label_width}}",
            evidence,
        )
        return "  ".join(columns)[: self._line_width].rstrip()
