"""Guard.stream and Guard.astream: the verdicts of batch after batch, read no further ahead than promised."""

import asyncio
import queue
import threading
import time
from contextlib import aclosing

import numpy as np
import pytest
import torch
from colour_backbone import ColourBackbone
from PIL import Image
from states import assert_same_state, state_of

import tanl
from tanl.streams import images as stream_images
from tanl.streams.batches import Ready
from tanl.streams.pump import Pump

CORPUS = ["blue", "yellow", *(f"word {i}" for i in range(40))]


@pytest.fixture
def guard(tmp_path):
    return tanl.Guard(ColourBackbone(), ["red", "green"], corpus=CORPUS, cache_dir=tmp_path / "cache")


@pytest.fixture(autouse=True)
def no_thread_stays():
    before = threads()
    yield
    assert threads() <= before


def threads():
    """Those that run, without the one that tqdm keeps for its bars."""
    return {thread for thread in threading.enumerate() if type(thread).__name__ != "TMonitor"}


def pictures(count, seed=0):
    rng = np.random.default_rng(seed)
    base = np.array([(230, 20, 20), (20, 30, 230), (20, 200, 30)])[np.arange(count) % 3][:, None, None]
    pixels = base + rng.normal(0, 25, (count, 9, 11, 3)) + rng.normal(0, 12, (count, 1, 1, 3))
    return [Image.fromarray(each) for each in pixels.clip(0, 255).astype(np.uint8)]


def by_calls(guard, images, size):
    guard.reset()
    return [v for i in range(0, len(images), size) for v in guard(images[i : i + size])]


class Source:
    """Counts how many images were taken from it."""

    def __init__(self, images):
        self.images, self.read = iter(images), 0

    def __iter__(self):
        return self

    def __next__(self):
        image = next(self.images)
        self.read += 1
        return image


def endless(images):
    while True:
        yield from images


WAYS = {"in place": {}, "in a thread": {"max_wait": 60.0}}
ways = pytest.mark.parametrize("options", WAYS.values(), ids=WAYS.keys())


@ways
@pytest.mark.parametrize(("count", "size"), [(0, 5), (1, 5), (5, 5), (23, 5), (23, 1), (23, 64)])
@pytest.mark.parametrize("read_ahead", [None, 0, 3])
def test_stream_gives_what_calls_on_its_batches_give(guard, options, count, size, read_ahead):
    images = pictures(count)
    found = list(guard.stream(images, batch_size=size, read_ahead=read_ahead, **options))
    state = state_of(guard.detector)
    assert found == by_calls(guard, images, size)
    assert_same_state(guard.detector.state_dict(), state)


@ways
def test_stream_takes_paths_images_and_pixels_mixed(guard, tmp_path, options):
    images = pictures(7)
    images[1].save(tmp_path / "1.png")
    images[2].save(tmp_path / "2.png")
    pixels = guard.backbone.preprocess(images[3])
    mixed = [images[0], tmp_path / "1.png", str(tmp_path / "2.png"), pixels, *images[4:]]
    assert list(guard.stream(mixed, batch_size=4, **options)) == by_calls(guard, images, 4)
    guard.reset()
    stacked = torch.stack([guard.backbone.preprocess(image) for image in images])
    assert list(guard.stream(stacked, batch_size=4, **options)) == by_calls(guard, images, 4)


@ways
@pytest.mark.parametrize(("size", "read_ahead"), [(4, 0), (4, 3), (1, 1), (3, 10)])
def test_stream_reads_no_further_ahead_than_promised(guard, options, size, read_ahead):
    source = Source(endless(pictures(9)))
    verdicts = guard.stream(source, batch_size=size, read_ahead=read_ahead, **options)
    time.sleep(0.02)
    assert source.read == 0
    for taken in range(1, 14):
        next(verdicts)
        time.sleep(0.005)  # a thread that reads too much gets the time to
        assert source.read <= taken - 1 + size + read_ahead
        assert source.read >= taken
    assert source.read > 0
    verdicts.close()


@ways
def test_leaving_the_loop_ends_the_threads_and_leaves_the_source(guard, options):
    before = threads()
    source = Source(endless(pictures(9)))
    for _ in guard.stream(source, batch_size=4, **options):
        break
    assert threads() <= before
    read = source.read
    time.sleep(0.03)
    assert source.read == read
    next(source)  # the rest of the source is the caller's


@ways
def test_an_error_in_the_loop_ends_the_threads(guard, options):
    with pytest.raises(ZeroDivisionError):
        for _ in guard.stream(endless(pictures(9)), batch_size=4, **options):
            1 / 0  # noqa: B018


@ways
@pytest.mark.parametrize("good", [0, 3, 5, 13])
def test_an_error_of_the_source_comes_after_the_verdicts_on_what_it_gave(guard, options, good):
    images = pictures(good)

    def source():
        yield from images
        raise OSError("the camera is gone")

    found = []
    with pytest.raises(OSError, match="the camera is gone"):
        for verdict in guard.stream(source(), batch_size=5, **options):
            found.append(verdict)
    assert found == by_calls(guard, images, 5)


def damaged(tmp_path, images, where):
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"\x89PNG and then nothing")
    return [broken if i in where else image for i, image in enumerate(images)]


@ways
@pytest.mark.parametrize("where", [0, 4, 5, 12])
def test_an_unreadable_image_ends_the_stream_after_what_came_before(guard, tmp_path, options, where):
    images = pictures(13)
    found = []
    with pytest.raises(tanl.UnreadableImage, match=r"broken\.png") as caught:
        for verdict in guard.stream(damaged(tmp_path, images, {where}), batch_size=5, **options):
            found.append(verdict)
    assert caught.value.path.name == "broken.png"
    state = state_of(guard.detector)
    assert found == by_calls(guard, images[:where], 5)
    assert_same_state(guard.detector.state_dict(), state)


@ways
@pytest.mark.parametrize("where", [{0}, {4, 5}, {12}, {0, 1, 2, 3, 4, 5, 9}, set(range(13))])
def test_unreadable_images_may_take_their_verdicts_place(guard, tmp_path, options, where):
    images = pictures(13)
    stream = guard.stream(damaged(tmp_path, images, where), batch_size=5, errors="yield", **options)
    found = list(stream)
    assert {i for i, each in enumerate(found) if isinstance(each, tanl.UnreadableImage)} == where
    good = [each for each in found if isinstance(each, tanl.Verdict)]
    assert good == by_calls(guard, [image for i, image in enumerate(images) if i not in where], 5)


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (Image.new("RGB", (1000, 2)), "1000 x 2 pixels: one side is over 100 times the other"),
        (torch.zeros(3, 9, 9), r"pixels must have shape \[3, 8, 8\], not \[3, 9, 9\]"),
        (torch.full((3, 8, 8), float("nan")), "NaN or infinite"),
    ],
    ids=["strip", "shape", "NaN"],
)
def test_unusable_images_without_a_path_are_told_by_their_number(guard, bad, reason):
    images = pictures(9)
    given = [*images[:4], bad, *images[4:]]
    found = list(guard.stream(given, batch_size=3, errors="yield"))
    with pytest.raises(tanl.UnreadableImage, match=rf"the image number 4 of the stream: .*{reason}"):
        raise found.pop(4)
    assert found == by_calls(guard, images, 3)
    with pytest.raises(tanl.UnreadableImage, match=rf"number 4 of the stream: .*{reason}"):
        list(guard.stream(given, batch_size=3))


@pytest.mark.parametrize("errors", ["raise", "yield"])
def test_something_that_is_no_image_is_a_mistake_of_the_caller(guard, errors):
    images, found = pictures(4), []
    with pytest.raises(TypeError, match="expected a PIL image, got int"):
        for verdict in guard.stream([*images, 5], batch_size=3, errors=errors):
            found.append(verdict)
    assert found == by_calls(guard, images, 3)
    with pytest.raises(TypeError, match=r"floating torch.Tensor, not torch.uint8"):
        list(guard.stream([torch.zeros(3, 8, 8, dtype=torch.uint8)], errors=errors))


def test_a_slow_source_gets_its_verdicts_in_time(guard):
    images, waiting = pictures(5), queue.Queue()
    verdicts = guard.stream(iter(waiting.get, None), batch_size=64, max_wait=0.4)
    found = []
    for part in (images[:2], images[2:3], images[3:]):
        for image in part:
            waiting.put(image)
        before = time.monotonic()
        found += [next(verdicts) for _ in part]
        assert time.monotonic() - before < 5
    waiting.put(None)
    assert list(verdicts) == []
    guard.reset()
    assert found == [*guard(images[:2]), *guard(images[2:3]), *guard(images[3:])]


def test_a_full_batch_does_not_wait(guard):
    waiting = queue.Queue()
    for image in pictures(6):
        waiting.put(image)
    verdicts = guard.stream(iter(waiting.get, None), batch_size=3, max_wait=600.0)
    assert len([next(verdicts) for _ in range(6)]) == 6
    waiting.put(None)
    assert list(verdicts) == []


def test_a_backlog_makes_full_batches_however_old_it_is(guard, monkeypatch):
    sizes, judge = [], guard.detect_embeddings
    monkeypatch.setattr(
        guard, "detect_embeddings", lambda z, **told: (sizes.append(len(z)), judge(z, **told))[1]
    )
    verdicts = guard.stream(pictures(24), batch_size=8, max_wait=0.001, read_ahead=16)
    next(verdicts)
    time.sleep(0.5)  # a slow consumer: all that was read ahead is older than max_wait now
    assert len(list(verdicts)) == 23
    assert sizes[1] == 8
    assert sum(sizes) == 24


def test_the_wait_counts_from_when_the_image_came(guard):
    waiting = queue.Queue()
    for image in pictures(3):
        waiting.put(image)
    verdicts = guard.stream(iter(waiting.get, None), batch_size=2, max_wait=1.0, read_ahead=4)
    next(verdicts), next(verdicts)
    time.sleep(1.0)  # the third has waited long enough by now
    before = time.monotonic()
    next(verdicts)
    assert time.monotonic() - before < 0.7
    waiting.put(None)
    assert list(verdicts) == []


def test_batches_that_were_not_full_do_not_add_up_to_reading_ahead(guard):
    def slow_at_first():
        for i, image in enumerate(endless(pictures(9))):
            time.sleep(0.03 if i < 8 else 0)
            yield image

    source = Source(slow_at_first())
    verdicts = guard.stream(source, batch_size=4, max_wait=0.002, read_ahead=0)
    for taken in range(1, 20):
        next(verdicts)
        time.sleep(0.01)
        assert source.read <= taken - 1 + 4
    verdicts.close()


def test_an_image_that_is_slow_to_prepare_does_not_hold_up_the_batch_before_it(guard):
    images, release, in_time = pictures(3), threading.Event(), []
    preprocess = guard.backbone.preprocess

    def slow(image):
        if image.size == (12, 12):
            in_time.append(release.wait(10))
        return preprocess(image)

    guard.backbone.preprocess = slow
    verdicts = guard.stream([images[0], images[1], images[2].resize((12, 12))], batch_size=3, max_wait=1.0)
    first = [next(verdicts), next(verdicts)]
    release.set()
    assert len(list(verdicts)) == 1
    assert in_time == [True]
    guard.reset()
    assert first == list(guard(images[:2]))


def test_a_source_that_blocks_is_given_up_after_a_second(guard):
    waiting = queue.Queue()
    waiting.put(pictures(1)[0])
    verdicts = guard.stream(iter(waiting.get, None), max_wait=0.01)
    next(verdicts)
    before = time.monotonic()
    verdicts.close()
    assert 0.5 < time.monotonic() - before < 5
    (blocked,) = [thread for thread in threading.enumerate() if thread.name == "tanl-source"]
    assert blocked.daemon
    waiting.put(None)
    blocked.join(5)


@pytest.mark.parametrize(
    ("images", "options", "kind", "message"),
    [
        ([], {"batch_size": 0}, ValueError, "batch_size must be at least 1, not 0"),
        ([], {"batch_size": 2.0}, TypeError, "batch_size must be a whole number"),
        ([], {"read_ahead": -1}, ValueError, "read_ahead must be at least 0"),
        ([], {"max_wait": -0.5}, ValueError, "max_wait must be a number of seconds.*-0.5"),
        ([], {"max_wait": float("nan")}, ValueError, "max_wait must be a number of seconds.*nan"),
        ([], {"max_wait": "a"}, ValueError, "max_wait must be a number of seconds.*'a'"),
        ([], {"errors": "ignore"}, ValueError, "errors must be .*'ignore'"),
        ("photo.jpg", {}, TypeError, "give an iterable of images, not 'photo.jpg'"),
        (pictures(1)[0], {}, TypeError, "give an iterable of images"),
        (5, {}, TypeError, "give an iterable of images, not 5"),
    ],
)
@pytest.mark.parametrize("name", ["stream", "astream"])
def test_unusable_settings_are_refused_at_once(guard, name, images, options, kind, message):
    with pytest.raises(kind, match=message):
        getattr(guard, name)(images, **options)


def test_an_asynchronous_source_is_for_astream(guard):
    with pytest.raises(TypeError, match=r"given.* is an asynchronous source: give it to guard\.astream"):
        guard.stream(given(pictures(1)))


@pytest.mark.parametrize("name", ["stream", "astream"])
def test_images_are_encoded_on_the_backbones_device(guard, tmp_path, monkeypatch, name):
    seen, images = [], pictures(4)
    images[0].save(tmp_path / "0.png")

    def encode(pixels):
        seen.append((pixels.device.type, len(pixels)))
        return ColourBackbone().encode_images(torch.rand(pixels.shape))

    monkeypatch.setattr(guard.backbone, "device", torch.device("meta"), raising=False)
    monkeypatch.setattr(guard.backbone, "encode_images", encode, raising=False)
    mixed = [tmp_path / "0.png", images[1], torch.rand(3, 8, 8), *images[2:]]
    if name == "stream":
        found = list(guard.stream(mixed, batch_size=3, errors="yield"))
    else:
        found = asyncio.run(gathered(guard.astream(mixed, batch_size=3, errors="yield")))
    assert seen == [("meta", 3), ("meta", 1)]
    refused = found.pop(2)  # the user's own pixels are not moved behind their back
    assert "number 2 of the stream: its pixels are on cpu, but the backbone is on meta; move one" in str(
        refused
    )
    assert all(isinstance(each, tanl.Verdict) for each in found) and len(found) == 4


def test_batches_may_be_closed_before_they_begin_and_twice():
    batches = Pump([1, 2, 3], lambda number, image: Ready("x", torch.ones(1)), torch.stack, batch_size=2)
    batches.close()
    assert list(batches) == []
    batches.close()


def test_several_request_threads_share_one_stream_through_a_queue(guard):
    """The recipe for a server: requests with one image each, judged together."""
    requests, images, answers = queue.Queue(), pictures(8), {}

    def judge():
        taken = queue.Queue()

        def source():
            for image, reply in iter(requests.get, None):
                taken.put(reply)
                yield image

        for outcome in guard.stream(source(), batch_size=8, max_wait=0.01, errors="yield"):
            taken.get().put(outcome)

    def request(i):
        reply = queue.Queue()
        requests.put((images[i], reply))
        answers[i] = reply.get(timeout=20)

    server = threading.Thread(target=judge)
    server.start()
    clients = [threading.Thread(target=request, args=(i,)) for i in range(8)]
    for thread in clients:
        thread.start()
    for thread in clients:
        thread.join()
    requests.put(None)
    server.join()
    expected = guard.bank.id_names
    assert sorted(answers) == list(range(8))
    assert all(answers[i].label in expected for i in answers)
    assert guard.detector.state.images == 8
    assert [answers[i].label for i in (0, 2, 3, 5, 6)] == ["red", "green", "red", "green", "red"]


async def gathered(stream):
    return [verdict async for verdict in stream]


async def given(images, pause=0.0):
    for image in images:
        await asyncio.sleep(pause)
        yield image


@pytest.mark.parametrize("kind", ["plain", "asynchronous"])
@pytest.mark.parametrize(("count", "size"), [(0, 5), (1, 5), (23, 5)])
def test_astream_gives_what_stream_gives(guard, kind, count, size):
    images = pictures(count)
    source = images if kind == "plain" else given(images)
    found = asyncio.run(gathered(guard.astream(source, batch_size=size)))
    assert found == by_calls(guard, images, size)


def test_astream_leaves_the_event_loop_free(guard, monkeypatch):
    encode = guard.backbone.encode_images

    def slow(pixels):
        time.sleep(0.1)
        return encode(pixels)

    monkeypatch.setattr(guard.backbone, "encode_images", slow, raising=False)

    async def main():
        pauses, last = [], time.monotonic()

        async def heartbeat():
            nonlocal last
            while True:
                await asyncio.sleep(0.005)
                pauses.append(time.monotonic() - last)
                last = time.monotonic()

        beat = asyncio.create_task(heartbeat())
        verdicts = await gathered(guard.astream(given(pictures(12)), batch_size=3))
        beat.cancel()
        return verdicts, pauses

    verdicts, pauses = asyncio.run(main())
    assert len(verdicts) == 12
    assert len(pauses) > 20
    assert sorted(pauses)[len(pauses) // 2] < 0.05


def test_astream_reads_an_asynchronous_source_in_one_task_and_no_further_than_promised(guard):
    tasks, read = set(), 0

    async def source():
        nonlocal read
        for image in endless(pictures(9)):
            tasks.add(asyncio.current_task())
            read += 1
            yield image

    async def main():
        taken = 0
        async with aclosing(guard.astream(source(), batch_size=3, read_ahead=2)) as verdicts:
            await asyncio.sleep(0.02)
            assert read == 0
            async for _ in verdicts:
                taken += 1
                await asyncio.sleep(0.005)
                assert taken <= read <= taken - 1 + 3 + 2
                if taken == 10:
                    break

    asyncio.run(main())
    assert len(tasks) == 1


def test_astream_gives_verdicts_in_time(guard):
    async def main():
        waiting = asyncio.Queue()

        async def source():
            while (image := await waiting.get()) is not None:
                yield image

        verdicts, images = guard.astream(source(), max_wait=0.05), pictures(3)
        found = []
        for image in images:
            await waiting.put(image)
            found.append(await asyncio.wait_for(anext(verdicts), 10))
        await waiting.put(None)
        assert [v async for v in verdicts] == []
        return images, found

    images, found = asyncio.run(main())
    assert found == by_calls(guard, images, 1)


@pytest.mark.parametrize("kind", ["plain", "asynchronous"])
def test_a_cancelled_astream_ends_at_once_though_its_source_blocks(guard, kind):
    release = threading.Event()

    def blocking():
        yield from pictures(4)
        release.wait(0.7)

    async def silent():
        for image in pictures(4):
            yield image
        await asyncio.Event().wait()

    async def main():
        found = []

        async def consume():
            async for verdict in guard.astream(blocking() if kind == "plain" else silent(), batch_size=3):
                found.append(verdict)

        task = asyncio.create_task(consume())
        while len(found) < 3 and not task.done():
            await asyncio.sleep(0.005)
        before = time.monotonic()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert time.monotonic() - before < 3
        assert len(asyncio.all_tasks()) == 1
        return found

    assert len(asyncio.run(main())) == 3
    assert guard.detector.state.images == 3  # the fourth was read, and never judged


@pytest.mark.parametrize("kind", ["plain", "asynchronous"])
def test_astream_passes_on_an_error_of_the_source(guard, kind):
    def plain():
        yield from pictures(4)
        raise OSError("the camera is gone")

    async def asynchronous():
        for image in pictures(4):
            yield image
        raise OSError("the camera is gone")

    async def main():
        found = []
        with pytest.raises(OSError, match="the camera is gone"):
            async for verdict in guard.astream((plain if kind == "plain" else asynchronous)(), batch_size=3):
                found.append(verdict)
        return found

    assert asyncio.run(main()) == by_calls(guard, pictures(4), 3)


def test_astream_with_unreadable_images(guard, tmp_path):
    images = damaged(tmp_path, pictures(6), {1})
    found = asyncio.run(gathered(guard.astream(images, batch_size=2, errors="yield")))
    assert [isinstance(each, tanl.UnreadableImage) for each in found] == [False, True] + [False] * 4
    with pytest.raises(tanl.UnreadableImage, match=r"broken\.png"):
        asyncio.run(gathered(guard.astream(images, batch_size=2)))


def test_several_astreams_share_a_guard(guard):
    async def main():
        streams = [gathered(guard.astream(given(pictures(7, seed)), batch_size=2)) for seed in range(5)]
        return await asyncio.gather(*streams)

    assert [len(found) for found in asyncio.run(main())] == [7] * 5
    assert guard.detector.state.images == 35


@pytest.mark.parametrize("kind", ["plain", "asynchronous"])
def test_astream_that_is_left_as_the_loop_ends_leaves_no_thread(guard, kind):
    before = threads()

    async def main():
        source = pictures(9) if kind == "plain" else given(pictures(9))
        async for _ in guard.astream(source, batch_size=2):
            break

    asyncio.run(main())
    assert threads() <= before


@pytest.mark.parametrize("kind", ["plain", "asynchronous"])
def test_astream_that_is_cancelled_twice_leaves_no_thread(guard, monkeypatch, kind):
    before = threads()
    encode, encoding = guard.backbone.encode_images, threading.Event()

    def slow(pixels):
        encoding.set()
        time.sleep(0.3)
        return encode(pixels)

    monkeypatch.setattr(guard.backbone, "encode_images", slow, raising=False)

    async def main():
        source = pictures(9) if kind == "plain" else given(pictures(9))
        task = asyncio.create_task(gathered(guard.astream(source, batch_size=2)))
        while not encoding.is_set():
            await asyncio.sleep(0.005)
        task.cancel()
        await asyncio.sleep(0.05)  # it waits for the batch that is being judged
        assert not task.done()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    assert threads() <= before


def test_a_source_that_is_cancelled_does_not_pass_for_one_that_is_complete(guard):
    async def source():
        for image in pictures(4):
            yield image
        raise asyncio.CancelledError("the camera's task was cancelled")

    async def main():
        found = []
        with pytest.raises(asyncio.CancelledError):
            async for verdict in guard.astream(source(), batch_size=3):
                found.append(verdict)
        assert len(asyncio.all_tasks()) == 1
        return found

    assert asyncio.run(main()) == by_calls(guard, pictures(4), 3)


def test_pixels_that_are_given_are_waited_for_and_held(guard, monkeypatch):
    """They may still be being made, on a stream of a GPU that the threads of the pump do not follow."""
    log = []
    monkeypatch.setattr(stream_images, "finished", lambda pixels: log.append("finished") or pixels)
    monkeypatch.setattr(stream_images, "held", lambda pixels: log.append("held") or pixels)
    pixels = [guard.backbone.preprocess(image) for image in pictures(3)]
    assert len(list(guard.stream(pixels, batch_size=3))) == 3
    assert log == ["finished"] * 3 + ["held"] * 3
