# SPDX-License-Identifier: GPL-2.0-or-later
"""What policies keep by SetVar outlives the process; writing it is bounded and holds up nobody."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import threading
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from test_engine import A, B, Bench
from test_store import SCHEMA, at_once

from momservice import keeping
from momservice.hypervisor import HypervisorUnavailable
from momservice.hypervisor.workers import Workers
from momservice.keeping import Keeper, Variables, from_json, to_json
from momservice.snapshot import Value
from momservice.store import PolicyStore

COUNT = '(Host.SetVar "n" (+ 1 (or (Host.GetVar "n") 0))) (with Guests g (g.SetVar "n" (+ 1 (or (g.GetVar "n") 0))))'


class Engine:
    """Variables that are given."""

    def __init__(self, variables: Variables | None = None) -> None:
        self.variables: Variables = variables or {}
        self.reasons: dict[str, str] = {}

    def set_reason(self, part: str, reason: str) -> None:
        self.reasons[part] = reason


def keeper(folder: Path, engine: keeping.Keeps) -> Keeper:
    return Keeper(folder, at_once, PolicyStore(SCHEMA, at_once), engine)


def restored(folder: Path) -> Variables:
    engine = Engine()
    asyncio.run(keeper(folder, engine).restore())
    return engine.variables


def numbers(bench: Bench) -> Mapping[str, Value]:
    return {key: kept["n"] for key, kept in bench.engine.variables.items()}


VALUES: Mapping[str, Value] = {
    "none": None,
    "true": True,
    "one": 1,
    "float": 1.0,
    "nan": float("inf"),
    "big": -(1 << 250),
    "text": 'a\n"\x01\udc80\N{EURO SIGN}',
    "list": [1, [2.5, "x", []]],
}


def test_values_come_back_with_their_types(tmp_path: Path) -> None:
    engine = Engine({"host": VALUES, "g": {"$float": 1, "": 2}})
    asyncio.run(keeper(tmp_path, engine).keep())
    assert restored(tmp_path) == engine.variables
    assert [type(value) for value in restored(tmp_path)["host"].values()] == [type(value) for value in VALUES.values()]


def test_only_what_has_changed_is_written(tmp_path: Path) -> None:
    engine = Engine({"host": {"n": 1}})
    keep = keeper(tmp_path, engine)

    def written() -> int:
        asyncio.run(keep.keep())
        return keep._document.number

    assert [written(), written()] == [1, 1]
    engine.variables = {"host": {"n": 1}}
    assert written() == 1
    # For policies true and 1 aren't the same.
    engine.variables = {"host": {"n": True}}
    assert written() == 2
    again = keeper(tmp_path, engine)
    asyncio.run(again.restore())
    asyncio.run(again.keep())
    assert again._document.number == 2


def test_a_disk_that_refuses_is_said_until_it_takes_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = Engine({"host": {"n": 1}})
    keep = keeper(tmp_path, engine)

    def full(_descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        asyncio.run(keep.keep())
    assert engine.reasons == {"variables": "variables that policies keep can't be stored: No space left on device"}
    assert restored(tmp_path) == {}
    asyncio.run(keep.keep())
    assert engine.reasons == {"variables": ""}
    assert restored(tmp_path) == {"host": {"n": 1}}


def test_what_is_too_large_is_left_out_entity_by_entity(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keeping, "LIMIT_BYTES", 2048)
    engine = Engine({"host": {"n": 1}, "a": {"n": "x" * 900}, "b": {"n": "x" * 900}, "c": {"n": 2}})
    asyncio.run(keeper(tmp_path, engine).keep())
    assert restored(tmp_path).keys() == {"host", "a", "c"}
    assert max(file.stat().st_size for file in tmp_path.iterdir()) <= 2048
    assert engine.reasons["variables"] == "what policies keep is too much to be stored, and left out for 1 guests or the host"


def test_a_damaged_file_is_reported_and_what_it_held_is_the_former(tmp_path: Path) -> None:
    engine = Engine()
    keep = keeper(tmp_path, engine)
    for number in (1, 2):
        engine.variables = {"host": {"n": number}}
        asyncio.run(keep.keep())
    (tmp_path / "variables-2.json").write_text('{"host"')
    policies = PolicyStore(SCHEMA, at_once)
    asyncio.run(Keeper(tmp_path, at_once, policies, engine).restore())
    assert engine.variables == {"host": {"n": 1}}
    assert [problem.partition(" (")[0] for problem in policies.problems] == [
        "the state file variables-2.json is damaged and set aside as variables-2.damaged"
    ]


@pytest.mark.parametrize("content", [None, [], {"host": 1}, {"host": {"n": {"$float": "x"}}}, {"host": {"n": 1 << 300}}])
def test_what_was_never_written_like_that_is_damage(content: Any) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        from_json(content)


def test_nothing_is_an_empty_object() -> None:
    assert from_json(json.loads(to_json({})[0])) == {}


# In the engine


def next_process(folder: Path) -> Bench:
    bench = Bench(COUNT)
    asyncio.run(keeper(folder, bench.engine).restore())
    return bench


def test_counters_go_on_in_the_next_process(tmp_path: Path) -> None:
    bench = Bench(COUNT)
    bench.rounds(3)
    asyncio.run(keeper(tmp_path, bench.engine).keep())
    bench = next_process(tmp_path)
    bench.rounds()
    assert numbers(bench) == {"host": 4, "a": 4, "b": 4}


def test_those_of_guests_wait_for_libvirt_and_go_with_the_guests(tmp_path: Path) -> None:
    bench = Bench(COUNT)
    bench.rounds(3)
    asyncio.run(keeper(tmp_path, bench.engine).keep())
    bench = next_process(tmp_path)
    bench.source.answer = HypervisorUnavailable("not yet")
    bench.rounds()
    # For so long that figures would be out of date.
    bench.engine._sampling._seen_s -= 3600
    bench.rounds()
    assert numbers(bench) == {"host": 5, "a": 3, "b": 3}
    bench.source.answer = [B]
    bench.rounds()
    assert numbers(bench) == {"host": 6, "b": 4}
    bench.source.answer = [A, B]
    bench.rounds()
    assert numbers(bench) == {"host": 7, "a": 1, "b": 5}


# At its beat


def test_a_disk_that_hangs_holds_up_neither_rounds_nor_a_later_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench(COUNT)
    hang, real = threading.Event(), os.fsync

    def slow(descriptor: int) -> None:
        hang.wait(30)
        real(descriptor)

    monkeypatch.setattr(os, "fsync", slow)

    async def scenario() -> None:
        disk: Callable[..., Any] = partial(Workers(2, "state").run, deadline_s=None)
        kept = Keeper(tmp_path, disk, PolicyStore(SCHEMA, at_once), bench.engine)
        for work in (bench.engine._sampling.host_round, bench.engine._sampling.guest_round, bench.engine._policy_round):
            await work()
        running = asyncio.ensure_future(kept.run())
        last = asyncio.ensure_future(kept.keep())
        while not (tmp_path / "variables.new").exists():
            await asyncio.sleep(0.01)
        await bench.engine._policy_round()
        assert not last.done()
        hang.set()
        await last
        running.cancel()

    asyncio.run(asyncio.wait_for(scenario(), 60))
    assert restored(tmp_path)["host"] == {"n": 2}


def test_a_beat_that_fails_is_followed_by_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(keeping, "INTERVAL_S", 0)
    engine = Engine({"host": {"bad": object()}})  # type: ignore[dict-item]  # that is what fails

    async def scenario() -> None:
        running = asyncio.ensure_future(keeper(tmp_path, engine).run())
        while "isn't stored" not in caplog.text:
            await asyncio.sleep(0.01)
        engine.variables = {"host": {"n": 1}}
        while not list(tmp_path.iterdir()):
            await asyncio.sleep(0.01)
        running.cancel()

    asyncio.run(asyncio.wait_for(scenario(), 30))
    assert restored(tmp_path) == {"host": {"n": 1}}
