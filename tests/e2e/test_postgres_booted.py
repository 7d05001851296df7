# SPDX-License-Identifier: Apache-2.0
"""A PostgreSQL server that systemd runs, protected by holdover's timer ahead of any transaction.

The timer's service has few rights (docs/decisions/0015): here it delivers by variable with them.
"""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from lab import BootedLab
from lab.cluster import SOCKETS
from lab.postgres import PACKAGES, RECIPE_BOOTED

from holdover.demo import archive
from holdover.demo.root import install_holdover

pytestmark = [pytest.mark.e2e, pytest.mark.distributions]

ADD = "CREATE FUNCTION add(a int, b int) RETURNS int LANGUAGE plpgsql AS 'BEGIN RETURN a + b; END'"
LATE = """
SET client_min_messages = error;
CREATE EXTENSION IF NOT EXISTS hstore;
SELECT add(2, 3), 'a=>1'::hstore -> 'a';
"""


@pytest.fixture
def booted(cache: Path, tmp_path: Path) -> Iterator[BootedLab]:
    base = archive.prepare_base(cache, print, RECIPE_BOOTED)
    with BootedLab(base, tmp_path) as made:
        install_holdover(made.root)
        yield made


def start(booted: BootedLab, name: str) -> int:
    """The pid of a cluster's server, started by its unit."""
    options = ("--pgoption=listen_addresses=", f"--socketdir={SOCKETS}", "--start-conf=manual")
    booted.run("pg_createcluster", *options, "15", name, "--", "--auth=trust", "--no-sync")
    unit = f"postgresql@15-{name}.service"
    booted.run("systemctl", "start", unit)
    return int(booted.run("systemctl", "show", "--property=MainPID", "--value", unit).stdout)


def sql(booted: BootedLab, name: str, text: str) -> str:
    """What a new backend answers."""
    options = ("--quiet", "--no-align", "--tuples-only", "--username=postgres")
    done = booted.run("psql", "--cluster", f"15/{name}", *options, check=False, input=text)
    return done.stdout + done.stderr


def state(booted: BootedLab, pid: int) -> tuple[str, str | None]:
    answer = booted.run("holdover", "status", "--json", str(pid), check=False).stdout
    found = next(p for p in json.loads(answer)["processes"] if p["pid"] == pid)
    return found["state"], found["delivery"]


def run_timer(booted: BootedLab) -> str:
    """What its service says that it did."""
    booted.run("systemctl", "start", "holdover.service")
    return booted.run("systemctl", "show", "--property=StatusText", "holdover.service").stdout


def held(booted: BootedLab) -> set[str]:
    """The versions."""
    answer = json.loads(booted.run("holdover", "list", "--json").stdout)
    return {snapshot["version"].split()[0] for snapshot in answer["snapshots"]}


def test_server_is_protected_by_the_timer_and_let_go_by_it(booted: BootedLab) -> None:
    versions = booted.builds("postgresql-15")
    older, newer = (version.partition("-")[0] for version in versions)
    pids = {name: start(booted, name) for name in ("main", "twin")}
    for name in pids:
        sql(booted, name, ADD)
    booted.run("holdover", "enable")
    booted.run("systemctl", "stop", "holdover.timer")  # it is called by hand here
    assert "15/main" in run_timer(booted)
    assert {state(booted, pid) for pid in pids.values()} == {("protected", "variable")}
    assert held(booted) == {older}

    booted.run("apt-get", "install", "--yes", *(f"{name}={versions[1]}" for name in PACKAGES))
    booted.run("holdover", "release", "--force", str(pids["twin"]))
    assert sql(booted, "main", LATE) == "5|1\n"
    assert "undefined symbol: DatumGetHeapTupleHeader" in sql(booted, "twin", LATE)

    run_timer(booted)
    assert state(booted, pids["main"]) == ("protected", "variable")
    assert state(booted, pids["twin"])[0] == "at-risk"
    for name in pids:
        booted.run("systemctl", "restart", f"postgresql@15-{name}.service")
    run_timer(booted)
    assert held(booted) == {newer}  # it has protected them, ahead of the next update
    assert sql(booted, "main", LATE) == "5|1\n"
