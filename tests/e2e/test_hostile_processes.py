# SPDX-License-Identifier: Apache-2.0
"""A guest that its user turns against whoever looks at it: nobody else may have to suffer."""

import subprocess
import time

import pytest
from lab import Lab
from lab.stalling import SERVER

from holdover.demo.guest import ATTACHED, PROBES, Guest
from holdover.environ import Layout
from holdover.errors import CommandError
from holdover.memory import Memory
from holdover.procfs import ProcFs

pytestmark = pytest.mark.e2e

USER = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups")
USERNS = ("unshare", "--user", "--map-root-user", "--mount")
PATIENCE = 120.0
STALLS = (
    'sleep 600 | python3 -I -S -c "$0" /mnt "" >/tmp/page & until test -s /tmp/page; do :; done'
)
FILE = "memory-backend-file,id=m,size=4096,mem-path=/mnt/file,share=off,readonly=on"


def start_one_whose_environment_never_comes(lab: Lab) -> Guest:
    """Its user mounts a file system that never answers a read, has the guest map its file, and
    leads `environ` there: it is his process.
    """
    wrapper = (*USERNS, "sh", "-c", f'{STALLS}; exec "$@"', SERVER)
    try:
        hostile = Guest.start(lab.root, "hostile", wrapper=wrapper, extra=("-object", FILE))
    except CommandError as error:
        pytest.skip(f"users cannot mount a file system of theirs here: {error}")
    proc = ProcFs(lab.path("/proc"))
    maps = proc.maps(hostile.pid)
    (page,) = (mapping.start for mapping in maps if mapping.path == "/mnt/file")
    with Memory(proc, hostile.pid, writable=True) as memory:
        memory.write_pointer(Layout(proc, hostile.pid, maps).pointer, page)
    return hostile


def test_memory_that_never_comes_keeps_nobody_waiting(lab: Lab) -> None:
    """Who touches it sleeps where no signal wakes him: the package manager would wait for ever."""
    hostile = start_one_whose_environment_never_comes(lab)
    victim = Guest.start(lab.root, "victim")
    command = lab.root.command("holdover", "protect")
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as protecting:
        deadline = time.monotonic() + PATIENCE
        while protecting.poll() is None and time.monotonic() < deadline:
            time.sleep(0.05)
        hung = protecting.poll() is None
        if hung:
            lab.run("pkill", "-KILL", "-f", "mnt")  # the server of the file system, in this lab
        assert not hung
    assert lab.status(victim.pid)["state"] == "protected"
    (silent,) = lab.json("status")["unreadable"]
    assert silent["pid"] == hostile.pid
    assert "has not answered an earlier look yet" in silent["reason"]
    lab.upgrade()
    assert {victim.probe_twice(what) for what in PROBES} == {(ATTACHED, ATTACHED)}


def test_mount_namespace_of_a_user_is_not_entered(lab: Lab) -> None:
    guest = Guest.start(lab.root, "guest", wrapper=(*USER, *USERNS))
    before = lab.path(f"/proc/{guest.pid}/mountinfo").read_text()
    done = lab.holdover("protect", "--delivery", "mount", str(guest.pid))
    assert done.returncode == 1
    assert "its mount namespace is a user's" in done.stdout
    assert lab.path(f"/proc/{guest.pid}/mountinfo").read_text() == before
    assert lab.holdover("protect", str(guest.pid)).returncode == 0  # data, and nothing is entered
    assert lab.status(guest.pid)["delivery"] == "environment"
    lab.upgrade()
    assert guest.probe_twice("https disk") == (ATTACHED, ATTACHED)


def test_name_that_a_process_gives_itself_says_nothing(lab: Lab) -> None:
    guest = Guest.start(lab.root, "guest", name_option="guest=a b\n1 c,process=sshd")
    lab.run("cp", "/usr/bin/sleep", "/srv/qemu-system-x86_64")
    lab.run("sh", "-c", "/srv/qemu-system-x86_64 600 >/dev/null 2>&1 &")
    assert lab.path(f"/proc/{guest.pid}/comm").read_text() == "sshd\n"
    assert lab.holdover("protect").returncode == 0
    seen = {process["pid"]: process for process in lab.json("status")["processes"]}
    assert (seen[guest.pid]["state"], seen[guest.pid]["name"]) == ("protected", "a b\n1 c")
    (other,) = (process for pid, process in seen.items() if pid != guest.pid)
    assert (other["state"], other["build_id"]) != ("protected", seen[guest.pid]["build_id"])
