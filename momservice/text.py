# SPDX-License-Identifier: GPL-2.0-or-later
"""Text from elsewhere as it may be shown and logged."""


def shown(text: str, limit: int = 200) -> str:
    """One line: what can't be printed becomes "?", what is too long is cut."""
    if len(text) <= limit and text.isprintable():
        return text
    line = "".join(c if c.isprintable() else "?" for c in text[:limit])
    return line if len(text) <= limit else line + "..."
