# SPDX-License-Identifier: GPL-2.0-or-later
"""The unprivileged service: reads host and guests, runs the policy, asks the helpers to act."""

__version__ = "0.1.0"
API_VERSION = 1
