"""The ``tanl`` command: its sub-commands, each a module of its own, and how mistakes are told.

Answers go to stdout; progress, warnings and errors go to stderr.
"""

from __future__ import annotations

import argparse
import ctypes
import io
import logging
import os
import re
import sys
import traceback
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from itertools import takewhile
from typing import Any, NoReturn, TextIO

from .. import __version__
from ..io.arguments import a_path
from ..io.text import did_you_mean, one_line, shown_path
from .completion import Known
from .config import as_defaults, read_section
from .signals import exit_code, in_words, stoppable

_DESCRIPTION = """\
Tell whether images belong to the classes that you name, without any training: a vision-language
model compares each image with your class names and with a large corpus of negative labels."""

_EPILOG = """\
examples:
  tanl demo                                 see it work on images that come with it
  tanl judge photos/ --labels labels.txt    judge a folder of images
  tanl judge embeddings.npy --bank bank.safetensors
                                            judge embeddings that you have (see tanl bank --help)
  tanl bench run --intervals                measure the methods on images that come with it
  tanl bench --id photos/id --ood photos/a --labels labels.txt
                                            measure them on images of your own

exit codes: 0 done; 1 done, but some images could not be read; 2 a mistake in what was asked for;
130 interrupted, 143 terminated."""

_PROGRAM = "tanl"
_COMMANDS = {
    "demo": "judge images that come with tanl, and show why",
    "judge": "judge your images, or their embeddings, against your class names",
    "serve": "judge images over HTTP: a page and a REST interface",
    "watch": "judge the images of a folder as they arrive",
    "report": "look at saved results: a table, paths alone, or one HTML page",
    "describe": "say in words what sets one folder of images apart from another",
    "curate": "choose which of many images to keep, or to label, when there is a budget",
    "recover": "make a results file of what a killed `tanl judge` left",
    "bank": "put labels and their embeddings into a file, to judge embeddings with",
    "doctor": "tell what is here, what is not and why, and what a model costs on this machine",
    "completion": "print what a shell needs to complete commands and options",
    "cache": "show or delete the embeddings that are kept for the next run",
    "bench": "measure the methods, or the library itself",
}
_BENCHMARKS = {
    "run": "measure methods on a split or on folders of your own; an interrupted run goes on where it stopped",
    "ablate": "TANL with one setting or condition changed at a time: tables, files and charts",
    "table": "runs as tables: Markdown, CSV or LaTeX, with the published figures beside the measured ones",
    "report": "a run as one HTML page: tables, histograms, curves, activated labels, worst mistakes",
    "list": "the splits and the methods that `run` knows, and what they need",
    "masking": "which methods degrade gracefully when parts of every image are missing",
    "trust": "few outliers, thresholds, orders, batch sizes, attacks: what they do to methods that learn from a stream",
}
_HOME = {"table": "output.table", "report": "output.report"}
"""The benchmarks that are no module of their own."""


class Parser(argparse.ArgumentParser):
    """Says what is wrong in one line, and where help is, in place of argparse's usage listing."""

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Refuse what this command does not know, where its own options are known; argparse leaves it to the whole."""
        if args is not None and any(action.dest == "config" for action in self._actions):
            self._take_defaults(args)
        known, unknown = super().parse_known_args(args, namespace)
        if unknown:
            options = [option for action in self._actions for option in action.option_strings]
            name = unknown[0].partition("=")[0]
            hint = did_you_mean(name, options) if name.startswith("-") else ""
            self.error(f"unrecognized arguments: {' '.join(unknown)}{hint}")
        return known, unknown

    def options(self) -> dict[str, tuple[str, tuple[str, ...]]]:
        """The options, each with what it is for and the values that it may have, none where it may have any."""
        return {
            option: (one_line((action.help or "").replace("%%", "%")), tuple(map(str, action.choices or ())))
            for action in self._actions
            for option in action.option_strings
        }

    def below(self, command: Sequence[str]) -> Parser:
        """The parser of a command below this one; this one itself where none is named."""
        if not command:
            return self
        commands: Any = next(action.choices for action in self._actions if isinstance(action.choices, dict))
        lower: Parser = commands[command[0]]
        return lower.below(command[1:])

    def _take_defaults(self, args: Sequence[str]) -> None:
        """Let the file that ``--config`` names say what is not on the command line."""
        finder = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
        finder.add_argument("--config", type=a_path)
        path = finder.parse_known_args(args)[0].config
        if path is None:
            return
        try:
            values = as_defaults(path, read_section(path, self.prog.split()[1:]), self._actions)
        except (ValueError, ImportError) as error:
            self.error(str(error))
        except OSError as error:
            self.error(f"{path}: {error.strerror}")
        own = {action: action.default for action in values}
        for action in values:
            action.default, action.required = argparse.SUPPRESS, False
        given = super().parse_known_args(args)[0]
        for action, value in values.items():
            action.default = own[action] if action.dest in given else value

    def error(self, message: str) -> NoReturn:
        if choice := re.search(r"invalid choice: '(.*)' \(choose from (.*)\)$", message):
            message += did_you_mean(choice[1], re.findall(r"[\w.-]+", choice[2]))
        self.exit(2, f"{self.prog}: error: {message} (see {self.prog} --help)\n")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line ``argv`` (by default the process's own) and return the exit code."""
    write_any_text()
    argv = spelled_out(sys.argv[1:] if argv is None else argv)
    if not argv:
        command_parser(argv).print_help()
        return 0
    return carry_out(command_parser(argv).parse_args(argv))


def carry_out(arguments: argparse.Namespace) -> int:
    """Run the command that was parsed; a mistake in what was asked for is told in one line."""
    _keep_freed_memory()
    try:
        with stoppable(), _warnings_in_one_line(), _log_in_one_line():
            return arguments.run(arguments) or 0
    except KeyboardInterrupt as stop:
        print(f"tanl: {in_words(stop)}", file=sys.stderr)
        return exit_code(stop)
    except BrokenPipeError:
        # Whoever read stdout has gone (`tanl judge ... | head`); Python would complain again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    # What the library raises for unusable input. Anything else is a bug and keeps its traceback.
    except (ValueError, TypeError, ImportError, OSError) as error:
        if arguments.traceback:
            traceback.print_exc()
        print(f"tanl: error: {_in_one_line(error)}", file=sys.stderr)
        return 2


def spelled_out(argv: Sequence[str]) -> list[str]:
    """The command line with what may be left out: ``tanl bench --id ...`` is ``tanl bench run --id ...``."""
    # Options before the command (--traceback) have no values.
    place = next((place for place, word in enumerate(argv) if not word.startswith("-")), len(argv))
    before, rest = list(argv[: place + 1]), list(argv[place + 1 :])
    of_bench = list(takewhile(lambda word: word == "--traceback", rest))
    follows = "".join(rest[len(of_bench) : len(of_bench) + 1])
    short = before[-1:] == ["bench"] and follows.startswith("--") and follows != "--help"
    return [*before, "run", *rest] if short else [*before, *rest]


def write_any_text() -> None:
    r"""Let a path or label that the console's encoding lacks come out as ``\xe9``, in place of ending the run."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _keep_freed_memory() -> None:
    """Let glibc keep freed memory for the next tensors, in place of asking the kernel for zeroed pages each time.

    A fifth of the time from files to verdicts went into those pages. Only here, where the process is ours.
    """
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "mallopt"):
        trim_threshold, mmap_max = -1, -4  # M_TRIM_THRESHOLD, M_MMAP_MAX of malloc.h
        libc.mallopt(trim_threshold, 1 << 30)
        libc.mallopt(mmap_max, 0)


def command_names() -> list[tuple[str, ...]]:
    """Every command, as the words behind ``tanl``: ("judge",), ("bench", "run")."""
    return [*((name,) for name in _COMMANDS), *(("bench", name) for name in _BENCHMARKS)]


def known_commands() -> dict[str, Known]:
    """What may follow each command, by its words: "", "judge", "bench run"."""
    words = {"": _COMMANDS, "bench": _BENCHMARKS}
    commands: list[tuple[str, ...]] = [(), ("bench",), *command_names()]
    return {
        " ".join(command): Known(
            words.get(" ".join(command), {}), command_parser(command).below(command).options()
        )
        for command in commands
    }


def command_parser(argv: Sequence[str]) -> Parser:
    """The parser of a command line; of the commands that ``argv`` does not name only what they are for."""
    parser = Parser(
        prog=_PROGRAM,
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"tanl {__version__}")
    add_traceback(parser, default=False)
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for name, what in _COMMANDS.items():
        command = commands.add_parser(name, help=what)
        if name != "bench":
            set_up(command, f"tanl.cli.{name}", wanted=name in argv)
            if name == "completion":
                command.set_defaults(known=known_commands)
            continue
        command.description = what
        add_traceback(command, default=argparse.SUPPRESS)
        benchmarks = command.add_subparsers(title="benchmarks", metavar="BENCHMARK", required=True)
        for benchmark, measured in _BENCHMARKS.items():
            set_up(
                benchmarks.add_parser(benchmark, help=measured, description=measured),
                f"tanl.benchmarks.{_HOME.get(benchmark, benchmark)}",
                wanted=benchmark in argv,
            )
    return parser


def set_up(parser: argparse.ArgumentParser, module: str, *, wanted: bool) -> None:
    """Let the module that carries out a command describe its arguments, if it may be the one asked for.

    Importing all of them would make every command, and ``--help``, wait for all the others' imports.
    """
    if wanted:
        implementation: Any = import_module(module)
        implementation.add_arguments(parser)
        add_traceback(parser, default=argparse.SUPPRESS)
        if parser.prog.startswith(_PROGRAM):
            parser.add_argument(
                "--config",
                metavar="FILE",
                type=a_path,
                help="a TOML file with options of this command, by their names, in the table of its name: [judge], "
                "[bench.run]; what the command line gives counts more",
            )
        parser.set_defaults(run=implementation.main)


def add_traceback(parser: argparse.ArgumentParser, *, default: bool | str) -> None:
    """Describe ``--traceback``, which may stand before a command or behind it."""
    parser.add_argument(
        "--traceback",
        action="store_true",
        default=default,
        help="show an error's Python traceback too, for a bug report",
    )


@contextmanager
def _warnings_in_one_line() -> Iterator[None]:
    def show(
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: TextIO | None = None,
        line: str | None = None,
    ) -> None:
        print(f"tanl: warning: {_in_one_line(message)}", file=sys.stderr)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        # Other packages warn of their own affairs; Pillow, of flaws in files that it read all the same.
        warnings.filterwarnings("default", module=r"tanl\b")
        warnings.showwarning = show
        yield


@contextmanager
def _log_in_one_line() -> Iterator[None]:
    """Show what the library logs as warnings."""

    class Lines(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            print(f"tanl: warning: {_in_one_line(record.getMessage())}", file=sys.stderr)

    handler, log = Lines(logging.WARNING), logging.getLogger("tanl")
    propagates, log.propagate = (
        log.propagate,
        False,
    )  # a package that sets up the root would print it once more
    log.addHandler(handler)
    propagates, log.propagate = log.propagate, False  # other packages give the root a handler: told twice
    try:
        yield
    finally:
        log.propagate = propagates
        log.removeHandler(handler)
        log.propagate = propagates


def _in_one_line(error: BaseException | str) -> str:
    if isinstance(error, OSError) and error.strerror and error.filename is not None:
        return one_line(f"{shown_path(os.fsdecode(error.filename))}: {error.strerror}")
    return one_line(" ".join(str(error).splitlines())) or type(error).__name__
