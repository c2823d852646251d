"""The page: its data, its thumbnails, and the template that they go into."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote

from ..io.pages import page
from ..io.progress import Progress
from ..io.text import shown_path
from ..io.thumbnails import thumbnail
from ..streams.results import Result
from ..streams.saved_results import SavedResults
from .common import TITLE, Common
from .findings import background, facts, finding, noun

THUMBNAILS = 2000
"""How many thumbnails a page holds if nobody says otherwise: about 10 MB."""

_ASSETS = Path(__file__).parent / "assets"
_SIZE, _QUALITY = 176, 70
_THREADS = 4


def report_page(
    results: SavedResults,
    *,
    beside: Path,
    root: Path | None = None,
    thumbnails: int = THUMBNAILS,
    common: Common | None = None,
    quiet: bool = False,
) -> tuple[str, int]:
    """The page of a results file, and how many of the thumbnails that were wanted could not be made.

    Args:
        results: the rows.
        beside: the folder that the page will be in; images are linked to from there, to be seen in full size.
        root: where relative paths of the results begin; None is the current folder.
        thumbnails: how many images are to be seen in the page itself: those with the highest scores.
        common: what the flagged images have in common, for a section of its own.
        quiet: show no progress.
    """
    judged = [row for row in results.rows if row.verdict is not None]
    pictures: dict[int, str] = {}
    missing = 0
    if results.key == "path":
        wanted = sorted(range(len(judged)), key=lambda index: -_score(judged[index]))[:thumbnails]
        made = _thumbnails([_file(judged[index], root) for index in wanted], quiet)
        pictures = {
            index: picture for index, picture in zip(wanted, made, strict=True) if picture is not None
        }
        missing = len(wanted) - len(pictures)
    values = {
        "title": finding(results),
        "file": shown_path(results.file.name),
        "background": background(results),
        "facts": facts(results.about),
        "labels": list(map(str, results.about.get("labels") or ())),
        "noun": noun(results),
        "has_images": results.key == "path",
        "common": common,
        "common_title": TITLE,
        "unreadable": [(shown_path(row.path), row.error) for row in results.rows if row.verdict is None],
        "data": {
            **_columns(judged),
            "threshold": _threshold(results),
            "noun": noun(results),
            "pictures": {str(index): picture for index, picture in pictures.items()},
            "links": [_link(_file(row, root), beside) for row in judged] if results.key == "path" else [],
        },
        "style": _asset("page.css"),
        "script": _asset("page.js"),
    }
    return page(_ASSETS, values), missing


def _score(row: Result) -> float:
    assert row.verdict is not None
    return row.verdict.ood_score


def _file(row: Result, root: Path | None) -> Path:
    return Path(row.path) if root is None else root / row.path


def _thumbnails(paths: Sequence[Path], quiet: bool) -> list[str | None]:
    made: list[str | None] = []
    with (
        ThreadPoolExecutor(_THREADS) as pool,
        Progress(len(paths), "thumbnails", quiet=quiet) as progress,
    ):
        for picture in pool.map(partial(thumbnail, size=_SIZE, quality=_QUALITY), paths):
            made.append(picture)
            progress.update(1)
    return made


def _columns(judged: Iterable[Result]) -> dict[str, Any]:
    """The rows by columns; words that come again and again are numbers of a list."""
    words: dict[str, int] = {}
    labels: dict[str, int] = {}
    columns: dict[str, list[Any]] = {
        name: [] for name in ("path", "score", "flagged", "label", "share", "evidence")
    }
    for row in judged:
        verdict = row.verdict
        assert verdict is not None
        columns["path"].append(shown_path(row.path))
        columns["score"].append(verdict.ood_score)
        columns["flagged"].append(verdict.is_ood)
        columns["label"].append(labels.setdefault(verdict.label, len(labels)))
        columns["share"].append(round(verdict.id_probability, 4))
        columns["evidence"].append(
            [
                [words.setdefault(item.label, len(words)), round(item.probability, 5)]
                for item in verdict.evidence
            ]
        )
    return {**columns, "labels": list(labels), "words": list(words)}


def _threshold(results: SavedResults) -> float | None:
    threshold = results.about.get("threshold")
    return threshold if isinstance(threshold, float) else None


def _link(path: Path, beside: Path) -> str:
    """Where the image is, as seen from the page; on another drive, its whole address."""
    try:
        return quote(Path(os.path.relpath(path, beside)).as_posix(), errors="surrogateescape")
    except ValueError:
        return path.resolve().as_uri()


def _asset(name: str) -> str:
    return (_ASSETS / name).read_text(encoding="utf-8")
