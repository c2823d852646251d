"""Paths as people write them."""

import argparse
import os
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from colour_backbone import ColourBackbone, paint

import tanl
from conftest import unit
from tanl.benchmarks.data.image_sets import read_as_stored
from tanl.benchmarks.data.imglist import read_imglist
from tanl.benchmarks.data.sources import custom_set, data_root
from tanl.benchmarks.engine.run_folder import RunFolder
from tanl.cli.main import _BENCHMARKS, _COMMANDS, command_parser
from tanl.io.arguments import a_name_or_path, a_path, a_path_or_address
from tanl.io.image_files import find_images
from tanl.io.options import Several
from tanl.io.paths import local_path
from tanl.streams.result_files import open_results


@pytest.mark.parametrize("kind", [str, Path])
def test_a_home_folder_is_spelled_out(monkeypatch, tmp_path, kind):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert local_path(kind("~/photos")) == tmp_path / "photos"
    assert local_path(kind("~")) == tmp_path


def test_a_users_home_folder_is_spelled_out():
    pwd = pytest.importorskip("pwd")
    user = pwd.getpwuid(os.getuid())
    assert local_path(f"~{user.pw_name}/a") == Path(user.pw_dir, "a")


def test_what_is_no_users_name_after_a_tilde_stays():
    assert local_path("~no such user.jpg") == Path("~no such user.jpg")
    assert local_path("a/~/b") == Path("a/~/b")


def test_a_user_without_a_home_folder_is_told(monkeypatch):
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)
    with pytest.raises(ValueError, match="~/a: this user has no home folder"):
        local_path("~/a")


@pytest.mark.parametrize(
    "path", ["a", "./a b", "/a:b/c", "C:/a", "C:\\a", "a:b", ".", "ä/猫", "./s3://bucket/a"]
)
def test_other_paths_stay_as_they_are(path):
    assert local_path(path) == Path(path)


@pytest.mark.parametrize("scheme", ["s3", "gs", "http", "https", "file", "hdfs", "az", "git+ssh", "S3"])
def test_addresses_are_refused_by_their_name(scheme):
    with pytest.raises(ValueError, match=rf"{scheme.replace('+', '[+]')}:/+bucket/a is an address") as caught:
        local_path(f"{scheme}://bucket/a")
    assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match="is an address"):
        local_path(Path(f"{scheme}://bucket/a"))


@pytest.mark.parametrize(
    ("path", "error", "reason"),
    [
        ("", ValueError, "empty"),
        ("a\0b", ValueError, "NUL"),
        (b"a", TypeError, "not b'a'"),
        (7, TypeError, "not 7"),
        (None, TypeError, "not None"),
    ],
)
def test_what_is_no_path_is_refused(path, error, reason):
    with pytest.raises(error, match=reason):
        local_path(path)


@pytest.mark.parametrize("text", ["wordnet", "./wordnet", "../a", "words.txt", "ä"])
def test_a_name_or_path_stays_as_it_is_written(text):
    """``./wordnet`` is a file, ``wordnet`` a selection of words."""
    assert a_name_or_path(text) == text


def options_of(parser: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for sub in action.choices.values():
                yield from options_of(sub)
        else:
            yield action


PARSERS = {
    **{name: lambda name=name: command_parser([name]) for name in _COMMANDS if name != "bench"},
    **{f"bench {name}": lambda name=name: command_parser(["bench", name]) for name in _BENCHMARKS},
}


@pytest.mark.parametrize("command", PARSERS)
def test_every_path_option_spells_a_home_folder_out_and_refuses_addresses(command):
    for option in options_of(PARSERS[command]()):
        if re.search(r"PATH|DIR|FILE|RUN|FOLDER", str(option.metavar)):
            one = option.type.one if isinstance(option.type, Several) else option.type
            with_addresses = {a_path_or_address} if command == "judge" else set()  # refused without an engine
            assert one in {a_path, a_name_or_path} | with_addresses, option.option_strings
        assert option.type is not Path, option.option_strings


def test_path_options_are_found():
    found = [
        option
        for parser in PARSERS.values()
        for option in options_of(parser())
        if option.type in (a_path, a_name_or_path)
    ]
    assert len(found) > 20


@pytest.fixture
def home(tmp_path, monkeypatch, bank):
    """A home folder with a file of each kind; the current folder is another, and stays empty."""
    home, here = tmp_path / "home", tmp_path / "here"
    (home / "photos").mkdir(parents=True)
    here.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("TANL_CACHE", str(home / "cache"))
    monkeypatch.chdir(here)
    paint(home / "photos" / "a.png", "red")
    np.save(home / "z.npy", unit(5, 16).numpy())
    (home / "words.txt").write_text("ant\nbee\n")
    (home / "list.txt").write_text("a.png 0\n")
    tanl.save_bank(bank, home / "bank.safetensors")
    tanl.LabelIndex.of(bank).save(home / "index.safetensors")
    guard().save(home / "guard")
    yield home
    assert list(here.iterdir()) == []


def guard(cache_dir=None):
    words = ["ant", "bee", "spoon"]
    return tanl.Guard(ColourBackbone(), ["red", "green"], corpus=words, cache_dir=cache_dir)


USES = {
    "find_images": ("photos", lambda path: find_images(path)),
    "Guard": ("photos/a.png", lambda path: guard()([path])),
    "Guard.stream": ("photos/a.png", lambda path: list(guard().stream([path]))),
    "Guard.save": ("saved", lambda path: guard().save(path)),
    "Guard.load": ("guard", lambda path: tanl.Guard.load(path, backbone=ColourBackbone())),
    "Guard.restore": ("guard", lambda path: guard().restore(path)),
    "cache_dir": ("cache", guard),
    "read_embeddings": ("z.npy", lambda path: next(tanl.read_embeddings(path))),
    "save_bank": ("new.safetensors", lambda path: tanl.save_bank(small_bank(), path)),
    "load_bank": ("bank.safetensors", tanl.load_bank),
    "LabelIndex.save": ("new.safetensors", lambda path: tanl.LabelIndex.of(small_bank()).save(path)),
    "LabelIndex.load": ("index.safetensors", tanl.LabelIndex.load),
    "Corpus.load": ("words.txt", tanl.Corpus.load),
    "open_results": ("results.csv", lambda path: open_results(path).close()),
    "data_root": (".", lambda path: data_root(path).stat()),
    "custom_set": ("photos", lambda path: custom_set(path, ood=True)),
    "read_as_stored": ("photos/a.png", read_as_stored),
    "read_imglist": ("list.txt", read_imglist),
    "RunFolder.check": ("run", lambda path: RunFolder.check(path, {})),
}


def small_bank() -> tanl.LabelBank:
    return tanl.LabelBank(["a", "b", "c"], unit(3, 16), num_id=2)


@pytest.mark.parametrize("use", USES)
def test_the_library_takes_a_home_folder(home, use):
    path, call = USES[use]
    call(f"~/{path}")
    call(Path("~", path))


@pytest.mark.parametrize("use", USES)
def test_the_library_refuses_addresses(home, use):
    path, call = USES[use]
    with pytest.raises(ValueError, match="is an address, and only paths of this machine"):
        call(f"s3://bucket/{path}")


def test_an_address_among_images_is_an_unreadable_image(home):
    photos = ["~/photos/a.png", "https://example.org/a.png"]
    read, address = guard().stream(photos, errors="yield")
    assert isinstance(read, tanl.Verdict)
    assert isinstance(address, tanl.UnreadableImage)
    assert "https://example.org/a.png is an address" in address.reason


def test_the_caches_folder_may_be_in_a_home_folder(home, monkeypatch):
    monkeypatch.setenv("TANL_CACHE", "~/elsewhere")
    guard()
    assert any((home / "elsewhere").rglob("*.safetensors"))
    monkeypatch.setenv("TANL_CACHE", "s3://bucket/cache")
    with pytest.raises(ValueError, match="is an address"):
        guard()


def test_a_model_in_a_home_folder(home, tiny_clip):
    (home / "tiny").symlink_to(tiny_clip)
    assert tanl.load_backbone("local-dir:~/tiny").encode_texts(["a"]).shape == (1, 24)
    for name in ("local-dir:s3://bucket/a", "ViT-B-32/s3://bucket/a.pt", "hf:s3://bucket/a"):
        with pytest.raises(ValueError, match="is an address"):
            tanl.load_backbone(name)
    with pytest.raises(ValueError, match=rf"no pretrained weights '{home}/none.pt'"):
        tanl.load_backbone("ViT-B-32/~/none.pt")
