"""Processes that do one piece of work, report as they go, and are killed or meet a full disk."""

from __future__ import annotations

import os
import random
import resource
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

RAISED = 70
"""The exit code of work that raised an error."""
DISK = 8 * 2**20
"""Bytes of the file system that stands for a full disk."""
_DEADLINE = 120.0  # seconds after which work that should have ended hangs


class Reports:
    """Lines that several processes append to a file, each whole: what one has said stays when it is killed."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.write_bytes(b"")

    def say(self, *words: object) -> None:
        descriptor = os.open(self.path, os.O_WRONLY | os.O_APPEND)
        try:
            os.write(descriptor, (" ".join(map(str, words)) + "\n").encode())
        finally:
            os.close(descriptor)

    def lines(self) -> list[list[str]]:
        return [line.split(" ") for line in self.path.read_text().splitlines()]


@dataclass(frozen=True)
class Ended:
    """How a process ended: its exit code, None if it was killed, and all that it printed."""

    code: int | None
    said: str


class Process:
    """A fork of this process that does one piece of work, and prints to a file."""

    def __init__(self, work: Callable[[], int | None], output: Path, largest_file: int | None = None) -> None:
        self._output = output
        output.write_bytes(
            b""
        )  # here: a process that is killed at once would leave what an earlier one printed
        sys.stdout.flush()
        sys.stderr.flush()
        self._pid = os.fork()
        if self._pid == 0:
            code = RAISED
            try:
                signal.signal(signal.SIGTERM, signal.SIG_DFL)
                descriptor = os.open(output, os.O_WRONLY)
                os.dup2(descriptor, 1)
                os.dup2(descriptor, 2)
                if largest_file is not None:
                    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
                    resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file, resource.RLIM_INFINITY))
                code = work() or 0
            except BaseException:
                traceback.print_exc()
            finally:
                sys.stdout.flush()
                os._exit(code)

    def kill_after(self, seconds: float) -> Ended:
        """Kill it then, unless it has ended by itself."""
        due = time.monotonic() + seconds
        while time.monotonic() < due:
            if (ended := self._ended()) is not None:
                return ended
            time.sleep(min(0.002, max(0.0, due - time.monotonic())))
        os.kill(self._pid, signal.SIGKILL)
        _, status = os.waitpid(self._pid, 0)
        # It may have come to its end between the last look and the signal.
        code = None if os.WIFSIGNALED(status) else os.waitstatus_to_exitcode(status)
        return Ended(code, self._output.read_text(errors="replace"))

    def wait(self) -> Ended:
        """Let it come to its end."""
        ended = self.kill_after(_DEADLINE)
        if ended.code is None:
            raise RuntimeError(f"no end after {_DEADLINE:.0f} seconds: {ended.said}")
        return ended

    def _ended(self) -> Ended | None:
        pid, status = os.waitpid(self._pid, os.WNOHANG)
        if not pid:
            return None
        return Ended(os.waitstatus_to_exitcode(status), self._output.read_text(errors="replace"))


def killed(
    works: Sequence[Callable[[], int | None]], output: Path, seconds: float, chance: random.Random
) -> list[Ended]:
    """Start them at once, and kill one after the other within so many seconds."""
    processes = [Process(work, output.with_suffix(f".{n}")) for n, work in enumerate(works)]
    moments = sorted(moment(seconds, chance) for _ in processes)
    ended, at = [], 0.0
    for process, then in zip(chance.sample(processes, len(processes)), moments, strict=True):
        ended.append(process.kill_after(then - at))
        at = then
    return ended


def moment(seconds: float, chance: random.Random) -> float:
    """When to kill work that takes so long: at any moment, one time in three near its end, when files are moved."""
    return chance.uniform(0.8 if chance.random() < 1 / 3 else 0.0, 1.1) * seconds


class Disk:
    """A small file system that can be filled; a limit on the size of files where none can be mounted.

    Attributes:
        folder: where it is.
        is_mounted: whether it is a file system of its own.
    """

    def __init__(self, folder: Path, is_mounted: bool) -> None:
        self.folder, self.is_mounted = folder, is_mounted

    @property
    def what(self) -> str:
        """What stands for a full disk."""
        if self.is_mounted:
            return f"a tmpfs of {DISK // 2**20} MiB with little room left"
        return "a limit on the size of files (RLIMIT_FSIZE), as nothing may be mounted here"

    @contextmanager
    def nearly_full(self, free: int) -> Iterator[int | None]:
        """Leave so many bytes free; gives the limit on the size of files to set, if that is all that can be done."""
        if not self.is_mounted:
            yield free
            return
        filler = self.folder / "filler"
        try:
            with filler.open("wb") as file:
                statistics = os.statvfs(self.folder)
                file.write(bytes(max(0, statistics.f_bavail * statistics.f_frsize - free)))
            yield None
        finally:
            filler.unlink()


@contextmanager
def small_disk(folder: Path) -> Iterator[Disk]:
    """Mount a small file system, if this user may."""
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={DISK}", "tmpfs", str(folder)]
    try:
        mounted = subprocess.run(command, capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        mounted = False
    try:
        yield Disk(folder, mounted)
    finally:
        if mounted:
            subprocess.run(["umount", "--lazy", str(folder)], check=True)
