# SPDX-License-Identifier: GPL-2.0-or-later
"""What momctl's online verbs make of figures and signals: frames of top, words for signals, KSM, times."""

from __future__ import annotations

import argparse
import re
from dataclasses import replace
from typing import Any

import pytest

from momservice.bus.connection import Signal, Variant
from momservice.bus.names import MANAGER, PATH, POLICY
from momservice.cli import control, ksm, show
from momservice.cli.frames import ASCII, BLOCKS, KEPT, Format, History, Line, View, frame, sparkline
from momservice.cli.screen import plain
from momservice.cli.show import needs_reasons, state_of
from momservice.cli.signals import is_noise, told
from momservice.client import GuestState, ServiceStatus, Statistics
from momservice.hypervisor import Facts, GuestRecord
from momservice.hypervisor.guests_state import NO_BALLOON, capabilities
from momservice.snapshot import Sample

ONE, TWO = (f"00000000-0000-4000-8000-00000000000{number}" for number in (1, 2))
MIB = 1024
HOST: Sample = {
    "mem_available": 16 << 20, "mem_free": 4 << 20, "swap_usage": 512 * MIB, "psi_mem_some_avg10": 1.5,
    "ksm_run": 1, "ksm_pages_sharing": 262144, "ksmd_cpu_usage": 12.5,
}  # fmt: skip
GUEST: Sample = {
    "balloon_cur": 768 * MIB, "balloon_max": 1024 * MIB, "mem_free": 100 * MIB, "mem_available": 700 * MIB, "rss": 65536,
    "libvirt_state": 1, "held": False, "balloon_works": True,
}  # fmt: skip
BROKEN: Sample = {**GUEST, "balloon_works": False}


def status(kind: str = "active", *reasons: str) -> ServiceStatus:
    return ServiceStatus("0.1", 1, kind, reasons, 3, 10_000, 2, True, True, True, 1_700_000_000_000_000, 1_234, "")


def view(names: dict[str, str] | None = None, *, problem: str = "", **more: Any) -> View:
    statistics = Statistics(more.get("host", HOST), more.get("guests", {ONE: GUEST, TWO: {"libvirt_state": 3, "held": True}}))
    names = names or {ONE: "vm1", TWO: "vm2"}
    return View(1_700_000_000.0, more.get("status", status()), statistics, names, more.get("states", {}), problem)


def shown(view: View, layout: Format | None = None, polls: int = 1) -> list[str]:
    history = History()
    for _ in range(polls):
        history.add(view)
    return [plain(line) for line in frame(view, history, layout or Format())]


# --- top ---------------------------------------------------------------------------------------------------------------------------------


def test_a_frame_fits_80_columns_and_tells_all() -> None:
    lines = shown(view())
    assert max(map(len, lines)) <= 80
    assert re.fullmatch(r"\d\d:\d\d:\d\d  active  2 guests  generation 3  run took 1\.2 ms", lines[0])
    assert lines[1].split() == ["host", "25.0", "%", "of", "16.0", "GiB", "free", "▃", "pressure", "1.5", "%", "swap", "512", "MiB"]
    assert lines[2].split() == ["KSM", "runs,", "saves", "1.0", "GiB", "█", "ksmd", "12.5", "%"]
    assert lines[4].split()[:6] == ["GUEST", "BALLOON", "MAX", "FREE", "RSS", "MiB"]
    assert lines[5].split() == ["vm1", "768", "1024", "100", "256", "▇", "running"]
    assert lines[6].split() == ["vm2", "-", "-", "-", "-", "paused,", "held"]


WHY = {
    "the guest has no balloon device": "no balloon",
    "the guest's balloon doesn't follow its targets": "balloon stuck",
    "the guest gives no memory statistics": "no figures",
    "the guest's memory statistics are out of date": "old figures",
    "a reason that only a newer service knows": "unmanaged",
}


def test_the_words_are_of_reasons_that_the_service_gives() -> None:
    broken = GuestRecord(ONE, "vm1", 1, facts=Facts(balloon=False))
    told = {*capabilities(broken, None, 0, 1).values(), *capabilities(replace(broken, facts=Facts()), False, 0, 1).values()}
    told |= {*capabilities(replace(broken, balloon={"last-update": 1, "unused": 1}), None, 1000, 1).values()}
    assert {reason for reason in WHY if "newer" not in reason} <= told


@pytest.mark.parametrize("reason", WHY)
def test_why_a_balloon_cannot_be_used_is_told_in_two_words(reason: str) -> None:
    statistic = "statistics" in reason
    able = {"balloon": "" if statistic else reason, "statistics": reason if statistic else "", "ksm": ""}
    states = {ONE: GuestState("unmanaged", [reason], able)}
    lines = shown(view(guests={ONE: BROKEN}, states=states), Format(height=24))
    assert lines[5].endswith(f" running, {WHY[reason]}")
    assert len(lines[5]) <= 80
    # A held guest's state has another reason; its capabilities are the same.
    held = GuestState("held", ["the guest is paused"], able)
    assert state_of({"libvirt_state": 3, "held": True, "balloon_works": False}, held) == f"paused, held, {WHY[reason]}"


@pytest.mark.parametrize("verb", ["guests", "stats"])
def test_the_service_is_asked_why_where_figures_do_not_say(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], verb: str
) -> None:
    asked: list[str] = []

    class Client:
        sample = BROKEN

        def __enter__(self) -> Client:
            return self

        def __exit__(self, *_: object) -> None:
            return

        def statistics(self) -> Statistics:
            return Statistics({}, {ONE: self.sample})

        def active_guests(self) -> list[tuple[str, str]]:
            return [(ONE, "vm1")]

        def guest_states(self) -> dict[str, GuestState]:
            asked.append("why")
            return {ONE: GuestState("unmanaged", [NO_BALLOON], {"balloon": NO_BALLOON, "statistics": "", "ksm": ""})}

    monkeypatch.setattr(show, "connected", Client)
    run = {"guests": show.show_guests, "stats": show.show_stats}[verb]
    assert run(argparse.Namespace(json=False, guest=None)) == 0
    assert capsys.readouterr().out.rstrip().endswith("running, no balloon")
    monkeypatch.setattr(Client, "sample", GUEST)
    assert run(argparse.Namespace(json=False, guest=None)) == 0
    assert capsys.readouterr().out.rstrip().endswith("running")
    assert asked == ["why"]


def test_a_guest_that_the_service_has_not_told_of_is_just_unmanaged() -> None:
    assert state_of({"libvirt_state": 1, "balloon_works": False}) == "running, unmanaged"
    assert [needs_reasons([GUEST, sample]) for sample in (GUEST, BROKEN)] == [False, True]


@pytest.mark.parametrize("width", [1, 20, 60, 79, 80, 100, 200])
@pytest.mark.parametrize("polls", [1, 300])
def test_no_line_is_wider_than_the_terminal(width: int, polls: int) -> None:
    wide = "\N{CJK UNIFIED IDEOGRAPH-4E00}" * 60
    history = History()
    for _ in range(polls):
        history.add(view())
    for line in frame(view({ONE: wide, TWO: "x" * 255}, status=status("degraded", "y" * 500)), history, Format(width)):
        text = "".join(part for part, _ in line)
        assert len(text) + text.count(wide[0]) <= width


def test_what_does_not_fit_the_height_is_counted() -> None:
    guests = {f"00000000-0000-4000-8000-{number:012}": GUEST for number in range(50)}
    lines = shown(view(guests=guests), Format(height=24))
    assert len(lines) == 24
    assert lines[-1].startswith("... and 32 more; --sort ")
    assert len(shown(view(guests=guests))) == 55


def test_the_curve_grows_from_the_right_and_stays_bounded() -> None:
    assert sparkline([], 4, 1, BLOCKS) == "    "
    assert sparkline([0, 0.5, None, 1, 2, -1], 8, 1, ASCII) == "  _= ##_"
    assert sparkline([float(number) for number in range(100)], 3, 99, BLOCKS) == "███"
    history = History()
    for _ in range(KEPT + 50):
        history.add(view())
    assert len(history.free) == len(history.balloons[ONE]) == KEPT


def test_guests_that_are_gone_are_forgotten_and_a_service_that_is_away_is_told() -> None:
    history = History()
    history.add(view())
    history.add(view(problem="the service does not run"))
    assert list(history.balloons[ONE]) == [0.75, None]
    history.add(view(guests={}))
    assert history.balloons == {}
    lines = shown(view(problem="the service does not run"))
    assert " away " in lines[0]
    assert lines[1] == "the service does not run"


def test_the_first_reason_is_shown_and_the_others_counted() -> None:
    assert shown(view(status=status("degraded", "one", "two", "three")))[1] == "one (and 2 more)"


@pytest.mark.parametrize(("sort", "first"), [("name", "vm1"), ("balloon", "vm1"), ("free", "vm2"), ("rss", "vm1")])
def test_guests_are_sorted(sort: str, first: str) -> None:
    assert shown(view(), Format(sort=sort))[5].startswith(first)


def test_a_name_cannot_break_a_line_or_steer_the_terminal() -> None:
    lines: list[Line] = frame(view({ONE: "a\x1b[2J\nb\x9bm", TWO: "\u202e"}), History(), Format())
    assert all(character.isprintable() for line in lines for part, _ in line for character in part)


def test_without_any_figures_a_frame_says_so() -> None:
    lines = shown(view(host={}, guests={}, status=status("starting")))
    assert "no figures yet" in lines[1]
    assert lines[-1] == "no guests"


# --- signals -----------------------------------------------------------------------------------------------------------------------------

NAMES = {ONE: "vm1"}
PROPERTIES = "org.freedesktop.DBus.Properties"


@pytest.mark.parametrize(
    ("interface", "member", "args", "lines"),
    [
        (POLICY, "PolicyChanged", [4, ["10_ksm", "20_x"]], ["generation 4: 10_ksm, 20_x"]),
        (POLICY, "ParametersChanged", [{"b": Variant("d", 0.5), "a": Variant("b", True)}], ["a=True, b=0.5"]),
        (POLICY, "ParametersChanged", [{}], ["some are gone or have no value"]),
        (
            MANAGER,
            "BalloonTargetsChanged",
            [[[ONE, 512 << 20, 480 << 20, 1, "20_balloon:3:4"], [TWO, 1 << 20, 2 << 20, 1, ""]]],
            ["vm1: 512.0 -> 480.0 MiB: 20_balloon:3:4", f"{TWO}: 1.0 -> 2.0 MiB"],
        ),
        (MANAGER, "GuestsChanged", [[ONE], [TWO]], ["added: vm1", f"removed: {TWO}"]),
        (MANAGER, "GuestStateChanged", [[[ONE, "held", "migrating"]]], ["vm1: held: migrating"]),
        (MANAGER, "PressureChanged", ["some", 12.5, 3.25], ["some: some 12.50 %, full 3.25 % of the last 10 s"]),
        (MANAGER, "EvaluationFailed", [[["host", "no-data", "10_ksm", 3]]], ["host: no-data at 10_ksm:3"]),
        (MANAGER, "EvaluationRecovered", [], ["all is well again"]),
        (MANAGER, "ControlFailed", [[[ONE, "balloon_target", "too old"]]], ["vm1: balloon_target: too old"]),
        (
            "org.freedesktop.DBus.Properties",
            "PropertiesChanged",
            [MANAGER, {"Status": Variant("s", "paused")}, ["LastEvaluation"]],
            ["Manager: Status=paused"],
        ),
    ],
)
def test_known_signals_are_told_in_words(interface: str, member: str, args: list[Any], lines: list[str]) -> None:
    assert told(Signal(PATH, interface, member, args), NAMES) == [f"{member}: {line}" for line in lines]


@pytest.mark.parametrize(
    ("interface", "member", "args", "line"),
    [
        (MANAGER, "New", [], f"New: {MANAGER} at {PATH}: no arguments"),
        ("x.y", "Other", [1, ["a", {"b": Variant("v", Variant("s", "c"))}]], f"Other: x.y at {PATH}: 1, [a, {{b=c}}]"),
        # A known one that has become another.
        (POLICY, "PolicyChanged", [4], f"PolicyChanged: {POLICY} at {PATH}: 4"),
        (MANAGER, "GuestsChanged", [1, 2], f"GuestsChanged: {MANAGER} at {PATH}: 1, 2"),
        (MANAGER, "BalloonTargetsChanged", [[["a", "b", "c", "d", "e"]]], f"BalloonTargetsChanged: {MANAGER} at {PATH}: [[a, b, c, d, e]]"),
    ],
)
def test_other_signals_are_told_as_they_are(interface: str, member: str, args: list[Any], line: str) -> None:
    assert told(Signal(PATH, interface, member, args), NAMES) == [line]


def test_signals_of_a_guest_s_object_are_told_with_its_name() -> None:
    path = f"{PATH}/guest/{ONE.replace('-', '_')}"
    arguments = ["org.ovirt.Mom1.Guest", {"State": Variant("s", "x")}, []]
    changed = Signal(path, "org.freedesktop.DBus.Properties", "PropertiesChanged", arguments)
    assert told(changed, NAMES) == ["PropertiesChanged: vm1: State=x"]
    added = Signal(PATH, "org.freedesktop.DBus.ObjectManager", "InterfacesAdded", [path, {"org.ovirt.Mom1.Guest": {}}])
    assert told(added, NAMES) == ["InterfacesAdded: vm1: org.ovirt.Mom1.Guest"]


@pytest.mark.parametrize(
    ("path", "interface", "member", "args", "noise"),
    [
        (PATH, PROPERTIES, "PropertiesChanged", [MANAGER, {}, ["LastEvaluation"]], True),
        (PATH, PROPERTIES, "PropertiesChanged", [MANAGER, {"Status": Variant("s", "x")}, []], False),
        (PATH, PROPERTIES, "PropertiesChanged", [], False),
        (f"{PATH}/guest/x", PROPERTIES, "PropertiesChanged", ["org.ovirt.Mom1.Guest", {"State": Variant("s", "x")}, []], True),
        (PATH, "org.freedesktop.DBus.ObjectManager", "InterfacesRemoved", [f"{PATH}/guest/x", []], True),
        (PATH, MANAGER, "EvaluationRecovered", [], False),
    ],
)
def test_signals_that_tell_nothing_new_are_known_as_such(path: str, interface: str, member: str, args: list[Any], noise: bool) -> None:
    assert is_noise(Signal(path, interface, member, args)) == noise


def test_a_signal_s_text_stays_on_its_line() -> None:
    (line,) = told(Signal(PATH, MANAGER, "ControlFailed", [[[ONE, "x", "a\nb\x1b[31m"]]]), NAMES)
    assert line == "ControlFailed: vm1: x: a b [31m"


# --- KSM and times -----------------------------------------------------------------------------------------------------------------------


def test_ksm_tells_what_it_saves_and_costs() -> None:
    sample = {**HOST, "ksm_shareable": 4 << 20, "ksm_general_profit": -(5 << 20), "ksm_pages_to_scan": 100, "ksm_sleep_millisecs": 20}
    pairs = dict(ksm.pairs(sample))
    assert pairs["state"] == "runs"
    assert pairs["saved"] == "1024.0 MiB, 25 % of the guests' memory"
    assert pairs["profit"] == "-5.0 MiB"
    assert pairs["ksmd"] == "12.5 % of one CPU"
    assert pairs["scan"] == "100 pages, then 20 ms of sleep"
    assert pairs["zero pages"] == ""
    figures = ksm.figures(sample)
    assert (figures["state"], figures["saved_bytes"], figures["zero_bytes"], figures["profit_bytes"]) == ("runs", 1 << 30, None, -(5 << 20))


@pytest.mark.parametrize(("text", "seconds"), [("90", 90), ("45s", 45), ("10m", 600), ("1h30m", 5400), ("2d", 172800), ("1d1h1m1s", 90061)])
def test_times_are_understood(text: str, seconds: int) -> None:
    assert control.duration(text) == seconds


@pytest.mark.parametrize("text", ["", "0", "-1", "1.5m", "10x", "m", "30m1h", "4294967296", "99999999999999d", "\u0661", "1 m", "²"])
def test_other_times_are_refused(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError):
        control.duration(text)
