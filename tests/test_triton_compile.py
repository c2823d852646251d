"""Every shipped kernel compiled for every target, without a GPU: it proves code generation, and nothing about speed."""

import json
import os
import subprocess
import sys

import pytest

pytest.importorskip("triton", minversion="3.3", reason="compiling ahead of time takes Triton 3.3")

TARGETS = ("sm_80", "sm_90", "sm_100", "gfx942")
OPS = (
    *("exp_store", "otsu_histogram", "prefix_share", "row_lse"),
    *("segment_colsum", "segment_colsum_stored"),
)
WITH_PRODUCT = ("exp_store", "row_lse", "segment_colsum")
SHARED_BYTES = {"sm_80": 163 << 10, "sm_90": 227 << 10, "sm_100": 227 << 10, "gfx942": 64 << 10}
TENSOR_CORES = {"sm_80": "mma.sync", "sm_90": "wgmma", "sm_100": "tcgen05.mma", "gfx942": "v_mfma"}
REGISTERS = {"sm_80": 255, "sm_90": 255, "sm_100": 255, "gfx942": 256}


@pytest.fixture(scope="module")
def compiled():
    """What `tools.triton_resources` prints, in a process that compiles and does not interpret."""
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    command = [sys.executable, "-m", "tools.triton_resources"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def broken(compiled, fits):
    return [entry for entry in compiled if not fits(entry)]


def test_all_kernels_compile_for_all_targets_and_dtypes(compiled):
    assert {(e["target"], e["kernel"]) for e in compiled} == {(t, op) for t in TARGETS for op in OPS}
    products = {(e["target"], e["kernel"], e["dtype"]) for e in compiled if e["kernel"] in WITH_PRODUCT}
    assert len(products) == len(TARGETS) * len(WITH_PRODUCT) * 2


def test_nothing_spills(compiled):
    read = [e for e in compiled if e["stack"] is not None]
    if len(read) < len(compiled):
        pytest.skip("this Triton comes without cuobjdump, which reads registers and stack")
    assert broken(read, lambda e: e["stack"] == 0) == []
    assert broken(read, lambda e: 0 < e["registers"] <= REGISTERS[e["target"]]) == []


def test_shared_memory_is_there(compiled):
    assert broken(compiled, lambda e: e["shared"] <= SHARED_BYTES[e["target"]]) == []


def test_shapes_of_sm_80_fit_any_nvidia_gpu_since(compiled):
    assert broken(compiled, lambda e: e["target"] != "sm_80" or e["shared"] <= 99 << 10) == []


def test_products_run_on_tensor_cores(compiled):
    products = [e for e in compiled if e["kernel"] in WITH_PRODUCT]
    assert broken(products, lambda e: TENSOR_CORES[e["target"]] in e["tensor_cores"]) == []


def test_float32_products_keep_their_precision(compiled):
    """Never plain TF32, which keeps ten bits."""
    products = [e for e in compiled if e["kernel"] in WITH_PRODUCT and e["dtype"] == "fp32"]
    assert {e["constants"]["PRECISION"] for e in products if e["target"] != "gfx942"} == {"tf32x3"}
    assert {e["constants"]["PRECISION"] for e in products if e["target"] == "gfx942"} == {"ieee"}


def test_other_forms_leave_room_for_two_programs_on_a_multiprocessor(compiled):
    """Of sm_90, where they are for; all of the narrow form, of the other what only begins with the product."""
    forms = {
        (e["form"], e["kernel"]): e for e in compiled if e["target"] == "sm_90" and e["form"] != "addresses"
    }
    assert {form for form, _ in forms} == {"descriptors", "two-programs"}
    assert {kernel for _, kernel in forms} == set(WITH_PRODUCT)
    for (form, kernel), entry in forms.items():
        if form == "two-programs" or kernel != "segment_colsum":
            assert entry["registers"] is None or entry["registers"] <= 128
            assert entry["shared"] <= 113 << 10


def test_every_sum_has_one_owner(compiled):
    assert broken(compiled, lambda e: not e["atomics"]) == []
