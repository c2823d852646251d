"""LabelBank: building, mining, the cache, and what is refused."""

import pytest
import torch
from torch.nn.functional import normalize

import tanl
from conftest import unit
from tanl.io import cache as embedding_cache


class CountingBackbone:
    """Embeds a text by its letters; counts what it is asked."""

    name = "letters"
    logit_scale = 30.0
    image_size = 8
    device = torch.device("cpu")

    def __init__(self, fingerprint="f0"):
        self.fingerprint = fingerprint
        self.encoded = []

    def encode_texts(self, texts, *, batch_size=256):
        self.encoded += texts
        rows = torch.zeros(len(texts), 40)
        for row, text in zip(rows, texts, strict=True):
            for i, letter in enumerate(text.lower()):
                row[(ord(letter) * 7 + i) % 40] += 1
        return normalize(rows, dim=1)


WORDS = ["granite", "violin", "puppy", "cloud", "domestic dog"]


def build(backbone, tmp_path, labels=("dog", "cat"), **options):
    return tanl.build_bank(backbone, labels, cache_dir=tmp_path, **{"corpus": WORDS, **options})


def test_build_leaves_out_labels_and_their_synonyms(tmp_path):
    bank = build(CountingBackbone(), tmp_path)
    assert bank.id_names == ("dog", "cat")
    assert bank.negative_names == ("granite", "violin", "puppy", "cloud")  # a domestic dog is a dog
    assert (bank.num_id, bank.num_negatives, bank.dim, bank.logit_scale) == (2, 4, 40, 30.0)
    expected = CountingBackbone().encode_texts([f"The nice {word}." for word in bank.names])
    assert torch.equal(bank.embeddings, expected)


def test_build_encodes_a_corpus_once_whatever_the_labels(tmp_path):
    backbone = CountingBackbone()
    build(backbone, tmp_path)
    assert len(backbone.encoded) == 2 + 5
    again = build(backbone, tmp_path, labels=("cloud",))
    assert len(backbone.encoded) == 2 + 5 + 1
    assert "domestic dog" in again.negative_names
    assert torch.equal(
        again.embeddings, build(CountingBackbone(), tmp_path / "new", labels=("cloud",)).embeddings
    )


@pytest.mark.parametrize(
    "change", [{"templates": {"noun": "a {}"}}, {"corpus": WORDS[::-1]}, {"corpus": WORDS[:3]}]
)
def test_cache_never_mixes_templates_or_words(tmp_path, change):
    build(CountingBackbone(), tmp_path)
    cached = build(CountingBackbone(), tmp_path, **change)
    fresh = build(CountingBackbone(), tmp_path / "fresh", **change)
    assert cached.fingerprint == fresh.fingerprint


def test_cache_never_mixes_backbones(tmp_path):
    build(CountingBackbone("f0"), tmp_path)
    other = CountingBackbone("f1")
    build(other, tmp_path)
    assert len(other.encoded) == 2 + 5


def test_cache_is_whole_or_absent(tmp_path, monkeypatch):
    def interrupted(descriptor):
        raise KeyboardInterrupt

    monkeypatch.setattr("os.fsync", interrupted)
    with pytest.raises(KeyboardInterrupt):
        build(CountingBackbone(), tmp_path)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_damaged_cache_is_warned_of_and_made_again(tmp_path):
    whole = build(CountingBackbone(), tmp_path)
    (path,) = (tmp_path / "text").rglob("*.safetensors")
    path.write_bytes(path.read_bytes()[:50])
    with pytest.warns(UserWarning, match="cannot be used"):
        again = build(CountingBackbone(), tmp_path)
    assert again.fingerprint == whole.fingerprint
    build(CountingBackbone(), tmp_path)


def test_unwritable_cache_is_warned_of(tmp_path):
    (tmp_path / "file").write_text("not a folder")
    with pytest.warns(UserWarning, match="could not be kept"):
        bank = build(CountingBackbone(), tmp_path / "file")
    assert bank.num_negatives == 4


def test_default_cache_folder_follows_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("TANL_CACHE", str(tmp_path))
    assert embedding_cache.default_cache_dir() == tmp_path
    monkeypatch.delenv("TANL_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "x"))
    assert embedding_cache.default_cache_dir() == tmp_path / "x" / "tanl"


def test_build_without_corpus_has_no_negatives(tmp_path):
    bank = build(CountingBackbone(), tmp_path, corpus=None)
    assert bank.num_negatives == 0


@pytest.mark.parametrize(
    ("labels", "options", "kind", "message"),
    [
        ([], {}, ValueError, "no ID labels; give at least one"),
        (["dog", "dog", "cat"], {}, ValueError, "ID labels occur more than once: 'dog'"),
        (["dog", "  "], {}, ValueError, "there is an empty ID label"),
        (["dog", 3], {}, TypeError, "every ID label must be a string, not 3"),
        ("dog", {}, TypeError, "not the one string 'dog'"),
        (["dog"], {"corpus": []}, ValueError, "no words"),
        (["dog"], {"corpus": ["domestic dog"]}, ValueError, "is a label or a synonym of one"),
        (["dog"], {"corpus": "wordnett"}, ValueError, "unknown corpus 'wordnett'"),
        (["dog"], {"templates": {"verb": "{}"}}, ValueError, "no part of speech 'verb'"),
        (["dog"], {"templates": {"noun": "a photo"}}, ValueError, "must hold {} once"),
    ],
)
def test_build_refuses_unusable_labels_and_corpora(tmp_path, labels, options, kind, message):
    backbone = CountingBackbone()
    with pytest.raises(kind, match=message):
        build(backbone, tmp_path, labels, **options)


def test_bank_refuses_what_does_not_fit():
    names, rows = ["a", "b", "c"], unit(3, 4)
    for arguments, options, message in (
        ((names, rows), {"num_id": 4}, "num_id is 4, but there are only 3 labels"),
        ((names, rows), {"num_id": 0}, "num_id must be at least 1"),
        ((names[:2], rows), {"num_id": 1}, "2 names, but 3 embeddings"),
        ((names, 2 * rows), {"num_id": 1}, "row 0 has norm 2"),
        ((["a", "b", "a"], rows), {"num_id": 1}, "more than once: 'a'"),
        ((names, rows), {"num_id": 1, "logit_scale": 0.0}, "logit_scale must be positive"),
        ((names, rows), {"num_id": 1, "logit_scale": float("inf")}, "logit_scale must be positive"),
    ):
        with pytest.raises(ValueError, match=message):
            tanl.LabelBank(*arguments, **options)


def test_half_precision_embeddings_are_kept_as_float32():
    bank = tanl.LabelBank(["a", "b"], unit(2, 64).half(), num_id=1)
    assert bank.embeddings.dtype == torch.float32


def test_mining_keeps_the_least_similar(bank):
    mined = bank.mined(10)
    similarity = torch.quantile(bank.negative_embeddings @ bank.id_embeddings.T, 0.95, dim=1)
    least = similarity.argsort(stable=True)[:10].tolist()
    assert mined.negative_names == tuple(bank.negative_names[i] for i in least)
    assert torch.equal(mined.negative_embeddings, bank.negative_embeddings[least])
    assert mined.id_names == bank.id_names
    assert bank.mined(10**6).num_negatives == bank.num_negatives
    with pytest.raises(ValueError, match="count must be at least 1"):
        bank.mined(0)


def test_fingerprint_tells_banks_apart(bank):
    same = tanl.LabelBank(bank.names, bank.embeddings.clone(), num_id=7, logit_scale=20.0)
    assert same.fingerprint == bank.fingerprint
    for other in (
        tanl.LabelBank(bank.names, bank.embeddings, num_id=8, logit_scale=20.0),
        tanl.LabelBank(bank.names, bank.embeddings, num_id=7, logit_scale=21.0),
        tanl.LabelBank(bank.names[::-1], bank.embeddings, num_id=7, logit_scale=20.0),
        bank.mined(50),
    ):
        assert other.fingerprint != bank.fingerprint
    assert bank.to("cpu").fingerprint == bank.fingerprint


def test_labels_can_be_kept_as_half_precision():
    names, embeddings = [str(i) for i in range(50)], unit(50, 16)
    bank = tanl.LabelBank(names, embeddings, num_id=4)
    half = bank.to(dtype=torch.float16)
    assert bank.dtype == torch.float32
    assert half.dtype == half.negative_embeddings.dtype == half.mined(7).dtype == torch.float16
    assert half.id_embeddings.dtype == torch.float32
    assert half.embeddings.nbytes * 2 == bank.embeddings.nbytes
    assert half.fingerprint != bank.fingerprint
    assert half.to("cpu").dtype == torch.float16
    assert half.mined(20).negative_names == bank.mined(20).negative_names
    again = tanl.LabelBank(names, embeddings.half(), num_id=4, dtype=torch.float16)
    assert again.fingerprint == half.fingerprint
    assert "float16" in repr(half)


def test_other_dtypes_of_labels_are_refused():
    with pytest.raises(ValueError, match=r"torch\.float32 or torch\.float16, not torch\.bfloat16"):
        tanl.LabelBank(["a", "b"], unit(2, 8), num_id=1, dtype=torch.bfloat16)


@pytest.mark.parametrize("make", [tanl.TANL, tanl.NegLabel, tanl.MCM, tanl.MaxLogit, tanl.Energy])
def test_every_detector_takes_labels_in_half_precision(make):
    settings = {"groups": 2, "num_negatives": 60} if make is tanl.NegLabel else {}
    bank = tanl.LabelBank([str(i) for i in range(90)], unit(90, 32), num_id=6, logit_scale=20.0)
    full, half = (make(b, **settings) for b in (bank, bank.to(dtype=torch.float16)))
    z = unit(21, 32, seed=3)
    scores = half(z)
    assert scores.dtype == torch.float32
    torch.testing.assert_close(scores, full(z), atol=1e-3, rtol=1e-3)
    assert len(half.explain(z[:2], 3)[0]) == (3 if make in (tanl.TANL, tanl.NegLabel) else 0)
