# SPDX-License-Identifier: GPL-2.0-or-later
"""Why the service isn't what it should be."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from momservice.text import shown

log = logging.getLogger(__name__)

MAX_CHARACTERS = 500


@dataclass(slots=True)
class Reasons:
    """One line by part; a part without one is well. Logs each change of a line, not each repetition.

    `last_error`: the last line that was ever set, or that another part noted; "" for none. `changed` is told the lines when they change.
    """

    lines: dict[str, str] = field(default_factory=dict)
    last_error: str = ""
    changed: Callable[[Mapping[str, str]], None] = lambda _lines: None

    def set(self, part: str, reason: str, detail: str = "") -> None:
        """Set the reason of a part; "" when it is well. It may quote libvirt, a helper or a guest. `detail`: more, only for the log."""
        reason = shown(reason, MAX_CHARACTERS)
        if reason:
            self.last_error = reason
        if reason == self.lines.get(part, ""):
            return
        if reason:
            log.warning("%s%s", reason, f": {shown(detail, MAX_CHARACTERS)}" if detail else "")
            self.lines[part] = reason
        else:
            log.info("%s: well again", part)
            del self.lines[part]
        self.changed(self.lines)
