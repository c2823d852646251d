"""The text tower: teach a small causal transformer to reproduce a sentence-embedding teacher.

A text's target is the teacher's embedding of the bare text, whatever template surrounds it, so the tower learns to look
through templates. The loss is the cosine distance to the target plus a relational term: each text's distribution of
similarities over the batch must match the teacher's.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import open_clip  # type: ignore[import-untyped]
import torch
import torch.nn.functional as F
from torch import Tensor

from tanl.backbones.causal_text import encode_tokens

from .teacher import TEMPLATES, TextCorpus

RELATION_TEMPERATURE = 0.05
_CHUNKS = 4
_HELD_OUT = 2000


@dataclass(frozen=True)
class DistilSettings:
    """Steps and rates of the distillation. The shares say how a batch divides over the sources."""

    steps: int
    batch_size: int = 512
    references: int = 1024
    learning_rate: float = 2e-3
    table_learning_rate: float = 3e-3
    warmup: int = 100
    caption_share: float = 0.35
    gloss_share: float = 0.05
    template_share: float = 0.35
    cosine_weight: float = 4.0
    seed: int = 0


class Tokens:
    """Token ids of texts, with and without templates, put together without running the tokenizer again."""

    def __init__(
        self, texts: Sequence[str], tokenizer: open_clip.SimpleTokenizer, context_length: int
    ) -> None:
        self._texts = [tokenizer.encode(tokenizer.clean_fn(text)) for text in texts]
        self._templates = [
            tuple(tokenizer.encode(part.lower()) for part in template.split("{}")) for template in TEMPLATES
        ]
        self._start, self._end = tokenizer.sot_token_id, tokenizer.eot_token_id
        self._context_length = context_length

    def row(self, index: int, template: int | None) -> list[int]:
        before, after = ([], []) if template is None else self._templates[template]
        body = [*before, *self._texts[index], *after][: self._context_length - 2]
        return [self._start, *body, self._end]


def pad_rows(rows: Sequence[Sequence[int]]) -> Tensor:
    """Token ids [N, longest row]; 0 fills."""
    tokens = torch.zeros(len(rows), max(map(len, rows)), dtype=torch.long)
    for position, row in enumerate(rows):
        tokens[position, : len(row)] = torch.tensor(row)
    return tokens


def encode_rows(
    tower: open_clip.transformer.TextTransformer, rows: Sequence[Sequence[int]], chunks: int = _CHUNKS
) -> Tensor:
    """Unit-norm embeddings [N, D] of token rows, encoded in chunks of similar length."""
    order = sorted(range(len(rows)), key=lambda index: len(rows[index]))
    size = math.ceil(len(order) / chunks)
    parts = [
        encode_tokens(tower, pad_rows([rows[index] for index in order[start : start + size]]))
        for start in range(0, len(order), size)
    ]
    inverse = torch.empty(len(order), dtype=torch.long)
    inverse[torch.tensor(order)] = torch.arange(len(order))
    return F.normalize(torch.cat(parts).float()[inverse], dim=-1)


def initialise_table(
    tower: open_clip.transformer.TextTransformer, pieces: npt.NDArray[np.float16], seed: int
) -> None:
    """Start the token table from the leading principal components of the teacher's view of each token.

    The output projection starts as the way back from those components.
    """
    embeddings = torch.from_numpy(pieces).float()
    centred = embeddings - embeddings.mean(0)
    torch.manual_seed(seed)
    _, _, basis = torch.pca_lowrank(centred, tower.width, center=False)
    components = centred @ basis
    with torch.no_grad():
        tower.token_embedding.weight[: len(pieces)] = components * (0.02 / components.std())
        tower.text_projection.copy_(basis.T)


def learning_rate_factor(step: int, steps: int, warmup: int) -> float:
    """Linear warm-up, then half a cosine down to one hundredth."""
    return min(1.0, (step + 1) / warmup) * (0.5 * (1 + math.cos(math.pi * step / steps)) + 0.01)


def relation_loss(student: Tensor, target: Tensor, reference: Tensor) -> Tensor:
    """KL from the teacher's distribution of similarities over ``reference`` to the student's."""
    return F.kl_div(
        (student @ reference.T / RELATION_TEMPERATURE).log_softmax(-1),
        (target @ reference.T / RELATION_TEMPERATURE).softmax(-1),
        reduction="batchmean",
    )


def sample_texts(
    rng: np.random.Generator, corpus: TextCorpus, lemmas: npt.NDArray[np.int64], settings: DistilSettings
) -> Iterator[tuple[int, int | None]]:
    """Draw (index in the corpus, template or None) for one batch. Glosses are never put into a template."""
    captions, glosses = len(corpus.captions), len(corpus.glosses)
    first_gloss = captions + len(corpus.lemmas)
    for draw, use_template in rng.random((settings.batch_size, 2)):
        if draw < settings.gloss_share:
            yield first_gloss + int(rng.integers(glosses)), None
            continue
        is_caption = draw < settings.gloss_share + settings.caption_share
        index = int(rng.integers(captions)) if is_caption else int(lemmas[rng.integers(len(lemmas))])
        template = int(rng.integers(len(TEMPLATES))) if use_template < settings.template_share else None
        yield index, template


def distil(
    tower: open_clip.transformer.TextTransformer,
    corpus: TextCorpus,
    targets: npt.NDArray[np.float16],
    tokens: Tokens,
    settings: DistilSettings,
    extra_loss: Callable[[np.random.Generator], Tensor] | None = None,
) -> None:
    """Train ``tower`` in place towards ``targets``, the embeddings of ``corpus.all()``; ``extra_loss`` is added."""
    rng = np.random.default_rng(settings.seed)
    goals = F.normalize(torch.from_numpy(targets).float(), dim=-1)
    lemmas = len(corpus.captions) + rng.permutation(len(corpus.lemmas))
    held_out, lemmas = lemmas[:_HELD_OUT], lemmas[_HELD_OUT:]
    table = tower.token_embedding.weight
    rest = [parameter for parameter in tower.parameters() if parameter is not table]
    rates = (settings.learning_rate, settings.table_learning_rate)
    optimizer = torch.optim.AdamW(
        [{"params": rest, "weight_decay": 0.02}, {"params": [table], "weight_decay": 0.0}],
        lr=rates[0],
        betas=(0.9, 0.98),
        fused=True,
    )
    started = time.perf_counter()
    tower.train()
    for step in range(settings.steps):
        factor = learning_rate_factor(step, settings.steps, settings.warmup)
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate * factor
        drawn = list(sample_texts(rng, corpus, lemmas, settings))
        with torch.autocast("cpu", torch.bfloat16):
            student = encode_rows(tower, [tokens.row(index, template) for index, template in drawn])
        goal = goals[[index for index, _ in drawn]]
        cosine = (student * goal).sum(-1).mean()
        others = goals[rng.integers(len(goals), size=settings.references)]
        relation = relation_loss(student, goal, torch.cat([goal, others]))
        loss = settings.cosine_weight * (1 - cosine) + relation
        extra = extra_loss(rng) if extra_loss is not None else torch.zeros(())
        loss = loss + extra
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        if step % 50 == 49:
            print(
                f"distil {step + 1}/{settings.steps} {time.perf_counter() - started:.0f} s "
                f"cosine {cosine.item():.3f} relation {relation.item():.3f} extra {extra.item():.3f}",
                flush=True,
            )
    tower.eval()
    for name, template in (("plain", None), ("the nice", 0)):
        agreement, top1 = _agreement(tower, tokens, goals, held_out.tolist(), template)
        print(f"held-out lemmas, {name}: cosine {agreement:.3f}, retrieval top-1 {top1:.3f}", flush=True)


@torch.no_grad()
def _agreement(
    tower: open_clip.transformer.TextTransformer,
    tokens: Tokens,
    goals: Tensor,
    indices: list[int],
    template: int | None,
) -> tuple[float, float]:
    student = encode_rows(tower, [tokens.row(index, template) for index in indices])
    goal = goals[indices]
    hits = (student @ goal.T).argmax(-1) == torch.arange(len(indices))
    return (student * goal).sum(-1).mean().item(), hits.float().mean().item()
