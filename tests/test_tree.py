"""Trees of labels: the tree itself, verdicts at the level that is certain, hierarchical F1 against scikit-learn."""

import json

import numpy as np
import pytest
import torch
from sklearn.metrics import f1_score

from tanl.beyond.tree import LabelTree, hierarchical_f1, tree_verdicts

LUNG = {
    "finding": None,
    "lung finding": "finding",
    "heart finding": "finding",
    "pneumonia": "lung finding",
    "atelectasis": "lung finding",
    "cardiomegaly": "heart finding",
    "device": None,
}
TREE = LabelTree(LUNG)
LEAVES = ("pneumonia", "atelectasis", "cardiomegaly", "device")


def test_a_tree_knows_its_leaves_levels_and_paths():
    assert TREE.leaves == LEAVES
    assert TREE.path("pneumonia") == ("finding", "lung finding", "pneumonia")
    assert [TREE.levels[label] for label in ("finding", "lung finding", "pneumonia", "device")] == [
        0,
        1,
        2,
        0,
    ]
    assert LabelTree({"cat": "animal"}).parents == {"animal": None, "cat": "animal"}


@pytest.mark.parametrize("nested", [False, True])
def test_a_tree_from_a_file(tmp_path, nested):
    inside = {"finding": {"lung finding": {"pneumonia": {}, "atelectasis": {}}, "heart finding": {"cardiomegaly": {}}},
              "device": {}}  # fmt: skip
    (tmp_path / "tree.json").write_text(json.dumps(inside if nested else LUNG))
    assert LabelTree.load(tmp_path / "tree.json").parents == LUNG


CHEXPERT = {
    "No Finding": {},
    "Enlarged Cardiomediastinum": {"Cardiomegaly": {}},
    "Lung Opacity": {"Lung Lesion": {}, "Edema": {}, "Consolidation": {"Pneumonia": {}}, "Atelectasis": {}},
    "Pneumothorax": {},
    "Pleural Effusion": {},
    "Pleural Other": {},
    "Fracture": {},
    "Support Devices": {},
}
"""The observations of CheXpert in their hierarchy (Irvin et al. 2019, figure 1)."""


def test_the_tree_of_chexpert(tmp_path):
    (tmp_path / "tree.json").write_text(json.dumps(CHEXPERT))
    tree = LabelTree.load(tmp_path / "tree.json")
    assert len(tree.parents) == 14 and len(tree.leaves) == 11
    assert tree.path("Pneumonia") == ("Lung Opacity", "Consolidation", "Pneumonia")
    probabilities = torch.zeros(1, 11)
    probabilities[0, [tree.leaves.index(leaf) for leaf in ("Pneumonia", "Edema", "Fracture")]] = torch.tensor(
        [0.5, 0.4, 0.1]
    )
    (verdict,) = tree_verdicts(tree, tree.leaves, probabilities)
    assert (verdict.label, verdict.ood_at, verdict.belongs) == ("Lung Opacity", "Lung Opacity", False)
    f1 = hierarchical_f1(tree, [{"Pneumonia": "uncertain"}], [{"Edema": "present", "Fracture": "absent"}])
    assert f1.micro == pytest.approx(2 * 1 / (3 + 2))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "is no JSON"),
        ("[]", "must hold an object with labels, not list"),
        ("{}", "must hold an object"),
        ('{"a": {"b": 3}}', "below 'b' is 3"),
        ('{"a": {"b": {}}, "c": {"b": {}}}', "'b' stands in two places"),
        ('{"a": "b", "b": "a"}', "are their own ancestors"),
        ('{"a": "a"}', "'a' are their own ancestors"),
    ],
)
def test_files_that_are_no_tree(tmp_path, content, message):
    (tmp_path / "tree.json").write_text(content)
    with pytest.raises(ValueError, match=message):
        LabelTree.load(tmp_path / "tree.json")
    with pytest.raises(ValueError, match="no labels"):
        LabelTree({})


@pytest.mark.parametrize(
    ("probabilities", "ood", "label", "ood_at", "belongs"),
    [
        ([0.9, 0.05, 0.03, 0.02], 0.0, "pneumonia", None, True),
        ([0.5, 0.45, 0.03, 0.02], 0.0, "lung finding", "lung finding", False),
        ([0.4, 0.2, 0.38, 0.02], 0.0, "finding", "finding", False),
        ([0.3, 0.1, 0.1, 0.5], 0.0, None, None, False),
        ([0.0, 0.0, 0.0, 1.0], 0.1, "device", None, True),
        ([0.95, 0.05, 0.0, 0.0], 0.1, "pneumonia", None, True),
        ([0.95, 0.05, 0.0, 0.0], 0.17, "lung finding", "lung finding", False),
        ([0.95, 0.05, 0.0, 0.0], 0.9, None, None, False),
    ],
)
def test_the_deepest_label_that_is_certain(probabilities, ood, label, ood_at, belongs):
    (found,) = tree_verdicts(TREE, LEAVES, torch.tensor([probabilities]), ood=torch.tensor([ood]))
    assert (found.label, found.ood_at, found.belongs) == (label, ood_at, belongs)
    assert found.path == (() if label is None else TREE.path(label))
    inside = [p for leaf, p in zip(LEAVES, probabilities, strict=True) if label in TREE.path(leaf)]
    if label is not None:
        assert found.share == pytest.approx((1 - ood) * sum(inside), abs=1e-6)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"leaves": ("pneumonia", "no such", "device", "x")}, "not in the tree: 'no such', 'x'"),
        (
            {"leaves": ("pneumonia", "lung finding", "device", "cardiomegaly")},
            "not leaves of the tree: 'lung finding'",
        ),
        ({"probabilities": torch.ones(1, 3)}, r"must be \[B, 4\]"),
        ({"probabilities": torch.full((1, 4), 2.0)}, "between 0 and 1"),
        ({"probabilities": torch.full((1, 4), float("nan"))}, "between 0 and 1"),
        ({"ood": torch.ones(2)}, "ood must be 1 scores"),
        ({"ood": torch.full((1,), 1.5)}, "between 0 and 1"),
        ({"certain": 0.4}, "certain is 0.4"),
    ],
)
def test_unusable_shares_are_refused(change, message):
    given = {"leaves": LEAVES, "probabilities": torch.full((1, 4), 0.25), **change}
    with pytest.raises(ValueError, match=message):
        tree_verdicts(TREE, given.pop("leaves"), given.pop("probabilities"), **given)


def drawn(n, seed):
    generator = np.random.default_rng(seed)
    statuses = np.array(["present", "absent", "uncertain"])
    return [
        {label: statuses[generator.integers(3)] for label in LUNG if generator.random() < 0.5}
        for _ in range(n)
    ]


def with_ancestors(images, uncertain):
    counted = {"present", "uncertain"} if uncertain == "present" else {"present"}
    held = [
        {each for label, status in image.items() if status in counted for each in TREE.path(label)}
        for image in images
    ]
    return np.array([[label in labels for label in LUNG] for labels in held])


@pytest.mark.parametrize("uncertain", ["present", "absent"])
@pytest.mark.parametrize("level", [None, 0, 1, 2])
@pytest.mark.parametrize("seed", [0, 1])
def test_hierarchical_f1_is_scikit_learn_s_of_sets_with_ancestors(uncertain, level, seed):
    truth, predicted = drawn(63, seed), drawn(63, seed + 10)
    found = hierarchical_f1(TREE, truth, predicted, uncertain=uncertain, level=level)
    columns = [index for index, label in enumerate(LUNG) if level in (None, TREE.levels[label])]
    known, said = (with_ancestors(each, uncertain)[:, columns] for each in (truth, predicted))
    for average in ("micro", "macro", "samples"):
        expected = f1_score(known, said, average=average, zero_division=0)
        assert getattr(found, average) == pytest.approx(expected, abs=1e-6), average


def with_statuses(images):
    """A column for each label and status."""
    rows = []
    for image in images:
        held = {label: {image[label]} if label in image else set() for label in LUNG}
        for label, status in image.items():
            if status != "absent":
                for each in TREE.path(label):
                    held[each].add(status)
        order = ("present", "uncertain", "absent")
        one = {
            label: next((status for status in order if status in each), None) for label, each in held.items()
        }
        rows.append([one[label] == status for status in order for label in LUNG])
    return np.array(rows)


@pytest.mark.parametrize("level", [None, 0, 1, 2])
@pytest.mark.parametrize("seed", [0, 1])
def test_statuses_apart_are_scikit_learn_s_of_labels_with_statuses(level, seed):
    truth, predicted = drawn(63, seed), drawn(63, seed + 10)
    found = hierarchical_f1(TREE, truth, predicted, uncertain="apart", level=level)
    columns = [index for index, label in enumerate([*LUNG] * 3) if level in (None, TREE.levels[label])]
    known, said = (with_statuses(each)[:, columns] for each in (truth, predicted))
    for average in ("micro", "macro", "samples"):
        expected = f1_score(known, said, average=average, zero_division=0)
        assert getattr(found, average) == pytest.approx(expected, abs=1e-6), average


def test_a_wrong_status_is_wrong_only_where_statuses_count():
    truth, said = [{"pneumonia": "present"}], [{"pneumonia": "uncertain"}]
    assert hierarchical_f1(TREE, truth, said).micro == 1
    assert hierarchical_f1(TREE, truth, said, uncertain="apart").micro == 0
    absent = [{"device": "absent"}]
    assert hierarchical_f1(TREE, absent, absent).micro == 0  # nobody holds anything
    assert hierarchical_f1(TREE, absent, absent, uncertain="apart").micro == 1


def test_a_near_miss_costs_less_than_a_far_one():
    truth = [{"pneumonia": "present"}]
    scores = [
        hierarchical_f1(TREE, truth, [{label: "present"}]).micro
        for label in ("pneumonia", "atelectasis", "cardiomegaly", "device")
    ]
    assert (
        scores == sorted(scores, reverse=True) and scores[0] == 1 and scores[-1] == 0 and len({*scores}) == 4
    )


@pytest.mark.parametrize(
    ("truth", "options", "message"),
    [
        ([], {}, "at least one"),
        ([{}, {}], {}, "2 truths and 1 predictions"),
        ([{"x": "present"}], {}, "not in the tree: 'x'"),
        ([{"device": "maybe"}], {}, "image 0: the status of 'device' is 'maybe'"),
        ([{}], {"level": 3}, "levels 0 to 2"),
        ([{}], {"uncertain": "both"}, "uncertain is 'both'"),
    ],
)
def test_unusable_statuses_are_refused(truth, options, message):
    with pytest.raises(ValueError, match=message):
        hierarchical_f1(TREE, truth, [{}], **options)
