# SPDX-License-Identifier: Apache-2.0
"""A standby and a subscriber of a PostgreSQL cluster, in the same root and of the same build.

Who reconnects loads late: the standby starts a new walreceiver, the subscriber a new worker, and
the server a walsender that decodes.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from lab.bases import LabError
from lab.cluster import SOCKETS, Cluster
from lab.postgres_probes import PROBES, WORKS

__all__ = ["Replication", "RECONNECTIONS"]

_PATIENCE = 60.0  # seconds
_REFUSALS = ("could not load library", "could not access file", "could not find function")
_PUBLISH = "CREATE TABLE beats (n int PRIMARY KEY); CREATE PUBLICATION beats FOR TABLE beats"


@dataclass(frozen=True)
class Replication:
    """Three clusters that were connected when this was made."""

    primary: Cluster
    standby: Cluster
    subscriber: Cluster

    @classmethod
    def of(cls, primary: Cluster) -> "Replication":
        """Add both to a running cluster."""
        primary.value(_PUBLISH)
        made = cls(primary, _standby(primary), _subscriber(primary))
        for replica in (made.standby, made.subscriber):
            if said := made._beat(replica):
                raise LabError(f"{replica.label} does not follow: {said}")
        return made

    @property
    def clusters(self) -> tuple[Cluster, ...]:
        return self.primary, self.standby, self.subscriber

    def probe(self, what: str) -> str:
        """By a new backend of the primary, or by a replica that reconnects."""
        if what in RECONNECTIONS:
            return RECONNECTIONS[what](self)
        return PROBES[what](self.primary)

    def reconnect(self, replica: Cluster) -> str:
        """Cut its connection: "works" if a row arrives by another, or why not."""
        cut = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_replication"
        name = {self.standby: "walreceiver", self.subscriber: "beats"}[replica]
        if self.primary.value(f"{cut} WHERE application_name = '{name}'") != "1":
            raise LabError(f"{replica.label} was not connected")
        return self._beat(replica) or WORKS

    def _beat(self, replica: Cluster) -> str:
        """Write a row, and wait until it arrives: "", or what the replica complains about."""
        before = len(replica.log)
        beat = self.primary.value(
            "INSERT INTO beats SELECT coalesce(max(n), 0) + 1 FROM beats RETURNING n"
        )
        deadline = time.monotonic() + _PATIENCE
        while replica.sql("SELECT max(n) FROM beats").stdout.strip() != beat:
            for line in replica.log[before:].splitlines():
                if any(refusal in line for refusal in _REFUSALS):
                    return line.partition(":  ")[2]
            if time.monotonic() > deadline:
                return replica.log[before:] or "nothing arrives"
            time.sleep(0.05)
        return ""


def _standby(primary: Cluster) -> Cluster:
    """A copy of it that follows; its directory is made anew by pg_basebackup."""
    standby = Cluster.create(primary.root, f"{primary.name}-standby", version=primary.version)
    source = ("--host", SOCKETS, "--port", str(primary.port), "--username", "postgres")
    primary.root.run("rm", "-r", standby.data)
    primary.root.run(
        *("setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"),
        *(f"{primary.binaries}/pg_basebackup", *source, "--checkpoint=fast", "--no-sync"),
        *("--write-recovery-conf", "--pgdata", standby.data),
    )
    standby.start()
    return standby


def _subscriber(primary: Cluster) -> Cluster:
    subscriber = Cluster.create(primary.root, f"{primary.name}-subscriber", version=primary.version)
    subscriber.start()
    subscriber.value("CREATE TABLE beats (n int PRIMARY KEY)")
    where = f"host={SOCKETS} port={primary.port} user=postgres dbname=postgres"
    subscriber.value(f"CREATE SUBSCRIPTION beats CONNECTION '{where}' PUBLICATION beats")
    return subscriber


RECONNECTIONS: Mapping[str, Callable[[Replication], str]] = {
    "standby": lambda replication: replication.reconnect(replication.standby),
    "subscriber": lambda replication: replication.reconnect(replication.subscriber),
}
