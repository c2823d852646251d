"""How a run talks to its workers: each in a process of its own, or, for tests, all in this one."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict
from typing import Any, Protocol

from .config import Case, Spec
from .worker import Worker, answer

Answer = dict[str, Any]


class Connection(Protocol):
    """One worker. `send` and `receive` come in turn; between them the worker works, or has yet to."""

    def send(self, **request: Any) -> None:
        """Hand a request over."""

    def receive(self) -> Answer:
        """Its answer; ``{"failed": ...}`` or ``{"not run": ...}`` where it could not be carried out."""

    def close(self) -> None:
        """End the worker."""


class InProcess:
    """A worker in this process."""

    def __init__(self) -> None:
        self._worker: Worker | None = None
        self._answer: Answer = {}

    def send(self, **request: Any) -> None:
        self._worker, self._answer = answer(self._worker, request)

    def receive(self) -> Answer:
        return self._answer

    def close(self) -> None:
        self._worker = None


class OwnProcess:
    """A worker in a Python of its own, started as this one was; its messages go to our stderr."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", f"{__package__}.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            encoding="utf-8",
        )

    def send(self, **request: Any) -> None:
        assert self._process.stdin is not None, "it is a pipe"
        try:
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            return  # it has ended: receive will say so

    def receive(self) -> Answer:
        assert self._process.stdout is not None, "it is a pipe"
        line = self._process.stdout.readline()
        if not line:
            code = self._process.wait()
            hint = " (killed: out of memory?)" if code == -9 else ""
            return {"failed": f"its process ended with exit code {code}{hint}"}
        result: Answer = json.loads(line)
        return result

    def close(self) -> None:
        # Leaving the `with` block closes the pipes, at which the worker ends, and waits for it.
        with self._process:
            pass


Connect = Callable[[], Connection]


def open_worker(connect: Connect, case: Case, spec: Spec) -> Connection:
    """A worker that has begun to build its contender; `receive` waits for it."""
    connection = connect()
    connection.send(ask="open", case=asdict(case), spec=asdict(spec))
    return connection


def ask(connection: Connection, **request: Any) -> Answer:
    """Send a request and wait for its answer."""
    connection.send(**request)
    return connection.receive()
