"""Label banks that are mapped: the same bits as in memory, refused where their file is not as it was written."""

from __future__ import annotations

import copy
import os
import pickle
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

import tanl
from conftest import unit
from tanl.io.mapped import Parts, map_tensors, write_parts
from tanl.io.tensors import read_tensors, write_tensors

NAMES = [f"label {i}" for i in range(1003)]


def parts(rows: Tensor, size: int) -> Iterator[Tensor]:
    return iter(torch.split(rows, size))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A bank of 1003 labels, 7 of them ID, float16, written in parts of 100."""
    path = tmp_path / "bank.safetensors"
    tanl.save_bank_parts(path, NAMES, parts(unit(1003, 15), 100), dim=15, num_id=7, logit_scale=20.0)
    return path


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("size", [1, 64, 1003])
def test_parts_make_the_bank_that_the_whole_makes(tmp_path: Path, dtype: torch.dtype, size: int) -> None:
    rows, outliers = unit(1003, 15), unit(5, 15, seed=1)
    settings = {"num_id": 7, "logit_scale": 1 / 3, "dtype": dtype}
    whole, pieces = tmp_path / "whole.safetensors", tmp_path / "pieces.safetensors"
    tanl.save_bank(tanl.LabelBank(NAMES, rows, **settings), whole, initial_ood=outliers)
    tanl.save_bank_parts(pieces, NAMES, parts(rows, size), dim=15, initial_ood=outliers, **settings)
    one, other = tanl.load_bank(whole), tanl.load_bank(pieces)
    assert one.bank.fingerprint == other.bank.fingerprint
    assert one.initial_ood is not None and other.initial_ood is not None
    assert torch.equal(one.initial_ood, other.initial_ood)
    assert sorted(tmp_path.iterdir()) == [pieces, whole]


@pytest.mark.parametrize("write", ["whole", "parts"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_a_mapped_bank_is_the_bank(tmp_path: Path, write: str, dtype: torch.dtype) -> None:
    path, rows = tmp_path / "bank.safetensors", unit(1003, 15)
    kept = tanl.LabelBank(NAMES, rows, num_id=7, logit_scale=20.0, dtype=dtype)
    if write == "whole":
        tanl.save_bank(kept, path, initial_ood=rows[:3])
    else:
        tanl.save_bank_parts(
            path, NAMES, [rows], dim=15, num_id=7, logit_scale=20.0, dtype=dtype, initial_ood=rows[:3]
        )
    saved = tanl.load_bank(path, mmap=True)
    bank = saved.bank
    assert bank.fingerprint == kept.fingerprint
    assert (bank.names, bank.num_id, bank.logit_scale, bank.dtype) == (kept.names, 7, 20.0, dtype)
    assert torch.equal(bank.embeddings, kept.embeddings)
    assert saved.initial_ood is not None
    assert torch.equal(saved.initial_ood, rows[:3])
    assert bank.file is not None
    bank.file.check()
    z = unit(63, 15, seed=3)
    for method in (tanl.MCM, tanl.NegLabel, tanl.TANL):
        assert torch.equal(method(bank)(z), method(kept)(z)), method
    assert torch.equal(bank.mined(99).embeddings, kept.mined(99).embeddings)
    assert tanl.load_bank(path).bank.file is None


def test_a_mapped_bank_is_saved_again_as_it_was(path: Path, tmp_path: Path) -> None:
    bank = tanl.load_bank(path, mmap=True).bank
    tanl.save_bank(bank, tmp_path / "again.safetensors")
    assert tanl.load_bank(tmp_path / "again.safetensors").bank.fingerprint == bank.fingerprint
    before = bank.embeddings.clone()
    tanl.save_bank(bank.mined(9), path)  # over the mapped file: another takes its name
    assert torch.equal(bank.embeddings, before)
    assert bank.file is not None
    bank.file.check()
    assert tanl.load_bank(path, mmap=True).bank.num_negatives == 9


def test_a_mapped_bank_is_shared_by_copies_and_not_pickled(path: Path) -> None:
    bank = tanl.load_bank(path, mmap=True).bank
    detector = copy.deepcopy(tanl.MCM(bank))
    assert detector.bank is bank
    with pytest.raises(TypeError, match="is mapped in this process: give others its path"):
        pickle.dumps(bank)


def test_labels_stay_in_the_file(tmp_path: Path) -> None:
    """Mapping 64 MB and reading a row takes a few MB of the process's own memory."""
    path = tmp_path / "bank.safetensors"
    rows = torch.nn.functional.normalize(torch.randn(1 << 16, 512), dim=1).half()
    count = len(rows)
    tanl.save_bank_parts(path, list(map(str, range(count))), [rows], dim=512, num_id=1, logit_scale=20.0)
    script = (
        "import sys, tanl, torch\n"
        "from pathlib import Path\n"
        "def own():\n"
        "    lines = Path('/proc/self/status').read_text().splitlines()\n"
        "    return next(int(line.split()[1]) for line in lines if line.startswith('RssAnon'))\n"
        "tanl.load_bank(sys.argv[2], mmap=True)\n"
        "before = own()\n"
        "bank = tanl.load_bank(sys.argv[1], mmap=True).bank\n"
        "float(bank.embeddings[-1].float().sum())\n"
        "print(own() - before)\n"
    )
    if not Path("/proc/self/status").exists():
        pytest.skip("memory is told by Linux alone")
    small = tmp_path / "small.safetensors"
    tanl.save_bank_parts(small, NAMES, [unit(1003, 15)], dim=15, num_id=1, logit_scale=20.0)
    arguments = [sys.executable, "-c", script, str(path), str(small)]
    told = subprocess.run(arguments, check=True, capture_output=True, text=True).stdout
    assert int(told) < 40 * 1024, f"{told} kB for the names of 65 536 labels, of 64 MB"


def resaved(path: Path, **changes: Tensor | str) -> None:
    """The file again, with other tensors or notes and a checksum that fits."""
    tensors, about = read_tensors(path)
    for name, value in changes.items():
        if isinstance(value, Tensor):
            tensors[name] = value
        else:
            about[name] = value
    write_tensors(path, tensors, about)


def changed(path: Path, place: int) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)


DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "cut": (lambda p: p.write_bytes(p.read_bytes()[:-9]), "no safetensors file, or a damaged one"),
    "longer": (lambda p: p.write_bytes(p.read_bytes() + b"more"), "no safetensors file, or a damaged one"),
    "empty": (lambda p: p.write_bytes(b""), "no safetensors file, or a damaged one"),
    "text": (lambda p: p.write_text("words, not tensors"), "no safetensors file, or a damaged one"),
    "a bit of a row": (
        lambda p: changed(p, p.stat().st_size // 2),
        "its checksum is not that of its content",
    ),
    "the last bit": (lambda p: changed(p, -1), "its checksum is not that of its content"),
    "wrong row count": (
        lambda p: resaved(p, embeddings=unit(1002, 15).half()),
        "1003 names, but 1002 embeddings",
    ),
    "another version": (
        lambda p: resaved(p, version="2"),
        "format '2', and this version of tanl reads up to 1",
    ),
    "another file": (lambda p: resaved(p, format="tanl-label-lists"), "but not a label bank's"),
    "another dtype": (lambda p: resaved(p, embeddings=unit(1003, 15).double()), "embeddings is of F64"),
    "not unit": (lambda p: resaved(p, embeddings=2 * unit(1003, 15)), "row 0 has norm 2"),
    "a folder": (lambda p: (p.unlink(), p.mkdir()), "is a folder, not a label bank's file"),
}


@pytest.mark.parametrize("case", DAMAGE)
def test_a_file_that_is_not_as_it_was_written_is_never_mapped(path: Path, case: str) -> None:
    damage, message = DAMAGE[case]
    damage(path)
    with pytest.raises(ValueError, match=message):
        tanl.load_bank(path, mmap=True)


@pytest.mark.parametrize("how", ["cut", "written to"])
def test_a_file_that_changes_while_it_is_mapped_is_told(path: Path, how: str) -> None:
    bank = tanl.load_bank(path, mmap=True).bank
    assert bank.file is not None
    with path.open("r+b") as file:
        if how == "cut":
            file.truncate(100)
        else:
            file.seek(200)
            file.write(b"x")
    os.utime(path)
    with pytest.raises(OSError, match=r"bank\.safetensors was written to while it was mapped: load it again"):
        bank.file.check()


def test_what_a_mapped_bank_cannot_be_is_refused(path: Path) -> None:
    with pytest.raises(ValueError, match="float16, and a mapped bank stays as it is"):
        tanl.load_bank(path, mmap=True, dtype=torch.float32)
    with pytest.raises(ValueError, match="a mapped bank is on the CPU, not on cuda"):
        tanl.load_bank(path, mmap=True, device="cuda")
    with pytest.raises(FileNotFoundError, match="no label bank"):
        tanl.load_bank(path.with_name("none"), mmap=True)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([unit(1002, 15)], "embeddings: the parts have 1002 rows, not 1003"),
        ([unit(1003, 15), unit(1, 15)], "embeddings: the parts have at least 1004 rows, not 1003"),
        ([unit(3, 15), unit(1000, 16)], "from row 3 on has D = 16"),
        ([unit(3, 15), 2 * unit(1000, 15)], "from row 3 on: row 0 has norm 2"),
        ([], "the parts have 0 rows"),
    ],
)
def test_unusable_parts_leave_the_older_file(path: Path, rows: list[Tensor], message: str) -> None:
    before = path.read_bytes()
    with pytest.raises(ValueError, match=message):
        tanl.save_bank_parts(path, NAMES, rows, dim=15, num_id=7, logit_scale=20.0)
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


def test_names_and_numbers_are_checked_before_a_row_is_asked_for(tmp_path: Path) -> None:
    def never() -> Iterator[Tensor]:
        raise AssertionError("asked for a row")
        yield

    path = tmp_path / "bank.safetensors"
    good = {"dim": 15, "num_id": 7, "logit_scale": 20.0}
    for change, error, message in [
        ({"num_id": 1004}, ValueError, "num_id is 1004, but there are only 1003 labels"),
        ({"logit_scale": -1.0}, ValueError, "logit_scale must be positive"),
        ({"dim": 0}, ValueError, "dim must be at least 1"),
        ({"dtype": torch.float64}, ValueError, "dtype must be torch.float32 or torch.float16"),
    ]:
        with pytest.raises(error, match=message):
            tanl.save_bank_parts(path, NAMES, never(), **{**good, **change})
    with pytest.raises(ValueError, match="occur more than once"):
        tanl.save_bank_parts(path, ["a", "a"], never(), **good)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a disk that is full")
def test_a_full_disk_names_the_file_and_leaves_the_older_one(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, kept = path.read_bytes(), Path.open

    def full(self: Path, mode: str = "r", *rest: object, **named: object) -> object:
        return kept(Path("/dev/full") if mode == "r+b" else self, mode, *rest, **named)  # type: ignore[call-overload]

    monkeypatch.setattr(Path, "open", full)
    with pytest.raises(OSError, match=r"No space left on device.*bank\.safetensors'"):
        tanl.save_bank_parts(path, NAMES, parts(unit(1003, 15), 100), dim=15, num_id=7, logit_scale=20.0)
    monkeypatch.undo()
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("size", [1, 7, 100])
def test_tensors_of_every_kind_come_back(tmp_path: Path, size: int) -> None:
    path = tmp_path / "t.safetensors"
    tensors = {
        "a": torch.arange(21, dtype=torch.uint8),
        "b": torch.randn(11, 3),
        "c": torch.arange(5),
        "d": torch.arange(13, dtype=torch.int32),
        "e": torch.empty(0, 3),
    }
    rows = torch.randn(101, 7).half()
    given: dict[str, Tensor | Parts] = {**tensors, "rows": Parts((101, 7), torch.float16, parts(rows, size))}
    write_parts(path, given, {"note": "naïve"})
    mapped, about, file = map_tensors(path)
    read, also = read_tensors(path)
    assert about == also == {"note": "naïve"}
    for name, tensor in {**tensors, "rows": rows}.items():
        assert torch.equal(mapped[name], tensor), name
        assert torch.equal(read[name], tensor), name
    file.check()
