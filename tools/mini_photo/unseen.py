"""Measure how ``mini-photo``'s recipe names what the text side never saw: made anew without the names of 200 classes.

    python -m tools.mini_photo.unseen --packages DIR --work DIR --photos FOLDER

``--photos`` is a folder as `evaluate` takes it; the 200 classes are a seeded choice among those of its reporting half.
Their names and synonyms are in no text that is learned from, and their rows in no mean that a wider word gets, so that
the text tower knows of them only what WordNet and the sentence embeddings of other words say. The image side stays
what it is: the trunk has seen all classes, and the projection is that of all rows. ``--work`` keeps the embedded texts
and may be the folder of a training. ``--map-only`` leaves the text tower out, which takes nearly all of the time, and
measures what it would have to learn: where the map from WordNet and sentence embeddings places the hidden names.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from tanl.backbones.clip import ClipBackbone
from tanl.backbones.mini_photo import PATH
from tanl.backbones.open_clip import load_open_clip
from tanl.benchmarks.data.class_names import class_names
from tanl.benchmarks.data.imagenet import imagenet_index
from tanl.io.arguments import a_path, positive_number

from ..mini import inputs, teacher
from ..mini.evaluate import accuracy
from ..mini.folders import write_folder
from ..mini.stages import Workspace
from . import train
from .evaluate import PROMPTS, embed, halves
from .rows import Words, taught_words
from .wordnet import Nouns, read_nouns

UNSEEN = 200
_SEED = 0


@dataclass(frozen=True)
class Hiding:
    """What a training without some classes has.

    Attributes:
        taught: the texts whose row is known, with their classes as places in ``seen``.
        seen: the classes whose names are taught.
        texts: those that nothing is learned from.
    """

    taught: dict[str, tuple[str, tuple[int, ...]]]
    seen: tuple[int, ...]
    texts: frozenset[str]


def hide(
    nouns: Nouns, names: Sequence[Sequence[str]], offsets: Sequence[str], unseen: Collection[int]
) -> Hiding:
    """Leave classes out of what is taught.

    Args:
        nouns: WordNet.
        names: of each class.
        offsets: each class's meaning.
        unseen: the classes that are left out.
    """
    seen = tuple(index for index in range(len(names)) if index not in unseen)
    hidden = frozenset(
        word.lower() for index in unseen for word in (*names[index], *nouns.synsets[offsets[index]].words)
    )
    taught = taught_words(nouns, [names[index] for index in seen], [offsets[index] for index in seen])
    # A name that a class shares with another is not taught as the other's either: `crane`, the bird and the machine.
    return Hiding({text: known for text, known in taught.items() if text not in hidden}, seen, hidden)


def without(words: Words, texts: Collection[str]) -> Words:
    """The words but for some texts."""
    kept = [place for place, text in enumerate(words.texts) if text not in texts]
    return Words(
        [words.texts[place] for place in kept],
        [words.meanings[place] for place in kept],
        words.names[kept],
        words.descriptions[kept],
    )


def targets_of(nouns: Nouns, words: Words, hiding: Hiding, rows: Tensor) -> Tensor:
    """What the seen classes say of words, from the rows of all classes [1000, PHOTO]."""
    offsets = train.imagenet_offsets()
    return train.text_targets(
        nouns, words, hiding.taught, rows[list(hiding.seen)], [offsets[index] for index in hiding.seen]
    )


def learn(workspace: Workspace, nouns: Nouns, hiding: Hiding, steps: int) -> Any:
    """The open_clip model of a training without what is hidden."""
    projection = train.image_projection(workspace)
    corpus, _ = train.load_corpus(workspace)
    targets = targets_of(nouns, without(train.load_words(workspace), hiding.texts), hiding, projection.rows)
    captions, lemmas = (
        [text for text in part if text not in hiding.texts] for part in (corpus.captions, corpus.lemmas)
    )
    kept = teacher.TextCorpus(captions, lemmas, [])
    tower = train.taught_tower(kept, targets.half(), replace(train.DISTIL, steps=steps))
    return train.assemble(train.load_trunk(workspace), projection.weight, projection.bias, tower.state_dict())


def figures(backbone: ClipBackbone, images: Tensor, classes: Sequence[int]) -> dict[str, Any]:
    """Accuracy on one photograph of each class, among these classes' names and among all, by prompt."""
    names = class_names("imagenet-1k")
    found: dict[str, Any] = {}
    for prompt, template in PROMPTS.items():
        texts = backbone.encode_texts([template.format(name) for name in names])
        found[prompt] = {
            "among them": accuracy(images @ texts[list(classes)].T, torch.arange(len(classes))),
            "among all": accuracy(images @ texts.T, torch.tensor(classes)),
        }
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--packages", type=a_path, required=True, help="folder of package archives")
    parser.add_argument("--work", type=a_path, required=True, help="folder for what is made on the way")
    parser.add_argument(
        "--photos", type=a_path, required=True, help="folder of photographs, one of each class"
    )
    parser.add_argument(
        "--steps", type=positive_number, default=train.DISTIL.steps, help="of the distillation"
    )
    parser.add_argument("--map-only", action="store_true", help="measure the map without training a tower")
    parser.add_argument("--threads", type=positive_number, default=1)
    options = parser.parse_args(arguments)
    files = halves(options.photos)["reporting"]
    if len(files) < UNSEEN:
        parser.exit(
            2, f"{options.photos} has {len(files)} photographs for reporting; {UNSEEN} classes are hidden\n"
        )
    try:
        archives = inputs.find(options.packages, train.PACKAGES)
    except inputs.MissingInputError as error:
        parser.exit(2, f"{error}\n")
    torch.set_num_threads(options.threads)
    folders = inputs.unpack(archives, options.work / "packages")
    workspace = Workspace(options.work, {package.name: folder for package, folder in folders.items()})
    train.embed_texts(workspace)

    chosen = torch.randperm(len(files), generator=torch.Generator().manual_seed(_SEED))[:UNSEEN].sort().values
    photographs = [files[place] for place in chosen.tolist()]
    classes = [imagenet_index(path.name.partition("_")[0]) for path in photographs]
    nouns = read_nouns(workspace.packages["wordnet-base"])
    hiding = hide(nouns, train.all_names(), train.imagenet_offsets(), set(classes))
    words = train.load_words(workspace)
    places = {text: place for place, text in enumerate(words.texts)}
    placed = targets_of(nouns, words, hiding, train.image_projection(workspace).rows)[
        [places[names[0].lower()] for names in map(train.all_names().__getitem__, classes)]
    ]
    shipped = load_open_clip(f"local-dir:{PATH}")
    images = embed(shipped, photographs)
    found: dict[str, Any] = {
        "unseen": len(classes),
        "texts left out": len(hiding.texts),
        "mini-photo, which saw them": figures(shipped, images, classes),
        "the map": accuracy(images @ placed.T, torch.arange(len(classes))),
    }
    if not options.map_only:
        folder = workspace.path("without_200")
        model = learn(workspace, nouns, hiding, options.steps)
        write_folder(folder, model, train.MODEL_CONFIG, train.PREPROCESS_CONFIG)
        trained = load_open_clip(f"local-dir:{folder}")
        found["steps"] = options.steps
        found["a text tower"] = figures(trained, embed(trained, photographs), classes)
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
