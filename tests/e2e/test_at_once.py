# SPDX-License-Identifier: Apache-2.0
"""Two transactions, a timer and a user at once: who waits for whom, and what is said.

No transaction fails, no guest dies, and whoever is refused is told why.
"""

import json
import subprocess
from pathlib import Path

import pytest
from lab import Lab
from lab.working import BUSY, LOCK, at_work, check_all_goes, check_sound, holding, wait_until

from holdover.demo.guest import ATTACHED, DIED, PROBES, REFUSED, Guest

pytestmark = pytest.mark.e2e

ALL_WORK = {(ATTACHED, ATTACHED)}


# -- at once ---------------------------------------------------------------------------------------

LOOP = """
name=$1 number=0; shift
while ! test -e /tmp/enough; do
    number=$((number + 1)); sleep 0.5
    "$@" >/tmp/loops/$name.$number.out 2>/tmp/loops/$name.$number.err </dev/null
    echo $? >/tmp/loops/$name.$number.code
done
"""
# another root has another lock: its dpkg runs at the same time, and calls the same hooks
OTHER_ROOT = """
mkdir -p /srv/small/DEBIAN /srv/other/var/lib/dpkg/info /srv/other/var/lib/dpkg/updates
echo 'Package: small
Version: 1
Architecture: all
Maintainer: nobody
Description: nothing' >/srv/small/DEBIAN/control
dpkg-deb --build /srv/small /srv/small.deb
touch /srv/other/var/lib/dpkg/status
mkdir /tmp/loops
"""
LOCKED_OUT = "was locked by another process"


def loops(released: Guest) -> dict[str, tuple[str, ...]]:
    """What is done again and again while packages change."""
    return {
        "other-root": ("dpkg", "--root=/srv/other", "--install", "/srv/small.deb"),
        "second-dpkg": ("dpkg", "--install", "/srv/small.deb"),
        "timer": ("holdover", "hook", "timer"),
        "protect": ("holdover", "protect", "-o", "lock.timeout=0.1"),
        "status": ("holdover", "status", "--json"),
        "gc": ("holdover", "gc", "-o", "lock.timeout=0.1"),
        "release": ("holdover", "release", "-o", "lock.timeout=0.1", str(released.pid)),
    }


def ends_well(name: str, code: int, said: str, complaints: str) -> bool:
    """Whether it did its work, or says in so many words why not."""
    match name:
        case "other-root" | "timer":
            return code == 0 and "gave up" not in complaints
        case "second-dpkg":
            return code == 0 or (code == 2 and LOCKED_OUT in complaints)
        case "status":
            return code in (0, 1) and json.loads(said)["unreadable"] == []
        case "release" if "still needs it" in complaints:
            return code == 1
    return code == 0 or (code == 1 and complaints == BUSY)


def test_two_transactions_a_timer_and_a_user_at_once(lab: Lab) -> None:
    lab.root.run("holdover", "enable")
    lab.root.run("sh", "-c", OTHER_ROOT)
    lab.path("/etc/holdover").mkdir()  # a slow machine is no reason to give up
    lab.path("/etc/holdover/holdover.toml").write_text("hook.budget = '10 min'\n")
    guest, released = Guest.start(lab.root, "guest"), Guest.start(lab.root, "released")
    alone = Guest.start(lab.root, "alone", wrapper=("unshare", "--mount"))
    twin = Guest.start(lab.root, "twin")
    assert lab.holdover("protect", "--delivery", "mount", str(alone.pid)).returncode == 0
    running = [
        subprocess.Popen(lab.root.command("sh", "-c", LOOP, "sh", name, *words))
        for name, words in loops(released).items()
    ]
    assert "gave up" not in lab.upgrade().stderr  # it raises if apt fails
    wait_until(lambda: all(len(ends(lab, name)) > 1 for name in loops(released)))
    lab.path("/tmp/enough").touch()
    assert [loop.wait(60) for loop in running] == [0] * len(running)
    check_loops(lab, released)
    lab.root.run("holdover", "protect")
    for each, delivery in ((guest, "environment"), (alone, "mount"), (released, "environment")):
        seen = lab.status(each.pid)
        assert (seen["state"], seen["delivery"]) == ("protected", delivery)
        assert {each.probe_twice(what) for what in PROBES} == ALL_WORK
    check_sound(lab)
    assert lab.holdover("release", "--force", str(twin.pid)).returncode == 0
    assert twin.probe_twice("https disk") == (REFUSED, DIED)
    check_all_goes(lab, guest, released, alone)


def ends(lab: Lab, name: str) -> list[Path]:
    """Files with the exit codes of what one loop did."""
    return list(lab.path("/tmp/loops").glob(f"{name}.*.code"))


def check_loops(lab: Lab, released: Guest) -> None:
    """Each time they ended as they may."""
    for name in loops(released):
        for code in ends(lab, name):
            said, complaints = (code.with_suffix(end).read_text() for end in (".out", ".err"))
            fine = ends_well(name, int(code.read_text()), said, complaints)
            assert fine, f"{code.name}: {code.read_text()}{said}{complaints}"


def test_whoever_does_not_get_the_lock_says_so_and_who_needs_none_works(quiet: Lab) -> None:
    guest = Guest.start(quiet.root, "guest")
    quiet.root.run("holdover", "protect")
    (held,) = (snapshot["id"] for snapshot in quiet.held())
    pid = str(guest.pid)
    refused = [("protect",), ("defuse", pid), ("release", pid), ("rehearse", pid), ("gc",)]
    refused += [("pin", held), ("unpin", held), ("protect", "--rehearse")]
    reads = [("status",), ("list",), ("show", held), ("explain", pid), ("protect", "--dry-run")]
    reads += [("gc", "--dry-run"), ("preview", "install", "python3")]
    with holding(quiet):
        for words in refused:
            done = quiet.holdover(*words, "-o", "lock.timeout=0.1")
            assert (done.returncode, done.stderr) == (1, BUSY), words
        for words in reads:
            assert quiet.holdover(*words).returncode == 0, words
        done = quiet.holdover("rescue", pid, "-o", "lock.timeout=0.1")
        assert (done.returncode, done.stderr) == (0, BUSY)  # it needs none, and nothing is let go
        done = quiet.run("env", "HOLDOVER_HOOK_BUDGET=1", "holdover", "hook", "timer")
        assert (done.returncode, "gave up after 1 s" in done.stderr) == (1, True)
    assert quiet.status(guest.pid)["state"] == "protected"
    check_all_goes(quiet, guest)


# -- the clock -------------------------------------------------------------------------------------

CLOCK = "/tmp/clock"
# holdover for which the time of day is set while it runs
SET = f"""
import sys, time
from holdover.cli.main import main
seconds, nanoseconds = time.time, time.time_ns
def leap():
    return int(open("{CLOCK}").read())
time.time = lambda: seconds() + leap()
time.time_ns = lambda: nanoseconds() + leap() * 10**9
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.parametrize("years", [10, -10])
def test_clock_that_is_set_does_not_change_how_long_is_waited(quiet: Lab, years: int) -> None:
    guest, clock = Guest.start(quiet.root, "guest"), quiet.path(CLOCK)
    clock.write_text("0")
    protect = ("python3", "-I", "-c", SET, "protect", "-o")
    with holding(quiet) as holder, at_work(quiet, *protect, "lock.timeout=600") as patient:
        with at_work(quiet, *protect, "lock.timeout=4") as hasty:
            wait_until(lambda: patient.opens(LOCK) and hasty.opens(LOCK))
            clock.write_text(str(years * 365 * 86400))
            assert hasty.end() == (1, BUSY)
        assert patient.process.poll() is None
        holder.send("KILL")
        assert patient.end() == (0, "")
    assert quiet.status(guest.pid)["state"] == "protected"
    check_sound(quiet)
    check_all_goes(quiet, guest)
