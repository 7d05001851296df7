# SPDX-License-Identifier: Apache-2.0
"""PostgreSQL servers go on over a point update of Debian 12 that does not restart them.

The server whose operator cannot restart it now loads its modules for each new connection. Nothing
that an operator does is left out: `policy-rc.d`, Debian's own tools, apt.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from lab import Lab
from lab.cluster import Cluster, Session
from lab.postgres import update, versions
from lab.postgres_probes import PROBES, WORKS, prepare
from lab.replication import RECONNECTIONS, Replication
from lab.workload import Worked, workload

from holdover.demo.root import install_holdover

pytestmark = pytest.mark.e2e

LOST = {
    "plpgsql": "heap_datum_update_type",
    "hstore": "DatumGetHeapTupleHeader",
    "postgres_fdw": "libpqsrv_is_valid_proxy_option",
    "plperl": "HaveCompleteError",
    "plpython3u": "heap_datum_check",
    "parallel workers": "heap_datum_update_type",
    "standby": "WalRcvIdentifySystemLsn",
    "subscriber": "WalRcvIdentifySystemLsn",
}
"""The symbols that an unprotected server of 15.18 lacks for the files of 15.20.

pgcrypto, auto_explain and JIT work there all the same: with them a protected server proves nothing
here. test_postgres_versions.py has a build with which they do not. When Debian moves on to other
builds, this is to be looked at again.
"""
PLACES = {
    "main": (),
    "private": ("unshare", "--mount", "--propagation", "private"),
    "slave": ("unshare", "--mount", "--propagation", "slave"),
    "preloading": (),
}
"""Names of clusters, and what their servers are started by."""
PRELOADED = "auto_explain,plpgsql"
"""By the last of them, in the postmaster."""
KNOWN = (
    "SELECT add(1, 1), similarity('a', 'b'), 'a=>1'::hstore",
    "DO 'my $x = 1;' LANGUAGE plperl",
    "CREATE SERVER nowhere FOREIGN DATA WRAPPER postgres_fdw OPTIONS (host '/none')",
)
"""What a session does before the update that goes on afterwards."""
CREATE_ALL = r"""
SELECT format('CREATE EXTENSION IF NOT EXISTS %I CASCADE', name) FROM pg_available_extensions
\gexec
"""
ELSEWHERE = [name for name, wrapper in PLACES.items() if wrapper]


@dataclass
class Updated:
    """A system on which servers ran while apt updated PostgreSQL, with a workload meanwhile."""

    lab: Lab
    servers: dict[str, Cluster]
    replication: Replication
    pids: dict[str, int]
    """Of the postmasters, before."""
    idle: dict[str, Session]
    """Idle in a transaction throughout: a `fresh` one, and one that `knows` modules already."""
    went_on: bool
    """The workload, when the update was complete."""
    worked: Worked
    rows: int
    said: str

    def probe(self, what: str) -> str:
        return self.replication.probe(what)


@pytest.fixture(scope="module")
def protected(postgres_base: Path, scratch: Path) -> Iterator[Updated]:
    """With holdover's hooks enabled and nothing else done."""
    with Lab.with_holdover(postgres_base, scratch) as lab:
        lab.root.run("holdover", "enable")
        yield updated(lab)


@pytest.fixture(scope="module")
def unprotected(postgres_base: Path, scratch: Path) -> Iterator[Updated]:
    with Lab.stock(postgres_base, scratch) as lab:
        yield updated(lab)


def updated(lab: Lab) -> Updated:
    servers = {name: start(lab, name) for name in PLACES}
    main = servers["main"]
    replication = Replication.of(main)
    running = servers | {replica.name: replica for replica in replication.clusters}
    pids = {name: server.pid for name, server in running.items()}
    idle = {name: idle_in_transaction(main) for name in ("fresh", "knows")}
    for statement in KNOWN:
        assert "ERROR" not in idle["knows"].ask(statement)
    with workload(lab, main) as work:
        work.goes_on()
        said = update(lab.root, versions(lab.root)[1])
        went_on = work.goes_on()
        worked = work.end()
        rows = work.rows()
    told = said.stdout + said.stderr
    return Updated(lab, running, replication, pids, idle, went_on, worked, rows, told)


def start(lab: Lab, name: str) -> Cluster:
    cluster = Cluster.create(lab.root, name, wrapper=PLACES[name])
    if name == "preloading":
        cluster.configure(shared_preload_libraries=PRELOADED)
    cluster.start()
    prepare(cluster)
    for extension in ("hstore", "pg_trgm", "plperl", "postgres_fdw"):
        cluster.value(f"CREATE EXTENSION {extension}")
    return cluster


def idle_in_transaction(cluster: Cluster) -> Session:
    session = Session(cluster)
    session.ask("BEGIN")
    return session


def in_the_transaction(session: Session, statement: str) -> str:
    """The answer in the transaction that was open throughout, which stays open."""
    session.ask("SAVEPOINT here")
    answer = session.ask(statement)
    session.ask("ROLLBACK TO here")
    assert session.ask("SELECT now() < statement_timestamp() - interval '1 s'") == "t"
    return answer


def test_nobody_restarted_a_server(protected: Updated, unprotected: Updated) -> None:
    for seen in (protected, unprotected):
        assert {name: server.pid for name, server in seen.servers.items()} == seen.pids
        assert all(server.lives() for server in seen.servers.values())
        assert "policy-rc.d denied execution of stop" in seen.said


@pytest.mark.parametrize("what", [*PROBES, *RECONNECTIONS])
def test_protected_server_loads_everything(protected: Updated, what: str) -> None:
    assert protected.probe(what) == WORKS


@pytest.mark.parametrize("what", LOST)
def test_unprotected_twin_cannot(unprotected: Updated, what: str) -> None:
    assert f"undefined symbol: {LOST[what]}" in unprotected.probe(what)


def test_old_server_creates_every_extension_from_the_new_files(
    protected: Updated, unprotected: Updated
) -> None:
    """Control and SQL files are not held: those of the new build are the same, or do."""
    for seen in (protected, unprotected):
        seen.servers["main"].value("CREATE DATABASE extensions")
    done = protected.servers["main"].sql(CREATE_ALL, "extensions")
    assert (done.returncode, "ERROR" in done.stderr) == (0, False), done.stderr
    created = protected.servers["main"].value("SELECT count(*) FROM pg_extension", "extensions")
    assert int(created) > 50
    assert "undefined symbol" in unprotected.servers["main"].sql(CREATE_ALL, "extensions").stderr


def test_no_transaction_of_a_workload_fails(protected: Updated) -> None:
    """Each of them has a connection of its own; they ran before, during and after the update."""
    assert protected.went_on
    worked = protected.worked
    assert (worked.exit_code, worked.failed) == (0, 0), worked.stderr
    assert worked.processed == protected.rows > 0


def test_workload_of_the_twin_breaks_off(unprotected: Updated) -> None:
    assert not unprotected.went_on
    assert unprotected.worked.exit_code == 2
    assert LOST["plpgsql"] in unprotected.worked.stderr


@pytest.mark.parametrize("statement", ["SELECT add(2, 3)", "SELECT 'a=>5'::hstore -> 'a'"])
def test_session_that_was_idle_loads_for_the_first_time(
    protected: Updated, unprotected: Updated, statement: str
) -> None:
    assert in_the_transaction(protected.idle["fresh"], statement) == "5"
    assert "undefined symbol" in in_the_transaction(unprotected.idle["fresh"], statement)


@pytest.mark.parametrize(
    "statement",
    [
        "DO 'BEGIN PERFORM 1; END'",
        "CREATE FUNCTION f() RETURNS int LANGUAGE plpgsql AS 'BEGIN RETURN 1; END'",
        "CREATE FUNCTION f() RETURNS int LANGUAGE plperl AS 'return 1;'",
        "SELECT * FROM postgres_fdw_get_connections()",
        "SELECT show_trgm('a')",
        "SELECT akeys('a=>1'::hstore)",
    ],
)
def test_session_goes_on_with_modules_that_it_has_loaded(
    protected: Updated, statement: str
) -> None:
    """With functions of them that it has not called before.

    PostgreSQL knows a module by its path, and then by its inode: a copy would be another module,
    which defines its settings a second time. The twin cannot fail: its path is the same as before.
    """
    assert "ERROR" not in in_the_transaction(protected.idle["knows"], statement)


@pytest.mark.parametrize("what", ["plpgsql", "LOAD", "parallel workers"])
def test_module_that_was_preloaded_is_not_loaded_a_second_time(
    protected: Updated, what: str
) -> None:
    """By its inode, again. The twin cannot fail: its backends have inherited the module."""
    assert PROBES[what](protected.servers["preloading"]) == WORKS


@pytest.mark.parametrize("what", ["plpgsql", "hstore", "parallel workers"])
@pytest.mark.parametrize("place", ELSEWHERE)
def test_server_in_a_mount_namespace_of_its_own(
    protected: Updated, unprotected: Updated, place: str, what: str
) -> None:
    assert PROBES[what](protected.servers[place]) == WORKS
    assert LOST[what] in PROBES[what](unprotected.servers[place])


def test_hook_says_whom_it_protected(protected: Updated) -> None:
    line = next(line for line in protected.said.splitlines() if line.startswith("holdover:"))
    for name, server in protected.servers.items():
        assert f"{server.label} ({protected.pids[name]})" in line


def test_status_has_one_line_a_cluster(protected: Updated) -> None:
    """And a line for each backend if more is asked for."""
    lines = protected.lab.holdover("status").stdout.splitlines()
    for name, server in protected.servers.items():
        assert sum(str(protected.pids[name]) in line.split() for line in lines) == 1
        assert sum(server.label in line.split() for line in lines) == 1
    more = protected.lab.holdover("status", "-v").stdout
    assert all(str(pid) in more.split() for pid in protected.servers["main"].backends())


def test_status_knows_each_process(protected: Updated) -> None:
    seen = {p["pid"]: p for p in protected.lab.json("status")["processes"]}
    older = versions(protected.lab.root)[0]
    for name, server in protected.servers.items():
        postmaster = seen[protected.pids[name]]
        assert (postmaster["name"], postmaster["part_of"]) == (server.label, None)
        assert (postmaster["state"], postmaster["delivery"]) == ("protected", "variable")
        assert older in postmaster["version"]
        for pid in server.backends():
            found = (seen[pid]["part_of"], seen[pid]["state"], seen[pid]["delivery"])
            assert found == (postmaster["pid"], "protected", "variable")


def test_explain_says_why_the_twin_fails(unprotected: Updated) -> None:
    """holdover comes after the fact, and is asked only."""
    install_holdover(unprotected.lab.root.root)
    pid = str(unprotected.servers["main"].pid)
    for what in ("plpgsql", "hstore", "postgres_fdw", "plperl"):
        said = unprotected.lab.json("explain", pid, what)
        (found,) = said["modules"]
        assert found["state"] == "blocked"
        assert f"undefined symbol {LOST[what]}" in found["reason"]
    states = {p["state"] for p in unprotected.lab.json("status", pid)["processes"]}
    assert states == {"at-risk"}


def test_restarted_server_is_current_and_its_snapshot_goes(protected: Updated) -> None:
    """The last test: it ends the servers of the older build."""
    assert protected.lab.held()
    for session in protected.idle.values():
        session.close()
    for server in protected.servers.values():
        server.stop()
    main = protected.servers["main"]
    main.start()
    assert {p["state"] for p in protected.lab.json("status")["processes"]} == {"current"}
    protected.lab.root.run("holdover", "gc")
    assert protected.lab.held() == []
    assert {what: probe(main) for what, probe in PROBES.items()} == dict.fromkeys(PROBES, WORKS)
