# SPDX-License-Identifier: GPL-2.0-or-later
"""Guests as columns: a table that grows sample by sample tells the same as guests that are given whole, to policies as well."""

from __future__ import annotations

import tracemalloc
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as some

from momservice.columns import NO_ROW, GuestTable, Raw, in_column
from momservice.fields import Names, Schema
from momservice.policy import evaluate, load
from momservice.snapshot import EMPTY, HOST, Entity, Sample, Snapshot, Value

FIELDS: Final = ("mem", "free", "text")
_NAMES: Final = Names(frozenset(FIELDS), frozenset(FIELDS), frozenset({"t"}), frozenset({"name"}))
POLICY: Final = """
(defvar sum 0)
(with Guests g (g.Control "newest" (if (null g.mem) -1 (+ 0 g.mem))))
(with Guests g {(set sum (+ sum (g.StatAvg "mem"))) (g.Control "mean" (g.StatAvg "mem"))})
(with Guests g (let ((a (g.StatAvg "free")) (b g.text)) {(g.Control "free" a) (g.Control "text" b) (g.SetVar "seen" (* a 2))}))
(with Guests g (g.Control "before" (g.GetVar "seen")))
sum
"""
PROGRAM: Final = load({"a": POLICY}, Schema(_NAMES, _NAMES)).program
# The limits of what columns hold as it is, and of the language.
WIDE: Final = (1 << 64, -(1 << 64), (1 << 256) - 1, 1 << 256, -(1 << 256))
EDGES: Final = (0, 1, -1, *WIDE, True, False, 0.0, -0.0, 0.1, 1e300, float("inf"))
FIGURES: Final = some.one_of(some.integers(-9, 9), some.sampled_from(EDGES), some.floats(allow_nan=False), some.integers())
VALUES: Final = some.one_of(some.none(), FIGURES, some.text(max_size=3), some.just([1, "x"]))
PLAIN: Final = some.one_of(some.integers(0, 1 << 62), some.just(5))


def exact(value: object) -> str:
    """A value with its type, told apart from those that are equal to it."""
    return f"{type(value).__name__} {value!r}"


def plain_sums(guests: Sequence[Entity], name: str, samples: int) -> list[int | None]:
    """What the sums of a field must be, in the plainest way."""
    found: list[int | None] = []
    for guest in guests:
        history = [*[None] * (samples - len(guest.samples)), *(sample.get(name) for sample in guest.samples)]
        good = all(type(value) is int and abs(value) < 1 << 256 for value in history)
        found.append(sum(history) if good and history else None)  # type: ignore[arg-type]  # all of them are integers
    return found


def assert_tells(table: GuestTable, guests: Sequence[Entity], names: Sequence[str]) -> None:
    """That a table tells of some fields what the guests do."""
    for name in names:
        column = table.column(name)
        assert [exact(value.value if isinstance(value, Raw) else value) for value in column] == [exact(g.newest(name)) for g in guests]
        assert [isinstance(value, Raw) for value in column] == [isinstance(in_column(guest.newest(name)), Raw) for guest in guests]
        sums = table.sums(name)
        assert [*sums.by_guest] == plain_sums(guests, name, len(table.rows))
        assert sums.samples == len(table.rows)


class Histories:
    """The same guests twice: as a table that grows, and as plain histories."""

    def __init__(self, count: int, length: int) -> None:
        self.length = length
        self.keys = [f"g{number}" for number in range(count)]
        self.properties: list[Mapping[str, Value]] = [{"name": key} for key in self.keys]
        self.samples: list[list[Sample]] = [[] for _ in self.keys]
        self.variables: Mapping[str, Mapping[str, Value]] = {}
        self.table = GuestTable(self.keys, self.properties, [])

    def sample(self, row: Sequence[Sample]) -> None:
        self.table = self.table.after(row, self.length)
        for samples, sample in zip(self.samples, row, strict=True):
            if sample is not NO_ROW or samples:
                samples.append(sample)
            del samples[: -self.length]

    def keep(self, variables: Mapping[str, Mapping[str, Value]]) -> None:
        self.table, self.variables = self.table.with_variables(variables), variables

    @property
    def guests(self) -> list[Entity]:
        kept = [self.variables.get(key, EMPTY) for key in self.keys]
        return [Entity(*of) for of in zip(self.keys, map(tuple, self.samples), self.properties, kept, strict=True)]


@some.composite
def steps(draw: some.DrawFn) -> tuple[Histories, list[tuple[str, Any]]]:
    """An empty history, and what happens to it: samples come in, fields are read, variables are kept, policies are run."""
    count = draw(some.integers(0, 4))
    values = draw(some.sampled_from((PLAIN, VALUES, some.one_of(PLAIN, VALUES))))
    sample = some.fixed_dictionaries({}, optional=dict.fromkeys(FIELDS, values))
    of_guests = some.sampled_from([f"g{number}" for number in range(count)]) if count else some.nothing()
    step = some.one_of(
        some.tuples(some.just("sample"), some.lists(sample, min_size=count, max_size=count)),
        some.tuples(some.just("sample"), some.lists(sample, min_size=count, max_size=count)),
        some.tuples(some.just("read"), some.lists(some.sampled_from(FIELDS), min_size=1, max_size=3)),
        some.tuples(some.just("keep"), some.dictionaries(of_guests, some.just({"seen": 3}))),
        some.tuples(some.just("run"), some.none()),
    )
    return Histories(count, draw(some.integers(1, 4))), draw(some.lists(step, max_size=14))


def decided(guests: Sequence[Entity], trace: bool) -> tuple[object, ...]:
    assert PROGRAM is not None
    decisions = evaluate(PROGRAM, Snapshot(Entity(HOST), guests), trace=trace)
    assert decisions.abandoned == ""
    controls = [(wanted.entity, wanted.name, exact(wanted.value), wanted.place) for wanted in decisions.controls]
    return controls, exact(decisions.results), decisions.failures, exact(sorted(decisions.variables.items()))


@settings(max_examples=150)
@given(steps())
def test_a_table_that_grows_tells_what_the_guests_do(made: tuple[Histories, list[tuple[str, Any]]]) -> None:
    histories, happens = made
    for what, given_ in [*happens, ("read", FIELDS), ("run", None)]:
        if what == "sample":
            histories.sample(given_)
        elif what == "keep":
            histories.keep(given_)
        elif what == "read":
            assert_tells(histories.table, histories.guests, given_)
        else:
            guests = histories.guests
            of_table = decided(histories.table, False)
            assert of_table == decided(guests, False) == decided(guests, True) == decided(histories.table, True)
    assert_tells(GuestTable.of(histories.guests), histories.guests, FIELDS)


def test_a_table_gives_its_guests_as_they_were_given() -> None:
    guests = [
        Entity("a", ({"mem": 1}, {"mem": 2}), {"name": "x"}, {"v": 1}),
        Entity("b", ({"mem": 3},), {"name": "y"}),
        Entity("c"),
    ]
    table = GuestTable.of(guests)
    assert (len(table), [*table], table[-1], table[1:]) == (3, guests, guests[2], guests[1:])
    assert GuestTable.of(guests[2:])[0] == guests[2]
    assert [*GuestTable.of([])] == []


def test_a_guest_that_came_later_has_no_mean_of_the_time_before() -> None:
    table = GuestTable.of([Entity("a", [{"mem": 1}, {"mem": 2}]), Entity("b", [{"mem": 4}])])
    assert [*table.sums("mem").by_guest] == [3, None]
    grown = table.after([{"mem": 3}, {"mem": 6}], 2)
    assert ([*grown.sums("mem").by_guest], grown.sums("mem").samples) == ([5, 10], 2)


def test_a_guest_without_a_row_is_there_without_samples() -> None:
    table = GuestTable(["a"], [EMPTY], [])
    for row in ([NO_ROW], [{"mem": 7}]):
        table = table.after(row, 5)
    assert table[0] == Entity("a", ({"mem": 7},))


@pytest.mark.parametrize("value", [1 << 256, -(1 << 256), "x", [1], {"name": "vda"}])
def test_what_is_no_plain_number_is_kept_apart(value: Value) -> None:
    column = GuestTable.of([Entity("a", [{"mem": value}]), Entity("b", [{"mem": 1}])]).column("mem")
    assert ([type(held) for held in column], column[1]) == ([Raw, int], 1)


def read_rows(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The lengths of the columns that are made while the test runs."""
    from momservice import columns  # noqa: PLC0415  # only this test looks inside

    made: list[int] = []
    right = columns._integers

    def spy(column: Sequence[Value]) -> object:
        made.append(len(column))
        return right(column)

    monkeypatch.setattr(columns, "_integers", spy)
    return made


def test_sums_go_on_from_table_to_table_without_reading_the_history_again(monkeypatch: pytest.MonkeyPatch) -> None:
    made = read_rows(monkeypatch)
    table = GuestTable.of([Entity(f"g{number}", [{"mem": 1, "free": 2}] * 50) for number in range(3)])
    table.sums("mem")
    assert made == [3] * 50
    for number in range(2, 60):
        # Only every third table is read by a policy.
        table = table.after([{"mem": number}] * 3, 50)
        if number % 3 == 0:
            assert [*table.sums("mem").by_guest] == [sum(range(max(2, number - 49), number + 1)) + max(0, 51 - number)] * 3
    assert len(made) == 50 + 58


def test_a_field_that_is_averaged_no_more_is_not_carried_along(monkeypatch: pytest.MonkeyPatch) -> None:
    made = read_rows(monkeypatch)
    table = GuestTable.of([Entity("a", [{"mem": 1, "free": 2}])])
    table.sums("mem"), table.sums("free")
    table = table.after([{"mem": 1, "free": 2}], 9)
    table.sums("mem")
    made.clear()
    table.after([{"mem": 1, "free": 2}], 9)
    assert len(made) == 1


def test_other_variables_leave_what_is_known_of_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    table = GuestTable.of([Entity("a", [{"mem": 1}])])
    table.sums("mem")
    made = read_rows(monkeypatch)
    other = table.with_variables({"a": {"v": 1}})
    assert (other[0], table[0]) == (replace(table[0], variables={"v": 1}), Entity("a", ({"mem": 1},)))
    assert [*other.sums("mem").by_guest] == [1]
    assert made == []


@pytest.mark.parametrize("gaps", [1, 255, 256, 512, 600])
def test_gaps_in_a_long_history_are_known_until_they_are_gone(gaps: int) -> None:
    histories = Histories(2, 600)
    for number in range(600):
        histories.sample([{"mem": "x" if number < gaps else 1}, {"mem": 1}])
    assert [*histories.table.sums("mem").by_guest] == [None, 600]
    for left in reversed(range(gaps)):
        histories.sample([{"mem": 1}, {"mem": 1}])
        assert [*histories.table.sums("mem").by_guest] == [None if left else 600, 600]


@pytest.mark.parametrize("gaps", [255, 256, 65_535, 65_536])
def test_no_history_is_too_long_for_its_gaps_to_be_counted(gaps: int) -> None:
    rows: list[list[Sample]] = [[{}, {"mem": 1}]] * gaps
    assert [*GuestTable(["a", "b"], [{}] * 2, [*rows, [{"mem": 1}] * 2]).sums("mem").by_guest] == [None, gaps + 1]


@pytest.mark.parametrize("usual", [None, 0.5, "x", [1], 1 << 256])
def test_sums_of_what_few_guests_have_take_little_memory(usual: Value) -> None:
    guests, rows = 1000, 50
    row: list[Sample] = [{"mem": usual if number % 50 else 1} for number in range(guests)]
    table = GuestTable([str(number) for number in range(guests)], [{}] * guests, [row] * rows)
    tracemalloc.start()
    try:
        table.sums("mem")
        taken, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    # A reference to each value, and whether it is an integer.
    assert taken / guests / rows < 12
