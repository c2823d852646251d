"""The embedded model ``mini``: a small CLIP-architecture model as an open_clip folder (config and safetensors)."""

from pathlib import Path

PATH = Path(__file__).parent
