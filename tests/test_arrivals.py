"""Images that arrive in a folder: each is given once, when it is whole, whatever happens to the folder meanwhile."""

import os
import threading
import time
from pathlib import Path

import pytest
from colour_backbone import paint

from tanl.io import arrivals
from tanl.io.arrivals import Arrivals, Stamp, key_of
from tanl.io.keeping import Keeper


@pytest.fixture
def clock(monkeypatch):
    """Time that stands still until a test moves it."""
    now = [1000.0]
    monkeypatch.setattr(arrivals.time, "monotonic", lambda: now[0])
    return now


def look(watched, clock, seconds=2.0):
    """What is found now, and after some time."""
    first = watched.look()
    clock[0] += seconds
    return [path.name for path in first + watched.look()]


def test_a_file_is_given_once_and_again_only_if_it_changes(tmp_path, clock):
    watched = Arrivals(tmp_path, settle=2.0)
    path = paint(tmp_path / "a.png", "red")
    assert look(watched, clock) == ["a.png"]
    assert look(watched, clock) == []
    stamp = watched.stamp(path)
    assert stamp == Stamp(path.stat().st_size, path.stat().st_mtime_ns)
    os.utime(path, ns=(1, 2))
    assert look(watched, clock) == ["a.png"]
    assert watched.stamp(path) == Stamp(stamp.size, 2)


def test_a_file_that_grows_waits_until_it_stays_as_it_is(tmp_path, clock):
    watched = Arrivals(tmp_path, settle=2.0)
    content = paint(tmp_path / "elsewhere" / "a.png", "red").read_bytes()
    watched.look()
    path = tmp_path / "b.png"
    for end in range(1, 6):
        path.write_bytes(content[: 40 * end])
        os.utime(path, ns=(end, end))  # a coarse clock would give two writes one time
        clock[0] += 1.9
        assert "b.png" not in [each.name for each in watched.look()]
    clock[0] += 1.9
    assert watched.look() == []
    clock[0] += 0.1
    assert watched.look() == [path]


def test_the_oldest_file_comes_first(tmp_path, clock):
    for time_of_change, name in enumerate(("c", "a", "b")):
        os.utime(paint(tmp_path / f"{name}.png", "red"), ns=(0, time_of_change))
    assert look(Arrivals(tmp_path), clock) == ["c.png", "a.png", "b.png"]


def test_what_earlier_runs_saw_is_not_given_again(tmp_path, clock):
    paths = [paint(tmp_path / f"{name}.png", "red") for name in "abc"]
    stamps = {key_of(path): Stamp(path.stat().st_size, path.stat().st_mtime_ns) for path in paths[:2]}
    os.utime(paths[1], ns=(1, 1))
    assert sorted(look(Arrivals(tmp_path, seen=stamps), clock)) == ["b.png", "c.png"]


def test_what_is_passed_over(tmp_path, clock):
    for name in (".hidden.png", "a.png.part", "notes.txt", ".folder/a.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"\x89PNG\r\n\x1a\n")
    (tmp_path / "loop").symlink_to(tmp_path)
    (tmp_path / "broken.png").symlink_to(tmp_path / "nowhere")
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "number.42").write_bytes(b"\x89PNG\r\n\x1a\n")  # known by its first bytes
    paint(tmp_path / "deep" / "er" / "b.png", "red")
    assert sorted(look(Arrivals(tmp_path), clock)) == ["b.png", "number.42"]
    assert look(Arrivals(tmp_path, recursive=False), clock) == ["number.42"]


def test_a_folder_that_goes_away_is_told_once_and_waited_for(tmp_path, clock):
    folder, told = tmp_path / "folder", []
    paint(folder / "a.png", "red")
    watched = Arrivals(folder, told=told.append)
    assert look(watched, clock) == ["a.png"]
    folder.rename(tmp_path / "away")
    assert look(watched, clock) == look(watched, clock) == []
    assert told == [f"cannot list the folder {folder}: no such file or directory; it is tried again"]
    (tmp_path / "away").rename(folder)
    paint(folder / "b.png", "red")
    assert look(watched, clock) == ["b.png"]
    folder.rename(tmp_path / "away")
    watched.look()
    assert len(told) == 2


@pytest.mark.parametrize("name", ["nothing", "file"])
def test_what_is_no_folder_is_refused(tmp_path, name):
    (tmp_path / "file").write_text("x")
    with pytest.raises(NotADirectoryError, match=f"there is no folder .*{name} to watch; make it first"):
        Arrivals(tmp_path / name)


def test_the_iteration_waits_and_ends_when_it_is_stopped(tmp_path):
    watched = Arrivals(tmp_path, settle=0.05, interval=0.02)
    given: list[Path] = []
    thread = threading.Thread(target=lambda: given.extend(watched))
    thread.start()
    first = paint(tmp_path / "a.png", "red")
    deadline = time.monotonic() + 20
    while not watched._seen and time.monotonic() < deadline:
        time.sleep(0.01)
    second = paint(tmp_path / "b.png", "red")
    while len(watched._seen) < 2 and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.1)
    watched.stop()
    thread.join(10)
    assert not thread.is_alive()
    assert given == [first, second]


def test_a_folder_that_takes_long_is_looked_at_less_often(tmp_path, monkeypatch):
    watched = Arrivals(tmp_path, interval=0.1)
    waits = []

    def wait(seconds):
        waits.append(seconds)
        watched.stop()

    def found():
        time.sleep(0.2)
        return {}

    monkeypatch.setattr(watched, "_found", found)
    monkeypatch.setattr(watched._stopped, "wait", wait)
    assert list(watched) == []
    assert waits[0] >= 2.0


def wait_for(condition):
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_what_changed_is_kept_now_and_then_and_what_did_not_is_not():
    kept = []
    keeper = Keeper(lambda: kept.append(1), 0.02, pytest.fail)
    time.sleep(0.2)
    assert kept == []
    keeper.changed()
    wait_for(lambda: kept)
    time.sleep(0.2)
    assert len(kept) == 1
    assert keeper.stop() is False
    keeper.changed()
    assert keeper.stop() is True


def test_a_failure_to_keep_is_told_and_tried_again():
    errors = [OSError("full"), OSError("still full")]
    told, kept = [], []

    def keep():
        if errors:
            raise errors.pop(0)
        kept.append(1)

    keeper = Keeper(keep, 0.02, told.append)
    keeper.changed()
    wait_for(lambda: kept)
    assert [str(error) for error in told] == ["full", "still full"]
    assert keeper.stop() is False
