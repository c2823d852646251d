"""open_clip models by name, the embedded ones among them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from ..io.text import did_you_mean, first_of, nearest_names
from . import mini, mini_photo
from .clip import ClipBackbone, uncompiled
from .folding import fold_batch_norms
from .loading import cannot_load, check_precision, home_spelled_out, quiet

_NAMED = 5  # architectures that a message names
_HUB, _FOLDER = "hf-hub:", "local-dir:"

EMBEDDED = {"mini": mini.PATH, "mini-photo": mini_photo.PATH}
"""The models that ship with tanl, as open_clip folders."""


def load_open_clip(name: str, *, device: torch.device | str = "cpu", precision: str = "fp32") -> ClipBackbone:
    """See `tanl.load_backbone`."""
    import open_clip

    if not isinstance(name, str) or not name:
        raise TypeError(f'a backbone is named by a string such as "mini" or "ViT-B-16/openai", not {name!r}')
    check_precision(precision)
    model_name, pretrained = _parts(name)
    try:
        with quiet():
            model, _, preprocess = open_clip.create_model_and_transforms(
                model_name,
                pretrained=pretrained,
                precision=_open_clip_precision(model_name, precision),
                device=device,
                force_custom_text=True,
                force_quick_gelu=_is_quick_gelu(model_name, pretrained),
                # Without it, a folder or a hub that lacks the weights gives a random model and a line in the log.
                require_pretrained=True,
            )
            tokenizer = open_clip.get_tokenizer(model_name)
    # Whatever goes wrong here comes from a download, a file or a config, in many types from three libraries.
    except Exception as error:
        raise cannot_load(name, error) from error
    # Both make convolutions on a processor about twice as fast, and change embeddings by rounding only.
    fold_batch_norms(model.visual.eval())
    model.to(memory_format=torch.channels_last)
    backbone = _OpenClipBackbone if _causal_tower(model) is None else _CausalOpenClipBackbone
    return backbone(model, preprocess, tokenizer, name=name)


def wrap_open_clip(
    model: nn.Module, preprocess: Callable[[Image.Image], Tensor], tokenizer: Callable[[list[str]], Tensor]
) -> ClipBackbone:
    """A loaded CLIP-like model as a backbone that cuts the padding of texts where it is one of open_clip's."""
    backbone = ClipBackbone if _causal_tower(uncompiled(model)) is None else _CausalTextBackbone
    return backbone(model, preprocess, tokenizer)


class _CausalTextBackbone(ClipBackbone):
    """A model whose text embedding is read at the end-of-text token and looks back only.

    The padding behind that token cannot change it, so it is cut: names of a few words cost a fraction of a
    whole context.
    """

    def _lengths(self, tokens: Tensor) -> Tensor:
        # The end-of-text token has the largest number of all.
        return tokens.argmax(dim=1) + 1

    def _encode_tokens(self, tokens: Tensor) -> Tensor:
        tower = _causal_tower(uncompiled(self.model))
        # The model may have changed since: a tower that was compiled, or replaced, answers itself.
        if tower is None:
            return super()._encode_tokens(tokens)
        return encode_tokens(tower, tokens[:, : int(self._lengths(tokens).max())])


class _OpenClipBackbone(ClipBackbone):
    """A model that was loaded by its name, which its tokenizer follows from."""

    def _tokenizer_state(self) -> bytes:
        return b""


class _CausalOpenClipBackbone(_CausalTextBackbone, _OpenClipBackbone):
    """Both."""


def encode_tokens(tower: Any, tokens: Tensor) -> Tensor:
    """A causal text tower's embeddings of rows ``[n, L]`` shorter than its context, ``[n, D]``.

    What follows a row's end-of-text token cannot reach it: this is exact. The tower's own ``forward`` takes whole
    contexts only, as its mask has their size; cutting the mask in place would reach other threads' calls.
    """
    length, dtype = tokens.shape[1], tower.transformer.get_cast_dtype()
    x = tower.token_embedding(tokens).to(dtype) + tower.positional_embedding[:length].to(dtype)
    x = tower.transformer(x, attn_mask=tower.attn_mask[:length, :length])
    # One token a row goes on, so only that is normalised and projected.
    x = tower.ln_final(x[torch.arange(len(x), dtype=torch.int64, device=x.device), tokens.argmax(dim=1)])
    projection = tower.text_projection
    embeddings: Tensor = projection(x) if isinstance(projection, nn.Linear) else x @ projection
    return embeddings


def _parts(name: str) -> tuple[str, str | None]:
    """open_clip's model name and pretrained tag, both known to it."""
    import open_clip

    if name in EMBEDDED:
        return f"{_FOLDER}{EMBEDDED[name]}", None
    if name.startswith(_FOLDER):
        return f"{_FOLDER}{home_spelled_out(name.removeprefix(_FOLDER))}", None
    if name.startswith(_HUB):
        return name, None
    architecture, _, tag = name.partition("/")
    known = open_clip.list_models()
    if architecture not in known:
        # OpenAI's weights come first; where no weights are named, an architecture's first ones stand for it.
        pairs = sorted(open_clip.list_pretrained(), key=lambda pair: pair[1] != "openai")
        if not nearest_names(tag, {each for _, each in pairs}, 1):
            pairs = list({pair[0]: pair for pair in reversed(pairs)}.values())
        named = [*EMBEDDED, *map("/".join, pairs)]
        like = nearest_names(architecture, known, _NAMED, likeness=0)
        raise ValueError(
            f'no backbone {name!r}: there are "mini" and "mini-photo", and open_clip\'s "architecture/pretrained", '
            f"hf-hub:owner/model and local-dir:folder, and transformers' hf:owner/model and hf:folder; "
            f"architectures: {first_of([*like, *sorted({*known} - {*like})], len(like))} (open_clip.list_models())"
            f"{did_you_mean(name, named)}"
        )
    tag = home_spelled_out(tag) if tag else tag
    tags = open_clip.list_pretrained_tags_by_model(architecture)
    if tag not in tags and not Path(tag).is_file():
        raise ValueError(
            f"{architecture} has no pretrained weights {tag!r}; give {architecture}/TAG with a checkpoint file "
            f"or one of: {', '.join(tags) or '(none published)'}"
            f"{did_you_mean(name, [f'{architecture}/{each}' for each in tags])}"
        )
    return architecture, tag


def _causal_tower(model: nn.Module) -> Any:
    """What embeds texts, if padding behind the end-of-text token cannot change that, so that it may be cut; else None.

    Only open_clip's own classes: one derived from them may embed texts in another way.
    """
    if not type(model).__module__.startswith("open_clip."):
        return None
    from open_clip.model import CLIP, CustomTextCLIP
    from open_clip.transformer import TextTransformer

    if "encode_text" in vars(model):
        return None
    # A CLIP has the parts of its text tower itself, a CustomTextCLIP has them in one.
    tower: Any = model if type(model) is CLIP else getattr(model, "text", None)
    if type(model) is CLIP:
        pooling, class_token = tower.text_pool_type, None
    elif type(model) is CustomTextCLIP and type(tower) is TextTransformer:
        pooling, class_token = tower.pool_type, tower.cls_emb
    else:
        return None
    is_causal = tower.attn_mask is not None and class_token is None and pooling == "argmax"
    return tower if is_causal and tower.text_projection is not None else None


def _is_quick_gelu(model_name: str, pretrained: str | None) -> bool:
    """Whether published weights were trained with QuickGELU.

    open_clip takes the activation from the architecture, where ``ViT-B-16`` has another one than OpenAI's
    weights of that name, and only warns.
    """
    import open_clip

    if pretrained is None:
        return False
    return bool((open_clip.get_pretrained_cfg(model_name, pretrained) or {}).get("quick_gelu", False))


def _open_clip_precision(model_name: str, precision: str) -> str:
    """What open_clip calls it. CoCa is cast whole: parameters that would stay in float32 meet others in it."""
    import open_clip

    if precision != "fp32" and "multimodal_cfg" in (open_clip.get_model_config(model_name) or {}):
        return f"pure_{precision}"
    return precision
