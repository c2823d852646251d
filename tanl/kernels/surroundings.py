"""What a process sets for all of torch, kept out of what is computed here: modes around a call, and the precision
of products."""

from __future__ import annotations

import platform
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import cache, wraps
from pathlib import Path
from typing import ParamSpec, TypeVar

import numpy as np
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


def tall_product(labels: Tensor, columns: Tensor, *, out: Tensor | None = None) -> Tensor:
    """``labels @ columns`` as `product` makes it, of many labels ``[N, D]`` and few columns ``[D, n]``: ``[N, n]``.

    It is in ``out`` where that can be had, which is then what is returned.

    On AMD's processors MKL, which torch's ``mm`` takes, makes less than half as many products a second as oneDNN. torch
    takes that for convolutions: the labels are a picture of N x 1 pixels of D channels, as it lies in memory, and the
    columns n filters of one pixel. Both accumulate in float32.
    """
    if not (
        labels.device.type == "cpu" and _mkl_is_slow() and _full_precision("cpu") and _full_convolutions()
    ):
        return product(labels, columns, out=out)
    picture = labels[None, :, None].permute(0, 3, 1, 2)
    return torch.nn.functional.conv2d(picture, columns.T[:, :, None, None])[0, :, :, 0].T


def require_float64(device: torch.device, who: str) -> None:
    """Refuse a device on which nothing can be added up in float64.

    Raises:
        ValueError: it is Apple's.
    """
    if device.type == "mps":
        raise ValueError(
            f"{who} adds up in float64, which {device} has not; use the CPU for model and labels"
        )


def upload(values: Sequence[object], dtype: type[np.generic], device: torch.device) -> Tensor:
    """Numbers of the program's as a tensor on a device. It goes with what is queued there: nothing waits for it."""
    host = torch.from_numpy(np.array(values, dtype=dtype))
    return host.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else host.to(device)


def finished(tensor: Tensor) -> Tensor:
    """The tensor, once all that makes it is done, on whatever stream of its GPU that is."""
    if tensor.is_cuda:
        torch.cuda.synchronize(tensor.device)
    return tensor


def held(tensor: Tensor) -> Tensor:
    """The tensor, whose memory its GPU gives to nobody before what is queued now, on the stream of now, is done."""
    if tensor.is_cuda:
        tensor.record_stream(torch.cuda.current_stream(tensor.device))
    return tensor


def must_repeat(device: torch.device) -> bool:
    """Whether torch refuses, on this device, what may differ from run to run (``use_deterministic_algorithms``)."""
    return device.type == "cuda" and torch.are_deterministic_algorithms_enabled()


@cache
def _mkl_is_slow() -> bool:
    """Whether torch multiplies by MKL on a processor of AMD's, and has oneDNN too."""
    if not (torch.backends.mkl.is_available() and torch.backends.mkldnn.is_available()):  # type: ignore[no-untyped-call]
        return False
    described = Path("/proc/cpuinfo")  # Linux only
    if described.exists():
        return "AuthenticAMD" in described.read_text(encoding="utf-8", errors="replace")
    return "AuthenticAMD" in platform.processor()


def _full_convolutions() -> bool:
    """Whether oneDNN is on, and keeps to float32 in convolutions."""
    if not torch.backends.mkldnn.enabled:
        return False
    try:
        precision = torch.backends.mkldnn.conv.fp32_precision  # type: ignore[attr-defined]
    except AttributeError:  # before torch 2.9 there was one switch for all
        return torch.get_float32_matmul_precision() == "highest"
    return precision in ("ieee", "none")


def _full_precision(kind: str) -> bool:
    backend = torch.backends.mkldnn if kind == "cpu" else torch.backends.cuda
    try:
        precision = backend.matmul.fp32_precision  # type: ignore[union-attr]
    except AttributeError:  # before torch 2.9 there was one switch for all
        return torch.get_float32_matmul_precision() == "highest"
    return precision in ("ieee", "none")
