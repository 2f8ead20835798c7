# SPDX-License-Identifier: GPL-2.0-or-later
"""Whatever holds a privilege: `ksm` (momhelper, root), `guests` (momhelper-guests), `gate` (what both share)."""
