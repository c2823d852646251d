"""Negatives chosen by ID images: those that lie farther from every class's images than the class's own name does."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import normalize

from ..checks import Embeddings, unit_embeddings, whole_number
from ..kernels.surroundings import product, undisturbed
from .bank import LabelBank

_ROWS = 4096


class InterModal:
    """InterNeg's choice of negatives: by their distance from ID images, not from ID texts.

    Xu et al., *Mind the way you select negative texts: pursuing the distance consistency in OOD detection with VLMs*,
    arXiv 2603.02618. With ``P_c`` the normalised mean of the embeddings of a class's images and ``T_c`` the embedding
    of its name, a negative ``n`` is kept only if ``n.P_c < T_c.P_c`` for every class, and those with the largest mean
    of ``T_c.P_c - n.P_c`` come first. Classes without images take no part. From the equations; not checked against
    published outputs.

    A choice is a function from bank to bank, which detectors take in place of a number of negatives::

        choice = tanl.InterModal(z, names_of_the_images, count=10_000)
        tanl.TANL(bank, candidates=choice); tanl.NegLabel(bank, num_negatives=choice)

    It needs no labelled images: the ring of a TANL holds images that the stream was sure of,
    ``InterModal(detector.state.positive.embeddings)``.

    Args:
        images: ``[n, D]`` embeddings of ID images, unit rows, from the backbone that embedded the labels.
        labels: the ID label of each image; None takes the nearest ID label of the bank for each.
        count: how many negatives are kept at most; None keeps all that pass.

    Raises:
        TypeError, ValueError: unusable embeddings or count; as many labels as images are needed.
    """

    @undisturbed
    def __init__(
        self, images: Embeddings, labels: Sequence[str] | None = None, *, count: int | None = None
    ) -> None:
        self.images = unit_embeddings(images, "ID image embeddings").clone()
        if labels is not None:
            if isinstance(labels, str) or not all(isinstance(label, str) for label in labels):
                raise TypeError("labels must be a list of strings, the ID label of each image")
            if len(labels) != len(self.images):
                raise ValueError(f"{len(self.images)} ID images, but {len(labels)} labels; give one for each")
            labels = tuple(labels)
        self.labels = labels
        self.count = None if count is None else whole_number(count, "count", at_least=1)

    @undisturbed
    def __call__(self, bank: LabelBank) -> LabelBank:
        """The bank with the negatives that pass, the best first.

        Raises:
            ValueError: another D or device; no image of one of its ID labels; no negative passes.
        """
        images = unit_embeddings(self.images, "ID image embeddings", dim=bank.dim, device=bank.device)
        prototypes, texts = self._prototypes(images, bank)
        own = (prototypes * texts).sum(dim=1)  # [C']
        passes, margins = [], []
        for part in torch.split(bank.negative_embeddings, _ROWS):
            margin = own - product(part.float(), prototypes.T)
            passes.append((margin > 0).all(dim=1))
            margins.append(margin.mean(dim=1))
        kept = (
            torch.cat(passes).nonzero()[:, 0] if passes else torch.empty(0, dtype=torch.int64, device="cpu")
        )
        if not len(kept):
            raise ValueError(
                f"none of the {bank.num_negatives} negatives lies farther from the images of every ID label than the "
                "label itself: give images that the model takes for what they are, or choose negatives by number"
            )
        order = kept[torch.cat(margins)[kept].sort(descending=True, stable=True).indices][: self.count]
        names = bank.negative_names
        return bank.of_checked(
            (*bank.id_names, *(names[i] for i in order.tolist())),
            torch.cat([bank.embeddings[: bank.num_id], bank.negative_embeddings[order]]),
            num_id=bank.num_id,
            logit_scale=bank.logit_scale,
        )

    def _prototypes(self, images: Tensor, bank: LabelBank) -> tuple[Tensor, Tensor]:
        """The prototype and the text of each ID label that has images, ``[C', D]`` each."""
        if self.labels is None:
            numbers = product(images, bank.id_embeddings.T).argmax(dim=1)
        else:
            place = {name: number for number, name in enumerate(bank.id_names)}
            numbers = torch.tensor(
                [place.get(label, -1) for label in self.labels], dtype=torch.int64, device=images.device
            )
            images, numbers = images[numbers >= 0], numbers[numbers >= 0]
        if not len(images):
            raise ValueError(
                "no ID image is of an ID label of the bank: the labels are spelled as the bank's are"
            )
        used = sorted(set(numbers.tolist()))
        sums = torch.stack([images[numbers == number].sum(dim=0) for number in used])
        return normalize(sums, dim=1), bank.id_embeddings[used]

    def __repr__(self) -> str:
        digest = hashlib.sha256(self.images.cpu().contiguous().numpy().data)
        digest.update(repr(self.labels).encode())
        named = "" if self.labels is None else f" of {len(set(self.labels))} labels"
        return f"InterModal({len(self.images)} images{named}, {digest.hexdigest()[:12]}, count={self.count})"
