"""Shared data: the golden cases and small synthetic banks."""

from __future__ import annotations

import contextlib
import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

# Several processes run the tests: each, and what it starts, computes with one thread. Before torch is imported.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import open_clip
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn.functional import normalize

import tanl

OWN_GOLDEN = Path(__file__).with_name("golden")
SHARED_GOLDEN = Path(__file__).parents[2] / "shared" / "golden"


def golden(name: str) -> dict[str, Any]:
    """One golden case: tensors and numbers."""
    folder = SHARED_GOLDEN if SHARED_GOLDEN.is_dir() else OWN_GOLDEN
    with np.load(folder / f"{name}.npz") as data:
        return {key: torch.from_numpy(value) if value.ndim else value.item() for key, value in data.items()}


def golden_bank(case: dict[str, Any]) -> tanl.LabelBank:
    """The labels of a golden case."""
    count = len(case["id_text"]) + len(case["negative_text"])
    return tanl.LabelBank(
        [f"label {i}" for i in range(count)],
        torch.cat([case["id_text"], case["negative_text"]]),
        num_id=len(case["id_text"]),
        logit_scale=case["logit_scale"],
    )


def golden_tanl(case: dict[str, Any], bank: tanl.LabelBank) -> tanl.TANL:
    """TANL with the settings and the noise of a golden case, on the bank's device."""
    return tanl.TANL(
        bank,
        num_selected=case["num_negatives"],
        step=case["step"],
        gap=case["gap"],
        alpha=case["alpha"],
        capacity=case["queue_length"],
        seed=None,
        initial_ood=case["noise_features"].to(bank.device),
    )


@contextlib.contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    """As another thread or library may leave it."""
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


def unit(*shape: int, seed: int = 0) -> Tensor:
    """Random unit rows."""
    return normalize(torch.randn(*shape, generator=torch.Generator().manual_seed(seed)), dim=-1)


@pytest.fixture
def bank() -> tanl.LabelBank:
    """7 ID labels and 103 negatives in 16 dimensions."""
    names = [f"class {i}" for i in range(7)] + [f"word {i}" for i in range(103)]
    return tanl.LabelBank(names, unit(110, 16, seed=1), num_id=7, logit_scale=20.0)


@pytest.fixture
def stream() -> list[Tensor]:
    """Ten batches of 1 to 40 embeddings in 16 dimensions, a third of them near an ID label."""
    labels = unit(110, 16, seed=1)
    generator = torch.Generator().manual_seed(2)
    batches = []
    for size in (1, 5, 40, 17, 16, 33, 2, 40, 40, 9):
        nearest = torch.randint(0, 110, (size,), generator=generator)
        nearest[: size // 3] %= 7
        noise = 0.15 * torch.randn(size, 16, generator=generator)
        batches.append(normalize(labels[nearest] + noise, dim=1))
    return batches


def with_signals() -> None:
    """Heed signals that whoever runs the tests ignores: nohup does so, and a shell for what runs in the background.

    For ``subprocess.Popen(..., preexec_fn=with_signals)``.
    """
    for name in ("SIGINT", "SIGHUP", "SIGTERM"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_DFL)


TINY_CLIP = {
    "model_cfg": {
        "embed_dim": 24,
        "vision_cfg": {"image_size": 32, "layers": 1, "width": 32, "head_width": 16, "patch_size": 16},
        "text_cfg": {"context_length": 20, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
    },
    "preprocess_cfg": {"mean": [0.5] * 3, "std": [0.5] * 3, "size": [32, 32]},
}


@pytest.fixture(scope="session")
def tiny_clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a randomly initialised CLIP, as open_clip saves one."""
    folder = tmp_path_factory.mktemp("tiny_clip")
    (folder / "open_clip_config.json").write_text(json.dumps(TINY_CLIP))
    torch.manual_seed(0)
    model = open_clip.model.CLIP(
        TINY_CLIP["model_cfg"]["embed_dim"],
        TINY_CLIP["model_cfg"]["vision_cfg"],
        TINY_CLIP["model_cfg"]["text_cfg"],
    )
    save_file(model.state_dict(), folder / "open_clip_model.safetensors")
    return folder


@pytest.fixture(scope="session")
def tiny_backbone(tiny_clip: Path) -> tanl.Backbone:
    """The tiny CLIP, loaded as any other."""
    return tanl.load_backbone(f"local-dir:{tiny_clip}")


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A tiny random model of each of open_clip's families, saved."""
    pytest.importorskip("transformers", reason='needs transformers: pip install "tanl[hf]"')
    from tiny_open_clip import FAMILIES, save_tiny

    root = tmp_path_factory.mktemp("open_clip")
    return {family: save_tiny(family, root / family) for family in FAMILIES}
