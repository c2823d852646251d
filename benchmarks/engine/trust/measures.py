"""What is measured of methods that learn from their stream: shares flagged, ranks, and when the monitor notices."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import normalize

from tanl.detectors import Detector
from tanl.detectors.registry import make_detector
from tanl.detectors.thresholds import threshold_from_stream
from tanl.guard.monitor import Monitor, kind_of
from tanl.io.options import BATCH_SIZE
from tanl.io.progress import Progress
from tanl.metrics import OODMetrics

from ..protocol import ORDERS, stream_order
from .attacks import floods
from .images import SHARES, SIZES, Images

BATCH_SIZES = (1, 8, 64, 256)
CALIBRATION = 150
_SOURCE = "attacker"

JUDGED = {"NegLabel": "neglabel", "TANL (paper)": "tanl-paper", "TANL (practice)": "tanl"}
"""The methods that are judged: what the tables call them, and their names."""

# Measure -> values of single streams, by (part, case, method).
Found = dict[tuple[str, str, str], dict[str, list[float]]]


def measure(
    tracks: Sequence[str],
    images_of: Callable[[str], Images],
    *,
    length: int,
    seeds: Sequence[int],
    parts: Sequence[str],
    methods: Sequence[str],
    progress: bool = False,
) -> Found:
    """Judge every stream with every method.

    Args:
        tracks: ID sets.
        images_of: gives the images of each.
        length: images a stream.
        seeds: of the order, one after the other.
        parts: what to measure, of `MEASURED`.
        methods: of `JUDGED`.
        progress: show progress bars.
    """
    found: Found = {}
    with Progress(
        len(tracks) * len(methods) * len(seeds) * len(parts), "measurements", quiet=not progress
    ) as bar:
        for track in tracks:
            images = images_of(track)
            for name in methods:
                detector = make_detector(JUDGED[name], images.bank, seed=0, initial_ood=images.noise)
                for seed in seeds:
                    for part in parts:
                        bar.entitle(f"{track}, {name}, {part}")
                        for case, values in MEASURED[part](detector, images, length, seed):
                            into = found.setdefault((part, case, name), {})
                            for key, value in values.items():
                                into.setdefault(key, []).append(value)
                        bar.update()
    return found


Cases = Iterator[tuple[str, Mapping[str, float]]]


def _outliers(detector: Detector, images: Images, length: int, seed: int) -> Cases:
    """Streams with few and many outliers, judged by the method's own threshold and by a calibrated one."""
    for share in SHARES:
        stream = mixed_at(images, length, share, seed)
        own = judge_stream(detector, stream)
        detector.reset()
        detector.calibrate_embeddings(images.known[:CALIBRATION])
        following = judge_stream(detector, stream)
        detector.uncalibrate()
        values = _ranked(own) if "AUROC" in own else {}
        for title, judged in (("own", own), ("calibrated", following)):
            values |= {
                f"{title}: {what}": judged[what] for what in ("flagged ID", "caught") if what in judged
            }
        yield f"{share:.0%}", values


def _calibration(detector: Detector, images: Images, length: int, seed: int) -> Cases:
    """What calibration promises, 5 % of the ID images flagged, against what comes, by the number of images."""
    known = images.known[torch.randperm(len(images.known), generator=torch.Generator().manual_seed(seed))]
    for share in SHARES:
        stream = mixed_at(images, length, share, seed)
        values = {}
        for size in SIZES:
            detector.reset()
            detector.calibrate_embeddings(known[:size])
            values[f"{size}: flagged ID"] = judge_stream(detector, stream)["flagged ID"]
            detector.uncalibrate()
        yield f"{share:.0%}", values


def _orders(detector: Detector, images: Images, length: int, seed: int) -> Cases:
    for order in ORDERS:
        yield order, _ranked(judge_stream(detector, mixed(images, length // 2, length // 2, order, seed)))


def _batch_sizes(detector: Detector, images: Images, length: int, seed: int) -> Cases:
    stream = mixed_at(images, length, 0.5, seed)
    for size in BATCH_SIZES:
        yield str(size), _ranked(judge_stream(detector, stream, size=size))


def _attacks(detector: Detector, images: Images, length: int, seed: int) -> Cases:
    """A clean stream after a flood of hostile images; then after the same, told to be of one source."""
    stream = mixed_at(images, length, 0.5, seed)
    for case, before in floods(detector, images, seed):
        for source in (None, _SOURCE) if len(before) and detector.bounds_sources else (None,):
            detector.reset()
            for part in torch.split(before, BATCH_SIZE) if len(before) else ():
                detector(part, source=source)
            judged = judge_stream(detector, stream, reset=False)
            aimed = {name: judged[name] for name in ("target class flagged", "hidden kind caught")}
            yield case if source is None else f"{case}, one source", _ranked(judged) | aimed


def _monitored(detector: Detector, images: Images, length: int, seed: int) -> Cases:
    """In how many batches the guard's monitor notices what begins after half of a stream with one outlier in ten.

    ``noticed`` is the share of streams in which a kind of warning came, in percent; ``batches`` counts to the first of
    them. ``too early`` is the share of the batches before, in percent, that came with a warning.
    """
    half = mixed_at(images, length // 2, 0.1, seed)

    def more(share: float) -> Tensor:
        return mixed_at(images, length // 2, share, seed + 1000).z

    usual = more(0.1)
    cases = {"nothing begins": usual, "half are outliers": more(0.5), "nine in ten are outliers": more(0.9)}
    cases |= {name: flood for name, flood in floods(detector, images, seed) if len(flood)}
    moved = torch.randn(images.inside.shape[1], generator=torch.Generator().manual_seed(seed))
    cases["all images change"] = normalize(usual + 0.3 * normalize(moved, dim=0), dim=1)
    for case, later in cases.items():
        yield case, _noticed(detector, half.z, later)
    for share in (0.0, 0.01):
        stream = mixed_at(images, length, share, seed).z
        yield f"a stream of {share:.0%} outliers", _noticed(detector, stream[:0], stream)


def _noticed(detector: Detector, before: Tensor, later: Tensor) -> dict[str, float]:
    """Of each kind of warning the batches from the beginning of ``later`` until it came; and those before."""
    detector.reset()
    monitor = Monitor()
    early = 0
    batches = torch.split(before, BATCH_SIZE) if len(before) else ()
    for z in batches:
        early += bool(_watched(detector, monitor, z))
    values = {"too early": 100 * early / len(batches)} if batches else {}
    noticed: dict[str, int] = {}
    for number, z in enumerate(torch.split(later, BATCH_SIZE), start=1):
        for warning in _watched(detector, monitor, z):
            noticed.setdefault(kind_of(warning), number)
    for kind in ("runaway", "flood", "shift"):
        values[f"{kind}: noticed"] = 100 * float(kind in noticed)
        if kind in noticed:
            values[f"{kind}: batches"] = noticed[kind]
    return values


def _watched(detector: Detector, monitor: Monitor, z: Tensor) -> tuple[str, ...]:
    scores = detector(z)
    return monitor.observe(detector, z, None if detector.threshold is None else scores > detector.threshold)


MEASURED: dict[str, Callable[[Detector, Images, int, int], Cases]] = {
    "outliers": _outliers,
    "calibration": _calibration,
    "order": _orders,
    "batch size": _batch_sizes,
    "attacks": _attacks,
    "monitor": _monitored,
}


@dataclass(frozen=True)
class Stream:
    """A stream ``[n, D]``, and which of it is OOD, of the target class, and of the hidden kind, ``[n]`` bool each."""

    z: Tensor
    is_ood: Tensor
    target: Tensor
    hidden: Tensor


def mixed_at(images: Images, length: int, share: float, seed: int) -> Stream:
    count = round(length * share)
    return mixed(images, length - count, count, "shuffled", seed)


def mixed(images: Images, num_id: int, num_ood: int, order: str, seed: int) -> Stream:
    generator = torch.Generator().manual_seed(seed)

    def drawn(of: Tensor, count: int) -> Tensor:
        if count > len(of):
            raise ValueError(f"a stream needs {count} images, and there are {len(of)}; lower --length")
        return torch.randperm(len(of), generator=generator)[:count]

    inside, outside = drawn(images.inside, num_id), drawn(images.outside, num_ood)
    positions = stream_order(num_id, num_ood, order, seed)  # type: ignore[arg-type]
    neither = torch.zeros(num_id + num_ood, dtype=torch.bool)
    target, hidden = neither.clone(), neither.clone()
    target[:num_id], hidden[num_id:] = images.target[inside], images.hidden[outside]
    both = torch.cat([images.inside[inside], images.outside[outside]])
    return Stream(both[positions], positions >= num_id, target[positions], hidden[positions])


def _ranked(judged: Mapping[str, float]) -> dict[str, float]:
    return {"AUROC": judged["AUROC"], "FPR95_ID": judged["FPR95_ID"]}


def judge_stream(
    detector: Detector, stream: Stream, *, size: int = BATCH_SIZE, reset: bool = True
) -> dict[str, float]:
    """AUROC and FPR95_ID of a stream; and which shares of its images were flagged, by the running threshold.

    ``flagged ID`` and ``caught`` are of the second half, those of the target class and the hidden kind of the whole.
    """
    if reset:
        detector.reset()
    scores, thresholds = [], []
    for part in torch.split(stream.z, size):
        scores.append(detector(part))
        thresholds.append(
            torch.full((len(part),), torch.nan if detector.threshold is None else detector.threshold)
        )
    score, threshold = torch.cat(scores), torch.cat(thresholds)
    if bool(threshold.isnan().all()):
        threshold = torch.full_like(score, threshold_from_stream(score))
    late = torch.arange(len(score)) >= len(score) // 2
    flagged = score > threshold
    values = {}
    for name, chosen in (
        ("flagged ID", late & ~stream.is_ood),
        ("caught", late & stream.is_ood),
        ("target class flagged", stream.target),
        ("hidden kind caught", stream.hidden),
    ):
        if bool(chosen.any()):
            values[name] = 100 * float(flagged[chosen].float().mean())
    if bool(stream.is_ood.any()) and not bool(stream.is_ood.all()):
        metrics = OODMetrics()
        metrics.update(score, torch.where(stream.is_ood, -1, 0))
        computed = metrics.compute()
        values |= {name: 100 * float(computed[name]) for name in ("AUROC", "FPR95_ID")}
    return values
