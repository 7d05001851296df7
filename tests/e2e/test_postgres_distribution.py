# SPDX-License-Identifier: Apache-2.0
"""PostgreSQL servers of Debian 12 run on while it is upgraded to Debian 13, libc included.

Debian 13 has no PostgreSQL 15: its files stay, and so do libperl, libpython and libLLVM. What goes
is below those: libpq, libcrypt and libedit of Debian 13 want a newer libc than a server that was
started before has.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from subprocess import CompletedProcess

import pytest
from lab import Lab
from lab.cluster import Cluster
from lab.postgres import RECIPE_TO_TRIXIE
from lab.postgres_probes import PROBES, WORKS, prepare
from lab.replication import RECONNECTIONS, Replication

from holdover.demo import archive

pytestmark = [pytest.mark.e2e, pytest.mark.distributions]

NEWER_LIBC = "version `GLIBC_2.38' not found"
LOST = {
    "postgres_fdw": "libpq.so.5",
    "plperl": "libcrypt.so.1",
    "JIT": "libedit.so.2",
    "standby": "libpq.so.5",
    "subscriber": "libpq.so.5",
}
"""What an unprotected server cannot load, and the library that wants the newer libc. The others
work there all the same: with them a protected server proves nothing here."""


@dataclass
class Crossed:
    """A system that was upgraded under servers; the twins are not protected any more."""

    lab: Lab
    protected: Replication
    twins: Replication
    pids: list[int]
    apt: CompletedProcess[str]


def start(lab: Lab, name: str) -> Replication:
    primary = Cluster.create(lab.root, name)
    primary.start()
    prepare(primary)
    return Replication.of(primary)


def pids(*served: Replication) -> list[int]:
    return [cluster.pid for replication in served for cluster in replication.clusters]


@pytest.fixture(scope="module")
def crossed(cache: Path, scratch: Path, deb: Path) -> Iterator[Crossed]:
    base = archive.prepare_base(cache, print, RECIPE_TO_TRIXIE)
    with Lab.with_package(base, scratch, deb) as lab:
        lab.root.run("holdover", "enable")
        protected, twins = start(lab, "main"), start(lab, "twin")
        before = pids(protected, twins)
        apt = lab.full_upgrade()
        for cluster in twins.clusters:
            lab.root.run("holdover", "release", "--force", str(cluster.pid))
        yield Crossed(lab, protected, twins, before, apt)


@pytest.fixture(scope="module")
def tidied(crossed: Crossed) -> Crossed:
    """The same system, later: apt has removed what nothing depends on any more."""
    assert "Removing python3.11 " in crossed.lab.root.apt("autoremove").stdout
    return crossed


def test_upgrade_is_complete_and_restarted_no_server(crossed: Crossed) -> None:
    assert crossed.apt.returncode == 0, crossed.apt.stderr
    assert crossed.lab.run("dpkg", "--audit").stdout == ""
    assert pids(crossed.protected, crossed.twins) == crossed.pids
    assert "holdover" not in crossed.apt.stderr


@pytest.mark.parametrize("what", [*PROBES, *RECONNECTIONS])
def test_protected_server_loads_everything(crossed: Crossed, what: str) -> None:
    assert crossed.protected.probe(what) == WORKS


@pytest.mark.parametrize("what", LOST)
def test_unprotected_twin_cannot(crossed: Crossed, what: str) -> None:
    said = crossed.twins.probe(what)
    assert NEWER_LIBC in said
    assert LOST[what] in said


@pytest.mark.parametrize("what", [*PROBES, *RECONNECTIONS])
def test_nothing_is_lost_with_packages_that_nobody_needs(tidied: Crossed, what: str) -> None:
    assert tidied.protected.probe(what) == WORKS


def test_restarted_server_is_current_and_all_snapshots_go(crossed: Crossed) -> None:
    """The last test: it ends them all."""
    for served in (crossed.protected, crossed.twins):
        for cluster in served.clusters:
            cluster.stop()
    main = crossed.protected.primary
    main.start()
    newest = Cluster.create(crossed.lab.root, "newest", version="17")
    newest.start()
    states = {p["pid"]: p["state"] for p in crossed.lab.json("status")["processes"]}
    assert (states[main.pid], states[newest.pid]) == ("current", "current")
    crossed.lab.root.run("holdover", "gc")
    assert crossed.lab.held() == []
    assert {what: probe(main) for what, probe in PROBES.items()} == dict.fromkeys(PROBES, WORKS)
