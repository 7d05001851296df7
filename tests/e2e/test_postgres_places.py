# SPDX-License-Identifier: Apache-2.0
"""PostgreSQL servers of two major versions on one host, and one in a container of that host.

13.16 of Debian 11 and 15.18 of Debian 12, updated in one transaction, to a third build each
(lab/postgres.py): with 13.23 a server of 13.16 works all the same, and its twin would not fail.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from lab import Lab
from lab.cluster import Cluster
from lab.container import container
from lab.postgres import MAJORS, RECIPE_OF_TWO_MAJORS, update_to_third
from lab.postgres_probes import PROBES, WORKS, prepare
from lab.variables import read_text

from holdover.demo import archive

pytestmark = [pytest.mark.e2e, pytest.mark.distributions]

VERSIONS = [package.partition("-")[2] for package in MAJORS]
OFFERED = [what for what in PROBES if what not in ("plperl", "plpython3u")]
"""Those two are no part of the base: Debian 12 has no Perl and no Python for 13."""
LOST = "undefined symbol"
VARIABLE = "pkglib_path"


@dataclass
class Updated:
    """A host that was updated under a server of each version, and one more in a container."""

    lab: Lab
    servers: dict[str, Cluster]
    contained: Cluster
    in_container: int
    """Its pid on the host."""
    text_before: str
    """Of the contained server's variable."""


def updated(lab: Lab, contained: Cluster) -> Updated:
    servers = {
        version: start(Cluster.create(lab.root, "main", version=version)) for version in VERSIONS
    }
    ours = {pid for server in servers.values() for pid in (server.pid, *server.backends())}
    found = lab.root.run("pgrep", "--oldest", "--full", contained.data).stdout
    pid = int(found)
    assert pid not in ours
    before = read_text(lab.path(f"/proc/{pid}"), VARIABLE)
    update_to_third(lab.root)
    return Updated(lab, servers, contained, pid, before)


def start(cluster: Cluster) -> Cluster:
    cluster.start()
    prepare(cluster)
    return cluster


@pytest.fixture(scope="module")
def majors(cache: Path) -> Path:
    return archive.prepare_base(cache, print, RECIPE_OF_TWO_MAJORS)


@pytest.fixture(scope="module")
def protected(majors: Path, scratch: Path) -> Iterator[Updated]:
    with Lab.with_holdover(majors, scratch) as lab, container(lab.root) as inner:
        lab.root.run("holdover", "enable")
        yield updated(lab, start(Cluster.create(inner, "contained")))


@pytest.fixture(scope="module")
def unprotected(majors: Path, scratch: Path) -> Iterator[Updated]:
    with Lab.stock(majors, scratch) as lab, container(lab.root) as inner:
        yield updated(lab, start(Cluster.create(inner, "contained")))


@pytest.mark.parametrize("what", OFFERED)
@pytest.mark.parametrize("version", VERSIONS)
def test_server_of_each_version_loads_everything(
    protected: Updated, version: str, what: str
) -> None:
    assert PROBES[what](protected.servers[version]) == WORKS


@pytest.mark.parametrize("what", OFFERED)
@pytest.mark.parametrize("version", VERSIONS)
def test_twin_of_each_version_cannot(unprotected: Updated, version: str, what: str) -> None:
    assert LOST in PROBES[what](unprotected.servers[version])


def test_each_version_has_its_own_modules_held(protected: Updated) -> None:
    seen = {p["pid"]: p for p in protected.lab.json("status")["processes"]}
    for version, server in protected.servers.items():
        found = seen[server.pid]
        assert (found["name"], found["state"]) == (server.label, "protected")
        assert found["version"].startswith(version)


def test_server_in_a_container_is_foreign_and_left_alone(protected: Updated) -> None:
    answer = protected.lab.json("status")
    family = {protected.in_container, *children(protected.lab, protected.in_container)}
    assert answer["foreign"] >= len(family)
    assert not family & {p["pid"] for p in answer["processes"]}
    assert read_text(protected.lab.path(f"/proc/{protected.in_container}"), VARIABLE) == (
        protected.text_before
    )
    assert protected.lab.holdover("protect", str(protected.in_container)).returncode != 0


@pytest.mark.parametrize("what", OFFERED)
def test_server_in_a_container_has_its_own_files(protected: Updated, what: str) -> None:
    """The host's update changes nothing in there: no server that is left alone would fail."""
    assert PROBES[what](protected.contained) == WORKS


def children(lab: Lab, pid: int) -> list[int]:
    return [int(word) for word in lab.run("pgrep", "--parent", str(pid)).stdout.split()]
