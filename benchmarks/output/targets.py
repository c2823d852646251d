"""What a command is to write: refused before its work begins, not after."""

from __future__ import annotations

from pathlib import Path


def check_targets(*targets: Path | None) -> None:
    """Refuse what no file can be written to; None is no file.

    Raises:
        ValueError: a folder, or a file whose folder does not exist.
    """
    for target in targets:
        if target is not None and (target.is_dir() or not target.parent.is_dir()):
            raise ValueError(f"{target} can't be written: it is a folder, or its folder doesn't exist")


def require_matplotlib() -> None:
    """Refuse to draw a chart without what draws it.

    Raises:
        ImportError: matplotlib is missing; the message names the extra.
    """
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise ImportError(
            "drawing the chart needs matplotlib: pip install 'tanl[bench]', or leave it out with --no-chart"
        ) from error
