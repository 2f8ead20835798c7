# SPDX-License-Identifier: GPL-2.0-or-later
"""./dev's command line: one function per verb, each handing over to the module that does the work."""

import argparse
import os
import signal
import subprocess
import sys
from pathlib import Path

from lab import bench, checks, programs, run
from lab.booted import BootedHost
from lab.common import LabError, say
from lab.host import Host


def parser() -> argparse.ArgumentParser:
    """All verbs and their options."""
    top = argparse.ArgumentParser(prog="./dev", description="Try out, test and work on the Memory Overcommitment Manager.")
    verbs = top.add_subparsers(dest="verb", required=True, metavar="VERB")
    add_run(verbs)
    add_lab(verbs)
    execute = add(verbs, "exec", "run COMMAND with this source tree's momctl and momservice on the path, without a lab")
    execute.add_argument("command", nargs=argparse.REMAINDER, metavar="COMMAND...")
    test = add(verbs, "test", "run the tests; all of them, or what pytest understands as a selection (paths, -k EXPRESSION, ...)")
    test.add_argument("selection", nargs=argparse.REMAINDER, metavar="SELECTION")
    add(verbs, "lint", "check types and style")
    measure = add(verbs, "bench", "measure; all benches, or the one named")
    measure.add_argument("name", nargs="?", metavar="NAME", help=f"one of: {', '.join(bench.names())}")
    measure.add_argument("--json", action="store_true", help="print the figures as JSON")
    return top


def parse(arguments: list[str]) -> argparse.Namespace:
    """The options. What follows exec, test and lab's options is somebody else's: argparse would take its dashes for ours."""
    verb, rest = arguments[:1], arguments[1:]
    if verb in (["exec"], ["test"]) and rest[:1] not in (["-h"], ["--help"]):
        return argparse.Namespace(verb=verb[0], command=rest, selection=rest)
    options = parser().parse_args(arguments)
    if getattr(options, "command", [])[:1] == ["--"]:
        options.command = options.command[1:]
    return options


Verbs = argparse._SubParsersAction  # the type has no public name


def add(verbs: "Verbs[argparse.ArgumentParser]", name: str, text: str) -> argparse.ArgumentParser:
    """A verb with its --help."""
    return verbs.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")


def add_run(verbs: "Verbs[argparse.ArgumentParser]") -> None:
    """./dev run."""
    verb = add(verbs, "run", "show it at work: a throw-away host with real guests, squeezed and relaxed before your eyes")
    verb.add_argument("--policy", type=Path, metavar="FILE|DIR", help="a policy, or a directory of *.policy, in place of the default ones")
    verb.add_argument("--guests", type=int, default=3, metavar="N", help="how many guests (3)")
    verb.add_argument("--seconds", type=float, metavar="N", help="end by itself after N seconds; a balloon takes some 40 to go and return")
    verb.add_argument("--json", action="store_true", help="no table; print what was seen as one JSON object at the end")


def add_lab(verbs: "Verbs[argparse.ArgumentParser]") -> None:
    """./dev lab."""
    verb = add(verbs, "lab", "run COMMAND inside a throw-away host with the service up; its exit status and output are passed on")
    verb.usage = "./dev lab [OPTIONS] -- COMMAND..."
    verb.add_argument("--guests", type=int, default=3, metavar="N", help="how many guests (3)")
    verb.add_argument("--settle", action="store_true", help="wait until the service is active and all guests have fresh statistics")
    verb.add_argument("--booted", action="store_true", help="a host with systemd and dbus-broker")
    verb.add_argument("--no-service", action="store_true", help="leave momservice to be started by COMMAND")
    verb.add_argument("--no-ksm", action="store_true", help="KSM's knobs read-only, so that other labs can run meanwhile")
    verb.add_argument("command", nargs=argparse.REMAINDER, metavar="COMMAND", help="what to run there")


def lab(options: argparse.Namespace) -> int:
    """Run the command in a host, with this terminal, this folder and this environment."""
    if not options.command:
        raise LabError("lab: which command? ./dev lab -- COMMAND")
    service, ksm = not options.no_service, not options.no_ksm
    kind = BootedHost if options.booted else Host
    with kind(options.guests, settle=options.settle, service=service, ksm=ksm) as host:
        path = f"{host.environment()['PATH']}:{os.environ.get('PATH', '')}"
        environment = {**os.environ, **host.environment(), "HOME": os.environ.get("HOME", "/root"), "PATH": path}
        return wait(host.popen(options.command, cwd=str(Path.cwd()), env=environment))


def wait(process: "subprocess.Popen[bytes]") -> int:
    """The process's exit status; the terminal's Ctrl-C is the process's to handle meanwhile, as under a shell."""
    before = signal.signal(signal.SIGINT, lambda *_: None)
    try:
        status = process.wait()
    finally:
        process.kill()
        signal.signal(signal.SIGINT, before)
    return status if status >= 0 else 128 - status


def dispatch(options: argparse.Namespace) -> int:
    """Hand over to the verb."""
    match options.verb:
        case "run":
            return run.main(options.policy, options.guests, options.seconds, options.json)
        case "lab":
            return lab(options)
        case "exec":
            return programs.execute(options.command)
        case "test":
            return checks.test(options.selection)
        case "lint":
            return checks.lint()
        case _:
            return bench.main(options.name, options.json)


def main() -> int:
    """Entry point of ./dev: its exit status."""
    # What the lab's other users have to read is made here.
    os.umask(0o022)
    # TERM and HUP end what is running as Ctrl-C does, so that every cleanup runs.
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, terminate)
    try:
        return dispatch(parse(sys.argv[1:]))
    except LabError as error:
        say(str(error))
        return 1
    except KeyboardInterrupt:
        return 130


def terminate(number: int, frame: object) -> None:
    """End with the status that a shell gives a process killed by this signal."""
    sys.exit(128 + number)
