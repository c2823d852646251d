"""``python -m tools beyond``: what it plants is what it says, and the small language model learns what it is shown."""

import numpy as np
import pytest
import torch
from PIL import Image

from tanl.beyond.difference import Difference
from tanl.labels.names import normalise
from tools.beyond import differences, head_entropy
from tools.beyond.images import auroc


def found(*texts):
    return [Difference(text, 0.9, 0.01, 0.1, "whole", 1) for text in texts]


def pair(truth, a=(), b=()):
    return differences.Pair(truth, differences._named(truth), [*a], [*b])


@pytest.mark.parametrize(
    ("texts", "place"),
    [
        (["boat"], 1),
        (["harbour", "lifeboat"], 2),
        (["harbour", "mast with Boat"], 2),
        (["harbour", "boatman"], None),
        ([], None),
    ],
)
def test_a_synonym_or_a_kind_counts_as_found(texts, place):
    assert pair("boat").place(found(*texts)) == place


def test_vendors_are_found_by_words_for_their_style():
    accepted = frozenset(map(normalise, differences.STYLES["openmoji"]))
    drawn = differences.Pair("outline", accepted, [], [])
    assert drawn.place(found("gloss", "sketch with cat")) == 2
    assert not {*differences.STYLES["openmoji"]} & {*differences.STYLES["emojione"]}


def test_texts_name_what_was_planted_in_the_first_group_alone():
    image = Image.new("RGB", (1, 1))
    a, b = pair("boat", [image] * 200, [image] * 50).texts(seed=0)
    assert (len(a), len(b)) == (200, 50)
    assert 0.5 < np.mean(["boat" in line for line in a]) < 0.7 and not any("boat" in line for line in b)
    assert pair("boat", [image] * 9, [image]).texts(1) == pair("boat", [image] * 9, [image]).texts(1)


def test_a_pictogram_stands_before_a_photograph_without_its_paper():
    front = Image.new("RGB", (40, 40), "white")
    front.paste((10, 200, 30), (10, 10, 30, 30))
    back = Image.new("RGB", (80, 60), (100, 0, 100))
    shown = np.asarray(differences._before(front, back))
    assert tuple(shown[30, 40]) == (10, 200, 30)
    assert tuple(shown[2, 2]) == tuple(shown[17, 27]) == (100, 0, 100)  # around it, and where its paper was
    assert np.asarray(back)[30, 40].tolist() == [100, 0, 100]


def test_half_of_the_facts_are_never_shown_and_domains_share_no_names_or_answers():
    facts = head_entropy._facts(seed=0)
    assert 0.4 < float((facts.weight == 0).float().mean()) < 0.6
    first, second = (
        {*torch.cat([facts.names, facts.answers], dim=1)[facts.domain == domain].flatten().tolist()}
        for domain in (0, 1)
    )
    assert not first & second and max(second) < head_entropy._VOCABULARY
    asked = head_entropy._questions(facts, torch.tensor([3, 300]), torch.Generator().manual_seed(0))
    assert asked.shape == (2, head_entropy._ASKED)
    assert asked[:, -3].tolist() == [1, 2] and torch.equal(asked[:, -2:], facts.names[[3, 300]])


def test_what_was_learnt_is_told_from_what_was_not(monkeypatch):
    pytest.importorskip("transformers")
    pytest.importorskip("sklearn")
    for name, value in {"FACTS": 12, "STEPS": 150, "BATCH": 32}.items():
        monkeypatch.setattr(head_entropy, name, value)
    lines = head_entropy.measured({}, [0])
    assert len(lines) == 10 and all(0 <= line["AUROC"] <= 100 for line in lines)
    named = {(line["score"], line["domain"]): line for line in lines}
    known = named["log-probability of the answer", "out"]
    assert 10 < known["right %"] < 90 and known["AUROC"] > 75


def test_auroc_is_of_the_higher_scores():
    assert auroc(torch.tensor([0.1, 0.2, 0.3]), torch.tensor([False, False, True])) == 100
