"""Prompts: the texts that labels are embedded in."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

TEMPLATES: Mapping[str, str] = MappingProxyType({"noun": "The nice {}.", "adj": "This is a {} photo."})
"""The template of each part of speech that a word of a corpus may have."""


def full_templates(templates: Mapping[str, str] | None) -> dict[str, str]:
    """The template of every part of speech, and "id": that of the ID labels.

    Raises:
        TypeError: no dict.
        ValueError: one for something else, or one that does not hold ``{}`` once.
    """
    if templates is not None and not isinstance(templates, Mapping):
        raise TypeError(f"templates must be a dict, not a {type(templates).__name__}")
    for part, template in (templates or {}).items():
        if part not in TEMPLATES and part != "id":
            raise ValueError(f"no part of speech {part!r}; templates are for {', '.join(TEMPLATES)} and id")
        if not isinstance(template, str) or template.count("{}") != 1:
            raise ValueError(
                f"the template for {part!r} must hold {{}} once, for the label; it is {template!r}"
            )
    merged = {**TEMPLATES, **(templates or {})}
    merged.setdefault("id", merged["noun"])
    return merged
