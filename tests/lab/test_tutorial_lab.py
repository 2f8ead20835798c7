# SPDX-License-Identifier: GPL-2.0-or-later
"""What the tutorial shows of the service is what a service says."""

from __future__ import annotations

import pytest
from tutorial_blocks import Block, Commands, outcome, steps

from lab.host import Host

pytestmark = pytest.mark.xdist_group("lab")


def test_the_commands_for_a_service_print_what_the_tutorial_shows() -> None:
    with Host(guests=0, libvirt=False, ksm=False) as host:
        host.wait_for(lambda: "mem_free" in host.check(["momctl", "--json", "stats"]), "the first figures")
        folder = host.state / "tutorial"
        folder.mkdir()
        shown, given = [], []
        for step in steps():
            if isinstance(step, Block):
                (folder / step.words[0]).write_text(step.text, encoding="utf-8")
            elif isinstance(step, Commands) and step.service:
                shown.append((step.line, f"{step.output}status {step.status}\n"))
                given.append((step.line, outcome(host.run(["bash", "-c", f"exec 2>&1\n{step.text}"], cwd=str(folder)))))
        assert given == shown
