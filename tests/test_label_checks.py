"""Odd label sets: refused with their reason before a corpus is embedded, or they work."""

from __future__ import annotations

import pytest
import torch

import tanl
from tanl.labels.corpus import Corpus
from tanl.labels.names import checked_id_names

WORDS = ["cat", "domestic dog", "Dogs", "fire engine", "fire-truck", "violin", "granite"]


@pytest.fixture(scope="module")
def mini() -> tanl.Backbone:
    return tanl.load_backbone("mini")


def build(backbone, labels, tmp_path, **options):
    return tanl.build_bank(backbone, labels, cache_dir=tmp_path, **{"corpus": WORDS, **options})


@pytest.mark.parametrize(
    ("labels", "named"),
    [
        (["dog", "cat", "Dog"], "'dog' and 'Dog'"),
        (["red fox", "red  fox"], "'red fox' and 'red  fox'"),
        (["piano", "PIANO", "Piano"], "'piano' and 'PIANO'"),
        (["Ｄｏｇ", "dog"], "'Ｄｏｇ' and 'dog'"),
    ],
)
def test_labels_that_the_model_reads_alike_are_refused(mini, tmp_path, labels, named):
    with pytest.raises(ValueError, match=f"mini cannot tell the ID labels {named} apart"):
        build(mini, labels, tmp_path)
    assert not list(tmp_path.iterdir())  # before the corpus is embedded


def test_labels_that_are_alike_are_found_across_blocks(mini, tmp_path, monkeypatch):
    monkeypatch.setattr("tanl.labels.build._COMPARED_ROWS", 3)
    labels = ["dog", "violin", "piano", "tree", "house", "river", "Tree"]
    with pytest.raises(ValueError, match="'tree' and 'Tree'"):
        build(mini, labels, tmp_path)
    assert build(mini, labels[:-1], tmp_path).num_id == 6


@pytest.mark.parametrize("corpus", [WORDS, None], ids=["corpus", "no corpus"])
def test_other_languages_and_pictograms_are_labels(mini, tmp_path, corpus):
    labels = ["Katze", "猫", "犬", "собака", "кошка", "قط", "🐱", "🐶", "naïve café"]
    assert build(mini, labels, tmp_path, corpus=corpus).id_names == tuple(labels)


def test_a_word_keeps_its_translation_out_of_no_corpus(mini, tmp_path):
    assert "cat" in build(mini, ["Katze"], tmp_path).negative_names
    corpus = Corpus.load(WORDS).without(["cat"])  # what docs tell to do
    assert "cat" not in build(mini, ["Katze"], tmp_path, corpus=corpus).negative_names


@pytest.mark.parametrize(
    "label",
    ["word " * 30 + "dog", "a picture of " + "very " * 40 + "old dog!", "x1" * 60, "猫" * 40, "🐱🐶" * 20],
    ids=["words", "punctuation", "one word", "no spaces", "pictograms"],
)
def test_labels_that_are_cut_off_are_refused(mini, tmp_path, label):
    with pytest.raises(
        ValueError, match=r"the end of ID label .* makes no difference to mini: .* a shorter label"
    ):
        build(mini, ["dog", label], tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("labels", [["red fox", "cat", "Red  Fox"], ["cat", "word " * 30 + "dog"]])
def test_half_precision_hides_neither(tmp_path, labels):
    with pytest.raises(ValueError, match=r"apart|makes no difference"):
        build(tanl.load_backbone("mini", precision="bf16"), labels, tmp_path)


def test_long_labels_that_fit_are_taken(mini, tmp_path):
    label = "a small brown dog that sleeps on the sofa of a living room beside a black cat!"
    assert build(mini, [label, label.replace("black", "white")], tmp_path).num_id == 2


def test_message_about_a_long_label_is_short(mini, tmp_path):
    with pytest.raises(ValueError) as caught:
        build(mini, ["start " + "word " * 5000 + "dog"], tmp_path)
    assert len(str(caught.value)) < 300
    assert "start word" in str(caught.value)


@pytest.mark.parametrize(
    ("label", "message"),
    [
        ("dog\n", r"'dog\\n' has spaces around it; give 'dog'"),
        (" dog", "' dog' has spaces around it; give 'dog'"),
        ("dog\u00a0", "has spaces around it; give 'dog'"),
        ("red\tdog", r"holds '\\t'; give text without tabs"),
        ("red\ndog", r"holds '\\n'"),
        ("red\0dog", r"holds '\\x00'"),
        ("red\u2028dog", r"holds '\\u2028'"),
        ("red\x1b[1mdog", r"holds '\\x1b'"),
        ("dog\ud83d", r"holds '\\ud83d'"),
        ("", "empty ID label"),
        ("\u3000\n", "empty ID label"),
    ],
)
def test_labels_that_are_no_plain_text_are_refused(mini, tmp_path, label, message):
    with pytest.raises(ValueError, match=message):
        build(mini, ["cat", label], tmp_path)


@pytest.mark.parametrize(
    "label", ["👩\u200d🚀", "می\u200cخواهم", "e\u0301clair", "a\u00a0b", "{}", "{0} {x}", "C++", "%s"]
)
def test_labels_of_unusual_characters_are_taken(label):
    assert checked_id_names(["cat", label]) == ("cat", label)


def test_braces_in_a_label_are_text(mini, tmp_path):
    bank = build(mini, ["{} {0}"], tmp_path, corpus=None)
    assert torch.equal(bank.embeddings, mini.encode_texts(["The nice {} {0}."]))


@pytest.mark.parametrize(
    ("label", "gone"),
    [
        ("dog", {"domestic dog", "Dogs"}),
        ("DOGS", {"domestic dog", "Dogs"}),
        ("fire-engine", {"fire engine", "fire-truck"}),
        ("Fire_Engines", {"fire engine", "fire-truck"}),
        ("Fire Truck", {"fire engine", "fire-truck"}),
        ("cats", {"cat"}),
    ],
)
def test_plurals_hyphens_and_case_of_labels_leave_the_corpus(mini, tmp_path, label, gone):
    assert set(build(mini, [label], tmp_path).negative_names) == set(WORDS) - gone


@pytest.mark.parametrize("labels", [[], ()])
def test_no_labels_are_refused(mini, tmp_path, labels):
    with pytest.raises(ValueError, match="no ID labels; give at least one"):
        build(mini, labels, tmp_path)


def test_labels_added_later_are_held_to_the_same(mini, tmp_path):
    guard = tanl.Guard(mini, ["dog", "cat"], corpus=["violin", "granite"], cache_dir=tmp_path)
    bank = guard.bank
    for label, message in (
        ("Dog", "mini cannot tell the ID labels 'dog' and 'Dog' apart"),
        ("piano ", "has spaces around it"),
        ("a piano " * 40 + "at night", "the end of ID label"),
    ):
        with pytest.raises(ValueError, match=message):
            guard.add_labels([label])
    assert guard.bank is bank
    guard.add_labels(["piano"])
    assert guard.bank.id_names == ("dog", "cat", "piano")
