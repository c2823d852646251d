"""Looks through the wheel and the source archive, then uses the wheel in an environment of its own.

    python -m build && python -m tools.check_package dist

The wheel must hold what the library needs when it runs, and nothing that only its makers need.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tarfile
import tempfile
import venv
import zipfile
from collections.abc import Collection
from pathlib import Path

from tanl.io.arguments import a_path

WANTED = (
    "tanl/__init__.py",
    "tanl/py.typed",
    "tanl/cli/main.py",
    "tanl/report/assets/page.html.jinja",
    "tanl/serve/assets/drop.html",
    "tanl/serve/assets/drop.js",
    "tanl/serve/assets/head.html",
    "tanl/serve/assets/page.css",
    "tanl/backbones/mini/open_clip_model.safetensors",
    "tanl/backbones/mini_photo/open_clip_config.json",
    "tanl/backbones/mini_photo/open_clip_model.safetensors",
    "tanl/backbones/mini_photo/MODEL_CARD.md",
    "tanl/kernels/native/fused.cpp",
    "tanl/corpora/wordnet.tsv.gz",
    "tanl/corpora/neglabel.tsv.gz",
    "tanl/corpora/WORDNET_LICENSE.txt",
    "tanl/corpora/WORDNET31_LICENSE.txt",
    "tanl/benchmarks/run.py",
    "tanl/benchmarks/output/report_assets/charts.jinja",
    "tanl/benchmarks/output/report_assets/page.html.jinja",
    "tanl/benchmarks/output/report_assets/script.js",
    "tanl/benchmarks/output/report_assets/style.css",
    "tanl/benchmarks/photographs/images/animals/cat-1.jpg",
    "tanl/benchmarks/photographs/manifest.csv",
    "tanl/benchmarks/photographs/LICENSES.md",
    "tanl/benchmarks/pictograms/manifest.csv",
    "tanl/benchmarks/pictograms/packed.zip",
    "tanl/benchmarks/pictograms/LICENSES.md",
)
UNWANTED = (
    r"^(?!tanl/|tanl-[^/]*\.dist-info/)|(^|/)(tests?|docs)/|^tanl/tools/|(^|/)(test_|conftest)|\.py[co]$"
    r"|^tanl/benchmarks/pictograms/images/"  # they are in the archive
)
SOURCES = (
    "Makefile",
    "setup.py",
    "pyproject.toml",
    "MANIFEST.in",
    "tanl/kernels/native/fused.cpp",
    "tanl/kernels/native/variant.inc",
    "tanl/backbones/mini_photo/open_clip_model.safetensors",
    "benchmarks/run.py",
    "benchmarks/photographs/manifest.csv",
    "corpora/wordnet.tsv.gz",
    "docs/index.md",
    "mkdocs.yml",
)
"""What a wheel and `make demo` are made from, and the documentation: all of it must be in the source archive."""

USE = """
import tanl, tanl.benchmarks, tanl.corpora
from tanl.kernels import available
missing = [name for name in tanl.__all__ if getattr(tanl, name, None) is None]
assert not missing, missing
assert "site-packages" in tanl.__file__, tanl.__file__
print(tanl.__version__, *available())
"""


def faults_of_wheel(names: Collection[str]) -> list[str]:
    """What is wrong with a wheel that holds files of these names."""
    faults = [f"it lacks {name}" for name in WANTED if name not in names]
    return faults + [f"it has {name}" for name in sorted(names) if re.search(UNWANTED, name)]


def faults_of_archive(names: Collection[str]) -> list[str]:
    """What is wrong with a source archive that holds files of these names, below its one folder."""
    return [f"it lacks {name}" for name in SOURCES if name not in names]


def faults_of_demo(folder: Path) -> list[str]:
    """Why ``make demo``, which the README names, cannot begin in a folder; nothing is run."""
    done = subprocess.run(["make", "-n", "demo"], cwd=folder, capture_output=True, text=True)
    return [f"make demo: {done.stderr.strip()}"] if done.returncode else []


def main() -> int:
    """Check the one wheel and the one source archive of a folder; the exit code tells."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=a_path, help="where `python -m build` put both")
    folder: Path = parser.parse_args().folder
    (wheel,), (archive,) = folder.glob("*.whl"), folder.glob("*.tar.gz")
    with zipfile.ZipFile(wheel) as opened:
        names = opened.namelist()
    with tarfile.open(archive) as listed:
        sources = [name.partition("/")[2] for name in listed.getnames()]
    with tempfile.TemporaryDirectory(prefix="tanl-archive-") as scratch:
        with tarfile.open(archive) as packed:
            packed.extractall(scratch, filter="data")
        (unpacked,) = Path(scratch).iterdir()
        without_demo = faults_of_demo(unpacked)
    faults = [f"{wheel.name}: {fault}" for fault in faults_of_wheel(names)]
    faults += [f"{archive.name}: {fault}" for fault in faults_of_archive(sources) + without_demo]
    if not re.fullmatch(r"tanl-[^-]+-py3-none-\w+\.whl", wheel.name):
        faults.append(f"{wheel.name}: the name ties it to one release of Python")
    print(f"{wheel.name}: {len(names)} files, {wheel.stat().st_size / 1e6:.1f} MB")
    print(f"{archive.name}: {len(sources)} entries, {archive.stat().st_size / 1e6:.1f} MB")
    print(*faults, sep="\n", end="\n" if faults else "")
    if not faults:
        use(wheel)
    return 1 if faults else 0


def use(wheel: Path) -> None:
    """Install the wheel where nothing else is, and judge with it, away from the checkout."""
    with tempfile.TemporaryDirectory(prefix="tanl-package-") as scratch:
        venv.create(Path(scratch) / "venv", with_pip=True)
        binaries = Path(scratch) / "venv" / ("Scripts" if sys.platform == "win32" else "bin")
        constraints = Path(__file__).with_name("constraints.txt")

        def run(program: str, *arguments: str) -> str:
            command = [str(binaries / program), *arguments]
            done = subprocess.run(
                command,
                cwd=scratch,
                env={**os.environ, "TANL_CACHE": str(Path(scratch) / "cache")},
                stdout=subprocess.PIPE,
                text=True,
                check=True,
            )
            return done.stdout

        run(
            "python",
            "-m",
            "pip",
            "install",
            "--quiet",
            "--constraint",
            str(constraints),
            str(wheel.resolve()),
        )
        print(run("tanl", "--version").strip())
        print(run("python", "-c", USE).strip())
        pictograms = run(
            "python",
            "-c",
            "from tanl.benchmarks.engine.shipped import SHIPPED; print(SHIPPED['pictograms'].folder)",
        ).strip()
        images = [str(path) for path in sorted(Path(pictograms).rglob("*.webp"))[::500]]
        (Path(scratch) / "words.txt").write_text("spider web\nbasketball\nteapot\n", encoding="utf-8")
        judged = run(
            *("tanl", "judge", *images, "--backbone", "mini", "--label", "mammal", "--label", "bird"),
            *("--corpus", "words.txt", "--out", "results.csv", "--quiet"),
        )
        rows = (Path(scratch) / "results.csv").read_text(encoding="utf-8").splitlines()
        if len(rows) != len(images) + 1:
            raise SystemExit(f"{len(rows)} lines of results for {len(images)} images: {judged}")
        print(f"{len(images)} images judged")


if __name__ == "__main__":
    sys.exit(main())
