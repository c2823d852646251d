"""The process that serves: an address to listen on, and uvicorn on it."""

from __future__ import annotations

import ipaddress
import socket
from typing import Any

try:
    import uvicorn
except ImportError as error:
    raise ImportError(f"serving needs more packages ({error.name}): pip install 'tanl[serve]'") from error

_AT_ONCE = 64  # requests; more are answered 503 at once
_PATIENCE = 20  # seconds that ending waits for requests that run


def is_loopback(host: str) -> bool:
    """Whether a host is reached by programs of this machine alone.

    Raises:
        OSError: it is no address, and no name that can be resolved.
    """
    found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    return all(ipaddress.ip_address(str(address[4][0]).partition("%")[0]).is_loopback for address in found)


def bound(host: str, port: int) -> socket.socket:
    """A socket at an address; nobody is answered before `run`, and the port is this process's.

    Args:
        host: an IP address, or a name.
        port: 0 takes a free one.

    Raises:
        OSError: the address is in use, or not this machine's.
    """
    family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    listening = socket.socket(family, kind, protocol)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
    except BaseException:
        listening.close()
        raise
    return listening


def url_of(listening: socket.socket) -> str:
    """Where a bound socket is asked."""
    host, port = listening.getsockname()[:2]
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"


def run(app: Any, listening: socket.socket) -> None:
    """Answer requests until Ctrl-C or SIGTERM, which are passed on afterwards; requests that run are waited for."""
    config = uvicorn.Config(
        app,
        log_level="warning",
        access_log=False,
        lifespan="on",
        proxy_headers=False,
        server_header=False,
        limit_concurrency=_AT_ONCE,
        timeout_graceful_shutdown=_PATIENCE,
    )
    uvicorn.Server(config).run(sockets=[listening])
