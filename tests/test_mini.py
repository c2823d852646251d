"""The embedded model: small, loaded as any other, and right about drawings that it never saw."""

import hashlib
import json

import open_clip
import pytest
import torch

import tanl
from tanl.backbones import mini
from tanl.benchmarks.pictograms import manifest
from tanl.benchmarks.pictograms.tracks import TRACKS
from tanl.io.images import read_image
from tools.mini import inputs, pictograms, train

WEIGHTS = mini.PATH / "open_clip_model.safetensors"
ROWS = manifest.read_manifest()


@pytest.fixture(scope="module")
def backbone():
    return tanl.load_backbone("mini")


def accuracy(backbone, track, every):
    """Zero-shot accuracy on every n-th ID image of a track."""
    chosen = TRACKS[track].select(ROWS)
    texts = backbone.encode_texts([f"The nice {name}." for name in chosen.classes])
    images = [manifest.FOLDER / ROWS[i].file for i in chosen.images[::every]]
    pixels = torch.stack([backbone.preprocess(read_image(path)) for path in images])
    best = (backbone.encode_images(pixels) @ texts.T).argmax(dim=1)
    return float((best == torch.tensor(chosen.targets[::every])).float().mean())


def test_weights_are_at_most_40_mb_of_an_ordinary_open_clip_folder(backbone):
    assert WEIGHTS.stat().st_size <= 40e6
    model, _, _ = open_clip.create_model_and_transforms(f"local-dir:{mini.PATH}")
    assert isinstance(model, open_clip.CustomTextCLIP)
    assert backbone.image_size == 160
    assert 20 <= backbone.logit_scale <= 100


def test_zero_shot_on_vendors_that_were_never_trained_on(backbone):
    # Chance is 1 in 118 and 1 in 5; figures.json has the whole of it.
    assert accuracy(backbone, "animals", every=2) >= 0.25
    assert accuracy(backbone, "coarse-5", every=4) >= 0.6


def test_embeddings_are_unit_repeatable_and_do_not_depend_on_padding(backbone):
    texts = ["The nice dog.", "The nice wire-haired fox terrier of the neighbours."]
    z = backbone.encode_texts(texts)
    torch.testing.assert_close(z.norm(dim=1), torch.ones(2))
    assert torch.equal(z, backbone.encode_texts(texts))
    padded = backbone.model.encode_text(open_clip.get_tokenizer(f"local-dir:{mini.PATH}")(texts))
    torch.testing.assert_close(z, torch.nn.functional.normalize(padded, dim=1), atol=1e-5, rtol=0)


def test_figures_are_of_these_weights():
    figures = json.loads((mini.PATH / "figures.json").read_text())
    assert figures["model"]["bytes"] == WEIGHTS.stat().st_size
    assert figures["model"]["sha256"] == hashlib.sha256(WEIGHTS.read_bytes()).hexdigest()
    card = (mini.PATH / "MODEL_CARD.md").read_text()
    for vendor in ("openmoji", "emojione"):
        for result in figures["test"][vendor]["name"].values():
            assert f"{100 * result['top1']:.1f} (" in card


def test_held_out_vendors_are_in_no_training_input():
    roles = {package.name: package.role for package in pictograms.PICTOGRAM_PACKAGES}
    shipped = {row.vendor for row in ROWS}
    trained = {p.vendor for p in pictograms.PICTOGRAM_PACKAGES if p.role == "train"}
    assert shipped == {"openmoji", "emojione"}
    assert not shipped & trained
    assert roles["@iconify-json/fxemoji"] == "validation"
    licences = {package.licence for package in inputs.PACKAGES if package.role != "test"}
    assert not any("SA" in licence or "GPL" in licence for licence in licences)


def test_training_without_a_package_says_which_and_how_to_get_it(tmp_path, capsys):
    with pytest.raises(SystemExit) as stopped:
        train.main(["--packages", str(tmp_path), "--out", str(tmp_path / "out")])
    assert stopped.value.code not in (0, None)
    message = capsys.readouterr().err
    assert "npm pack @iconify-json/noto@1.2.9" in message
    assert "apt-get download openclipart-svg" in message
    assert "Traceback" not in message
