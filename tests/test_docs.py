"""What the documents say is there: the example runs, the commands parse, the tests that are named exist."""

import re
import shlex
from pathlib import Path

import pytest
from colour_backbone import ColourBackbone

import tanl
from tanl.cli.main import _parser, spelled_out

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_readme_example_runs(monkeypatch, tmp_path, capsys):
    """With a stand-in for the model: the real one takes a minute to embed WordNet."""
    monkeypatch.setenv("TANL_CACHE", str(tmp_path))
    monkeypatch.setattr(tanl, "load_backbone", lambda name: ColourBackbone())
    (example,) = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    exec(compile(example, "README.md", "exec"), {})
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) > 50
    assert all(re.match(r"\S+\.webp (ID|OOD) \d\.\d{3} (mammal|bird|reptile|bug) ", line) for line in lines)


def commands():
    for text in (README, (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")):
        for block in re.findall(r"```sh\n(.*?)```", text, flags=re.DOTALL):
            yield from (line for line in block.splitlines() if line.startswith("tanl "))


@pytest.mark.parametrize("command", list(commands()))
def test_command_in_the_documents_parses(command):
    arguments = spelled_out(shlex.split(command, comments=True)[1:])
    assert callable(_parser(arguments).parse_args(arguments).run)


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
    for document in (*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")):
        for target in re.findall(r"\]\(([^)#:]+)\)", document.read_text(encoding="utf-8")):
            assert (document.parent / target).exists(), f"{document.name}: {target}"
