"""Files of class names: every container, every place of a fault, every encoding."""

import codecs
import json
from pathlib import Path

import pytest

from tanl.cli.main import main
from tanl.labels.label_files import read_labels

INDEX = {str(number): f"class {number}" for number in (10, 2, 0, 1)}
INDEX_NAMES = ["class 0", "class 1", "class 2", "class 10"]

READ = {
    # text
    "lines.txt": ("cat\ndog\n", ["cat", "dog"]),
    "no ending": ("cat\r\ndog", ["cat", "dog"]),
    "comments.txt": ("# mine\n\n  cat \n\u200b\n\ufeff# more\ndog #2\n", ["cat", "dog #2"]),
    "marks inside.txt": ("cat\n\ufeffdog\nbi\u00adrd\n", ["cat", "dog", "bird"]),
    "commas.txt": ("tench, Tinca tinca\ncat, dog\n", ["tench, Tinca tinca", "cat, dog"]),
    "brackets.txt": ("[background]\ncat\n[other]\n", ["[background]", "cat", "[other]"]),
    "one in brackets.txt": ("(cat)", ["(cat)"]),
    "one in quotes.txt": ("cat\n'dog'\n", ["cat", "'dog'"]),
    "other languages.txt": (
        "\u732b\ncaf\u00e9\n\U0001f469\u200d\U0001f680\n",
        ["\u732b", "caf\u00e9", "\U0001f469\u200d\U0001f680"],
    ),
    "slashes.txt": ("// mine\ncat\ndog\n", ["cat", "dog"]),
    "dashes.md": ("- cat\n- polar bear\n", ["cat", "polar bear"]),
    "bullets.md": ("* cat\n\u2022 dog\n", ["cat", "dog"]),
    "one dash.txt": ("- cat\ndog\n", ["- cat", "dog"]),
    "colons.txt": ("1: dog\n0: cat\n", ["cat", "dog"]),
    "points.txt": ("1. cat\n2. dog\n10. bird\n", ["cat", "dog", "bird"]),
    "number and comma.txt": ("1,dog\n0,tench, Tinca tinca\n", ["tench, Tinca tinca", "dog"]),
    "the same number.txt": ("1. cat\n1. dog\n", ["1. cat", "1. dog"]),
    "numbers of things.txt": ("3 cats\n5 dogs\n", ["3 cats", "5 dogs"]),
    "thousands.txt": ("1,000 cats\n2,000 cats\n", ["1,000 cats", "2,000 cats"]),
    "line ends.txt": ("cat,\ntench, Tinca tinca,\ndog\n", ["cat", "tench, Tinca tinca", "dog"]),
    "one class.txt": ("tench, Tinca tinca\n", ["tench, Tinca tinca"]),
    # JSON
    "list.json": (json.dumps(["cat", "dog, hound"]), ["cat", "dog, hound"]),
    "pretty.json": (json.dumps(["cat", " dog "], indent=2), ["cat", "dog"]),
    "escapes.json": ('["caf\\u00e9", "\\ufeffdog"]', ["caf\u00e9", "dog"]),
    "index.json": (json.dumps(INDEX), INDEX_NAMES),
    "from one.json": ('{"2": "dog", "1": "cat"}', ["cat", "dog"]),
    "imagenet.json": (
        json.dumps({"1": ["n01443537", "goldfish"], "0": ["n01440764", "great_white"]}),
        ["great white", "goldfish"],
    ),
    "class to index.json": ('{"dog": 1, "cat": 0}', ["cat", "dog"]),
    "names.json": ('{"nc": 2, "names": ["cat", "dog"]}', ["cat", "dog"]),
    "names by number.json": ('{"names": {"1": "dog", "0": "cat"}}', ["cat", "dog"]),
    "list in.txt": ('["cat",\n "dog"]\n', ["cat", "dog"]),
    "index in.txt": (json.dumps(INDEX), INDEX_NAMES),
    # tables
    "one column.csv": ("label\ncat\ndog\n", ["cat", "dog"]),
    "class name.csv": ("Class_Name\r\ncat\r\n\r\ndog\r\n", ["cat", "dog"]),
    "names.csv": ("names\ncat\n", ["cat"]),
    "quoted.csv": ('"label"\n"tench, Tinca tinca"\n"a ""cat"""\n', ["tench, Tinca tinca", 'a "cat"']),
    "one column.tsv": ("name\ncat\ntench, Tinca tinca\n", ["cat", "tench, Tinca tinca"]),
    # YAML
    "data.yaml": (
        "path: ../coco\ntrain: images\nnc: 3\nnames: [cat, dog, no]\n",
        ["cat", "dog", "no"],
    ),
    "block.yml": ("names:\n  - cat\n  - 'dog: hound'\n  - 7\n", ["cat", "dog: hound", "7"]),
    "index.yaml": ("names:\n  10: bird\n  2: dog\n  0: cat\n", ["cat", "dog", "bird"]),
    "class to index.yaml": ("names:\n  dog: 1\n  cat: 0\n", ["cat", "dog"]),
    "list.yaml": ("- cat\n- yes\n", ["cat", "yes"]),
    "bare index.yaml": ("1: dog\n0: cat\n", ["cat", "dog"]),
    "yaml in.txt": ("# of the detector\nnames:\n  0: cat\n  1: dog\n", ["cat", "dog"]),
    "data.yaml in.txt": ("train: a\nnames: [cat, dog]\n", ["cat", "dog"]),
}


@pytest.mark.parametrize("case", READ)
def test_what_is_unambiguous_is_read(tmp_path, case):
    content, names = READ[case]
    path = tmp_path / case
    path.write_bytes(content.encode())
    assert read_labels(path) == names
    assert read_labels(str(path)) == names


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be"])
@pytest.mark.parametrize("case", READ)
def test_byte_order_marks_tell_the_encoding(tmp_path, case, encoding):
    mark = {
        "utf-8": codecs.BOM_UTF8,
        "utf-16-le": codecs.BOM_UTF16_LE,
        "utf-16-be": codecs.BOM_UTF16_BE,
        "utf-32-le": codecs.BOM_UTF32_LE,
        "utf-32-be": codecs.BOM_UTF32_BE,
    }[encoding]
    content, names = READ[case]
    path = tmp_path / case
    path.write_bytes(mark + content.encode(encoding))
    assert read_labels(path) == names


TABLES = {
    "first.csv": "name,id\ncat,0\ndog,1\n",
    "middle.csv": "id,name,wnid\n0,cat,n0\n1,dog,n1\n",
    "last.csv": 'id,name\n0,cat\n1,"dog"\n',
    "semicolons.csv": "id;name\n0;cat\n1;dog\n",
    "excel.csv": "sep=;\r\nid;name\r\n0;cat\r\n1;dog\r\n",
    "tabs.csv": "id\tname\n0\tcat\n1\tdog\n",
    "tabs.tsv": "id\tname\n0\tcat\n1\tdog\n",
    "mark.csv": "\ufeffname,id\ncat,0\ndog,1\n",
    "one.csv": "name\ncat\ndog\n",
}


@pytest.mark.parametrize("case", TABLES)
def test_a_column_of_a_table_is_read_by_its_name(tmp_path, case):
    path = tmp_path / case
    path.write_text(TABLES[case], encoding="utf-8")
    assert read_labels(path, column="name") == ["cat", "dog"]


def test_any_header_may_be_named(tmp_path):
    (tmp_path / "a.csv").write_text("species\ncat\n")
    assert read_labels(tmp_path / "a.csv", column="species") == ["cat"]


REFUSED = {
    # code, and what else lines come from
    "array.py": ("array(['cat', 'dog'], dtype='<U3')", "is code, or a part of it"),
    "keys.txt": ("dict_keys(['cat', 'dog'])", "is code, or a part of it"),
    "ordered.txt": ("OrderedDict([(0, 'cat'), (1, 'dog')])", "is code, or a part of it"),
    "classes.py": ("CLASSES = [\n  'cat',\n  'dog',\n]\n", "is code, or a part of it"),
    "classes.toml": ('names = ["cat", "dog"]\n', "is code, or a part of it"),
    "classes.js": ('export const names = {0: "cat"};\n', "is code, or a part of it"),
    "label map.pbtxt": ("item {\n  id: 1\n  name: 'cat'\n}\n", "is code, or a part of it"),
    "tuples.txt": ("(0, 'cat')\n(1, 'dog')\n", "is code, or a part of it"),
    "classes.ini": ("[classes]\n0=cat\n1=dog\n", "is a file of settings"),
    "table.md": ("| id | name |\n|---|---|\n| 0 | cat |\n", "is a table with bars"),
    "table.txt": ("id,name\n0,cat\n1,dog\n", "as a table does: name it .csv"),
    "header.txt": ("name\ncat\ndog\n", "begins with 'name', which may be a class or a header"),
    "yaml's key.txt": (
        "classes:\n- cat\n- dog\n",
        "begins with 'classes:', which may be a class or a header",
    ),
    "one line.txt": ("cat, dog, bird\n", "one line, with ',' in it, which may be one class or several"),
    "semicolons.txt": ("cat;dog\n", "one line, with ';' in it, which may be one class or several"),
    "numbers before.txt": ("0 cat\n1 dog\n", "has its lines numbered, such as '0 cat'"),
    "numbers behind.txt": ("airfield 1\nairport 2\n", "has its lines numbered, such as 'airfield 1'"),
    "empty.txt": ("", "names no classes; write one class name a line"),
    "comments alone.txt": ("# a\n\n#b\n", "names no classes"),
    "empty.json": ("[]", "names no classes"),
    "empty index.json": ("{}", "names no classes"),
    "empty.csv": ("", "names no classes"),
    "header alone.csv": ("label\n", "names no classes"),
    "empty.yaml": ("", "names no classes"),
    "names of nothing.yaml": ("names: []\n", "names no classes"),
    # what Python prints
    "dict.txt": ("{0: 'tench',\n 1: 'goldfish'}\n", "is a dict as Python prints it: write it with json.dump"),
    "dict.json": ("{0: 'tench', 1: 'goldfish'}\n", "is a dict as Python prints it"),
    "list.txt": ("['cat', 'dog']", "is a list as Python prints it"),
    "set.txt": ("{'cat', 'dog'}", "is a set as Python prints it"),
    "tuple.txt": ("('cat', 'dog')", "is a tuple as Python prints it"),
    "array.txt": ("['cat'\n 'dog']", "is a list as Python prints it"),
    # JSON
    "cut.json": ('["cat", "do', "is no JSON"),
    "trailing comma.txt": ('["cat", true,]', "looks like JSON and is none"),
    "lines.jsonl": ('{"name": "cat"}\n{"name": "dog"}\n', "has JSON in each line"),
    "lines.json": ('{"name": "cat"}\n{"name": "dog"}\n', "has JSON in each line"),
    "lists in lines.txt": ('["cat"]\n["dog"]\n', "has JSON in each line"),
    "text.json": ("cat\ndog\n", "is no JSON"),
    "nothing.json": ("", "names no classes"),
    "names of none.json": ('{"names": "cat"}', "in no form that is read"),
    "a string.json": ('"cat"', "in no form that is read"),
    "a number.json": ("7", "in no form that is read"),
    "nested.json": ('{"id2label": {"0": "cat"}}', "in no form that is read"),
    "records.json": ('[{"id": 0, "name": "cat"}]', "in no form that is read"),
    "lists of lists.json": ('[["cat"], ["dog"]]', "in no form that is read"),
    "by word.json": ('{"a": "cat", "b": "dog"}', "in no form that is read"),
    "half an index.json": ('{"0": "cat", "x": "dog"}', "in no form that is read"),
    "numbers to numbers.json": ('{"0": 1, "1": 0}', "is called 1, which is no text"),
    "number in a list.json": ('["cat", 7]', "is called 7, which is no text"),
    "null in a list.json": ('["cat", null]', "is called None, which is no text"),
    "true in an index.json": ('{"0": "cat", "1": true}', "is called True, which is no text"),
    "a key twice.json": ('{"0": "cat", "0": "dog"}', "has the key '0' twice"),
    "a number twice.json": ('{"0": "cat", "00": "dog"}', "two classes have the same number"),
    "a value twice.json": ('{"cat": 0, "dog": 0}', "two classes have the same number"),
    "empty name.json": ('["cat", " "]', "the name of class 1 is empty"),
    "invisible name.json": ('["\\u200b", "cat"]', "the name of class 0 is empty"),
    "deep.json": ("[" * 100_000 + "]" * 100_000, "is nested too deeply"),
    "half synsets.json": ('{"0": ["n01440764", "tench"], "1": "cat"}', "in no form that is read"),
    # parts of lists
    "inside.txt": ('"cat",\n"dog",\n"bird"\n', "has each name in quotes"),
    "inside one.txt": ("'cat',", "has each name in quotes"),
    "all quoted.txt": ('"cat"\n"dog"\n', "has each name in quotes"),
    # tables
    "columns.csv": (
        "id,name\n0,cat\n",
        "has the columns 'id', 'name': say which has the names (--label-column",
    ),
    "columns.tsv": (
        "id\tname\n0\tcat\n",
        "has the columns 'id', 'name': say which has the names (--label-column",
    ),
    "no header.csv": ("cat\ndog\n", "begins with 'cat', which may be a class or a header"),
    "comma in a name.csv": ("label\ntench, Tinca tinca\n", "line 2: 2 fields under a header of 1"),
    "open quote.csv": ('label\n"cat\n', "line 2: unexpected end of data"),
    "long.csv": ("label\n" + "x" * 20_000 + "\n", "line 2: 20000 characters under 'label' are no name"),
    "tabs.txt": ("0\tcat\n1\tdog\n", "has columns, parted by tabs"),
    # YAML
    "no names.yaml": ("train: a\nnc: 2\n", "has no names: with a list"),
    "names of one.yaml": ("names: cat\n", "line 1: classes are a list of names or their index"),
    "nested names.yaml": ("names:\n  - [cat]\n  - dog\n", "line 2: classes are a list"),
    "names by word.yaml": ("names:\n  a: cat\n", "line 2: classes are a list"),
    "records.yaml": ("- name: cat\n- name: dog\n", "line 1: classes are a list"),
    "another count.yaml": ("nc: 3\nnames: [cat, dog]\n", "says nc: 3, but names 2 classes"),
    "a number twice.yaml": ("names:\n  0: cat\n  00: dog\n", "two classes have the same number"),
    "a key twice.yaml": ("names:\n  0: cat\n  0: dog\n", "has the key '0' twice"),
    "names twice.yaml": ("names: [cat]\nnames: [dog]\n", "has the key 'names' twice"),
    "an empty name.yaml": ("names:\n  - cat\n  -\n", "the name of class 1 is empty"),
    "broken.yaml": ("names: [cat\n", "no YAML, "),
    "two documents.yaml": ("- cat\n---\n- dog\n", "no YAML, but found another document"),
    "tab.yaml": ("names:\n\t- cat\n", "line 2: no YAML"),
    "a tag.yaml": ("names: !!python/object/apply:os.getcwd []\n", "names no classes"),
    "itself.yaml": ("names: &a\n  - *a\n", "classes are a list"),
    "deep.yaml": ("[" * 5000 + "]" * 5000, "is nested too deeply"),
    # other
    "page.html": ("<!DOCTYPE html><html></html>", "is XML or HTML"),
    "page.txt": ("<?xml version='1.0'?><a/>", "is XML or HTML"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_the_rest_is_refused_in_one_line(tmp_path, case):
    content, message = REFUSED[case]
    path = tmp_path / case
    path.write_text(content, encoding="utf-8")
    with pytest.raises(ValueError) as caught:
        read_labels(path)
    told = str(caught.value)
    assert told.startswith(str(path))
    assert message in told
    assert "\n" not in told
    assert len(told) < len(str(path)) + 300


@pytest.mark.parametrize("place", range(3))
@pytest.mark.parametrize(
    ("file", "message"),
    [
        ("a.json", "is called None, which is no text"),
        ("index.json", "is called None, which is no text"),
        ("a.csv", "fields under a header of 2"),
        ("b.csv", "no name under 'name'"),
        ("a.yaml", "line"),
    ],
)
def test_a_fault_is_found_wherever_it_is(tmp_path, file, message, place):
    names = ["cat", "dog", "bird"]
    faulty = [None if i == place else name for i, name in enumerate(names)]
    content = {
        "a.json": json.dumps(faulty),
        "index.json": json.dumps(dict(enumerate(faulty))),
        "a.csv": "id,name\n"
        + "".join(f"{i},{name}\n" if name else f"{i}\n" for i, name in enumerate(faulty)),
        "b.csv": "id,name\n" + "".join(f"{i},{name or ''}\n" for i, name in enumerate(faulty)),
        "a.yaml": "names:\n" + "".join(f"  - {name or '[]'}\n" for name in faulty),
    }[file]
    (tmp_path / file).write_text(content)
    with pytest.raises(ValueError, match=message):
        read_labels(tmp_path / file, column="name" if file.endswith("csv") else None)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"caf\xe9\ndog\n", "line 1: not UTF-8 text"),
        (b"\xff\xfe\x00", "line 1: not UTF-8 text"),
        (b"PK\x03\x04\x14\0", "is an Excel workbook or another zip archive, not text"),
        (b"\xd0\xcf\x11\xe0\xa1\xb1", "is an Excel workbook or another document of Microsoft's"),
        (b"\x1f\x8b\x08\0", "is packed with gzip"),
        (b"\x89PNG\r\n\x1a\n\0\0", "line 1: not UTF-8 text"),
        ("cat\ndog\n".encode("utf-16-le"), "as UTF-16 without its mark has; save the file as UTF-8"),
        ("cat\ndog\n".encode("utf-16-be"), "as UTF-16 without its mark has; save the file as UTF-8"),
    ],
)
@pytest.mark.parametrize("file", ["a.txt", "a.json", "a.csv", "a.yaml"])
def test_what_is_no_text_is_refused(tmp_path, file, content, message):
    (tmp_path / file).write_bytes(content)
    with pytest.raises(ValueError, match=message):
        read_labels(tmp_path / file)


@pytest.mark.parametrize("file", ["a.txt", "a.json", "a.yaml"])
def test_a_column_of_what_has_none_is_refused(tmp_path, file):
    (tmp_path / file).write_text('["cat"]')
    with pytest.raises(ValueError, match="has no columns, and --label-column"):
        read_labels(tmp_path / file, column="name")


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ("id,label", "has the column 'name' not in its header: 'id', 'label'"),
        ("name,name", "'name' twice in its header"),
    ],
)
def test_a_column_that_is_not_one_is_refused(tmp_path, header, message):
    (tmp_path / "a.csv").write_text(f"{header}\n0,cat\n")
    with pytest.raises(ValueError, match=message):
        read_labels(tmp_path / "a.csv", column="name")


def test_paths_are_those_of_this_machine(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "a.txt").write_text("cat\n")
    assert read_labels("~/a.txt") == ["cat"]
    with pytest.raises(ValueError, match="is an address"):
        read_labels("s3://bucket/a.txt")
    with pytest.raises(FileNotFoundError):
        read_labels(tmp_path / "nothing.txt")
    with pytest.raises(IsADirectoryError):
        read_labels(tmp_path)


def test_an_alias_bomb_is_not_set_off(tmp_path):
    lines = ["a: &a [x, x, x, x, x, x, x, x, x]"]
    lines += [f"{chr(98 + i)}: &{chr(98 + i)} [{', '.join([f'*{chr(97 + i)}'] * 9)}]" for i in range(20)]
    (tmp_path / "a.yaml").write_text("\n".join([*lines, "names: [cat]"]))
    assert read_labels(tmp_path / "a.yaml") == ["cat"]


# --- the command line -------------------------------------------------------------------------------------------------


@pytest.fixture
def workplace(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TANL_CACHE", str(tmp_path / "cache"))
    Path("corpus.txt").write_text("granite\nviolin\ncats\ntree\n")
    return tmp_path


BANK = ["bank", "--out", "b.safetensors", "--corpus", "corpus.txt", "--labels"]


@pytest.mark.parametrize(
    ("file", "content", "more"),
    [
        ("a.json", '{"1": "dog", "0": "a cat"}', []),
        ("a.csv", "id,name\n0,a cat\n1,dog\n", ["--label-column", "name"]),
        ("a.yaml", "names: [a cat, dog]\n", []),
        ("a.txt", "\ufeffa cat\ndo\u00adg\n", []),
    ],
)
def test_the_command_reads_every_kind_and_tells_what_it_understood(workplace, capsys, file, content, more):
    import tanl

    Path(file).write_text(content, encoding="utf-8")
    assert main([*BANK, file, *more]) == 0
    bank = tanl.load_bank("b.safetensors").bank
    assert bank.id_names == ("a cat", "dog")
    assert bank.negative_names == ("granite", "violin", "tree")
    told = (
        "labels: 1 of the 4 words of corpus.txt are labels or synonyms of one; understood 'a cat' as 'cat'; "
        "no word found for 'dog'"
    )
    assert told in capsys.readouterr().out.splitlines()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([*BANK, "dict.txt"], "dict.txt is a dict as Python prints it"),
        (
            [*BANK, "columns.csv"],
            "columns.csv has the columns 'id', 'name': say which has the names (--label-column",
        ),
        ([*BANK, "columns.csv", "--label-column", "label"], "has the column 'label' not in its header"),
        ([*BANK[:-1], "--label", "cat", "--label-column", "name"], "give --labels too"),
        ([*BANK, "lines.txt", "--label", "ca\u00adt"], "'cat' and 'ca\\xadt' are the same text"),
        ([*BANK, "lines.txt", "--label", "\u200b"], "invisible characters alone"),
    ],
)
def test_the_command_refuses_in_one_line(workplace, capsys, arguments, message):
    Path("dict.txt").write_text("{0: 'tench'}")
    Path("columns.csv").write_text("id,name\n0,cat\n")
    Path("lines.txt").write_text("cat\ndog\n")
    assert main(arguments) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert message in err
    assert not Path("b.safetensors").exists()
