"""What commands ask alike: class names, corpus, model, method, threshold, and how files of embeddings are read."""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Sequence
from typing import Any

from ..detectors.registry import METHODS, known_method
from ..io.arguments import Arguments, a_name_or_path, a_path, positive_number, share
from ..io.text import one_line
from ..labels.corpus import Corpus
from ..labels.terms import REMOVALS
from ..labels.wordnet import SELECTIONS

OF_PHOTOGRAPHS = "mini-photo"
"""The model that images are judged with where none is named."""
DEFAULT_METHOD = "tanl"
DEFAULT_TPR = 0.95
_REMOVAL = "synonyms"


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


def add_backbone_argument(group: Arguments, *, default: str = OF_PHOTOGRAPHS) -> None:
    """Describe ``--backbone``, which is None where it is not given; ``default`` says what that means."""
    group.add_argument(
        "--backbone",
        metavar="NAME",
        help="the model: open_clip fetches names such as ViT-B-16/openai, transformers those such as "
        "hf:google/siglip-base-patch16-224; mini-photo (of photographs) and mini (of pictograms) come with tanl, to "
        f"try things out (default: {default})",
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


def add_corpus_argument(group: Arguments) -> None:
    """Describe ``--corpus``, which `tanl.cli.judged.corpus_of` reads."""
    group.add_argument(
        "--corpus",
        metavar="NAME_OR_FILE",
        type=a_name_or_path,
        help=f"negative labels: {', '.join(SELECTIONS)}, a text file with a word a line, or none "
        "(default: wordnet; for csp its own phrases; none for the methods without negatives)",
    )


def add_removal_argument(group: Arguments) -> None:
    """Describe ``--removal``, which is None where it is not given; `removal_of` reads it."""
    group.add_argument(
        "--removal",
        choices=sorted(REMOVALS),
        help="which negatives leave for the classes: synonyms, those that name one or are a WordNet synonym of one; "
        f"names, those spelled as one is; kinds, WordNet's hyponyms and proper nouns too (default: {_REMOVAL})",
    )


def removal_of(arguments: argparse.Namespace) -> str:
    """The removal that ``--removal`` names."""
    return arguments.removal or _REMOVAL


def add_method_arguments(group: Arguments, *, default: str | None = DEFAULT_METHOD) -> None:
    """Describe ``--method`` and ``--set``; ``default`` is what ``--method`` is where it is not given."""
    group.add_argument(
        "--method",
        type=_method,
        choices=tuple(METHODS),
        default=default,
        help=f"(default: {DEFAULT_METHOD})",
    )
    group.add_argument(
        "--set",
        dest="settings",
        metavar="NAME=VALUE",
        type=_setting,
        action="append",
        default=[],
        help="a setting of the method, in place of its own: gap=0.5; may be repeated. The results say which it has",
    )


def _setting(text: str) -> tuple[str, Any]:
    name, is_given, value = text.partition("=")
    if not (name and is_given and value):
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=VALUE, such as gap=0.5")
    try:
        return name, {"none": None, "None": None}[value] if value in ("none", "None") else json.loads(value)
    except ValueError:
        return name, value  # a word, as of memory=guarded


def _method(name: str) -> str:
    # A name that nobody knows is for argparse to refuse: it says which argument it is of.
    try:
        return known_method(name)
    except ValueError:
        return name


def add_calibration_arguments(group: Arguments, metavar: str, what: str) -> None:
    """Describe ``--calibrate`` and ``--tpr``, which `tanl.cli.judge_made.calibrate_detector` reads."""
    group.add_argument(
        "--calibrate",
        metavar=metavar,
        type=a_path,
        help=f"{what} that belong to the classes: the threshold is set so that such ones pass",
    )
    group.add_argument(
        "--tpr",
        metavar="SHARE",
        type=share,
        help=f"with --calibrate: the share of them that is to pass (default: {DEFAULT_TPR})",
    )


def refuse_tpr_alone(arguments: argparse.Namespace) -> None:
    """Refuse ``--tpr`` without ``--calibrate``."""
    if arguments.tpr is not None and arguments.calibrate is None:
        raise ValueError("--tpr is the share of what --calibrate names that is to pass: give --calibrate too")


def add_device_argument(group: Arguments) -> None:
    """Describe ``--device``."""
    group.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1, mps (default: %(default)s)")


def add_evidence_arguments(group: Arguments) -> None:
    """Describe ``--evidence`` and ``--show-all``."""
    group.add_argument(
        "--evidence",
        metavar="K",
        type=positive_number,
        default=5,
        help="negative labels to name for an outlier (default: %(default)s)",
    )
    group.add_argument(
        "--show-all",
        action="store_true",
        help="name any negative label as evidence; without it slurs, obscenities, peoples, religions, crimes and "
        "diseases among WordNet's words score, but are not named",
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


def labels_told(labels: Sequence[str], corpus: Corpus, removal: str) -> str:
    """A line that says what was understood of the labels, and for which no word of the corpus was found."""
    from ..labels.understood import told, understood_labels

    return one_line(f"labels: {told(understood_labels(labels, corpus, removal), corpus, removal)}")
