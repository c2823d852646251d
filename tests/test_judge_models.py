"""Which model judges: what is said of the ones that ship, banks that judge images, precision; and what a run says of
its threshold and its batches."""

import json
import logging
import re
from concurrent.futures import ThreadPoolExecutor
from importlib import resources
from pathlib import Path

import numpy as np
import pytest
import torch
from colour_backbone import COLOURS, ColourBackbone, paint
from PIL import Image

import tanl
from tanl.backbones import toys
from tanl.cli.judge_told import threshold_told
from tanl.cli.main import main
from tanl.io.options import BATCH_SIZE, batch_size_for
from tanl.streams.images import ImageEncoder

OWN = Path(str(resources.files("tanl.benchmarks"))) / "pictograms" / "images"


@pytest.fixture(autouse=True)
def nothing_told(monkeypatch):
    monkeypatch.setattr(toys, "_told", set())


@pytest.fixture
def workplace(tmp_path, monkeypatch):
    """80 images: red and green ones are ID, blue and yellow ones are not."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TANL_CACHE", str(tmp_path / "cache"))
    for index in range(80):
        colour = ("red", "blue", "green", "yellow")[index % 4]
        paint(Path("images") / f"{index:02}-{colour}.png", colour)
    for index in range(40):
        paint(Path("known") / f"{index:02}.png", ("red", "green")[index % 2])
        paint(Path("wrong") / f"{index:02}.png", ("blue", "yellow")[index % 2])
    Path("words.txt").write_text("blue\nyellow\npurple\nwhite\n" + "".join(f"word {i}\n" for i in range(40)))
    return tmp_path


class Named(ColourBackbone):
    def __init__(self, name, precision="fp32"):
        super().__init__()
        self.name, self.precision = name, precision

    @property
    def fingerprint(self):
        return f"{self.name} {self.precision}"


@pytest.fixture
def loaded(monkeypatch):
    """Models by any name, and what was asked for."""
    asked = []

    def load(name, *, device="cpu", precision="fp32"):
        asked.append((name, precision))
        return Named(name, precision)

    monkeypatch.setattr("tanl.backbones.load_backbone", load)
    return asked


LABELS = ["--label", "red", "--label", "green", "--corpus", "words.txt"]


# --- the models that ship --------------------------------------------------------------------------------------------


def test_photographs_are_judged_by_the_small_model_of_photographs_and_that_is_told(workplace, loaded, capsys):
    assert main(["judge", "images", *LABELS, "--quiet", "--out", "r.csv"]) == 0
    out, err = capsys.readouterr()
    assert loaded == [("mini-photo", "fp32")]
    assert out == ""
    assert err == f"tanl: warning: {toys.LIMITS['mini-photo']}\n"
    assert "ViT-B-16/openai" in err


@pytest.mark.parametrize(("name", "told"), [("mini", "cannot judge photographs"), ("ViT-B-16/openai", None)])
def test_pictograms_model_is_told_of_and_a_real_one_is_not(workplace, loaded, capsys, name, told):
    assert main(["judge", "images", *LABELS, "--backbone", name, "--quiet", "--out", "r.csv"]) == 0
    err = capsys.readouterr().err
    assert err == "" if told is None else (told in err and err.count("\n") == 1)


def files(count):
    return sorted(path for path in OWN.rglob("*.*") if path.is_file())[:count]


@pytest.mark.parametrize("name", ["mini", "mini-photo"])
def test_tanls_own_images_are_judged_without_a_word(name, caplog, monkeypatch):
    monkeypatch.chdir(OWN)
    encoder = ImageEncoder(Named(name))
    for number, path in enumerate([*files(3), str(files(1)[0]), files(1)[0].relative_to(OWN)]):
        encoder.prepare(number, path)
    with Image.open(files(1)[0]) as image:
        encoder.prepare(9, image)
    assert caplog.records == []


@pytest.mark.parametrize("form", ["path", "text", "image", "pixels"])
def test_images_of_ones_own_are_told_of_once_in_any_form(workplace, caplog, form):
    path = Path("images/00-red.png")
    image = {
        "path": path,
        "text": str(path),
        "image": Image.new("RGB", (9, 9)),
        "pixels": ColourBackbone().preprocess(Image.new("RGB", (9, 9))),
    }[form]
    guard = tanl.Guard(Named("mini"), ["red", "green"], corpus=["blue", "x", "y"], method="max_logit")
    for _ in range(3):
        guard.score([image] if form != "pixels" else image[None])
    assert [record.getMessage() for record in caplog.records] == [toys.LIMITS["mini"]]
    assert caplog.records[0].name.startswith("tanl.")
    assert caplog.records[0].levelno == logging.WARNING


def test_threads_that_come_at_once_tell_it_once(workplace, caplog):
    encoder = ImageEncoder(Named("mini"))
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(encoder.prepare, range(200), sorted(Path("images").iterdir()) * 3))
    assert [record.getMessage() for record in caplog.records] == [toys.LIMITS["mini"]]


# --- banks -----------------------------------------------------------------------------------------------------------


def results(name):
    return Path(name).read_text().splitlines()


@pytest.mark.parametrize("method", ["tanl", "neglabel"])
def test_a_bank_judges_images_as_its_model_does_without_embedding_a_word(
    workplace, loaded, monkeypatch, method
):
    shared = ["--method", method, "--batch-size", "10", "--quiet"]
    if method == "neglabel":
        shared += ["--calibrate", "known"]
    assert main(["bank", *LABELS, "--backbone", "some/model", "--out", "b.safetensors", "--quiet"]) == 0
    direct = ["judge", "images", *LABELS, "--backbone", "some/model", *shared]
    assert main([*direct, "--out", "direct.csv"]) == 0
    monkeypatch.setattr(ColourBackbone, "encode_texts", None)
    loaded.clear()
    assert main(["judge", "images", "--bank", "b.safetensors", *shared, "--out", "bank.csv"]) == 0
    assert loaded == [("some/model", "fp32")]
    assert results("bank.csv") == results("direct.csv")


def test_a_bank_of_another_model_or_precision_judges_no_images(workplace, loaded, capsys):
    assert main(["bank", *LABELS, "--backbone", "some/model", "--out", "b.safetensors", "--quiet"]) == 0
    for other in (["--backbone", "another"], ["--precision", "fp16"]):
        assert main(["judge", "images", "--bank", "b.safetensors", *other, "--out", "r.csv"]) == 2
        out, err = capsys.readouterr()
        assert (out, err.count("\n")) == ("", 1)
        assert "b.safetensors was made by some/model, with other weights or another preprocessing" in err
        assert not Path("r.csv").exists()


def test_precision_and_half_labels_reach_model_and_bank(workplace, loaded):
    for command in ("judge", "bank"):
        arguments = [*LABELS, "--backbone", "m", "--precision", "bf16", "--float16", "--quiet"]
        if command == "judge":
            arguments = ["images", *arguments, "--out", "r.csv"]
        assert main([command, *arguments, *(["--out", "b.safetensors"] if command == "bank" else [])]) == 0
    assert loaded == [("m", "bf16"), ("m", "bf16")]
    assert tanl.load_bank("b.safetensors").bank.dtype == torch.float16
    assert tanl.load_bank("b.safetensors", dtype=torch.float32).bank.dtype == torch.float32
    np.save("z.npy", torch.nn.functional.normalize(torch.randn(20, 7), dim=1).numpy())
    assert (
        main(["judge", "z.npy", "--bank", "b.safetensors", "--normalize", "--out", "z.csv", "--quiet"]) == 0
    )


# --- what a run says of itself ---------------------------------------------------------------------------------------


def test_a_calibrated_threshold_says_where_it_is_from(workplace, loaded, capsys):
    command = ["judge", "images", *LABELS, "--backbone", "m", "--batch-size", "8", "--out", "r.csv"]
    assert main([*command, "--calibrate", "known"]) == 0
    out, err = capsys.readouterr()
    assert re.search(
        r"^threshold \d\.\d{4}, from 40 images of known, so that 95% of such pass", out, re.MULTILINE
    )
    assert "learns from" not in out
    assert err == ""


def test_settings_replace_those_of_the_method_and_are_in_the_results(workplace, loaded):
    command = ["judge", "images", *LABELS, "--backbone", "m", "--quiet", "--out", "r.csv"]
    assert main([*command, "--set", "gap=0.5", "--set", "candidates=none", "--set", "memory=published"]) == 0
    settings = json.loads(Path("r.csv.json").read_text())["settings"]
    assert (settings["gap"], settings["candidates"], settings["memory"]) == (0.5, None, "published")
    assert settings["weighing"] == "balanced"  # the preset's


@pytest.mark.parametrize(
    ("method", "setting", "told"),
    [
        ("tanl", "gapp=0.5", "no setting 'gapp'; its settings are num_selected, .*; did you mean 'gap'"),
        ("energy", "temperature=2", "no setting 'temperature'; it has none"),
        ("tanl", "seed=3", "no setting 'seed'"),
        ("tanl", "gap=-1", "gap must lie in .*, not -1"),
        ("neglabel", "groups=many", "groups must be a whole number.*, not 'many'"),
        ("tanl", "gap", "'gap' is not NAME=VALUE, such as gap=0.5"),
    ],
)
@pytest.mark.parametrize("command", [["judge", "images"], ["watch", "images", "--out", "w.csv"], ["serve"]])
def test_settings_that_a_method_has_not_are_refused_before_anything_is_loaded(
    command, method, setting, told, workplace, monkeypatch, capsys
):
    monkeypatch.setattr("tanl.backbones.load_backbone", lambda *_, **__: pytest.fail("loaded"))
    try:
        code = main([*command, *LABELS, "--backbone", "m", "--method", method, "--set", setting])
    except SystemExit as end:
        code = end.code
    out, err = capsys.readouterr()
    assert (code, out) == (2, "")
    assert re.search(told, err)


@pytest.mark.parametrize("command", [["watch", "images", "--out", "w.csv"], ["serve", "--no-page"]])
@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--set", "gap=0.25"], "the guard was saved with gap=0.5, not 0.25; leave gap out to go on with it"),
        (["--set", "gap=0.5", "--set", "alpha=0"], "the guard was saved with alpha=0.95, not 0;"),
        (["--method", "tanl"], "the guard was saved with the method 'tanl-paper', not 'tanl';"),
        (["--set", "gapp=0.5"], "the method 'tanl-paper' has no setting 'gapp'"),
    ],
)
def test_a_kept_guard_goes_on_with_no_other_method_or_setting(
    command, options, told, workplace, monkeypatch, capsys
):
    guard = tanl.Guard(
        Named("m"), ["red", "green"], corpus="words.txt", method="tanl-paper", settings={"gap": 0.5}
    )
    guard.save("guard")
    kept = Path("guard/guard.json").read_bytes()
    monkeypatch.setattr("tanl.backbones.load_backbone", lambda *_, **__: pytest.fail("loaded"))
    assert main([*command, *LABELS, "--guard", "guard", *options]) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert told in err
    assert Path("guard/guard.json").read_bytes() == kept


def test_too_few_images_to_calibrate_with_are_refused_before_anything_is_loaded(
    workplace, monkeypatch, capsys
):
    monkeypatch.setattr("tanl.backbones.load_backbone", lambda *_, **__: pytest.fail("loaded"))
    for number in range(18):
        paint(Path("few") / f"{number}.png", "red")
    told = "tanl: error: --tpr 0.95 needs 19 images to calibrate with, and few has 18; give more, or a lower --tpr\n"
    for command in (["judge", "images"], ["watch", "images", "--out", "w.csv"]):
        assert main([*command, *LABELS, "--calibrate", "few"]) == 2
        assert capsys.readouterr().err == told


@pytest.mark.parametrize(
    "command", [["judge", "images"], ["watch", "images", "--out", "w.csv"], ["serve", "--no-page"]]
)
def test_images_are_not_calibrated_with_embeddings(command, workplace, monkeypatch, capsys):
    monkeypatch.setattr("tanl.backbones.load_backbone", lambda *_, **__: pytest.fail("loaded"))
    Path("known.npy").write_bytes(b"")
    assert main([*command, *LABELS, "--calibrate", "known.npy"]) == 2
    assert capsys.readouterr().err == (
        "tanl: error: --calibrate known.npy names embeddings, and these are images: give a folder of images, or an "
        "image\n"
    )


def test_a_threshold_that_moved_with_the_stream_is_told_at_both_ends():
    made = {"of": "known", "count": 24, "tpr": 0.95, "threshold": 0.59574}
    still = "threshold 0.5957, from 24 images of known, so that 95% of such pass"
    assert threshold_told(0.59571, made, "images") == still
    assert (
        threshold_told(0.605, made, "images") == f"{still}; it follows the stream, and is 0.6050 at the end"
    )


def test_known_images_that_look_less_like_the_classes_than_the_stream_are_doubted(workplace, loaded, capsys):
    for index in range(400):
        paint(Path("stream") / f"{index:03}.png", ("red", "green", *COLOURS)[index % 2])
    command = ["judge", "stream", *LABELS, "--backbone", "m", "--method", "neglabel", "--out", "r.csv"]
    assert main([*command, "--calibrate", "wrong"]) == 0
    err = capsys.readouterr().err
    (line,) = [line for line in err.splitlines() if "calibration:" in line]
    assert re.match(
        r"tanl: warning: calibration: 0 of (\d+) images are flagged, and of \1 that belong to the classes about ",
        line,
    )
    assert line.endswith(
        "those that the threshold is from look less like the classes than these; do they belong to them?"
    )
    # Embeddings have no guard, and the same is said of them.
    assert main(["bank", *LABELS, "--backbone", "m", "--out", "b.safetensors"]) == 0
    command = ["judge", "stream", "--bank", "b.safetensors", "--method", "neglabel", "--out", "r.csv"]
    capsys.readouterr()
    assert main([*command, "--calibrate", "wrong"]) == 0
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "calibration:" in line]
    assert "0 of 400 images are flagged, and of 400 that belong to the classes about 20 would be" in line


@pytest.mark.parametrize(
    ("method", "size", "told"), [("tanl", 20, False), ("tanl", 21, True), ("neglabel", 80, False)]
)
def test_few_batches_are_told_of_methods_that_learn(workplace, loaded, capsys, method, size, told):
    command = ["judge", "images", *LABELS, "--backbone", "m", "--method", method, "--batch-size", str(size)]
    assert main([*command, "--out", "r.csv"]) == 0
    assert (f"80 images are fewer than 4 batches of {size}" in capsys.readouterr().out) is told


@pytest.mark.parametrize(("method", "size"), [("tanl", 10), ("tanl-paper", 10), ("neglabel", BATCH_SIZE)])
def test_a_short_stream_has_batches_to_learn_from(workplace, loaded, capsys, method, size):
    command = ["judge", "images", *LABELS, "--backbone", "m", "--method", method, "--out", "r.csv"]
    assert main(command) == 0
    assert json.loads(Path("r.csv.json").read_text(encoding="utf-8"))["batch_size"] == size
    assert "batches of" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("count", "size"),
    [(None, 64), (0, 8), (1, 8), (71, 8), (72, 9), (207, 25), (511, 63), (512, 64), (10**6, 64)],
)
def test_batches_are_smaller_where_a_stream_is_known_to_be_short(count, size):
    assert batch_size_for(count) == size
