# SPDX-License-Identifier: GPL-2.0-or-later
"""The policy language: text in, decisions out. Pure: no I/O, no clock, no logging."""

from momservice.policy.decisions import Call, Decisions, Diagnostic, Failure, Opaque, Place, Read, Wanted
from momservice.policy.excerpts import excerpt
from momservice.policy.program import TEXT_BYTES, Loaded, Program, decide, evaluate, load, trial_errors, trial_warnings

__all__ = [
    "TEXT_BYTES",
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
