# SPDX-License-Identifier: GPL-2.0-or-later
"""Series of snapshots: recorded as they are seen, and replayed as they were."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from momservice.cli import command
from momservice.fields import Schema
from momservice.policy import evaluate, load
from momservice.recorder import Recorder
from momservice.series import parse_series, replay, schema_of_all
from momservice.snapshot import HOST, Entity, Sample, Snapshot
from momservice.snapshot_file import parse_snapshot
from momservice.snapshot_text import write_snapshot

A, B = "aaaaaaaa-0000-0000-0000-000000000000", "bbbbbbbb-0000-0000-0000-000000000000"
NAMES = [(A, "vm-a"), (B, "vm-b")]


def recorded(*moments: Sequence[tuple[Sample, dict[str, Sample]]]) -> str:
    """A series: for each document what was seen before it."""
    recorder, lines = Recorder(), []
    for number, moment in enumerate(moments):
        for host, guests in moment:
            recorder.see(host, guests)
        lines.append(recorder.document(NAMES, 10, {"limit": 3}, (number + 1) * 1_000_000))
    return "".join(f"{line}\n" for line in lines)


def free(host: int, **guests: int) -> tuple[Sample, dict[str, Sample]]:
    keys = {"a": A, "b": B}
    return {"mem_free": host}, {keys[name]: {"mem_free": value} for name, value in guests.items()}


def worlds(series: str, policy: str = "1", length: int = 10) -> list[Snapshot]:
    found = parse_series(series, "f")
    program = load({"p": policy}, schema_of_all(found, Schema())).program
    assert program is not None
    return [step.world for step in replay(program, found, length)]


def history(entity: Entity) -> list[Any]:
    return [sample["mem_free"] for sample in entity.samples]


def test_a_first_document_is_a_snapshot_like_any_other() -> None:
    (line,) = recorded([free(1, a=5, b=6)]).splitlines()
    assert parse_snapshot(line, "f") == Snapshot(
        Entity(HOST, ({"mem_free": 1},), {"interval": 10}),
        [
            Entity(A, ({"mem_free": 5},), {"name": "vm-a", "uuid": A}),
            Entity(B, ({"mem_free": 6},), {"name": "vm-b", "uuid": B}),
        ],
        {"limit": 3},
        1_000_000,
    )


def test_history_is_put_together_from_samples_that_are_seen_once() -> None:
    series = recorded([free(1, a=5)], [free(1, a=5), free(2, a=5), free(2, a=6), free(3, a=6)], [free(3, a=6)])
    assert [history(world.host) for world in worlds(series)] == [[1], [1, 2, 3], [1, 2, 3]]
    assert [history(world.guests[0]) for world in worlds(series)] == [[5], [5, 6], [5, 6]]
    assert history(worlds(series, length=2)[-1].host) == [2, 3]


def test_all_guests_are_sampled_at_once_also_one_whose_figures_stay() -> None:
    assert [history(guest) for guest in worlds(recorded([free(1, a=5, b=6)], [free(1, a=5, b=7)]))[-1].guests] == [[5, 5], [6, 7]]


def test_a_guest_that_comes_later_or_again_begins_anew() -> None:
    series = recorded([free(1, a=5)], [free(1, a=6, b=1)], [free(1, b=2)], [free(1, a=7, b=3)])
    found = [{str(guest.properties["name"]): history(guest) for guest in world.guests} for world in worlds(series)]
    assert found == [{"vm-a": [5]}, {"vm-a": [5, 6], "vm-b": [1]}, {"vm-b": [1, 2]}, {"vm-a": [7], "vm-b": [1, 2, 3]}]


def test_variables_are_those_that_the_replayed_policies_keep() -> None:
    series = recorded([free(1, a=5)], [free(2, a=5)], [free(3)], [free(3, a=5)])
    count = '(Host.SetVar "n" (+ 1 (or (Host.GetVar "n") 0))) (with Guests g (g.SetVar "n" (+ 1 (or (g.GetVar "n") 0))))'
    assert [dict(world.host.variables) for world in worlds(series, count)] == [{}, {"n": 1}, {"n": 2}, {"n": 3}]
    # What a guest that went has kept is forgotten.
    assert [[dict(guest.variables) for guest in world.guests] for world in worlds(series, count)] == [[{}], [{"n": 1}], [], [{}]]


def test_a_document_that_continues_nothing_stands_for_itself() -> None:
    first = recorded([free(1, a=5)], [free(2, a=6)])
    whole = Snapshot(Entity(HOST, [{"mem_free": 8}, {"mem_free": 9}], variables={"n": 5}))
    found = worlds(first + write_snapshot(whole) + "\n" + first)
    assert [history(world.host) for world in found] == [[1], [1, 2], [8, 9], [1], [1, 2]]
    assert found[2].host.variables == {"n": 5}


def test_names_of_every_document_may_be_used() -> None:
    assert worlds(recorded([free(1)], [free(1, a=5)]), "(with Guests g g.mem_free)")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "f: not JSON: Expecting value"),
        ("\n\n", "f: not JSON: Expecting value"),
        ("{", "f: not JSON: Expecting"),
        (recorded([free(1)], [free(2)])[:-20], "f:2: not JSON: Expecting"),
        (recorded([free(1)], [free(2)]).splitlines()[1], "f: the first snapshot continues one that isn't there"),
        (recorded([free(1)]).replace('"version":1', '"version":1,"continues":3'), "f: 'continues' is not true or false"),
        (recorded([free(1)]) + "[]\n", "f: not JSON: Extra data"),
        (recorded([free(1)], [free(2)]) + "[]\n", "f:3: not an object"),
    ],
    ids=range(8),
)
def test_what_is_no_series_is_refused_with_its_line(text: str, said: str) -> None:
    with pytest.raises(ValueError, match=said) as refused:
        parse_series(text, "f")
    assert "\n" not in str(refused.value)


# --- momctl policy replay ----------------------------------------------------------------------------------------------------------------

POLICY = """\
(defvar limit 100)
(Host.Control "ksm_run" (if (< Host.mem_free limit) 1 0))
(with Guests g (if (> g.mem_free 5) (g.Control "balloon_target" (* 2 g.mem_free)) nil))
"""


@pytest.fixture
def files(tmp_path: Path) -> tuple[str, str]:
    (tmp_path / "my.policy").write_text(POLICY)
    series = recorded([free(1, a=5)], [free(2, a=6)], [free(4, a=6)], [free(4, a=6)], [free(1, a=5)])
    (tmp_path / "world.mom").write_text(series)
    return str(tmp_path / "world.mom"), str(tmp_path / "my.policy")


def test_a_replay_shows_what_would_have_changed_over_time(files: tuple[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["policy", "replay", *files]) == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert [row[2:] for row in rows[1:-1]] == [
        ["1", "host", "ksm_run", "-", "1", "my:2:1"],
        ["2", "vm-a", "balloon_target", "-", "12", "my:3:37"],
        ["3", "host", "ksm_run", "1", "0", "my:2:1"],
        ["5", "host", "ksm_run", "0", "1", "my:2:1"],
        ["5", "vm-a", "balloon_target", "12", "-", "-"],
    ]
    assert " ".join(rows[-1]) == "5 runs over 4 s, 4 of them with changes: 5 changes, no failures"


def test_a_replay_as_json_has_every_run(files: tuple[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["policy", "replay", "--json", *files]) == 0
    told = json.loads(capsys.readouterr().out)
    assert [run["time_us"] for run in told["runs"]] == [number * 1_000_000 for number in range(1, 6)]
    assert told["summary"] == {"runs": 5, "seconds": 4.0, "runs_with_changes": 4, "changes": 5, "failures": 0}
    assert told["runs"][3]["changes"] == []
    control = told["runs"][3]["controls"][1]
    assert (control["guest"], control["value"], control["fragment"], control["line"]) == ("vm-a", 12, "my", 3)


def test_other_parameters_may_be_tried(files: tuple[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["policy", "replay", "--param", "limit=2", *files]) == 0
    assert capsys.readouterr().out.splitlines()[2].split()[2:6] == ["2", "host", "ksm_run", "1"]
    assert command.main(["policy", "replay", "--param", "other=2", *files]) == 1
    assert "no parameter other; there are: limit" in capsys.readouterr().err


def test_failures_are_told_once_and_fail_only_if_no_figures_would_cure_them(
    files: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "my.policy").write_text("(/ 1 (- Host.mem_free 2)) (with Guests g (+ g.mem_unused 1))")
    assert command.main(["policy", "replay", *files]) == 0
    said = capsys.readouterr().out.splitlines()
    assert [line.split(":")[1:4] for line in said if line.startswith("failed")] == [
        [" run 1", " guest vm-a dropped", " my"],
        [" run 2", " form 0", " my"],
    ]
    assert said[-1].endswith("no changes, 6 failures")
    (tmp_path / "my.policy").write_text("(def f (n) (f n)) (f 1)")
    assert command.main(["policy", "replay", *files]) == 1


def test_policies_that_do_not_load_and_files_that_are_no_series_exit_1(
    files: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "my.policy").write_text("(nowhere)")
    assert command.main(["policy", "replay", *files]) == 1
    assert "these policies don't load" in capsys.readouterr().out
    assert command.main(["policy", "replay", files[1], files[1]]) == 1
    assert capsys.readouterr().err.count("\n") == 1


def test_whatever_is_cut_out_of_a_series_it_is_replayed_or_refused_in_a_line(
    files: tuple[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    rng, whole, file = random.Random(5), Path(files[0]).read_text(), Path(files[0])
    for _ in range(150):
        begin = rng.randrange(len(whole))
        file.write_text(whole[:begin] + rng.choice(["", "\n", "{", "0", '"']) + whole[begin + rng.randrange(300) :])
        status = command.main(["policy", "replay", *files])
        said = capsys.readouterr()
        assert (status, said.err) == (0, "") or (status == 1 and said.err.count("\n") == 1 and "internal" not in said.err), file.read_text()


def test_a_series_of_one_is_a_snapshot_for_eval_and_a_longer_one_says_what_it_is(
    files: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one = tmp_path / "one.mom"
    one.write_text(recorded([free(1, a=6)]))
    assert command.main(["policy", "eval", "--snapshot", str(one), files[1]]) == 0
    assert "balloon_target = 12" in capsys.readouterr().out
    assert command.main(["policy", "replay", str(one), files[1]]) == 0
    assert "1 run over 0 s" in capsys.readouterr().out
    assert command.main(["policy", "eval", "--snapshot", *files]) == 1
    assert "momctl policy replay" in capsys.readouterr().err


def test_each_run_of_a_replay_decides_as_its_world_says() -> None:
    series = parse_series(recorded([free(1, a=5)], [free(7, a=9)]), "f")
    program = load({"p": POLICY}, schema_of_all(series, Schema())).program
    assert program is not None
    steps = list(replay(program, series, 10))
    assert [step.decisions for step in steps] == [evaluate(program, step.world) for step in steps]
    assert [len(step.decisions.controls) for step in steps] == [1, 2]
