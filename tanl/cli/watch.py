"""``tanl watch``: judge the images of a folder as they arrive."""

from __future__ import annotations

import argparse
import sys
import threading
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import __version__
from ..detectors.registry import settings_told
from ..io.arguments import a_path, not_negative, positive, positive_number
from ..io.arrivals import Arrivals, Stamp, key_of
from ..io.keeping import Keeper
from ..io.options import BATCH_SIZE
from ..io.text import shown_path
from ..streams.result_files import ResultWriter, continue_results
from . import guards
from .guards import told
from .judge_told import warning
from .signals import held
from .table import Table

if TYPE_CHECKING:
    from ..guard.guard import Guard
    from ..streams.pump import Batch
    from ..streams.results import Result

_DESCRIPTION = """\
Watch a folder that fills up, and judge each image once it is whole: the images that are there, then those
that come. Verdicts go to the terminal and into a results file, a row each. Ctrl-C or SIGTERM ends it and
keeps what was judged; the next run with the same --out judges no file again, and with the same --guard goes
on with what was learnt."""

_EPILOG = """\
examples:
  tanl watch incoming/ --labels labels.txt --out results.csv --guard guard/
  tanl watch incoming/ --labels labels.txt --out results.csv --calibrate known-good/ --backbone ViT-B-16/openai

whole: an image is read when its size and its time of change have stayed the same for --settle seconds. Writers that
make long pauses should write under a name that starts with a dot, or ends in .part, and rename the file when it is
done. A file that changes after it was judged is judged again: its later row counts.

results: while the run goes on the rows are in NAME.watch.partial; the results file is made of it every --save-every
seconds, and at the end. NAME.watch.partial stays: it is what the next run goes on with.

batches: an image is judged --max-wait seconds after it was read at the latest, together with those that came meanwhile.

exit codes: 0 ended on request (Ctrl-C, SIGTERM); 1 the same, and some files could not be read; 2 a mistake in what was
asked for."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the command's arguments."""
    parser.description = _DESCRIPTION
    parser.epilog = _EPILOG
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("folder", metavar="DIR", type=a_path, help="the folder to watch")
    kept = guards.add_guard_arguments(parser)
    kept.add_argument(
        "--out",
        metavar="FILE",
        type=a_path,
        required=True,
        help="the results, as .csv, .jsonl or .parquet",
    )
    watching = parser.add_argument_group("watching")
    watching.add_argument(
        "--recursive",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="look into the folders of the folder (default: yes)",
    )
    watching.add_argument(
        "--settle",
        metavar="SECONDS",
        type=not_negative,
        default=2.0,
        help="how long a file must stay as it is before it is read (default: %(default)g)",
    )
    watching.add_argument(
        "--interval",
        metavar="SECONDS",
        type=positive,
        default=1.0,
        help="how often to look (default: %(default)g)",
    )
    watching.add_argument(
        "--batch-size",
        metavar="N",
        type=positive_number,
        default=BATCH_SIZE,
        help="images a batch, at most; TANL learns once a batch (default: %(default)s)",
    )
    watching.add_argument(
        "--max-wait",
        metavar="SECONDS",
        type=not_negative,
        default=1.0,
        help="judge a batch that is not full after so long (default: %(default)g)",
    )
    watching.add_argument("--quiet", action="store_true", help="no table")


def main(arguments: argparse.Namespace) -> int:
    """Carry the command out and return its exit code."""
    guards.check(arguments)
    writer = continue_results(arguments.out, evidence=arguments.evidence)
    try:
        seen = {path: Stamp(*stamp) for noted in writer.notes() for path, stamp in noted.items()}
        arrivals = Arrivals(
            arguments.folder,
            recursive=arguments.recursive,
            settle=arguments.settle,
            interval=arguments.interval,
            seen=seen,
            told=_warn,
        )
        guard = guards.open_guard(arguments)
        guards.calibrate(guard, arguments)
        return _Watch(arguments, guard, arrivals, writer).run(len(seen))
    finally:
        with held():
            writer.close()


class _Watch:
    """One run: a guard, what arrives, and where the rows go."""

    def __init__(
        self, arguments: argparse.Namespace, guard: Guard, arrivals: Arrivals, writer: ResultWriter
    ) -> None:
        self._arguments, self._guard, self._arrivals, self._writer = arguments, guard, arrivals, writer
        self._writing = threading.Lock()
        self._counts: Counter[str] = Counter()
        longest = len(shown_path(arguments.folder)) + 24
        self._table = None if arguments.quiet else Table("file", longest, guard.bank.id_names)

    def run(self, judged_before: int) -> int:
        """Judge what arrives, until a signal; gives the exit code."""
        from ..streams.images import ImageEncoder
        from ..streams.pump import Pump

        arguments, encoder = self._arguments, ImageEncoder(self._guard.backbone)
        pump = Pump(
            self._arrivals,
            encoder.prepare,
            encoder.encode,
            batch_size=arguments.batch_size,
            max_wait=arguments.max_wait,
        )
        self._writer.describe(self._about())
        known = f" ({judged_before} files were judged before)" if judged_before else ""
        told(f"watching {shown_path(arguments.folder)}{known}; Ctrl-C ends it")
        if self._table is not None:
            print(self._table.header(), flush=True)
        keeper = Keeper(self._keep, arguments.save_every, lambda error: _warn(f"cannot keep all: {error}"))
        try:
            for batch in pump:
                with held():
                    self._judge(batch)
                    keeper.changed()
        except KeyboardInterrupt:
            pass  # the one way in which it ends
        finally:
            with held():
                self._arrivals.stop()
                pump.close()
                if keeper.stop():
                    self._keep()
        counts = self._counts
        decided = f"{counts['ID']} ID, {counts['OOD']} OOD"
        if counts["-"]:
            decided = f"{counts['-']} without a verdict (--calibrate sets a threshold)"
        unreadable = f", {counts['unreadable']} unreadable" if counts["unreadable"] else ""
        told(
            f"{counts.total()} images: {decided}{unreadable}; {self._writer.rows} rows in {shown_path(arguments.out)}"
        )
        return 1 if counts["unreadable"] else 0

    def _judge(self, batch: Batch) -> None:
        """Judge a batch, and keep its rows: what was learnt from has its row, and what has a row was learnt from."""
        from ..streams.pump import judged

        (results,) = judged([batch], self._guard.detect_embeddings)
        paths = [Path(result.path) for result in results]
        with self._writing:
            self._writer.write(results, noted={key_of(path): self._arrivals.stamp(path) for path in paths})
        for result in results:
            self._show(result)

    def _show(self, result: Result) -> None:
        self._counts[result.outcome] += 1
        if self._table is not None:
            print(self._table.row(result), flush=True)
        if result.error is not None:
            print(warning(Path(result.path), result.error), file=sys.stderr, flush=True)

    def _keep(self) -> None:
        """The rows first: a guard that is ahead of them would learn from their images again."""
        with self._writing:
            self._writer.publish()
        if self._arguments.guard is not None:
            self._guard.save(self._arguments.guard)

    def _about(self) -> dict[str, Any]:
        guard, arguments = self._guard, self._arguments
        return {
            "tanl": __version__,
            "backbone": guard.backbone.name,
            "labels": list(guard.bank.id_names),
            "corpus": None if guard.corpus is None else guard.corpus.name,
            "corpus_words": None if guard.corpus is None else len(guard.corpus),
            "removal": None if guard.corpus is None else guard.removal,
            "method": guard.method.name,
            "settings": settings_told(guard.detector),
            "batch_size": arguments.batch_size,
            "watched": shown_path(arguments.folder),
            "calibration": None if guard.detector.tpr is None else {"tpr": guard.detector.tpr},
        }


def _warn(line: str) -> None:
    told(f"warning: {line}")
