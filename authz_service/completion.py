"""Shell completion: scripts for bash, zsh and fish with the commands and options of an argument parser.

A script is static, so that completing starts no Python. It completes commands, options, choices and files.
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

SHELLS = ("bash", "zsh", "fish")


class _Argument(NamedTuple):
    """An option, or a positional argument, which has no names."""

    names: tuple[str, ...]
    value: str  # its placeholder; empty for a flag
    help: str
    choices: tuple[str, ...]

    @property
    def is_file(self) -> bool:
        return "FILE" in self.value or ".yaml" in self.value


def script(
    program: str, parser: argparse.ArgumentParser, commands: Mapping[str, argparse.ArgumentParser], shell: str
) -> str:
    """The script for one of ``SHELLS``. ``commands`` are the parsers of the subcommands."""
    described = {name: command.description or "" for name, command in commands.items()}
    arguments = {name: _arguments(command) for name, command in commands.items()}
    generate = {"bash": _bash, "zsh": _zsh, "fish": _fish}[shell]
    general = [each for each in _arguments(parser) if each.names]
    return "\n".join(generate(program, general, described, arguments)) + "\n"


def _arguments(parser: argparse.ArgumentParser) -> list[_Argument]:
    return [
        _Argument(
            tuple(action.option_strings),
            "" if action.nargs == 0 else str(action.metavar or action.dest),
            action.help or "",
            tuple(map(str, action.choices or ())),
        )
        for action in parser._actions  # noqa: SLF001 - argparse has no other list of them
        if action.help is not argparse.SUPPRESS
    ]


_Described = dict[str, str]
_ByCommand = dict[str, list[_Argument]]


def _words(arguments: Iterable[_Argument]) -> str:
    """What may follow: the names of options, and the choices of positional arguments."""
    return " ".join(word for each in arguments for word in each.names or each.choices)


def _bash(program: str, general: list[_Argument], described: _Described, arguments: _ByCommand) -> Iterable[str]:
    """An empty COMPREPLY makes bash complete files, unless compopt prevents it."""
    function = f"_{program.replace('-', '_')}"
    yield f"{function}() {{"
    yield "  local current=${COMP_WORDS[COMP_CWORD]} previous=${COMP_WORDS[COMP_CWORD-1]} command= word words="
    yield '  for word in "${COMP_WORDS[@]:1:COMP_CWORD-1}"; do [[ $word == -* ]] || { command=$word; break; }; done'
    yield "  COMPREPLY=()"
    yield "  case $command in"
    yield f"    '') words='{' '.join(described)} {_words(general)}' ;;"
    for name, own in arguments.items():
        yield f"    {name})"
        yield "      case $previous in"
        for each in own:
            if each.names and each.value:
                then = "" if each.is_file else "compopt +o default +o bashdefault 2>/dev/null; "
                yield f"        {'|'.join(each.names)}) {then}return ;;"
        yield "      esac"
        yield f"      words='{_words(own)}' ;;"
    yield "  esac"
    has_files = "|".join(
        name for name, own in arguments.items() if any(not each.names and each.is_file for each in own)
    )
    yield f"  [[ $command == @({has_files}) && $current != -* ]] && return"
    yield '  COMPREPLY=($(compgen -W "$words" -- "$current"))'
    yield "  [[ ${#COMPREPLY[@]} -gt 0 ]] || compopt +o default +o bashdefault 2>/dev/null"
    yield "}"
    yield f"complete -o default -o bashdefault -F {function} {program}"


def _zsh(program: str, general: list[_Argument], described: _Described, arguments: _ByCommand) -> Iterable[str]:
    function = f"_{program.replace('-', '_')}"
    yield f"#compdef {program}"
    yield f"{function}() {{"
    yield "  local context state state_descr line"
    yield "  typeset -A opt_args"
    yield f"  _arguments -C {_zsh_arguments(general)} '1:command:->command' '*::argument:->argument'"
    yield "  case $state in"
    listed = " ".join(_quoted(f"{name}:{text}") for name, text in described.items())
    yield f"    command) local -a commands=({listed}); _describe command commands ;;"
    yield "    argument)"
    yield "      case $words[1] in"
    for name, own in arguments.items():
        yield f"        {name}) _arguments {_zsh_arguments(own)} ;;"
    yield "      esac ;;"
    yield "  esac"
    yield "}"
    yield f'if [[ $funcstack[1] == {function} ]]; then {function} "$@"; else compdef {function} {program}; fi'


def _zsh_arguments(arguments: Iterable[_Argument]) -> str:
    specs = []
    for each in arguments:
        action = "_files" if each.is_file else f"({' '.join(each.choices)})"
        value = f":{_zsh_text(each.value)}:{action}" if each.value else ""
        text = _zsh_text(each.help)
        specs += [f"*{name}[{text}]{value}" for name in each.names] or [f"*{value}"]
    return " ".join(map(_quoted, specs))


def _zsh_text(text: str) -> str:
    return "".join(f"\\{each}" if each in "[]:\\" else each for each in text)


def _fish(program: str, general: list[_Argument], described: _Described, arguments: _ByCommand) -> Iterable[str]:
    yield f"complete -c {program} -f"
    for each in general:
        yield f"complete -c {program} -n __fish_use_subcommand {_fish_option(each)}"
    for name, text in described.items():
        yield f"complete -c {program} -n __fish_use_subcommand -a {name} -d {_quoted(text, fish=True)}"
    for name, own in arguments.items():
        condition = f"-n '__fish_seen_subcommand_from {name}'"
        for each in own:
            yield f"complete -c {program} {condition} {_fish_option(each)}"


def _fish_option(argument: _Argument) -> str:
    names = " ".join(f"-l {each[2:]}" if each.startswith("--") else f"-s {each[1:]}" for each in argument.names)
    value = ("-r -F" if argument.names else "-F") if argument.is_file else "-x" if argument.value and names else ""
    choices = f"-a {_quoted(' '.join(argument.choices), fish=True)}" if argument.choices else ""
    return " ".join(filter(None, (names, value, choices, f"-d {_quoted(argument.help, fish=True)}")))


def _quoted(text: str, *, fish: bool = False) -> str:
    """A word in single quotes."""
    if fish:
        text = text.replace("\\", "\\\\").replace("'", "\\'")
        return f"'{text}'"
    text = text.replace("'", "'\\''")
    return f"'{text}'"
