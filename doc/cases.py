# SPDX-License-Identifier: GPL-2.0-or-later
"""mom-policy-test(5): the files of momctl policy test, eval and replay, from the tables that their readers use."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

from blocks import Block, Code, Entry, Page, Text, section

from momservice import snapshot_file, strict_json
from momservice.policy import cases, expected

CASES: Final = """\
{
  "defaults": {"policy": "(defvar limit 0.2) (Host.Control 'ksm_run' (if (< Host.mem_free (* limit Host.mem_available)) 1 0))"},
  "cases": [
    {
      "name": "a host that is short of memory merges",
      "host": {"mem_available": 1000, "mem_free": 100},
      "expect": {"controls": {"host": {"ksm_run": 1}}}
    },
    {
      "name": "unless a parameter says otherwise",
      "host": {"mem_available": 1000, "mem_free": 100},
      "parameters": {"limit": 0.05},
      "expect": {"controls": {"host": {"ksm_run": 0}}}
    }
  ]
}
"""
SNAPSHOT: Final = """\
{
  "format": "mom-snapshot",
  "version": 1,
  "host": {
    "properties": {"interval": 10},
    "samples": [{"mem_available": 1000, "mem_free": 300}, {"mem_available": 1000, "mem_free": 100}]
  },
  "guests": [
    {
      "key": "9b6d0f2e-1c52-4e0a-8f35-0c7d6b5e4a31",
      "properties": {"name": "web", "uuid": "9b6d0f2e-1c52-4e0a-8f35-0c7d6b5e4a31"},
      "samples": [{"balloon_cur": 500, "balloon_max": 1000}]
    }
  ]
}
"""
_DESCRIPTION: Final = (
    "Both kinds of files are JSON, read strictly: a key that isn't listed here, one that an object has twice, and a file of more than"
    f" {strict_json.FILE_BYTES >> 20} MiB are errors."
)
_CASES: Final = (
    "`momctl policy test CASES.json...` runs policies in small worlds and compares what they decide with what a case expects. Types "
    "count: 1 isn't 1.0. The numbers of guests count from 0."
)
_SNAPSHOT: Final = (
    "`momctl policy eval --snapshot FILE`, and cases, take a recorded snapshot as the world: all that policies can see of host and guests "
    "at one time. A snapshot gives the same decisions wherever it is evaluated."
)
_SERIES: Final = (
    "`momctl record FILE` writes a series of snapshots: one document a line, in the order of time. `momctl policy replay FILE "
    "POLICY_FILE...` runs policies on each of them in turn. The first document is a snapshot like any other. In those that continue it, "
    "the samples of host and guests are only those that came since the document before; a guest that a document doesn't have is gone, and "
    "begins anew if it comes back. From that the history is put together again, as long as `sample-history-length` says. Variables are "
    "those that the replayed policies keep. A document that doesn't continue the one before stands for itself, so files can be joined."
)


def cases_and_snapshots() -> Page:
    """The page."""

    def blocks() -> Iterator[Block]:
        yield from section("Description", Text(_DESCRIPTION))
        yield from section("Files of cases", Text(_CASES), Code(CASES), *_entries(cases.FILE))
        yield from section("A case", *_entries(cases.CASE))
        yield from section(
            "An entity of a case",
            Text("The newest values of fields by name, and where they are needed:"),
            *_entries(cases.WORLD),
        )
        yield from section("What a case expects", *_entries(expected.EXPECT))
        yield Text(f"A failure may say: {', '.join(f'`{key}`' for key in expected.FAILURE)}.")
        yield Text("An expected value is a value as in snapshots, or:")
        yield from _entries(expected.VALUES)
        yield from section("Snapshots", Text(_SNAPSHOT), Code(SNAPSHOT), *_entries(snapshot_file.DOCUMENT))
        yield from section("An entity of a snapshot", *_entries(snapshot_file.ENTITY))
        yield from section("Series of snapshots", Text(_SERIES))
        yield from section("Values", *_entries(snapshot_file.VALUES))
        yield from section("See also", Text("mom-policy(5), mom-fields(7), momctl(1)"))

    return Page("mom-policy-test", 5, "cases and snapshots to test policies with", blocks())


def _entries(table: Mapping[str, str]) -> Iterator[Block]:
    return (Entry(key, text) for key, text in table.items())
