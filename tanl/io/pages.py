"""HTML pages that stand alone: filled from a template, with nothing in them that is not escaped or meant to be HTML."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jinja2


def page(
    folder: Path,
    values: Mapping[str, Any],
    *,
    template: str = "page.html.jinja",
    filters: Mapping[str, Callable[..., Any]] | None = None,
) -> str:
    """Fill a template.

    Values are escaped, also inside attributes; ``tojson`` is safe inside ``<script>``. A name that the template uses
    and nobody gave is an error, not an empty place.

    Args:
        folder: where the template is, and what it includes.
        values: what the template's names stand for.
        template: its name.
        filters: functions that the template applies to values, by name.
    """
    templates = jinja2.Environment(
        loader=jinja2.FileSystemLoader(folder),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        keep_trailing_newline=False,
    )
    templates.filters |= filters or {}
    return templates.get_template(template).render(values) + "\n"
