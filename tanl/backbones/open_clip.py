"""open_clip models by name, the embedded ``mini`` among them."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from . import mini
from .base import BackboneError
from .clip import ClipBackbone
from .folding import fold_batch_norms

_SCHEMES = ("hf-hub:", "local-dir:")
_OFFLINE = 'load_backbone("mini") needs no network'


def load_open_clip(name: str, *, device: torch.device | str = "cpu") -> ClipBackbone:
    """See `tanl.load_backbone`."""
    import open_clip

    if not isinstance(name, str) or not name:
        raise TypeError(f'a backbone is named by a string such as "mini" or "ViT-B-16/openai", not {name!r}')
    model_name, pretrained = _parts(name)
    try:
        with _quiet():
            model, _, preprocess = open_clip.create_model_and_transforms(
                model_name, pretrained=pretrained, device=device, force_custom_text=True
            )
            tokenizer = open_clip.get_tokenizer(model_name)
    # Whatever goes wrong here comes from a download, a file or a config, in many types from three libraries.
    except Exception as error:
        raise BackboneError(
            f"backbone {name!r} cannot be loaded: {_first_line(error)} ({_OFFLINE})"
        ) from error
    # Both make convolutions on a processor about twice as fast, and change embeddings by rounding only.
    fold_batch_norms(model.visual.eval())
    model.to(memory_format=torch.channels_last)
    backbone = _CausalTextBackbone if _is_causal(model) else ClipBackbone
    return backbone(model, preprocess, tokenizer, name=name)


class _CausalTextBackbone(ClipBackbone):
    """A model whose text embedding is read at the end-of-text token and looks back only.

    The padding behind that token cannot change it, so it is cut: names of a few words cost a fraction of a
    whole context.
    """

    def _lengths(self, tokens: Tensor) -> Tensor:
        # The end-of-text token has the largest number of all.
        return tokens.argmax(dim=1) + 1

    def _encode_tokens(self, tokens: Tensor) -> Tensor:
        return encode_tokens(self.model.text, tokens[:, : int(self._lengths(tokens).max())])


def encode_tokens(tower: Any, tokens: Tensor) -> Tensor:
    """A causal text tower's embeddings of rows ``[n, L]`` shorter than its context, ``[n, D]``.

    open_clip's mask has the size of the whole context, so it is cut for the call. What follows a row's
    end-of-text token cannot reach it: this is exact.
    """
    mask, length = tower.attn_mask, tokens.shape[1]
    tower.attn_mask = mask[:length, :length]
    try:
        embeddings: Tensor = tower(tokens)
    finally:
        tower.attn_mask = mask
    return embeddings


def _parts(name: str) -> tuple[str, str | None]:
    """open_clip's model name and pretrained tag, both known to it."""
    import open_clip

    if name == "mini":
        return f"local-dir:{mini.PATH}", None
    if name.startswith(_SCHEMES):
        return name, None
    architecture, _, tag = name.partition("/")
    known = open_clip.list_models()
    if architecture not in known:
        raise ValueError(
            f'no backbone {name!r}: there is "mini", and open_clip\'s "architecture/pretrained", '
            f"hf-hub:owner/model and local-dir:folder, and transformers' hf:owner/model and hf:folder; "
            f"architectures: {', '.join(known)}"
        )
    tags = open_clip.list_pretrained_tags_by_model(architecture)
    if tag not in tags and not Path(tag).is_file():
        raise ValueError(
            f"{architecture} has no pretrained weights {tag!r}; give {architecture}/TAG with a checkpoint file "
            f"or one of: {', '.join(tags) or '(none published)'}"
        )
    return architecture, tag


def _is_causal(model: torch.nn.Module) -> bool:
    """Whether padding behind the end-of-text token cannot change the embedding, so that it may be cut."""
    from open_clip.transformer import TextTransformer

    text = getattr(model, "text", None)
    return (
        isinstance(text, TextTransformer)
        and text.attn_mask is not None
        and text.cls_emb is None
        and text.pool_type == "argmax"
    )


@contextmanager
def _quiet() -> Iterator[None]:
    """Hold back other libraries' log lines: what matters of them is in the error."""
    before = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        yield
    finally:
        logging.disable(before)


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
