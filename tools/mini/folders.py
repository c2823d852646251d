"""Models as ordinary open_clip folders."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import open_clip  # type: ignore[import-untyped]
import safetensors.torch


def new_model(config: Mapping[str, Any]) -> open_clip.CustomTextCLIP:
    """The untrained model of a ``model_cfg``."""
    return open_clip.CustomTextCLIP(**{key: value for key, value in config.items() if key != "custom_text"})


def write_folder(
    folder: Path,
    model: open_clip.CustomTextCLIP,
    model_config: Mapping[str, Any],
    preprocess_config: Mapping[str, Any],
) -> None:
    """The model's weights in half precision, and its config."""
    folder.mkdir(exist_ok=True)
    halves = {
        name: (value.half() if value.is_floating_point() else value).contiguous()
        for name, value in model.state_dict().items()
    }
    weights = folder / "open_clip_model.safetensors"
    safetensors.torch.save_file(halves, weights)
    weights.chmod(0o644)
    config = {"model_cfg": model_config, "preprocess_cfg": preprocess_config}
    (folder / "open_clip_config.json").write_text(json.dumps(config, indent=2) + "\n")
