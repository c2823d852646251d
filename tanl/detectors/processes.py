"""What the processes of a `torch.distributed` group tell each other, so that all do something or none does.

Everybody first tells whether it can, and with what; then each makes its result beside what it has; then all tell
whether they made it. Only then does each take it over, by one assignment. An error in one process is an error in all,
and a process that ends or does not come is one in the others as soon as the group notices: when its connection closes,
or after the timeout of ``torch.distributed.init_process_group(timeout=...)``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

_T = TypeVar("_T")


def jointly(offer: Callable[[], Any], make: Callable[[list[Any], int], _T], group: ProcessGroup | None) -> _T:
    """What ``make`` makes of what every process offers, once it has made it in all of them.

    Args:
        offer: what this process has, which can be pickled; tensors on the CPU.
        make: from the offers of all, in the order of their ranks, and this process's place among them; it changes
            nothing.
        group: whose processes, each of which calls this; None for all.

    Raises:
        ValueError: there is no process group, or this process is not in it; another process refused what it was given.
        OSError: another process failed, ended, or did not come in time.
        Exception: what ``offer`` and ``make`` raise here, after the others know.
    """
    rank = _rank(group)
    offers = _told_by_all(offer, group, rank)
    made: list[_T] = []
    _told_by_all(lambda: made.append(make(offers, rank)), group, rank)
    return made[0]


def on_cpu(state: Any) -> Any:
    """A state with its tensors on the CPU, where every process can have them."""
    if isinstance(state, Tensor):
        return state.cpu()
    if isinstance(state, dict):
        return {name: on_cpu(value) for name, value in state.items()}
    return state


def _rank(group: ProcessGroup | None) -> int:
    from torch import distributed

    if not distributed.is_available() or not distributed.is_initialized():
        raise ValueError(
            "this process is in no group: call torch.distributed.init_process_group first; one process alone needs none"
        )
    rank = distributed.get_rank(group)
    if rank < 0:
        raise ValueError("this process is not in the group that is given")
    return rank


def _told_by_all(tell: Callable[[], Any], group: ProcessGroup | None, rank: int) -> list[Any]:
    """What each process tells, in the order of ranks, unless one could not."""
    from torch import distributed

    failed: Exception | None = None
    said: tuple[Any, str | None, bool]
    try:
        said = (tell(), None, False)
    except Exception as error:
        failed = error
        said = (None, f"{type(error).__name__}: {error}", isinstance(error, ValueError | TypeError))
    told: list[Any] = [None] * distributed.get_world_size(group)
    try:
        distributed.all_gather_object(told, said, group=group)
    except RuntimeError as error:  # what torch raises of every backend
        if failed is not None:
            raise failed from error
        raise ConnectionError(
            f"process {rank} of {len(told)} waited for the others in vain: one ended, or did not come within the "
            "group's timeout (init_process_group(timeout=...)). Nothing was taken over here; end the group and begin a "
            "new one"
        ) from error
    if failed is not None:
        raise failed
    for other, (_, message, refused) in enumerate(told):
        if message is not None:
            kind = ValueError if refused else OSError
            raise kind(f"process {other} of {len(told)} failed, so that none took anything over: {message}")
    return [value for value, _, _ in told]


def joined(
    parts: list[tuple[Tensor, tuple[str | None, ...] | None]],
) -> tuple[Tensor, list[str | None] | None]:
    """One batch of the processes' parts, rows ``[n, D]`` and sources, in the order of ranks."""
    rows = torch.cat([part for part, _ in parts])
    if all(sources is None for _, sources in parts):
        return rows, None
    every: list[str | None] = []
    for part, sources in parts:
        every += [None] * len(part) if sources is None else sources
    return rows, every
