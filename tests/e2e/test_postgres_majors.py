# SPDX-License-Identifier: Apache-2.0
"""PostgreSQL servers of later versions than Debian 12's: 17 of Debian 13, and 18 of unstable.

The archive has one build of each. They are updated to a third one (lab/postgres.py), with which
every late load of a twin fails.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from lab import Lab
from lab.cluster import Cluster
from lab.postgres import RECIPES_OF_LATER_MAJORS, update_to_third
from lab.postgres_probes import PROBES, WORKS, prepare
from lab.replication import RECONNECTIONS, Replication

from holdover.demo import archive

pytestmark = [pytest.mark.e2e, pytest.mark.distributions]

LOST = "undefined symbol: fQrfinish"


@dataclass
class Updated:
    """A host that was updated under a server with a standby and a subscriber."""

    lab: Lab
    served: Replication


@pytest.fixture(scope="module", params=RECIPES_OF_LATER_MAJORS)
def major(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture(scope="module")
def base(major: str, cache: Path) -> Path:
    return archive.prepare_base(cache, print, RECIPES_OF_LATER_MAJORS[major])


@pytest.fixture(scope="module")
def protected(major: str, base: Path, scratch: Path) -> Iterator[Updated]:
    with Lab.with_holdover(base, scratch) as lab:
        lab.root.run("holdover", "enable")
        yield updated(lab, major)


@pytest.fixture(scope="module")
def unprotected(major: str, base: Path, scratch: Path) -> Iterator[Updated]:
    with Lab.stock(base, scratch) as lab:
        yield updated(lab, major)


def updated(lab: Lab, version: str) -> Updated:
    primary = Cluster.create(lab.root, "main", version=version)
    primary.start()
    prepare(primary)
    served = Replication.of(primary)
    update_to_third(lab.root)
    return Updated(lab, served)


@pytest.mark.parametrize("what", [*PROBES, *RECONNECTIONS])
def test_protected_server_loads_everything(protected: Updated, what: str) -> None:
    assert protected.served.probe(what) == WORKS


@pytest.mark.parametrize("what", [*PROBES, *RECONNECTIONS])
def test_twin_loads_nothing(unprotected: Updated, what: str) -> None:
    assert LOST in unprotected.served.probe(what)


def test_servers_are_protected_with_what_is_theirs(protected: Updated, major: str) -> None:
    seen = {p["pid"]: p for p in protected.lab.json("status")["processes"]}
    for cluster in protected.served.clusters:
        found = seen[cluster.pid]
        assert (found["name"], found["state"]) == (cluster.label, "protected")
        assert found["version"].startswith(f"{major}.")


def test_restarted_server_is_current_and_all_snapshots_go(protected: Updated) -> None:
    """The last test: it ends them all."""
    for cluster in protected.served.clusters:
        cluster.stop()
    main = protected.served.primary
    main.start()
    states = {p["pid"]: p["state"] for p in protected.lab.json("status")["processes"]}
    assert states[main.pid] == "current"
    protected.lab.root.run("holdover", "gc")
    assert protected.lab.held() == []
    assert {what: probe(main) for what, probe in PROBES.items()} == dict.fromkeys(PROBES, WORKS)
