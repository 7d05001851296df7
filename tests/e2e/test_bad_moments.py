# SPDX-License-Identifier: Apache-2.0
"""Guests that are met at a bad moment: debugged, without a way to the store, about to end."""

import itertools
import signal
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from lab import Lab
from lab.outcomes import Record

from holdover.demo.guest import ATTACHED, DIED, PROBES, REFUSED, Guest

pytestmark = pytest.mark.e2e

# PTRACE_ATTACH stops it, as a debugger at its prompt does; the end of the tracer lets it go
DEBUGGER = """
import ctypes, os, sys, time
libc, pid = ctypes.CDLL(None, use_errno=True), int(sys.argv[1])
assert libc.ptrace(16, pid, None, None) == 0, os.strerror(ctypes.get_errno())
os.waitpid(pid, 0)
open("/tmp/attached", "w").close()
while os.path.exists("/tmp/attached"): time.sleep(0.01)
"""


@contextmanager
def debugged(lab: Lab, guest: Guest) -> Iterator[None]:
    start = 'python3 -c "$1" "$2" & while ! test -e /tmp/attached; do sleep 0.01; done'
    lab.root.run("sh", "-c", f"({start}) >/tmp/debugger.log 2>&1", "sh", DEBUGGER, str(guest.pid))
    try:
        assert "t (tracing stop)" in lab.path(f"/proc/{guest.pid}/status").read_text()
        yield
    finally:
        lab.path("/tmp/attached").unlink()


def test_guest_being_debugged_is_protected_and_stays_as_it_is(lab: Lab) -> None:
    lab.root.run("holdover", "enable")
    guest, twin = Guest.start(lab.root, "guest"), Guest.start(lab.root, "twin")
    with debugged(lab, guest):
        lab.upgrade()
        assert lab.status(guest.pid)["state"] == "protected"
        assert "t (tracing stop)" in lab.path(f"/proc/{guest.pid}/status").read_text()
    assert lab.holdover("release", "--force", str(twin.pid)).returncode == 0
    assert {guest.probe_twice(what) for what in PROBES} == {(ATTACHED, ATTACHED)}
    assert (twin.probe("https disk"), twin.probe("https disk")) == (REFUSED, DIED)


HIDING = {
    "hidden": "mount -t tmpfs tmpfs /usr/lib/holdover",
    "noexec": (
        "mount --bind /usr/lib/holdover /usr/lib/holdover && "
        "mount -o remount,bind,noexec /usr/lib/holdover"
    ),
}


@pytest.mark.parametrize("how", HIDING)
def test_guest_that_cannot_load_from_the_store_gets_a_mount(lab: Lab, how: str) -> None:
    lab.path("/usr/lib/holdover").mkdir()
    wrapper = ("unshare", "--mount", "sh", "-c", f'{HIDING[how]} && exec "$@"', "sh")
    guest, twin = (Guest.start(lab.root, name, wrapper=wrapper) for name in ("guest", "twin"))
    refused = lab.holdover("protect", "--delivery", "environment", str(twin.pid))
    assert refused.returncode == 1
    assert "in its mount namespace" in refused.stdout
    assert lab.holdover("protect", str(guest.pid)).returncode == 0
    assert lab.status(guest.pid)["delivery"] == "mount"
    lab.upgrade()
    assert {guest.probe_twice(what) for what in PROBES} == {(ATTACHED, ATTACHED)}
    assert (twin.probe("https disk"), twin.probe("https disk")) == (REFUSED, DIED)


def test_process_that_is_gone_is_named(lab: Lab) -> None:
    guest = Guest.start(lab.root, "guest")
    guest.kill()
    for command in ("protect", "release", "defuse"):
        done = lab.holdover(command, str(guest.pid))
        assert done.returncode in (1, 2)
        assert str(guest.pid) in done.stderr
    assert lab.held() == []


def test_holdover_that_is_killed_leaves_the_guest_whole(lab: Lab) -> None:
    """Killed at many moments; whatever the moment, the next run finishes the job."""
    guest = Guest.start(lab.root, "guest")
    for step in range(1, 20):
        stop_after = f"{0.02 * step:.2f}"
        lab.run("timeout", "-s", "KILL", stop_after, "holdover", "protect")
        assert lab.status(guest.pid)["state"] in ("current", "protected")
    assert lab.holdover("protect").returncode == 0
    assert len(list(lab.path("/usr/lib/holdover/view").iterdir())) == 1
    assert list(lab.path("/usr/lib/holdover/staging").iterdir()) == []
    lab.upgrade()
    assert {guest.probe_twice(what) for what in PROBES} == {(ATTACHED, ATTACHED)}


# it is killed right after its nth write into another process's memory
FATAL = """
import os, signal, sys
from holdover.cli.main import main
from holdover.memory import Memory
left, write = int(sys.argv[1]), Memory.write
def fatal(self, address, data):
    global left
    write(self, address, data)
    left -= 1
    if not left: os.kill(os.getpid(), signal.SIGKILL)
Memory.write = fatal
sys.exit(main(sys.argv[2:]))
"""


def kills(lab: Lab, *words: str) -> Iterator[None]:
    """Comes by after each kill, until a run comes to its end."""
    for number in itertools.count(1):
        done = lab.run("python3", "-c", FATAL, str(number), *words)
        if done.returncode == 0:
            return
        assert done.returncode in (-signal.SIGKILL, 128 + signal.SIGKILL), done.stderr
        yield


def test_holdover_killed_after_each_write_into_a_guest_leaves_it_whole(
    lab: Lab, record: Record
) -> None:
    guest, twin = Guest.start(lab.root, "guest"), Guest.start(lab.root, "twin")
    killed = {"protect": 0, "release": 0}
    for command in killed:
        for _ in kills(lab, command, str(guest.pid)):
            killed[command] += 1
            assert lab.status(guest.pid)["state"] in ("current", "protected")
    assert set(killed.values()) == {3}
    assert lab.holdover("protect", str(guest.pid)).returncode == 0
    lab.upgrade()
    assert {guest.probe_twice(what) for what in PROBES} == {(ATTACHED, ATTACHED)}
    assert (twin.probe("https disk"), twin.probe("https disk")) == (REFUSED, DIED)
    record(
        "holdover killed after each write into a QEMU guest",
        f"{killed['protect']} kills of protect, {killed['release']} of release: the next run works,"
        " and after the upgrade the guest attaches all disks",
        "",
    )
