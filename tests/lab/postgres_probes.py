# SPDX-License-Identifier: Apache-2.0
"""What a PostgreSQL server loads late: each probe makes new backends of a cluster do it, for real.

A probe answers "works" or what the server said. It proves that what it names was done: that a query
was compiled, that workers were launched, that a row arrived.
"""

from collections.abc import Callable, Mapping

from lab.cluster import SOCKETS, Cluster

__all__ = ["PROBES", "WORKS", "prepare"]

WORKS = "works"

Probe = Callable[[Cluster], str]

# before the change of packages: so that afterwards only what is loaded is new
_PREPARE = """
CREATE FUNCTION add(a int, b int) RETURNS int LANGUAGE plpgsql AS 'BEGIN RETURN a + b; END';
CREATE FUNCTION twice(a int) RETURNS int LANGUAGE plpgsql PARALLEL SAFE
    AS 'BEGIN RETURN 2 * a; END';
CREATE TABLE numbers AS SELECT n::int, n::float8 / 3 AS third FROM generate_series(1, 20000) n;
ANALYZE numbers;
"""
_FOREIGN = """
CREATE EXTENSION postgres_fdw;
CREATE SERVER itself FOREIGN DATA WRAPPER postgres_fdw
    OPTIONS (host '{sockets}', port '{port}', dbname 'postgres');
CREATE USER MAPPING FOR postgres SERVER itself OPTIONS (user 'postgres');
IMPORT FOREIGN SCHEMA public LIMIT TO (numbers) FROM SERVER itself INTO public;
SELECT count(*), max(n) FROM numbers;
"""
_PERL = """
CREATE EXTENSION plperl;
CREATE FUNCTION f() RETURNS int LANGUAGE plperl AS 'use strict; return 6 * 7;';
SELECT f();
"""
_PYTHON = """
CREATE EXTENSION plpython3u;
CREATE FUNCTION f() RETURNS text LANGUAGE plpython3u
    AS 'import json, ssl; return json.dumps([6 * 7])';
SELECT f();
"""
_CRYPTO = """
CREATE EXTENSION pgcrypto;
SELECT decrypt(encrypt('x', 'k', 'aes'), 'k', 'aes') = 'x';
"""
_PARALLEL = """
SET parallel_setup_cost = 0; SET parallel_tuple_cost = 0; SET min_parallel_table_scan_size = 0;
SET parallel_leader_participation = off; SET jit = off; SET max_parallel_workers_per_gather = 2;
EXPLAIN (ANALYZE, COSTS off, TIMING off) SELECT sum(twice(n)) FROM numbers;
SELECT sum(twice(n)) FROM numbers;
"""
_JIT = """
SET jit = on; SET jit_above_cost = 0; SET jit_inline_above_cost = 0;
SET jit_optimize_above_cost = 0; SET max_parallel_workers_per_gather = 0;
EXPLAIN (ANALYZE)
    SELECT sum(sqrt(third) * n), count(*) FILTER (WHERE n % 7 = 3) FROM numbers WHERE n > 10;
"""


def prepare(cluster: Cluster) -> None:
    """What probes need that is made before the packages change."""
    cluster.value(_PREPARE)


def _answers(text: str, wanted: str) -> Probe:
    """Something in a database of its own, so that it may be tried again."""

    def probe(cluster: Cluster) -> str:
        cluster.value("DROP DATABASE IF EXISTS probe")
        cluster.value("CREATE DATABASE probe")
        done = cluster.sql(text, "probe")
        if done.returncode:
            return _said(done.stderr)
        return WORKS if done.stdout.strip() == wanted else f"another answer: {done.stdout}"

    return probe


def _said(stderr: str) -> str:
    """The error in one line, without psql's own words."""
    lines = (line.partition("ERROR:  ")[2] or line for line in stderr.strip().splitlines())
    return "; ".join(line.strip() for line in lines)


def _function(cluster: Cluster) -> str:
    """One that was made before."""
    done = cluster.sql("SELECT add(2, 3)")
    return WORKS if done.stdout.strip() == "5" else _said(done.stderr)


def _foreign(cluster: Cluster) -> str:
    text = _FOREIGN.format(sockets=SOCKETS, port=cluster.port)
    return _answers(text, "20000|20000")(cluster)


def _compiled(cluster: Cluster) -> str:
    done = cluster.sql(_JIT)
    signs = ("Functions:", "Inlining true", "Optimization true")
    if done.returncode:
        return _said(done.stderr)
    return WORKS if all(sign in done.stdout for sign in signs) else "not compiled"


def _parallel(cluster: Cluster) -> str:
    """The leader runs no part of it: the function is called in workers only."""
    done = cluster.sql(_PARALLEL)
    if done.returncode:
        return _said(done.stderr)
    right = "Workers Launched: 2" in done.stdout and done.stdout.rstrip().endswith("400020000")
    return WORKS if right else f"another answer: {done.stdout}"


PROBES: Mapping[str, Probe] = {
    "plpgsql": _function,
    "hstore": _answers("CREATE EXTENSION hstore; SELECT 'a=>1'::hstore -> 'a'", "1"),
    "postgres_fdw": _foreign,
    "plperl": _answers(_PERL, "42"),
    "plpython3u": _answers(_PYTHON, "[42]"),
    "pgcrypto": _answers(_CRYPTO, "t"),
    "LOAD": _answers("LOAD 'auto_explain'; SHOW auto_explain.log_min_duration", "-1"),
    "JIT": _compiled,
    "parallel workers": _parallel,
}
