# SPDX-License-Identifier: Apache-2.0
"""Where a module cannot be had, the load is refused cleanly and the guest lives: decoys."""

import pytest
from lab import Lab

from holdover.demo.guest import ATTACHED, DIED, PROBES, REFUSED, Guest

pytestmark = pytest.mark.e2e

DISKS = [what for what in PROBES if what.endswith("disk")]


def start_guest_before_any_block_module_is_installed(lab: Lab) -> Guest:
    lab.root.apt("purge", "qemu-block-extra")
    return Guest.start(lab.root, "plain")


def test_module_package_that_comes_with_the_upgrade_is_refused(lab: Lab) -> None:
    guest = start_guest_before_any_block_module_is_installed(lab)
    lab.root.run("holdover", "enable")
    lab.upgrade()
    assert {guest.probe_twice(what) for what in DISKS} == {(REFUSED, REFUSED)}
    assert guest.probe_twice("all device types") == (ATTACHED, ATTACHED)
    assert lab.status(guest.pid)["state"] == "protected"


def test_module_package_of_the_same_build_is_there_for_guests_that_run(lab: Lab) -> None:
    """It is installed in order to attach such a disk to a guest that runs."""
    guest = start_guest_before_any_block_module_is_installed(lab)
    lab.root.run("holdover", "enable")
    lab.root.apt("install", f"qemu-block-extra={lab.older}")
    assert guest.probe_twice("https disk") == (ATTACHED, ATTACHED)
    lab.upgrade()
    assert {guest.probe_twice(what) for what in PROBES} == {(ATTACHED, ATTACHED)}
    assert len(lab.held()) == 1


def test_module_package_that_comes_with_the_upgrade_kills_the_twin(stock: Lab) -> None:
    guest = start_guest_before_any_block_module_is_installed(stock)
    stock.upgrade()
    assert guest.probe("https disk") == REFUSED
    assert guest.probe("ssh disk") == DIED


def test_guest_that_was_never_protected_is_defused_and_lives(lab: Lab) -> None:
    guest, twin = Guest.start(lab.root, "guest"), Guest.start(lab.root, "twin")
    lab.upgrade()  # hooks are not enabled
    seen = lab.status(guest.pid)
    assert seen["state"] == "at-risk"
    assert {m["state"] for m in seen["modules"]} == {"loaded", "blocked"}
    assert lab.holdover("status").returncode == 1

    failed = lab.holdover("protect", str(guest.pid))
    assert failed.returncode == 1
    assert f"holdover rescue {guest.pid}" in failed.stdout
    assert lab.status(guest.pid)["state"] == "at-risk"

    assert lab.holdover("defuse", str(guest.pid)).returncode == 0
    assert lab.status(guest.pid)["state"] == "defused"
    assert {guest.probe_twice(what) for what in PROBES} == {(REFUSED, REFUSED)}
    assert guest.lives()
    assert (twin.probe("https disk"), twin.probe("https disk")) == (REFUSED, DIED)


def test_defused_guest_is_protected_once_its_own_files_are_back(lab: Lab) -> None:
    guest = Guest.start(lab.root, "guest")
    lab.upgrade()
    assert lab.holdover("defuse", str(guest.pid)).returncode == 0
    lab.downgrade()
    assert lab.holdover("protect", str(guest.pid)).returncode == 0
    assert lab.status(guest.pid)["state"] == "protected"
    assert {guest.probe_twice(what) for what in PROBES} == {(ATTACHED, ATTACHED)}


def test_guest_that_needs_nothing_is_not_defused(lab: Lab) -> None:
    guest = Guest.start(lab.root, "guest")
    assert lab.holdover("defuse", str(guest.pid)).returncode == 0
    assert lab.status(guest.pid)["state"] == "current"
    assert guest.probe_twice("https disk") == (ATTACHED, ATTACHED)
