"""The comparison of thresholds: streams with the share of outliers that is asked for, shares counted right."""

from __future__ import annotations

import math

import pytest
import torch

import tanl
from conftest import unit
from tanl.benchmarks.thresholds import STREAMS, Row, _judged, _parted, _shares, _stream, format_table
from tanl.cli.main import main
from tanl.detectors.thresholds import threshold_at_tpr


def test_calibration_images_are_in_no_stream():
    images = torch.arange(101.0)[:, None]
    known, rest = _parted(images, 19, seed=3)
    assert len(known) == 19
    assert sorted([*known[:, 0].tolist(), *rest[:, 0].tolist()]) == list(range(101))
    assert not torch.equal(known, _parted(images, 19, seed=4)[0])


@pytest.mark.parametrize("share", STREAMS.values())
def test_streams_hold_all_id_images_and_the_share_of_outliers(share):
    ids, outliers = torch.arange(95.0)[:, None], torch.arange(1000.0, 1200.0)[:, None]
    batches = _stream(ids, outliers, share, seed=0, batch_size=16)
    images = torch.cat([z for z, _ in batches])[:, 0]
    is_ood = torch.cat([truth for _, truth in batches])
    assert torch.equal(is_ood, images >= 1000)
    assert sorted(images[~is_ood].tolist()) == list(range(95))
    assert math.isclose(float(is_ood.float().mean()), share, abs_tol=0.01)
    assert len(images[is_ood].unique()) == int(is_ood.sum())


def test_shares_of_kept_and_caught():
    flagged = torch.tensor([True, False, True, True])
    assert _shares(flagged, torch.tensor([False, False, True, False])) == (pytest.approx(1 / 3), 1.0)
    assert _shares(flagged, torch.zeros(4, dtype=torch.bool)) == (0.25, None)


def test_rules_are_those_of_the_detector_itself():
    embeddings = unit(120, 24)
    bank = tanl.LabelBank([str(i) for i in range(120)], embeddings, num_id=10, logit_scale=25.0)
    near = torch.nn.functional.normalize(embeddings[:10].repeat(13, 1) + 0.5 * unit(130, 24, seed=1), dim=1)
    known, rest = _parted(near, 30, seed=0)
    batches = _stream(rest, unit(100, 24, seed=2), 0.5, seed=0, batch_size=32)
    detector = tanl.TANL(bank, num_selected=50)
    found = dict(_judged(detector, known, batches))
    assert list(found) == ["calibrated before", "calibrated midway", "Otsu"]

    again = tanl.TANL(bank, num_selected=50)
    threshold = threshold_at_tpr(again.score(known))
    flagged, otsu, truth = [], [], []
    for number, (z, is_ood) in enumerate(batches):
        scores = again(z)
        if number >= len(batches) // 2:
            flagged.append(scores > threshold)
            otsu.append(scores > again.threshold)
            truth.append(is_ood)
    assert found["calibrated before"] == _shares(torch.cat(flagged), torch.cat(truth))
    assert found["Otsu"] == _shares(torch.cat(otsu), torch.cat(truth))
    assert list(dict(_judged(tanl.NegLabel(bank, num_negatives=None), known, batches))) == [
        "calibrated before",
        "Otsu",
    ]


def test_table_names_every_rule_once():
    rows = [
        Row("TANL", rule, stream, 0.951, 0.9, None if share == 0 else 0.5)
        for rule in ("calibrated before", "Otsu")
        for stream, share in STREAMS.items()
    ]
    table = format_table(rows)
    assert table.count("95.1 (90.0)      50.0") == 4
    assert table.count("95.1 (90.0)         -") == 2


@pytest.mark.parametrize(
    ("asked", "said"),
    [(["--tracks", "animals, fruit"], "no track fruit"), (["--calibration", "18"], "at least 19")],
)
def test_mistakes_are_told_before_anything_is_loaded(asked, said, capsys):
    assert main(["bench", "thresholds", *asked]) == 2
    assert said in capsys.readouterr().err
