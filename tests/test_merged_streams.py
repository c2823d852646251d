"""The study of streams that several workers share."""

import argparse

import pytest
import torch

import tanl
from tanl.benchmarks.engine.protocol import stream_order
from tanl.detectors.registry import make_detector
from tools.merged_streams import Row, _shared_streams, format_table
from tools.speed.data import Features

FEATURES = Features(30, 400, 24, 24, seed=1)
BANK = tanl.LabelBank([f"label {i}" for i in range(430)], FEATURES.labels(), num_id=30, logit_scale=30.0)
PARTS = (torch.cat([FEATURES.batch(i) for i in range(4)]), torch.cat([FEATURES.batch(i) for i in (4, 5)]))


def measured(workers, every):
    arguments = argparse.Namespace(method="tanl-paper", batch_size=16, workers=workers, every=every)
    return _shared_streams("a", "b", BANK, PARTS, FEATURES.known_ood, 3, arguments)


def test_one_worker_is_the_ordered_stream_and_more_of_them_merge_as_often_as_they_should():
    ordered, often, seldom, never = measured([3], [1, 2, 0])
    assert (ordered.images, ordered.workers, ordered.merges, ordered.difference) == (144, 1, 0, 0)
    # Nine batches, three a worker: a merge before each but a worker's first, or before its third.
    assert [row.merges for row in (often, seldom, never)] == [6, 3, 0]
    assert often.state_bytes >= seldom.state_bytes > never.state_bytes == 0
    assert all(row.difference > 0 for row in (often, seldom, never))

    detector = make_detector("tanl-paper", BANK, seed=3, initial_ood=FEATURES.known_ood)
    embeddings, scores = torch.cat(PARTS), torch.empty(144)
    for batch in stream_order(96, 48, "shuffled", 3).split(16):
        scores[batch] = detector(embeddings[batch])
    found = tanl.OODMetrics()
    found.update(scores[:96], torch.zeros(96))
    found.update(scores[96:], torch.full((48,), -1.0))
    assert ordered.auroc == pytest.approx(found.compute()["AUROC"], abs=1e-9)
    assert ordered.fpr95_id == pytest.approx(found.compute()["FPR95_ID"], abs=1e-9)


def test_the_table_has_means_and_the_worst_stream():
    rows = [
        Row("a", ood, 100, 0, workers, every, merges, auroc, fpr, difference, size)
        for ood, ways in {
            "x": [(1, 0, 0, 0.9, 0.1, 0.0, 0), (2, 4, 6, 0.8, 0.3, 0.02, 2000)],
            "y": [(1, 0, 0, 0.7, 0.3, 0.0, 0), (2, 4, 8, 0.7, 0.2, 0.04, 1000)],
        }.items()
        for workers, every, merges, auroc, fpr, difference, size in ways
    ]
    told, _, ordered, shared = format_table(rows).splitlines()
    assert told.startswith("2 streams of 100 to 100 images")
    assert ordered.split() == ["1", "0.0", "80.00", "20.00", "0.00", "0.0000", "0"]
    assert shared.split() == ["2", "4", "7.0", "75.00", "25.00", "20.00", "0.0300", "2"]
