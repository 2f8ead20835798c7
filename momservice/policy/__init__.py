# SPDX-License-Identifier: GPL-2.0-or-later
"""The policy language: text in, decisions out. Pure: no I/O, no clock, no logging."""
