# SPDX-License-Identifier: GPL-2.0-or-later
"""Prints the completion of a program's command line for a shell, made from the program's own parser: `generate.py SHELL PROGRAM`."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from momservice import __main__ as service
from momservice.cli import command as momctl

HEADER: Final = "# SPDX-License-Identifier: GPL-2.0-or-later\n# Made by completion/generate.py from the program's command line.\n"
FILE: Final = "file"


class Argument(NamedTuple):
    """An option (`names`) or a positional argument (none). `value`: None if it takes none, "file", or the choices, of which "" are none."""

    names: Sequence[str]
    value: str | None
    what: str


class Place(NamedTuple):
    """A program, or one of its verbs: `words` lead there."""

    words: tuple[str, ...]
    arguments: Sequence[Argument]
    verbs: dict[str, str]

    @property
    def path(self) -> str:
        """The words as the shells' functions keep them."""
        return " ".join(self.words)

    @property
    def options(self) -> list[Argument]:
        """The arguments that are options."""
        return [argument for argument in self.arguments if argument.names]

    @property
    def choices(self) -> list[str]:
        """What may stand here as an argument, if there are few such."""
        values = [argument.value or "" for argument in self.arguments if not argument.names and argument.value != FILE]
        return " ".join(values).split()

    @property
    def files(self) -> bool:
        """Whether a file may stand here."""
        return any(argument.value == FILE for argument in self.arguments if not argument.names)


def places(parser: argparse.ArgumentParser, words: tuple[str, ...] = ()) -> Iterator[Place]:
    """A program and all its verbs."""
    below = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    verbs = {choice.dest: _what(choice) for action in below for choice in action._choices_actions}
    arguments = [_argument(action) for action in parser._actions if action not in below]
    yield Place(words, arguments, verbs)
    for action in below:
        for name, verb in action.choices.items():
            yield from places(verb, (*words, name))


def _argument(action: argparse.Action) -> Argument:
    value: str | None = " ".join(map(str, action.choices or ()))
    if action.nargs == 0:
        value = None
    elif action.type is Path or "FILE" in str(action.metavar):
        value = FILE
    return Argument(action.option_strings, value, _what(action))


def _what(action: argparse.Action) -> str:
    return " ".join((action.help or "").replace("%%", "%").split())


def _names(arguments: Sequence[Argument]) -> str:
    return " ".join(name for argument in arguments for name in argument.names)


def _cases(rows: Mapping[str, str], indent: str) -> str:
    """Branches of a shell's `case`: pattern -> command."""
    return "".join(f"{indent}{shlex.quote(pattern)}) {run} ;;\n" for pattern, run in rows.items())


def _steps(known: Sequence[Place]) -> dict[str, str]:
    """What a word that stands before the cursor means, by place and word."""
    verbs = {f"{place.path}|{verb}": f"place={shlex.quote(' '.join((*place.words, verb)))}" for place in known for verb in place.verbs}
    values = {f"{place.path}|{name}": "skip=1" for place, option in _valued(known) for name in option.names}
    return verbs | values


def _valued(known: Sequence[Place]) -> list[tuple[Place, Argument]]:
    return [(place, option) for place in known for option in place.options if option.value is not None]


def bash(program: str, known: Sequence[Place]) -> str:
    """For bash."""
    values = {
        f"{place.path}|{name}": "files=1" if option.value == FILE else f"verbs={shlex.quote(option.value or '')}"
        for place, option in _valued(known)
        for name in option.names
    }
    here = {
        place.path: f"verbs={shlex.quote(' '.join([*place.verbs, *place.choices]))} options={shlex.quote(_names(place.options))} "
        f"files={'1' * place.files}"
        for place in known
    }
    name = f"_{program.replace('-', '_')}"
    return f"""{HEADER}
{name}() {{
    local word place= skip= before= verbs= options= files=
    local current=${{COMP_WORDS[COMP_CWORD]}}
    for word in "${{COMP_WORDS[@]:1:COMP_CWORD-1}}"; do
        # "--option=value" comes in three words.
        [[ $word == = ]] && continue
        if [[ $skip ]]; then skip=; continue; fi
        before=$word
        case "$place|$word" in
{_cases(_steps(known), " " * 12)}        esac
    done
    [[ $current == = ]] && current=
    if [[ $skip ]]; then
        case "$place|$before" in
{_cases(values, " " * 12)}        esac
    else
        case "$place" in
{_cases(here, " " * 12)}        esac
        if [[ $current == -?* || ! $verbs$files ]]; then verbs=$options files=; fi
    fi
    mapfile -t COMPREPLY < <(compgen -W "$verbs" -- "$current")
    if [[ $files ]]; then
        compopt -o filenames 2>/dev/null
        mapfile -t -O "${{#COMPREPLY[@]}}" COMPREPLY < <(compgen -f -- "$current")
    fi
}}
complete -F {name} {program}
"""


def zsh(program: str, known: Sequence[Place]) -> str:
    """For zsh."""
    values = {
        f"{place.path}|{name}": "_files" if option.value == FILE else f"compadd -- {option.value}"
        for place, option in _valued(known)
        for name in option.names
    }
    here = {
        place.path: f"verbs=({_described(place.verbs | dict.fromkeys(place.choices, ''))}) options=({_described(_by_name(place))}) "
        f"files={'1' * place.files}"
        for place in known
    }
    return f"""#compdef {program}
{HEADER}
local word place= skip= before= files=
local -a verbs options
for word in "${{(@)words[2,CURRENT-1]}}"; do
    if [[ -n $skip ]]; then skip=; continue; fi
    before=$word
    case "$place|$word" in
{_cases(_steps(known), " " * 8)}    esac
done
if [[ -n $skip ]]; then
    case "$place|$before" in
{_cases(values, " " * 8)}    esac
    return
fi
case "$place" in
{_cases(here, " " * 4)}esac
if [[ $words[CURRENT] == -?* || ( $#verbs -eq 0 && -z $files ) ]]; then
    _describe -o option options
    return
fi
(( $#verbs )) && _describe verb verbs
[[ -n $files ]] && _files
"""


def _by_name(place: Place) -> dict[str, str]:
    return {name: option.what for option in place.options for name in option.names}


def _described(rows: Mapping[str, str]) -> str:
    return " ".join(shlex.quote(f"{name}:{what}") for name, what in rows.items())


def fish(program: str, known: Sequence[Place]) -> str:
    """For fish."""
    at = f"__{program.replace('-', '_')}_at"
    steps = "".join(
        f"            case {_fish_quoted(pattern)}\n                set {run.replace('=', ' ', 1)}\n"
        for pattern, run in _steps(known).items()
    )
    lines = [line for place in known for line in _fish_lines(f"complete -c {program} -n \"{at} '{place.path}'\"", place)]
    return f"""{HEADER}
# Whether the words before the cursor lead to this place.
function {at}
    set -l words (commandline -opc)
    set -e words[1]
    set -l place ''
    set -l skip ''
    for word in $words
        if test -n "$skip"
            set skip ''
            continue
        end
        switch "$place|$word"
{steps}        end
    end
    test "$place" = "$argv[1]"
end

complete -c {program} -f
{chr(10).join(lines)}
"""


def _fish_lines(begin: str, place: Place) -> Iterator[str]:
    for verb, what in place.verbs.items():
        yield f"{begin} -a {verb} -d {_fish_quoted(what)}"
    if place.choices:
        yield f"{begin} -a {_fish_quoted(' '.join(place.choices))}"
    for option in place.options:
        names = " ".join(f"-l {name[2:]}" if name.startswith("--") else f"-s {name[1:]}" for name in option.names)
        yield f"{begin} {names}{_fish_value(option.value)} -d {_fish_quoted(option.what)}"
    if place.files:
        yield f"{begin} -F"


def _fish_value(value: str | None) -> str:
    if value is None:
        return ""
    return " -r -F" if value == FILE else f" -x -a {_fish_quoted(value)}"


def _fish_quoted(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


SHELLS: Final[Mapping[str, Callable[[str, Sequence[Place]], str]]] = {"bash": bash, "zsh": zsh, "fish": fish}
PROGRAMS: Final = {"momctl": momctl.arguments, "momservice": service.arguments}


if __name__ == "__main__":
    sys.stdout.write(SHELLS[sys.argv[1]](sys.argv[2], list(places(PROGRAMS[sys.argv[2]]()))))
