"""What the documents say is there: the example runs, the commands parse, the tests that are named exist."""

import argparse
import importlib.util
import re
import shlex
from collections.abc import Callable, Iterator
from itertools import takewhile
from pathlib import Path

import pytest
from colour_backbone import ColourBackbone

import tanl
from tanl.cli.main import command_parser, spelled_out
from tools.__main__ import parsed

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_readme_example_runs(monkeypatch, tmp_path, capsys):
    """With a stand-in for the model: the real one takes a minute to embed WordNet."""
    monkeypatch.setenv("TANL_CACHE", str(tmp_path))
    monkeypatch.setattr(tanl, "load_backbone", lambda name: ColourBackbone())
    (example,) = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    exec(compile(example, "README.md", "exec"), {})
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["fish", "tools", "buildings"]
    assert all(re.match(r"\w+ \d+ of \d+ flagged; (ID|OOD) \(\d\.\d{3}\)", line) for line in lines)


# Every page of the repository, not those of installed packages beside it.
PAGES = {
    str(path.relative_to(ROOT)): path.read_text(encoding="utf-8")
    for path in sorted(ROOT.rglob("*.md"))
    if not {".venv", ".venv-oldest", "node_modules", "build", "dist"} & {*path.relative_to(ROOT).parts}
}
SOURCES = {
    str(path.relative_to(ROOT)): path.read_text(encoding="utf-8")
    for folder in ("tanl", "benchmarks", "corpora", "tools", "tests")
    for path in sorted((ROOT / folder).rglob("*.py"))
}
FOLDERS = "tanl|benchmarks|corpora|tools|tests|docs"


def in_backticks(text: str) -> Iterator[str]:
    text = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    yield from (" ".join(code.split()) for code in re.findall(r"`([^`]+)`", text))


def in_blocks(text: str) -> Iterator[str]:
    for block in re.findall(r"```sh\n(.*?)```", text, flags=re.DOTALL):
        yield from block.replace("\\\n", " ").splitlines()


def read_tanl(words: list[str]) -> argparse.Namespace:
    arguments = spelled_out(words)
    return command_parser(arguments).parse_args(arguments)


PROGRAMS = {"tanl ": read_tanl, "python -m tools ": parsed}


def shown_commands(within: Callable[[str], Iterator[str]]) -> list[str]:
    lines = {line.strip() for text in PAGES.values() for line in within(text)}
    return sorted(line for line in lines if line.startswith(tuple(PROGRAMS)))


@pytest.mark.parametrize("command", shown_commands(in_blocks))
def test_command_in_the_documents_parses(command):
    program = next(each for each in PROGRAMS if command.startswith(each))
    words = shlex.split(command.removeprefix(program), comments=True)
    assert callable(PROGRAMS[program](words).run)


@pytest.mark.parametrize("command", shown_commands(in_backticks))
def test_command_within_a_sentence_has_a_help_that_tells_its_options(command, capsys):
    program = next(each for each in PROGRAMS if command.startswith(each))
    words = shlex.split(command.removeprefix(program))
    names = [*takewhile(lambda word: not word.startswith("-"), words)]
    with pytest.raises(SystemExit) as stop:
        PROGRAMS[program]([*names, "--help"])
    assert stop.value.code == 0
    told = capsys.readouterr().out
    assert all(word in told for word in words if word.startswith("--"))


def test_scripts_that_the_pages_and_make_run_are_there():
    run = {
        line.split()[2]
        for text in PAGES.values()
        for line in (*in_blocks(text), *in_backticks(text))
        if line.startswith("python -m tools.")
    }
    run |= {*re.findall(r"-m (tools[\w.]*)", (ROOT / "Makefile").read_text(encoding="utf-8"))}
    assert len(run) > 2
    assert {name for name in run if importlib.util.find_spec(name) is None} == set()


def test_targets_of_make_that_the_pages_name_are_there():
    targets = re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.MULTILINE)
    named = {
        target
        for text in PAGES.values()
        for line in (*in_blocks(text), *in_backticks(text))
        if line.startswith("make ")
        for target in line.partition("#")[0].split()[1:]
    }
    assert {"test", "demo"} <= named <= {*targets}


def paths_named(text: str) -> set[str]:
    return {*re.findall(rf"`((?:{FOLDERS})/[\w./-]*)`", text)}


def test_files_that_the_pages_name_are_there():
    """By their path from the top, or by their name alone if they lie beside the page or among the tests."""
    files = [(page, path) for page, text in PAGES.items() for path in sorted(paths_named(text))]
    assert len(files) > 20
    assert [(page, path) for page, path in files if not (ROOT / path).exists()] == []
    sources = [
        (page, code)
        for page, text in PAGES.items()
        for code in in_backticks(text)
        if re.fullmatch(r"\w+\.(?:py|sh|cpp|inc)", code)
    ]
    absent = [
        (page, code)
        for page, code in sources
        if not any((folder / code).exists() for folder in ((ROOT / page).parent, ROOT / "tests"))
    ]
    assert absent == []


def test_files_that_the_sources_name_are_there():
    files = [(page, path) for page, text in SOURCES.items() for path in sorted(paths_named(text))]
    assert [(page, path) for page, path in files if not (ROOT / path).exists()] == []


def resolves(name: str) -> bool:
    """Whether a dotted name is a module, or something that can be reached from one."""
    parts = name.split(".")
    for end in range(len(parts), 0, -1):
        try:
            found: object = importlib.import_module(".".join(parts[:end]))
        except ModuleNotFoundError as error:
            if error.name is None or not name.startswith(error.name):
                raise
            continue
        for part in parts[end:]:
            if not hasattr(found, part):
                return False
            found = getattr(found, part)
        return True
    return False


def test_dotted_names_resolve_or_not():
    assert all(map(resolves, ("tanl", "tanl.Guard.stream", "tanl.detectors.tanl", "tanl.io.text.one_line")))
    assert not any(map(resolves, ("tanl.guards", "tanl.Guard.streams", "tanl.io.text.two_lines", "tanle.io")))


def test_dotted_names_in_pages_and_docstrings_lead_somewhere():
    named = {
        (page, name)
        for page, text in (PAGES | SOURCES).items()
        for name in re.findall(r"`(tanl(?:\.\w+)+)", text)
    }
    assert len(named) > 50
    assert sorted((page, name) for page, name in named if not resolves(name)) == []


def test_bad_input_names_tests_that_exist():
    sources = {path.name: path.read_text(encoding="utf-8") for path in ROOT.glob("tests/test_*.py")}
    named = re.findall(r"`(test_\w+(?:\.py)?)`", (ROOT / "docs" / "bad-input.md").read_text(encoding="utf-8"))
    assert len(named) > 40
    for name in named:
        found = (
            name in sources
            if name.endswith(".py")
            else any(f"def {name}(" in text for text in sources.values())
        )
        assert found, name


def test_links_inside_the_repository_lead_somewhere():
    for page, text in PAGES.items():
        for target in re.findall(r"\]\(([^)#:]+)\)", text):
            assert ((ROOT / page).parent / target).exists(), f"{page}: {target}"
