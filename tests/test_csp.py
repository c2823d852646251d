"""CSP: what it mines from either kind of label, its score, and the phrases that it is for."""

import pytest
import torch
from torch.nn.functional import normalize

import tanl
from conftest import unit
from tanl.detectors.csp import CSP, SUPERCLASSES, conjugated_words
from tanl.detectors.neglabel import NegLabel
from tanl.labels.corpus import Corpus


def pool(nouns=60, phrases=40, *, num_id=7, scale=20.0):
    """A bank of nouns and phrases in turn, so that the kinds are not in two blocks."""
    names = [f"class {i}" for i in range(num_id)]
    negatives = [f"noun {i}" for i in range(nouns)] + [
        f"quality{i} {SUPERCLASSES[i % 14]}" for i in range(phrases)
    ]
    order = torch.randperm(len(negatives), generator=torch.Generator().manual_seed(4)).tolist()
    names += [negatives[i] for i in order]
    return tanl.LabelBank(names, unit(len(names), 16, seed=1), num_id=num_id, logit_scale=scale)


def least_similar(bank, ending):
    """Names of one kind, the least similar to the ID labels first."""
    cosines = bank.negative_embeddings @ bank.id_embeddings.T
    similarity = cosines.quantile(0.95, dim=1)
    chosen = [i for i, name in enumerate(bank.negative_names) if name.startswith(ending)]
    return [bank.negative_names[i] for i in sorted(chosen, key=lambda i: float(similarity[i]))]


@pytest.mark.parametrize("share", [0.1, 0.5, 1.0])
def test_mines_the_same_share_of_either_kind(share):
    bank = pool()
    detector = CSP(bank, share=share, groups=2, seed=None)
    expected = (
        least_similar(bank, "noun")[: int(60 * share)] + least_similar(bank, "quality")[: int(40 * share)]
    )
    assert detector._names == expected


@pytest.mark.parametrize(("nouns", "phrases"), [(65, 0), (0, 65), (64, 1)])
def test_a_pool_of_one_kind_is_mined_alone(nouns, phrases):
    bank = pool(nouns, phrases)
    detector = CSP(bank, share=0.5, groups=4)
    assert len(detector._names) == 32


@pytest.mark.parametrize("rows", [1, 5, 63])
def test_score_is_neglabels_over_what_was_mined(rows):
    bank = pool()
    detector = CSP(bank, share=0.55, groups=5)
    index = [bank.names.index(name) for name in detector._names]
    mined = tanl.LabelBank(
        [*bank.id_names, *detector._names],
        torch.cat([bank.id_embeddings, bank.embeddings[index]]),
        num_id=7,
        logit_scale=20.0,
    )
    z = unit(rows, 16, seed=3)
    expected = NegLabel(mined, num_negatives=None, groups=5, seed=None).score(z)
    torch.testing.assert_close(detector.score(z), expected, atol=1e-6, rtol=1e-6)


def test_a_label_that_is_an_id_label_in_other_words_goes_last():
    # Near one of 100 ID labels and far from the others: the quantile alone would take it first of all.
    ids = normalize(torch.eye(100, 101) + 0.1, dim=1)
    near = ids[3] + 0.01 * torch.eye(101)[100]
    apart = torch.stack([near, *(ids[i] + ids[i + 1] for i in range(9))])
    bank = tanl.LabelBank(
        [f"class {i}" for i in range(100)] + ["twin", *(f"noun {i}" for i in range(9))],
        torch.cat([ids, normalize(apart, dim=1)]),
        num_id=100,
    )
    assert least_similar(bank, "")[0] == "twin"
    assert CSP(bank, share=1.0, groups=1, seed=None)._names[-1] == "twin"
    assert "twin" not in CSP(bank, share=0.9, groups=1)._names


def test_seed_shuffles_into_groups():
    bank = pool()
    first, again, other = (CSP(bank, share=0.5, groups=5, seed=seed) for seed in (1, 1, 2))
    assert first._names == again._names != other._names
    assert sorted(first._names) == sorted(other._names)
    with pytest.raises(ValueError, match="another settings"):
        first.load_state_dict(other.state_dict())
    first.load_state_dict(again.state_dict())


def test_half_precision_labels_change_scores_little():
    whole, half = (CSP(bank, share=1.0, groups=1) for bank in (pool(), pool().to(dtype=torch.float16)))
    z = unit(9, 16, seed=3)
    torch.testing.assert_close(half.score(z), whole.score(z), atol=2e-2, rtol=0)


def test_explains_with_the_labels_it_mined():
    bank = pool()
    detector = CSP(bank, share=0.2, groups=2)
    for evidence in detector.explain(bank.negative_embeddings[:5], k=4):
        assert {e.label for e in evidence} <= set(detector._names)


@pytest.mark.parametrize(
    ("settings", "kind", "message"),
    [
        ({"share": 0}, ValueError, r"share must lie in \(0, 1\], not 0"),
        ({"share": float("nan")}, ValueError, "share must lie"),
        ({"groups": 0}, ValueError, "groups must be at least 1"),
        ({}, ValueError, "15 negatives cannot make 100 groups; lower groups"),
        ({"superclasses": ()}, ValueError, "superclasses is empty"),
        ({"superclasses": "object"}, TypeError, "not the one string 'object'"),
        ({"superclasses": ["object", " "]}, ValueError, "a superclass must be a word, not ' '"),
    ],
)
def test_refuses_unusable_settings(settings, kind, message):
    with pytest.raises(kind, match=message):
        CSP(pool(), **settings)


def test_refuses_a_bank_without_negatives(bank):
    ids = tanl.LabelBank(bank.id_names, bank.id_embeddings, num_id=7)
    with pytest.raises(ValueError, match="CSP needs negative labels, and the bank has none"):
        CSP(ids)


# --- phrases ------------------------------------------------------------------------------------------------

SMALL = Corpus(
    ("dog", "open space", "white", "polished", "open"), ("noun", "noun", "adj", "adj", "adj"), name="small"
)


def test_each_adjective_becomes_one_phrase_after_the_nouns():
    words = conjugated_words(SMALL)
    assert words.words[:2] == ("dog", "open space")
    assert [word.rsplit(" ", 1)[0] for word in words.words[2:4]] == ["white", "polished"]
    assert all(word.rsplit(" ", 1)[1] in SUPERCLASSES for word in words.words[2:])
    assert set(words.parts_of_speech) == {"noun"}
    assert words.name == "conjugated-small"
    assert words.prompts()[0] == "The nice dog."
    assert words.prompts()[2] == f"The nice {words.words[2]}."


def test_a_phrase_that_is_a_noun_already_is_left_out():
    assert conjugated_words(SMALL, superclasses=["Space"]).words == (
        "dog",
        "open space",
        "white Space",
        "polished Space",
    )


def test_seed_alone_decides_the_superclasses():
    assert conjugated_words(SMALL, seed=3).words == conjugated_words(SMALL, seed=3).words
    assert len({conjugated_words(SMALL, seed=seed).words for seed in range(5)}) == 5


def test_wordnets_pool_uses_every_superclass_about_as_often():
    source = Corpus.load("csp")
    words = conjugated_words()
    nouns = source.parts_of_speech.count("noun")
    phrases = words.words[nouns:]
    assert len(words) == len(source) - (source.parts_of_speech.count("adj") - len(phrases))
    assert 0 <= source.parts_of_speech.count("adj") - len(phrases) < 20
    counts = [sum(phrase.endswith(f" {superclass}") for phrase in phrases) for superclass in SUPERCLASSES]
    assert sum(counts) == len(phrases)
    assert min(counts) > 0.8 * len(phrases) / 14
    endings = tuple(f" {superclass}" for superclass in SUPERCLASSES)
    assert sum(word.casefold().endswith(endings) for word in words.words[:nouns]) == 87


@pytest.mark.parametrize(
    ("arguments", "kind", "message"),
    [
        ((["dog", "cat"],), ValueError, "the corpus 'custom' has no adjective to join to a superclass"),
        (("nounet",), ValueError, "unknown corpus 'nounet'"),
        ((7,), TypeError, "not int"),
    ],
)
def test_unusable_corpora_are_refused(arguments, kind, message):
    with pytest.raises(kind, match=message):
        conjugated_words(*arguments)


def test_superclasses_are_checked():
    with pytest.raises(ValueError, match="superclasses is empty"):
        conjugated_words(SMALL, superclasses=[])


def test_phrases_and_detector_fit_together(tiny_backbone, tmp_path):
    bank = tanl.build_bank(tiny_backbone, ["dog", "cat"], corpus=conjugated_words(SMALL), cache_dir=tmp_path)
    assert bank.num_negatives == 4  # the class itself is left out
    detector = CSP(bank, share=1.0, groups=2)
    assert bool(detector(bank.id_embeddings).isfinite().all())
