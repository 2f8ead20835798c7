# SPDX-License-Identifier: GPL-2.0-or-later
"""momd.conf: what is read, in which order, and how each mistake is named by file and line."""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

import pytest

from momservice import config, unit_files

DATA = Path(__file__).parent.parent / "data"


def problems(file: Path, options: dict[str, str] | None = None) -> list[str]:
    with pytest.raises(config.ConfigError) as caught:
        config.load(file, options)
    return caught.value.problems


def write(folder: Path, text: str, name: str = "momd.conf") -> Path:
    file = folder / name
    file.parent.mkdir(exist_ok=True)
    file.write_text(text)
    return file


def test_the_configuration_of_2011_loads_as_it_is() -> None:
    settings = config.load(DATA / "momd.conf")
    assert settings.policy == Path("/etc/vdsm/mom.policy")
    assert settings.host_collectors == ("HostMemory", "HostKSM")
    assert settings.guest_collectors == ("GuestQemuProc", "GuestLibvirt")
    assert settings.log == Path("/var/log/momd.log")
    assert (settings.host_monitor_interval_s, settings.policy_engine_interval_s) == (5, 10)
    assert settings.warnings == ()


def test_an_empty_file_gives_the_defaults(tmp_path: Path) -> None:
    assert config.load(write(tmp_path, "")) == config.Config()


def test_drop_ins_win_in_name_order_and_options_win_over_all(tmp_path: Path) -> None:
    file = write(tmp_path, "[main]\npolicy: /a\nhost-monitor-interval = 7\n[logging]\nverbosity: 5\n")
    write(tmp_path / "momd.conf.d", "[main]\npolicy: \nhost-monitor-interval: 8\n", "20-b.conf")
    write(tmp_path / "momd.conf.d", "[main]\npolicy: /c\nguest-monitor-interval: 9\n", "10-a.conf")
    write(tmp_path / "momd.conf.d", "rubbish", "30-c.conf.bak")
    settings = config.load(file, {"guest_monitor_interval_s": "11"})
    assert settings.policy is None
    assert (settings.host_monitor_interval_s, settings.guest_monitor_interval_s, settings.verbosity) == (8, 11, logging.DEBUG)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[main]\n\nfoo: 1\n", ":3: unknown setting foo in [main]"),
        ("[main]\n[none]\nfoo: 1\n", ":2: unknown section [none]"),
        ("foo: 1\n", ":1: a setting before the first [section]"),
        ("[main]\nno sense\n", ":2: neither a [section] nor a setting"),
        ("[main]\npolicy: /a\npolicy: /b\n", ":3: policy is given twice in [main]"),
        ("[main]\n[main]\n", ":2: section [main] is given twice"),
        ("[main]\nhost-monitor-interval: 0\n", ":2: host-monitor-interval must be a whole number of seconds"),
        ("[main]\nhost-monitor-interval: 1.5\n", ":2: host-monitor-interval must be a whole number of seconds"),
        ("[main]\nhost-monitor-interval: \u0661\n", ":2: host-monitor-interval must be a whole number of seconds"),
        ("[main]\nsample-history-length: 1001\n", ":2: sample-history-length must be a whole number from 1 to 1000"),
        ("[main]\nrpc-port: 8080\n", ":2: rpc-port must be -1 or the path of a Unix socket"),
        ("[main]\npolicy: x.policy\n", ":2: policy must be an absolute path"),
        ("[main]\ncontrollers: KSM, KSM\n", ":2: controllers must be a comma-separated list of different names"),
        ("[main]\nhypervisor-interface: xen\n", ":2: hypervisor-interface must be libvirt"),
        ("[main]\non-stop: maybe\n", ":2: on-stop must be keep or deflate"),
        ("[logging]\nverbosity: 6\n", ":2: verbosity must be one of"),
    ],
)
def test_a_mistake_is_named_with_file_and_line(tmp_path: Path, text: str, expected: str) -> None:
    file = write(tmp_path, text)
    (problem,) = problems(file)
    assert problem.startswith(f"{file}{expected}")


def test_all_mistakes_of_all_files_are_named(tmp_path: Path) -> None:
    file = write(tmp_path, "[main]\nfoo: 1\npolicy: x\n")
    write(tmp_path / "momd.conf.d", "[main]\nbar: 1\n", "a.conf")
    assert len(problems(file, {"history_length": "many"})) == 4


def test_policy_and_policy_dir_together_are_refused(tmp_path: Path) -> None:
    assert "not both" in problems(write(tmp_path, "[main]\npolicy: /a\npolicy-dir: /b\n"))[0]


def test_a_missing_file_is_an_error(tmp_path: Path) -> None:
    assert problems(tmp_path / "none.conf") == [f"{tmp_path / 'none.conf'}: No such file or directory"]


@pytest.mark.parametrize("content", [b"\xff\xfe", b"#" * (config.MAX_FILE_BYTES + 1)])
def test_a_file_that_is_no_text_or_too_large_is_an_error(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "momd.conf"
    file.write_bytes(content)
    assert problems(file)[0].startswith(f"{file}: is ")


def test_a_device_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "momd.conf").symlink_to("/dev/zero")
    assert "not a regular file" in problems(tmp_path / "momd.conf")[0]


def test_what_has_no_effect_yet_is_said(tmp_path: Path) -> None:
    text = (
        "[main]\nlibvirt-hypervisor-uri: test:///default\nhypervisor-interface: vdsm\n"
        "plot-dir: /p\nrpc-port: /s\non-stop: deflate\n"
    )
    settings = config.load(write(tmp_path, text))
    assert len(settings.warnings) == 5


def test_a_metrics_file_that_cannot_be_written_or_found_is_said(tmp_path: Path) -> None:
    def warnings(file: Path) -> list[str]:
        return [text.partition(":")[2] for text in config.load(write(tmp_path, f"[main]\nmetrics-file: {file}\n")).warnings]

    assert warnings(tmp_path / "mom.prom") == []
    assert warnings(tmp_path / "none" / "mom.prom") == [f" {tmp_path / 'none'} is not a folder: nothing is written until it is one"]
    assert warnings(tmp_path / "mom.txt") == [" node_exporter reads only files whose name ends in .prom, not mom.txt"]


def test_a_socket_of_old_is_compared_with_the_unit_that_opens_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def warnings(places: list[str] | None) -> str:
        monkeypatch.setattr(unit_files, "listens_on", lambda _unit: places)
        return "; ".join(config.load(file).warnings)

    file = write(tmp_path, "[main]\nrpc-port: /run/vdsm/mom-vdsm.sock\n")
    assert warnings(["/run/other.sock", "/run//vdsm/mom-vdsm.sock"]) == ""
    assert warnings(["/run/other.sock"]).endswith("has no effect: mom-rpc-bridge.socket listens on /run/other.sock")
    assert warnings([]).endswith("listens on nothing")
    assert warnings(None).endswith("mom-rpc-bridge.socket is not installed")


def test_every_setting_is_an_option_with_help() -> None:
    parser = argparse.ArgumentParser()
    config.add_options(parser)
    text = parser.format_help()
    for _, row in config.settings():
        assert f"--{row.option} " in text
