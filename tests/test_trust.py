"""``tanl bench trust``, on made-up embeddings in place of pictures."""

from __future__ import annotations

import json

import pytest
import torch
from test_guarded_memory import world  # noqa: F401 (a fixture)

import tanl
from tanl.benchmarks import trust
from tanl.cli.main import main


@pytest.fixture
def images(world):  # noqa: F811
    inside, outside = world["inside"], torch.cat([world["outside"]] * 4)
    return trust.Images(
        world["bank"],
        inside[:1280],
        torch.arange(1280) % 12 == 0,
        inside[-500:],
        outside[:1152],
        torch.arange(1152) % 60 == 0,
        inside[::12][:100],
        outside[:100],
    )


@pytest.fixture
def offline(images, world, monkeypatch):  # noqa: F811
    monkeypatch.setattr(trust, "load_backbone", lambda name: None)
    monkeypatch.setattr(trust, "noise_embeddings", lambda backbone: world["noise"])
    monkeypatch.setattr(trust, "_images", lambda *settings: images)
    monkeypatch.setattr(trust, "FLOOD", 256)


def test_every_part_is_measured_printed_and_written(offline, tmp_path, capsys):
    out = tmp_path / "trust.json"
    parts = "outliers, attacks, monitor"
    arguments = ["--tracks", "animals", "--length", "1280", "--seeds", "1", "--parts", parts]
    assert main(["bench", "trust", *arguments, "--json", str(out)]) == 0
    printed = capsys.readouterr().out
    for part in parts.split(", "):
        assert f"\n{part} " in printed
    record = json.loads(out.read_text())
    assert record["parts"] == parts.split(", ")
    found = {(one["part"], one["case"], one["method"]): one for one in record["streams"]}
    pure = found["outliers", "0%", "TANL (practice)"]
    assert 0 <= pure["own: flagged ID"][0] <= 100
    assert "AUROC" not in pure
    half = found["outliers", "50%", "NegLabel"]
    assert 50 < half["AUROC"][0] <= 100
    assert ("attacks", "white-box: flag, one source", "TANL (practice)") in found
    assert ("attacks", "white-box: flag, one source", "TANL (paper)") not in found
    flood = found["monitor", "one image repeated", "NegLabel"]
    assert flood["flood: noticed"] == [100.0]
    assert "flood: batches" in flood


def test_one_part_alone_takes_other_lengths_of_streams(offline, capsys):
    assert (
        main(
            ["bench", "trust", "--tracks", "animals", "--length", "1280", "--parts", "order", "--seeds", "1"]
        )
        == 0
    )
    assert "attacks" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--parts", "weather"], "no part 'weather'; there are outliers, calibration"),
        (["--length", "100"], "--length must be at least 1280, not 100"),
        (["--tracks", "clouds"], "clouds"),
        (["--seeds", "0"], "--seeds"),
    ],
)
def test_unusable_options_are_refused(arguments, message, capsys):
    try:
        code = main(["bench", "trust", *arguments])
    except SystemExit as refused:
        code = refused.code
    assert code == 2
    assert message in capsys.readouterr().err


def test_white_box_images_convince_the_detector_as_it_starts(images, world):  # noqa: F811
    it = tanl.TANL(world["bank"], initial_ood=world["noise"], **tanl.TANL.preset("practice"))
    generator = torch.Generator().manual_seed(0)
    flagging = trust._aimed(it, images.inside[images.target], True, generator)
    hiding = trust._aimed(it, images.outside[images.hidden], False, generator)
    assert len(flagging) == trust.FLOOD
    assert float(it.score(flagging).min()) > 0.5 > float(it.score(hiding).max())
    for part in hiding.split(64):
        it(part)
    assert it.state.admitted_id > 0
