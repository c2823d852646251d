"""A guard for the commands that keep one: the one that a folder holds, or a new one."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

from ..detectors.registry import refuse_settings
from ..io.arguments import Arguments, a_path, positive
from ..io.options import BATCH_SIZE
from ..io.text import one_line, shown_path, some_of
from .judge_made import calibrate_detector
from .judge_told import calibration_told
from .judged import corpus_of, known_images, loaded_backbone
from .label_arguments import (
    DEFAULT_METHOD,
    OF_PHOTOGRAPHS,
    add_backbone_argument,
    add_calibration_arguments,
    add_corpus_argument,
    add_device_argument,
    add_evidence_arguments,
    add_label_arguments,
    add_method_arguments,
    add_precision_argument,
    add_removal_argument,
    class_names,
    labels_told,
    refuse_tpr_alone,
    removal_of,
)

if TYPE_CHECKING:
    from ..guard.guard import Guard

_SHOWN = 5


def add_guard_arguments(parser: argparse.ArgumentParser) -> Arguments:
    """Describe the arguments that `open_guard` and `calibrate` read; gives the group about keeping the guard."""
    labels = parser.add_argument_group("labels")
    add_label_arguments(labels)
    add_corpus_argument(labels)
    add_removal_argument(labels)
    method = parser.add_argument_group("method")
    add_backbone_argument(method)
    add_method_arguments(method, default=None)
    add_calibration_arguments(method, "DIR", "images")
    add_device_argument(method)
    add_precision_argument(method)
    add_evidence_arguments(method)
    kept = parser.add_argument_group("what is kept")
    kept.add_argument(
        "--guard",
        metavar="DIR",
        type=a_path,
        help="keep the guard here: what it learnt, its labels and its threshold. A guard that is there goes on with "
        "the labels, corpus, model, method and settings that it has",
    )
    kept.add_argument(
        "--save-every",
        metavar="SECONDS",
        type=positive,
        default=60.0,
        help="keep what has changed so often, and at the end (default: %(default)g)",
    )
    # What `corpus_of` and `calibrate_detector` ask for besides.
    parser.set_defaults(seed=0, batch_size=BATCH_SIZE, quiet=False)
    return kept


def check(arguments: argparse.Namespace) -> None:
    """Refuse what can be refused before anything slow begins.

    Raises:
        ValueError: options that contradict each other; no labels, or unusable ones; too few images to calibrate with;
            settings that the method has not; another method or other settings than the kept guard's.
        OSError: a file that is named cannot be read.
    """
    from ..guard.saving import read_record

    refuse_tpr_alone(arguments)
    arguments.calibration_images, _ = known_images(arguments, recursive=True)
    settings = dict(arguments.settings)
    if is_kept(arguments):
        read_record(arguments.guard).refuse_other_method(arguments.method, settings)
    else:
        arguments.method = arguments.method or DEFAULT_METHOD
        refuse_settings(arguments.method, settings)
        class_names(arguments)


def open_guard(arguments: argparse.Namespace) -> Guard:
    """The guard that ``--guard`` holds, or a new one of the labels; what it is is told on stderr.

    Raises:
        ValueError, OSError: the folder's guard is damaged, or cannot be loaded; labels, corpus or method are unusable.
    """
    from ..guard.guard import Guard
    from ..guard.saving import read_record

    if is_kept(arguments):
        # After edits of labels, or on another machine, the last bits of their embeddings may be others.
        backbone = loaded_backbone(read_record(arguments.guard).backbone, arguments)
        guard = Guard.load(arguments.guard, backbone=backbone, exact=False)
        images = guard.detector.memory_report()
        seen = "" if images is None else f", {images.images} images seen"
        told(f"going on with the guard in {shown_path(arguments.guard)}: {guard!r}{seen}")
        _tell_differences(arguments, guard)
    else:
        labels, corpus = class_names(arguments), corpus_of(arguments)
        if corpus is not None:
            told(labels_told(labels, corpus, removal_of(arguments)))
        guard = Guard(
            loaded_backbone(arguments.backbone or OF_PHOTOGRAPHS, arguments),
            labels,
            corpus=corpus,
            removal=removal_of(arguments),
            method=arguments.method,
            settings=dict(arguments.settings),
            evidence=arguments.evidence,
            show_all=arguments.show_all,
        )
        told(repr(guard))
        if arguments.guard is None:
            told("what this guard learns is gone when it ends; --guard DIR keeps it")
    return guard


def calibrate(guard: Guard, arguments: argparse.Namespace) -> None:
    """Set the threshold from the images that `check` found, if there are any; tells what it is.

    Raises:
        ValueError: too few of them can be read.
    """
    if arguments.calibrate is None:
        return
    from ..streams.images import ImageEncoder, embed_images

    known = embed_images(ImageEncoder(guard.backbone), arguments.calibration_images)
    made = calibrate_detector(guard.detector, known, arguments)
    told(calibration_told(made, "images"))


def is_kept(arguments: argparse.Namespace) -> bool:
    """Whether ``--guard`` names a folder that holds a guard."""
    from ..guard.saving import holds_guard

    return arguments.guard is not None and holds_guard(arguments.guard)


def _tell_differences(arguments: argparse.Namespace, guard: Guard) -> None:
    """Warn of what the command line says otherwise than the guard.

    No error: what starts again after a restart has its first command line, though the labels were edited since.
    """
    differences: dict[str, tuple[str, str]] = {}
    if arguments.backbone not in (None, guard.backbone.name):
        differences["backbone"] = (arguments.backbone, guard.backbone.name)
    if arguments.labels is not None or arguments.label:
        here, own = class_names(arguments), guard.bank.id_names
        if {*here} != {*own}:
            differences["labels"] = (some_of(here, _SHOWN), some_of(own, _SHOWN))
    if arguments.removal not in (None, guard.removal):
        differences["removal"] = (arguments.removal, guard.removal)
    for what, (asked, its) in differences.items():
        told(f"warning: the guard's {what}: {its}, not {asked}; leave --{what} out, or name another folder")


def told(line: str) -> None:
    """Say something on stderr."""
    print(f"tanl: {one_line(line)}", file=sys.stderr, flush=True)
