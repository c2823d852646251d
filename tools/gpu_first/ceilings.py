"""What the device can do at best, and where it is: on random numbers, as ones are copied and multiplied faster."""

from __future__ import annotations

import platform
from functools import lru_cache
from typing import Any

import torch

import tanl
from tanl.kernels import available
from tanl.labels.on_gpu import gpu_faiss
from tools.speed.roofline import Roofline

from .clock import seconds_of
from .sizes import Sizes

_LAUNCHES = 200


def environment(device: torch.device) -> dict[str, Any]:
    """What all of this was measured on."""
    try:
        import triton

        version: str | None = triton.__version__
    except ImportError:
        version = None
    found: dict[str, Any] = {
        "device": str(device),
        "machine": platform.platform(),
        "torch": torch.__version__,
        "triton": version,
        "tanl": tanl.__version__,
        "backends": list(available(device)),
        "faiss_for_gpus": gpu_faiss() is not None,
    }
    if device.type == "cuda":
        about = torch.cuda.get_device_properties(device)
        found |= {
            "gpu": about.name,
            "memory_gb": about.total_memory / 1e9,
            "multiprocessors": about.multi_processor_count,
            "capability": list(torch.cuda.get_device_capability(device)),
            "cuda": torch.version.cuda,
            "hip": torch.version.hip,
        }
    return found


def floors(device: torch.device, sizes: Sizes) -> list[dict[str, Any]]:
    """What these ceilings leave a step with float16 labels, for every M: see `tools.speed.roofline.Roofline`."""
    found = ceilings(device, sizes)
    limits = Roofline("", 1e12 * found["product_fp16_tflop_s"], 1e9 * found["copy_gb_s"], "measured")
    rows = []
    for count in sizes.labels:
        shape = {"labels": count, "num_id": sizes.num_id, "batch": sizes.batch, "dim": sizes.dim}
        one, twice, stored = (1e6 * part for part in limits.floors(**shape, label_bytes=2))
        rows.append(
            {
                "M": count,
                "one_product_or_stream_us": one,
                "two_products_us": twice,
                "stored_exponentials_us": stored,
            }
        )
    return rows


@lru_cache(maxsize=1)
def ceilings(device: torch.device, sizes: Sizes) -> dict[str, float]:
    """GB/s of a copy, TFLOP/s of bare products, microseconds of a launch and of a value read back."""
    generator = torch.Generator(device).manual_seed(0)
    source = torch.empty(sizes.copied, dtype=torch.uint8, device=device).random_(0, 256, generator=generator)
    target = torch.empty_like(source)
    found = {"copy_gb_s": 2 * sizes.copied / seconds_of(lambda: target.copy_(source), device, sizes) / 1e9}
    for dtype, name in ((torch.float16, "fp16"), (torch.float32, "fp32")):
        square = torch.randn(sizes.square, sizes.square, device=device, generator=generator).to(dtype)
        out = torch.empty_like(square)
        took = seconds_of(lambda s=square, o=out: torch.mm(s, s, out=o), device, sizes)  # type: ignore[misc]
        found[f"product_{name}_tflop_s"] = 2 * sizes.square**3 / took / 1e12
    tiny = torch.zeros(1, device=device)

    def launches() -> None:
        for _ in range(_LAUNCHES):
            tiny.add_(1)

    def reads() -> None:
        for _ in range(_LAUNCHES):
            tiny.item()

    found["launch_us"] = 1e6 * seconds_of(launches, device, sizes) / _LAUNCHES
    found["item_us"] = 1e6 * seconds_of(reads, device, sizes) / _LAUNCHES
    return found
