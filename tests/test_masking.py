"""Masked patches, and ``tanl bench masking`` on made-up pictures."""

import json

import numpy as np
import pytest
import torch
from colour_backbone import ColourBackbone
from PIL import Image

from tanl.benchmarks import masking
from tanl.benchmarks.data.masking import Masked
from tanl.cli.main import main


class Pixels(ColourBackbone):
    """Preprocesses to 40 x 24 pixels, which are no whole patches of 16."""

    image_size = (40, 24)

    def preprocess(self, image):
        return torch.from_numpy(np.asarray(image.resize((24, 40)), dtype=np.float32) / 255).permute(2, 0, 1)


def picture(seed=0):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (40, 24, 3), dtype=np.uint8))


def hidden(share, seed=0, image=None):
    backbone = Pixels()
    image = image or picture()
    return (Masked(backbone, share, seed=seed).preprocess(image) != backbone.preprocess(image)).any(dim=0)


@pytest.mark.parametrize(("share", "patches"), [(0, 0), (0.5, 3), (0.6, 4), (1, 6)])
def test_whole_patches_are_masked_with_the_mean_colour(share, patches):
    """Rows 0 to 15, 16 to 31, 32 to 39; columns 0 to 15 and 16 to 23."""
    mask = hidden(share)
    blocks = [mask[r : r + 16, c : c + 16] for r in (0, 16, 32) for c in (0, 16)]
    assert all(block.all() or not block.any() for block in blocks)
    assert sum(bool(block.all()) for block in blocks) == patches
    masked, whole = Masked(Pixels(), share).preprocess(picture()), Pixels().preprocess(picture())
    mean = whole.mean(dim=(1, 2), keepdim=True).expand_as(whole)
    assert torch.equal(masked[:, mask], mean[:, mask]) and torch.equal(masked[:, ~mask], whole[:, ~mask])


def test_a_larger_share_masks_the_same_and_more_and_runs_agree():
    assert bool((hidden(0.8) >= hidden(0.4)).all())
    assert torch.equal(hidden(0.5), hidden(0.5))
    assert any(not torch.equal(hidden(0.5), hidden(0.5, seed=seed)) for seed in range(1, 5))
    assert any(not torch.equal(hidden(0.5), hidden(0.5, image=picture(seed))) for seed in range(1, 5))


def test_embeddings_of_other_masks_are_kept_apart():
    prints = {Masked(Pixels(), share, seed=seed).fingerprint for share in (0.1, 0.2) for seed in (0, 1)}
    assert len(prints) == 4 and Pixels().fingerprint not in prints
    assert Masked(Pixels(), 0).fingerprint == Pixels().fingerprint
    with pytest.raises(ValueError, match=r"share is 1\.5"):
        Masked(Pixels(), 1.5)


def test_the_command_measures_prints_and_writes(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("TANL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(masking, "load_backbone", lambda name: Pixels())
    build = masking.build_bank
    words = [f"word {number}" for number in range(300)]
    monkeypatch.setattr(
        masking, "build_bank", lambda *args, corpus, **more: build(*args, corpus=corpus and words, **more)
    )
    out = tmp_path / "masking.json"
    command = ["bench", "masking", "--split", "photographs", "--tracks", "animals", "--percent", "0", "50"]
    assert main([*command, "--seeds", "0", "5", "--methods", "MCM", "NegLabel", "--json", str(out)]) == 0
    printed = capsys.readouterr().out
    assert "AUROC" in printed and "FPR95_ID" in printed and "50 %" in printed
    cells = json.loads(out.read_text())["cells"]
    assert [(cell["method"], cell["percent"], cell["seed"]) for cell in cells] == [
        ("MCM", 0, 0), ("NegLabel", 0, 0), ("MCM", 0, 5), ("NegLabel", 0, 5),
        ("MCM", 50, 0), ("NegLabel", 50, 0), ("consistency", 50, 0),
        ("MCM", 50, 5), ("NegLabel", 50, 5), ("consistency", 50, 5),
    ]  # fmt: skip
    assert cells[0]["AUROC"] == cells[2]["AUROC"]  # nothing is masked, and MCM knows no order
    assert cells[6]["AUROC"] != cells[9]["AUROC"]  # other masks
    assert all(0 <= cell["AUROC"] <= 100 for cell in cells)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--tracks", "nothing"], "pictograms has no track 'nothing'"),
        (["--percent", "101"], "--percent is 101"),
        (["--methods", "GL-MCM"], "GL-MCM takes embeddings of patches"),
        (["--methods", "nothing"], "no method nothing"),
    ],
)
def test_unusable_options_are_refused_before_a_model_is_loaded(monkeypatch, capsys, options, message):
    monkeypatch.setattr(masking, "load_backbone", lambda name: pytest.fail("a model was loaded"))
    assert main(["bench", "masking", *options]) == 2
    assert message in capsys.readouterr().err
