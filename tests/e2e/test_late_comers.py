# SPDX-License-Identifier: Apache-2.0
"""Guests that the change of packages finds in an unusual place: starting, elsewhere, or nowhere."""

import json

import pytest
from lab import Lab

from holdover.demo.guest import ATTACHED, DIED, PROBES, Guest

pytestmark = pytest.mark.e2e

# runs when dpkg has unpacked the new qemu-block-extra and is about to unpack qemu-system-x86
STARTS_A_GUEST = """#!/bin/sh
exec >/tmp/prerm.log 2>&1
qemu-system-x86_64 -machine q35,accel=tcg -nodefaults -display none -S -name guest=between \\
    -qmp unix:/tmp/between.sock,server=on,wait=off -daemonize -pidfile /tmp/between.pid </dev/null
"""


def upgrade_with_a_guest_started_meanwhile(lab: Lab) -> Guest:
    script = lab.path("/var/lib/dpkg/info/qemu-system-x86.prerm")
    script.write_text(STARTS_A_GUEST)
    script.chmod(0o755)
    lab.upgrade()
    pid = int(lab.path("/tmp/between.pid").read_text())
    return Guest(lab.root, "between", pid)


def test_guest_started_during_the_upgrade_is_protected_when_it_ends(lab: Lab) -> None:
    lab.root.run("holdover", "enable")
    guest = upgrade_with_a_guest_started_meanwhile(lab)
    seen = lab.status(guest.pid)
    assert lab.older.partition(":")[2] in seen["version"]
    assert seen["state"] == "protected"
    assert {guest.probe_twice(what) for what in PROBES} == {(ATTACHED, ATTACHED)}


def test_guest_started_during_the_upgrade_dies_on_a_stock_system(stock: Lab) -> None:
    guest = upgrade_with_a_guest_started_meanwhile(stock)
    assert guest.probe("https disk") == "refused"
    assert guest.probe("https disk") == DIED


def test_guest_of_another_root_is_foreign_and_left_alone(lab: Lab) -> None:
    make = "mkdir -p tmp dev && cp -al /usr /bin /lib* . && mknod -m 666 dev/null c 1 3"
    lab.root.run("sh", "-c", f"mkdir /srv/other && cd /srv/other && {make}")
    wrapper = ("chroot", "/srv/other")
    lab.root.run(
        *wrapper,
        *("qemu-system-x86_64", "-machine", "q35,accel=tcg", "-nodefaults", "-display", "none"),
        *("-S", "-daemonize", "-pidfile", "/tmp/pid"),
    )
    seen = lab.json("status")
    assert (seen["processes"], seen["foreign"]) == ([], 1)
    assert lab.json("protect")["processes"] == []
    assert lab.held() == []


@pytest.mark.parametrize("namespace", ["--pid", "--time"])
def test_nothing_is_collected_from_another_namespace(lab: Lab, namespace: str) -> None:
    """There every guest looks dead: others have its pid, or it started at another time."""
    guest = Guest.start(lab.root, "guest")
    lab.holdover("protect")
    lab.upgrade()
    shifted = ("--boottime", "9999") if namespace == "--time" else ("--mount-proc",)
    done = lab.run("unshare", namespace, "--fork", *shifted, "holdover", "gc")
    assert "1 leases are of another pid or time namespace" in done.stdout
    assert len(lab.held()) == 1
    assert guest.probe_twice("https disk") == (ATTACHED, ATTACHED)


RUN_OF_A_CONTAINER = """
set -e
readlink /proc/self/ns/pid
qemu-system-x86_64 -machine q35,accel=tcg -nodefaults -display none -S -name "$1" \\
    -pidfile /tmp/pid -daemonize
holdover protect --json
holdover gc --json
kill -KILL "$(cat /tmp/pid)"
"""


def test_container_that_starts_again_with_its_old_run_is_not_confused(lab: Lab) -> None:
    """Its guests of the first run are gone, others may have their pids: these are protected.

    The kernel may give the second namespace the number of the first one: then nobody is left whom
    the leases of the first could mean.
    """
    runs, namespaces = [], set[str]()
    for name in ("first", "second"):
        script = ("sh", "-c", RUN_OF_A_CONTAINER, "sh", name)
        done = lab.root.run("unshare", "--pid", "--fork", "--mount-proc", "--kill-child", *script)
        namespace, said = done.stdout.split("\n", 1)
        namespaces.add(namespace)
        protected, collected = said.split("\n}\n", 1)
        runs.append((json.loads(protected + "}"), json.loads(collected)))
    (first, after_first), (second, after_second) = runs
    assert [p["state"] for p in first["processes"] + second["processes"]] == ["protected"] * 2
    assert after_first["kept_because"] == ""
    told = "an earlier run of this container" in after_second["kept_because"]
    assert told is (len(namespaces) == 2)
    lab.root.run("sh", "-c", "rm -f /run/holdover/lease/*")
    lab.root.run("holdover", "gc")
    assert lab.held() == []


def test_lease_of_an_earlier_boot_keeps_nothing_whoever_has_its_pid(lab: Lab) -> None:
    """A /run that outlived the boot; a process has the pid and the start time by chance."""
    guest = Guest.start(lab.root, "guest")
    lab.holdover("protect")
    (path,) = lab.path("/run/holdover/lease").iterdir()
    lease = json.loads(path.read_text())
    assert lab.holdover("release", str(guest.pid)).returncode == 0
    path.write_text(json.dumps(lease))
    lab.holdover("gc")
    assert len(lab.held()) == 1
    path.write_text(json.dumps(lease | {"boot": "11111111-2222-3333-4444-555555555555"}))
    lab.holdover("gc")
    assert lab.held() == []


def test_executable_without_modules_is_current(lab: Lab) -> None:
    guest = Guest.start(
        lab.root, "micro", machine="none,accel=qtest", binary="qemu-system-x86_64-microvm"
    )
    lab.root.run("holdover", "enable")
    lab.upgrade()
    seen = lab.status(guest.pid)
    assert (seen["state"], seen["stamp"], seen["modules"]) == ("current", None, [])


def test_upgrade_without_any_guest_leaves_nothing(lab: Lab) -> None:
    lab.root.run("holdover", "enable")
    done = lab.upgrade()
    assert "holdover:" not in done.stdout + done.stderr
    assert lab.held() == []
    assert list(lab.path("/usr/lib/holdover/view").iterdir()) == []
    assert list(lab.path("/run/holdover/lease").iterdir()) == []
    assert not lab.path("/run/holdover/transaction").exists()


def test_last_guest_of_a_build_takes_its_snapshot_along(lab: Lab) -> None:
    guests = [Guest.start(lab.root, name) for name in ("one", "two")]
    assert lab.holdover("protect").returncode == 0
    lab.upgrade()
    guests[0].kill()
    lab.root.run("holdover", "gc")
    (snapshot,) = lab.held()
    assert [lease["name"] for lease in snapshot["leases"]] == ["two"]
    assert snapshot["bytes_held"] > 1_000_000
    guests[1].kill()
    lab.root.run("holdover", "gc")
    assert lab.held() == []
    assert list(lab.path("/usr/lib/holdover/view").iterdir()) == []
