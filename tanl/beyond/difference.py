"""What sets one group of images apart from another, in words.

The two stages are those of VisDiff (Dunlap et al. 2024, arXiv 2312.02974), a proposer and a ranker; the rounds of
refinement, the texts beside the images and the closer look are RadDiff's (Shen et al. 2026, arXiv 2601.03733). Both
let language models propose and judge; here the words of a corpus are proposed, or what a caller's function gives, and
the ranking is a measurement on images that the proposer did not see.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from os import PathLike
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from scipy.stats import rankdata, ttest_ind
from torch import Tensor

from ..checks import whole_number
from ..functional import shuffled
from ..io.images import UnreadableImage, read_image, to_rgb
from ..io.text import one_line
from ..kernels.surroundings import product, undisturbed
from ..labels.corpus import Corpus
from ..labels.embedding import embed_texts
from ..labels.not_shown import hidden_in
from ..labels.prompts import TEMPLATES
from ..labels.wordnet import singulars

if TYPE_CHECKING:
    from ..backbones import Backbone

OneImage = Image.Image | str | PathLike[str]

FEWEST = 4
"""Images that a group needs: half of them propose, half of them rank."""

_PROPOSED = 100  # hypotheses of a round, for each view
_FROM_TEXTS = 50
_COMBINED = 6  # of the best so far, each with each
_SAME = 0.9  # cosine of texts that say the same
_CROP = 0.6  # of the sides
_AT_ONCE = 64


@dataclass(frozen=True)
class Difference:
    """A text that fits the first group better than the second, with how much better on images held out.

    Attributes:
        text: in words, without the prompt.
        auroc: the chance that an image of the first group fits it better than one of the second.
        p_value: Welch's t test that the first group's mean is not larger, corrected for all that was ranked
            (Benjamini and Hochberg 1995).
        gap: the difference of the mean cosines.
        view: which part of the images was looked at: "whole", or a crop.
        round: in which round it was proposed, from 1 on.
    """

    text: str
    auroc: float
    p_value: float
    gap: float
    view: str
    round: int


VIEWS = ("whole", "top left", "top right", "bottom left", "bottom right", "centre")


def describe_difference(
    backbone: Backbone,
    a: Sequence[OneImage],
    b: Sequence[OneImage],
    corpus: Corpus | str = "wordnet",
    *,
    propose: Callable[[Sequence[OneImage], Sequence[OneImage]], Sequence[str]] | None = None,
    texts: tuple[Sequence[str], Sequence[str]] | None = None,
    rounds: int = 2,
    zoom: bool = False,
    top: int = 5,
    seed: int = 0,
    templates: Mapping[str, str] | None = None,
    show_all: bool = False,
    cache_dir: str | PathLike[str] | None = None,
    progress: bool | None = None,
    unreadable: Callable[[UnreadableImage], None] | None = None,
) -> list[Difference]:
    """Describe what the images of ``a`` show and those of ``b`` do not.

    Args:
        backbone: embeds images and words.
        a: a group of images, `FEWEST` or more.
        b: another.
        corpus: words to describe with, as `Corpus.load` takes them.
        propose: gives more hypotheses for images (half of each group), such as a captioner or a language model.
        texts: for each group texts that come with it, such as reports: the corpus's words that more texts of ``a`` hold
            are proposed too.
        rounds: 1 ranks single words; each round after it combines the best so far, "w1 with w2", and ranks again.
        zoom: look at four corners and the centre as well, the same boxes for both groups, and keep for each hypothesis
            the view in which it tells the proposer's halves apart best.
        top: how many differences to give; those that say the same as a better one are left out.
        seed: of the halves.
        templates: prompt by part of speech, as `Corpus.prompts` takes them; hypotheses of one's own go by the nouns'.
        show_all: propose any word of the corpus. By default those of WordNet's words that may hurt or accuse and say
            nothing of a picture are not proposed for the images' sake (`tanl.labels.not_shown`); what ``propose`` and
            ``texts`` say always is.
        cache_dir: as `build_bank` takes it.
        progress: as `build_bank` takes it.
        unreadable: is told of each file that holds no image, which is left out then; None raises it.

    Returns:
        The best first. Nothing is left out for a high ``p_value``: look at it.

    Raises:
        TypeError, ValueError: too few images, or unusable numbers; nothing is computed then.
        UnreadableImage: a file that holds no image, where ``unreadable`` is None.
    """
    for name, group in (("a", a), ("b", b)):
        if len(group) < FEWEST:
            raise ValueError(
                f"group {name} has {len(group)} images; give {FEWEST} or more, since half of them propose"
            )
    rounds = whole_number(rounds, "rounds", at_least=1)
    top = whole_number(top, "top", at_least=1)
    if not isinstance(corpus, Corpus):
        corpus = Corpus.load(corpus)
    words = _Words(backbone, corpus, templates, cache_dir, progress, show_all)
    read = [_embedded(backbone, group, zoom, unreadable) for group in (a, b)]
    (a, b), embedded = [images for images, _ in read], [z for _, z in read]
    for name, group in (("a", a), ("b", b)):
        if len(group) < FEWEST:
            raise ValueError(
                f"group {name} has {len(group)} images that can be read; {FEWEST} or more are needed"
            )
    parted = [halves(len(group), seed + number) for number, group in enumerate((a, b))]
    own: list[str] = []
    if propose is not None:
        seen = [[group[i] for i in first.tolist()] for group, (first, _) in zip((a, b), parted, strict=True)]
        own += propose(*seen)
    if texts is not None:
        own += words_of_texts(corpus, *texts)
    proposing, ranking = (
        tuple(z[half[side]] for z, half in zip(embedded, parted, strict=True)) for side in (0, 1)
    )
    return find_differences(
        words.vocabulary(), words.embed, proposing, ranking, own=own, rounds=rounds, top=top
    )


@undisturbed
def find_differences(
    vocabulary: tuple[Sequence[str], Tensor],
    embed: Callable[[Sequence[str]], Tensor],
    proposing: Sequence[Tensor],
    ranking: Sequence[Tensor],
    *,
    own: Sequence[str] = (),
    rounds: int = 2,
    top: int = 5,
) -> list[Difference]:
    """`describe_difference` on embeddings.

    Args:
        vocabulary: words and their embeddings ``[M, D]``, to propose from.
        embed: texts to unit embeddings ``[n, D]``.
        proposing: of each group ``[n, V, D]``, V views of n images, to propose with.
        ranking: the same of other images, to rank with.
        own: more hypotheses.
        rounds: as `describe_difference` takes it.
        top: as `describe_difference` takes it.
    """
    names, embeddings = vocabulary
    place = {name: row for row, name in enumerate(names)}
    found: dict[str, tuple[Difference, Tensor]] = {}
    hypotheses = [*dict.fromkeys([*_proposed(names, embeddings, *proposing), *own])]
    for number in range(1, rounds + 1):
        new = [text for text in hypotheses if text not in found]
        if not new:
            break
        z = torch.empty(len(new), embeddings.shape[1], dtype=torch.float32, device=embeddings.device)
        known = [row for row, text in enumerate(new) if text in place]
        # A word keeps the prompt of its part of speech: "This is a red photo.", not "The nice red."
        z[known] = embeddings[[place[new[row]] for row in known]].float()
        if others := [row for row in range(len(new)) if new[row] not in place]:
            z[others] = embed([new[row] for row in others])
        for row, difference in enumerate(_ranked(new, z, proposing, ranking, number)):
            found[difference.text] = (difference, z[row])
        best = [difference.text for difference in _distinct([*found.values()], _COMBINED)]
        # Only single hypotheses combine: "w1 with w2 with w3" is no text that the model has learnt to read.
        single = [text for text in best if " with " not in text]
        hypotheses = [f"{first} with {second}" for first, second in combinations(single, 2)]
    corrected = _corrected(np.array([difference.p_value for difference, _ in found.values()]))
    whole = [
        (replace(difference, p_value=float(p)), z)
        for (difference, z), p in zip(found.values(), corrected, strict=True)
    ]
    return _distinct(whole, top)


def embed_views(backbone: Backbone, images: Sequence[OneImage], *, zoom: bool) -> Tensor:
    """Images as unit embeddings ``[n, V, D]`` of their `VIEWS`: all six, or without ``zoom`` the whole alone."""
    return _embedded(backbone, images, zoom, None)[1]


def _embedded(
    backbone: Backbone,
    images: Sequence[OneImage],
    zoom: bool,
    unreadable: Callable[[UnreadableImage], None] | None,
) -> tuple[list[OneImage], Tensor]:
    """The images that can be read, and their views ``[n, V, D]``."""
    rows: list[Tensor] = []
    pixels: list[Tensor] = []
    taken: list[OneImage] = []
    for image in images:
        try:
            rgb = to_rgb(image) if isinstance(image, Image.Image) else read_image(image)
        except UnreadableImage as error:
            if unreadable is None:
                raise
            unreadable(error)
            continue
        taken.append(image)
        pixels += [backbone.preprocess(part) for part in (_parts(rgb) if zoom else [rgb])]
        if len(pixels) >= _AT_ONCE:
            rows.append(backbone.encode_images(torch.stack(pixels).to(backbone.device)))
            pixels = []
    if pixels:
        rows.append(backbone.encode_images(torch.stack(pixels).to(backbone.device)))
    if not taken:
        return [], torch.empty(0, 1, 0, dtype=torch.float32, device=backbone.device)
    z = torch.cat(rows)
    return taken, z.reshape(len(taken), -1, z.shape[1])


def words_of_texts(corpus: Corpus, a: Sequence[str], b: Sequence[str]) -> list[str]:
    """Words of a corpus that a larger share of the texts ``a`` holds than of ``b``, the largest difference first.

    Case makes no difference, and neither does a plural whose singular the corpus has.

    Raises:
        ValueError: a group without texts.
    """
    if not a or not b:
        raise ValueError(f"{len(a)} and {len(b)} texts: each group needs one or more")
    known = {word.casefold(): word for word in corpus.words}
    longest = min(4, max(word.count(" ") + 1 for word in known))
    shares = []
    for group in (a, b):
        held: Counter[str] = Counter()
        for text in group:
            tokens = re.findall(r"\w+(?:[-']\w+)*", text.casefold())
            grams = {
                " ".join(tokens[i : i + n]) for n in range(1, longest + 1) for i in range(len(tokens) - n + 1)
            }
            held.update({form for gram in grams for form in _known(gram, known)})
        shares.append({word: count / len(group) for word, count in held.items()})
    gaps = {word: share - shares[1].get(word, 0.0) for word, share in shares[0].items()}
    ordered = sorted((word for word, gap in gaps.items() if gap > 0), key=lambda word: (-gaps[word], word))
    return [known[word] for word in ordered[:_FROM_TEXTS]]


def _known(gram: str, known: Mapping[str, str]) -> list[str]:
    return [gram] if gram in known else [form for form in singulars(gram) if form in known]


class _Words:
    """The corpus, and any other text, as embeddings."""

    def __init__(
        self,
        backbone: Backbone,
        corpus: Corpus,
        templates: Mapping[str, str] | None,
        cache_dir: str | PathLike[str] | None,
        progress: bool | None,
        show_all: bool,
    ) -> None:
        self._backbone, self._corpus, self._cache_dir, self._progress = backbone, corpus, cache_dir, progress
        self._hidden = frozenset() if show_all else hidden_in(corpus)
        self._template = (templates or TEMPLATES)["noun"]
        self._prompts = corpus.prompts(templates)

    def vocabulary(self) -> tuple[Sequence[str], Tensor]:
        z = embed_texts(
            self._backbone,
            self._prompts,
            cache_dir=self._cache_dir,
            progress=self._progress,
            title=f"corpus {self._corpus.name}",
        )
        shown = [row for row, word in enumerate(self._corpus.words) if word.casefold() not in self._hidden]
        if len(shown) == len(z):
            return self._corpus.words, z
        return [self._corpus.words[row] for row in shown], z[shown]

    def embed(self, texts: Sequence[str]) -> Tensor:
        for text in texts:
            if not isinstance(text, str) or not text.strip():
                raise ValueError(f"a hypothesis is {text!r}; it must be text")
        return self._backbone.encode_texts([self._template.replace("{}", one_line(text)) for text in texts])


def _parts(image: Image.Image) -> list[Image.Image]:
    width, height = max(1, round(image.width * _CROP)), max(1, round(image.height * _CROP))
    right, bottom = image.width - width, image.height - height
    corners = [(0, 0), (right, 0), (0, bottom), (right, bottom), (right // 2, bottom // 2)]
    return [image, *(image.crop((x, y, x + width, y + height)) for x, y in corners)]


def halves(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Which images of a group propose, and which rank."""
    order = shuffled(count, seed)
    return order[: count // 2], order[count // 2 :]


def _proposed(names: Sequence[str], embeddings: Tensor, a: Tensor, b: Tensor) -> list[str]:
    """The words whose mean cosine is larger in the first group by most, of each view."""
    gaps = product((a.mean(dim=0) - b.mean(dim=0)).float(), embeddings.float().T)  # [V, M]
    count = min(_PROPOSED, gaps.shape[1])
    chosen = gaps.sort(dim=1, descending=True, stable=True).indices[:, :count]
    return [names[i] for i in chosen.flatten().tolist()]


def _ranked(
    texts: Sequence[str], z: Tensor, proposing: Sequence[Tensor], ranking: Sequence[Tensor], number: int
) -> list[Difference]:
    first = [_cosines(group, z) for group in proposing]  # [n, V, T] each
    views = _aurocs(*first).argmax(axis=0)  # [T]
    held_out = [np.take_along_axis(_cosines(group, z), views[None, None], axis=1)[:, 0] for group in ranking]
    aurocs = _aurocs(*held_out)
    with np.errstate(invalid="ignore", divide="ignore"):
        p_values = np.nan_to_num(
            ttest_ind(*held_out, axis=0, equal_var=False, alternative="greater").pvalue, nan=1.0
        )
    gaps = held_out[0].mean(axis=0) - held_out[1].mean(axis=0)
    columns = zip(texts, aurocs.tolist(), p_values.tolist(), gaps.tolist(), views.tolist(), strict=True)
    return [Difference(text, auroc, p, gap, VIEWS[view], number) for text, auroc, p, gap, view in columns]


def _cosines(group: Tensor, z: Tensor) -> NDArray[np.float64]:
    flat = product(group.flatten(0, 1).float(), z.float().T)
    found: NDArray[np.float64] = flat.double().cpu().numpy().reshape(*group.shape[:2], len(z))
    return found


def _aurocs(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mann and Whitney's statistic along the first axis, ties counting half."""
    ranks = rankdata(np.concatenate([a, b]), axis=0)[: len(a)]
    found: NDArray[np.float64] = (ranks.sum(axis=0) - len(a) * (len(a) + 1) / 2) / (len(a) * len(b))
    return found


def _corrected(p_values: NDArray[np.float64]) -> NDArray[np.float64]:
    order = np.argsort(p_values, kind="stable")
    steps = p_values[order] * len(p_values) / np.arange(1, len(p_values) + 1)
    corrected = np.empty_like(p_values)
    corrected[order] = np.minimum.accumulate(steps[::-1])[::-1].clip(max=1)
    return corrected


def _distinct(found: Sequence[tuple[Difference, Tensor]], count: int) -> list[Difference]:
    """The best, less those that say the same as a better one."""
    kept: list[Difference] = []
    rows: list[Tensor] = []
    for difference, z in sorted(found, key=lambda each: (-each[0].auroc, -each[0].gap, each[0].text)):
        if len(kept) == count:
            break
        if not rows or float((torch.stack(rows) @ z).max()) <= _SAME:
            kept.append(difference)
            rows.append(z)
    return kept
