# SPDX-License-Identifier: GPL-2.0-or-later
"""The compiled form of a policy: Python code, generated as syntax trees, that decides what the tracing evaluator decides.

No name and no text of a policy is ever part of the code: variables are numbered, texts are constants. What the code can reach is in its
namespace, and that holds the operations of the language and nothing else.
"""
