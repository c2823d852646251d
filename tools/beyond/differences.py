"""Differences: pairs of groups whose difference was planted, and whether one of the first texts names it.

- **kind**: images of a coarse class of the pictograms, or of a set of the photographs, against others.
- **colour**: pictograms on a coloured background against others on white.
- **background**: pictograms on photographs of one set against pictograms on photographs of others.
- **vendor**: one vendor's drawings of some concepts against the other's drawings of the same concepts.

Kinds, colours and backgrounds count as found by the planted word, a synonym or a kind of it; a vendor by one of a few
words for its style (`STYLES`). With *texts*, every image comes with a line of words: six in ten lines of the first
group name what was planted, and all hold words that say nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from statistics import fmean
from typing import Any

import numpy as np
from PIL import Image, ImageDraw
from torch import Tensor

from tanl.beyond.difference import Difference, embed_views, find_differences, halves, words_of_texts
from tanl.labels.corpus import Corpus
from tanl.labels.embedding import embed_texts
from tanl.labels.names import normalise
from tanl.labels.not_shown import hidden_in
from tanl.labels.prompts import TEMPLATES
from tanl.labels.terms import with_kinds

from .images import Images

COLOURS = {
    "red": (220, 30, 30), "green": (30, 160, 50), "blue": (40, 60, 220), "yellow": (245, 220, 40),
    "orange": (245, 140, 20), "purple": (130, 40, 160), "pink": (250, 150, 190), "black": (0, 0, 0),
}  # fmt: skip
STYLES = {
    "openmoji": ("outline", "contour", "line drawing", "drawing", "sketch", "doodle", "line", "stroke", "pencil",
                 "pen-and-ink"),
    "emojione": ("shading", "shadow", "gloss", "glossy", "gradient", "flat", "icon", "clip art", "painting",
                 "illustration"),
}  # fmt: skip
"""Words for what sets a vendor's drawings apart: black outlines; shaded faces without outlines."""

TOP = 5
_GROUP = 24  # images on either side of a difference
_FEWEST = 12
_NAMED = 0.6  # of the first group's texts
_ZOOMED = "kind, photographs"  # where crops are looked at too, which is six times the work
_IDLE = (
    "image",
    "view",
    "patient",
    "clear",
    "left",
    "right",
    "normal",
    "record",
    "number",
    "archive",
    "day",
    "year",
)


@dataclass(frozen=True)
class Pair:
    """Two groups of images, and the words that name what the first has and the second lacks."""

    truth: str
    accepted: frozenset[str]
    a: list[Image.Image]
    b: list[Image.Image]

    def place(self, differences: Sequence[Difference]) -> int | None:
        """The place of the first text that names it, from 1 on."""
        for place, difference in enumerate(differences, start=1):
            if any(normalise(word) in self.accepted for word in difference.text.split(" with ")):
                return place
        return None

    def texts(self, seed: int) -> tuple[list[str], list[str]]:
        """A line for each image."""
        generator = np.random.default_rng(seed)

        def line(named: bool) -> str:
            idle = " ".join(generator.choice(_IDLE, 3).tolist())
            return f"{idle}: {self.truth}." if named else f"{idle}."

        return [line(generator.random() < _NAMED) for _ in self.a], [line(False) for _ in self.b]


Planted = Callable[[Mapping[str, Images], int], Iterator[Pair]]


def measured(loaded: Mapping[str, Images], seeds: Sequence[int]) -> Iterator[dict[str, Any]]:
    """A line for every kind of difference and way of looking: accuracy@1 and @5."""
    for title, (name, planted) in _SOURCES.items():
        search = _Search(loaded[name])
        zooms = title == _ZOOMED
        ways = [(1, False, False), (2, False, False), (3, False, False), (1, False, True), (2, False, True)]
        places: dict[tuple[int, bool, bool], list[int | None]] = {}
        found: dict[tuple[int, bool, bool], list[dict[str, Any]]] = {}
        for seed in seeds:
            for pair in planted(loaded, seed):
                views = [embed_views(search.images.backbone, side, zoom=zooms) for side in (pair.a, pair.b)]
                for way in [*ways, *[(2, True, False)] * zooms]:
                    differences = search(pair, views, way, seed)
                    places.setdefault(way, []).append(pair.place(differences))
                    found.setdefault(way, []).append(
                        {"truth": pair.truth, "found": [each.text for each in differences]}
                    )
        for way, ranks in places.items():
            rounds, zoom, texts = way
            yield {
                "planted": title,
                "rounds": rounds,
                "zoom": zoom,
                "texts": texts,
                "of": len(ranks),
                "accuracy@1": 100 * fmean(rank == 1 for rank in ranks),
                "accuracy@5": 100 * fmean(rank is not None for rank in ranks),
                "pairs": found[way],
            }


class _Search:
    """`describe_difference` in its parts, so that words and images are embedded once for all ways of looking."""

    def __init__(self, images: Images) -> None:
        self.images = images
        self._corpus = Corpus.load("wordnet")
        z = embed_texts(images.backbone, self._corpus.prompts(), title="wordnet")
        hidden = hidden_in(self._corpus)
        shown = [row for row, word in enumerate(self._corpus.words) if word.casefold() not in hidden]
        self._vocabulary = [self._corpus.words[row] for row in shown], z[shown]

    def __call__(
        self, pair: Pair, views: Sequence[Tensor], way: tuple[int, bool, bool], seed: int
    ) -> list[Difference]:
        rounds, zoom, texts = way
        seen = views if zoom else [z[:, :1] for z in views]
        parted = [halves(len(z), seed + number) for number, z in enumerate(seen)]
        proposing, ranking = (
            [z[half[side]] for z, half in zip(seen, parted, strict=True)] for side in (0, 1)
        )
        return find_differences(
            self._vocabulary,
            self._embed,
            proposing,
            ranking,
            own=words_of_texts(self._corpus, *pair.texts(seed)) if texts else (),
            rounds=rounds,
            top=TOP,
        )

    def _embed(self, texts: Sequence[str]) -> Tensor:
        return self.images.backbone.encode_texts([TEMPLATES["noun"].replace("{}", text) for text in texts])


def _named(truth: str) -> frozenset[str]:
    return frozenset(map(normalise, [*with_kinds([truth]), truth, truth.removesuffix("s")]))


def _of_kinds(loaded: Mapping[str, Images], seed: int, *, of: str) -> Iterator[Pair]:
    images = loaded[of]
    generator = np.random.default_rng(seed)
    for name, inside, others in _groups(images):
        size = min(_GROUP, len(inside))
        a, b = (generator.permutation(side)[:size].tolist() for side in (inside, others))
        yield Pair(name, _named(name), [*map(images.open, a)], [*map(images.open, b)])


def _groups(images: Images) -> Iterator[tuple[str, list[int], list[int]]]:
    """The coarse classes of the pictograms or the sets of the photographs, with what is of another."""
    names = [row.coarse or ("" if images.split.name == "pictograms" else row.set) for row in images.rows]
    taken = [index for index, row in enumerate(images.rows) if row.in_tracks and names[index]]
    for name, count in sorted(Counter(names[index] for index in taken).items()):
        if count >= _FEWEST:
            inside = [index for index in taken if names[index] == name]
            yield name, inside, [index for index in taken if names[index] != name]


def _on_colours(loaded: Mapping[str, Images], seed: int) -> Iterator[Pair]:
    images = loaded["pictograms"]
    generator = np.random.default_rng(seed)
    taken = [index for index, row in enumerate(images.rows) if row.in_tracks and row.set != "flags"]
    for name, colour in COLOURS.items():
        a, b = generator.permutation(taken)[: 2 * _GROUP].reshape(2, -1).tolist()
        painted = [_painted(images.open(index), colour) for index in a]
        yield Pair(name, _named(name), painted, [*map(images.open, b)])


def _painted(image: Image.Image, colour: tuple[int, int, int]) -> Image.Image:
    """White paper, from the edges in as far as it is white, in a colour."""
    image = image.copy()
    for corner in ((0, 0), (image.width - 1, 0), (0, image.height - 1), (image.width - 1, image.height - 1)):
        ImageDraw.floodfill(image, corner, colour, thresh=60)
    return image


def _on_photographs(loaded: Mapping[str, Images], seed: int) -> Iterator[Pair]:
    pictograms, photographs = loaded["pictograms"], loaded["photographs"]
    generator = np.random.default_rng(seed)
    drawn = [index for index, row in enumerate(pictograms.rows) if row.in_tracks and row.set != "flags"]
    for name, inside, others in _groups(photographs):
        size = min(_GROUP, len(inside))
        fronts = generator.permutation(drawn)[: 2 * size].reshape(2, -1).tolist()
        backs = [generator.permutation(side)[:size].tolist() for side in (inside, others)]
        a, b = (
            [
                _before(pictograms.open(front), photographs.open(back))
                for front, back in zip(*sides, strict=True)
            ]
            for sides in zip(fronts, backs, strict=True)
        )
        yield Pair(name, _named(name), a, b)


def _before(front: Image.Image, back: Image.Image) -> Image.Image:
    """A pictogram without its paper, half as high as the photograph, in the middle before it."""
    marked = _painted(front, (255, 0, 254))
    shown = (np.asarray(marked) != (255, 0, 254)).any(axis=2)
    mask = Image.fromarray((255 * shown).astype(np.uint8))
    side = min(back.size) // 2
    back = back.copy()
    back.paste(
        front.resize((side, side)),
        ((back.width - side) // 2, (back.height - side) // 2),
        mask.resize((side, side)),
    )
    return back


def _of_vendors(loaded: Mapping[str, Images], seed: int) -> Iterator[Pair]:
    from tanl.benchmarks.pictograms.manifest import read_manifest

    images = loaded["pictograms"]
    generator = np.random.default_rng(seed)
    drawings: dict[str, dict[str, dict[str, int]]] = {}
    for index, row in enumerate(read_manifest(images.split.folder)):
        if row.in_tracks:
            drawings.setdefault(row.set, {}).setdefault(row.concept, {}).setdefault(row.vendor, index)
    for concepts in drawings.values():
        both = [each for each in concepts.values() if len(each) == len(STYLES)]
        if len(both) < _FEWEST:
            continue
        chosen = generator.permutation(len(both))[:_GROUP].tolist()
        for vendor, other in (tuple(STYLES), tuple(reversed(STYLES))):
            a, b = ([images.open(both[each][name]) for each in chosen] for name in (vendor, other))
            yield Pair(STYLES[vendor][0], frozenset(map(normalise, STYLES[vendor])), a, b)


_SOURCES: dict[str, tuple[str, Planted]] = {
    "kind, pictograms": ("pictograms", partial(_of_kinds, of="pictograms")),
    "kind, photographs": ("photographs", partial(_of_kinds, of="photographs")),
    "colour": ("pictograms", _on_colours),
    "background": ("photographs", _on_photographs),
    "vendor": ("pictograms", _of_vendors),
}
"""Each kind of difference, the images whose model looks at it, and what plants it."""
