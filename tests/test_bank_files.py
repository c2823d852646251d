"""Label banks in files: bit for bit there and back, whole or not at all; and the command that makes them."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from test_labels import CountingBackbone

import tanl
from conftest import unit
from tanl.cli.main import main
from tanl.io.tensors import write_tensors


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("num_id", [1, 7, 110])
def test_a_bank_comes_back_bit_for_bit(tmp_path, bank, dtype, num_id):
    kept = tanl.LabelBank(bank.names, bank.embeddings, num_id=num_id, logit_scale=1 / 3, dtype=dtype)
    tanl.save_bank(kept, tmp_path / "b.safetensors")
    again = tanl.load_bank(tmp_path / "b.safetensors").bank
    assert again.fingerprint == kept.fingerprint
    assert (again.dtype, again.num_id, again.logit_scale) == (dtype, num_id, 1 / 3)
    assert torch.equal(again.embeddings, kept.embeddings)
    assert [path.name for path in tmp_path.iterdir()] == ["b.safetensors"]


def test_names_of_every_kind_come_back(tmp_path):
    names = ["naïve", "日本", 'quote "', "back\\slash", "🦜", "a, b", "e\u0301"]
    bank = tanl.LabelBank(names, unit(7, 5), num_id=2)
    tanl.save_bank(bank, tmp_path / "b.safetensors")
    assert tanl.load_bank(tmp_path / "b.safetensors").bank.names == tuple(names)


def test_rows_that_came_as_bfloat16_come_back(tmp_path):
    bank = tanl.LabelBank(["a", "b", "c"], unit(3, 9).bfloat16(), num_id=1)
    tanl.save_bank(bank, tmp_path / "b.safetensors")
    assert tanl.load_bank(tmp_path / "b.safetensors").bank.fingerprint == bank.fingerprint
    assert torch.equal(bank.to("cpu").embeddings, bank.embeddings)
    assert bank.mined(2).num_negatives == 2


def test_what_belongs_to_the_model_comes_along(tmp_path, bank):
    outliers = bank.embeddings[-5:]  # memory of the bank's own
    tanl.save_bank(
        bank, tmp_path / "b.safetensors", initial_ood=outliers.numpy(), backbone=CountingBackbone("f7")
    )
    saved = tanl.load_bank(tmp_path / "b.safetensors")
    assert torch.equal(saved.initial_ood, outliers)
    assert (saved.backbone, saved.backbone_fingerprint) == ("letters", "f7")
    tanl.save_bank(bank, tmp_path / "b.safetensors")
    saved = tanl.load_bank(tmp_path / "b.safetensors")
    assert (saved.initial_ood, saved.backbone, saved.backbone_fingerprint) == (None, None, None)


def test_an_interrupted_save_leaves_the_older_file(tmp_path, bank, monkeypatch):
    path = tmp_path / "b.safetensors"
    tanl.save_bank(bank, path)
    before = path.read_bytes()

    def interrupted(descriptor):
        raise KeyboardInterrupt

    monkeypatch.setattr("os.fsync", interrupted)
    with pytest.raises(KeyboardInterrupt):
        tanl.save_bank(bank.mined(3), path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_unusable_outliers_are_refused_before_anything_is_written(tmp_path, bank):
    with pytest.raises(ValueError, match="initial_ood has D = 15"):
        tanl.save_bank(bank, tmp_path / "b.safetensors", initial_ood=unit(2, 15))
    assert list(tmp_path.iterdir()) == []


def resaved(path, *, metadata=None, **tensors):
    about = {"format": "tanl-label-bank", "version": "1", "num_id": "7", "logit_scale": "20.0"}
    kept = {name: each for name, each in {**load_file(path), **tensors}.items() if each is not None}
    write_tensors(path, kept, {**about, **(metadata or {})})


DAMAGE = {
    "cut short": (
        lambda p: p.write_bytes(p.read_bytes()[:-9]),
        "cannot be used as a label bank: it is no safetensors file, or a damaged one",
    ),
    "text": (
        lambda p: p.write_text("no"),
        "cannot be used as a label bank: it is no safetensors file, or a damaged one",
    ),
    "empty": (
        lambda p: p.write_bytes(b""),
        "cannot be used as a label bank: it is no safetensors file, or a damaged one",
    ),
    "other tensors": (
        lambda p: write_tensors(p, {"a": torch.ones(2)}, {}),
        "a safetensors file, but not a label bank's",
    ),
    "no checksum": (
        lambda p: save_file(load_file(p), p, metadata={"format": "tanl-label-bank"}),
        "no checksum",
    ),
    "newer": (
        lambda p: resaved(p, metadata={"version": "2"}),
        "format '2', and this version of tanl reads up to 1",
    ),
    "no version": (lambda p: resaved(p, metadata={"version": ""}), "upgrade tanl"),
    "no names": (lambda p: resaved(p, names=None), "damaged label bank: 'names'"),
    "one name too few": (
        lambda p: resaved(p, names=torch.tensor(list(json.dumps(["a"] * 1).encode()), dtype=torch.uint8)),
        "damaged label bank: num_id is 7, but there are only 1",
    ),
    "NaN": (lambda p: resaved(p, embeddings=unit(110, 16).fill_(float("nan"))), "row 0 has a NaN"),
    "not unit": (lambda p: resaved(p, embeddings=2 * unit(110, 16)), "row 0 has norm 2"),
    "not floats": (lambda p: resaved(p, embeddings=torch.ones(110, 16).long()), "floating dtype"),
    "a scale of words": (lambda p: resaved(p, metadata={"logit_scale": "big"}), "could not convert"),
    "a folder": (lambda p: (p.unlink(), p.mkdir()), "is a folder, not a label bank's file"),
}


@pytest.mark.parametrize("case", DAMAGE)
def test_files_that_are_no_bank_say_so(tmp_path, bank, case):
    damage, message = DAMAGE[case]
    path = tmp_path / "b.safetensors"
    tanl.save_bank(bank, path)
    damage(path)
    with pytest.raises(ValueError, match=message):
        tanl.load_bank(path)


def test_a_bank_that_is_not_there(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"`tanl bank` and tanl\.save_bank make one"):
        tanl.load_bank(tmp_path / "b.safetensors")


# --- the command --------------------------------------------------------------------------------------------

LABELS = ["dog", "cat", "car"]
WORDS = ["granite", "domestic dog", "violin", "Cats", "cloud"]


@pytest.fixture
def workplace(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TANL_CACHE", str(tmp_path / "cache"))
    Path("labels.txt").write_text("\ufeffdog\n\n# no label\n cat \ncar\n", encoding="utf-8")
    Path("words.txt").write_text("\n".join(WORDS))
    np.save("id.npy", unit(3, 10, seed=1).numpy())
    np.save("neg.npy", unit(5, 10, seed=2).numpy())
    np.save("out.npy", unit(4, 10, seed=3).numpy())
    return tmp_path


OWN = ["bank", "--labels", "labels.txt", "--id-embeddings", "id.npy", "--logit-scale", "33.5"]
NEGATIVES = ["--negatives", "words.txt", "--negative-embeddings", "neg.npy"]
OUT = ["--out", "b.safetensors"]


def test_bank_of_embeddings_of_ones_own(workplace, capsys):
    assert main([*OWN, *NEGATIVES, "--outliers", "out.npy", *OUT]) == 0
    saved = tanl.load_bank("b.safetensors")
    assert saved.bank.names == ("dog", "cat", "car", "granite", "violin", "cloud")
    assert torch.equal(
        saved.bank.embeddings, torch.cat([unit(3, 10, seed=1), unit(5, 10, seed=2)[[0, 2, 4]]])
    )
    assert (saved.bank.num_id, saved.bank.logit_scale, saved.backbone) == (3, 33.5, None)
    assert torch.equal(saved.initial_ood, unit(4, 10, seed=3))
    understood, summary = capsys.readouterr().out.splitlines()
    assert understood == (
        "labels: 2 of the 5 words of words.txt are labels or synonyms of one; no word found for 'car'"
    )
    assert summary.startswith("b.safetensors: 3 ID labels, 3 negative labels, D = 10, 4 outliers, ")


def test_bank_without_negatives_and_as_float16(workplace, capsys):
    assert main([*OWN, "--float16", "--quiet", *OUT]) == 0
    bank = tanl.load_bank("b.safetensors").bank
    assert (bank.num_negatives, bank.dtype) == (0, torch.float16)
    assert capsys.readouterr() == ("", "")


def test_bank_normalises_when_asked(workplace):
    np.save("id.npy", 9 * unit(3, 10, seed=1).numpy())
    assert main([*OWN, "--normalize", *OUT]) == 0
    torch.testing.assert_close(tanl.load_bank("b.safetensors").bank.embeddings, unit(3, 10, seed=1))


def test_bank_embedded_by_a_model(workplace, monkeypatch, tiny_backbone, capsys):
    monkeypatch.setattr("tanl.backbones.load_backbone", lambda name, *, device, precision: tiny_backbone)
    assert main(["bank", "--labels", "labels.txt", "--corpus", "words.txt", *OUT]) == 0
    saved = tanl.load_bank("b.safetensors")
    assert saved.bank.fingerprint == tanl.build_bank(tiny_backbone, LABELS, corpus=WORDS).fingerprint
    assert torch.equal(saved.initial_ood, tanl.noise_embeddings(tiny_backbone))
    assert (saved.backbone, saved.backbone_fingerprint) == (tiny_backbone.name, tiny_backbone.fingerprint)
    assert "3 negative labels, D = 24, 15 outliers" in capsys.readouterr().out


MISTAKES = {
    "no out": (OWN, "required: --out"),
    "another ending": ([*OWN, "--out", "b.npy"], "'b.npy' does not end in .safetensors"),
    "no such folder": ([*OWN, "--out", "no/b.safetensors"], "make the directory no first"),
    "no labels": (["bank", *OUT], "give --labels FILE"),
    "no scale": ([*OWN[:-2], *OUT], "--id-embeddings needs --logit-scale"),
    "a scale of 0": ([*OWN[:-1], "0", *OUT], "'0' is not a positive number"),
    "words alone": ([*OWN, *NEGATIVES[:2], *OUT], "--negatives and --negative-embeddings go together"),
    "negatives without IDs": (
        ["bank", "--labels", "labels.txt", *NEGATIVES, *OUT],
        "give --id-embeddings too",
    ),
    "a model too": ([*OWN, "--backbone", "mini", *OUT], "--backbone contradicts --id-embeddings"),
    "a device too": ([*OWN, "--device", "cpu", *OUT], "--device contradicts --id-embeddings"),
    "a corpus too": ([*OWN, "--corpus", "words.txt", *OUT], "--corpus contradicts --id-embeddings"),
    "too few rows": ([*OWN, "--label", "tree", *OUT], "id.npy has 3 rows, but there are 4 labels"),
    "too few words": (
        [*OWN, "--negatives", "labels.txt", "--negative-embeddings", "neg.npy", *OUT],
        "labels.txt, line 2: no word",
    ),
    "words and rows": (
        [*OWN, "--negatives", "words.txt", "--negative-embeddings", "id.npy", *OUT],
        "id.npy has 3 rows, but there are 5 words in words.txt",
    ),
    "another D": ([*OWN, *NEGATIVES[:-1], "narrow.npy", *OUT], "id.npy has D = 10, but narrow.npy has D = 9"),
    "not unit": ([*OWN[:4], "long.npy", *OWN[5:], *OUT], "row 0 has norm 3, not 1; add --normalize"),
    "NaN": ([*OWN[:4], "nan.npy", *OWN[5:], *OUT], "nan.npy: row 1 cannot be used: the embedding has NaN"),
    "outliers of another D": ([*OWN, "--outliers", "narrow.npy", *OUT], "initial_ood has D = 9"),
}


@pytest.mark.parametrize("case", MISTAKES)
def test_mistakes_are_one_line_and_leave_nothing(workplace, capsys, case):
    arguments, message = MISTAKES[case]
    np.save("narrow.npy", unit(5, 9).numpy())
    np.save("long.npy", 3 * unit(3, 10).numpy())
    np.save("nan.npy", unit(3, 10).index_fill(0, torch.tensor([1]), float("nan")).numpy())
    try:
        code = main(arguments)
    except SystemExit as end:
        code = end.code
    assert code == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert message in err
    assert not list(Path.cwd().glob("b.safetensors*"))
