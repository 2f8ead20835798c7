# SPDX-License-Identifier: GPL-2.0-or-later
"""Types and style hold for the whole tree."""

from __future__ import annotations

import subprocess
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent


def test_types_and_style_are_clean() -> None:
    done = subprocess.run([ROOT / "dev", "lint"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:]
