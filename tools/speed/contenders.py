"""Who takes part, built for one case: the bare product, the naive step, tanl with one of its backends."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypedDict

import torch
from torch import Tensor

from tanl.detectors import TANL
from tanl.labels.bank import LabelBank

from .config import ALPHA, GAP, LOGIT_SCALE, Case, Spec
from .data import Features
from .naive import NaiveTANL

ROWS_BY_LABELS = "rows x labels"
LABELS_BY_ROWS = "labels x rows"
ONEDNN = "labels x rows, oneDNN"
STEP = "step"

# What a worker times on every batch, by name.
Actions = dict[str, Callable[[Tensor], object]]


class UnavailableError(Exception):
    """This installation cannot run a contender; the message says why."""


class Bare:
    """The product of a batch with all labels and nothing else, either way round, into memory that is kept.

    On a CPU also as oneDNN makes it, which on AMD's is faster than MKL: a 1 x 1 convolution, whose result has no memory
    to be given.
    """

    confident = (0, 0)
    full = True

    def __init__(self, labels: Tensor, batch: int) -> None:
        self._labels = labels
        out = labels.new_empty(batch * len(labels))
        self._wide, self._tall = out.view(batch, len(labels)), out.view(len(labels), batch)

    @property
    def actions(self) -> Actions:
        """One for either way round, and oneDNN's."""
        ways: Actions = {
            ROWS_BY_LABELS: lambda z: torch.mm(z, self._labels.T, out=self._wide),
            LABELS_BY_ROWS: lambda z: torch.mm(self._labels, z.T, out=self._tall),
        }
        if self._labels.device.type == "cpu" and torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
            ways[ONEDNN] = lambda z: onednn_product(self._labels, z)
        return ways


def onednn_product(labels: Tensor, z: Tensor) -> Tensor:
    """``labels @ z.T`` of ``[N, D]`` and ``[B, D]`` by oneDNN, which torch takes for convolutions: ``[N, B]``."""
    image = labels[None, :, None].permute(
        0, 3, 1, 2
    )  # a picture of N x 1 pixels of D channels, as it lies in memory
    return torch.nn.functional.conv2d(image, z[:, :, None, None])[0, :, :, 0].T


class _Settings(TypedDict):
    num_selected: int
    step: int
    gap: float
    alpha: float
    capacity: int
    seed: int


def _settings(case: Case) -> _Settings:
    """What both steps take: a comparison is one of the same work."""
    return {
        "num_selected": case.selected,
        "step": case.step,
        "gap": GAP,
        "alpha": ALPHA,
        "capacity": case.capacity,
        "seed": 0,
    }


class Naive:
    """`NaiveTANL` on a stream."""

    def __init__(self, labels: Tensor, known_ood: Tensor, case: Case) -> None:
        self._step = NaiveTANL(
            labels,
            num_id=case.num_id,
            scale=LOGIT_SCALE,
            initial_ood=known_ood,
            **_settings(case),
        )

    @property
    def actions(self) -> Actions:
        """One step."""
        return {STEP: self._step}

    @property
    def confident(self) -> tuple[int, int]:
        """Confident ID and OOD images of the last batch."""
        return self._step.confident

    @property
    def full(self) -> bool:
        """Whether both rings are full, so that every push evicts."""
        return min(len(self._step.positive), len(self._step.negative)) == self._step.capacity


class Ours:
    """`tanl.TANL` on a stream, with one backend."""

    def __init__(self, bank: LabelBank, known_ood: Tensor, case: Case, backend: str) -> None:
        self._backend, self._batch = backend, case.batch
        with kernels_of(backend):
            self._detector = TANL(bank, initial_ood=known_ood, **_settings(case))

    @property
    def actions(self) -> Actions:
        """One call."""
        return {STEP: self._call}

    def _call(self, z: Tensor) -> Tensor:
        with kernels_of(self._backend):
            return self._detector(z)

    @property
    def confident(self) -> tuple[int, int]:
        """Confident ID and OOD images of the last batch."""
        threshold, latest = 1 - self._detector.threshold, self._detector.state.history[-self._batch :]
        is_id = latest > threshold + GAP * (1 - threshold)
        return int(is_id.sum()), int((latest < threshold - GAP * threshold).sum())

    @property
    def full(self) -> bool:
        """Whether both rings are full, so that every push evicts."""
        state = self._detector.state
        return min(len(state.positive), len(state.negative)) == self._detector.capacity


Contender = Bare | Naive | Ours


def data_of(spec: Spec, case: Case, features: Features, device: torch.device) -> Tensor | LabelBank:
    """What the contender works on: a bank for tanl, else the label matrix.

    Raises:
        UnavailableError: half precision is asked for, and this tanl's banks cannot keep it.
    """
    labels = features.labels().to(device)
    if spec.kind != "tanl":
        return labels.to(getattr(torch, spec.dtype))
    bank = LabelBank(
        [f"label {i}" for i in range(len(labels))],
        labels,
        num_id=case.num_id,
        logit_scale=LOGIT_SCALE,
    )
    if spec.dtype == "float32":
        return bank
    if "dtype" not in inspect.signature(bank.to).parameters:
        raise UnavailableError("this tanl keeps labels in float32 only")
    half: LabelBank = bank.to(dtype=torch.float16)
    return half


def build(spec: Spec, data: Tensor | LabelBank, known_ood: Tensor, case: Case) -> Contender:
    """The contender on its data."""
    if isinstance(data, LabelBank):
        return Ours(data, known_ood, case, spec.backend)
    if spec.kind == "bare":
        return Bare(data, case.batch)
    return Naive(data, known_ood, case)


@contextmanager
def kernels_of(backend: str) -> Iterator[None]:
    """Within the block, ``TANL_KERNELS`` names the backend."""
    before = os.environ.get("TANL_KERNELS")
    os.environ["TANL_KERNELS"] = backend
    try:
        yield
    finally:
        if before is None:
            del os.environ["TANL_KERNELS"]
        else:
            os.environ["TANL_KERNELS"] = before
