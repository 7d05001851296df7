# SPDX-License-Identifier: Apache-2.0
"""A PostgreSQL server that was updated before holdover came: what is told, and how it is got back.

The first part of each server's life is that of an unprotected twin: its probes fail.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from subprocess import CompletedProcess

import pytest
from lab import Lab
from lab.cluster import Cluster, Session
from lab.postgres import PACKAGES, update, versions
from lab.postgres_probes import PROBES, WORKS, prepare

pytestmark = pytest.mark.e2e

LACKED = {
    "hstore": "undefined symbol DatumGetHeapTupleHeader",
    "plpgsql": "undefined symbol heap_datum_update_type",
    "postgres_fdw": "undefined symbol libpqsrv_is_valid_proxy_option",
}


@dataclass
class TooLate:
    """A server under which apt updated PostgreSQL while holdover was there, and not enabled."""

    lab: Lab
    server: Cluster
    knows: Session
    """It has loaded trgm from a file that is gone since."""
    previewed: CompletedProcess[str]


@pytest.fixture(scope="module")
def late(postgres_base: Path, scratch: Path) -> Iterator[TooLate]:
    with Lab.with_holdover(postgres_base, scratch) as lab:
        server = Cluster.create(lab.root, "main")
        server.start()
        prepare(server)
        server.value("CREATE EXTENSION pg_trgm")
        knows = Session(server)
        assert knows.ask("SELECT show_limit()") == "0.3"
        newer = versions(lab.root)[1]
        previewed = lab.holdover("preview", "install", *(f"{name}={newer}" for name in PACKAGES))
        update(lab.root, newer)
        yield TooLate(lab, server, knows, previewed)
        knows.close()
        server.stop()


def test_preview_tells_before_the_update_what_will_fail(late: TooLate) -> None:
    assert late.previewed.stderr == ""
    line = next(line for line in late.previewed.stdout.splitlines() if "15/main" in line)
    assert "9 modules" in line
    assert "variable" in line
    assert "undefined symbol" in line


@pytest.mark.parametrize("what", LACKED)
def test_server_that_nobody_protected_fails(late: TooLate, what: str) -> None:
    assert LACKED[what] in PROBES[what](late.server).replace("symbol: ", "symbol ")


def test_status_says_who_is_at_risk_and_why(late: TooLate) -> None:
    seen = late.lab.status(late.server.pid)
    assert seen["state"] == "at-risk"
    assert seen["reason"].startswith("9 of the modules on disk would not load, dblink")
    reasons = {module["name"]: module["reason"] for module in seen["modules"]}
    assert LACKED.items() <= reasons.items()
    assert reasons["pgcrypto"] == ""


def test_explain_says_it_in_words(late: TooLate) -> None:
    done = late.lab.holdover("explain", str(late.server.pid), "postgres_fdw", "pgcrypto")
    said = [line.split(maxsplit=3) for line in done.stdout.splitlines()[1:]]
    assert said == [
        ["pgcrypto", "would", "load"],
        ["postgres_fdw", "would", "fail", LACKED["postgres_fdw"]],
    ]
    assert done.returncode == 1


def test_protect_holds_nothing_of_a_later_build(late: TooLate) -> None:
    done = late.lab.holdover("protect", str(late.server.pid))
    assert done.returncode == 1
    assert f"`holdover rescue {late.server.pid}` gets them back" in done.stdout
    assert not late.lab.held()


def test_defuse_takes_nothing_away_from_it(late: TooLate) -> None:
    """A load that fails does it no harm, and most would not."""
    late.lab.holdover("defuse", str(late.server.pid))
    assert not late.lab.held()
    assert PROBES["pgcrypto"](late.server) == WORKS


@pytest.fixture(scope="module")
def rescued(late: TooLate) -> CompletedProcess[str]:
    return late.lab.holdover("rescue", str(late.server.pid))


def test_rescue_gets_its_modules_back(rescued: CompletedProcess[str], late: TooLate) -> None:
    assert "postgresql-15_15.18" in rescued.stdout
    seen = late.lab.status(late.server.pid)
    assert (seen["state"], seen["delivery"]) == ("protected", "variable")


@pytest.mark.parametrize("what", PROBES)
@pytest.mark.usefixtures("rescued")
def test_rescued_server_loads_everything(late: TooLate, what: str) -> None:
    assert PROBES[what](late.server) == WORKS


def test_session_whose_files_are_gone_is_left_as_it_is(
    late: TooLate, rescued: CompletedProcess[str]
) -> None:
    """Another file of that name it would load a second time; what it has goes on."""
    assert "it has loaded pg_trgm from another file" in rescued.stdout
    assert late.knows.ask("SELECT similarity('a', 'a')") == "1"
    assert late.lab.status(late.knows.pid)["state"] == "at-risk"
