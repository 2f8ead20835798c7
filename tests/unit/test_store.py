# SPDX-License-Identifier: GPL-2.0-or-later
"""Policies and parameters change all or nothing; a bad file at the start costs only itself."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from momservice import errors
from momservice.building import build_tolerantly
from momservice.bus.names import MAX_POLICIES, MAX_TEXT_BYTES
from momservice.config import Config, read_text
from momservice.fields import Names, Schema
from momservice.policy import evaluate
from momservice.snapshot import Entity, Snapshot, Value
from momservice.store import MAX_WAITING, PolicyStore
from momservice.watching import Watcher

SCHEMA = Schema(
    Names(frozenset({"mem_free"}), frozenset({"mem_free"}), frozenset({"ksm_run"}), frozenset()),
    Names(frozenset({"mem"}), frozenset({"mem"}), frozenset({"balloon_target"}), frozenset()),
)
WORLD = Snapshot(Entity("host", [{"mem_free": 5}]), [Entity("g", [{"mem": 1}])])


async def at_once(function: Callable[[], Any]) -> Any:
    return function()


def store(world: Snapshot | None = WORLD) -> PolicyStore:
    made = PolicyStore(SCHEMA, at_once)
    made.world = lambda: world
    return made


def started(folder: Path, **files: str) -> PolicyStore:
    for name, text in files.items():
        (folder / f"{name}.policy").write_text(text)
    made = store()
    asyncio.run(made.start(replace(Config(), policy_dir=folder)))
    return made


def refused(made: PolicyStore, texts: dict[str, str], error: type[errors.MomError]) -> str:
    before = (made.texts(), made.generation, made.program)
    with pytest.raises(error) as caught:
        asyncio.run(made.set_policies(texts))
    assert (made.texts(), made.generation, made.program) == before
    return str(caught.value)


def test_a_good_text_replaces_the_old_and_counts_a_generation() -> None:
    made = store()
    assert asyncio.run(made.set_policies({"50_main_": "1"})) == 1
    assert asyncio.run(made.set_policies({"50_main_": "2", "a": "(defvar x 1)"})) == 2
    assert made.texts() == {"50_main_": "2", "a": "(defvar x 1)"}
    assert list(evaluate(made.program, WORLD).results) == [2, 1]


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("\n  (+ 1", "50_main_:"),
        ("(nonsense 1)", "50_main_:1:2"),
        ("(+ 1)", "50_main_:1:"),
        # Only the trial run finds this: the name isn't known before.
        ('(Host.Prop (or "nothing" 1))', "50_main_:1:"),
    ],
)
def test_a_text_that_is_refused_changes_nothing(text: str, place: str) -> None:
    made = store()
    asyncio.run(made.set_policies({"50_main_": "(defvar x 1)"}))
    assert refused(made, {"50_main_": text}, errors.InvalidPolicy).startswith(place)


def test_one_bad_text_of_several_refuses_all() -> None:
    refused(store(), {"a": "1", "b": "("}, errors.InvalidPolicy)


def test_errors_that_figures_can_cure_do_not_refuse() -> None:
    made = store()
    asyncio.run(made.set_policies({"a": "(/ 1 0) (+ nil 1)"}))
    assert len(evaluate(made.program, WORLD).failures) == 2


def test_without_a_snapshot_policies_are_checked_but_not_tried() -> None:
    made = store(world=None)
    assert asyncio.run(made.set_policies({"a": '(Host.Prop (or "nothing" 1))'})) == 1
    refused(made, {"a": "("}, errors.InvalidPolicy)


@pytest.mark.parametrize("name", ["", "-a", ".a", "a/b", "a" * 65, "a\n", "ä", "a b"])
def test_a_bad_name_is_refused(name: str) -> None:
    refused(store(), {name: "1"}, errors.InvalidArgs)


def test_client_texts_are_bounded_in_all() -> None:
    made = store()
    half = "#" + "x" * (MAX_TEXT_BYTES // 2)
    asyncio.run(made.set_policies({"a": half}))
    refused(made, {"b": half}, errors.LimitsExceeded)


def test_the_number_of_policies_is_bounded_and_files_count_too(tmp_path: Path) -> None:
    text = refused(started(tmp_path, a="1", b="2"), {f"p{n}": "1" for n in range(MAX_POLICIES)}, errors.LimitsExceeded)
    assert text == "258 policies with those from files; at most 256 can be loaded"


def test_files_beyond_the_number_of_policies_are_left_out_and_counted(tmp_path: Path) -> None:
    made = started(tmp_path, **{f"p{n:03}": "1" for n in range(MAX_POLICIES + 44)})
    assert sorted(made.texts()) == [f"p{n:03}" for n in range(MAX_POLICIES)]
    assert made.problems == ["policy-dir: 300 policies, of which the last 44 by name are left out"]
    with pytest.raises(errors.InvalidPolicy, match="the last 44 by name"):
        asyncio.run(made.reload(replace(Config(), policy_dir=tmp_path), SCHEMA))


def test_files_are_read_only_as_far_as_they_fit_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read = 0

    def counting(file: Path, limit_bytes: int) -> str:
        nonlocal read
        text = read_text(file, limit_bytes)
        read += len(text)
        return text

    monkeypatch.setattr("momservice.building.read_text", counting)
    large = "#" + "x" * 999_999
    made = started(tmp_path, **{f"large{n}": large for n in range(5)}, small="1")
    assert made.texts() == {"large0": large, "small": "1"}
    assert made.problems == [f"policy file large{n}.policy: has 1000000 bytes: with those before it more than 1048576" for n in range(1, 5)]
    assert read == len(large) + 1


def test_what_is_said_of_a_file_is_one_printable_line(tmp_path: Path) -> None:
    (tmp_path / "a\n\x1b[31mforged.policy").write_text("1")
    (tmp_path / "b.policy").write_text("(Host.Prop 'x\n\x1b[31mforged')")
    _, problems = build_tolerantly(replace(Config(), policy_dir=tmp_path), SCHEMA)
    assert len(problems) == 2
    assert all(problem.isprintable() for problem in problems)


def test_files_are_the_base_and_come_back(tmp_path: Path) -> None:
    made = started(tmp_path, a="1", b="2")
    asyncio.run(made.remove("a"))
    assert made.texts() == {"b": "2"}
    asyncio.run(made.set_policies({"c": "3"}, replace=True))
    assert made.texts() == {"c": "3"}
    asyncio.run(made.set_policies({"b": "4"}))
    assert made.texts() == {"b": "4", "c": "3"}
    asyncio.run(made.remove("b"))
    assert made.texts() == {"c": "3"}
    asyncio.run(made.reset())
    assert made.texts() == {"a": "1", "b": "2"}


def test_removing_what_there_is_not_is_an_error() -> None:
    with pytest.raises(errors.UnknownPolicy):
        asyncio.run(store().remove("a"))


def test_a_bad_file_at_the_start_costs_only_itself_and_what_needs_it(tmp_path: Path) -> None:
    (tmp_path / "e.policy").symlink_to("/dev/zero")
    (tmp_path / "bad name.policy").write_text("1")
    made = started(tmp_path, a="(def f () 1)(", b="(f)", c="(defvar x 1)", d="x")
    assert made.texts() == {"c": "(defvar x 1)", "d": "x"}
    assert len(made.problems) == 4
    assert any(problem.startswith("policy a is left out: a:1:") for problem in made.problems)


def test_a_bad_file_at_reload_refuses_the_reload(tmp_path: Path) -> None:
    made = started(tmp_path, a="1", b="2")
    (tmp_path / "a.policy").write_text("(")
    with pytest.raises(errors.InvalidPolicy):
        asyncio.run(made.reload(replace(Config(), policy_dir=tmp_path), SCHEMA))
    assert made.texts() == {"a": "1", "b": "2"}
    (tmp_path / "a.policy").write_text("5")
    asyncio.run(made.reload(replace(Config(), policy_dir=tmp_path), SCHEMA))
    assert made.texts() == {"a": "5", "b": "2"}


def test_parameters_are_bound_instead_of_their_defaults_and_add_up() -> None:
    made = store()
    asyncio.run(made.set_policies({"a": "(defvar i 1) (defvar f 0.5)", "b": "(+ i f)"}))
    asyncio.run(made.set_parameters({"i": 10}, 7))
    asyncio.run(made.set_parameters({"f": 2}, 8))
    found = dict(made.each_parameter())
    assert (found["i"].value, found["i"].origin, found["i"].uid) == (10, "client", 7)
    assert (found["f"].value, found["f"].uid) == (2.0, 8)
    assert list(evaluate(made.program, replace(WORLD, parameters=made.values)).results)[-1] == 12.0


def test_parameters_that_are_told_one_by_one_are_those_of_one_moment() -> None:
    made = store()
    asyncio.run(made.set_policies({"a": "(defvar i 1) (defvar f 0.5)"}))
    told = made.each_parameter()
    first = next(told)
    asyncio.run(made.set_policies({"a": "(defvar i 2)"}))
    assert {name: parameter.value for name, parameter in (first, *told)} == {"i": 1, "f": 0.5}
    assert dict(made.each_parameter())["i"].value == 2


def test_replacing_parameters_puts_the_others_back_to_their_defaults() -> None:
    made = store()
    asyncio.run(made.set_policies({"a": "(defvar i 1) (defvar f 0.5)"}))
    asyncio.run(made.set_parameters({"i": 10}, 7))
    asyncio.run(made.set_parameters({"f": 2}, 7, replace=True))
    assert {name: (p.value, p.origin) for name, p in made.each_parameter()} == {"i": (1, "default"), "f": (2.0, "client")}


@pytest.mark.parametrize(
    ("values", "error"), [({"nothing": 1}, errors.UnknownParameter), ({"i": "x"}, errors.InvalidArgs), ({"f": "x"}, errors.InvalidArgs)]
)
def test_a_bad_parameter_refuses_all_of_them(values: dict[str, Any], error: type[errors.MomError]) -> None:
    made = store()
    asyncio.run(made.set_policies({"a": "(defvar i 1) (defvar f 0.5)"}))
    with pytest.raises(error):
        asyncio.run(made.set_parameters({"i": 5, **values}, 7))
    assert dict(made.each_parameter())["i"].value == 1


def test_a_parameter_survives_a_policy_that_does_not_know_it() -> None:
    made = store()
    asyncio.run(made.set_policies({"a": "(defvar i 1)"}))
    asyncio.run(made.set_parameters({"i": 5}, 7))
    asyncio.run(made.set_policies({"a": "1"}))
    assert dict(made.each_parameter()) == {}
    asyncio.run(made.set_policies({"a": "(defvar i 2)"}))
    assert dict(made.each_parameter())["i"].value == 5


def test_changes_are_serialized_and_their_queue_is_bounded() -> None:
    running, most = 0, 0

    async def slow(function: Callable[[], Any]) -> Any:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0)
        running -= 1
        return function()

    async def flood() -> list[Any]:
        made = PolicyStore(SCHEMA, slow)
        return await asyncio.gather(*(made.set_policies({"a": str(n)}) for n in range(MAX_WAITING + 5)), return_exceptions=True)

    outcomes = asyncio.run(flood())
    assert most == 1
    assert sum(isinstance(outcome, errors.Busy) for outcome in outcomes) == 4
    assert sorted(outcome for outcome in outcomes if isinstance(outcome, int)) == list(range(1, MAX_WAITING + 2))


@pytest.mark.parametrize("reload_first", [True, False])
def test_a_reload_and_a_change_wait_for_each_other(tmp_path: Path, reload_first: bool) -> None:
    running = 0

    async def single(function: Callable[[], Any]) -> Any:
        nonlocal running
        if running:
            raise errors.Busy("as the one worker says")
        running += 1
        await asyncio.sleep(0)
        running -= 1
        return function()

    async def both() -> None:
        made = PolicyStore(SCHEMA, single)
        (tmp_path / "a.policy").write_text("1")
        work = [made.reload(replace(Config(), policy_dir=tmp_path), SCHEMA), made.set_policies({"b": "2"})]
        assert await asyncio.gather(*(work if reload_first else work[::-1])) == [1, 2]
        assert made.texts() == {"a": "1", "b": "2"}

    asyncio.run(both())


class Changes(Watcher):
    """Writes down what changes."""

    def __init__(self) -> None:
        self.lines: list[object] = []

    def policies_changed(self, generation: int, names: Sequence[str]) -> None:
        self.lines.append((generation, names))

    def parameters_changed(self, values: Mapping[str, Value]) -> None:
        self.lines.append(values)


def test_watchers_hear_which_policies_and_parameters_are_others_now(tmp_path: Path) -> None:
    made, changes = started(tmp_path, a="(defvar i 1)", b="2"), Changes()
    made.watchers.all.append(changes)

    def heard(change: Any) -> list[object]:
        changes.lines.clear()
        asyncio.run(change)
        return list(changes.lines)

    assert heard(made.set_policies({"b": "3", "c": "(defvar f 0.5)"})) == [(1, ["b", "c"]), {"f": 0.5}]
    assert heard(made.set_parameters({"i": 5}, 7)) == [{"i": 5}]
    assert heard(made.set_parameters({"f": 1}, 7, replace=True)) == [{"f": 1.0, "i": 1}]
    # The same again is a change that leads to nothing new.
    assert heard(made.set_parameters({"f": 1}, 7)) == []
    assert heard(made.set_policies({"b": "3"})) == []
    assert heard(made.set_policies({"c": "(defvar f 2)"}, replace=True)) == [(6, ["a", "b", "c"]), {"f": 1}]
    assert heard(made.reset()) == [(7, ["a", "b", "c"]), {"i": 1}]
    assert heard(made.reset()) == []


def test_the_same_texts_keep_their_program_unless_other_names_are_known(tmp_path: Path) -> None:
    made = started(tmp_path, a="(defvar i 1)")
    program = made.program
    asyncio.run(made.set_parameters({"i": 5}, 7))
    assert made.program is program
    asyncio.run(made.reload(replace(Config(), policy_dir=tmp_path), replace(SCHEMA, host=SCHEMA.guest)))
    assert made.program is not program
