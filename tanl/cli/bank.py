"""``tanl bank``: labels and their embeddings in one file, for judging embeddings without the model that made them."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..io.arguments import a_name_or_path, a_path, given, positive
from ..io.text import shown_path
from ..labels.corpus import Corpus
from ..labels.wordnet import SELECTIONS
from .label_arguments import (
    OF_PHOTOGRAPHS,
    add_backbone_argument,
    add_label_arguments,
    add_normalize_argument,
    add_precision_argument,
    add_removal_argument,
    class_names,
    labels_told,
    removal_of,
)

if TYPE_CHECKING:
    from torch import Tensor

    from ..labels.bank import LabelBank

_DESCRIPTION = """\
Put class names, negative labels and their embeddings into one file, a label bank. It loads on any machine: with it
`tanl judge` judges images without embedding a single word, or embeddings of images without the model; in Python
tanl.load_bank reads it. Images must be embedded by the model that made the bank; it is noted in the file."""

_EPILOG = """\
examples:
  tanl bank --labels labels.txt --backbone ViT-B-16/openai --float16 --out bank.safetensors
  tanl bank --labels labels.txt --corpus neglabel --out bank.safetensors
  tanl bank --labels labels.txt --id-embeddings id.npy --negatives words.txt \\
      --negative-embeddings negatives.npy --logit-scale 100 --out bank.safetensors
  tanl judge photos/ --bank bank.safetensors
  tanl judge embeddings.npy --bank bank.safetensors

embeddings of your own, from a model that tanl cannot load: a row for each name, in the order of the names,
in a file of any kind that `tanl judge` reads embeddings from. Names go into a text file, one a line.
The logit scale is what the model multiplies cosines by: model.logit_scale.exp() of a CLIP, often 100.

negative labels that are one of the classes, or a WordNet synonym of one, are left out.

outliers: TANL starts from a few embeddings that are known to be OOD. With a model that tanl loads they are
those of noise images; of your own give --outliers, or TANL starts without any.

exit codes: 0 done; 2 a mistake in what was asked for; 130 interrupted."""

_OF_A_MODEL = ("--backbone", "--corpus", "--device", "--precision")
_OF_ONES_OWN = ("--negatives", "--negative-embeddings", "--logit-scale", "--outliers", "--normalize")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the command's arguments."""
    parser.description = _DESCRIPTION
    parser.epilog = _EPILOG
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument(
        "--out",
        metavar="FILE",
        type=a_path,
        required=True,
        help="the file to write, NAME.safetensors; an older one is replaced when the new one is whole",
    )
    parser.add_argument(
        "--float16",
        action="store_true",
        help="keep the embeddings as float16: half the size, nearly the same scores",
    )
    add_removal_argument(parser)
    parser.add_argument("--quiet", action="store_true", help="no progress bars and no summary")

    add_label_arguments(parser.add_argument_group("labels"))

    model = parser.add_argument_group("embedded by a model")
    add_backbone_argument(model)
    model.add_argument(
        "--corpus",
        metavar="NAME_OR_FILE",
        type=a_name_or_path,
        help=f"negative labels: {', '.join(SELECTIONS)}, a text file with a word a line, or none "
        "(default: wordnet)",
    )
    model.add_argument("--device", help="cpu, cuda, cuda:1, mps (default: cpu)")
    add_precision_argument(model)

    own = parser.add_argument_group("embeddings of your own")
    own.add_argument("--id-embeddings", metavar="FILE", type=a_path, help="of the classes, a row for each")
    own.add_argument(
        "--negatives",
        metavar="NAME_OR_FILE",
        type=a_name_or_path,
        help="the negative labels, as --corpus takes them: usually a text file with a word a line",
    )
    own.add_argument(
        "--negative-embeddings", metavar="FILE", type=a_path, help="of the negative labels, a row for each"
    )
    own.add_argument(
        "--logit-scale", metavar="S", type=positive, help="what the model multiplies cosines by, often 100"
    )
    own.add_argument(
        "--outliers",
        metavar="FILE",
        type=a_path,
        help="embeddings of images known to be OOD, for TANL to start from",
    )
    add_normalize_argument(own)


def main(arguments: argparse.Namespace) -> int:
    """Carry the command out and return its exit code."""
    if arguments.out.suffix != ".safetensors":
        raise ValueError(f"a bank is a safetensors file; {str(arguments.out)!r} does not end in .safetensors")
    if not arguments.out.parent.is_dir():
        raise ValueError(f"the bank cannot be written: make the directory {arguments.out.parent} first")
    if arguments.id_embeddings is None:
        for option in _OF_ONES_OWN:
            if given(arguments, option):
                raise ValueError(
                    f"{option} is for embeddings of your own: give --id-embeddings too, or leave it out"
                )
    else:
        for option in _OF_A_MODEL:
            if given(arguments, option):
                raise ValueError(
                    f"{option} contradicts --id-embeddings, for which no model is loaded; leave one out"
                )
        if arguments.logit_scale is None:
            raise ValueError(
                "--id-embeddings needs --logit-scale, what the model multiplies cosines by: "
                "model.logit_scale.exp() of a CLIP, often 100"
            )
        if (arguments.negatives is None) != (arguments.negative_embeddings is None):
            raise ValueError("--negatives and --negative-embeddings go together: give both, or neither")
    labels = class_names(arguments)
    make = _embedded_by_a_model if arguments.id_embeddings is None else _of_embeddings
    bank, outliers, corpus = make(arguments, labels)
    if not arguments.quiet:
        if corpus is not None:
            print(labels_told(labels, corpus, removal_of(arguments)))
        print(_summary(arguments.out, bank, outliers))
    return 0


def _embedded_by_a_model(
    arguments: argparse.Namespace, labels: Sequence[str]
) -> tuple[LabelBank, Tensor | None, Corpus | None]:
    """Write a bank that a backbone embeds; gives it, its outliers, and the corpus that its negatives are of."""
    corpus = None if arguments.corpus == "none" else Corpus.load(arguments.corpus or "wordnet")

    import torch

    from ..backbones import load_backbone
    from ..backbones.noise import noise_embeddings
    from ..labels.build import build_bank
    from ..labels.files import save_bank

    backbone = load_backbone(
        arguments.backbone or OF_PHOTOGRAPHS,
        device=arguments.device or "cpu",
        precision=arguments.precision or "fp32",
    )
    bank = build_bank(
        backbone,
        labels,
        corpus=corpus,
        removal=removal_of(arguments),
        progress=not arguments.quiet,
        dtype=torch.float16 if arguments.float16 else torch.float32,
    )
    outliers = noise_embeddings(backbone)
    save_bank(bank, arguments.out, initial_ood=outliers, backbone=backbone)
    return bank, outliers, corpus


def _of_embeddings(
    arguments: argparse.Namespace, labels: Sequence[str]
) -> tuple[LabelBank, Tensor | None, Corpus | None]:
    """The same of embeddings that are there."""
    import torch

    from ..labels.bank import LabelBank
    from ..labels.files import save_bank

    rows = _rows(arguments, arguments.id_embeddings, labels, "labels")
    names, words = list(labels), None
    if arguments.negatives is not None:
        words = Corpus.load(arguments.negatives)
        embeddings = _rows(
            arguments, arguments.negative_embeddings, words.words, f"words in {arguments.negatives}"
        )
        kept = words.without(labels, removal_of(arguments))
        place = {word: row for row, word in enumerate(words.words)}
        if embeddings.shape[1] != rows.shape[1]:
            raise ValueError(
                f"{arguments.id_embeddings} has D = {rows.shape[1]}, but {arguments.negative_embeddings} has "
                f"D = {embeddings.shape[1]}; both must come from the same model"
            )
        rows = torch.cat([rows, embeddings[[place[word] for word in kept.words]]])
        names += kept.words
    bank = LabelBank(
        names,
        rows,
        num_id=len(labels),
        logit_scale=arguments.logit_scale,
        dtype=torch.float16 if arguments.float16 else torch.float32,
    )
    outliers = None if arguments.outliers is None else _rows(arguments, arguments.outliers)
    save_bank(bank, arguments.out, initial_ood=outliers)
    return bank, outliers, words


def _rows(
    arguments: argparse.Namespace, path: Path, names: Sequence[str] | None = None, what: str = ""
) -> Tensor:
    """All embeddings in a file; as many as there are names, if there are names."""
    import torch

    from ..io.embeddings import open_embeddings

    parts: list[Tensor] = []
    for batch in open_embeddings(path).batches(4096, normalize=arguments.normalize):
        for row, error in sorted(batch.errors.items()):
            raise ValueError(f"{path}: row {sum(map(len, parts)) + row} cannot be used: {error}")
        parts.append(batch.z)
    z = torch.cat(parts)
    if names is not None and len(z) != len(names):
        raise ValueError(
            f"{path} has {len(z)} rows, but there are {len(names)} {what}; give a row for each, in order"
        )
    return z


def _summary(path: Path, bank: LabelBank, outliers: Tensor | None) -> str:
    parts = [f"{bank.num_id} ID labels", f"{bank.num_negatives} negative labels", f"D = {bank.dim}"]
    if outliers is not None:
        parts.append(f"{len(outliers)} outliers")
    return f"{shown_path(path)}: {', '.join(parts)}, {path.stat().st_size / 1e6:.1f} MB"
