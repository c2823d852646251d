"""The test-time protocol: ID and OOD images in one stream, judged batch by batch, the state new for each OOD set."""

from __future__ import annotations

from typing import Literal, NamedTuple, get_args

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from tanl.detectors import Detector

Order = Literal["shuffled", "id-first", "ood-first"]
ORDERS: tuple[str, ...] = get_args(Order)


class StreamScores(NamedTuple):
    """OOD scores of one stream, back in the order of the embeddings that went in: ``[N_id]`` and ``[N_ood]``."""

    id: npt.NDArray[np.float64]
    ood: npt.NDArray[np.float64]


def stream_order(num_id: int, num_ood: int, order: Order, seed: int) -> Tensor:
    """The order in which images come, as indices into ID images followed by OOD images, ``[N_id + N_ood]``.

    ``shuffled`` mixes all of them; ``id-first`` and ``ood-first`` shuffle either part and put one before the
    other, which is what a method that learns from its stream fears most.
    """
    generator = torch.Generator().manual_seed(seed)
    if order == "shuffled":
        return torch.randperm(num_id + num_ood, generator=generator)
    if order not in ORDERS:
        raise ValueError(f"no order {order!r}; there are {', '.join(ORDERS)}")
    id_part = torch.randperm(num_id, generator=generator)
    ood_part = num_id + torch.randperm(num_ood, generator=generator)
    return torch.cat([id_part, ood_part] if order == "id-first" else [ood_part, id_part])


def run_stream(
    detector: Detector, id_images: Tensor, ood_images: Tensor, *, order: Order, seed: int, batch_size: int
) -> StreamScores:
    """Reset the detector and let it judge one merged stream.

    Args:
        detector: what is measured; its state afterwards is that of the end of the stream.
        id_images: embeddings ``[N_id, D]``.
        ood_images: embeddings ``[N_ood, D]``.
        order: see :func:`stream_order`.
        seed: of the order.
        batch_size: images that are judged at a time; the last batch may be smaller.

    Raises:
        ValueError: no ID or no OOD images, an unknown order, a batch size below 1.
    """
    if not len(id_images) or not len(ood_images):
        raise ValueError(
            f"a stream needs ID and OOD images; there are {len(id_images)} and {len(ood_images)}"
        )
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, not {batch_size}")
    images = torch.cat([id_images, ood_images])
    positions = stream_order(len(id_images), len(ood_images), order, seed)
    detector.reset()
    scores = torch.empty(len(images), dtype=torch.float64)
    for start in range(0, len(positions), batch_size):
        batch = positions[start : start + batch_size]
        scores[batch] = detector(images[batch.to(images.device)]).double().cpu()
    values = scores.numpy()
    return StreamScores(values[: len(id_images)], values[len(id_images) :])
