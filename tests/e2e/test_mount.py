# SPDX-License-Identifier: Apache-2.0
"""Delivery by mount, and the rules that forbid it."""

import pytest
from lab import Lab

from holdover.demo.guest import ATTACHED, DIED, PROBES, REFUSED, Guest

pytestmark = pytest.mark.e2e

MODULES = "/usr/lib/x86_64-linux-gnu/qemu"
PRIVATE = ("unshare", "--mount")
SLAVE = ("unshare", "--mount", "--propagation", "slave")  # as libvirt does it
FILL = 'i=0; while [ $i -lt 5000 ]; do i=$((i+1)); export V$i=x; done; exec "$@"'
FULL = ("sh", "-c", FILL, "sh")
SHARED = ("unshare", "--mount", "--propagation", "unchanged")


def identity(lab: Lab, path: str) -> tuple[int, int]:
    found = lab.path(path).stat()
    return found.st_dev, found.st_ino


def protect_by_mount(lab: Lab, guest: Guest) -> tuple[int, str]:
    done = lab.holdover("protect", "--delivery", "mount", str(guest.pid))
    return done.returncode, done.stdout


@pytest.mark.parametrize("wrapper", [PRIVATE, SLAVE], ids=["private", "slave"])
def test_guest_alone_in_its_namespace_keeps_its_modules(lab: Lab, wrapper: tuple[str, ...]) -> None:
    guest = Guest.start(lab.root, "guest", wrapper=wrapper)
    twin = Guest.start(lab.root, "twin", wrapper=wrapper)
    before = identity(lab, MODULES)
    assert protect_by_mount(lab, guest)[0] == 0
    seen = lab.status(guest.pid)
    assert (seen["state"], seen["delivery"]) == ("protected", "mount")
    assert identity(lab, MODULES) == before
    lab.upgrade()
    assert lab.status(guest.pid)["state"] == "protected"
    assert {guest.probe_twice(what) for what in PROBES} == {(ATTACHED, ATTACHED)}
    assert (twin.probe("https disk"), twin.probe("https disk")) == (REFUSED, DIED)
    newer = Guest.start(lab.root, "newer")  # the host's directory has the new files
    assert newer.probe_twice("https disk") == (ATTACHED, ATTACHED)


def test_release_takes_the_mount_away(lab: Lab) -> None:
    guest = Guest.start(lab.root, "guest", wrapper=PRIVATE)
    protect_by_mount(lab, guest)
    assert lab.holdover("release", str(guest.pid)).returncode == 0
    assert lab.status(guest.pid)["state"] == "current"
    mounts = lab.path(f"/proc/{guest.pid}/mountinfo").read_text()
    assert MODULES not in mounts
    lab.holdover("gc")
    assert lab.held() == []


def refused(lab: Lab, guest: Guest, reason: str) -> None:
    mounts = lab.path(f"/proc/{guest.pid}/mountinfo").read_text()
    host = identity(lab, MODULES)
    code, said = protect_by_mount(lab, guest)
    assert code == 1
    assert reason in said
    assert lab.path(f"/proc/{guest.pid}/mountinfo").read_text() == mounts
    assert identity(lab, MODULES) == host
    assert lab.status(guest.pid)["delivery"] is None


def test_mount_is_refused_in_the_hosts_namespace(lab: Lab) -> None:
    refused(lab, Guest.start(lab.root, "guest"), "host's mount namespace")


def test_mount_is_refused_where_it_would_show_on_the_host(lab: Lab) -> None:
    guest = Guest.start(lab.root, "guest", wrapper=SHARED)
    refused(lab, guest, "shared with another mount namespace")


def test_mount_is_refused_in_a_namespace_with_another_build(lab: Lab) -> None:
    other = "qemu-system-x86_64-microvm -machine none,accel=qtest -display none -S &"
    both = ("unshare", "--mount", "sh", "-c", f'{other} exec "$@"', "sh")
    refused(lab, Guest.start(lab.root, "guest", wrapper=both), "processes of another build")


def test_environment_without_room_falls_back_to_mount(lab: Lab) -> None:
    """5,000 variables need more room than any page has left."""
    alone = Guest.start(lab.root, "alone", wrapper=(*PRIVATE, *FULL))
    among = Guest.start(lab.root, "among", wrapper=FULL)
    assert lab.holdover("protect").returncode == 1
    assert lab.status(alone.pid)["delivery"] == "mount"
    seen = lab.json("protect")["processes"]
    (outcome,) = [entry for entry in seen if entry["pid"] == among.pid]
    assert outcome["failed"]
    assert "no room for a new environment" in outcome["reason"]
    assert "host's mount namespace" in outcome["reason"]


def test_mount_is_refused_where_a_slave_namespace_would_get_it_too(lab: Lab) -> None:
    """A newer guest that starts there would find the old modules, and abort."""
    script = (
        "mount --make-rshared /; "
        "unshare --mount --propagation slave sh -c 'sleep 600 & echo $! >/tmp/inner'; "
        'exec "$@"'
    )
    wrapper = ("unshare", "--mount", "--propagation", "slave", "sh", "-c", script, "sh")
    guest = Guest.start(lab.root, "guest", wrapper=wrapper)
    inner = int(lab.path("/tmp/inner").read_text())
    before = lab.path(MODULES).stat().st_ino
    done = lab.holdover("protect", "--delivery", "mount", str(guest.pid))
    seen = lab.run("stat", "-c", "%i", f"/proc/{inner}/root{MODULES}").stdout
    assert int(seen) == before
    assert done.returncode == 1


def test_release_takes_away_every_view_that_was_mounted(lab: Lab) -> None:
    """Defused first, protected later: two mounts lie on one directory."""
    guest = Guest.start(lab.root, "guest", wrapper=(*PRIVATE, *FULL))
    twin = Guest.start(lab.root, "twin")
    lab.upgrade()
    lab.holdover("defuse", str(guest.pid))
    assert lab.status(guest.pid)["state"] == "defused"
    assert twin.lives()
    lab.downgrade()
    lab.holdover("protect", str(guest.pid))
    lab.holdover("gc")  # the lower view carries the upper one: it must not go
    assert lab.status(guest.pid)["state"] == "protected"
    lab.holdover("release", "--force", str(guest.pid))
    assert MODULES not in lab.path(f"/proc/{guest.pid}/mountinfo").read_text()
    assert lab.status(guest.pid)["delivery"] is None


def test_view_that_the_guest_unmounts_is_no_protection(lab: Lab) -> None:
    guest = Guest.start(lab.root, "guest", wrapper=("unshare", "--mount"))
    lab.holdover("protect", "--delivery", "mount", str(guest.pid))
    lab.root.run("nsenter", "-t", str(guest.pid), "-m", "umount", "--lazy", MODULES)
    assert lab.status(guest.pid)["state"] == "current"
    lab.upgrade()
    assert lab.status(guest.pid)["state"] == "at-risk"
    lab.holdover("gc")  # the guest lives: what is held for it stays
    assert lab.holdover("protect", str(guest.pid)).returncode == 0
    assert guest.probe_twice("https disk") == (ATTACHED, ATTACHED)


def test_purge_under_a_mount_is_noticed_and_made_good(lab: Lab) -> None:
    """The kernel drops the mount with the directory; the hook falls back to the environment."""
    lab.root.run("holdover", "enable")
    guest = Guest.start(lab.root, "guest", wrapper=("unshare", "--mount"))
    lab.holdover("protect", "--delivery", "mount", str(guest.pid))
    lab.root.apt("purge", "qemu-block-extra", "qemu-system-x86", "qemu-system-common")
    assert not lab.path(MODULES).exists()
    seen = lab.status(guest.pid)
    assert (seen["state"], seen["delivery"]) == ("protected", "environment")
    assert guest.probe_twice("https disk") == (ATTACHED, ATTACHED)


def test_mount_is_refused_over_a_directory_that_is_not_this_systems(lab: Lab) -> None:
    """As if it had changed its root to have something else covered."""
    guest = Guest.start(lab.root, "guest", wrapper=PRIVATE)
    lab.root.run("nsenter", "-t", str(guest.pid), "-m", "mount", "-t", "tmpfs", "tmpfs", MODULES)
    refused(lab, guest, "its module directory is not this system's")
