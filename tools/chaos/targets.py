"""What is written while processes are killed, and how it is looked at afterwards."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import warnings
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass, field, replace
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import normalize

from tanl.backbones import load_backbone
from tanl.benchmarks.engine.run_folder import RunFolder
from tanl.cli.main import main as tanl
from tanl.detectors import TANL
from tanl.guard.guard import Guard
from tanl.io.cache import cached_embeddings
from tanl.labels.bank import LabelBank
from tanl.labels.corpus import Corpus
from tanl.labels.files import load_bank, save_bank
from tests.states import same_state

from .processes import RAISED, Ended, Reports

_ROWS, _DIM = 900, 64
_LABELS = ["cat", "dog", "car"]
_REFUSAL = r"OSError: |UserWarning: |tanl: error: "
_WORDS = tuple(f"word{n}" for n in range(300))


@dataclass
class Found:
    """What was found after so many kills or full disks; all but the first should be zero.

    Attributes:
        ends: kills, or full disks.
        lost: what was reported done and is not there.
        doubled: what is there more than once.
        wrong: what loads, and is not what was written.
        unloadable: what does not load.
        failed: what ended otherwise than it should: with a traceback, or with a message that names no file.
        notes: one for each of these.
    """

    ends: int = 0
    lost: int = 0
    doubled: int = 0
    wrong: int = 0
    unloadable: int = 0
    failed: int = 0
    notes: list[str] = field(default_factory=list)

    @property
    def faults(self) -> int:
        return self.lost + self.doubled + self.wrong + self.unloadable + self.failed

    def note(self, kind: str, what: str) -> None:
        setattr(self, kind, getattr(self, kind) + 1)
        self.notes.append(f"{kind}: {what}")


class Target:
    """Something that processes write into a folder.

    Attributes:
        name: as the table has it.
        size: bytes that must be free for a round to end well, about.
        ends_with: the exit code of a round that is let alone.
        refuses_with: that of one that meets a full disk.
    """

    name: str
    size: int
    ends_with = 0
    refuses_with = RAISED

    def __init__(self, folder: Path, shared: Path, processes: int = 1) -> None:
        """``shared`` is a folder for what is the same in every round, and is on no full disk."""
        self.folder = folder
        folder.mkdir()
        self.reports = Reports(shared / f"{self.name.replace(' ', '-').replace('/', '-')}.reports")

    def begin(self, number: int) -> None:
        """Make ready for round ``number``."""
        self.number = number
        self.reports.path.write_bytes(b"")

    def work(self, who: int) -> int:
        """What a process does; gives an exit code. It ends by itself."""
        raise NotImplementedError

    def check(self, found: Found, said: str) -> None:
        """Look at what is there after the processes, which printed ``said``, have ended."""
        raise NotImplementedError

    def unexpected(self, ended: Ended, *, disk_full: bool) -> str | None:
        """What is wrong with how a process ended; None if it ended as it should."""
        if ended.code is None or ended.code == self.ends_with:
            return None
        last = ended.said.strip().splitlines()[-1:]
        if disk_full and ended.code == self.refuses_with:
            if any(re.match(_REFUSAL, line) and str(self.folder) in line for line in last):
                return None
            return f"a full disk is told without the file's name: {last}"
        return f"exit code {ended.code}: {last}"


class SavedGuard(Target):
    """`Guard.save` into one folder, batch after batch."""

    name = "saved guard"

    def __init__(self, folder: Path, shared: Path, processes: int = 1) -> None:
        super().__init__(folder, shared, processes)
        self._saved = folder / "saved"
        self._options: dict[str, Any] = {
            "backbone": load_backbone("mini"),
            "cache_dir": shared / "cache",
            # Embedding the noise that it starts from would take most of the time.
            "method": lambda bank: TANL(bank, initial_ood=_unit(15, bank.dim, seed=3)),
        }
        corpus = Corpus(_WORDS, ("noun",) * len(_WORDS), "words")
        self._new = Guard(labels=_LABELS, corpus=corpus, **self._options)
        self._new.save(self._saved)
        self._there = self._new.detector.state_dict()
        self.size = sum(path.stat().st_size for path in self._saved.iterdir())

    def work(self, who: int) -> int:
        guard = self._fresh()
        for step in range(30):
            guard.detect_embeddings(self._batch(who, step))
            self.reports.say("begun", who, step)
            guard.save(self._saved)
            self.reports.say("done", who, step)
            if step % 4 == who:
                Guard.load(self._saved, **self._options)
        return 0

    def check(self, found: Found, said: str) -> None:
        try:
            state = Guard.load(self._saved, **self._options).detector.state_dict()
        except Exception as error:
            found.note("unloadable", repr(error))
            self._fresh().save(self._saved)
            self._there = self._new.detector.state_dict()
            return
        lines = self.reports.lines()
        begun = {(int(who), int(step)) for what, who, step in lines if what == "begun"}
        saved = next(
            ((who, step) for who, step, each in self._replayed(begun) if same_state(state, each)), None
        )
        if saved is None and not same_state(state, self._there):
            found.note("wrong", f"the state is none of {len(begun)} that were saved")
        elif self._has_later(lines, saved):
            found.note("lost", f"{saved} is there, and not what was saved after it")
        self._there = state
        guard = self._fresh()
        guard.save(self._saved)
        self._there = guard.detector.state_dict()
        names = sorted(path.name for path in self._saved.iterdir() if not path.name.startswith("."))
        if len(names) != 2:
            found.note("failed", f"left behind: {names}")

    def _fresh(self) -> Guard:
        self._new.reset()
        return self._new

    def _batch(self, who: int, step: int) -> Tensor:
        return _unit(5, self._new.bank.dim, seed=10_000 * self.number + 100 * who + step)

    def _replayed(self, begun: set[tuple[int, int]]) -> Iterator[tuple[int, int, dict[str, Any]]]:
        for who in sorted({who for who, _ in begun}):
            guard = self._fresh()
            for step in range(1 + max(step for each, step in begun if each == who)):
                guard.detect_embeddings(self._batch(who, step))
                yield who, step, guard.detector.state_dict()

    @staticmethod
    def _has_later(lines: list[list[str]], saved: tuple[int, int] | None) -> bool:
        """Whether another save was begun when this one was done, and was done too."""
        if saved is None:
            return any(what == "done" for what, _, _ in lines)
        if (end := ["done", *map(str, saved)]) not in lines:
            return False
        after = lines[lines.index(end) + 1 :]
        return any(["begun", who, step] in after for what, who, step in after if what == "done")


class Cache(Target):
    """Embeddings that are kept in the cache; several processes keep the same."""

    name = "cache"
    size = 40 * 4 * 50 * _DIM

    def work(self, who: int) -> int:
        warnings.simplefilter("error")  # what cannot be read or kept
        for step in range(40):
            if not torch.equal(self._kept(step), self._content(step)):
                return 1
            self.reports.say(step)
        return 0

    def check(self, found: Found, said: str) -> None:
        done = {int(step) for (step,) in self.reports.lines()}
        for step in range(40):
            with warnings.catch_warnings(record=True) as warned:
                warnings.simplefilter("always")
                self._computed = False
                kept = self._kept(step)
            if warned:
                found.note("unloadable", str(warned[0].message))
            elif self._computed and step in done:
                found.note("lost", f"embeddings {step} were kept, and are not there")
            elif not torch.equal(kept, self._content(step)):
                found.note("wrong", f"embeddings {step} are others than were kept")
        for path in (self.folder / "chaos").iterdir():
            path.unlink()

    def _kept(self, step: int) -> Tensor:
        def compute() -> Tensor:
            self._computed = True
            return self._content(step)

        key = (str(self.number), str(step))
        return cached_embeddings(compute, kind="chaos", key=key, rows=50, about={}, cache_dir=self.folder)

    def _content(self, step: int) -> Tensor:
        return _unit(50, _DIM, seed=1000 * self.number + step)


class Bank(Target):
    """`save_bank` to one file, again and again."""

    name = "bank"
    size = 4 * 103 * _DIM

    def __init__(self, folder: Path, shared: Path, processes: int = 1) -> None:
        super().__init__(folder, shared, processes)
        self._file = folder / "bank.safetensors"

    def begin(self, number: int) -> None:
        super().begin(number)
        save_bank(self._bank(-1), self._file)

    def work(self, who: int) -> int:
        for step in range(40):
            self.reports.say("begun", step)
            save_bank(self._bank(step), self._file)
            self.reports.say("done", step)
        return 0

    def check(self, found: Found, said: str) -> None:
        try:
            bank = load_bank(self._file).bank
        except Exception as error:
            found.note("unloadable", repr(error))
            return
        step = int(bank.names[0].split()[1])
        expected = self._bank(step)
        done = max((int(step) for what, step in self.reports.lines() if what == "done"), default=-1)
        if bank.names != expected.names or not torch.equal(bank.embeddings, expected.embeddings):
            found.note("wrong", f"bank {step} is another than was saved")
        elif step < done:
            found.note("lost", f"bank {done} was saved, and {step} is there")

    def _bank(self, step: int) -> LabelBank:
        names = [f"bank {step}", *(f"label {n}" for n in range(102))]
        return LabelBank(names, _unit(103, _DIM, seed=1000 * self.number + step + 1), num_id=3)


class Judge(Target):
    """``tanl judge --out`` over embeddings, some of which cannot be used: those are named when their row is kept."""

    ending: str
    ends_with = 1
    refuses_with = 2

    def __init__(self, folder: Path, shared: Path, processes: int = 1) -> None:
        super().__init__(folder, shared, processes)
        bank, z = shared / "judge.safetensors", shared / "judge.npy"
        if not bank.exists():
            names = [f"label {n}" for n in range(103)]
            save_bank(LabelBank(names, _unit(103, _DIM, seed=1), num_id=7, logit_scale=20.0), bank)
            rows = _unit(_ROWS, _DIM, seed=2).numpy()
            rows[::5, 0] = np.nan
            np.save(z, rows)
        self._command = ["judge", str(z), "--bank", str(bank), "--batch-size", "8", "--quiet", "--out"]
        self._out = folder / f"results.{self.ending}"
        whole = shared / self._out.name
        _quietly([*self._command, str(whole)])
        self._expected = _rows(whole)
        self.size = 3 * whole.stat().st_size
        self._older = shared / f"older.{self.ending}"
        self._older.write_bytes(b"an older file")

    def begin(self, number: int) -> None:
        super().begin(number)
        for path in self.folder.iterdir():
            path.unlink()
        self._out.write_bytes(self._older.read_bytes())

    def work(self, who: int) -> int:
        return tanl([*self._command, str(self._out)])

    def check(self, found: Found, said: str) -> None:
        named = [line for line in said.splitlines() if line.startswith("tanl: warning: cannot read")]
        reported = 0 if not named else int(named[-1].split("embedding ")[1].split(":")[0]) + 1
        if self._out.read_bytes() != self._older.read_bytes():
            self._compare(self._out, len(self._expected), found)
            return
        journals = list(self.folder.glob(f"{self._out.name}.*.partial"))
        recovered = self._out.with_name(f"recovered.{self.ending}")
        for journal in journals:
            try:
                code, told = _quietly(["recover", str(journal), "--out", str(recovered)])
            except Exception as error:
                found.note("unloadable", f"{journal.name}: {error!r}")
                return
            if code == 2 and reported:
                found.note("unloadable", f"{journal.name}: {told}")
                return
        if recovered.exists():
            self._compare(recovered, reported, found)
        elif reported:
            found.note("lost", f"{reported} rows were reported, and there are none")

    def _compare(self, file: Path, reported: int, found: Found) -> None:
        try:
            rows = _rows(file)
        except Exception as error:
            found.note("unloadable", f"{file.name}: {error!r}")
            return
        ids = [row["id"] for row in rows]
        if len(set(ids)) < len(ids):
            found.note("doubled", f"{len(ids) - len(set(ids))} rows of {file.name}")
        elif len(rows) < reported:
            found.note("lost", f"{reported} rows were reported, and {len(rows)} are there")
        elif rows != self._expected[: len(rows)]:
            found.note("wrong", f"{file.name} has other rows than a run that was let alone")


class JudgeCsv(Judge):
    name, ending = "judge .csv", "csv"


class JudgeJsonLines(Judge):
    name, ending = "judge .jsonl", "jsonl"


class JudgeParquet(Judge):
    name, ending = "judge .parquet", "parquet"


class Bench(Target):
    """``tanl bench run``, which goes on in its folder until it is complete; then another one begins."""

    name = "bench run"
    refuses_with = 2

    def __init__(self, folder: Path, shared: Path, processes: int = 1) -> None:
        super().__init__(folder, shared, processes)
        words = shared / "words.txt"
        words.write_text("\n".join(_WORDS) + "\n")
        labels = shared / "labels.txt"
        labels.write_text("\n".join(_LABELS) + "\n")
        draw = np.random.default_rng(0)
        for part in ("id", "ood-a", "ood-b"):
            (shared / part).mkdir(exist_ok=True)
            for number in range(8):
                pixels = draw.integers(0, 256, (8, 8, 3), dtype=np.uint8)
                Image.fromarray(pixels).resize((64, 64)).save(shared / part / f"{number}.png")
        images = ["--id", str(shared / "id"), "--ood", str(shared / "ood-a"), "--ood", str(shared / "ood-b")]
        methods = "mcm,neglabel,tanl-batch-adaptive,tanl-practice"
        more = ["--seeds", "0", "1", "2", "--corpus", str(words), "--labels", str(labels)]
        self._command = ["bench", "run", *images, *more, "--methods"]
        # Two processes share the methods.
        self._methods = [methods] if processes == 1 else ["mcm,tanl-practice", "neglabel,tanl-batch-adaptive"]
        os.environ["TANL_CACHE"] = str(shared / "bench-cache")
        whole = shared / "whole"
        if not whole.exists():
            _quietly([*self._command, methods, "--out", str(whole)])
        self._expected = _cells(whole)
        self.size = 2 * sum(path.stat().st_size for path in whole.rglob("*") if path.is_file())
        self._folders = (folder / f"run-{n}" for n in count())
        self._next()

    def _next(self) -> None:
        self._run = next(self._folders)
        self._seen: set[Any] = set()
        self._done: set[int] = set()

    def work(self, who: int) -> int:
        code = tanl([*self._command, self._methods[who], "--out", str(self._run)])
        if code == 0:
            self.reports.say(who)
        return code

    def check(self, found: Found, said: str) -> None:
        self._done |= {int(who) for (who,) in self.reports.lines()}
        is_complete = len(self._done) == len(self._methods)
        try:
            cells = _cells(self._run)
        except FileNotFoundError as error:
            if self._seen or is_complete:
                found.note("lost", repr(error))
            return
        except Exception as error:
            found.note("unloadable", repr(error))
            self._next()
            return
        keys = [key for key, _ in cells]
        expected = dict(self._expected)
        if len(set(keys)) < len(keys):
            found.note("doubled", f"{len(keys) - len(set(keys))} cells")
        if missing := (set(expected) if is_complete else self._seen) - set(keys):
            found.note("lost", f"{len(missing)} cells that were there")
        if others := [key for key, values in cells if expected.get(key) != values]:
            found.note("wrong", f"{len(others)} cells are others than those of a run that was let alone")
        self._seen = set(keys)
        if is_complete:
            self._next()


TARGETS: tuple[type[Target], ...] = (SavedGuard, Cache, Bank, JudgeCsv, JudgeJsonLines, JudgeParquet, Bench)
TOGETHER: tuple[type[Target], ...] = (SavedGuard, Cache, Bench)
"""Those that several processes may write at once."""


def _unit(*shape: int, seed: int) -> Tensor:
    return normalize(torch.randn(*shape, generator=torch.Generator().manual_seed(seed)), dim=-1)


def _quietly(argv: list[str]) -> tuple[int, str]:
    """Run a command in this process; gives its exit code and all that it printed."""
    said = io.StringIO()
    with redirect_stdout(said), redirect_stderr(said):
        return tanl(argv), said.getvalue()


def _rows(file: Path) -> list[dict[str, Any]]:
    if file.suffix == ".parquet":
        import pyarrow.parquet as pq

        rows: list[dict[str, Any]] = pq.read_table(file).to_pylist()
        return rows
    with file.open(encoding="utf-8", newline="") as lines:
        return list(csv.DictReader(lines) if file.suffix == ".csv" else map(json.loads, lines))


def _cells(folder: Path) -> list[tuple[Any, Any]]:
    run = RunFolder.open(folder)
    return [
        (cell.key, (replace(cell, seconds=0.0), *(part.tobytes() for part in run.scores(cell))))
        for cell in run.cells()
    ]
