"""``tanl bench trust``: what few outliers, orders, batch sizes and attacks do to methods that learn from their stream.

Long streams are made of seeded variants of the pictograms (`tanl.benchmarks.data.augment`). Drawings that calibration
images are made of are in no stream. The settings of TANL's preset ``practice`` were chosen on the ID sets animals and
food with variants of another seed; the sets and seeds here took no part in that.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import normalize
from tqdm import tqdm

from tanl.backbones import Backbone, load_backbone
from tanl.backbones.noise import noise_embeddings
from tanl.detectors import TANL, Detector, NegLabel
from tanl.detectors.thresholds import threshold_from_stream
from tanl.guard.monitor import Monitor, kind_of
from tanl.io.arguments import a_path, positive_number
from tanl.io.text import did_you_mean
from tanl.labels.bank import LabelBank
from tanl.labels.build import build_bank
from tanl.metrics import OODMetrics

from .data.augment import fingerprint, variant
from .data.image_cache import cached_image_embeddings
from .data.shipped import open_image
from .engine.protocol import ORDERS, stream_order
from .output.targets import check_targets, write_json
from .pictograms import manifest
from .pictograms.tracks import TRACKS, check_tracks

DEFAULT_TRACKS = ("travel", "objects", "coarse-10")
SHARES = (0.0, 0.01, 0.1, 0.5, 0.9)
BATCH_SIZES = (1, 8, 64, 256)
BATCH = 64
CALIBRATION = 150
SIZES = (20, 50, 150, 500)
"""Calibration images, of which the larger sets hold the smaller ones."""
FLOOD = 600
PARTS = ("outliers", "calibration", "order", "batch size", "attacks", "monitor")
_EVERY = 6  # every sixth drawing of the ID set is for calibration
_SOURCE = "attacker"

Maker = Callable[[LabelBank, Tensor], Detector]
METHODS: dict[str, Maker] = {
    "NegLabel": lambda bank, noise: NegLabel(bank),
    "TANL (paper)": lambda bank, noise: TANL(bank, initial_ood=noise),
    "TANL (practice)": lambda bank, noise: TANL(bank, initial_ood=noise, **TANL.preset("practice")),
}
# Measure -> values of single streams, by (part, case, method).
Found = dict[tuple[str, str, str], dict[str, list[float]]]


@dataclass(frozen=True)
class Images:
    """Embeddings of one ID set's variants and of its outliers'.

    Attributes:
        bank: the labels.
        inside: ID images, ``[n, D]``, those of one drawing far apart.
        target: which of these are of the ID class that attacks aim at, ``[n]`` bool.
        known: ID images of other drawings, for calibration, ``[max(SIZES), D]``.
        outside: OOD images, ``[m, D]``.
        hidden: which of these are of the OOD kind that attacks hide, ``[m]`` bool.
        noisy: pictures of the target class under heavy noise, ``[FLOOD, D]``.
        halfway: pictures of the target class mixed with OOD images, half and half, ``[FLOOD, D]``.
    """

    bank: LabelBank
    inside: Tensor
    target: Tensor
    known: Tensor
    outside: Tensor
    hidden: Tensor
    noisy: Tensor
    halfway: Tensor


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the command's options."""
    parser.add_argument(
        "--tracks", metavar="NAMES", default=", ".join(DEFAULT_TRACKS), help="ID sets (default: %(default)s)"
    )
    parser.add_argument(
        "--length",
        type=positive_number,
        metavar="N",
        default=2400,
        help="images a stream (default: %(default)s)",
    )
    parser.add_argument(
        "--seeds", type=positive_number, metavar="N", default=3, help="orders of each (default: %(default)s)"
    )
    parser.add_argument(
        "--augment-seed",
        type=positive_number,
        metavar="N",
        default=1,
        help="of the variants (default: %(default)s)",
    )
    parser.add_argument(
        "--parts", metavar="NAMES", default=", ".join(PARTS), help="what to measure (default: %(default)s)"
    )
    parser.add_argument(
        "--json", type=a_path, metavar="FILE", help="write everything that was measured there"
    )


def main(arguments: argparse.Namespace) -> int:
    """Run the command and print its tables."""
    tracks = [name.strip() for name in arguments.tracks.split(",")]
    check_tracks(tracks)
    check_targets(arguments.json)
    parts = [name.strip() for name in arguments.parts.split(",")]
    if unknown := [name for name in parts if name not in PARTS]:
        hint = did_you_mean(unknown[0], PARTS)
        raise ValueError(f"no part {unknown[0]!r}; there are {', '.join(PARTS)}{hint}")
    if arguments.length < 20 * BATCH:
        raise ValueError(f"--length must be at least {20 * BATCH}, not {arguments.length}")
    found = measure(
        tracks,
        length=arguments.length,
        seeds=range(arguments.seeds),
        augment_seed=arguments.augment_seed,
        parts=parts,
        progress=sys.stderr.isatty(),
    )
    print(
        f"Means over {', '.join(tracks)} and {arguments.seeds} orders; {arguments.length} images a stream, batches of "
        f"{BATCH}; percent"
    )
    print(format_tables(found))
    if arguments.json is not None:
        record = {
            "torch": torch.__version__,
            "tracks": tracks,
            "length": arguments.length,
            "seeds": arguments.seeds,
            "augment_seed": arguments.augment_seed,
            "parts": parts,
            "streams": [
                {"part": part, "case": case, "method": method, **values}
                for (part, case, method), values in found.items()
            ],
        }
        write_json(arguments.json, record)
    return 0


def format_tables(found: Found) -> str:
    """A table for each part, a line for each case and method, means over the streams."""
    lines = []
    for part in dict.fromkeys(part for part, _, _ in found):
        rows = {key[1:]: values for key, values in found.items() if key[0] == part}
        measures = list(dict.fromkeys(name for values in rows.values() for name in values))
        lines += ["", f"{part:34}{'':16}" + "".join(f"{name:>24}" for name in measures)]
        for (case, method), values in rows.items():
            cells = [f"{fmean(values[name]):24.1f}" if name in values else f"{'-':>24}" for name in measures]
            lines.append(f"{case:34}{method:16}" + "".join(cells))
    return "\n".join(lines)


def measure(
    tracks: Sequence[str],
    *,
    length: int,
    seeds: Sequence[int],
    augment_seed: int,
    parts: Sequence[str] = PARTS,
    progress: bool = False,
) -> Found:
    """Judge every stream with every method.

    Args:
        tracks: ID sets, of `TRACKS`.
        length: images a stream.
        seeds: of the order, one after the other.
        augment_seed: of the variants.
        parts: what to measure, of `PARTS`.
        progress: show progress bars.
    """
    backbone = load_backbone("mini")
    noise = noise_embeddings(backbone)
    found: Found = {}
    for track in tqdm(tracks, unit="sets", disable=not progress):
        images = _images(backbone, track, length, augment_seed, progress)
        for name, maker in METHODS.items():
            detector = maker(images.bank, noise)
            for seed in seeds:
                for part in parts:
                    for case, values in _MEASURED[part](detector, images, length, seed):
                        into = found.setdefault((part, case, name), {})
                        for key, value in values.items():
                            into.setdefault(key, []).append(value)
    return found


Cases = Iterator[tuple[str, Mapping[str, float]]]


def _outliers(detector: Detector, images: Images, length: int, seed: int) -> Cases:
    """Streams with few and many outliers, judged by the method's own threshold and by a calibrated one."""
    for share in SHARES:
        stream = _mixed_at(images, length, share, seed)
        own = _judged(detector, stream)
        detector.reset()
        detector.calibrate_embeddings(images.known[:CALIBRATION])
        following = _judged(detector, stream)
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
        stream = _mixed_at(images, length, share, seed)
        values = {}
        for size in SIZES:
            detector.reset()
            detector.calibrate_embeddings(known[:size])
            values[f"{size}: flagged ID"] = _judged(detector, stream)["flagged ID"]
            detector.uncalibrate()
        yield f"{share:.0%}", values


def _orders(detector: Detector, images: Images, length: int, seed: int) -> Cases:
    for order in ORDERS:
        yield order, _ranked(_judged(detector, _mixed(images, length // 2, length // 2, order, seed)))


def _batch_sizes(detector: Detector, images: Images, length: int, seed: int) -> Cases:
    stream = _mixed_at(images, length, 0.5, seed)
    for size in BATCH_SIZES:
        yield str(size), _ranked(_judged(detector, stream, size=size))


def _attacks(detector: Detector, images: Images, length: int, seed: int) -> Cases:
    """A clean stream after a flood of hostile images; then after the same, told to be of one source."""
    stream = _mixed_at(images, length, 0.5, seed)
    for case, before in _floods(detector, images, seed):
        for source in (None, _SOURCE) if len(before) and _bounds_sources(detector) else (None,):
            detector.reset()
            for part in torch.split(before, BATCH) if len(before) else ():
                detector(part, source=source)
            judged = _judged(detector, stream, reset=False)
            aimed = {name: judged[name] for name in ("target class flagged", "hidden kind caught")}
            yield case if source is None else f"{case}, one source", _ranked(judged) | aimed


def _monitored(detector: Detector, images: Images, length: int, seed: int) -> Cases:
    """In how many batches the guard's monitor notices what begins after half of a stream with one outlier in ten.

    ``noticed`` is the share of streams in which a kind of warning came, in percent; ``batches`` counts to the first of
    them. ``too early`` is the share of the batches before, in percent, that came with a warning.
    """
    half = _mixed_at(images, length // 2, 0.1, seed)

    def more(share: float) -> Tensor:
        return _mixed_at(images, length // 2, share, seed + 1000).z

    usual = more(0.1)
    cases = {"nothing begins": usual, "half are outliers": more(0.5), "nine in ten are outliers": more(0.9)}
    cases |= {name: flood for name, flood in _floods(detector, images, seed) if len(flood)}
    moved = torch.randn(images.inside.shape[1], generator=torch.Generator().manual_seed(seed))
    cases["all images change"] = normalize(usual + 0.3 * normalize(moved, dim=0), dim=1)
    for case, later in cases.items():
        yield case, _noticed(detector, half.z, later)
    for share in (0.0, 0.01):
        stream = _mixed_at(images, length, share, seed).z
        yield f"a stream of {share:.0%} outliers", _noticed(detector, stream[:0], stream)


def _noticed(detector: Detector, before: Tensor, later: Tensor) -> dict[str, float]:
    """Of each kind of warning the batches from the beginning of ``later`` until it came; and those before."""
    detector.reset()
    monitor = Monitor()
    early = 0
    batches = torch.split(before, BATCH) if len(before) else ()
    for z in batches:
        early += bool(_watched(detector, monitor, z))
    values = {"too early": 100 * early / len(batches)} if batches else {}
    noticed: dict[str, int] = {}
    for number, z in enumerate(torch.split(later, BATCH), start=1):
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


_MEASURED: dict[str, Callable[[Detector, Images, int, int], Cases]] = {
    "outliers": _outliers,
    "calibration": _calibration,
    "order": _orders,
    "batch size": _batch_sizes,
    "attacks": _attacks,
    "monitor": _monitored,
}


def _bounds_sources(detector: Detector) -> bool:
    return isinstance(detector, TANL) and detector.memory != "published"


def _floods(detector: Detector, images: Images, seed: int) -> Iterator[tuple[str, Tensor]]:
    """Name and images ``[FLOOD, D]`` of each attack; first none at all."""
    generator = torch.Generator().manual_seed(seed)
    one = images.inside[images.target][:1]

    noise = torch.randn(FLOOD, one.shape[1], generator=generator) / one.shape[1] ** 0.5

    yield "none", one[:0]
    yield "one image repeated", one.repeat(FLOOD, 1)
    yield "near-duplicates", normalize(one + 0.3 * noise, dim=1)
    yield "noisy ID class", images.noisy
    yield "halfway images", images.halfway
    detector.reset()
    yield "white-box: flag", _aimed(detector, images.inside[images.target], True, generator)
    yield "white-box: hide", _aimed(detector, images.outside[images.hidden], False, generator)


def _aimed(detector: Detector, victims: Tensor, flag: bool, generator: torch.Generator) -> Tensor:
    """Embeddings that teach a detector, whose labels and scores are known, about the labels that victims activate.

    Each is the text of a label that the victims activate much, drawn as little as it takes to the nearest ID label (to
    hide the victims: the label then counts as one that ID images activate) or to the nearest of the negative labels
    far from all ID labels (to flag them), until the detector as it starts is confident of it.
    """
    bank = detector.bank
    activations = (bank.logit_scale * victims @ bank.embeddings.T).softmax(dim=1).mean(dim=0)[bank.num_id :]
    used = bank.negative_embeddings[activations.topk(min(100, bank.num_negatives)).indices].float()
    far = bank.mined(min(1000, bank.num_negatives)).negative_embeddings.float()
    towards = far if flag else bank.id_embeddings

    def drawn(of: Tensor) -> Tensor:
        return of[torch.randint(len(of), (FLOOD,), generator=generator)]

    labels = drawn(used)
    labels = normalize(
        labels + 0.3 * torch.randn(labels.shape, generator=generator) / labels.shape[1] ** 0.5, dim=1
    )
    helpers = towards[(labels @ towards.T).argmax(dim=1)]
    best = helpers
    for weight in torch.linspace(0.95, 0, 20).tolist():
        mixed = normalize((1 - weight) * labels + weight * helpers, dim=1)
        score = detector.score(mixed)
        convinced = score > 0.65 if flag else score < 0.35
        best = torch.where(convinced[:, None], mixed, best)
    return best


@dataclass(frozen=True)
class _Stream:
    """A stream ``[n, D]``, and which of it is OOD, of the target class, and of the hidden kind, ``[n]`` bool each."""

    z: Tensor
    is_ood: Tensor
    target: Tensor
    hidden: Tensor


def _mixed_at(images: Images, length: int, share: float, seed: int) -> _Stream:
    count = round(length * share)
    return _mixed(images, length - count, count, "shuffled", seed)


def _mixed(images: Images, num_id: int, num_ood: int, order: str, seed: int) -> _Stream:
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
    return _Stream(both[positions], positions >= num_id, target[positions], hidden[positions])


def _ranked(judged: Mapping[str, float]) -> dict[str, float]:
    return {"AUROC": judged["AUROC"], "FPR95_ID": judged["FPR95_ID"]}


def _judged(
    detector: Detector, stream: _Stream, *, size: int = BATCH, reset: bool = True
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


def _images(backbone: Backbone, track: str, length: int, seed: int, progress: bool) -> Images:
    rows = manifest.read_manifest(manifest.FOLDER)
    chosen = TRACKS[track].select(rows)
    class_of = dict(zip(chosen.images, chosen.targets, strict=True))
    known = chosen.images[::_EVERY]
    apart = set(known)
    inside = [image for image in chosen.images if image not in apart]
    outside = sorted({member for _, members in chosen.ood.values() for member in members})
    outside = np.random.default_rng(seed).permutation(outside).tolist()  # all kinds of them in any number
    [(target, _)] = Counter(class_of[image] for image in inside).most_common(1)
    aimed_at = [image for image in inside if class_of[image] == target]
    hidden = set(chosen.ood[max(chosen.ood, key=lambda name: len(chosen.ood[name][1]))][1])
    others = iter(outside * (FLOOD // len(outside) + 1))

    def embedded(title: str, wanted: list[int], count: int, changed: Callable[..., Image.Image]) -> Tensor:
        def made() -> Iterator[Image.Image]:
            for number in range(count):
                row = wanted[number % len(wanted)]
                generator = np.random.default_rng([seed, row, number // len(wanted)])
                yield changed(opened(row), generator)

        own = "\0".join([title, str(count), *(rows[row].sha256 for row in wanted)])
        return cached_image_embeddings(
            backbone, made, count=count, fingerprint=fingerprint(own, seed), progress=progress, title=title
        )

    def opened(row: int) -> Image.Image:
        return open_image(manifest.FOLDER, rows[row])

    def mixed(image: Image.Image, generator: np.random.Generator) -> Image.Image:
        one, other = variant(image, generator), variant(opened(next(others)), generator)
        return Image.blend(one, other.resize(one.size), 0.5)

    def whether(which: Collection[int], of: list[int], count: int) -> Tensor:
        return torch.tensor([of[number % len(of)] in which for number in range(count)])

    num_ood = round(max(SHARES) * length)
    return Images(
        build_bank(backbone, chosen.classes, progress=progress),
        embedded(f"{track}, ID", inside, length, variant),
        whether(set(aimed_at), inside, length),
        embedded(f"{track}, calibration", known, max(SIZES), variant),
        embedded(f"{track}, OOD", outside, num_ood, variant),
        whether(hidden, outside, num_ood),
        embedded(f"{track}, noisy", aimed_at, FLOOD, _noisy),
        embedded(f"{track}, halfway", aimed_at, FLOOD, mixed),
    )


def _noisy(image: Image.Image, generator: np.random.Generator) -> Image.Image:
    """A variant under Gaussian noise with a standard deviation of 60 of 255."""
    pixels = np.asarray(variant(image, generator), dtype=np.float32)
    noisy = pixels + generator.normal(0, 60, pixels.shape).astype(np.float32)
    return Image.fromarray(noisy.clip(0, 255).astype(np.uint8))
