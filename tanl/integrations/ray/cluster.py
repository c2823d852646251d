"""Ray itself: whether it is there, and new enough; a session on a cluster."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

OLDEST = (2, 60)
NAMESPACE = "tanl"
_REPORTS = "RAY_USAGE_STATS_ENABLED"


def ray() -> Any:
    """The module `ray`, if it is one that this works with.

    Raises:
        ImportError: it is not there, or too old; one line says what to install.
    """
    needed = ".".join(map(str, OLDEST))
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise ImportError(
            f"this needs Ray Data, {needed} or newer: pip install 'tanl[ray]' ({error})"
        ) from error
    found = tuple(int(part) for part in re.findall(r"\d+", ray.__version__)[:2])
    if found < OLDEST:
        raise ImportError(f"Ray {ray.__version__} is too old, {needed} is needed: pip install -U 'tanl[ray]'")
    return ray


@contextmanager
def session(address: str | None) -> Iterator[Any]:
    """Ray, connected to a cluster: the one that the process is connected to, that of the address, or a new one.

    A connection that was made here ends here. A cluster that is started here does not report to Ray's makers how it is
    used, which Ray does by default, unless RAY_USAGE_STATS_ENABLED says so.

    Raises:
        ImportError: as `ray`.
        OSError: there is no cluster at that address.
    """
    library = ray()
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    own = not library.is_initialized()
    if own:
        place = address or os.environ.get("RAY_ADDRESS") or "local"
        try:
            with _without_reports() if place == "local" else nullcontext():
                library.init(
                    address=place,
                    namespace=NAMESPACE,
                    log_to_driver=False,
                    logging_level=logging.ERROR,
                    include_dashboard=None if address else False,
                )
        except (ConnectionError, ValueError, RuntimeError) as error:
            told = " ".join(str(error).split())
            raise OSError(f"no connection to a Ray cluster at {address or 'this machine'}: {told}") from error
    try:
        yield library
    finally:
        if own:
            library.shutdown()


@contextmanager
def _without_reports() -> Iterator[None]:
    """What is started meanwhile reports nothing, unless the environment says otherwise."""
    if _REPORTS in os.environ:
        yield
        return
    os.environ[_REPORTS] = "0"
    try:
        yield
    finally:
        del os.environ[_REPORTS]


@contextmanager
def plain_errors(library: Any) -> Iterator[None]:
    """Raise what went wrong on a worker as the plain error that it was, in place of Ray's with both tracebacks.

    Raises:
        ValueError, TypeError, ImportError, OSError: as the worker raised it.
        OSError: what Ray has to say of actors, nodes and memory.
    """
    try:
        yield
    except library.exceptions.RayError as error:
        cause: BaseException = error
        while (deeper := getattr(cause, "cause", None) or cause.__cause__) is not None:
            cause = deeper
        # Ray's own errors go on for pages, with what they say in their first line.
        lines = (
            str(cause).strip().splitlines()[: 1 if isinstance(cause, library.exceptions.RayError) else None]
        )
        told = " ".join(" ".join(lines).split()) or type(cause).__name__
        if isinstance(cause, library.exceptions.OutOfMemoryError):
            told = f"{told.rstrip('.')}. Take fewer workers, or a smaller encode_batch"
        for kind in (ImportError, ValueError, TypeError):
            if isinstance(cause, kind):
                raise kind(told) from error
        raise OSError(f"a worker failed: {told}; what is finished is kept, the same call goes on") from error
