"""What a user meets first: a cheap import, the public names, typing."""

import re
import runpy
import shutil
import subprocess
import sys
from importlib import metadata, resources
from pathlib import Path

import pytest

import tanl
from tools.check_package import SOURCES, WANTED, faults_of_archive, faults_of_demo, faults_of_wheel

ROOT = Path(__file__).parents[1]


def text(name):
    return (ROOT / name).read_text(encoding="utf-8")


def test_import_loads_nothing_heavy():
    code = (
        "import sys, tanl, tanl.labels.corpus, tanl.cli\n"
        "print([m for m in ('torch', 'open_clip', 'numpy', 'PIL') if m in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_every_public_name_is_there_and_documented():
    for name in tanl.__all__:
        value = getattr(tanl, name)
        assert name == "__version__" or value.__doc__, name
        assert name in dir(tanl)
    assert not hasattr(tanl, "no_such_name")


def test_version_is_the_installed_one():
    assert tanl.__version__ == metadata.version("tanl")


def test_version_is_written_once_and_cited():
    (version,) = re.findall(r'^version = "(.+)"$', text("pyproject.toml"), flags=re.MULTILINE)
    assert re.findall(r"^version: (.+)$", text("CITATION.cff"), flags=re.MULTILINE) == [version]
    assert f"## {version} " in text("CHANGELOG.md")
    assert metadata.version("tanl") == version


def test_the_paper_is_cited():
    assert "2603.25250" in text("CITATION.cff")


def test_every_pinned_tool_is_within_the_range_of_its_extra():
    """The constraints hold what the metadata asks for: pip would find no solution otherwise."""
    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    asked = [Requirement(line) for line in metadata.requires("tanl")]
    lines = [line for line in text("tools/constraints.txt").splitlines() if not line.startswith("#")]
    pinned = [Requirement(line) for line in lines]
    assert {canonicalize_name(each.name) for each in pinned} >= {
        "mypy",
        "ruff",
        "numpy",
        "torch",
        "types-tqdm",
    }
    for pin in pinned:
        (only,) = pin.specifier
        assert only.operator == "==", str(pin)
        for each in asked:
            if canonicalize_name(each.name) == canonicalize_name(pin.name):
                assert each.specifier.contains(only.version), f"{pin} against {each}"


@pytest.mark.parametrize(("tool", "entry"), [("ruff", "ruff"), ("mypy", "python -m tools.check_types")])
def test_commit_hooks_run_the_environments_own_tools(tool, entry):
    assert f"entry: .venv/bin/{entry}" in text(".pre-commit-config.yaml")
    assert f"$(BIN)/{entry}" in text("Makefile")
    assert re.search(rf'"{tool}==[\d.]+"', text("pyproject.toml"))


def test_a_wheel_holds_what_runs_and_nothing_else():
    whole = [*WANTED, "tanl-0.1.0.dist-info/METADATA", "tanl-0.1.0.dist-info/licenses/LICENSE"]
    assert faults_of_wheel(whole) == []
    for name in WANTED:
        assert faults_of_wheel([other for other in whole if other != name]) == [f"it lacks {name}"]
    for name in (
        *("tools/fuzz.py", "tests/test_cli.py", "tanl/tests/test_cli.py", "benchmarks/run.py", "setup.py"),
        *("tanl/conftest.py", "tanl/__pycache__/cli.pyc", "docs/method.md", "tanl/tools/mini/train.py"),
        "tanl/benchmarks/pictograms/images/noto/1f600.webp",
    ):
        assert faults_of_wheel([*whole, name]) == [f"it has {name}"]


def test_a_source_archive_holds_what_a_wheel_is_made_from():
    assert faults_of_archive(SOURCES) == []
    assert faults_of_archive(SOURCES[1:]) == [f"it lacks {SOURCES[0]}"]
    for name in SOURCES:
        assert (ROOT / name).is_file()


@pytest.fixture(scope="module")
def archived(tmp_path_factory):
    """The names of the files that setuptools puts into a source archive, without making one."""
    folder = tmp_path_factory.mktemp("egg")
    command = [sys.executable, "setup.py", "-q", "egg_info", "--egg-base", str(folder)]
    told = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert told.returncode == 0, told.stderr
    return (folder / "tanl.egg-info" / "SOURCES.txt").read_text(encoding="utf-8").splitlines()


def test_the_source_archive_has_all_and_make_demo_finds_what_it_needs_in_it(archived, tmp_path):
    assert faults_of_archive(archived) == []
    for name in archived:
        if name.startswith(("Makefile", "setup.py", "pyproject.toml", "MANIFEST.in", "tanl/kernels/native/")):
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, tmp_path / name)
    assert faults_of_demo(tmp_path) == []
    (tmp_path / "setup.py").unlink()
    (fault,) = faults_of_demo(tmp_path)
    assert "No rule to make target 'setup.py'" in fault
    (tmp_path / "Makefile").unlink()
    (fault,) = faults_of_demo(tmp_path)
    assert "No rule to make target 'demo'" in fault


def test_package_is_typed_and_carries_its_data():
    assert resources.files("tanl").joinpath("py.typed").is_file()
    for name in ("wordnet.tsv.gz", "WORDNET_LICENSE.txt", "neglabel.tsv.gz", "WORDNET31_LICENSE.txt"):
        assert resources.files("tanl.corpora").joinpath(name).is_file()


# --- the description that a package index shows ----------------------------------------------------------------------


@pytest.fixture(scope="module")
def for_an_index():
    return runpy.run_path(str(ROOT / "setup.py"), run_name="read")["for_an_index"]


def test_links_within_the_repository_become_paths_where_it_has_no_address(for_an_index):
    readme = (
        "![A run](docs/run.png)\n[How](docs/how.md#why), [LICENSE](LICENSE), [a paper](https://arxiv.org/abs/1), "
        "[here](#top)"
    )
    assert for_an_index(readme, None) == (
        "\nHow (`docs/how.md#why`), LICENSE, [a paper](https://arxiv.org/abs/1), [here](#top)\n"
        "The paths above are those of the source archive.\n"
    )


def test_links_within_the_repository_lead_to_its_address(for_an_index):
    readme = "![A run](docs/run.png) [How](docs/how.md#why), [a paper](https://arxiv.org/abs/1)"
    assert for_an_index(readme, "https://example.org/tanl") == (
        "![A run](https://example.org/tanl/raw/HEAD/docs/run.png) "
        "[How](https://example.org/tanl/blob/HEAD/docs/how.md#why), [a paper](https://arxiv.org/abs/1)"
    )


def test_the_readme_has_no_link_that_leads_nowhere(for_an_index):
    """Neither in the repository, where links are paths, nor on an index, where only addresses and headings are."""
    readme = text("README.md")
    paths = [link for link in re.findall(r"\]\(([^)]+)\)", readme) if not link.startswith(("https:", "#"))]
    assert len(paths) > 10
    assert [path for path in paths if not (ROOT / path.partition("#")[0]).exists()] == []
    for source in (None, "https://example.org/tanl"):
        shown = for_an_index(readme, source)
        assert [
            link for link in re.findall(r"\]\(([^)]+)\)", shown) if not link.startswith(("https:", "#"))
        ] == []
