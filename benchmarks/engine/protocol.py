"""The test-time protocol: ID and OOD images in one stream, judged batch by batch, the state new for each OOD set."""

from __future__ import annotations

from typing import Literal, NamedTuple, get_args

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from tanl.detectors import Detector
from tanl.io.text import did_you_mean

Order = Literal["shuffled", "id-first", "ood-first", "drift", "blocks"]
ORDERS: tuple[str, ...] = get_args(Order)

BLOCKS = 10


class StreamScores(NamedTuple):
    """OOD scores of one stream, back in the order of the embeddings that went in: ``[N_id]`` and ``[N_ood]``."""

    id: npt.NDArray[np.float64]
    ood: npt.NDArray[np.float64]


def stream_order(num_id: int, num_ood: int, order: Order, seed: int) -> Tensor:
    """The order in which images come, as indices into ID images followed by OOD images, ``[N_id + N_ood]``.

    Every image comes once, and every order shuffles ID and OOD images by the seed:

    - ``shuffled`` mixes all of them.
    - ``id-first`` and ``ood-first`` put one part before the other, which is what a method that learns from its stream
      fears most.
    - ``drift``: OOD images become more and more. Each OOD image gets a time in [0, 1] whose density is ``2 t``, each ID
      image one whose density is ``2 (1 - t)``, and the images come by their times. At time t the odds of an OOD
      image are ``(N_ood / N_id) t / (1 - t)``: with as many of either kind, its share is t.
    - ``blocks``: ten blocks, of ID and OOD images in turn, ID first; a kind's blocks differ by one image at most.
    """
    if order not in ORDERS:
        raise ValueError(f"no order {order!r}; there are {', '.join(ORDERS)}{did_you_mean(order, ORDERS)}")
    generator = torch.Generator().manual_seed(seed)
    if order == "shuffled":
        return torch.randperm(num_id + num_ood, generator=generator)
    if order == "drift":
        # A time with density 2 t is the square root of a uniform number.
        times = torch.rand(num_id + num_ood, generator=generator, dtype=torch.float64).sqrt()
        times[:num_id] = 1 - times[:num_id]
        return times.sort(stable=True).indices
    id_part = torch.randperm(num_id, generator=generator)
    ood_part = num_id + torch.randperm(num_ood, generator=generator)
    if order == "blocks":
        parts = [part.tensor_split(BLOCKS // 2) for part in (id_part, ood_part)]
        return torch.cat([block for pair in zip(*parts, strict=True) for block in pair])
    return torch.cat([id_part, ood_part] if order == "id-first" else [ood_part, id_part])


def run_stream(
    detector: Detector,
    id_images: Tensor,
    ood_images: Tensor,
    *,
    order: Order,
    seed: int,
    batch_size: int,
    reset: bool = True,
) -> StreamScores:
    """Reset the detector and let it judge one merged stream, in the order that `stream_order` gives.

    Args:
        detector: what is measured; its state afterwards is that of the end of the stream.
        id_images: embeddings ``[N_id, D]``.
        ood_images: embeddings ``[N_ood, D]``.
        order: see `stream_order`.
        seed: of the order.
        batch_size: images that are judged at a time; the last batch may be smaller.
        reset: False goes on with the state of the stream before.

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
    if reset:
        detector.reset()
    scores = torch.empty(len(images), dtype=torch.float64)
    for start in range(0, len(positions), batch_size):
        batch = positions[start : start + batch_size]
        scores[batch] = detector(images[batch.to(images.device)]).double().cpu()
    values = scores.numpy()
    return StreamScores(values[: len(id_images)], values[len(id_images) :])
