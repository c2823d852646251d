"""A wider text tower that starts from a narrower one."""

from __future__ import annotations

import open_clip  # type: ignore[import-untyped]
import torch
from torch import Tensor

_STREAM = ("token_embedding.weight", "positional_embedding")


@torch.no_grad()
def widen(wide: open_clip.transformer.TextTransformer, narrow: open_clip.transformer.TextTransformer) -> None:
    """Give ``wide`` the weights of ``narrow``, in place: the first dimensions and heads do what they did.

    What is new keeps its random start, but writes nothing into the first dimensions. Both have the same number of
    layers and the same width of a head; the output projection is left alone, as its space is another one.
    """
    target, shrinkage = wide.state_dict(), (narrow.width / wide.width) ** 0.5
    for name, values in narrow.state_dict().items():
        if name == "text_projection":
            continue
        if name in _STREAM:
            target[name][:, : values.shape[1]] = values
        elif "in_proj" in name:
            # Queries, keys and values are one above the other.
            for new, old in zip(target[name].chunk(3), values.chunk(3), strict=True):
                _place(new, old)
        elif "ln_" in name and name.endswith("weight"):
            # A variance over more dimensions, of which the new ones are small, is smaller by as much.
            target[name][: len(values)] = values * shrinkage
        else:
            _place(target[name], values)


def _place(new: Tensor, old: Tensor) -> None:
    """Put ``old`` into the corner of ``new``, and zeros beside it."""
    new[: len(old)] = 0
    new[tuple(slice(size) for size in old.shape)] = old
