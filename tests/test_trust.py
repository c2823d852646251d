"""``tanl bench trust``, on made-up embeddings in place of pictures."""

from __future__ import annotations

import json

import pytest
import torch
from colour_backbone import ColourBackbone
from test_guarded_memory import world  # noqa: F401 (a fixture)

import tanl
from tanl.benchmarks import trust
from tanl.benchmarks.engine.shipped import SHIPPED
from tanl.benchmarks.engine.trust import attacks, measures
from tanl.benchmarks.engine.trust import images as trust_images
from tanl.benchmarks.engine.trust.images import SHARES, SIZES, Images
from tanl.cli.main import main


@pytest.fixture
def images(world):  # noqa: F811
    inside, outside = world["inside"], torch.cat([world["outside"]] * 4)
    return Images(
        world["bank"],
        world["noise"],
        inside[:1280],
        torch.arange(1280) % 12 == 0,
        inside[-500:],
        outside[:1152],
        torch.arange(1152) % 60 == 0,
        inside[::12][:100],
        outside[:100],
    )


@pytest.fixture
def offline(images, monkeypatch):
    monkeypatch.setattr(trust, "load_backbone", lambda name: None)
    monkeypatch.setattr(trust, "variants_of", lambda *settings, **options: images)
    monkeypatch.setattr(attacks, "FLOOD", 256)


def test_every_part_is_measured_printed_and_written(offline, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("tanl.io.progress._SECONDS", 0.0)
    out = tmp_path / "trust.json"
    parts = "outliers, attacks, monitor"
    arguments = ["--tracks", "animals", "--length", "1280", "--seeds", "1", "--parts", parts]
    assert main(["bench", "trust", *arguments, "--json", str(out)]) == 0
    printed, told = capsys.readouterr()
    assert "tanl: animals, NegLabel, outliers: 1 of 9 measurements in" in told
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


@pytest.mark.parametrize("share", SHARES)
def test_streams_hold_the_share_of_outliers_and_no_image_twice(images, share):
    stream = measures.mixed_at(images, 1280, share, 0)
    assert len(stream.z) == 1280
    assert int(stream.is_ood.sum()) == round(1280 * share)
    chosen = stream.z[~stream.is_ood]
    assert len(chosen.unique(dim=0)) == len(chosen)
    inside = {tuple(row.tolist()): aimed for row, aimed in zip(images.inside, images.target, strict=True)}
    for row, is_ood, aimed in zip(stream.z, stream.is_ood, stream.target, strict=True):
        assert bool(aimed) == (not is_ood and bool(inside[tuple(row.tolist())]))


def test_shares_are_of_the_second_half_and_by_the_running_threshold(images, world):  # noqa: F811
    stream = measures.mixed_at(images, 1280, 0.5, 0)
    neglabel = tanl.NegLabel(world["bank"])
    neglabel.calibrate_embeddings(images.known)
    judged = measures.judge_stream(neglabel, stream)
    flagged = neglabel.predict(stream.z)
    late = torch.arange(1280) >= 640
    for name, chosen in (
        ("flagged ID", late & ~stream.is_ood),
        ("caught", late & stream.is_ood),
        ("target class flagged", stream.target),
    ):
        assert judged[name] == pytest.approx(100 * float(flagged[chosen].float().mean()))


def test_orders_change_nothing_for_a_method_that_learns_nothing(images, world):  # noqa: F811
    neglabel = tanl.NegLabel(world["bank"])
    cases = dict(measures.MEASURED["order"](neglabel, images, 1280, 0))
    assert set(cases) == set(measures.ORDERS)
    assert len({values["AUROC"] for values in cases.values()}) == 1


def test_a_calibration_is_taken_back_after_each_size(images, world):  # noqa: F811
    practice = tanl.TANL(world["bank"], initial_ood=world["noise"], **tanl.TANL.preset("practice"))
    cases = dict(measures.MEASURED["calibration"](practice, images, 1280, 0))
    sizes = [f"{size}: flagged ID" for size in SIZES]
    assert [list(values) for values in cases.values()] == [sizes] * len(SHARES)
    assert practice.tpr is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--parts", "weather"], "parts must be one of outliers, calibration"),
        (["--length", "100"], "argument --length: '100' is not a whole number of at least 1280"),
        (["--tracks", "clouds"], "no track 'clouds' of pictograms; there are animals, food, travel"),
        (
            ["--split", "photographs", "--tracks", "food"],
            "no track 'food' of photographs; there are animals,",
        ),
        (["--split", "structured", "--tracks", "fra"], "there are near, far, both; did you mean 'far'?"),
        (["--split", "structured", "--backbone", "mini"], "has no images for --backbone mini: leave it out"),
        (["--methods", "MCM"], "methods must be one of NegLabel, TANL (paper), TANL (practice), not 'MCM'"),
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
    flagging = attacks.aimed(it, images.inside[images.target], True, generator)
    hiding = attacks.aimed(it, images.outside[images.hidden], False, generator)
    assert len(flagging) == attacks.FLOOD
    assert float((it.score(flagging) > 0.5).float().mean()) > 0.9
    assert float(it.score(hiding).max()) < 0.5
    for part in hiding.split(64):
        it(part)
    assert it.state.admitted_id > 0


def test_photographs_are_varied_and_embedded(tmp_path, monkeypatch):
    monkeypatch.setenv("TANL_CACHE", str(tmp_path))
    monkeypatch.setattr(trust_images, "FLOOD", 3)
    monkeypatch.setattr(trust_images, "SIZES", (5,))
    monkeypatch.setattr(trust_images, "build_bank", lambda backbone, classes, progress: classes)
    made = [
        trust_images.variants_of(SHIPPED["photographs"], "animals", ColourBackbone(), length=60, seed=seed)
        for seed in (1, 1, 2)
    ]
    images, again, other = made
    assert [len(part) for part in (images.inside, images.known, images.outside)] == [60, 5, 54]
    assert [len(part) for part in (images.noisy, images.halfway)] == [3, 3]
    assert int(images.target.sum()) >= 1 <= int(images.hidden.sum())
    assert torch.equal(images.inside, again.inside)
    assert not torch.equal(images.inside, other.inside)


@pytest.mark.parametrize("outliers", ["near", "far", "both"])
def test_structured_embeddings_are_judged(outliers, capsys):
    arguments = ["--length", "1280", "--seeds", "1", "--parts", "outliers", "--methods", "NegLabel"]
    assert main(["bench", "trust", "--split", "structured", "--tracks", outliers, *arguments]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith(f"structured: means over {outliers} and 1 orders; 1280 images a stream")
    assert "TANL" not in printed


def test_outliers_of_both_kinds_are_half_near_and_half_far():
    """Images of the near kind resemble an ID label more."""
    made = {kind: trust_images.made_up(kind, length=1280, seed=1) for kind in ("near", "far", "both")}
    likeness = {
        kind: (images.outside @ images.bank.id_embeddings.T).amax(dim=1) for kind, images in made.items()
    }
    near, far = likeness["near"].mean(), likeness["far"].mean()
    both = likeness["both"]
    assert float(both[::2].mean()) == pytest.approx(float(near), abs=0.005)
    assert float(both[1::2].mean()) == pytest.approx(float(far), abs=0.005)
    assert near > far + 0.01
    assert all(bool(images.hidden.any()) for images in made.values())
