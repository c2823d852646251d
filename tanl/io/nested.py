"""States of detectors, nested as they are, as JSON and tensors by name."""

from __future__ import annotations

from typing import Any

from torch import Tensor


def split_tensors(state: Any) -> tuple[Any, dict[str, Tensor]]:
    """Nested dicts, lists and tuples of tensors and plain values, as JSON and the tensors that it names."""
    tensors: dict[str, Tensor] = {}

    def plain(value: Any, path: str) -> Any:
        if isinstance(value, Tensor):
            tensors[path] = value.detach().cpu().contiguous().clone()  # safetensors refuses shared memory
            return {"tensor": path}
        if isinstance(value, dict):
            return {
                "dict": {key: plain(each, f"{path}/{key}" if path else key) for key, each in value.items()}
            }
        if isinstance(value, list | tuple):
            return {type(value).__name__: [plain(each, f"{path}/{i}") for i, each in enumerate(value)]}
        if value is None or isinstance(value, bool | int | float | str):
            return value
        raise TypeError(f"the state's {path} is a {type(value).__name__}, which cannot be saved")

    return plain(state, ""), tensors


def joined_tensors(tree: Any, tensors: dict[str, Tensor]) -> Any:
    """What `split_tensors` was given."""
    if not isinstance(tree, dict):
        return tree
    ((kind, value),) = tree.items()
    if kind == "tensor":
        return tensors[value]
    if kind == "dict":
        return {key: joined_tensors(each, tensors) for key, each in value.items()}
    items = [joined_tensors(each, tensors) for each in value]
    return tuple(items) if kind == "tuple" else items
