# SPDX-License-Identifier: Apache-2.0
"""PostgreSQL servers of three builds under each other's files: a second update, and a downgrade.

15.18 and 15.20 are Debian's. The third build is 15.20 with another name for a function that every
module calls (lab/postgres.py): here every late load of a twin fails.

A server of 15.20 works with the modules of 15.18, which ask for less. So the downgrade that is
tried is that from the third build.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from lab import Lab
from lab.cluster import Cluster
from lab.postgres import update, update_to_third, versions
from lab.postgres_probes import PROBES, WORKS, prepare
from lab.replication import RECONNECTIONS, Replication

pytestmark = [pytest.mark.e2e, pytest.mark.distributions]

RENAMED, ORIGINAL = "undefined symbol: fQrfinish", "undefined symbol: errfinish"
BUILDS = ("older", "newer", "third")
"""Names of clusters, each started by the build of that name, the newest when it started."""


@dataclass
class Updated:
    """A server of each build, and the files of the third one."""

    lab: Lab
    servers: dict[str, Cluster]
    replications: dict[str, Replication]
    """Of those to whom the files on disk are a later build's, or an earlier one's."""

    def probe(self, build: str, what: str) -> str:
        if what in RECONNECTIONS:
            return RECONNECTIONS[what](self.replications[build])
        return PROBES[what](self.servers[build])

    def states(self) -> dict[str, str]:
        """Of the postmasters."""
        pids = {server.pid: build for build, server in self.servers.items()}
        seen = self.lab.json("status")["processes"]
        return {pids[p["pid"]]: p["state"] for p in seen if p["pid"] in pids}


@pytest.fixture(scope="module")
def protected(postgres_base: Path, scratch: Path) -> Iterator[Updated]:
    with Lab.with_holdover(postgres_base, scratch) as lab:
        lab.root.run("holdover", "enable")
        yield updated(lab)


@pytest.fixture(scope="module")
def unprotected(postgres_base: Path, scratch: Path) -> Iterator[Updated]:
    with Lab.stock(postgres_base, scratch) as lab:
        yield updated(lab)


def updated(lab: Lab) -> Updated:
    servers = {"older": start(lab, "older")}
    update(lab.root, versions(lab.root)[1])
    servers["newer"] = start(lab, "newer")
    newer = Replication.of(servers["newer"])
    update_to_third(lab.root)
    servers["third"] = start(lab, "third")
    third = Replication.of(servers["third"])
    return Updated(lab, servers, {"newer": newer, "third": third})


def start(lab: Lab, build: str) -> Cluster:
    server = Cluster.create(lab.root, build)
    server.start()
    prepare(server)
    return server


@pytest.fixture(scope="module")
def downgraded(protected: Updated) -> Updated:
    """The same system, later: the third build has gone again."""
    update(protected.lab.root, versions(protected.lab.root)[1])
    return protected


@pytest.fixture(scope="module")
def downgraded_twin(unprotected: Updated) -> Updated:
    update(unprotected.lab.root, versions(unprotected.lab.root)[1])
    return unprotected


@pytest.mark.parametrize("what", [*PROBES, *RECONNECTIONS])
def test_protected_server_loads_everything_after_a_second_update(
    protected: Updated, what: str
) -> None:
    assert protected.probe("newer", what) == WORKS


@pytest.mark.parametrize("what", PROBES)
def test_server_that_was_protected_before_still_loads_everything(
    protected: Updated, what: str
) -> None:
    assert protected.probe("older", what) == WORKS


@pytest.mark.parametrize("what", PROBES)
def test_its_twin_loads_nothing(unprotected: Updated, what: str) -> None:
    assert "undefined symbol" in unprotected.probe("older", what)


@pytest.mark.parametrize("what", [*PROBES, *RECONNECTIONS])
def test_twin_loads_nothing_after_a_second_update(unprotected: Updated, what: str) -> None:
    assert RENAMED in unprotected.probe("newer", what)


def test_states_after_a_second_update(protected: Updated) -> None:
    expected = {"older": "protected", "newer": "protected", "third": "current"}
    assert protected.states() == expected
    assert len({snapshot["build_id"] for snapshot in protected.lab.held()}) == 2


@pytest.mark.parametrize("what", [*PROBES, *RECONNECTIONS])
def test_protected_server_loads_everything_after_a_downgrade(
    downgraded: Updated, what: str
) -> None:
    assert downgraded.probe("third", what) == WORKS


@pytest.mark.parametrize("what", [*PROBES, *RECONNECTIONS])
def test_twin_loads_nothing_after_a_downgrade(downgraded_twin: Updated, what: str) -> None:
    assert ORIGINAL in downgraded_twin.probe("third", what)


@pytest.mark.parametrize("what", [*PROBES, *RECONNECTIONS])
def test_server_of_the_build_that_is_back_loads_everything(downgraded: Updated, what: str) -> None:
    assert downgraded.probe("newer", what) == WORKS


def test_states_after_a_downgrade(downgraded: Updated) -> None:
    """Who has been given what is held keeps it, whatever lies on disk."""
    assert downgraded.states() == dict.fromkeys(BUILDS, "protected")
