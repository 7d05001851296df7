# SPDX-License-Identifier: Apache-2.0
"""Commands that run in a lab while something else happens; among them a holdover that hangs."""

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from holdover.demo.guest import Guest
from lab.chroot import Lab
from lab.counts import leftovers

__all__ = ["AtWork", "at_work", "halted", "holding", "wait_until", "entries", "check_sound"]
__all__ += ["check_all_goes", "BUSY", "VIEWS", "STAGING", "LEASES", "LOCK", "MARKER"]

BUSY = "holdover: another holdover is at work\nholdover: try again when it has finished\n"
VIEWS, STAGING = "/usr/lib/holdover/view", "/usr/lib/holdover/staging"
LEASES = "/run/holdover/lease"
LOCK, MARKER = "/run/holdover/lock", "/run/holdover/transaction"

# holdover that halts where a view is half made, which is where it has the lock
HALTED = """
import os, signal, sys
from holdover.cli.main import main
from holdover.staging import Staging
add_decoys = Staging.add_decoys
def halt(*words):
    os.kill(os.getpid(), signal.SIGSTOP)
    add_decoys(*words)
Staging.add_decoys = halt
sys.exit(main(sys.argv[1:]))
"""


@dataclass
class AtWork:
    """A command inside that runs meanwhile; `pid` is its number there."""

    lab: Lab
    process: "subprocess.Popen[str]"
    pid: int

    def send(self, name: str) -> None:
        self.lab.run("sh", "-c", f"kill -{name} {self.pid}")
        self.process.send_signal(signal.SIGCONT)  # nsenter halts with what it has started

    def end(self) -> tuple[int, str]:
        """Its exit code, and what it wrote to stderr."""
        complaints = self.process.communicate(timeout=60)[1]
        return self.process.returncode, complaints

    def opens(self, name: str) -> bool:
        assert self.process.poll() is None, self.end()
        links = self.lab.path(f"/proc/{self.pid}/fd").iterdir()
        return any(name in link_or_nothing(link) for link in links)

    def is_halted(self) -> bool:
        return "\nState:\tT" in self.lab.path(f"/proc/{self.pid}/status").read_text()


@contextmanager
def at_work(lab: Lab, *words: str) -> Iterator[AtWork]:
    pipe, tell = subprocess.PIPE, 'echo $$; exec "$@"'
    command = lab.root.command("sh", "-c", tell, "sh", *words)
    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=pipe, stderr=pipe, text=True
    ) as process:
        assert process.stdout is not None
        working = AtWork(lab, process, int(process.stdout.readline()))
        try:
            yield working
        finally:
            working.send("KILL")


@contextmanager
def halted(lab: Lab, *words: str) -> Iterator[AtWork]:
    """A `holdover` that halts in the middle of a capture."""
    with at_work(lab, "python3", "-I", "-c", HALTED, *words) as working:
        wait_until(working.is_halted)
        yield working


@contextmanager
def holding(lab: Lab) -> Iterator[AtWork]:
    """Some process has the lock, and does nothing else."""
    lab.path(LOCK).parent.mkdir(exist_ok=True)
    script = "echo; exec sleep 600"
    with at_work(lab, "flock", "--no-fork", LOCK, "sh", "-c", script) as working:
        assert working.process.stdout is not None
        working.process.stdout.readline()
        yield working


def link_or_nothing(link: Path) -> str:
    """Where it leads, or "" if it was closed since it was listed."""
    try:
        return os.readlink(link)
    except FileNotFoundError:
        return ""


def wait_until(truth: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not truth():
        assert time.monotonic() < deadline, "it does not come true"
        time.sleep(0.02)


def entries(lab: Lab, directory: str) -> list[str]:
    return [path.name for path in lab.path(directory).iterdir()]


def check_sound(lab: Lab) -> None:
    """Nothing half made, nobody's mark, no lease of the dead, and what is held is what was held."""
    assert lab.holdover("gc").returncode == 0
    assert not lab.path(MARKER).exists()
    assert entries(lab, STAGING) == []
    for lease in entries(lab, LEASES):
        assert lab.path(f"/proc/{lease.partition('-')[0]}").exists(), lease
    held = [snapshot["id"] for snapshot in lab.held()]
    assert sorted(entries(lab, VIEWS)) == sorted(held)
    for snapshot in held:
        assert lab.json("show", snapshot)["damage"] == ""


def check_all_goes(lab: Lab, *guests: Guest) -> None:
    """With the last guest, all that was held."""
    for guest in guests:
        guest.kill()
    lab.root.run("holdover", "hook", "timer")
    assert leftovers(lab) == {}
