"""Files through a Guard: every file has a result in its place, and the batches are the readable ones."""

import pytest
import torch
from colour_backbone import ColourBackbone, paint

import tanl
from tanl.streams.batches import Unusable
from tanl.streams.images import ImageEncoder, embed_images, judge_images
from tanl.streams.pump import Timings


@pytest.fixture
def guard(tmp_path):
    corpus = ["blue", "yellow", *(f"word {i}" for i in range(40))]
    return tanl.Guard(ColourBackbone(), ["red", "green"], corpus=corpus, cache_dir=tmp_path / "cache")


def judge_files(guard, paths, **options):
    return judge_images(ImageEncoder(guard.backbone), paths, guard.detect_embeddings, **options)


def embed_files(guard, paths, **options):
    return embed_images(ImageEncoder(guard.backbone), paths, **options)


def painted(folder, count, broken=()):
    paths = [folder / f"{index}.png" for index in range(count)]
    for index, path in enumerate(paths):
        if index in broken:
            path.write_text("broken")
        else:
            paint(path, ("red", "blue")[index % 2])
    return paths


@pytest.mark.parametrize(
    ("count", "broken", "batches"),
    [
        (0, (), []),
        (1, (), [1]),
        (10, (), [10]),
        (11, (), [10, 1]),
        (21, (0, 20), [11, 10]),
        (12, (10, 11), [10, 2]),
        (3, (0, 1, 2), [3]),
    ],
)
def test_judge_images_batches_hold_ten_readable_images(guard, tmp_path, count, broken, batches):
    paths = painted(tmp_path, count, broken)
    seen = list(judge_files(guard, paths, batch_size=10))
    assert [len(batch) for batch in seen] == batches
    results = [result for batch in seen for result in batch]
    assert [result.path for result in results] == paths
    for index, result in enumerate(results):
        assert result.outcome == ("unreadable" if index in broken else ("ID", "OOD")[index % 2])


def test_judge_images_agrees_with_the_guard(guard, tmp_path):
    paths = painted(tmp_path, 15, broken=(3,))
    judged = [
        result for batch in judge_files(guard, paths, batch_size=7) for result in batch if not result.error
    ]
    guard.reset()
    readable = [path for index, path in enumerate(paths) if index != 3]
    expected = [verdict for start in (0, 7) for verdict in guard(readable[start : start + 7])]
    assert [result.verdict for result in judged] == expected


def test_judge_images_is_lazy_so_that_what_was_judged_is_never_lost(guard, tmp_path):
    paths = painted(tmp_path, 30)

    def ends_badly():
        yield from paths
        raise OSError("the disk is gone")

    kept = []
    with pytest.raises(OSError, match="the disk is gone"):
        for batch in judge_files(guard, ends_badly(), batch_size=5):
            kept += batch
    assert [result.path for result in kept] == paths[: len(kept)]
    assert len(kept) >= 5


def test_embed_images(guard, tmp_path):
    paths = painted(tmp_path, 5, broken=(1,))
    (batch,) = embed_files(guard, paths)
    unusable = batch.images.pop(1)
    assert isinstance(unusable, Unusable) and unusable.name == paths[1] and "not an image" in unusable.reason
    assert batch.images == [path for path in paths if path.name != "1.png"]
    assert torch.equal(batch.z, guard.encode(batch.images))
    (batch,) = embed_files(guard, paths[1:2])
    assert batch.z is None and len(batch.images) == 1


def test_files_are_encoded_on_the_backbones_device(guard, tmp_path, monkeypatch):
    seen = []

    def encode(pixels):
        seen.append((pixels.device.type, len(pixels)))
        return ColourBackbone().encode_images(torch.rand(pixels.shape))

    monkeypatch.setattr(guard.backbone, "device", torch.device("meta"), raising=False)
    monkeypatch.setattr(guard.backbone, "encode_images", encode, raising=False)
    list(embed_files(guard, painted(tmp_path, 5), batch_size=3))
    list(judge_files(guard, painted(tmp_path, 2)))
    assert seen == [("meta", 3), ("meta", 2), ("meta", 2)]


@pytest.mark.parametrize("batch_size", [0, -1])
def test_batches_of_nothing_are_refused(guard, batch_size):
    with pytest.raises(ValueError, match=f"batch_size must be at least 1, not {batch_size}"):
        list(judge_files(guard, [], batch_size=batch_size))


def test_timings(guard, tmp_path):
    timings = Timings()
    assert (timings.images_per_second, timings.scoring_share) == (0, 0)
    list(judge_files(guard, painted(tmp_path, 9, broken=(4,)), batch_size=4, timings=timings))
    assert timings.images == 8
    assert 0 < timings.scoring + timings.encoding <= timings.total
    assert timings.images_per_second == pytest.approx(8 / timings.total)
    assert timings.scoring_share == pytest.approx(timings.scoring / timings.total)
