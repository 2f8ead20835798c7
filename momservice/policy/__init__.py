# SPDX-License-Identifier: GPL-2.0-or-later
"""The policy language: text in, decisions out. Pure: no I/O, no clock, no logging."""

from momservice.decisions import Call, Decisions, Diagnostic, Failure, Opaque, Place, Read, Wanted
from momservice.excerpts import excerpt
from momservice.policy.program import Loaded, Program, decide, evaluate, load, trial_errors, trial_warnings

__all__ = [
    "Call",
    "Decisions",
    "Diagnostic",
    "Failure",
    "Loaded",
    "Opaque",
    "Place",
    "Program",
    "Read",
    "Wanted",
    "decide",
    "evaluate",
    "excerpt",
    "load",
    "trial_errors",
    "trial_warnings",
]
