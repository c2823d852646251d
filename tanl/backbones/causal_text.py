"""Text towers that look back only, whose padding is cut: names of a few words cost a fraction of a whole context.

A text's embedding is read at its end-of-text token. Where no token looks ahead, what follows that one cannot change it:
the cut is exact. The towers' own ``forward`` takes whole contexts only, as its mask has their size.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn


def causal_encoder(model: nn.Module) -> Callable[[Tensor], Tensor] | None:
    """What embeds token rows ``[n, L]`` of any length L that holds their end-of-text tokens; None for other towers.

    Only of open_clip's own classes and of OpenAI's ``clip``: one derived from them may embed texts in another way.
    """
    module, name = type(model).__module__, type(model).__name__
    if "encode_text" in vars(model):
        return None
    if (module, name) == ("clip.model", "CLIP"):
        return partial(_encode_openai, model)
    if not module.startswith("open_clip."):
        return None
    from open_clip.model import CLIP, CustomTextCLIP
    from open_clip.transformer import TextTransformer

    # A CLIP has the parts of its text tower itself, a CustomTextCLIP has them in one.
    tower: Any = model if type(model) is CLIP else getattr(model, "text", None)
    if type(model) is CLIP:
        pooling, class_token = tower.text_pool_type, None
    elif type(model) is CustomTextCLIP and type(tower) is TextTransformer:
        pooling, class_token = tower.pool_type, tower.cls_emb
    else:
        return None
    is_causal = tower.attn_mask is not None and class_token is None and pooling == "argmax"
    return partial(encode_tokens, tower) if is_causal and tower.text_projection is not None else None


def lengths(tokens: Tensor) -> Tensor:
    """How many tokens of each row count, ``[n, L] -> [n]``: the end-of-text token has the largest number of all."""
    return tokens.argmax(dim=1) + 1


def encode_tokens(tower: Any, tokens: Tensor) -> Tensor:
    """The embeddings ``[n, D]`` of rows ``[n, L]`` by one of open_clip's causal text towers.

    The mask is not cut in place, which would reach other threads' calls.
    """
    length, dtype = tokens.shape[1], tower.transformer.get_cast_dtype()
    x = tower.token_embedding(tokens).to(dtype) + tower.positional_embedding[:length].to(dtype)
    x = tower.transformer(x, attn_mask=tower.attn_mask[:length, :length])
    # One token a row goes on, so only that is normalised and projected.
    x = tower.ln_final(_at_the_end(x, tokens))
    projection = tower.text_projection
    embeddings: Tensor = projection(x) if isinstance(projection, nn.Linear) else x @ projection
    return embeddings


def _encode_openai(model: Any, tokens: Tensor) -> Tensor:
    """The same by OpenAI's ``clip``, whose blocks hold the mask of the whole context."""
    length, dtype = tokens.shape[1], model.dtype
    x = model.token_embedding(tokens).to(dtype) + model.positional_embedding[:length].to(dtype)
    x = x.transpose(0, 1)
    for block in model.transformer.resblocks:
        mask = block.attn_mask[:length, :length].to(device=x.device, dtype=x.dtype)
        h = block.ln_1(x)
        x = x + block.attn(h, h, h, need_weights=False, attn_mask=mask)[0]
        x = x + block.mlp(block.ln_2(x))
    x = model.ln_final(_at_the_end(x.transpose(0, 1), tokens)).to(dtype)
    embeddings: Tensor = x @ model.text_projection
    return embeddings


def _at_the_end(x: Tensor, tokens: Tensor) -> Tensor:
    """The end-of-text token of each row, ``[n, L, W] -> [n, W]``."""
    return x[torch.arange(len(x), dtype=torch.int64, device=x.device), tokens.argmax(dim=1)]
