"""Editing ID labels and the corpus of a bank that is in use: only what is new is embedded."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

import torch

from ..checks import unit_embeddings
from ..io.text import some_of
from ..kernels.surroundings import undisturbed
from .bank import KEPT_TOLERANCE, LabelBank
from .build import check_id_labels, label_prompts, log_understood
from .corpus import Corpus, claimed, is_proper
from .names import checked_id_names, checked_names, cleaned
from .prompts import TEMPLATES, full_templates

if TYPE_CHECKING:
    from ..backbones import Backbone

_SHOWN = 5
_LONGEST = 100  # characters of a word that nobody has looked at


@dataclass(frozen=True)
class Vocabulary:
    """What a `LabelBank` is built of, before anything is embedded. Never changed: an edit gives another one.

    Attributes:
        id_names: the ID labels.
        corpus: words for negatives, the ID labels and their WordNet synonyms among them; or None.
        templates: prompts, as `build_bank` takes them.
        removal: which words are no negatives for the ID labels' sake, as `build_bank` takes it.
    """

    id_names: tuple[str, ...]
    corpus: Corpus | None
    templates: Mapping[str, str] | None
    removal: str = "synonyms"

    @cached_property
    def negatives(self) -> Corpus | None:
        """The corpus less what names the ID labels (`Corpus.without`).

        Raises:
            ValueError: no word is left.
        """
        return None if self.corpus is None else self.corpus.without(self.id_names, self.removal)

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the bank's labels, in its order."""
        return self.id_names + (() if self.negatives is None else self.negatives.words)

    def with_labels(self, names: Sequence[str]) -> Vocabulary:
        """More ID labels, after those that are there; they and their synonyms leave the negatives.

        Raises:
            TypeError, ValueError: no names, an unusable one, one that is there; no negative would be left.
        """
        names = checked_id_names(names)
        known = set(self.id_names)
        if present := [name for name in names if name in known]:
            raise ValueError(f"{_listed(present)} already among the ID labels; leave out what is there")
        edited = self._checked(replace(self, id_names=checked_id_names(self.id_names + names)))
        if self.corpus is not None:
            log_understood(names, self.corpus, self.removal)
        return edited

    def without_labels(self, names: Sequence[str]) -> Vocabulary:
        """Fewer ID labels; what they kept out of the negatives comes back.

        Raises:
            TypeError, ValueError: no names, one that is not there; no ID label would be left.
        """
        names = tuple(map(cleaned, checked_names(names, "ID label")))
        known, removed = set(self.id_names), set(names)
        if unknown := [name for name in names if name not in known]:
            raise ValueError(f"{_listed(unknown)} not among the ID labels: {some_of(self.id_names, _SHOWN)}")
        kept = tuple(name for name in self.id_names if name not in removed)
        if not kept:
            raise ValueError(
                f"{some_of(self.id_names, _SHOWN)}: these are all the ID labels; keep at least one"
            )
        return self._checked(replace(self, id_names=kept))

    def with_labels_set(self, names: Sequence[str]) -> Vocabulary:
        """These ID labels and no others: those that are there first, in their order, then the new ones.

        Raises:
            TypeError, ValueError: no names, an unusable one, one twice; no negative would be left.
        """
        names = checked_id_names(names)
        known, wanted = set(self.id_names), set(names)
        new = tuple(name for name in names if name not in known)
        kept = tuple(name for name in self.id_names if name in wanted)
        edited = self._checked(replace(self, id_names=kept + new))
        if new and self.corpus is not None:
            log_understood(new, self.corpus)
        return edited

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
        if present := [word for word in words if corpus.spelled(word) is not None]:
            raise ValueError(
                f"{_listed(present)} already in the corpus {corpus.name!r}; leave out what is there"
            )
        return self._checked(replace(self, corpus=corpus.more(words)))

    def new_negatives(self, words: Iterable[str]) -> list[str]:
        """Those of the words that `with_negatives` would take, each once, in order.

        Raises:
            TypeError, ValueError: something that is no string; there is no corpus.
        """
        corpus = self._corpus()
        seen: dict[str, str] = {}
        for word in _not_one(words):
            if not isinstance(word, str):
                raise TypeError(f"words must be strings; got {word!r} ({type(word).__name__})")
            try:
                (name,) = checked_names((word.strip(),), "negative label")
            except ValueError:
                continue
            if len(name) <= _LONGEST and corpus.spelled(name) is None:
                seen.setdefault(name.casefold(), name)
        taken = claimed(seen.values(), self.id_names, self.removal)
        kinds = self.removal == "kinds"
        return [word for word in seen.values() if word not in taken and not (kinds and is_proper(word))]

    def without_negatives(self, words: Iterable[str]) -> Vocabulary:
        """Fewer words in the corpus; case makes no difference.

        Raises:
            TypeError, ValueError: there is no corpus; no words, one that is not among the negatives; no
                negative would be left.
        """
        corpus, negatives = self._corpus(), self.negatives
        assert negatives is not None, "a corpus has negatives"
        words = checked_names(tuple(_not_one(words)), "negative label")
        self._refuse_claimed(words)
        spelled = {word: corpus.spelled(word) for word in words}
        if unknown := [word for word, own in spelled.items() if own is None]:
            raise ValueError(f"{_listed(unknown)} not among the {len(negatives)} negatives")
        removed = {own for own in spelled.values() if own is not None}
        if len(removed) == len(negatives):
            raise ValueError(f"these are all {len(negatives)} negatives; keep at least one")
        return self._checked(replace(self, corpus=corpus.less(removed)))

    @undisturbed
    def embedded(self, backbone: Backbone, earlier: Vocabulary, bank: LabelBank) -> LabelBank:
        """The bank that `build_bank` would make of this vocabulary, out of one that is there.

        Rows are found by their prompts; only prompts that the earlier bank lacks are encoded, and no cache is read.

        Args:
            backbone: what embedded the bank.
            earlier: what the bank was built of, with the same templates.
            bank: gives the rows, and the dtype and device of the new bank.

        Raises:
            ValueError: the bank is not of the earlier vocabulary; the model gives a row that is not of unit norm,
                cannot tell a new ID label from another, or does not read one to its end.
        """
        if bank.names != earlier.names:
            raise ValueError(f"{bank!r} is not the bank of these labels and this corpus; build another one")
        rows, absent = self._rows(earlier)
        embeddings = bank.embeddings[torch.tensor(rows, dtype=torch.int64, device=bank.device)]
        if absent:
            encoded = backbone.encode_texts(list(absent.values()))
            checked = unit_embeddings(encoded, "label embeddings", dim=bank.dim, tolerance=KEPT_TOLERANCE)
            embeddings[list(absent)] = checked.to(bank.device, bank.dtype)
        num_id = len(self.id_names)
        if added := len(set(self.id_names) - set(earlier.id_names)):
            check_id_labels(
                backbone, self.id_names, embeddings[:num_id], self.templates, first_new=num_id - added
            )
        return LabelBank.of_checked(self.names, embeddings, num_id=num_id, logit_scale=bank.logit_scale)

    def _rows(self, earlier: Vocabulary) -> tuple[list[int], dict[int, str]]:
        """Where each label's row is in the earlier bank, and the prompts of those that have none there.

        The prompts go by the label's place; what stands for its row, 0, means nothing.
        """
        row_of_label = {prompt: row for row, prompt in enumerate(earlier._id_prompts())}
        rows_of: dict[str, dict[str, int]] = {part: {} for part in TEMPLATES}
        if (negatives := earlier.negatives) is not None:
            pairs = zip(negatives.words, negatives.parts_of_speech, strict=True)
            for row, (word, part) in enumerate(pairs, start=len(earlier.id_names)):
                rows_of[part][word] = row
        templates = full_templates(self.templates)
        ends = [(part, *templates[part].split("{}")) for part in TEMPLATES]
        rows: list[int] = []
        absent: dict[int, str] = {}

        def row_of(prompt: str) -> int:
            if prompt in row_of_label:
                return row_of_label[prompt]
            for part, head, tail in ends:
                if prompt.startswith(head) and prompt.endswith(tail):
                    word = prompt[len(head) : len(prompt) - len(tail)]
                    if word in rows_of[part]:
                        return rows_of[part][word]
            absent[len(rows)] = prompt
            return 0

        for prompt in self._id_prompts():
            rows.append(row_of(prompt))
        if (negatives := self.negatives) is not None:
            for word, part in zip(negatives.words, negatives.parts_of_speech, strict=True):
                # Prompts are made of the few words that were no negatives before, not of all.
                known = rows_of[part].get(word)
                rows.append(row_of(templates[part].replace("{}", word)) if known is None else known)
        return rows, absent

    def _id_prompts(self) -> list[str]:
        return label_prompts(self.id_names, None, self.templates)

    def _checked(self, edited: Vocabulary) -> Vocabulary:
        _ = edited.negatives  # raises where no word is left
        return edited

    def _corpus(self) -> Corpus:
        if self.corpus is None:
            raise ValueError("there are no negatives to edit: the bank was built without a corpus; give one")
        return self.corpus

    def _refuse_claimed(self, words: Iterable[str]) -> None:
        words = list(words)
        for word, label in claimed(words, self.id_names, self.removal).items():
            either = "a WordNet synonym or a kind of" if self.removal == "kinds" else "a WordNet synonym of"
            relation = "is" if word == label else f"is, or is {either},"
            raise ValueError(
                f"{word!r} {relation} the ID label {label!r}, so it is no negative; remove that label first"
            )
        if self.removal == "kinds" and (names := [word for word in words if is_proper(word)]):
            raise ValueError(
                f"{names[0]!r} is a proper noun, and with removal='kinds' those are no negatives"
            )


def _not_one(words: Iterable[str]) -> Iterable[str]:
    if isinstance(words, str):
        raise TypeError(
            f"words must be a list of strings, not the one string {words!r}; Corpus.load reads a selection or a file"
        )
    return words


def _listed(names: Sequence[str]) -> str:
    return f"{some_of(names, _SHOWN)} {'is' if len(names) == 1 else 'are'}"
