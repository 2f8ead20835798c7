# SPDX-License-Identifier: GPL-2.0-or-later
"""The file format of policy cases: what is compared, and what is said of a file that isn't one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from momservice.fields import Names, Schema
from momservice.policy.cases import CaseResult, run_file

NOTHING = Names(frozenset(), frozenset(), frozenset(), frozenset())
KNOWN = Schema(NOTHING, NOTHING)
WORLD = {"host": {"m": 5}, "guests": [{"d": 2}, {"d": 0}]}
POLICY = "(Host.Control 't' Host.m) (with Guests g (g.Control 'u' (/ 4 g.d))) (Host.SetVar 'v' 1.5)"
RIGHT: dict[str, Any] = {
    "results": [None, [None, None], None],
    "types": ["nil", ["nil", "nil"], "nil"],
    "controls": {"host": {"t": 5}, "guests": [{"u": 2.0}, {}]},
    "vars": {"host": {"v": 1.5}, "guests": []},
    "error": None,
    "dropped_guests": [1],
}


def run(tmp_path: Path, *cases: object, meta: object = None) -> list[CaseResult]:
    path = tmp_path / "cases.json"
    path.write_text(json.dumps({"meta": meta, "cases": cases}))
    return list(run_file(path, KNOWN))


def test_a_case_passes_when_every_part_is_right(tmp_path: Path) -> None:
    assert run(tmp_path, {"name": "n", "policy": POLICY, **WORLD, "expect": RIGHT}) == [CaseResult("n", True, [])]


@pytest.mark.parametrize(
    "wrong",
    [
        {"results": [None, [None, 0], None]},
        {"results": [None, [None, None]]},
        {"types": ["nil", ["nil", "int"], "nil"]},
        {"controls": {"host": {"t": 6}}},
        {"controls": {"host": {"t": 5.0}}},
        {"controls": {"host": {}}},
        {"controls": {"guests": [{"u": 2.0}, {"u": 1}]}},
        {"vars": {"host": {"v": 2}}},
        {"dropped_guests": []},
        {"failed_forms": [0]},
        {"error": {"class": "name"}},
    ],
    ids=str,
)
def test_a_wrong_part_is_told(tmp_path: Path, wrong: dict[str, object]) -> None:
    (result,) = run(tmp_path, {"name": "n", "policy": POLICY, **WORLD, "expect": RIGHT | wrong})
    assert not result.passed
    assert next(iter(wrong)).split("_")[0] in result.differences[0]
    assert all("\n" not in difference for difference in result.differences)


def test_parts_left_out_are_not_compared(tmp_path: Path) -> None:
    cases = [{"name": "n", "policy": POLICY, **WORLD}, {"name": "m", "policy": "(/ 1 0)", "expect": {}}]
    assert [result.passed for result in run(tmp_path, *cases)] == [True, True]


def test_a_policy_that_does_not_load_fails_whatever_is_left_out(tmp_path: Path) -> None:
    (result,) = run(tmp_path, {"name": "n", "policy": "(+ 1"})
    assert not result.passed
    assert "50_main_:1:1" in result.differences[0]


def test_an_expected_error_may_come_at_load_or_in_the_run(tmp_path: Path) -> None:
    cases = [
        {"name": "load", "policy": "(launch)", "expect": {"error": {"class": "name"}, "results": [1]}},
        {"name": "run", "policy": "1 (/ 1 0)", "expect": {"error": {"class": "zero-division"}, "results": [1]}},
        {"name": "wrong results", "policy": "1 (/ 1 0)", "expect": {"error": {"class": "zero-division"}, "results": [2]}},
        {"name": "none", "policy": "1", "expect": {"error": {"class": "zero-division"}}},
    ]
    assert [result.passed for result in run(tmp_path, *cases)] == [True, True, False, False]


def test_a_quirk_is_compared_by_ours(tmp_path: Path) -> None:
    case = {"name": "n", "policy": "(or 1 (/ 1 0))", "quirk": True, "expect": {"results": [2]}, "ours": {"results": [1], "error": None}}
    assert run(tmp_path, case)[0].passed


def test_policies_run_in_the_order_of_their_names(tmp_path: Path) -> None:
    case = {"name": "n", "policies": {"20_b": "a", "10_a": "(defvar a 1)"}, "expect": {"results": [1, 1]}}
    assert run(tmp_path, case)[0].passed


def test_values_that_json_lacks_and_history_and_variables(tmp_path: Path) -> None:
    host = {"m": {"$float": "inf"}, "h": 3, "@history": [{"h": 1}], "@vars": {"v": 2}, "@props": {"name": "x"}}
    expected = {"results": [{"$float": "inf"}, 2.0, 2, "x", {"$opaque": "entity"}]}
    policy = "Host.m (Host.StatAvg 'h') (Host.GetVar 'v') (Host.Prop 'name') Host"
    assert run(tmp_path, {"name": "n", "policy": policy, "host": host, "expect": expected})[0].differences == []


def test_the_seed_is_a_file_beside_the_cases(tmp_path: Path) -> None:
    (tmp_path / "mom.policy").write_text("7")
    (tmp_path / "other.policy").write_text("8")
    case = {"name": "n", "policy": "@seed", "expect": {"results": [7]}}
    assert run(tmp_path, case)[0].passed
    assert not run(tmp_path, case, meta={"seed": "other.policy"})[0].passed


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("{", "Expecting"),
        ("[]", "not an object"),
        ("{}", "'cases' is missing"),
        ('{"cases": 5}', "'cases' is not a list"),
        ('{"cases": [5]}', "case 1: not an object"),
        ('{"cases": [{"name": "n"}]}', r"case 1 \(n\): 'policy' or 'policies' is needed"),
        ('{"cases": [{"name": "n", "policy": 5}]}', r"case 1 \(n\): 'policy' is not a text"),
        ('{"cases": [{"name": "n", "policies": {"a": 5}}]}', "'a' is not a text"),
        ('{"cases": [{"name": "n", "policy": "1", "guests": [5]}]}', "a guest is not an object"),
        ('{"cases": [{"name": "n", "policy": "1", "expect": {"result": 5}}]}', "unknown part 'result'"),
        ('{"cases": [{"name": "n", "policy": "1", "expect": {"results": 5}}]}', "'results' is not a list"),
        ('{"cases": [{"name": "n", "policy": "1", "expect": {"controls": {"guests": [5]}}}]}', "a guest is not an object"),
        ('{"cases": [{"name": "n", "policy": "1", "expect": {"error": "name"}}]}', "not an object"),
        ('{"cases": [{"name": "n", "policy": "1", "host": {"m": {"$float": "x"}}}]}', "'.float' is inf, -inf or nan"),
        ('{"cases": [{"name": "n", "policy": "1", "host": {"@history": [5]}}]}', "'@history'"),
        ('{"cases": [{"name": "n", "policy": "1"}, {"name": "n", "policy": "1"}]}', "another case has this name"),
        ('{"cases": [{"name": "n", "policy": "@seed"}]}', "'@seed' stands for a file that isn't there"),
    ],
)
def test_a_malformed_file_is_one_clear_error(tmp_path: Path, content: str, told: str) -> None:
    path = tmp_path / "cases.json"
    path.write_text(content)
    with pytest.raises(ValueError, match=told) as caught:
        run_file(path, KNOWN)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("depth", [500, 100_000])
def test_a_file_nested_too_deep_is_one_clear_error(tmp_path: Path, depth: int) -> None:
    path = tmp_path / "cases.json"
    path.write_text('{"cases": [{"name": "n", "policy": "1", "host": {"m": ' + "[" * depth + "]" * depth + "}}]}")
    with pytest.raises(ValueError, match=r"cases\.json: nested too deep$"):
        run_file(path, KNOWN)


def test_a_missing_file_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"none\.json: No such file"):
        run_file(tmp_path / "none.json", KNOWN)
