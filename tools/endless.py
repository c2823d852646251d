"""``python -m tools endless``: one TANL over a stream without an end: memory, state, drift of its means, throughput.

Batches are drawn with replacement from a pool of structured embeddings, so that a million of them cost no more memory
than one. A hundred marks are made on the way, each written to ``--json`` when it is made; throughput is compared
between the first and the last tenth of them.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor

from tanl.benchmarks.output.targets import add_json_option, check_targets, write_json
from tanl.checks import whole_number
from tanl.detectors import TANL
from tanl.detectors.state import ActivationState
from tanl.io.progress import Progress
from tanl.labels.bank import LabelBank

from .speed.data import Features

_MARKS = 100
_POOL = 256  # batches of the pool


@dataclass(frozen=True)
class Mark:
    """What there is at one place of the stream.

    Attributes:
        batches: how many were pushed by then.
        images: how many the detector says that it saw.
        admitted: how many of them its rings took in.
        seconds: time since the mark before.
        cpu_seconds: processor time since then.
        resident: memory of the process in bytes.
        state: bytes of the detector's state.
        off_rebuilt: the largest difference of a mean activation from that of a state rebuilt from the rows.
        off_formula: the same from the formula, in float64.
    """

    batches: int
    images: int
    admitted: int
    seconds: float
    cpu_seconds: float
    resident: int
    state: int
    off_rebuilt: float
    off_formula: float


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the command's options."""
    parser.add_argument(
        "--batches", type=int, default=1_000_000, help="how many are pushed (default: %(default)s)"
    )
    parser.add_argument("--batch-size", type=int, default=8, help="images of a batch (default: %(default)s)")
    parser.add_argument("--id-labels", type=int, default=20, help="C (default: %(default)s)")
    parser.add_argument("--negatives", type=int, default=2000, help="M (default: %(default)s)")
    parser.add_argument("--dim", type=int, default=64, help="D (default: %(default)s)")
    parser.add_argument("--selected", type=int, default=100, help="K (default: %(default)s)")
    parser.add_argument(
        "--memory", choices=("published", "guarded"), default="published", help="(default: %(default)s)"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the embeddings and their order (default: 0)")
    add_json_option(parser)


def main(arguments: argparse.Namespace) -> int:
    """Run the command and print what it found."""
    check_targets(arguments.json)
    batches = whole_number(arguments.batches, "--batches", at_least=_MARKS)
    size = whole_number(arguments.batch_size, "--batch-size", at_least=1)
    features = Features(arguments.id_labels, arguments.negatives, arguments.dim, size, arguments.seed)
    names = [f"label {i}" for i in range(arguments.id_labels + arguments.negatives)]
    bank = LabelBank(names, features.labels(), num_id=arguments.id_labels, logit_scale=30.0)
    detector = TANL(
        bank, num_selected=arguments.selected, initial_ood=features.known_ood, memory=arguments.memory
    )
    pool = torch.cat([features.batch(i) for i in range(_POOL)])
    settings = {name: value for name, value in vars(arguments).items() if isinstance(value, int | str)}
    marks: list[Mark] = []
    with Progress(batches, "batches") as progress:
        for mark in endless(detector, pool, batches, size, arguments.seed):
            progress.update(mark.batches - (marks[-1].batches if marks else 0))
            marks.append(mark)
            if arguments.json is not None:
                rows = [asdict(each) for each in marks]
                write_json(arguments.json, {"torch": torch.__version__, "settings": settings, "marks": rows})
    print(format_marks(marks, size))
    return 0


def endless(detector: TANL, pool: Tensor, batches: int, batch_size: int, seed: int) -> Iterator[Mark]:
    """Push so many batches, drawn from the pool ``[n, D]``, and tell at a hundred places what there is."""
    generator = torch.Generator().manual_seed(seed)
    done = 0
    for number in range(1, _MARKS + 1):
        began, cpu = time.perf_counter(), time.process_time()
        while done < batches * number // _MARKS:
            detector(pool[torch.randint(len(pool), (batch_size,), generator=generator)])
            done += 1
        took, busy = time.perf_counter() - began, time.process_time() - cpu
        state = detector.state
        rebuilt = ActivationState.from_state_dict(
            state.bank,
            state.activations,
            detector.capacity,
            state.state_dict(compact=True),
            state.per_source,
        )
        rings = ((state.positive, rebuilt.positive), (state.negative, rebuilt.negative))
        yield Mark(
            done,
            state.images,
            state.admitted_id + state.admitted_ood,
            took,
            busy,
            resident(),
            held_bytes(detector.state_dict()),
            max(_apart(ring.mean, other.mean) for ring, other in rings),
            max(_apart(ring.mean, _formula(state.bank, ring.embeddings)) for ring, _ in rings),
        )


def format_marks(marks: Sequence[Mark], batch_size: int) -> str:
    """What was found, as text."""
    tenth = max(1, len(marks) // 10)
    lines = [
        f"{'batches':>10}{'images/s':>12}{'of CPU time':>14}{'resident MB':>14}{'state bytes':>14}{'off rebuilt':>14}"
    ]
    rates, busy, before = [], [], 0
    for number, mark in enumerate(marks, 1):
        images, before = (mark.batches - before) * batch_size, mark.batches
        rates.append(images / mark.seconds)
        busy.append(images / mark.cpu_seconds)
        if number == 1 or number % tenth == 0:
            lines.append(
                f"{mark.batches:10}{rates[-1]:12.0f}{busy[-1]:14.0f}{mark.resident / 1e6:14.1f}{mark.state:14}"
                f"{mark.off_rebuilt:14.1e}"
            )
    last, early, late = marks[-1], slice(0, tenth), slice(len(marks) - tenth, None)
    states = [(min(of), max(of)) for of in ([mark.state for mark in marks[part]] for part in (early, late))]
    lines += [
        f"medians of the first and the last tenth: {median(rates[early]):.0f} and {median(rates[late]):.0f} images/s, "
        f"{median(busy[early]):.0f} and {median(busy[late]):.0f} a second of CPU time",
        f"resident memory: {marks[tenth - 1].resident / 1e6:.1f} MB after the first tenth, "
        f"{last.resident / 1e6:.1f} at the end; state: {states[0][0]} to {states[0][1]} bytes in the first tenth, "
        f"{states[1][0]} to {states[1][1]} in the last",
        f"mean activations: at most {max(mark.off_rebuilt for mark in marks):.1e} from a state rebuilt from the rows, "
        f"{max(mark.off_formula for mark in marks):.1e} from the formula in float64; {last.admitted} of {last.images} "
        "images entered a ring",
    ]
    return "\n".join(lines)


def held_bytes(state: Any) -> int:
    """The bytes of a state: tensors, strings, and eight for each number."""
    if isinstance(state, Tensor):
        return state.nbytes
    if isinstance(state, dict):
        return sum(held_bytes(value) for value in state.values())
    return len(state) if isinstance(state, str) else 8


def resident() -> int:
    """The memory of this process that is in use, in bytes.

    Raises:
        OSError: the system does not tell it as Linux does.
    """
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return 1024 * int(line.split()[1])
    raise OSError("/proc/self/status does not tell VmRSS")


def _formula(bank: LabelBank, rows: Tensor) -> Tensor:
    logits = bank.logit_scale * rows.double() @ bank.embeddings.double().T
    return logits.softmax(dim=1)[:, bank.num_id :].mean(dim=0)


def _apart(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).abs().max())
