"""``python -m tools gpu-first``: all that the first minutes on a GPU should tell, by one command."""

from __future__ import annotations

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the options of ``python -m tools gpu-first``."""
    from .command import add_arguments

    add_arguments(parser)


def main(arguments: argparse.Namespace) -> int:
    """Carry out ``python -m tools gpu-first``."""
    from .command import main

    return main(arguments)
