"""How the rows of `tanl judge` are made: what is told of that in results, and the threshold."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from .. import __version__
from ..detectors.registry import LEARNING, settings_told
from ..io.options import BATCH_SIZE, batch_size_for
from ..io.progress import Progress
from ..io.text import shown_path
from .judge_told import warning
from .label_arguments import DEFAULT_TPR

if TYPE_CHECKING:
    from ..detectors import Detector
    from ..streams.pump import Batch


def run_told(
    of_stream: dict[str, Any],
    detector: Detector,
    calibration: dict[str, Any] | None,
    arguments: argparse.Namespace,
) -> dict[str, Any]:
    """How the rows of a run are made, as its results tell."""
    return {
        "tanl": __version__,
        **of_stream,
        "method": arguments.method,
        "settings": settings_told(detector),
        "seed": arguments.seed,
        "batch_size": arguments.batch_size,
        "inputs": [shown_path(source) for source in arguments.inputs],
        "shuffled": arguments.shuffle,
        "calibration": calibration,
    }


def calibrate_detector(
    detector: Detector, batches: Iterable[Batch], arguments: argparse.Namespace
) -> dict[str, Any]:
    """Set the threshold from what is known to be ID; gives what is told of that in the results."""
    import torch

    from ..streams.batches import Unusable

    embeddings, unreadable = [], 0
    with Progress(None, "calibrated", quiet=arguments.quiet) as progress:
        for batch in batches:
            for image in batch.images:
                if isinstance(image, Unusable):
                    unreadable += 1
                    progress.write(warning(image.name, image.reason), sys.stderr)
            if batch.z is not None:
                embeddings.append(batch.z)
            progress.update(len(batch.images))
    if not embeddings:
        raise ValueError(
            "nothing of what --calibrate names can be read; give something else, or leave --calibrate out"
        )
    z = torch.cat(embeddings)
    tpr = arguments.tpr or DEFAULT_TPR
    threshold = detector.calibrate_embeddings(z, tpr, batch_size=arguments.batch_size)
    return {
        "of": shown_path(arguments.calibrate),
        "count": len(z),
        "unreadable": unreadable,
        "tpr": tpr,
        "threshold": threshold,
    }


def choose_batch_size(arguments: argparse.Namespace, count: int | None) -> None:
    """Set ``--batch-size`` where it was not given, by how many images there are."""
    if arguments.batch_size is None:
        learns = arguments.method in LEARNING
        arguments.batch_size = batch_size_for(count) if learns else BATCH_SIZE
