"""Verdicts in words."""

from __future__ import annotations

import builtins
import json

import pytest
import torch

import tanl


def test_verdicts_explain_themselves_in_words():
    evidence = (tanl.Evidence("basketball player", 0.297), tanl.Evidence("basketball", 0.0042))
    detection = tanl.Detection(
        torch.tensor([0.9143, 0.0359]),
        torch.tensor([True, False]),
        ["dragon", "dragon"],
        torch.tensor([0.11, 0.372]),
        [evidence, ()],
    )
    assert detection.describe() == [
        "OOD (0.914): basketball player 30%, basketball 0.42%",
        "ID (0.036): dragon 37%",
    ]
    assert detection[0].describe() == detection.describe()[0]


def test_verdicts_without_threshold_or_evidence_claim_nothing_more():
    assert tanl.Verdict(0.5, None, "cat", 0.8, ()).describe() == "no verdict (0.500): cat 80%"
    assert tanl.Verdict(0.97, True, "cat", 0.8, ()).describe() == "OOD (0.970)"  # not that it is like a cat


def detection(count, *, decided=True):
    scores = torch.linspace(0, 1, count)
    evidence = tuple((tanl.Evidence(f"word {i}", 0.5),) for i in range(count))
    return tanl.Detection(
        scores,
        scores > 0.5 if decided else None,
        [f"label {i}" for i in range(count)],
        scores / 2,
        list(evidence),
    )


@pytest.mark.parametrize("decided", [True, False])
@pytest.mark.parametrize(
    "rows",
    [slice(0, 2), slice(None), slice(-3, None), slice(None, None, -1), slice(1, 100, 3), slice(4, 2)],
    ids=str,
)
def test_a_slice_is_the_detection_of_those_images(rows, decided):
    whole = detection(7, decided=decided)
    part = whole[rows]
    assert isinstance(part, tanl.Detection)
    assert list(part) == list(whole)[rows]
    assert len(part) == len(part.ood_score) == len(part.id_probability) == len(part.evidence)
    assert part.ood_score.dtype == whole.ood_score.dtype
    assert (part.is_ood is None) is not decided
    if decided:
        assert part.is_ood.dtype == torch.bool
    assert part.describe() == whole.describe()[rows]


def test_a_verdict_is_counted_from_the_end_too():
    assert detection(7)[-1] == detection(7)[6]
    with pytest.raises(IndexError):
        detection(7)[7]


def uneven(*, decided=True):
    """Three images, with two, no and one pieces of evidence."""
    evidence = [
        (tanl.Evidence("basketball", 0.3), tanl.Evidence("ball", 0.1)),
        (),
        (tanl.Evidence("猫", 0.25),),
    ]
    return tanl.Detection(
        torch.tensor([0.75, 0.25, 0.5]),
        torch.tensor([True, False, True]) if decided else None,
        ["cat", "dog", "cat"],
        torch.tensor([0.5, 0.125, 1.0]),
        evidence,
        ("shift: other images",),
    )


def test_a_detection_is_a_table_with_a_row_an_image():
    pytest.importorskip("pandas")
    frame = uneven().to_pandas(["a.jpg", "b.jpg", "c.jpg"])
    assert list(frame.index) == ["a.jpg", "b.jpg", "c.jpg"]
    assert list(frame.columns) == [
        *("ood_score", "is_ood", "label", "id_probability"),
        *("evidence_1", "evidence_1_probability", "evidence_2", "evidence_2_probability"),
    ]
    assert frame["ood_score"].tolist() == [0.75, 0.25, 0.5]
    assert frame[frame.is_ood].index.tolist() == ["a.jpg", "c.jpg"]
    assert frame["evidence_1"].tolist() == ["basketball", None, "猫"]
    assert frame["evidence_2_probability"].isna().tolist() == [False, True, True]
    assert frame.loc["c.jpg", "id_probability"] == 1.0
    assert frame.attrs["warnings"] == ["shift: other images"]


def test_a_table_without_threshold_evidence_or_images():
    pytest.importorskip("pandas")
    frame = uneven(decided=False)[1:2].to_pandas()
    assert list(frame.columns) == ["ood_score", "is_ood", "label", "id_probability"]
    assert frame["is_ood"].isna().all() and frame["is_ood"].dtype == "boolean"
    assert list(frame.index) == [0]
    empty = uneven()[3:].to_pandas([])
    assert len(empty) == 0 and list(empty.columns) == list(frame.columns)
    with pytest.raises(ValueError, match="index names 2 images, and there are 3"):
        uneven().to_pandas(["a", "b"])


def test_a_table_needs_pandas(monkeypatch):
    real = builtins.__import__

    def without(name, *arguments, **more):
        if name == "pandas":
            raise ImportError(name)
        return real(name, *arguments, **more)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ImportError, match=r"pip install 'tanl\[pandas\]'"):
        uneven().to_pandas()


@pytest.mark.parametrize("decided", [True, False])
def test_verdicts_go_through_json_by_name(decided):
    it = uneven(decided=decided)
    columns = json.loads(json.dumps(it.to_dict()))
    rows = [json.loads(json.dumps(verdict.to_dict())) for verdict in it]
    assert list(rows[0]) == list(columns) == list(tanl.Verdict._fields)
    for name, column in columns.items():
        assert column == [row[name] for row in rows]
    assert rows[0]["evidence"][0] == {"label": "basketball", "probability": 0.3}
    assert rows[1]["is_ood"] is (False if decided else None)


def test_representations_are_short_however_many_images_there_are():
    assert repr(uneven()) == "Detection(3 images, 2 OOD)"
    assert repr(uneven(decided=False)[:1]) == "Detection(1 image, no verdicts)"
    assert len(repr(detection(1001))) < 80
