"""``tanl report --describe``: the images are embedded again, flagged and passed ones, and compared in words."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..io.text import first_of, one_line, shown_path
from ..labels.wordnet import SELECTIONS
from ..report.common import Common, Word

if TYPE_CHECKING:
    from ..io.images import UnreadableImage
    from ..streams.saved_results import SavedResults

MOST = 200
"""Images of each kind that are looked at."""


def common(results: SavedResults, root: Path | None, device: str, quiet: bool) -> tuple[Common, int]:
    """What tells flagged images from passed ones, and how many could not be read any more.

    Raises:
        ValueError: results without images, verdicts or the model's name, or too few of one kind; nothing is loaded
            then.
    """
    name = results.about.get("backbone")
    if results.key != "path":
        raise ValueError(f"--describe looks at images, and {shown_path(results.file)} is about embeddings")
    if not isinstance(name, str):
        raise ValueError(
            f"{shown_path(results.file)} does not say which model judged, and --describe needs that model: use "
            "--copy-ood, and tanl describe with its --backbone"
        )
    from ..beyond.difference import FEWEST, describe_difference
    from ..functional import shuffled

    groups: list[Sequence[Path]] = []
    for outcome, what in (("OOD", "flagged"), ("ID", "passed")):
        paths = [Path(row.path) for row in results.rows if row.outcome == outcome]
        if len(paths) < FEWEST:
            raise ValueError(
                f"--describe compares flagged images with passed ones, {FEWEST} or more of each: {len(paths)} {what}"
            )
        chosen = sorted(shuffled(len(paths), 0)[:MOST].tolist())
        groups.append([paths[row] if root is None else root / paths[row] for row in chosen])
    from ..backbones import load_backbone

    lost: list[UnreadableImage] = []
    corpus = results.about.get("corpus")
    corpus = corpus if isinstance(corpus, str) and corpus in SELECTIONS else "wordnet"
    found = describe_difference(
        load_backbone(name, device=device),
        groups[0],
        groups[1],
        corpus,
        rounds=1,
        progress=not quiet,
        unreadable=lost.append,
    )
    if lost:
        named = first_of([shown_path(error.path) for error in lost if error.path is not None], 3)
        print(f"tanl: warning: not described, cannot be read: {one_line(named)}", file=sys.stderr)
    gone = {error.path for error in lost}
    counts = [sum(path not in gone for path in group) for group in groups]
    words = tuple(Word(each.text, each.auroc, each.p_value) for each in found)
    return Common(words, counts[0], counts[1], name, corpus), len(lost)
