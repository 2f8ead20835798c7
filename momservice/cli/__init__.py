# SPDX-License-Identifier: GPL-2.0-or-later
"""momctl, the command line of the service: a mere bus client, and off line a checker and tester of policies."""
