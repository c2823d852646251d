"""Whether the device computes what it should: against float64 and the published outputs, whatever torch is told."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tanl import kernels
from tanl.detectors import TANL
from tanl.labels.bank import LabelBank

from .operations import SCALE, segments, unit
from .sizes import Sizes
from .steps import DTYPES, detector_and_batches

GOLDEN = Path(__file__).parents[2] / "tests/golden"
_CASES = ("aware_score_batch", "aware_score_mixed", "aware_score_distribution", "aware_score_step7_batch")
_ODD = (1, 63, 201)
_LABELS = 3001


def against_float64(device: torch.device, sizes: Sizes) -> list[dict[str, Any]]:
    """The largest errors of log-sum-exps and of sums of activations, for odd numbers of rows and labels."""
    found = []
    for dtype in DTYPES:
        labels = unit(_LABELS, sizes.dim, 1, device).to(dtype)
        for count in _ODD:
            z = unit(count, sizes.dim, 2, device)
            logits = SCALE * z.double() @ labels.double().T
            lse, bounds = logits.logsumexp(dim=1), segments(count)
            rows = (logits - lse[:, None]).exp()
            exact = torch.stack([rows[a:b].sum(dim=0) for a, b in bounds.tolist()])
            stored = kernels.exp_store(z, labels, SCALE)
            single = kernels.row_lse(z, labels, SCALE)
            fresh = kernels.segment_colsum(z, labels, SCALE, single, bounds.to(device))
            kept = kernels.segment_colsum_stored(stored, bounds.to(device))
            found.append(
                {
                    "dtype": str(dtype).removeprefix("torch."),
                    "n": count,
                    "row_lse": float((single - lse).abs().max()),
                    "exp_store": float((stored.lse - lse).abs().max()),
                    "segment_colsum": float((fresh - exact).abs().max()),
                    "segment_colsum_stored": float((kept - exact).abs().max()),
                }
            )
    return found


def golden_cases(device: torch.device, sizes: Sizes) -> list[dict[str, Any]]:
    """The largest difference from the published implementation's scores, for each case that is kept of it."""
    return [_golden(name, device) for name in _CASES]


def _golden(name: str, device: torch.device) -> dict[str, Any]:
    with np.load(GOLDEN / f"{name}.npz") as data:
        case: dict[str, Any] = {
            key: torch.from_numpy(value) if value.ndim else value.item() for key, value in data.items()
        }
    texts = torch.cat([case["id_text"], case["negative_text"]]).to(device)
    names = [f"label {i}" for i in range(len(texts))]
    bank = LabelBank(names, texts, num_id=len(case["id_text"]), logit_scale=case["logit_scale"])
    detector = TANL(
        bank,
        num_selected=case["num_negatives"],
        step=case["step"],
        gap=case["gap"],
        alpha=case["alpha"],
        capacity=case["queue_length"],
        seed=None,
        initial_ood=case["noise_features"].to(device),
    )
    apart = [
        float((1 - detector(images.to(device)).cpu() - expected).abs().max())
        for images, expected in zip(case["images"], case["scores"], strict=True)
    ]
    return {"case": name, "batches": len(apart), "largest_difference": max(apart)}


def surroundings(device: torch.device, sizes: Sizes) -> list[dict[str, Any]]:
    """How far scores move under what a process may set for all of torch; bits, but for products in lower precision."""
    around: dict[str, Callable[[], AbstractContextManager[object]]] = {
        "nothing": nullcontext,
        "autocast to bfloat16": lambda: torch.autocast(device.type, dtype=torch.bfloat16),
        "inference mode": torch.inference_mode,
        "products in high precision (TF32)": lambda: _set(
            torch.set_float32_matmul_precision, "high", torch.get_float32_matmul_precision()
        ),
        "default dtype float64": lambda: _set(
            torch.set_default_dtype, torch.float64, torch.get_default_dtype()
        ),
        "default device meta": lambda: torch.device("meta"),
    }
    found, expected = [], None
    for name, entered in around.items():
        detector, batches = detector_and_batches(device, sizes, torch.float16)
        with entered():
            scores: Tensor = detector(batches[0])
        expected = scores if expected is None else expected
        found.append({"set": name, "largest_difference": float((scores - expected).abs().max())})
    return found


class _set(AbstractContextManager[None]):  # noqa: N801
    """Sets something for all of torch within a block."""

    def __init__(self, function: Callable[[Any], object], value: Any, before: Any) -> None:
        self._function, self._value, self._before = function, value, before

    def __enter__(self) -> None:
        self._function(self._value)

    def __exit__(self, *error: object) -> None:
        self._function(self._before)
