# SPDX-License-Identifier: Apache-2.0
"""Taking a delivery back: never into danger, and what the admin had set counts again."""

import pytest
from lab import Lab

from holdover.demo.guest import ATTACHED, DIED, PROBES, REFUSED, Guest

pytestmark = pytest.mark.e2e

MODULES = "/usr/lib/x86_64-linux-gnu/qemu"
OWN = "/srv/own-modules"
ADMINS = ("env", f"QEMU_MODULE_DIR={OWN}")


def test_release_is_refused_while_the_process_needs_its_view(lab: Lab) -> None:
    guest = Guest.start(lab.root, "guest")
    lab.holdover("protect")
    lab.upgrade()
    done = lab.holdover("release", str(guest.pid))
    assert done.returncode == 1
    assert "still needs it" in done.stderr
    assert "--force" in done.stderr
    assert lab.status(guest.pid)["state"] == "protected"
    assert guest.probe_twice("https disk") == (ATTACHED, ATTACHED)


def test_release_is_refused_while_a_library_is_only_held(lab: Lab) -> None:
    """The modules on disk are its own, and one of them would not load."""
    guest, twin = (Guest.start(lab.root, name) for name in ("guest", "twin"))
    lab.holdover("protect", str(guest.pid))
    lab.root.run("sh", "-c", "rm /usr/lib/x86_64-linux-gnu/libnfs.so.*")
    done = lab.holdover("release", str(guest.pid))
    assert done.returncode == 1
    assert "still needs it: 1 of its own modules would not load, block-nfs" in done.stderr
    assert (guest.probe("nfs disk"), twin.probe("nfs disk")) == (ATTACHED, REFUSED)


def test_forced_release_leaves_a_guest_as_stock_debian_does(lab: Lab) -> None:
    guest = Guest.start(lab.root, "guest")
    lab.holdover("protect")
    lab.upgrade()
    assert lab.holdover("release", "--force", str(guest.pid)).returncode == 0
    assert lab.status(guest.pid)["state"] == "at-risk"
    assert (guest.probe("https disk"), guest.probe("https disk")) == (REFUSED, DIED)


def test_protect_and_release_can_be_repeated(lab: Lab) -> None:
    guest = Guest.start(lab.root, "guest")
    for _ in range(5):
        assert lab.holdover("protect", str(guest.pid)).returncode == 0
        assert lab.status(guest.pid)["state"] == "protected"
        assert lab.holdover("release", str(guest.pid)).returncode == 0
        assert lab.status(guest.pid)["state"] == "current"
    lab.holdover("gc")
    assert lab.held() == []
    assert {guest.probe_twice(what) for what in PROBES} == {(ATTACHED, ATTACHED)}


def test_modules_that_the_admin_chose_are_held_too(lab: Lab) -> None:
    """The admin's directory is the only one with block modules, and it is removed."""
    lab.root.run("sh", "-c", f"mkdir {OWN} && mv {MODULES}/block-*.so {OWN}")
    guest, twin = (Guest.start(lab.root, name, wrapper=ADMINS) for name in ("guest", "twin"))
    assert lab.holdover("protect", str(guest.pid)).returncode == 0
    lab.root.run("rm", "-r", OWN)
    lab.upgrade()
    assert {guest.probe_twice(what) for what in PROBES} == {(ATTACHED, ATTACHED)}
    assert (twin.probe("https disk"), twin.probe("https disk")) == (REFUSED, DIED)


def test_release_gives_the_admins_choice_back(lab: Lab) -> None:
    lab.root.run("sh", "-c", f"mkdir {OWN} && mv {MODULES}/block-*.so {OWN}")
    guest = Guest.start(lab.root, "guest", wrapper=ADMINS)
    assert lab.holdover("protect", str(guest.pid)).returncode == 0
    assert lab.holdover("release", str(guest.pid)).returncode == 0
    lab.holdover("gc")
    assert lab.held() == []
    assert guest.probe_twice("https disk") == (ATTACHED, ATTACHED)
