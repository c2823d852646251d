"""What the first minutes measure, in full and in a quick form that a CPU finishes."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Sizes:
    """The shapes.

    Attributes:
        labels: numbers M of negatives.
        main_labels: that of the steps.
        num_id: C.
        dim: D.
        batch: B.
        selected: K.
        capacity: L.
        rows: numbers n of rows that operations are timed with; the crossover from stored to fresh products is among
            them.
        square: side of the bare product.
        copied: bytes of the copy.
        rounds: of which a median is taken.
        seconds: that one operation is timed for, at most.
    """

    labels: tuple[int, ...] = (10_000, 70_000, 1_000_000)
    main_labels: int = 70_000
    num_id: int = 1000
    dim: int = 512
    batch: int = 256
    selected: int = 1000
    capacity: int = 300
    rows: tuple[int, ...] = (32, 64, 128, 192, 256, 276)
    square: int = 8192
    copied: int = 1 << 30
    rounds: int = 30
    seconds: float = 0.5


QUICK = Sizes(
    labels=(500, 2000),
    main_labels=2000,
    num_id=50,
    dim=64,
    batch=32,
    selected=100,
    capacity=45,
    rows=(8, 32),
    square=256,
    copied=1 << 20,
    rounds=3,
    seconds=0.2,
)
