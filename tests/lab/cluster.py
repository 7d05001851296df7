# SPDX-License-Identifier: Apache-2.0
"""Real PostgreSQL clusters in a throwaway root, made and started by Debian's own tools.

They listen on sockets of their root only, and what they share lies in files of theirs and in an IPC
namespace: nothing of them outlives the root.
"""

import itertools
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from subprocess import CompletedProcess

from holdover.demo.root import ThrowawayRoot
from holdover.errors import CommandError, VanishedError
from holdover.procfs import ProcFs

__all__ = ["Cluster", "Session", "SOCKETS"]

SOCKETS = "/run/postgresql"
_PATIENCE = 60.0  # seconds until what does not come true is taken for what never will
_OPTIONS = {
    "listen_addresses": "",  # the network is the machine's
    "dynamic_shared_memory_type": "mmap",  # /dev/shm is the machine's, too
    "fsync": "off",
    "shared_buffers": "16MB",
    "max_worker_processes": "12",
    "wal_level": "logical",
    "wal_retrieve_retry_interval": "100ms",
}
_ports = itertools.count(5433)


@dataclass(frozen=True)
class Cluster:
    """A cluster that has been created; `wrapper` is what starts its server (unshare, ...)."""

    root: ThrowawayRoot
    name: str
    port: int
    version: str = "15"
    wrapper: Sequence[str] = field(default=())

    @classmethod
    def create(
        cls,
        root: ThrowawayRoot,
        name: str,
        *,
        version: str = "15",
        wrapper: Sequence[str] = (),
        initdb: Sequence[str] = ("--auth=trust", "--no-sync"),
    ) -> "Cluster":
        """Create it as an operator does, by pg_createcluster."""
        made = cls(root, name, next(_ports), version, wrapper)
        words = (f"--port={made.port}", "--start-conf=manual", f"--socketdir={SOCKETS}")
        # it runs as its owner, and makes its directory of sockets only when a server starts
        root.run("install", "--directory", "--owner=postgres", "--mode=2775", SOCKETS)
        root.run("unshare", "--ipc", "pg_createcluster", *words, version, name, "--", *initdb)
        made.configure(**_OPTIONS)
        return made

    @property
    def data(self) -> str:
        return f"/var/lib/postgresql/{self.version}/{self.name}"

    @property
    def binaries(self) -> str:
        return f"/usr/lib/postgresql/{self.version}/bin"

    @property
    def label(self) -> str:
        """As Debian's tools call it."""
        return f"{self.version}/{self.name}"

    def start(self) -> int:
        """Start the server; the answer is its pid inside."""
        wrapper = ("unshare", "--ipc", *self.wrapper)
        self.root.run(*wrapper, "pg_ctlcluster", self.version, self.name, "start")
        return self.pid

    def stop(self, mode: str = "fast") -> None:
        self.root.run("pg_ctlcluster", "--mode", mode, self.version, self.name, "stop")

    @property
    def pid(self) -> int:
        """Of the postmaster."""
        return int(self._inside(f"{self.data}/postmaster.pid").read_text().split()[0])

    def lives(self) -> bool:
        try:
            return ProcFs(self.root.inside / "proc").stat(self.pid).state not in "ZX"
        except (VanishedError, FileNotFoundError):
            return False

    def backends(self) -> list[int]:
        """All children of the postmaster."""
        done = self.root.run("pgrep", "--parent", str(self.pid), check=False)
        return [int(word) for word in done.stdout.split()]

    @property
    def log(self) -> str:
        name = f"postgresql-{self.version}-{self.name}.log"
        return self._inside(f"/var/log/postgresql/{name}").read_text()

    def psql(self, database: str = "postgres") -> tuple[str, ...]:
        """psql itself; /usr/bin has a wrapper, which is slow."""
        where = ("--host", SOCKETS, "--port", str(self.port), "--username", "postgres")
        plain = ("--no-psqlrc", "--quiet", "--no-align", "--tuples-only")
        program = f"{self.binaries}/psql"
        return (program, *where, *plain, "--set=ON_ERROR_STOP=1", "--dbname", database)

    def sql(self, text: str, database: str = "postgres") -> CompletedProcess[str]:
        """What a new backend answers, whatever that is."""
        return self.root.run(*self.psql(database), "--file=-", check=False, text=text)

    def value(self, text: str, database: str = "postgres") -> str:
        """What a new backend answers; raises `CommandError` if that is an error."""
        done = self.sql(text, database)
        if done.returncode:
            raise CommandError(f"{self.label}: {text}", hint=done.stderr)
        return done.stdout.strip()

    def await_value(self, text: str, wanted: str, database: str = "postgres") -> str:
        """Ask until the answer is as wanted, or for a while; the last answer."""
        deadline = time.monotonic() + _PATIENCE
        while (seen := self.sql(text, database).stdout.strip()) != wanted:
            if time.monotonic() > deadline:
                break
            time.sleep(0.05)
        return seen

    def configure(self, **settings: str) -> None:
        """For the next start."""
        file = self._inside(f"/etc/postgresql/{self.version}/{self.name}/postgresql.conf")
        with file.open("a") as conf:
            conf.writelines(f"{key} = '{value}'\n" for key, value in settings.items())

    def _inside(self, path: str) -> Path:
        return self.root.inside / path.lstrip("/")


class Session:
    """A psql that stays connected: its backend is the same from one statement to the next."""

    _END = "-- answered --"

    def __init__(self, cluster: Cluster, database: str = "postgres") -> None:
        self._process = subprocess.Popen(
            cluster.root.command(*cluster.psql(database), "--set=ON_ERROR_STOP=0"),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.pid = int(self.ask("SELECT pg_backend_pid()"))

    def ask(self, text: str) -> str:
        """What the backend answers, errors included."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{text};\n\\echo {self._END}\n")
        self._process.stdin.flush()
        lines = iter(self._process.stdout.readline, "")
        return "".join(itertools.takewhile(lambda line: line != f"{self._END}\n", lines)).strip()

    def close(self) -> None:
        """Let the backend end."""
        self._process.communicate("\\q\n", timeout=_PATIENCE)
