# SPDX-License-Identifier: Apache-2.0
"""Libraries change under live guests: alone, with QEMU, for good, and back again.

A point update of a library does no harm by itself; what shows that a guest keeps its own is which
file it maps. The twins map the new one, and lose their disks with QEMU's upgrade.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from lab import Lab
from lab.kinds import KINDS
from lab.libraries import DISKS, LIBRARIES, RECIPE, change_library, changeable

from holdover.demo import archive
from holdover.demo.guest import ATTACHED, DIED, PROBES, REFUSED, Guest
from holdover.procfs import ProcFs

pytestmark = pytest.mark.e2e

WORKS_TWICE = (ATTACHED, ATTACHED)
NOT_THERE = (REFUSED, REFUSED)
DIRECTORY = "/usr/lib/x86_64-linux-gnu"
MODULES = f"{DIRECTORY}/qemu"


@pytest.fixture(scope="module")
def libraries_base(cache: Path) -> Path:
    return archive.prepare_base(cache, print, RECIPE)


def on_disk(lab: Lab, soname: str) -> str:
    """Digest of the library that lies on disk."""
    return hashlib.sha256(lab.path(f"{DIRECTORY}/{soname}").read_bytes()).hexdigest()


def mapped(guest: Guest, soname: str) -> str:
    """Digest of the library that the guest has mapped, replaced or not; "" if it has none."""
    proc = ProcFs(guest.root.inside / "proc")
    for mapping in proc.maps(guest.pid):
        name = mapping.path.rpartition("/")[2]
        if name.startswith(soname) and "x" in mapping.permissions:
            with proc.open(guest.pid, f"map_files/{mapping.start:x}-{mapping.end:x}") as file:
                return hashlib.sha256(file.read()).hexdigest()
    return ""


# -- a library alone, then QEMU, then back ---------------------------------------------------------


@dataclass
class Changed:
    """A system on which each library was upgraded alone, then QEMU, and then all was taken back."""

    lab: Lab
    guests: dict[str, Guest]
    said: dict[str, str]
    packages: list[str]
    before: dict[str, str]
    after: dict[str, str]


def digests(lab: Lab) -> dict[str, str]:
    return {soname: on_disk(lab, soname) for soname in LIBRARIES.values()}


@pytest.fixture(scope="module")
def changed(libraries_base: Path, scratch: Path) -> Iterator[Changed]:
    with Lab.with_holdover(libraries_base, scratch) as lab:
        lab.root.run("holdover", "enable")
        guests = {name: kind.start(lab.root, name) for name, kind in KINDS.items()}
        packages, before = changeable(lab.root), digests(lab)
        said = {package: change_library(lab, package) for package in packages}
        after = digests(lab)
        lab.upgrade()
        lab.downgrade()
        for package in packages:
            change_library(lab, package, newer=False)
        lab.upgrade()
        yield Changed(lab, guests, said, packages, before, after)


def test_libraries_were_changed_at_all(changed: Changed) -> None:
    for package in changed.packages:
        soname = LIBRARIES[package]
        assert changed.before[soname] != changed.after[soname]


def test_hook_protects_before_the_first_change_of_a_library_and_once(changed: Changed) -> None:
    first, *others = changed.said.values()
    assert f"holdover: protected {len(KINDS)}" in first
    assert not any("holdover:" in said for said in others)


@pytest.mark.parametrize("kind", KINDS)
def test_guest_keeps_every_late_load_and_its_own_libraries(changed: Changed, kind: str) -> None:
    guest = changed.guests[kind]
    assert changed.lab.status(guest.pid)["state"] == "protected"
    seen = {what: guest.probe_twice(what) for what in PROBES}
    assert seen == dict.fromkeys(PROBES, WORKS_TWICE)
    for soname in LIBRARIES.values():
        assert mapped(guest, soname) == changed.before[soname]


def test_unprotected_twin_takes_the_new_libraries_and_dies(
    libraries_base: Path, scratch: Path
) -> None:
    with Lab.stock(libraries_base, scratch) as stock:
        twin, other = Guest.start(stock.root, "twin"), Guest.start(stock.root, "other")
        packages = changeable(stock.root)
        for package in packages:
            change_library(stock, package)
            assert twin.probe_twice(DISKS[package]) == WORKS_TWICE
            assert mapped(twin, LIBRARIES[package]) == on_disk(stock, LIBRARIES[package])
        stock.upgrade()
        assert (other.probe("ssh disk"), other.probe("ssh disk")) == (REFUSED, DIED)


def give_own_inode(lab: Lab, soname: str) -> int:
    """In a lab files share their inodes with the base, so that their links say nothing."""
    path = f"{DIRECTORY}/{soname}"
    lab.root.run(
        "sh", "-e", "-c", 'f=$(realpath "$1"); cp -p "$f" "$f.own"; mv "$f.own" "$f"', "sh", path
    )
    return lab.path(path).stat().st_size


def test_bytes_that_only_the_store_holds_are_reported(libraries_base: Path, scratch: Path) -> None:
    with Lab.with_holdover(libraries_base, scratch) as lab:
        lab.root.run("holdover", "enable")
        package = changeable(lab.root)[0]
        size = give_own_inode(lab, LIBRARIES[package])
        guest = Guest.start(lab.root, "guest")
        lab.root.run("holdover", "protect", str(guest.pid))
        (before,) = lab.held()
        assert 0 < before["bytes_written"] <= before["bytes_held"] < 3_000_000
        change_library(lab, package)
        (after,) = lab.held()
        assert after["bytes_written"] == before["bytes_written"]
        assert 0 <= after["bytes_held"] - before["bytes_held"] - size < 4096


# -- two guests of one build, each with its own ----------------------------------------------------


def test_guests_from_before_and_after_keep_their_own_sets(
    libraries_base: Path, scratch: Path
) -> None:
    with Lab.with_holdover(libraries_base, scratch) as lab:
        lab.root.run("holdover", "enable")
        first = {name: kind.start(lab.root, f"{name}-1") for name, kind in KINDS.items()}
        before = digests(lab)
        for package in changeable(lab.root):
            change_library(lab, package)
        second = {name: kind.start(lab.root, f"{name}-2") for name, kind in KINDS.items()}
        after = digests(lab)
        assert before != after
        lab.upgrade()
        for guests, own in ((first, before), (second, after)):
            for guest in guests.values():
                seen = {what: guest.probe_twice(what) for what in PROBES}
                assert seen == dict.fromkeys(PROBES, WORKS_TWICE)
                assert {name: mapped(guest, name) for name in own} == own
        assert sorted(len(snapshot["leases"]) for snapshot in lab.held()) == [len(KINDS)] * 2


# -- for good --------------------------------------------------------------------------------------


@pytest.mark.parametrize("package", ["librbd1", "librados2", "libssh-4"])
def test_guest_outlives_the_purge_of_a_library(lab: Lab, package: str) -> None:
    lab.root.run("holdover", "enable")
    guests = {name: kind.start(lab.root, name) for name, kind in KINDS.items()}
    twin = Guest.start(lab.root, "twin")
    lab.root.apt("purge", package)
    assert lab.run("dpkg-query", "--show", package).stdout == ""
    for guest in guests.values():
        assert {guest.probe_twice(what) for what in PROBES} == {WORKS_TWICE}
        assert lab.status(guest.pid)["state"] == "protected"
    lab.root.run("holdover", "release", "--force", str(twin.pid))
    assert twin.probe_twice("rbd disk") == NOT_THERE


def test_guest_outlives_the_purge_of_the_module_directory(lab: Lab) -> None:
    lab.root.run("holdover", "enable")
    guests = {name: kind.start(lab.root, name) for name, kind in KINDS.items()}
    twin = Guest.start(lab.root, "twin")
    lab.root.apt("purge", "qemu-block-extra", "qemu-system-x86", "qemu-system-common")
    assert not lab.path(MODULES).exists()
    for guest in guests.values():
        assert {guest.probe_twice(what) for what in PROBES} == {WORKS_TWICE}
        assert lab.status(guest.pid)["state"] == "protected"
    lab.root.run("holdover", "release", "--force", str(twin.pid))
    assert {twin.probe_twice(what) for what in PROBES} <= {NOT_THERE}
