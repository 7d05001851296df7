# SPDX-License-Identifier: Apache-2.0
"""rpm, dnf, zypper and pacman, each the real one, replace QEMU under live guests.

Their packages hold the files of two Debian builds (lab/repacked.py); apt and dpkg are told nothing.
"""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from lab import Lab
from lab.managers import MANAGERS, Manager, install_triggers, note_calls
from lab.packaged import REPOSITORY, build_rpm
from lab.repacked import OTHER, QEMU, RECIPE

from holdover.demo import archive
from holdover.demo.guest import ATTACHED, DIED, PROBES, Guest

pytestmark = pytest.mark.e2e

WORKS_TWICE = (ATTACHED, ATTACHED)
DID_NOT_RUN = "holdover: /usr/bin/holdover did not run, live guests were not looked at"
EVERY = pytest.mark.parametrize("manager", MANAGERS.values(), ids=MANAGERS)
DRIVING_RPM = pytest.mark.parametrize("name", ["dnf", "zypper"])


@pytest.fixture(scope="module")
def managers_base(cache: Path) -> Path:
    return archive.prepare_base(cache, print, RECIPE)


@pytest.fixture
def managed(managers_base: Path, scratch: Path) -> Iterator[Lab]:
    """A system with holdover, hooks not enabled."""
    with Lab.with_holdover(managers_base, scratch) as lab:
        yield lab


def replace_qemu(manager: Manager, lab: Lab) -> str:
    """All that was said by and in a transaction that succeeded."""
    done = manager.replace(lab, *QEMU)
    said = done.stdout + done.stderr + zypper_log(lab)
    assert done.returncode == 0, said
    assert all(manager.has_replaced(lab, package) for package in QEMU), said
    return said


def zypper_log(lab: Lab) -> str:
    """Where zypper puts what its plugins say."""
    log = lab.path("/var/log/zypper.log")
    return log.read_text() if log.exists() else ""


@contextmanager
def full_store(lab: Lab) -> Iterator[None]:
    """In which nothing can be held."""
    lab.path("/usr/lib/holdover").mkdir(exist_ok=True)
    lab.root.run("mount", "-t", "tmpfs", "-o", "ro", "tmpfs", "/usr/lib/holdover")
    yield
    lab.root.run("umount", "/usr/lib/holdover")


@EVERY
def test_guest_is_protected_from_the_transaction_that_concerns_it(
    managed: Lab, manager: Manager
) -> None:
    manager.enable(managed)
    guest = Guest.start(managed.root, "guest")
    done = manager.replace(managed, OTHER)  # with a library, which this guest does not need
    assert (done.returncode, manager.has_replaced(managed, OTHER)) == (0, True)
    assert "holdover:" not in done.stdout + done.stderr + zypper_log(managed)
    assert (managed.held(), managed.status(guest.pid)["state"]) == ([], "current")
    assert f"holdover: protected 1: guest ({guest.pid})" in replace_qemu(manager, managed)
    assert managed.status(guest.pid)["state"] == "protected"
    assert {guest.probe_twice(what) for what in PROBES} == {WORKS_TWICE}
    newer = Guest.start(managed.root, "newer")
    assert managed.status(newer.pid)["state"] == "current"


@EVERY
def test_unprotected_twin_dies_of_its_second_attempt(
    managers_base: Path, scratch: Path, manager: Manager
) -> None:
    with Lab.stock(managers_base, scratch) as stock:
        twin = Guest.start(stock.root, "twin")
        assert manager.replace(stock, *QEMU).returncode == 0
        assert twin.probe("https disk") == "refused"
        assert twin.probe("ssh disk") == DIED


@EVERY
def test_end_of_the_transaction_lets_go_of_what_nobody_needs(
    managed: Lab, manager: Manager
) -> None:
    """The installed build is held while it is being replaced: a guest may start meanwhile."""
    manager.enable(managed)
    calls = note_calls(managed)
    replace_qemu(manager, managed)
    before, *after = (line.split()[2] for line in calls.read_text().splitlines())
    assert (before, set(after)) == ("before", {"after"})
    assert managed.held() == []
    assert not managed.path("/run/holdover/transaction").exists()
    assert list(managed.path("/usr/lib/holdover/view").iterdir()) == []


@EVERY
def test_holdover_that_cannot_start_does_not_stop_it(managed: Lab, manager: Manager) -> None:
    """First it is missing, then its Python is."""
    manager.enable(managed)
    guest = Guest.start(managed.root, "guest")
    managed.path("/usr/bin/holdover").unlink()
    done = manager.replace(managed, OTHER)
    assert (done.returncode, manager.has_replaced(managed, OTHER)) == (0, True)
    assert DID_NOT_RUN in done.stdout + done.stderr + zypper_log(managed)
    managed.path("/var/log/zypper.log").unlink(missing_ok=True)
    managed.path("/usr/bin/holdover").write_text("#!/no/such/python\n")
    managed.path("/usr/bin/holdover").chmod(0o755)
    assert DID_NOT_RUN in replace_qemu(manager, managed)
    assert guest.lives()


@EVERY
def test_veto_stops_it_before_anything_is_changed(managed: Lab, manager: Manager) -> None:
    manager.enable(managed)
    guest = Guest.start(managed.root, "guest")
    managed.path("/etc/holdover").mkdir()
    managed.path("/etc/holdover/holdover.toml").write_text("[hook]\nveto = true\n")
    with full_store(managed):
        done = manager.replace(managed, *QEMU)
    said = done.stdout + done.stderr
    assert (done.returncode != 0) == manager.stops_for_a_veto, said
    assert manager.has_replaced(managed, QEMU[0]) != manager.stops_for_a_veto
    assert "hook.veto" in said
    if not manager.stops_for_a_veto:
        assert "rpm does not let itself be stopped" in said
    assert guest.lives()


@DRIVING_RPM
def test_manager_that_drives_rpm_calls_once_for_both(managed: Lab, name: str) -> None:
    """Both have hooks; rpm's finds that the other has called already, and starts nothing."""
    manager = MANAGERS[name]
    manager.enable(managed)
    install_triggers(managed)
    guest = Guest.start(managed.root, "guest")
    calls = note_calls(managed)
    replace_qemu(manager, managed)
    hooks = [line.split()[1:3] for line in calls.read_text().splitlines()]
    driver = {"dnf": "dnf4", "zypper": "zypp"}[name]
    assert hooks == [[driver, "before"], [driver, "after"]]
    assert guest.probe_twice("https disk") == WORKS_TWICE


def test_rpm_by_hand_calls_for_itself_after_dnf(managed: Lab) -> None:
    """What dnf noted speaks for dnf's own process and for no other."""
    MANAGERS["dnf"].enable(managed)
    install_triggers(managed)
    assert MANAGERS["dnf"].replace(managed, OTHER).returncode == 0
    assert managed.path("/run/holdover/asked").exists()
    guest = Guest.start(managed.root, "guest")
    assert "protected 1: guest" in replace_qemu(MANAGERS["rpm"], managed)
    assert guest.probe_twice("https disk") == WORKS_TWICE


@pytest.mark.parametrize("options", [("--installroot=/srv/image",), ("--downloadonly",)], ids=str)
def test_dnf_that_changes_nothing_here_is_left_alone(
    managed: Lab, options: tuple[str, ...]
) -> None:
    MANAGERS["dnf"].enable(managed)
    guest = Guest.start(managed.root, "guest")
    calls = note_calls(managed)
    done = managed.run("dnf", "--assumeyes", "--releasever=1", *options, "install", *QEMU)
    assert done.returncode == 0, done.stderr
    assert calls.read_text() == ""
    assert managed.status(guest.pid)["state"] == "current"


@pytest.mark.parametrize("command", [("rpm", "--erase"), ("pacman", "--remove", "--noconfirm")])
def test_removal_is_a_change_too(managed: Lab, command: tuple[str, ...]) -> None:
    manager = MANAGERS[command[0]]
    manager.enable(managed)
    guest = Guest.start(managed.root, "guest")
    assert managed.run(*command, *QEMU).returncode == 0
    assert {guest.probe_twice(what) for what in PROBES} == {WORKS_TWICE}
    guest.kill()
    managed.holdover("gc")
    assert managed.held() == []


# -- holdover's own package, which carries the triggers --------------------------------------------


@pytest.fixture
def packaged(managers_base: Path, scratch: Path, tmp_path: Path) -> Iterator[Lab]:
    """A system on which rpm has installed holdover; its package lies in /srv too."""
    with Lab.stock(managers_base, scratch) as lab:
        shutil.copy(build_rpm(REPOSITORY, tmp_path), lab.path("/srv/holdover.rpm"))
        lab.root.run("rpm", "--install", "--nodeps", "/srv/holdover.rpm")
        yield lab


def test_holdover_and_qemu_are_replaced_in_one_transaction(packaged: Lab) -> None:
    """Then rpm runs the triggers with everything that they ever matched."""
    guest = Guest.start(packaged.root, "guest")
    rpm = MANAGERS["rpm"]
    again = ("rpm", "--upgrade", "--force", "--nodeps", "/srv/holdover.rpm")
    done = replace(rpm, upgrade=again).replace(packaged, *QEMU)
    assert (done.returncode, rpm.has_replaced(packaged, QEMU[0])) == (0, True), done.stderr
    assert f"protected 1: guest ({guest.pid})" in done.stdout
    assert {guest.probe_twice(what) for what in PROBES} == {WORKS_TWICE}
    assert not packaged.path("/run/holdover/transaction").exists()
    guest.kill()
    packaged.holdover("gc")
    assert packaged.held() == []


def test_holdover_that_is_removed_leaves_nothing_at_a_guest_that_can_do_without(
    packaged: Lab,
) -> None:
    guest = Guest.start(packaged.root, "guest")
    assert packaged.run("rpm", "--erase", "holdover").returncode == 0
    assert guest.probe_twice("https disk") == WORKS_TWICE
    assert not packaged.path("/usr/lib/holdover").exists()
    assert not list(packaged.path("/usr/lib/python3/dist-packages/dnf-plugins").iterdir())
