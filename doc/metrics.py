# SPDX-License-Identifier: GPL-2.0-or-later
"""mom-metrics(7): the metrics, from their table."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby

from blocks import Block, Code, Entry, Page, Text, section

from momservice.metrics import LEFT_OUT, ONLY_FILE, TABLE, Metric

_INTRO = (
    "Figures of the service, the host and its guests for Prometheus, in base units (bytes, seconds, ratios from 0 to 1). `momctl metrics` "
    "prints them, as any local user may. With `metrics-file` in `[main]` of momd.conf(5) the service writes them to a file with each "
    "policy run, and at the same pace while it is paused, for the textfile collector of node_exporter: whole or not at all, readable for "
    "everybody. A file that the configuration doesn't name any more is removed, and so it is when the service stops; after a crash the old "
    "one stays until the service is back, and node_textfile_mtime_seconds tells its age. What can't be written is a reason in the status."
)
_FOLDER = (
    "User mom must be able to write to the folder, and the unit must let it. The collector reads what ends in .prom. With Debian's "
    "node_exporter, as root:"
)
_COMMANDS = """\
install -d -g mom -m 2775 /var/lib/prometheus/node-exporter
mkdir -p /etc/systemd/system/momservice.service.d
printf '[Service]\\nReadWritePaths=-/var/lib/prometheus/node-exporter\\n' > /etc/systemd/system/momservice.service.d/metrics.conf
printf '[main]\\nmetrics-file: /var/lib/prometheus/node-exporter/mom.prom\\n' > /etc/momd.conf.d/metrics.conf
systemctl daemon-reload && systemctl restart momservice"""
_FORMAT = (
    "The text is OpenMetrics 1.0, and valid in Prometheus' older text format as well, which the textfile collector reads. The one "
    "difference there: OpenMetrics names a counter without its `_total`, so the collector finds counters without type and help. Their "
    "values are the same, and rate() works. Guests are told apart by the labels `uuid` and `name`. A metric without a value now is left "
    "out."
)
_COUNTED = "What the service counts begins at 0 when it starts. The file has it; `momctl metrics`, which asks over the bus, hasn't."


def metrics() -> Page:
    """The page."""

    def blocks() -> Iterator[Block]:
        yield from section("Description", Text(_INTRO), Text(_FOLDER), Code(_COMMANDS))
        yield from section("Format", Text(_FORMAT), Text(_COUNTED))
        yield from section("Metrics", *(_entry(list(rows)) for _, rows in groupby(TABLE, key=lambda row: row.name)))
        yield from section("Fields without a metric", Text("Of the fields in mom-fields(7) these are no metrics, and all of HostTime."))
        for kind, fields in LEFT_OUT.items():
            yield from (Entry(f"{kind} {name}", f"{why[0].upper()}{why[1:]}.") for name, why in fields.items())
        yield from section("See also", Text("momctl(1), momd.conf(5), mom-fields(7)"))

    return Page("mom-metrics", 7, "metrics of the Memory Overcommitment Manager", blocks())


def _entry(rows: list[Metric]) -> Entry:
    first = rows[0]
    labels = f"{{{', '.join(first.labels)}}}" if first.labels else ""
    source = ONLY_FILE if first.source == ONLY_FILE else f"made of {', '.join(row.source for row in rows)}"
    return Entry(f"{first.sample}{labels} ({first.kind})", f"{first.doc[0].upper()}{first.doc[1:]} ({source}).")
