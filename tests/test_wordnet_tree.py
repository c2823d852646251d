"""Trees of labels from WordNet's hypernyms."""

import pytest
import torch

from tanl.beyond.tree import tree_verdicts
from tanl.beyond.wordnet_tree import wordnet_tree
from tanl.labels.names import normalise
from tanl.labels.wordnet import kinds


def test_labels_lie_below_what_wordnet_calls_them():
    tree = wordnet_tree(["cat", "dog", "robin", "sparrow", "salmon"])
    assert tree.parents == {
        "cat": "carnivore",
        "dog": "carnivore",
        "robin": "oscine",
        "sparrow": "oscine",
        "salmon": "vertebrate",
        "vertebrate": None,
        "carnivore": "vertebrate",
        "oscine": "vertebrate",
    }
    assert tree.leaves == ("cat", "dog", "robin", "sparrow", "salmon")


@pytest.mark.parametrize(
    ("others", "above"),
    [(["crow", "robin", "heron"], "bird"), (["bulldozer", "forklift"], "instrumentality")],
)
def test_the_sense_is_that_of_the_other_labels(others, above):
    assert above in wordnet_tree(["crane", *others]).path("crane")


def test_every_ancestor_has_the_label_among_its_kinds():
    """Held against the kinds that removals take, which go the other way through WordNet."""
    tree = wordnet_tree(
        ["cat", "violin", "flute", "piano", "oak", "rose", "hammer", "saw", "bus", "airplane"]
    )
    inner = [label for label in tree.parents if label not in tree.leaves]
    assert len(inner) > 4
    for leaf in tree.leaves:
        assert all(normalise(leaf) in kinds(normalise(above)) for above in tree.path(leaf)[:-1])
    children = [parent for parent in tree.parents.values() if parent is not None]
    assert all(children.count(label) > 1 for label in inner)


def test_a_label_may_be_a_kind_of_another_or_its_synonym():
    tree = wordnet_tree(["dog", "poodle", "sofa", "couch"])
    assert tree.parents["poodle"] == "dog"
    assert tree.parents["sofa"] == tree.parents["couch"] == tree.parents["dog"] is not None


def test_compounds_that_wordnet_lacks_lie_below_their_last_words():
    tree = wordnet_tree(["grenadier fish", "a photo of a sand smelt fish.", "fish", "cats"])
    assert tree.parents["grenadier fish"] == tree.parents["a photo of a sand smelt fish."] == "fish"
    assert tree.parents["cats"] == tree.parents["fish"] == "vertebrate"


def test_no_two_nodes_have_one_name():
    """An inner node is called otherwise where a label has its name."""
    tree = wordnet_tree(["bird", "robin redbreast bird", "sofa", "vertebrate tail", "cat"])
    assert len(tree.parents) == len({*tree.parents}) and {"bird", "cat"} <= tree.parents.keys()
    assert wordnet_tree(["cat"]).parents == {"cat": None}


def test_verdicts_stop_where_wordnet_s_kinds_disagree():
    labels = ["cat", "dog", "robin"]
    (verdict,) = tree_verdicts(wordnet_tree(labels), labels, torch.tensor([[0.5, 0.45, 0.05]]))
    assert (verdict.label, verdict.belongs) == ("carnivore", False)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([], "no labels"),
        (["cat", "dog", "cat"], "given more than once: 'cat'"),
        (["cat", "xyzzy", "qwrt plugh"], "no nouns of WordNet: 'xyzzy', 'qwrt plugh'"),
        ("cat", "labels must be a list"),
        (["cat", 3], "labels must be strings"),
    ],
)
def test_what_makes_no_tree_is_refused(labels, message):
    with pytest.raises((ValueError, TypeError), match=message):
        wordnet_tree(labels)
