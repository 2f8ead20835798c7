# SPDX-License-Identifier: GPL-2.0-or-later
"""The process outside the lab that puts the KSM knobs back and ends what is left, however the lab's user ended.

It has a session of its own and ignores the terminal's signals. It reads two pipes: one from `dev`, whose end of file says
that `dev` is gone; one from the lab's first process, which reports its process ID, and a momhelper that was killed - which
is when systemd would run ExecStopPost=. The end of that pipe says that nothing in the lab is alive any more.
"""

import json
import os
import selectors
import shutil
import signal
import subprocess
import sys
from pathlib import Path

from lab import knobs
from lab.common import PYTHON, ROOT, say

# The lab ends by itself when dev does, unless it is stuck.
GRACE_S = 1.0
# The last processes may still be on their way out.
REMOVE_GROUP = """\
mount -t cgroup2 cgroup2 /sys/fs/cgroup && cd /sys/fs/cgroup || exit
for _ in $(seq 600); do
  [ -d "$1" ] || exit
  find "$1" -depth -type d -exec rmdir {} + 2>/dev/null || sleep 0.05
done
"""


class Guardian:
    """The starter's side: while this object's pipe is open, the guardian waits."""

    def __init__(self, state: Path, saved: dict[str, str] | None, keep: tuple[int, ...] = ()) -> None:
        """Start the process. state: the folder to remove at the end; saved: knobs, None for a lab that can't write them;
        keep: descriptors that it holds to its end, such as the lock on the knobs."""
        from_dev, self._pipe = os.pipe()
        from_lab, self.report = os.pipe()
        command = [PYTHON, "-m", "lab.guardian", str(state), str(from_lab), json.dumps(saved)]
        self._process = subprocess.Popen(
            command, cwd=ROOT, stdin=from_dev, stdout=subprocess.DEVNULL, pass_fds=(from_lab, *keep), start_new_session=True
        )
        os.close(from_dev)
        os.close(from_lab)

    def close(self) -> None:
        """Let it end the lab and put the knobs back; returns when that is done."""
        os.close(self._pipe)
        self._process.wait()


def restore(saved: dict[str, str] | None) -> None:
    """Write the knobs back and tell what couldn't be."""
    failed = knobs.restore(saved) if saved is not None else {}
    for name, error in failed.items():
        say(f"KSM knob {name} could not be written back: {error}")


def watch(from_lab: int, saved: dict[str, str] | None) -> None:
    """Serve both pipes until the lab's is at its end."""
    grace_s: float | None = None
    init: int | None = None
    with selectors.DefaultSelector() as selector, os.fdopen(from_lab, "rb", buffering=0) as reports:
        selector.register(0, selectors.EVENT_READ)
        selector.register(reports, selectors.EVENT_READ)
        while True:
            ready = [key.fileobj for key, _ in selector.select(grace_s)]
            if 0 in ready and not os.read(0, 1):
                selector.unregister(0)
                grace_s = GRACE_S
            if reports in ready:
                # Few and far between, and shorter than what a pipe takes at once: never half a line.
                lines = reports.read(4096).splitlines()
                if not lines:
                    return
                for word, number in map(bytes.split, lines):
                    if word == b"init":
                        init = os.pidfd_open(int(number))
                    else:
                        restore(saved)
            elif not ready and init is not None:
                # Killing the first process of the namespace kills all the others in it.
                kill(init)


def remove_group(name: str) -> None:
    """Remove the control groups that a booted host leaves behind. They outlive its mounts, and the machine may have none of this kind."""
    subprocess.run(["unshare", "--mount", "sh", "-c", REMOVE_GROUP, "sh", name], stderr=subprocess.DEVNULL, check=False)


def kill(descriptor: int) -> None:
    """Kill a process that may be gone already."""
    try:
        signal.pidfd_send_signal(descriptor, signal.SIGKILL)
    except ProcessLookupError:
        return


def main() -> None:
    """Entry point: folder to remove, descriptor of the lab's pipe, knobs as JSON."""
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM, signal.SIGQUIT, signal.SIGPIPE):
        signal.signal(number, signal.SIG_IGN)
    state, from_lab, saved = Path(sys.argv[1]), int(sys.argv[2]), json.loads(sys.argv[3])
    watch(from_lab, saved)
    restore(saved)
    remove_group(state.name)
    shutil.rmtree(state, ignore_errors=True)


if __name__ == "__main__":
    main()
