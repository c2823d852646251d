"""The benchmark protocol and its bootstrap, on cases small enough to work out by hand."""

from __future__ import annotations

from itertools import groupby
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tanl import OODMetrics
from tanl.benchmarks.engine.bootstrap import (
    PairedResamples,
    interval,
    mean_of_sets,
    resample_counts,
    resampled_metrics,
)
from tanl.benchmarks.engine.protocol import ORDERS, StreamScores, run_stream, stream_order
from tanl.detectors import Detector
from tanl.metrics import HEADLINE

Array = np.ndarray[Any, np.dtype[Any]]


class Recorder(Detector):
    """Scores an image by its only coordinate and remembers what it was shown."""

    def __init__(self) -> None:
        self.batches: list[list[float]] = []
        self.resets = 0

    def __call__(self, z: Tensor) -> Tensor:
        self.batches.append(z[:, 0].tolist())
        return z[:, 0]

    def reset(self) -> None:
        self.resets += 1


def images(*values: float) -> Tensor:
    return torch.tensor(values)[:, None]


def point(scores: StreamScores) -> list[float]:
    metrics = OODMetrics()
    metrics.update(scores.id, np.zeros(len(scores.id)))
    metrics.update(scores.ood, np.full(len(scores.ood), -1))
    computed = metrics.compute()
    return [computed[name] for name in HEADLINE]


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize(("num_id", "num_ood"), [(1, 1), (5, 3), (63, 100)])
def test_order_is_a_permutation_that_the_seed_decides(order: str, num_id: int, num_ood: int) -> None:
    positions = stream_order(num_id, num_ood, order, 7)  # type: ignore[arg-type]
    assert sorted(positions.tolist()) == list(range(num_id + num_ood))
    assert torch.equal(positions, stream_order(num_id, num_ood, order, 7))  # type: ignore[arg-type]
    if num_id > 20:
        assert not torch.equal(positions, stream_order(num_id, num_ood, order, 8))  # type: ignore[arg-type]


def test_order_puts_one_part_first() -> None:
    assert set(stream_order(20, 30, "id-first", 0)[:20].tolist()) == set(range(20))
    assert set(stream_order(20, 30, "ood-first", 0)[:30].tolist()) == set(range(20, 50))
    assert stream_order(20, 30, "id-first", 0)[:20].tolist() != list(range(20))
    assert 0 < (stream_order(20, 30, "shuffled", 0)[:20] < 20).sum() < 20


@pytest.mark.parametrize(("num_id", "num_ood"), [(1000, 1000), (300, 1200), (1001, 63)])
def test_drift_has_more_and_more_ood(num_id: int, num_ood: int) -> None:
    is_ood = stream_order(num_id, num_ood, "drift", 5) >= num_id
    shares = [float(part.double().mean()) for part in is_ood.tensor_split(4)]
    assert shares == sorted(shares)
    assert shares[3] - shares[0] > 0.1
    first_id, first_ood = (part.nonzero()[:, 0].double().mean() for part in (~is_ood, is_ood))
    assert first_ood > first_id
    if num_id == num_ood:
        assert shares == pytest.approx([0.125, 0.375, 0.625, 0.875], abs=0.06)


def test_drift_shuffles_either_kind() -> None:
    positions = stream_order(200, 300, "drift", 0)
    for part, count in ((positions[positions < 200], 200), (positions[positions >= 200] - 200, 300)):
        ranks = torch.stack([torch.arange(count), part]).double()
        assert abs(float(torch.corrcoef(ranks)[0, 1])) < 0.2


@pytest.mark.parametrize(("num_id", "num_ood"), [(50, 50), (63, 1003), (3, 7), (1, 1)])
def test_blocks_take_turns(num_id: int, num_ood: int) -> None:
    is_ood = (stream_order(num_id, num_ood, "blocks", 1) >= num_id).tolist()
    runs = [(kind, len(list(members))) for kind, members in groupby(is_ood)]
    assert not runs[0][0]
    for kind, total in ((False, num_id), (True, num_ood)):
        sizes = [size for is_kind, size in runs if is_kind == kind]
        assert sum(sizes) == total
        if min(num_id, num_ood) >= 5:
            assert len(sizes) == 5
            assert max(sizes) - min(sizes) <= 1


def test_state_can_be_kept_for_the_next_stream() -> None:
    detector = Recorder()
    for reset in (True, False):
        run_stream(detector, images(0.0), images(1.0), order="drift", seed=0, batch_size=8, reset=reset)
    assert (detector.resets, len(detector.batches)) == (1, 2)


def test_stream_comes_in_batches_and_scores_go_back_to_their_images() -> None:
    detector = Recorder()
    id_images, ood_images = images(0.0, 0.1, 0.2), images(1.0, 1.1, 1.2, 1.3)
    scores = run_stream(detector, id_images, ood_images, order="shuffled", seed=3, batch_size=3)
    assert scores.id.tolist() == id_images[:, 0].double().tolist()
    assert scores.ood.tolist() == ood_images[:, 0].double().tolist()
    assert [len(batch) for batch in detector.batches] == [3, 3, 1]
    merged = torch.cat([id_images, ood_images])[:, 0]
    shown = [value for batch in detector.batches for value in batch]
    assert shown == merged[stream_order(3, 4, "shuffled", 3)].tolist()


def test_state_is_new_for_each_stream() -> None:
    detector = Recorder()
    for count in (1, 2):
        run_stream(detector, images(0.0), images(1.0), order="id-first", seed=0, batch_size=8)
        assert detector.resets == count


@pytest.mark.parametrize(
    ("id_images", "ood_images", "order", "batch_size", "message"),
    [
        (images(), images(1.0), "shuffled", 1, "there are 0 and 1"),
        (images(1.0), images(), "shuffled", 1, "there are 1 and 0"),
        (images(1.0), images(1.0), "sorted", 1, "no order 'sorted'"),
        (images(1.0), images(1.0), "shuffled", 0, "batch_size must be at least 1, not 0"),
    ],
)
def test_stream_refused(
    id_images: Tensor, ood_images: Tensor, order: str, batch_size: int, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        run_stream(
            Recorder(),
            id_images.reshape(-1, 1),
            ood_images.reshape(-1, 1),
            order=order,  # type: ignore[arg-type]
            seed=0,
            batch_size=batch_size,
        )


def test_metrics_by_hand() -> None:
    """20 ID scores 1..20 and 4 OOD scores: 95 % of ID are kept at 19, all 4 OOD are caught at 10."""
    scores = StreamScores(np.arange(1.0, 21), np.array([10.0, 19.0, 19.5, 30.0]))
    ones = [np.ones((1, len(part)), np.int64) for part in scores]
    auroc, fpr95, fpr95_id = resampled_metrics(scores, *ones)[0]
    assert auroc == pytest.approx((9.5 + 18.5 + 19 + 20) / 80)
    assert fpr95 == 11 / 20
    assert fpr95_id == 2 / 4


@pytest.mark.parametrize("num_id", [1, 19, 20, 21, 101])
@pytest.mark.parametrize("levels", [2, 7, 10_000])
def test_unit_counts_give_what_the_metrics_class_gives(num_id: int, levels: int) -> None:
    generator = np.random.default_rng(num_id)
    scores = StreamScores(
        generator.integers(0, levels, num_id) / levels, generator.integers(0, levels, 63) / levels + 0.2
    )
    ones = [np.ones((1, len(part)), np.int64) for part in scores]
    assert resampled_metrics(scores, *ones)[0] == pytest.approx(point(scores))


def test_resamples_are_those_of_repeated_images() -> None:
    generator = np.random.default_rng(0)
    scores = StreamScores(generator.normal(0, 1, 30), generator.normal(1, 1, 41).round(1))
    id_counts, ood_counts = (resample_counts(len(part), 20, generator) for part in scores)
    assert (id_counts.sum(axis=1) == 30).all()
    assert (ood_counts.sum(axis=1) == 41).all()
    got = resampled_metrics(scores, id_counts, ood_counts)
    for row, id_count, ood_count in zip(got, id_counts, ood_counts, strict=True):
        repeated = StreamScores(np.repeat(scores.id, id_count), np.repeat(scores.ood, ood_count))
        assert row == pytest.approx(point(repeated))


def test_totals_may_differ_between_resamples() -> None:
    """Sources have as many variants as come to them, one more or less."""
    generator = np.random.default_rng(1)
    scores = StreamScores(generator.normal(0, 1, 30).round(1), generator.normal(1, 1, 41).round(1))
    id_counts, ood_counts = generator.integers(0, 3, (20, 30)), generator.integers(0, 3, (20, 41))
    got = resampled_metrics(scores, id_counts, ood_counts)
    assert len({*id_counts.sum(axis=1)}) > 5
    for row, id_count, ood_count in zip(got, id_counts, ood_counts, strict=True):
        repeated = StreamScores(np.repeat(scores.id, id_count), np.repeat(scores.ood, ood_count))
        assert row == pytest.approx(point(repeated))


def of_stream(scores: StreamScores, id_sources: Array, ood_sources: Array) -> Array:
    return PairedResamples({"ood": (id_sources, ood_sources)}).metrics("ood", scores)


def test_copies_do_not_narrow_the_interval() -> None:
    """Nine copies of each image say no more than the image does; as images of their own they would."""
    generator = np.random.default_rng(2)
    own = StreamScores(generator.normal(0, 1, 31), generator.normal(1, 1, 23))
    copies = StreamScores(np.tile(own.id, 10), np.tile(own.ood, 10))
    each = [np.arange(len(part)) for part in own]
    expected = of_stream(own, *each)
    assert of_stream(copies, *(np.tile(part, 10) for part in each)) == pytest.approx(expected)
    as_if_new = of_stream(copies, *(np.arange(len(part)) for part in copies))
    widths = [np.subtract(*interval(samples[:, 0])[::-1]) for samples in (expected, as_if_new)]
    assert widths[1] < 0.5 * widths[0]


def test_copies_that_were_changed_a_little_hardly_narrow_the_interval() -> None:
    generator = np.random.default_rng(3)
    own = StreamScores(generator.normal(0, 1, 31), generator.normal(1, 1, 23))
    longer = StreamScores(*(np.resize(part, 7 * len(part) + 5) for part in own))
    longer = StreamScores(*(part + generator.normal(0, 0.1, len(part)) for part in longer))
    sources = [np.arange(len(made)) % len(part) for made, part in zip(longer, own, strict=True)]
    widths = [
        np.subtract(*interval(samples[:, 0])[::-1])
        for samples in (of_stream(own, *(np.arange(len(part)) for part in own)), of_stream(longer, *sources))
    ]
    assert widths[1] == pytest.approx(widths[0], rel=0.15)


def test_streams_share_the_resamples_of_their_sources() -> None:
    """Of a run's streams, one may have more variants of the same ID images than another."""
    id_scores, ood_scores = np.linspace(0, 1, 12), np.array([0.4, 0.8])
    sets = {"few": (np.arange(12) % 5, np.arange(2)), "many": (np.arange(7) % 5, np.arange(2))}
    resamples = PairedResamples(sets)
    generator = np.random.default_rng(0)
    of_five = resample_counts(5, 1000, generator)
    for name, (sources, _) in sets.items():
        scores = StreamScores(id_scores[: len(sources)], ood_scores)
        expected = resampled_metrics(scores, of_five[:, sources], resample_counts(2, 1000, generator))
        assert resamples.metrics(name, scores) == pytest.approx(expected)
    with pytest.raises(ValueError, match=r"a stream with many has \(12, 2\) images, others have \(7, 2\)"):
        resamples.metrics("many", StreamScores(id_scores, ood_scores))


def test_interval_and_mean_of_sets() -> None:
    samples = np.arange(101.0) / 100
    assert interval(samples) == pytest.approx((0.025, 0.975))
    assert mean_of_sets([np.zeros((4, 3)), np.ones((4, 3))]) == pytest.approx(np.full((4, 3), 0.5))
