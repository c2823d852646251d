"""benchmarks/results/preset has the tables as the study prints them, and docs/results.md rows of them."""

import json
from pathlib import Path

import pytest

from tools.preset import CANDIDATES, CONDITIONS, HALVES, MIXES, summary, table

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "preset"
PAGE = (RESULTS / "README.md").read_text(encoding="utf-8")
DOCS = (ROOT / "docs" / "results.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(("half", "seeds", "candidates"), [("choosing", (10,), 35), ("reporting", (0,), 8)])
def test_the_tables_are_what_was_measured(half, seeds, candidates):
    content = json.loads((RESULTS / f"{half}.json").read_text(encoding="utf-8"))
    assert content["half"] == half
    rows = summary(content["figures"], HALVES[half], seeds)
    assert len(rows) == candidates * len(MIXES)
    whole = table(rows)
    assert whole in PAGE
    assert rows[0][0] == "official-script, kinds + NegLabel" or half == "reporting"  # what the rule chooses
    section = DOCS.split("### What was measured of it", 1)[1].split("\nWhat it says:", 1)[0]
    shown = section.split("\nReporting:\n")[half == "reporting"]
    lines = [line for line in shown.splitlines() if line.startswith("| ")]
    assert len(lines) > 10
    assert set(lines) <= set(whole.splitlines())
    assert {name for name, _ in rows} <= {name + mix for name in CANDIDATES for mix in MIXES}
    for _, row in rows:
        every = [row[f"{condition} FPR95_ID"] for condition in CONDITIONS]
        assert row["FPR95_ID"] == pytest.approx(sum(every) / len(every))


def test_the_halves_share_no_id_set_seed_or_variant():
    choosing, reporting = HALVES["choosing"], HALVES["reporting"]
    assert not {*choosing.tracks} & {*reporting.tracks}
    assert not {*choosing.seeds} & {*reporting.seeds}
    assert choosing.variants != reporting.variants
