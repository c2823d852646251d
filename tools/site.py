"""What the documentation site is made of besides docs/: the commands' own help, and pages that lie beside the code.

mkdocs calls these functions (``hooks`` in mkdocs.yml).
"""

from __future__ import annotations

import io
import json
import posixpath
import re
from collections.abc import Sequence
from contextlib import redirect_stdout, suppress
from pathlib import Path

from latex2mathml.converter import convert
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

from tanl.cli.main import command_names, command_parser

ROOT = Path(__file__).parents[1]
_COMMANDS_PAGE = "commands.md"
_CODE_OR_FORMULA = re.compile(
    r"(?P<code>^```.*?^```|`[^`\n]+`)|\$\$(?P<block>.+?)\$\$|(?<![\w$])\$(?P<inline>[^$\n]+)\$(?!\w)",
    flags=re.DOTALL | re.MULTILINE,
)
BESIDE_THE_CODE = {
    "tanl/backbones/mini/MODEL_CARD.md": "cards/mini.md",
    "tanl/backbones/mini_photo/MODEL_CARD.md": "cards/mini-photo.md",
    "benchmarks/results/pictograms/README.md": "results/pictograms.md",
    "benchmarks/results/ablation/README.md": "results/ablation.md",
    "benchmarks/results/photographs/README.md": "results/photographs.md",
    "benchmarks/results/parts/README.md": "results/parts.md",
    "corpora/README.md": "corpora/words.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
}
"""Pages that lie beside what they describe, and where the site has them."""
NOTEBOOKS = {path.stem: path for path in sorted((ROOT / "docs" / "notebooks").glob("*.ipynb"))}
"""Notebooks: each is a page too, with a link to its file."""


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that are made, and those that lie elsewhere."""
    files.append(File.generated(config, _COMMANDS_PAGE, content=commands_page()))
    for source, target in BESIDE_THE_CODE.items():
        files.append(
            File.generated(config, target, content=_without_links((ROOT / source).read_text("utf-8")))
        )
    for name, path in NOTEBOOKS.items():
        files.append(File.generated(config, f"notebooks/{name}.md", content=notebook_page(path)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Let links that leave docs/ for pages beside the code lead to where the site has these."""
    here = posixpath.dirname(page.file.src_uri)

    def elsewhere(link: re.Match[str]) -> str:
        path = posixpath.normpath(posixpath.join("docs", here, link[1]))
        return (
            f"]({posixpath.relpath(BESIDE_THE_CODE[path], here or '.')})"
            if path in BESIDE_THE_CODE
            else link[0]
        )

    return _with_formulas(re.sub(r"\]\(([^):#]+\.md)\)", elsewhere, markdown))


def _with_formulas(markdown: str) -> str:
    """LaTeX between dollar signs as MathML, which browsers draw without a script; code stays as it is."""

    def drawn(found: re.Match[str]) -> str:
        if found["code"]:
            return found["code"]
        if found["block"]:
            return f'<div class="formula">{convert(found["block"], display="block")}</div>'
        # Inside a span, since a line that begins with another element is a paragraph of its own.
        return f"<span>{convert(found['inline'])}</span>"

    return _CODE_OR_FORMULA.sub(drawn, markdown)


def notebook_page(path: Path) -> str:
    """A notebook's cells as a page; it is kept without outputs."""
    title, *rest = (
        ("".join(cell["source"]), cell["cell_type"] == "code")
        for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]
    )
    parts = [title[0], f"This page is [a notebook]({path.name}): download it, and run it."]
    for text, is_code in rest:
        kind = "sh" if text.startswith("!") else "py"
        parts.append(f"```{kind}\n{text}\n```" if is_code else text)
    others = [name for name in NOTEBOOKS if name != path.stem]
    page = "\n\n".join(parts)
    for name in others:  # a link to another notebook leads to its page
        page = page.replace(f"]({name}.ipynb)", f"]({name}.md)")
    return page


def commands_page() -> str:
    """Every command with its help, as it is on a terminal."""
    parts = [
        "# Commands\n\nEach command's own help. It is made from the program, so it is that of this version.\n"
    ]
    for words in command_names():
        parts.append(f"## `{' '.join(('tanl', *words))}`\n\n```text\n{_help(words)}\n```\n")
    return "\n".join(parts)


def _help(words: Sequence[str]) -> str:
    shown = io.StringIO()
    with redirect_stdout(shown), suppress(SystemExit):
        command_parser(words).parse_args([*words, "--help"])
    return shown.getvalue().rstrip()


def _without_links(text: str) -> str:
    """The page without links into the repository, which the site does not hold."""
    return re.sub(r"\[([^\]]+)\]\((?!https?:|#)[^)]+\)", r"\1", text)
