"""Synthetic runs, written as the benchmark writes them, for the tests of tables and reports."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from tanl.benchmarks.engine.protocol import stream_order
from tanl.benchmarks.engine.run_folder import FILE, Cell, CellScores, Key, RunFolder
from tanl.metrics import OODMetrics

STATELESS = {"MCM": 1.0, "NegLabel": 1.8}
STATEFUL = {"AdaNeg": 2.2, "TANL (batch-adaptive)": 2.8}
LABELS = ("coral reef", "lichen", "moss", "knitwear", "chequered pattern")


def measure(scores: CellScores) -> dict[str, float]:
    """The metrics of a cell's scores."""
    metrics = OODMetrics()
    metrics.update(scores.id, np.zeros(len(scores.id)))
    metrics.update(scores.ood, np.full(len(scores.ood), -1))
    values = metrics.compute()
    return {name: values[name] for name in ("AUROC", "AUPR_IN", "AUPR_OUT", "FPR95", "FPR95_ID")}


def write_run(
    path: Path,
    *,
    split: str = "pictograms",
    backbone: str = "mini",
    tracks: Mapping[str, Mapping[str, str]] | None = None,
    id_names: Mapping[str, str] | None = None,
    methods: Mapping[str, float] = {**STATELESS, **STATEFUL},
    seeds: Sequence[int] = (0, 1, 2),
    orders: Sequence[str] = ("shuffled", "id-first"),
    num_id: int = 131,
    num_ood: int = 63,
    labels: Sequence[str] = LABELS,
    images: Mapping[tuple[str, str], Sequence[str]] | None = None,
    sets: Mapping[tuple[str, str], Mapping[str, Any]] | None = None,
    config: Mapping[str, Any] | None = None,
) -> RunFolder:
    """A run with random scores, better for methods with a larger number in ``methods``.

    Args:
        path: its folder.
        split: its name.
        backbone: its name.
        tracks: for each ID set's track, the role of each OOD set.
        id_names: the name of each track's ID set; by default the track's own, or "id".
        methods: how far apart each holds ID and OOD images.
        seeds: of the methods that keep a state.
        orders: of these.
        num_id: images of each ID set.
        num_ood: images of each OOD set.
        labels: what TANL and AdaNeg say was activated.
        images: the paths of sets, by track and name.
        sets: more fields of sets, by track and name.
        config: more fields of the configuration.
    """
    tracks = tracks or {"": {"sharks": "near", "noise": "far"}}
    entries = []
    for track, ood in tracks.items():
        name = (id_names or {}).get(track, track or "id")
        for member, role, count in [
            (name, "id", num_id),
            *((one, role, num_ood) for one, role in ood.items()),
        ]:
            entry = {"name": member, "role": role, "track": track, "count": count, "originals": count}
            entries.append(
                {**entry, "expected": None, "unreadable": [], **(sets or {}).get((track, member), {})}
            )
    folder = RunFolder.create(
        path,
        {
            "split": split,
            "backbone": backbone,
            "corpus": "neglabel",
            "removal": "names",
            "preprocessing": "published",
            "methods": list(methods),
            "seeds": list(seeds),
            "orders": list(orders),
            "batch_size": 256,
            "limit": None,
            "stream_length": None,
            "augmented": False,
            **(config or {}),
        },
        {"tanl": "0.1.0", "backbone": backbone, "corpus": "wordnet (70 000 words)", "device": "cpu"},
        entries,
        images=images,
        command=f"tanl bench run {split}",
    )
    for track, ood in tracks.items():
        for number, (name, role) in enumerate(ood.items()):
            for method, apart in methods.items():
                stateless = method in STATELESS
                for order in ["any"] if stateless else orders:
                    for seed in [None] if stateless else seeds:
                        scores = _scores(num_id, num_ood, apart * 0.85**number, order, seed)
                        folder.write(
                            Cell(
                                track=track,
                                method=method,
                                ood=name,
                                role=role,
                                order=order,
                                seed=seed,
                                batch_size=256,
                                num_id=num_id,
                                num_ood=num_ood,
                                metrics=measure(scores),
                                seconds=0.25,
                                activated=()
                                if stateless
                                else tuple((label, 0.02 / (place + 1)) for place, label in enumerate(labels)),
                                threshold=None if stateless else 0.5,
                            ),
                            scores,
                        )
    return folder


def without(folder: RunFolder, *keys: Key, kinds: Sequence[str] = ("cell", "scores")) -> RunFolder:
    """The run, opened anew, without those cells."""
    with closing(sqlite3.connect(folder.path / FILE)) as database, database:
        rows = [(kind, key.slug) for key in keys for kind in kinds]
        database.executemany("DELETE FROM entries WHERE kind = ? AND name = ?", rows)
    return RunFolder.open(folder.path)


def damage(folder: RunFolder, kind: str, name: str, change: Callable[[bytes], bytes]) -> RunFolder:
    """The run, with the content of one row changed behind its back."""
    with closing(sqlite3.connect(folder.path / FILE)) as database, database:
        query = "SELECT content FROM entries WHERE kind = ? AND name = ?"
        (content,) = database.execute(query, (kind, name)).fetchone()
        is_text = isinstance(content, str)
        changed = change(content.encode() if is_text else content)
        query = f"UPDATE entries SET content = {'CAST(? AS TEXT)' if is_text else '?'} WHERE kind = ? AND name = ?"
        database.execute(query, (changed, kind, name))
    return folder


def _scores(num_id: int, num_ood: int, apart: float, order: str, seed: int | None) -> CellScores:
    generator = np.random.default_rng([0 if seed is None else seed + 1, round(100 * apart)])
    logits = np.concatenate([generator.normal(-apart, 1.2, num_id), generator.normal(apart, 1.6, num_ood)])
    scores = (1 / (1 + np.exp(-logits))).astype(np.float32)
    if order == "any":
        positions = np.arange(num_id + num_ood)
    else:
        positions = stream_order(num_id, num_ood, order, seed or 0).numpy()
    return CellScores(scores[:num_id], scores[num_id:], positions.astype(np.int32))


def draw_images(folder: Path, names: Sequence[str]) -> list[str]:
    """Small pictures of those names, and their paths."""
    generator = np.random.default_rng(0)
    for name in names:
        pixels = generator.integers(0, 255, (5, 5, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize((80, 60), Image.Resampling.BICUBIC).save(folder / name, "PNG")
    return [str(folder / name) for name in names]
