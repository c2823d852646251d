r"""Can an answer of a generative model be trusted? Its attention says: spread-out heads go with wrong answers.

Head Entropy (Ostmeier et al. 2026, arXiv 2602.13699): per head the 2-Rényi entropy of its attention, as features of a
sparse logistic regression. This takes the bounded form $1 - \sum_j A_{tj}^2$ of each row, which is one minus the
exponential of minus that entropy: 0 where a row looks at one place, $1 - 1/k$ where it looks at k alike.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

if TYPE_CHECKING:
    from sklearn.pipeline import Pipeline


def head_entropy(model: nn.Module, rows: Tensor, **inputs: Any) -> Tensor:
    """Per layer and head the mean of ``1 - sum A^2`` over chosen rows of the attention, in one forward pass.

    The layers are looked at one by one while the pass runs: no more than one layer's ``[B, H, T, T]`` is held at once.

    Args:
        model: a causal language model of transformers, or a vision-language model that holds one, loaded with
            ``attn_implementation="eager"``: the others give no attention.
        rows: ``[B, T]`` bools: the positions whose attention counts, each sequence at least one. Answer tokens for an
            answer that is there (a position attends when it predicts the next token); the question's for a judgement
            before the answer; the image's, as an option, for vision-language models (`rows_between`, `rows_of_token`).
        inputs: what the model is called with: ``input_ids``, ``attention_mask``, ``pixel_values`` and so on. Padding
            may be on either side; it must be outside of ``rows``.

    Returns:
        ``[B, L, H]`` float32 on the CPU.

    Raises:
        ValueError: rows that fit nothing, no attention layer, or a model that gives no attention.
    """
    if rows.dtype != torch.bool or rows.ndim != 2:
        raise ValueError(f"rows must be bools [B, T], not {rows.dtype} {list(rows.shape)}")
    if not bool(rows.any(dim=1).all()):
        empty = int((~rows.any(dim=1)).nonzero()[0])
        raise ValueError(f"rows chooses no position of sequence {empty}; choose at least one of each")
    found: list[Tensor] = []
    with _watched(model, rows, found), torch.inference_mode():
        model(**inputs, use_cache=False)
    return torch.stack(found, dim=1)


def trust(entropy: Tensor) -> Tensor:
    """A score without training, higher for answers to be trusted: minus the mean over layers and heads ``[B]``."""
    return -entropy.flatten(1).mean(dim=1)


def rows_between(length: int, start: Sequence[int], end: Sequence[int]) -> Tensor:
    """``[B, T]``: of each sequence the positions from its ``start`` up to, without it, its ``end``.

    Raises:
        ValueError: an empty or impossible range.
    """
    for number, (first, last) in enumerate(zip(start, end, strict=True)):
        if not 0 <= first < last <= length:
            raise ValueError(f"sequence {number}: positions {first} to {last} are no part of {length}")
    place = torch.arange(length, dtype=torch.int64, device="cpu")
    bounds = torch.tensor([list(start), list(end)], dtype=torch.int64, device="cpu")[:, :, None]
    return (place >= bounds[0]) & (place < bounds[1])


def rows_of_token(input_ids: Tensor, token: int) -> Tensor:
    """``[B, T]``: where a token stands, such as the one that holds a place for the image."""
    return input_ids == token


@contextmanager
def _watched(model: nn.Module, rows: Tensor, found: list[Tensor]) -> Iterator[None]:
    """Takes each layer's features as it runs, and lets its attention go."""

    def take(module: nn.Module, _: Any, output: Any) -> Any:
        attention = output[1] if isinstance(output, tuple) and len(output) > 1 else None
        if attention is None:
            raise ValueError(
                f"{type(module).__name__} gives no attention: load the model with attn_implementation='eager'"
            )
        if attention.shape[0] != rows.shape[0] or attention.shape[2] != rows.shape[1]:
            raise ValueError(
                f"rows is {list(rows.shape)}, but the model attends over {[attention.shape[0], attention.shape[2]]}; "
                "give as many positions as its language model sees, image tokens included"
            )
        entropy = 1 - attention.float().square().sum(dim=-1)  # [B, H, T]
        chosen = rows.to(entropy.device)[:, None]
        found.append(((entropy * chosen).sum(dim=2) / chosen.sum(dim=2)).cpu())
        return (output[0], None, *output[2:])

    layers = [each for each in model.modules() if _is_causal_attention(each)]
    if not layers:
        raise ValueError(
            f"{type(model).__name__} has no attention layer of a causal language model of transformers"
        )
    hooks = [each.register_forward_hook(take) for each in layers]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _is_causal_attention(module: nn.Module) -> bool:
    # transformers numbers the attention layers of language models, for their caches; image towers' have no number.
    return type(module).__name__.endswith("Attention") and isinstance(getattr(module, "layer_idx", None), int)


@dataclass
class HeadEntropyProbe:
    """Sparse logistic regression on the heads' entropies: the probability that an answer is right.

    Features are brought to mean 0 and deviation 1; the penalty is L1, so that few heads count.

    Args:
        strength: inverse of the penalty's weight, scikit-learn's C.
        seed: of the solver.
    """

    strength: float = 1.0
    seed: int = 0
    _fitted: Pipeline | None = None

    def fit(self, entropy: Tensor, is_right: NDArray[np.bool_] | Tensor) -> HeadEntropyProbe:
        """Learn from answers that are known to be right or wrong.

        Args:
            entropy: ``[n, L, H]``, of `head_entropy`.
            is_right: ``[n]`` bools, of either kind at least one.

        Raises:
            ValueError: other shapes, or only one kind.
            ImportError: scikit-learn is not installed.
        """
        try:
            from sklearn.linear_model import LogisticRegression
            from sklearn.pipeline import make_pipeline
            from sklearn.preprocessing import StandardScaler
        except ImportError as error:
            raise ImportError("the probe needs scikit-learn: pip install 'tanl[beyond]'") from error
        right = np.asarray(is_right)
        if right.dtype != np.bool_ or right.shape != (len(entropy),):
            raise ValueError(f"is_right must be {len(entropy)} bools, not {right.dtype} {list(right.shape)}")
        if right.all() or not right.any():
            raise ValueError(
                "all answers are of one kind: right and wrong ones are needed to tell them apart"
            )
        # Since scikit-learn 1.8 a ratio says which penalty it is.
        penalty = {"l1_ratio": 1.0} if LogisticRegression().penalty == "deprecated" else {"penalty": "l1"}
        fitted = make_pipeline(
            StandardScaler(),
            LogisticRegression(**penalty, C=self.strength, solver="liblinear", random_state=self.seed),
        )
        self._fitted = fitted.fit(entropy.flatten(1).double().numpy(), right)
        return self

    def predict(self, entropy: Tensor) -> NDArray[np.float64]:
        """``[n]`` the probability that each answer is right.

        Raises:
            RuntimeError: nothing was fitted yet.
        """
        if self._fitted is None:
            raise RuntimeError("fit the probe first, on answers that are known to be right or wrong")
        shares: NDArray[np.float64] = self._fitted.predict_proba(entropy.flatten(1).double().numpy())[:, 1]
        return shares

    @property
    def weights(self) -> NDArray[np.float64]:
        """``[L * H]`` the weight of each head; most are zero."""
        if self._fitted is None:
            raise RuntimeError("fit the probe first, on answers that are known to be right or wrong")
        weights: NDArray[np.float64] = self._fitted[-1].coef_[0]
        return weights
