"""Labels that form a tree: verdicts at the level that is certain, and the hierarchical F1.

A chest film may show "some lung finding" without any leaf being certain; a detector of outliers may be sure that an
image is an animal and of none of the animals. Structured reports (SRRG, Delbrouck et al. 2025, arXiv 2505.24223) are
scored in such trees. The measure here is the plain hierarchical F1, not that paper's F1-SRR-BERT, which needs its
model.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from os import PathLike
from typing import Literal

import torch
from torch import Tensor

from ..io.paths import local_path
from ..io.text import shown_path, some_of

Status = Literal["present", "absent", "uncertain"]
_STATUSES = ("present", "absent", "uncertain")
_SHOWN = 3


@dataclass(frozen=True)
class LabelTree:
    """Labels with their parents; several roots are allowed.

    Args:
        parents: each label and its parent, None for a root. A parent that has no entry of its own is a root.

    Raises:
        ValueError: no label, or labels that are their own ancestors.
    """

    parents: Mapping[str, str | None]

    def __post_init__(self) -> None:
        if not self.parents:
            raise ValueError("the tree has no labels")
        whole = {**{parent: None for parent in self.parents.values() if parent is not None}, **self.parents}
        object.__setattr__(self, "parents", whole)
        for label in whole:
            seen: dict[str, None] = {}
            step: str | None = label
            while step is not None:
                if step in seen:
                    circle = [*seen][[*seen].index(step) :]
                    raise ValueError(f"the labels {some_of(circle, _SHOWN)} are their own ancestors")
                seen[step] = None
                step = whole[step]

    @classmethod
    def load(cls, path: str | PathLike[str]) -> LabelTree:
        """A tree from a JSON file: an object of labels and parents, or nested objects whose leaves are ``{}``.

        Raises:
            ValueError: no JSON, or another shape.
            OSError: it cannot be read.
        """
        file = local_path(path)
        try:
            found = json.loads(file.read_text(encoding="utf-8"))
        except ValueError as error:
            raise ValueError(f"{shown_path(file)} is no JSON: {error}") from error
        if not isinstance(found, dict) or not found:
            raise ValueError(
                f"{shown_path(file)} must hold an object with labels, not {type(found).__name__}"
            )
        if all(parent is None or isinstance(parent, str) for parent in found.values()):
            return cls(found)
        parents: dict[str, str | None] = {}
        waiting: list[tuple[str | None, object]] = [(None, found)]
        while waiting:
            parent, inside = waiting.pop()
            if not isinstance(inside, dict):
                raise ValueError(
                    f"{shown_path(file)}: below {parent!r} is {inside!r}; give an object, {{}} for a leaf"
                )
            for label, below in inside.items():
                if label in parents:
                    raise ValueError(f"{shown_path(file)}: {label!r} stands in two places of the tree")
                parents[label] = parent
                waiting.append((label, below))
        return cls(parents)

    @cached_property
    def leaves(self) -> tuple[str, ...]:
        """The labels that have no children, in order."""
        inner = {*self.parents.values()}
        return tuple(label for label in self.parents if label not in inner)

    @cached_property
    def levels(self) -> Mapping[str, int]:
        """How far each label lies below its root, which is at 0."""
        return {label: len(self.path(label)) - 1 for label in self.parents}

    def path(self, label: str) -> tuple[str, ...]:
        """The label's ancestors from the root on, and itself.

        Raises:
            ValueError: a label that is not in the tree.
        """
        self.check([label])
        found = [label]
        while (parent := self.parents[found[-1]]) is not None:
            found.append(parent)
        return tuple(reversed(found))

    def check(self, labels: Sequence[str]) -> None:
        """Refuse labels that are not in the tree with a ValueError that names them."""
        if unknown := [label for label in labels if label not in self.parents]:
            raise ValueError(f"not in the tree: {some_of(unknown, _SHOWN)}")


@dataclass(frozen=True)
class TreeVerdict:
    """What is certain of one image.

    Attributes:
        label: the deepest label that is certain; None if not even a root is.
        path: its ancestors from the root on, and itself; empty without a label.
        share: its probability.
        ood_at: the label inside which the image belongs to none of the children, itself None for "to none of the
            roots"; `belongs` says whether there is such a place.
        belongs: whether the label is a leaf, so that nothing is left open.
    """

    label: str | None
    path: tuple[str, ...]
    share: float
    ood_at: str | None
    belongs: bool


def tree_verdicts(
    tree: LabelTree,
    leaves: Sequence[str],
    probabilities: Tensor,
    *,
    ood: Tensor | None = None,
    certain: float = 0.8,
) -> list[TreeVerdict]:
    """Go down from the roots as long as one child is certain.

    A label's probability is the sum of its leaves'. With OOD scores the leaves share what these leave:
    ``(1 - ood) * probabilities``, so that an outlier stops at the root, and an image of an unknown kind of a known
    family stops where its leaves disagree.

    Args:
        tree: of the labels.
        leaves: ``[C]`` labels of the columns, each a leaf of the tree.
        probabilities: ``[B, C]`` among them, rows that add up to 1.
        ood: ``[B]`` OOD scores between 0 and 1, such as NegLabel's or TANL's; None for none.
        certain: from which probability a label is certain.

    Raises:
        ValueError: labels that are no leaves of the tree, other shapes, or numbers outside of 0 to 1.
    """
    tree.check(leaves)
    if inner := [label for label in leaves if label not in tree.leaves]:
        raise ValueError(f"not leaves of the tree: {some_of(inner, _SHOWN)}")
    if probabilities.ndim != 2 or probabilities.shape[1] != len(leaves):
        raise ValueError(f"probabilities must be [B, {len(leaves)}], not {list(probabilities.shape)}")
    if not bool(((probabilities >= 0) & (probabilities <= 1 + 1e-4)).all()):
        raise ValueError("probabilities must lie between 0 and 1")
    if not 0.5 <= certain <= 1:
        raise ValueError(f"certain is {certain!r}; between 0.5 and 1 at most one child is certain")
    shares = probabilities.double()
    if ood is not None:
        if ood.shape != (len(shares),) or not bool(((ood >= 0) & (ood <= 1)).all()):
            raise ValueError(f"ood must be {len(shares)} scores between 0 and 1, not {list(ood.shape)}")
        shares = shares * (1 - ood.double())[:, None]
    labels = list(tree.parents)
    member = torch.zeros(len(leaves), len(labels), dtype=torch.float64, device=shares.device)
    place = {label: index for index, label in enumerate(labels)}
    for column, leaf in enumerate(leaves):
        member[column, [place[each] for each in tree.path(leaf)]] = 1
    return [
        _verdict(tree, dict(zip(labels, row, strict=True)), certain) for row in (shares @ member).tolist()
    ]


def _verdict(tree: LabelTree, shares: Mapping[str, float], certain: float) -> TreeVerdict:
    label: str | None = None
    while True:
        children = [each for each, parent in tree.parents.items() if parent == label]
        best = max(children, key=shares.__getitem__, default=None)
        if best is None or shares[best] < certain:
            break
        label = best
    if label is None:
        return TreeVerdict(
            None, (), max(shares[each] for each in tree.parents if tree.parents[each] is None), None, False
        )
    is_leaf = label in tree.leaves
    return TreeVerdict(label, tree.path(label), shares[label], None if is_leaf else label, is_leaf)


@dataclass(frozen=True)
class HierarchicalF1:
    """F1 of labels with all their ancestors: over all pairs, the mean over labels, and the mean over images."""

    micro: float
    macro: float
    samples: float


def hierarchical_f1(
    tree: LabelTree,
    truth: Sequence[Mapping[str, Status]],
    predicted: Sequence[Mapping[str, Status]],
    *,
    uncertain: Literal["present", "absent", "apart"] = "present",
    level: int | None = None,
) -> HierarchicalF1:
    """Compare sets of labels in a tree: a label stands for itself and for its ancestors (Kiritchenko et al. 2005).

    A label that is "absent" says nothing of its ancestors. A label that nobody holds, neither in truth nor in
    prediction, counts as 0 in the macro mean, and so does an image without labels in the samples' mean, as scikit-learn
    has it.

    Args:
        tree: of the labels.
        truth: for each image what is known, a status for each label that is spoken of.
        predicted: the same of a model.
        uncertain: what an uncertain label counts as. "apart" compares labels with their statuses: a label is as many
            as there are statuses, and a prediction is right if the status is too; an ancestor is present if something
            below it is, else uncertain if something is.
        level: look at the labels of one level alone, 0 for the roots; None for all.

    Raises:
        ValueError: other lengths, unknown labels or statuses, or a level that the tree lacks.
    """
    if len(truth) != len(predicted) or not truth:
        raise ValueError(
            f"{len(truth)} truths and {len(predicted)} predictions; give as many of both, at least one"
        )
    labels = [label for label in tree.parents if level in (None, tree.levels[label])]
    if not labels:
        raise ValueError(f"level is {level!r}; the tree has levels 0 to {max(tree.levels.values())}")
    known, said = (
        _indicators(tree, each, uncertain)[:, :, _places(tree, labels)].flatten(1)
        for each in (truth, predicted)
    )
    both, sizes = known & said, known.int() + said.int()
    return HierarchicalF1(
        _ratio(2 * both.sum(), sizes.sum()),
        float((2 * both.sum(dim=0) / sizes.sum(dim=0).clamp_min(1)).mean()),
        float((2 * both.sum(dim=1) / sizes.sum(dim=1).clamp_min(1)).mean()),
    )


def _places(tree: LabelTree, labels: Sequence[str]) -> Tensor:
    order = {label: index for index, label in enumerate(tree.parents)}
    return torch.tensor([order[label] for label in labels], dtype=torch.int64, device="cpu")


def _indicators(tree: LabelTree, images: Sequence[Mapping[str, Status]], uncertain: str) -> Tensor:
    """``[B, S, L]`` bools: what each image holds, in one way or in each of the three statuses."""
    if uncertain not in ("present", "absent", "apart"):
        raise ValueError(
            f"uncertain is {uncertain!r}; it counts as 'present', as 'absent', or 'apart' as a status of its own"
        )
    held = torch.zeros(len(images), len(_STATUSES), len(tree.parents), dtype=torch.bool, device="cpu")
    for number, statuses in enumerate(images):
        tree.check([*statuses])
        for label, status in statuses.items():
            if status not in _STATUSES:
                raise ValueError(
                    f"image {number}: the status of {label!r} is {status!r}; use one of {_STATUSES}"
                )
            path = (label,) if status == "absent" else tree.path(label)
            held[number, _STATUSES.index(status), _places(tree, path)] = True
    present, absent, unsure = held.unbind(dim=1)
    if uncertain == "apart":
        return torch.stack([present, absent & ~present & ~unsure, unsure & ~present], dim=1)
    return (present | unsure if uncertain == "present" else present)[:, None]


def _ratio(numerator: Tensor, denominator: Tensor) -> float:
    return float(numerator / denominator) if int(denominator) else 0.0
