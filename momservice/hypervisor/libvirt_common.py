# SPDX-License-Identifier: GPL-2.0-or-later
"""What all users of libvirt in this project have in common: which libvirt, and what becomes of its errors."""

from __future__ import annotations

import libvirt

# What libvirt itself takes for a system service's default. (A plain user's default is another: a libvirtd of its own.)
DEFAULT_URI = "qemu:///system"
MAX_TEXT_CHARACTERS = 200


def one_line(error: BaseException) -> str:
    """An error's text for people: one line of bounded length."""
    return " ".join(str(error).split())[:MAX_TEXT_CHARACTERS] or type(error).__name__


def silence_libvirt() -> None:
    """Keep libvirt from printing its errors on stderr; they come as exceptions all the same."""
    libvirt.registerErrorHandler(lambda _context, _error: None, None)
