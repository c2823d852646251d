"""The labels nearest to an embedding on a GPU, through faiss: exact, in shards that its limits allow, merged."""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor

from .nearest import Neighbours, nearest

Search = Callable[[Tensor, Tensor, int], tuple[Tensor, Tensor]]
"""Queries ``[B, D]`` and labels ``[n, D]``, float32, and k to the k nearest labels' cosines and rows ``[B, k]``."""

LIMIT = 2048
"""Labels that faiss finds for a query on a GPU, at most; so many of each shard are candidates."""

_MARGIN = 64  # candidates beyond k: faiss may multiply as TF32, which swaps near ones
_SHARD = (
    1 << 20
)  # labels that are searched at once: float16 ones become float32 for it, 2 GB of them for D = 512
_RESCORED = 1 << 26  # components of labels that are gathered at once, to score candidates exactly


def nearest_in_shards(z: Tensor, labels: Tensor, k: int, search: Search) -> Neighbours:
    """As `nearest`, by faiss on the GPU that the tensors are on. Cosines are exact; so is what is found, but for labels
    that are nearer to each other than a product in TF32 tells.

    Args:
        z: ``[B, D]`` float32.
        labels: ``[N, D]`` float32 or float16, on z's device.
        k: how many, at most the labels there are. Beyond faiss's 2048 the labels are searched in as many shards more.
        search: finds labels of one shard, at most 2048 a query.
    """
    count = len(labels)
    wanted = min(k + _MARGIN, count)
    shards = max(-(-count // _SHARD), -(-2 * wanted // LIMIT) if wanted > LIMIT else 1)
    size = -(-count // shards)
    cosines, rows, cut = [], [], []
    for start in range(0, count, size):
        shard = labels[start : start + size].float()
        most = min(wanted, LIMIT, len(shard))
        found, places = search(z, shard, most)
        cosines.append(found)
        rows.append(places + start)
        if most < min(wanted, len(shard)):  # there may be more among the nearest
            cut.append(found[:, -1])
    every, places = torch.cat(cosines, dim=1), torch.cat(rows, dim=1)
    chosen = every.topk(wanted, dim=1)
    places = places.gather(1, chosen.indices).sort(dim=1).values  # equal cosines keep the order of their rows
    exact, order = _scored(z, labels, places).sort(dim=1, descending=True, stable=True)
    result = Neighbours(exact[:, :k].contiguous(), places.gather(1, order)[:, :k].contiguous())
    if cut:
        doubtful = (torch.stack(cut).amax(dim=0) >= chosen.values[:, -1]).nonzero()[:, 0]
        if len(doubtful):
            again = nearest(z[doubtful], labels, k)
            result.cosines[doubtful], result.rows[doubtful] = again.cosines, again.rows
    return result


def _scored(z: Tensor, labels: Tensor, rows: Tensor) -> Tensor:
    """Cosines of each query with labels of its own ``rows [B, n]``, ``[B, n]`` float32."""
    at_once = max(1, _RESCORED // (rows.shape[1] * labels.shape[1]))
    parts = zip(torch.split(z, at_once), torch.split(rows, at_once), strict=True)
    return torch.cat([(labels[row].float() * query[:, None]).sum(dim=2) for query, row in parts])


def best_search(device: torch.device) -> Search | None:
    """What `nearest_in_shards` takes for labels on this device; None where torch's own search has to do."""
    return faiss_search(device) if device.type == "cuda" and gpu_faiss() is not None else None


def gpu_faiss() -> Any | None:
    """The faiss module, if it is built for GPUs; None without one."""
    try:
        import faiss
    except ImportError:
        return None
    return faiss if hasattr(faiss, "StandardGpuResources") and hasattr(faiss, "bfKnn") else None


def faiss_search(device: torch.device) -> Search:
    """faiss's search on a GPU, on torch's stream of the caller. One thread at a time: its memory is one for the device.

    Raises:
        ImportError: there is no faiss for GPUs.
    """
    faiss = gpu_faiss()
    if faiss is None:
        raise ImportError("labels on a GPU are indexed by a faiss for GPUs: pip install 'tanl[faiss-gpu]'")
    number = torch.cuda.current_device() if device.index is None else device.index
    lock = lock_of(number)

    def search(z: Tensor, labels: Tensor, k: int) -> tuple[Tensor, Tensor]:
        z, labels = z.contiguous(), labels.contiguous()
        cosines = torch.empty(len(z), k, dtype=torch.float32, device=z.device)
        rows = torch.empty(len(z), k, dtype=torch.int64, device=z.device)
        parameters = faiss.GpuDistanceParams()
        parameters.metric, parameters.k, parameters.dims = faiss.METRIC_INNER_PRODUCT, k, z.shape[1]
        parameters.vectors, parameters.numVectors = (
            faiss.cast_integer_to_float_ptr(labels.data_ptr()),
            len(labels),
        )
        parameters.queries, parameters.numQueries = faiss.cast_integer_to_float_ptr(z.data_ptr()), len(z)
        parameters.outDistances = faiss.cast_integer_to_float_ptr(cosines.data_ptr())
        parameters.outIndices = faiss.cast_integer_to_idx_t_ptr(rows.data_ptr())
        parameters.device = number
        with lock:
            resources = resources_of(number)
            stream = torch.cuda.current_stream(z.device).cuda_stream
            resources.setDefaultStream(number, faiss.cast_integer_to_cudastream_t(stream))
            faiss.bfKnn(resources, parameters)
            torch.cuda.current_stream(z.device).synchronize()  # its memory is the next thread's
        return cosines, rows

    return search


_making = threading.Lock()
_locks: dict[int, threading.Lock] = {}


def lock_of(number: int) -> threading.Lock:
    """Who holds it may search on this GPU."""
    with _making:
        return _locks.setdefault(number, threading.Lock())


@cache
def resources_of(number: int) -> Any:
    """faiss's memory and handles on a GPU, made once; its caller holds the GPU's lock."""
    faiss = gpu_faiss()
    assert faiss is not None, "there is a search only where there is faiss"
    return faiss.StandardGpuResources()
