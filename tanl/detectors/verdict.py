"""What a detector says of a batch of embeddings: verdicts, the best labels, and the evidence."""

from __future__ import annotations

from collections.abc import Iterator, Sequence, Set
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, overload

import torch
from torch import Tensor

from ..checks import Embeddings, as_tensor, whole_number
from ..io.text import counted, shown_percentage
from ..kernels.surroundings import product, undisturbed
from . import Detector, Evidence

if TYPE_CHECKING:
    import pandas


class Verdict(NamedTuple):
    """What is said of one image; the fields are `Detection`'s."""

    ood_score: float
    is_ood: bool | None
    label: str
    id_probability: float
    evidence: tuple[Evidence, ...]
    warnings: tuple[str, ...] = ()

    def describe(self) -> str:
        """The verdict and its reasons in a line: ``OOD (0.914): basketball player 30%, basketball 20%``.

        Of an image judged OOD its evidence with probabilities, of any other the best ID label with its own.
        """
        verdict = {None: "no verdict", True: "OOD", False: "ID"}[self.is_ood]
        reasons = [(item.label, item.probability) for item in self.evidence]
        if not self.is_ood:
            reasons = [(self.label, self.id_probability)]
        shown = ", ".join(f"{label} {shown_percentage(probability)}" for label, probability in reasons)
        return f"{verdict} ({self.ood_score:.3f})" + (f": {shown}" if shown else "")

    def to_dict(self) -> dict[str, Any]:
        """The verdict as JSON can hold it, each piece of evidence a dict of its own."""
        evidence = [item._asdict() for item in self.evidence]
        return {**self._asdict(), "evidence": evidence, "warnings": list(self.warnings)}


class Answer(NamedTuple):
    """One answer to what an image shows: a label, or that none of them is right; see `answers`."""

    label: str
    probability: float


@dataclass(frozen=True, repr=False)
class Detection:
    """What is said of B images, in columns; ``detection[i]`` and iteration give a `Verdict` each, a slice the
    `Detection` of those images.

    Attributes:
        ood_score: ``[B]``, higher = more OOD.
        is_ood: ``[B]`` bool; None while the method has no threshold (see `Guard.calibrate`).
        label: the best ID label of each image, whatever the verdict.
        id_probability: ``[B]``, that label's softmax probability among the ID labels alone: how sure the
            choice is if the image is ID at all.
        evidence: for each image judged OOD the negative labels that it activates most; empty for the others.
        warnings: what looks wrong with the stream by then, see `tanl.Guard.health`; of each `Verdict` too.
    """

    ood_score: Tensor
    is_ood: Tensor | None
    label: list[str]
    id_probability: Tensor
    evidence: list[tuple[Evidence, ...]]
    warnings: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.label)

    @overload
    def __getitem__(self, i: int) -> Verdict: ...

    @overload
    def __getitem__(self, i: slice) -> Detection: ...

    def __getitem__(self, i: int | slice) -> Verdict | Detection:
        if isinstance(i, slice):
            rows = list(range(len(self)))[i]  # torch knows no negative steps
            return Detection(
                self.ood_score[rows],
                None if self.is_ood is None else self.is_ood[rows],
                self.label[i],
                self.id_probability[rows],
                self.evidence[i],
                self.warnings,
            )
        return Verdict(
            float(self.ood_score[i]),
            None if self.is_ood is None else bool(self.is_ood[i]),
            self.label[i],
            float(self.id_probability[i]),
            self.evidence[i],
            self.warnings,
        )

    def __iter__(self) -> Iterator[Verdict]:
        return map(Verdict, *self._columns())

    def __repr__(self) -> str:
        decided = "no verdicts" if self.is_ood is None else f"{int(self.is_ood.sum())} OOD"
        return f"Detection({counted(len(self), 'image')}, {decided})"

    def describe(self) -> list[str]:
        """Each image's verdict and its reasons in a line, see `Verdict.describe`."""
        return [verdict.describe() for verdict in self]

    def to_dict(self) -> dict[str, list[Any]]:
        """The columns as JSON can hold them: a list a field, B entries long.

        ``is_ood`` is a list of None while there is no threshold; each piece of evidence is a dict.
        """
        columns: dict[str, list[Any]] = dict(zip(Verdict._fields, map(list, self._columns()), strict=True))
        columns["evidence"] = [[item._asdict() for item in evidence] for evidence in self.evidence]
        columns["warnings"] = [list(self.warnings) for _ in self.label]
        return columns

    def to_pandas(self, index: Sequence[Any] | None = None) -> pandas.DataFrame:
        """The verdicts as a `pandas.DataFrame`, a row an image: the columns of ``tanl judge --out results.csv``.

        ``evidence_1``, ``evidence_1_probability`` and so on hold the negative labels, as many as the image with most of
        them has. ``is_ood`` has the dtype "boolean", all missing while there is no threshold. `warnings` are of no
        image, and stand in ``attrs["warnings"]``.

        Args:
            index: what the rows are called, such as the paths of the images, B of them; numbers from 0 on without it.

        Raises:
            ImportError: pandas is not installed.
            ValueError: the index has another length.
        """
        try:
            import pandas
        except ImportError as error:
            raise ImportError("a DataFrame needs pandas: pip install 'tanl[pandas]'") from error
        if index is not None and len(index) != len(self):
            raise ValueError(f"index names {len(index)} images, and there are {len(self)}")
        ood_score, is_ood, label, id_probability, *_ = self._columns()
        columns: dict[str, Any] = {
            "ood_score": pandas.Series(ood_score, dtype="float64"),
            "is_ood": pandas.Series(is_ood, dtype="boolean"),
            "label": pandas.Series(label, dtype=object),
            "id_probability": pandas.Series(id_probability, dtype="float64"),
        }
        for number in range(max(map(len, self.evidence), default=0)):
            named = [items[number] if number < len(items) else None for items in self.evidence]
            name = f"evidence_{number + 1}"
            columns[name] = pandas.Series([item and item.label for item in named], dtype=object)
            columns[f"{name}_probability"] = pandas.Series(
                [item and item.probability for item in named], dtype="float64"
            )
        frame = pandas.DataFrame(columns)
        if index is not None:
            frame.index = pandas.Index(list(index))
        frame.attrs["warnings"] = list(self.warnings)
        return frame

    def _columns(self) -> tuple[list[Any], ...]:
        """What the verdicts are made of; a GPU is waited for once, not once a tensor or an image."""
        tensors = [self.ood_score, self.id_probability, *([] if self.is_ood is None else [self.is_ood])]
        ood_score, id_probability, *decided = torch.stack([each.double() for each in tensors]).tolist()
        is_ood = [bool(value) for value in decided[0]] if decided else [None] * len(self)
        warnings = [self.warnings] * len(self)
        return ood_score, is_ood, self.label, id_probability, self.evidence, warnings


@undisturbed
def detect_embeddings(
    detector: Detector,
    z: Embeddings,
    *,
    evidence: int = 5,
    source: str | Sequence[str | None] | None = None,
    learn: bool = True,
    hidden: Set[str] = frozenset(),
) -> Detection:
    """Judge one batch of a stream of embeddings, and let the detector learn from it.

    This is what `Guard` does once it has embedded its images; it needs no backbone and no image library.

    Args:
        detector: any detector; its bank names the labels.
        z: ``[B, D]`` unit rows on the bank's device, a tensor or a NumPy array.
        evidence: how many negative labels an OOD verdict comes with; 0 for none.
        source: where the images come from, see `Detector.__call__`.
        learn: False only scores: the stream stays as it is.
        hidden: case-folded labels that are not named as evidence, see `Detector.explain`.

    Raises:
        TypeError, ValueError: z or source is unusable, or a source is named where nothing is learnt; the detector's
            state is unchanged then.
    """
    evidence = whole_number(evidence, "evidence", at_least=0)
    if source is not None and not learn:
        raise ValueError(
            f"source={source!r} says who teaches, and learn=False learns nothing: leave one of them out"
        )
    bank = detector.bank
    # A detector of a user's own may know no sources; all check z before they learn.
    named = {} if source is None else {"source": source}
    scores = detector(z, **named) if learn else detector.score(z)
    z = as_tensor(z, "image embeddings")
    threshold = detector.threshold
    is_ood = None if threshold is None else scores > threshold
    best = (product(z.float(), bank.id_embeddings.T) * bank.logit_scale).softmax(dim=1).max(dim=1)
    found: list[tuple[Evidence, ...]] = [()] * len(z)
    read = [best.indices] if is_ood is None else [best.indices, is_ood.long()]
    labels, *decided = torch.stack(read).tolist()
    rows = [row for row, flag in enumerate(decided[0]) if flag] if decided else []
    if rows and evidence:
        for row, items in zip(rows, detector.explain(z[rows], evidence, hidden=hidden), strict=True):
            found[row] = items
    names = bank.id_names
    return Detection(scores, is_ood, [names[i] for i in labels], best.values, found)


def answers(detector: Detector, detection: Detection, *, unknown: str = "unknown") -> list[Answer]:
    """A classifier's answers with one class more: "unknown" for what is judged OOD, else the best label.

    Let u be the score as a share of the negatives (`Detector.as_share`) and t the threshold's. The probability of
    "unknown" is u with its odds divided by those of t: the posterior under the prior that the threshold stands for.
    It is at least 1/2 exactly where an image is judged OOD. A label has the rest, times its probability among
    the ID labels.

    Args:
        detector: the one that judged, as it was then.
        detection: what it said.
        unknown: what to call the class.

    Raises:
        TypeError, ValueError: unknown is no text, or an ID label; the detector has no threshold, or its scores are no
            shares.
    """
    if not isinstance(unknown, str):
        raise TypeError(f"unknown must be text, not {unknown!r}")
    if unknown in detector.bank.id_names:
        raise ValueError(f"{unknown!r} is one of the ID labels: give unknown another name")
    if detection.is_ood is None or detector.threshold is None:
        raise ValueError(f"{type(detector).__name__} has no threshold yet: call calibrate first")
    limit = float(detector.as_share(detection.ood_score.new_tensor([detector.threshold]).double())[0])
    given = []
    for score, is_ood, label, probability in zip(
        detector.as_share(detection.ood_score.double()).tolist(),
        detection.is_ood.tolist(),
        detection.label,
        detection.id_probability.tolist(),
        strict=True,
    ):
        outside, inside = score * (1 - limit), limit * (1 - score)
        odd = outside / (outside + inside) if outside + inside > 0 else float(is_ood)
        given.append(Answer(unknown, odd) if is_ood else Answer(label, (1 - odd) * probability))
    return given
