"""``python -m tools label-scale``: TANL with 70 thousand, a million and ten million labels."""

from __future__ import annotations

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the options of ``python -m tools label-scale``."""
    from .command import add_arguments

    add_arguments(parser)


def main(arguments: argparse.Namespace) -> int:
    """Carry out ``python -m tools label-scale``."""
    from .command import main

    return main(arguments)
