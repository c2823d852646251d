"""What was decided about images or embeddings, one by one; `result_files` writes them."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..io.text import shown_percentage

if TYPE_CHECKING:
    from ..detectors.verdict import Verdict


@dataclass(frozen=True)
class Result:
    """One image's or embedding's outcome: either its verdict, or the ``error`` that kept it from having one.

    ``path`` is the image's file; of an embedding it is the id, as text.
    """

    path: str | os.PathLike[str]
    verdict: Verdict | None = None
    error: str | None = None

    def __post_init__(self) -> None:
        if (self.verdict is None) is (self.error is None):
            raise ValueError(f"{self.path}: give a verdict, or the error that stands for it")

    @property
    def outcome(self) -> str:
        """ "ID", "OOD", "unreadable", or "-" where the method has no threshold."""
        if self.verdict is None:
            return "unreadable"
        if self.verdict.is_ood is None:
            return "-"
        return "OOD" if self.verdict.is_ood else "ID"

    def shown_evidence(self, count: int = 3) -> str:
        """The ``count`` strongest pieces of evidence in a line of text."""
        evidence = () if self.verdict is None else self.verdict.evidence
        return ", ".join(f"{item.label} {shown_percentage(item.probability)}" for item in evidence[:count])
