# SPDX-License-Identifier: GPL-2.0-or-later
"""momctl explain, policy try and record: what they make of what a service says. The service is a stand-in."""

from __future__ import annotations

import io
import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from momservice import strict_json
from momservice.cli import command, explain, record, trial
from momservice.client import Evaluation, Finding, Parameter, Statistics
from momservice.explained import Explanation
from momservice.policy import Call, Diagnostic, Place, Read, Wanted
from momservice.series import parse_series
from momservice.snapshot import Sample, Value

A, B = "aaaaaaaa-0000-0000-0000-000000000000", "bbbbbbbb-0000-0000-0000-000000000000"


@dataclass
class Service:
    """All that these verbs ask. `figures`: one after the other, the last for ever."""

    rows: Sequence[Explanation] = ()
    texts: Mapping[str, str] = field(default_factory=dict)
    answers: Mapping[str, Evaluation] = field(default_factory=dict)
    figures: list[Statistics] = field(default_factory=lambda: [Statistics({}, {})])
    parameter: Mapping[str, Parameter] = field(default_factory=dict)
    asked: list[Any] = field(default_factory=list)
    interactive: bool = False

    def __enter__(self) -> Service:
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def active_guests(self) -> list[tuple[str, str]]:
        return [(B, "vm-b"), (A, "vm-a")]

    def explain(self, entity: str, last: int) -> Sequence[Explanation]:
        self.asked.append((entity, last))
        return self.rows

    def policies(self) -> Mapping[str, str]:
        return self.texts

    def evaluate_now(self, texts: Mapping[str, str]) -> Evaluation:
        self.asked.append(dict(texts))
        return self.answers[" ".join(texts.values())]

    def statistics(self) -> Statistics:
        return self.figures.pop(0) if len(self.figures) > 1 else self.figures[0]

    def status(self) -> Any:
        return SimpleNamespace(last_evaluation_us=5, interval_ms=10_000)

    def parameters(self) -> Mapping[str, Parameter]:
        return self.parameter


def serve(monkeypatch: pytest.MonkeyPatch, service: Service) -> None:
    for module in (explain, record, trial):
        monkeypatch.setattr(module, "connected", lambda _options=None: service)


# --- explain -----------------------------------------------------------------------------------------------------------------------------

CONTROL = Explanation(
    7, 0, 2, "control", Place("p", 3, 9), '    (g.Control "target" n)', (Call("give", Place("p", 8, 1)), Call("take", Place("p", 5, 1))),
    "target", "vda", 0.1 + 0.2, 4, "clamped", "clamped to 4", (Read(A, "stat", "mem", 9), Read("host", "average", "free", None)), 12,
)  # fmt: skip


def test_an_explanation_for_people(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [
        CONTROL,
        Explanation(7, 0, 2, "more", more=3),
        Explanation(6, 0, 2, "dropped", Place("p", 1, 2), "(+ nil 1)", code="type", message="no sum"),
        Explanation(6, 0, 2, "failed", Place("p", 2, 2), "(/ 1 0)", code="zero-division", message="by zero"),
        Explanation(5, 0, 2, "ended"),
        Explanation(4, 0, 2, "nothing"),
        Explanation(3, 0, 2, "absent"),
        Explanation(2, 0, 2, "skipped"),
    ]
    service = Service(rows)
    serve(monkeypatch, service)
    assert command.main(["explain", "vm-a", "--runs", "7"]) == 0
    assert service.asked == [(A, 7)]
    assert capsys.readouterr().out.splitlines() == [
        "run 7, -, generation 2",
        "    vda.target: wanted 0.3, clamped as 4: clamped to 4",
        '        by take, p:3:9: (g.Control "target" n)',
        "        take was called at p:5:1",
        "        give was called at p:8:1",
        "        read stat mem of vm-a: 9",
        "        read average free of host: null",
        "        and 12 more inputs",
        "    and 3 more",
        "run 6, -, generation 2",
        "    the guest was dropped from the run: type: no sum",
        "        by p:1:2: (+ nil 1)",
        "    a form failed and was undone: zero-division: by zero",
        "        by p:2:2: (/ 1 0)",
        "run 5, -, generation 2",
        "    the run went beyond its budget of steps: none of its controls was applied",
        "run 4, -, generation 2",
        "    nothing was wanted",
        "run 3, -, generation 2",
        "    the guest wasn't there",
        "run 2, -, generation 2",
        "    not explained: no time was left; ask for fewer runs",
    ]


def test_an_explanation_for_programs(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    serve(monkeypatch, Service([CONTROL]))
    assert command.main(["explain", A.upper(), "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert (row["run"], row["rule"], row["wanted"], row["applied"], row["status"]) == (7, "take", 0.1 + 0.2, 4, "clamped")
    assert row["place"] == {"fragment": "p", "line": 3, "column": 9}
    assert row["text"].strip() == '(g.Control "target" n)'
    assert row["calls"][0] == {"function": "give", "fragment": "p", "line": 8, "column": 1}
    assert row["reads"][0] == {"entity": A, "kind": "stat", "name": "mem", "value": 9}


def test_before_the_first_run_there_is_nothing_to_explain(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    serve(monkeypatch, Service())
    assert command.main(["explain", "host"]) == 0
    assert capsys.readouterr().out == "no policy has run yet\n"


def test_what_a_policy_says_cannot_steer_the_terminal(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    row = Explanation(1, 0, 1, "failed", Place("p", 1, 1), "  (x\x1b[2J)", code="type", message="a\nb\x1b[2J")
    serve(monkeypatch, Service([row]))
    command.main(["explain", "host"])
    said = capsys.readouterr().out
    assert ("\x1b" in said, said.count("\n")) == (False, 3)


# --- policy try --------------------------------------------------------------------------------------------------------------------------


def wanted(entity: str, value: Value, name: str = "target", fragment: str = "old") -> Wanted:
    return Wanted(entity, name, value, Place(fragment, 1, 1))


@pytest.fixture
def policy(tmp_path: Path) -> str:
    (tmp_path / "new.policy").write_text("NEW")
    return str(tmp_path / "new.policy")


OLD = Evaluation([wanted("host", 1, "knob"), wanted(A, 5), wanted(B, 6), wanted(B, None, "other")], [])
NEW = Evaluation([wanted("host", 1, "knob"), wanted(A, 5.0, fragment="new"), wanted(B, 7, "more", fragment="new")], [])


def test_only_what_would_change_is_shown(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], policy: str) -> None:
    service = Service(texts={"old": "OLD"}, answers={"": OLD, "OLD NEW": NEW})
    serve(monkeypatch, service)
    assert command.main(["policy", "try", policy]) == 0
    assert service.asked == [{}, {"old": "OLD", "new": "NEW"}]
    assert [line.split() for line in capsys.readouterr().out.splitlines()[1:]] == [
        ["vm-a", "target", "5", "5", "new:1:1"],
        ["vm-b", "more", "-", "7", "new:1:1"],
        ["vm-b", "target", "6", "-", "-"],
        ["3", "controls", "would", "change"],
    ]


def test_a_file_takes_the_place_of_a_policy_of_its_name(monkeypatch: pytest.MonkeyPatch, policy: str) -> None:
    service = Service(texts={"new": "OLD", "z": "Z"}, answers={"": OLD, "NEW Z": OLD})
    serve(monkeypatch, service)
    assert command.main(["policy", "try", policy]) == 0
    assert service.asked[1] == {"new": "NEW", "z": "Z"}


def test_figures_that_move_on_in_between_are_no_change(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], policy: str
) -> None:
    service = Service(answers={"": OLD, "NEW": OLD}, figures=[Statistics({"n": number}, {}) for number in (1, 2, 2)])
    serve(monkeypatch, service)
    assert command.main(["policy", "try", policy]) == 0
    assert (len(service.asked), capsys.readouterr().out) == (4, "nothing would change\n")


def test_figures_that_never_rest_are_said_to(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], policy: str) -> None:
    service = Service(answers={"": OLD, "NEW": OLD}, figures=[Statistics({"n": number}, {}) for number in range(99)])
    serve(monkeypatch, service)
    assert command.main(["policy", "try", policy]) == 0
    assert len(service.asked) == 2 * trial.TRIES
    assert "the figures changed meanwhile" in capsys.readouterr().out
    assert command.main(["policy", "try", "--json", policy]) == 0
    assert json.loads(capsys.readouterr().out)["undisturbed"] is False


def test_whoever_was_asked_for_passwords_is_not_asked_again(monkeypatch: pytest.MonkeyPatch, policy: str) -> None:
    service = Service(answers={"": OLD, "NEW": OLD}, figures=[Statistics({"n": number}, {}) for number in range(99)], interactive=True)
    serve(monkeypatch, service)
    assert command.main(["policy", "try", policy]) == 0
    assert len(service.asked) == 2


def test_a_failure_of_many_guests_is_told_once(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], policy: str) -> None:
    failed = Diagnostic("warning", "type", Place("new", 1, 2), "no sum")
    findings = [Finding(failed, f"guest-{number}") for number in range(7)]
    serve(monkeypatch, Service(answers={"": OLD, "NEW": Evaluation([], [*findings, Finding(failed, A)])}))
    assert command.main(["policy", "try", policy]) == 0
    first, line, caret, *_ = capsys.readouterr().out.splitlines()
    assert first == "warning: new:1:2: no sum; the guests are dropped: guest-0, guest-1, guest-2, guest-3, guest-4 and 3 more"
    assert (line, caret) == ("NEW", " ^")


def test_policies_that_would_be_refused_exit_1(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], policy: str) -> None:
    wrong = Finding(Diagnostic("error", "name", Place("new", 1, 1), "what is NEW?"), "")
    serve(monkeypatch, Service(answers={"": OLD, "NEW": Evaluation([], [wrong])}))
    assert command.main(["policy", "try", policy]) == 1
    assert capsys.readouterr().out.splitlines()[-1] == "these policies would be refused"
    assert command.main(["policy", "try", "--json", policy]) == 1
    told = json.loads(capsys.readouterr().out)
    assert (told["changes"], told["diagnostics"][0]["code"]) == ([], "name")


# --- record ------------------------------------------------------------------------------------------------------------------------------


def figures(host: int, **guests: int) -> Statistics:
    keys = {"a": A, "b": B}
    return Statistics({"mem_free": host}, {keys[name]: {"mem": value} for name, value in guests.items()})


class Clock:
    """Time that passes while one sleeps; `end`: when whoever sleeps is woken to end."""

    def __init__(self, end: float = 1e9) -> None:
        self.now, self.end = 100.0, end

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> bool:
        self.now += seconds
        return self.now < self.end


def recording(service: Service, clock: Clock, snapshots: int | None = None, seconds: int | None = None) -> tuple[str, tuple[int, str]]:
    out = io.StringIO()
    made = record.Recording(service, out, clock.sleep, clock)  # type: ignore[arg-type]  # a stand-in
    done = made.run(10, snapshots, seconds)
    return out.getvalue(), done


def samples(text: str) -> list[Sequence[Sample]]:
    return [recorded.snapshot.host.samples for recorded in parse_series(text, "f")]


def test_every_interval_is_a_snapshot_with_all_samples_since() -> None:
    service = Service(figures=[figures(number // 5, a=number // 3) for number in range(99)])
    service.parameter = {"given": Parameter(3, "client", 1, 0), "default": Parameter(4, "policy", 0, None)}
    text, done = recording(service, Clock(), snapshots=3)
    assert done == (3, "")
    assert samples(text) == [({"mem_free": 0},), ({"mem_free": 1}, {"mem_free": 2}), ({"mem_free": 3}, {"mem_free": 4})]
    first, *_ = parse_series(text, "f")
    assert (first.snapshot.parameters, [guest.key for guest in first.snapshot.guests]) == ({"given": 3}, [A])
    assert first.snapshot.host.properties == {"interval": 10}


def test_guests_are_in_the_order_in_which_policies_see_them() -> None:
    text, _ = recording(Service(figures=[figures(1, b=1, a=1)]), Clock(), snapshots=1)
    assert [guest.properties["name"] for guest in parse_series(text, "f")[0].snapshot.guests] == ["vm-a", "vm-b"]


@pytest.mark.parametrize(("seconds", "written"), [(1, 1), (9, 1), (10, 2), (35, 4)])
def test_it_ends_after_so_long(seconds: int, written: int) -> None:
    clock = Clock()
    assert recording(Service(figures=[figures(1)]), clock, seconds=seconds)[1] == (written, "")
    assert clock.now == 100 + seconds


def test_it_ends_when_it_is_told_to() -> None:
    text, done = recording(Service(figures=[figures(1)]), Clock(end=125))
    assert (done, text.count("\n"), text[-1]) == ((3, ""), 3, "\n")


def test_the_file_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(record, "FILE_BYTES", 1000)
    text, (written, why) = recording(Service(figures=[figures(1)]), Clock())
    assert 1 < written == text.count("\n")
    assert 700 < len(text) <= 1000
    assert why == "the file would grow beyond 0 MiB"
    assert strict_json.FILE_BYTES == 64 << 20


def test_a_file_that_is_there_already_stays(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    serve(monkeypatch, Service(figures=[figures(1)]))
    file = tmp_path / "world.mom"
    assert command.main(["record", str(file), "--snapshots", "1"]) == 0
    assert capsys.readouterr().out == f"{file}: 1 snapshot\n"
    before = file.read_text()
    assert command.main(["record", str(file), "--snapshots", "1"]) == 1
    assert (capsys.readouterr().err, file.read_text()) == (f"momctl: {file}: File exists\n", before)


@pytest.fixture
def mask() -> Iterator[set[int]]:
    yield {int(number) for number in signal.pthread_sigmask(signal.SIG_BLOCK, ())}


def test_signals_are_as_before_when_it_has_ended(monkeypatch: pytest.MonkeyPatch, mask: set[int]) -> None:
    serve(monkeypatch, Service(figures=[figures(1)]))
    assert command.main(["record", "-", "--snapshots", "1"]) == 0
    assert {int(number) for number in signal.pthread_sigmask(signal.SIG_BLOCK, ())} == mask


def test_a_signal_ends_the_sleep() -> None:
    with record.interruptions() as sleep:
        assert sleep(0.01) is True
        signal.raise_signal(signal.SIGTERM)
        assert sleep(60) is False


# Runs `momctl record` with a stand-in for the service.
RECORD = """
import sys
sys.path[:0] = sys.argv[1:3]
from test_momctl_runs import Service, figures
from momservice.cli import command, record
record.connected = lambda: Service(figures=[figures(1, a=2)])
sys.exit(command.main(["record", sys.argv[3]]))
"""


class Recorded:
    """A recording in a process of its own, which has begun; `trap`: what the shell that starts it does first."""

    def __init__(self, file: Path, trap: str) -> None:
        here = Path(__file__).parent
        program = [sys.executable, "-c", RECORD, str(here), str(here.parents[1]), str(file)]
        # The shell of a job in the background may have had SIGINT ignored for this process, too.
        begin = ["env", "--default-signal=INT,HUP,TERM", "sh", "-c", f'{trap} exec "$@"', "sh"]
        self.process = subprocess.Popen([*begin, *program], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        while not (file.exists() and file.read_text()):
            assert self.process.poll() is None, self.process.communicate()[0]
            time.sleep(0.02)

    def end(self, number: int) -> tuple[int, str]:
        """How it ends after a signal, and what it has said."""
        self.process.send_signal(number)
        said, _ = self.process.communicate(timeout=60)
        return self.process.returncode, said


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_that_ends_it_leaves_a_whole_file(tmp_path: Path, number: int) -> None:
    file = tmp_path / "world.mom"
    assert Recorded(file, "").end(number) == (0, f"{file}: 1 snapshot\n")
    assert samples(file.read_text()) == [({"mem_free": 1},)]


@pytest.mark.parametrize("trap", ["INT", "HUP", "TERM", "INT HUP TERM"])
def test_what_is_ignored_where_it_is_started_does_not_end_it_but_the_signal_to_end_does(tmp_path: Path, trap: str) -> None:
    file = tmp_path / "world.mom"
    recorded = Recorded(file, f"trap '' {trap};")
    for name in {*trap.split()} - {"TERM"}:
        recorded.process.send_signal(getattr(signal, f"SIG{name}"))
    with pytest.raises(subprocess.TimeoutExpired):
        recorded.process.wait(1.5)
    assert recorded.end(signal.SIGTERM) == (0, f"{file}: 1 snapshot\n")
    assert samples(file.read_text()) == [({"mem_free": 1},)]
