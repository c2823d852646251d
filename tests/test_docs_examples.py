"""Every Python example of the pages and of docstrings runs, with tiny models in place of those that need weights.

The README's is in test_docs.py.
"""

from __future__ import annotations

import argparse
import ast
import asyncio
import doctest
import importlib
import inspect
import re
import sys
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import open_clip
import pytest
import torch
from colour_backbone import COLOURS, ColourBackbone, paint
from PIL import Image
from test_wrap import OpenAIClip, to_pixels, tokenize

import tanl
from conftest import unit
from tanl.detectors.base import Evidence
from tanl.detectors.verdict import Verdict
from tanl.guard import saving as saved_guard
from tanl.io import options
from tanl.labels import corpus
from tanl.streams.result_files import open_results
from tanl.streams.results import Result

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
FOLDERS = ("docs", "tanl", "benchmarks", "corpora", "tools", "tests")
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


def test_no_page_has_examples_that_do_not_run():
    pages = {*ROOT.glob("*.md"), *(page for folder in FOLDERS for page in (ROOT / folder).rglob("*.md"))}
    assert {page.name for page in pages if "```python" in page.read_text(encoding="utf-8")} == {
        "README.md",  # in test_docs.py
        "MODEL_CARD.md",
        "serve.md",
        "thresholds.md",
        "streams.md",
        "integrations.md",
        "index.md",
        "first-hour.md",
        "folders.md",
        "corpora.md",
        "beyond.md",
        "scale.md",
    }


def test_examples_of_thresholds(photos, capsys):
    names = run("thresholds.md", {"known_images": photos[:20], "newer_images": photos[4:], "images": photos})
    assert names["guard"].detector.threshold <= 1
    assert names["flagged"].shape == (24,)


def test_examples_of_services(photos, capsys):
    pytest.importorskip("fastapi", reason="needs FastAPI: pip install 'tanl[serve]'")
    names = run("serve.md", {"paths": photos})
    assert len(capsys.readouterr().out.splitlines()) == len(photos)
    assert tanl.Guard.load("guard").bank.id_names[-1] == "fish"
    assert {route.path for route in names["app"].routes} >= {
        "/judge",
        "/score",
        "/labels",
        "/calibrate",
        "/health",
    }


def test_examples_of_streams(photos, capsys):
    names = run("streams.md", {"paths": photos})
    assert names["guard"].bank.id_names == ("mammal", "bird", "reptile", "fish")
    assert names["guard"].bank.negative_names[-1] == "lens cap"
    printed = capsys.readouterr().out.splitlines()
    assert (
        len(printed) == 2 * len(photos) + 1
    )  # a verdict an image, from the stream and from asyncio; and the merged
    left, right = (names[side].detector.state.images for side in ("left", "right"))
    assert left - right == len(photos[::2])
    assert printed[-1] == str(left)


def test_example_of_the_first_page(photos, capsys):
    run("index.md", {})
    assert len(capsys.readouterr().out.splitlines()) == 2


def test_example_of_the_first_hour(photos, capsys):
    run("first-hour.md", {"known_images": photos[:20], "images": photos})
    assert " of 24 flagged" in capsys.readouterr().out
    assert Path("guard").is_dir()


def test_example_of_folders(photos, capsys):
    with open_results("results.csv") as writer:
        writer.describe({"method": "tanl", "threshold": 0.5})
        writer.write([Result(photos[0], Verdict(0.9, True, "cat", 0.5, (Evidence("spoon", 0.25),)))])
        writer.write([Result(photos[1], error="the file is empty")])
    run("folders.md", {})
    assert capsys.readouterr().out == f"{photos[0]} 0.9 spoon 25%\ntanl 0.5\n"


def test_example_of_corpora(photos):
    names = run("corpora.md", {})
    assert {"lens cap", "bus"} <= {*names["guard"].bank.negative_names}
    assert "pigeon" not in names["guard"].bank.negative_names


def test_example_of_what_is_past_one_machine(photos, capsys):
    names = run("scale.md", {})
    assert capsys.readouterr().out == "torch.Size([8])\n"
    assert names["index"].num_struck == 1


def test_examples_of_what_comes_after(photos, capsys):
    pytest.importorskip("faiss")
    transformers = pytest.importorskip("transformers")
    backbone = ColourBackbone()
    guard = tanl.Guard(backbone, labels=["red", "green"])
    config = transformers.LlamaConfig(
        vocab_size=50,
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        attn_implementation="eager",
    )
    names: dict[str, object] = {
        "backbone": backbone,
        "guard": guard,
        "photos": photos,
        "flagged": photos[0::5],
        "known": photos[1::5],
        "leaf_embeddings": backbone.encode_texts(["a red thing", "a green thing", "a blue thing"]),
        "model": transformers.LlamaForCausalLM(config).eval(),
        "input_ids": torch.arange(9)[None],
        "pixels": torch.rand(len(photos), 3, 16, 16, generator=torch.Generator().manual_seed(0)),
        "known_z": guard.encode(photos[1::5]),
        "known_error": torch.linspace(0, 0.1, len(photos[1::5])),
    }
    run("beyond.md", names)
    printed = capsys.readouterr().out
    assert "kept, " in printed and "answer='cardiomegaly'" in printed
    assert len(names["rows"]) and names["verdict"].slices
    assert "left out:" in printed and len(names["both"]) == len(photos)


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


@pytest.mark.parametrize("folder", ["mini", "mini_photo"])
def test_example_of_the_model_card(folder):
    card = (ROOT / "tanl" / "backbones" / folder / "MODEL_CARD.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"```python\n(.*?)```", card, flags=re.DOTALL)
    names: dict[str, object] = {}
    exec(compile(example, "MODEL_CARD.md", "exec"), names)
    z = names["backbone"].encode_texts(["The nice dog."])
    theirs = names["model"].eval().encode_text(names["tokenizer"](["The nice dog."]))
    torch.testing.assert_close(z, torch.nn.functional.normalize(theirs, dim=1), atol=1e-5, rtol=0)


def docstrings() -> Iterator[tuple[str, str]]:
    """All docstrings, by where they are: ``tanl.guard.guard:Guard.stream``."""
    for path in sorted(
        path for folder in ("tanl", "benchmarks", "tools") for path in (ROOT / folder).rglob("*.py")
    ):
        first, *parts = path.relative_to(ROOT).with_suffix("").parts
        first = "tanl.benchmarks" if first == "benchmarks" else first
        module = ".".join([first, *(part for part in parts if part != "__init__")])
        waiting: list[tuple[str, ast.AST]] = [("", ast.parse(path.read_text(encoding="utf-8")))]
        while waiting:
            name, node = waiting.pop()
            if text := ast.get_docstring(node):  # type: ignore[arg-type]
                yield f"{module}:{name}", text
            for each in ast.iter_child_nodes(node):
                if isinstance(each, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                    waiting.append((f"{name}.{each.name}".lstrip("."), each))


def code_in(text: str) -> str:
    """The indented blocks behind ``::`` that call something; formulas and drawings do not."""
    found = []
    for block in re.findall(r"::\n\n((?: +\S.*\n|\n)+)", f"{text}\n"):
        code = textwrap.dedent(block).strip()
        try:
            nodes = [*ast.walk(ast.parse(code))]
        except SyntaxError:
            continue
        if any(isinstance(node, ast.Call) for node in nodes):
            found.append(code)
    return "\n".join(found)


EXAMPLES = {place: code for place, text in docstrings() if (code := code_in(text))}
DOCTESTS = [place for place, text in docstrings() if ">>>" in text]


def run_example(place: str, names: dict[str, object]) -> dict[str, object]:
    """Run a docstring's example with these names, and with the public ones."""
    code = compile(EXAMPLES[place], place, "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    names = {**{name: getattr(tanl, name) for name in tanl.__all__}, "tanl": tanl, **names}
    done = eval(code, names)
    if inspect.iscoroutine(done):
        asyncio.run(done)
    return names


def test_example_of_options():
    parser = argparse.ArgumentParser()
    parser.parse_args = partial(parser.parse_args, ["--batch-size", "3", "--seeds", "1", "2"])  # type: ignore[method-assign]
    given = {"parser": parser, "dataclass": dataclass, **vars(options), "__name__": "an_example"}
    sys.modules["an_example"] = ModuleType("an_example")  # where a dataclass looks for its types
    config = run_example("tanl.io.options:", given)["config"]
    assert (config.batch_size, config.seeds) == (3, (1, 2))


def test_no_docstring_has_an_example_that_does_not_run():
    assert {*EXAMPLES} == {
        "tanl.detectors.captured:CapturedTANL",
        "tanl.detectors.csp:CSP",
        "tanl.detectors.fused:Fused",
        "tanl.detectors.gl_mcm:GLMCM",
        "tanl.guard.guard:Guard.astream",
        "tanl.guard.guard:Guard.stream",
        "tanl.guard.proposals:Proposals",
        "tanl.guard.wrapped:GuardedModel",
        "tanl.integrations.pytorch_ood:as_pytorch_ood",
        "tanl.integrations.transformers:guard_pipeline",
        "tanl.io.options:",
        "tanl.labels.inter_modal:InterModal",
    }


@pytest.mark.parametrize("place", DOCTESTS)
def test_doctest(place):
    module, _, name = place.partition(":")
    home = importlib.import_module(module)
    found = home
    for part in name.split("."):
        found = getattr(found, part)
    (case,) = doctest.DocTestFinder(recurse=False).find(found, name, globs=vars(home).copy())
    assert case.examples
    assert doctest.DocTestRunner().run(case).failed == 0


def test_example_of_csp(photos):
    names = run_example(
        "tanl.detectors.csp:CSP",
        {
            "backbone": ColourBackbone(),
            "classes": ["red", "green"],
            "conjugated_words": lambda: [f"word {number} item" for number in range(700)],
        },
    )
    assert names["detector"].bank.id_names == ("red", "green")


def test_example_of_gl_mcm(bank, monkeypatch):
    z, local = unit(5, 16, seed=3), unit(20, 16, seed=4).view(5, 4, 16)
    names = run_example(
        "tanl.detectors.gl_mcm:GLMCM",
        {
            "detector": tanl.GLMCM(bank),
            "backbone": None,
            "pixels": None,
            "encode_images_local": lambda backbone, pixels: (z, local),
        },
    )
    assert torch.equal(names["scores"], tanl.GLMCM(bank)(z, local=local))


def test_example_of_captured_steps(bank, monkeypatch):
    # The paper's detector, whose step a captured one gives up to rounding; the batches are of the size that it names.
    monkeypatch.setitem(
        EXAMPLES,
        "tanl.detectors.captured:CapturedTANL",
        EXAMPLES["tanl.detectors.captured:CapturedTANL"].replace("256", "32"),
    )
    batches = [unit(32, 16, seed=seed) for seed in range(3)]
    detector, alike = (tanl.TANL(bank, num_selected=20) for _ in range(2))
    names = run_example("tanl.detectors.captured:CapturedTANL", {"detector": detector, "stream": batches})
    expected = [alike(z) for z in batches]
    torch.testing.assert_close(names["scores"], expected[-1], atol=1e-4, rtol=0)
    torch.testing.assert_close(detector.score(batches[0]), alike.score(batches[0]), atol=1e-4, rtol=0)


def test_example_of_fused_detectors(bank):
    backbone = SimpleNamespace(encode_texts=lambda texts: unit(len(texts), 16, seed=6))
    many = tanl.LabelBank(
        [f"label {number}" for number in range(110)], unit(110, 16, seed=1), num_id=7, logit_scale=20.0
    )
    run_example("tanl.detectors.fused:Fused", {"bank": many, "backbone": backbone})


def test_example_of_the_inter_modal_choice(bank):
    names = run_example(
        "tanl.labels.inter_modal:InterModal",
        {"z": bank.id_embeddings, "names_of_the_images": list(bank.id_names), "bank": bank},
    )
    assert names["choice"](bank).num_negatives <= bank.num_negatives


def test_example_of_proposals(photos):
    guard = tanl.Guard(ColourBackbone(), labels=["red", "green"])
    before = guard.bank.num_negatives
    run_example(
        "tanl.guard.proposals:Proposals",
        {
            "guard": guard,
            "batches": [photos[:12], photos[12:]],
            "caption": lambda image: f"thing {Path(image).stem}",
        },
    )
    assert guard.bank.num_negatives > before


@pytest.mark.parametrize("verb", ["stream", "astream"])
def test_example_of_a_guards_streams(photos, verb):
    guard = tanl.Guard(ColourBackbone(), labels=["red", "green"], method="mcm")
    names = run_example(f"tanl.guard.guard:Guard.{verb}", {"guard": guard, "images": photos[:3]})
    assert names["verdict"].to_dict() == guard.judge([photos[2]])[0].to_dict()


def test_example_of_a_guarded_model(photos, tiny_clip):
    model, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{tiny_clip}")
    tokenizer = open_clip.get_tokenizer(f"local-dir:{tiny_clip}")
    paint(Path("photo.jpg"), "red")
    names = run_example(
        "tanl.guard.wrapped:GuardedModel",
        {
            "model": model.eval(),
            "preprocess": preprocess,
            "tokenizer": tokenizer,
            "pixels": torch.stack([preprocess(Image.open(path)) for path in photos[:2]]),
            "tokens": tokenizer(["cat", "dog"]),
            "photo": Image.open(photos[0]),
        },
    )
    assert names["model"].model is model


def test_example_of_pytorch_ood(bank):
    pytest.importorskip("pytorch_ood")
    evaluated = []
    z = unit(40, 16, seed=5)
    run_example(
        "tanl.integrations.pytorch_ood:as_pytorch_ood",
        {
            "backbone": SimpleNamespace(encode_images=lambda pixels: pixels),
            "bank": bank,
            "benchmark": SimpleNamespace(evaluate=evaluated.append),
        },
    )
    assert evaluated[0].predict(z).shape == (40,)


def test_example_of_guard_pipeline(photos):
    transformers = pytest.importorskip("transformers")
    import tiny_hugging_face

    folder = tiny_hugging_face.save_tiny("siglip", Path("siglip"))
    paint(Path("photo.jpg"), "red")
    run_example(
        "tanl.integrations.transformers:guard_pipeline",
        {"pipeline": lambda task, model: transformers.pipeline(task, model=str(folder))},
    )
