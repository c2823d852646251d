"""Parts of a saved state, read and checked one by one."""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from typing import Any

import torch
from torch import Tensor

from ..checks import kept_tensor, whole_number

HISTORY = 20_000


def saved_tensor(
    value: Any, what: str, shape: tuple[int | None, ...], dtype: torch.dtype, device: torch.device | str
) -> Tensor:
    """A copy of a tensor of a saved state, on the device, if it is what it should be.

    Args:
        value: what the state has.
        what: what to call it in an error.
        shape: what its shape must be, None where any length will do.
        dtype: what its dtype must be.
        device: where to.

    Raises:
        ValueError: it is no dense tensor of that shape and dtype, or has a value that is not finite.
    """
    return kept_tensor(value, what, shape, dtype).resolve_neg().to(device, copy=True).contiguous()


def saved_count(state: dict[str, Any], name: str) -> int:
    """A whole number of a saved state, at least 0.

    Raises:
        ValueError: it is none.
    """
    try:
        return whole_number(state[name], name, at_least=0)
    except TypeError as error:
        raise ValueError(f"the state is damaged: {error}") from error


def saved_dict(state: object, what: str) -> dict[str, Any]:
    """A part of a state that has parts of its own.

    Raises:
        ValueError: it is no dict.
    """
    if not isinstance(state, dict):
        raise ValueError(f"{what}'s state must be a dict, not a {type(state).__name__}")
    return state


def saved_history(value: Any, device: torch.device | str) -> Tensor:
    """First-pass confidences ``[n]`` of the newest images.

    Raises:
        ValueError: they are too many, or none.
    """
    history = saved_tensor(value, "the stream's history", (None,), torch.float32, device)
    # A mean over many prefixes may round to a little more than 1.
    if len(history) > HISTORY or bool(((history - 0.5).abs() > 0.5001).any()):
        raise ValueError(f"the stream's history must be at most {HISTORY} confidences in [0, 1]")
    return history


def saved_batch_sizes(value: Any, history: int, batches: int) -> Tensor:
    """How many of the history's confidences each of the last batches gave, ``[r]``, the newest last.

    Raises:
        ValueError: they are not of that many confidences, or of more batches than there were.
    """
    sizes = saved_tensor(value, "the stream's history_sizes", (None,), torch.int32, "cpu")
    if int(sizes.sum()) != history or bool((sizes < 1).any()) or len(sizes) > batches + 1:
        raise ValueError(
            f"the stream's history_sizes must be of {history} confidences in at most {batches + 1} batches, "
            f"not of {int(sizes.sum())} in {len(sizes)}"
        )
    return sizes


def saved_numbers(value: Any, what: str, count: int, batches: int) -> Tensor:
    """The numbers ``[count]`` of the batches that images came with, oldest first.

    Raises:
        ValueError: they are others, or not in order.
    """
    numbers = saved_tensor(value, f"the stream's {what}", (count,), torch.int64, "cpu")
    if count and (
        bool((numbers.diff() < 0).any()) or not 0 <= int(numbers[0]) <= int(numbers[-1]) <= batches
    ):
        raise ValueError(f"the stream's {what} must ascend from 0 or more to {batches} at most")
    return numbers


def saved_sources(value: Any, what: str, rows: int) -> tuple[str | None, ...]:
    """The sources of a ring's rows, from JSON.

    Raises:
        ValueError: it is no list of so many names and nulls.
    """
    try:
        sources = json.loads(value)
    except (TypeError, ValueError):
        sources = None
    if not isinstance(sources, list) or any(not isinstance(s, str | None) for s in sources):
        raise ValueError(f"the stream's {what} must be a list of names and nulls, not {value!r}")
    if len(sources) != rows:
        raise ValueError(
            f"the stream's {what} must be {rows}, one for each row of its ring, not {len(sources)}"
        )
    return tuple(sources)


def same_parts(one: Any, other: Any) -> bool:
    """Whether two states, or parts of them, are the same bit for bit."""
    if isinstance(one, dict):
        return (
            isinstance(other, dict)
            and one.keys() == other.keys()
            and all(same_parts(one[name], other[name]) for name in one)
        )
    if isinstance(one, Tensor):
        return isinstance(other, Tensor) and one.dtype == other.dtype and torch.equal(one.cpu(), other.cpu())
    return bool(one == other)


def refuse_one_stream(images: Sequence[Collection[tuple[int, bytes]]]) -> None:
    """Refuse streams that remember the same images from after they parted: they did not part then.

    Args:
        images: of each stream, each image that it remembers from since then: its batch's number and its embedding.

    Raises:
        ValueError: two of them have two different images alike. One may come to both by chance: a picture that is
            black.
    """
    for number, own in enumerate(images):
        for other in range(number):
            alike = set(own) & set(images[other])
            if len({row for _, row in alike}) > 1:
                raise ValueError(
                    f"streams {other} and {number} saw the same images, so they parted later than they tell: they went "
                    "on from one state that was loaded into both. Merge them once right after loading, before they part"
                )
