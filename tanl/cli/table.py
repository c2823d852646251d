"""Results as a table on stdout."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..io.text import one_line, shown_path, shown_percentage

if TYPE_CHECKING:
    from ..streams.results import Result


class Table:
    """Results as lines of text in columns; the widths are chosen before the first result is there."""

    def __init__(self, key: str, longest: int, labels: Sequence[str]) -> None:
        self._key = key
        longest = max(longest, len(key))
        # In a terminal a line should stay a line; in a file or a pipe nothing may be cut.
        in_terminal = sys.stdout.isatty()
        self._path_width = min(longest, 36) if in_terminal else longest
        self._line_width = shutil.get_terminal_size().columns if in_terminal else None
        self._label_width = min(max(map(len, labels)), 24) + len(" 100%")

    def header(self) -> str:
        """The line above all rows."""
        return self._line(self._key, "verdict", "score", "label", "negative labels that it activated")

    def row(self, result: Result) -> str:
        """The line of a result."""
        path = one_line(shown_path(result.path))
        if self._line_width is not None and len(path) > self._path_width:
            path = "..." + path[3 - self._path_width :]
        verdict = result.verdict
        if verdict is None:
            return self._line(path, result.outcome, "", result.error or "", "")
        label = verdict.label
        # The share is among the ID labels, whatever the image shows: of an outlier it would mislead.
        if not verdict.is_ood:
            label += f" {shown_percentage(verdict.id_probability)}"
        return self._line(path, result.outcome, f"{verdict.ood_score:.4f}", label, result.shown_evidence())

    def _line(self, path: str, verdict: str, score: str, label: str, evidence: str) -> str:
        columns = (
            f"{path:<{self._path_width}}",
            f"{verdict:<10}",
            f"{score:>7}",
            f"{one_line(label):<{self._label_width}}",
            one_line(evidence),
        )
        return "  ".join(columns)[: self._line_width].rstrip()
