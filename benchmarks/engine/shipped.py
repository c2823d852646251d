"""The splits whose images come with tanl, by name."""

from __future__ import annotations

from ..data.shipped import ShippedSplit
from ..photographs import manifest as photographs
from ..photographs.tracks import TRACKS as PHOTOGRAPH_TRACKS
from ..pictograms import extreme
from ..pictograms import manifest as pictograms
from ..pictograms.tracks import TRACKS as PICTOGRAM_TRACKS

SHIPPED: dict[str, ShippedSplit] = {
    split.name: split
    for split in (
        ShippedSplit(
            "pictograms", pictograms.FOLDER, pictograms.read_manifest, PICTOGRAM_TRACKS, extreme.EXTREME_SETS
        ),
        # The photographs have textures of their own.
        ShippedSplit(
            "photographs",
            photographs.FOLDER,
            photographs.read_manifest,
            PHOTOGRAPH_TRACKS,
            {name: make for name, make in extreme.EXTREME_SETS.items() if name != "textures"},
        ),
    )
}
