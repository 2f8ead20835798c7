# SPDX-License-Identifier: GPL-2.0-or-later
"""The service on a real bus with a real polkit: every member, every kind of bad call, and who may do what."""

from __future__ import annotations

import hashlib
import re
import shutil
import signal
import subprocess
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest
from base_policy import BASE

from lab import daemons, stranger
from lab.anyhost import AnyHost
from lab.buses import BROKER
from lab.common import PYTHON
from momservice.bus.connection import ERROR, load_interfaces
from momservice.bus.names import GUEST, MANAGER, MAX_TEXT_BYTES, NAME, OBJECT_MANAGER, PATH, POLICY, XML
from momservice.client import BlockingClient
from momservice.errors import InvalidArgs, InvalidPolicy, LimitsExceeded, NotStored, OutOfRange, UnknownGuest, UnknownParameter
from momservice.policy import Call, Place

KSM = "(def merge (n) (if n (Host.Control 'ksm_run' n) nil))\n(merge Host.mem_free)\n(with Guests g { (+ g.mem_free 1) })"
NOBODY = "00000000-0000-0000-0000-000000000001"
RULES = "etc/polkit-1/rules.d/10-test.rules"
# A caller inside, who prints the errors.
SIX_CALLS = """
import sys
sys.path.insert(0, sys.argv[1])
from stranger import Stranger, call_of
caller = Stranger("unix:path=/run/dbus/system_bus_socket")
last = caller.send_all([call_of(*sys.argv[2:], "Resume")] * 6)
print(*(answer.error_name for answer in caller.answers(last - 5, last).values()), sep="\\n")
"""
POLKIT_ACTIVATION = "usr/share/dbus-1/system-services/org.freedesktop.PolicyKit1.service"
# Every method once: arguments for busctl, what the answer begins with.
CALLS: dict[tuple[str, str], tuple[list[str], str]] = {
    (MANAGER, "Ping"): ([], "b true"),
    (MANAGER, "GetStatistics"): ([], "a{sv}a{sa{sv}} "),
    (MANAGER, "GetHostStatistics"): ([], "a{sv} "),
    (MANAGER, "GetGuestStatistics"): (["s", NOBODY], f"no guest {NOBODY} is monitored"),
    (MANAGER, "GetActiveGuests"): ([], "a(ss) 0"),
    (MANAGER, "Explain"): (["su", "host", "1"], "aa{sv} "),
    (MANAGER, "Pause"): (["su", "a test", "3600"], ""),
    (MANAGER, "Resume"): ([], ""),
    (MANAGER, "Reload"): ([], ""),
    (MANAGER, "SetVerbosity"): (["s", "debug"], ""),
    (OBJECT_MANAGER, "GetManagedObjects"): ([], "a{oa{sa{sv}}} 0"),
    (POLICY, "SetPolicy"): (["s", "(+ 1 2)"], "t "),
    (POLICY, "GetPolicy"): ([], 's "(+ 1 2)"'),
    (POLICY, "GetNamedPolicies"): ([], "a{ss} 2 "),
    (POLICY, "SetNamedPolicy"): (["ss", "60_x", "1"], "t "),
    (POLICY, "SetPolicies"): (["a{ss}b", "2", "70_y", "1", "80_z", "2", "false"], "t "),
    (POLICY, "RemoveNamedPolicy"): (["s", "70_y"], "t "),
    (POLICY, "ValidatePolicy"): (["a{ss}", "1", "a", "("], 'aa{sv} 1 7 "severity" s "error" "code" s "parse"'),
    (POLICY, "Evaluate"): (["a{ss}a{sv}aa{sv}", "0", "0", "0"], "aa{sv}aa{sv} 0 0"),
    (POLICY, "EvaluateNow"): (["a{ss}", "1", "a", "(Host.Control 'ksm_run' 0)"], 'aa{sv}aa{sv} 1 6 "entity" s "host"'),
    (POLICY, "SetParameters"): (["a{sv}", "2", "threshold", "y", "7", "label", "s", "y"], "t "),
    (POLICY, "GetParameters"): ([], 'a{sa{sv}} 3 "'),
    (POLICY, "ReplaceParameters"): (["a{sv}", "1", "threshold", "b", "true"], "t "),
    (POLICY, "ResetPolicies"): ([], "t "),
}


def busctl(host: AnyHost, interface: str, member: str, *arguments: str, user: str = "root") -> subprocess.CompletedProcess[str]:
    return host.run(["busctl", "call", NAME, PATH, interface, member, *arguments], user=user)


def error(host: AnyHost, user: str, member: str, *arguments: str, path: str = PATH) -> str:
    """The error reply to a call as dbus-send tells it: name and text; "" for none. `arguments`: as dbus-send takes them."""
    return host.run(["dbus-send", "--system", "--print-reply", f"--dest={NAME}", path, member, *arguments], user=user).stderr.strip()


@contextmanager
def rule(host: AnyHost, condition: str) -> Iterator[None]:
    """A live polkit rule that says yes where a condition on `action` and `subject` holds."""
    file = host.path(f"/{RULES}")
    # polkit doesn't tell when it has read its rules: a refusal of what is otherwise free to this user does.
    canary = 'if (action.id == "org.ovirt.mom1.read" && subject.user == "mom-guests") return polkit.Result.NO;'
    text = f"polkit.addRule(function(action, subject) {{ {canary} if ({condition}) return polkit.Result.YES; }});\n"
    file.write_text(text, encoding="utf-8")
    try:
        host.wait_for(lambda: "polkit does not grant" in error(host, "mom-guests", f"{POLICY}.GetPolicy"), "polkit to read a rule")
        yield
    finally:
        file.unlink()
        host.wait_for(lambda: not error(host, "mom-guests", f"{POLICY}.GetPolicy"), "polkit to forget a rule")


# Members


def test_the_table_of_calls_is_complete() -> None:
    assert set(CALLS) == {(name, method.name) for name, interface in load_interfaces(XML).items() for method in interface.methods}


def test_every_method_answers_root_over_busctl(host: AnyHost, client: BlockingClient) -> None:
    before = client.status().generation
    answers = {key: busctl(host, *key, *arguments) for key, (arguments, _) in CALLS.items()}
    for key, (_, expected) in CALLS.items():
        assert (answers[key].stdout + answers[key].stderr).removeprefix("Call failed: ").startswith(expected), key
    assert client.status().generation == before + 8


def test_properties_are_readable_for_all_and_writable_for_nobody(host: AnyHost) -> None:
    values = host.run(["busctl", "get-property", NAME, PATH, MANAGER, "ApiVersion", "HypervisorConnected", "PolkitAvailable"], user="alice")
    assert values.stdout.split() == ["u", "1", "b", "false", "b", "true"]
    refused = host.run(["busctl", "set-property", NAME, PATH, MANAGER, "Status", "s", "x"])
    assert "read-only" in refused.stderr


def test_live_introspection_is_the_xml(host: AnyHost) -> None:
    call = ["gdbus", "introspect", "--system", "--xml", "--dest", NAME, "--object-path", PATH]
    live = {found.get("name"): ET.tostring(found, "unicode").strip() for found in ET.fromstring(host.check(call)).iter("interface")}
    ours = {name: ET.tostring(interface.element, "unicode").strip() for name, interface in load_interfaces(XML).items()}
    assert {name: live.get(name) for name in ours if name != GUEST} == {name: text for name, text in ours.items() if name != GUEST}
    assert set(live) - set(ours) == {f"org.freedesktop.DBus.{name}" for name in ("Introspectable", "Peer", "Properties")}


def test_every_property_is_shown_with_its_value_and_how_its_changes_are_told(host: AnyHost) -> None:
    flags = {"true": "emits-change", "invalidates": "emits-invalidation", "const": "const"}
    for name, interface in load_interfaces(XML).items():
        if name != GUEST and interface.properties:
            shown = host.check(["busctl", "introspect", NAME, PATH, name], user="alice").splitlines()
            rows = {row[0].removeprefix("."): (row[2], row[-1]) for line in shown if (row := line.split())[1] == "property"}
            assert rows == {prop.name: (prop.signature, flags[interface.changes[prop.name]]) for prop in interface.properties}


@pytest.mark.parametrize(
    ("member", "arguments", "name"),
    [
        (f"{MANAGER}.Nothing", [], "UnknownMethod"),
        ("org.ovirt.Mom1.Nothing.Ping", [], "UnknownInterface"),
        (f"{MANAGER}.Ping", ["string:x"], "InvalidArgs"),
        (f"{POLICY}.SetPolicy", ["int32:5"], "InvalidArgs"),
        (f"{POLICY}.SetPolicies", ["dict:string:string:a,1"], "InvalidArgs"),
        (f"{MANAGER}.GetGuestStatistics", ["string:vm1"], "InvalidArgs"),
        (f"{POLICY}.SetNamedPolicy", ["string:../x", "string:1"], "InvalidArgs"),
        (f"{POLICY}.SetNamedPolicy", ["string:", "string:1"], "InvalidArgs"),
        (f"{POLICY}.RemoveNamedPolicy", ["string:a b"], "InvalidArgs"),
        (f"{MANAGER}.SetVerbosity", ["string:loud"], "InvalidArgs"),
        (f"{MANAGER}.Pause", ["string:" + "x" * 257, "uint32:0"], "LimitsExceeded"),
        (f"{MANAGER}.Explain", ["string:vm1", "uint32:1"], "InvalidArgs"),
        (f"{POLICY}.EvaluateNow", ["dict:string:string:../x,1"], "InvalidArgs"),
        (f"{POLICY}.EvaluateNow", ["int32:5"], "InvalidArgs"),
    ],
)
def test_a_bad_call_gets_the_named_error(host: AnyHost, member: str, arguments: list[str], name: str) -> None:
    assert error(host, "root", member, *arguments).startswith(f"Error org.freedesktop.DBus.Error.{name}: ")


def test_another_object_is_unknown(host: AnyHost) -> None:
    assert "UnknownObject" in error(host, "root", f"{MANAGER}.Ping", path="/org/ovirt/Other")


# All or nothing


def test_one_bad_policy_keeps_all_out(client: BlockingClient) -> None:
    before, generation = client.policies(), client.status().generation
    for texts, place in (({"a": "1", "b": "(+ 1"}, "b:1:"), ({"a": "1", "b": "\n (nowhere 1)"}, "b:2:3: ")):
        with pytest.raises(InvalidPolicy) as refused:
            client.set_policies(texts, replace=True)
        assert str(refused.value).startswith(place)
    assert (client.policies(), client.status().generation) == (before, generation)


def test_over_long_texts_change_nothing(client: BlockingClient) -> None:
    generation = client.status().generation
    for texts in (
        {"a": "#" * (MAX_TEXT_BYTES + 1)},
        {f"p{number}": "#" * 1024 for number in range(257)},
        {f"p{number}": "" for number in range(257)},
    ):
        with pytest.raises(LimitsExceeded):
            client.set_policies(texts)
    assert client.status().generation == generation


def test_one_bad_parameter_keeps_all_out(client: BlockingClient) -> None:
    for values, kind in (({"threshold": 7, "unknown": 1}, UnknownParameter), ({"threshold": 7, "label": 3}, InvalidArgs)):
        with pytest.raises(kind):
            client.set_parameters(values)
    with pytest.raises(InvalidArgs):
        client.set_parameters({"threshold": 7, "fraction": float("nan")})
    assert client.parameters()["threshold"].value == 5


def test_parameters_tell_who_set_them_and_go_back(client: BlockingClient) -> None:
    client.set_parameters({"threshold": True, "fraction": 2})
    client.set_parameters({"label": "y"})
    parameters = client.parameters()
    assert [parameters[name].value for name in ("threshold", "fraction", "label")] == [1, 2.0, "y"]
    assert (parameters["label"].origin, parameters["label"].uid, parameters["label"].time_us > 0) == ("client", 0, True)
    client.replace_parameters({"fraction": 0.25})
    parameters = client.parameters()
    assert [parameters[name].value for name in ("threshold", "fraction", "label")] == [5, 0.25, "x"]
    assert parameters["label"].origin == "file"


def test_files_lie_below_what_clients_load(client: BlockingClient) -> None:
    client.set_policy("(+ 1 2)")
    assert (client.policy(), set(client.policies())) == ("(+ 1 2)", {"10_base", "50_main_"})
    client.set_policies({"60_x": "1"}, replace=True)
    assert set(client.policies()) == {"60_x"}
    client.reset_policies()
    assert client.policies() == {"10_base": BASE}


def test_a_full_disk_refuses_loads_and_is_said_until_it_has_room(host: AnyHost, client: BlockingClient) -> None:
    client.set_parameters({"threshold": 7})
    before, generation = client.policies(), client.status().generation
    host.check(["mount", "-t", "tmpfs", "-o", "size=4k,nr_inodes=3,mode=777", "full", "/var/lib/mom"])
    try:
        host.check(["dd", "if=/dev/zero", "of=/var/lib/mom/full", "bs=4k", "count=1"])
        for change in (partial(client.set_policy, "(+ 1 2)"), client.reset_policies, partial(client.set_parameters, {"threshold": 8})):
            with pytest.raises(NotStored) as refused:
                change()
            assert str(refused.value) == "nothing is changed, for it can't be stored: No space left on device"
        status = client.status()
        assert "what clients load can't be stored, and so is refused: No space left on device" in status.status_reasons
        assert (client.policies(), client.parameters()["threshold"].value, status.generation) == (before, 7, generation)
    finally:
        host.check(["umount", "--lazy", "/var/lib/mom"])
    host.wait_for(lambda: not [line for line in client.status().status_reasons if "stored" in line], "the disk to be tried again")
    starts = host.daemon("momservice")["starts"]
    host.kill_service()
    host.wait_for(lambda: host.daemon("momservice")["starts"] > starts and host.owned(NAME), "the service to be back", log="momservice")
    with BlockingClient(host.bus_address) as again:
        assert again.parameters()["threshold"].value == 7


def test_a_pause_shows_its_reason_and_ends(host: AnyHost, client: BlockingClient) -> None:
    host.wait_for(lambda: client.status().status == "degraded", "the first run")
    client.pause("a\nreason", 3600)
    status = client.status()
    assert (status.status, status.status_reasons[0]) == ("paused", status.status_reasons[0])
    assert re.fullmatch(r"a reason \(until [0-9-]{10} [0-9:]{8}[+-][0-9:]{5}\)", status.status_reasons[0])
    client.resume()
    # On a busy machine the first run is still to come.
    assert client.status().status in ("starting", "degraded")


# Dry runs and explanations


def test_policies_are_tried_on_given_and_on_live_figures_and_nothing_changes(client: BlockingClient) -> None:
    before = client.status().generation, client.policies()
    given = client.evaluate({"a": KSM}, {"mem_free": 7, "mem_available": 50}, [{"mem_free": 5, "name": "web"}, {"mem_free": None}])
    assert [(c.entity, c.name, c.value, str(c.place), c.calls) for c in given.controls] == [
        ("host", "ksm_run", 7, "a:1:22", (Call("merge", Place("a", 2, 1)),)),
    ]
    (found,) = given.findings
    assert (found.entity[-1:], found.diagnostic.severity, found.diagnostic.code) == ("2", "warning", "type")
    assert str(found.diagnostic.place) == "a:3:18"
    live = client.evaluate_now({"a": KSM})
    assert [(c.entity, c.name) for c in live.controls] == [("host", "ksm_run")]
    assert isinstance(live.controls[0].value, int)
    assert client.evaluate_now({}).controls == []
    assert (client.status().generation, client.policies()) == before


def test_policies_that_do_not_load_are_told_as_findings(client: BlockingClient) -> None:
    for found in (client.evaluate_now({"a": "(+ 1 nowhere)"}), client.evaluate({"a": "(+ 1 nowhere)"}, {})):
        assert (found.controls, [(f.diagnostic.code, str(f.diagnostic.place)) for f in found.findings]) == ([], [("name", "a:1:6")])


def test_parameters_in_force_are_tried_with(client: BlockingClient) -> None:
    client.set_parameters({"threshold": 77})
    (control,) = client.evaluate_now({"a": "(defvar threshold 5) (Host.Control 'ksm_run' threshold)"}).controls
    assert control.value == 77


def test_a_world_that_makes_no_sense_is_refused(client: BlockingClient) -> None:
    for host, guests, kind, said in (
        ({"nowhere": 1}, [], InvalidArgs, "the host: there is no field 'nowhere'"),
        ({"mem_free": float("inf")}, [], InvalidArgs, "the host: 'mem_free': inf is not a finite number"),
        ({}, [{"uuid": "x"}], InvalidArgs, "guest 1: 'uuid' is not a UUID in lower case"),
        ({}, [{}] * 5001, LimitsExceeded, "5001 guests: at most 5000 are allowed"),
    ):
        with pytest.raises(kind) as refused:
            client.evaluate({}, host, guests)
        assert str(refused.value) == said
    with pytest.raises(LimitsExceeded):
        client.evaluate_now({"a": "#" * (MAX_TEXT_BYTES + 1)})


def test_the_last_runs_are_explained_to_whom_it_is_allowed(host: AnyHost, client: BlockingClient) -> None:
    # No lab sets that many pages in this machine's kernel.
    client.set_policy("(def merge (on) (Host.Control 'ksm_pages_to_scan' (+ on Host.mem_free)))\n(merge 0)\n(/ 1 0)")
    generation = client.status().generation
    host.wait_for(lambda: client.explain("host", 1)[0].generation == generation, "a run of the policy")
    control, failed = client.explain("host", 1)
    assert (control.kind, control.control, control.rule, str(control.place)) == ("control", "ksm_pages_to_scan", "merge", "50_main_:1:17")
    assert (control.calls, control.line[:10]) == ((Call("merge", Place("50_main_", 2, 1)),), "(def merge")
    assert [(read.entity, read.kind, read.name) for read in control.reads] == [("host", "stat", "mem_free")]
    assert control.reads[0].value == control.wanted
    # No KSM here.
    assert (control.status in ("none", "failed", "refused"), bool(control.reason), control.applied) == (True, True, None)
    assert (failed.kind, failed.code, str(failed.place), failed.line) == ("failed", "zero-division", "50_main_:3:1", "(/ 1 0)")
    runs = [row.run for row in client.explain("host", 10)]
    assert runs == sorted(runs, reverse=True)
    with rule(host, 'action.id == "org.ovirt.mom1.explain" && subject.user == "alice"'):
        assert error(host, "alice", f"{MANAGER}.Explain", "string:host", "uint32:1") == ""


def test_what_cannot_be_explained_is_refused(host: AnyHost, client: BlockingClient) -> None:
    for number in (0, 11, (1 << 32) - 1):
        refused = error(host, "root", f"{MANAGER}.Explain", "string:host", f"uint32:{number}")
        assert refused == f"Error org.ovirt.Mom1.Error.OutOfRange: {number} runs can't be explained: 1 to 10 can"
        with pytest.raises(OutOfRange):
            client.explain("host", number)
    with pytest.raises(UnknownGuest):
        client.explain(NOBODY, 1)


# Who may do what


def test_a_user_without_a_rule_reads_and_changes_nothing(host: AnyHost, client: BlockingClient) -> None:
    before = client.policies()
    for member in ("GetPolicy", "GetNamedPolicies", "GetParameters"):
        assert error(host, "alice", f"{POLICY}.{member}") == ""
    for member, arguments in (
        (f"{POLICY}.SetPolicy", ["string:1"]),
        (f"{POLICY}.ValidatePolicy", ["dict:string:string:a,1"]),
        (f"{POLICY}.ResetPolicies", []),
        (f"{POLICY}.EvaluateNow", ["dict:string:string:a,1"]),
        (f"{MANAGER}.Explain", ["string:host", "uint32:1"]),
        (f"{MANAGER}.Pause", ["string:x", "uint32:0"]),
        (f"{MANAGER}.Reload", []),
    ):
        assert error(host, "alice", member, *arguments).startswith("Error org.freedesktop.DBus.Error.InteractiveAuthorizationRequired: ")
    # busctl allows to ask for a password, but there is nobody who could.
    refused = busctl(host, POLICY, "SetParameters", "a{sv}", "1", "threshold", "u", "9", user="alice")
    assert (refused.returncode, refused.stderr.strip()) == (1, "Call failed: Access denied")
    assert client.policies() == before
    uid = int(host.check(["id", "-u", "alice"]))
    assert f"(uid {uid}): InteractiveAuthorizationRequired: " in host.log("momservice")


def test_a_rule_lets_a_user_in_at_once_and_only_where_it_says(host: AnyHost) -> None:
    with rule(host, 'action.id == "org.ovirt.mom1.load-policy" && subject.user == "alice"'):
        assert error(host, "alice", f"{POLICY}.SetPolicy", "string:(+ 1 2)") == ""
        assert "InteractiveAuthorizationRequired" in error(host, "alice", f"{MANAGER}.Resume")
    assert "InteractiveAuthorizationRequired" in error(host, "alice", f"{POLICY}.SetPolicy", "string:(+ 1 2)")


def test_rules_are_told_what_would_be_loaded(host: AnyHost) -> None:
    digest = hashlib.sha256(b"(+ 1 2)").hexdigest()
    told = f'action.lookup("mom.policy.sha256") == "{digest}" && action.lookup("mom.policy.names") == "50_main_"'
    with rule(host, f'{told} && action.lookup("mom.policy.size") == "7"'):
        assert error(host, "alice", f"{POLICY}.SetPolicy", "string:(+ 1 2)") == ""
        assert "InteractiveAuthorizationRequired" in error(host, "alice", f"{POLICY}.SetPolicy", "string:(+ 1 3)")


def test_a_rule_can_say_no(host: AnyHost) -> None:
    with rule(host, "false"):
        assert error(host, "mom-guests", f"{POLICY}.GetPolicy").startswith("Error org.freedesktop.DBus.Error.AccessDenied: ")


def test_the_example_rules_work(host: AnyHost) -> None:
    host.check(["useradd", "--system", "vdsm"])
    host.check(["groupadd", "--system", "mom-admin"])
    host.check(["usermod", "--append", "--groups", "mom-admin", "alice"])
    examples = sorted(Path(__file__).parents[2].glob("polkit/examples/*.rules"))
    copies = [host.path(f"/etc/polkit-1/rules.d/{example.name}") for example in examples]
    try:
        for example, copy in zip(examples, copies, strict=True):
            copy.write_text(example.read_text(encoding="utf-8"), encoding="utf-8")
        with rule(host, "false"):
            for user in ("vdsm", "alice"):
                assert [error(host, user, member) for member in (f"{MANAGER}.Resume", f"{POLICY}.ResetPolicies")] == ["", ""]
    finally:
        for copy in copies:
            copy.unlink()
        host.check(["gpasswd", "--delete", "alice", "mom-admin"])


def test_nobody_else_can_be_the_service(host: AnyHost) -> None:
    call = ["busctl", "call", "org.freedesktop.DBus", "/", "org.freedesktop.DBus", "RequestName", "su", "org.ovirt.Mom1", "4"]
    assert "denied" in host.run(call, user="alice").stderr
    assert host.run(call, user="mom").returncode == 0


def test_the_service_may_ask_the_bus_who_has_not_read_its_answers(host: AnyHost, hosts_bus: str, client: BlockingClient) -> None:
    assert client.ping()
    place = ["org.freedesktop.DBus", "/org/freedesktop/DBus", "org.freedesktop.DBus.Debug.Stats"]
    call = ["busctl", "call", *place, "GetConnectionStats", "s", NAME]
    # dbus-broker has no such figures, and needs none: it lets nobody leave much unread.
    said = "Unimplemented" if hosts_bus == BROKER else '"OutgoingBytes" u '
    done = host.run(call, user="mom")
    assert said in done.stdout + done.stderr
    assert host.run(call, user="alice").returncode


# polkit in trouble


def test_a_hung_polkit_keeps_users_out_and_lets_root_in(host: AnyHost, client: BlockingClient) -> None:
    host.signal("polkit", signal.SIGSTOP)
    try:
        refused = error(host, "alice", f"{MANAGER}.Resume")
        assert refused.startswith("Error org.freedesktop.DBus.Error.AccessDenied: ")
        assert "polkit does not answer" in refused
        client.resume()
        status = client.status()
        assert not status.polkit_available
        assert any("polkit does not answer" in reason for reason in status.status_reasons)
        assert client.ping()
    finally:
        host.signal("polkit", signal.SIGCONT)

    def answers() -> bool:
        client.resume()
        return client.status().polkit_available

    # Of root's calls none waits for it longer than a second now.
    host.wait_for(answers, "polkit to answer in time")


def test_an_absent_polkit_keeps_users_out_and_its_return_is_seen(host: AnyHost, client: BlockingClient) -> None:
    activation = host.path(f"/{POLKIT_ACTIVATION}")
    text = activation.read_text(encoding="utf-8")
    activation.unlink()
    reload = ["busctl", "call", "org.freedesktop.DBus", "/org/freedesktop/DBus", "org.freedesktop.DBus", "ReloadConfig"]
    host.check(reload)
    host.stop("polkit")
    try:
        assert "polkit does not answer" in error(host, "alice", f"{POLICY}.GetPolicy")
        client.resume()
        assert not client.status().polkit_available
    finally:
        activation.write_text(text, encoding="utf-8")
        host.check(reload)
        host.start(daemons.POLKIT)
        host.wait_for(lambda: host.owned("org.freedesktop.PolicyKit1"), "polkitd")
    host.wait_for(lambda: client.status().polkit_available, "the service to see polkit")
    assert error(host, "alice", f"{POLICY}.GetPolicy") == ""


def test_a_user_has_four_checks_in_flight_and_others_still_get_through(host: AnyHost, client: BlockingClient) -> None:
    host.signal("polkit", signal.SIGSTOP)
    try:
        # By one program, since to start six may take longer than the service waits for polkit.
        shutil.copyfile(Path(stranger.__file__), host.state / "stranger.py")
        said = host.check([PYTHON, "-c", SIX_CALLS, str(host.state), NAME, PATH, MANAGER], user="alice").splitlines()
        assert sorted(said) == [f"{ERROR}AccessDenied"] * 4 + [f"{ERROR}LimitsExceeded"] * 2
        client.resume()
    finally:
        host.signal("polkit", signal.SIGCONT)
    client.resume()
