"""What loading a model by its name takes, whichever library it comes from."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from ..io.paths import local_path
from ..io.text import did_you_mean
from .base import BackboneError

PRECISIONS = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}

OFFLINE = 'load_backbone("mini") and load_backbone("mini-photo") need no network'


def check_precision(precision: str) -> None:
    """Refuse a precision without a name, before anything is loaded."""
    if precision not in PRECISIONS:
        hint = did_you_mean(precision, PRECISIONS)
        raise ValueError(f"no precision {precision!r}; there are {', '.join(PRECISIONS)}{hint}")


def check_device(device: torch.device | str) -> None:
    """Refuse a device that is not on this machine, before anything is loaded.

    Raises:
        ValueError: torch cannot use it; the message says why in torch's words, and what there is.
    """
    try:
        torch.empty(0, dtype=torch.float32, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        there = ["cpu"]
        there += [f"cuda:{number}" for number in range(torch.cuda.device_count())]
        there += ["mps"] * torch.backends.mps.is_available()
        raise ValueError(
            f"no device {str(device)!r} here: {first_line(error)}; there is {', '.join(there)}"
        ) from error


def home_spelled_out(source: str) -> str:
    """The source of a model, a folder, a file or a hub's name, with ``~`` in front as the home folder.

    Raises:
        ValueError: an address.
    """
    path = local_path(source)
    return str(path) if source.startswith("~") else source


_quiet_lock = threading.Lock()
_quiet_calls = 0
_disabled_before = 0


@contextmanager
def quiet() -> Iterator[None]:
    """Hold back other libraries' log lines: what matters of them is in the error.

    Logging is one for all threads: the first to come holds it back, and the last to go gives it free.
    """
    global _quiet_calls, _disabled_before
    with _quiet_lock:
        if _quiet_calls == 0:
            _disabled_before = logging.root.manager.disable
            logging.disable(logging.ERROR)
        _quiet_calls += 1
    try:
        yield
    finally:
        with _quiet_lock:
            _quiet_calls -= 1
            if _quiet_calls == 0:
                logging.disable(_disabled_before)


def cannot_load(name: str, error: Exception) -> BackboneError:
    """The error that tells why a model cannot be loaded, in one line."""
    return BackboneError(f"backbone {name!r} cannot be loaded: {first_line(error)} ({OFFLINE})")


def first_line(error: Exception) -> str:
    """What an error says first, or its type where it says nothing."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
