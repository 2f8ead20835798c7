# SPDX-License-Identifier: GPL-2.0-or-later
"""The pages of the manual are made of the tables that the program uses, groff takes them, and their examples run."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import pytest

from momservice import config, durable, keeping, layers, metrics, snapshot_file
from momservice.bus.connection import load_interfaces
from momservice.bus.names import XML
from momservice.bus.polkit import ACTIONS, FREE
from momservice.cli import command
from momservice.collectors import planned, registry
from momservice.controllers import planned as planned_controllers
from momservice.errors import MomError
from momservice.fields import Field
from momservice.parts import CONTROLLERS, schema
from momservice.policy import cases, expected, load
from momservice.policy.diagnostics import CODES
from momservice.policy.forms import FORMS, METHODS, TUNE_FIELDS, TUNE_SETTERS
from momservice.policy.limits import LIMITS

ROOT = Path(__file__).parent.parent.parent
# The pages' generator is run by path and is no package.
sys.path.insert(0, str(ROOT / "doc"))
from cases import CASES, SNAPSHOT  # noqa: E402 - see above
from language import EXAMPLE, LEXEMES, Lexeme, written  # noqa: E402 - see above

PAGES = (
    *("momd.conf.5", "mom-policy.5", "mom-policy-test.5", "org.ovirt.Mom1.5", "mom-fields.7", "mom-metrics.7"),
    *("momservice.8", "mom-rpc-bridge.8", "momctl.1"),
)
ON_FORGES = ("mom-policy.5", "mom-policy-test.5", "mom-fields.7", "mom-metrics.7")


@cache
def page(name: str, *options: str) -> str:
    done = subprocess.run(["/usr/bin/python3", ROOT / "doc/pages.py", *options, name], capture_output=True, text=True, check=True)
    return done.stdout


@cache
def shown(name: str) -> str:
    """The page as a reader sees it, on one line; whatever groff complains of fails the test."""
    command, environment = ["man", "--warnings", "-E", "UTF-8", "-l", "-"], {"MANWIDTH": "1000", "PATH": "/usr/bin:/bin"}
    done = subprocess.run(command, input=page(name), capture_output=True, text=True, check=False, env=environment)
    assert (done.returncode, done.stderr) == (0, "")
    return " ".join(done.stdout.split())


@pytest.mark.parametrize("name", PAGES)
def test_groff_finds_no_fault_with_a_page(name: str) -> None:
    assert name.removesuffix(f".{name[-1]}").upper() in shown(name)
    for number, line in enumerate(page(name).splitlines()):
        assert not re.search(r"(?<!\\)`|^'", line), f"line {number}: {line}"


def test_every_page_is_built_and_installed() -> None:
    text = (ROOT / "doc/meson.build").read_text()
    assert re.findall(r"'([A-Za-z0-9.-]+\.[1578])'", text) == list(PAGES)
    done = subprocess.run(["/usr/bin/python3", ROOT / "doc/pages.py", "none"], capture_output=True, text=True, check=False)
    assert ", ".join(f"'{name}'" for name in PAGES) in done.stderr


@pytest.mark.parametrize("name", ON_FORGES)
def test_the_pages_for_forges_are_as_the_tables_are(name: str) -> None:
    file = ROOT / "doc" / f"{name[:-2]}.md"
    assert file.read_text() == page(name, "--markdown"), f"run: doc/pages.py --markdown {name} > doc/{file.name}"


def test_links_between_pages_for_forges_lead_to_files() -> None:
    links = {link for name in ON_FORGES for link in re.findall(r"\]\(([^)]*)\)", page(name, "--markdown"))}
    assert links == {f"{name[:-2]}.md" for name in ON_FORGES}


# --- configuration and programs ----------------------------------------------------------------------------------------------------------


def test_every_setting_is_on_its_page() -> None:
    text = shown("momd.conf.5")
    for _, row in config.settings():
        assert row.key in text
        assert row.doc.split(":")[0] in text


@pytest.mark.parametrize(
    ("name", "word"),
    [("momservice.8", "--check-config"), ("mom-rpc-bridge.8", "--socket"), ("momctl.1", "momctl policy check")],
)
def test_the_pages_of_programs_show_their_options(name: str, word: str) -> None:
    assert word.upper() in shown(name).upper()


def test_a_program_is_described_in_its_own_spelling() -> None:
    assert "mom-rpc-bridge - serves VDSM with the RPC of old" in shown("mom-rpc-bridge.8")
    assert "momservice - the Memory Overcommitment Manager" in shown("momservice.8")


# Collects all fields of the host once, and prints the files that were opened for it, or looked for.
COLLECT = """
import sys, time
from momservice.collectors import Moment, registry
opened = set()
def hook(event, arguments):
    if event == "open" and str(arguments[0]).startswith(("/proc", "/sys")):
        opened.add(str(arguments[0]))
parts = [part() for part in registry.HOST.values()]
sys.addaudithook(hook)
for part in parts:
    part.collect(Moment(time.monotonic(), time.time(), 5, []))
print("\\n".join(opened))
"""


def test_the_kernel_s_files_are_on_the_page_of_the_service() -> None:
    _, _, text = shown("momservice.8").partition(" FILES ")
    done = subprocess.run([sys.executable, "-c", COLLECT], cwd=ROOT, capture_output=True, text=True, check=True)
    opened = {re.sub(r"^/proc/[0-9]+/", "/proc/PID/", file) for file in done.stdout.split()}
    assert opened >= {"/proc/meminfo", "/proc/vmstat"}
    for file in opened - {"/proc/PID/comm"}:
        assert f" {file}" in text or f" {file.rpartition('/')[0]}/*" in text, file


@pytest.mark.parametrize("name", [layers.DOCUMENT, keeping.DOCUMENT])
def test_the_files_of_the_state_are_on_the_page_of_the_service(tmp_path: Path, name: str) -> None:
    _, _, text = shown("momservice.8").partition(" FILES ")
    document: durable.Document[object] = durable.Document(tmp_path, name, 1, 1000, lambda content: content)
    document.read()
    for document.number in (1, 2):
        document.write("{}")
    (tmp_path / f"{name}-1.json").write_text("broken")
    durable.Document(tmp_path, name, 1, 1000, lambda content: content).read()
    written = sorted(file.name for file in tmp_path.iterdir())
    assert written == [f"{name}-1.damaged", f"{name}-2.json"]
    assert f"/var/lib/mom/{name}-1.json, /var/lib/mom/{name}-2.json" in text
    assert "/var/lib/mom/*.damaged, *.newer" in text


def test_every_file_that_a_setting_names_is_on_the_page_of_the_service() -> None:
    _, _, text = shown("momservice.8").partition(" FILES ")
    for name in ("/etc/momd.conf", "/etc/momd.conf.d/*.conf", "policy in [main]", "policy-dir in [main]", "metrics-file in [main]"):
        assert name in text
    assert "log in [logging]" in text
    assert "plot-dir" not in text


def test_the_sockets_are_on_the_pages() -> None:
    listens = re.findall("^ListenStream=(.*)$", (ROOT / "systemd/mom-rpc-bridge.socket").read_text(), re.MULTILINE)
    assert listens
    for socket in listens:
        assert socket in shown("mom-rpc-bridge.8").partition(" FILES ")[2]
    for name in ("momservice.8", "mom-rpc-bridge.8", "momctl.1"):
        assert "/run/dbus/system_bus_socket" in shown(name).partition(" FILES ")[2]


def test_every_variable_of_the_environment_that_code_heeds_is_on_the_pages_of_its_programs() -> None:
    heeded = 0
    for file in (ROOT / "momservice").rglob("*.py"):
        match file.relative_to(ROOT / "momservice").parts:
            case ("bus", _):
                names = ["momservice.8", "mom-rpc-bridge.8", "momctl.1"]
            case ("cli", _):
                names = ["momctl.1"]
            case ("bridge.py",):
                names = ["mom-rpc-bridge.8"]
            case _:
                names = ["momservice.8"]
        for variable in re.findall(r"""environ(?:\.get\(|\[)["'](\w+)""", file.read_text()):
            heeded += 1
            for name in names:
                assert variable in shown(name).partition(" ENVIRONMENT ")[2].partition(" FILES ")[0], (variable, name)
    assert heeded > 8


# --- the bus -----------------------------------------------------------------------------------------------------------------------------


def test_every_member_of_the_bus_interfaces_is_on_their_page_with_its_signature_and_action() -> None:
    text = shown("org.ovirt.Mom1.5")
    for interface in load_interfaces(XML).values():
        begin = text.index(f" {interface.name} ", text.index(" INTERFACES "))
        for method in interface.methods:
            arguments = ", ".join(f"{arg.signature} {arg.name}" for arg in method.in_args)
            results = ", ".join(f"{arg.signature} {arg.name}" for arg in method.out_args)
            line = text[text.index(f" {method.name}({arguments}){f' -> {results}' if results else ''} ", begin) :]
            action = ACTIONS[interface.name, method.name]
            needed = line.partition(" Needs ")
            assert (action == FREE) or needed[2].startswith(f"{action}. "), method.name
        for prop in interface.properties:
            assert f" {prop.name} {prop.signature} " in text[begin:]
        for member in interface.element.iter("signal"):
            arguments = ", ".join(f"{arg.get('type')} {arg.get('name')}" for arg in member.iter("arg"))
            assert f" {member.get('name')}({arguments}) " in text[begin:]


def test_every_action_and_error_of_the_bus_is_on_its_page() -> None:
    text = shown("org.ovirt.Mom1.5")
    for action in set(ACTIONS.values()) - {FREE}:
        assert re.search(rf" {re.escape(action)} [A-Z][^:]*: (nothing|an administrator's password)", text), action
    for kind in MomError.__subclasses__():
        assert f" {kind.error_name} {' '.join((kind.__doc__ or '').replace('`', '').split())} " in text


# --- fields and controls -----------------------------------------------------------------------------------------------------------------


def test_every_name_of_the_field_reference_is_on_the_page() -> None:
    text = shown("mom-fields.7")
    for kind in json.loads((ROOT / "tests/data/names.json").read_text()).values():
        for name in (name for names in kind.values() for name in names):
            assert re.search(rf"\b{name}\b", text), name
    for name in [*TUNE_FIELDS, *TUNE_SETTERS]:
        assert re.search(rf"\b{name}\b", text), name


def parts_of_the_page() -> dict[str, str]:
    """What the page says by collector or controller."""
    parts = page("mom-fields.7", "--markdown").split("\n### ")[1:]
    return {name: text for title, _, text in (part.partition("\n") for part in parts) for name in re.split(", | ", title)}


def test_every_field_is_with_its_collector_and_every_control_with_its_range() -> None:
    parts = parts_of_the_page()
    tables: dict[str, Sequence[Field]] = {name: collector.FIELDS for name, collector in registry.HOST.items()}
    tables |= {name: collector.FIELDS for name, collector in registry.GUEST.items()}
    for name, table in (tables | dict(planned.PLANNED)).items():
        for field in table:
            assert f"* `{field.name} ({', '.join(filter(None, (field.type, field.unit)))})`" in parts[name]
    controllers = {name: controller.CONTROLS for name, controller in CONTROLLERS.items()} | dict(planned_controllers.CONTROLLERS)
    for name, controls in controllers.items():
        for control in controls:
            bounds = f"{control.minimum} to {control.maximum}"
            assert re.search(rf"\* `{control.entity} {control.name} \([^)]*{bounds}\)`", parts[name]), control.name


def test_what_is_not_built_yet_is_marked_and_nothing_else() -> None:
    marked = re.findall(r"(\w+(?:, \w+)*) \(not built yet\)", shown("mom-fields.7"))
    assert {name for names in marked for name in names.split(", ")} == {*planned.PLANNED, *planned_controllers.CONTROLLERS}


def test_every_metric_and_every_field_without_one_is_on_its_page() -> None:
    text = shown("mom-metrics.7")
    for metric in metrics.TABLE:
        assert f" {metric.sample}" in text
        assert f" {metric.doc[0].upper()}{metric.doc[1:]} (" in text
    for kind, fields in metrics.LEFT_OUT.items():
        assert [name for name in fields if f" {kind} {name} " not in text] == []


# --- the language ------------------------------------------------------------------------------------------------------------------------


def test_every_form_method_and_setter_is_in_the_reference_with_its_arguments_and_example() -> None:
    text = shown("mom-policy.5")
    for form in [*FORMS.values(), *METHODS.values()]:
        arguments, _, does = form.doc.partition(": ")
        title = ", ".join((form.name, *form.synonyms))
        assert f" {title} ({form.arity()}) Arguments: {arguments}. {does[0].upper()}{does[1:]}. " in text
        assert f" {form.example} gives {written(form.gives)} " in text
    for setter in TUNE_SETTERS.values():
        assert f" {setter.name} (1 argument) Arguments: limit. " in text


def test_every_limit_and_code_is_in_the_reference() -> None:
    text = shown("mom-policy.5")
    for limit in LIMITS:
        assert f" {limit.name}: {limit.value} {limit.unit} {limit.doc}" in text
    for code in CODES.values():
        assert re.search(rf" {code.name} \([a-z ]*\) {re.escape(code.meaning)} {re.escape(code.advice)} ", text), code.name


@pytest.mark.parametrize("lexeme", LEXEMES, ids=lambda lexeme: lexeme.name)
def test_the_examples_of_lexical_rules_are_right_and_wrong_as_they_say(lexeme: Lexeme) -> None:
    def faults(text: str) -> list[str]:
        return [found.message for found in load({"a": text}, schema(config.Config())).diagnostics if found.code == "parse"]

    assert [text for text in lexeme.good if faults(text)] == []
    assert [text for text in lexeme.bad if not faults(text)] == []


def test_every_key_of_cases_and_snapshots_is_on_their_page() -> None:
    text = shown("mom-policy-test.5")
    tables = (cases.FILE, cases.CASE, cases.WORLD, expected.EXPECT, expected.VALUES)
    for table in (*tables, snapshot_file.DOCUMENT, snapshot_file.ENTITY, snapshot_file.VALUES):
        for key, meaning in table.items():
            assert f" {key} {meaning} " in text
    assert ", ".join(expected.FAILURE) in text


def test_the_examples_of_the_pages_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    policy, world, file = tmp_path / "a.policy", tmp_path / "world.json", tmp_path / "cases.json"
    for path, text in ((policy, EXAMPLE), (world, SNAPSHOT), (file, CASES)):
        path.write_text(text)
    assert command.main(["policy", "check", "--warnings-are-errors", str(policy)]) == 0
    capsys.readouterr()
    assert command.main(["policy", "eval", "--json", "--snapshot", str(world), str(policy)]) == 0
    decisions = json.loads(capsys.readouterr().out)["decisions"]
    assert [(control["control"], control["value"]) for control in decisions["controls"]] == [("ksm_run", 1)]
    assert command.main(["policy", "test", str(file)]) == 0
    assert capsys.readouterr().out == "2 passed, 0 failed\n"
