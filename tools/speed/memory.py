"""How much memory a process takes above a baseline, and how much the machine has left."""

from __future__ import annotations

import ctypes
import sys
import threading
from pathlib import Path

import torch

_STATUS = Path("/proc/self/status")
_RESET = Path("/proc/self/clear_refs")
_RESET_PEAK = "5"  # see proc(5)
_PAUSE = 0.002


class PeakMemory:
    """The peak of this process's memory above what it holds at construction, in bytes.

    On a GPU, torch's allocator says it. On the CPU it is the resident set: the kernel's own peak where it can be
    reset (Linux), a thread that looks every 2 ms where it cannot, else the peak since the process began.

    Attributes:
        how: the way that was taken; "not measured" where there is none.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._highest = 0
        _return_freed_memory()
        if device.type == "cuda":
            self.how = "torch.cuda.max_memory_allocated"
            torch.cuda.synchronize(device)
            torch.cuda.reset_peak_memory_stats(device)
            self._baseline = torch.cuda.memory_allocated(device)
            return
        self._baseline = _from_status("VmRSS")
        if self._baseline == 0:
            self.how = "ru_maxrss" if _largest_so_far() else "not measured"
            self._baseline = _largest_so_far()
        elif _peak_was_reset():
            self.how = "VmHWM"
        else:
            self.how = "VmRSS, sampled"
            threading.Thread(target=self._sample, daemon=True).start()

    def above(self) -> int | None:
        """The peak above the baseline until now."""
        if self.how == "not measured":
            return None
        if self._device.type == "cuda":
            peak = torch.cuda.max_memory_allocated(self._device)
        elif self.how == "VmHWM":
            peak = _from_status("VmHWM")
        elif self.how == "ru_maxrss":
            peak = _largest_so_far()
        else:
            peak = max(self._highest, _from_status("VmRSS"))
        return max(0, peak - self._baseline)

    def _sample(self) -> None:
        pause = threading.Event()
        while not pause.wait(_PAUSE):
            self._highest = max(self._highest, _from_status("VmRSS"))


def available() -> int | None:
    """Bytes that the machine could still give; None where it does not tell."""
    try:
        for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) << 10
    except OSError:
        return None
    return None


def _return_freed_memory() -> None:
    """Make glibc give back what is free, so that steps do not hide in it."""
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "malloc_trim"):
        libc.malloc_trim(0)


def _from_status(key: str) -> int:
    """Bytes that Linux reports under a name; 0 elsewhere."""
    try:
        for line in _STATUS.read_text(encoding="ascii").splitlines():
            if line.startswith(f"{key}:"):
                return int(line.split()[1]) << 10
    except OSError:
        return 0
    return 0


def _peak_was_reset() -> bool:
    try:
        _RESET.write_text(_RESET_PEAK, encoding="ascii")
    except OSError:
        return False
    # Where the kernel took it, the peak is now what is resident (or has grown a little since).
    return _from_status("VmHWM") - _from_status("VmRSS") < 1 << 20


def _largest_so_far() -> int:
    try:
        import resource
    except ImportError:  # Windows
        return 0
    largest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return largest if sys.platform == "darwin" else largest << 10
