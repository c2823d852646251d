"""Which images to keep, or to label next, when there is a budget: the rare ones all, the usual ones thinned out.

After the data curator of CheXficient (Wang et al. 2026, arXiv 2602.22843), which keeps what lies far from prototypes
while a model is trained. Here it is a single selection from embeddings that are there; nothing is trained.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import normalize

from ..checks import Embeddings, unit_embeddings, whole_number
from ..functional import shuffled
from ..kernels.surroundings import undisturbed

_TEMPERATURE = 0.05  # of the assignment to prototypes, as cosines
_BALANCING = 3  # Sinkhorn's rounds
_AT_ONCE = 1024  # rows of a step


@dataclass(frozen=True)
class Curation:
    """What `curate` chose; indices are rows of the embeddings, in order.

    Attributes:
        kept: ``[n]`` the chosen rows: the tail, and of the centre what the budget has room for.
        tail: ``[t]`` those of them that are rare.
        outliers: ``[o]`` rows so far from everything that they may be no data at all: not kept, to be looked at.
        distances: ``[N]`` one minus the cosine to the nearest prototype.
        prototypes: ``[P, D]`` unit rows.
    """

    kept: Tensor
    tail: Tensor
    outliers: Tensor
    distances: Tensor
    prototypes: Tensor


@undisturbed
def curate(
    embeddings: Embeddings,
    budget: float,
    *,
    prototypes: int | None = None,
    tail: float = 0.85,
    outliers: float = 0.95,
    momentum: float = 0.9,
    seed: int = 0,
) -> Curation:
    r"""Choose rows so that what is rare stays and what is frequent is thinned out.

    Prototypes start as k-means' centres and move with batches of rows, each row shared out among them by Sinkhorn's
    balanced assignment $Q$: $p_k \leftarrow m\,p_k + (1 - m)\,\sum_i Q_{ik} z_i / \sum_i Q_{ik}$, then to unit norm.
    With $d_i = 1 - \max_k z_i \cdot p_k$, rows beyond the quantile ``outliers`` of $d$ are set aside, rows between
    ``tail`` and it are kept (the farthest of them, if the budget has no room for all), and the rest of the budget is
    filled from the others by farthest-point sampling.

    Args:
        embeddings: ``[N, D]`` unit rows, N >= 2.
        budget: how many rows to keep, or, below 1, the share of them.
        prototypes: how many; None is the square root of N.
        tail: quantile of the distances from which rows count as rare.
        outliers: quantile beyond which they are set aside.
        momentum: m.
        seed: of k-means and of the batches' order.

    Raises:
        TypeError, ValueError: unusable embeddings or numbers; the message names them.
        ImportError: faiss is not installed.
    """
    z = unit_embeddings(embeddings, "embeddings")
    wanted = _budget(budget, len(z))
    count = round(len(z) ** 0.5) if prototypes is None else whole_number(prototypes, "prototypes", at_least=1)
    if count > len(z):
        raise ValueError(f"prototypes is {count}, but there are only {len(z)} embeddings")
    for name, value in (("tail", tail), ("outliers", outliers), ("momentum", momentum)):
        if not 0 <= value <= 1:
            raise ValueError(f"{name} is {value!r}; it must lie between 0 and 1")
    if tail > outliers:
        raise ValueError(f"tail is {tail!r} and outliers {outliers!r}: the tail begins before the outliers")
    centres = _moved(z, _k_means(z, count, seed), momentum, seed)
    distances = 1 - (z @ centres.T).amax(dim=1)
    limits = torch.quantile(
        distances.double(), torch.tensor([tail, outliers], dtype=torch.float64, device=z.device)
    )
    far = distances.double() > limits[1]
    rare = ~far & (distances.double() > limits[0])
    rows = torch.arange(len(z), dtype=torch.int64, device=z.device)
    chosen = rows[rare]
    if len(chosen) > wanted:
        order = distances[chosen].sort(descending=True, stable=True).indices
        chosen = chosen[order[:wanted]].sort().values
    usual = rows[~far & ~rare]
    filled = farthest_points(z, usual, min(wanted - len(chosen), len(usual)), near=chosen)
    return Curation(torch.cat([chosen, filled]).sort().values, chosen, rows[far], distances, centres)


def farthest_points(z: Tensor, candidates: Tensor, count: int, *, near: Tensor | None = None) -> Tensor:
    """Choose candidates one by one, each the farthest from all that are chosen (Gonzalez 1985).

    Args:
        z: ``[N, D]`` unit rows.
        candidates: ``[n]`` rows to choose from.
        count: how many, at most n.
        near: ``[m]`` rows that count as chosen already; without any, the candidate nearest to their mean is the first.

    Returns:
        ``[count]`` rows, in the order in which they were chosen.
    """
    if count == 0:
        return candidates[:0]
    points = z[candidates]
    if near is None or not len(near):
        first = int((points @ points.mean(dim=0)).argmax())
        chosen, closest = [first], points @ points[first]
    else:
        chosen, closest = [], torch.full_like(points[:, 0], -2.0)
        for part in torch.split(near, _AT_ONCE):
            closest = torch.maximum(closest, (points @ z[part].T).amax(dim=1))
    while len(chosen) < count:
        closest[chosen] = 3.0  # nearer than anything: not again
        nearest = int(closest.argmin())
        chosen.append(nearest)
        closest = torch.maximum(closest, points @ points[nearest])
    return candidates[chosen]


def label_next(embeddings: Embeddings, is_ood: Tensor, budget: int, *, seed: int = 0) -> Tensor:
    """Which images a person should label next: half of the budget for flagged ones, half for the others.

    Among the flagged, points far from one another, so that each kind of outlier is seen once before any is seen twice;
    among the others what `curate` keeps, the rare ones first. A side that has too few gives its places to the other.

    Args:
        embeddings: ``[N, D]`` unit rows.
        is_ood: ``[N]`` what was flagged, of bools.
        budget: how many, at most N.
        seed: as `curate` takes it.

    Returns:
        ``[budget]`` rows, the flagged ones first.

    Raises:
        TypeError, ValueError: unusable embeddings, verdicts of another length, or a budget larger than N.
        ImportError: faiss is not installed.
    """
    z = unit_embeddings(embeddings, "embeddings")
    if is_ood.dtype != torch.bool or is_ood.shape != (len(z),):
        raise ValueError(
            f"is_ood must be {len(z)} bools, one for each embedding, not {is_ood.dtype} {list(is_ood.shape)}"
        )
    wanted = whole_number(budget, "budget", at_least=1)
    if wanted > len(z):
        raise ValueError(f"budget is {wanted}, but there are only {len(z)} embeddings")
    flagged, others = is_ood.nonzero()[:, 0], (~is_ood).nonzero()[:, 0]
    of_others = min(wanted - min(wanted // 2, len(flagged)), len(others))
    first = farthest_points(z, flagged, wanted - of_others)
    if of_others < 2 or len(others) < 2:
        return torch.cat([first, others[:of_others]])
    # Nothing is set aside here: what is far is what a person should see.
    kept = curate(z[others], of_others, outliers=1.0, seed=seed)
    rare_first = torch.cat([kept.tail, kept.kept[~torch.isin(kept.kept, kept.tail)]])
    return torch.cat([first, others[rare_first]])


def _budget(budget: float, total: int) -> int:
    if total < 2:
        raise ValueError("one embedding leaves nothing to choose: give two or more")
    if isinstance(budget, bool) or not 0 < budget <= total or (budget >= 1 and budget != int(budget)):
        raise ValueError(
            f"budget is {budget!r}: give a share below 1, or a whole number of at most {total} rows"
        )
    return max(1, round(budget * total)) if budget < 1 else int(budget)


def _k_means(z: Tensor, count: int, seed: int) -> Tensor:
    try:
        import faiss
    except ImportError as error:
        raise ImportError("curate starts from faiss's k-means: pip install 'tanl[faiss]'") from error
    means = faiss.Kmeans(
        z.shape[1], count, niter=10, seed=seed, spherical=True, min_points_per_centroid=1, verbose=False
    )
    means.train(z.cpu().numpy())
    return normalize(torch.from_numpy(means.centroids).to(z.device), dim=1)


def _moved(z: Tensor, centres: Tensor, momentum: float, seed: int) -> Tensor:
    order = shuffled(len(z), seed).to(z.device)
    for part in torch.split(order, _AT_ONCE):
        shares = _balanced(z[part] @ centres.T)
        means = (shares.T @ z[part]) / shares.sum(dim=0)[:, None].clamp_min(1e-12)
        centres = normalize(momentum * centres + (1 - momentum) * means, dim=1)
    return centres


def _balanced(cosines: Tensor) -> Tensor:
    """Sinkhorn's assignment ``[B, P]`` of rows to prototypes, each of which gets the same share of all rows."""
    log = cosines / _TEMPERATURE
    for _ in range(_BALANCING):
        log = log - log.logsumexp(dim=0, keepdim=True)
        log = log - log.logsumexp(dim=1, keepdim=True)
    return log.exp()
