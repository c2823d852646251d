"""What a piece of code asks of a device, counted without one: operations, launches of Triton's kernels, waits.

A GPU is told to do things and does them later. A wait is where the program stops until all is done, to read a value
or a size that it goes on with; so each costs as much as all that is queued. On the CPU nothing waits, but the same
operations are called, and they are seen here.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

# A result's size hangs on values, or a value is read.
_WAITS = {
    "aten._local_scalar_dense",
    "aten.bincount",
    "aten.equal",
    "aten.is_nonzero",
    "aten.masked_select",
    "aten.nonzero",
    "aten._unique2",
    "aten.unique_dim",
}
_MASKED = {"aten.index", "aten.index_put", "aten.index_put_", "aten._index_put_impl_"}
# What reads a tensor back without an operation that could be seen, or fills one from the program's own memory.
_READS: dict[Any, str] = {
    Tensor.tolist: "tolist",
    Tensor.cpu: "cpu",
    Tensor.numpy: "numpy",
    torch.tensor: "tensor",
    torch.as_tensor: "as_tensor",
}
# Operations that launch nothing: they give memory, or another look at it.
_FREE = {
    *(
        "alias",
        "as_strided",
        "detach",
        "empty",
        "empty_like",
        "empty_strided",
        "expand",
        "is_pinned",
        "new_empty",
    ),
    *(
        "permute",
        "select",
        "set_",
        "slice",
        "split",
        "split_with_sizes",
        "squeeze",
        "t",
        "transpose",
        "unbind",
    ),
    *("unsqueeze", "view", "_reshape_alias", "_unsafe_view", "lift_fresh", "chunk", "resize_"),
}


@dataclass
class Counts:
    """What was asked of the device.

    Attributes:
        operations: torch's, by name; those that only look at memory in another way are left out.
        launches: of Triton's kernels, by name.
        waits: places where the program would wait for the device, by what it does there.
    """

    operations: Counter[str] = field(default_factory=Counter)
    launches: Counter[str] = field(default_factory=Counter)
    waits: Counter[str] = field(default_factory=Counter)

    def as_json(self) -> dict[str, Any]:
        """The numbers, and by name what they are made of."""
        return {
            name: {"count": counter.total(), "by_name": dict(counter.most_common())}
            for name, counter in (
                ("operations", self.operations),
                ("launches", self.launches),
                ("waits", self.waits),
            )
        }


@contextmanager
def counted() -> Iterator[Counts]:
    """Within the block everything that is asked of a device is counted in the record that it gives."""
    seen = Counts()
    reads, operations = _Reads(seen), _Operations(seen)
    with _triton_launches(seen.launches, reads, operations), reads, operations:
        yield seen


class _Operations(TorchDispatchMode):
    def __init__(self, seen: Counts) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._seen = seen
        self.counts = True

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        name = str(func.overloadpacket)
        if self.counts and name.removeprefix("aten.") not in _FREE:
            self._seen.operations[name] += 1
        if self.counts and (name in _WAITS or (name in _MASKED and _has_mask(args[1]))):
            self._seen.waits[name] += 1
        return func(*args, **(kwargs or {}))


class _Reads(TorchFunctionMode):
    def __init__(self, seen: Counts) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._seen = seen
        self.counts = True

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if self.counts and func in _READS:
            self._seen.waits[_READS[func]] += 1
        return func(*args, **(kwargs or {}))


def _has_mask(indices: Any) -> bool:
    return any(isinstance(i, Tensor) and i.dtype in (torch.bool, torch.uint8) for i in indices)


@contextmanager
def _triton_launches(launches: Counter[str], *modes: _Reads | _Operations) -> Iterator[None]:
    """Counts kernels as they are launched; what the interpreter does with torch for them does not count."""
    try:
        from triton.runtime.interpreter import GridExecutor
        from triton.runtime.jit import JITFunction
    except ImportError:  # no Triton, no launches
        yield
        return

    def watched(original: Callable[..., Any]) -> Callable[..., Any]:
        def call(self: Any, *args: Any, **kwargs: Any) -> Any:
            launches[getattr(self, "fn", self).__name__] += 1
            for mode in modes:
                mode.counts = False
            try:
                return original(self, *args, **kwargs)
            finally:
                for mode in modes:
                    mode.counts = True

        return call

    originals = [(GridExecutor, "__call__"), (JITFunction, "run")]
    kept = [(owner, name, getattr(owner, name)) for owner, name in originals]
    try:
        for owner, name, original in kept:
            setattr(owner, name, watched(original))
        yield
    finally:
        for owner, name, original in kept:
            setattr(owner, name, original)
