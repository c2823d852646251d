"""``python -m tools overhead``: what OOD detection adds to the time that encoding the images takes anyway.

The image tower has the size of the real one and random weights: its time does not depend on them. The labels get
random embeddings, which cost the same too. With a gap of 0 every image counts as confident and is learnt from: no
stream makes more work.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from statistics import median
from tempfile import TemporaryDirectory

import torch
from torch import Tensor
from torch.nn.functional import normalize
from tqdm import tqdm

from tanl.backbones.base import height_and_width
from tanl.backbones.clip import ClipBackbone
from tanl.backbones.loading import quiet
from tanl.backbones.noise import noise_embeddings
from tanl.benchmarks.output.targets import add_json_option, check_targets, write_json
from tanl.detectors import TANL
from tanl.guard.guard import Guard
from tanl.io.arguments import positive_number
from tanl.labels.bank import LabelBank


@dataclass(frozen=True)
class Overhead:
    """What was measured.

    Attributes:
        architecture: open_clip's name of the model.
        batch_size: images a batch.
        labels: ID labels.
        negatives: negative labels.
        threads: torch's.
        encode: seconds for the images' embeddings, one a round.
        detect: seconds of `Guard.detect_embeddings` on them in the same round: scores, learning, verdicts, evidence.
    """

    architecture: str
    batch_size: int
    labels: int
    negatives: int
    threads: int
    encode: tuple[float, ...]
    detect: tuple[float, ...]

    @property
    def share(self) -> float:
        """The median over rounds of what detection adds, as a share of encoding."""
        return median(detect / encode for encode, detect in zip(self.encode, self.detect, strict=True))


class _RandomTexts(ClipBackbone):
    """An open_clip model whose texts have random embeddings ``[n, dim]``."""

    dim = 0

    def encode_texts(self, texts: Sequence[str], *, batch_size: int = 256) -> Tensor:
        generator = torch.Generator().manual_seed(len(texts))
        rows = torch.randn(len(texts), self.dim, generator=generator)
        return normalize(rows, dim=1)


def measure(
    architecture: str,
    *,
    batch_size: int = 256,
    labels: int = 1000,
    corpus: str = "neglabel",
    rounds: int = 3,
    progress: bool = False,
) -> Overhead:
    """Time encoding and detection in turn.

    Args:
        architecture: an open_clip model, such as "ViT-B-16".
        batch_size: images a batch.
        labels: how many ID labels there are.
        corpus: the negative labels, as `Corpus.load` takes them.
        rounds: batches that are timed, after one that is not.
        progress: show a progress bar.

    Raises:
        ValueError: no such architecture or corpus.
    """
    import open_clip

    if architecture not in open_clip.list_models():
        raise ValueError(
            f"no architecture {architecture!r}; open_clip has {', '.join(open_clip.list_models())}"
        )
    with quiet():  # it warns of the random weights, which are meant
        model, _, preprocess = open_clip.create_model_and_transforms(architecture, pretrained=None)
    backbone = _RandomTexts(model, preprocess, open_clip.get_tokenizer(architecture), name=architecture)
    noise = noise_embeddings(backbone, per_kind=1)
    backbone.dim = noise.shape[1]

    def method(bank: LabelBank) -> TANL:
        return TANL(bank, gap=0.0, initial_ood=noise)

    names = [f"class {number}" for number in range(labels)]
    with TemporaryDirectory() as cache:  # random embeddings are nothing to keep
        guard = Guard(backbone, names, corpus=corpus, method=method, cache_dir=cache)
    pixels = torch.randn(batch_size, 3, *height_and_width(backbone.image_size))
    encode, detect = [], []
    for number in tqdm(range(rounds + 1), desc="Timing", unit="batches", disable=not progress):
        started = time.perf_counter()
        z = guard.encode(pixels)
        encoded = time.perf_counter()
        guard.detect_embeddings(z)
        detected = time.perf_counter()
        if number:  # the first round loads kernels and touches memory
            encode.append(encoded - started)
            detect.append(detected - encoded)
    bank = guard.bank
    return Overhead(
        architecture,
        batch_size,
        bank.num_id,
        bank.num_negatives,
        torch.get_num_threads(),
        tuple(encode),
        tuple(detect),
    )


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the command's options."""
    parser.add_argument(
        "--architecture", metavar="NAME", default="ViT-B-16", help="an open_clip model (default: %(default)s)"
    )
    parser.add_argument(
        "--batch-size",
        type=positive_number,
        metavar="N",
        default=256,
        help="images a batch (default: %(default)s)",
    )
    parser.add_argument(
        "--labels", type=positive_number, metavar="N", default=1000, help="ID labels (default: %(default)s)"
    )
    parser.add_argument(
        "--corpus", metavar="NAME", default="neglabel", help="the negative labels (default: %(default)s)"
    )
    parser.add_argument(
        "--rounds",
        type=positive_number,
        metavar="N",
        default=3,
        help="batches that are timed (default: %(default)s)",
    )
    add_json_option(parser)


def main(arguments: argparse.Namespace) -> int:
    """Run the command and print what it found."""
    check_targets(arguments.json)
    found = measure(
        arguments.architecture,
        batch_size=arguments.batch_size,
        labels=arguments.labels,
        corpus=arguments.corpus,
        rounds=arguments.rounds,
        progress=sys.stderr.isatty(),
    )
    print(
        f"{found.architecture}, random weights, {found.threads} threads, batches of {found.batch_size}, "
        f"{found.labels} ID labels, {found.negatives} negatives; medians of {len(found.encode)}:\n"
        f"  encoding   {median(found.encode):8.3f} s\n"
        f"  detection  {median(found.detect):8.3f} s, which adds {found.share:.2%}"
    )
    if arguments.json is not None:
        record = {**asdict(found), "share": found.share}
        write_json(arguments.json, record)
    return 0
