"""Activations of millions of labels: computed for a short list of them, which an index keeps up with the stream."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn.functional import normalize

from .. import kernels
from ..checks import unit_embeddings, whole_number
from ..functional import shuffled
from ..io.text import some_of
from ..kernels import Segments
from ..kernels.surroundings import product, require_float64, undisturbed
from ..labels.bank import LabelBank
from ..labels.index import LabelIndex
from ..labels.nearest import products

REPRESENTATIVES = 16
CANDIDATES = 4096
SIZE = 65_536
SAMPLE = 16_384

_ROUNDS = 4  # of Lloyd's algorithm


class ShortlistActivation:
    """What makes TANL (arXiv 2603.25250) affordable over millions of labels: ``TANL(bank, activation=...)`` with it.

    TANL selects the K labels whose mean activation over confident OOD images exceeds that over ID images most. Of ten
    million labels nearly all are never in question: those that are lie near to what the outliers show. So the detector
    works with a short list:

    - after each batch its confident outliers are summed up by a few representatives (means of groups of them), and the
      negatives nearest to each are looked up in an index and join the list; beyond ``size`` those of least relevance
      leave it, but never those that were selected at the start;
    - on the list everything is as with exact activations: sums over both rings, ranking, scores;
    - the denominator of a row's softmax is over *all* labels: the ID labels exactly, the negatives' part estimated from
      a sample of them that is drawn once without replacement, times their number over the sample's.

    A batch costs the exact step over ``size`` labels and a search for the representatives, whatever the number of
    labels; nothing of that length is ever made. A label that is far from all representatives is not found, be it
    ever so relevant. docs/scale.md has what was measured.

    Args:
        bank: the ID labels. Negatives that it has must be the index's, in their order, unless the index is edited.
        index: of the negatives, over a mapped bank too, and edited where negatives have to come or go:
            `LabelIndex.extended`, `LabelIndex.without`. None makes one of the bank's negatives.
        representatives: how many, at most, for a batch.
        candidates: labels that are looked up for each.
        size: labels of the list, at most.
        sample: labels that denominators are estimated from.
        seed: of the sample, and of an index made here.

    Raises:
        TypeError, ValueError: unusable settings; no negatives; an index of other labels, of another D or device; an ID
            label that is among the index's labels.
    """

    @undisturbed
    def __init__(
        self,
        bank: LabelBank,
        index: LabelIndex | None = None,
        *,
        representatives: int = REPRESENTATIVES,
        candidates: int = CANDIDATES,
        size: int = SIZE,
        sample: int = SAMPLE,
        seed: int = 0,
    ) -> None:
        if not isinstance(bank, LabelBank):
            raise TypeError(f"bank must be a LabelBank, not a {type(bank).__name__}")
        require_float64(bank.device, type(self).__name__)
        self.representatives = whole_number(representatives, "representatives", at_least=1)
        self.candidates = whole_number(candidates, "candidates", at_least=1)
        self.size = whole_number(size, "size", at_least=1)
        self.sample = whole_number(sample, "sample", at_least=1)
        self.seed = whole_number(seed, "seed", at_least=0)
        if index is None:
            index = LabelIndex.of(bank, seed=self.seed)
        _check_same_labels(bank, index)
        self.bank, self.index = bank, index
        alive = (~index.struck).nonzero()[:, 0]
        self._drawn = alive[shuffled(len(alive), self.seed)[: self.sample].to(alive.device)]
        # What every row's denominator needs, ID labels first.
        self._always = torch.cat([bank.id_embeddings, index.vectors(self._drawn).float()])
        self._stands_for = math.log(len(alive) / len(self._drawn))

    @property
    def num_labels(self) -> int:
        """Negatives that can be found."""
        return len(self.index) - self.index.num_struck

    def of_rows(self, rows: Tensor) -> Shortlist:
        """A list of the labels of these rows of the index ``[n]``, in their order.

        Raises:
            OSError: the file that the index's labels are mapped from was written to.
        """
        return Shortlist(self, rows, self._bank_of(_picked(self.index.names, rows), self._vectors(rows)))

    def first(self, outliers: Tensor | None, fixed: int) -> Shortlist:
        """The list before a stream: labels near to known outliers ``[n, D]``, or without any those of the sample.

        Args:
            outliers: what the negative ring starts from.
            fixed: how many labels at least, if there are so many: those selected at the start never leave.
        """
        found = self._drawn[: self.size]
        if outliers is not None:
            near = self._near(
                outliers, max(self.candidates, -(-fixed // min(len(outliers), self.representatives)))
            )
            found = near if len(near) >= fixed else distinct(torch.cat([near, found]))
        return self.of_rows(found.sort().values)

    @undisturbed
    def denominators(self, z: Tensor) -> Tensor:
        """Log-sum-exps of rows ``[n, D]`` over all labels, ``[n]`` float32, the same bits whatever rows are beside."""
        if not len(z):
            return z.new_zeros(0)
        logits = products(z.contiguous(), self._always) * self.bank.logit_scale
        of_id, of_sample = logits[:, : self.bank.num_id], logits[:, self.bank.num_id :]
        return torch.logaddexp(of_id.logsumexp(dim=1), of_sample.logsumexp(dim=1) + self._stands_for)

    def _near(self, outliers: Tensor, count: int) -> Tensor:
        """Rows of labels near to what outliers ``[n, D]`` show, sorted."""
        found = self.index.candidates(representatives_of(outliers, self.representatives), count).rows
        return distinct(found[found >= 0])[: self.size]

    def _vectors(self, rows: Tensor) -> Tensor:
        if self.index.file is not None:
            self.index.file.check()
        return self.index.vectors(rows)

    def _bank_of(
        self, names: tuple[str, ...], vectors: Tensor, kept: Tensor | None = None, more: Tensor | None = None
    ) -> LabelBank:
        """The ID labels, then those of ``vectors`` at ``kept [k]`` (None is all), then ``more``.

        Every batch makes such a bank, so that each row of it is written once.
        """
        own = self.bank
        first, last = own.num_id, own.num_id + len(vectors if kept is None else kept)
        rows = vectors.new_empty(last + (0 if more is None else len(more)), own.dim)
        rows[:first] = own.id_embeddings
        if kept is None:
            rows[first:last] = vectors
        else:
            torch.index_select(vectors, 0, kept, out=rows[first:last])
        if more is not None:
            rows[last:] = more
        return LabelBank.of_checked(
            (*own.id_names, *names), rows, num_id=own.num_id, logit_scale=own.logit_scale
        )

    def __deepcopy__(self, memo: dict[int, object]) -> ShortlistActivation:
        """It is never changed."""
        return self

    def __repr__(self) -> str:
        return (
            f"ShortlistActivation({self.bank.num_id} ID labels, {self.index!r}, {self.index.fingerprint[:12]}, "
            f"representatives={self.representatives}, candidates={self.candidates}, size={self.size}, "
            f"sample={self.sample}, seed={self.seed})"
        )


@dataclass(frozen=True)
class Shortlist:
    """The labels that are in question now.

    Attributes:
        whole: what it is a list of.
        rows: ``[w]`` int64: rows of the index.
        bank: the ID labels and these.
    """

    whole: ShortlistActivation
    rows: Tensor = field(repr=False)
    bank: LabelBank

    def __call__(self, z: Tensor, segments: Segments, known: Tensor) -> tuple[Tensor, Tensor]:
        """Sums ``[G, w]`` of the activations of rows ``[n, D]`` over segments, and the rows' log-sum-exps, those of the
        first rows being ``known``."""
        lse = self.whole.denominators(z[len(known) :])
        labels, scale = self.bank.negative_embeddings, self.bank.logit_scale
        return kernels.segment_colsum(z.contiguous(), labels, scale, torch.cat([known, lse]), segments), lse

    def fronted(self, columns: Tensor) -> tuple[Shortlist, Tensor]:
        """The same labels, some of them first; and where each was."""
        rest = torch.ones(len(self.rows), dtype=torch.bool, device=columns.device)
        rest[columns] = False
        order = torch.cat([columns, rest.nonzero()[:, 0]])
        names = _picked(self.bank.negative_names, order)
        bank = self.whole._bank_of(names, self.bank.negative_embeddings, order)
        return Shortlist(self.whole, self.rows[order], bank), order

    def followed(self, outliers: Tensor, relevance: Tensor, fixed: int) -> tuple[Shortlist, Tensor] | None:
        """The list after a batch with these confident outliers ``[n, D]``, and where each label was, -1 if it is new.

        None where it stays as it is.

        Args:
            outliers: confident ones.
            relevance: ``[w]``, of the labels of now.
            fixed: how many labels, the first ones, never leave.
        """
        whole = self.whole
        near = whole._near(outliers, whole.candidates)
        new = near[~torch.isin(near, self.rows)]
        if not len(new):
            return None
        fixed = min(fixed, len(self.rows))
        room = max(0, max(whole.size, fixed) - fixed)
        new = new[:room]
        stay = min(room - len(new), len(self.rows) - fixed)
        kept = torch.arange(len(self.rows), dtype=torch.int64, device=self.rows.device)
        if stay < len(self.rows) - fixed:
            near_now = torch.isin(self.rows[fixed:], near)  # what was just found stays before all else
            least = relevance[fixed:].double().masked_fill(near_now, torch.inf)
            chosen = kernels.stable_topk(least, stay).sort().values if stay else kept[:0]
            kept = torch.cat([kept[:fixed], chosen + fixed])
        columns = torch.cat([kept, kept.new_full((len(new),), -1)])
        rows = torch.cat([self.rows[kept], new])
        names = (*_picked(self.bank.negative_names, kept), *_picked(whole.index.names, new))
        bank = whole._bank_of(names, self.bank.negative_embeddings, kept, whole._vectors(new))
        return Shortlist(whole, rows, bank), columns


def representatives_of(rows: Tensor, count: int) -> Tensor:
    """Unit means of up to ``count`` groups of rows ``[n, D]``: Lloyd's algorithm, begun by farthest rows."""
    rows = unit_embeddings(rows, "outliers")
    count = min(count, len(rows))
    chosen = [normalize(rows.mean(dim=0), dim=0)]
    nearest = product(rows, chosen[0][:, None])[:, 0]
    while len(chosen) <= count:
        chosen.append(rows[nearest.argmin()])
        nearest = torch.maximum(nearest, product(rows, chosen[-1][:, None])[:, 0])
    centres = torch.stack(chosen[1:])
    for _ in range(_ROUNDS):
        own = product(rows, centres.T).argmax(dim=1)
        means = torch.zeros_like(centres).index_add_(0, own, rows)
        length = torch.linalg.vector_norm(means, dim=1, keepdim=True)
        centres = torch.where(length > 0, means / length.clamp(min=1e-12), centres)
    return centres


def _picked(names: tuple[str, ...], rows: Tensor) -> tuple[str, ...]:
    return tuple(map(names.__getitem__, rows.tolist()))


def distinct(rows: Tensor) -> Tensor:
    """Whole numbers ``[n]`` in order, each once."""
    rows = rows.sort().values
    return rows[torch.cat([rows.new_ones(1, dtype=torch.bool), rows[1:] != rows[:-1]])] if len(rows) else rows


def _check_same_labels(bank: LabelBank, index: LabelIndex) -> None:
    if not isinstance(index, LabelIndex):
        raise TypeError(f"index must be a LabelIndex, not a {type(index).__name__}")
    if index.device != bank.device:
        raise ValueError(
            f"{index!r} is on {index.device}, the bank on {bank.device}: give index.to(bank.device)"
        )
    if index.dim != bank.dim:
        raise ValueError(
            f"{index!r} has D = {index.dim}, {bank!r} has {bank.dim}: both come from one backbone"
        )
    if bank.num_negatives and not index.is_edited and index.names != bank.negative_names:
        raise ValueError(
            f"{index!r} is not an index of the {bank.num_negatives} negatives of {bank!r}, in their order; "
            "LabelIndex.of(bank) makes one"
        )
    own, struck = set(bank.id_names), index.struck
    both = [name for row, name in enumerate(index.names) if name in own and not bool(struck[row])]
    if both:
        raise ValueError(
            f"{some_of(both, 5)} both ID label and negative: give index.without([...]) that leaves them out"
        )
