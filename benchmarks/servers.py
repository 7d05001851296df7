# SPDX-License-Identifier: Apache-2.0
"""PostgreSQL: `protect` over the number of sessions, beside a debugger, and what is held for it."""

import json
import time
from dataclasses import dataclass

from benchmarks.measure import Command, Run, Series, Spread, Stopwatch, ratios
from benchmarks.report import Bench, Row, Table
from holdover.demo.archive import (
    HOST_PACKAGES,
    RELEASE,
    Recipe,
    builds,
    default_cache,
    prepare_base,
)
from holdover.demo.root import ThrowawayRoot, install_holdover
from holdover.errors import CommandError
from holdover.looking import Progress

__all__ = ["measure", "SIZES"]

SIZES = (1, 10, 100, 400)
"""Sessions; the server itself has five processes more."""
_PACKAGES = (
    *("postgresql-15", "postgresql-client-15", "postgresql-plperl-15", "postgresql-plpython3-15"),
    "libpq5",
)
_PROTECT, _DEBUGGER = "holdover protect", "gdb, one process"
_QUIET = """
printf '#!/bin/sh\\nexit 101\\n' >/usr/sbin/policy-rc.d
chmod 755 /usr/sbin/policy-rc.d
mkdir -p /etc/postgresql-common
echo 'create_main_cluster = false' >/etc/postgresql-common/createcluster.conf
"""
_START = """
install -d -o postgres -g postgres /srv/db
cd /srv/db
bin=/usr/lib/postgresql/15/bin
setpriv --reuid=postgres --regid=postgres --clear-groups $bin/initdb -D /srv/db/15 >/dev/null
setpriv --reuid=postgres --regid=postgres --clear-groups \
    $bin/postgres -D /srv/db/15 -k /srv/db -c listen_addresses= -c max_connections=500 \
    >/srv/db/log 2>&1 </dev/null &
until psql -h /srv/db -U postgres -c '' >/dev/null 2>&1; do sleep 0.1; done
"""
_SESSIONS = """
for n in $(seq {count}); do
    psql -h /srv/db -U postgres -c 'select pg_sleep(99999)' >/dev/null 2>&1 </dev/null &
done
"""
_POSTMASTER = "head -n 1 /srv/db/15/postmaster.pid"
# what one would do by hand; it halts the process, and this writes what is there already
_BY_HAND = 'set {char[27]} &pkglib_path = "/usr/lib/postgresql/15/lib"'


@dataclass(frozen=True)
class Held:
    """For one server, before and after an update of its packages."""

    files: int
    written: int
    kept: int
    """Bytes that only the store still has, after the update."""


@dataclass(frozen=True)
class Servers:
    protect: dict[int, Series]
    """By number of sessions."""
    debugger: Series
    held: Held

    def tables(self) -> list[Table]:
        times = ("MEDIAN", "LEAST", "MOST", "PROCESSOR", "PEAK MEMORY")
        columns = ("SESSIONS", *times, "EACH FURTHER ONE")
        rows = [self._row(count) for count in self.protect]
        beside = (_DEBUGGER, *_cells(self.debugger), str(self._compared()))
        held = (
            str(self.held.files),
            f"{self.held.written / 1e6:.2f} MB",
            f"{self.held.kept / 1e6:.1f} MB",
        )
        return [
            Table(f"`{_PROTECT}`: one server, nothing held", columns, rows),
            Table("One process by hand", (*columns[:-1], "TIMES ONE SESSION"), [beside]),
            Table(
                "Held for it",
                ("FILES", "WRITTEN", "KEPT ONCE THE PACKAGES WERE UPDATED"),
                [held],
            ),
        ]

    def each(self, count: int) -> Spread | None:
        """Seconds for each session beyond those of the size before; None for the first size."""
        smaller = [size for size in self.protect if size < count]
        if not smaller:
            return None
        pairs = zip(self.protect[count].runs, self.protect[smaller[-1]].runs, strict=True)
        return Spread.of(
            (run.seconds - base.seconds) / (count - smaller[-1]) for run, base in pairs
        )

    def _compared(self) -> Spread:
        """With all that `protect` does for the fewest sessions."""
        return ratios(self.debugger, self.protect[min(self.protect)])

    def _row(self, count: int) -> Row:
        each = self.each(count)
        further = f"{each.median * 1000:.1f} ms" if each else ""
        return (str(count), *_cells(self.protect[count]), further)

    def json(self) -> dict[str, object]:
        sizes = [{"sessions": count, **series.json()} for count, series in self.protect.items()]
        return {
            "protect": sizes,
            "debugger": self.debugger.json(),
            "files": self.held.files,
            "bytes_written": self.held.written,
            "bytes_kept": self.held.kept,
        }


def _cells(series: Series) -> tuple[str, ...]:
    took = series.seconds
    cells = [f"{value * 1000:,.0f} ms" for value in (took.median, took.least, took.most)]
    return (*cells, f"{series.cpu.median * 1000:,.0f} ms", f"{series.peak >> 20} MiB")


def measure(bench: Bench) -> Servers:
    base = prepare_base(default_cache(), bench.say, SERVERS)
    with ThrowawayRoot.copy_of(base, bench.scratch) as root:
        install_holdover(root.root)
        watch = Stopwatch(root)
        root.run("sh", "-c", _START)
        postmaster = root.run("sh", "-c", _POSTMASTER).stdout.strip()
        sizes, before = {}, 0
        for count in SIZES:
            bench.say(f"{count} sessions")
            root.run("sh", "-c", _SESSIONS.format(count=count - before))
            before = count
            _wait_for(root, count)
            sizes[count] = Series(_PROTECT)
            for _ in range(bench.rounds):
                sizes[count].runs.append(_protect(watch, postmaster, count))
        debugger = Series(_DEBUGGER)
        words = ("gdb", "-nx", "-batch", "-p", postmaster, "-ex", _BY_HAND)
        for _ in range(bench.rounds):
            debugger.runs.append(watch.round({_DEBUGGER: Command(words)})[_DEBUGGER])
        return Servers(sizes, debugger, _held(root))


def _wait_for(root: ThrowawayRoot, sessions: int) -> None:
    text = "select count(*) from pg_stat_activity where query like 'select pg_sleep%'"
    for _ in range(600):
        shown = root.run("psql", "-h", "/srv/db", "-U", "postgres", "-Atc", text).stdout
        if int(shown) >= sessions:
            return
        time.sleep(0.1)
    raise CommandError(f"only {shown.strip()} of {sessions} sessions came")


def _protect(watch: Stopwatch, postmaster: str, sessions: int) -> Run:
    run = watch.round({_PROTECT: Command(("/usr/bin/holdover", "protect", "--json"))})[_PROTECT]
    states = [process["state"] for process in json.loads(run.output)["processes"]]
    if states.count("protected") < sessions + 1:
        raise CommandError(f"{states.count('protected')} of {len(states)} processes are protected")
    watch.root.run("holdover", "release", postmaster)
    watch.root.run("holdover", "gc")
    return Run(run.seconds, run.cpu, run.peak, run.code, "", ())


def _held(root: ThrowawayRoot) -> Held:
    """As the hooks do it."""
    root.run("holdover", "enable")
    newer = builds(root, "postgresql-15")[1]
    root.apt("install", *(f"{package}={newer}" for package in _PACKAGES))
    (snapshot,) = json.loads(root.run("holdover", "list", "--json").stdout)["snapshots"]
    return Held(snapshot["files"], snapshot["bytes_written"], snapshot["bytes_held"])


def _fill(root: ThrowawayRoot, progress: Progress) -> None:
    root.run("sh", "-c", _QUIET)
    older, newer = builds(root, "postgresql-15")
    progress(f"installing PostgreSQL {older} in it, {newer} lies beside it")
    root.apt("install", "gdb", "procps", *(f"{package}={older}" for package in _PACKAGES))
    root.apt("install", "--download-only", *(f"{package}={newer}" for package in _PACKAGES))


SERVERS = Recipe("postgres-bench", RELEASE, _fill, HOST_PACKAGES)
