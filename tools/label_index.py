"""``python -m tools label-index``: nearest labels through an index, and TANL's activations made from them.

For every kind of index: the time to build it, its memory beside the embeddings, the time of a search, how many of
the exact nearest labels it finds; and, for the kinds that `tanl.LabelIndex` has, what `tanl.ApproximateActivation`
makes of it: its time against the exact sums, the overlap of the selected labels, the covered probability mass.
The other kinds are faiss's own, rescored exactly as well; they are here to show why they were not taken.
"""

from __future__ import annotations

import argparse
import platform
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor
from torch.nn.functional import normalize

import tanl
from tanl import kernels
from tanl.benchmarks.output.targets import add_json_option, check_targets, write_json
from tanl.benchmarks.pictograms.tracks import TRACKS
from tanl.detectors.approximate import CANDIDATES, SAMPLE, ApproximateActivation
from tanl.functional import activation_sums
from tanl.io.options import add_options, check_settings, setting, settings_of
from tanl.labels.bank import LabelBank
from tanl.labels.build import build_bank
from tanl.labels.index import LabelIndex
from tanl.labels.lists import load_faiss
from tanl.labels.nearest import nearest

from .embedded_pictograms import embedded_pictograms

KINDS = ("flat", "ivf", "ivf-flat", "ivf-sq8", "hnsw")
QUERIES = 256
NEAREST = (100, 1000)
SELECTED = 1000
NUM_ID = 1000

_COMPARED = 120  # rows of either kind whose mean activations are compared
_LARGEST_HNSW = 200_000  # a graph of a million labels takes minutes to build
_CENTRED_ROWS = 65_536
_T = TypeVar("_T")


@dataclass(frozen=True)
class Config:
    """What is run, with the command's options; the kind HNSW up to 200 000 labels, unless it is named."""

    labels: tuple[int, ...] = setting(
        (70_000,),
        "sizes of the generated label sets, ID labels included",
        metavar="N",
        at_least=NUM_ID + 2 * SELECTED,
    )
    dim: int = setting(512, "D of them", metavar="N", at_least=8)
    kinds: tuple[str, ...] | None = setting(
        None, f"of {', '.join(KINDS)} (default: all)", metavar="KIND", choices=KINDS
    )
    probes: tuple[float, ...] = setting(
        (0.1, 0.25, 0.5, 1.0), "shares of lists that are read", metavar="SHARE"
    )
    real: bool = setting(False, "the embedded model's WordNet and pictograms, not generated labels")
    seed: int = setting(0, "of everything", metavar="N", at_least=0)
    repeats: int = setting(3, "the best time of so many", metavar="N", at_least=1)

    def __post_init__(self) -> None:
        check_settings(self)
        outside = [probe for probe in self.probes if not 0 < probe <= 1]
        if outside:
            raise ValueError(f"probes must lie in (0, 1], not {outside[0]}")


@dataclass(frozen=True)
class Activation:
    """Approximate activations from an index.

    Attributes:
        seconds: one call for 256 rows.
        overlap: share of the 1000 selected labels that the exact sums select too.
        covered: share of the probability mass that had exact logits.
    """

    seconds: float
    overlap: float
    covered: float


@dataclass(frozen=True)
class Row:
    """One index with one setting.

    Attributes:
        kind: name in ``KINDS``.
        setting: the share of lists, or HNSW's efSearch.
        build: seconds.
        megabytes: beside the embeddings, as saved (a graph holds the embeddings once more).
        seconds: of a search of 256 queries, by k.
        recall: share of the exact k nearest that are found, by k.
        activation: None for kinds that `tanl.LabelIndex` does not have.
    """

    kind: str
    setting: str
    build: float
    megabytes: float
    seconds: dict[int, float]
    recall: dict[int, float]
    activation: Activation | None


@dataclass(frozen=True)
class LabelSet:
    """What was measured on one set of labels.

    Attributes:
        title: what they are.
        num_id: C.
        negatives: M.
        dim: D.
        scale: the logit scale.
        exact: seconds of the exact sums for 256 rows.
        product: seconds of the bare matrix product of the same shape.
        rows: an index and setting each.
        left_out: kinds that were not measured, and why.
    """

    title: str
    num_id: int
    negatives: int
    dim: int
    scale: float
    exact: float
    product: float
    rows: list[Row]
    left_out: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Result:
    """All that was measured."""

    config: Config
    environment: dict[str, str]
    sets: list[LabelSet]


def generated(labels: int, dim: int, seed: int) -> tuple[LabelBank, Tensor, Tensor]:
    """Embeddings with the structure of CLIP's: texts in clusters on a cone, images across a gap from them.

    Cosines of images with labels have a mean of about 0.11 and a deviation of 0.035, the best of 70 000 are
    near 0.28, and labels have cosines of 0.4 to 0.8. Concepts are drawn from a decaying spectrum. The images
    of an outlying set show few concepts, as data sets do.

    Args:
        labels: C + M, 1000 of them ID labels.
        dim: D.
        seed: of the draw.

    Returns:
        The bank, and 128 ID and 128 OOD images.
    """
    generator = torch.Generator().manual_seed(seed)
    spectrum = (1 + torch.arange(dim) / 16).rsqrt()

    def directions(count: int) -> Tensor:
        return normalize(torch.randn(count, dim, generator=generator) * spectrum, dim=1)

    def pick(below: int, count: int) -> Tensor:
        return torch.randint(below, (count,), generator=generator)

    cone, gap = normalize(torch.randn(2, dim, generator=generator), dim=1)
    clusters, fields = max(1, labels // 100), max(1, labels // 3000)
    centres = normalize(0.6 * directions(fields)[pick(fields, clusters)] + 0.8 * directions(clusters), dim=1)
    texts = torch.empty(labels, dim)
    for part in torch.split(texts, _CENTRED_ROWS):
        part.copy_(0.75 * centres[pick(clusters, len(part))] + 0.65 * directions(len(part)))

    def images(shown: Tensor) -> Tensor:
        own = 0.4 * directions(len(shown))
        return normalize(1.3 * gap + 0.3 * cone + 0.35 * texts[shown] + own, dim=1)

    half = QUERIES // 2
    few = NUM_ID + pick(labels - NUM_ID, half // 4)
    id_images, ood_images = images(pick(NUM_ID, half)), images(few[pick(len(few), half)])
    for part in torch.split(texts, _CENTRED_ROWS):
        part.copy_(normalize(part + cone, dim=1))
    bank = LabelBank([f"label {i}" for i in range(labels)], texts, num_id=NUM_ID)
    return bank, id_images, ood_images


def real(seed: int, progress: bool = False) -> tuple[LabelBank, Tensor, Tensor]:
    """The embedded model's labels and images: objects are ID; 128 images each of ID and of all OOD sets."""
    backbone, rows, images = embedded_pictograms(progress=progress)
    chosen = TRACKS["objects"].select(rows)
    bank = build_bank(backbone, chosen.classes, progress=progress)
    generator = torch.Generator().manual_seed(seed)
    outside = [image for _, members in chosen.ood.values() for image in members]

    def drawn(members: Sequence[int]) -> Tensor:
        picked: Tensor = images[
            torch.tensor(members)[torch.randperm(len(members), generator=generator)[: QUERIES // 2]]
        ]
        return picked

    return bank, drawn(chosen.images), drawn(outside)


def run(config: Config, *, progress: bool = False) -> Result:
    """Measure every kind on every set of labels of ``config``.

    Raises:
        ImportError: faiss is not there.
    """
    faiss = load_faiss()
    sets = []
    if config.real:
        sets.append(_measure("WordNet, embedded model", real(config.seed, progress), config, progress))
    else:
        for labels in config.labels:
            data = generated(labels, config.dim, config.seed)
            sets.append(_measure(f"{labels} generated labels", data, config, progress))
            del data
    environment = {
        "tanl": tanl.__version__,
        "faiss": faiss.__version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "machine": platform.machine(),
        "kernels": kernels.available("cpu")[-1],
        "torch threads": str(torch.get_num_threads()),
        "faiss threads": str(faiss.omp_get_max_threads()),
    }
    return Result(config, environment, sets)


def format_table(result: Result) -> str:
    """The result as text: a block a set of labels, with a line an index and setting."""
    environment = result.environment
    lines = [
        f"Nearest labels of {QUERIES} images, best of {result.config.repeats}; seed {result.config.seed}, "
        f"torch {environment['torch']} ({environment['torch threads']} threads), "
        f"faiss {environment['faiss']} ({environment['faiss threads']} threads)",
    ]
    for part in result.sets:
        lines += [
            "",
            f"{part.title}: {part.num_id} ID labels, {part.negatives} negatives, D = {part.dim}, "
            f"logit scale {part.scale:.0f}",
            f"exact activations of {QUERIES} rows ({environment['kernels']} kernels): {part.exact:.3f} s; "
            f"bare matrix product: {part.product:.3f} s",
            f"{'':10}{'':10}{'build':>8}{'beside':>9}"
            + "".join(f"{f'k = {k}':>10}{'recall':>8}" for k in NEAREST)
            + f"{'activation':>13}{'overlap':>9}{'covered':>9}",
            f"{'':10}{'':10}{'s':>8}{'MB':>9}" + f"{'s':>10}{'%':>8}" * 2 + f"{'s':>13}{'%':>9}{'%':>9}",
        ]
        for row in part.rows:
            made = row.activation
            lines.append(
                f"{row.kind:10}{row.setting:10}{row.build:8.1f}{row.megabytes:9.0f}"
                + "".join(f"{row.seconds[k]:10.3f}{100 * row.recall[k]:8.1f}" for k in NEAREST)
                + (
                    f"{made.seconds:13.3f}{100 * made.overlap:9.1f}{100 * made.covered:9.1f}"
                    if made is not None
                    else f"{'-':>13}{'-':>9}{'-':>9}"
                )
            )
        lines += [f"{kind} left out: {reason}" for kind, reason in part.left_out.items()]
    lines += [
        "",
        f"overlap: of the {SELECTED} labels selected by {_COMPARED} OOD against {_COMPARED} ID rows with those of "
        f"the exact sums; activation: {CANDIDATES} candidates, a sample of {SAMPLE}",
    ]
    return "\n".join(lines)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the command's options."""
    add_options(parser, Config)
    add_json_option(parser)


def main(arguments: argparse.Namespace) -> int:
    """Run the command and print its table."""
    config = settings_of(arguments, Config())
    target: Path | None = arguments.json
    check_targets(target)
    result = run(config, progress=sys.stderr.isatty())
    if target is not None:
        write_json(target, asdict(result))
    print(format_table(result))
    return 0


@torch.no_grad()
def _measure(title: str, data: tuple[LabelBank, Tensor, Tensor], config: Config, progress: bool) -> LabelSet:
    bank, id_images, ood_images = data
    queries = torch.cat([id_images, ood_images]).contiguous()
    exact, relevance = _timed(
        lambda: activation_sums(queries, bank.embeddings, bank.num_id, bank.logit_scale, _segments())[0],
        config.repeats,
    )
    wanted = _selected(relevance)
    product, _ = _timed(lambda: _products(queries, bank.embeddings), config.repeats)
    truth = nearest(queries, bank.negative_embeddings, max(NEAREST)).rows
    part = LabelSet(
        title, bank.num_id, bank.num_negatives, bank.dim, bank.logit_scale, exact, product, rows=[]
    )
    for kind in config.kinds or KINDS:
        if kind == "hnsw" and config.kinds is None and bank.num_negatives > _LARGEST_HNSW:
            part.left_out[kind] = (
                f"it takes minutes to build beyond {_LARGEST_HNSW} labels; name it to have it"
            )
            continue
        if progress:
            print(f"{title}: {kind}", file=sys.stderr)
        measure = _own if kind in ("flat", "ivf") else _faiss
        part.rows.extend(measure(kind, bank, queries, truth, wanted, config))
    return part


def _own(
    kind: str, bank: LabelBank, queries: Tensor, truth: Tensor, wanted: set[int], config: Config
) -> list[Row]:
    """A kind that `LabelIndex` has."""
    started = time.perf_counter()
    index = LabelIndex.of(bank, kind="flat" if kind == "flat" else "ivf", seed=config.seed)
    build = time.perf_counter() - started
    megabytes = index.overhead / 1e6
    activations = ApproximateActivation(bank, index, seed=config.seed)
    rows = []
    for probe in (1.0,) if kind == "flat" else config.probes:
        index.probe = probe
        seconds, recall = {}, {}
        for k in NEAREST:
            seconds[k], found = _timed(partial(_rows, index, queries, k), config.repeats)
            recall[k] = _recall(found, truth, k)
        spent, sums = _timed(lambda: activations(queries, _segments())[0], config.repeats)
        overlap = len(_selected(sums) & wanted) / len(wanted)
        made = Activation(spent, overlap, activations.covered_mass or 0.0)
        setting = "" if kind == "flat" else f"probe {probe}"
        rows.append(Row(kind, setting, build, megabytes, seconds, recall, made))
    return rows


def _rows(index: LabelIndex, queries: Tensor, k: int) -> Tensor:
    return index.search(queries, k).rows


def _faiss(
    kind: str, bank: LabelBank, queries: Tensor, truth: Tensor, wanted: set[int], config: Config
) -> list[Row]:
    """A kind of faiss's own, over the labels less their mean."""
    faiss = load_faiss()
    labels, count = bank.negative_embeddings, bank.num_negatives
    mean = labels.mean(dim=0)
    lists = round(2 * count**0.5)
    factory = {"ivf-flat": f"IVF{lists},Flat", "ivf-sq8": f"IVF{lists},SQ8", "hnsw": "HNSW32"}[kind]
    started = time.perf_counter()
    index = faiss.index_factory(bank.dim, factory, faiss.METRIC_INNER_PRODUCT)
    if kind == "hnsw":
        index.hnsw.efConstruction = 80
        settings = [("efSearch", ef) for ef in (1000, 2000)]
    else:
        index.cp.niter, index.cp.seed = 8, config.seed % 2**31
        index.cp.min_points_per_centroid, index.cp.max_points_per_centroid = 1, 64
        chosen = torch.randperm(count, generator=torch.Generator().manual_seed(config.seed))[: 40 * lists]
        index.train((labels[chosen] - mean).numpy())
        settings = [("nprobe", max(1, round(probe * lists))) for probe in config.probes]
    for start in range(0, count, _CENTRED_ROWS):
        index.add((labels[start : start + _CENTRED_ROWS] - mean).numpy())
    build = time.perf_counter() - started
    with tempfile.TemporaryDirectory() as folder:
        faiss.write_index(index, f"{folder}/index")
        megabytes = Path(folder, "index").stat().st_size / 1e6

    def search(k: int) -> Tensor:
        rows = torch.from_numpy(index.search(queries.numpy(), k)[1])
        cosines = torch.stack([labels[row] @ query for row, query in zip(rows, queries, strict=True)])
        return rows.gather(1, cosines.argsort(dim=1, descending=True))

    rows = []
    for name, value in settings:
        faiss.ParameterSpace().set_index_parameter(index, name, value)
        seconds, recall = {}, {}
        for k in NEAREST:
            seconds[k], found = _timed(partial(search, k), config.repeats)
            recall[k] = _recall(found, truth, k)
        setting = f"ef {value}" if kind == "hnsw" else f"probe {value / lists:.2g}"
        rows.append(Row(kind, setting, build, megabytes, seconds, recall, None))
    return rows


def _segments() -> list[tuple[int, int]]:
    half = QUERIES // 2
    return [(0, _COMPARED), (half, half + _COMPARED)]


def _selected(sums: Tensor) -> set[int]:
    """The labels that outliers activate most above ID images, from their sums ``[2, M]``."""
    return set((sums[1] - sums[0]).topk(SELECTED).indices.tolist())


def _products(queries: Tensor, labels: Tensor) -> None:
    out = torch.empty(2048, len(queries))
    for tile in torch.split(labels, len(out)):
        torch.mm(tile, queries.T, out=out[: len(tile)])


def _recall(found: Tensor, truth: Tensor, k: int) -> float:
    hits = [
        len(set(row) & set(best)) for row, best in zip(found.tolist(), truth[:, :k].tolist(), strict=True)
    ]
    return sum(hits) / (k * len(hits))


def _timed(work: Callable[[], _T], repeats: int) -> tuple[float, _T]:
    best = float("inf")
    for _ in range(repeats):
        started = time.perf_counter()
        result = work()
        best = min(best, time.perf_counter() - started)
    return best, result


if __name__ == "__main__":
    own = argparse.ArgumentParser(prog="python -m tools.label_index", description=__doc__)
    add_arguments(own)
    sys.exit(main(own.parse_args()))
