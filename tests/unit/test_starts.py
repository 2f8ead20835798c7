# SPDX-License-Identifier: GPL-2.0-or-later
"""What a client loads: nothing of the policy compiler, whose import alone would take longer than most calls."""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pytest

from momservice.cli import command

ROOT = Path(__file__).parents[2]
HEAVY = ("momservice.policy", "momservice.engine", "pyparsing", "libvirt")
NO_BUS = {"DBUS_SYSTEM_BUS_ADDRESS": "unix:path=/nonexistent/bus", "PATH": "/usr/bin:/bin", "PYTHONDONTWRITEBYTECODE": "1"}
# Prints which of the heavy modules are there once a module is imported.
IMPORT = f"""
import importlib, sys
importlib.import_module(sys.argv[1])
print(*(name for name in sys.modules if name.startswith({HEAVY!r})))
"""
# Runs momctl where none of them can be imported.
WITHOUT = f"""
import sys
sys.modules.update(dict.fromkeys({HEAVY!r}))
from momservice.cli.command import main
sys.exit(main())
"""
# Every verb that talks to the service, with arguments.
ONLINE: Mapping[str, Sequence[str]] = {
    "status": (),
    "guests": (),
    "stats": (),
    "top": ("--once",),
    "ksm": (),
    "params get": (),
    "params set": ("a=1",),
    "params replace": (),
    "policy get": (),
    "policy set": ("conf/policy.d/10_ksm.policy",),
    "policy remove": ("a",),
    "policy reset": (),
    "policy try": ("conf/policy.d/10_ksm.policy",),
    "explain": ("host",),
    "pause": (),
    "resume": (),
    "reload": (),
    "log-level": ("info",),
    "monitor": (),
    "metrics": (),
    "record": ("-",),
}
OFFLINE: Mapping[str, Sequence[str]] = {
    "policy check": ("conf/policy.d/10_ksm.policy",),
    "policy eval": ("conf/policy.d/10_ksm.policy", "--snapshot", "-"),
    "policy replay": ("-", "conf/policy.d/10_ksm.policy"),
    "policy test": ("tests/conformance/language-cases.json",),
    "policy format": ("conf/policy.d/10_ksm.policy",),
}


def run(script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    program = [sys.executable, "-c", script, *arguments]
    return subprocess.run(program, cwd=ROOT, env=NO_BUS, input="{}", capture_output=True, text=True, timeout=60, check=False)


def verbs(parser: argparse.ArgumentParser, before: str = "") -> Iterator[str]:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for name, verb in action.choices.items():
                below = list(verbs(verb, f"{before}{name} "))
                yield from below or [before + name]


@pytest.mark.parametrize("module", ["momservice.client", "momservice.vdsm", "momservice.bridge", "momservice.cli.command"])
def test_importing_a_client_loads_no_compiler(module: str) -> None:
    done = run(IMPORT, module)
    assert (done.returncode, done.stdout.strip(), done.stderr) == (0, "", "")


def test_the_service_loads_all_of_it() -> None:
    # That the names above mean something.
    assert {name.split(".")[0] for name in run(IMPORT, "momservice.__main__").stdout.split()} >= {"momservice", "pyparsing", "libvirt"}


def test_every_verb_is_one_or_the_other() -> None:
    assert sorted(verbs(command.arguments())) == sorted([*ONLINE, *OFFLINE])


@pytest.mark.parametrize("verb", ONLINE)
def test_a_verb_that_asks_the_service_gets_to_the_bus_without_the_compiler(verb: str) -> None:
    done = run(WITHOUT, *verb.split(), *ONLINE[verb])
    assert (done.returncode, done.stdout) == (command.NO_SERVICE, ""), done.stderr


@pytest.mark.parametrize("verb", OFFLINE)
def test_a_verb_that_needs_the_compiler_misses_it(verb: str) -> None:
    done = run(WITHOUT, *verb.split(), *OFFLINE[verb])
    assert done.returncode == command.FAILED
    assert "momservice.policy" in done.stderr
