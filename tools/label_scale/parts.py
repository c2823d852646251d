"""The embeddings of the vocabulary's words and rounds, float16, a file each: what is there is not made again."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from tanl.backbones.clip import ClipBackbone
from tanl.labels.build import label_prompts

from .pairs import PairEncoder
from .vocabulary import Vocabulary

_AT_ONCE = 4096


def part_path(folder: Path, round_: int | None) -> Path:
    """The file of a round, or of the words."""
    return folder / ("words.npy" if round_ is None else f"pairs-{round_:02d}.npy")


def embed_part(folder: Path, backbone: ClipBackbone, vocabulary: Vocabulary, round_: int | None) -> Path:
    """Embed a round's pairs, or the words, unless their file is there; gives the file."""
    path = part_path(folder, round_)
    if path.exists():
        return path
    if round_ is None:
        prompts = label_prompts((), vocabulary.words, None)
        batches: list[Tensor] = [
            backbone.encode_texts(prompts[start : start + _AT_ONCE]).half()
            for start in range(0, len(prompts), _AT_ONCE)
        ]
    else:
        encoder = PairEncoder(backbone, vocabulary.adjectives, vocabulary.nouns)
        batches = [encoder(adjective, nouns).half() for adjective, nouns in vocabulary.pairs(round_)]
    folder.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(".part")
    with unfinished.open("wb") as stream:
        np.save(stream, torch.cat(batches).numpy())
    unfinished.replace(path)
    return path


def read_part(folder: Path, round_: int | None) -> Tensor:
    """A part's rows ``[n, D]`` float16, in memory."""
    return torch.from_numpy(np.load(part_path(folder, round_)))
