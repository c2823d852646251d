"""States compared leaf by leaf, bit for bit."""

from __future__ import annotations

import copy
import struct
from typing import Any

import numpy as np
import torch
from torch import Tensor


def state_of(holder: Any) -> dict[str, Any]:
    """``holder``'s state as it is now: nothing that happens to ``holder`` later changes it."""
    return copy.deepcopy(holder.state_dict())


def assert_same_state(found: Any, expected: Any, where: str = "state") -> None:
    """Fail, naming the leaf, unless both have the same leaves.

    Tensors and arrays agree in dtype, shape, device and every byte, so that NaN equals itself and -0.0 is not 0.0;
    numbers and strings in type and value; dicts in their keys, in any order; lists and tuples in type and order.
    """
    assert type(found) is type(expected), f"{where}: {type(found).__name__} is not {type(expected).__name__}"
    if isinstance(found, dict):
        assert _typed(found) == _typed(expected), f"{where}: keys {list(found)} are not {list(expected)}"
        for key in found:
            assert_same_state(found[key], expected[key], f"{where}[{key!r}]")
    elif isinstance(found, list | tuple):
        assert len(found) == len(expected), f"{where}: {len(found)} entries are not {len(expected)}"
        for i, (ours, theirs) in enumerate(zip(found, expected, strict=True)):
            assert_same_state(ours, theirs, f"{where}[{i}]")
    elif isinstance(found, Tensor | np.ndarray | np.generic):
        for what in ("dtype", "shape", "device") if isinstance(found, Tensor) else ("dtype", "shape"):
            ours, theirs = getattr(found, what), getattr(expected, what)
            assert ours == theirs, f"{where}: {what} {ours} is not {theirs}"
        differing = np.count_nonzero(_bytes(found) != _bytes(expected))
        assert not differing, f"{where}: {differing} bytes of {found.dtype} {tuple(found.shape)} differ"
    elif isinstance(found, float):
        assert struct.pack("d", found) == struct.pack("d", expected), (
            f"{where}: {found!r} is not {expected!r}"
        )
    elif found is None or isinstance(found, bool | int | str | bytes | torch.dtype | torch.device):
        assert found == expected, f"{where}: {found!r} is not {expected!r}"
    else:
        raise TypeError(f"{where}: {type(found).__name__} is no leaf of a state that can be compared")


def same_state(found: Any, expected: Any) -> bool:
    """Whether `assert_same_state` passes."""
    try:
        assert_same_state(found, expected)
    except AssertionError:
        return False
    return True


def _typed(keys: dict[Any, Any]) -> set[tuple[type, Any]]:
    return {(type(key), key) for key in keys}


def _bytes(values: Tensor | np.ndarray | np.generic) -> np.ndarray:
    if isinstance(values, Tensor):
        return values.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
    return np.frombuffer(values.tobytes(), np.uint8)
