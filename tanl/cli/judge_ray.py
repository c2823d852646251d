"""``tanl judge --engine ray``: the same on a cluster, into a folder of partitions."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from ..integrations.ray.settings import RaySettings
from ..io.arguments import refuse
from ..io.options import settings_of
from ..io.progress import Progress
from ..io.text import one_line, shown_path
from ..streams.results import Result
from .judge_made import calibrate_detector, choose_batch_size, run_told
from .judge_told import doubt, threshold_told
from .judged import hidden_labels, image_method, known_images
from .label_arguments import labels_told, removal_of
from .signals import exit_code, in_words


def judge_on_ray(arguments: argparse.Namespace) -> int:
    """Carry the command out on a cluster, and return its exit code."""
    from ..integrations.ray.cluster import ray
    from ..integrations.ray.embedding import NamedBackbone
    from ..integrations.ray.judging import Judgement, judge
    from ..io.shards import open_shards

    refuse(arguments, ("--normalize",), "is for files of embeddings; these are images")
    if arguments.out is None:
        raise ValueError("--engine ray writes partitions into a folder: give it with --out DIR")
    settings = settings_of(arguments, RaySettings())
    ray()  # told before anything slow
    method = image_method(arguments)
    shards = open_shards(
        arguments.inputs,
        kind=arguments.format,
        column=arguments.column,
        id_column=arguments.id_column,
        recursive=arguments.recursive,
        split=arguments.split or "train",
        unit_rows=settings.unit_rows,
        seed=arguments.seed if arguments.shuffle else None,
    )
    if arguments.shuffle and shards.kind != "images":
        raise ValueError(
            "--shuffle is for files of images: Parquet, shards and data sets are read in their order"
        )
    for note in shards.notes:
        print(f"tanl: warning: {one_line(note)}", file=sys.stderr)
    choose_batch_size(arguments, shards.count)
    known, unlisted_known = known_images(arguments, arguments.recursive)

    from ..streams.images import ImageEncoder, embed_images

    backbone, detector, judging = method.load()
    calibration = None
    if arguments.calibrate is not None:
        calibration = calibrate_detector(
            detector, embed_images(ImageEncoder(backbone), known) if known else (), arguments
        )
    about: dict[str, Any] = run_told(method.about, detector, calibration, arguments)
    if method.corpus is not None and not arguments.quiet:
        print(labels_told(method.labels, method.corpus, removal_of(arguments)))
    judgement = Judgement(
        detector,
        judging,
        arguments.evidence,
        hidden_labels(method.corpus, arguments),
        NamedBackbone(method.backbone, arguments.precision or "fp32"),
        backbone.fingerprint,
    )
    with Progress(shards.count, "images", quiet=arguments.quiet) as progress:

        def seen(results: list[Result]) -> None:
            for result in results:
                if result.error is not None:
                    told = one_line(f"{shown_path(result.path)}: {result.error}")
                    progress.write(f"tanl: warning: cannot read {told}", sys.stderr)
            progress.update(len(results))

        try:
            done = judge(
                judgement,
                shards,
                arguments.out,
                settings=settings,
                batch_size=arguments.batch_size,
                about=about,
                seen=seen,
            )
        except KeyboardInterrupt as stop:
            told = f"{in_words(stop)}; the same command goes on with what is in {shown_path(arguments.out)}"
            print(f"tanl: {told}", file=sys.stderr)
            return exit_code(stop)
    if not arguments.quiet:
        counts = ", ".join(f"{count} {name}" for name, count in done.counts.items() if count and name != "-")
        without = f"{done.counts['-']} judged without a verdict" if done.counts["-"] else ""
        before = f" ({done.before} of them before)" if done.before else ""
        print(f"{done.rows} images in {done.folder}{before}: {', '.join(filter(None, (counts, without)))}")
        print(one_line(threshold_told(detector.threshold, calibration, "images")))
    if calibration is not None and (doubtful := doubt(dict(done.counts), calibration)):
        print(f"tanl: warning: {one_line(doubtful)}", file=sys.stderr)
    return 1 if done.counts["unreadable"] or shards.unlisted or unlisted_known else 0
