# SPDX-License-Identifier: GPL-2.0-or-later
"""The file format of policy cases: what is compared, and what is said of a file that isn't one."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from momservice.fields import Names, Schema
from momservice.policy.cases import CaseResult, run_file
from momservice.snapshot import HOST, Entity, Snapshot
from momservice.snapshot_text import write_snapshot

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


def run(tmp_path: Path, *cases: object, patterns: Sequence[str] = (), **more: object) -> list[CaseResult]:
    path = tmp_path / "cases.json"
    path.write_text(json.dumps({"cases": cases} | more))
    return list(run_file(path, KNOWN, patterns=patterns))


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


def expecting(expect: str) -> str:
    twins = '{"@props": {"name": "x"}}'
    return f'{{"cases": [{{"name": "n", "policy": "1", "guests": [{twins}, {twins}], "expect": {expect}}}]}}'


def test_parameters_are_bound_before_the_policy_runs(tmp_path: Path) -> None:
    case = {"name": "n", "policy": "(defvar a 1) (defvar b 2.5) (+ a b)", "expect": {"results": [5, 2.0, 7.0]}}
    assert run(tmp_path, case | {"parameters": {"a": 5, "b": 2}})[0].differences == []
    (unknown,) = run(tmp_path, case | {"parameters": {"c": 5}})[0].differences
    assert "no policy that has the parameter 'c'" in unknown
    (mistyped,) = run(tmp_path, case | {"parameters": {"a": "x"}})[0].differences
    assert "parameter 'a' takes an integer" in mistyped


def test_policies_may_be_files_beside_the_cases(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "10_a.policy").write_text("(defvar a 1)")
    (tmp_path / "20_b.policy").write_text("(+ a 1)")
    files = [{"file": "20_b.policy"}, {"file": "sub/10_a.policy"}]
    expect = {"results": [1, 2]}
    cases = [
        {"name": "list", "policies": files, "expect": expect},
        {"name": "object", "policies": {"2": files[0], "1": files[1]}, "expect": expect},
        {"name": "mixed", "policies": {"2": "(+ a 1)", "1": files[1]}, "expect": expect},
        {"name": "one", "policy": files[1], "expect": {"results": [1]}},
        {"name": "places", "policies": [files[0]], "expect": {"error": {"class": "name"}}},
    ]
    assert [result.differences for result in run(tmp_path, *cases)] == [[]] * 5


def test_defaults_hold_where_a_case_says_nothing_else(tmp_path: Path) -> None:
    defaults = {"policies": {"p": "(defvar a 1) Host.m"}, "host": {"m": 7}, "parameters": {"a": 2}, "expect": {"results": [2, 7]}}
    cases = [
        {"name": "all"},
        {"name": "world", "host": {"m": 8}, "expect": {"results": [2, 8]}},
        {"name": "policy", "policy": "(defvar a 3) 5", "expect": {"results": [2, 5]}},
    ]
    assert [result.differences for result in run(tmp_path, *cases, defaults=defaults)] == [[]] * 3


def a_snapshot() -> Snapshot:
    guests = [Entity(f"00000000-0000-0000-0000-00000000000{n}", [{"x": n}], {"name": name}) for n, name in enumerate(["b", "a", "a"])]
    return Snapshot(Entity(HOST, [{"m": 5}]), guests, {"p": 3})


def test_a_recorded_snapshot_may_be_the_world(tmp_path: Path) -> None:
    (tmp_path / "s.json").write_text(write_snapshot(a_snapshot()))
    policy = "(defvar p 1) (Host.Control 't' (+ Host.m p)) (with Guests g (g.Control 'u' g.x))"
    expected = {"host": {"t": 8}, "guests": {"b": {"u": 0}, "00000000-0000-0000-0000-000000000002": {"u": 2}}}
    case = {"name": "n", "policy": policy, "snapshot": "s.json", "expect": {"controls": expected}}
    others = {"name": "m", "parameters": {"p": 4}, "expect": {"controls": {"host": {"t": 9}}}}
    assert [result.differences for result in run(tmp_path, case, case | others)] == [[], []]
    (tmp_path / "s.json").write_text("{}")
    with pytest.raises(ValueError, match=r"case 1 \(n\): .*s\.json: 'format' is missing"):
        run(tmp_path, case)


def decided(tmp_path: Path, policy: str, expect: dict[str, Any]) -> list[str]:
    return run(tmp_path, {"name": "n", "policy": policy, **WORLD, "expect": expect})[0].differences


TWO = "(with Guests g { (g.Control 'u' 1.004) (g.SetVar 'v' nil) }) (Host.Control 't' 7)"


def test_controls_are_exactly_those_listed_or_with_partial_at_least(tmp_path: Path) -> None:
    controls = {"host": {}, "guests": {"vm1": {"w": 1, "u": 1.004}}}
    assert decided(tmp_path, TWO, {"controls": controls}) == [
        "controls of the host: t: got 7, expected nothing",
        "controls of guest 0 (vm1): w: got nothing, expected 1",
    ]
    assert decided(tmp_path, TWO, {"controls": controls, "partial": True}) == [
        "controls of guest 0 (vm1): w: got nothing, expected 1",
    ]
    absent = {"host": {"t": {"$absent": True}, "s": {"$absent": True}}}
    assert decided(tmp_path, TWO, {"controls": absent, "partial": True}) == ["controls of the host: t: got 7, expected nothing"]


def test_a_number_may_be_expected_approximately(tmp_path: Path) -> None:
    def near(value: float, **within: float) -> list[str]:
        return decided(tmp_path, TWO, {"partial": True, "controls": {"guests": [{"u": {"$approx": value} | within}]}})

    assert near(1, within=0.01) == near(1.004) == near(1.004 + 1e-12) == []
    assert near(1, within=0.001) == [
        'controls of guest 0 (vm1): u: got 1.004, expected {"$approx": 1, "within": 0.001}',
    ]
    assert decided(tmp_path, "(> 2 1) nil", {"results": [{"$approx": 1}, {"$approx": 0}]}) != []


def test_limits_of_disks_are_told_apart(tmp_path: Path) -> None:
    disks = [{"name": name, "current": {"total_bytes_sec": 1}} for name in ("vda", "vdb")]
    policy = "(with Guests g (with g.io_tune d (d.setTotalBytesSec (if (== d.name 'vda') 5 6))))"
    wanted = {"guests": [{"vda.total_bytes_sec": 5, "vdb.total_bytes_sec": 6}]}
    case = {"name": "n", "policy": policy, "guests": [{"io_tune": disks}], "expect": {"controls": wanted}}
    assert run(tmp_path, case)[0].differences == []


FAILS = "1\n(/ 1 0)\n(def f (g) (/ 4 g.d))\n(with Guests g (f g))"
BOTH = [{"code": "zero-division", "line": 2, "guest": None}, {"guest": "vm2", "line": 3, "column": 12, "fragment": "50_main_"}]


def test_failures_may_be_expected(tmp_path: Path) -> None:
    assert decided(tmp_path, FAILS, {"failures": BOTH}) == []
    assert decided(tmp_path, FAILS, {"failures": [{}, {"guest": 1, "message": "by zero"}]}) == []
    assert decided(tmp_path, FAILS, {"failures": BOTH[:1], "partial": True}) == []
    (more,) = decided(tmp_path, FAILS, {"failures": BOTH[:1]})
    assert more.startswith("failures: got 50_main_:3:12:")
    assert "called at 50_main_:4:16" in more
    (missing,) = decided(tmp_path, "1", {"failures": BOTH[1:]})
    assert missing == "failures: got nothing, expected guest guest 1 (vm2), line 3, column 12, fragment 50_main_"


def test_guests_and_forms_that_fail_are_compared_also_without_error(tmp_path: Path) -> None:
    assert decided(tmp_path, FAILS, {"failed_forms": [1], "dropped_guests": ["vm2"]}) == []
    (difference,) = decided(tmp_path, FAILS, {"dropped_guests": ["vm1"]})
    assert difference.startswith("dropped_guests: got guest 1 (vm2) (50_main_:2:1: ")
    assert difference.endswith("), expected guest 0 (vm1)")


def test_cases_are_chosen_by_patterns_of_their_names(tmp_path: Path) -> None:
    cases = [{"name": name, "policy": "1"} for name in ("balloon-grows", "balloon-shrinks", "ksm-runs")]
    names = [result.name for result in run(tmp_path, *cases, patterns=["balloon-[sx]*", "*runs"])]
    assert names == ["balloon-shrinks", "ksm-runs"]


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("{", "Expecting"),
        ("[]", "not an object"),
        ("{}", "'cases' is missing"),
        ('{"cases": 5}', "'cases' is not a list"),
        ('{"cases": [5]}', "case 1: not an object"),
        ('{"cases": [{"name": "n"}]}', r"case 1 \(n\): 'policy' or 'policies' is needed"),
        ('{"cases": [{"name": "n", "policy": 5}]}', r"""policy '50_main_': neither a text nor"""),
        ('{"cases": [{"name": "n", "policies": {"a": 5}}]}', "policy 'a': neither a text nor"),
        ('{"cases": [{"name": "n", "policy": "1", "guests": [5]}]}', "a guest is not an object"),
        ('{"cases": [{"name": "n", "policy": "1", "expect": {"result": 5}}]}', "unknown key 'result'"),
        ('{"cases": [{"name": "n", "policy": "1", "expect": {"results": 5}}]}', "'results' is not a list"),
        ('{"cases": [{"name": "n", "policy": "1", "guests": [{}], "expect": {"controls": {"guests": [5]}}}]}', "a guest is not an object"),
        ('{"cases": [{"name": "n", "policy": "1", "expect": {"error": "name"}}]}', "not an object"),
        ('{"cases": [{"name": "n", "policy": "1", "host": {"m": {"$float": "x"}}}]}', "host: 'm': '.float': only"),
        ('{"cases": [{"name": "n", "policy": "1", "host": {"@history": [5]}}]}', "'@history'"),
        ('{"cases": [{"name": "n", "policy": "1"}, {"name": "n", "policy": "1"}]}', "another case has this name"),
        ('{"cases": [], "caes": []}', "unknown key 'caes'; there are cases, defaults, meta"),
        ('{"cases": [], "cases": []}', "an object has 'cases' twice"),
        ('{"cases": [], "defaults": 5}', "'defaults' is not an object"),
        ('{"cases": [{"name": "n", "policy": "1", "expcet": {}}]}', r"case 1 \(n\): unknown key 'expcet'; there are name, policy"),
        ('{"cases": [{"name": "n", "policy": "1", "host": {"@histroy": []}}]}', "host: unknown key '@histroy'"),
        ('{"cases": [{"name": "n", "policy": "1", "host": {"m": 1e999}}]}', "1e999 is too large"),
        ('{"cases": [{"name": "n", "policy": "1", "host": {"@empty": [[]]}}]}', "'@empty' is not a list of names"),
        ('{"cases": [{"name": "n", "policy": "1", "parameters": []}]}', "'parameters' is not an object"),
        ('{"cases": [{"name": "n", "policy": {"file": "none"}}]}', "none: No such file"),
        ('{"cases": [{"name": "n", "policy": {"file": "."}}]}', "'.' is not a file"),
        ('{"cases": [{"name": "n", "policy": {"file": "/dev/zero"}}]}', "'/dev/zero' is not a file"),
        ('{"cases": [{"name": "n", "policy": {"file": "' + "x" * 5000 + '"}}]}', "xxx...': File name too long"),
        ('{"cases": [{"name": "n", "policy": {"file": "a\\u0000b"}}]}', r"case 1 \(n\): policy"),
        ('{"cases": [{"name": "n", "policy": {"fiel": "x"}}]}', "unknown key 'fiel'"),
        ('{"cases": [{"name": "n", "policies": [{"file": "a/x"}, {"file": "b/x.policy"}]}]}', "two files give a policy named 'x'"),
        ('{"cases": [{"name": "n", "policies": 5}]}', "'policies' is neither an object nor a list"),
        ('{"cases": [{"name": "n", "policy": "1", "snapshot": "none"}]}', "none: No such file"),
        ('{"cases": [{"name": "n", "policy": "1", "snapshot": "x", "host": {}}]}', "'snapshot' takes the place"),
        (expecting('{"controls": {"hsot": {}}}'), "'controls': unknown key 'hsot'; there are host, guests"),
        (expecting('{"controls": {"guests": 5}}'), "'guests' is neither a list nor an object"),
        (expecting('{"controls": {"guests": {"vm3": {}}}}'), "there is no guest 'vm3'"),
        (expecting('{"controls": {"guests": [{}, {}, {}]}}'), "there is no guest 2: they are counted from 0, and there are 2"),
        (expecting('{"controls": {"guests": {"x": {}}}}'), "2 guests are called 'x'; use the UUID"),
        (expecting('{"dropped_guests": [null]}'), "a guest is told by its position, name or UUID"),
        (expecting('{"failed_forms": ["x"]}'), "'failed_forms' is not a list of integers"),
        (expecting('{"failures": [{"codee": 1}]}'), "'failures': unknown key 'codee'"),
        (expecting('{"failures": [{"line": "1"}]}'), "'line' is not an integer"),
        (expecting('{"failures": [], "error": null}'), "'failures' and 'error' don't go together"),
        (expecting('{"results": [{"$aprox": 1}]}'), 'an expected value can\'t be {"[$]aprox": 1}'),
        (expecting('{"results": [{"$approx": 1, "within": -1}]}'), "an expected value can't be"),
        (expecting('{"results": [{"$absent": true}]}'), "an expected value can't be"),
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
    path.write_text('{"cases": [{"name": "n", "policy": "1", "expect": {"results": [' + "[" * depth + "]" * depth + "]}}]}")
    with pytest.raises(ValueError, match=r"cases\.json: nested too deep$"):
        run_file(path, KNOWN)


def test_a_missing_file_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"none\.json: No such file"):
        run_file(tmp_path / "none.json", KNOWN)
