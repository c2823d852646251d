"""Results survive interruptions, kills and full disks: what was reported is there, once, and older files stay."""

import csv
import json
import os
import random
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import tanl
from conftest import unit, with_signals
from tanl import Evidence, Verdict
from tanl.cli.main import main
from tanl.streams import result_files
from tanl.streams.result_files import open_results, recover
from tanl.streams.results import Result

pq = pytest.importorskip("pyarrow.parquet", reason='needs pyarrow: pip install "tanl[parquet]"')

ENDINGS = ["csv", "jsonl", "parquet"]
D = 16


def rows(start, count):
    evidence = (Evidence("spoon", 0.25),)
    return [
        Result(f"id-{n}", Verdict(n / 1e6, bool(n % 2), "cat", 0.5, evidence if n % 2 else ()))
        for n in range(start, start + count)
    ]


def ids_in(path, key="path"):
    path = Path(path)
    if path.suffix == ".parquet":
        return pq.read_table(path).column(key).to_pylist()
    with path.open(encoding="utf-8", newline="") as file:
        return [
            row[key] for row in (csv.DictReader(file) if path.suffix == ".csv" else map(json.loads, file))
        ]


def ids(count):
    return [f"id-{n}" for n in range(count)]


# --- interruptions ------------------------------------------------------------------------------------------


def interrupted_at(line):
    """A trace function that raises KeyboardInterrupt at the n-th line that `result_files` executes."""
    state = {"line": 0}

    def trace(frame, event, argument):
        if frame.f_code.co_filename != result_files.__file__:
            return None
        if event == "line":
            state["line"] += 1
            if state["line"] == line:
                raise KeyboardInterrupt
        return trace

    return trace


@pytest.mark.parametrize("ending", ENDINGS)
def test_an_interrupt_at_any_line_neither_loses_nor_doubles_what_was_reported(tmp_path, ending):
    interrupts = 0
    for line in range(1, 400):
        folder = tmp_path / str(line)
        folder.mkdir()
        writer = open_results(folder / f"r.{ending}")
        sys.settrace(interrupted_at(line))
        finished = False
        try:
            for start in range(0, 12, 4):
                writer.write(rows(start, 4))
            finished = True
        except KeyboardInterrupt:
            interrupts += 1
        finally:
            sys.settrace(None)
        reported = writer.rows
        writer.close()
        assert [path.name for path in folder.iterdir()] == ([f"r.{ending}"] if reported else [])
        if reported:
            assert ids_in(folder / f"r.{ending}") == ids(reported)
        if finished:
            break
    assert finished
    assert interrupts > 20


def close_interrupted(target, line):
    """Write five rows and interrupt the closing; gives the journal, and whether there was an interruption."""
    writer = open_results(target)
    writer.write(rows(0, 5))
    sys.settrace(interrupted_at(line))
    try:
        writer.close()
    except KeyboardInterrupt:
        return writer.journal, True
    finally:
        sys.settrace(None)
    return writer.journal, False


@pytest.mark.parametrize("ending", ENDINGS)
def test_an_interrupt_while_the_file_is_made_leaves_the_rows_in_it_or_in_the_journal(tmp_path, ending):
    target = tmp_path / f"r.{ending}"
    in_journal = 0
    for line in range(1, 2000, 7):
        target.write_text("an older file")
        journal, interrupted = close_interrupted(target, line)
        if target.read_bytes() == b"an older file":
            in_journal += 1
            target.unlink()
            assert recover(journal).rows == 5
        assert ids_in(target) == ids(5)
        journal.unlink(missing_ok=True)
        if not interrupted:
            break
    assert not interrupted
    assert in_journal > 10


# --- full disks ---------------------------------------------------------------------------------------------


@pytest.fixture
def full_disk():
    """Files may not grow beyond the bytes that the function is given: what a full disk does to one of them."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    signal.signal(signal.SIGXFSZ, before)


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("size", [1500, 2000, 5000])
def test_a_full_disk_keeps_the_older_file_and_the_rows_and_names_both(tmp_path, full_disk, ending, size):
    target = tmp_path / f"r.{ending}"
    target.write_text("an older file")
    writer = open_results(target)
    full_disk(size)
    with (
        pytest.raises(
            OSError, match=rf"File too large; \d+ rows are kept in .*partial.*r\.{ending}'"
        ) as told,
        writer,
    ):
        for start in range(0, 4000, 10):
            writer.write(rows(start, 10))
    full_disk(resource.RLIM_INFINITY)
    assert told.value.filename == str(target)
    assert target.read_text() == "an older file"
    assert sorted(tmp_path.iterdir()) == [target, writer.journal]
    kept = writer.rows
    assert 0 < kept < 4000
    assert f"{kept} rows" in str(told.value)
    made = recover(writer.journal, tmp_path / f"made.{ending}")
    assert (made.rows, made.damaged) == (kept, 0)
    assert ids_in(made.target) == ids(kept)
    assert sorted(tmp_path.iterdir()) == [made.target, target]


def test_a_disk_that_is_full_when_the_file_is_made_keeps_the_journal(tmp_path, full_disk):
    target = tmp_path / "r.csv"
    target.write_text("an older file")
    writer = open_results(target)
    writer.write(rows(0, 500))
    full_disk(2000)
    with pytest.raises(OSError, match="500 rows are kept in"):
        writer.close()
    full_disk(resource.RLIM_INFINITY)
    assert target.read_text() == "an older file"
    assert recover(writer.journal, tmp_path / "made.csv").rows == 500


def test_a_disk_that_is_full_at_once_leaves_nothing(tmp_path, full_disk):
    full_disk(5)
    with pytest.raises(OSError, match=r"r\.csv"):
        open_results(tmp_path / "r.csv")
    assert list(tmp_path.iterdir()) == []


def test_rows_go_on_after_room_was_made(tmp_path, full_disk):
    with open_results(tmp_path / "r.jsonl") as writer:
        writer.write(rows(0, 10))
        full_disk(writer.journal.stat().st_size + 30)
        with pytest.raises(OSError, match="10 rows are kept"):
            writer.write(rows(10, 10))
        full_disk(resource.RLIM_INFINITY)
        writer.write(rows(10, 10))
    assert ids_in(tmp_path / "r.jsonl") == ids(20)


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 200 kB."""
    place = tmp_path / "small"
    place.mkdir()
    options = ["-t", "tmpfs", "-o", "size=200k", "tmpfs", str(place)]
    try:
        done = subprocess.run(["mount", *options], capture_output=True, text=True)
    except OSError as error:
        pytest.skip(f"mount: {error}")
    if done.returncode:
        pytest.skip(f"a small file system cannot be mounted here: {done.stderr.strip()}")
    yield place
    subprocess.run(["umount", str(place)], check=True)


@pytest.mark.parametrize("ending", ENDINGS)
def test_the_command_on_a_full_disk(workplace, small_disk, capsys, ending):
    np.save("many.npy", unit(4000, D, seed=2).numpy())
    target = small_disk / f"r.{ending}"
    target.write_text("an older file")
    assert main(["judge", "many.npy", *BASE[2:], "--out", str(target), "--quiet"]) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert err.startswith(f"tanl: error: {target}: No space left on device; ")
    assert target.read_text() == "an older file"
    (journal,) = small_disk.glob("*.partial")
    assert main(["recover", str(journal), "--out", f"made.{ending}"]) == 0
    made = ids_in(f"made.{ending}", "id")
    assert made == [str(n) for n in range(len(made))]
    assert f"; {len(made)} rows are kept in {journal}" in err
    assert 0 < len(made) < 4000


# --- kills and signals --------------------------------------------------------------------------------------

BASE = ["judge", "z.npy", "--bank", "bank.safetensors"]
SLOW = """
import sys, time
import tanl.cli.judge, tanl.cli.main
from tanl.streams.result_files import ResultWriter
write = ResultWriter.write
def slowly(self, results):
    write(self, results)
    print("wrote", self.rows, flush=True)
    time.sleep(0.002)
ResultWriter.write = slowly
raise SystemExit(tanl.cli.main.main(sys.argv[1:]))
"""


@pytest.fixture
def workplace(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = [f"class {i}" for i in range(7)] + [f"word {i}" for i in range(103)]
    tanl.save_bank(tanl.LabelBank(names, unit(110, D, seed=1), num_id=7), "bank.safetensors")
    np.save("z.npy", unit(3000, D, seed=5).numpy())
    return tmp_path


def run_until(signal_number, delay, ending):
    """Start the command, send it the signal some time after its first rows, and give its code and what it reported."""
    command = [sys.executable, "-c", SLOW, *BASE, "--batch-size", "8", "--out", f"r.{ending}", "--quiet"]
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        preexec_fn=with_signals,
    ) as process:
        first = process.stdout.readline()
        time.sleep(delay)
        process.send_signal(signal_number)
        out, err = process.communicate(timeout=120)
    reported = [int(line.split()[1]) for line in (first + out).splitlines() if line.startswith("wrote")]
    return process.returncode, reported[-1], err


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP], ids=lambda n: n.name)
def test_a_signal_keeps_the_rows_in_the_results(workplace, ending, number):
    code, reported, err = run_until(number, 0.05, ending)
    assert code == 128 + number
    word = "interrupted" if number == signal.SIGINT else "terminated"
    assert err == f"tanl: {word}; {reported} rows are kept in r.{ending}\n"
    assert ids_in(f"r.{ending}", "id") == [str(n) for n in range(reported)]
    assert not list(workplace.glob("*.partial"))


@pytest.mark.parametrize("ending", ENDINGS)
def test_rows_of_a_killed_run_are_recovered_once_each(workplace, ending, capsys):
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    for _ in range(3):
        Path(f"r.{ending}").write_text("an older file")
        code, reported, _ = run_until(signal.SIGKILL, chance.uniform(0, 0.3), ending)
        assert code == -signal.SIGKILL, f"seed {seed}"
        assert Path(f"r.{ending}").read_text() == "an older file"
        (journal,) = workplace.glob("*.partial")
        with pytest.warns(UserWarning, match="holds the rows of a run that was killed"):
            open_results(f"r.{ending}").close()
        assert main(["recover", str(journal)]) == 2
        assert f"r.{ending} is there already; name another file with --out" in capsys.readouterr().err
        Path(f"r.{ending}").unlink()
        assert main(["recover", str(journal)]) == 0
        found = ids_in(f"r.{ending}", "id")
        # Killed between a write and its report, it has one batch more.
        assert found == [str(n) for n in range(len(found))], f"seed {seed}"
        assert reported <= len(found) <= reported + 8, f"seed {seed}"
        assert not list(workplace.glob("*.partial"))


def test_a_signal_that_is_ignored_stays_ignored(workplace):
    code = (
        "import signal\nsignal.signal(signal.SIGHUP, signal.SIG_IGN)\n"
        "from tanl.cli.signals import stoppable\n"
        "with stoppable():\n    signal.raise_signal(signal.SIGHUP)\nprint('on')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "on\n")


# --- recover ------------------------------------------------------------------------------------------------


def left_behind(folder, count, name="r.csv"):
    """What a run leaves that is killed after so many rows."""
    writer = open_results(folder / name)
    writer.describe({"method": "mcm"})
    writer.write(rows(0, count))
    kept = writer.journal.read_bytes()
    writer.close()
    (folder / name).unlink()
    journal = folder / f"{name}.0123456789ab.partial"
    journal.write_bytes(kept)
    return journal


@pytest.mark.parametrize("cut", [1, 17, 40])
def test_a_line_that_was_cut_costs_its_row(tmp_path, cut, capsys):
    journal = left_behind(tmp_path, 9)
    journal.write_bytes(journal.read_bytes()[:-cut])
    assert main(["recover", str(journal)]) == (0 if cut == 1 else 1)
    if cut == 1:
        assert capsys.readouterr().out == f"{tmp_path / 'r.csv'}: 9 rows\n"
    else:
        assert "8 rows; 1 lines were damaged and are left out" in capsys.readouterr().out
    assert ids_in(tmp_path / "r.csv") == ids(9 if cut == 1 else 8)


def test_a_flipped_bit_costs_its_line_and_never_makes_another_row(tmp_path):
    sound = left_behind(tmp_path, 3)
    content = sound.read_bytes()
    recover(sound, tmp_path / "sound.jsonl")
    expected = (tmp_path / "sound.jsonl").read_text().splitlines()
    for place in range(0, len(content), 13):
        sound.write_bytes(content[:place] + bytes([content[place] ^ (1 << place % 8)]) + content[place + 1 :])
        made = tmp_path / "made.jsonl"
        try:
            found = recover(sound, made)
        except ValueError as error:
            assert place < content.index(b"\n") + 1, error
            continue
        kept = made.read_text().splitlines()
        assert found.damaged in (1, 2)
        assert len(kept) >= 1
        assert [line for line in expected if line in kept] == kept
        made.unlink()
        made.with_name("made.jsonl.json").unlink(missing_ok=True)


def test_a_journals_first_line_of_another_kind_is_refused(tmp_path):
    path = tmp_path / "r.csv.0123456789ab.partial"
    for head in ({"format": 1, "target": "r.csv", "evidence": 5}, [1], None, {"format": 7}, "format"):
        path.write_text(json.dumps(head) + "\n")
        with pytest.raises(ValueError, match="is not what a run of tanl judge or watch leaves"):
            recover(path)


def test_recover_writes_other_formats_and_what_the_run_said_of_itself(tmp_path):
    journal = left_behind(tmp_path, 4)
    made = recover(journal, tmp_path / "made.parquet")
    assert (made.rows, ids_in(made.target)) == (4, ids(4))
    assert json.loads(pq.read_schema(made.target).metadata[b"tanl"]) == {"method": "mcm"}
    assert not journal.exists()


def test_recover_refuses_what_it_cannot_use(tmp_path):
    (tmp_path / "notes.partial").write_text("my notes")
    with pytest.raises(ValueError, match="is not what a run of tanl judge or watch leaves"):
        recover(tmp_path / "notes.partial")
    with pytest.raises(FileNotFoundError):
        recover(tmp_path / "nothing.partial")
    journal = left_behind(tmp_path, 4)
    with pytest.raises(ValueError, match="ends in none of them"):
        recover(journal, tmp_path / "made.xls")
    assert journal.exists()
    with open_results(tmp_path / "other.csv") as writer:
        writer.write(rows(0, 3))
        with pytest.raises(ValueError, match="is still being written"):
            recover(writer.journal)
    assert ids_in(tmp_path / "other.csv") == ids(3)
    empty = tmp_path / "empty.csv.0123456789ab.partial"
    empty.write_bytes(journal.read_bytes().splitlines(keepends=True)[0])
    with pytest.raises(ValueError, match="holds no rows"):
        recover(empty)


# --- what the results say of themselves ---------------------------------------------------------------------


@pytest.mark.parametrize("ending", ENDINGS)
def test_results_say_how_they_were_made(workplace, ending, capsys):
    np.save("known.npy", unit(110, D, seed=1)[:7].numpy())
    extra = ["--method", "neglabel", "--calibrate", "known.npy", "--tpr", "0.8", "--seed", "3", "--quiet"]
    assert main([*BASE, *extra, "--out", f"r.{ending}"]) == 0
    if ending == "parquet":
        said = json.loads(pq.read_schema("r.parquet").metadata[b"tanl"])
        assert not Path("r.parquet.json").exists()
    else:
        said = json.loads(Path(f"r.{ending}.json").read_text(encoding="utf-8"))
    assert said["tanl"] == tanl.__version__
    assert (said["method"], said["seed"], said["batch_size"]) == ("neglabel", 3, 64)
    assert said["settings"]["seed"] == 3
    assert (said["bank"], said["inputs"]) == ("bank.safetensors", ["z.npy"])
    calibration = said["calibration"]
    assert (calibration["of"], calibration["count"], calibration["tpr"]) == ("known.npy", 7, 0.8)
    assert said["threshold"] == calibration["threshold"]
    assert (said["rows"], said["ID"] + said["OOD"], said["complete"]) == (3000, 3000, True)


def test_an_older_description_does_not_stay_beside_newer_rows(workplace):
    Path("r.csv.json").write_text("{}")
    assert main([*BASE, "--out", "r.csv", "--quiet"]) == 0
    assert json.loads(Path("r.csv.json").read_text())["rows"] == 3000


def test_a_run_that_was_stopped_says_so(workplace):
    code, _, _ = run_until(signal.SIGTERM, 0.05, "csv")
    assert code == 143
    said = json.loads(Path("r.csv.json").read_text())
    assert said["complete"] is False
    assert said["rows"] == len(ids_in("r.csv", "id"))
