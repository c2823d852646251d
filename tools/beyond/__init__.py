"""What the modules of tanl.beyond find where the answer is known: ``python -m tools beyond``."""

from __future__ import annotations

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the options of ``python -m tools beyond``."""
    from .command import add_arguments

    add_arguments(parser)


def main(arguments: argparse.Namespace) -> int:
    """Carry out ``python -m tools beyond``."""
    from .command import main

    return main(arguments)
