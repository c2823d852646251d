"""Pictograms of vendors that the embedded model never saw: ``tanl bench pictograms``, and how it was made."""

from __future__ import annotations

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the options of ``tanl bench pictograms``."""
    from .track import add_arguments

    add_arguments(parser)


def main(arguments: argparse.Namespace) -> int:
    """Carry out ``tanl bench pictograms``."""
    from .track import main

    return main(arguments)
