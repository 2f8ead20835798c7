# SPDX-License-Identifier: GPL-2.0-or-later
"""What a run of the compiled form may take, and what becomes of a form or a round that fails.

Generated code counts no single steps: the compiler has proved a bound for each form and round, loops pay for all their rounds at once.
Where a bound is passed the run is abandoned, and the tracing evaluator, which counts exactly, starts over. So it does after anything
unforeseen.
"""

from __future__ import annotations

from momservice.decisions import Failure
from momservice.policy.compiled.places import site_of, whereabouts
from momservice.policy.compiled.run_figures import RunFigures
from momservice.policy.compiled.shape import Abandoned, Compiled, Form
from momservice.policy.state import ROUND_STEPS
from momservice.policy.values import PolicyError


class RunSteps(RunFigures):
    """Counts steps and notes failures.

    `form`: the one that is under way; `steps`: what is left to it, or to the round of a guest; `dropped`: the guests that have failed, by
    index; `calls`: those under way, name and offset.
    """

    form: Form
    steps: int
    in_round = False
    dropped: set[int]
    calls: list[tuple[str, int]]
    failures: list[Failure]
    # What is left for what is paid in advance, and for what is counted while it happens.
    work: int
    counted: int
    _compiled: Compiled
    # What the history adds to the steps of each average.
    _average_steps: int

    # --- steps -----------------------------------------------------------------------------------------------------------------------

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

    # --- failures --------------------------------------------------------------------------------------------------------------------

    def mark(self) -> int:
        """Where the journal is, to go back to."""
        return len(self.journal)

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
        place, calls = whereabouts(self._compiled, site_of(self._compiled, error.__traceback__, self.calls))
        self.failures.append(Failure(code, message, place, self.form.index, entity, calls))
