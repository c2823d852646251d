"""``python -m tools corpus-size``: what fewer negative labels cost, for several rules of choosing them from WordNet.

The rules are compared on the ID sets ``animals`` and ``food``; ``travel``, ``objects`` and ``coarse-10`` then tell what
the one that was chosen costs on sets that had no say. Streams are shuffled, and the mean is over OOD sets and seeds.
"""

from __future__ import annotations

import argparse
import hashlib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

import numpy as np
import torch

from tanl.backbones.noise import noise_embeddings
from tanl.benchmarks.engine.protocol import run_stream
from tanl.benchmarks.output.targets import add_json_option, check_targets, write_json
from tanl.benchmarks.pictograms.tracks import TRACKS, check_tracks
from tanl.detectors.registry import FROM_OUTLIERS, METHODS, make_detector
from tanl.labels.bank import LabelBank
from tanl.labels.build import build_bank
from tanl.labels.corpus import Corpus
from tanl.labels.wordnet import synsets_of_wordnet, words_by_kinds
from tanl.metrics import OODMetrics

from .embedded_pictograms import embedded_pictograms

WHOLE = "wordnet"
_BATCH = 64


@dataclass(frozen=True)
class Row:
    """The means over the streams of an ID set.

    Attributes:
        track: the ID set.
        rule: how words were chosen; "wordnet" is all of them.
        words: how many.
        method: the method's name.
        auroc: a fraction.
        fpr95_id: a fraction, ID positive.
    """

    track: str
    rule: str
    words: int
    method: str
    auroc: float
    fpr95_id: float


def at_random(corpus: Corpus) -> list[float | str]:
    """By chance: the words' SHA-256."""
    return [hashlib.sha256(word.encode()).hexdigest() for word in corpus.words]


def short(corpus: Corpus) -> list[float]:
    """The shortest first."""
    return [len(word) for word in corpus.words]


def common(corpus: Corpus) -> list[float]:
    """The words with the most senses first: those that are used most."""
    senses = Counter(lemma.casefold() for synset in synsets_of_wordnet() for lemma in synset.lemmas)
    return [-senses[word.casefold()] for word in corpus.words]


def general(corpus: Corpus) -> list[int]:
    """The words with the most kinds first: what stands for many others. `wordnet-10k` is made by it."""
    place = {word: number for number, word in enumerate(words_by_kinds())}
    return [place[word.casefold()] for word in corpus.words]


def first(corpus: Corpus) -> list[float]:
    """Words that stand first in a synset, by chance; then the others."""
    heads = {synset.lemmas[0].casefold() for synset in synsets_of_wordnet()}
    return [word.casefold() not in heads for word in corpus.words]


def single(corpus: Corpus) -> list[float]:
    """Words without a space and without a capital, by chance; then the others."""
    return [" " in word or word != word.lower() for word in corpus.words]


RULES: dict[str, Callable[[Corpus], Sequence[float | str]]] = {
    "random": at_random,
    "short": short,
    "common": common,
    "general": general,
    "first": first,
    "single": single,
}
"""What puts the words of a corpus in order, the first to be kept first; where it says nothing, chance does."""


def chosen(corpus: Corpus, rule: str, count: int) -> Corpus:
    """The first words by a rule, in the corpus's own order."""
    chance = at_random(corpus)
    keys = RULES[rule](corpus)
    order = sorted(range(len(corpus)), key=lambda i: (keys[i], chance[i]))
    kept = sorted(order[:count])
    return Corpus(
        tuple(corpus.words[i] for i in kept),
        tuple(corpus.parts_of_speech[i] for i in kept),
        f"{rule}-{count}",
    )


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the command's options."""
    parser.add_argument(
        "--tracks", metavar="NAMES", default="animals, food", help="ID sets (default: %(default)s)"
    )
    parser.add_argument(
        "--rules",
        metavar="NAMES",
        default=", ".join(RULES),
        help="some of %(default)s, or selections by name",
    )
    parser.add_argument("--sizes", metavar="N", type=int, nargs="+", default=[10_000, 30_000])
    parser.add_argument("--methods", metavar="NAMES", default="neglabel, tanl", help="(default: %(default)s)")
    parser.add_argument("--seeds", metavar="N", type=int, nargs="+", default=[0, 1, 2])
    add_json_option(parser)


def main(arguments: argparse.Namespace) -> int:
    """Run the command and print its table."""
    tracks, rules, methods = (
        [name.strip() for name in names.split(",")]
        for names in (arguments.tracks, arguments.rules, arguments.methods)
    )
    check_tracks(tracks)
    if unknown := [name for name in methods if name not in METHODS]:
        raise ValueError(f"no method {unknown[0]!r}; there are {', '.join(METHODS)}")
    check_targets(arguments.json)
    whole = Corpus.load(WHOLE)
    corpora = {(WHOLE, len(whole)): whole}
    for rule in rules:
        if rule in RULES:
            corpora |= {(rule, count): chosen(whole, rule, count) for count in arguments.sizes}
        else:
            corpora[rule, len(Corpus.load(rule))] = Corpus.load(rule)
    backbone, rows, images = embedded_pictograms()
    noise = noise_embeddings(backbone)
    results: list[Row] = []
    for track in tracks:
        selection = TRACKS[track].select(rows)
        inside = images[selection.images]
        outside = [images[members] for _, members in selection.ood.values()]
        for (rule, words), corpus in corpora.items():
            bank = build_bank(backbone, selection.classes, corpus=corpus)
            for method in methods:
                initial = noise if method in FROM_OUTLIERS else None
                means = _means(bank, method, inside, outside, arguments.seeds, initial)
                results.append(Row(track, rule, words, method, *means))
    print(format_table(results))
    if arguments.json is not None:
        record = {"torch": torch.__version__, "seeds": arguments.seeds, "batch_size": _BATCH}
        write_json(arguments.json, {**record, "rows": [asdict(row) for row in results]})
    return 0


def format_table(results: list[Row]) -> str:
    """AUROC / FPR95_ID in percent: a line a corpus, a column an ID set and method, means over ID sets at the end."""
    columns = list(dict.fromkeys((row.method, row.track) for row in results))
    methods = list(dict.fromkeys(row.method for row in results))
    found = {(row.rule, row.words, row.method, row.track): row for row in results}
    heads = [f"{method}: {track}" for method, track in columns] + [f"{method}: mean" for method in methods]
    lines = [
        f"| words | {' | '.join(heads)} |",
        "| --- |" + " ---: |" * (len(columns) + len(methods)),
    ]
    for rule, words in dict.fromkeys((row.rule, row.words) for row in results):
        cells = [found[rule, words, method, track] for method, track in columns]
        shown = [_cell(cell.auroc, cell.fpr95_id) for cell in cells]
        for method in methods:
            own = [cell for cell in cells if cell.method == method]
            shown.append(
                _cell(float(np.mean([c.auroc for c in own])), float(np.mean([c.fpr95_id for c in own])))
            )
        lines.append(f"| {rule}, {words} | {' | '.join(shown)} |")
    return "\n".join(lines)


def _cell(auroc: float, fpr95_id: float) -> str:
    return f"{100 * auroc:.1f} / {100 * fpr95_id:.1f}"


def _means(
    bank: LabelBank,
    method: str,
    inside: torch.Tensor,
    outside: list[torch.Tensor],
    seeds: Sequence[int],
    initial: torch.Tensor | None,
) -> tuple[float, float]:
    measured = []
    for seed in seeds:
        for ood in outside:
            detector = make_detector(method, bank, seed=seed, initial_ood=initial)
            scores = run_stream(detector, inside, ood, order="shuffled", seed=seed, batch_size=_BATCH)
            metrics = OODMetrics()
            metrics.update(scores.id, np.zeros(len(scores.id)))
            metrics.update(scores.ood, np.full(len(scores.ood), -1))
            values = metrics.compute()
            measured.append((values["AUROC"], values["FPR95_ID"]))
    auroc, fpr95_id = np.mean(measured, axis=0)
    return float(auroc), float(fpr95_id)
