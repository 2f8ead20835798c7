# SPDX-License-Identifier: GPL-2.0-or-later
"""Policy cases: a world, policies and what they must decide, run off line. The logic of `momctl policy test`.

`FILE`, `CASE`, `WORLD`, and in `expected` `EXPECT` and `VALUES`, say what a file of cases holds; nothing else is taken.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path
from typing import Final

from momservice.bus.names import MAIN_POLICY, TEXT_BYTES
from momservice.fields import Names, Schema
from momservice.policy.differences import Difference, differences, refused
from momservice.policy.expected import Expected, read_expected
from momservice.policy.program import Program, evaluate, load
from momservice.snapshot import HOST, Entity, Snapshot, Value
from momservice.snapshot_file import read_snapshot, schema_of, values_of
from momservice.strict_json import Json, Kind, get, only, quoted, read, read_text

SEEDS: Final = ("mom.policy", "../data/mom.policy", "../reference/mom.policy")

FILE: Final[Mapping[str, str]] = {
    "cases": "a list of cases",
    "defaults": "an object: what every case has unless it says otherwise, such as policies",
    "meta": "an object of remarks; its seed is the file, beside this one, whose text the policy @seed stands for",
}
CASE: Final[Mapping[str, str]] = {
    "name": "a text that no other case of the file has",
    "policy": f'one policy, called {MAIN_POLICY}: its text, or {{"file": "my.policy"}}, relative to the file of cases',
    "policies": 'several: an object of such by name, or a list of {"file": ...}, each named like its file without ".policy"',
    "parameters": "an object: the values of parameters by name",
    "host": "the host of the world: an object of the newest values of its fields by name",
    "guests": "the guests of the world: a list of such objects, in the order in which policies see them",
    "snapshot": "in place of host and guests: a file with a recorded snapshot, relative to the file of cases",
    "expect": "an object: what is compared; what it leaves out is not",
    "quirk": "true: ours is compared in place of expect, which says what oVirt's MOM does",
    "ours": "see quirk",
    "section": "a remark",
    "note": "a remark",
}
WORLD: Final[Mapping[str, str]] = {
    "@history": "a list of older samples, oldest first: objects of values by name",
    "@props": "an object of properties (without it a guest has the name vm1, vm2..., and the host an interval of 5)",
    "@vars": "an object of the variables that SetVar kept in earlier runs",
    "@empty": "a list of names: fields that could have a value, while the entity has no sample at all",
}
# One of a row takes the place of the others' defaults.
_ALTERNATIVES: Final = (frozenset({"policy", "policies"}), frozenset({"snapshot", "host"}), frozenset({"snapshot", "guests"}))


@dataclass(frozen=True, slots=True)
class CaseResult:
    """The outcome of one case."""

    name: str
    passed: bool
    details: Sequence[Difference]

    @property
    def differences(self) -> list[str]:
        """One line for each part that differs; empty if the case passed."""
        return [str(difference) for difference in self.details]


@dataclass(frozen=True, slots=True)
class _Case:
    name: str
    policies: Mapping[str, str]
    snapshot: Snapshot
    schema: Schema
    parameters: Mapping[str, Value]
    expected: Expected


def run_file(path: str | Path, known: Schema, seed: str | None = None, patterns: Sequence[str] = ()) -> Iterator[CaseResult]:
    """Runs the cases of a file. `known`: the names of all collectors and controllers, beyond the fields that a case declares; `seed`: the
    text that `@seed` stands for; `patterns`: only cases whose name matches one of these, as file names do in a shell.

    Raises ValueError, one line that says what is wrong where, for a file that isn't one of cases, before any case runs.
    """
    try:
        cases = list(_File(Path(path), known, seed).cases())
    except RecursionError:
        raise ValueError(f"{path}: nested too deep") from None
    return (_run(case) for case in cases if not patterns or any(fnmatchcase(case.name, pattern) for pattern in patterns))


# --- reading -----------------------------------------------------------------------------------------------------------------------------


class _File:
    """A file of cases."""

    def __init__(self, path: Path, known: Schema, seed: str | None) -> None:
        self._path = path
        self._known = known
        self._given_seed = seed
        self._content = read(path)
        # Many cases share a policy or a snapshot; each is read once.
        self._text = cache(lambda path: read_text(path, TEXT_BYTES))
        self._snapshot = cache(read_snapshot)

    def cases(self) -> Iterator[_Case]:
        """All cases. Raises ValueError."""
        cases = get(self._content, "cases", list, str(self._path))
        only(self._content, FILE, str(self._path))
        defaults = get(self._content, "defaults", dict, str(self._path), {})
        seen: set[str] = set()
        for number, case in enumerate(cases, 1):
            where = f"{self._path}: case {number}"
            name = get(case, "name", str, where)
            where = f"{where} ({name})"
            if name in seen:
                raise ValueError(f"{where}: another case has this name")
            seen.add(name)
            yield self._case(_with_defaults(case, defaults), name, where)

    def _case(self, case: dict[str, Json], name: str, where: str) -> _Case:
        only(case, CASE, where)
        snapshot, schema = self._world(case, where)
        expected = get(case, "ours" if get(case, "quirk", bool, where, False) else "expect", dict, where, {})
        parameters = values_of(get(case, "parameters", dict, where, {}), f"{where}: 'parameters'")
        return _Case(name, self._policies(case, where), snapshot, schema, parameters, read_expected(expected, snapshot, where))

    def _world(self, case: dict[str, Json], where: str) -> tuple[Snapshot, Schema]:
        if "snapshot" not in case:
            return _world(case, self._known, where)
        if "host" in case or "guests" in case:
            raise ValueError(f"{where}: 'snapshot' takes the place of 'host' and 'guests'")
        snapshot = self._referred(get(case, "snapshot", str, where), self._snapshot, where)
        return snapshot, schema_of(snapshot, self._known)

    def _policies(self, case: Json, where: str) -> dict[str, str]:
        if ("policy" in case) == ("policies" in case):
            raise ValueError(f"{where}: 'policy' or 'policies' is needed, and not both")
        given = case.get("policies", {MAIN_POLICY: case.get("policy")})
        if isinstance(given, list):
            given = _by_file_name(given, where)
        if not isinstance(given, dict):
            raise ValueError(f"{where}: 'policies' is neither an object nor a list")
        return {name: self._policy(policy, f"{where}: policy {quoted(name)}") for name, policy in given.items()}

    def _policy(self, given: Json, where: str) -> str:
        if isinstance(given, str):
            return self._seed() if given == "@seed" else given
        if not isinstance(given, dict):
            raise ValueError(f'{where}: neither a text nor {{"file": ...}}')
        only(given, ("file",), where)
        return self._referred(get(given, "file", str, where), self._text, where)

    def _seed(self) -> str:
        if self._given_seed is not None:
            return self._given_seed
        named = get(self._content, "meta", dict, str(self._path), {}).get("seed")
        candidates = [str(named)] if named else SEEDS
        found = next((name for name in candidates if (self._path.parent / name).is_file()), None)
        if found is None:
            raise ValueError(f"{self._path}: '@seed' stands for a file that isn't there: {self._path.parent / candidates[0]}")
        return self._referred(found, self._text, str(self._path))

    def _referred(self, name: str, reader: Callable[[Path], Kind], where: str) -> Kind:
        path = self._path.parent / name
        try:
            # A fifo or a device could keep us waiting for ever.
            if path.exists() and not path.is_file():
                raise ValueError(f"{quoted(name)} is not a file")
            return reader(path)
        except OSError as error:
            raise ValueError(f"{where}: {quoted(name)}: {error.strerror}") from None
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from None


def _with_defaults(case: dict[str, Json], defaults: Mapping[str, Json]) -> dict[str, Json]:
    replaced = {key for row in _ALTERNATIVES if row & case.keys() for key in row}
    return {key: value for key, value in defaults.items() if key not in replaced} | case


def _by_file_name(references: list[Json], where: str) -> dict[str, Json]:
    policies: dict[str, Json] = {}
    for reference in references:
        name = Path(get(reference, "file", str, f"{where}: 'policies'")).name.removesuffix(".policy")
        if name in policies:
            raise ValueError(f"{where}: 'policies': two files give a policy named {quoted(name)}")
        policies[name] = reference
    return policies


def _world(case: dict[str, Json], known: Schema, where: str) -> tuple[Snapshot, Schema]:
    host = get(case, "host", dict, where, {})
    guests = get(case, "guests", list, where, [])
    if not all(isinstance(guest, dict) for guest in guests):
        raise ValueError(f"{where}: a guest is not an object")
    entities = [
        _entity(_uuid(number), guest, {"name": f"vm{number}", "uuid": _uuid(number)}, f"{where}: guest {number - 1}")
        for number, guest in enumerate(guests, 1)
    ]
    snapshot = Snapshot(_entity(HOST, host, {"interval": 5}, f"{where}: host"), entities)
    return snapshot, Schema(_names([host], known.host, {"interval"}), _names(guests, known.guest, {"name", "uuid"}))


def _uuid(number: int) -> str:
    return f"00000000-0000-0000-0000-{number:012d}"


def _entity(key: str, given: dict[str, Json], properties: dict[str, Value], where: str) -> Entity:
    only({name: value for name, value in given.items() if name.startswith("@")}, WORLD, where)
    newest = values_of({name: value for name, value in given.items() if not name.startswith("@")}, where)
    history = [values_of(sample, f"{where}: '@history'") for sample in get(given, "@history", list, where, [])]
    empty = get(given, "@empty", list, where, [])
    if not all(isinstance(name, str) for name in empty):
        raise ValueError(f"{where}: '@empty' is not a list of names")
    return Entity(
        key,
        () if "@empty" in given else (*history, newest),
        properties | values_of(get(given, "@props", dict, where, {}), f"{where}: '@props'"),
        values_of(get(given, "@vars", dict, where, {}), f"{where}: '@vars'"),
    )


def _names(entities: Sequence[dict[str, Json]], known: Names, properties: set[str]) -> Names:
    declared = {
        name for entity in entities for sample in (entity, *entity.get("@history", [])) for name in sample if not name.startswith("@")
    }
    declared.update(name for entity in entities for name in entity.get("@empty", []))
    given = {name for entity in entities for name in entity.get("@props", {})}
    return Names(frozenset(declared), known.known | declared, known.controls, frozenset(properties | given))


# --- running -----------------------------------------------------------------------------------------------------------------------------


def _run(case: _Case) -> CaseResult:
    loaded = load(case.policies, case.schema)
    if loaded.program is None:
        found = list(refused(case.expected, [finding for finding in loaded.diagnostics if finding.severity == "error"]))
    else:
        found = list(_parameter_differences(loaded.program, case.parameters)) or _decided(case, loaded.program)
    return CaseResult(case.name, not found, found)


def _decided(case: _Case, program: Program) -> list[Difference]:
    world = replace(case.snapshot, parameters={**case.snapshot.parameters, **case.parameters})
    return list(differences(case.expected, evaluate(program, world)))


def _parameter_differences(program: Program, parameters: Mapping[str, Value]) -> Iterator[Difference]:
    for name, value in parameters.items():
        try:
            program.coerce_parameter(name, value)
        except KeyError:
            yield Difference("parameters", f"no policy that has the parameter {quoted(name)}", "one that has")
        except ValueError as error:
            yield Difference("parameters", str(error), "a value that it takes")
