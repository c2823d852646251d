"""Files written whole or not at all."""

import os
import signal
import subprocess
import sys
import threading
import time

import pytest
import torch
from safetensors.torch import load_file, save_file

import tanl
from conftest import unit
from tanl.io.atomic import clear_leftovers, write_whole
from tanl.io.cache import cached_embeddings


def tensors_writer(tensors):
    return lambda path: save_file(tensors, path)


def writers():
    """Everything that writes through `write_whole`, each given a file's path."""
    bank = tanl.LabelBank(["a", "b", "c"], unit(3, 5), num_id=1)
    return {
        "bytes": lambda path: write_whole(path, b"content"),
        "a function": lambda path: write_whole(path, lambda part: part.write_bytes(b"content")),
        "safetensors": lambda path: write_whole(path, tensors_writer({"z": torch.ones(3)})),
        "a bank": lambda path: tanl.save_bank(bank, path),
        "the cache": lambda path: cached_embeddings(
            lambda: unit(3, 5), kind=path.name, key=("k",), rows=3, about={}, cache_dir=path.parent
        ),
    }


def files(folder):
    return [path for path in folder.rglob("*") if path.is_file()]


def test_content_is_what_was_given(tmp_path):
    write_whole(tmp_path / "a", b"bytes")
    write_whole(tmp_path / "b", tensors_writer({"z": torch.arange(7)}))
    assert (tmp_path / "a").read_bytes() == b"bytes"
    assert torch.equal(load_file(tmp_path / "b")["z"], torch.arange(7))
    write_whole(tmp_path / "a", lambda part: part.write_text("newer"))
    assert (tmp_path / "a").read_text() == "newer"
    assert len(files(tmp_path)) == 2


@pytest.mark.skipif(os.name != "posix", reason="permissions of POSIX")
@pytest.mark.parametrize("mask", [0o022, 0o077, 0o002])
@pytest.mark.parametrize("writer", writers())
def test_permissions_are_those_of_any_new_file(tmp_path, mask, writer):
    before = os.umask(mask)
    try:
        writers()[writer](tmp_path / "f.safetensors")
        assert os.umask(mask) == mask
    finally:
        os.umask(before)
    (file,) = files(tmp_path)
    assert file.stat().st_mode & 0o777 == 0o666 & ~mask


@pytest.mark.skipif(os.name != "posix", reason="permissions of POSIX")
def test_the_umask_is_never_changed(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "umask", lambda mask: pytest.fail("other threads would make files with it"))
    for name, write in writers().items():
        write(tmp_path / f"{name}.safetensors")


def interrupted(part):
    part.write_bytes(b"half")
    raise KeyboardInterrupt


def fails(*_args):
    raise OSError("no space left")


@pytest.mark.parametrize("older", [None, b"older"])
@pytest.mark.parametrize("step", ["content", "fsync", "move"])
def test_a_failure_in_the_middle_leaves_the_older_file_and_nothing_beside_it(
    tmp_path, monkeypatch, older, step
):
    target = tmp_path / "f"
    if older is not None:
        target.write_bytes(older)
    if step == "fsync":
        monkeypatch.setattr(os, "fsync", fails)
    if step == "move":
        monkeypatch.setattr("pathlib.Path.replace", fails)
    with pytest.raises(KeyboardInterrupt if step == "content" else OSError):
        write_whole(target, interrupted if step == "content" else b"newer")
    assert {path.name: path.read_bytes() for path in files(tmp_path)} == ({"f": older} if older else {})


def test_a_folder_that_is_not_there_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        write_whole(tmp_path / "no" / "f", b"content")
    assert not list(tmp_path.iterdir())


def test_a_folder_in_its_place_is_an_error(tmp_path):
    (tmp_path / "f").mkdir()
    with pytest.raises(OSError, match="f"):
        write_whole(tmp_path / "f", b"content")
    assert files(tmp_path) == []


def test_threads_that_write_one_file_leave_one_of_theirs_whole(tmp_path):
    contents = [bytes([i]) * 50_001 for i in range(6)]
    threads = [threading.Thread(target=write_whole, args=(tmp_path / "f", each)) for each in contents]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (tmp_path / "f").read_bytes() in contents
    assert len(files(tmp_path)) == 1


def leftover(folder, name="f", age=3600.0):
    """What a write that was killed leaves."""
    path = folder / f"{name}.0123456789ab.part"
    path.write_bytes(b"half")
    os.utime(path, (time.time() - age,) * 2)
    return path


def test_the_next_write_takes_what_killed_writes_of_the_file_left(tmp_path):
    of_another = leftover(tmp_path, "g")
    leftover(tmp_path)
    write_whole(tmp_path / "f", b"content")
    assert set(files(tmp_path)) == {tmp_path / "f", of_another}


@pytest.mark.parametrize("kind", ["a bank", "the cache"])
def test_writing_a_bank_or_a_cache_takes_what_killed_writes_left(tmp_path, kind):
    folder = tmp_path / "f" if kind == "the cache" else tmp_path
    folder.mkdir(exist_ok=True)
    leftover(folder, "any.safetensors")
    writers()[kind](tmp_path / "f")
    (only,) = files(tmp_path)
    assert only.suffix != ".part"


def test_leftovers_alone_are_taken(tmp_path):
    kept = [
        leftover(tmp_path, age=5),  # may be about to be locked
        tmp_path / "notes.part",
        tmp_path / "f.part",
        tmp_path / "f.0123456789ab.part.txt",
        tmp_path / "folder.0123456789ab.part",
        tmp_path / "link.0123456789ab.part",
    ]
    leftover(tmp_path, "g")
    for path in kept[1:4]:
        path.write_bytes(b"mine")
        os.utime(path, (0, 0))
    kept[4].mkdir()
    kept[5].symlink_to(kept[1])
    clear_leftovers(tmp_path)
    assert sorted(tmp_path.iterdir()) == sorted(kept)


@pytest.mark.skipif(os.name != "posix", reason="locks of POSIX")
def test_a_file_that_is_written_stays_and_goes_when_its_writer_is_killed(tmp_path):
    code = (
        "import os, pathlib, sys, time\n"
        "from tanl.io.atomic import write_whole\n"
        "def slowly(part):\n"
        "    part.write_bytes(b'half')\n"
        "    os.utime(part, (0, 0))\n"
        "    print('written', flush=True)\n"
        "    time.sleep(600)\n"
        "write_whole(pathlib.Path(sys.argv[1]), slowly)"
    )
    with subprocess.Popen([sys.executable, "-c", code, tmp_path / "f"], stdout=subprocess.PIPE) as writer:
        try:
            assert writer.stdout is not None
            assert writer.stdout.readline() == b"written\n"
            clear_leftovers(tmp_path)
            write_whole(tmp_path / "f", b"another process's")
            assert len(files(tmp_path)) == 2
        finally:
            writer.send_signal(signal.SIGKILL)
    assert len(files(tmp_path)) == 2
    clear_leftovers(tmp_path)
    assert files(tmp_path) == [tmp_path / "f"]


@pytest.mark.parametrize(("age", "left"), [(3600.0, 1), (25 * 3600.0, 0)])
def test_where_nothing_can_be_locked_leftovers_go_after_a_day(tmp_path, monkeypatch, age, left):
    monkeypatch.setattr("tanl.io.atomic.fcntl", None)
    leftover(tmp_path, age=age)
    clear_leftovers(tmp_path)
    assert len(files(tmp_path)) == left
