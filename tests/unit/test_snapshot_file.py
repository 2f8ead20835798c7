# SPDX-License-Identifier: GPL-2.0-or-later
"""Snapshots as files: nothing is lost on the way, and nothing but a snapshot is taken."""

from __future__ import annotations

import json
import random
import string
from pathlib import Path
from typing import Any

import pytest

from momservice import strict_json
from momservice.fields import Names, Schema
from momservice.policy import evaluate, load
from momservice.snapshot import HOST, Entity, Snapshot, Value
from momservice.snapshot_file import parse_snapshot, read_snapshot, schema_of
from momservice.snapshot_text import write_snapshot

FLOATS = (0.0, -0.0, 1.5, 0.1, 1e-320, 1.7e308, float("inf"), float("-inf"), float("nan"))
INTEGERS = (0, -1, (1 << 53) + 1, -(1 << 63) - 1, (1 << 256) - 1, -(1 << 256) + 1)
TEXTS = ("", "vda", "line\nline", "\0", "\ud800", "é😀", "$float", "x" * 65536)
NAMES: tuple[str, ...] = ("$float", "$object", "", "é", "a.b", *string.ascii_lowercase)
NOTHING = Names(frozenset(), frozenset(), frozenset(), frozenset())


def name(rng: random.Random) -> str:
    return rng.choice(NAMES)


def value(rng: random.Random, depth: int = 0) -> Value:
    kind = rng.randrange(8 if depth < 5 else 6)
    if kind >= 6:
        size = rng.randrange(4)
        return [value(rng, depth + 1) for _ in range(size)] if kind == 6 else {name(rng): value(rng, depth + 1) for _ in range(size)}
    scalars: list[Value] = [None, rng.random() < 0.5, rng.choice(INTEGERS), rng.choice(FLOATS), rng.choice(TEXTS), rng.uniform(-1e9, 1e9)]
    return scalars[kind]


def values(rng: random.Random) -> dict[str, Value]:
    return {name(rng): value(rng) for _ in range(rng.randrange(5))}


def entity(rng: random.Random, key: str) -> Entity:
    return Entity(key, tuple(values(rng) for _ in range(rng.randrange(4))), values(rng), values(rng))


def uuid(number: int) -> str:
    return f"00000000-0000-0000-0000-{number:012x}"


def a_snapshot(rng: random.Random) -> Snapshot:
    guests = [entity(rng, uuid(number)) for number in rng.sample(range(1 << 40), rng.randrange(4))]
    return Snapshot(entity(rng, HOST), guests, values(rng), rng.randrange(1 << 63))


def exactly(thing: object) -> object:
    """Something that is equal only for values of the same types and digits: 1 is not true, -0.0 is not 0.0, nan is nan."""
    if isinstance(thing, Snapshot):
        return [exactly(thing.host), [exactly(guest) for guest in thing.guests], exactly(thing.parameters), thing.taken_us]
    if isinstance(thing, Entity):
        return [thing.key, [exactly(sample) for sample in thing.samples], exactly(thing.properties), exactly(thing.variables)]
    if isinstance(thing, dict):
        return [(key, exactly(inner)) for key, inner in thing.items()]
    return [exactly(inner) for inner in thing] if isinstance(thing, list | tuple) else (type(thing), repr(thing))


@pytest.mark.parametrize("seed", range(200))
def test_what_is_written_is_read_again_exactly(seed: int) -> None:
    snapshot = a_snapshot(random.Random(seed))
    document = write_snapshot(snapshot)
    assert exactly(parse_snapshot(document, "x")) == exactly(snapshot)
    assert document.isascii()
    assert "\n" not in document
    assert write_snapshot(parse_snapshot(document, "x")) == document


def test_the_same_decisions_come_of_it() -> None:
    samples: list[dict[str, Value]] = [
        {"mem_unused": 100.0 + n, "io_tune": [{"name": "vda", "current": {"total_bytes_sec": n}}]} for n in range(10)
    ]
    guest = Entity(uuid(1), samples, {"name": "vm1", "uuid": uuid(1)}, {"was": float("inf")})
    snapshot = Snapshot(Entity(HOST, [{"mem_free": 5}], {"interval": 5}), [guest], {"factor": 3})
    policy = """(defvar factor 2) (with Guests g {
        (g.Control "balloon_target" (* factor (g.StatAvg "mem_unused")))
        (with g.io_tune d (d.setTotalBytesSec (+ 1 d.current.total_bytes_sec)))
        (g.Control "vcpu_quota" (min (g.GetVar "was") Host.mem_free)) })"""
    again = parse_snapshot(write_snapshot(snapshot), "x")
    program = load({"p": policy}, schema_of(again, Schema(NOTHING, NOTHING))).program
    assert program is not None
    decisions = evaluate(program, snapshot)
    assert decisions == evaluate(program, again)
    assert [(wanted.name, wanted.value, wanted.item) for wanted in decisions.controls] == [
        ("balloon_target", 313.5, ""),
        ("total_bytes_sec", 10, "vda"),
        ("vcpu_quota", 5, ""),
    ]


def document(**changes: Any) -> dict[str, Any]:
    return {"format": "mom-snapshot", "version": 1, "host": {}, "guests": []} | changes


def test_what_may_be_left_out_is_empty() -> None:
    guest = {"key": uuid(1)}
    assert parse_snapshot(json.dumps(document(guests=[guest])), "x") == Snapshot(
        Entity(HOST, (), {}, {}), [Entity(uuid(1), (), {}, {})], {}, 0
    )


def of_host(sample: str) -> str:
    return '{"format": "mom-snapshot", "version": 1, "guests": [], "host": {"samples": [{"m": ' + sample + "}]}}"


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("", "Expecting value"),
        ("[]", "not an object"),
        ('{"format": "x"}', "'format' is not mom-snapshot"),
        ('{"format": "mom-snapshot"}', "'version' is missing"),
        (document(version=2), "a snapshot of version 2; this program reads version 1"),
        (document(version=True), "'version' is not an integer"),
        (document(gests=[]), "unknown key 'gests'; there are format, version, taken_us, host, guests, parameters"),
        (document(taken_us=-1), "'taken_us' is not a time"),
        (document(taken_us=1.5), "'taken_us' is not an integer"),
        (document(host=[]), "'host' is not an object"),
        (document(host={"key": "host"}), "the host has no 'key'"),
        (document(host={"sample": []}), "host: unknown key 'sample'"),
        (document(host={"samples": [{}, 5]}), "host: sample 2: not an object"),
        (document(guests=[{}]), "guest 1: 'key' is missing"),
        (document(guests=[{"key": "vm1"}]), "guest 1: 'key' is not a UUID in lower case"),
        (document(guests=[{"key": uuid(10).upper()}]), "guest 1: 'key' is not a UUID in lower case"),
        (document(guests=[{"key": uuid(1)}, {"key": uuid(1)}]), "guest 2: another guest has the key"),
        (document(guests=[{"key": uuid(1), "variables": 5}]), "guest 1: 'variables' is not an object"),
        (of_host("NaN"), 'NaN is not JSON; write {"$float": "nan"}'),
        (of_host("1e999"), "1e999 is too large for a float"),
        (of_host("1" * 5000), "an integer of more than 256 bits"),
        (of_host(str(1 << 256)), "host: sample 1: 'm': an integer of more than 256 bits"),
        (of_host('"' + "x" * 65537 + '"'), "'m': a string of more than 64 KiB"),
        (of_host("[" * 33 + "]" * 33), "'m': more than 32 lists inside each other"),
        (of_host("[" * 100_000), "nested too deep"),
        (of_host('{"$float": 1}'), "'m': '$float': only $float (inf, -inf or nan)"),
        (of_host('{"$float": "nan", "x": 1}'), "'m': '$float': only"),
        (of_host('{"$object": 5}'), "'m': '$object': only"),
        (of_host('{"$flaot": "nan"}'), "'m': '$flaot': only"),
        (of_host("1}, {") + " " + of_host("2"), "Extra data"),
        (of_host('1, "m": 2'), "an object has 'm' twice"),
    ],
)
def test_anything_else_is_one_clear_error(tmp_path: Path, content: object, told: str) -> None:
    path = tmp_path / "x.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    with pytest.raises(ValueError) as caught:
        read_snapshot(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_that_cannot_be_read_is_one_clear_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match=r"none: No such file"):
        read_snapshot(tmp_path / "none")
    (tmp_path / "x").write_bytes(b"\xff")
    with pytest.raises(ValueError, match=r"x: not UTF-8 \(byte 0\)"):
        read_snapshot(tmp_path / "x")
    monkeypatch.setattr(strict_json, "FILE_BYTES", 1024)
    (tmp_path / "x").write_bytes(b" " * 1025)
    with pytest.raises(ValueError, match="x: over 1 KiB"):
        read_snapshot(tmp_path / "x")


def test_damaged_documents_give_errors_and_nothing_else() -> None:
    rng = random.Random(1)
    for seed in range(300):
        text = write_snapshot(a_snapshot(random.Random(seed)))[:2000]
        for _ in range(10):
            start = rng.randrange(len(text))
            damaged = text[:start] + rng.choice(["", "{", "]", '"', "5", "null", "\ud800", ",", "$"]) + text[start + rng.randrange(3) :]
            try:
                assert isinstance(parse_snapshot(damaged, "x"), Snapshot)
            except ValueError as error:
                assert str(error).startswith("x: ")
                assert "\n" not in str(error)
