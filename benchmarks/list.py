"""``tanl bench list``: the splits and methods that ``tanl bench run`` knows, and the figures in print beside them."""

from __future__ import annotations

import argparse

from .data.splits import describe_splits
from .engine.methods import describe_methods
from .output.published import BACKBONE, describe_published


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the command's options: there are none."""


def main(arguments: argparse.Namespace) -> int:
    """Print all three tables."""
    print(f"Splits\n\n{describe_splits()}\n\nMethods\n\n{describe_methods()}")
    print(f"\nIn print, for {BACKBONE}\n\n{describe_published()}")
    return 0
