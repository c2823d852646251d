"""The bank of all labels in one file, and an index of its beginning for every size: made once, found again."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from tanl.backbones.clip import ClipBackbone
from tanl.labels.bank import LabelBank
from tanl.labels.files import load_bank, save_bank_parts
from tanl.labels.index import LabelIndex

from .parts import embed_part, read_part
from .vocabulary import PER_ROUND, ROUNDS, Vocabulary

STAND_IN = "anything at all"  # the file's one ID label: every ID set takes its own in its place
PAIR = " (pair)"  # ends a pair that is a word of WordNet, too
MOST_LISTS = 2048
_SHOWN = 65_536


def rounds_for(vocabulary: Vocabulary, labels: int) -> int:
    """How many rounds of pairs so many labels take.

    Raises:
        ValueError: there are not so many.
    """
    a_round = PER_ROUND * len(vocabulary.adjectives)
    rounds = max(0, -(-(labels - len(vocabulary.words)) // a_round))
    if rounds > ROUNDS:
        raise ValueError(f"there are {len(vocabulary.words) + ROUNDS * a_round} labels, not {labels}")
    return rounds


def names_of(vocabulary: Vocabulary, labels: int) -> list[str]:
    """The names of the first so many labels. A pair that is a word of WordNet is told from it by a bracket."""
    names = list(vocabulary.words.words)
    words = {word.casefold() for word in names}
    for round_ in range(rounds_for(vocabulary, labels)):
        names += [name + PAIR if name in words else name for name in vocabulary.pair_names(round_)]
    return names[:labels]


def make_store(folder: Path, backbone: ClipBackbone, vocabulary: Vocabulary, labels: int) -> Path:
    """The file with the first so many labels, unless it is there."""
    path = folder / f"labels-{labels}.safetensors"
    if path.exists():
        return path
    rounds = [None, *range(rounds_for(vocabulary, labels))]
    for round_ in rounds:
        embed_part(folder / "parts", backbone, vocabulary, round_)

    def rows() -> Iterator[Tensor]:
        yield backbone.encode_texts([f"The nice {STAND_IN}."])
        left = labels
        for round_ in rounds:
            for part in torch.split(read_part(folder / "parts", round_)[:left], _SHOWN):
                yield part
                left -= len(part)

    names = [STAND_IN, *names_of(vocabulary, labels)]
    scale = backbone.logit_scale
    save_bank_parts(path, names, rows(), dim=384, num_id=1, logit_scale=scale, backbone=backbone)
    return path


def beginning(path: Path, labels: int) -> LabelBank:
    """A mapped bank's first so many labels."""
    bank = load_bank(path, mmap=True).bank
    if labels > bank.num_negatives:
        raise ValueError(f"{path} has {bank.num_negatives} labels, not {labels}")
    first = LabelBank.of_checked(
        bank.names[: labels + 1],
        bank.embeddings[: labels + 1],
        num_id=1,
        logit_scale=bank.logit_scale,
    )
    first.file = bank.file
    return first


def make_index(folder: Path, bank: LabelBank) -> tuple[LabelIndex, float | None]:
    """The index of a bank's labels, from its file where it is there; and how many seconds it took to build."""
    path = folder / f"index-{bank.num_negatives}.safetensors"
    if path.exists():
        return LabelIndex.load(path, bank=bank), None
    started = time.perf_counter()
    lists = min(MOST_LISTS, round(2 * bank.num_negatives**0.5))
    index = LabelIndex.of(bank, kind="ivf", lists=lists, folder=folder / f"shards-{bank.num_negatives}")
    took = time.perf_counter() - started
    index.save(path, labels=False)
    return index, took
