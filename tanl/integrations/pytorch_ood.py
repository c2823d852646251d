"""Detectors for pytorch-ood: its metrics, benchmarks and loops take them as its own."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

from ..checks import whole_number
from ..detectors import Detector
from ..functional import shuffled
from ..io.options import BATCH_SIZE


def as_pytorch_ood(
    detector: Detector,
    encoder: Callable[[Tensor], Tensor] | None = None,
    *,
    whole_sets: bool | None = None,
    batch_size: int = BATCH_SIZE,
    seed: int | None = 0,
) -> Any:
    """A detector of pytorch-ood (a ``FeaturesDetector``) that scores with one of tanl::

        encoder = backbone.encode_images
        benchmark.evaluate(tanl.as_pytorch_ood(tanl.TANL(bank), encoder, whole_sets=True))

    The sign is the same, higher = more OOD. The verbs are pytorch-ood's: ``predict(x)`` and ``predict_features(z)``
    give scores, as the call of a `Detector` does, and commit to its stream; decisions are left to
    ``detector.predict``. Nothing is fitted: ``fit`` and ``fit_features`` do nothing. Features of any norm are
    normalised, and moved to the device of the detector's bank, where the scores come out.

    A detector that learns from its stream must be told what a call is, as pytorch-ood knows no streams. Its benchmarks
    hand over a whole data set in one call, the ID images first; its loops one batch a call.

    Args:
        detector: any but `GLMCM`, which needs patches beside the features.
        encoder: images to embeddings, such as ``backbone.encode_images``; None for ``predict_features`` alone.
            Detectors that are given the same object share its embeddings in a benchmark.
        whole_sets: True: every call is given a whole data set. The detector is reset, and sees the set in shuffled
            order and in batches, as TANL's protocol has it. False: every call goes on where the last one ended, in
            the given order. Must be given for a detector with a stream; without effect for the others.
        batch_size: of the stream; larger calls are split.
        seed: of the order of whole sets; None keeps the given order.

    Raises:
        ImportError: pytorch-ood is not installed.
        TypeError: no detector, or a `GLMCM`.
        ValueError: ``whole_sets`` is missing for a detector with a stream.
    """
    if not isinstance(detector, Detector) or detector.needs_local:
        raise TypeError(
            f"as_pytorch_ood takes a detector that scores embeddings alone, not {type(detector).__name__}"
        )
    batch_size = whole_number(batch_size, "batch_size", at_least=1)
    if detector.has_stream and whole_sets is None:
        raise ValueError(
            f"{type(detector).__name__} learns from its stream: say whole_sets=True if each call is given a whole data "
            "set, as benchmarks do, or whole_sets=False if each is the next batch of one stream"
        )
    kind: Any = type(detector)
    return _kind(kind, _adapter())(
        detector, encoder, detector.has_stream and bool(whole_sets), batch_size, seed
    )


@cache
def _kind(detector: Any, adapter: Any) -> Any:
    """The adapter's class for one of detectors: benchmarks tell them apart by the names of their classes."""
    about = {"__module__": __name__, "__doc__": detector.__doc__}
    return type(detector.__name__, (adapter,), about)


def _blank(detector: Any) -> Any:
    """What a copy or an unpickled adapter is before it has its attributes."""
    kind = _kind(detector, _adapter())
    return kind.__new__(kind)


@cache
def _adapter() -> Any:
    """The adapter's class, made where pytorch-ood is there to derive it from."""
    try:
        from pytorch_ood.api import FeaturesDetector, ModelNotSetException
    except ImportError as error:
        raise ImportError(
            'as_pytorch_ood needs pytorch-ood 0.4 or later: pip install "tanl[pytorch-ood]"'
        ) from error

    class Adapter(FeaturesDetector):  # type: ignore[misc]
        def __init__(
            self,
            detector: Detector,
            encoder: Callable[[Tensor], Tensor] | None,
            whole_sets: bool,
            batch_size: int,
            seed: int | None,
        ) -> None:
            super().__init__()
            self.detector = detector
            self.encoder = encoder
            self.whole_sets = whole_sets
            self.batch_size = batch_size
            self.seed = seed

        def __reduce__(self) -> tuple[Any, ...]:
            # Pickle looks classes up by their names, and those made here have none.
            return _blank, (type(self.detector),), self.__dict__.copy()

        def __repr__(self) -> str:
            return f"as_pytorch_ood({self.detector!r}, whole_sets={self.whole_sets})"

        @torch.no_grad()
        def predict(self, x: Tensor) -> Tensor:
            """OOD scores ``[B]`` of images, which go through the encoder."""
            if self.encoder is None:
                raise ModelNotSetException(
                    "predict(x) needs the encoder of as_pytorch_ood; predict_features(z) does not"
                )
            scores: Tensor = self.predict_features(self.encoder(x))
            return scores

        @torch.no_grad()
        def predict_features(self, x: Tensor) -> Tensor:
            """OOD scores ``[B]`` of embeddings ``[B, D]``."""
            z = normalize(x.to(self.detector.bank.device).float(), dim=-1)
            order = torch.arange(len(z), dtype=torch.int64, device="cpu")
            if self.whole_sets:
                self.detector.reset()
                if self.seed is not None:
                    order = shuffled(len(z), self.seed)
            order = order.to(z.device)
            scores = torch.cat([self.detector(z[rows]) for rows in torch.split(order, self.batch_size)])
            return torch.empty_like(scores).index_copy_(0, order, scores)

    return Adapter
