"""The tracks of the photographs: which are ID, by what names, and which sets are OOD to them."""

from __future__ import annotations

from ..data.shipped import Track

COARSE = ("mammal", "bird", "reptile", "fish")

_FAR = ("buildings", "landscapes", "tools", "household", "music", "paintings", "space", "textures")

TRACKS: dict[str, Track] = {
    track.name: track
    for track in (
        Track("animals", ("animals", "fish"), (), (), _FAR),
        Track("animal-classes", (), COARSE, (), _FAR),
        Track("fish", ("fish",), (), ("animals",), _FAR),
    )
}
