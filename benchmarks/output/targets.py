"""What a command is to write: refused before its work begins, not after."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tanl.io.arguments import Arguments, a_path
from tanl.io.atomic import write_whole


def add_json_option(parser: Arguments) -> None:
    """Describe ``--json``, which `check_targets` looks at before the work and `write_json` writes after it."""
    parser.add_argument(
        "--json", type=a_path, metavar="FILE", help="write everything that was measured there"
    )


def check_targets(*targets: Path | None) -> None:
    """Refuse what no file can be written to; None is no file.

    Raises:
        ValueError: a folder, or a file whose folder does not exist.
    """
    for target in targets:
        if target is not None and (target.is_dir() or not target.parent.is_dir()):
            raise ValueError(f"{target} can't be written: it is a folder, or its folder doesn't exist")


def write_json(target: Path, content: Any) -> None:
    """Write what a command measured, for programs; an older file stays until the new one is whole.

    Raises:
        OSError: it cannot be written; the message names the file.
    """
    write_whole(target, (json.dumps(content, indent=1, ensure_ascii=False) + "\n").encode())


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
