# SPDX-License-Identifier: GPL-2.0-or-later
"""Metrics: that the official parsers read them, that no field is forgotten, and how the file is written."""

from __future__ import annotations

import asyncio
import os
import re
import stat
import threading
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from prometheus_client import parser
from prometheus_client.openmetrics import parser as openmetrics

from momservice import metrics_file
from momservice.collectors import registry
from momservice.controllers import Outcome, World
from momservice.metrics import LEFT_OUT, TABLE, State, Tally, families, text
from momservice.metrics_file import MetricsFile, put
from momservice.snapshot import Sample, Value

UUID = "00000000-0000-4000-8000-000000000001"
HOSTILE = 'a"b\\c\nd\u2028\x1b[31m{},=\N{SNOWMAN}'
Found = dict[tuple[str, frozenset[tuple[str, str]]], float]


def full() -> State:
    """A state in which every metric has a value."""

    def sample(collectors: Sequence[Any]) -> dict[str, Value]:
        return {field.name: True if field.type == "bool" else 12 for part in collectors for field in part.FIELDS}

    host, guest = sample(list(registry.HOST.values())), sample(list(registry.GUEST.values()))
    tally = Tally(3, 1, Counter({("ksm_run", "applied"): 2, ("balloon_target", "held"): 5}), {UUID: 65536})
    return State("0.1", "active", 7, 10_000, True, False, True, 1_700_000_000_123_456, 1_234, host, {UUID: guest}, {UUID: HOSTILE}, tally)


def parsed(told: str, read: Callable[[str], Any]) -> Found:
    """All samples as a parser reads them."""
    return {(s.name, frozenset(s.labels.items())): float(s.value) for family in read(told) for s in family.samples}


def found(told: str) -> Found:
    """All samples, as both official parsers read them."""
    strict = parsed(told, openmetrics.text_string_to_metric_families)
    assert parsed(told, parser.text_string_to_metric_families) == strict
    return strict


def value(told: str, name: str, /, **labels: str) -> float | None:
    """The sample of that name that has these labels, and maybe more."""
    values = [number for (key, all_labels), number in found(told).items() if key == name and labels.items() <= dict(all_labels).items()]
    assert len(values) <= 1
    return values[0] if values else None


# --- the table ---------------------------------------------------------------------------------------------------------------------------


def test_every_metric_is_in_a_full_text_and_both_parsers_agree_on_it() -> None:
    told = text(full())
    assert {name for name, _ in found(told)} == {row.sample for row in TABLE}
    assert told.endswith("\n# EOF\n")


def test_types_units_and_help_are_what_the_table_says() -> None:
    rows = {row.family: row for row in TABLE}
    read = {family.name: family for family in openmetrics.text_string_to_metric_families(text(full()))}  # type: ignore[no-untyped-call]
    assert read.keys() == rows.keys()
    for name, row in rows.items():
        assert (read[name].type, read[name].unit, read[name].documentation) == (row.kind, row.unit, row.doc)
        assert {frozenset(sample.labels) for sample in read[name].samples} == {frozenset(row.labels)}


def test_names_keep_to_the_conventions_and_texts_to_what_both_formats_know() -> None:
    for row in TABLE:
        assert re.fullmatch(r"mom_[a-z0-9]+(_[a-z0-9]+)*", row.sample)
        assert row.sample.endswith("_total") == (row.kind == "counter")
        assert row.unit in ("", "bytes", "seconds", "ratio")
        assert not re.search(r'["\\\n]', row.doc)


@pytest.mark.parametrize("kind", ["host", "guest"])
def test_each_field_is_a_metric_or_left_out_for_a_reason(kind: str) -> None:
    collectors: Sequence[Any] = list((registry.HOST if kind == "host" else registry.GUEST).values())
    fields = {field.name for part in collectors for field in part.FIELDS if not field.name.startswith("time_")}
    shown = {row.source for row in TABLE if row.sample.startswith("mom_guest_") == (kind == "guest")}
    assert fields - shown == LEFT_OUT[kind].keys()
    assert not shown & LEFT_OUT[kind].keys()


def test_values_are_in_base_units() -> None:
    told = text(full())
    assert value(told, "mom_host_memory_size_bytes") == 12 * 1024
    assert value(told, "mom_ksm_sharing_bytes") == 12 * os.sysconf("SC_PAGESIZE")
    assert value(told, "mom_host_memory_pressure_ratio", kind="full", window="60s") == 0.12
    assert value(told, "mom_ksm_sleep_seconds") == 0.012
    assert value(told, "mom_last_evaluation_timestamp_seconds") == 1_700_000_000.123456
    assert value(told, "mom_guest_balloon_target_bytes", uuid=UUID) == 65536 * 1024
    assert value(told, "mom_guest_swapped_in_bytes_total", uuid=UUID) == 12 * 1024
    assert [value(told, f"mom_{part}_up") for part in ("libvirt", "helpers", "polkit")] == [1, 0, 1]
    assert value(told, "mom_status", status="active") == 1
    assert value(told, "mom_status", status="paused") == 0
    assert value(told, "mom_controls_total", control="balloon_target", status="held") == 5


def test_a_hostile_name_stays_one_label() -> None:
    told = text(full())
    (name,) = {dict(labels)["name"] for key, labels in found(told) if key == "mom_guest_held"}
    assert name == 'a"b\\c\ufffdd\ufffd\ufffd[31m{},=\N{SNOWMAN}'
    assert "\x1b" not in told


@pytest.mark.parametrize("odd", [None, "7", float("nan"), float("inf"), [1], {"a": 1}])
def test_what_is_no_number_is_left_out(odd: Value) -> None:
    state = State("0", "starting", 0, 10_000, False, False, False, 0, 0, {"mem_available": odd, "mem_free": 2**70}, {UUID: {"rss": odd}})
    told = text(state)
    assert value(told, "mom_host_memory_size_bytes") is None
    assert value(told, "mom_host_memory_free_bytes") == 2.0**80
    assert value(told, "mom_guest_resident_bytes") is None
    assert value(told, "mom_last_evaluation_timestamp_seconds") is None


def test_guests_are_counted_by_state() -> None:
    guests: dict[str, Sample] = {"a": {"held": True}, "b": {"held": False}, "c": {"held": False, "balloon_works": True}, "d": {}}
    guests |= {"e": {"held": False, "balloon_works": False}, "f": {"held": True, "balloon_works": False}}
    told = text(State("0", "active", 0, 1000, True, True, True, 1, 1, {}, guests))
    assert [value(told, "mom_guests", state=state) for state in ("managed", "held", "unmanaged", "unknown")] == [2, 2, 1, 1]


def test_without_a_tally_what_only_the_service_counts_is_left_out() -> None:
    state = State("0", "active", 0, 1000, True, True, True, 1, 1)
    assert not {metric.sample for metric, _ in families(state)} & {"mom_policy_runs_total", "mom_controls_total"}


# --- the file ----------------------------------------------------------------------------------------------------------------------------


class FakeEngine:
    """All of the engine that the file needs."""

    def __init__(self, file: Path | None) -> None:
        self.metrics_file = file
        self.interval_ms = 10_000
        self.hypervisor_connected = self.helper_available = self.polkit_available = True
        self.last_evaluation_us = self.evaluation_duration_us = 1
        self.reasons: list[str] = []

    def status(self) -> tuple[str, list[str]]:
        return "active", []

    def statistics(self) -> tuple[Sample, dict[str, Sample]]:
        return {"mem_available": 4}, {UUID: {"balloon_cur": 2}}

    def active_guests(self) -> list[tuple[str, str]]:
        return [(UUID, "vm1")]

    def set_reason(self, part: str, reason: str) -> None:
        assert part == "metrics"
        self.reasons.append(reason)


class Clock:
    """A clock that stands."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


RUN: Any = SimpleNamespace(decisions=SimpleNamespace(failures=[1, 2]))
WORLD = World({}, {}, 0, 0, 5)


def tried(work: Callable[[MetricsFile, FakeEngine, Clock], Awaitable[None]], file: Path | None) -> FakeEngine:
    """Let a writer work in a loop."""
    engine, clock = FakeEngine(file), Clock()

    async def run() -> None:
        await work(MetricsFile(engine, lambda: 7, lambda: engine.polkit_available, clock), engine, clock)  # type: ignore[arg-type]  # all of it that is used

    asyncio.run(run())
    return engine


async def written(writer: MetricsFile) -> None:
    """Wait for what is being written."""
    assert writer._writing is not None
    await writer._writing


def test_the_file_tells_that_polkit_is_gone(tmp_path: Path) -> None:
    file = tmp_path / "mom.prom"

    async def work(writer: MetricsFile, engine: FakeEngine, _clock: Clock) -> None:
        seen = []
        for engine.polkit_available in (True, False):
            writer.ran(RUN)
            await written(writer)
            seen.append(value(file.read_text(), "mom_polkit_up"))
        assert seen == [1, 0]

    tried(work, file)


def test_each_run_writes_the_file_for_everybody_to_read(tmp_path: Path) -> None:
    file = tmp_path / "mom.prom"

    async def work(writer: MetricsFile, _engine: FakeEngine, _clock: Clock) -> None:
        before = os.umask(0o077)
        try:
            writer.ran(RUN)
            await written(writer)
        finally:
            os.umask(before)
        assert value(file.read_text(), "mom_policy_runs_total") == 1
        outcomes = [Outcome(UUID, "balloon_target", 1, 1024, "applied"), Outcome(UUID, "balloon_target", 1, None, "held")]
        writer.applied(RUN, outcomes)
        writer.ran(RUN)
        await written(writer)

    assert tried(work, file).reasons == ["", ""]
    told = file.read_text()
    assert (value(told, "mom_policy_runs_total"), value(told, "mom_policy_failures_total")) == (2, 4)
    assert value(told, "mom_controls_total", control="balloon_target", status="held") == 1
    assert value(told, "mom_guest_balloon_target_bytes", name="vm1") == 1024 * 1024
    assert value(told, "mom_policy_generation") == 7
    assert stat.S_IMODE(file.stat().st_mode) == 0o644
    assert [each.name for each in tmp_path.iterdir()] == ["mom.prom"]


def test_without_runs_it_is_written_at_the_same_pace(tmp_path: Path) -> None:
    file = tmp_path / "mom.prom"

    async def work(writer: MetricsFile, _engine: FakeEngine, clock: Clock) -> None:
        writer.sampled(WORLD)
        await written(writer)
        file.unlink()
        clock.now += 10
        writer.sampled(WORLD)
        assert writer._writing is not None
        assert writer._writing.done()
        clock.now += 6
        writer.sampled(WORLD)
        await written(writer)
        assert file.exists()

    tried(work, file)


def test_a_guest_that_is_gone_has_no_target_any_more(tmp_path: Path) -> None:
    async def work(writer: MetricsFile, _engine: FakeEngine, _clock: Clock) -> None:
        writer.applied(RUN, [Outcome(UUID, "balloon_target", 1, 1024, "applied")])
        assert value(text(writer.state()), "mom_guest_balloon_target_bytes", name="vm1") == 1024 * 1024
        writer.sampled(WORLD)
        assert value(text(writer.state()), "mom_guest_balloon_target_bytes") is None

    tried(work, tmp_path / "mom.prom")


def test_without_a_file_nothing_is_written(tmp_path: Path) -> None:
    async def work(writer: MetricsFile, _engine: FakeEngine, _clock: Clock) -> None:
        writer.ran(RUN)
        writer.sampled(WORLD)
        assert writer._writing is None
        await writer.end()

    assert tried(work, None).reasons == [""]


def test_a_file_that_could_not_be_written_and_is_not_wanted_any_more_is_no_reason(tmp_path: Path) -> None:
    async def work(writer: MetricsFile, engine: FakeEngine, _clock: Clock) -> None:
        writer.ran(RUN)
        await written(writer)
        engine.metrics_file = None
        writer.ran(RUN)

    assert tried(work, tmp_path / "none" / "mom.prom").reasons == ["the metrics file can't be written: No such file or directory", ""]


def test_what_cannot_be_written_is_a_reason_without_its_path_and_ends_with_the_cause(tmp_path: Path) -> None:
    file = tmp_path / "later" / "mom.prom"

    async def work(writer: MetricsFile, _engine: FakeEngine, _clock: Clock) -> None:
        for make in (None, file.parent.mkdir):
            if make:
                make()
            writer.ran(RUN)
            await written(writer)

    assert tried(work, file).reasons == ["the metrics file can't be written: No such file or directory", ""]
    assert file.exists()


def test_a_file_that_is_not_wanted_any_more_goes_and_the_last_one_at_the_end(tmp_path: Path) -> None:
    first, second = tmp_path / "a.prom", tmp_path / "b.prom"

    async def work(writer: MetricsFile, engine: FakeEngine, _clock: Clock) -> None:
        writer.ran(RUN)
        await written(writer)
        engine.metrics_file = second
        writer.ran(RUN)
        await written(writer)
        assert (first.exists(), second.exists()) == (False, True)
        await writer.end()

    assert tried(work, first).reasons == ["", "", ""]
    assert list(tmp_path.iterdir()) == []


def test_a_write_that_hangs_holds_up_nothing_and_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics_file, "DEADLINE_S", 0.05)

    async def work(writer: MetricsFile, engine: FakeEngine, _clock: Clock) -> None:
        gate = threading.Event()
        monkeypatch.setattr(metrics_file, "put", lambda *_: gate.wait(30))
        for reason in ("no answer within 0.05 s", "all 1 threads wait for answers that don't come"):
            writer.ran(RUN)
            await written(writer)
            assert engine.reasons[-1] == f"the metrics file can't be written: {reason}"
        gate.set()

    tried(work, tmp_path / "mom.prom")


def test_a_link_put_in_the_way_of_the_new_file_is_not_followed(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("mine")
    (tmp_path / ".mom.prom.new").symlink_to(victim)
    put(tmp_path / "mom.prom", b"x")
    assert (victim.read_text(), (tmp_path / "mom.prom").read_text()) == ("mine", "x")


def test_a_file_that_cannot_take_its_place_leaves_nothing_behind(tmp_path: Path) -> None:
    (tmp_path / "mom.prom").mkdir()
    with pytest.raises(OSError, match="directory"):
        put(tmp_path / "mom.prom", b"x")
    assert [each.name for each in tmp_path.iterdir()] == ["mom.prom"]
