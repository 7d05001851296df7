# SPDX-License-Identifier: Apache-2.0
"""Guests live through an upgrade of the whole distribution, libc included, and lose nothing.

What a guest could load late before the upgrade is found out by trying, in a guest of its own: the
releases differ in that. 12 to 13 is tried always, the others with `make test-distributions`.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest
from lab import Lab
from lab.disks import DISKS, read_late
from lab.distributions import CROSSINGS
from lab.image import IMAGE
from lab.kinds import KINDS
from lab.servers import DataServers

from holdover.demo import archive
from holdover.demo.guest import ATTACHED, PROBES, REFUSED, Guest

pytestmark = pytest.mark.e2e

NOT_HELD = "not held for its build: refused without harm"
WORKS_TWICE = (ATTACHED, ATTACHED)
NOT_THERE = (REFUSED, REFUSED)
LOST = ("https disk", "rbd disk", "ssh disk")
"""Lost by the unprotected on every way: the libraries of these are newer than the guest's libc,
even where Debian has saved the modules."""
LEAST = {*LOST, "iscsi disk", "nfs disk", "all device types"}
NO_ROOM = ("sh", "-c", 'for i in $(seq 5000); do export V$i=x; done; exec "$@"', "sh")
"""Starts a guest whose environment fills the place where another one would go."""
RARE_DRIVERS: dict[str, dict[str, Any]] = {
    "block-blkio": {"driver": "io_uring", "filename": "/none"},
    "block-dmg-bz2": {"driver": "dmg", "read-only": True, "file": {"driver": "null-co"}},
}
"""What loads the drivers that are no disks of their own, or only in newer releases."""
SAME_BUILD = "only modules from the same build can be loaded"
DIES_OF_A_REFUSAL = (7, 2)
"""The first QEMU that a module of another build kills, at the load after that one."""


@dataclass
class Crossed:
    """A system that was upgraded under guests; the twins are not protected any more."""

    lab: Lab
    offered: tuple[str, ...]
    guests: dict[str, Guest]
    mounted: Guest
    """Protected by mount instead of its environment."""
    run: Guest
    """Started by `holdover run`."""
    twins: dict[str, Guest]
    libc_before: str
    apt: CompletedProcess[str]


@pytest.fixture(
    scope="module",
    params=[
        "bookworm-to-trixie",
        pytest.param("bullseye-to-bookworm", marks=pytest.mark.distributions),
        pytest.param("trixie-to-sid", marks=pytest.mark.distributions),
    ],
)
def crossed(
    request: pytest.FixtureRequest, cache: Path, scratch: Path, servers: DataServers
) -> Iterator[Crossed]:
    crossing = CROSSINGS[request.param]
    own_base = archive.prepare_base(cache, print, crossing.recipe)
    if crossing.python_is_too_old:
        made = Lab.with_holdover(own_base, scratch, request.getfixturevalue("base"))
    else:  # as it is on real hosts, whose Python is replaced under it
        made = Lab.with_package(own_base, scratch, request.getfixturevalue("deb"))
    with made as lab:
        lab.root.run("holdover", "enable")
        offered = _offered(lab)
        servers.introduce(lab.root)
        guests = {name: kind.start(lab.root, name) for name, kind in KINDS.items()}
        guests["data"] = Guest.start(servers.join(lab.root), "data")
        twins = {what: Guest.start(lab.root, f"twin{n}") for n, what in enumerate((*LOST, "all"))}
        mounted = Guest.start(lab.root, "mounted", wrapper=("unshare", "--mount", *NO_ROOM))
        run = Guest.start(lab.root, "run", wrapper=("holdover", "run", "--"))
        libc = _libc(lab)
        apt = lab.full_upgrade()
        for twin in twins.values():
            lab.root.run("holdover", "release", "--force", str(twin.pid))
        yield Crossed(lab, offered, guests, mounted, run, twins, libc, apt)


def _offered(lab: Lab) -> tuple[str, ...]:
    """What a guest of this release can load late."""
    fresh = Guest.start(lab.root, "fresh")
    offered = tuple(what for what in PROBES if fresh.probe_twice(what) == WORKS_TWICE)
    fresh.kill()
    return offered


def _libc(lab: Lab) -> str:
    return lab.root.run("dpkg-query", "--show", "libc6").stdout


def test_upgrade_is_complete(crossed: Crossed) -> None:
    assert crossed.apt.returncode == 0, crossed.apt.stderr
    assert _libc(crossed.lab) != crossed.libc_before
    assert crossed.lab.run("dpkg", "--audit").stdout == ""
    again = crossed.lab.root.apt("--simulate", "full-upgrade").stdout
    assert "\n0 upgraded, 0 newly installed, 0 to remove" in again


def test_hooks_ran_while_python_was_replaced(crossed: Crossed) -> None:
    line = next(line for line in crossed.apt.stdout.splitlines() if line.startswith("holdover:"))
    for kind, guest in crossed.guests.items():
        assert f"{kind} ({guest.pid})" in line
    assert "holdover" not in crossed.apt.stderr
    assert not crossed.lab.path("/run/holdover/transaction").exists()


@pytest.mark.parametrize("kind", KINDS)
def test_guest_is_protected_afterwards(crossed: Crossed, kind: str) -> None:
    guest = crossed.guests[kind]
    assert guest.lives()
    assert crossed.lab.status(guest.pid)["state"] == "protected"


def test_enough_is_tried(crossed: Crossed) -> None:
    assert set(crossed.offered) >= LEAST


@pytest.mark.parametrize("kind", KINDS)
def test_protected_guest_loads_everything_twice(crossed: Crossed, kind: str) -> None:
    guest = crossed.guests[kind]
    seen = {what: guest.probe_twice(what) for what in crossed.offered}
    assert seen == dict.fromkeys(crossed.offered, WORKS_TWICE), guest.log
    assert guest.lives()


@pytest.mark.parametrize("driver", DISKS)
def test_protected_guest_reads_a_network_disk(crossed: Crossed, driver: str) -> None:
    assert read_late(crossed.guests["data"], driver) == IMAGE


@pytest.mark.parametrize("kind", KINDS)
def test_no_block_driver_was_left_out(crossed: Crossed, kind: str) -> None:
    guest = crossed.guests[kind]
    for what in crossed.offered:
        guest.probe(what)
    for options in RARE_DRIVERS.values():
        for _ in range(2):
            guest.qmp("blockdev-add", {"node-name": "rare", **options})
    modules = crossed.lab.status(guest.pid)["modules"]
    held = {m["name"]: m["state"] for m in modules if m["reason"] != NOT_HELD}
    drivers = {name: state for name, state in held.items() if name.startswith("block-")}
    assert len(drivers) >= len(LEAST) - 1
    assert set(drivers.values()) == {"loaded"}, drivers
    assert guest.lives()


@pytest.mark.parametrize("kind", KINDS)
def test_host_names_are_found(crossed: Crossed, kind: str) -> None:
    """No guest has asked for one before; libc 2.31 opens its resolvers at the first question."""
    crossed.lab.path("/etc/hosts").write_text("127.0.0.1 localhost\n")
    disk = {"node-name": "named", "driver": "http", "url": "http://localhost:1/x"}
    answer = crossed.guests[kind].qmp("blockdev-add", {**disk, "read-only": True})
    assert "connect to localhost" in answer["error"]["desc"]


@pytest.mark.parametrize("how", ["mount", "run"])
def test_guest_protected_otherwise_loads_everything_twice(crossed: Crossed, how: str) -> None:
    guest = {"mount": crossed.mounted, "run": crossed.run}[how]
    seen = {what: guest.probe_twice(what) for what in crossed.offered}
    assert seen == dict.fromkeys(crossed.offered, WORKS_TWICE), guest.log
    status = crossed.lab.status(guest.pid)
    assert (status["state"], status["delivery"]) == ("protected", how)


@pytest.mark.parametrize("what", LOST)
def test_unprotected_twin_loses_its_disks(crossed: Crossed, what: str) -> None:
    assert ATTACHED not in crossed.twins[what].probe_twice(what)


def test_unprotected_twin_dies_as_soon_as_libraries_do_not_prevent_it(crossed: Crossed) -> None:
    """A module that does not find its libraries is harmless. One that does is of another build."""
    twin = crossed.twins["all"]
    version = twin.qmp("query-version")["return"]["qemu"]
    seen = {what: twin.probe_twice(what) for what in crossed.offered}
    assert WORKS_TWICE not in {seen[what] for what in LOST}
    poisoned = SAME_BUILD in twin.log.lower()
    deadly = (version["major"], version["minor"]) >= DIES_OF_A_REFUSAL
    assert twin.lives() == (not (poisoned and deadly)), twin.log


def test_guest_of_the_new_release_is_current(crossed: Crossed) -> None:
    guest = Guest.start(crossed.lab.root, "newer")
    assert crossed.lab.status(guest.pid)["state"] == "current"
    seen = {what: guest.probe_twice(what) for what in PROBES}
    assert set(seen.values()) <= {WORKS_TWICE, NOT_THERE}
    assert {what for what in PROBES if seen[what] == WORKS_TWICE} >= LEAST
    guest.kill()


def test_nothing_is_held_when_the_last_guest_is_gone(crossed: Crossed) -> None:
    """The last test: it ends them all."""
    assert crossed.lab.held()
    for guest in (*crossed.guests.values(), crossed.mounted, crossed.run, *crossed.twins.values()):
        guest.kill()
    crossed.lab.root.run("holdover", "gc")
    assert crossed.lab.held() == []
