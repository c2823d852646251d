"""benchmarks/results/parts/README.md says what is beside it."""

import csv
from pathlib import Path

from tanl.metrics import HEADLINE

FOLDER = Path(__file__).parents[1] / "benchmarks" / "results" / "parts"


def test_negatives_chosen_by_id_images():
    with (FOLDER / "shots.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    overall = {
        (row["method"], row["track"], row["metric"]): float(row["mean_percent"])
        for row in rows
        if row["ood"] == "overall"
    }
    section = (FOLDER / "README.md").read_text(encoding="utf-8").split("(`--shots 1`)\n", 1)[1]
    heads, _, *table = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in section.splitlines()
        if line.startswith("|")
    ]
    tracks = heads[1:]
    assert {(row[0], track) for row in table for track in tracks} == {key[:2] for key in overall}
    for method, *cells in table:
        for track, cell in zip(tracks, cells, strict=True):
            assert cell == " / ".join(f"{overall[method, track, metric]:.1f}" for metric in HEADLINE)
    gains = [
        overall["NegLabel", track, "FPR95_ID"] - overall["NegLabel + inter-modal", track, "FPR95_ID"]
        for track in tracks
    ]
    assert min(gains) > 4
