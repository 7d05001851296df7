# SPDX-License-Identifier: Apache-2.0
"""dnf 5 replaces QEMU under live guests; of Debian's releases only sid has it (lab/repacked.py)."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from lab import Lab
from lab.managers import Manager, note_calls
from lab.repacked import OTHER, QEMU, RECIPE_OF_DNF5

from holdover.demo import archive
from holdover.demo.guest import ATTACHED, DIED, Guest

pytestmark = [pytest.mark.e2e, pytest.mark.distributions]

DNF5 = Manager("dnf5", ("dnf5", "--assumeyes", "--releasever=1", "upgrade"))
DISKS = ("https disk", "ssh disk", "rbd disk", "iscsi disk", "nfs disk")
WORKS_TWICE = (ATTACHED, ATTACHED)


@pytest.fixture(scope="module")
def sid(cache: Path) -> Path:
    return archive.prepare_base(cache, print, RECIPE_OF_DNF5)


@pytest.fixture
def managed(sid: Path, scratch: Path) -> Iterator[Lab]:
    """A system with holdover and its hooks."""
    with Lab.with_holdover(sid, scratch) as lab:
        DNF5.enable(lab)
        yield lab


def test_guest_is_protected_from_the_transaction_that_concerns_it(managed: Lab) -> None:
    guest = Guest.start(managed.root, "guest")
    calls = note_calls(managed)
    done = DNF5.replace(managed, OTHER)
    assert done.returncode == 0, done.stderr
    assert "holdover:" not in done.stdout + done.stderr
    assert managed.status(guest.pid)["state"] == "current"
    done = DNF5.replace(managed, *QEMU)
    assert done.returncode == 0, done.stderr
    assert f"holdover: protected 1: guest ({guest.pid})" in done.stderr
    assert {guest.probe_twice(what) for what in DISKS} == {WORKS_TWICE}
    hooks = [
        line for line in calls.read_text().splitlines() if line.startswith("hook libdnf5 before")
    ]
    assert len(hooks) == 2  # one for each transaction, however many packages it has
    assert not managed.path("/run/holdover/transaction").exists()


def test_unprotected_twin_dies_of_its_second_attempt(sid: Path, scratch: Path) -> None:
    with Lab.stock(sid, scratch) as stock:
        twin = Guest.start(stock.root, "twin")
        assert DNF5.replace(stock, *QEMU).returncode == 0
        assert twin.probe("https disk") == "refused"
        assert twin.probe("ssh disk") == DIED


def test_holdover_that_is_missing_does_not_stop_it(managed: Lab) -> None:
    managed.path("/usr/bin/holdover").unlink()
    done = DNF5.replace(managed, *QEMU)
    assert (done.returncode, DNF5.has_replaced(managed, QEMU[0])) == (0, True)
    assert "did not run, live guests were not looked at" in done.stderr


def test_veto_stops_it_before_anything_is_changed(managed: Lab) -> None:
    guest = Guest.start(managed.root, "guest")
    managed.path("/etc/holdover").mkdir()
    managed.path("/etc/holdover/holdover.toml").write_text("[hook]\nveto = true\n")
    managed.path("/usr/lib/holdover").mkdir(exist_ok=True)
    managed.root.run("mount", "-t", "tmpfs", "-o", "ro", "tmpfs", "/usr/lib/holdover")
    done = DNF5.replace(managed, *QEMU)
    managed.root.run("umount", "/usr/lib/holdover")
    assert done.returncode == 1
    assert "Action calls for stop: holdover: hook.veto is set" in done.stderr
    assert not DNF5.has_replaced(managed, QEMU[0])
    assert guest.lives()
