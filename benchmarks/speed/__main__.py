"""``python -m tanl.benchmarks.speed``: the same as ``tanl bench speed``."""

import sys

from tanl.cli import main

if __name__ == "__main__":
    sys.exit(main(["bench", "speed", *sys.argv[1:]]))
