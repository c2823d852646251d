"""The Triton kernels against the reference, and what their backend says where it cannot serve."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from tanl.kernels import triton as backend

CASES = Path(__file__).with_name("triton_cases.py")
CPU, GPU = torch.device("cpu"), torch.device("cuda")


def run_cases(**variables):
    """Run the cases in a process in which nothing has imported Triton yet."""
    environment = {k: v for k, v in os.environ.items() if k not in ("TRITON_INTERPRET", "TANL_KERNELS")}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(CASES)]
    done = subprocess.run(command, env=environment | variables, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_kernels_agree_with_the_reference_in_the_interpreter():
    pytest.importorskip("triton")
    run_cases(TRITON_INTERPRET="1")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_kernels_agree_with_the_reference_on_the_gpu():
    pytest.importorskip("triton")
    run_cases()


def test_cpu_tensors_are_refused_outside_the_interpreter(monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    assert "need a GPU tensor (this one is on cpu); TRITON_INTERPRET=1" in backend.why_not(CPU)


def test_asking_for_the_interpreter_too_late_is_told(monkeypatch):
    pytest.importorskip("triton")
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    monkeypatch.setattr(backend, "_imported_for_interpreter", lambda: False)
    assert "set it before Triton is imported" in backend.why_not(CPU)


def test_gpu_tensors_are_served_where_triton_is_installed():
    pytest.importorskip("triton")
    assert backend.why_not(GPU) is None


def test_a_gpu_that_triton_does_not_know_is_told(monkeypatch):
    pytest.importorskip("triton")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    monkeypatch.setattr(torch.version, "hip", None)
    assert "this GPU has 7.5" in backend.why_not(torch.device("cuda:97"))


def test_a_gpu_of_amd_that_was_not_compiled_for_is_told(monkeypatch):
    pytest.importorskip("triton")

    def properties(device):
        return SimpleNamespace(gcnArchName={95: "gfx942:sramecc+:xnack-", 96: "gfx1100"}[device.index])

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_properties", properties)
    monkeypatch.setattr(torch.version, "hip", "7.0")
    assert backend.why_not(torch.device("cuda:95")) is None
    assert "this one is gfx1100; TANL_KERNELS=reference" in backend.why_not(torch.device("cuda:96"))


def test_a_triton_before_3_is_told(monkeypatch):
    triton = pytest.importorskip("triton")
    monkeypatch.setattr(triton, "__version__", "2.3.1")
    assert "this is 2.3.1" in backend.why_not(torch.device("cuda:98"))


def test_missing_triton_is_told_with_what_to_install(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert backend.why_not(GPU) == "Triton is not installed: pip install triton"


def test_the_backend_is_imported_without_triton():
    code = """
import sys
sys.modules["triton"] = None  # importing it raises ImportError
import torch
from tanl.kernels import triton
print(triton.why_not(torch.device("cpu")))
print(triton.why_not(torch.device("cuda")))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    on_cpu, on_gpu = done.stdout.splitlines()
    assert "need a GPU tensor" in on_cpu
    assert "Triton is not installed" in on_gpu
