"""What a step of TANL costs in time and memory: ``python -m tools speed``."""

from __future__ import annotations

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the options of ``python -m tools speed``."""
    from .command import add_arguments

    add_arguments(parser)


def main(arguments: argparse.Namespace) -> int:
    """Carry out ``python -m tools speed``."""
    from .command import main

    return main(arguments)
