# SPDX-License-Identifier: GPL-2.0-or-later
"""The only policy that hosts have for tests of the service itself: parameters of each kind."""

BASE = '(defvar threshold 5)\n(defvar label "x")\n(defvar fraction 0.5)\n'
