# SPDX-License-Identifier: GPL-2.0-or-later
"""A run of the compiled form: what generated code works on, and what it calls.

Generated code counts no single steps: the compiler has proved a bound for each form and round, loops pay for all their rounds at once.
Where a bound is passed the run is abandoned, and the tracing evaluator, which counts exactly, starts over. So it does after anything
unforeseen.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Any, Final, NoReturn

from momservice.columns import Raw, Sums, in_column
from momservice.decisions import CALLS, Call, Decisions, Failure, Place, Wanted
from momservice.fields import Schema
from momservice.policy.compiled.controls import Controls
from momservice.policy.compiled.shape import GENERATED, Abandoned, Certain, Compiled, Form, Function, Site
from momservice.policy.forms import TUNE_FIGURES
from momservice.policy.members import METHOD_CODE, SAMPLES_PER_STEP, member, no_data
from momservice.policy.operations import items_of
from momservice.policy.state import CALL_DEPTH, FORM_STEPS, ROUND_STEPS, RUN_COUNTED, RUN_WORK, State
from momservice.policy.values import (
    HOST_INDEX,
    LIST_DEPTH,
    NUMBERS,
    Datum,
    List,
    PolicyError,
    Record,
    Thing,
    cost,
    inward,
    outward,
    short,
    shown,
)
from momservice.snapshot import EMPTY, HOST, Snapshot, Value

# What a setter takes for each disk of the same name.
_NAMESAKE: Final = 10


class Run(State):
    """One run of a compiled program on one snapshot. Attributes are what generated code uses."""

    # What few runs need is made when it is needed.
    in_round = False
    _list: List | None = None
    _site: int | Site = 0

    def __init__(self, compiled: Compiled, schema: Schema, snapshot: Snapshot, parameters: Mapping[str, Value]) -> None:
        super().__init__(snapshot, parameters)
        self._compiled = compiled
        self._schema = schema
        table = self.table
        self.column = table.column
        # The fields whose history has been paid for.
        self._summed: set[str] = set()
        self.count = len(table.keys)
        self.host = Thing("host", snapshot.host.key, schema.host)
        self.dropped: set[int] = set()
        self.controls: dict[tuple[str, str], dict[int, tuple[Value, int | Site]]] = {}
        self.calls: list[tuple[str, int]] = []
        self.failures: list[Failure] = []
        self.form: Form
        self.steps = 0
        # What the history adds to the steps of each average.
        self._average_steps = max(len(table.rows), len(snapshot.host.samples)) // SAMPLES_PER_STEP
        # What is left for what is paid in advance, and for what is counted while it happens.
        self.work = RUN_WORK - compiled.static_work - compiled.static_averages * self._average_steps
        self.counted = RUN_COUNTED
        # The disks, by owner and name, that setters have been called of.
        self._limited: set[tuple[str, str]] = set()
        # The current limits of disks that have been read, by owner and name, each as it was and as setters have made it.
        self._current: dict[tuple[str, str], tuple[tuple[Mapping[str, Value], dict[str, Value]], ...]] = {}
        # Values of columns that have been taken in, by the identity of what holds them.
        self._opened: dict[int, tuple[Raw, Datum]] = {}
        self._things: dict[int, Thing] = {}
        self._kept: dict[str, dict[str, Value]] = {}
        self._indices: dict[str, int] = {}
        self._host_means: dict[str, float] = {}

    # --- running -------------------------------------------------------------------------------------------------------------------

    def run(self) -> Decisions:
        """Evaluates all top-level forms in order. Raises Abandoned."""
        results: list[object] = []
        variable = self.variable
        for part in self._compiled.parts:
            if type(part) is Certain:
                results.extend(part.code(self, variable))
                # They can't fail, but a later form can, and must not undo them.
                if self.journal:
                    self.end_journal()
            else:
                results.append(self._form(part, variable))  # type: ignore[arg-type]  # there is nothing else
        if self.work < 0:
            raise Abandoned("limit")
        return Decisions(results, Controls(self._wanted), self._variables(), self.failures, self.debug, RUN_WORK - self.work)

    def _form(self, form: Form, variable: dict[str, Any]) -> object:
        self.form = form
        self.steps = FORM_STEPS - form.steps - form.averages * self._average_steps
        if self.steps < 0:
            raise Abandoned("limit")
        try:
            return form.static(self, variable) if form.static is not None else self.dynamic()
        except Exception as error:  # an error of the policy fails the form, any other one ends the run
            self._form_failed(error)
            return None
        finally:
            if self.journal:
                self.end_journal()

    def dynamic(self) -> object:
        """Runs the dynamic code of the form, where it has no other or what that takes for granted isn't so."""
        self.steps = FORM_STEPS
        self.charge(self.form.dynamic_steps)
        return self.result(self.form.dynamic(self))

    def result(self, value: Datum) -> object:
        """The value of a form as it is shown, paid for by the run."""
        self.pay(cost(value))
        return shown(value)

    def _wanted(self) -> list[Wanted]:
        keys = (*self.table.keys, HOST)
        make = tuple.__new__  # What `Wanted` does itself, without naming each field: there may be thousands.
        found: list[Wanted] = []
        indices: list[int] = []
        for (name, item), table in sorted(self.controls.items()):
            told = {site: self._whereabouts(site) for site in {site for _, site in table.values()}}
            found += [make(Wanted, (keys[index], name, value, *told[site], item, ())) for index, (value, site) in table.items()]
            indices += table
        order = sorted(range(len(found)), key=indices.__getitem__)
        return [found[number] for number in order if indices[number] not in self.dropped]

    def _variables(self) -> Mapping[str, Mapping[str, Value]]:
        return {key: values for key, values in {**self.kept_before(), **self._kept}.items() if values}

    # --- steps ---------------------------------------------------------------------------------------------------------------------

    def charge(self, steps: int) -> None:
        """Counts steps beyond the proved bounds. Raises Abandoned."""
        self.steps -= steps
        self.counted -= steps
        if self.steps < 0 or self.counted < 0:
            raise Abandoned("limit")

    def pay(self, steps: int) -> None:
        """Takes steps from the run alone. Raises Abandoned."""
        if steps > self.work:
            raise Abandoned("limit")
        self.work -= steps

    def begin_rounds(self, steps: int, averages: int, work: int) -> int:
        """Pays for all rounds of an outermost guest loop at once, by the most that one takes; gives what is left for each.

        Raises Abandoned.
        """
        steps += averages * self._average_steps
        self.pay((steps + work) * self.count)
        if self.dropped:
            self.charge(len(self.dropped))
        if steps > ROUND_STEPS:
            raise Abandoned("limit")
        return ROUND_STEPS - steps

    def charge_rounds(self, rounds: int, steps: int, averages: int, work: int) -> None:
        """Counts the steps of all rounds of another loop, by the most that one takes. Raises Abandoned."""
        steps = rounds * (steps + averages * self._average_steps)
        self.pay(steps + rounds * work)
        self.steps -= steps
        if self.steps < 0:
            raise Abandoned("limit")

    def mark(self) -> int:
        """Where the journal is, to go back to."""
        return len(self.journal)

    # --- failures --------------------------------------------------------------------------------------------------------------------

    def _form_failed(self, error: Exception) -> None:
        self._failed(error, None)
        self.undo(0)
        self.scopes.clear()
        self.calls.clear()
        self.in_round = False

    def round_failed(self, error: Exception, index: int, mark: int) -> None:
        """Notes that the round of a guest failed and undoes what it wrote. Raises Abandoned for what isn't an error of the policy."""
        self._failed(error, self.table.keys[index])
        if len(self.journal) > mark:
            self.undo(mark)
        self.dropped.add(index)

    def _failed(self, error: Exception, entity: str | None) -> None:
        if isinstance(error, PolicyError):
            code, message = error.code, error.message
        elif isinstance(error, ZeroDivisionError):
            code, message = "zero-division", "division by zero"
        elif isinstance(error, Abandoned):
            raise error
        elif isinstance(error, RecursionError | MemoryError):
            raise Abandoned("limit") from error
        else:
            raise Abandoned(f"{type(error).__name__}: {error}") from error
        place, calls = self._whereabouts(self._line(error.__traceback__))
        self.failures.append(Failure(code, message, place, self.form.index, entity, calls))

    def _line(self, trace: TracebackType | None) -> int | Site:
        """Where in the policy an error came from: the innermost frame of generated code tells."""
        innermost = None
        while trace is not None:
            if trace.tb_frame.f_code.co_filename is GENERATED:
                innermost = trace
            trace = trace.tb_next
        if innermost is None:
            raise Abandoned("an error from nowhere")
        # Line numbers are looked for in a table from its start: once for each instruction is enough.
        key = (innermost.tb_frame.f_code, innermost.tb_lasti)
        line = self._compiled.lines.get(key)
        if line is None:
            line = self._compiled.lines[key] = innermost.tb_lineno - 1
        if self.calls:
            return self._compiled.sites[line][0], tuple(self.calls)
        return line

    def _whereabouts(self, site: int | Site) -> tuple[Place, Sequence[Call]]:
        known = self._compiled.whereabouts.get(site)
        if known is None:
            start, calls = self._compiled.sites[site] if isinstance(site, int) else site
            place = self._compiled.place
            known = place(start), tuple(Call(name, place(where)) for name, where in calls[-CALLS:])
            if isinstance(site, int):
                self._compiled.whereabouts[site] = known
        return known

    # --- entities --------------------------------------------------------------------------------------------------------------------

    def thing(self, index: int) -> Thing:
        """A guest as a value."""
        thing = self._things.get(index)
        if thing is None:
            thing = self._things[index] = Thing("guest", self.table.keys[index], self._schema.guest, index)
        return thing

    @property
    def guest_list(self) -> List:
        """The value of `Guests`."""
        if self._list is None:
            self._list = List(map(self.thing, range(len(self.table.keys))))
        return self._list

    def history(self, thing: Thing, name: str) -> Sequence[Value]:
        """The values of a field in all samples."""
        # To look through samples takes longer than their steps tell.
        self.pay(4 * self.sample_count(thing))
        return super().history(thing, name)

    def sums(self, name: str) -> Sums:
        """The sums of a field over the history. Paid for as if they weren't there yet, so that the same run always costs the same."""
        if name not in self._summed:
            self._summed.add(name)
            self.pay(len(self.table.rows) * self.count)
        return self.table.sums(name)

    def mean(self, thing: Thing, name: str) -> float | None:
        """The mean of a field over the history; from the running sums where there are."""
        if thing.index != HOST_INDEX:
            sums = self.sums(name)
            total = sums.by_guest[thing.index]
            if total is not None:
                return total / sums.samples
        return super().mean(thing, name)

    def host_value(self, name: str) -> Value | Raw:
        """The newest value of a field of the host, as columns have it."""
        return in_column(self._host.newest(name))

    def host_mean(self, name: str) -> float:
        """`Host.StatAvg` of a field that is collected; what it was the last time, for samples don't change within a run."""
        mean = self._host_means.get(name)
        if mean is None:
            mean = self.mean(self.host, name)
            if mean is None:
                raise no_data(name)
            self._host_means[name] = mean
        return mean

    def taken(self, value: Value | Raw, index: int) -> Datum:
        """A value of a column as one of the language. Raises PolicyError("value")."""
        if not isinstance(value, Raw):
            return value  # type: ignore[return-value]  # columns hold nothing else that isn't of the language
        opened = self._opened.get(id(value))
        if opened is not None:
            self.charge(cost(opened[1]))
            return opened[1]
        taken = inward(value.value, HOST if index == HOST_INDEX else self.table.keys[index], pay=self.charge)
        if type(taken) is str:
            self.charge(cost(taken))
        # With what holds it, so that nothing else can get its identity while the run lasts.
        self._opened[id(value)] = value, taken
        return taken

    # --- controls and variables ------------------------------------------------------------------------------------------------------

    def _index(self, key: str) -> int:
        if key == HOST:
            return HOST_INDEX
        if not self._indices:
            self._indices = {known: index for index, known in enumerate(self.table.keys)}
        return self._indices[key]

    def want(self, key: str, name: str, item: str, value: Value, place: Place) -> None:  # the site tells the place
        """Takes a control of the entity `key`."""
        control = (name, item)
        table = self.controls.get(control)
        if table is None:
            table = self.controls[control] = {}
        self.write(table, self._index(key), (value, self._site))
        if item:
            disk = (key, item)
            self._limited.add(disk)
            known = self._current.get(disk, ())
            if len(known) > 1:
                # Usually no two disks of a guest have the same name.
                self.pay(_NAMESAKE * len(known))
            for limits, figures in known:
                self.write(figures, name, limits.get(name) if value is None else value)

    def limit(self, disk: Record, figure: str, value: Datum, site: int) -> None:
        """Calls a setter of a disk."""
        self._site = (self._compiled.sites[site][0], tuple(self.calls)) if self.calls else site
        self.want(disk.owner, figure, disk.item, value if type(value) is int else self.sendable(value), _NOWHERE)

    def limits(self, disk: Datum, name: str) -> Mapping[str, Value]:
        """What integers the limits of a disk are, by figure; those that aren't at hand have to be asked for. Raises PolicyError("name")."""
        limits = disk.source.get(name) if type(disk) is Record and disk.role == "item" else None
        if type(disk) is not Record or type(limits) is not dict or disk.depth >= LIST_DEPTH - 1:
            member(self, disk, name)
            return EMPTY
        if len(limits) > len(TUNE_FIGURES):
            # Beyond what the bounds of the code have for them.
            self.charge(len(limits))
        return self._followed(disk, limits) if name == "current" and disk.item else limits

    def part(self, disk: Datum, name: str) -> Datum:
        """The limits of a disk as a value."""
        value = member(self, disk, name)
        if type(value) is Record:
            value.figures = self.limits(disk, name)
        return value

    def _followed(self, disk: Record, limits: Mapping[str, Value]) -> Mapping[str, Value]:
        """The current limits of a disk, which become what setters set."""
        key = (disk.owner, disk.item)
        known = self._current.get(key, ())
        if len(known) > 1:
            self.pay(len(known))
        for source, figures in known:
            if source is limits:
                return figures
        figures = dict(limits)
        self._current[key] = (*known, (limits, figures))
        for name in TUNE_FIGURES if key in self._limited else ():
            value = self.wanted(disk.owner, name, disk.item)
            if value is not None:
                # So that it is undone with the setter.
                self.write(figures, name, value)
        return figures

    def wanted(self, key: str, name: str, item: str = "") -> Value:
        """The control that has been taken, None if none has."""
        taken = self.controls.get((name, item), {}).get(self._index(key))
        return None if taken is None else taken[0]

    def take_controls(self, name: str, table: dict[int, tuple[Value, int | Site]]) -> None:
        """Takes one control of many guests, by index, at the end of a form that has written them in order."""
        known = self.controls.get((name, ""))
        if known is None:
            self.controls[name, ""] = table
        else:
            known.update(table)

    def sendable(self, value: Datum) -> Value:
        """The value of a control. Raises PolicyError("type")."""
        if type(value) in NUMBERS:
            return value  # type: ignore[return-value]  # a number
        self.charge(cost(value))
        return outward(value)

    def kept(self, thing: Thing) -> dict[str, Value]:
        """The variables that an entity keeps, to be changed by `write`."""
        if thing.key not in self._kept:
            self._kept[thing.key] = dict(self._before(thing))
        return self._kept[thing.key]

    def kept_value(self, thing: Thing, name: str) -> Value:
        """One of them; None if there is none."""
        return (self._kept[thing.key] if thing.key in self._kept else self._before(thing)).get(name)

    def _before(self, thing: Thing) -> Mapping[str, Value]:
        if thing.index == HOST_INDEX:
            return self._host.variables
        return self.table.variables.get(thing.key, {})

    # --- what generated code calls where it knows little -------------------------------------------------------------------------------

    def method(self, name: str, thing: object, operands: Sequence[Datum]) -> Datum:
        """Calls a method of an entity or object."""
        return METHOD_CODE[name](self, thing, operands, _NOWHERE)

    def setting(self, name: str, thing: object, operands: Sequence[Datum], site: int) -> Datum:
        """Calls a method that takes a control, whose place is told."""
        self._site = (self._compiled.sites[site][0], tuple(self.calls)) if self.calls else site
        return METHOD_CODE[name](self, thing, operands, _NOWHERE)

    def guest_mean(self, index: int, name: str) -> float:
        """`StatAvg` of a field that is collected, where there is no running sum."""
        mean = super().mean(self.thing(index), name)
        if mean is None:
            raise no_data(name)
        return mean

    def function(self, name: str, count: int) -> Function:
        """The function that a call finds, before its arguments evaluate. Raises PolicyError("name", "arity")."""
        function: Function | None = self.functions.get(name)
        if function is None:
            raise PolicyError("name", f"the function '{short(name)}' is not defined yet")
        if len(function.parameters) != count:
            raise PolicyError("arity", f"'{short(name)}' takes {len(function.parameters)} arguments, not {count}")
        return function

    def call(self, function: Function, operands: Sequence[Datum], start: int) -> Datum:
        """Calls a function; `start`: where. Raises PolicyError("too-deep")."""
        if len(self.calls) == CALL_DEPTH:
            raise PolicyError("too-deep", f"calls are more than {CALL_DEPTH} deep")
        self.charge(function.steps)
        self.calls.append((function.name, start))
        self.open_scope(function.parameters, operands)
        value = function.body(self)
        self.close_scope()
        self.calls.pop()
        return value

    def lend(self, chain: Sequence[tuple[str, int]], names: Sequence[str], values: Sequence[Datum]) -> None:
        """Shows the variables of static code to a function that isn't known before the run. `chain`: the calls that led to its call."""
        self.calls.extend(chain)
        self.open_scope(names, values)

    def take_back(self) -> None:
        """Ends that, after the call."""
        self.calls.clear()
        self.close_scope()

    def unwind(self) -> None:
        """After an error in such a call."""
        self.calls.clear()
        self.scopes.clear()

    def loop(self, value: Datum, item: str, body: Callable[[Run], Datum], steps: int) -> Datum:
        """A `with` of which isn't known what its list holds. `steps`: the most that a round takes by itself."""
        values = [self._round(one, item, body, steps) for one in items_of(value)]
        result = List(values)
        self.charge(result.weight - len(values))
        return result

    def _round(self, one: Datum, item: str, body: Callable[[Run], Datum], steps: int) -> Datum:
        if type(one) is Thing and one.index != HOST_INDEX:
            if one.index in self.dropped:
                self.charge(1)
                return None
            if not self.in_round:
                return self._outer_round(one, item, body, steps)
        self.charge(steps)
        return self._body(one, item, body)

    def _body(self, one: Datum, item: str, body: Callable[[Run], Datum]) -> Datum:
        self.open_scope((item,), (one,))
        value = body(self)
        self.close_scope()
        return value

    def _outer_round(self, guest: Thing, item: str, body: Callable[[Run], Datum], steps: int) -> Datum:
        before, self.steps, self.in_round = self.steps, ROUND_STEPS, True
        mark, scopes, calls = len(self.journal), len(self.scopes), len(self.calls)
        try:
            self.charge(steps)
            return self._body(guest, item, body)
        except Exception as error:
            self.round_failed(error, guest.index, mark)
            del self.scopes[scopes:], self.calls[calls:]
            return None
        finally:
            self.steps, self.in_round = before, False
            self.shorten_journal()

    def gone(self, value: Datum) -> bool:
        """Whether a loop passes over an item: a guest that has failed."""
        return type(value) is Thing and value.index in self.dropped

    def list_of(self, values: Sequence[Datum]) -> List:
        """The values of a loop as a list."""
        result = List(values)
        if result.weight > len(values):
            self.charge(result.weight - len(values))
        return result

    def undefined(self, name: str) -> NoReturn:
        """Raises PolicyError("name")."""
        raise PolicyError("name", f"the variable '{short(name)}' is not defined here")

    def binary(self, operation: Callable[[Datum, Datum], Datum], left: Datum, right: Datum) -> Datum:
        """A form of two operands."""
        if type(left) is str or type(left) is List:
            self.charge(cost(left, right))
        return operation(left, right)

    def variadic(self, operation: Callable[[Sequence[Datum]], Datum], operands: Sequence[Datum]) -> Datum:
        """A form of any number of operands."""
        self.charge(cost(*operands))
        return operation(operands)


_NOWHERE: Final = Place("", 0, 0)
