"""The notebooks of the documentation run from top to bottom, in a kernel of their own, with what comes with tanl."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

import pytest

nbclient = pytest.importorskip("nbclient", reason="needs nbclient and ipykernel: pip install 'tanl[test]'")
pytest.importorskip("ipykernel", reason="needs nbclient and ipykernel: pip install 'tanl[test]'")
pytest.importorskip("pandas", reason="needs pandas: pip install 'tanl[pandas]'")
nbformat = pytest.importorskip("nbformat")

FOLDER = Path(__file__).parents[1] / "docs" / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))


def outputs(notebook) -> str:
    """What the cells print and show, as text."""
    parts = []
    for cell in notebook.cells:
        for output in cell.get("outputs", ()):
            parts.append(output.get("text") or output.get("data", {}).get("text/plain", ""))
    return "\n".join(parts)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Both notebooks embed the same words: once is enough."""
    return tmp_path_factory.mktemp("cache")


def executed(name: str, folder: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("PATH", os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, sys.path)))  # the same packages as here
    monkeypatch.setenv("TANL_CACHE", str(cache))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    notebook = nbformat.read(FOLDER / name, as_version=4)
    client = nbclient.NotebookClient(
        notebook, timeout=600, kernel_name="python3", resources={"metadata": {"path": str(folder)}}
    )
    return outputs(client.execute())


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_are_kept_without_outputs(path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    assert outputs(notebook) == ""
    assert all(cell.execution_count is None for cell in notebook.cells if cell.cell_type == "code")


def test_the_first_ten_minutes(tmp_path, cache, monkeypatch):
    text = executed("ten-minutes.ipynb", tmp_path, cache, monkeypatch)
    assert "53 animals, 39 tools, 81 buildings" in text
    found = dict(re.findall(r"^(\w+) +(\d+ of \d+) flagged$", text, flags=re.MULTILINE))
    assert {name: each.split()[-1] for name, each in found.items()} == {
        "animals": "12",
        "fish": "14",
        "tools": "39",
        "buildings": "81",
    }
    flagged = {name: int(each.split()[0]) for name, each in found.items()}
    assert flagged["tools"] + flagged["buildings"] > 60
    assert flagged["animals"] + flagged["fish"] < 6
    assert "threshold 0." in text
    assert "Guard(tanl, 24 ID labels, 9972 negatives, backbone 'mini-photo') ()" in text
    assert (tmp_path / "guard").is_dir()


def test_the_audit_of_a_folder(tmp_path, cache, monkeypatch):
    text = executed("audit-a-folder.ipynb", tmp_path, cache, monkeypatch)
    assert "broken.jpg" in text
    assert "; 1 unreadable" in text
    assert "flagged images copied to flagged" in text
    assert (tmp_path / "report.html").is_file()
    assert any((tmp_path / "flagged").iterdir())
