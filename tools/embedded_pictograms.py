"""The pictograms as the embedded model ``mini`` sees them: what studies of methods measure on."""

from __future__ import annotations

import sys
from typing import NamedTuple

from torch import Tensor

from tanl.backbones import Backbone, load_backbone
from tanl.benchmarks.engine.shipped import SHIPPED
from tanl.benchmarks.pictograms import manifest
from tanl.benchmarks.pictograms.tracks import check_tracks


class EmbeddedPictograms(NamedTuple):
    """The model, the manifest's rows, and the images' embeddings in their order, ``[n, D]``."""

    backbone: Backbone
    rows: list[manifest.Row]
    images: Tensor


def embedded_pictograms(*, progress: bool | None = None) -> EmbeddedPictograms:
    """Load the model and embed the pictograms; what was embedded once is kept in the cache.

    Args:
        progress: show progress bars; None does on a terminal.
    """
    backbone, rows = load_backbone("mini"), manifest.read_manifest(manifest.FOLDER)
    shown = sys.stderr.isatty() if progress is None else progress
    return EmbeddedPictograms(
        backbone, rows, SHIPPED["pictograms"].embeddings(backbone, rows, progress=shown)
    )


def tracks_of(names: str) -> list[str]:
    """The ID sets that an option names, parted by commas.

    Raises:
        ValueError: one that is not there.
    """
    tracks = [name.strip() for name in names.split(",")]
    check_tracks(tracks)
    return tracks
