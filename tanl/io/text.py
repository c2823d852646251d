"""Numbers as text that people read."""

from __future__ import annotations


def shown_percentage(probability: float) -> str:
    """Two digits of a probability: over 70 000 labels even the strongest may hold less than one per cent."""
    percent = 100 * probability
    return f"{percent:.0f}%" if percent >= 10 else f"{percent:.2g}%" if percent >= 1e-4 else "0%"
