# SPDX-License-Identifier: GPL-2.0-or-later
"""A run of the compiled form: its top-level forms one after the other."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from momservice.decisions import Decisions
from momservice.fields import Schema
from momservice.policy.compiled.controls import Controls
from momservice.policy.compiled.run_calls import RunCalls
from momservice.policy.compiled.shape import Abandoned, Certain, Compiled, Form
from momservice.policy.members import SAMPLES_PER_STEP
from momservice.policy.state import FORM_STEPS, RUN_COUNTED, RUN_WORK
from momservice.policy.values import Datum, Thing, cost, shown
from momservice.snapshot import Snapshot, Value


class Run(RunCalls):
    """One run of a compiled program on one snapshot. Attributes are what generated code uses."""

    def __init__(self, compiled: Compiled, schema: Schema, snapshot: Snapshot, parameters: Mapping[str, Value]) -> None:
        super().__init__(snapshot, parameters)
        # Also what the bases declare: a constructor of each would be a noticeable part of a short run.
        self._compiled = compiled
        self._schema = schema
        table = self.table
        self.column = table.column
        self._summed = set()
        self.count = len(table.keys)
        self.host = Thing("host", snapshot.host.key, schema.host)
        self.dropped = set()
        self.controls = {}
        self.calls = []
        self.failures = []
        self.steps = 0
        self._average_steps = max(len(table.rows), len(snapshot.host.samples)) // SAMPLES_PER_STEP
        self.work = RUN_WORK - compiled.static_work - compiled.static_averages * self._average_steps
        self.counted = RUN_COUNTED
        self._limited = set()
        self._current = {}
        self._opened = {}
        self._things = {}
        self._kept = {}
        self._indices = {}
        self._host_means = {}

    def run(self) -> Decisions:
        """Evaluates all top-level forms in order. Raises Abandoned."""
        results: list[object] = []
        variable = self.variable
        for part in self._compiled.parts:
            if isinstance(part, Certain):
                results.extend(part.code(self, variable))
                # They can't fail, but a later form can, and must not undo them.
                if self.journal:
                    self.end_journal()
            else:
                results.append(self._form(part, variable))
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
