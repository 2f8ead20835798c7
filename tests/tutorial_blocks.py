# SPDX-License-Identifier: GPL-2.0-or-later
"""The blocks of the tutorial: files, commands, and what the commands print."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent
TUTORIAL = ROOT / "doc" / "tutorial.md"
_FENCED = re.compile(r"^```(\w+)(.*)\n((?:(?!```).*\n)*)```$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Block:
    """A fenced block. `words`: what its first line says after the language; `line`: where it begins."""

    language: str
    words: Sequence[str]
    text: str
    line: int


@dataclass(frozen=True, slots=True)
class Commands:
    """A block of shell commands. `output`: what the text says they print; `status`: the exit status of the last one."""

    text: str
    output: str
    status: int
    service: bool
    line: int


def blocks() -> list[Block]:
    """All blocks in the order of the text."""
    text = TUTORIAL.read_text(encoding="utf-8")
    return [Block(m[1], m[2].split(), m[3], text.count("\n", 0, m.start()) + 1) for m in _FENCED.finditer(text)]


def commands(block: Block, following: Block | None) -> Commands:
    """A block of commands with its output, if the next block is one."""
    output = following.text if following and following.language == "text" else ""
    status = next((int(word.removeprefix("status=")) for word in block.words if word.startswith("status=")), 0)
    return Commands(block.text, output, status, "service" in block.words, block.line)


def steps() -> list[Block | Commands]:
    """Files and commands in the order of the text."""
    found = blocks()
    pairs = zip(found, [*found[1:], None], strict=True)
    return [commands(block, following) if block.language == "sh" else block for block, following in pairs if block.language != "text"]


def run(step: Commands, folder: Path) -> subprocess.CompletedProcess[str]:
    """Runs commands in a folder with this source tree's momctl; both outputs in one."""
    environment = {**os.environ, "PATH": f"{ROOT / 'lab' / 'bin'}:{os.environ['PATH']}", "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.run(
        ["bash", "-c", step.text], cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )


def outcome(done: subprocess.CompletedProcess[str]) -> str:
    """What commands printed, and their exit status."""
    return f"{without_steps(done.stdout)}status {done.returncode}\n"


def without_steps(printed: str) -> str:
    """Without the counts of steps: no reader minds them, and they change with the way in which policies are evaluated."""
    return re.sub(r"\b[0-9]+ steps$", "... steps", printed, flags=re.MULTILINE)
