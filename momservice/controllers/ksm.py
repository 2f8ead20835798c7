# SPDX-License-Identifier: GPL-2.0-or-later
"""KSM: sets the kernel's KSM knobs, through momhelper. One call a cycle for all knobs, a second one if some of them are refused."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from momservice.bus.connection import ERROR, BusLost, CallError, Connection
from momservice.bus.refusals import told
from momservice.controllers import HelperUnavailable, Outcome, Status, World, ping
from momservice.controllers.values import ValueRefused, clamp, to_integer
from momservice.decisions import Wanted
from momservice.fields import Control
from momservice.snapshot import HOST, Sample

log = logging.getLogger(__name__)

NAME, PATH = "org.ovirt.MomHelper1", "/org/ovirt/MomHelper1"
DEADLINE_S = 10.0
# The service stops within a second. If that isn't enough, the helper restores by itself as soon as the service's name has gone.
RESTORE_DEADLINE_S = 0.8
# An Apply renews the lease for as long; renewed when a third of it is over.
LEASE_S, RENEW_AFTER_S = 60, 20.0
# The helper's answer to a bad knob, before anything was written, and when writing failed. Any other error: no helper to talk to.
REFUSED = frozenset({"org.ovirt.Mom1.Error.OutOfRange", "org.ovirt.Mom1.Error.Busy", ERROR + "InvalidArgs", ERROR + "LimitsExceeded"})
FAILED = frozenset({ERROR + "IOError", ERROR + "Failed"})
# After a helper's violent end: long enough for what ended it to be seen, and no crash is repeated every cycle.
AFTER_END_S = 30
U32 = 2**32 - 1
# A control's name is the knob's name with this before it, and so is that of the host field that tells the knob's value.
PREFIX = "ksm_"


@dataclass(frozen=True, slots=True)
class _Plan:
    """A knob to be written. `clamped`: "" if the value is as wanted."""

    wanted: Wanted
    knob: str
    value: int
    clamped: str

    def outcome(self, status: Status, reason: str = "", applied: int | None = None) -> Outcome:
        return Outcome(HOST, self.wanted.name, self.wanted.value, applied, status, reason)


class Ksm:
    """The host controls ksm_*. Each run's decisions are sent as they are: a knob that the policy doesn't set is left alone."""

    NAME: ClassVar[str] = "KSM"
    CONTROLS: ClassVar[Sequence[Control]] = (
        Control("ksm_run", "host", "", 0, 2, "0 stop, 1 run, 2 unmerge everything; refused when the host has no room for that"),
        Control("ksm_pages_to_scan", "host", "pages", 1, U32, "pages to scan before ksmd sleeps; switches the kernel's advisor off"),
        Control("ksm_sleep_millisecs", "host", "ms", 10, U32, "how long ksmd sleeps"),
        Control("ksm_merge_across_nodes", "host", "", 0, 1, "1: merge pages of different NUMA nodes; refused while pages are shared"),
        Control("ksm_advisor_mode", "host", "", 0, 1, "the kernel's advisor, which sets pages_to_scan: 0 none, 1 scan-time"),
        Control("ksm_advisor_target_scan_time", "host", "s", 1, U32, "how long the advisor lets a scan of all memory take"),
        Control("ksm_advisor_max_cpu", "host", "%", 0, 100, "the most CPU time that the advisor lets ksmd use"),
        Control("ksm_smart_scan", "host", "", 0, 1, "1: pass over pages that never merge more and more"),
        Control("ksm_use_zero_pages", "host", "", 0, 1, "1: merge empty pages with the kernel's own"),
    )

    def __init__(self, connection: Connection, clock: Callable[[], float] = time.monotonic) -> None:
        self._connection = connection
        self._clock = clock
        self._controls = {control.name: control for control in self.CONTROLS}
        # By knob: what the helper last read back after writing, and the strange value that was last reported.
        self._applied: dict[str, int] = {}
        self._reported: dict[str, int] = {}
        # Whether an Apply has been sent of which isn't known what became of it.
        self._unconfirmed = False
        self._renewed_s = 0.0
        self._alone_until_s = 0.0

    async def apply(self, wanted: Sequence[Wanted], world: World) -> list[Outcome]:
        """Send what changes something. Raises HelperUnavailable if nothing could be sent."""
        self._check_alone()
        await self._report_foreign_writer(world.host)
        outcomes: list[Outcome] = []
        plans: list[_Plan] = []
        mine = [one for one in wanted if one.entity == HOST and one.name in self._controls]
        for one in mine:
            planned = self._plan(one, world.host, self._wants_advisor(mine))
            if isinstance(planned, _Plan):
                plans.append(planned)
            elif planned is not None:
                outcomes.append(planned)
        return outcomes + (await self._send(plans) if plans else [])

    async def probe(self) -> None:
        """Ask the helper whether it is there. Raises HelperUnavailable."""
        self._check_alone()
        await ping(self._connection, NAME, PATH)
        self._unconfirmed = False

    async def begin(self) -> None:
        """Put back what a service that crashed before us has left, so that we start from what was found. Raises HelperUnavailable."""
        try:
            helper = await self._connection.watch_owner(NAME, self._owner_changed)
        except (BusLost, CallError) as error:
            raise HelperUnavailable(f"momhelper: {told(error)}") from error
        if helper is not None:
            await self._call("Restore")

    def _owner_changed(self, owner: str | None) -> None:
        """A helper with something to put back never exits by itself: it was killed, and whoever guards it has put the knobs back."""
        if owner is None and (self._applied or self._unconfirmed):
            log.warning("momhelper has ended unexpectedly; KSM is left alone for %d s", AFTER_END_S)
            self._applied.clear()
            self._unconfirmed = False
            self._alone_until_s = self._clock() + AFTER_END_S

    def _check_alone(self) -> None:
        if self._clock() < self._alone_until_s:
            raise HelperUnavailable("momhelper has ended unexpectedly: it gets its time before it is started again")

    async def renew(self) -> None:
        """Prolong the helper's lease when it is time, as long as anything is applied. Raises HelperUnavailable."""
        now_s = self._clock()
        if self._applied and now_s - self._renewed_s >= RENEW_AFTER_S:
            self._renewed_s = now_s
            await self._call("Renew", "u", LEASE_S)

    async def restore(self) -> None:
        """Have the knobs put back as they were found, if anything was applied. Raises HelperUnavailable."""
        if self._applied:
            self._applied.clear()
            await self._call("Restore", deadline_s=RESTORE_DEADLINE_S)

    def _wants_advisor(self, wanted: Sequence[Wanted]) -> bool:
        control = self._controls["ksm_advisor_mode"]
        try:
            return any(to_integer(control, one.value) for one in wanted if one.name == control.name)
        except ValueRefused:
            return False

    def _plan(self, wanted: Wanted, host: Sample, advisor: bool) -> _Plan | Outcome | None:
        """What to send for one control, or what becomes of it without; None for nil."""
        control, knob = self._controls[wanted.name], wanted.name.removeprefix(PREFIX)
        try:
            number = to_integer(control, wanted.value)
        except ValueRefused as refusal:
            return Outcome(HOST, wanted.name, wanted.value, None, "refused", str(refusal))
        if number is None:
            return None
        value = clamp(control, number)
        plan = _Plan(wanted, knob, value, f"out of range: clamped to {value}" if value != number else "")
        if knob == "pages_to_scan" and advisor:
            return plan.outcome("refused", "the kernel's advisor sets it while ksm_advisor_mode is 1")
        if self._is_in_force(knob, value, host):
            return plan.outcome("unchanged", plan.clamped)
        if knob == "merge_across_nodes" and host.get("ksm_pages_shared"):
            return plan.outcome("refused", "pages are shared: unmerge first (ksm_run 2)")
        return plan

    def _is_in_force(self, knob: str, value: int, host: Sample) -> bool:
        """Both the newest sample and the helper's last answer must say so, as far as they say anything."""
        known = [said for said in (host.get(PREFIX + knob), self._applied.get(knob)) if said is not None]
        return bool(known) and all(said == value for said in known)

    async def _send(self, plans: Sequence[_Plan]) -> list[Outcome]:
        """Apply all; if the helper names bad ones among them, once more without those."""
        try:
            return await self._apply(plans)
        except CallError as error:
            bad, good = self._blame(plans, error)
        try:
            return bad + (await self._apply(good) if good else [])
        except CallError as error:
            more, rest = self._blame(good, error)
            return bad + more + [plan.outcome("failed", told(error)) for plan in rest]

    async def _apply(self, plans: Sequence[_Plan]) -> list[Outcome]:
        self._renewed_s = self._clock()
        self._unconfirmed = True
        try:
            in_force: dict[str, int] = await self._call("Apply", "a{su}", {plan.knob: plan.value for plan in plans})
        except CallError:
            self._unconfirmed = False
            raise
        self._unconfirmed = False
        # It may have ended since it answered: then the knobs are back already.
        self._check_alone()
        self._applied |= in_force
        for knob in in_force:
            self._reported.pop(knob, None)
        if in_force.get("advisor_mode"):
            # From now on the advisor changes it.
            self._applied.pop("pages_to_scan", None)
        advisor_went_off = "advisor_mode" in in_force and all(plan.knob != "advisor_mode" for plan in plans)
        return [self._confirm(plan, in_force.get(plan.knob), advisor_went_off) for plan in plans]

    @staticmethod
    def _confirm(plan: _Plan, in_force: int | None, advisor_went_off: bool) -> Outcome:
        if in_force != plan.value:
            return plan.outcome("clamped", f"in force is {in_force}", plan.value)
        reason = "the kernel's advisor was switched off for it" if advisor_went_off and plan.knob == "pages_to_scan" else plan.clamped
        return plan.outcome("clamped" if plan.clamped else "applied", reason, plan.value)

    @staticmethod
    def _blame(plans: Sequence[_Plan], error: CallError) -> tuple[list[Outcome], list[_Plan]]:
        """What the error, "knob: reason; knob: reason", makes of the plans: the outcomes of the bad knobs, and the rest.

        An error that names none of them is everyone's.
        """
        status: Status = "refused" if error.name in REFUSED else "failed"
        reasons = dict(part.split(": ", 1) for part in error.text.split("; ") if ": " in part)
        if not any(plan.knob in reasons for plan in plans):
            return [plan.outcome("failed", told(error)) for plan in plans], []
        bad = [plan.outcome(status, reasons[plan.knob]) for plan in plans if plan.knob in reasons]
        return bad, [plan for plan in plans if plan.knob not in reasons]

    async def _call(self, member: str, signature: str = "", *args: Any, deadline_s: float = DEADLINE_S) -> Any:
        """Call the helper. Raises HelperUnavailable, or CallError if it did answer and refuses."""
        try:
            body = await self._connection.call(NAME, PATH, NAME, member, signature, *args, deadline_s=deadline_s)
        except BusLost as error:
            raise HelperUnavailable(f"momhelper: {told(error)}") from error
        except CallError as error:
            if member == "Apply" and error.name in REFUSED | FAILED:
                raise
            raise HelperUnavailable(f"momhelper: {told(error)}") from error
        return body[0] if body else None

    async def _report_foreign_writer(self, host: Sample) -> None:
        """Warn, once for each change, of a knob that isn't as it was applied. It isn't fought: the policy sees the value and decides."""
        strange = {knob: seen for knob, value in self._applied.items() if (seen := host.get(PREFIX + knob)) is not None and seen != value}
        if all(self._reported.get(knob) == seen for knob, seen in strange.items()):
            return
        # The sample may be older than what was applied.
        try:
            now: Mapping[str, int] = await self._call("Read")
        except HelperUnavailable as error:
            log.debug("%s", error)
            return
        for knob in strange:
            if knob in now and now[knob] not in {self._applied[knob], self._reported.get(knob)}:
                log.warning("KSM: %s is %d, though %d was applied: another program writes it", knob, now[knob], self._applied[knob])
                self._reported[knob] = now[knob]
