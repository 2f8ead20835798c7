# SPDX-License-Identifier: GPL-2.0-or-later
"""Every conformance case of the language, each a test of its own, run by the same code as `momctl policy test`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from momservice.fields import Names, Schema
from momservice.policy.cases import CaseResult, run_file

CASES = Path(__file__).with_name("language-cases.json")
KNOWN = {
    kind: Names(frozenset(), frozenset(names["fields"]), frozenset(names["controls"]), frozenset(names["properties"]))
    for kind, names in json.loads((CASES.parent.parent / "data" / "names.json").read_text()).items()
}
RESULTS = list(run_file(CASES, Schema(KNOWN["host"], KNOWN["guest"])))


@pytest.mark.parametrize("result", RESULTS, ids=[result.name for result in RESULTS])
def test_case(result: CaseResult) -> None:
    assert result.passed, "\n".join(result.differences)


def test_no_case_is_left_out() -> None:
    assert len(RESULTS) == len(json.loads(CASES.read_text())["cases"]) == 443
