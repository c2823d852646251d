"""A guard in several threads: batches are applied whole, one after the other, and none is lost."""

import copy
import pickle
import threading
import time

import pytest
import torch
from colour_backbone import ColourBackbone
from states import assert_same_state, state_of

import tanl

CORPUS = ["blue", "yellow", *(f"word {i}" for i in range(60))]
THREADS = 8


class Recorded(tanl.TANL):
    """Keeps the batches in the order in which they came, and gives other threads the time to come between."""

    def __init__(self, bank, **settings):
        self.seen = []
        super().__init__(bank, num_selected=20, capacity=30, **settings)

    def _advance(self, z, *sources):
        ahead = super()._advance(z, *sources)
        time.sleep(0.0005)
        return ahead

    def __call__(self, z):
        self.seen.append(z.clone())
        return super().__call__(z)


def recorded_adaneg(bank):
    class RecordedAdaNeg(tanl.AdaNeg):
        def __call__(self, z):
            self.seen.append(z.clone())
            return super().__call__(z)

    detector = RecordedAdaNeg(bank, num_negatives=None, memory_length=4)
    detector.seen = []
    return detector


def guard_of(tmp_path, method=Recorded):
    return tanl.Guard(
        ColourBackbone(), ["red", "green", "purple"], corpus=CORPUS, cache_dir=tmp_path, method=method
    )


def batches(count, seed):
    generator = torch.Generator().manual_seed(seed)
    colours = torch.tensor([(0.9, 0.1, 0.1), (0.1, 0.1, 0.9), (0.1, 0.8, 0.1), (0.9, 0.9, 0.1)])
    found = []
    for _ in range(count):
        size = int(torch.randint(1, 12, (1,), generator=generator))
        mean = colours[torch.randint(0, 4, (size,), generator=generator)][:, :, None, None]
        found.append((mean + 0.1 * torch.randn(size, 3, 8, 8, generator=generator)).clamp(0, 1))
    return found


def in_threads(*jobs):
    """Run jobs side by side, and pass on the first error of any."""
    errors, barrier = [], threading.Barrier(len(jobs))

    def run(job):
        barrier.wait()
        try:
            job()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(job,)) for job in jobs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]


@pytest.mark.parametrize("method", [Recorded, recorded_adaneg], ids=["tanl", "adaneg"])
def test_batches_of_eight_threads_are_applied_in_some_order(tmp_path, method):
    guard = guard_of(tmp_path, method)
    parts = [batches(6, seed) for seed in range(THREADS)]
    found = [[None] * 6 for _ in parts]

    def job(number):
        def run():
            for i, pixels in enumerate(parts[number]):
                found[number][i] = guard(pixels)

        return run

    in_threads(*map(job, range(THREADS)))
    other = guard_of(tmp_path, method)
    replayed = [other.detect_embeddings(z) for z in guard.detector.seen]
    assert_same_state(guard.detector.state_dict(), other.detector.state_dict())
    # Each thread's batches came in its own order, and each call was given its own verdicts.
    place = {tuple(z.flatten().tolist()): i for i, z in enumerate(guard.detector.seen)}
    assert len(place) == THREADS * 6
    for part, detections in zip(parts, found, strict=True):
        order = [place[tuple(guard.encode(pixels).flatten().tolist())] for pixels in part]
        assert order == sorted(order)
        for i, detection in zip(order, detections, strict=True):
            assert list(detection) == list(replayed[i])


def test_no_image_of_a_thread_is_lost(tmp_path):
    guard = guard_of(tmp_path)
    before = len(guard.detector.state.history)
    parts = [batches(5, seed) for seed in range(THREADS)]
    in_threads(*(lambda part=part: [guard(pixels) for pixels in part] for part in parts))
    images = sum(len(pixels) for part in parts for pixels in part)
    assert len(guard.detector.state.history) == before + images
    assert guard.detector.state.images == images


def test_threads_may_judge_calibrate_edit_reset_and_save_meanwhile(tmp_path):
    guard = tanl.Guard(ColourBackbone(), ["red", "green"], corpus=CORPUS, cache_dir=tmp_path / "cache")
    known = batches(12, 3)

    def judge(seed):
        for pixels in batches(8, seed):
            detection = guard(pixels)
            assert detection.ood_score.isfinite().all()
            assert set(detection.label) <= {"red", "green", "white"}

    def calibrate():
        for _ in range(6):
            assert 0 <= guard.calibrate(torch.cat(known), tpr=0.9) <= 1

    def edit():
        for _ in range(4):
            guard.add_labels(["white"])
            guard.add_negatives(["zeppelin"])
            guard.remove_negatives(["zeppelin"])
            guard.remove_labels(["white"])

    def keep():
        for _ in range(4):
            guard.save(tmp_path / "saved")
            tanl.Guard.load(tmp_path / "saved", backbone=guard.backbone, cache_dir=tmp_path / "cache")

    def stream():
        images = [image for pixels in batches(5, 9) for image in pixels]
        assert len(list(guard.stream(images, batch_size=4, max_wait=1.0))) == len(images)

    in_threads(
        *(lambda seed=seed: judge(seed) for seed in range(4)), calibrate, edit, guard.reset, keep, stream
    )
    assert guard.bank.id_names == ("red", "green")
    assert guard.detector.bank is guard.bank
    # What is left is a state like any other: it goes on as its copy does.
    other = copy.deepcopy(guard)
    pixels = batches(1, 20)[0]
    assert list(guard(pixels)) == list(other(pixels))


def test_encoding_is_not_held_up_by_another_thread_that_judges(tmp_path):
    guard = guard_of(tmp_path)
    held, encoded = threading.Event(), threading.Event()

    def judge():
        with guard._lock:  # as long as a detector would take
            held.set()
            assert encoded.wait(20)

    def encode():
        assert held.wait(20)
        guard.encode(batches(1, 0)[0])
        encoded.set()

    in_threads(judge, encode)


@pytest.mark.parametrize("how", [copy.deepcopy, lambda guard: pickle.loads(pickle.dumps(guard))])
def test_a_guard_can_be_copied_and_pickled_and_its_copy_is_one_of_its_own(tmp_path, how):
    guard = tanl.Guard(ColourBackbone(), ["red", "green"], corpus=CORPUS, cache_dir=tmp_path)
    first, second = batches(2, 0)
    guard(first)
    other = how(guard)
    assert_same_state(other.detector.state_dict(), guard.detector.state_dict())
    assert list(other(second)) == list(guard(second))
    before = state_of(guard.detector)
    in_threads(*[lambda: other(first)] * 3)
    assert_same_state(guard.detector.state_dict(), before)
    assert other.detector.state.images == guard.detector.state.images + 3 * len(first)
    other.add_labels(["white"])  # its detector is over its bank
    assert guard.bank.id_names == ("red", "green")


class InTwoSteps(tanl.TANL):
    """Commits a batch, and tells of it only later."""

    told = 0

    def __call__(self, z):
        scores = super().__call__(z)
        time.sleep(0.002)
        self.told += len(z)
        return scores


def in_two_steps(bank):
    return InTwoSteps(bank, num_selected=20, capacity=30)


@pytest.mark.parametrize("how", [copy.copy, copy.deepcopy, lambda guard: pickle.loads(pickle.dumps(guard))])
def test_a_copy_that_is_made_while_others_judge_is_of_one_moment(tmp_path, how):
    guard, going, copies = guard_of(tmp_path, in_two_steps), True, []

    def judge():
        while going:
            guard(batches(1, len(copies))[0])

    def make_copies():
        nonlocal going
        try:
            for _ in range(15):
                copies.append(how(guard))
                time.sleep(0.001)
        finally:
            going = False

    in_threads(judge, make_copies)
    seen = [(each.detector.told, each.detector.state.images) for each in copies]
    assert all(told == images for told, images in seen)
    assert seen[0] < seen[-1]
    assert all(each.detector.bank is each.bank for each in copies)
