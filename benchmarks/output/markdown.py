"""Text and rows of tables as Markdown."""

from __future__ import annotations

from collections.abc import Sequence


def escaped(text: str) -> str:
    """Text in which Markdown and HTML find nothing of theirs, on one line."""
    text = " ".join(text.split())
    for mark in "\\`*_[]|":
        text = text.replace(mark, "\\" + mark)
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def pipes(cells: Sequence[str]) -> str:
    """A row of a table."""
    return f"| {' | '.join(cells)} |"
