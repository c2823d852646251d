"""Tiny randomly initialised models of open_clip's families, saved as open_clip saves one."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import open_clip
import torch
from safetensors.torch import save_file
from timm.models import register_model
from timm.models.eva import Eva
from timm.models.fastvit import FastVit, RepConditionalPosEnc
from timm.models.vision_transformer import VisionTransformer

SIZE = 32
EMBED = 24

_SMALL = {"img_size": SIZE, "patch_size": 8, "embed_dim": 32, "depth": 1, "num_heads": 2}


def _head(options: dict[str, Any]) -> dict[str, Any]:
    """What of timm's options is the tower's; the others are of downloads and caches."""
    return {key: options[key] for key in ("num_classes", "global_pool") if key in options}


@register_model
def tanl_tiny_siglip(pretrained: bool = False, **options: Any) -> torch.nn.Module:
    """vit_base_patch16_siglip_224, small."""
    return VisionTransformer(**_SMALL, class_token=False, **_head(options))


@register_model
def tanl_tiny_eva02(pretrained: bool = False, **options: Any) -> torch.nn.Module:
    """eva02_base_patch16_clip_224, small."""
    return Eva(
        **_SMALL,
        qkv_fused=False,
        mlp_ratio=8 / 3,
        swiglu_mlp=True,
        scale_mlp=True,
        scale_attn_inner=True,
        use_rot_pos_emb=True,
        ref_feat_shape=(4, 4),
        **_head(options),
    )


@register_model
def tanl_tiny_fastvit(pretrained: bool = False, **options: Any) -> torch.nn.Module:
    """fastvit_mci0, small: the branches are not merged, as in published MobileCLIP weights."""
    return FastVit(
        layers=(1, 1, 1, 1),
        embed_dims=(8, 16, 32, 64),
        mlp_ratios=(3, 3, 3, 3),
        se_downsamples=(False, False, True, True),
        pos_embs=(None, None, None, partial(RepConditionalPosEnc, spatial_shape=(7, 7))),
        token_mixers=("repmixer", "repmixer", "repmixer", "attention"),
        lkc_use_act=True,
        **_head(options),
    )


def _timm(name: str, pool: str, projection: str | None) -> dict[str, Any]:
    return {"timm_model_name": name, "timm_pool": pool, "timm_proj": projection, "image_size": SIZE}


_VISION = {"image_size": SIZE, "layers": 1, "width": 32, "head_width": 16, "patch_size": 8}
_TEXT = {"context_length": 21, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 2}
_LETTERS = {**_TEXT, "vocab_size": 90, "hf_tokenizer_name": "of/the-hub"}

# What their configurations in open_clip have beside sizes.
FAMILIES: dict[str, dict[str, Any]] = {
    "clip": {"vision_cfg": _VISION, "text_cfg": _TEXT},
    "clip_quickgelu": {"vision_cfg": _VISION, "text_cfg": _TEXT, "quick_gelu": True},
    "resnet": {"vision_cfg": {"image_size": SIZE, "layers": [1, 1, 1, 1], "width": 8}, "text_cfg": _TEXT},
    "siglip": {
        "embed_dim": 32,  # the image tower's own, which has no projection
        "init_logit_bias": -10,
        "custom_text": True,
        "vision_cfg": {**_timm("tanl_tiny_siglip", "map", "none")},
        "text_cfg": {
            **_LETTERS,
            "tokenizer_kwargs": {"clean": "canonicalize"},
            "no_causal_mask": True,
            "proj_bias": True,
            "pool_type": "last",
            "norm_kwargs": {"eps": 1e-6},
        },
    },
    "eva02": {"custom_text": True, "vision_cfg": _timm("tanl_tiny_eva02", "token", None), "text_cfg": _TEXT},
    "coca": {
        "custom_text": True,
        "vision_cfg": {**_VISION, "attentional_pool": True, "attn_pooler_heads": 2, "output_tokens": True},
        "text_cfg": {**_TEXT, "embed_cls": True, "output_tokens": True},
        "multimodal_cfg": {**_TEXT, "attn_pooler_heads": 2},
    },
    "mobileclip_s0": {
        "custom_text": True,
        "vision_cfg": _timm("tanl_tiny_fastvit", "avg", None),
        "text_cfg": {**_TEXT, "no_causal_mask": True},
    },
    "mobileclip_b": {
        "custom_text": True,
        "vision_cfg": _timm("tanl_tiny_fastvit", "avg", None),
        "text_cfg": _TEXT,
    },
    "clipa": {
        "vision_cfg": {**_VISION, "no_ln_pre": True, "pool_type": "avg", "final_ln_after_pool": True},
        "text_cfg": {
            **_LETTERS,
            "tokenizer_kwargs": {"strip_sep_token": True},
            "pool_type": "last",
            "no_causal_mask": True,
        },
    },
    "worldwide": {"vision_cfg": _VISION, "text_cfg": {**_LETTERS, "pool_type": "eos", "eos_id": 3}},
}

# Texts whose padding is cut: those that look back only and are read at the largest token.
CAUSAL = ("clip", "clip_quickgelu", "resnet", "eva02", "mobileclip_b")

PREPROCESSING = {"mean": [0.4, 0.5, 0.6], "std": [0.2, 0.3, 0.4], "resize_mode": "squash"}


def config(family: str) -> dict[str, Any]:
    """Its ``model_cfg``; open_clip writes into what it is given."""
    copy: dict[str, Any] = json.loads(json.dumps({"embed_dim": EMBED, **FAMILIES[family]}))
    return copy


def tiny_model(family: str, **options: Any) -> torch.nn.Module:
    """A model of one of `FAMILIES`: all weights and running statistics random, from seed 0."""
    settings = {**config(family), **options}
    custom = settings.pop("custom_text", False)
    make: Callable[..., torch.nn.Module] = open_clip.CustomTextCLIP if custom else open_clip.CLIP
    if "multimodal_cfg" in settings:
        make = open_clip.CoCa
    torch.manual_seed(0)
    model = make(**settings)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.05 * torch.randn_like(parameter)
        model.logit_scale.fill_(3.0)
        for part in model.modules():
            if isinstance(part, torch.nn.Conv2d):  # timm starts some with so little that images vanish
                part.weight.normal_(0, part.weight[0].numel() ** -0.5)
            if isinstance(part, torch.nn.BatchNorm2d):
                part.running_mean.normal_(0, 0.1)
                part.running_var.uniform_(0.5, 2)
    return model.eval()


def save_tiny(family: str, folder: Path) -> Path:
    """A folder as ``local-dir:`` and the hub have them."""
    folder.mkdir(parents=True, exist_ok=True)
    about = {"model_cfg": config(family), "preprocess_cfg": {**PREPROCESSING, "size": [SIZE, SIZE]}}
    (folder / "open_clip_config.json").write_text(json.dumps(about))
    save_file(tiny_model(family).state_dict(), folder / "open_clip_model.safetensors")
    if "hf_tokenizer_name" in FAMILIES[family]["text_cfg"]:
        from tiny_hugging_face import tiny_tokenizer

        tiny_tokenizer(_TEXT["context_length"]).save_pretrained(folder)
    return folder
