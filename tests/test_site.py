"""The documentation site: it builds without a warning, holds every public name, and loads nothing from elsewhere."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import tanl
from tanl.cli.main import command_names

pytest.importorskip("material", reason='needs mkdocs-material: pip install "tanl[docs]"')
from tools.site import BESIDE_THE_CODE, NOTEBOOKS, commands_page, on_page_markdown

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    target = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(target)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return target


def test_every_page_is_in_the_site(site):
    pages = {path.relative_to(ROOT / "docs").as_posix() for path in (ROOT / "docs").rglob("*.md")}
    pages |= {*BESIDE_THE_CODE.values(), "commands.md", *(f"notebooks/{name}.md" for name in NOTEBOOKS)}
    assert len(pages) > 15
    absent = [page for page in pages if not (site / page.removesuffix(".md") / "index.html").exists()]
    assert absent == ["index.md"] and (site / "index.html").exists()
    navigation = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    assert [page for page in sorted(pages) if f" {page}\n" not in navigation] == []


def test_every_public_name_is_in_the_reference(site):
    text = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "docs" / "reference").glob("*.md"))
    assert [name for name in tanl.__all__ if f"::: tanl.{name}\n" not in f"{text}\n"] == ["__version__"]


def test_nothing_is_loaded_from_elsewhere(site):
    for page in site.rglob("*.html"):
        loaded = re.findall(
            r'<(?:script|img|iframe)[^>]*?\ssrc="([^"]+)"|<link[^>]*?rel="(?:stylesheet|preconnect)"[^>]*?href="([^"]+)"',
            page.read_text(encoding="utf-8"),
        )
        assert not [each for pair in loaded for each in pair if each.startswith(("http", "//"))], page


def test_formulas_are_drawn_and_code_stays(site):
    text = (site / "method" / "index.html").read_text(encoding="utf-8")
    assert text.count("<math") > 20
    assert "$" not in re.sub(r"<(script|code|math)\b.*?</\1>", "", text, flags=re.DOTALL)


def test_dollars_in_code_are_no_formula():
    class Here:
        class file:  # noqa: N801, as mkdocs calls it
            src_uri = "page.md"

    text = "`a$b$c`, costs $5\n```sh\necho $HOME $PATH\n```\n"
    assert on_page_markdown(text, Here, None, None) == text
    assert "<math" in on_page_markdown("with $x$.", Here, None, None)


def test_the_page_of_commands_has_each_with_its_help():
    page = commands_page()
    for words in command_names():
        assert f"## `{' '.join(('tanl', *words))}`" in page
    assert page.count("--help") >= len(command_names())


def test_notebooks_are_pages_with_their_code_and_their_file(site):
    assert NOTEBOOKS
    for name in NOTEBOOKS:
        text = (site / "notebooks" / name / "index.html").read_text(encoding="utf-8")
        assert (site / "notebooks" / f"{name}.ipynb").is_file()
        assert f'href="../{name}.ipynb"' in text
        assert "<h1" in text and 'class="highlight' in text
