"""``python -m tools costs``: what a model costs before anything is detected: texts and images a second, megabytes.

The models that ship, and CLIP's architectures with random weights, on which speed does not depend. Speeds of a machine
that does other work besides are no speeds: run it where nothing else runs.
"""

from __future__ import annotations

import argparse
import os
import platform
import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from tanl.backbones import Backbone, load_backbone
from tanl.backbones.clip import ClipBackbone
from tanl.backbones.loading import quiet
from tanl.backbones.open_clip import EMBEDDED
from tanl.benchmarks.output.targets import add_json_option, check_targets, write_json
from tanl.cli.doctor import rates
from tanl.io.arguments import a_path
from tanl.io.progress import duration
from tanl.labels.build import label_prompts
from tanl.labels.corpus import Corpus

CORPUS = "wordnet"
ARCHITECTURES = ("ViT-B-32-quickgelu", "ViT-B-16-quickgelu", "ViT-L-14-quickgelu")
"""Those of OpenAI's weights."""
_TABLE = re.compile(r"(<!-- costs -->\n).*?(<!-- /costs -->)", flags=re.DOTALL)
_HEAD = (
    "| Model | texts a second | the corpus, once | images a second | weights, MB | the corpus's embeddings, MB |",
    "| --- | --- | --- | --- | --- | --- |",
)


@dataclass(frozen=True)
class Cost:
    """What one model costs.

    Attributes:
        model: its name.
        texts: a second.
        images: a second, prepared and encoded, without reading files.
        weights: megabytes, in float32.
        corpus_texts: of the default corpus.
        dim: of the embeddings.
    """

    model: str
    texts: float
    images: float
    weights: float
    corpus_texts: int
    dim: int

    def row(self) -> str:
        """As the table has it."""
        cells = (
            self.model,
            f"{self.texts:.0f}",
            duration(self.corpus_texts / self.texts),
            f"{self.images:.1f}",
            f"{self.weights:.0f}",
            f"{self.corpus_texts * self.dim * 4 / 1e6:.0f}",
        )
        return f"| {' | '.join(cells)} |"


def loaded(name: str) -> Backbone:
    """A model that ships, or one of open_clip's architectures with random weights.

    Raises:
        ValueError: there is no such model.
    """
    import open_clip

    if name in EMBEDDED:
        return load_backbone(name)
    if name not in open_clip.list_models():
        raise ValueError(f"no model {name!r}: give {', '.join(EMBEDDED)}, or an architecture of open_clip")
    with quiet():  # it warns of the random weights, which are meant
        model, _, preprocess = open_clip.create_model_and_transforms(
            name, pretrained=None, force_custom_text=True
        )
    model.eval().to(memory_format=torch.channels_last)  # as `load_backbone` does
    return ClipBackbone(model, preprocess, open_clip.get_tokenizer(name), name=f"{name}, random weights")


def measure(name: str) -> Cost:
    """What a model costs on this machine.

    Raises:
        ValueError: there is no such model.
    """
    backbone = loaded(name)
    found = rates(backbone)
    numbers = sum(each.numel() for each in backbone.model.parameters())  # type: ignore[attr-defined]
    texts = len(set(label_prompts((), Corpus.load(CORPUS), None)))
    dim = backbone.encode_texts(["a photo"]).shape[1]
    return Cost(name, found.texts, found.images, numbers * 4 / 1e6, texts, dim)


def machine() -> str:
    """What it was measured on, in a line."""
    processor = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        named = re.search(r"^model name\s*:\s*(.+)$", cpuinfo.read_text(encoding="utf-8"), re.MULTILINE)
        processor = named[1] if named else processor
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return (
        f"Measured on {cores} cores of {processor}, {torch.get_num_threads()} threads, float32, torch "
        f"{torch.__version__}."
    )


def table(costs: Iterable[Cost]) -> str:
    """The costs as Markdown."""
    return "\n".join((*_HEAD, *(cost.row() for cost in costs)))


def write_page(path: Path, text: str) -> None:
    """Put the table into a page, between its marks."""
    page = path.read_text(encoding="utf-8")
    path.write_text(_TABLE.sub(lambda marks: f"{marks[1]}{text}\n{marks[2]}", page), encoding="utf-8")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the command's options."""
    parser.add_argument(
        "--models",
        nargs="+",
        metavar="NAME",
        default=[*EMBEDDED, *ARCHITECTURES],
        help="models that ship, and architectures of open_clip (default: %(default)s)",
    )
    parser.add_argument(
        "--page", type=a_path, metavar="FILE", help="put the table into this page: docs/costs.md"
    )
    add_json_option(parser)


def main(arguments: argparse.Namespace) -> int:
    """Measure, and print the table."""
    check_targets(arguments.json, arguments.page)
    if arguments.page is not None and not _TABLE.search(arguments.page.read_text(encoding="utf-8")):
        raise ValueError(f"{arguments.page} has no <!-- costs --> ... <!-- /costs --> to put the table into")
    costs = []
    for name in arguments.models:
        costs.append(measure(name))
        print(costs[-1].row(), flush=True)
    text = f"{machine()}\n\n{table(costs)}"
    print(f"\n{text}")
    if arguments.page is not None:
        write_page(arguments.page, text)
    if arguments.json is not None:
        write_json(arguments.json, {"machine": machine(), "costs": [asdict(cost) for cost in costs]})
    return 0
