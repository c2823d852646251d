"""The embedded model ``mini-photo``: a small CLIP-architecture model of photographs, as an open_clip folder."""

from pathlib import Path

PATH = Path(__file__).parent
