"""Whatever the library hands out can be copied and pickled, and the copy does what the original does."""

import copy
import pickle

import pytest
import torch

import tanl
from conftest import unit
from tanl.io.image_files import find_images

COPIES = {
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
    "pickle": lambda thing: pickle.loads(pickle.dumps(thing)),
}
CORPUS = [f"w{i}" for i in range(40)]
Z = unit(9, 16, seed=4)


def scores(detector):
    return detector.score(Z)


def of_images(backbone):
    return backbone.encode_images(torch.ones(2, 3, 32, 32))


def judged(guard):
    return guard.score(torch.linspace(0, 1, 2 * 3 * 32 * 32).view(2, 3, 32, 32))


def hugging_face():
    pytest.importorskip("transformers")
    from tiny_hugging_face import tiny_image_processor, tiny_model, tiny_tokenizer

    return tanl.HuggingFaceBackbone(tiny_model("clip"), tiny_image_processor("clip"), tiny_tokenizer(40))


def index(bank, kind):
    if kind == "ivf":
        pytest.importorskip("faiss")
    embeddings = unit(3000, 16, seed=5)
    return tanl.LabelIndex([str(i) for i in range(3000)], embeddings, kind=kind)


def nearest(found):
    return torch.as_tensor(found.search(Z, 5)[1])


# What makes it, of a bank and a tiny backbone, and what it does.
THINGS = {
    "LabelBank": (lambda bank, _: bank, lambda bank: bank.embeddings),
    "TANL": (lambda bank, _: tanl.TANL(bank, num_selected=20, capacity=20), scores),
    "TANL, guarded": (lambda bank, _: tanl.TANL(bank, num_selected=20, memory="guarded"), scores),
    "AdaNeg": (lambda bank, _: tanl.AdaNeg(bank), scores),
    "CSP": (lambda bank, _: tanl.CSP(bank, share=0.5, groups=3), scores),
    "MCM": (lambda bank, _: tanl.MCM(bank), scores),
    "ClipBackbone": (lambda _, backbone: backbone, of_images),
    "HuggingFaceBackbone": (lambda _, __: hugging_face(), of_images),
    "Guard": (lambda _, backbone: tanl.Guard(backbone, ["cat", "dog"], corpus=CORPUS), judged),
    "GuardedModel": (lambda _, backbone: tanl.GuardedModel(backbone, ["cat", "dog"], corpus=CORPUS), judged),
    "Detection": (
        lambda bank, _: tanl.detect_embeddings(tanl.MCM(bank), Z),
        lambda detection: torch.tensor([verdict.ood_score for verdict in detection]),
    ),
    "Corpus": (lambda _, __: tanl.Corpus.load("neglabel"), lambda corpus: torch.tensor(len(corpus))),
    "LabelIndex, flat": (lambda bank, _: index(bank, "flat"), nearest),
    "LabelIndex, ivf": (lambda bank, _: index(bank, "ivf"), nearest),
    "Found": (lambda _, __: find_images(__file__), lambda found: torch.tensor(len(found))),
}


@pytest.mark.parametrize("how", COPIES)
@pytest.mark.parametrize("name", THINGS)
def test_a_copy_does_what_the_original_does(bank, tiny_backbone, tmp_path, monkeypatch, name, how):
    monkeypatch.setenv("TANL_CACHE", str(tmp_path))
    make, use = THINGS[name]
    thing = make(bank, tiny_backbone)
    twin = COPIES[how](thing)
    assert type(twin) is type(thing)
    assert repr(twin) == repr(thing)
    assert torch.equal(use(twin), use(thing))
