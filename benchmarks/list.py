"""``tanl bench list``: the splits and the methods that ``tanl bench run`` knows, and what they need."""

from __future__ import annotations

import argparse

from .data.splits import describe_splits
from .engine.methods import describe_methods


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the command's options: there are none."""


def main(arguments: argparse.Namespace) -> int:
    """Print both tables."""
    print(f"Splits\n\n{describe_splits()}\n\nMethods\n\n{describe_methods()}")
    return 0
