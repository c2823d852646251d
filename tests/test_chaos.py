"""`make chaos` in short, and that it finds what it looks for."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("pyarrow", reason='needs pyarrow: pip install "tanl[parquet]"')
pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")

ROOT = Path(__file__).parents[1]
START = "import sys\nfrom tools.chaos.__main__ import main\n{change}\nsys.exit(main(sys.argv[1:]))"


def chaos(*arguments, change=""):
    """Run it with the library changed; gives the exit code, the table's rows by target, and all that it printed."""
    run = subprocess.run(
        [sys.executable, "-c", START.format(change=change), *arguments],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in run.stdout.splitlines()]
    rows = [line for line in lines if len(line) == 7]
    if not rows:
        raise AssertionError(run.stdout + run.stderr)
    heads = rows[0][1:]
    counts = {name: dict(zip(heads, map(int, cells), strict=True)) for name, *cells in rows[2:]}
    return run.returncode, counts, run.stdout


JUDGE = ["judge .csv", "judge .jsonl", "judge .parquet"]


@pytest.mark.parametrize(
    "targets",
    [
        ["saved guard", "saved guard, two processes", "saved guard, disk full"],
        ["cache", "cache, two processes", "cache, disk full", "bank", "bank, disk full"],
        [*JUDGE, *(f"{target}, disk full" for target in JUDGE)],
        ["bench run", "bench run, two processes", "bench run, disk full"],
    ],
    ids=["saved guards", "caches and banks", "judge", "bench run"],
)
def test_nothing_that_was_reported_is_lost_doubled_wrong_or_unloadable(targets):
    code, counts, said = chaos("--kills", str(2 * len(targets)), "--only", *targets)
    assert list(counts) == targets
    for row in counts.values():
        assert row.pop("kills") >= 2
        assert not any(row.values()), said
    assert code == 0


TORN = """
import time
from tanl.io import tensors
def write(path, content):
    with open(path, "wb") as file:
        for start in range(0, len(content), 4000):
            file.write(content[start : start + 4000])
            file.flush()
            time.sleep(0.001)
tensors.write_whole = write
"""
FORGOTTEN = """
from tanl.io import tensors
kept, left = tensors.write_whole, [3]
def write(path, content):
    left[0] -= 1
    if left[0] >= 0:
        kept(path, content)
tensors.write_whole = write
"""
OTHER = """
from tanl.labels import files
kept = files.write_tensors
def write(path, tensors, about):
    kept(path, {**tensors, "embeddings": -tensors["embeddings"]}, about)
files.write_tensors = write
"""
TWICE = """
from tanl.streams.result_files import ResultWriter
kept = ResultWriter._append
def append(self, lines, rows=0):
    kept(self, lines * 2 if rows else lines, rows)
ResultWriter._append = append
"""
NAMELESS = """
from tanl.io import tensors
def write(path, content):
    path.write_bytes(b"")
    try:
        with path.open("wb") as file:
            file.write(content)
    except OSError as error:
        raise OSError(error.errno, error.strerror) from None
tensors.write_whole = write
"""
UNLOCKED = """
import time
from contextlib import contextmanager
from tanl.guard import guard, saving
kept = saving.write_whole
def write(path, content):
    kept(path, content)
    time.sleep(0.003)
saving.write_whole = write
@contextmanager
def unlocked(folder):
    folder.mkdir(exist_ok=True)
    yield
guard.folder_lock = unlocked
"""


@pytest.mark.parametrize(
    ("change", "target", "columns"),
    [
        (TORN, "bank", ["unloadable"]),
        (FORGOTTEN, "bank", ["lost"]),
        (FORGOTTEN, "cache", ["lost"]),
        (OTHER, "bank", ["silently wrong"]),
        (TWICE, "judge .csv", ["doubled"]),
        (NAMELESS, "bank, disk full", ["failed"]),
        (UNLOCKED, "saved guard, two processes", ["failed", "unloadable"]),
    ],
    ids=["torn", "forgotten", "cache forgotten", "other", "twice", "nameless", "unlocked"],
)
def test_a_library_that_does_it_otherwise_is_found_out(change, target, columns):
    code, counts, said = chaos("--kills", "4", "--only", target, change=change)
    assert code == 1
    assert any(counts[target][column] for column in columns), said
    assert re.search(rf"^{re.escape(target)}: \w+: .+", said, re.MULTILINE)
