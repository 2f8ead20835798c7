# SPDX-License-Identifier: GPL-2.0-or-later
"""What a socket unit with its drop-ins listens on, read as systemd reads it."""

from __future__ import annotations

from pathlib import Path

from momservice.unit_files import listens_on

UNIT = "mom-rpc-bridge.socket"


def write(root: Path, place: str, *values: str) -> None:
    (root / place).parent.mkdir(parents=True, exist_ok=True)
    (root / place).write_text("# ListenStream=/comment\n[Socket]\n" + "".join(f"ListenStream = {value}\n" for value in values))


def test_no_unit_is_told_from_one_that_listens_nowhere(tmp_path: Path) -> None:
    assert listens_on(UNIT, tmp_path) is None
    write(tmp_path, f"usr/lib/systemd/system/{UNIT}")
    assert listens_on(UNIT, tmp_path) == []


def test_the_administrators_unit_comes_before_the_packages(tmp_path: Path) -> None:
    write(tmp_path, f"usr/lib/systemd/system/{UNIT}", "/a")
    write(tmp_path, f"etc/systemd/system/{UNIT}", "/b")
    assert listens_on(UNIT, tmp_path) == ["/b"]


def test_drop_ins_add_in_the_order_of_their_names_and_an_empty_value_takes_back(tmp_path: Path) -> None:
    write(tmp_path, f"usr/lib/systemd/system/{UNIT}", "/a")
    write(tmp_path, f"etc/systemd/system/{UNIT}.d/20-more.conf", "/c")
    assert listens_on(UNIT, tmp_path) == ["/a", "/c"]
    write(tmp_path, f"run/systemd/system/{UNIT}.d/10-other.conf", "", "/b")
    assert listens_on(UNIT, tmp_path) == ["/b", "/c"]


def test_a_drop_in_of_the_same_name_hides_the_packages(tmp_path: Path) -> None:
    write(tmp_path, f"usr/lib/systemd/system/{UNIT}", "/a")
    write(tmp_path, f"usr/lib/systemd/system/{UNIT}.d/10-x.conf", "/b")
    write(tmp_path, f"etc/systemd/system/{UNIT}.d/10-x.conf", "", "/c")
    assert listens_on(UNIT, tmp_path) == ["/c"]


def test_the_unit_that_is_shipped_listens_where_vdsm_looks(tmp_path: Path) -> None:
    shipped = (Path(__file__).parents[2] / "systemd" / UNIT).read_text()
    (tmp_path / "usr/lib/systemd/system").mkdir(parents=True)
    (tmp_path / "usr/lib/systemd/system" / UNIT).write_text(shipped)
    assert listens_on(UNIT, tmp_path) == ["/run/vdsm/mom-vdsm.sock"]
    assert "SocketMode=0600\n" in shipped
