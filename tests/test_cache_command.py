"""``tanl cache``: what it shows and deletes, and what it leaves alone."""

import re

import pytest
import torch
from test_labels import CountingBackbone

from conftest import unit
from tanl.cli.main import main
from tanl.io.cache import cached_embeddings
from tanl.io.cache_files import kept_in
from tanl.labels.embedding import embed_texts


class Named(CountingBackbone):
    def __init__(self, name, fingerprint):
        super().__init__(fingerprint)
        self.name = name


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("TANL_CACHE", str(tmp_path))
    embed_texts(Named("ViT-B-16/openai", "a"), [f"word {i}" for i in range(30)])
    embed_texts(Named("ViT-B-16/openai", "a"), ["another"])
    embed_texts(Named("mini", "b"), ["cat", "dog"])
    cached_embeddings(lambda: unit(5, 8), kind="images", key=("k",), rows=5, about={})
    (tmp_path / "text" / "mine.safetensors").write_text("a user's own")
    (tmp_path / "notes.txt").write_text("a user's own")
    return tmp_path


def files(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_list_shows_models_texts_and_sizes(cache, capsys):
    assert main(["cache", "list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    shown = [re.sub(r"^ *\d+\.\d MB +", "", line) for line in lines]
    assert sorted(shown) == sorted(
        ["31 texts  ViT-B-16/openai", "2 texts  mini", "1 files  images", f"in {cache}"]
    )
    own = [path for path in cache.rglob("*.safetensors") if path.name != "mine.safetensors"]
    assert sum(each.size for each in kept_in(cache)) == sum(path.stat().st_size for path in own)


def test_clear_of_a_model_leaves_the_others(cache, capsys):
    assert main(["cache", "clear", "--backbone", "ViT-B-16/openai"]) == 0
    assert "deleted" in capsys.readouterr().out
    assert {each.backbone or each.what for each in kept_in(cache)} == {"mini", "images"}
    backbone = Named("mini", "b")
    embed_texts(backbone, ["cat", "dog"])
    assert backbone.encoded == []


def test_clear_of_all_leaves_what_is_not_tanls(cache):
    assert main(["cache", "clear", "--all"]) == 0
    assert files(cache) == ["notes.txt", "text/mine.safetensors"]
    backbone = Named("mini", "b")
    assert torch.equal(embed_texts(backbone, ["cat"]), CountingBackbone().encode_texts(["cat"]))
    assert backbone.encoded == ["cat"]


def test_no_cache_is_an_empty_one(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("TANL_CACHE", str(tmp_path / "nothing"))
    assert main(["cache", "list"]) == 0
    assert main(["cache", "clear", "--all"]) == 0
    out = capsys.readouterr().out.splitlines()
    assert out == [f"      0.0 MB  in {tmp_path / 'nothing'}", out[1]]
    assert out[1].startswith("0.0 MB deleted")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["clear"], "say what to delete: --backbone NAME, or --all"),
        (["clear", "--all", "--backbone", "mini"], "say what to delete"),
        (
            ["clear", "--backbone", "minni"],
            "nothing is kept of a model 'minni'; there are ViT-B-16/openai, mini; did",
        ),
        (["list", "--all"], "say what clear is to delete"),
        (["cler"], "invalid choice"),
    ],
)
def test_mistakes_are_one_line_and_delete_nothing(cache, capsys, arguments, message):
    before = files(cache)
    try:
        code = main(["cache", *arguments])
    except SystemExit as stop:
        code = stop.code
    out, err = capsys.readouterr()
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert message in err
    assert files(cache) == before


def test_a_damaged_file_is_counted_and_can_be_deleted(cache):
    (path, *_) = (cache / "text").glob("*/*.safetensors")
    path.write_bytes(b"damaged")
    assert main(["cache", "list"]) == 0
    assert main(["cache", "clear", "--all"]) == 0
    assert not path.exists()
