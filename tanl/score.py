"""``tanl score``: judge image files against class names."""

from __future__ import annotations

import argparse
import random
import shutil
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from .cli import positive_number
from .corpus import Corpus
from .results import Result, ResultWriter, open_results, shown_path, shown_percentage

if TYPE_CHECKING:
    from .detectors import Detector
    from .guard import Guard
    from .labels import LabelBank
    from .stream import Timings

METHODS = ("tanl", "neglabel", "adaneg", "csp", "mcm", "max_logit", "energy")
_WITH_NEGATIVES = ("tanl", "neglabel", "adaneg", "csp")

_DESCRIPTION = """\
Judge images against class names. Each image gets an OOD score (higher = further from all your
classes), the best of your labels with its probability among them, a verdict and, for an outlier,
the negative labels that it activated."""

_EPILOG = """\
examples:
  tanl score photos/ --labels labels.txt
  tanl score photos/ --labels labels.txt --shuffle --out results.csv
  tanl score a.jpg b.png --label cat --label dog --method neglabel
  tanl score photos/ --labels labels.txt --calibrate known-good/ --tpr 0.95
  tanl score photos/ --labels labels.txt --backbone ViT-B-16/openai --device cuda

order: TANL learns from the stream as it goes, so its verdicts depend on the order of the images and on
the batch size. A folder sorted by class is its worst case: add --shuffle where the order means nothing.

threshold: TANL finds its own in the stream. The other methods give scores and no verdicts until
--calibrate sets a threshold from images that are known to belong to the classes.

exit codes: 0 all images scored; 1 some could not be read (each is named on stderr and keeps a row with
its error); 2 a mistake in what was asked for; 130 interrupted (what was scored by then is kept)."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the command's arguments."""
    parser.description = _DESCRIPTION
    parser.epilog = _EPILOG
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument(
        "images", nargs="+", metavar="IMAGES_OR_DIR", help="image files, and folders of images"
    )

    labels = parser.add_argument_group("labels")
    labels.add_argument(
        "--labels",
        metavar="FILE",
        type=Path,
        help="class names, one a line; lines that start with # are skipped",
    )
    labels.add_argument(
        "--label", metavar="NAME", action="append", default=[], help="one more class name; may be repeated"
    )
    labels.add_argument(
        "--corpus",
        metavar="NAME_OR_FILE",
        help="negative labels: wordnet, neglabel, wordnet-nouns, a text file with a word a line, or none "
        "(default: wordnet for tanl and neglabel, none for the methods without negatives)",
    )

    method = parser.add_argument_group("method")
    method.add_argument(
        "--backbone",
        metavar="NAME",
        default="mini",
        help="the model: mini comes with tanl and needs no network; open_clip fetches names such as "
        "ViT-B-16/openai (default: %(default)s)",
    )
    method.add_argument("--method", choices=METHODS, default="tanl", help="(default: %(default)s)")
    method.add_argument(
        "--batch-size",
        metavar="N",
        type=positive_number,
        default=64,
        help="images a batch; TANL learns once a batch (default: %(default)s)",
    )
    method.add_argument(
        "--calibrate",
        metavar="DIR",
        type=Path,
        help="images that belong to the classes: the threshold is set so that such images pass",
    )
    method.add_argument(
        "--tpr",
        metavar="SHARE",
        type=_share,
        help="with --calibrate: the share of such images that is to pass (default: 0.95)",
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
    from .images import find_images

    # All that can be wrong is looked at before the slow parts: the model, the corpus, the images.
    if arguments.tpr is not None and arguments.calibrate is None:
        raise ValueError(
            "--tpr is the share of the --calibrate images that is to pass: give --calibrate DIR too"
        )
    labels = _labels(arguments)
    corpus = _corpus(arguments)
    paths = [path for source in arguments.images for path in find_images(source, arguments.recursive)]
    known = find_images(arguments.calibrate, arguments.recursive) if arguments.calibrate else []
    if arguments.shuffle:
        random.Random(arguments.seed).shuffle(paths)

    with nullcontext() if arguments.out is None else open_results(arguments.out) as writer:
        guard = _guard(arguments, labels, corpus)
        unreadable = _calibrate(guard, known, arguments.tpr or 0.95) if known else 0
        code = _judge(guard, paths, writer, batch_size=arguments.batch_size, quiet=arguments.quiet)
    return code or min(unreadable, 1)


def _share(text: str) -> float:
    try:
        share = float(text)
    except ValueError:
        share = 0.0
    if not 0 < share < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number between 0 and 1, such as 0.95")
    return share


def _labels(arguments: argparse.Namespace) -> list[str]:
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
    if arguments.method not in _WITH_NEGATIVES:
        if arguments.corpus not in (None, "none"):
            raise ValueError(f"--method {arguments.method} uses no negative labels: leave --corpus out")
        return None
    if arguments.corpus == "none":
        raise ValueError(f"--method {arguments.method} scores with negative labels: --corpus cannot be none")
    if arguments.method == "csp" and arguments.corpus is None:
        from .detectors import conjugated_words

        return conjugated_words(seed=arguments.seed)
    return Corpus.load(arguments.corpus or "wordnet")


def _guard(arguments: argparse.Namespace, labels: Sequence[str], corpus: Corpus | None) -> Guard:
    from .backbones import load_backbone
    from .detectors import CSP, TANL, AdaNeg, NegLabel
    from .guard import METHODS as BY_NAME
    from .guard import Guard
    from .noise import noise_embeddings

    backbone = load_backbone(arguments.backbone, device=arguments.device)
    seed = arguments.seed
    seeded: dict[str, Callable[..., Detector]] = {"neglabel": NegLabel, "adaneg": AdaNeg, "csp": CSP}

    def detector(bank: LabelBank) -> Detector:
        if arguments.method == "tanl":
            return TANL(bank, seed=seed, initial_ood=noise_embeddings(backbone, seed=seed))
        if arguments.method in seeded:
            return seeded[arguments.method](bank, seed=seed)
        return BY_NAME[arguments.method](bank)

    return Guard(
        backbone,
        labels,
        corpus=corpus,
        method=detector,
        evidence=arguments.evidence,
        progress=not arguments.quiet and sys.stderr.isatty(),
    )


def _calibrate(guard: Guard, paths: Sequence[Path], tpr: float) -> int:
    """Set the threshold from ID images and return how many of them could not be read."""
    import torch

    from .stream import embed_files

    embeddings, unreadable = [], 0
    for results, z in embed_files(guard, paths):
        for result in results:
            if result.error is not None:
                unreadable += 1
                _warn_of(result)
        if z is not None:
            embeddings.append(z)
    if not embeddings:
        raise ValueError("none of the --calibrate images can be read; give others, or leave --calibrate out")
    detector = guard.detector
    detector.calibrate(detector.score(torch.cat(embeddings)), tpr)
    return unreadable


def _judge(
    guard: Guard, paths: Sequence[Path], writer: ResultWriter | None, *, batch_size: int, quiet: bool
) -> int:
    from tqdm import tqdm

    from .stream import Timings, judge_files

    timings = Timings()
    counts = {"ID": 0, "OOD": 0, "-": 0, "unreadable": 0}
    table = _Table(paths, guard.bank.id_names) if writer is None else None
    interrupted = False
    if table is not None:
        print(table.header())
    # disable=None hides the bar where stderr is no terminal.
    with tqdm(total=len(paths), unit=" images", disable=True if quiet else None) as bar:
        try:
            for results in judge_files(guard, paths, batch_size=batch_size, timings=timings):
                if writer is not None:
                    writer.write(results)
                for result in results:
                    counts[result.verdict] += 1
                    if table is not None:
                        tqdm.write(table.row(result), file=sys.stdout)
                    if result.error is not None:
                        _warn_of(result)
                bar.update(len(results))
        except KeyboardInterrupt:
            interrupted = True

    if not quiet:
        print(_summary(counts, timings))
    if interrupted:
        kept = (
            f"; {writer.rows} rows are kept in {writer.target}" if writer is not None and writer.rows else ""
        )
        print(f"tanl: interrupted{kept}", file=sys.stderr)
        return 130
    return 1 if counts["unreadable"] else 0


def _warn_of(result: Result) -> None:
    from tqdm import tqdm

    tqdm.write(f"tanl: warning: cannot read {shown_path(result.path)}: {result.error}", file=sys.stderr)


def _summary(counts: dict[str, int], timings: Timings) -> str:
    parts = [f"{counts['ID']} ID", f"{counts['OOD']} OOD"] if not counts["-"] else []
    if counts["-"]:
        parts.append(f"{counts['-']} scored without a verdict (--calibrate sets a threshold)")
    if counts["unreadable"]:
        parts.append(f"{counts['unreadable']} unreadable")
    speed = f"{timings.images_per_second:.0f} images/s, {timings.scoring_share:.0%} of the time in scoring"
    return f"{sum(counts.values())} images: {', '.join(parts)}; {speed}"


class _Table:
    """Results as lines of text in columns; the widths are chosen before the first result is there."""

    def __init__(self, paths: Sequence[Path], labels: Sequence[str]) -> None:
        longest = max(len(shown_path(path)) for path in paths)
        # In a terminal a line should stay a line; in a file or a pipe nothing may be cut.
        in_terminal = sys.stdout.isatty()
        self._path_width = min(longest, 36) if in_terminal else longest
        self._line_width = shutil.get_terminal_size().columns if in_terminal else None
        self._label_width = min(max(map(len, labels)), 24) + len(" 100%")

    def header(self) -> str:
        return self._line("file", "verdict", "score", "label", "negative labels that it activated")

    def row(self, result: Result) -> str:
        path = shown_path(result.path)
        if len(path) > self._path_width:
            path = "..." + path[3 - self._path_width :]
        if result.error is not None:
            return self._line(path, result.verdict, "", result.error, "")
        label = result.label or ""
        # The share is among the ID labels, whatever the image shows: of an outlier it would mislead.
        if not result.is_ood:
            label += f" {shown_percentage(result.id_probability or 0.0)}"
        return self._line(path, result.verdict, f"{result.ood_score:.4f}", label, result.shown_evidence())

    def _line(self, path: str, verdict: str, score: str, label: str, evidence: str) -> str:
        columns = (
            f"{path:<{self._path_width}}",
            f"{verdict:<10}",
            f"{score:>7}",
            f"{label:<{self._label_width}}",
            evidence,
        )
        return "  ".join(columns)[: self._line_width].rstrip()
