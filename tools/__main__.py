"""``python -m tools STUDY``: what the library itself costs, measured; options as ``--help`` tells."""

import argparse
import sys
from collections.abc import Sequence

from tanl.cli.main import Parser, carry_out, set_up, write_any_text

STUDIES = {
    "speed": "the time and memory of one step of TANL against a bare matrix product",
    "costs": "texts and images a second and megabytes, of the models that ship and of CLIP's sizes",
    "overhead": "what detection adds to the time of encoding images with a ViT-B/16",
    "label-index": "nearest labels with faiss, and TANL on them, against exact search",
    "corpus-size": "what fewer negative labels cost, for several rules of choosing them from WordNet",
    "gpu-first": "what the first minutes on a GPU tell: parity, ceilings, steps, waits, a profile",
    "beyond": "what the modules of tanl.beyond find where the answer is known",
    "label-scale": "TANL with 70 thousand, a million and ten million labels: a short list against exact sums",
    "half-precision": "what keeping the labels as float16 does to scores and selected labels",
    "preset": "which settings of TANL are best over ID sets, orders and shares of outliers",
    "endless": "one TANL over a million batches: memory, state, drift of its means, throughput",
    "merged-streams": "what a stream costs that several workers share, each with a memory of its own",
    "ray-throughput": "images a second through judge --engine ray, for one worker and for more",
    "numerics": "every method's scores against its formula in float64, at all sizes and scales",
}


def main(argv: Sequence[str]) -> int:
    """Run a study and return its exit code."""
    write_any_text()
    return carry_out(parsed(argv))


def parsed(argv: Sequence[str]) -> argparse.Namespace:
    """The study that ``argv`` names, and its options."""
    parser = Parser(prog="python -m tools", description="Measure what the library itself costs.")
    parser.add_argument("--traceback", action="store_true", help="show an error's Python traceback too")
    studies = parser.add_subparsers(title="studies", metavar="STUDY", required=True)
    for name, what in STUDIES.items():
        study = studies.add_parser(name, help=what, description=what)
        set_up(study, f"tools.{name.replace('-', '_')}", wanted=name in argv)
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
