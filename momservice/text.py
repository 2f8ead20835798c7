# SPDX-License-Identifier: GPL-2.0-or-later
"""Text from elsewhere as it may be shown and logged."""


def shown(text: str, limit: int = 200) -> str:
    """One line: what can't be printed becomes "?", what is too long is cut."""
    if len(text) <= limit and text.isprintable():
        return text
    line = "".join(c if c.isprintable() else "?" for c in text[:limit])
    return line if len(text) <= limit else line + "..."


def fault(error: Exception) -> str:
    """What went wrong, where everybody may read it: an error of the system without the file that it names."""
    said = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return f"{type(error).__name__}: {said}"
