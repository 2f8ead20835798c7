# SPDX-License-Identifier: GPL-2.0-or-later
"""Thin D-Bus objects over plain classes, the polkit gate, and the connection that the helpers share."""
