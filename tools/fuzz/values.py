"""Values of every kind, most of them unusable wherever they are handed in."""

from __future__ import annotations

import copy
import datetime
import decimal
import warnings
from collections import OrderedDict, UserDict
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import normalize

D = 8

_PLAIN: tuple[Any, ...] = (
    *(None, True, False, 0, 1, 2, -1, 3, 10**6, 2**31, 2**63, 10**30, -(10**30)),
    *(0.0, 0.5, 1.0, -0.5, 1e-12, 1 - 1e-12, 1e300, 1e-300, float("nan"), float("inf"), float("-inf")),
    *("", "3", "nan", "cat", "\x00", "\ud800", "a" * 10_000, b"", b"cat", (), [], {}, set(), 1j, ...),
)
_NUMBERS: dict[str, Callable[[], Any]] = {repr(value)[:40]: partial(copy.copy, value) for value in _PLAIN}
_OBJECTS: dict[str, Callable[[], Any]] = {
    "object()": object,
    "a class": lambda: dict,
    "a function": lambda: len,
    "a generator": lambda: (n for n in range(3)),
    "a path": lambda: Path("nowhere"),
    "Decimal": lambda: decimal.Decimal("0.95"),
    "a date": lambda: datetime.date(2026, 1, 1),
    "range(3)": lambda: range(3),
    "[1, 'a', None]": lambda: [1, "a", None],
    "[[]]": lambda: [[]],
    "[nan]": lambda: [float("nan")] * 3,
    "{'a': 1}": lambda: {"a": 1},
    "{1: 2}": lambda: {1: 2},
    "UserDict": lambda: UserDict(a=1),
    "OrderedDict": lambda: OrderedDict(a=1),
    "np.int64(3)": lambda: np.int64(3),
    "np.float64(nan)": lambda: np.float64("nan"),
    "np.float32(0.5)": lambda: np.float32(0.5),
    "np.bool_(True)": lambda: np.bool_(True),
    "np.str_": lambda: np.str_("cat"),
}


def unit(rows: int, dim: int = D, seed: int = 0) -> Tensor:
    """Random unit rows."""
    return normalize(torch.randn(rows, dim, generator=torch.Generator().manual_seed(seed)), dim=1)


def _with(value: float, row: int = 1) -> Tensor:
    z = unit(3)
    z[row, 2] = value
    return z


def _nested(layout: torch.layout) -> Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.nested.nested_tensor([unit(2), unit(3)], layout=layout)


def _sparse(kind: str) -> Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made: Tensor = getattr(unit(4), kind)()
    return made


_TENSORS: dict[str, Callable[[], Any]] = {
    "unit rows": lambda: unit(3),
    "one unit row": lambda: unit(1),
    "many unit rows": lambda: unit(40),
    "D + 1": lambda: unit(3, D + 1),
    "D = 0": lambda: torch.zeros(3, 0),
    "no rows": lambda: torch.zeros(0, D),
    "[D]": lambda: unit(1)[0],
    "a number in a tensor": lambda: torch.tensor(0.5),
    "[1]": lambda: torch.tensor([0.5]),
    "[30]": lambda: torch.linspace(0, 1, 30),
    "[30] with nan": lambda: torch.cat([torch.linspace(0, 1, 29), torch.tensor([float("nan")])]),
    "[3, D, 1]": lambda: unit(3)[..., None],
    "nan": lambda: _with(float("nan")),
    "inf": lambda: _with(float("inf")),
    "huge": lambda: _with(1e38),
    "all nan": lambda: torch.full((3, D), float("nan")),
    "zeros": lambda: torch.zeros(3, D),
    "twice the norm": lambda: 2 * unit(3),
    "float64": lambda: unit(3).double(),
    "float16": lambda: unit(3).half(),
    "bfloat16": lambda: unit(3).bfloat16(),
    "float8": lambda: unit(3).to(torch.float8_e4m3fn),
    "complex": lambda: unit(3).to(torch.complex64),
    "int64": lambda: torch.ones(3, D, dtype=torch.int64),
    "uint8": lambda: torch.ones(3, D, dtype=torch.uint8),
    "bool": lambda: torch.ones(3, D, dtype=torch.bool),
    "quantized": lambda: torch.quantize_per_tensor(unit(3), 0.1, 0, torch.qint8),
    "meta": lambda: torch.empty(3, D, device="meta"),
    "sparse": lambda: _sparse("to_sparse"),
    "sparse csr": lambda: _sparse("to_sparse_csr"),
    "nested": lambda: _nested(torch.strided),
    "nested jagged": lambda: _nested(torch.jagged),
    "needs grad": lambda: unit(3).requires_grad_(),
    "expanded": lambda: unit(1).expand(3, D),
    "transposed": lambda: unit(D, 3).T,
    "negative view": lambda: (-1j * unit(3)).conj().imag,
    "parameter": lambda: torch.nn.Parameter(unit(3)),
    "in inference mode": lambda: _of_inference_mode(),
    "pixels": lambda: torch.rand(2, 3, 8, 8),
}


def _of_inference_mode() -> Tensor:
    with torch.inference_mode():
        return unit(3)


_ARRAYS: dict[str, Callable[[], Any]] = {
    "array": lambda: unit(3).numpy(),
    "array, float64": lambda: unit(3).double().numpy(),
    "array, big endian": lambda: unit(3).numpy().astype(">f4"),
    "array, longdouble": lambda: unit(3).numpy().astype(np.longdouble),
    "array, float16": lambda: unit(3).half().numpy(),
    "array, complex": lambda: unit(3).numpy().astype(np.complex64),
    "array, objects": lambda: unit(3).numpy().astype(object),
    "array, text": lambda: unit(3).numpy().astype(str),
    "array, integers": lambda: np.ones((3, D), dtype=np.int32),
    "array, dates": lambda: np.zeros((3, D), dtype="datetime64[s]"),
    "array, records": lambda: np.zeros((3, D), dtype=[("a", "f4")]),
    "array, backwards": lambda: unit(3).numpy()[::-1, ::-1],
    "array, read only": lambda: np.broadcast_to(unit(1).numpy(), (3, D)),
    "array, masked": lambda: np.ma.masked_less(unit(3).numpy(), 0),
    "array, matrix": lambda: np.asmatrix(unit(3).numpy()),
    "array, of one number": lambda: np.array(0.5),
    "array, no rows": lambda: np.zeros((0, D), dtype=np.float32),
    "list of lists": lambda: unit(3).tolist(),
}

_SCALARS = _NUMBERS | _OBJECTS
_ROWS = _TENSORS | _ARRAYS
_ALL = _SCALARS | _ROWS


class Named:
    """A value, and what to call it where it is told of."""

    def __init__(self, name: str, make: Callable[[], Any]) -> None:
        self.name, self._make = name, make

    @property
    def value(self) -> Any:
        return self._make()

    def __repr__(self) -> str:
        return self.name


def _of(makers: dict[str, Callable[[], Any]]) -> st.SearchStrategy[Named]:
    return st.sampled_from([Named(name, make) for name, make in makers.items()])


def anything() -> st.SearchStrategy[Named]:
    """A value of any kind."""
    return _of(_ALL)


def scalars() -> st.SearchStrategy[Named]:
    """A number, a text, an object; not rows of numbers."""
    return _of(_SCALARS)


def rows() -> st.SearchStrategy[Named]:
    """Tensors and arrays, a few of which are embeddings."""
    return _of(_ROWS)


_NAMES = [
    "cat",
    "dog",
    "Cat",
    "cat ",
    "",
    " ",
    "\ud800",
    "\x00",
    "a\nb",
    "\u200b",
    "\ufffd",
    "{}",
    "c\u0327",
    "x" * 5000,
]


def names() -> st.SearchStrategy[Any]:
    """Lists of names as users write them, and what is no such list."""
    strange = st.one_of(st.sampled_from(_NAMES), st.text(max_size=12))
    broken = st.one_of(strange, st.none(), st.integers(), st.binary(max_size=3), st.floats())
    return st.one_of(
        st.lists(strange, max_size=8),
        st.lists(broken, max_size=5),
        scalars().map(lambda named: named.value),
    )


_TENSOR_CHANGES: dict[str, Callable[[Tensor], Any]] = {
    "without its last row": lambda t: t[:-1],
    "with its first row twice": lambda t: torch.cat([t[:1], t]),
    "without rows": lambda t: t[:0],
    "without its last column": lambda t: t[..., :-1],
    "with one dimension more": lambda t: t[None],
    "flat": lambda t: t.reshape(-1),
    "as float64": lambda t: t.double(),
    "as float16": lambda t: t.half(),
    "as int64": lambda t: t.nan_to_num().long(),
    "as bool": lambda t: t.bool(),
    "as complex": lambda t: t.to(torch.complex64),
    "on meta": lambda t: t.to("meta"),
    "sparse": lambda t: t.to_sparse(),
    "needing grad": lambda t: t.clone().requires_grad_(),
    "as an array": lambda t: t.numpy(),
    "as a list": lambda t: t.tolist(),
    "full of nan": lambda t: torch.full_like(t, float("nan")),
    "with one nan": lambda t: _changed(t, float("nan")),
    "with one inf": lambda t: _changed(t, float("inf")),
    "with one -1e30": lambda t: _changed(t, -1e30),
    "with one 1e6": lambda t: _changed(t, 1e6),
    "negated": lambda t: -t,
    "times two": lambda t: 2 * t,
    "zero": torch.zeros_like,
}


def _changed(t: Tensor, value: float) -> Tensor:
    changed = t.clone().reshape(-1)
    if len(changed):
        changed[len(changed) // 2] = value
    return changed.reshape(t.shape)


@st.composite
def changed_states(draw: st.DrawFn, state: dict[str, Any]) -> tuple[str, Any]:
    """A state with one to three places changed, and in words what was changed."""
    state = copy.deepcopy(state)
    said = []
    for _ in range(draw(st.integers(1, 3))):
        places = list(_places(state))
        if not places:
            break
        holder, key, path = draw(st.sampled_from(places))
        value = holder[key]
        kinds = ["replaced", "removed", "added"]
        if isinstance(value, Tensor):
            kinds += ["tensor"] * 6
        kind = draw(st.sampled_from(kinds))
        if kind == "tensor":
            how = draw(st.sampled_from(list(_TENSOR_CHANGES)))
            try:
                holder[key] = _TENSOR_CHANGES[how](value)
            except (RuntimeError, TypeError, IndexError):  # what cannot be changed so
                continue
            said.append(f"{path} {how}")
        elif kind == "removed":
            del holder[key]
            said.append(f"{path} removed")
        elif kind == "added" and isinstance(holder, dict):
            holder["another"] = 1
            said.append(f"another beside {path}")
        else:
            new = draw(anything())
            holder[key] = new.value
            said.append(f"{path} = {new!r}")
    return ", ".join(said), state


def _places(state: Any, path: str = "state") -> Iterator[tuple[Any, Any, str]]:
    items = state.items() if isinstance(state, dict) else enumerate(state) if isinstance(state, list) else ()
    for key, value in items:
        yield state, key, f"{path}[{key!r}]"
        yield from _places(value, f"{path}[{key!r}]")


@st.composite
def damaged(draw: st.DrawFn, content: bytes) -> bytes:
    """A file's bytes, cut, flipped, filled in or lengthened."""
    data = bytearray(content)
    for _ in range(draw(st.integers(1, 3))):
        size = len(data)
        near_an_end = st.one_of(st.integers(0, min(size, 200)), st.integers(max(0, size - 200), size))
        at = draw(st.one_of(near_an_end, st.integers(0, size)))
        kind = draw(st.sampled_from(["cut", "flip", "fill", "insert", "remove", "swap"]))
        if kind == "cut":
            del data[at:]
        elif kind == "flip" and at < size:
            data[at] ^= 1 << draw(st.integers(0, 7))
        elif kind == "fill":
            length = draw(st.integers(1, 16))
            data[at : at + length] = bytes([draw(st.sampled_from([0, 255, 32, 128]))]) * length
        elif kind == "insert":
            data[at:at] = draw(st.binary(min_size=1, max_size=8))
        elif kind == "remove":
            del data[at : at + draw(st.integers(1, 64))]
        else:
            data[at : at + 4] = bytes(reversed(data[at : at + 4]))
    return bytes(data)
