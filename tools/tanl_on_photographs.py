"""Does TANL pay on photographs, and why: methods on streams that are made of a folder of ImageNet photographs.

    python -m tools.tanl_on_photographs --photos FOLDER --half reporting --out FOLDER

``--photos`` and the halves are those of `tools.mini_photo.evaluate`: one photograph of each class, those at even
positions for choosing, those at odd positions for reporting. A stream has all photographs of a half: those of some
classes are ID, the others OOD. In longer streams each photograph comes several times, itself and altered copies.
What changes beside that, one thing at a time: the batch, the logit scale, and which words of the corpus are negative
labels. A last table scores with labels that are ranked by the truth, to tell what better learning could gain.

Written are ``HALF.csv``, a row for each figure, and ``HALF.md`` with the tables. Intervals are of 1000 bootstrap
resamples of the photographs, the same for all, each photograph with its copies.
"""

from __future__ import annotations

import argparse
import csv
import io
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from tanl.backbones import Backbone, load_backbone
from tanl.backbones.noise import noise_embeddings
from tanl.benchmarks.data import augment
from tanl.benchmarks.data.image_sets import ImageSet, encode_image_set
from tanl.benchmarks.data.imagenet import imagenet_names
from tanl.benchmarks.data.imagenet_folder import CLASS_TRACKS, open_imagenet_folder
from tanl.benchmarks.engine.bootstrap import Floats, interval, resample_counts, resampled_metrics
from tanl.benchmarks.engine.methods import METHODS, Given
from tanl.benchmarks.engine.protocol import StreamScores, run_stream
from tanl.detectors import TANL, Detector
from tanl.functional import negative_share
from tanl.io.arguments import a_path
from tanl.io.atomic import write_whole
from tanl.labels.bank import LabelBank
from tanl.labels.build import build_bank
from tanl.metrics import HEADLINE

from .mini_photo.evaluate import halves

BACKBONE = "mini-photo"
RANDOM_CLASSES, RANDOM_CHOICES = 100, 2
COMPARED = (
    "MCM",
    "Energy",
    "NegLabel",
    "AdaNeg",
    "TANL (batch-adaptive)",
    "TANL (official-script)",
    "TANL (practice)",
)
LEARNING = tuple(name for name in COMPARED if METHODS[name].streaming)
BASE = "NegLabel"
BATCHES, BATCH = (8, 16, 64, 256), 64
LONGER_BATCHES = (64, 256)
COPIES = (1, 5)
SCALES = (10.0, 15.0, 20.0, 40.0)
SELECTED = (1000, 3000, 10_000)
FLAGGED = "flagged"
"""Of ID photographs, by the method's own threshold."""
RESAMPLES, _SEED = 1000, 0
ALL_WORDS = "synonyms of ID names left out"
_COLUMNS = (
    *("table", "id", "copies", "batch", "scale", "corpus", "method", "metric"),
    *("value", "low", "high", "above", "above_low", "above_high"),
)
_ENCODED_AT_ONCE = 250


@dataclass(frozen=True)
class Photographs:
    """A half of the photographs, ``[copies x n, D]``: the photographs themselves, then their copies, time by time.

    Attributes:
        labels: the class of each photograph in ImageNet-1k, n of them.
        embeddings: image i is photograph ``i % n`` or a copy of it.
    """

    labels: tuple[int, ...]
    embeddings: Tensor

    def __len__(self) -> int:
        return len(self.labels)


def read_photographs(folder: Path, half: str, backbone: Backbone, copies: int) -> Photographs:
    """The photographs of a half and their altered copies, embedded; read from the cache where they are there."""
    every = open_imagenet_folder(folder)
    wanted = {path.name for path in halves(folder)[half]}
    images = every.subset([place for place, file in enumerate(every.files) if Path(file).name in wanted])
    own = len(images)
    longer = augment.Augmented(images.open, own, own * copies, _SEED)
    key = augment.fingerprint(images.pixels_fingerprint, _SEED)
    parts = [encode_image_set(backbone, images)]
    for start in range(own, len(longer), _ENCODED_AT_ONCE):
        numbers = range(start, min(len(longer), start + _ENCODED_AT_ONCE))
        part = ImageSet(
            "copies",
            folder,
            tuple(f"{key}/{number}" for number in numbers),
            (0,) * len(numbers),
            decode=partial(_shifted, longer, start),
        )
        parts.append(encode_image_set(backbone, part))
    if unreadable := [file for part in parts for file in part.unreadable]:
        raise ValueError(f"{unreadable[0]} cannot be read; the study takes every photograph of the folder")
    return Photographs(images.labels, torch.cat([part.embeddings for part in parts]))


def _shifted(images: augment.Augmented, start: int, index: int) -> Image.Image:
    return images[start + index]


@dataclass(frozen=True)
class Choice:
    """Which photographs are ID.

    Attributes:
        kind: what tables call it; choices of one kind are averaged.
        members: their places among the photographs.
    """

    kind: str
    members: tuple[int, ...]


def choices_of(labels: Sequence[int]) -> list[Choice]:
    """Random classes, several times, and the groups of classes that the split ``imagenet-folder`` has."""
    found = []
    for seed in range(RANDOM_CHOICES):
        order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
        members = sorted(order[:RANDOM_CLASSES].tolist())
        found.append(Choice(f"{RANDOM_CLASSES} random classes", tuple(members)))
    for name in ("animals", "dogs", "artefacts"):
        found.append(Choice(name, tuple(CLASS_TRACKS[name].select(labels).images)))
    return found


@dataclass(frozen=True)
class Setting:
    """How a stream is made and judged; tables change one thing at a time.

    Attributes:
        copies: how often each photograph comes, itself counted.
        batch: images that are judged at a time; None for methods that keep no state.
        scale: the logit scale; None is the model's own.
        corpus: a name in `CORPORA`.
    """

    copies: int = 1
    batch: int | None = BATCH
    scale: float | None = None
    corpus: str = ALL_WORDS


@dataclass(frozen=True)
class Row:
    """One method in one setting, the mean over the choices of one kind.

    Attributes:
        table: that it belongs to.
        kind: of choice.
        setting: of the streams.
        method: by its name, and what is said of its labels.
        metrics: by name, fractions.
        samples: the same of each resample, ``[resamples, metrics]``; NaN where it lacks ID or OOD photographs.
    """

    table: str
    kind: str
    setting: Setting
    method: str
    metrics: dict[str, float]
    samples: Floats

    def interval(self, metric: str, above: Row | None = None) -> tuple[float, float]:
        """The bootstrap interval of a metric, or of its difference to another row's."""
        samples = self.samples[:, list(self.metrics).index(metric)]
        if above is not None:
            samples = samples - above.samples[:, list(above.metrics).index(metric)]
        return interval(samples[~np.isnan(samples)])


class Study:
    """Measures methods on every choice of ID classes.

    Args:
        photographs: what is judged.
        backbone: what embedded them.
        say: is told what comes next.
    """

    def __init__(
        self, photographs: Photographs, backbone: Backbone, say: Callable[[str], None] = lambda line: None
    ) -> None:
        self._photographs, self._backbone, self._say = photographs, backbone, say
        self._noise = noise_embeddings(backbone)
        self._counts = resample_counts(len(photographs), RESAMPLES, np.random.default_rng(_SEED))
        self._found: list[Row] = []

    def measured(self, choice: Choice) -> list[Row]:
        """All figures of one choice."""
        self._found = []
        self._say(f"{choice.kind}, {len(choice.members)} of {len(self._photographs)} photographs")
        names = imagenet_names()
        whole = build_bank(
            self._backbone, [names[self._photographs.labels[member]] for member in choice.members]
        )
        for copies in COPIES:
            for method in COMPARED:
                for batch in batches_of(copies) if METHODS[method].streaming else (None,):
                    self._stream("streams", choice, Setting(copies, batch), method, whole)
        for scale in SCALES:
            bank = LabelBank(whole.names, whole.embeddings, num_id=whole.num_id, logit_scale=scale)
            for method in COMPARED:
                batch = BATCH if METHODS[method].streaming else None
                self._stream("logit scale", choice, Setting(batch=batch, scale=scale), method, bank)
        for corpus, (removal, keep) in CORPORA.items():
            rest = build_bank(self._backbone, whole.id_names, removal=removal)
            bank = part_of(rest, keep(rest))
            for method in (BASE, *LEARNING):
                batch = BATCH if METHODS[method].streaming else None
                self._stream("corpus", choice, Setting(batch=batch, corpus=corpus), method, bank)
        for count in SELECTED:
            detector = TANL(
                whole,
                **{**TANL.preset("practice"), "num_selected": count},
                seed=_SEED,
                initial_ood=self._noise,
            )
            name = f"TANL (practice), {count} labels"
            self._judge("more labels", choice, Setting(), name, detector)
            self._judge_without_outliers(choice, name, detector)
        for name, scores in ranked_by_the_truth(whole, self._photographs, choice).items():
            self._keep("truth", choice, Setting(batch=None), name, scores)
        return self._found

    def _stream(self, table: str, choice: Choice, setting: Setting, method: str, bank: LabelBank) -> None:
        self._judge(
            table,
            choice,
            setting,
            method,
            METHODS[method].make(Given(bank, self._noise, _SEED, self._backbone.encode_texts)),
        )

    def _judge(self, table: str, choice: Choice, setting: Setting, name: str, detector: Detector) -> None:
        inside, outside = self._sources(choice, setting.copies)
        images = self._photographs.embeddings
        scores = run_stream(
            detector,
            images[inside],
            images[outside],
            order="shuffled",
            seed=_SEED,
            batch_size=setting.batch or max(BATCHES),
        )
        self._keep(table, choice, setting, name, scores)

    def _judge_without_outliers(self, choice: Choice, name: str, detector: TANL) -> None:
        """What the method's own threshold flags of the second half of a stream of ID photographs alone."""
        detector.reset()
        order = torch.randperm(len(choice.members), generator=torch.Generator().manual_seed(_SEED))
        members = torch.tensor(choice.members)[order]
        flagged = []
        for batch in torch.split(members, BATCH):
            z = self._photographs.embeddings[batch]
            flagged.append(detector.predict(z))
            detector(z)
        start = len(members) // 2
        counts = self._counts[:, members[start:].numpy()].astype(np.float64)
        second = torch.cat(flagged)[start:].double().numpy()
        drawn = counts.sum(axis=1)
        samples = np.where(drawn > 0, counts @ second / np.maximum(drawn, 1), np.nan)
        found = Row(
            "more labels",
            choice.kind,
            Setting(),
            f"{name}, no outliers",
            {FLAGGED: float(second.mean())},
            samples[:, None],
        )
        self._found.append(found)

    def _sources(self, choice: Choice, copies: int) -> tuple[list[int], list[int]]:
        """The ID and the OOD images of a stream, as rows of the embeddings."""
        known, own = set(choice.members), len(self._photographs)
        rows = range(own * copies)
        return [row for row in rows if row % own in known], [row for row in rows if row % own not in known]

    def _keep(self, table: str, choice: Choice, setting: Setting, method: str, scores: StreamScores) -> None:
        own = len(self._photographs)
        counts = [self._counts[:, np.array(rows) % own] for rows in self._sources(choice, setting.copies)]
        once = [np.ones((1, len(part)), np.int64) for part in scores]
        metrics = dict(zip(HEADLINE, resampled_metrics(scores, *once)[0].tolist(), strict=True))
        samples = np.full((RESAMPLES, len(HEADLINE)), np.nan)
        # Of few photographs a resample may have none, and then says nothing.
        whole = np.all([part.any(axis=1) for part in counts], axis=0)
        samples[whole] = resampled_metrics(scores, *(part[whole] for part in counts))
        self._found.append(Row(table, choice.kind, setting, method, metrics, samples))


def averaged(rows: Iterable[Row]) -> list[Row]:
    """The rows with those of one kind, setting and method made one: the means over the choices."""
    groups: dict[tuple[str, str, Setting, str], list[Row]] = {}
    for row in rows:
        groups.setdefault((row.table, row.kind, row.setting, row.method), []).append(row)
    return [
        Row(
            *key,
            {metric: fmean(row.metrics[metric] for row in group) for metric in group[0].metrics},
            np.mean([row.samples for row in group], axis=0),
        )
        for key, group in groups.items()
    ]


def batches_of(copies: int) -> tuple[int, ...]:
    """The batches that streams with so many copies are judged in."""
    return BATCHES if copies == 1 else LONGER_BATCHES


def part_of(bank: LabelBank, kept: Tensor) -> LabelBank:
    """A bank with some of its negatives, ``[M]`` bool."""
    rows = torch.cat([torch.arange(bank.num_id), bank.num_id + kept.nonzero()[:, 0]])
    names = [bank.names[row] for row in rows.tolist()]
    return LabelBank(names, bank.embeddings[rows], num_id=bank.num_id, logit_scale=bank.logit_scale)


def every_word(bank: LabelBank) -> Tensor:
    """All of a bank's negatives."""
    return torch.ones(bank.num_negatives, dtype=torch.bool)


def no_class_of_imagenet(bank: LabelBank) -> Tensor:
    """Of a bank's negatives those that are no name of one of ImageNet's classes, its synonyms among them."""
    from timm.data import ImageNetInfo  # type: ignore[attr-defined]

    info: Any = ImageNetInfo("imagenet-1k")
    names = {
        name.strip().casefold()
        for index in range(1000)
        for name in info.index_to_description(index).split(",")
    } | {name.casefold() for name in imagenet_names()}
    return torch.tensor([name.casefold() not in names for name in bank.negative_names])


CORPORA: dict[str, tuple[str, Callable[[LabelBank], Tensor]]] = {
    "ID names left out": ("names", every_word),
    ALL_WORDS: ("synonyms", every_word),
    "kinds of ID classes left out": ("kinds", every_word),
    "no name of an ImageNet class": ("synonyms", no_class_of_imagenet),
}
"""What tables call a corpus, its ``removal`` as `tanl.build_bank` takes it, and which words of the rest are kept."""


def ranked_by_the_truth(bank: LabelBank, photographs: Photographs, choice: Choice) -> dict[str, StreamScores]:
    """NegLabel's sum over the labels that OOD photographs activate more than ID ones, told which are which.

    Once with all photographs, and once for each photograph with all the others: what perfect learning from the rest of
    a stream could tell about it.
    """
    own = len(photographs)
    images = photographs.embeddings[:own]
    logits = bank.logit_scale * images @ torch.cat([bank.id_embeddings, bank.negative_embeddings.float()]).T
    activations = logits.softmax(dim=1)[:, bank.num_id :]
    id_logits, negative_logits = logits[:, : bank.num_id], logits[:, bank.num_id :]
    is_ood = torch.ones(own, dtype=torch.bool)
    is_ood[list(choice.members)] = False
    sums = activations[~is_ood].sum(dim=0), activations[is_ood].sum(dim=0)
    sizes = len(choice.members), own - len(choice.members)
    with_it = sums[1] / sizes[1] - sums[0] / sizes[0]
    found = {}
    for count in SELECTED:
        chosen = with_it.topk(count).indices
        scores = negative_share(id_logits, negative_logits[:, chosen], 0)
        found[f"{count} labels by all photographs"] = _parted(scores, is_ood)
        left_out = torch.empty(own)
        for image in range(own):
            side = int(is_ood[image])
            means = [total / size for total, size in zip(sums, sizes, strict=True)]
            means[side] = (sums[side] - activations[image]) / (sizes[side] - 1)
            chosen = (means[1] - means[0]).topk(count).indices
            rows = slice(image, image + 1)
            left_out[rows] = negative_share(id_logits[rows], negative_logits[rows, chosen], 0)
        found[f"{count} labels by the other photographs"] = _parted(left_out, is_ood)
    return found


def _parted(scores: Tensor, is_ood: Tensor) -> StreamScores:
    values = scores.double()
    return StreamScores(values[~is_ood].numpy(), values[is_ood].numpy())


def comma_separated(rows: Sequence[Row]) -> str:
    """A line for each metric of each row, in percent: its interval, and beside it the difference to NegLabel's."""
    text = io.StringIO()
    writer = csv.DictWriter(text, _COLUMNS, restval="", lineterminator="\n")
    writer.writeheader()
    for row in rows:
        base, setting = base_of(rows, row), row.setting
        for metric, value in row.metrics.items():
            found = dict(zip(("value", "low", "high"), (value, *row.interval(metric)), strict=True))
            if base is not None:
                found["above"] = value - base.metrics[metric]
                found["above_low"], found["above_high"] = row.interval(metric, above=base)
            writer.writerow(
                {
                    "table": row.table,
                    "id": row.kind,
                    "copies": setting.copies,
                    "batch": "" if setting.batch is None else setting.batch,
                    "scale": "" if setting.scale is None else f"{setting.scale:g}",
                    "corpus": setting.corpus,
                    "method": row.method,
                    "metric": metric,
                    **{name: f"{100 * figure:.2f}" for name, figure in found.items()},
                }
            )
    return text.getvalue()


def base_of(rows: Iterable[Row], row: Row) -> Row | None:
    """NegLabel on the same images with the same labels; None for itself, and where there are no outliers."""
    if row.method == BASE or FLAGGED in row.metrics:
        return None
    table = "streams" if row.table in ("truth", "more labels") else row.table
    wanted = (table, row.kind, replace(row.setting, batch=None), BASE)
    return next((one for one in rows if (one.table, one.kind, one.setting, one.method) == wanted), None)


def markdown(rows: Sequence[Row]) -> str:
    """The tables: AUROC / FPR95_ID in percent."""
    lines = []
    kinds = list(dict.fromkeys(row.kind for row in rows))
    found = {(row.table, row.kind, row.setting, row.method): row for row in rows}

    def table(title: str, head: Sequence[str], body: Iterable[Sequence[str]]) -> None:
        lines.extend([f"### {title}", "", _line(head), _line(["---", *["---:"] * (len(head) - 1)])])
        lines.extend(_line(cells) for cells in body)
        lines.append("")

    for copies in COPIES:
        for kind in kinds:
            table(
                f"{kind}, each photograph {'once' if copies == 1 else f'{copies} times'}",
                ["method", *(f"batches of {batch}" for batch in batches_of(copies))],
                [
                    [
                        method,
                        *(
                            _shown(found["streams", kind, Setting(copies, _batch(method, batch)), method])
                            for batch in batches_of(copies)
                        ),
                    ]
                    for method in COMPARED
                ],
            )
    gains = [method for method in LEARNING if method.startswith("TANL")]
    table(
        f"AUROC above {BASE}'s, batches of {BATCH}",
        ["ID classes", "each photograph", *gains],
        [
            [kind, f"{copies} times" if copies > 1 else "once"]
            + [_gain(found["streams", kind, Setting(copies), method], base) for method in gains]
            for kind in kinds
            for copies in COPIES
            for base in [found["streams", kind, Setting(copies, None), BASE]]
        ],
    )
    for kind in kinds:
        table(
            f"{kind}, logit scale",
            ["method", *(f"{scale:g}" for scale in SCALES)],
            [
                [
                    method,
                    *(
                        _shown(found["logit scale", kind, Setting(1, _batch(method, BATCH), scale), method])
                        for scale in SCALES
                    ),
                ]
                for method in COMPARED
            ],
        )
    for kind in kinds:
        table(
            f"{kind}, words of the corpus",
            ["corpus", BASE, *LEARNING],
            [
                [
                    corpus,
                    *(
                        _shown(found["corpus", kind, Setting(1, _batch(method, BATCH), None, corpus), method])
                        for method in (BASE, *LEARNING)
                    ),
                ]
                for corpus in CORPORA
            ],
        )
    table(
        "How many labels are selected",
        ["TANL (practice)", *(f"{kind}{what}" for kind in kinds for what in ("", ", flagged"))],
        [
            [
                f"{count} labels",
                *(
                    cell
                    for kind in kinds
                    for name in [f"TANL (practice), {count} labels"]
                    for cell in (
                        _shown(found["more labels", kind, Setting(), name]),
                        f"{100 * found['more labels', kind, Setting(), f'{name}, no outliers'].metrics[FLAGGED]:.0f}",
                    )
                ),
            ]
            for count in SELECTED
        ],
    )
    titles = list(dict.fromkeys(row.method for row in rows if row.table == "truth"))
    table(
        "Labels ranked by the truth",
        ["labels", *kinds],
        [
            [title, *(_shown(found["truth", kind, Setting(batch=None), title]) for kind in kinds)]
            for title in titles
        ],
    )
    return "\n".join(lines)


def _batch(method: str, batch: int) -> int | None:
    return batch if METHODS[method].streaming else None


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _shown(row: Row) -> str:
    return f"{100 * row.metrics['AUROC']:.1f} / {100 * row.metrics['FPR95_ID']:.1f}"


def _gain(row: Row, base: Row) -> str:
    low, high = (100 * end for end in row.interval("AUROC", above=base))
    return f"{100 * (row.metrics['AUROC'] - base.metrics['AUROC']):+.1f} [{low:+.1f}, {high:+.1f}]"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--photos", type=a_path, required=True, help="folder of photographs, one of each class"
    )
    parser.add_argument("--half", choices=["choosing", "reporting"], required=True)
    parser.add_argument("--out", type=a_path, required=True, help="folder for the tables")
    options = parser.parse_args(arguments)
    backbone = load_backbone(BACKBONE)
    try:
        photographs = read_photographs(options.photos, options.half, backbone, max(COPIES))
    except (ValueError, OSError) as error:
        parser.exit(2, f"{parser.prog}: {error}\n")
    study = Study(photographs, backbone, lambda line: print(line, flush=True))
    rows = averaged(row for choice in choices_of(photographs.labels) for row in study.measured(choice))
    options.out.mkdir(parents=True, exist_ok=True)
    for ending, text in (("csv", comma_separated(rows)), ("md", markdown(rows))):
        write_whole(options.out / f"{options.half}.{ending}", text.encode())


if __name__ == "__main__":
    main()
