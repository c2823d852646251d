"""Made-up embeddings with the structure of CLIP's: figures on data that are neither drawings nor photographs.

What is known of such embeddings is put in, and nothing of any detector:

- *Two cones with a gap* (Liang et al. 2022, "Mind the gap", arXiv 2203.02053): texts have one direction in common and
  images another, which make up the most of them. So any two texts are alike, and any two images, and a text and its
  image less so.
- *Concepts in groups, groups in domains*: two kinds of dogs lie nearer to one another than a dog and a bird, and these
  nearer than a dog and a tool.
- *Spread within a class* that is wider than what tells two classes of one group apart.
- *Directions that are not equal*: content, spread and words have deviations that fall with the axis's number.

ID labels are half of the concepts of four groups of one domain. *Near* outliers are images of the other half, *far*
ones of other domains. The corpus has a word for every concept that is not an ID label, and words around concepts and
groups of every domain: kinds and relatives of the ID labels among them, as in WordNet.

The numbers below were set so that a text and its image have a cosine of 0.32 and any two of 0.17, two texts of 0.76 and
two images of 0.49, which is about where CLIP's lie, and so that 86 % of the ID images have their own label as the
nearest of the 48. They were set by these cosines and this accuracy; scores of MCM and NegLabel, and one run of
``tanl bench trust`` at a weaker signal, had been seen before.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import normalize

from tanl.labels.bank import LabelBank

DIM = 256
LOGIT_SCALE = 100.0
_DOMAINS, _GROUPS, _CONCEPTS = 8, 6, 24  # groups of a domain, concepts of a group
_ID_GROUPS = 4
_WORDS = 20_000
_SEED = 2026
_FALL = 0.3  # the i-th axis has standard deviation i to the power of minus this

_OF_DOMAIN, _OF_GROUP, _OF_CONCEPT = 0.5, 0.5, 0.7  # what a concept is made of
_TEXT_COMMON, _IMAGE_COMMON = 0.75, 0.5  # of a squared norm: the cone's direction
_COSINE_OF_CONES = 0.3
_SIGNAL = 0.45  # of an image's content: its concept; the rest is spread
_WORD_SPREAD = 0.8  # of a word about its concept or its group
_TEXT_SPREAD = 0.3


class World:
    """Concepts, their texts, and images of them. The world is always the same; images are drawn.

    Attributes:
        bank: the ID labels and the corpus, 48 and 21 104 labels.
        inside: numbers of the concepts that are ID labels.
        near: those of the same groups that are not.
        far: those of other domains than the ID labels'.
    """

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(_SEED)
        domain_of = torch.arange(_DOMAINS * _GROUPS) // _GROUPS
        domains = _directions(_DOMAINS, generator)[domain_of]
        groups = (
            normalize(_OF_DOMAIN * domains + _OF_GROUP * _directions(len(domain_of), generator), dim=1)
            * (_OF_DOMAIN**2 + _OF_GROUP**2) ** 0.5
        )
        group_of = torch.arange(len(groups) * _CONCEPTS) // _CONCEPTS
        own = _directions(len(group_of), generator)
        self._concepts = normalize(groups[group_of] + _OF_CONCEPT * own, dim=1)  # [n, D]

        first, second = _directions(2, generator, even=True)
        second = normalize(second - (second @ first) * first, dim=0)
        self._text_cone = first
        self._image_cone = _COSINE_OF_CONES * first + (1 - _COSINE_OF_CONES**2) ** 0.5 * second
        self._noise = _directions(1, generator)[0]

        of_concept = torch.randint(len(group_of), (_WORDS // 2,), generator=generator)
        of_group = torch.randint(len(groups), (_WORDS - _WORDS // 2,), generator=generator)
        around = torch.cat([self._concepts[of_concept], normalize(groups, dim=1)[of_group]])
        words = normalize(around + _WORD_SPREAD * _directions(_WORDS, generator), dim=1)

        number = torch.arange(len(group_of))
        of_id_group, half = group_of < _ID_GROUPS, number % _CONCEPTS < _CONCEPTS // 2
        self.inside = number[of_id_group & half].tolist()
        self.near = number[of_id_group & ~half].tolist()
        self.far = number[domain_of[group_of] > 0].tolist()
        others = number[~(of_id_group & half)].tolist()
        texts = self._texts(torch.cat([self._concepts[[*self.inside, *others]], words]), generator)
        names = [f"concept {n}" for n in (*self.inside, *others)] + [f"word {n}" for n in range(_WORDS)]
        self.bank = LabelBank(names, texts, num_id=len(self.inside), logit_scale=LOGIT_SCALE)

    def images(
        self,
        concepts: Tensor,
        generator: torch.Generator,
        *,
        signal: float = _SIGNAL,
        mixed_with: Tensor | None = None,
    ) -> Tensor:
        """Images of concepts, ``[n] -> [n, D]``.

        Args:
            concepts: the concept of each image.
            generator: draws them.
            signal: in [0, 1], how much of an image's content is its concept.
            mixed_with: another concept for each image, which has half of its content.
        """
        content = self._content(concepts, generator, signal)
        if mixed_with is not None:
            content = (content + self._content(mixed_with, generator, signal)) / 2
        return self._of_cone(self._image_cone, content, _IMAGE_COMMON)

    def noise(self, generator: torch.Generator, count: int = 15) -> Tensor:
        """Images of nothing, ``[count, D]``: alike, and of no concept."""
        content = normalize(self._noise + 0.5 * _directions(count, generator), dim=1)
        return self._of_cone(self._image_cone, content, _IMAGE_COMMON)

    def _content(self, concepts: Tensor, generator: torch.Generator, signal: float) -> Tensor:
        spread = _directions(len(concepts), generator)
        return signal * self._concepts[concepts] + math.sqrt(1 - signal**2) * spread

    def _texts(self, content: Tensor, generator: torch.Generator) -> Tensor:
        content = normalize(content + _TEXT_SPREAD * _directions(len(content), generator), dim=1)
        return self._of_cone(self._text_cone, content, _TEXT_COMMON)

    def _of_cone(self, cone: Tensor, content: Tensor, common: float) -> Tensor:
        rows: Tensor = normalize(common**0.5 * cone + (1 - common) ** 0.5 * content, dim=1)
        return rows


def _directions(count: int, generator: torch.Generator, *, even: bool = False) -> Tensor:
    """Random unit rows ``[count, D]``, on all axes alike or with the spectrum of content."""
    rows = torch.randn(count, DIM, generator=generator)
    if not even:
        rows *= torch.arange(1, DIM + 1) ** -_FALL
    unit: Tensor = normalize(rows, dim=1)
    return unit
