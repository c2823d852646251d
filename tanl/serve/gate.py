"""What may come in: hosts and origins by which a service is asked, and the size of what is sent."""

from __future__ import annotations

import ipaddress
import json
from collections.abc import Awaitable, Callable, Collection, MutableMapping
from typing import Any
from urllib.parse import urlsplit

from ..io.text import one_line

Message = MutableMapping[str, Any]
Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

# What a page may load and whom it may tell: this service alone. The page's framework compiles functions in the browser.
_HEADERS = {
    "content-security-policy": "default-src 'self'; img-src 'self' blob: data:; font-src 'self' data:; "
    "style-src 'self' 'unsafe-inline'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; connect-src 'self'; "
    "object-src 'none'; base-uri 'self'; form-action 'self'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
}


class TooLarge(Exception):  # noqa: N818, the name says what it is
    """More was sent than is taken."""


class Gate:
    """An ASGI application around another, which refuses what should not reach it.

    - A request must name the service in its ``Host`` by an IP address, as localhost, or by one of ``hosts``: a web page
      whose own name was made to point to this machine (DNS rebinding) names that.
    - A request of a web page (``Origin``) must come from a page of this service: any page in a browser could otherwise
      teach a guard on the same machine.
    - A body of more than ``max_body`` bytes is refused by its declared length, or where it grows beyond.

    Args:
        app: what is behind it.
        max_body: bytes.
        hosts: further names, without a port.
    """

    def __init__(self, app: App, *, max_body: int, hosts: Collection[str] = ()) -> None:
        self._app = app
        self._max_body = max_body
        self._hosts = {host.lower() for host in hosts}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
            return
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        if refusal := self._refusal(headers):
            await refuse(send, 403, refusal)
            return
        declared = headers.get("content-length", "0")
        if not declared.isdecimal() or int(declared) > self._max_body:
            await refuse(send, 413, self._too_large(f"{declared} bytes"))
            return
        taken, started = 0, False

        async def counted() -> Message:
            nonlocal taken
            message = await receive()
            taken += len(message.get("body", b""))
            if taken > self._max_body:
                raise TooLarge
            return message

        async def with_headers(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                own = [(name.encode(), value.encode()) for name, value in _HEADERS.items()]
                message = {**message, "headers": [*message.get("headers", ()), *own]}
            await send(message)

        try:
            await self._app(scope, counted, with_headers)
        except TooLarge:
            if started:
                raise
            await refuse(send, 413, self._too_large("the body"))

    def _refusal(self, headers: dict[str, str]) -> str | None:
        asked = headers.get("host", "")
        name = _name_of(asked)
        if name is None or not (name == "localhost" or name in self._hosts or _is_address(name)):
            return (
                f"this service is not asked as {asked!r}; use its IP address or localhost, or start it with "
                "--allow-host NAME"
            )
        origin = headers.get("origin")
        if origin is not None and urlsplit(origin).netloc.lower() != asked.lower():
            return f"a page of {origin!r} may not ask this service; only its own page may"
        return None

    def _too_large(self, what: str) -> str:
        return (
            f"{what} is more than the {self._max_body} bytes of one request; send fewer or smaller images, or start "
            "the service with a larger --max-body"
        )


async def refuse(send: Send, status: int, error: str) -> None:
    """Answer with an error; what is still being sent is not read."""
    body = json.dumps({"error": one_line(error)}).encode()
    headers = {"content-type": "application/json", "content-length": str(len(body)), "connection": "close"}
    pairs = [(name.encode(), value.encode()) for name, value in {**headers, **_HEADERS}.items()]
    await send({"type": "http.response.start", "status": status, "headers": pairs})
    await send({"type": "http.response.body", "body": body})


def _name_of(host: str) -> str | None:
    try:
        return urlsplit(f"//{host}").hostname
    except ValueError:
        return None


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
