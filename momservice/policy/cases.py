# SPDX-License-Identifier: GPL-2.0-or-later
"""Policy cases: a world, a policy and what it must decide, run off line. The logic of `momctl policy test`.

A file is a JSON object with `cases`, a list of objects: `name`; `policy` (a text) or `policies` (fragment name -> text); `host` (field ->
newest value, with `@history`, `@props`, `@vars`, `@empty`), `guests` (a list of such); `expect`, of which any part may be left out and then
isn't compared: `results`, `types`, `controls`, `vars`, `error`, `failed_forms`, `dropped_guests`.
A case with `quirk` is compared by `ours`.
The policy `@seed` is the text of the file that `meta.seed` names, beside the cases file; without it, the first of `SEEDS` that is there.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeAlias, TypeVar

from momservice.fields import Names, Schema
from momservice.policy.decisions import Decisions, Opaque
from momservice.policy.program import evaluate, load
from momservice.snapshot import HOST, Entity, Snapshot, Value

MAIN: Final = "50_main_"
SEEDS: Final = ("mom.policy", "../data/mom.policy", "../reference/mom.policy")
_PARTS: Final = frozenset({"results", "types", "controls", "vars", "error", "failed_forms", "dropped_guests"})
_INFORMATION: Final = frozenset({"writes", "load", "applied"})
_TYPE_NAMES: Final = {bool: "bool", int: "int", float: "float", str: "str", type(None): "nil", Opaque: "opaque"}

Json: TypeAlias = Any
Kind = TypeVar("Kind")


@dataclass(frozen=True, slots=True)
class CaseResult:
    """The outcome of one case. `differences`: one line for each part that differs; empty if the case passed."""

    name: str
    passed: bool
    differences: list[str]


@dataclass(frozen=True, slots=True)
class _Case:
    name: str
    policies: Mapping[str, str]
    snapshot: Snapshot
    schema: Schema
    expected: Mapping[str, Json]


def run_file(path: str | Path, known: Schema, seed: str | None = None) -> Iterator[CaseResult]:
    """Runs the cases of a file. `known`: the names of all collectors and controllers, beyond the fields that a case declares; `seed`: the
    text that `@seed` stands for.

    Raises ValueError, one line that says what is wrong where, for a file that isn't one of cases, before any case runs.
    """
    file = Path(path)
    try:
        cases = list(_read(file, known, seed))
    except RecursionError:
        raise ValueError(f"{file}: nested too deep") from None
    return (_run(case) for case in cases)


# --- reading -----------------------------------------------------------------------------------------------------------------------------


def _read(file: Path, known: Schema, seed: str | None) -> Iterator[_Case]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{file}: {error.strerror if isinstance(error, OSError) else error}") from None
    cases = _get(content, "cases", list, str(file))
    meta = content.get("meta", {})
    seen: set[str] = set()
    for number, case in enumerate(cases, 1):
        where = f"{file}: case {number}"
        name = _get(case, "name", str, where)
        if name in seen:
            raise ValueError(f"{where} ({name}): another case has this name")
        seen.add(name)
        yield _case(case, f"{where} ({name})", known, lambda: _seed(file, meta) if seed is None else seed)


def _get(holder: Json, key: str, kind: type[Kind], where: str, default: Kind | None = None) -> Kind:
    if not isinstance(holder, dict):
        raise ValueError(f"{where}: not an object")
    value = holder.get(key, default)
    if isinstance(value, kind):
        return value
    wanted = {"dict": "an object", "list": "a list", "str": "a text"}[kind.__name__]
    raise ValueError(f"{where}: {key!r} is missing" if key not in holder else f"{where}: {key!r} is not {wanted}")


def _objects(guests: list[Json], where: str) -> list[dict[str, Json]]:
    if all(isinstance(guest, dict) for guest in guests):
        return guests
    raise ValueError(f"{where}: a guest is not an object")


def _seed(file: Path, meta: Json) -> str:
    named = meta.get("seed") if isinstance(meta, dict) else None
    candidates = [file.parent / str(name) for name in ([named] if named else SEEDS)]
    found = next((candidate for candidate in candidates if candidate.is_file()), None)
    if found is None:
        raise ValueError(f"{file}: '@seed' stands for a file that isn't there: {candidates[0]}")
    return found.read_text(encoding="utf-8")


def _case(case: Json, where: str, known: Schema, seed: Callable[[], str]) -> _Case:
    host = _get(case, "host", dict, where, {})
    guests = _objects(_get(case, "guests", list, where, []), where)
    schema = Schema(
        _names([host], known.host, {"interval"}, where),
        _names(guests, known.guest, {"name", "uuid"}, where),
    )
    snapshot = Snapshot(
        _entity(HOST, host, {"interval": 5}, where),
        [_entity(_uuid(number), guest, {"name": f"vm{number}", "uuid": _uuid(number)}, where) for number, guest in enumerate(guests, 1)],
    )
    return _Case(case["name"], _policies(case, where, seed), snapshot, schema, _expected(case, where))


def _policies(case: Json, where: str, seed: Callable[[], str]) -> dict[str, str]:
    if ("policy" in case) == ("policies" in case):
        raise ValueError(f"{where}: 'policy' or 'policies' is needed, and not both")
    texts = _get(case, "policies", dict, where) if "policies" in case else {MAIN: _get(case, "policy", str, where)}
    return {name: seed() if text == "@seed" else text for name in texts for text in [_get(texts, name, str, where)]}


def _expected(case: Json, where: str) -> dict[str, Json]:
    expected: dict[str, Json] = _get(case, "ours" if case.get("quirk") else "expect", dict, where, {})
    unknown = sorted(expected.keys() - _PARTS - _INFORMATION)
    if unknown:
        raise ValueError(f"{where}: unknown part {unknown[0]!r} of what is expected")
    for part in ("results", "types", "failed_forms", "dropped_guests"):
        _get(expected, part, list, where, [])
    for part in ("controls", "vars"):
        of_part = _get(expected, part, dict, where, {})
        _get(of_part, "host", dict, where, {})
        _objects(_get(of_part, "guests", list, where, []), where)
    if expected.get("error") is not None:
        _get(expected["error"], "class", str, where)
    return {part: _value(value, where) for part, value in expected.items()}


def _uuid(number: int) -> str:
    return f"00000000-0000-0000-0000-{number:012d}"


def _names(entities: Sequence[dict[str, Json]], known: Names, properties: set[str], where: str) -> Names:
    declared: set[str] = set()
    for entity in entities:
        history = _get(entity, "@history", list, where, [])
        for sample in (entity, *history):
            if not isinstance(sample, dict):
                raise ValueError(f"{where}: '@history' is not a list of objects")
            declared.update(name for name in sample if not name.startswith("@"))
        declared.update(_get(entity, "@empty", list, where, []))
        properties = properties | _get(entity, "@props", dict, where, {}).keys()
    return Names(frozenset(declared), known.known | declared, known.controls, frozenset(properties))


def _entity(key: str, given: dict[str, Json], properties: dict[str, Value], where: str) -> Entity:
    newest = {name: _value(value, where) for name, value in given.items() if not name.startswith("@")}
    history = [{name: _value(value, where) for name, value in sample.items()} for sample in given.get("@history", [])]
    variables = {name: _value(value, where) for name, value in _get(given, "@vars", dict, where, {}).items()}
    return Entity(key, () if "@empty" in given else (*history, newest), properties | given.get("@props", {}), variables)


def _value(value: Json, where: str) -> Json:
    """A JSON value, with those that JSON lacks in their place."""
    if isinstance(value, list):
        return [_value(item, where) for item in value]
    if not isinstance(value, dict):
        return value
    if "$opaque" in value:
        return Opaque(str(value["$opaque"]))
    if "$float" not in value:
        return {name: _value(item, where) for name, item in value.items()}
    if value["$float"] not in ("inf", "-inf", "nan"):
        raise ValueError(f"{where}: '$float' is inf, -inf or nan")
    return float(value["$float"])


# --- running and comparing ---------------------------------------------------------------------------------------------------------------


def _run(case: _Case) -> CaseResult:
    loaded = load(case.policies, case.schema)
    if loaded.program is None:
        errors = [(found.code, str(found)) for found in loaded.diagnostics if found.severity == "error"]
        differences = _error_differences(case.expected, errors) if case.expected else [f"doesn't load: {errors[0][1]}"]
    else:
        differences = list(_differences(case, evaluate(loaded.program, case.snapshot)))
    return CaseResult(case.name, not differences, differences)


def _error_differences(expected: Mapping[str, Json], found: Sequence[tuple[str, str]]) -> list[str]:
    """Compares the class of the error that is expected with those that there are (class, text)."""
    error = expected.get("error")
    if error is not None and error["class"] in [code for code, _ in found]:
        return []
    wanted = "no error" if error is None else f"an error of class {error['class']}"
    return [f"error: got {'; '.join(text for _, text in found[:3]) or 'none'}; expected {wanted}"]


def _differences(case: _Case, decisions: Decisions) -> Iterator[str]:
    expected = case.expected
    failures = [(failure.code, str(failure)) for failure in decisions.failures]
    if expected.get("error") is not None:
        yield from _error_differences(expected, failures)
        results = decisions.results[: min((failure.form for failure in decisions.failures), default=None)]
        yield from _compare("results", results[: len(expected.get("results", []))], expected)
        return
    if "error" in expected:
        yield from _failure_differences(case, decisions, failures)
    yield from _compare("results", decisions.results, expected)
    yield from _compare("types", [_type_name(result) for result in decisions.results], expected)
    controls: dict[str, dict[str, Value]] = {}
    for wanted in decisions.controls:
        controls.setdefault(wanted.entity, {})[wanted.name] = wanted.value
    yield from _compare_entities(case, "controls", controls)
    yield from _compare_entities(case, "vars", decisions.variables)


def _failure_differences(case: _Case, decisions: Decisions, failures: Sequence[tuple[str, str]]) -> Iterator[str]:
    keys = [guest.key for guest in case.snapshot.guests]
    forms = sorted(failure.form for failure in decisions.failures if failure.entity is None)
    guests = sorted(keys.index(failure.entity) for failure in decisions.failures if failure.entity is not None)
    for part, got in (("failed_forms", forms), ("dropped_guests", guests)):
        if got != sorted(case.expected.get(part, [])):
            told = "".join(f"; {text}" for _, text in failures[:3])
            yield f"{part}: got {got}, expected {case.expected.get(part, [])}{told}"


def _type_name(value: object) -> Json:
    return [_type_name(item) for item in value] if isinstance(value, list) else _TYPE_NAMES[type(value)]


def _compare(part: str, got: object, expected: Mapping[str, Json]) -> Iterator[str]:
    if part in expected and not _same(got, wanted := expected[part]):
        yield f"{part}: got {got!r}, expected {wanted!r}"


def _compare_entities(case: _Case, part: str, got: Mapping[str, Mapping[str, Value]]) -> Iterator[str]:
    wanted = case.expected.get(part, {})
    if "host" in wanted and not _same_items(got.get(HOST, {}), wanted["host"]):
        yield f"{part} of the host: got {got.get(HOST, {})!r}, expected {wanted['host']!r}"
    for index, of_guest in enumerate(wanted.get("guests", [])):
        key = _uuid(index + 1)
        if not _same_items(got.get(key, {}), of_guest):
            yield f"{part} of guest {index}: got {got.get(key, {})!r}, expected {of_guest!r}"


def _same_items(got: Mapping[str, Value], wanted: Mapping[str, Json]) -> bool:
    return got.keys() == wanted.keys() and all(_same(got[name], wanted[name]) for name in got)


def _same(got: object, wanted: object) -> bool:
    """Whether two values are the same: type and value, nan the same as nan, opaque ones whatever they are."""
    if isinstance(got, list | tuple) and isinstance(wanted, list):
        return len(got) == len(wanted) and all(map(_same, got, wanted))
    if isinstance(got, float) and isinstance(wanted, float) and math.isnan(got):
        return math.isnan(wanted)
    return type(got) is type(wanted) and (isinstance(got, Opaque) or got == wanted)
