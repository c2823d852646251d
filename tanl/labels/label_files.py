"""Class names from files: text, JSON, CSV and TSV, YAML. What could be read in two ways is refused."""

from __future__ import annotations

import ast
import codecs
import csv
import io
import json
import re
import warnings
from collections.abc import Callable, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

import yaml

from ..io.paths import local_path
from ..io.text import some_of
from .label_lines import HEADERS, HEADERS_OF_MANY, header_of, lines_of, names_in_lines
from .names import cleaned

_SHOWN = 8
_LONGEST = 1000  # characters of a name; what is longer comes of quotes that do not end
_PLAINLY = "write one class name a line"
# The longer marks first: UTF-32's begins as UTF-16's does.
_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
# What begins as these do is no text in any encoding.
_NO_TEXT = (
    (b"PK\x03\x04", "an Excel workbook or another zip archive"),
    (b"\xd0\xcf\x11\xe0", "an Excel workbook or another document of Microsoft's"),
    (b"\x1f\x8b", "packed with gzip"),
    (b"%PDF-", "a PDF"),
)
_WNID = re.compile(r"n\d{8}")
_LIKE_JSON = re.compile(r"""["'][^"'\n]*["']\s*[:,\]}]|\d\s*:""")
_YAML_NAMES = re.compile(r"^names[ \t]*:", re.MULTILINE)


def read_labels(path: str | PathLike[str], *, column: str | None = None) -> list[str]:
    """Class names from a file, in its order, with outer spaces and what is invisible taken off.

    The ending tells the kind of file:

    - ``.json``: a list of names; or an index, ``{"0": "tench"}`` or ImageNet's ``{"0": ["n01440764", "tench"]}``,
      read in the order of its numbers; or ``{"tench": 0}``, read in the order of its values; or one of these under
      ``"names"``. In ImageNet's, underscores become spaces.
    - ``.csv``, ``.tsv``: a table with a header. One column is read if it is called ``label``, ``name``, ``class`` or
      the like, several where ``column`` says which.
    - ``.yaml``, ``.yml``: a list, or ``names:`` with a list or an index, as in the ``data.yaml`` of ultralytics. All
      values are text, so that a class may be called ``no``.
    - all else: text, a name a line; blank lines and those that start with # or // are passed over. Bullets (``- cat``)
      are taken off, and so are the numbers of an index (``0: cat``), which give the order. Text that is one of the
      above is read as that if it is whole, and refused if it is not, such as a dict that Python printed; so is what
      may be meant in two ways, such as one line with commas.

    Text is UTF-8, or UTF-16 or UTF-32 with a byte order mark.

    Args:
        path: the file.
        column: the column of a table that holds the names.

    Raises:
        ValueError: the file names no class, or can be read in no way or in two; the message names the file and says
            what to do.
        OSError: it cannot be read.
    """
    path = local_path(path)
    text = decoded(path)
    kind = path.suffix.lower()
    reader: Callable[[Path, str], list[str]] = _READERS.get(kind, _read_text)
    if kind in (".csv", ".tsv"):
        names = _read_table(path, text, column, "\t" if kind == ".tsv" else None)
    elif column is not None:
        raise ValueError(
            f"{path} has no columns, and --label-column (column=) is for CSV and TSV; leave it out"
        )
    else:
        names = reader(path, text)
    names = [cleaned(name).strip() for name in names]
    if not names:
        raise ValueError(f"{path} names no classes; {_PLAINLY}")
    if "" in names:
        raise ValueError(
            f"{path}: the name of class {names.index('')} is empty; give it one, or leave it out"
        )
    return names


def decoded(path: Path) -> str:
    """A file's text, without its byte order mark, which may tell of UTF-16 or UTF-32.

    Raises:
        ValueError: it is neither that nor UTF-8; the message names the file and the line.
        OSError: it cannot be read.
    """
    content = path.read_bytes()
    if found := next((what for head, what in _NO_TEXT if content.startswith(head)), None):
        raise ValueError(f"{path} is {found}, not text: write a text file, or save the table in it as CSV")
    mark, encoding = next((each for each in _MARKS if content.startswith(each[0])), (b"", "utf-8"))
    content = content[len(mark) :]
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError as error:
        line = content[: error.start].decode(encoding, "replace").count("\n") + 1
        raise ValueError(
            f"{path}, line {line}: not UTF-8 text (nor UTF-16 with its mark); save the file as UTF-8"
        ) from error
    if "\0" in text:
        line = text[: text.index("\0")].count("\n") + 1
        raise ValueError(
            f"{path}, line {line}: not UTF-8 text, but with NUL characters, as UTF-16 without its mark has; save the "
            "file as UTF-8"
        )
    return text


# --- text -------------------------------------------------------------------------------------------------------------


def _read_text(path: Path, text: str) -> list[str]:
    if (names := structured(path, text)) is not None:
        return names
    lines = lines_of(text)
    if not lines and text.strip():
        raise ValueError(
            f"{path} names no classes: lines that begin with # or // are passed over; {_PLAINLY}"
        )
    try:
        return names_in_lines(lines)
    except ValueError as error:
        raise ValueError(f"{path} {error}") from None


def structured(path: Path, text: str) -> list[str] | None:
    """The names in a text that is JSON or YAML, whatever the file is called; None for one with a name a line.

    Raises:
        ValueError: it is one of these and holds no names, or is made like one of them; the message names the file.
    """
    stripped = text.strip()
    if stripped[:1] + stripped[-1:] in ("[]", "{}", "()") and len(stripped) > 1:
        try:
            return _of_json(path, _parsed_json(path, stripped))
        except json.JSONDecodeError as error:
            _refuse_printed(path, stripped)
            _refuse_json_lines(path, stripped)
            # A text whose first and last lines have brackets may be lines; one with keys or quoted items is none.
            if _LIKE_JSON.search(stripped):
                raise ValueError(
                    f"{path} looks like JSON and is none: write it with json.dump, or {_PLAINLY}"
                ) from error
    if stripped.lower().startswith(("<?xml", "<!doctype", "<html")):
        raise ValueError(f"{path} is XML or HTML; {_PLAINLY}")
    if _YAML_NAMES.search(text):
        return _read_yaml(path, text)
    return None


def _refuse_json_lines(path: Path, text: str) -> None:
    """Refuse JSON lines, of which each is a list or dict of its own."""
    lines = [line for line in text.splitlines() if line.strip()]
    try:
        found = [json.loads(line) for line in lines]
    except (json.JSONDecodeError, RecursionError):
        return
    if len(found) > 1:
        raise ValueError(f"{path} has JSON in each line: write all names as one JSON list, or {_PLAINLY}")


def _refuse_printed(path: Path, text: str) -> None:
    """Refuse what Python prints: a dict, a list, a set or a tuple."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of odd escapes
        try:
            printed = ast.literal_eval(text)
        except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
            return
    if isinstance(printed, dict | list | set | tuple):
        kind = type(printed).__name__
        raise ValueError(f"{path} is a {kind} as Python prints it: write it with json.dump, or {_PLAINLY}")


# --- JSON -------------------------------------------------------------------------------------------------------------


def _read_json(path: Path, text: str) -> list[str]:
    try:
        return _of_json(path, _parsed_json(path, text))
    except json.JSONDecodeError as error:
        if not text.strip():
            return []
        if text.strip()[:1] in ("{", "["):
            _refuse_printed(path, text.strip())
        _refuse_json_lines(path, text)
        raise ValueError(
            f"{path} is no JSON ({error}): write it with json.dump, or {_PLAINLY} in a .txt"
        ) from error


def _parsed_json(path: Path, text: str) -> Any:
    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for key, value in pairs:
            if key in found:
                raise ValueError(f"{path} has the key {key!r:.80} twice; keep one of them")
            found[key] = value
        return found

    try:
        return json.loads(text, object_pairs_hook=unique)
    except RecursionError as error:
        raise ValueError(f"{path} is nested too deeply; give a JSON list of names") from error


def _of_json(path: Path, data: Any) -> list[str]:
    if isinstance(data, list):
        return _strings(path, data)
    if not isinstance(data, dict):
        raise _no_names(path)
    if isinstance(named := data.get("names"), list | dict) and named:
        return _of_json(path, named)
    if all(map(_is_number, data)):
        values = list(data.values())
        if all(map(_is_synset, values)):
            values = [value[1].replace("_", " ") for value in values]
        return _ordered(path, list(map(int, data)), _strings(path, values))
    if all(type(value) is int for value in data.values()):
        return _ordered(path, list(data.values()), list(data))
    raise _no_names(path)


def _is_synset(value: object) -> bool:
    return (
        isinstance(value, list)
        and len(value) == 2
        and all(isinstance(each, str) for each in value)
        and _WNID.fullmatch(value[0]) is not None
    )


def _is_number(key: object) -> bool:
    return isinstance(key, str) and re.fullmatch("[0-9]{1,9}", key) is not None


def _strings(path: Path, values: Sequence[Any]) -> list[str]:
    for value in values:
        if isinstance(value, dict | list):
            raise _no_names(path)
        if not isinstance(value, str):
            raise ValueError(f"{path}: a class is called {value!r:.80}, which is no text; write it in quotes")
    return list(values)


def _ordered(path: Path, numbers: Sequence[int], names: Sequence[str]) -> list[str]:
    if len(set(numbers)) < len(numbers):
        raise ValueError(f"{path}: two classes have the same number; give each its own")
    return [name for _, name in sorted(zip(numbers, names, strict=True))]


def _no_names(path: Path) -> ValueError:
    return ValueError(
        f'{path} has its names in no form that is read, such as ["cat", "dog"] or {{"0": "cat", "1": "dog"}}: write '
        f"one of these, or {_PLAINLY} in a .txt"
    )


# --- tables -----------------------------------------------------------------------------------------------------------


def _read_table(path: Path, text: str, column: str | None, delimiter: str | None) -> list[str]:
    first, _, rest = text.partition("\n")
    if found := re.fullmatch(r'"?sep=(.)"?\s*', first, re.IGNORECASE):  # Excel's
        text, delimiter = rest, found[1]
        first = text.partition("\n")[0]
    if delimiter is None:
        delimiter = next((each for each in ",;\t" if each in first), ",")
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    try:
        rows = [(reader.line_num, row) for row in reader if any(map(str.strip, row))]
    except csv.Error as error:
        raise ValueError(
            f"{path}, line {reader.line_num}: {error}; mend the table, or {_PLAINLY} in a .txt"
        ) from error
    if not rows:
        return []
    header = [cleaned(each).strip() for each in rows[0][1]]
    place = _column(path, header, column)
    for line, row in rows[1:]:
        if len(row) != len(header):
            raise ValueError(
                f"{path}, line {line}: {len(row)} fields under a header of {len(header)}; write a name with "
                f"{delimiter!r} in it in double quotes"
            )
        if len(row[place]) > _LONGEST:
            raise ValueError(
                f"{path}, line {line}: {len(row[place])} characters under {header[place]!r} are no name; mend the table"
            )
        if not cleaned(row[place]).strip():
            raise ValueError(
                f"{path}, line {line}: no name under {header[place]!r}; give one, or leave the line out"
            )
    return [row[place] for _, row in rows[1:]]


def _column(path: Path, header: list[str], column: str | None) -> int:
    told = some_of(header, _SHOWN)
    if column is None:
        if len(header) > 1:
            raise ValueError(
                f"{path} has the columns {told}: say which has the names (--label-column, column=), or keep it alone"
            )
        if header_of(header[0]) not in HEADERS | HEADERS_OF_MANY:
            raise ValueError(
                f"{path} begins with {header[0]!r:.80}, which may be a class or a header: begin it with the line "
                "label, or give that header as --label-column (column=)"
            )
        return 0
    if header.count(column) != 1:
        many = "twice" if column in header else "not"
        raise ValueError(
            f"{path} has the column {column!r:.80} {many} in its header: {told}; name another one"
        )
    return header.index(column)


# --- YAML -------------------------------------------------------------------------------------------------------------


def _read_yaml(path: Path, text: str) -> list[str]:
    # Nodes, not values: what YAML takes for a number or for no is a name here, and nothing is made of the rest.
    try:
        node = yaml.compose(text, Loader=yaml.BaseLoader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = "" if mark is None else f", line {mark.line + 1}"
        problem = getattr(error, "problem", None) or "it cannot be read"
        raise ValueError(f"{path}{where}: no YAML, {problem}; mend it, or {_PLAINLY} in a .txt") from error
    except RecursionError as error:
        raise ValueError(f"{path} is nested too deeply; give names: with a list") from error
    if node is None:
        return []
    if not isinstance(node, yaml.MappingNode):
        return _of_yaml(path, node)
    fields = _fields(path, node)
    if "names" not in fields:
        if all(map(_is_number, fields)):
            return _of_yaml(path, node)
        raise ValueError(f"{path} has no names: with a list of classes; give it one, or {_PLAINLY} in a .txt")
    names = _of_yaml(path, fields["names"])
    count = fields.get("nc")
    if count is not None and count.value != str(len(names)):
        raise ValueError(
            f"{path} says nc: {count.value!s:.20}, but names {len(names)} classes; mend one of them"
        )
    return names


def _of_yaml(path: Path, node: yaml.Node) -> list[str]:
    if isinstance(node, yaml.SequenceNode):
        return [_scalar(path, each) for each in node.value]
    if isinstance(node, yaml.MappingNode) and all(map(_is_number, fields := _fields(path, node))):
        return _ordered(path, list(map(int, fields)), [_scalar(path, each) for each in fields.values()])
    if isinstance(node, yaml.MappingNode) and node.value:
        numbers = [each.value for each in fields.values()]
        if all(map(_is_number, numbers)):
            return _ordered(path, list(map(int, numbers)), list(fields))
    raise _no_yaml_names(path, node)


def _fields(path: Path, node: yaml.MappingNode) -> dict[str, yaml.Node]:
    found: dict[str, yaml.Node] = {}
    for key, value in node.value:
        name = _scalar(path, key)
        if name in found:
            raise ValueError(f"{path} has the key {name!r:.80} twice; keep one of them")
        found[name] = value
    return found


def _scalar(path: Path, node: yaml.Node) -> str:
    if not isinstance(node, yaml.ScalarNode):
        raise _no_yaml_names(path, node)
    text: str = node.value
    return text


def _no_yaml_names(path: Path, node: yaml.Node) -> ValueError:
    return ValueError(
        f"{path}, line {node.start_mark.line + 1}: classes are a list of names or their index, such as 0: cat; write "
        "one of these"
    )


_READERS: dict[str, Callable[[Path, str], list[str]]] = {
    ".json": _read_json,
    ".yaml": _read_yaml,
    ".yml": _read_yaml,
}
