"""Labels as a tree without writing one: their parents are WordNet's hypernyms."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise

from ..io.text import some_of
from ..labels.terms import checked_labels, terms_of
from ..labels.wordnet import lemmas_of, senses
from .tree import LabelTree

_SHOWN = 3


def wordnet_tree(labels: Iterable[str]) -> LabelTree:
    """A tree of labels whose inner nodes are what WordNet calls their kinds: "cat" and "dog" are carnivores.

    A label with several senses gets the one that has most ancestors in common with the other labels, so that "crane" is
    a bird beside "crow" and a machine beside "bulldozer"; between equals the first in WordNet's files is taken, which
    is not the most frequent. Where that is wrong, or a word is missing, mend the tree:
    ``LabelTree({**tree.parents, "crane": "bird"})``. Of a synset's several hypernyms the first counts, and an inner
    node with one child is left out: it would say the same as the child. What WordNet lacks lies below its last words
    that it has: "grenadier fish" below "fish".

    Args:
        labels: nouns, also in plurals and prompts as `tanl.labels.terms.terms_of` reads them. One that is a kind of
            another lies below it; the other is no leaf then.

    Returns:
        A tree with the labels first, in their order, as they were given.

    Raises:
        TypeError, ValueError: no labels, one twice, or labels that are no nouns of WordNet.
    """
    names = checked_labels(labels)
    if twice := [name for name, count in Counter(names).items() if count > 1]:
        raise ValueError(f"given more than once: {some_of(twice, _SHOWN)}")
    found = {name: _ways(name, own=-number) for number, name in enumerate(names, start=1)}
    if unknown := [name for name, paths in found.items() if not paths]:
        raise ValueError(
            f"no nouns of WordNet: {some_of(unknown, _SHOWN)}; make the tree of the others, and a LabelTree of its "
            "parents and theirs"
        )
    chosen = _chosen(found)
    children: dict[int, set[int]] = {}
    for path in chosen.values():
        for above, below in pairwise(path):
            children.setdefault(above, set()).add(below)
    first_of: dict[int, str] = {}
    for name, path in chosen.items():
        first_of.setdefault(path[-1], name)
    inner = {number for number, below in children.items() if len(below) > 1 and number not in first_of}
    called = {**first_of, **_called(sorted(inner), taken={*names})}
    paths = {name: [number for number in path[:-1] if number in called] for name, path in chosen.items()}
    parents: dict[str, str | None] = {
        name: called[path[-1]] if path else None for name, path in paths.items()
    }
    for inside in paths.values():
        for place, number in enumerate(inside):
            parents.setdefault(called[number], called[inside[place - 1]] if place else None)
    return LabelTree(parents)


def _ways(name: str, own: int) -> list[tuple[int, ...]]:
    """The ways to a label's senses; to those of its last words, and to a number of its own, if it has none."""
    terms = terms_of(name)
    for term in terms:
        if ways := senses(term):
            return ways
    for words in map(str.split, terms):
        for start in range(1, len(words)):
            if ways := senses(" ".join(words[start:])):
                return [(*way, own) for way in ways]
    return []


def _chosen(found: Mapping[str, Sequence[tuple[int, ...]]]) -> dict[str, tuple[int, ...]]:
    """The path of each label's sense."""
    shared = Counter(
        number for paths in found.values() for number in {each for path in paths for each in path}
    )
    return {
        name: max(paths, key=lambda path: sum(shared[number] - 1 for number in path))
        for name, paths in found.items()
    }


def _called(numbers: Iterable[int], taken: set[str]) -> dict[int, str]:
    """A name for each synset that no other node has: its first free lemma, numbered if none is."""
    names: dict[int, str] = {}
    for number in numbers:
        lemmas = lemmas_of(number)
        free = next((lemma for lemma in lemmas if lemma not in taken), None)
        names[number] = free or next(
            name for count in range(2, len(taken) + 3) if (name := f"{lemmas[0]} ({count})") not in taken
        )
        taken.add(names[number])
    return names
