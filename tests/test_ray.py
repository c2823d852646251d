"""Images on a Ray cluster of two nodes: every image once, in the order and with the scores of one process.

One cluster serves all of it. Its nodes have more logical cores than the machine: an actor that waits for one blocks.
"""

import argparse
import errno
import gc
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import GeneratorType

import pytest
import torch
from colour_backbone import COLOURS, ColourBackbone, paint
from states import assert_same_state

import tanl
from tanl.cli.main import main
from tanl.io.atomic import write_whole
from tanl.streams.images import ImageEncoder, judge_images
from tanl.streams.result_rows import row_of
from tanl.streams.saved_results import read_results

ray = pytest.importorskip("ray", reason='needs ray: pip install "tanl[ray]"')
pytest.importorskip("ray.data", reason='needs ray: pip install "tanl[ray]"')
from ray.cluster_utils import Cluster  # noqa: E402

from tanl.integrations.ray import RaySettings, judge  # noqa: E402
from tanl.integrations.ray.cluster import plain_errors, session  # noqa: E402

PATH = f"{Path(__file__).parent}{os.pathsep}{Path(__file__).parents[1]}"
CORPUS = tanl.Corpus(("blue", "yellow", *(f"word {i}" for i in range(40))), ("noun", "adj") * 21, "of mine")
COUNT, BATCH = 131, 8
SMALL = RaySettings(unit_rows=7, partition_rows=30, workers=2)


class Slow(ColourBackbone):
    """Takes its time, tells who works, and takes its process along for what is purple and small."""

    def __init__(self, told, deadly=False):
        self._told, self._deadly = Path(told), deadly

    def preprocess(self, image):
        if self._deadly and image.size == (9, 9):
            os.kill(os.getpid(), signal.SIGKILL)
        return super().preprocess(image)

    def encode_images(self, pixels):
        node = ray.get_runtime_context().get_node_id()
        (self._told / str(os.getpid())).write_text(node)
        time.sleep(0.05)
        return super().encode_images(pixels)


@pytest.fixture(scope="module")
def cluster():
    """Two nodes of this machine, each with four cores that are not there."""
    patch = pytest.MonkeyPatch()
    patch.setenv("PYTHONPATH", PATH)  # of the workers, who load this file's classes
    patch.setenv("RAY_USAGE_STATS_ENABLED", "0")  # or it asks the network
    patch.setenv("RAY_memory_monitor_refresh_ms", "0")  # or it kills where others fill the machine's memory
    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 4, "object_store_memory": 100_000_000})
    made.add_node(num_cpus=4, object_store_memory=100_000_000)
    ray.init(address=made.address, namespace="tanl", log_to_driver=False, logging_level="error")
    yield made
    ray.shutdown()
    made.shutdown()
    patch.undo()


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    for i in range(COUNT):
        paint(folder / f"{i:03d}.png", list(COLOURS)[i * i % 6])
    (folder / "020.png").write_bytes(b"no image")
    return folder


def new_guard():
    return tanl.Guard(
        ColourBackbone(),
        labels=["red", "green"],
        corpus=CORPUS,
        method=lambda bank: tanl.TANL(bank, num_selected=10, capacity=9),
    )


@pytest.fixture(scope="module")
def alone(images):
    """What one process makes of the images: its rows, and the state of its method."""
    guard = new_guard()
    batches = judge_images(
        ImageEncoder(guard.backbone), sorted(images.iterdir()), guard.detect_embeddings, batch_size=BATCH
    )
    return [row_of(result) for batch in batches for result in batch], guard.detector.state_dict()


def rows_in(folder):
    return [row_of(result) for result in read_results(folder).rows]


def test_ordered_is_one_process_bit_for_bit(cluster, images, alone, tmp_path):
    guard, seen = new_guard(), []
    done = judge(
        guard,
        images,
        tmp_path / "out",
        settings=SMALL,
        backbone=lambda device: ColourBackbone(),
        batch_size=BATCH,
        about={"method": "tanl"},
        seen=seen.extend,
    )
    assert (done.rows, done.before, done.complete, done.counts["unreadable"]) == (COUNT, 0, True, 1)
    rows, state = alone
    assert rows_in(tmp_path / "out") == [row_of(result) for result in seen] == rows
    assert rows[20][-1].startswith("it is not an image")
    assert_same_state(guard.detector.state_dict(), state)
    saved = read_results(tmp_path / "out")
    assert saved.about["rows"] == COUNT and saved.about["complete"] and saved.about["method"] == "tanl"
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert [each["rows"] for each in manifest["partitions"]] == [33, 32, 32, 32, 2]
    # Again: all is done.
    again = new_guard()
    done = judge(
        again, images, tmp_path / "out", settings=SMALL, backbone=lambda device: 1 / 0, batch_size=BATCH
    )
    assert (done.rows, done.before) == (COUNT, COUNT)
    assert_same_state(again.detector.state_dict(), state)
    paint(images / "later.png", "red")
    try:
        with pytest.raises(ValueError, match=r"holds a run of something else \(inputs"):
            judge(new_guard(), images, tmp_path / "out", settings=SMALL, batch_size=BATCH)
    finally:
        (images / "later.png").unlink()


def test_a_worker_that_is_killed_and_a_node_that_goes(cluster, images, alone, tmp_path):
    told = tmp_path / "told"
    told.mkdir()
    third = cluster.add_node(num_cpus=4, object_store_memory=100_000_000)
    events, guard = [], new_guard()

    def trouble(results):
        here = ray.get_runtime_context().get_node_id()
        for worker in [*told.iterdir()]:
            pid, node = int(worker.name), worker.read_text()
            if "killed" not in events and node:
                os.kill(pid, signal.SIGKILL)
                worker.unlink()
                events.append("killed")
            elif "killed" in events and "gone" not in events and node and node != here:
                events.append("gone")
                cluster.remove_node(
                    next(each for each in (third, *cluster.worker_nodes) if each.node_id == node),
                    allow_graceful=False,
                )

    done = judge(
        guard,
        images,
        tmp_path / "out",
        settings=RaySettings(unit_rows=7, partition_rows=30, workers=6),
        backbone=lambda device: Slow(told),
        batch_size=BATCH,
        seen=trouble,
    )
    assert events == ["killed", "gone"]
    assert done.complete and rows_in(tmp_path / "out") == alone[0]
    assert_same_state(guard.detector.state_dict(), alone[1])


DRIVER = """
import sys
import test_ray
test_ray.run_driver(*sys.argv[1:])
"""


def run_driver(address, images, out, told):
    ray.init(address=address, namespace="tanl", log_to_driver=False, logging_level="error")
    judge(
        new_guard(),
        images,
        out,
        settings=SMALL,
        backbone=lambda device: Slow(told),
        batch_size=BATCH,
    )


def test_a_driver_that_is_killed_goes_on(cluster, images, alone, tmp_path):
    out, told = tmp_path / "out", tmp_path / "told"
    told.mkdir()
    driver = subprocess.Popen(
        [sys.executable, "-c", DRIVER, cluster.address, str(images), str(out), str(told)],
        env={**os.environ, "PYTHONPATH": PATH},
    )
    try:
        manifest = out / "manifest.json"
        deadline = time.monotonic() + 120
        while not has_partitions(manifest):
            assert driver.poll() is None and time.monotonic() < deadline
            time.sleep(0.02)
        with pytest.raises(ValueError, match="another run writes into"):
            judge(new_guard(), images, out, settings=SMALL, batch_size=BATCH)
    finally:
        driver.kill()
        driver.wait()
    guard = new_guard()
    done = judge(
        guard, images, out, settings=SMALL, backbone=lambda device: ColourBackbone(), batch_size=BATCH
    )
    assert 0 < done.before < COUNT == done.rows
    assert rows_in(out) == alone[0]
    assert_same_state(guard.detector.state_dict(), alone[1])


def test_an_image_on_which_workers_die_is_left_out_and_named(cluster, tmp_path):
    told = tmp_path / "told"
    told.mkdir()
    for i in range(5):
        paint(tmp_path / "in" / f"{i}.png", "red")
    from PIL import Image

    Image.new("RGB", (9, 9)).save(tmp_path / "in" / "2.png")
    done = judge(
        new_guard(),
        tmp_path / "in",
        tmp_path / "out",
        settings=RaySettings(workers=1),
        backbone=lambda device: Slow(told, deadly=True),
        batch_size=BATCH,
    )
    assert done.counts["unreadable"] == 1
    saved = read_results(tmp_path / "out").rows
    assert [Path(result.path).name for result in saved] == [f"{i}.png" for i in range(5)]
    assert "workers died on it again and again" in saved[2].error


def has_partitions(manifest):
    return manifest.exists() and bool(json.loads(manifest.read_text())["partitions"])


def test_what_ray_has_to_say_is_told_in_its_first_line():
    full = ray.exceptions.OutOfMemoryError(
        "7 worker(s) were killed.\nOOM kill reason: ...\nSelected to kill: ..."
    )
    with pytest.raises(OSError) as caught, plain_errors(ray):
        raise full
    assert str(caught.value) == (
        "a worker failed: 7 worker(s) were killed. Take fewer workers, or a smaller encode_batch; "
        "what is finished is kept, the same call goes on"
    )


class Full(ColourBackbone):
    """Has no memory for a batch that comes late, when rows are finished."""

    def __init__(self, manifest):
        self._manifest, self._batches = manifest, 0

    def encode_images(self, pixels):
        self._batches += 1
        if self._batches > 6:
            deadline = time.monotonic() + 120
            while not has_partitions(self._manifest) and time.monotonic() < deadline:
                time.sleep(0.02)
            raise torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate 20.00 GiB.")
        return super().encode_images(pixels)


def open_iterations():
    """Ray Data's that nobody has ended; what holds them may outlive the session."""
    made = (each for each in gc.get_objects() if type(each) is GeneratorType)
    return [each for each in made if each.__qualname__.endswith("_create_iterator") and each.gi_frame]


@pytest.mark.parametrize(
    "trouble", ["the disk is full", "a worker's memory is full"], ids=lambda told: told.replace(" ", "-")
)
def test_what_is_finished_stays_when_there_is_no_room_and_the_same_call_goes_on(
    cluster, images, alone, tmp_path, monkeypatch, trouble
):
    out, full = tmp_path / "out", trouble == "the disk is full"

    def run(backbone):
        guard = new_guard()
        return guard, judge(
            guard,
            images,
            out,
            settings=RaySettings(unit_rows=7, partition_rows=30, workers=1, encode_batch=7),
            backbone=backbone,
            batch_size=BATCH,
        )

    def no_room(path, content):
        if Path(path).name == "part-00001.parquet":
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        write_whole(path, content)

    told = (
        r"No space left on device.*part-00001\.parquet"
        if full
        else r"a worker failed: CUDA out of memory. Tried to allocate 20.00 GiB.*the same call goes on"
    )
    with monkeypatch.context() as patch:
        if full:
            patch.setattr("tanl.io.stores.write_whole", no_room)
        with pytest.raises(OSError, match=told) as caught:
            run(lambda device: ColourBackbone() if full else Full(out / "manifest.json"))
    assert "\n" not in str(caught.value)
    assert not open_iterations()
    finished = rows_in(out)
    assert 30 <= len(finished) < COUNT and finished == alone[0][: len(finished)]
    guard, done = run(lambda device: ColourBackbone())
    assert (done.before, done.rows) == (len(finished), COUNT)
    assert rows_in(out) == alone[0]
    assert_same_state(guard.detector.state_dict(), alone[1])


def test_another_model_on_the_workers_is_told_in_one_line(cluster, images, tmp_path):
    class Other(ColourBackbone):
        fingerprint = "other"

    with pytest.raises(ValueError, match="the workers' model colours has other weights") as caught:
        judge(
            new_guard(),
            images,
            tmp_path / "out",
            settings=SMALL,
            backbone=lambda device: Other(),
            batch_size=BATCH,
        )
    assert "\n" not in str(caught.value)


def test_ray_that_is_missing_or_old_is_told_in_one_line(monkeypatch, tmp_path):
    monkeypatch.setattr(ray, "__version__", "2.9.3")
    with pytest.raises(
        ImportError, match=r"Ray 2.9.3 is too old, 2.60 is needed: pip install -U 'tanl\[ray\]'"
    ):
        judge(new_guard(), tmp_path, tmp_path / "out")
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ImportError, match=r"this needs Ray Data, 2.60 or newer: pip install 'tanl\[ray\]'"):
        judge(new_guard(), tmp_path, tmp_path / "out")


@pytest.mark.parametrize(
    ("address", "set_to", "expected"), [(None, None, "0"), (None, "1", "1"), ("auto", None, None)]
)
def test_a_cluster_of_its_own_reports_nothing_unless_asked(monkeypatch, address, set_to, expected):
    name, seen = "RAY_USAGE_STATS_ENABLED", []
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.delenv(name, raising=False)
    if set_to is not None:
        monkeypatch.setenv(name, set_to)
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", lambda **settings: seen.append(os.environ.get(name)))
    monkeypatch.setattr(ray, "shutdown", lambda: None)
    with session(address):
        pass
    assert seen == [expected] and os.environ.get(name) == set_to


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"mode": "sorted"}, "mode must be one of ordered, merged"),
        ({"workers": -1}, "workers"),
        ({"num_gpus": -1}, "num_gpus must be a number above 0"),
        ({"num_cpus": 0}, "num_cpus must be a number above 0"),
        ({"partition_rows": 0}, "partition_rows"),
    ],
)
def test_unusable_settings_are_refused(wrong, told):
    with pytest.raises(ValueError, match=told):
        RaySettings(**wrong)


def test_the_command_writes_what_it_writes_alone(cluster, images, tiny_clip, tmp_path, capsys):
    (tmp_path / "words.txt").write_text("\n".join(a + b + "o" for a in "bdfgklmnp" for b in "aeiou"))
    same = [
        "judge",
        str(images),
        "--label",
        "red",
        "--label",
        "green",
        "--backbone",
        f"local-dir:{tiny_clip}",
    ]
    same += ["--corpus", str(tmp_path / "words.txt"), "--batch-size", "64", "--shuffle", "--seed", "3"]
    out = tmp_path / "out"
    assert main([*same, "--engine", "ray", "--workers", "1", "--out", str(out)]) == 1
    told = capsys.readouterr()
    assert f"{COUNT} images in {out}: " in told.out and "1 unreadable" in told.out
    assert "cannot read" in told.err and "020.png" in told.err
    assert main([*same, "--out", str(tmp_path / "alone.parquet")]) == 1
    ours, alone = read_results(out), read_results(tmp_path / "alone.parquet")
    assert ours.about == alone.about
    assert [str(row.path) for row in ours.rows] == [str(row.path) for row in alone.rows]
    for row, other in zip(ours.rows, alone.rows, strict=True):
        assert row.error == other.error
        if row.verdict is not None:
            assert row.verdict.ood_score == pytest.approx(other.verdict.ood_score, abs=1e-4)
    assert main(["report", str(out)]) == 0


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--engine", "ray"], "--engine ray writes partitions into a folder: give it with --out DIR"),
        (["--workers", "2"], "--workers is for runs on a cluster: add --engine ray, or leave it out"),
        (["--format", "images"], "--format is for runs on a cluster"),
        (["--out", "s3://bucket/a.csv"], "s3://bucket/a.csv is an address"),
        (["--engine", "ray", "--out", "x", "--normalize"], "--normalize is for files of embeddings"),
    ],
)
def test_options_that_mean_nothing_are_refused(images, words, told, capsys):
    assert main(["judge", str(images), "--label", "red", *words]) == 2
    assert told in capsys.readouterr().err


def test_merged_has_each_image_once_and_learns_from_all(cluster, images, alone, tmp_path):
    """It is stopped in the middle, and goes on."""
    settings = RaySettings(mode="merged", merge_every=2, unit_rows=9, partition_rows=30, workers=2)
    out, seen = tmp_path / "out", []

    def stopped(results):
        seen.extend(results)
        if len(seen) == 50:
            raise KeyboardInterrupt

    def run(guard, told=None):
        return judge(
            guard,
            images,
            out,
            settings=settings,
            backbone=lambda device: ColourBackbone(),
            batch_size=BATCH,
            seen=told,
        )

    with pytest.raises(KeyboardInterrupt):
        run(new_guard(), stopped)
    guard = new_guard()
    done = run(guard)
    assert (done.before, done.rows, done.complete, done.counts["unreadable"]) == (50, COUNT, True, 1)
    rows = rows_in(out)
    assert [row[0] for row in rows] == [row[0] for row in alone[0]]
    assert rows[:50] == [row_of(result) for result in seen]
    # What was in flight when it was stopped was learnt, and is learnt again; nothing is left out.
    assert guard.detector.state.images >= COUNT - 1
    agree = sum(ours[4] == theirs[4] for ours, theirs in zip(rows, alone[0], strict=True))
    assert agree > 0.9 * COUNT
    with pytest.raises(ValueError, match="mode: 'merged' there, 'ordered' here"):
        judge(new_guard(), images, out, settings=SMALL, batch_size=BATCH)


def test_a_merged_run_counts_once_what_its_guard_had_learnt(cluster, images, tmp_path):
    guard = new_guard()
    known = [images / f"{i:03d}.png" for i in range(0, 18, 2)]
    verdicts = [*judge_images(ImageEncoder(guard.backbone), known, guard.detect_embeddings, batch_size=3)]
    assert len(verdicts) == 3 and guard.detector.state.images == 9
    history = guard.detector.state.history
    settings = RaySettings(mode="merged", merge_every=2, unit_rows=9, workers=2)
    done = judge(
        guard,
        images,
        tmp_path / "out",
        settings=settings,
        backbone=lambda device: ColourBackbone(),
        batch_size=BATCH,
    )
    assert done.rows == COUNT
    state = guard.detector.state
    assert state.images == 9 + COUNT - 1
    assert len(state.history) == len(history) + COUNT - 1
    assert state.history[: len(history)].equal(history)
    deadline = time.monotonic() + 30
    while left := living("Attempts", "Merger"):
        assert time.monotonic() < deadline, left


def living(*kinds):
    """Actors of these classes: what a run left on its cluster."""
    from ray._private.state import actors

    return [each for each in actors().values() if each["State"] != "DEAD" and each["ActorClassName"] in kinds]


def test_a_worker_of_a_merged_run_that_is_killed_loses_no_row_and_doubles_none(
    cluster, images, alone, tmp_path
):
    told, killed, guard = tmp_path / "told", [], new_guard()
    told.mkdir()

    def trouble(results):
        for worker in told.iterdir():
            if not killed and worker.read_text():
                killed.append(worker.name)
                os.kill(int(worker.name), signal.SIGKILL)

    done = judge(
        guard,
        images,
        tmp_path / "out",
        settings=RaySettings(mode="merged", merge_every=2, unit_rows=9, partition_rows=30, workers=2),
        backbone=lambda device: Slow(told),
        batch_size=BATCH,
        seen=trouble,
    )
    assert killed and done.complete and done.counts["unreadable"] == 1
    assert [row[0] for row in rows_in(tmp_path / "out")] == [row[0] for row in alone[0]]
    # Not less than all: a unit is told when its worker has merged it. What the one that was killed had merged of its
    # last unit is learnt again.
    assert COUNT - 1 <= guard.detector.state.images <= COUNT - 1 + 9


def test_the_study_of_throughput_times_what_comes_after_the_first_batch(cluster, monkeypatch, capsys):
    from tools import ray_throughput as study

    of_guard = study.Judgement.of_guard
    monkeypatch.setattr(
        study.Judgement, "of_guard", lambda guard: of_guard(guard, lambda device: ColourBackbone())
    )
    monkeypatch.setattr(study, "load_backbone", lambda name: None)
    monkeypatch.setattr(study, "Guard", lambda *given, **settings: new_guard())
    parser = argparse.ArgumentParser()
    study.add_arguments(parser)
    arguments = parser.parse_args(["--workers", "1", "--images", "60", "--batch-size", "8"])
    assert study.main(arguments) == 0
    heading, *rows = (line.split() for line in capsys.readouterr().out.splitlines())
    assert heading[:3] == ["mode", "workers", "images"]
    # Merged results are told one by one, those of an ordered run batch by batch.
    assert [row[:3] for row in rows] == [["ordered", "1", "52"], ["merged", "1", "59"]]
    for mode, *_, rate, scoring in rows:
        assert float(rate) > 0 and (0 < float(scoring) < 100) is (mode == "ordered")
