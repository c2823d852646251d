"""Files of labels that were damaged: every bit of a bank, an index and a cache counts, and the file is named."""

import errno
import json
import random
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import load, save
from test_labels import CountingBackbone

import tanl
from conftest import unit
from tanl.cli.main import main
from tanl.io.cache import cached_embeddings
from tanl.io.tensors import read_notes, read_tensors, write_tensors
from tanl.labels.embedding import embed_texts

FLIPS = 250


def bank(dtype=torch.float32, rows=60):
    names = [f"label {i}" for i in range(rows)]
    return tanl.LabelBank(names, unit(rows, 16), num_id=7, logit_scale=33.5, dtype=dtype)


def save_with_outliers(path):
    tanl.save_bank(bank(), path, initial_ood=unit(9, 16, seed=2), backbone=CountingBackbone("f7"))


def save_index(path, kind):
    if kind == "ivf":
        pytest.importorskip("faiss")
    tanl.LabelIndex([f"label {i}" for i in range(700)], unit(700, 16), kind=kind).save(path)


KINDS = {
    "a bank": (lambda path: tanl.save_bank(bank(), path), tanl.load_bank),
    "a bank as float16": (lambda path: tanl.save_bank(bank(torch.float16), path), tanl.load_bank),
    "a bank with outliers": (save_with_outliers, tanl.load_bank),
    "a flat index": (lambda path: save_index(path, "flat"), tanl.LabelIndex.load),
    "an index of faiss": (lambda path: save_index(path, "ivf"), tanl.LabelIndex.load),
}


def header_of(content):
    return 8 + int.from_bytes(content[:8], "little")


def flipped(content, seed, part):
    """The content with each of some bits turned over, one at a time: of the header, or of all that follows."""
    start, end = (0, header_of(content)) if part == "header" else (header_of(content), len(content))
    for bit in random.Random(seed).sample(range(8 * start, 8 * end), FLIPS):
        damaged = bytearray(content)
        damaged[bit // 8] ^= 1 << bit % 8
        yield bytes(damaged)


@pytest.mark.parametrize("part", ["header", "payload"])
@pytest.mark.parametrize("kind", KINDS)
def test_every_bit_that_is_turned_over_is_refused(tmp_path, kind, part):
    write, read = KINDS[kind]
    path = tmp_path / "f.safetensors"
    write(path)
    read(path)
    refused = 0
    for damaged in flipped(path.read_bytes(), 1, part):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=re.escape(str(path))) as caught:
            read(path)
        assert "normalise" not in str(caught.value)
        refused += 1
    assert refused == FLIPS


@pytest.mark.parametrize("place", ["first", "middle", "last"])
@pytest.mark.parametrize("bit", range(8))
def test_bits_of_every_value_of_the_checksum_count(tmp_path, place, bit):
    path = tmp_path / "f.safetensors"
    tanl.save_bank(bank(), path)
    content = bytearray(path.read_bytes())
    digits = content.index(b'"sha256":"') + len(b'"sha256":"')
    content[digits + {"first": 0, "middle": 31, "last": 63}[place]] ^= 1 << bit
    path.write_bytes(content)
    with pytest.raises(ValueError, match=re.escape(str(path))):
        tanl.load_bank(path)


@pytest.mark.parametrize("part", ["header", "payload"])
def test_a_text_cache_is_healed_of_every_bit_that_is_turned_over(tmp_path, part):
    backbone, prompts = CountingBackbone(), [f"a photo of label {i}." for i in range(30)]
    whole = embed_texts(backbone, prompts, cache_dir=tmp_path)
    (path,) = (tmp_path / "text").rglob("*.safetensors")
    content, healed = path.read_bytes(), 0
    for damaged in flipped(content, 2, part):
        path.write_bytes(damaged)
        with pytest.warns(UserWarning, match=f"{re.escape(str(path))} cannot be used.*embedded again"):
            again = embed_texts(backbone, prompts, cache_dir=tmp_path)
        assert torch.equal(again, whole)
        (path,) = (tmp_path / "text").rglob("*.safetensors")
        assert torch.equal(read_tensors(path)[0]["embeddings"], whole)
        healed += 1
    assert healed == FLIPS


CUTS = [0, 7, 8, 100, -4000, -1]


@pytest.mark.parametrize("cut", CUTS)
@pytest.mark.parametrize("kind", KINDS)
def test_a_file_that_was_cut_is_refused(tmp_path, kind, cut):
    write, read = KINDS[kind]
    path = tmp_path / "f.safetensors"
    write(path)
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(ValueError, match=re.escape(str(path))):
        read(path)


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_that_is_cut_while_its_content_is_used_changes_nothing(tmp_path, kind):
    """It is read, not mapped: a page that is gone would kill the process."""
    write, read = KINDS[kind]
    path = tmp_path / "f.safetensors"
    write(path)
    used, reference = read(path), read(path)
    path.write_bytes(b"")
    if isinstance(used, tanl.LabelIndex):
        assert torch.equal(used.embeddings, reference.embeddings)
        assert torch.equal(used.search(unit(3, 16), 5).rows, reference.search(unit(3, 16), 5).rows)
    else:
        assert used.bank.fingerprint == reference.bank.fingerprint


def exponent_flipped(z):
    z = z.clone()
    z.view(torch.int32)[3, 2] ^= 1 << 30
    return z


# What another program, or a tanl with a fault, may have written with a checksum that fits.
MISFITS = {
    "too few rows": (lambda z: z[:-1], r"it holds embeddings \[29, 8\], not 30 rows"),
    "too many rows": (lambda z: torch.cat([z, z]), "not 30 rows"),
    "no rows": (lambda z: z[:0], "not 30 rows"),
    "another rank": (lambda z: z.flatten(), "not 30 rows"),
    "long rows": (lambda z: 2 * z, "row 0 has norm 2, not 1"),
    "a row of zeros": (lambda z: z.index_fill(0, torch.tensor(4), 0), "row 4 has norm 0, not 1"),
    "NaN": (lambda z: z.index_fill(0, torch.tensor(5), float("nan")), "row 5 has norm nan, not 1"),
    "infinite": (lambda z: z.index_fill(0, torch.tensor(6), float("inf")), "row 6 has norm inf, not 1"),
    "an exponent": (exponent_flipped, "row 3 has norm"),
    "whole numbers": (lambda z: z.long(), "it holds torch.int64"),
}


@pytest.mark.parametrize("case", MISFITS)
def test_a_cache_that_does_not_fit_is_named_and_healed(tmp_path, case):
    change, message = MISFITS[case]
    calls = []

    def compute():
        calls.append(1)
        return unit(30, 8)

    def get():
        return cached_embeddings(compute, kind="text", key=("k",), rows=30, about={}, cache_dir=tmp_path)

    whole = get()
    (path,) = (tmp_path / "text").iterdir()
    tensors, about = read_tensors(path)
    write_tensors(path, {"embeddings": change(tensors["embeddings"])}, about)
    with pytest.warns(UserWarning, match=f"^{re.escape(str(path))} cannot be used: .*{message}") as warned:
        again = get()
    assert "normalise" not in str(warned[0].message)
    assert len(calls) == 2
    assert torch.equal(again, whole)
    assert torch.equal(get(), whole)
    assert len(calls) == 2


def test_a_cache_of_an_older_format_without_checksum_is_healed(tmp_path):
    backbone, prompts = CountingBackbone(), ["a", "b"]
    whole = embed_texts(backbone, prompts, cache_dir=tmp_path)
    (path,) = (tmp_path / "text").rglob("*.safetensors")
    path.write_bytes(
        save(load(path.read_bytes()), metadata={k: v for k, v in read_notes(path).items() if k != "sha256"})
    )
    with pytest.warns(UserWarning, match="it has no checksum"):
        assert torch.equal(embed_texts(backbone, prompts, cache_dir=tmp_path), whole)


def no_space(_descriptor):
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("kind", KINDS)
def test_a_full_disk_is_told_with_the_files_name_and_leaves_the_older_file(tmp_path, monkeypatch, kind):
    write, read = KINDS[kind]
    path = tmp_path / "f.safetensors"
    write(path)
    content = path.read_bytes()
    monkeypatch.setattr("os.fsync", no_space)
    with pytest.raises(OSError, match=f"No space left on device: '{re.escape(str(path))}'"):
        write(path)
    assert [each.name for each in tmp_path.iterdir()] == ["f.safetensors"]
    assert path.read_bytes() == content
    read(path)


def test_a_full_disk_costs_the_cache_alone(tmp_path, monkeypatch):
    monkeypatch.setattr("os.fsync", no_space)
    with pytest.warns(UserWarning, match=f"could not be kept in {re.escape(str(tmp_path))}.*No space left"):
        z = embed_texts(CountingBackbone(), ["a", "b"], cache_dir=tmp_path)
    assert z.shape[0] == 2
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_a_full_disk_is_one_line_of_the_command(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("labels.json").write_text(json.dumps(["a", "b"]))
    Path("id.jsonl").write_text("".join(json.dumps({"z": row}) + "\n" for row in unit(2, 4).tolist()))
    monkeypatch.setattr("os.fsync", no_space)
    arguments = ["bank", "--labels", "labels.json", "--id-embeddings", "id.jsonl", "--logit-scale", "10"]
    assert main([*arguments, "--out", "b.safetensors"]) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert "b.safetensors: No space left on device" in err
    assert not list(tmp_path.glob("b.safetensors*"))
