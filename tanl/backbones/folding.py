"""Batch normalisations folded into the convolutions before them: the same function in fewer passes over memory."""

from __future__ import annotations

import torch
from torch import fx, nn


class _Tracer(fx.Tracer):
    """Follows the data flow between convolutions and normalisations without looking into them."""

    def is_leaf_module(self, module: nn.Module, name: str) -> bool:
        return isinstance(module, nn.Conv2d | nn.BatchNorm2d) or super().is_leaf_module(module, name)


@torch.no_grad()
def fold_batch_norms(model: nn.Module) -> int:
    """Fold, in place, each ``BatchNorm2d`` whose only input is a ``Conv2d`` that nothing else reads.

    Evaluation mode only: the running statistics become part of the weights. A subclass that ends in an
    activation ``act`` (timm's) is replaced by that activation. A model whose flow depends on its data cannot
    be traced and is left as it is.

    Returns:
        How many were folded.
    """
    if not any(isinstance(module, nn.BatchNorm2d) for module in model.modules()):
        return 0
    try:
        graph = _Tracer().trace(model)
    # Tracing foreign code fails in as many ways as there is code; the model works without folding.
    except Exception:
        return 0
    modules = dict(model.named_modules())
    folded = 0
    for node in graph.nodes:
        norm = modules.get(str(node.target)) if node.op == "call_module" else None
        if not isinstance(norm, nn.BatchNorm2d):
            continue
        source = node.args[0]
        if not isinstance(source, fx.Node) or source.op != "call_module" or len(source.users) != 1:
            continue
        convolution = modules[str(source.target)]
        # A layer that is called twice is no longer itself after the first fold.
        calls = sum(other.target == source.target for other in graph.nodes)
        if not isinstance(convolution, nn.Conv2d) or calls != 1 or norm.running_mean is None:
            continue
        _fold(convolution, norm)
        parent, _, name = str(node.target).rpartition(".")
        setattr(model.get_submodule(parent), name, getattr(norm, "act", nn.Identity()))
        folded += 1
    return folded


def _fold(convolution: nn.Conv2d, norm: nn.BatchNorm2d) -> None:
    assert norm.running_mean is not None and norm.running_var is not None
    factor = torch.rsqrt(norm.running_var.double() + norm.eps)
    shift = -norm.running_mean.double() * factor
    if norm.affine:
        factor, shift = factor * norm.weight.double(), shift * norm.weight.double() + norm.bias.double()
    if convolution.bias is not None:
        shift = shift + convolution.bias.double() * factor
    weight = convolution.weight
    weight.copy_((weight.double() * factor[:, None, None, None]).to(weight.dtype))
    convolution.bias = nn.Parameter(shift.to(weight.dtype), requires_grad=False)
