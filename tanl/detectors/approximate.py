"""Activations of very many labels, from the nearest of them and a random sample of the others."""

from __future__ import annotations

import torch
from torch import Tensor

from ..checks import Embeddings, unit_embeddings, whole_number
from ..functional import shuffled
from ..kernels import Segments
from ..kernels.surroundings import require_float64, undisturbed
from ..labels.bank import LabelBank
from ..labels.index import LabelIndex
from ..labels.nearest import products

CANDIDATES = 4096
SAMPLE = 4096

_COMPARED = 1 << 16  # labels that are compared at once
_ROWS = 256  # rows whose candidates are held at once


class ApproximateActivation:
    """Sums of activations as TANL (arXiv 2603.25250) asks for them, without a look at every label.

    The activation of a row z is ``softmax(s z [T; N]^T)[C:]``, over C ID labels T and M negatives N. Here

    - the negatives nearest to z are looked up in an index; their logits and those of all ID labels are exact;
    - the other negatives' share of the denominator is estimated from a sample of the negatives, drawn once
      without replacement: the mean exponential of its labels that are no candidates of z, times the number of
      all that are none;
    - candidates get ``exp(logit - log of the denominator)``, the others 0. This selects the labels best. To give the
      sample's labels their own activations too changes next to nothing; to weight each by all the labels that it
      stands for makes the sums unbiased, and puts chance labels among the selected ones.

    A row's activations do not depend on the rows beside it, on the CPU to the bit. It pays from several hundred
    thousand labels on; below, the exact sums are cheaper (``python -m tools label-index``).

    Args:
        bank: the labels.
        index: an index of the bank's negatives, in their order, such as ``LabelIndex.of(bank)``. None makes one,
            on the CPU of the kind ``ivf``, which needs faiss, on a GPU ``flat``; keep it with `LabelIndex.save` where a
            stream is to be resumed in another process, as lists trained anew on another machine may differ.
        candidates: how many negatives are looked up for a row.
        sample: how many negatives the rest of the denominator is estimated from.
        seed: of the sample, and of an index made here.

    Attributes:
        covered_mass: share of the probability mass that had exact logits (candidates and ID labels), mean over
            the rows of the last call; None before it. Small values say that the activations of a row are spread
            over more labels than ``candidates``.

    Raises:
        TypeError, ValueError: unusable settings; a bank without negatives; an index of other labels or
            on another device.
    """

    @undisturbed
    def __init__(
        self,
        bank: LabelBank,
        index: LabelIndex | None = None,
        *,
        candidates: int = CANDIDATES,
        sample: int = SAMPLE,
        seed: int = 0,
    ) -> None:
        if not isinstance(bank, LabelBank):
            raise TypeError(f"bank must be a LabelBank, not {type(bank).__name__}")
        require_float64(bank.device, type(self).__name__)
        self.candidates = whole_number(candidates, "candidates", at_least=1)
        self.sample = whole_number(sample, "sample", at_least=1)
        self.seed = whole_number(seed, "seed", at_least=0)
        if index is None:
            index = LabelIndex.of(bank, kind="ivf" if bank.device.type == "cpu" else "flat", seed=self.seed)
        elif index.device != bank.device:
            raise ValueError(
                f"{index!r} is on {index.device}, the bank on {bank.device}: give index.to(bank.device)"
            )
        elif index.names != bank.negative_names:
            raise ValueError(
                f"{index!r} is not an index of the {bank.num_negatives} negatives of {bank!r}, in their order; "
                "LabelIndex.of(bank) makes one"
            )
        elif index.is_edited:
            raise ValueError(f"{index!r} is edited, and {bank!r} is not: give an index of the bank as it is")
        elif not _same_rows(index.embeddings, bank.negative_embeddings):
            raise ValueError(f"{index!r} has other embeddings than {bank!r}; LabelIndex.of(bank) makes one")
        self.bank = bank
        self.index = index
        self.covered_mass: float | None = None
        self._covered, self._rows = 0.0, 0

        drawn = shuffled(bank.num_negatives, seed)[:sample].to(bank.device)
        # The labels whose logits every row needs, ID labels first.
        self._always = torch.cat([bank.id_embeddings, bank.negative_embeddings[drawn]])
        # Where a negative is in the sample; those that are not share the place after its end.
        self._place = torch.full((bank.num_negatives,), len(drawn), dtype=torch.int64, device=bank.device)
        self._place[drawn] = torch.arange(len(drawn), dtype=torch.int64, device=bank.device)

    @property
    def mean_covered_mass(self) -> float | None:
        """`covered_mass` as a mean over the rows of all calls so far."""
        return self._covered / self._rows if self._rows else None

    @undisturbed
    def __call__(
        self, z: Embeddings, segments: Segments, known: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Sums of activations over ranges of rows, and the rows' log-sum-exps, which are estimates too.

        Args:
            z: ``[n, D]``, unit rows, on the bank's device.
            segments: G ranges ``(first, last + 1)`` of rows of z; they may overlap.
            known: log-sum-exps of the first e rows from an earlier call, ``[e]`` float32; None for none. They are
                estimated again, as `covered_mass` is of all rows.

        Returns:
            ``[G, M]`` float32; and log-sum-exps ``[n - e]`` float32 of the rows for which they were not known.

        Raises:
            TypeError, ValueError: z is unusable, or a segment is no range of its rows.
        """
        z = unit_embeddings(z, "embeddings", dim=self.bank.dim, device=self.bank.device)
        ranges = segments.tolist() if isinstance(segments, Tensor) else segments
        for first, end in ranges:
            if not 0 <= first <= end <= len(z):
                raise ValueError(f"the segment ({first}, {end}) is no range of the {len(z)} rows")
        sums = torch.zeros(len(ranges), self.bank.num_negatives, dtype=torch.float32, device=z.device)
        covered, found = 0.0, []
        for start in range(0, len(z), _ROWS):
            rows, activations, mass, lse = self._activations(z[start : start + _ROWS])
            found.append(lse)
            covered += float(mass.sum())
            for total, (first, end) in zip(sums, ranges, strict=True):
                part = slice(max(first - start, 0), max(end - start, 0))
                total.index_add_(0, rows[part].flatten(), activations[part].flatten())
        self.covered_mass = covered / len(z)
        self._covered += covered
        self._rows += len(z)
        return sums, torch.cat(found)[0 if known is None else len(known) :]

    def _activations(self, z: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Candidates ``[b, k]``, their activations, each row's covered mass ``[b]`` and log-sum-exp ``[b]``."""
        scale, num_id = self.bank.logit_scale, self.bank.num_id
        cosines, rows = self.index.candidates(z, self.candidates)
        found = rows >= 0
        rows = rows.clamp(min=0)  # what was not found has the cosine -inf, and adds nothing to row 0
        always = products(z, self._always).double() * scale
        logits = cosines.double() * scale

        size = always.shape[1] - num_id
        places = self._place[rows].masked_fill_(~found, size)
        is_candidate = torch.zeros(len(z), size + 1, dtype=torch.bool, device=z.device)
        is_candidate = is_candidate.scatter_(1, places, True)[:, :size]
        others = always[:, num_id:].masked_fill(is_candidate, -torch.inf)
        unseen = self.bank.num_negatives - found.sum(dim=1)
        sampled = size - is_candidate.sum(dim=1)  # 0 only where nearly all labels are candidates
        rest = others.logsumexp(dim=1) + (unseen.float() / sampled.clamp(min=1)).log()

        known = torch.logaddexp(logits.logsumexp(dim=1), always[:, :num_id].logsumexp(dim=1))
        lse = torch.logaddexp(known, rest)
        return rows, (logits - lse[:, None]).exp().float(), (known - lse).exp(), lse.float()

    def __repr__(self) -> str:
        return (
            f"ApproximateActivation({self.bank!r}, {self.index!r}, candidates={self.candidates}, "
            f"sample={self.sample}, seed={self.seed})"
        )


def _same_rows(one: Tensor, other: Tensor) -> bool:
    """Whether two ``[N, D]`` hold the same values, in parts: in float32 they may be more than memory holds."""
    if one.data_ptr() == other.data_ptr() and one.shape == other.shape and one.dtype == other.dtype:
        return True
    pairs = zip(torch.split(one, _COMPARED), torch.split(other, _COMPARED), strict=True)
    return one.shape == other.shape and all(torch.equal(a.float(), b.float()) for a, b in pairs)
