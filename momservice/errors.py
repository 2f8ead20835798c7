# SPDX-License-Identifier: GPL-2.0-or-later
"""The errors that callers of the service can get: one class per D-Bus error name, each made from one line of text.

The service raises them, the bus carries name and text, and the client raises the same class again.
"""

from __future__ import annotations

from typing import ClassVar

from momservice.bus.connection import ERROR as STANDARD_PREFIX
from momservice.bus.connection import CallError

PREFIX = "org.ovirt.Mom1.Error."


class MomError(CallError):
    """Base of all of them. `error_name`: the D-Bus name."""

    error_name: ClassVar[str]

    def __init__(self, text: str) -> None:
        super().__init__(self.error_name, text)


class InvalidPolicy(MomError):
    """A policy can't be parsed, fails the load checks or is refused by its trial run. Text: `fragment:line:column: message`."""

    error_name = PREFIX + "InvalidPolicy"


class UnknownPolicy(MomError):
    """There is no policy of that name."""

    error_name = PREFIX + "UnknownPolicy"


class UnknownParameter(MomError):
    """No policy gives a parameter of that name a default."""

    error_name = PREFIX + "UnknownParameter"


class UnknownGuest(MomError):
    """No guest of that UUID is monitored."""

    error_name = PREFIX + "UnknownGuest"


class Busy(MomError):
    """Something of the kind is under way already."""

    error_name = PREFIX + "Busy"


class NotStored(MomError):
    """The disk refuses to keep what is to be loaded or set, so that isn't in force either."""

    error_name = STANDARD_PREFIX + "IOError"


class InvalidConfiguration(MomError):
    """The configuration can't be used, and nothing is changed; `momservice --check-config` says why."""

    error_name = STANDARD_PREFIX + "InvalidFileContent"


class OutOfRange(MomError):
    """A number is beyond what is allowed."""

    error_name = PREFIX + "OutOfRange"


class InvalidArgs(MomError):
    """An argument has the wrong type or form."""

    error_name = STANDARD_PREFIX + "InvalidArgs"


class AccessDenied(MomError):
    """The caller may not do that."""

    error_name = STANDARD_PREFIX + "AccessDenied"


class InteractiveAuthorizationRequired(MomError):
    """The caller may do that once it has identified itself, but its message doesn't allow asking."""

    error_name = STANDARD_PREFIX + "InteractiveAuthorizationRequired"


class LimitsExceeded(MomError):
    """An argument is too long, or there are too many of something."""

    error_name = STANDARD_PREFIX + "LimitsExceeded"


_BY_NAME: dict[str, type[MomError]] = {kind.error_name: kind for kind in MomError.__subclasses__()}


def typed(error: CallError) -> CallError:
    """The same error as the class of its name; one of a foreign name stays as it is."""
    kind = _BY_NAME.get(error.name)
    return kind(error.text) if kind else error
