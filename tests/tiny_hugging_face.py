"""Tiny randomly initialised models of transformers, saved as any other: model, image processor and tokenizer."""

from __future__ import annotations

import string
from pathlib import Path

import torch
import transformers
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

PAD, UNKNOWN, START, END = range(4)
_LAYERS = {"num_hidden_layers": 1, "num_attention_heads": 2, "hidden_size": 16, "intermediate_size": 32}
_IMAGES = {**_LAYERS, "patch_size": 8}
_SQUARE = {"height": 32, "width": 32}


def tiny_tokenizer(context: int) -> transformers.PreTrainedTokenizerBase:
    """A token a letter, with a start and an end."""
    letters = [*string.ascii_lowercase, *string.digits, *",.'"]
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *letters, *(f"##{letter}" for letter in letters)]
    vocabulary = {word: i for i, word in enumerate(words)}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", START), ("[SEP]", END)]
    )
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        model_max_length=context,
        model_input_names=["input_ids", "attention_mask"],
    )


def _words(context: int) -> dict[str, int]:
    ends = {"bos_token_id": START, "eos_token_id": END, "pad_token_id": PAD}
    return {**_LAYERS, **ends, "vocab_size": 90, "max_position_embeddings": context}


def tiny_model(kind: str) -> torch.nn.Module:
    """A model of one of `KINDS` with weights from seed 0."""
    t = transformers
    torch.manual_seed(0)
    if kind == "clip":
        config = t.CLIPConfig(
            text_config=_words(40), vision_config={**_IMAGES, "image_size": 32}, projection_dim=12
        )
        return t.CLIPModel(config)
    if kind == "siglip":
        return t.SiglipModel(
            t.SiglipConfig(text_config=_words(64), vision_config={**_IMAGES, "image_size": 32})
        )
    if kind == "siglip2":
        return t.Siglip2Model(
            t.Siglip2Config(text_config=_words(64), vision_config={**_IMAGES, "num_patches": 16})
        )
    if kind == "chinese_clip":
        config = t.ChineseCLIPConfig(
            text_config=_words(40), vision_config={**_IMAGES, "image_size": 32}, projection_dim=12
        )
        return t.ChineseCLIPModel(config)
    towers = {
        "image_size": 32,
        "width_coefficient": 0.25,
        "depth_coefficient": 0.3,
        "hidden_dim": 12,
        "kernel_sizes": [3, 3],
        "in_channels": [32, 16],
        "out_channels": [16, 24],
        "strides": [1, 2],
        "num_block_repeats": [1, 1],
        "expand_ratios": [1, 6],
    }
    config = t.AlignConfig(text_config=_words(40), vision_config=towers, projection_dim=8)
    return t.AlignModel(config)


def tiny_image_processor(kind: str) -> transformers.BaseImageProcessor:
    """The image processor of one of `KINDS`."""
    t = transformers
    if kind == "siglip":
        return t.SiglipImageProcessor(size=_SQUARE)
    if kind == "siglip2":
        return t.Siglip2ImageProcessor(patch_size=8, max_num_patches=20)
    if kind == "align":
        return t.EfficientNetImageProcessor(size=_SQUARE, do_center_crop=False)
    if kind == "chinese_clip":
        return t.ChineseCLIPImageProcessor(size=_SQUARE, crop_size=_SQUARE)
    return t.CLIPImageProcessor(size={"shortest_edge": 32}, crop_size=_SQUARE)


KINDS = ["clip", "siglip", "align", "chinese_clip"]
if hasattr(transformers, "Siglip2Model"):  # since transformers 4.49
    KINDS.append("siglip2")


def save_tiny(kind: str, folder: Path) -> Path:
    """Save one of `KINDS` in a folder of its own."""
    tiny_model(kind).save_pretrained(folder)
    tiny_image_processor(kind).save_pretrained(folder)
    tiny_tokenizer(64 if kind.startswith("siglip") else 40).save_pretrained(folder)
    return folder
