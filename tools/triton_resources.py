"""What the kernels take of each target, without a GPU: ``python -m tools.triton_resources``.

Compiles every kernel in every shape it is shipped with, ahead of time, and prints a JSON line for each. It tells about
code generation: registers, spills, shared memory, tensor cores. It tells nothing about speed.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from tanl.kernels.reference import LARGEST_EXPONENT
from tanl.kernels.triton.ops.exp_store import exp_store_kernel
from tanl.kernels.triton.ops.otsu_histogram import otsu_histogram_kernel
from tanl.kernels.triton.ops.prefix_share import prefix_share_kernel
from tanl.kernels.triton.ops.row_lse import row_lse_kernel
from tanl.kernels.triton.ops.segment_colsum import segment_colsum_kernel
from tanl.kernels.triton.ops.segment_colsum_stored import segment_colsum_stored_kernel
from tanl.kernels.triton.shapes import (
    OTSU_SCORES,
    PLAIN,
    PREFIX_COLUMNS,
    PRODUCT,
    SEGMENTS,
    STAGES,
    STORED_ROWS,
    WARPS,
    forms_on,
    shape_on,
)

TARGETS = {
    "sm_80": GPUTarget("cuda", 80, 32),
    "sm_90": GPUTarget("cuda", 90, 32),
    "sm_100": GPUTarget("cuda", 100, 32),
    "gfx942": GPUTarget("hip", "gfx942", 64),
}
# Widths of labels: one that every tile divides, one that none does, and one that leaves rows unaligned too.
DIMS = (512, 520, 513)
DTYPES = {torch.float16: "fp16", torch.float32: "fp32"}
# The kernels' arguments by name. Besides these: z and labels have the labels' dtype, counts are int32.
ARGUMENTS = {
    "grid": "*fp32",
    "id_lse": "*fp32",
    "logits": "*fp32",
    "lse": "*fp32",
    "maxima": "*fp32",
    "moments": "*fp64",
    "scale": "fp32",
    "scores": "*fp32",
    "segments": "*i32",
    "shares": "*fp32",
    "sums": "*fp32",
    "totals": "*fp32",
    "values": "*fp32",
}
TENSOR_CORES = ("mma.sync", "wgmma", "tcgen05.mma", "v_mfma")
ATOMIC = re.compile(r"^\s*(@%p\d+ )?(atom|red|global_atomic|buffer_atomic|ds_add)[._]", re.MULTILINE)


@dataclass(frozen=True)
class Configuration:
    """A kernel as one target gets it.

    Attributes:
        kernel: its name.
        target: a key of TARGETS.
        form: of the kernels that begin with the product, see `FORMS`.
        dtype: of the labels, where it takes any; else of what it reads.
        constants: its compile-time arguments.
        options: how it is compiled: warps to a program, stages of the pipeline, the most registers.
    """

    kernel: str
    target: str
    form: str
    dtype: str
    constants: dict[str, Any]
    options: dict[str, int]


@dataclass(frozen=True)
class Resources:
    """What a compiled kernel takes.

    Attributes:
        registers: of a thread; on AMD vector registers.
        stack: bytes a thread keeps in memory, as it does with what it spills.
        shared: bytes of shared memory of a program.
        tensor_cores: the instructions by which it uses them.
        atomics: whether it adds up in memory, where the order is anybody's.

    registers and stack are None where Triton comes without the tool that reads them.
    """

    registers: int | None
    stack: int | None
    shared: int
    tensor_cores: list[str]
    atomics: bool


KERNELS = {
    "row_lse": row_lse_kernel,
    "exp_store": exp_store_kernel,
    "segment_colsum": segment_colsum_kernel,
    "segment_colsum_stored": segment_colsum_stored_kernel,
    "prefix_share": prefix_share_kernel,
    "otsu_histogram": otsu_histogram_kernel,
}


def configurations() -> Iterator[Configuration]:
    """Everything that is shipped, target by target."""
    options = {"num_warps": WARPS, "num_stages": STAGES}
    for target in TARGETS:
        tiles = set()
        for form, dtype, dim in product(forms_on(target), PRODUCT[target], DIMS):
            shape = shape_on(target, dtype, dim, form)
            if form != PLAIN and shape == shape_on(target, dtype, dim):
                continue
            tiles.add(shape.columns)
            constants: dict[str, Any] = shape.constants_for(dtype, dim)
            for kernel in ("row_lse", "exp_store", "segment_colsum"):
                segments = {"SEGMENTS": SEGMENTS} if kernel == "segment_colsum" else {}
                yield Configuration(kernel, target, form, DTYPES[dtype], constants | segments, shape.options)
        for columns in sorted(tiles):
            constants = {"ROWS": STORED_ROWS, "COLUMNS": columns}
            yield Configuration("segment_colsum_stored", target, PLAIN, "fp32", constants, options)
        constants = {"LARGEST": LARGEST_EXPONENT, "COLUMNS": PREFIX_COLUMNS}
        yield Configuration("prefix_share", target, PLAIN, "fp32", constants, options)
        yield Configuration("otsu_histogram", target, PLAIN, "fp32", {"SCORES": OTSU_SCORES}, options)


def compile_ahead(configuration: Configuration) -> Any:
    """The kernel compiled for its target as a launch with aligned tensors would have it compiled."""
    kernel = KERNELS[configuration.kernel]
    names = kernel.arg_names
    signature = {name: _type(name, configuration) for name in names}
    source = ASTSource(
        fn=kernel,
        signature=signature,
        constexprs={(names.index(name),): value for name, value in configuration.constants.items()},
        attrs={(i,): [["tt.divisibility", 16]] for i, name in enumerate(names) if signature[name][0] == "*"},
    )
    return triton.compile(source, target=TARGETS[configuration.target], options=configuration.options)


def resources(compiled: Any) -> Resources:
    """Read them from what the compiler made."""
    texts = compiled.asm
    registers, stack = _of_amdgcn(texts["amdgcn"]) if "amdgcn" in texts else _of_cubin(texts["cubin"])
    code = texts["amdgcn"] if "amdgcn" in texts else texts["ptx"]
    used = [name for name in TENSOR_CORES if name in code]
    return Resources(registers, stack, compiled.metadata.shared, used, ATOMIC.search(code) is not None)


def main() -> None:
    """Print them all, or with ``--table`` those of one target at D = 512 as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])  # type: ignore[union-attr]
    parser.add_argument("--table", choices=TARGETS, metavar="TARGET", help="a table of one of %(choices)s")
    target = parser.parse_args().table
    if not isinstance(row_lse_kernel, triton.JITFunction):
        raise SystemExit("TRITON_INTERPRET is set: there is nothing to compile")
    if target is None:
        for configuration in configurations():
            measured = resources(compile_ahead(configuration))
            print(json.dumps(asdict(configuration) | asdict(measured)), flush=True)
        return
    print("| kernel | form | labels | tile | warps | registers | stack | shared memory | programs at once |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- | --- |", flush=True)
    for configuration in configurations():
        if configuration.target == target and configuration.constants.get("D", DIMS[0]) == DIMS[0]:
            print(_row(configuration, resources(compile_ahead(configuration))), flush=True)


def at_once(registers: int, warps: int, shared: int) -> int:
    """How many programs a multiprocessor of compute capability 9.0 or 10.0 has registers and shared memory for.

    It has 65 536 registers, which a warp takes by 256, and 227 KB of shared memory, of which a program takes 1 KB more
    than it asks for; 64 warps at most.
    """
    by_registers = 65_536 // (warps * -(-32 * registers // 256) * 256)
    return min(by_registers, (228 << 10) // (shared + 1024), 64 // warps)


def _row(configuration: Configuration, taken: Resources) -> str:
    of, warps = configuration.constants, configuration.options["num_warps"]
    tile = "x".join(str(of[name]) for name in ("ROWS", "COLUMNS", "DEPTH") if name in of)
    fits = configuration.target in ("sm_90", "sm_100") and taken.registers is not None
    cells = [
        configuration.kernel,
        configuration.form if "D" in of else "",
        configuration.dtype if "D" in of else "",
        tile,
        warps,
        "?" if taken.registers is None else taken.registers,
        "?" if taken.stack is None else taken.stack,
        f"{taken.shared / 1024:.0f} KB",
        at_once(taken.registers, warps, taken.shared) if fits and taken.registers is not None else "",
    ]
    return f"| {' | '.join(map(str, cells))} |"


def _type(name: str, configuration: Configuration) -> str:
    if name in configuration.constants:
        return "constexpr"
    if name in ("z", "labels"):
        of = configuration.constants
        if of["DESCRIPTORS"]:
            rows = of["ROWS" if name == "z" else "COLUMNS"]
            return f"tensordesc<{configuration.dtype}[{rows}, {of['DEPTH']}]>"
        return f"*{configuration.dtype}"
    return ARGUMENTS.get(name, "i32")


def _of_amdgcn(text: str) -> tuple[int, int]:
    fields = dict(re.findall(r"\.(vgpr_count|private_segment_fixed_size):\s+(\d+)", text))
    return int(fields["vgpr_count"]), int(fields["private_segment_fixed_size"])


def _of_cubin(cubin: bytes) -> tuple[int | None, int | None]:
    tool = Path(triton.__file__).with_name("backends") / "nvidia" / "bin" / "cuobjdump"
    if not tool.exists():
        return None, None
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "kernel.cubin"
        file.write_bytes(cubin)
        told = subprocess.run([tool, "-res-usage", file], capture_output=True, text=True, check=True)
    found = re.search(r"REG:(\d+) STACK:(\d+)", told.stdout + told.stderr)
    if found is None:
        raise RuntimeError(f"cuobjdump does not tell the registers: {told.stdout}{told.stderr}")
    return int(found[1]), int(found[2])


if __name__ == "__main__":
    main()
