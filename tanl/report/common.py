"""What the flagged images have in common, in words, as a report shows it; `tanl.beyond.difference` finds it."""

from __future__ import annotations

from dataclasses import dataclass

TITLE = "What the flagged images have in common"
CHANCE = 0.05
"""The largest p of what is shown."""


@dataclass(frozen=True)
class Word:
    """A text with how well it tells flagged images from passed ones, and how often chance alone would do so."""

    text: str
    auroc: float
    p_value: float


@dataclass(frozen=True)
class Common:
    """What was found.

    Attributes:
        words: the best first, whatever their p.
        flagged: how many flagged images were looked at.
        passed: how many others.
        model: what embedded them.
        corpus: whose words were tried.
    """

    words: tuple[Word, ...]
    flagged: int
    passed: int
    model: str
    corpus: str

    @property
    def shown(self) -> tuple[Word, ...]:
        """What is hardly chance."""
        return tuple(word for word in self.words if word.p_value <= CHANCE)

    @property
    def sentence(self) -> str:
        """How it was found, and whether anything was."""
        how = (
            f"Words of {self.corpus} that fit {self.flagged} flagged images better than {self.passed} that passed, "
            f"by {self.model}: half of each proposed them, the other half measured them."
        )
        if not self.shown:
            return f"{how} None does beyond chance (p of at most {CHANCE})."
        return f"{how} 50 % is chance; p is how often chance alone does as well, corrected for all that was tried."
