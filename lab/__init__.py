# SPDX-License-Identifier: GPL-2.0-or-later
"""The lab: everything behind `./dev` - a throw-away host with a real bus, libvirtd, guests and KSM. Not installed."""
