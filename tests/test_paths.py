"""Paths as people write them."""

import os
from pathlib import Path

import pytest

from tanl.io.paths import local_path


@pytest.mark.parametrize("kind", [str, Path])
def test_a_home_folder_is_spelled_out(monkeypatch, tmp_path, kind):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert local_path(kind("~/photos")) == tmp_path / "photos"
    assert local_path(kind("~")) == tmp_path


def test_a_users_home_folder_is_spelled_out():
    pwd = pytest.importorskip("pwd")
    user = pwd.getpwuid(os.getuid())
    assert local_path(f"~{user.pw_name}/a") == Path(user.pw_dir, "a")


def test_what_is_no_users_name_after_a_tilde_stays():
    assert local_path("~no such user.jpg") == Path("~no such user.jpg")
    assert local_path("a/~/b") == Path("a/~/b")


def test_a_user_without_a_home_folder_is_told(monkeypatch):
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)
    with pytest.raises(ValueError, match="~/a: this user has no home folder"):
        local_path("~/a")


@pytest.mark.parametrize(
    "path", ["a", "./a b", "/a:b/c", "C:/a", "C:\\a", "a:b", ".", "ä/猫", "./s3://bucket/a"]
)
def test_other_paths_stay_as_they_are(path):
    assert local_path(path) == Path(path)


@pytest.mark.parametrize("scheme", ["s3", "gs", "http", "https", "file", "hdfs", "az", "git+ssh", "S3"])
def test_addresses_are_refused_by_their_name(scheme):
    with pytest.raises(ValueError, match=rf"{scheme.replace('+', '[+]')}:/+bucket/a is an address") as caught:
        local_path(f"{scheme}://bucket/a")
    assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match="is an address"):
        local_path(Path(f"{scheme}://bucket/a"))


@pytest.mark.parametrize(
    ("path", "error", "reason"),
    [
        ("", ValueError, "empty"),
        ("a\0b", ValueError, "NUL"),
        (b"a", TypeError, "not b'a'"),
        (7, TypeError, "not 7"),
        (None, TypeError, "not None"),
    ],
)
def test_what_is_no_path_is_refused(path, error, reason):
    with pytest.raises(error, match=reason):
        local_path(path)
