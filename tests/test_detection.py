"""Verdicts in words."""

from __future__ import annotations

import torch

import tanl


def test_verdicts_explain_themselves_in_words():
    evidence = (tanl.Evidence("basketball player", 0.297, True), tanl.Evidence("basketball", 0.0042, True))
    detection = tanl.Detection(
        torch.tensor([0.9143, 0.0359]),
        torch.tensor([True, False]),
        ["dragon", "dragon"],
        torch.tensor([0.11, 0.372]),
        [evidence, ()],
    )
    assert detection.explain() == [
        "OOD (0.914): basketball player 30%, basketball 0.42%",
        "ID (0.036): dragon 37%",
    ]
    assert detection[0].explain() == detection.explain()[0]


def test_verdicts_without_threshold_or_evidence_claim_nothing_more():
    assert tanl.Verdict(0.5, None, "cat", 0.8, ()).explain() == "no verdict (0.500): cat 80%"
    assert tanl.Verdict(0.97, True, "cat", 0.8, ()).explain() == "OOD (0.970)"  # not that it is like a cat
