# SPDX-License-Identifier: GPL-2.0-or-later
"""The tutorial's files are well, its commands do what it says, and they print what it shows."""

from __future__ import annotations

import re
import shlex
from functools import cache
from pathlib import Path

import pytest
from tutorial_blocks import ROOT, Block, Commands, blocks, outcome, run, steps, without_steps

from momservice.cli import command

OFF_LINE = [step for step in steps() if isinstance(step, Commands) and not step.service]
WITH_SERVICE = [step for step in steps() if isinstance(step, Commands) and step.service]


@pytest.fixture(scope="module")
def printed(tmp_path_factory: pytest.TempPathFactory) -> dict[int, str]:
    """What each block of commands gives, by its line, in a folder that has the files as they are at that place of the text."""
    folder, given = tmp_path_factory.mktemp("tutorial"), {}
    for step in steps():
        if isinstance(step, Block):
            (folder / step.words[0]).write_text(step.text, encoding="utf-8")
        elif not step.service:
            given[step.line] = outcome(run(step, folder))
    return given


@pytest.mark.parametrize("step", OFF_LINE, ids=lambda step: f"line {step.line}")
def test_commands_print_what_the_tutorial_shows(step: Commands, printed: dict[int, str]) -> None:
    assert printed[step.line] == f"{without_steps(step.output)}status {step.status}\n"


@pytest.mark.parametrize("step", WITH_SERVICE, ids=lambda step: f"line {step.line}")
def test_commands_for_a_service_are_known(step: Commands) -> None:
    for line in step.text.splitlines():
        words = shlex.split(line.partition("|")[0])
        assert words[0] == "momctl"
        command.arguments().parse_args(words[1:])


def test_commands_are_found_with_their_output() -> None:
    assert len(OFF_LINE) > 15
    assert len(WITH_SERVICE) > 2
    assert [step.text for step in [*OFF_LINE, *WITH_SERVICE] if not step.output] == ["momctl policy format --check balloon.policy\n"]


@cache
def commands() -> str:
    return "\n".join(step.text for step in [*OFF_LINE, *WITH_SERVICE])


@pytest.mark.parametrize("block", [step for step in steps() if isinstance(step, Block)], ids=lambda block: f"line {block.line}")
def test_every_file_of_the_tutorial_has_a_name_that_the_text_and_a_command_tell(block: Block) -> None:
    text = (ROOT / "doc/tutorial.md").read_text(encoding="utf-8").splitlines()
    (name,) = block.words
    assert text[block.line - 3] == f"`{name}`:"
    assert re.search(rf"\s{re.escape(name)}\b", commands(), re.MULTILINE)


def test_all_blocks_are_of_kinds_that_are_tested() -> None:
    assert {block.language for block in blocks()} == {"lisp", "json", "sh", "text"}
    assert (ROOT / "doc/tutorial.md").read_text(encoding="utf-8").count("```") == 2 * len(blocks())


def test_policies_are_formatted_unless_they_are_to_show_what_formatting_does(tmp_path: Path) -> None:
    for block in blocks():
        if block.language == "lisp" and block.words[0] not in ("messy.policy", "open.policy", "wrong.policy"):
            file = tmp_path / block.words[0]
            file.write_text(block.text, encoding="utf-8")
            assert command.main(["policy", "format", "--check", str(file)]) == 0, f"line {block.line}"
