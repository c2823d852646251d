"""Words that score but are not named beside a picture: they say nothing of what it shows, and may hurt or accuse.

WordNet is a dictionary of the whole language. A picture of a person or a flag is near to many of its words that no one
should find below it. ``corpora/README.md`` says how the list was made.
"""

from __future__ import annotations

import gzip
from collections.abc import Iterable, Mapping
from functools import lru_cache
from importlib import resources

from ..io.text import did_you_mean
from .corpus import Corpus
from .wordnet import SELECTIONS

# Its diseases are what one asks it for.
_SHOWN_WHOLE = frozenset({"wordnet-medical"})


@lru_cache(maxsize=1)
def categories() -> Mapping[str, frozenset[str]]:
    """The case-folded words of each category: slurs, obscenities, accusations, crimes, diseases, peoples, religions."""
    packed = resources.files("tanl.corpora").joinpath("not_shown.tsv.gz").read_bytes()
    lines = (line.split("\t") for line in gzip.decompress(packed).decode("utf-8").splitlines())
    return {category: frozenset(word.casefold() for word in words) for category, *words in lines}


def words(of: Iterable[str] | None = None) -> frozenset[str]:
    """The case-folded words of some categories; of all where none are named.

    Raises:
        ValueError: no such category.
    """
    known = categories()
    chosen = tuple(known if of is None else of)
    for category in chosen:
        if category not in known:
            raise ValueError(
                f"no category {category!r}; there are {', '.join(known)}{did_you_mean(category, known)}"
            )
    return _union(chosen)


def hidden_in(corpus: Corpus | None) -> frozenset[str]:
    """What is not named by default of a corpus: of WordNet's selections all of `words`, of words of one's own none."""
    names = set() if corpus is None else set(corpus.name.split(" | "))
    return words() if names & (SELECTIONS.keys() - _SHOWN_WHOLE) else frozenset()


@lru_cache(maxsize=8)
def _union(chosen: tuple[str, ...]) -> frozenset[str]:
    return frozenset().union(*(categories()[category] for category in chosen))
