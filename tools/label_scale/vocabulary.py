"""Ten million labels: WordNet's words, then adjective + noun, in one order of which every smaller set is the beginning.

Pairs are of words that the embedded model reads as one token each, which are those it knows best. They come in rounds:
in every round each adjective meets `PER_ROUND` nouns that it has not met, in an order of its own.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from tanl.backbones.clip import ClipBackbone
from tanl.labels.corpus import Corpus
from tanl.labels.prompts import TEMPLATES
from tanl.labels.wordnet import words_by_kinds

PER_ROUND = 365
ROUNDS = 12
_LEAST_LETTERS = 3
_TOKENS = 6  # of "The nice X." with its start and end, where X is one token


@dataclass(frozen=True)
class Vocabulary:
    """The words, and what pairs are made of.

    Attributes:
        words: WordNet, those with most kinds first.
        adjectives: A of them, one token each.
        nouns: N of them, one token each.
    """

    words: Corpus
    adjectives: tuple[str, ...]
    nouns: tuple[str, ...]

    @classmethod
    def of(cls, backbone: ClipBackbone) -> Vocabulary:
        """The vocabulary for a model's tokenizer."""
        whole = Corpus.load("wordnet")
        place = {word: number for number, word in enumerate(words_by_kinds())}
        order = sorted(range(len(whole)), key=lambda i: (place[whole.words[i].casefold()], i))
        words = Corpus(
            tuple(whole.words[i] for i in order),
            tuple(whole.parts_of_speech[i] for i in order),
            "wordnet by kinds",
        )
        found = {part: _of_one_token(backbone, words, part) for part in ("adj", "noun")}
        return cls(words, found["adj"], found["noun"])

    @cached_property
    def _known(self) -> set[str]:
        return {word.casefold() for word in self.words.words}

    def nouns_of(self, adjective: int, round_: int) -> Tensor:
        """The nouns that an adjective meets in a round, ``[PER_ROUND]`` int64."""
        generator = torch.Generator().manual_seed(adjective)
        order = torch.randperm(len(self.nouns), generator=generator)
        return order[round_ * PER_ROUND : (round_ + 1) * PER_ROUND]

    def pairs(self, round_: int) -> Iterator[tuple[int, Tensor]]:
        """Each adjective with its nouns of a round."""
        for adjective in range(len(self.adjectives)):
            yield adjective, self.nouns_of(adjective, round_)

    def pair_names(self, round_: int) -> list[str]:
        """The names of a round's pairs, in order."""
        return [
            f"{self.adjectives[a]} {self.nouns[n]}" for a, nouns in self.pairs(round_) for n in nouns.tolist()
        ]

    def kept(self, id_names: Sequence[str], removal: str, round_: int | None) -> Tensor:
        """Which rows of a round (None: the words) name none of the ID labels, bool.

        A pair goes with either of its words, and where it is a word of WordNet itself.
        """
        if round_ is None:
            gone = set(self.words.words_for(id_names, removal))
            return torch.tensor([word not in gone for word in self.words.words])
        gone = {word.casefold() for word in self.words.words_for(id_names, removal)}
        bad_adjective = torch.tensor([word in gone for word in self.adjectives])
        bad_noun = torch.tensor([word in gone for word in self.nouns])
        parts = []
        for adjective, nouns in self.pairs(round_):
            bad = bad_noun[nouns] | bad_adjective[adjective]
            also = [f"{self.adjectives[adjective]} {self.nouns[n]}" in self._known for n in nouns.tolist()]
            parts.append(~(bad | torch.tensor(also)))
        return torch.cat(parts)


def _of_one_token(backbone: ClipBackbone, words: Corpus, part: str) -> tuple[str, ...]:
    plain = [
        word
        for word, of in zip(words.words, words.parts_of_speech, strict=True)
        if of == part and word.isascii() and word.isalpha() and word.islower() and len(word) >= _LEAST_LETTERS
    ]
    tokens = backbone.tokenizer([TEMPLATES["noun"].replace("{}", word) for word in plain])
    return tuple(
        word for word, count in zip(plain, (tokens != 0).sum(dim=1).tolist(), strict=True) if count == _TOKENS
    )
