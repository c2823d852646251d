"""Embeddings of "The nice ADJECTIVE NOUN." for one adjective and many nouns: what they share is computed once.

No token looks ahead, so that the keys and values of the first four tokens are the same for every noun; and only the
last token is read, so that the last block is made for it alone. Up to rounding these are `encode_texts`'s embeddings,
at a third of the work.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import linear, normalize, scaled_dot_product_attention

from tanl.backbones.clip import ClipBackbone
from tanl.labels.prompts import TEMPLATES

_SHARED = 4  # start, "the", "nice" and the adjective


class PairEncoder:
    """See the module.

    Args:
        backbone: one of open_clip's with a causal text tower, such as the embedded one.
        adjectives: single tokens.
        nouns: single tokens.
    """

    def __init__(self, backbone: ClipBackbone, adjectives: tuple[str, ...], nouns: tuple[str, ...]) -> None:
        self._tower: Any = backbone.model.text
        self._blocks = list(self._tower.transformer.resblocks)
        prompts = [TEMPLATES["noun"].replace("{}", word) for word in (*adjectives, *nouns)]
        tokens = backbone.tokenizer(prompts)
        self._adjectives = tokens[: len(adjectives), :_SHARED]
        self._nouns = tokens[len(adjectives) :, _SHARED - 1 : _SHARED + 2]  # the noun, the full stop, the end

    @torch.no_grad()
    def __call__(self, adjective: int, nouns: Tensor) -> Tensor:
        """Unit embeddings ``[n, D]`` float32."""
        first = self._embedded(self._adjectives[adjective : adjective + 1], 0)
        rest = self._embedded(self._nouns[nouns], _SHARED)
        for number, block in enumerate(self._blocks):
            last = number == len(self._blocks) - 1
            own, keys, values = self._projected(block, first)
            first = self._through(block, first, own, keys, values)
            queries, more_keys, more_values = self._projected(block, rest)
            n = len(rest)
            keys = torch.cat([keys.expand(n, -1, -1, -1), more_keys], dim=2)
            values = torch.cat([values.expand(n, -1, -1, -1), more_values], dim=2)
            if last:
                rest, queries = rest[:, -1:], queries[:, :, -1:]
            rest = self._through(block, rest, queries, keys, values)
        read = self._tower.ln_final(rest[:, 0])
        projection = self._tower.text_projection
        features = projection(read) if isinstance(projection, torch.nn.Linear) else read @ projection
        return normalize(features.float(), dim=1)

    def _embedded(self, tokens: Tensor, place: int) -> Tensor:
        dtype = self._tower.transformer.get_cast_dtype()
        places = self._tower.positional_embedding[place : place + tokens.shape[1]]
        embedded: Tensor = self._tower.token_embedding(tokens).to(dtype) + places.to(dtype)
        return embedded

    @staticmethod
    def _projected(block: Any, x: Tensor) -> tuple[Tensor, ...]:
        """Queries, keys and values ``[n, heads, L, d]``."""
        n, length, _ = x.shape
        every = linear(block.ln_1(x), block.attn.in_proj_weight, block.attn.in_proj_bias)
        heads = every.view(n, length, 3, block.attn.num_heads, -1).permute(2, 0, 3, 1, 4)
        return heads[0], heads[1], heads[2]

    @staticmethod
    def _through(block: Any, x: Tensor, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """A block's output for the last tokens of ``keys``, those of the queries."""
        asked, there = queries.shape[2], keys.shape[2]
        mask = torch.ones(asked, there, dtype=torch.bool).tril(there - asked)
        seen = scaled_dot_product_attention(queries, keys, values, attn_mask=mask)
        x = x + block.attn.out_proj(seen.transpose(1, 2).reshape(x.shape))
        through: Tensor = x + block.mlp(block.ln_2(x))
        return through
