"""Images that are installed as one archive: taken out whole, once, by whoever comes first."""

from __future__ import annotations

import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tanl.benchmarks.data.packed import ARCHIVE, unpacked
from tanl.io.cache_files import UNPACKED, kept_in, take_away

FILES = {"manifest.csv": b"file\n", "images/a/one.webp": b"1", "images/b/c/two.webp": b"22"}


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("TANL_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def package(tmp_path) -> Path:
    folder = tmp_path / "pictures"
    folder.mkdir()
    with zipfile.ZipFile(folder / ARCHIVE, "w") as archive:
        for name, content in FILES.items():
            archive.writestr(name, content)
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()
    }


def test_a_folder_without_an_archive_is_taken_as_it_is(tmp_path, cache):
    assert unpacked(tmp_path) == tmp_path
    assert not cache.exists()


def test_an_archive_is_taken_out_once(package, cache):
    folder = unpacked(package)
    assert contents(folder) == FILES
    assert folder.parent == cache / UNPACKED
    (folder / "mark").touch()
    assert unpacked(package) == folder
    assert (folder / "mark").exists()
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]


def test_threads_that_come_at_once_find_it_whole(package, cache):
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: contents(unpacked(package)), range(32)))
    assert found == [FILES] * 32
    assert len(list((cache / UNPACKED).iterdir())) == 1


def test_a_cache_that_is_no_folder_is_told(package, cache):
    cache.write_text("a file")
    with pytest.raises(OSError, match=r"the images of pictures cannot be taken out .* set TANL_CACHE"):
        unpacked(package)


def test_a_damaged_archive_leaves_nothing(package, cache):
    archive = package / ARCHIVE
    archive.write_bytes(archive.read_bytes().replace(b"22", b"33"))
    with pytest.raises(zipfile.BadZipFile):
        unpacked(package)
    assert list((cache / UNPACKED).iterdir()) == []


def test_the_cache_counts_it_and_takes_it_away(package, cache):
    folder = unpacked(package)
    (folder.parent / "mine").mkdir()
    (folder.parent / "mine" / "notes.txt").write_text("keep")
    (kept,) = kept_in(cache)
    assert (kept.what, kept.size, len(kept.files)) == (UNPACKED, sum(map(len, FILES.values())), len(FILES))
    take_away(kept)
    assert not folder.exists()
    assert (folder.parent / "mine" / "notes.txt").exists()
    assert kept_in(cache) == []
    assert contents(unpacked(package)) == FILES
