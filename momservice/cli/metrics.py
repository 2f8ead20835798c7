# SPDX-License-Identifier: GPL-2.0-or-later
"""momctl metrics: the metrics as the bus tells them."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from momservice.cli.output import say, say_json
from momservice.cli.service import connected
from momservice.cli.verbs import Verbs, add_verb
from momservice.metrics import Labels, Metric, Number, State, families, text

MORE = """\
The text is OpenMetrics; mom-metrics(7) lists all of them. What the service counts since it started is only in its own file, see \
metrics-file in momd.conf(5)."""


def add(verbs: Verbs, json_option: argparse.ArgumentParser) -> None:
    """Add the verb."""
    add_verb(verbs, "metrics", "print metrics for Prometheus", show_metrics, more=MORE, parents=[json_option])


def show_metrics(options: argparse.Namespace) -> int:
    """`momctl metrics`."""
    with connected() as client:
        status, statistics, names = client.status(), client.statistics(), client.active_guests()
    state = State(
        status.version,
        status.status,
        status.generation,
        status.interval_ms,
        status.hypervisor_connected,
        status.helper_available,
        status.polkit_available,
        status.last_evaluation_us,
        status.evaluation_duration_us,
        statistics.host,
        statistics.guests,
        dict(names),
    )
    if options.json:
        say_json([_plain(metric, samples) for metric, samples in families(state)])
    else:
        say(text(state))
    return 0


def _plain(metric: Metric, samples: Sequence[tuple[Labels, Number]]) -> dict[str, object]:
    told = [{"labels": dict(labels), "value": value} for labels, value in samples]
    return {"name": metric.sample, "type": metric.kind, "unit": metric.unit, "help": metric.doc, "samples": told}
