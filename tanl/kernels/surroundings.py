"""What a process sets for all of torch, kept out of what is computed here: modes around a call, and the precision
of products."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from functools import wraps
from typing import ParamSpec, TypeVar

import torch
from torch import Tensor

_P = ParamSpec("_P")
_R = TypeVar("_R")
_AUTOCAST = ("cpu", "cuda", "xpu", "mps")  # the kinds of devices that embeddings may be on


def undisturbed(function: Callable[_P, _R]) -> Callable[_P, _R]:
    """Make a function compute as if its caller had set nothing: no autocast, no inference mode, no gradients.

    Autocast would round embeddings to half precision; a tensor that is made in inference mode cannot be changed outside
    of it, so a state that is made there would not serve elsewhere.
    """

    @wraps(function)
    def alone(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        cast = [kind for kind in _AUTOCAST if torch.is_autocast_enabled(kind)]
        if not cast and not torch.is_inference_mode_enabled():
            with torch.no_grad():
                return function(*args, **kwargs)
        with ExitStack() as stack:
            stack.enter_context(torch.inference_mode(False))
            stack.enter_context(torch.no_grad())
            for kind in cast:
                stack.enter_context(torch.autocast(kind, enabled=False))
            return function(*args, **kwargs)

    return alone


def product(left: Tensor, right: Tensor, *, out: Tensor | None = None) -> Tensor:
    """``left @ right`` of float32 operands ``[n, D]`` and ``[D, N]`` in full precision, whatever torch is told.

    ``torch.set_float32_matmul_precision`` lets products round their operands to TF32 or bfloat16, which moves logits at
    CLIP's scale by tenths. It is set for a whole process, so it is not changed here: where it is lower than the
    highest, the product is made in float64.
    """
    if _full_precision(left.device.type):
        return torch.mm(left, right, out=out)
    exact = torch.mm(left.double(), right.double())
    return exact.float() if out is None else out.copy_(exact)


def _full_precision(kind: str) -> bool:
    backend = torch.backends.mkldnn if kind == "cpu" else torch.backends.cuda
    try:
        precision = backend.matmul.fp32_precision  # type: ignore[union-attr]
    except AttributeError:  # before torch 2.9 there was one switch for all
        return torch.get_float32_matmul_precision() == "highest"
    return precision in ("ieee", "none")
