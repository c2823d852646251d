"""Trust in an answer: a small causal language model learns facts, and is asked for those and for others.

A fact is a name of two tokens and an answer of three, drawn at random, in one of two domains with tokens of their own.
Half of the facts of a domain are learnt, some often and some seldom; the others are never seen. Each is asked for
behind other filler than in training, the model answers greedily, and an answer is right if all three tokens are. The
scores are held against that: in the first domain, half of whose facts fit the probe and half of which test it, and in
the second, of which the probe sees nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import torch
from torch import Tensor, nn

from tanl.beyond.head_entropy import HeadEntropyProbe, head_entropy, rows_between, trust

from .images import Images, auroc

FACTS = 240  # of a domain
NAMES, ANSWERS, FILLERS = 40, 24, 20  # tokens: of a domain, of a domain, of both
FILLER, NAME, ANSWER = 6, 2, 3  # tokens of a sequence
STEPS, BATCH = 700, 128
_ASKED = 1 + FILLER + 1 + NAME  # a beginning, filler, the domain's token, the name
_VOCABULARY = 3 + FILLERS + 2 * (NAMES + ANSWERS)


@dataclass(frozen=True)
class Facts:
    """Of both domains: what they are asked by, what is right, and how often training shows each."""

    domain: Tensor  # [n]
    names: Tensor  # [n, 2]
    answers: Tensor  # [n, 3]
    weight: Tensor  # [n], 0 for what is never seen


def measured(loaded: Mapping[str, Images], seeds: Sequence[int]) -> list[dict[str, Any]]:
    """A line for each score and domain: AUROC of right against wrong answers, means over seeds."""
    found: dict[tuple[str, str], list[float]] = {}
    shares: dict[str, list[float]] = {"in": [], "out": []}
    for seed in seeds:
        facts = _facts(seed)
        model = _learnt(facts, seed)
        generator = torch.Generator().manual_seed(seed + 1000)
        questions = _questions(facts, torch.arange(len(facts.domain)), generator)
        answers, confidence = _answers(model, questions)
        right = (answers == facts.answers).all(dim=1)
        whole = torch.cat([questions, answers], dim=1)
        length = whole.shape[1]
        entropies = {
            "answer": _entropy(model, whole, _ASKED, length),
            "question": _entropy(model, whole, _ASKED - NAME - 1, _ASKED),
        }
        order = torch.randperm(FACTS, generator=generator)
        fitting, testing, other = order[: FACTS // 2], order[FACTS // 2 :], FACTS + torch.arange(FACTS)
        probes = {
            name: HeadEntropyProbe(seed=seed).fit(each[fitting], right[fitting].numpy())
            for name, each in entropies.items()
        }
        for domain, rows in (("in", testing), ("out", other)):
            shares[domain].append(100 * float(right[rows].float().mean()))
            scores = {"log-probability of the answer": confidence[rows]}
            for name, each in entropies.items():
                scores[f"trust, rows of the {name}"] = trust(each[rows])
                scores[f"probe, rows of the {name}"] = torch.from_numpy(probes[name].predict(each[rows]))
            for score, values in scores.items():
                found.setdefault((score, domain), []).append(auroc(values, right[rows]))
    return [
        {"score": score, "domain": domain, "right %": fmean(shares[domain]), "AUROC": fmean(values)}
        for (score, domain), values in found.items()
    ]


def _facts(seed: int) -> Facts:
    generator = torch.Generator().manual_seed(seed)
    pairs = [torch.randperm(NAMES * NAMES, generator=generator)[:FACTS] for _ in range(2)]
    names = torch.cat([torch.stack([each // NAMES, each % NAMES], dim=1) for each in pairs])
    domain = torch.arange(2).repeat_interleave(FACTS)
    answers = torch.randint(ANSWERS, (2 * FACTS, ANSWER), generator=generator)
    weight = torch.rand(2 * FACTS, generator=generator) ** 3 + 0.01
    weight[torch.rand(2 * FACTS, generator=generator) < 0.5] = 0
    first = 3 + FILLERS + domain[:, None] * (NAMES + ANSWERS)
    return Facts(domain, first + names, first + NAMES + answers, weight)


def _questions(facts: Facts, rows: Tensor, generator: torch.Generator) -> Tensor:
    filler = 3 + torch.randint(FILLERS, (len(rows), FILLER), generator=generator)
    start = torch.zeros(len(rows), 1, dtype=torch.int64)
    return torch.cat([start, filler, 1 + facts.domain[rows][:, None], facts.names[rows]], dim=1)


def _learnt(facts: Facts, seed: int) -> nn.Module:
    import transformers

    torch.manual_seed(seed)
    config_of: Any = transformers.LlamaConfig
    config = config_of(
        vocab_size=_VOCABULARY,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=3,
        num_attention_heads=4,
        attn_implementation="eager",
    )
    model: nn.Module = transformers.LlamaForCausalLM(config)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=0.01)
    generator = torch.Generator().manual_seed(seed + 500)
    for _ in range(STEPS):
        rows = torch.multinomial(facts.weight, BATCH, replacement=True, generator=generator)
        whole = torch.cat([_questions(facts, rows, generator), facts.answers[rows]], dim=1)
        logits = model(input_ids=whole[:, :-1], use_cache=False).logits[:, _ASKED - 1 :]
        loss = nn.functional.cross_entropy(logits.flatten(0, 1), facts.answers[rows].flatten())
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()
    return model.eval()


@torch.inference_mode()
def _answers(model: nn.Module, questions: Tensor) -> tuple[Tensor, Tensor]:
    """Greedy answers ``[n, 3]`` and their mean log-probability ``[n]``."""
    whole, confidence = questions, torch.zeros(len(questions))
    for _ in range(ANSWER):
        shares = model(input_ids=whole, use_cache=False).logits[:, -1].log_softmax(dim=1)
        best = shares.max(dim=1)
        confidence += best.values / ANSWER
        whole = torch.cat([whole, best.indices[:, None]], dim=1)
    return whole[:, questions.shape[1] :], confidence


def _entropy(model: nn.Module, whole: Tensor, start: int, end: int) -> Tensor:
    rows = rows_between(whole.shape[1], [start] * len(whole), [end] * len(whole))
    return head_entropy(model, rows, input_ids=whole)
