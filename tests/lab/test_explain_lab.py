# SPDX-License-Identifier: GPL-2.0-or-later
"""A real guest is explained, policies are tried on its real figures, and what they see is recorded and replayed."""

from __future__ import annotations

import json

import pytest

from lab.host import Host

pytestmark = pytest.mark.xdist_group("lab")
MORE = """\
(with Guests guest (guest.Control "balloon_target" (- guest.balloon_max 1024)))
"""


def test_a_squeezed_guest_is_explained_and_another_policy_is_tried_and_replayed() -> None:
    with Host(guests=1, settle=True, ksm=False) as host:
        size = host.balloons()["vm1"]
        host.check(["momctl", "params", "set", "pressure_threshold=0.99"])
        host.wait_for(lambda: host.balloons()["vm1"] < size, "the guest to shrink", log="momservice")
        explained = json.loads(host.check(["momctl", "explain", "vm1", "--runs", "10", "--json"]))
        shrunk = [row for row in explained if row["status"] in ("applied", "clamped")]
        assert shrunk, explained
        row = shrunk[0]
        assert (row["kind"], row["control"], row["applied"]) == ("control", "balloon_target", int(row["wanted"]))
        assert row["place"]["fragment"] == "20_balloon"
        assert row["rule"] in row["text"] or row["calls"][-1]["function"] == row["rule"]
        read = {given["name"]: given["value"] for given in row["reads"] if given["entity"] != "host"}
        assert 0 < row["applied"] < read["balloon_cur"] <= size
        for_people = host.check(["momctl", "explain", "vm1", "--runs", "10"])
        assert f"by {row['rule']}, 20_balloon:{row['place']['line']}:" in for_people
        assert " of vm1: " in for_people

        policy, recording = host.state / "90_more.policy", host.state / "world.mom"
        policy.write_text(MORE)
        tried = json.loads(host.check(["momctl", "policy", "try", "--json", str(policy)]))
        (change,) = [change for change in tried["changes"] if change["guest"] == "vm1"]
        assert (change["control"], change["then_place"]["fragment"]) == ("balloon_target", "90_more")
        assert "90_more" not in host.check(["momctl", "policy", "get"])

        host.check(["momctl", "record", str(recording), "--snapshots", "3"])
        told = json.loads(host.check(["momctl", "policy", "replay", "--json", str(recording), str(policy)]))
        assert [[control["guest"] for control in run["controls"]] for run in told["runs"]] == [["vm1"]] * 3
        wanted = {control["value"] for run in told["runs"] for control in run["controls"]}
        assert wanted == {change["then"]}
        line = recording.read_text().splitlines()[0]
        evaluated = json.loads(host.check(["momctl", "policy", "eval", "--json", "--snapshot", "-", str(policy)], input=line))
        assert [control["value"] for control in evaluated["decisions"]["controls"]] == [change["then"]]
