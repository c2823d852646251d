"""Tux Paint's stamps laid out for the benchmark: what is taken, its labels, and a run on it."""

import csv
from pathlib import Path

import pytest
from PIL import Image
from test_pictograms import RandomBackbone

from tanl.benchmarks.data.sources import custom_set
from tanl.benchmarks.engine.runner import run
from tanl.benchmarks.engine.tasks import Config
from tools import stamps


@pytest.fixture
def folder(tmp_path):
    """Stamps as in the package, each half transparent, with descriptions of animals in several languages."""
    root = tmp_path / "package"
    for name, description in (
        ("animals/birds/hen.png", "A brown hen."),
        ("animals/birds/peacock.png", "A peacock (a male peafowl)."),
        ("animals/birds/cartoon/tux.png", "Tux, the Linux mascot!"),
        ("animals/frog.png", "A frog."),
        ("animals/frog-1.png", "A frog."),
        ("animals/mammals/bears/toys/edward_bear.png", "Edward Bear."),
        ("food/fruit/apple.png", ""),
        ("food/pizza.png", ""),
        ("vehicles/car/car.png", ""),
        ("vehicles/car/car_mirror.png", ""),
        ("symbols/one.png", ""),
    ):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        picture = Image.new("RGBA", (20, 10), (200, 30, 30, 255))
        picture.paste((0, 0, 0, 0), (0, 0, 10, 10))
        picture.save(path)
        if description:
            path.with_suffix(".txt").write_text(f"{description}\nde.utf8=Ein Tier.\n", encoding="utf-8")
    return root


def test_photographs_are_taken_and_drawings_left_out(folder, tmp_path):
    out = tmp_path / "out"
    assert stamps.lay_out(folder, out) == {"animals": 4, "food": 1, "vehicles": 1}
    files = {path.relative_to(out).as_posix() for path in out.rglob("*.png")}
    assert files == {
        "animals/birds-hen.png",
        "animals/birds-peacock.png",
        "animals/frog.png",
        "animals/frog-1.png",
        "food/fruit-apple.png",
        "vehicles/car-car.png",
    }
    with Image.open(out / "animals/frog.png") as image:
        assert image.mode == "RGB"
        assert image.getpixel((0, 0)) == (255, 255, 255)
        assert image.getpixel((19, 0)) == (200, 30, 30)
    with (out / "animals.csv").open(encoding="utf-8", newline="") as stream:
        listed = {row["path"]: row["label"] for row in csv.DictReader(stream)}
    assert listed == {
        "animals/birds-hen.png": "hen",
        "animals/birds-peacock.png": "peacock",
        "animals/frog.png": "frog",
        "animals/frog-1.png": "frog",
    }
    assert (out / "labels.txt").read_text(encoding="utf-8") == "frog\nhen\npeacock\n"


@pytest.mark.parametrize(
    ("description", "label"),
    [
        ("An otter.", "otter"),
        ("A peacock (a male peafowl).", "peacock"),
        ("The ox!", "ox"),
        ("a great blue heron", "great blue heron"),
        ("Anteater.", "Anteater"),
    ],
)
def test_labels_of_descriptions(description, label):
    assert stamps.label_of("animals/x.png", description) == label


def test_animals_without_a_description_and_folders_in_use_are_refused(folder, tmp_path):
    used = tmp_path / "used"
    used.mkdir()
    (used / "mine.txt").write_text("mine", encoding="utf-8")
    with pytest.raises(ValueError, match="used holds something already"):
        stamps.lay_out(folder, used)
    assert [path.name for path in used.iterdir()] == ["mine.txt"]
    (folder / "animals/frog.txt").unlink()
    with pytest.raises(ValueError, match=r"frog\.png has no description"):
        stamps.lay_out(folder, tmp_path / "out")


def test_what_is_laid_out_runs_as_images_of_ones_own(folder, tmp_path):
    out = tmp_path / "out"
    stamps.lay_out(folder, out)
    words = tmp_path / "words.txt"
    words.write_text(
        "\n".join(f"word {chr(97 + number // 26)}{chr(97 + number % 26)}" for number in range(20)) + "\n",
        encoding="utf-8",
    )
    labels = (out / "labels.txt").read_text(encoding="utf-8").split()
    assert custom_set(out / "animals.csv", ood=False, classes=labels).labels == (1, 2, 0, 0)
    config = Config(
        split="custom",
        id=str(out / "animals.csv"),
        ood=(str(out / "food"), str(out / "vehicles")),
        labels=str(out / "labels.txt"),
        corpus=str(words),
        methods=("MCM",),
    )
    result = run(config, tmp_path / "run", backbone=RandomBackbone(), cache_dir=tmp_path / "cache")
    assert len(result.cells()) == 2


def test_the_command_names_the_package_that_is_missing(tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        stamps.main(["--packages", str(tmp_path), "--out", str(tmp_path / "out")])
    assert stop.value.code == 2
    assert "apt-get download tuxpaint-stamps-default=2022.06.04-1" in capsys.readouterr().err
    assert not Path(tmp_path / "out").exists()
