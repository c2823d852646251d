"""``tanl completion``: what a shell needs to complete commands, options and their values."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Mapping
from dataclasses import dataclass

_DESCRIPTION = """\
Print a script that lets a shell complete tanl's commands, options and values. Where it names nothing, files are
completed."""

_EPILOG = """\
examples:
  echo 'eval "$(tanl completion bash)"' >> ~/.bashrc
  echo 'eval "$(tanl completion zsh)"' >> ~/.zshrc         (below compinit)
  tanl completion fish > ~/.config/fish/completions/tanl.fish"""


@dataclass(frozen=True)
class Known:
    """What may follow a command.

    Attributes:
        words: the commands below it.
        options: each with what it is for, and the values that it takes, none where it takes any.
    """

    words: Mapping[str, str]
    options: Mapping[str, tuple[str, tuple[str, ...]]]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the command's arguments."""
    parser.description = _DESCRIPTION
    parser.epilog = _EPILOG
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("shell", choices=("bash", "zsh", "fish"), help="for which shell")


def main(arguments: argparse.Namespace) -> int:
    """Carry the command out and return its exit code."""
    known = arguments.known()
    print(_fish(known) if arguments.shell == "fish" else _bash(known, zsh=arguments.shell == "zsh"))
    return 0


def _bash(known: Mapping[str, Known], *, zsh: bool) -> str:
    commands = [f'"{name}"' for name in known if name]
    lines = ["autoload -U +X bashcompinit && bashcompinit"] if zsh else []
    lines += [
        "_tanl() {",
        '    local word="${COMP_WORDS[COMP_CWORD]}" previous="${COMP_WORDS[COMP_CWORD-1]}" command="" each',
        '    for each in "${COMP_WORDS[@]:1:COMP_CWORD-1}"; do',
        '        case "${command:+$command }$each" in',
        f'            {"|".join(commands)}) command="${{command:+$command }}$each" ;;',
        "        esac",
        "    done",
        '    case "$command $previous" in',
    ]
    for name, each in known.items():
        for option, (_, values) in each.options.items():
            if values:
                lines.append(f'        "{name} {option}") {_reply(values)}; return ;;')
    lines += ["    esac", '    case "$command $word" in']
    for name, each in known.items():
        lines.append(f'        "{name} -"*) {_reply(each.options)}; return ;;')
    lines += ["    esac", '    case "$command" in']
    for name, each in known.items():
        if each.words:
            lines.append(f'        "{name}") {_reply(each.words)} ;;')
    lines += [
        '        *) COMPREPLY=($(compgen -f -- "$word")) ;;',
        "    esac",
        "}",
        "complete -o filenames -F _tanl tanl",
    ]
    return "\n".join(lines)


def _reply(words: Mapping[str, object] | tuple[str, ...]) -> str:
    return f'COMPREPLY=($(compgen -W {shlex.quote(" ".join(words))} -- "$word"))'


def _fish(known: Mapping[str, Known]) -> str:
    lines = ["complete -c tanl -e"]
    for name, each in known.items():
        seen = " && ".join(f"__fish_seen_subcommand_from {word}" for word in name.split())
        where = seen or "__fish_use_subcommand"
        if each.words:
            lower = f" && not __fish_seen_subcommand_from {' '.join(each.words)}" if name else ""
            for word, what in each.words.items():
                lines.append(
                    f"complete -c tanl -f -n {shlex.quote(where + lower)} -a {shlex.quote(word)} -d {shlex.quote(what)}"
                )
        for option, (what, values) in each.options.items():
            if option.startswith("--"):
                taken = f" -x -a {shlex.quote(' '.join(values))}" if values else ""
                lines.append(
                    f"complete -c tanl -n {shlex.quote(where)} -l {option[2:]}{taken} -d {shlex.quote(what)}"
                )
    return "\n".join(lines)
