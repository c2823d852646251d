"""The benchmark's tracks: which images are ID, by what names, and which sets are OOD to them."""

from __future__ import annotations

from collections.abc import Sequence

from tanl.io.text import did_you_mean

from ..data.shipped import Track
from .manifest import COARSE_CLASSES

_NEAR = ("animals", "plants", "food", "travel", "objects", "activities")
_FAR = ("faces", "people", "flags", "symbols")
_COARSE = tuple(COARSE_CLASSES)


def check_tracks(names: Sequence[str]) -> None:
    """Refuse names that are no tracks'.

    Raises:
        ValueError: there is no such track, or none is named; the message lists what there is.
    """
    unknown = [name for name in names if name not in TRACKS]
    if unknown or not names:
        hint = did_you_mean(unknown[0], TRACKS) if unknown else ""
        raise ValueError(f"no track {', '.join(unknown) or 'named'}; there are {', '.join(TRACKS)}{hint}")


def _fine(name: str) -> Track:
    return Track(name, (name,), (), tuple(other for other in _NEAR if other != name), _FAR)


TRACKS: dict[str, Track] = {
    track.name: track
    for track in (
        _fine("animals"),
        _fine("food"),
        _fine("travel"),
        _fine("objects"),
        # A set that shares a group with the classes is left out: its other images are too much like them.
        Track("coarse-5", (), _COARSE[:5], ("plants", "food", "travel", "objects", "activities"), _FAR),
        Track("coarse-10", (), _COARSE[:10], ("travel", "objects", "activities"), _FAR),
        # With 23 classes every set shares its group with some; these have the most that is of no class.
        Track("coarse-23", (), _COARSE, ("objects", "activities"), ("people", "symbols")),
    )
}
