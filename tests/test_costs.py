"""What models cost: measured by the command, told in a table, and put into the page."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tools.__main__ import main
from tools.costs import ARCHITECTURES, Cost, loaded, write_page

PAGE = Path(__file__).parents[1] / "docs" / "costs.md"


def test_a_row_says_what_the_corpus_takes():
    row = Cost("a model", 290.0, 1.25, 600.4, 136_139, 512).row()
    assert row == "| a model | 290 | 8 min | 1.2 | 600 | 279 |"


def test_the_command_measures_prints_and_writes(tmp_path, capsys):
    page, out = tmp_path / "page.md", tmp_path / "costs.json"
    page.write_text("before\n<!-- costs -->\nold\n<!-- /costs -->\nafter\n")
    assert main(["costs", "--models", "mini", "--page", str(page), "--json", str(out)]) == 0
    record = json.loads(out.read_text())
    (cost,) = record["costs"]
    assert cost["model"] == "mini" and cost["texts"] > 0 and cost["images"] > 0
    assert cost["weights"] == pytest.approx(59, abs=1)
    text = page.read_text()
    assert text.startswith("before\n<!-- costs -->\nMeasured on ") and text.endswith(
        "<!-- /costs -->\nafter\n"
    )
    assert "| mini | " in text and "old" not in text and Cost(**cost).row() in capsys.readouterr().out


def test_the_page_that_ships_can_be_written_again(tmp_path):
    copy = tmp_path / "costs.md"
    copy.write_text(PAGE.read_text(encoding="utf-8"), encoding="utf-8")
    write_page(copy, "new")
    assert "\n<!-- costs -->\nnew\n<!-- /costs -->\n" in copy.read_text(encoding="utf-8")
    for name in ARCHITECTURES:
        assert f"| {name} |" in PAGE.read_text(encoding="utf-8")


def test_an_architecture_has_random_weights():
    backbone = loaded("ViT-S-32-alt")
    assert backbone.name == "ViT-S-32-alt, random weights"
    assert backbone.encode_texts(["a cat"]).shape == (1, 256)


def test_what_cannot_be_measured_is_told_first(tmp_path, capsys):
    (tmp_path / "page.md").write_text("no marks")
    assert main(["costs", "--models", "mini", "--page", str(tmp_path / "page.md")]) == 2
    assert "has no <!-- costs -->" in capsys.readouterr().err
    with pytest.raises(ValueError, match="no model 'ViT-B/16': give mini, mini-photo, or an architecture"):
        loaded("ViT-B/16")
