# SPDX-License-Identifier: GPL-2.0-or-later
"""Completion in the shells themselves: every verb, option and file that the parsers know, and nothing else."""

from __future__ import annotations

import argparse
import shlex
import subprocess
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from momservice.cli import command

ROOT = Path(__file__).parents[2]
SHELLS = ("bash", "zsh", "fish")


def script(shell: str, program: str) -> str:
    made = ["/usr/bin/python3", str(ROOT / "completion" / "generate.py"), shell, program]
    done = subprocess.run(made, env={"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=True)
    return done.stdout


def run(*arguments: str | Path, folder: Path) -> list[str]:
    environment = {"PATH": "/usr/bin:/bin", "HOME": str(folder), "TERM": "dumb", "LC_ALL": "C.UTF-8"}
    done = subprocess.run(arguments, cwd=folder, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    return done.stdout.splitlines()


def in_bash(folder: Path, lines: Sequence[str]) -> list[set[str]]:
    """What bash offers at the end of each line: its words are split as readline does for programmable completion."""
    program = folder / "test.bash"
    text = f"source {folder}/momctl.bash\n"
    for line in lines:
        words = line.replace("=", " = ").split(" ")
        text += f"COMP_WORDS=({' '.join(map(shlex.quote, words))}) COMP_CWORD={len(words) - 1}\n"
        text += "COMPREPLY=(); _momctl; printf '%s\\n' \"${COMPREPLY[@]}\"; echo ===\n"
    program.write_text(text)
    return grouped(run("bash", "--norc", program, folder=folder))


def in_fish(folder: Path, lines: Sequence[str]) -> list[set[str]]:
    """What fish offers at the end of each line."""
    program = folder / "test.fish"
    # What comes from here only: no completions of the system's, which could be those of an installed version.
    text = f"set fish_complete_path\nsource {folder}/momctl.fish\n"
    text += "".join(f"complete -C {shlex.quote(line)}; echo ===\n" for line in lines)
    program.write_text(text)
    return grouped([line.split("\t")[0] for line in run("fish", "--no-config", program, folder=folder)])


ZSH = r"""
zmodload zsh/zpty
zpty shell zsh -f -i
zpty -w shell "source $1/setup.zsh"
# The prompt shows that keys go to the line editor.
zpty -r -m shell seen '*READY>*'
while IFS= read -r line; do
    zpty -w -n shell "$line"$'\t\C-U'
    zpty -w shell "print '===' >> found; print DO''NE"
    zpty -r -m shell seen '*DONE*READY>*'
done < $1/lines
zpty -d shell
"""
ZSH_SETUP = r"""
autoload -U compinit && compinit -D -u
fpath=($PWD $fpath); autoload -U _momctl; compdef _momctl momctl
unsetopt beep list_beep auto_list menu_complete auto_menu
setopt rc_expand_param
# What is about to be offered is noted, and not offered: the line stays as it is typed.
compadd() {
    local -a noted
    builtin compadd -O noted "$@"
    (( $#noted )) && print -l -- $noted >> found
    return 1
}
PS1='READY>'
"""


def in_zsh(folder: Path, lines: Sequence[str]) -> list[set[str]]:
    """What an interactive zsh offers when Tab is pressed at the end of each line."""
    (folder / "_momctl").write_text((folder / "momctl.zsh").read_text())
    (folder / "setup.zsh").write_text(ZSH_SETUP)
    (folder / "test.zsh").write_text(ZSH)
    (folder / "lines").write_text("".join(f"{line}\n" for line in lines))
    run("zsh", "-f", folder / "test.zsh", folder, folder=folder)
    return grouped((folder / "found").read_text().splitlines())


def grouped(lines: Sequence[str]) -> list[set[str]]:
    groups: list[set[str]] = [set()]
    for line in lines:
        if line == "===":
            groups.append(set())
        elif line:
            groups[-1].add(line)
    assert groups.pop() == set()
    return groups


OFFERS: dict[str, Callable[[Path, Sequence[str]], list[set[str]]]] = {"bash": in_bash, "zsh": in_zsh, "fish": in_fish}


@pytest.fixture(params=SHELLS)
def offered(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[..., list[set[str]]]:
    """What a shell offers, in a folder with two files."""
    (tmp_path / f"momctl.{request.param}").write_text(script(request.param, "momctl"))
    for name in ("xy one.policy", "xy_two.policy"):
        (tmp_path / name).touch()
    return lambda *lines: OFFERS[request.param](tmp_path, lines)


def verbs(parser: argparse.ArgumentParser, words: str = "momctl") -> Iterator[tuple[str, argparse.ArgumentParser]]:
    yield words, parser
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for name, below in action.choices.items():
                yield from verbs(below, f"{words} {name}")


def test_every_verb_can_answer_in_json() -> None:
    without = {words for words, parser in verbs(command.arguments()) if "--json" not in parser._option_string_actions}
    # Where verbs are named, not one itself.
    assert without == {"momctl policy"}


def test_every_verb_and_long_option_is_offered(offered: Callable[..., list[set[str]]]) -> None:
    tree = dict(verbs(command.arguments()))
    found = offered(*(f"{words} --" for words in tree), *(f"{words} " for words in tree))
    for parser, options in zip(tree.values(), found, strict=False):
        assert options == {name for action in parser._actions for name in action.option_strings if name.startswith("--")}
    for parser, names in zip(tree.values(), found[len(tree) :], strict=True):
        below = {name for action in parser._actions if isinstance(action, argparse._SubParsersAction) for name in action.choices}
        # Where there are no verbs, it may be options or files.
        assert names == below if below else not names & set(tree)


def test_files_and_beginnings(offered: Callable[..., list[set[str]]]) -> None:
    files = {"xy one.policy", "xy_two.policy"}
    found = offered(
        "momctl policy check xy",
        "momctl policy check --config xy",
        "momctl policy eval --snapshot xy",
        "momctl policy eval --param a=1 xy",
        "momctl policy eval --snapshot xy_two.policy --exp",
        "momctl policy ch",
        "momctl --json pol",
        "momctl pause --reason pause --fo",
        "momctl policy get xy",
        "momctl stats policy xy",
        "momctl log-level d",
        "momctl top --sort b",
    )
    assert found[:4] == [files] * 4
    assert found[4:] == [{"--explain"}, {"check"}, {"policy"}, {"--for"}, set(), set(), {"debug"}, {"balloon"}]


def test_bash_knows_options_with_an_equals_sign(tmp_path: Path) -> None:
    (tmp_path / "momctl.bash").write_text(script("bash", "momctl"))
    (tmp_path / "xy.conf").touch()
    assert in_bash(tmp_path, ["momctl policy check --config=xy", "momctl policy check --config="])[0] == {"xy.conf"}


@pytest.mark.parametrize("shell", SHELLS)
def test_the_service_s_options_are_completed_too(shell: str) -> None:
    text = script(shell, "momservice")
    assert "check-config" in text
    subprocess.run([shell, "-n"], input=text, text=True, check=True)
