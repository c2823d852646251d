"""Words that score and are not named: which they are, and that evidence leaves them out and nothing else."""

import csv
import gzip
from pathlib import Path

import pytest
import torch
from colour_backbone import ColourBackbone, paint

import tanl
from conftest import unit
from tanl.cli.main import main
from tanl.detectors.verdict import detect_embeddings
from tanl.labels import not_shown
from tanl.labels.corpus import Corpus
from tools.corpora import not_shown as build

HIDDEN = {
    "slurs": ["coon", "redskin", "wetback", "gypsy", "nazi"],
    "obscenities": ["fuck", "cunt"],
    "accusations": ["thief", "wrongdoer", "terrorist", "traitor", "call girl"],
    "crimes": ["foreign terrorist organization", "murder", "qaeda", "theft"],
    "diseases": ["cancer", "schizophrenia", "leprosy", "ebola"],
    "peoples": ["moroccan", "french", "european", "navaho"],
    "religions": ["priest", "islam", "hinduism", "ayatollah"],
}
SHOWN = (
    *(
        "tool",
        "shrimp",
        "taco",
        "spade",
        "mosque",
        "church building",
        "skunk",
        "pirate",
        "wrench",
        "boy",
        "dog",
    ),
    *("flag", "person", "woman", "portrait", "face", "basketball", "patient", "shepherd", "red", "beautiful"),
)


@pytest.mark.parametrize("category", HIDDEN)
def test_words_of_each_category(category):
    assert set(HIDDEN[category]) <= not_shown.categories()[category]
    assert set(HIDDEN[category]) <= not_shown.words([category]) <= not_shown.words()


def test_words_of_things_are_shown():
    assert not not_shown.words() & set(SHOWN)
    known = {word.casefold() for word in Corpus.load("wordnet")}
    assert set(SHOWN) <= known


def test_every_word_is_one_of_wordnets_and_in_one_category():
    known = {word.casefold() for word in Corpus.load("wordnet")}
    assert not_shown.words() <= known
    assert sum(map(len, not_shown.categories().values())) == len(not_shown.words())
    assert set(not_shown.categories()) == {*build._GLOSS, *build.BRANCHES}
    assert not {word.casefold() for word in build.SHOWN} & not_shown.words()
    assert {word.casefold() for words in build.ADDED.values() for word in words} <= not_shown.words()


def test_unknown_category_is_named():
    with pytest.raises(ValueError, match=r"no category 'slur'; there are slurs, .*did you mean 'slurs'"):
        not_shown.words(["slur"])


@pytest.mark.parametrize(
    ("name", "hides"),
    [
        ("wordnet", True),
        ("neglabel", True),
        ("wordnet-medical", False),
        ("mine", False),
        ("wordnet | mine", True),
    ],
)
def test_ones_own_words_are_shown(name, hides):
    corpus = Corpus(("thief", "violin"), ("noun", "noun"), name)
    assert ("thief" in not_shown.hidden_in(corpus)) is hides
    assert not_shown.hidden_in(None) == frozenset()


def detector(negatives=60):
    names = [f"label {i}" for i in range(negatives + 3)]
    return tanl.NegLabel(
        tanl.LabelBank(names, unit(negatives + 3, 16), num_id=3), num_negatives=negatives, groups=1
    )


@pytest.mark.parametrize("k", [1, 5, 60, 80])
@pytest.mark.parametrize("share", [0, 1, 30, 59, 60])
def test_evidence_is_the_same_less_what_is_hidden(k, share):
    judge, z = detector(), unit(7, 16, seed=4)
    whole = judge.explain(z, 60)
    hidden = {item.label for item in whole[0][:share]}
    found = judge.explain(z, k, hidden=hidden)
    assert found == [tuple(item for item in row if item.label not in hidden)[:k] for row in whole]


def test_case_makes_no_difference():
    bank = tanl.LabelBank(["a", "b", "Thief", "violin"], unit(4, 8), num_id=2)
    (row,) = tanl.NegLabel(bank, num_negatives=2, groups=1).explain(unit(1, 8, seed=1), 5, hidden={"thief"})
    assert [item.label for item in row] == ["violin"]


def test_hidden_labels_with_an_index():
    judge, z = detector(), unit(7, 16, seed=4)
    index = tanl.LabelIndex.of(judge.bank)
    hidden = {item.label for item in judge.explain(z, 20)[0]}
    assert judge.explain(z, 5, index=index, hidden=hidden) == judge.explain(z, 5, hidden=hidden)


def test_scores_and_verdicts_keep_all_words():
    judge, z = detector(), unit(40, 16, seed=4)
    judge.calibrate(torch.linspace(0, 1e-6, 30))
    plain = detect_embeddings(judge, z)
    filtered = detect_embeddings(judge, z, hidden={f"label {i}" for i in range(3, 63, 2)})
    assert torch.equal(plain.ood_score, filtered.ood_score)
    assert torch.equal(plain.is_ood, filtered.is_ood)
    assert plain.evidence != filtered.evidence


@pytest.fixture
def workplace(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TANL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("tanl.backbones.load_backbone", lambda name, **_: ColourBackbone())
    return tmp_path


def corpus():
    names = ("thief", "Moroccan", "violin", "granite", "cloud", "teapot", "anvil", "kite")
    return Corpus(names, ("noun",) * len(names), "wordnet")


def named(detection):
    return {item.label for row in detection.evidence for item in row}


@pytest.mark.parametrize("show_all", [False, True])
def test_guard_names_them_only_when_asked(workplace, show_all):
    guard = tanl.Guard(ColourBackbone(), ["red", "green"], corpus=corpus(), show_all=show_all, evidence=8)
    z = unit(30, guard.bank.dim, seed=5)
    labels = {item.label for row in guard.detector.explain(z, 8) for item in row}
    assert labels & {"thief", "Moroccan"}
    guard.detector.calibrate(torch.linspace(0, 1e-6, 30))
    detection = guard.detect_embeddings(z)
    assert bool(detection.is_ood.any())
    assert bool(named(detection) & {"thief", "Moroccan"}) is show_all
    assert {"violin", "kite"} <= named(detection)
    guard.save("saved")
    again = tanl.Guard.load("saved", backbone=guard.backbone)
    assert again.show_all is show_all


@pytest.mark.parametrize("options", [[], ["--show-all"]])
def test_command_names_them_only_when_asked(workplace, monkeypatch, options):
    for i in range(12):
        paint(Path("images") / f"{i}.png", ("blue", "yellow", "purple", "white")[i % 4])
    monkeypatch.setattr("tanl.labels.corpus._selection", lambda name: corpus())
    labels = ["--label", "red", "--label", "green"]
    shared = ["--method", "neglabel", "--calibrate", "known", "--evidence", "8", "--quiet", *options]
    for i in range(20):
        paint(Path("known") / f"{i}.png", ("red", "green")[i % 2])
    assert main(["judge", "images", *labels, "--backbone", "m", *shared, "--out", "r.csv"]) == 0
    assert main(["bank", *labels, "--backbone", "m", "--out", "b.safetensors", "--quiet"]) == 0
    assert main(["judge", "images", "--bank", "b.safetensors", *shared, "--out", "b.csv"]) == 0
    for file in ("r.csv", "b.csv"):
        rows = list(csv.DictReader(Path(file).read_text().splitlines()))
        found = {row[f"evidence_{n}"] for row in rows for n in range(1, 9)}
        assert bool(found & {"thief", "Moroccan"}) is bool(options)
        assert "violin" in found


NOUNS = """\
00000001 18 n 01 person 0 000 | a human being
00000002 18 n 01 wrongdoer 0 001 @ 00000001 n 0000 | a person who transgresses
00000003 18 n 02 skunk 0 stinker 0 001 @ 00000002 n 0000 | a despicable person
00000004 05 n 01 skunk 0 000 | an animal
00000005 10 n 01 ethnic_slur 0 000 | a slur
00000006 18 n 02 darky 0 Person 0 001 ;u 00000005 n 0100 | of the first word alone
00000007 18 n 01 gook 0 000 | (slang) a disparaging term for someone
00000008 26 n 01 state 0 000 | a state
"""
INDEX = """\
skunk n 2 1 @ 2 0 00000003 00000004
stinker n 1 1 @ 1 0 00000003
wrongdoer n 1 1 @ 1 0 00000002
"""


def test_the_list_is_built_by_its_rules(tmp_path, monkeypatch):
    for name, text in {"data.noun": NOUNS, "index.noun": INDEX, "data.adj": "", "index.adj": ""}.items():
        (tmp_path / name).write_text(text)
    branch = build.Branch((("noun.person", "wrongdoer"),))
    monkeypatch.setattr(build, "BRANCHES", {"accusations": branch})
    monkeypatch.setattr(build, "ADDED", {})
    assert build.words_not_shown(tmp_path) == {
        "slurs": ["darky", "gook"],
        "obscenities": [],
        "accusations": ["stinker", "wrongdoer"],
    }
    monkeypatch.setattr(build, "BRANCHES", {"x": build.Branch((("noun.person", "nobody"),))})
    with pytest.raises(build.DictionaryError, match=r"no synset 'nobody' in noun\.person"):
        build.words_not_shown(tmp_path)


def test_what_ships_is_sorted_text(tmp_path):
    packed = (build.CORPORA / "not_shown.tsv.gz").read_bytes()
    for line in gzip.decompress(packed).decode().splitlines():
        _, *words = line.split("\t")
        assert words == sorted(words)
