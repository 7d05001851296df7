# SPDX-License-Identifier: Apache-2.0
"""A holdover that hangs, a hook that is kept waiting, a transaction that is killed, an admin who
removes what holdover needs: the transaction goes on, and the next run makes good what was left.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from lab import Lab
from lab.working import (
    LEASES,
    LOCK,
    MARKER,
    STAGING,
    at_work,
    check_all_goes,
    check_sound,
    entries,
    halted,
    wait_until,
)

from holdover.cli.events import GAVE_UP, VETOED
from holdover.demo.archive import QEMU_PACKAGES
from holdover.demo.guest import ATTACHED, DIED, PROBES, REFUSED, Guest

pytestmark = pytest.mark.e2e

ALL_WORK = {(ATTACHED, ATTACHED)}


def configure(lab: Lab, text: str) -> None:
    lab.path("/etc/holdover").mkdir(exist_ok=True)
    lab.path("/etc/holdover/holdover.toml").write_text(text)


def qemu_version(lab: Lab) -> str:
    return lab.run("dpkg-query", "-W", "-f", "${Version}", "qemu-system-x86").stdout


# -- one who hangs ---------------------------------------------------------------------------------

LISTENS = """
import os, socket
os.makedirs("/run/systemd/journal")
log = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
log.bind("/run/systemd/journal/socket")
print(flush=True)
while True:
    open("/tmp/journal", "ab").write(log.recv(65536) + b"\\n")
"""


@contextmanager
def journal(lab: Lab) -> Iterator[Path]:
    """What is told to the system's log."""
    with at_work(lab, "python3", "-c", LISTENS) as working:
        assert working.process.stdout is not None
        working.process.stdout.readline()
        yield lab.path("/tmp/journal")


def how_hook_ended(lab: Lab, name: str) -> str:
    return lab.path(f"/run/holdover/hooks/{name}").read_text().split()[1]


def test_holdover_that_hangs_with_the_lock_stops_no_transaction_but_by_a_veto(lab: Lab) -> None:
    """It is halted in the middle of a capture. What it was to do is done by the next run."""
    lab.root.run("holdover", "enable")
    guest, twin = Guest.start(lab.root, "guest"), Guest.start(lab.root, "twin")
    older, budget = qemu_version(lab), "hook.budget = 1\n"
    install = ("apt-get", "-qy", "install", *(f"{name}={lab.newer}" for name in QEMU_PACKAGES))
    with journal(lab) as log, halted(lab, "protect"):
        configure(lab, budget + "hook.veto = true\n")
        stopped = lab.run(*install)
        assert stopped.returncode != 0
        assert "gave up after 1 s; the rest is not protected" in stopped.stderr
        assert "the transaction is stopped, as the setting hook.veto asks for" in stopped.stderr
        assert (qemu_version(lab), how_hook_ended(lab, "apt-before")) == (older, "vetoed")
        assert VETOED.id in log.read_text()
        configure(lab, budget)
        done = lab.run(*install)
        assert (done.returncode, qemu_version(lab)) == (0, lab.newer)
        assert "gave up after 1 s; the rest is not protected" in done.stderr
        assert "the transaction goes on; `holdover status` shows who is at risk" in done.stderr
        assert (how_hook_ended(lab, "apt-before"), how_hook_ended(lab, "apt-after")) == (
            *("gave-up", "gave-up"),
        )
        assert GAVE_UP.id in log.read_text()
        assert entries(lab, STAGING) != []
        assert lab.path(MARKER).exists()
    lab.path("/etc/holdover/holdover.toml").unlink()
    assert lab.status(guest.pid)["state"] == "at-risk"
    lab.downgrade()  # it has all of its files again: those it finds now are held the next time
    check_sound(lab)
    assert "protected 2: guest" in lab.upgrade().stdout
    assert lab.holdover("release", "--force", str(twin.pid)).returncode == 0
    assert {guest.probe_twice(what) for what in PROBES} == ALL_WORK
    assert twin.probe_twice("https disk") == (REFUSED, DIED)
    check_sound(lab)
    check_all_goes(lab, guest)


def test_hook_that_hangs_elsewhere_gives_up_as_well(quiet: Lab) -> None:
    """A list of a package that never ends, for dpkg has it on a file system that hangs."""
    configure(quiet, "hook.budget = 1\n")
    quiet.root.run("mkfifo", "/var/lib/dpkg/info/hangs.list")
    listing = "VERSION 3\n\nhangs 1 amd64 none < 2 amd64 none /x.deb\n"
    done = quiet.run("sh", "-c", "holdover hook apt before $$", text=listing)
    assert (done.returncode, "gave up after 1 s" in done.stderr) == (0, True)
    assert how_hook_ended(quiet, "apt-before") == "gave-up"
    configure(quiet, "hook.budget = 1\nhook.veto = true\n")
    done = quiet.run("sh", "-c", "holdover hook apt before $$", text=listing)
    assert (done.returncode, how_hook_ended(quiet, "apt-before")) == (75, "vetoed")
    quiet.path("/var/lib/dpkg/info/hangs.list").unlink()
    quiet.path("/etc/holdover/holdover.toml").unlink()


# -- what an admin does at a bad moment ------------------------------------------------------------


def test_lock_that_is_removed_while_it_is_held(quiet: Lab) -> None:
    """Then two are at work: what the first has half made goes, and it says that it failed."""
    guest = Guest.start(quiet.root, "guest")
    with halted(quiet, "protect") as first:
        quiet.path(LOCK).unlink()
        assert quiet.holdover("protect").returncode == 0
        first.send("CONT")
        code, _ = first.end()
    assert code == 1
    assert quiet.status(guest.pid)["state"] == "protected"
    check_sound(quiet)
    assert guest.probe_twice("https disk") == (ATTACHED, ATTACHED)
    check_all_goes(quiet, guest)


def test_all_of_run_is_removed_while_one_works_and_another_waits(quiet: Lab) -> None:
    guest = Guest.start(quiet.root, "guest")
    with halted(quiet, "protect") as first, at_work(quiet, "holdover", "protect") as second:
        wait_until(lambda: second.opens(LOCK))
        quiet.root.run("rm", "-r", "/run/holdover")
        first.send("KILL")
        assert second.end() == (0, "")
    assert quiet.status(guest.pid)["state"] == "protected"
    assert len(entries(quiet, LEASES)) == 1
    check_sound(quiet)
    check_all_goes(quiet, guest)


def test_hook_whose_run_is_removed_says_so_and_the_next_makes_good(quiet: Lab) -> None:
    guest = Guest.start(quiet.root, "guest")
    before = ("hook", "dpkg", "before", "99999")  # nobody
    with halted(quiet, *before) as hook:
        quiet.root.run("rm", "-r", "/run/holdover")
        hook.send("CONT")
        code, complaints = hook.end()
    assert (code, "is not protected: could not write a lease" in complaints) == (0, True)
    assert quiet.status(guest.pid)["state"] == "current"
    assert "protected 1: guest" in quiet.holdover(*before).stdout
    quiet.root.run("holdover", "hook", "dpkg", "after")
    check_sound(quiet)
    check_all_goes(quiet, guest)


KILLS_THE_TRANSACTION = f"""#!/bin/sh
read -r apt _ <{MARKER}
kill -KILL $apt $PPID
"""


def test_transaction_that_is_killed_is_made_good_by_the_next(lab: Lab) -> None:
    """dpkg has unpacked one package of three, and nobody calls the hook that ends it."""
    lab.root.run("holdover", "enable")
    guest, twin = Guest.start(lab.root, "guest"), Guest.start(lab.root, "twin")
    script = lab.path("/var/lib/dpkg/info/qemu-system-x86.prerm")
    script.write_text(KILLS_THE_TRANSACTION)
    script.chmod(0o755)
    words = (f"{name}={lab.newer}" for name in QEMU_PACKAGES)
    assert lab.root.apt("install", *words, check=False).returncode != 0
    assert lab.path(MARKER).exists()
    assert len(entries(lab, LEASES)) == 3
    assert lab.status(guest.pid)["state"] == "protected"
    lab.root.run("holdover", "hook", "timer")  # it does not wait for the dead
    assert len(entries(lab, LEASES)) == 2
    script.unlink()
    lab.install_by_dpkg(lab.newer)
    check_sound(lab)
    assert {guest.probe_twice(what) for what in PROBES} == ALL_WORK
    assert lab.holdover("release", "--force", str(twin.pid)).returncode == 0
    assert twin.probe_twice("https disk") == (REFUSED, DIED)
    check_all_goes(lab, guest)
