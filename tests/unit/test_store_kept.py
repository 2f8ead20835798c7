# SPDX-License-Identifier: GPL-2.0-or-later
"""What clients load and set outlives the service; what the disk refuses isn't in force."""

from __future__ import annotations

import asyncio
import errno
import json
import logging
import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from test_store import SCHEMA, WORLD, at_once

from momservice import errors
from momservice.building import MAX_TOLD
from momservice.bus.names import MAX_PARAMETERS, MAX_POLICIES, MAX_TEXT_BYTES
from momservice.config import Config
from momservice.layers import Layers, Parameter, from_json, to_json
from momservice.policy import Diagnostic
from momservice.snapshot import Entity, Snapshot
from momservice.store import PolicyStore


class Machine:
    """A folder of policy files and one for the state, and services that start there."""

    def __init__(self, folder: Path) -> None:
        self.files, self.state = folder / "files", folder / "state"
        self.files.mkdir()
        self.state.mkdir()

    def write(self, **texts: str) -> None:
        for name, text in texts.items():
            (self.files / f"{name}.policy").write_text(text)

    @property
    def config(self) -> Config:
        return replace(Config(), policy_dir=self.files)

    def start(self) -> PolicyStore:
        made = PolicyStore(SCHEMA, at_once, folder=self.state)
        made.world = lambda: WORLD
        asyncio.run(made.start(self.config))
        asyncio.run(made.keep())
        return made


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


@pytest.fixture
def refusing(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """From then on the disk answers this to each flush, 0: works again."""
    real, answer = os.fsync, [0]

    def fsync(descriptor: int) -> None:
        if answer[0]:
            raise OSError(answer[0], os.strerror(answer[0]))
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    return lambda code: answer.__setitem__(0, code)


def run(change: Any) -> Any:
    return asyncio.run(change)


# From one service to the next


def test_texts_hidden_names_and_parameters_outlive_the_service(machine: Machine) -> None:
    machine.write(a="(defvar i 1)", b="2")
    first = machine.start()
    run(first.set_policies({"c": '(defvar f 0.5) (defvar s "x") # \N{EURO SIGN}', "b": "(+ 1 1)"}))
    run(first.remove("a"))
    run(first.set_policies({"a": "(defvar i 2)"}))
    run(first.remove("b"))
    run(first.set_parameters({"f": 1, "i": 7}, 1000))
    second = machine.start()
    assert second.texts() == first.texts() == {"a": "(defvar i 2)", "c": '(defvar f 0.5) (defvar s "x") # \N{EURO SIGN}'}
    assert dict(second.each_parameter()) == dict(first.each_parameter())
    assert dict(second.each_parameter())["f"] == replace(dict(first.each_parameter())["f"], value=1.0, origin="client", uid=1000)
    assert second.problems == []
    run(second.reset())
    run(second.set_parameters({}, 0, replace=True))
    assert machine.start().texts() == {"a": "(defvar i 1)", "b": "2"}


def test_no_generation_is_given_twice(machine: Machine, refusing: Callable[[int], None]) -> None:
    seen = []
    for _ in range(3):
        made = machine.start()
        seen.append(made.generation)
        seen.append(run(made.set_policies({"a": "1"})))
        refusing(errno.EIO)
        with pytest.raises(errors.NotStored):
            run(made.set_policies({"a": "2"}))
        assert made.generation == seen[-1]
        refusing(0)
        seen.append(run(made.set_parameters({}, 0)))
    assert seen == sorted(set(seen))


def test_a_set_that_was_changed_by_another_upgrade_counts_as_another_generation(machine: Machine) -> None:
    machine.write(a="1")
    first = machine.start()
    machine.write(a="2")
    assert machine.start().generation > first.generation


def test_names_never_become_files(machine: Machine) -> None:
    made = machine.start()
    run(made.set_policies({"_evil..": "1", "a-b.json": "2"}))
    assert {file.name for file in machine.state.iterdir()} == {"policies-1.json", "policies-2.json"}


def test_origins_tell_file_default_and_client(machine: Machine) -> None:
    machine.write(a="(defvar i 1) (defvar j 1) (defvar k 1)", c="(defvar later 1)")
    made = machine.start()
    run(made.set_policies({"b": "(defvar m j) (defvar i 9) (defvar later 2)"}))
    run(made.set_parameters({"k": 2}, 7))
    found = {name: (each.value, each.origin) for name, each in made.each_parameter()}
    assert found == {"i": (1, "file"), "j": (1, "file"), "k": (2, "client"), "m": (1, "default"), "later": (2, "default")}


# A disk that refuses


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS, errno.EIO])
def test_what_the_disk_refuses_changes_nothing_and_is_said_until_it_takes_it(
    machine: Machine, refusing: Callable[[int], None], code: int
) -> None:
    machine.write(a="(defvar i 1)")
    made = machine.start()
    troubles: list[str] = []
    made.trouble = troubles.append
    run(made.set_policies({"b": "1"}))
    before = (made.texts(), made.program, made.generation, dict(made.values))
    refusing(code)
    for change in (made.set_policies({"b": "2"}), made.remove("a"), made.reset(), made.set_parameters({"i": 5}, 7)):
        with pytest.raises(errors.NotStored) as refused:
            run(change)
        assert str(refused.value) == f"nothing is changed, for it can't be stored: {os.strerror(code)}"
        assert (made.texts(), made.program, made.generation, dict(made.values)) == before
    run(made.keep())
    assert set(troubles[1:]) == {f"what clients load can't be stored, and so is refused: {os.strerror(code)}"}
    refusing(0)
    assert machine.start().texts() == before[0]
    run(made.keep())
    assert troubles[-1] == ""
    run(made.set_policies({"b": "3"}))
    assert machine.start().texts()["b"] == "3"


def test_a_reload_needs_no_disk(machine: Machine, refusing: Callable[[int], None]) -> None:
    machine.write(a="1")
    made = machine.start()
    refusing(errno.ENOSPC)
    machine.write(a="2")
    generation = made.generation
    assert run(made.reload(machine.config, SCHEMA)) > generation
    assert made.texts() == {"a": "2"}


def test_without_a_state_folder_the_files_run_and_loads_are_refused(machine: Machine) -> None:
    machine.write(a="1")
    machine.state.rmdir()
    made = machine.start()
    assert made.texts() == {"a": "1"}
    assert made.problems == ["the state folder can't be used until the next start: No such file or directory"]
    with pytest.raises(errors.NotStored, match="No such file"):
        run(made.set_policies({"a": "2"}))
    assert made.texts() == {"a": "1"}


def test_a_change_is_told_only_when_the_disk_has_it(machine: Machine) -> None:
    order: list[str] = []

    async def disk(function: Callable[[], Any]) -> Any:
        result = function()
        order.append(f"disk, {made.texts()}")
        return result

    made = PolicyStore(SCHEMA, at_once, disk, machine.state)
    made.changed = lambda: order.append(f"told, {made.texts()}")
    run(made.set_policies({"a": "1"}))
    assert order == ["disk, {}", "told, {'a': '1'}"]


# What is stored and can't be used


def test_a_damaged_file_costs_the_last_change_and_is_said_until_a_reload(machine: Machine, caplog: pytest.LogCaptureFixture) -> None:
    made = machine.start()
    for number in "123":
        run(made.set_policies({"a": number, "b": number}))
    newest = max(machine.state.iterdir(), key=lambda file: json.loads(file.read_text())["number"])
    newest.write_text(newest.read_text()[:-20])
    again = machine.start()
    assert again.texts() == {"a": "2", "b": "2"}
    assert again.generation > made.generation
    (problem,) = again.problems
    assert problem.startswith(f"the state file {newest.name} is damaged and set aside as {newest.stem}.damaged (")
    assert problem in caplog.text
    run(again.reload(machine.config, SCHEMA))
    assert again.problems == []


def test_what_no_longer_loads_waits_on_the_disk_for_files_that_it_runs_with(machine: Machine) -> None:
    machine.write(lib="(def f (x) x)", own="(f 0)")
    made = machine.start()
    run(made.set_policies({"needs": "(f 1)", "own": "(f 2)", "free": "3"}))
    # An upgrade.
    machine.write(lib="(def g (x) x)", own="(g 0)")
    made = machine.start()
    assert made.texts() == {"lib": "(def g (x) x)", "own": "(g 0)", "free": "3"}
    assert [problem.split(": ")[0] for problem in made.problems] == [
        "policy needs, which a client loaded, is left out",
        "policy own, which a client loaded, is left out",
    ]
    # What has nothing to do with them leaves them where they are, also on the disk...
    run(made.set_policies({"free": "4"}))
    run(made.set_parameters({}, 0))
    made = machine.start()
    assert (made.texts()["free"], len(made.problems)) == ("4", 2)
    # ...until a client says what is to become of each, ...
    run(made.remove("own"))
    assert len(made.problems) == 1
    # ...or there are files that they run with.
    run(made.reload(machine.config, SCHEMA))
    assert len(made.problems) == 1
    machine.write(lib="(def f (x) x)", own="1")
    run(made.reload(machine.config, SCHEMA))
    assert made.problems == []
    assert machine.start().texts() == {"lib": "(def f (x) x)", "needs": "(f 1)", "free": "4"}


def test_more_policies_than_there_may_be_leave_the_last_of_clients_out(machine: Machine) -> None:
    made = machine.start()
    run(made.set_policies({f"c{number:03}": "1" for number in range(MAX_POLICIES)}))
    machine.write(a="1", b="2")
    made = machine.start()
    assert len(made.texts()) == MAX_POLICIES
    assert [problem.split(",")[0] for problem in made.problems] == ["policy c254", "policy c255"]


def test_a_parameter_that_no_longer_fits_keeps_its_default(machine: Machine) -> None:
    machine.write(a="(defvar i 1)")
    made = machine.start()
    run(made.set_parameters({"i": 5}, 7))
    machine.write(a='(defvar i "text")')
    assert dict(machine.start().each_parameter())["i"] == Parameter("text", "file")
    machine.write(a="(defvar i 2)")
    assert dict(machine.start().each_parameter())["i"].value == 5


# The form in which it is stored


FULL = Layers(
    hidden=frozenset({"x", "y"}),
    texts={"a": '\x01"\\\N{EURO SIGN}\N{GRINNING FACE}\n', "b": ""},
    parameters={"p": Parameter(float("inf"), "client", 5, 1000), "q": Parameter(None, "client"), "r": Parameter(1 << 200, "client", 1, 0)},
)


def test_layers_are_read_as_they_were_written() -> None:
    assert from_json(json.loads(to_json(FULL))) == FULL


def test_what_is_missing_has_defaults_and_what_nobody_knows_is_passed_over() -> None:
    assert from_json({}) == Layers()
    assert from_json({"more": 1, "texts": {"a": "1"}, "parameters": {"p": {"value": 1, "by": "x"}}}) == Layers(
        texts={"a": "1"}, parameters={"p": Parameter(1, "client")}
    )


@pytest.mark.parametrize(
    "content",
    [
        None,
        [],
        {"texts": []},
        {"texts": {"../x": "1"}},
        {"texts": {"a": 1}},
        {"texts": {"a": "x" * (MAX_TEXT_BYTES + 1)}},
        {"texts": {f"p{number}": "" for number in range(MAX_POLICIES + 1)}},
        {"hidden": {}},
        {"hidden": [1]},
        {"hidden": ["/"]},
        {"hidden": ["a"] * (MAX_POLICIES + 1)},
        {"parameters": []},
        {"parameters": {"p": 1}},
        {"parameters": {"p": {"value": {"$float": "x"}}}},
        {"parameters": {"p": {"value": 1, "time_us": -1}}},
        {"parameters": {"p": {"value": 1, "uid": "root"}}},
        {"parameters": {"p": {"value": 1, "uid": 1 << 32}}},
        {"parameters": {f"p{number}": {"value": 1} for number in range(MAX_PARAMETERS + 1)}},
    ],
)
def test_what_was_never_written_like_that_is_damage(content: Any) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        from_json(content)


def test_what_clients_set_is_bounded_over_time(machine: Machine) -> None:
    made = machine.start()
    for half in ("a", "b"):
        names = [f"{half}{number}" for number in range(MAX_PARAMETERS * 3 // 4)]
        run(made.set_policies({"p": "\n".join(f"(defvar {name} 1)" for name in names)}))
        run(made.set_parameters(dict.fromkeys(names, 2), 0))
    assert len(machine.start()._built.layers.parameters) == len(names)
    run(made.set_policies({"q": "\n".join(f"(defvar c{name} 1)" for name in names)}))
    with pytest.raises(errors.LimitsExceeded):
        run(made.set_parameters({f"c{name}": 2 for name in names}, 0))


def test_hidden_names_are_bounded_over_time() -> None:
    layers = Layers()
    for number in range(MAX_POLICIES * 2):
        layers = replace(layers, files={f"f{number}": "1"}).without(f"f{number}")
    assert from_json(json.loads(to_json(layers))).hidden == layers.hidden


# Trials tell what figures may cure


def guests(count: int) -> Snapshot:
    return Snapshot(Entity("host", [{"mem_free": 5}]), [Entity(f"g{number}", [{}]) for number in range(count)])


CURABLE: Mapping[str, str] = {"a": "(+ 1 Host.mem_free)\n(with Guests g (+ 1 g.mem))\n(/ 1 (- Host.mem_free 5))"}


def test_a_trial_that_fails_by_its_figures_is_a_warning_and_told_once_for_all_guests(machine: Machine) -> None:
    made = machine.start()
    made.world = lambda: guests(50)
    found = run(made.validate(CURABLE))
    assert [(each.severity, each.code, each.place.line) for each in found] == [("warning", "type", 2), ("warning", "zero-division", 3)]
    made.world = lambda: None
    assert run(made.validate(CURABLE)) == []


def test_what_refuses_in_a_trial_is_an_error_of_the_validation(machine: Machine) -> None:
    found: list[Diagnostic] = run(machine.start().validate({"a": '(Host.Prop (or "nothing" 1))'}))
    assert [(each.severity, each.code) for each in found if each.severity == "error"] == [("error", "unknown-prop")]


def test_a_load_logs_the_warnings_of_its_trial_and_setting_parameters_does_not(machine: Machine, caplog: pytest.LogCaptureFixture) -> None:
    made = machine.start()
    made.world = lambda: guests(50)
    with caplog.at_level(logging.WARNING):
        run(made.set_policies({**CURABLE, "p": "(defvar i 1)"}))
    lines = [record.message for record in caplog.records]
    assert len(lines) == 2
    assert all(line.startswith("the policies are loaded, but now would fail: a:") for line in lines)
    caplog.clear()
    run(made.set_parameters({"i": 2}, 0))
    assert caplog.records == []


def test_what_a_trial_tells_is_bounded(machine: Machine) -> None:
    found = run(machine.start().validate({"a": "(/ 1 (- Host.mem_free 5))\n" * 200}))
    assert [each.code for each in found] == ["zero-division"] * MAX_TOLD


def test_what_is_known_without_a_trial_is_told_once(machine: Machine) -> None:
    assert [each.code for each in run(machine.start().validate({"a": "(/ 1 0)"}))] == ["always-fails"]
