"""``python -m tools.check_types``: mypy over the packages as they are installed.

`tanl.benchmarks` and `tanl.corpora` lie outside of ``tanl/`` in the repository, where mypy does not find them under
these names and takes all imports of them for ``Any``. So it reads a tree of links in which they have their place.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def main(argv: list[str] | None = None) -> int:
    """Run mypy with further options; gives its exit code."""
    tree = ROOT / ".mypy_cache" / "tree"
    shutil.rmtree(tree, ignore_errors=True)
    (tree / "tanl").mkdir(parents=True)
    outside = [ROOT / "benchmarks", ROOT / "corpora"]
    for path in [*(ROOT / "tanl").iterdir(), *outside]:
        (tree / "tanl" / path.name).symlink_to(path)
    for name in ("tools", "tests", "pyproject.toml"):
        (tree / name).symlink_to(ROOT / name)
    given = sys.argv[1:] if argv is None else argv
    cache = ["--cache-dir", str(ROOT / ".mypy_cache")]
    return subprocess.run(
        [sys.executable, "-m", "mypy", *cache, "-p", "tanl", "-p", "tools", *given], cwd=tree, check=False
    ).returncode


if __name__ == "__main__":
    sys.exit(main())
