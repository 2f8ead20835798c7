# SPDX-License-Identifier: GPL-2.0-or-later
"""momctl against the real service, on a host."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab.anyhost import AnyHost
from momservice.client import BlockingClient


def momctl(host: AnyHost, *arguments: str, user: str = "root", stdin: str | None = None) -> subprocess.CompletedProcess[str]:
    return host.run(["momctl", *arguments], user=user, input=stdin)


def test_momctl_loads_and_shows_policies_and_parameters(host: AnyHost, client: BlockingClient) -> None:
    assert momctl(host, "policy", "set", "-", stdin="(+ 1 2)\n").stdout.endswith(": loaded 50_main_\n")
    assert momctl(host, "policy", "get", "50_main_").stdout == "(+ 1 2)\n"
    assert momctl(host, "params", "set", "threshold=9", "label=a b").returncode == 0
    assert client.parameters()["label"].value == "a b"
    assert [line.split()[:3] for line in momctl(host, "params", "get", "threshold").stdout.splitlines()[1:]] == [
        ["threshold", "9", "client"]
    ]
    assert momctl(host, "params", "replace").returncode == 0
    assert momctl(host, "policy", "remove", "50_main_").returncode == 0
    assert momctl(host, "policy", "get", "50_main_").returncode == 1
    lines = [*momctl(host, "status").stdout.splitlines(), *momctl(host, "stats").stdout.splitlines()]
    assert max(map(len, (line for line in lines if "libvirt is unavailable" not in line))) <= 80


def test_momctl_shows_what_would_change(host: AnyHost, client: BlockingClient) -> None:
    client.set_policy("(Host.Control 'ksm_run' 0)\n(Host.Control 'ksm_pages_to_scan' 9)")
    done = momctl(host, "policy", "try", "-", stdin="(Host.Control 'ksm_run' 1)\n(Host.Control 'ksm_pages_to_scan' 9)")
    assert (done.returncode, done.stderr) == (0, "")
    assert [line.split() for line in done.stdout.splitlines()[:2]] == [
        ["ENTITY", "CONTROL", "IN", "FORCE", "THEN", "BY"],
        ["host", "ksm_run", "0", "1", "50_main_:1:1"],
    ]
    assert done.stdout.splitlines()[2] == "1 control would change"
    (change,) = json.loads(momctl(host, "policy", "try", "--json", "-", stdin="1").stdout)["changes"][:1]
    assert (change["entity"], change["control"], change["then"], change["then_place"]) == ("host", "ksm_pages_to_scan", None, None)
    assert momctl(host, "policy", "try", "-", stdin="(Host.Control 'ksm_run' 0)(Host.Control 'ksm_pages_to_scan' 9)").stdout == (
        "nothing would change\n"
    )
    refused = momctl(host, "policy", "try", "-", stdin="(+ 1\n nowhere)")
    assert (refused.returncode, refused.stdout.splitlines()[-1]) == (1, "these policies would be refused")
    assert "^" in refused.stdout
    assert client.policy().startswith("(Host.Control 'ksm_run' 0)")


def test_momctl_explains_the_host(host: AnyHost, client: BlockingClient) -> None:
    client.set_policy("(def merge (n) (Host.Control 'ksm_run' n))\n(merge Host.mem_free)")
    generation = client.status().generation
    host.wait_for(lambda: client.explain("host", 1)[0].generation == generation, "a run of the policy")
    done = momctl(host, "explain", "host")
    assert (done.returncode, done.stderr) == (0, "")
    run, outcome, where, called, read = done.stdout.splitlines()
    assert run.startswith("run ")
    assert run.endswith(f"generation {generation}")
    assert outcome.startswith("    ksm_run: wanted ")
    assert where == "        by merge, 50_main_:1:16: (def merge (n) (Host.Control 'ksm_run' n))"
    assert called == "        merge was called at 50_main_:2:1"
    assert read.startswith("        read stat mem_free of host: ")
    (row,) = json.loads(momctl(host, "explain", "host", "--json").stdout)
    assert (row["control"], row["rule"], row["place"]["line"], row["reads"][0]["name"]) == ("ksm_run", "merge", 1, "mem_free")
    assert "no guest named vm9" in momctl(host, "explain", "vm9").stderr


@pytest.fixture
def world(host: AnyHost) -> Iterator[Path]:
    """Where a recording can be."""
    file = host.state / "world.mom"
    yield file
    file.unlink(missing_ok=True)


def test_momctl_records_what_it_replays(host: AnyHost, client: BlockingClient, world: Path) -> None:
    client.set_parameters({"threshold": 8})
    done = momctl(host, "record", "-", "--snapshots", "1", user="alice")
    assert (done.returncode, done.stderr, done.stdout.count("\n")) == (0, "", 1)
    one = json.loads(done.stdout)
    assert (one["parameters"], one["host"]["properties"]) == ({"threshold": 8}, {"interval": client.status().interval_ms // 1000})
    assert one["host"]["samples"][0]["mem_free"] > 0
    assert momctl(host, "record", str(world), "--snapshots", "2").stdout == f"{world}: 2 snapshots\n"
    assert [json.loads(line).get("continues") for line in world.read_text().splitlines()] == [None, True]
    policy = "(defvar threshold 5) (Host.Control 'ksm_run' threshold) (Host.Control 'ksm_pages_to_scan' Host.mem_free)"
    told = json.loads(momctl(host, "policy", "replay", "--json", str(world), "-", stdin=policy).stdout)
    assert [run["controls"][1]["value"] for run in told["runs"]] == [8, 8]
    assert all(run["controls"][0]["value"] > 0 for run in told["runs"])
    more = f"{world}.more"
    told = json.loads(momctl(host, "record", "--json", "--snapshots", "1", more).stdout)
    assert told == {"file": more, "snapshots": 1, "reason": ""}
    assert momctl(host, "record", str(world)).stderr == f"momctl: {world}: File exists\n"


def test_a_recording_ends_when_it_is_told_to_and_its_last_line_is_whole(host: AnyHost, world: Path) -> None:
    script = f"momctl record {world} & while [ ! -s {world} ]; do sleep 0.1; done; kill -TERM $!; wait $!"
    done = host.run(["bash", "-c", script])
    lines = world.read_text().splitlines(keepends=True)
    # A busy machine may get to more than one.
    assert (done.returncode, done.stderr, done.stdout) == (0, "", f"{world}: {len(lines)} snapshot{'s' if len(lines) > 1 else ''}\n")
    assert [json.loads(line)["format"] for line in lines] == ["mom-snapshot"] * len(lines)
    assert lines[-1].endswith("\n")


def test_momctl_tells_a_refusal_in_one_line(host: AnyHost) -> None:
    done = momctl(host, "pause", user="alice")
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (4, "", 1)
    assert "org.ovirt.mom1.control" in done.stderr


def test_momctl_shows_the_line_of_a_policy_that_is_refused(host: AnyHost, client: BlockingClient) -> None:
    done = momctl(host, "policy", "set", "-", stdin="(defvar a 1)\n(+ a bb)\n")
    assert (done.returncode, done.stdout) == (1, "")
    refusal, line, caret = done.stderr.splitlines()
    assert refusal.startswith("momctl: 50_main_:2:6: ")
    assert (line, caret) == ("(+ a bb)", "     ^")


def test_momctl_tells_changes_as_json_too(host: AnyHost, client: BlockingClient) -> None:
    told = json.loads(momctl(host, "--json", "policy", "set", "-", stdin="(+ 1 2)\n").stdout)
    assert told == {"generation": client.status().generation, "loaded": ["50_main_"]}
    told = json.loads(momctl(host, "params", "set", "--json", "threshold=9").stdout)
    assert told == {"generation": client.status().generation}
    assert json.loads(momctl(host, "pause", "--for", "1h", "--json").stdout) == {}
    assert client.status().status == "paused"


def test_momctl_without_the_service_says_how_to_start_it(host: AnyHost) -> None:
    host.stop_service()
    try:
        done = momctl(host, "status")
        assert (done.returncode, done.stdout) == (3, "")
        assert "systemctl start momservice" in done.stderr
    finally:
        host.start_service()
