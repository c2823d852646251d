"""Every Python example of the pages in docs/ runs, with tiny models in place of those that need weights."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import open_clip
import pytest
import torch
from colour_backbone import COLOURS, ColourBackbone, paint
from PIL import Image
from test_wrap import OpenAIClip, to_pixels, tokenize

import tanl
from conftest import unit
from tanl.guard import saving as saved_guard
from tanl.labels import corpus

DOCS = Path(__file__).parents[1] / "docs"
WORDS = corpus.Corpus.load([*COLOURS, *(f"word {number}" for number in range(63))])


@pytest.fixture
def photos(tmp_path, monkeypatch) -> list[Path]:
    """A folder with images to work in, a small corpus, and a model that needs no weights."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TANL_CACHE", str(tmp_path / "cache"))
    loaded = corpus.Corpus.load
    monkeypatch.setattr(
        corpus.Corpus, "load", lambda source: WORDS if str(source).startswith("wordnet") else loaded(source)
    )
    for module in (tanl, saved_guard):
        monkeypatch.setattr(module, "load_backbone", lambda name, **_: ColourBackbone(), raising=False)
    colours = list(COLOURS)
    return [paint(Path(f"photo-{i}.png"), colours[i % len(colours)]) for i in range(1, 25)]


def examples(page: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", (DOCS / page).read_text(encoding="utf-8"), flags=re.DOTALL)


def run(page: str, names: dict[str, object], *, with_model: str = "") -> dict[str, object]:
    """Run a page's examples one after the other, as a reader would; gives the names that they leave.

    ``with_model`` stands in for the hub's model of a pipeline.
    """
    found = examples(page)
    assert found
    for number, example in enumerate(found, start=1):
        example = example.replace('model="google/siglip-base-patch16-224"', f"model={with_model!r}")
        exec(compile(example, f"{page}, example {number}", "exec"), names)
    return names


def test_examples_of_thresholds(photos, capsys):
    names = run("thresholds.md", {"known_images": photos[:20], "images": photos})
    assert names["guard"].detector.threshold <= 1
    assert names["flagged"].shape == (24,)


def test_examples_of_streams(photos, capsys):
    names = run("streams.md", {"paths": photos})
    assert names["guard"].bank.id_names == ("mammal", "bird", "reptile", "fish")
    assert names["guard"].bank.negative_names[-1] == "lens cap"
    printed = capsys.readouterr().out.splitlines()
    assert len(printed) == 2 * len(photos)  # a verdict an image, from the stream and from asyncio


def test_examples_of_integrations(photos, monkeypatch, capsys):
    pytest.importorskip("transformers")
    pytest.importorskip("pytorch_ood")
    import tiny_hugging_face

    tiny_clip = {
        "embed_dim": 16,
        "vision_cfg": {"image_size": 32, "layers": 1, "width": 32, "patch_size": 16, "head_width": 16},
        "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
    }
    made = open_clip.CLIP(**tiny_clip)
    monkeypatch.setattr(
        open_clip,
        "create_model_and_transforms",
        lambda name, pretrained: (
            made,
            None,
            lambda image: to_pixels(image.resize((32, 32))).repeat_interleave(2, 1).repeat_interleave(2, 2),
        ),
    )
    monkeypatch.setitem(
        sys.modules, "clip", SimpleNamespace(load=lambda name: (OpenAIClip(), to_pixels), tokenize=tokenize)
    )
    folder = tiny_hugging_face.save_tiny("siglip", Path("siglip"))
    names: dict[str, object] = {
        "photo": Image.open(photos[0]),
        "embed_images": lambda pixels: pixels.mean(dim=(2, 3)).numpy() + 0.1,
        "embed_texts": lambda texts: (
            np.array([[len(text), 1.0, 2.0] for text in texts])
            + np.random.default_rng(0).random((len(texts), 3))
        ),
        "names": ["cat", "dog", *WORDS.words],
        "label_embeddings": unit(2 + len(WORDS.words), 16),
        "image_embeddings": unit(63, 16, seed=1).numpy(),
        "images": unit(63, 16, seed=2),
        "targets": torch.arange(63) % 2 - 1,
    }
    names = run("integrations.md", names, with_model=str(folder))
    assert torch.equal(names["features"], made.encode_image(names["pixels"]))
    assert "AUROC" in capsys.readouterr().out
