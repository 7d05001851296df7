# SPDX-License-Identifier: Apache-2.0
"""pgbench at work: each transaction in a backend of its own, which runs a PL/pgSQL function."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from lab.chroot import Lab
from lab.cluster import SOCKETS, Cluster
from lab.working import AtWork, at_work, wait_until

__all__ = ["Workload", "Worked", "workload"]

_SCRIPT = "/tmp/workload.sql"
_PREPARE = "CREATE TABLE work (n int)"
_TRANSACTION = "INSERT INTO work VALUES (add(1, 2));\n"


@dataclass(frozen=True)
class Worked:
    """What pgbench says in the end."""

    exit_code: int
    stderr: str
    processed: int
    failed: int


@dataclass
class Workload:
    """One that runs; transactions of `cluster` alone are counted."""

    cluster: Cluster
    working: AtWork

    def rows(self) -> int:
        """How many transactions have been committed."""
        return int(self.cluster.value("SELECT count(*) FROM work"))

    def goes_on(self) -> bool:
        """Whether there are more rows than now in a while; False if pgbench has given up."""
        before = self.rows()
        wait_until(lambda: self.rows() > before + 20 or not self._lives())
        return self._lives()

    def _lives(self) -> bool:
        return self.working.process.poll() is None

    def end(self) -> Worked:
        """Let it finish as after its time, and hear what it says."""
        if self._lives():
            self.working.send("ALRM")
        said, complaints = self.working.process.communicate(timeout=60)
        found = {name: _number(said, text) for name, text in _FIGURES.items()}
        return Worked(self.working.process.returncode, complaints, **found)


_FIGURES = {
    "processed": "number of transactions actually processed",
    "failed": "number of failed transactions",
}


def _number(said: str, what: str) -> int:
    found = re.search(rf"^{what}: (\d+)", said, re.MULTILINE)
    return int(found[1]) if found else -1


@contextmanager
def workload(lab: Lab, cluster: Cluster) -> Iterator[Workload]:
    """Two clients that connect anew for each transaction."""
    cluster.value(_PREPARE)
    lab.path(_SCRIPT).write_text(_TRANSACTION)
    where = ("--host", SOCKETS, "--port", str(cluster.port), "--username", "postgres")
    options = ("--connect", "--no-vacuum", "--client=2", "--time=3600", f"--file={_SCRIPT}")
    pgbench = f"{cluster.binaries}/pgbench"
    with at_work(lab, pgbench, *where, *options, "postgres") as working:
        yield Workload(cluster, working)
