"""``tanl bench list``: the splits and the methods that ``tanl bench run`` knows, and what they need."""

from __future__ import annotations

import argparse

from .methods import describe_methods
from .splits import describe_splits


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the command's options: there are none."""


def main(arguments: argparse.Namespace) -> int:
    """Print both tables."""
    print(f"Splits\n\n{describe_splits()}\n\nMethods\n\n{describe_methods()}")
    return 0
