"""``python -m tools preset``: its conditions and its table, on images and words that are made up."""

import argparse
import json
from types import SimpleNamespace

import pytest
import torch
from torch.nn.functional import normalize

from tanl.benchmarks.engine.trust.images import Images
from tanl.detectors import TANL, Fused, NegLabel
from tanl.labels.bank import LabelBank
from tanl.metrics import HEADLINE
from tools import preset


def rows(count, seed):
    return normalize(torch.randn(count, 16, generator=torch.Generator().manual_seed(seed)))


@pytest.fixture
def bench(monkeypatch):
    """An ID set of 40 images with two OOD sets, over a bank of 1205 labels."""
    bank = LabelBank([f"word {i}" for i in range(1205)], rows(1205, 0), num_id=5, logit_scale=20.0)
    neither = torch.zeros(400, dtype=torch.bool)
    images = Images(
        bank,
        rows(3, 1),
        rows(400, 2),
        neither,
        rows(500, 3),
        rows(360, 4),
        neither[:360],
        rows(9, 5),
        rows(9, 6),
    )
    part = lambda count, seed: SimpleNamespace(embeddings=rows(count, seed))  # noqa: E731
    task = SimpleNamespace(classes=["a"], id=[part(40, 7)], ood=[part(31, 8), part(17, 9)])
    monkeypatch.setattr(preset, "Gathering", lambda *_, **__: SimpleNamespace(tasks=lambda config: [task]))
    monkeypatch.setattr(preset, "variants_of", lambda *_, **__: images)
    monkeypatch.setattr(preset, "noise_embeddings", lambda backbone: images.noise)
    monkeypatch.setattr(preset, "build_bank", lambda *_, **__: bank)
    monkeypatch.setattr(preset, "load_backbone", lambda name: None)
    monkeypatch.setattr(preset, "MINED", 100)
    half = preset.Half(("animals", "food"), (10, 11), 0, 400)
    monkeypatch.setattr(preset, "HALVES", {"choosing": half, "reporting": half})
    return preset.Bench("animals", half, None, 1 << 24)


def test_a_candidate_has_every_condition_alone_and_in_every_mix(bench):
    found = bench.measured(preset.CANDIDATES["guarded"], 10)
    assert tuple(found) == preset.MIXES
    for mix, conditions in found.items():
        assert set(conditions) - {preset.PURE} == set(preset.CONDITIONS)
        assert all(0 <= conditions[name][metric] <= 1 for name in preset.CONDITIONS for metric in HEADLINE)
        assert (preset.PURE in conditions) == (mix == "")
    assert found[""] != found[" + NegLabel"]
    assert bench.measured(preset.CANDIDATES["guarded"], 10) == found
    # NegLabel learns nothing: its mean with itself is itself, and no order matters.
    alone = bench.measured(preset.CANDIDATES["neglabel"], 10)[""]
    assert len({str(alone[order]) for order in preset.ORDERS}) == 1


@pytest.mark.parametrize("name", preset.CANDIDATES)
def test_every_candidate_can_be_made(bench, name):
    detector = bench._detector(preset.CANDIDATES[name], 3)
    inner = detector.detector if isinstance(detector, Fused) else detector
    assert isinstance(inner, NegLabel if name == "neglabel" else TANL)
    assert inner.seed == 3
    assert len(detector(rows(7, 4))) == 7


def test_the_preset_of_now_is_among_the_candidates():
    assert preset.CANDIDATES["balanced"].settings == TANL.preset("practice")


def parsed(*words):
    parser = argparse.ArgumentParser()
    preset.add_arguments(parser)
    return parser.parse_args(words)


def test_what_is_there_is_not_measured_again_and_means_are_over_sets_and_conditions(bench, tmp_path, capsys):
    out = tmp_path / "figures.json"
    asked = ["--json", str(out), "--candidates", "neglabel", "guarded"]
    assert preset.main(parsed(*asked, "--seeds", "10")) == 0
    first = json.loads(out.read_text())
    assert preset.main(parsed(*asked)) == 0
    told = capsys.readouterr().out
    assert told.count("animals, guarded, seed 10") == told.count("food, guarded, seed 11") == 1
    second = json.loads(out.read_text())
    for name, measured in first["figures"].items():
        assert measured.items() <= second["figures"][name].items()
    figures = second["figures"]
    best, *others = preset.summary(figures, preset.HALVES["choosing"], (10, 11))
    assert all(best[1]["FPR95_ID"] <= row["FPR95_ID"] for _, row in others)
    of = [each[c]["FPR95_ID"] for each in figures[best[0]].values() for c in preset.CONDITIONS]
    assert len(of) == 4 * 7
    assert best[1]["FPR95_ID"] == pytest.approx(100 * sum(of) / len(of))
    assert not preset.summary({"x": {"animals, 10": {}}}, preset.HALVES["choosing"], (10, 11))
    table = preset.table([best])
    assert f"| {best[0]} |" in table
    assert f"{best[1]['FPR95_ID']:.1f}" in table


def test_what_cannot_be_is_refused(bench, tmp_path):
    out = tmp_path / "figures.json"
    for words, message in (
        (["--candidates", "practise"], "no candidate practise; there are neglabel"),
        (["--seeds", "9"], "no seed 9; there are 10, 11"),
    ):
        with pytest.raises(ValueError, match=message):
            preset.main(parsed("--json", str(out), *words))
    out.write_text(json.dumps({"half": "reporting", "figures": {}}))
    with pytest.raises(ValueError, match="is of the half reporting: give another --json"):
        preset.main(parsed("--json", str(out)))
