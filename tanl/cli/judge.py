"""``tanl judge``: judge image files, or embeddings of images, against class names."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields
from typing import TYPE_CHECKING

from ..detectors.registry import refuse_settings
from ..integrations.ray.settings import RaySettings
from ..io.arguments import a_path, a_path_or_address, positive_number
from ..io.options import BATCH_SIZE, add_options
from ..io.paths import local_path
from ..io.progress import Progress
from ..io.text import one_line, shown_path
from ..streams.result_files import ResultWriter, open_results
from .judge_made import calibrate_detector, choose_batch_size, run_told
from .judge_told import advice, doubt, is_doubted, summary, threshold_told, warning
from .judged import Judged, judged_embeddings, judged_images
from .label_arguments import (
    add_backbone_argument,
    add_calibration_arguments,
    add_corpus_argument,
    add_device_argument,
    add_evidence_arguments,
    add_label_arguments,
    add_method_arguments,
    add_normalize_argument,
    add_precision_argument,
    add_removal_argument,
    labels_told,
    refuse_tpr_alone,
    removal_of,
)
from .signals import exit_code, held, in_words
from .table import Table

if TYPE_CHECKING:
    pass

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
  tanl judge 's3://bucket/shards/*.tar' --labels labels.txt --backbone ViT-B-16/openai --engine ray --num-gpus 1 \
      --out s3://bucket/results

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
        type=a_path_or_address,
        help="image files, and folders of images; or files of embeddings",
    )

    labels = parser.add_argument_group("labels")
    add_label_arguments(labels)
    add_corpus_argument(labels)
    add_removal_argument(labels)
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
    add_method_arguments(method)
    method.add_argument(
        "--batch-size",
        metavar="N",
        type=positive_number,
        help=f"images or embeddings a batch; TANL learns once a batch (default: {BATCH_SIZE}, and fewer of short "
        "streams, so that it has eight batches to learn from)",
    )
    add_calibration_arguments(method, "DIR_OR_FILE", "images, or embeddings,")
    add_device_argument(method)
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
        type=a_path_or_address,
        help="write the results here, as .csv, .jsonl or .parquet, in place of the table on stdout; "
        "an older file is replaced when the run is over. With --engine ray a folder, or its address",
    )
    add_evidence_arguments(output)
    cluster = parser.add_argument_group("on a cluster")
    cluster.add_argument(
        "--engine",
        choices=("ray",),
        help="read and embed the images on the workers of a Ray cluster, or of a cluster that is started on this "
        "machine; they may also be in .parquet files, tar shards or data sets, and behind addresses (s3://...). --out "
        "is a folder of partitions, and the same command goes on with what is there (docs/scale.md)",
    )
    cluster.add_argument(
        "--format",
        choices=("images", "parquet", "webdataset", "huggingface"),
        help="what the inputs are, where their names do not tell; a data set of Hugging Face's goes by its name",
    )
    cluster.add_argument("--split", metavar="NAME", help="of a data set of Hugging Face's (default: train)")
    add_options(cluster, RaySettings)

    output.add_argument("--quiet", action="store_true", help="no progress bars and no summary")


def main(arguments: argparse.Namespace) -> int:
    """Carry the command out and return its exit code."""
    from ..io.embeddings import is_embedding_file

    # All that can be wrong is looked at before the slow parts: the model, the corpus, the images.
    refuse_tpr_alone(arguments)
    refuse_settings(arguments.method, dict(arguments.settings))
    if arguments.engine == "ray":
        from .judge_ray import judge_on_ray

        return judge_on_ray(arguments)
    refuse_cluster_options(arguments)
    beside_images = arguments.bank is not None
    if any(is_embedding_file(source, beside_images=beside_images) for source in arguments.inputs):
        return _judge(judged_embeddings(arguments), arguments)
    return _judge(judged_images(arguments), arguments)


def _judge(stream: Judged, arguments: argparse.Namespace) -> int:
    """Judge a stream into a file or a table, and return the exit code."""
    from ..streams.pump import Timings

    told_size = arguments.batch_size is not None
    choose_batch_size(arguments, stream.count)
    timings = Timings()
    counts = {"ID": 0, "OOD": 0, "-": 0, "unreadable": 0}
    stop: KeyboardInterrupt | None = None
    doubted = False
    with _results(arguments, stream.key) as writer:
        detector, known, results = stream.begin(timings)
        calibration = None if arguments.calibrate is None else calibrate_detector(detector, known, arguments)
        about = run_told(stream.about, detector, calibration, arguments)
        if stream.corpus is not None and not arguments.quiet:
            print(labels_told(stream.labels, stream.corpus, removal_of(arguments)))
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
                            doubted = doubted or is_doubted(result)
                            if table is not None:
                                progress.write(table.row(result), sys.stdout)
                            if result.error is not None:
                                progress.write(warning(result.path, result.error), sys.stderr)
                        progress.update(len(batch))
            except KeyboardInterrupt as interruption:
                stop = interruption
        if writer is not None:
            with held():
                end = {"threshold": detector.threshold, "rows": sum(counts.values()), **counts}
                end["without_verdict"] = end.pop("-")
                writer.describe({**about, **end, "complete": stop is None})

    if not arguments.quiet:
        print(summary(counts, timings, stream.what))
        for line in (
            threshold_told(detector.threshold, calibration, stream.what),
            advice(sum(counts.values()), stream.what, arguments) if told_size and stop is None else "",
        ):
            if line:
                print(one_line(line))
    # Of a guard's stream its monitor has told it.
    if calibration is not None and not doubted and (doubtful := doubt(counts, calibration)):
        print(f"tanl: warning: {one_line(doubtful)}", file=sys.stderr)
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


def refuse_cluster_options(arguments: argparse.Namespace) -> None:
    """Refuse what means nothing without ``--engine ray``.

    Raises:
        ValueError: one of its options was given; an input or the output is an address.
    """
    names = ["--format", "--split", *(f"--{each.name.replace('_', '-')}" for each in fields(RaySettings))]
    for name in names:
        if getattr(arguments, name.strip("-").replace("-", "_"), None) is not None:
            raise ValueError(f"{name} is for runs on a cluster: add --engine ray, or leave it out")
    for source in [*arguments.inputs, *[arguments.out] * (arguments.out is not None)]:
        local_path(source)
