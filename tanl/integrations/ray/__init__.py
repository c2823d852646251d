"""Images by the million, on a cluster: Ray Data reads and embeds them on as many workers as there are.

TANL is a stream, and a stream has an order. ``mode="ordered"`` embeds side by side and scores in one place, in the
recorded order: the results are those of one process that is given the same embeddings, bit for bit. ``mode="merged"``
scores on the workers as well, each with a memory of its own, which they bring together every so many batches: no
place is passed by all images, and the results depend on who was when where. docs/scale.md has what that costs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...lazy import loader

if TYPE_CHECKING:
    from .judging import Done, judge
    from .settings import RaySettings

__all__ = ["Done", "RaySettings", "judge"]

_HOME = {"Done": "judging", "judge": "judging", "RaySettings": "settings"}
__getattr__ = loader(__name__, _HOME)
