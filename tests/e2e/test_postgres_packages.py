# SPDX-License-Identifier: Apache-2.0
"""A protected PostgreSQL server beside changes of single packages: an early one and a late one."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from lab import Lab
from lab.cluster import Cluster, Session
from lab.postgres import MODULES, update, versions
from lab.postgres_probes import PROBES, WORKS, prepare
from lab.variables import read_text

pytestmark = [pytest.mark.e2e, pytest.mark.distributions]

EARLY = "dpkg --install --force-depends /var/cache/apt/archives/postgresql-plperl-15_{}_*.deb"
VARIABLE = "pkglib_path"
LATER = "later"
"""A module of pgcrypto's content, as a package of its own: it would load in either server."""
PACK = f"""
set -e
mkdir -p /srv/{LATER}/DEBIAN /srv/{LATER}{MODULES}
cp {MODULES}/pgcrypto.so /srv/{LATER}{MODULES}/{LATER}.so
cd /srv/{LATER}/DEBIAN
printf 'Package: postgresql-15-{LATER}\\nVersion: 1\\nArchitecture: amd64\\n' >control
printf 'Maintainer: x <x@example.org>\\nDescription: x\\n' >>control
dpkg-deb --root-owner-group --build /srv/{LATER} /srv/{LATER}.deb
"""


@dataclass
class Host:
    lab: Lab
    server: Cluster
    with_one: str
    """What PL/Perl says when its package alone was updated."""


def host(lab: Lab) -> Host:
    server = Cluster.create(lab.root, "main")
    server.start()
    prepare(server)
    newer = versions(lab.root)[1]
    lab.root.run("sh", "-c", EARLY.format(newer))
    with_one = PROBES["plperl"](server)
    lab.root.run("apt-get", "install", "--yes", "--fix-broken")
    update(lab.root, newer)
    return Host(lab, server, with_one)


@pytest.fixture(scope="module")
def protected(postgres_base: Path, scratch: Path) -> Iterator[Host]:
    with Lab.with_holdover(postgres_base, scratch) as lab:
        lab.root.run("holdover", "enable")
        found = host(lab)
        yield found
        found.server.stop()


@pytest.fixture(scope="module")
def unprotected(postgres_base: Path, scratch: Path) -> Iterator[Host]:
    with Lab.stock(postgres_base, scratch) as lab:
        found = host(lab)
        yield found
        found.server.stop()


def test_package_that_comes_before_its_server_is_not_taken_for_its_own(protected: Host) -> None:
    """Its modules carry the same stamp, and the server's executable is the one on disk still."""
    assert protected.with_one == WORKS


def test_twin_loads_it_and_fails(unprotected: Host) -> None:
    assert "undefined symbol: HaveCompleteError" in unprotected.with_one


@pytest.mark.parametrize("what", PROBES)
def test_when_the_rest_has_come_everything_works(protected: Host, what: str) -> None:
    assert PROBES[what](protected.server) == WORKS


def test_extension_that_is_installed_after_an_update_reaches_the_old_server(
    protected: Host,
) -> None:
    """Until a hook has led it on, it sees what was held: that is the twin."""
    lab, server = protected.lab, protected.server
    lab.root.run("sh", "-c", PACK)
    lab.root.run("holdover", "disable")
    lab.root.run("dpkg", "--install", f"/srv/{LATER}.deb")
    assert "could not access file" in server.sql(f"LOAD '{LATER}'").stderr
    lab.root.run("holdover", "enable")
    lab.root.run("dpkg", "--install", f"/srv/{LATER}.deb")
    assert server.sql(f"LOAD '{LATER}'").returncode == 0
    assert PROBES["hstore"](server) == WORKS
    assert len(lab.held()) == 1


def test_letting_go_of_a_machine_lets_go_of_a_server_and_its_sessions(
    postgres_base: Path, scratch: Path
) -> None:
    with Lab.with_holdover(postgres_base, scratch) as lab:
        server = Cluster.create(lab.root, "main")
        server.start()
        prepare(server)
        sessions = [Session(server) for _ in range(60)]
        lab.root.run("holdover", "protect")
        assert "holdover/view" in read_text(lab.path(f"/proc/{sessions[0].pid}"), VARIABLE)
        done = lab.json("disable", "--release")
        assert [released["pid"] for released in done["released"]] == [server.pid]
        assert (done["kept"], done["left"]) == ([], [])
        for pid in (server.pid, *(session.pid for session in sessions)):
            assert read_text(lab.path(f"/proc/{pid}"), VARIABLE) == MODULES
        assert PROBES["hstore"](server) == WORKS
        for session in sessions:
            session.close()
        server.stop()
