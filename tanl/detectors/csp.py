"""CSP: a conjugated semantic pool."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from os import PathLike
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..checks import fraction, seed_number
from ..kernels.surroundings import product, undisturbed
from ..labels.bank import MINING_QUANTILE, LabelBank, mining_parts
from ..labels.corpus import Corpus
from .neglabel import GroupedNegatives, group_order, groups_number

# The published code's (MengyuanChen21/NeurIPS2024-CSP, class_names.py).
SUPERCLASSES = (
    "environment",
    "space",
    "object",
    "scene",
    "place",
    "item",
    "area",
    "view",
    "thing",
    "pattern",
    "structure",
    "landscape",
    "vista",
    "creature",
)

_SAME_AS_ID = 0.95  # a label with a larger cosine to any ID label counts as that label


class CSP(GroupedNegatives):
    """NegLabel's score with a conjugated semantic pool: nouns, and superclasses modified by an adjective.

    Chen, Gao and Xu, *Conjugated semantic pool improves OOD detection with pre-trained vision-language models*,
    NeurIPS 2024 (arXiv 2410.08611). Beside the names of things the pool holds phrases such as "white area" or
    "polished item", each a centre for images of many classes that have a property in common. They are words to
    embed, so they belong to the bank; `conjugated_words` gives them::

        bank = tanl.build_bank(backbone, classes, corpus=conjugated_words())
        detector = CSP(bank)

    The detector mines each kind by itself, the labels that end in a superclass and the others: it keeps the share
    that is least similar to the ID labels (by the 0.95 quantile of the cosines, as NegLabel does; a label with
    a cosine above 0.95 to any ID label goes last). The score is NegLabel's grouped share of the negatives,
    ``[B, D] -> [B]`` in [0, 1]. Uses no stream; keeps a copy of the mined embeddings, ``share M D`` numbers.

    The superclasses, the share, both values of 0.95 and the 100 groups are those of the published code
    (MengyuanChen21/NeurIPS2024-CSP); equation numbers were not checked. Its scores could not be: there are no published
    outputs to compare with, its random choices cannot be repeated, and it averages the embeddings of 8 prompts a
    noun and of 4 a phrase, where a bank has one.

    Args:
        bank: ID labels and a pool of negatives with both kinds; one kind alone is mined alone.
        share: in (0, 1], of either kind's labels that are kept.
        superclasses: what a label of the second kind ends in, after a space. A few nouns do too: of the
            selection "csp" 87 in 47327, such as "living thing".
        groups: into how many groups the negatives are split; the score is the mean over the groups.
        seed: shuffles the negatives before they are split; None keeps their order.

    Raises:
        TypeError, ValueError: an unusable setting; a bank without negatives, or with too few for the groups.
    """

    lasting: ClassVar = {
        "share": lambda value, name: _share(value, name),
        "superclasses": lambda value, name: _checked_superclasses(value),
        "groups": groups_number,
        "seed": seed_number,
    }

    @undisturbed
    def __init__(
        self,
        bank: LabelBank,
        *,
        share: float = 0.15,
        superclasses: Sequence[str] = SUPERCLASSES,
        groups: int = 100,
        seed: int | None = 0,
    ) -> None:
        super().__init__(bank)
        self._require_negatives()
        self.share = share
        self.superclasses = superclasses
        self.groups = groups
        self.seed = seed
        chosen = self._mined()
        chosen = chosen[group_order(len(chosen), self.groups, self.seed)]
        names = bank.negative_names
        self._names = [names[i] for i in chosen.tolist()]
        self._embeddings = bank.negative_embeddings[chosen.to(bank.device)]

    def _settings(self) -> dict[str, Any]:
        return {
            "share": self.share,
            "superclasses": self.superclasses,
            "groups": self.groups,
            "seed": self.seed,
        }

    def _mined(self) -> Tensor:
        """Indices of the negatives that are kept: of either kind the least similar first, the nouns first."""
        endings = tuple(f" {word.casefold()}" for word in self.superclasses)
        conjugated = torch.tensor(
            [name.casefold().endswith(endings) for name in self.bank.negative_names],
            dtype=torch.bool,
            device="cpu",
        )
        similarity = self._similarity().cpu()
        kept = []
        for kind in (~conjugated, conjugated):
            members = kind.nonzero()[:, 0]
            order = similarity[members].sort(stable=True).indices
            kept.append(members[order[: int(self.share * len(members))]])
        return torch.cat(kept)

    def _similarity(self) -> Tensor:
        """How similar each negative is to the ID labels, ``[M]``."""
        ids = self.bank.id_embeddings
        parts = []
        for part in mining_parts(self.bank.negative_embeddings, self.bank.num_id):
            cosines = product(part.float(), ids.T)
            similarity = torch.quantile(cosines, MINING_QUANTILE, dim=1)
            parts.append(similarity.masked_fill(cosines.amax(dim=1) > _SAME_AS_ID, 1.0))
        return torch.cat(parts)


def conjugated_words(
    corpus: Corpus | str | PathLike[str] | Iterable[str] = "csp",
    *,
    superclasses: Sequence[str] = SUPERCLASSES,
    seed: int = 0,
) -> Corpus:
    """A corpus with each adjective joined to a superclass chosen at random: "white" becomes "white area", say.

    Its nouns stay as they are and come first, as in the published code of CSP (arXiv 2410.08611). Phrases count as
    nouns, so that the noun's template serves both: "The nice white area." The default is the published pool's
    source, the selection "csp" of `Corpus`.

    Args:
        corpus: a corpus with adjectives, or what `Corpus.load` makes one of.
        superclasses: what adjectives are joined to.
        seed: of the choice, the same on every machine.

    Returns:
        The corpus ``conjugated-NAME``. A phrase that is a noun already ("direct object") is left out.

    Raises:
        TypeError, ValueError: no adjective, no superclass, or an unusable corpus.
    """
    source = corpus if isinstance(corpus, Corpus) else Corpus.load(corpus)
    superclasses = _checked_superclasses(superclasses)
    pairs = list(zip(source.words, source.parts_of_speech, strict=True))
    words = [word for word, part in pairs if part == "noun"]
    adjectives = [word for word, part in pairs if part == "adj"]
    if not adjectives:
        raise ValueError(f"the corpus {source.name!r} has no adjective to join to a superclass")
    taken = {word.casefold() for word in words}
    generator = random.Random(seed)
    phrases = [f"{adjective} {generator.choice(superclasses)}" for adjective in adjectives]
    words += [phrase for phrase in phrases if phrase.casefold() not in taken]
    return Corpus(tuple(words), ("noun",) * len(words), f"conjugated-{source.name}")


def _share(value: float, name: str) -> float:
    if fraction(value, name) == 0:
        raise ValueError(f"{name} must lie in (0, 1], not {value}")
    return fraction(value, name)


def _checked_superclasses(superclasses: Sequence[str]) -> tuple[str, ...]:
    if isinstance(superclasses, str):
        raise TypeError(f"superclasses must be a list of words, not the one string {superclasses!r}")
    if not isinstance(superclasses, Iterable) or getattr(superclasses, "ndim", 1) == 0:
        raise TypeError(f"superclasses must be a list of words, not {superclasses!r:.80}")
    superclasses = tuple(superclasses)
    for word in superclasses:
        if not isinstance(word, str) or not word.strip():
            raise ValueError(f"a superclass must be a word, not {word!r}")
    if not superclasses:
        raise ValueError("superclasses is empty; give at least one, such as 'object'")
    return superclasses
