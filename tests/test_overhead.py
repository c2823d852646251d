"""The cost of detection beside encoding: measured in the same rounds, and told."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tools.__main__ import main
from tools.overhead import Overhead, measure


def test_share_is_the_median_of_the_rounds() -> None:
    found = Overhead("ViT-B-16", 256, 1000, 70_000, 2, (10.0, 20.0, 40.0), (1.0, 1.0, 8.0))
    assert found.share == 0.1  # of 0.1, 0.05 and 0.2


def test_command_measures_and_writes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = tmp_path / "words.txt"
    words.write_text(
        "\n".join(f"word {chr(97 + number // 26)}{chr(97 + number % 26)}" for number in range(63)),
        encoding="utf-8",
    )
    out = tmp_path / "overhead.json"
    asked = ["--architecture", "ViT-S-32-alt", "--batch-size", "1", "--labels", "3", "--rounds", "2"]
    assert main(["overhead", *asked, "--corpus", str(words), "--json", str(out)]) == 0
    record = json.loads(out.read_text())
    assert (record["labels"], record["negatives"], record["batch_size"]) == (3, 63, 1)
    assert len(record["encode"]) == len(record["detect"]) == 2
    assert all(seconds > 0 for seconds in record["encode"] + record["detect"])
    assert "ViT-S-32-alt, random weights" in capsys.readouterr().out


def test_unknown_architecture_is_named() -> None:
    with pytest.raises(ValueError, match=r"no architecture 'ViT-B/16'; open_clip has .*ViT-B-16"):
        measure("ViT-B/16")
