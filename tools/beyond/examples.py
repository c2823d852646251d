"""Examples for a prompt: pools in which one example in five does not belong."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

import numpy as np

from tanl.beyond.examples import order_examples
from tanl.detectors import NegLabel
from tanl.labels.build import build_bank

from .images import MODELS, Images


def measured(loaded: Mapping[str, Images], seeds: Sequence[int]) -> list[dict[str, Any]]:
    """Pools of 40 examples of animals, eight of which are something else; queries are other animals."""
    lines = []
    for name in MODELS:
        images = loaded[name]
        chosen = images.split.tracks["animals"].select(images.rows)
        outside = sorted({index for _, members in chosen.ood.values() for index in members})
        bank = build_bank(images.backbone, chosen.classes)
        wrong: dict[str, list[float]] = {"screened": [], "not screened": [], "random": []}
        for seed in seeds:
            generator = np.random.default_rng(seed)
            inside = generator.permutation(list(chosen.images))
            known, pool_in, queries = inside[:20], inside[20:52], inside[52:]
            pool = [*pool_in.tolist(), *generator.permutation(outside)[:8].tolist()]
            detector = NegLabel(bank)
            detector.calibrate_embeddings(images.z[known.tolist()], 0.9)
            for query in queries.tolist():
                z = images.z[[query]]
                for title, screen in (("screened", detector), ("not screened", None)):
                    found = order_examples(z, images.z[pool], 8, detector=screen)
                    wrong[title].append(100 * fmean(row >= 32 for row in found.order.tolist()))
                wrong["random"].append(
                    100 * fmean(row >= 32 for row in generator.permutation(40)[:8].tolist())
                )
        lines += [
            {"images": name, "choice": title, "wrong among 8 %": fmean(values)}
            for title, values in wrong.items()
        ]
    return lines
