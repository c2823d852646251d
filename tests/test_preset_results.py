"""docs/results.md has the tables of benchmarks/results/preset as the study prints them."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from tools.preset import CANDIDATES, CONDITIONS, HALVES, MIXES, summary, table

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "preset"
DOCS = (ROOT / "docs" / "results.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("half", "tracks", "seeds"),
    [("choosing", HALVES["choosing"].tracks, (10,)), ("reporting", ("travel", "objects"), (0,))],
)
def test_the_tables_are_what_was_measured(half, tracks, seeds):
    content = json.loads((RESULTS / f"{half}.json").read_text(encoding="utf-8"))
    assert content["half"] == half
    rows = summary(content["figures"], replace(HALVES[half], tracks=tracks), seeds)
    assert len(rows) > 4
    assert table(rows) in DOCS
    assert {name for name, _ in rows} <= {name + mix for name in CANDIDATES for mix in MIXES}
    for _, row in rows:
        every = [row[f"{condition} FPR95_ID"] for condition in CONDITIONS]
        assert row["FPR95_ID"] == pytest.approx(sum(every) / len(every))


def test_the_halves_share_no_id_set_seed_or_variant():
    choosing, reporting = HALVES["choosing"], HALVES["reporting"]
    assert not {*choosing.tracks} & {*reporting.tracks}
    assert not {*choosing.seeds} & {*reporting.seeds}
    assert choosing.variants != reporting.variants
