"""Terms that `Fused` adds to a detector's score: a dictionary of outliers, and texts of two labels together."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..checks import positive, unit_embeddings, whole_number
from ..kernels.surroundings import product
from ..labels.bank import KEPT_TOLERANCE, LabelBank
from ..labels.nearest import nearest
from ..labels.prompts import TEMPLATES, full_templates
from .base import Detector
from .saved import saved_tensor


@dataclass(frozen=True)
class VisualDictionary:
    """OODD's dictionary: an image that resembles the stream's most OOD images is more OOD.

    Yang et al., *OODD: test-time out-of-distribution detection with dynamic dictionary*, CVPR 2025 (arXiv 2503.10468).
    A priority queue holds the ``size`` images of the stream with the highest scores of the detector; the term is
    ``weight`` times the cosine to the ``neighbours``-th nearest of them. Images of earlier batches alone count. With
    fewer images in the queue it is the cosine to the farthest, and without any, 0. The published method also starts
    from generated outliers and has a dictionary of ID images, which are not here; not checked against published
    outputs.

    Until the queue is full every image enters it, ID images too. ``least`` keeps out what the detector is not sure of;
    it is not the paper's.

    Args:
        size: of the queue.
        neighbours: which of the nearest counts.
        weight: of the term beside the detector's score.
        least: the score from which an image may enter; None lets every image.

    Raises:
        TypeError, ValueError: an unusable setting.
    """

    learns: ClassVar[bool] = True

    size: int = 2048
    neighbours: int = 5
    weight: float = 1.0
    least: float | None = None
    rows: Tensor | None = field(default=None, repr=False, compare=False, kw_only=True)
    scores: Tensor | None = field(default=None, repr=False, compare=False, kw_only=True)

    def __post_init__(self) -> None:
        for name in ("size", "neighbours"):
            object.__setattr__(self, name, whole_number(getattr(self, name), name, at_least=1))
        object.__setattr__(self, "weight", positive(self.weight, "weight"))

    def values(self, z: Tensor, detector: Detector) -> Tensor:
        """See `Term`; O(B size D)."""
        if self.rows is None:
            return z.new_zeros(len(z))
        count = min(self.neighbours, len(self.rows))
        return self.weight * product(z, self.rows.T).topk(count, dim=1).values[:, -1]

    def learnt(self, z: Tensor, scores: Tensor) -> VisualDictionary:
        """The queue with the batch's images in it, the ``size`` with the highest scores; among equals the earliest."""
        if self.least is not None:
            z, scores = z[scores >= self.least], scores[scores >= self.least]
        if not len(z):
            return self
        if self.rows is not None and self.scores is not None:
            z, scores = torch.cat([self.rows, z]), torch.cat([self.scores, scores])
        order = scores.sort(descending=True, stable=True).indices[: self.size].sort().values
        return replace(self, rows=z[order], scores=scores[order])

    def started(self) -> VisualDictionary:
        """An empty queue."""
        return replace(self, rows=None, scores=None)

    def state_dict(self) -> dict[str, Any]:
        """The queue."""
        return {"rows": self.rows, "scores": self.scores}

    def resumed(self, state: dict[str, Any], bank: LabelBank) -> VisualDictionary:
        """The queue that was saved, or ValueError."""
        if not isinstance(state, dict) or state.keys() != {"rows", "scores"}:
            raise ValueError("the dictionary's state must hold rows and scores")
        if state["rows"] is None and state["scores"] is None:
            return self.started()
        what, device = "the dictionary's", bank.device
        rows = saved_tensor(state["rows"], f"{what} rows", (None, bank.dim), torch.float32, device)
        scores = saved_tensor(state["scores"], f"{what} scores", (len(rows),), torch.float32, device)
        if not 0 < len(rows) <= self.size:
            raise ValueError(f"{what} queue must hold 1 to {self.size} rows, not {len(rows)}")
        rows = unit_embeddings(rows, f"{what} rows", tolerance=KEPT_TOLERANCE)
        return replace(self, rows=rows, scores=scores)


class PairScore:
    """NegRefine's score of pairs: an image that "p and n" fits better than "n" alone shows p among other things.

    Ansari, Wang and Xiong, *NegRefine: refining negative label-based zero-shot OOD detection*, ICCV 2025 (arXiv
    2507.09795). For the ``labels`` best ID labels p and the ``labels`` best negatives n of the detector's, with t the
    embedding of the text "p and n" in the template, the term is ``weight (1 - max_{p, n} e^{s z.t} / (e^{s z.t} + e^{s
    z.n}))``. The published score adds twice the maximum to NegLabel's with 100 groups; it leaves subcategories and
    proper nouns out of the negatives by a language model, for which the removal "kinds" is a stand-in. From the public
    code; not checked against published outputs.

    Texts are encoded when a pair is first needed, and the embeddings of ``kept`` pairs are kept: a batch of B images
    asks for at most ``labels^2 B`` texts, most of which come again with the next batch.

    Args:
        encode_texts: texts to unit embeddings ``[n, D]``, as a backbone's ``encode_texts``.
        labels: k, how many ID labels and negatives are paired.
        weight: of the term beside the detector's score; NegRefine's is 2.
        template: of the pair, with ``{}`` where it goes.
        kept: how many embeddings of pairs are kept, those that were last needed: 20 000 take 40 MB with D = 512.

    Raises:
        TypeError, ValueError: an unusable setting.
    """

    learns: ClassVar[bool] = False

    def __init__(
        self,
        encode_texts: Callable[[Sequence[str]], Tensor],
        *,
        labels: int = 5,
        weight: float = 2.0,
        template: str = TEMPLATES["noun"],
        kept: int = 20_000,
    ) -> None:
        if not callable(encode_texts):
            raise TypeError(f"encode_texts must be a function of texts, not {encode_texts!r}")
        self.encode_texts = encode_texts
        self.labels = whole_number(labels, "labels", at_least=1)
        self.weight = positive(weight, "weight")
        self.template = full_templates({"noun": template})["noun"]
        self.kept = whole_number(kept, "kept", at_least=1)
        self._rows: OrderedDict[str, Tensor] = OrderedDict()

    def values(self, z: Tensor, detector: Detector) -> Tensor:
        """See `Term`.

        Raises:
            ValueError: a detector that scores without negatives; texts without a usable embedding.
        """
        bank = detector.bank
        names, negatives = detector.negatives()
        if not len(names):
            raise ValueError(
                f"PairScore pairs ID labels with negatives, and {type(detector).__name__} has none"
            )
        ids = nearest(z, bank.id_embeddings, min(self.labels, bank.num_id)).rows.tolist()
        best = nearest(z, negatives, min(self.labels, len(names)))
        texts = [
            [self._text(bank.id_names[p], names[n]) for p in labels for n in others]
            for labels, others in zip(ids, best.rows.tolist(), strict=True)
        ]
        embeddings = self._embedded({text for row in texts for text in row}, bank)
        pairs = torch.stack([torch.stack([embeddings[text] for text in row]) for row in texts])  # [B, k k, D]
        cosines = torch.einsum("bd,bpd->bp", z, pairs)
        alone = best.cosines.repeat(1, len(ids[0]))  # for each ID label all negatives
        return self.weight * torch.sigmoid(bank.logit_scale * (alone - cosines)).amin(dim=1)

    def _text(self, label: str, negative: str) -> str:
        return self.template.replace("{}", f"{label} and {negative}")

    def _embedded(self, texts: set[str], bank: LabelBank) -> dict[str, Tensor]:
        found = {text: self._rows[text] for text in texts if text in self._rows}
        if missing := sorted(texts - found.keys()):
            rows = unit_embeddings(
                self.encode_texts(missing), "embeddings of pairs", dim=bank.dim, device=bank.device
            )
            found.update(zip(missing, rows, strict=True))
        for text in sorted(texts):
            self._rows[text] = found[text]
            self._rows.move_to_end(text)
        while len(self._rows) > self.kept:
            self._rows.popitem(last=False)
        return found

    def learnt(self, z: Tensor, scores: Tensor) -> PairScore:
        """Itself: it learns nothing."""
        return self

    def started(self) -> PairScore:
        """Itself."""
        return self

    def state_dict(self) -> dict[str, Any]:
        """Nothing: pairs are encoded again."""
        return {}

    def resumed(self, state: dict[str, Any], bank: LabelBank) -> PairScore:
        """Itself, or ValueError."""
        if state != {}:
            raise ValueError("a PairScore has no state")
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> PairScore:
        return self  # the function is a model's, and what is kept may be shared

    def __repr__(self) -> str:
        return f"PairScore(labels={self.labels}, weight={self.weight}, template={self.template!r})"
