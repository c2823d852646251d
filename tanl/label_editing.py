"""Editing ID labels and the corpus of a bank that is in use: only what is new is embedded."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

import torch

from .corpus import Corpus, claimed
from .labels import LabelBank, check_id_labels, checked_id_names, checked_names, label_prompts

if TYPE_CHECKING:
    from .backbones import Backbone

_SHOWN = 5


@dataclass(frozen=True)
class Vocabulary:
    """What a `LabelBank` is built of, before anything is embedded. Never changed: an edit gives another one.

    Attributes:
        id_names: the ID labels.
        corpus: words for negatives, the ID labels and their WordNet synonyms among them; or None.
        templates: prompts, as `LabelBank.build` takes them.
    """

    id_names: tuple[str, ...]
    corpus: Corpus | None
    templates: Mapping[str, str] | None

    @cached_property
    def negatives(self) -> Corpus | None:
        """The corpus less the ID labels and their WordNet synonyms.

        Raises:
            ValueError: no word is left.
        """
        return None if self.corpus is None else self.corpus.without(self.id_names)

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the bank's labels, in its order."""
        return self.id_names + (() if self.negatives is None else self.negatives.words)

    @property
    def prompts(self) -> list[str]:
        """The prompt of each of `names`."""
        return label_prompts(self.id_names, self.negatives, self.templates)

    def with_labels(self, names: Sequence[str]) -> Vocabulary:
        """More ID labels, after those that are there; they and their synonyms leave the negatives.

        Raises:
            TypeError, ValueError: no names, an unusable one, one that is there; no negative would be left.
        """
        names = checked_id_names(names)
        known = set(self.id_names)
        if present := [name for name in names if name in known]:
            raise ValueError(f"{_listed(present)} already among the ID labels; leave out what is there")
        return self._checked(replace(self, id_names=self.id_names + names))

    def without_labels(self, names: Sequence[str]) -> Vocabulary:
        """Fewer ID labels; what they kept out of the negatives comes back.

        Raises:
            TypeError, ValueError: no names, one that is not there; no ID label would be left.
        """
        names = checked_names(names, "ID label")
        known, removed = set(self.id_names), set(names)
        if unknown := [name for name in names if name not in known]:
            raise ValueError(f"{_listed(unknown)} not among the ID labels: {_some(self.id_names)}")
        kept = tuple(name for name in self.id_names if name not in removed)
        if not kept:
            raise ValueError(f"{_some(self.id_names)}: these are all the ID labels; keep at least one")
        return self._checked(replace(self, id_names=kept))

    def with_negatives(self, words: Corpus | Iterable[str]) -> Vocabulary:
        """More words, at the end of the corpus.

        Args:
            words: nouns, or a `Corpus` with parts of speech.

        Raises:
            TypeError, ValueError: there is no corpus; no words, an unusable one, one that is there; one that is
                an ID label or a WordNet synonym of one.
        """
        corpus = self._corpus()
        if not isinstance(words, Corpus):
            words = Corpus.load(checked_names(tuple(_not_one(words)), "negative label"))
        self._refuse_claimed(words)
        known = {word.casefold() for word in corpus}
        if present := [word for word in words if word.casefold() in known]:
            raise ValueError(
                f"{_listed(present)} already in the corpus {corpus.name!r}; leave out what is there"
            )
        longer = Corpus(
            corpus.words + words.words, corpus.parts_of_speech + words.parts_of_speech, corpus.name
        )
        return self._checked(replace(self, corpus=longer))

    def without_negatives(self, words: Iterable[str]) -> Vocabulary:
        """Fewer words in the corpus; case makes no difference.

        Raises:
            TypeError, ValueError: there is no corpus; no words, one that is not among the negatives; no
                negative would be left.
        """
        corpus, negatives = self._corpus(), self.negatives
        assert negatives is not None, "a corpus has negatives"
        words = checked_names(tuple(_not_one(words)), "negative label")
        removed = {word.casefold() for word in words}
        present = {word.casefold() for word in negatives}
        unknown = [word for word in words if word.casefold() not in present]
        self._refuse_claimed(unknown)
        if unknown:
            raise ValueError(f"{_listed(unknown)} not among the {len(negatives)} negatives")
        if removed == present:
            raise ValueError(f"these are all {len(negatives)} negatives; keep at least one")
        pairs = [
            (word, part)
            for word, part in zip(corpus.words, corpus.parts_of_speech, strict=True)
            if word.casefold() not in removed
        ]
        kept, parts = zip(*pairs, strict=True)
        return self._checked(replace(self, corpus=Corpus(kept, parts, corpus.name)))

    def embedded(self, backbone: Backbone, earlier: Vocabulary, bank: LabelBank) -> LabelBank:
        """The bank that `LabelBank.build` would make of this vocabulary, out of one that is there.

        Rows are found by their prompts; only prompts that the earlier bank lacks are encoded, and no cache is read.

        Args:
            backbone: what embedded the bank.
            earlier: what the bank was built of.
            bank: gives the rows, and the dtype and device of the new bank.

        Raises:
            ValueError: the bank is not of the earlier vocabulary; the model cannot tell a new ID label from another, or
                does not read one to its end.
        """
        if bank.names != earlier.names:
            raise ValueError(f"{bank!r} is not the bank of these labels and this corpus; build another one")
        row = {prompt: i for i, prompt in enumerate(earlier.prompts)}
        prompts = self.prompts
        embeddings = bank.embeddings[torch.tensor([row.get(p, 0) for p in prompts], device=bank.device)]
        new = {i: prompt for i, prompt in enumerate(prompts) if prompt not in row}
        if new:
            encoded = backbone.encode_texts(list(new.values()))
            embeddings[list(new)] = encoded.to(bank.device, bank.dtype)
        if added := len(set(self.id_names) - set(earlier.id_names)):
            count = len(self.id_names)
            check_id_labels(
                backbone, self.id_names, embeddings[:count], self.templates, first_new=count - added
            )
        return LabelBank._of_kept(
            self.names,
            embeddings,
            num_id=len(self.id_names),
            logit_scale=bank.logit_scale,
            dtype=bank.dtype,
        )

    def _checked(self, edited: Vocabulary) -> Vocabulary:
        _ = edited.negatives  # raises where no word is left
        return edited

    def _corpus(self) -> Corpus:
        if self.corpus is None:
            raise ValueError("there are no negatives to edit: the bank was built without a corpus; give one")
        return self.corpus

    def _refuse_claimed(self, words: Iterable[str]) -> None:
        for word, label in claimed(words, self.id_names).items():
            relation = "is" if word == label else "is, or is a WordNet synonym of,"
            raise ValueError(
                f"{word!r} {relation} the ID label {label!r}, so it is no negative; remove that label first"
            )


def _not_one(words: Iterable[str]) -> Iterable[str]:
    if isinstance(words, str):
        raise TypeError(
            f"words must be a list of strings, not the one string {words!r}; Corpus.load reads a selection or a file"
        )
    return words


def _listed(names: Sequence[str]) -> str:
    return f"{_some(names)} {'is' if len(names) == 1 else 'are'}"


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(map(repr, names[:_SHOWN])) + more
