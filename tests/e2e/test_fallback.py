# SPDX-License-Identifier: Apache-2.0
"""Delivery by the directory in which QEMU 5.0 to 7.1 looks last, on Debian 11 with its QEMU 5.2.

/run is noexec, as on many hosts: what Debian saves there itself cannot be loaded.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from lab import Lab
from lab.kinds import KINDS as USUAL
from lab.kinds import Kind
from lab.older import RECIPE

from holdover.demo import archive
from holdover.demo.guest import ATTACHED, PROBES, REFUSED, Guest

pytestmark = pytest.mark.e2e

WORKS_TWICE = (ATTACHED, ATTACHED)
DISKS = tuple(what for what in PROBES if what.endswith(" disk"))
KINDS = {name: USUAL[name] for name in ("host-namespace", "unprivileged", "sandboxed")} | {
    "slave-namespace": Kind(wrapper=("unshare", "--mount", "--propagation", "slave")),
    "private-namespace": Kind(wrapper=("unshare", "--mount")),
}
OTHER = "/usr/bin/qemu-system-i386"


@dataclass
class Served:
    """An upgraded system whose guests are of the build before."""

    lab: Lab
    guests: dict[str, Guest]


@pytest.fixture(scope="module")
def older_base(cache: Path) -> Path:
    return archive.prepare_base(cache, print, RECIPE)


@contextmanager
def by_fallback_only(older_base: Path, scratch: Path, python_from: Path) -> Iterator[Lab]:
    with Lab.with_holdover(older_base, scratch, python_from) as lab:
        lab.root.run("mount", "-o", "remount,noexec", "/run")
        lab.path("/etc/holdover").mkdir()
        lab.path("/etc/holdover/holdover.toml").write_text('deliveries = ["fallback-dir"]\n')
        lab.root.run("holdover", "enable")
        yield lab


@pytest.fixture(scope="module")
def served(older_base: Path, scratch: Path, base: Path) -> Iterator[Served]:
    with by_fallback_only(older_base, scratch, base) as lab:
        guests = {name: kind.start(lab.root, name) for name, kind in KINDS.items()}
        guests["other"] = Guest.start(lab.root, "other", binary=OTHER)
        lab.upgrade()
        yield Served(lab, guests)


@pytest.fixture
def alone(older_base: Path, scratch: Path, base: Path) -> Iterator[Lab]:
    with by_fallback_only(older_base, scratch, base) as lab:
        yield lab


def saved(lab: Lab) -> list[Path]:
    """Directories below /run/qemu, whoever made them."""
    place = lab.path("/run/qemu")
    return sorted(place.iterdir()) if place.exists() else []


def links(lab: Lab) -> list[Path]:
    return [path for directory in saved(lab) for path in directory.iterdir() if path.is_symlink()]


@pytest.mark.parametrize("kind", [*KINDS, "other"])
def test_guest_finds_last_what_was_replaced(served: Served, kind: str) -> None:
    guest = served.guests[kind]
    seen = served.lab.status(guest.pid)
    assert (seen["state"], seen["delivery"]) == ("protected", "fallback-dir")
    assert {what: guest.probe_twice(what) for what in PROBES} == dict.fromkeys(PROBES, WORKS_TWICE)
    assert "initialize module" in guest.log  # it was refused what it found first, and went on
    assert served.lab.status(guest.pid)["state"] == "protected"


def test_unprotected_twin_loses_its_disks(older_base: Path, scratch: Path) -> None:
    with Lab.stock(older_base, scratch) as stock:
        stock.root.run("mount", "-o", "remount,noexec", "/run")
        twin = Guest.start(stock.root, "twin")
        stock.upgrade()
        assert len(saved(stock)) == 1
        assert {twin.probe_twice(what) for what in DISKS} == {(REFUSED, REFUSED)}
        assert "failed to map segment" in twin.log


def test_guest_of_the_new_build_is_current(served: Served) -> None:
    guest = Guest.start(served.lab.root, "newer")
    assert served.lab.run("holdover", "protect", str(guest.pid)).returncode == 0
    assert served.lab.status(guest.pid)["state"] == "current"
    assert guest.probe_twice("rbd disk") == WORKS_TWICE
    guest.kill()


def test_one_that_is_released_leaves_the_others_theirs(served: Served) -> None:
    guest, other = served.guests["host-namespace"], served.guests["other"]
    done = served.lab.holdover("release", str(guest.pid))  # it has loaded all there is
    assert "stays for others of its build" in done.stdout
    assert served.lab.status(other.pid)["state"] == "protected"


def test_what_lay_there_is_back_when_the_last_guest_is_gone(served: Served) -> None:
    """The last of those that share a system: it ends them all."""
    assert links(served.lab)
    for guest in served.guests.values():
        guest.kill()
    served.lab.root.run("holdover", "gc")
    assert served.lab.held() == []
    (directory,) = saved(served.lab)
    assert {path.name for path in directory.glob("*")} >= {"block-rbd.so", "block-ssh.so"}
    assert links(served.lab) == []


def test_scripts_of_packages_find_what_they_expect(alone: Lab) -> None:
    """Debian 11's write to that very directory when the package is replaced, and empty it."""
    guest = Guest.start(alone.root, "guest")
    assert alone.upgrade().returncode == 0
    assert links(alone)
    assert "still needs it" in alone.holdover("release", str(guest.pid)).stderr
    assert alone.downgrade().returncode == 0
    assert (alone.status(guest.pid)["state"], links(alone)) == ("current", [])
    again = alone.upgrade()
    assert "dpkg: warning" not in again.stderr
    alone.root.apt("purge", "qemu-block-extra")
    alone.root.run("rm", "-rf", "/run/qemu")  # as Debian 12's does
    assert alone.status(guest.pid)["state"] == "at-risk"
    assert alone.holdover("hook", "timer").returncode == 0
    assert alone.status(guest.pid)["state"] == "protected"
    (snapshot,) = alone.held()
    assert alone.json("show", snapshot["id"])["damage"] == ""
    assert guest.probe_twice("rbd disk") == WORKS_TWICE
    guest.kill()
    alone.root.run("holdover", "gc")
    assert (alone.held(), alone.path("/run/qemu").exists()) == ([], False)


def test_directory_that_others_can_write_to_is_not_used(alone: Lab) -> None:
    alone.root.run("install", "--directory", "--mode=0777", "/run/qemu")
    guest = Guest.start(alone.root, "guest")
    done = alone.holdover("protect", str(guest.pid))
    assert (done.returncode, saved(alone)) == (1, [])
    assert "/run/qemu: others can write to it" in done.stdout


def test_guest_with_another_run_is_refused_and_nothing_stays(alone: Lab) -> None:
    script = 'mount -t tmpfs tmpfs /run; exec "$@"'
    guest = Guest.start(
        alone.root, "guest", wrapper=("unshare", "--mount", "sh", "-c", script, "sh")
    )
    done = alone.upgrade()
    assert f"guest ({guest.pid}) is not protected" in done.stderr
    assert "cannot be seen from it" in done.stderr
    assert links(alone) == []


def test_build_that_stops_at_the_first_file_is_refused(lab: Lab) -> None:
    guest = Guest.start(lab.root, "guest")
    done = lab.holdover("protect", "--delivery", "fallback-dir", str(guest.pid))
    assert done.returncode == 1
    assert "fallback-dir: its build looks nowhere else" in done.stdout
    assert (lab.held(), lab.path("/run/qemu").exists()) == ([], False)
