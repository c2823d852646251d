"""OpenOOD's image lists: what a line may be, and what is refused with its line's number."""

import pytest

from tanl.benchmarks.data.imglist import Entry, inside, read_imglist


def written(tmp_path, content: str | bytes):
    path = tmp_path / "list.txt"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


@pytest.mark.parametrize(
    ("line", "entry"),
    [
        ("cifar10/test/truck/0518.png 9", Entry("cifar10/test/truck/0518.png", 9)),
        ("tin/val/images/val_9992.JPEG -1", Entry("tin/val/images/val_9992.JPEG", -1)),
        ("a.png -7", Entry("a.png", -1)),
        ("a.png  3 ", Entry("a.png", 3)),
        ('a.png {"label": 4, "name": "a great white shark"}', Entry("a.png", 4)),
        ("a.png {'label': 4, 'name': 'a great white shark'}", Entry("a.png", 4)),
        ("a.png {'label': -1, 'soft': None}", Entry("a.png", -1)),
        ("a/../b.png 0", Entry("a/../b.png", 0)),
        ("ninco/..hidden/x..jpg -1", Entry("ninco/..hidden/x..jpg", -1)),
        ("naïve/图.png 1", Entry("naïve/图.png", 1)),
        ("a\u2028b.png 1", Entry("a\u2028b.png", 1)),
    ],
)
def test_read_imglist_line(tmp_path, line, entry):
    assert read_imglist(written(tmp_path, line + "\n")) == [entry]


@pytest.mark.parametrize(
    "content",
    [b"a.png 0\nb.png -1\n", b"a.png 0\r\nb.png -1\r\n", b"\xef\xbb\xbfa.png 0\n\n  \nb.png -1"],
    ids=["unix", "windows", "byte-order mark, blank lines, no end of line"],
)
def test_read_imglist_line_ends(tmp_path, content):
    assert read_imglist(written(tmp_path, content)) == [Entry("a.png", 0), Entry("b.png", -1)]


@pytest.mark.parametrize("count", [1, 63, 1003])
def test_read_imglist_keeps_order_and_repeats(tmp_path, count):
    entries = [Entry(f"{number % 7}.png", number % 5 - 1) for number in range(count)]
    path = written(tmp_path, "".join(f"{entry.path} {entry.label}\n" for entry in entries))
    assert read_imglist(path) == entries


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("/etc/passwd 0", "'/etc/passwd' is absolute"),
        ("C:\\images\\a.png 0", "is absolute"),
        ("\\\\server\\share\\a.png 0", "is absolute"),
        ("../a.png 0", "'../a.png' leaves the images' folder"),
        ("a/../../b.png 0", "leaves the images' folder"),
        ("a\\..\\..\\b.png 0", "leaves the images' folder"),
        ("a\0b.png 0", "is not a path"),
        (" a.png 0", "is not a path"),
        ("a.png", "has no label"),
        ("a.png ", "has no label"),
        ("great white shark.png 2", "a path must not hold a space"),
        ("a.png 1.5", "neither a whole number nor a dict"),
        ("a.png True", "neither a whole number nor a dict"),
        ("a.png true", "neither a whole number nor a dict"),
        ("a.png [1]", "neither a whole number nor a dict"),
        ("a.png {'name': 'shark'}", 'has no "label"'),
        ("a.png {'label': 'shark'}", "neither a whole number nor a dict"),
        ("a.png {'label': 1", "neither a whole number nor a dict"),
        ("a.png __import__('os').getcwd()", "neither a whole number nor a dict"),
        ("a.png " + "[" * 100_000, "neither a whole number nor a dict"),
    ],
)
def test_read_imglist_refuses_with_the_lines_number(tmp_path, line, message):
    path = written(tmp_path, f"fine.png 0\n\n{line}\n")
    with pytest.raises(ValueError) as caught:
        read_imglist(path)
    assert f"{path}, line 3: " in str(caught.value)
    assert message in str(caught.value)


@pytest.mark.parametrize("content", ["", "\n \n"])
def test_read_imglist_refuses_an_empty_list(tmp_path, content):
    with pytest.raises(ValueError, match="lists no images"):
        read_imglist(written(tmp_path, content))


def test_read_imglist_refuses_what_is_not_text(tmp_path):
    with pytest.raises(ValueError, match="is not a UTF-8 text file"):
        read_imglist(written(tmp_path, b"\x89PNG\xff\xfe 0\n"))


def test_read_imglist_missing(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        read_imglist(tmp_path / "nowhere.txt")


def test_inside_gives_the_path_as_it_is():
    assert inside("a/b/../c.png") == "a/b/../c.png"
    with pytest.raises(ValueError, match="'' is not a path"):
        inside("")
